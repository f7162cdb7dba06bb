//! Questions and answers on a connection that holds.

mod fake;

use std::time::Duration;

use batonq_client::{Ack, Error, ErrorCode, Failure, Lease, NewJob, Outcome, PullOptions};
use batonq_protocol::Message;
use batonq_protocol::messages::{
    self, Limits, Pulled, PushResult, Pushed, SettleResult, SettleStatus, Settled, Stats, Welcome,
};
use fake::{FakeNode, error, lease, leased, pushed, welcome, within};

#[tokio::test]
async fn answers_find_their_questions_in_any_order() {
    let node = FakeNode::start().await;
    let (client, mut peer) = node.client().await;
    let push = |queue: &str| client.push(NewJob::new(queue, "{}"));
    let (a, b, c, ()) = tokio::join!(push("a"), push("b"), push("c"), async {
        let mut asked = Vec::new();
        for _ in 0..3 {
            let (id, Message::Push(push)) = peer.expect().await else { panic!("no push") };
            asked.push((id, u64::from(push.jobs[0].queue.as_bytes()[0])));
        }
        for (id, job) in asked.into_iter().rev() {
            peer.answer(id, pushed([job])).await;
        }
    });
    let ids = [a, b, c].map(|pushed| pushed.unwrap().id.0);
    assert_eq!(ids, [b'a', b'b', b'c'].map(u64::from));
}

#[tokio::test]
async fn a_refused_job_does_not_harm_its_neighbours() {
    let node = FakeNode::start().await;
    let (client, mut peer) = node.client().await;
    let jobs = ["a", "", "a"].map(|queue| NewJob::new(queue, "{}").unique("k"));
    let (results, ()) = tokio::join!(client.push_batch(jobs.into()), async {
        let (id, _) = peer.expect().await;
        let refused = messages::Error {
            code: ErrorCode::Invalid as i32,
            field: "queue".into(),
            ..<_>::default()
        };
        let duplicate = messages::Outcome::Duplicate as i32;
        let results = vec![
            PushResult { id: 7, outcome: messages::Outcome::Inserted as i32, ..<_>::default() },
            PushResult { error: Some(refused), ..<_>::default() },
            PushResult { id: 7, outcome: duplicate, ..<_>::default() },
        ];
        peer.answer(id, Message::Pushed(Pushed { results })).await;
    });
    let results = results.unwrap();
    assert_eq!(results[0].as_ref().unwrap().outcome, Outcome::Inserted);
    let Err(Error::Refused { code, field, .. }) = &results[1] else { panic!("{results:?}") };
    assert_eq!((*code, field.as_deref()), (ErrorCode::Invalid, Some("queue")));
    assert_eq!(results[2].as_ref().unwrap().outcome, Outcome::Duplicate);
}

#[tokio::test]
async fn a_call_without_an_answer_says_whether_something_may_be_done() {
    let node = FakeNode::start().await;
    let config = node.config().call_timeout(Duration::from_millis(50));
    let (client, _peer) = node.client_of(config, welcome()).await;
    let (push, stats) = tokio::join!(client.push(NewJob::new("mail", "{}")), client.stats());
    assert!(matches!(push, Err(Error::OutcomeUnknown { .. })), "{push:?}");
    assert_eq!(stats.unwrap_err(), Error::Timeout);
}

#[tokio::test]
async fn a_change_that_was_never_sent_is_not_done() {
    let node = FakeNode::start().await;
    let config = node.config().call_timeout(Duration::from_millis(50));
    let (client, peer) = node.client_of(config, welcome()).await;
    drop((node, peer));
    // The connection may still seem to be there for the first call.
    within(client.stats()).await.unwrap_err();
    let push = within(client.push(NewJob::new("mail", "{}"))).await;
    assert_eq!(push.unwrap_err(), Error::Timeout);
}

#[tokio::test]
async fn calls_wait_for_one_another_when_the_node_allows_no_more() {
    let node = FakeNode::start().await;
    let limits = Limits { in_flight_max: 1, ..Limits::default() };
    let welcome = Welcome { limits: Some(limits), ..welcome() };
    let (client, mut peer) = node.client_of(node.config(), welcome).await;
    let (one, two, ()) = tokio::join!(client.stats(), client.stats(), async {
        for pushed in 1..=2 {
            let (id, _) = peer.expect().await;
            assert!(futures_util::FutureExt::now_or_never(peer.next()).is_none());
            let stats = Stats { pushed, ..Stats::default() };
            peer.answer(id, Message::Stats(Box::new(stats))).await;
        }
    });
    assert_eq!((one.unwrap().pushed, two.unwrap().pushed), (1, 2));
}

