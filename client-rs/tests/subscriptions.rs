//! Jobs that the node sends by itself.

#![allow(clippy::unwrap_used, reason = "a test that can not go on has failed")]

mod fake;

use batonq_client::{ErrorCode, Subscription};
use batonq_protocol::Message;
use batonq_protocol::messages::Done;
use fake::{FakeNode, Peer, error, lease, leased, resumed, within};

async fn subscribed(
    node: &FakeNode,
    credit: u32,
) -> (batonq_client::Client, Peer, Subscription, u64) {
    let (client, mut peer) = node.client().await;
    let (subscription, (id, asked)) =
        tokio::join!(client.subscribe("mail", credit), peer.subscribed());
    assert_eq!(asked, credit);
    (client, peer, subscription.unwrap(), id)
}

#[tokio::test]
async fn deliveries_arrive_in_order_and_together() {
    let node = FakeNode::start().await;
    let (client, mut peer, mut subscription, id) = subscribed(&node, 10).await;
    peer.deliver(id, [leased(1), leased(2)]).await;
    peer.deliver(id, [leased(3)]).await;
    let first = within(subscription.next()).await.unwrap();
    assert_eq!((first.id.0, &*first.queue, &first.payload[..]), (1, "mail", &b"{}"[..]));
    let second = within(subscription.next_batch()).await.remove(0);
    let (acked, sent) = tokio::join!(client.ack_batch([first, second]), peer.settled());
    assert!(acked.unwrap().iter().all(Result::is_ok));
    let Message::Ack(ack) = sent else { panic!("{sent:?}") };
    assert_eq!([&ack.items[0].lease, &ack.items[1].lease], [&lease(1), &lease(2)]);
}

#[tokio::test]
async fn a_subscription_goes_on_with_the_credit_that_is_left() {
    let node = FakeNode::start().await;
    let (_client, mut peer, mut subscription, id) = subscribed(&node, 5).await;
    peer.deliver(id, [leased(1), leased(2), leased(3)]).await;
    let mut held = Vec::new();
    while held.len() < 3 {
        held.extend(within(subscription.next_batch()).await);
    }
    drop(peer);

    let mut peer = node.welcome(resumed([1, 2])).await;
    let (renewed, credit) = peer.subscribed().await;
    assert_eq!(credit, 5 - 2);
    peer.deliver(renewed, [leased(4)]).await;
    assert_eq!(within(subscription.next()).await.unwrap().id.0, 4);
}

#[tokio::test]
async fn jobs_of_an_earlier_connection_return_their_credit_when_settled() {
    let node = FakeNode::start().await;
    let (client, mut peer, mut subscription, id) = subscribed(&node, 3).await;
    peer.deliver(id, [leased(1)]).await;
    let old = within(subscription.next()).await.unwrap();
    drop(peer);
    let mut peer = node.welcome(resumed([1])).await;
    let (renewed, _) = peer.subscribed().await;
    peer.deliver(renewed, [leased(2)]).await;
    let new = within(subscription.next()).await.unwrap();

    let (acked, _) = tokio::join!(client.ack(new), peer.settled());
    acked.unwrap();
    let (acked, _) = tokio::join!(client.ack(old), peer.settled());
    acked.unwrap();
    let (_, Message::AddCredit(add)) = peer.expect().await else { panic!("no credit") };
    assert_eq!((add.subscription, add.credit), (renewed, 1));
}

#[tokio::test]
async fn a_subscription_whose_credit_is_used_up_waits_for_it() {
    let node = FakeNode::start().await;
    let (client, mut peer, mut subscription, id) = subscribed(&node, 1).await;
    peer.deliver(id, [leased(1)]).await;
    let job = within(subscription.next()).await.unwrap();
    drop(peer);
    let mut peer = node.welcome(resumed([1])).await;
    let (acked, sent) = tokio::join!(client.ack(job), peer.settled());
    acked.unwrap();
    assert!(matches!(sent, Message::Ack(_)), "nothing was subscribed to before: {sent:?}");
    assert_eq!(peer.subscribed().await.1, 1);
}

#[tokio::test]
async fn a_node_that_can_not_serve_now_is_asked_again() {
    let node = FakeNode::start().await;
    let (_client, peer, mut subscription, _) = subscribed(&node, 2).await;
    drop(peer);
    let mut peer = node.welcome(resumed([])).await;
    let (id, _) = peer.expect().await;
    peer.answer(id, error(ErrorCode::Unavailable)).await;
    let (renewed, credit) = peer.subscribed().await;
    assert_eq!(credit, 2);
    peer.deliver(renewed, [leased(1)]).await;
    assert_eq!(within(subscription.next()).await.unwrap().id.0, 1);
}

#[tokio::test]
async fn a_subscription_that_is_refused_says_why() {
    let node = FakeNode::start().await;
    let (client, mut peer) = node.client().await;
    let (refused, ()) = tokio::join!(client.subscribe("mail", 1), async {
        let (id, _) = peer.expect().await;
        peer.answer(id, error(ErrorCode::Forbidden)).await;
    });
    assert_eq!(refused.unwrap_err().code(), Some(ErrorCode::Forbidden));
}

#[tokio::test]
async fn a_dropped_subscription_ends_and_gives_its_jobs_back() {
    let node = FakeNode::start().await;
    let (_client, mut peer, mut subscription, id) = subscribed(&node, 10).await;
    peer.deliver(id, [leased(1), leased(2)]).await;
    let _held = within(subscription.next()).await.unwrap();
    drop(subscription);

    let Message::Release(release) = peer.settled().await else { panic!("no release") };
    assert_eq!(release.leases, [lease(2)]);
    let (_, Message::Unsubscribe(end)) = peer.expect().await else { panic!("it goes on") };
    assert_eq!(end.subscription, id);
    peer.deliver(id, [leased(3)]).await;
    let Message::Release(release) = peer.settled().await else { panic!("no release") };
    assert_eq!(release.leases, [lease(3)]);
}

#[tokio::test]
async fn closing_a_subscription_gives_back_what_came_until_the_node_agreed() {
    let node = FakeNode::start().await;
    let (_client, mut peer, subscription, id) = subscribed(&node, 10).await;
    let (closed, ()) = tokio::join!(within(subscription.close()), async {
        let (asked, Message::Unsubscribe(_)) = peer.expect().await else { panic!("it goes on") };
        peer.deliver(id, [leased(1)]).await;
        peer.answer(asked, Message::Done(Done {})).await;
        let Message::Release(release) = peer.settled().await else { panic!("no release") };
        assert_eq!(release.leases, [lease(1)]);
    });
    closed.unwrap();
}
