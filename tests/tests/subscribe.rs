//! Subscriptions: as many jobs as there is credit, and no more.

use batonq_client::NewJob;
use batonq_protocol::Message;
use batonq_protocol::messages as wire;
use batonq_tests::harness::{Server, Wire, eventually};
use bytes::Bytes;

const SUBSCRIPTION: u64 = 7;

async fn subscribed(server: &Server, credit: u32) -> Wire {
    let mut wire = Wire::greeted(server.tcp).await;
    let subscribe = wire::Subscribe { queue: "q".into(), credit };
    assert!(matches!(
        wire.ask(SUBSCRIPTION, Message::Subscribe(subscribe)).await,
        Message::Done(_)
    ));
    wire
}

async fn push(server: &Server, count: usize) {
    let jobs = vec![NewJob::new("q", "{}"); count];
    let client = server.client().await;
    client.push_batch(jobs).await.expect("they are stored");
    client.close().await;
}

/// The leases of the next delivery.
async fn delivered(wire: &mut Wire) -> Vec<Bytes> {
    let Message::Delivery(delivery) = wire.answer().await else { panic!("no delivery") };
    assert_eq!(delivery.subscription, SUBSCRIPTION);
    delivery.jobs.into_iter().map(|job| job.lease).collect()
}

/// Whatever was on its way has arrived before the answer.
async fn nothing_comes(wire: &mut Wire) {
    wire.say(99, Message::Ping(wire::Ping {})).await;
    assert!(matches!(wire.answer().await, Message::Pong(_)), "more came than there was credit for");
}

fn ack(lease: &Bytes) -> Message {
    let item = wire::AckItem { lease: lease.clone(), result: Bytes::new() };
    Message::Ack(wire::Ack { items: vec![item] })
}

async fn ready(server: &Server) -> u64 {
    server.client().await.queue("q").await.expect("the queue is there").ready
}

#[tokio::test]
async fn a_settled_job_returns_its_credit() {
    let server = Server::start();
    push(&server, 5).await;
    let mut wire = subscribed(&server, 2).await;
    let leases = delivered(&mut wire).await;
    assert_eq!(leases.len(), 2);
    nothing_comes(&mut wire).await;
    assert_eq!(ready(&server).await, 3);
    assert!(matches!(wire.ask(8, ack(&leases[0])).await, Message::Settled(_)));
    assert_eq!(delivered(&mut wire).await.len(), 1);
    // The same ack again returns nothing.
    assert!(matches!(wire.ask(9, ack(&leases[0])).await, Message::Settled(_)));
    nothing_comes(&mut wire).await;
    assert_eq!(ready(&server).await, 2);
}

#[tokio::test]
async fn credit_can_be_added() {
    let server = Server::start();
    push(&server, 5).await;
    let mut wire = subscribed(&server, 0).await;
    nothing_comes(&mut wire).await;
    let add = wire::AddCredit { subscription: SUBSCRIPTION, credit: 3 };
    assert!(matches!(wire.ask(8, Message::AddCredit(add)).await, Message::Done(_)));
    let mut count = 0;
    while count < 3 {
        count += delivered(&mut wire).await.len();
    }
    nothing_comes(&mut wire).await;
    assert_eq!(ready(&server).await, 2);
}

#[tokio::test]
async fn jobs_that_come_later_are_delivered_at_once() {
    let server = Server::start();
    let mut wire = subscribed(&server, 10).await;
    for _ in 0..5 {
        push(&server, 1).await;
        assert_eq!(delivered(&mut wire).await.len(), 1);
    }
}

#[tokio::test]
async fn after_unsubscribing_nothing_more_is_delivered_and_held_jobs_stay() {
    let server = Server::start();
    push(&server, 1).await;
    let mut wire = subscribed(&server, 10).await;
    let leases = delivered(&mut wire).await;
    let unsubscribe = wire::Unsubscribe { subscription: SUBSCRIPTION };
    assert!(matches!(wire.ask(8, Message::Unsubscribe(unsubscribe)).await, Message::Done(_)));
    push(&server, 3).await;
    nothing_comes(&mut wire).await;
    eventually("all are ready", async || (ready(&server).await == 3).then_some(())).await;
    let Message::Settled(settled) = wire.ask(9, ack(&leases[0])).await else { panic!() };
    assert_eq!(settled.results[0].status(), wire::SettleStatus::Ok);
}

#[tokio::test]
async fn subscribers_share_a_queue_and_no_job() {
    let server = Server::start();
    let (mut one, mut two) = (subscribed(&server, 3).await, subscribed(&server, 3).await);
    push(&server, 6).await;
    let mut all = Vec::new();
    for wire in [&mut one, &mut two] {
        let mut leases = Vec::new();
        while leases.len() < 3 {
            leases.extend(delivered(wire).await);
        }
        all.extend(leases);
    }
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 6);
}

#[tokio::test]
async fn what_was_on_its_way_to_a_client_that_left_is_delivered_to_another() {
    let server = Server::with().env("BATONQ_RECONNECT_GRACE", "100ms").start();
    push(&server, 100).await;
    drop(subscribed(&server, 50).await);
    let mut wire = subscribed(&server, 100).await;
    let mut count = 0;
    while count < 100 {
        count += delivered(&mut wire).await.len();
    }
}