#[tokio::test]
async fn a_frame_too_large_for_the_node_is_not_sent() {
    let node = FakeNode::start().await;
    let limits = Limits { frame_bytes_max: 1000, ..Limits::default() };
    let welcome = Welcome { limits: Some(limits), ..welcome() };
    let (client, _peer) = node.client_of(node.config(), welcome).await;
    let refused = client.push(NewJob::new("mail", vec![b' '; 1000])).await;
    assert_eq!(refused.unwrap_err().code(), Some(ErrorCode::PayloadTooLarge));
}

#[tokio::test]
async fn settling_says_what_became_of_each_lease() {
    let node = FakeNode::start().await;
    let (client, mut peer) = node.client().await;
    let leases = [1, 2, 3].map(|id| Lease::from_bytes(lease(id)));
    let acks = leases.map(|lease| Ack::new(lease).result("done"));
    let (results, ()) = tokio::join!(client.ack_batch(acks), async {
        let (id, Message::Ack(ack)) = peer.expect().await else { panic!("no ack") };
        assert_eq!((&ack.items[1].lease, &ack.items[1].result[..]), (&lease(2), &b"done"[..]));
        let status = [SettleStatus::Ok, SettleStatus::LeaseLost, SettleStatus::Unknown];
        let results = status.map(|s| SettleResult { status: s as i32, ..<_>::default() }).into();
        peer.answer(id, Message::Settled(Settled { results })).await;
    });
    let codes: Vec<_> =
        results.unwrap().into_iter().map(|r| r.err().and_then(|e| e.code())).collect();
    assert_eq!(codes, [None, Some(ErrorCode::LeaseLost), Some(ErrorCode::NotFound)]);
}

#[tokio::test]
async fn a_failure_carries_all_that_the_caller_said() {
    let node = FakeNode::start().await;
    let (client, mut peer) = node.client().await;
    let failure = Failure::new("BUSY", "421").retry_in(Duration::from_secs(60)).reject();
    let (result, sent) =
        tokio::join!(client.fail(Lease::from_bytes(lease(1)), failure), peer.settled());
    result.unwrap();
    let Message::Fail(fail) = sent else { panic!("{sent:?}") };
    let item = &fail.items[0];
    assert_eq!((item.code.as_str(), item.message.as_str()), ("BUSY", "421"));
    assert_eq!((item.retry_in_ms, item.reject), (Some(60_000), true));
}

#[tokio::test]
async fn a_pull_that_is_given_up_gives_its_jobs_back() {
    let node = FakeNode::start().await;
    let (client, mut peer) = node.client().await;
    let pulling = client.pull(PullOptions::new("mail").wait(Duration::from_secs(5)));
    let asked = tokio::select! {
        _ = pulling => panic!("there was no answer"),
        asked = peer.expect() => asked,
    };
    let (id, Message::Pull(pull)) = asked else { panic!("{asked:?}") };
    assert_eq!((pull.queue.as_str(), pull.count, pull.wait_ms), ("mail", 1, 5000));
    peer.answer(id, Message::Pulled(Pulled { jobs: vec![leased(1)] })).await;
    let Message::Release(release) = peer.settled().await else { panic!("no release") };
    assert_eq!(release.leases, [lease(1)]);
}

#[tokio::test]
async fn a_release_that_the_node_can_not_serve_now_is_repeated() {
    let node = FakeNode::start().await;
    let (client, mut peer) = node.client().await;
    let (subscription, (id, _)) = tokio::join!(client.subscribe("mail", 1), peer.subscribed());
    drop(subscription);
    peer.deliver(id, [leased(1)]).await;
    let mut tries = 0;
    while tries < 2 {
        let (id, message) = peer.expect().await;
        if let Message::Release(release) = message {
            assert_eq!(release.leases, [lease(1)]);
            peer.answer(id, error(ErrorCode::Unavailable)).await;
            tries += 1;
        }
    }
}
