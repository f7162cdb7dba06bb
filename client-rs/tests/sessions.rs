//! What becomes of calls and leases when a connection is lost.

#![allow(clippy::unwrap_used, reason = "a test that can not go on has failed")]

mod fake;

use std::time::Duration;

use batonq_client::{Client, Error, Job, NewJob, PullOptions};
use batonq_protocol::Message;
use batonq_protocol::messages::{GoAway, LeasesLost, Pulled, Welcome};
use fake::{FakeNode, Peer, SESSION, lease, leased, pushed, resumed, settled_ok, welcome, within};

async fn pulled<const N: usize>(client: &Client, peer: &mut Peer, ids: [u64; N]) -> [Job; N] {
    let (jobs, ()) = tokio::join!(client.pull(PullOptions::new("mail").count(10)), async {
        let (id, _) = peer.expect().await;
        peer.answer(id, Message::Pulled(Pulled { jobs: ids.map(leased).into() })).await;
    });
    jobs.unwrap().try_into().unwrap()
}

/// Answers one question, so that all that was said before has been heard.
async fn heard(client: &Client, peer: &mut Peer) {
    let (stats, ()) = tokio::join!(client.stats(), async {
        let (id, _) = peer.expect().await;
        peer.answer(id, Message::Stats(Box::default())).await;
    });
    stats.unwrap();
}

/// Answers one question at the peer that is asked. True: it was the second.
async fn heard_by_second(client: &Client, first: &mut Peer, second: &mut Peer) -> bool {
    let stats = || Message::Stats(Box::default());
    let (asked, is_second) = tokio::join!(client.stats(), async {
        tokio::select! {
            (id, _) = first.expect() => {
                first.answer(id, stats()).await;
                false
            }
            (id, _) = second.expect() => {
                second.answer(id, stats()).await;
                true
            }
        }
    });
    asked.unwrap();
    is_second
}

#[tokio::test]
async fn calls_in_flight_say_whether_something_may_be_done() {
    let node = FakeNode::start().await;
    let (client, mut peer) = node.client().await;
    let (push, stats, ()) =
        tokio::join!(client.push(NewJob::new("mail", "{}")), client.stats(), async {
            peer.expect().await;
            peer.expect().await;
            drop(peer);
        });
    assert!(matches!(push, Err(Error::OutcomeUnknown { .. })), "{push:?}");
    assert_eq!(stats.unwrap_err(), Error::Disconnected);
}

#[tokio::test]
async fn calls_made_without_a_connection_wait_for_the_next() {
    let node = FakeNode::start().await;
    let (client, peer) = node.client().await;
    drop(peer);
    let (mut peer, hello) = node.accept().await;
    assert_eq!(hello.session, SESSION);
    let (push, ()) = tokio::join!(client.push(NewJob::new("mail", "{}")), async {
        peer.answer(1, Message::Welcome(Box::new(resumed([])))).await;
        let (id, _) = peer.expect().await;
        peer.answer(id, pushed([5])).await;
    });
    assert_eq!(push.unwrap().id.0, 5);
}

#[tokio::test]
async fn a_resumed_session_keeps_the_leases_it_lists() {
    let node = FakeNode::start().await;
    let (client, mut peer) = node.client().await;
    let [kept, lost] = pulled(&client, &mut peer, [1, 2]).await;
    drop(peer);
    let mut peer = node.welcome(resumed([1])).await;
    within(lost.lost()).await;
    heard(&client, &mut peer).await;
    assert!(!kept.is_lost());
}

#[tokio::test]
async fn a_new_session_holds_no_leases() {
    let node = FakeNode::start().await;
    let (client, mut peer) = node.client().await;
    let [one, two] = pulled(&client, &mut peer, [1, 2]).await;
    drop(peer);
    let _peer = node.welcome(Welcome { session: SESSION + 1, ..welcome() }).await;
    within(async { tokio::join!(one.lost(), two.lost()) }).await;
    assert_eq!(client.node().session, SESSION + 1);
}

#[tokio::test]
async fn a_lease_with_a_time_of_its_own_does_not_belong_to_the_session() {
    let node = FakeNode::start().await;
    let (client, mut peer) = node.client().await;
    let pulling = client.pull(PullOptions::new("mail").lease(Duration::from_secs(30)));
    let (jobs, ()) = tokio::join!(pulling, async {
        let (id, Message::Pull(pull)) = peer.expect().await else { panic!("no pull") };
        assert_eq!(pull.lease_ms, 30_000);
        peer.answer(id, Message::Pulled(Pulled { jobs: vec![leased(1)] })).await;
    });
    drop(peer);
    let mut peer = node.welcome(Welcome { session: SESSION + 1, ..welcome() }).await;
    heard(&client, &mut peer).await;
    assert!(!jobs.unwrap()[0].is_lost());
}

#[tokio::test]
async fn leases_that_nobody_here_holds_are_given_back() {
    let node = FakeNode::start().await;
    let (_client, peer) = node.client().await;
    drop(peer);
    let mut peer = node.welcome(resumed([9])).await;
    let Message::Release(release) = peer.settled().await else { panic!("no release") };
    assert_eq!(release.leases, [lease(9)]);
}

#[tokio::test]
async fn work_that_was_done_is_said_before_leases_are_given_back() {
    let node = FakeNode::start().await;
    let welcome = Welcome { reconnect_grace_ms: 50, ..welcome() };
    let (client, mut peer) = node.client_of(node.config(), welcome).await;
    let [done, other] = pulled(&client, &mut peer, [1, 2]).await;
    drop(peer);
    let (mut peer, _) = node.accept().await;
    let (acked, ()) = tokio::join!(client.ack(&done), async {
        within(async { tokio::join!(done.lost(), other.lost()) }).await;
        // The node has borne the silence for longer.
        peer.answer(1, Message::Welcome(Box::new(resumed([1, 2])))).await;
        let (id, Message::Ack(ack)) = peer.expect().await else { panic!("no ack") };
        assert_eq!(ack.items[0].lease, lease(1));
        let Message::Release(release) = peer.settled().await else { panic!("no release") };
        assert_eq!(release.leases, [lease(2)]);
        peer.answer(id, settled_ok(1)).await;
    });
    acked.unwrap();
}

#[tokio::test]
async fn leases_are_lost_when_the_grace_is_over() {
    let node = FakeNode::start().await;
    let welcome = Welcome { reconnect_grace_ms: 50, ..welcome() };
    let (client, mut peer) = node.client_of(node.config(), welcome).await;
    let [job] = pulled(&client, &mut peer, [1]).await;
    drop((peer, node));
    within(job.lost()).await;
}

#[tokio::test]
async fn a_lease_taken_away_is_lost_and_its_neighbour_is_not() {
    let node = FakeNode::start().await;
    let (client, mut peer) = node.client().await;
    let [kept, lost] = pulled(&client, &mut peer, [1, 2]).await;
    peer.say(Message::LeasesLost(LeasesLost { leases: vec![lease(2)] })).await;
    within(lost.lost()).await;
    assert!(!kept.is_lost());
}

#[tokio::test]
async fn a_silent_node_is_left() {
    let node = FakeNode::start().await;
    let silent = Welcome { heartbeat_interval_ms: 20, heartbeat_timeout_ms: 100, ..welcome() };
    let (_client, mut peer) = node.client_of(node.config(), silent).await;
    let (id, ping) = peer.next_of_all().await.unwrap();
    assert!(id != 0 && matches!(ping, Message::Ping(_)), "{ping:?}");
    let (_, hello) = node.accept().await;
    assert_eq!(hello.session, SESSION);
}

#[tokio::test]
async fn a_node_that_goes_away_finishes_its_calls_and_keeps_the_leases() {
    let (one, two) = (FakeNode::start().await, FakeNode::start().await);
    let config = one.config().url(&format!("{},{}", one.address(), two.address()));
    let connecting = async { tokio::spawn(config.connect()).await.unwrap() };
    // Which node comes first is left to chance.
    let (client, (mut old, next)) = tokio::join!(within(connecting), async {
        tokio::select! {
            peer = one.welcome(welcome()) => (peer, &two),
            peer = two.welcome(welcome()) => (peer, &one),
        }
    });
    let client = client.unwrap();
    let [job] = pulled(&client, &mut old, [1]).await;

    let moving = async {
        let (asked, _) = old.expect().await;
        old.say(Message::GoAway(GoAway { reason: "drain".into() })).await;
        let (mut new, hello) = next.accept().await;
        assert_eq!(hello.session, SESSION);
        // Until there is another node, the one that goes away is asked.
        heard(&client, &mut old).await;
        new.answer(1, Message::Welcome(Box::new(resumed([1])))).await;
        while !heard_by_second(&client, &mut old, &mut new).await {}
        old.answer(asked, pushed([7])).await;
        assert!(old.next().await.is_none(), "nothing is left to be done there");
        new
    };
    let (push, _new) = tokio::join!(client.push(NewJob::new("mail", "{}")), moving);
    assert_eq!(push.unwrap().id.0, 7);
    assert!(!job.is_lost());
}

#[tokio::test]
async fn a_client_that_closes_gives_its_jobs_back() {
    let node = FakeNode::start().await;
    let (client, mut peer) = node.client().await;
    let [job] = pulled(&client, &mut peer, [1]).await;
    let ((), release) = tokio::join!(within(client.close()), async {
        let release = peer.settled().await;
        assert!(peer.next().await.is_none());
        drop(peer);
        release
    });
    assert!(matches!(release, Message::Release(_)), "{release:?}");
    assert!(job.is_lost());
}
