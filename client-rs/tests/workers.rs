//! Working on jobs with a handler.

#![allow(clippy::unwrap_used, reason = "a test that can not go on has failed")]

mod fake;

use std::time::Duration;

use batonq_client::{Client, Error, Failure, JobContext, Output, Worker};
use batonq_protocol::Message;
use batonq_protocol::messages::{Ack, Done, Fail, LeasedJob, LeasesLost, Pong, Welcome};
use fake::{FakeNode, Peer, lease, leased, welcome, within};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Starts a worker and agrees to its subscription.
async fn working<F>(
    worker: Worker,
    peer: &mut Peer,
    handler: impl Fn(JobContext) -> F + Send + Sync + 'static,
) -> (JoinHandle<Result<(), Error>>, u64)
where
    F: Future<Output = Result<Output, Failure>> + Send + 'static,
{
    let running = tokio::spawn(worker.run(handler));
    let (subscription, _) = peer.subscribed().await;
    (running, subscription)
}

async fn acked(peer: &mut Peer) -> Ack {
    match peer.settled().await {
        Message::Ack(ack) => ack,
        other => panic!("no ack: {other:?}"),
    }
}

async fn failed(peer: &mut Peer) -> Fail {
    match peer.settled().await {
        Message::Fail(fail) => fail,
        other => panic!("no failure: {other:?}"),
    }
}

async fn unsubscribed(peer: &mut Peer) {
    let (id, Message::Unsubscribe(_)) = peer.expect().await else { panic!("it goes on") };
    peer.answer(id, Message::Done(Done {})).await;
}

fn worker(client: &Client) -> Worker {
    Worker::new(client.clone(), "mail").concurrency(2)
}

#[tokio::test]
async fn what_a_handler_returns_settles_its_job() {
    let node = FakeNode::start().await;
    let (client, mut peer) = node.client().await;
    let (_running, id) = working(worker(&client), &mut peer, |job| async move {
        match job.id.0 {
            1 => Ok("done".to_owned().into()),
            2 => Err(Failure::new("BUSY", "later").retry_in(Duration::from_secs(1))),
            _ => panic!("at the disco"),
        }
    })
    .await;

    peer.deliver(id, [leased(1)]).await;
    let ack = acked(&mut peer).await;
    assert_eq!((&ack.items[0].lease, &ack.items[0].result[..]), (&lease(1), &b"done"[..]));
    peer.deliver(id, [leased(2)]).await;
    let fail = failed(&mut peer).await;
    assert_eq!((fail.items[0].code.as_str(), fail.items[0].retry_in_ms), ("BUSY", Some(1000)));
    peer.deliver(id, [leased(3)]).await;
    let fail = failed(&mut peer).await;
    assert_eq!(
        (fail.items[0].code.as_str(), fail.items[0].message.as_str()),
        ("PANIC", "at the disco")
    );
}

#[tokio::test]
async fn what_is_finished_while_an_ack_is_on_its_way_is_acked_together() {
    let node = FakeNode::start().await;
    let (client, mut peer) = node.client().await;
    let (done, mut finished) = mpsc::unbounded_channel();
    let worker = worker(&client).concurrency(10);
    let (_running, id) = working(worker, &mut peer, move |_| {
        let done = done.clone();
        async move {
            done.send(()).unwrap();
            Ok(().into())
        }
    })
    .await;
    peer.deliver(id, [leased(1)]).await;
    let (first, _) = peer.expect().await;
    peer.deliver(id, (2..=10).map(leased)).await;
    for _ in 1..=10 {
        within(finished.recv()).await.unwrap();
    }
    peer.answer(first, fake::settled_ok(1)).await;
    let mut batches = Vec::new();
    while batches.iter().sum::<usize>() < 9 {
        batches.push(acked(&mut peer).await.items.len());
    }
    assert!(batches.len() < 9, "{batches:?}");
}

#[tokio::test]
async fn an_ack_whose_answer_was_lost_is_repeated() {
    let node = FakeNode::start().await;
    let (client, mut peer) = node.client().await;
    let (_running, id) = working(worker(&client), &mut peer, |_| async { Ok(().into()) }).await;
    peer.deliver(id, [leased(1)]).await;
    peer.expect().await;
    drop(peer);
    let mut peer = node.welcome(fake::resumed([1])).await;
    peer.subscribed().await;
    assert_eq!(acked(&mut peer).await.items[0].lease, lease(1));
}

/// The handler blocks the only thread of its runtime; the node has one of its own.
#[test]
fn heartbeats_go_on_while_a_handler_blocks() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (url, node_is_at) = std::sync::mpsc::channel();
    let (unblock, blocked) = std::sync::mpsc::channel::<()>();
    let node = std::thread::spawn(move || {
        runtime().block_on(async move {
            let node = FakeNode::start().await;
            url.send(node.url()).unwrap();
            let often = Welcome { heartbeat_interval_ms: 10, ..welcome() };
            let mut peer = node.welcome(often).await;
            let (id, _) = peer.subscribed().await;
            peer.deliver(id, [leased(1)]).await;
            for _ in 0..5 {
                let (id, message) = peer.next_of_all().await.unwrap();
                assert!(matches!(message, Message::Ping(_)), "{message:?}");
                peer.answer(id, Message::Pong(Pong {})).await;
            }
            unblock.send(()).unwrap();
            // The stop and the ack overtake each other.
            let mut acked = 0;
            while let Some((id, message)) = peer.next().await {
                match message {
                    Message::Unsubscribe(_) => peer.answer(id, Message::Done(Done {})).await,
                    Message::Ack(ack) => {
                        acked += ack.items.len();
                        peer.answer(id, fake::settled_ok(ack.items.len())).await;
                    }
                    other => panic!("unexpected: {other:?}"),
                }
            }
            acked
        })
    });
    runtime().block_on(async {
        let client = Client::connect(&node_is_at.recv().unwrap()).await.unwrap();
        let blocked = std::sync::Arc::new(parking_lot::Mutex::new(blocked));
        let worker = worker(&client);
        let stop = worker.stop_handle();
        let handler = move |_| {
            let (blocked, stop) = (blocked.clone(), stop.clone());
            async move {
                // An error: the node is done for, and says so itself.
                blocked.lock().recv().ok();
                stop.stop();
                Ok(())
            }
        };
        within(worker.run(handler)).await.unwrap();
    });
    assert_eq!(node.join().unwrap(), 1);
}

#[tokio::test]
async fn a_lost_lease_aborts_its_handler_and_is_not_settled() {
    let node = FakeNode::start().await;
    let (client, mut peer) = node.client().await;
    let (_running, id) = working(worker(&client), &mut peer, |job| async move {
        if job.id.0 == 1 {
            job.aborted().await;
        }
        Ok(().into())
    })
    .await;
    peer.deliver(id, [leased(1)]).await;
    peer.say(Message::LeasesLost(LeasesLost { leases: vec![lease(1)] })).await;
    peer.deliver(id, [leased(2)]).await;
    let ack = acked(&mut peer).await;
    assert_eq!(ack.items.iter().map(|item| &item.lease).collect::<Vec<_>>(), [&lease(2)]);
}

#[tokio::test]
async fn a_handler_is_told_when_its_time_is_over() {
    let node = FakeNode::start().await;
    let (client, mut peer) = node.client().await;
    let (_running, id) = working(worker(&client), &mut peer, |job| async move {
        job.aborted().await;
        Err(Failure::new("LATE", ""))
    })
    .await;
    peer.deliver(id, [LeasedJob { timeout_ms: 20, ..leased(1) }]).await;
    assert_eq!(failed(&mut peer).await.items[0].code, "LATE");
}

#[tokio::test]
async fn a_stopped_worker_finishes_what_runs_and_gives_back_what_waits() {
    let node = FakeNode::start().await;
    let (client, mut peer) = node.client().await;
    let (began, mut begun) = mpsc::unbounded_channel();
    let (finish, may_finish) = tokio::sync::watch::channel(false);
    let worker = worker(&client).concurrency(1).prefetch(1);
    let stop = worker.stop_handle();
    let (running, id) = working(worker, &mut peer, move |_| {
        let (began, mut may_finish) = (began.clone(), may_finish.clone());
        async move {
            began.send(()).unwrap();
            may_finish.wait_for(|may| *may).await.unwrap();
            Ok(().into())
        }
    })
    .await;
    peer.deliver(id, [leased(1), leased(2)]).await;
    within(begun.recv()).await.unwrap();

    stop.stop();
    unsubscribed(&mut peer).await;
    let Message::Release(release) = peer.settled().await else { panic!("no release") };
    assert_eq!(release.leases, [lease(2)]);
    finish.send(true).unwrap();
    assert_eq!(acked(&mut peer).await.items[0].lease, lease(1));
    within(running).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_handler_that_does_not_end_in_time_gives_its_job_back() {
    let node = FakeNode::start().await;
    let (client, mut peer) = node.client().await;
    let (began, mut begun) = mpsc::unbounded_channel();
    let worker = worker(&client).stop_within(Duration::from_millis(20));
    let stop = worker.stop_handle();
    let (running, id) = working(worker, &mut peer, move |_| {
        let began = began.clone();
        async move {
            began.send(()).unwrap();
            std::future::pending().await
        }
    })
    .await;
    peer.deliver(id, [leased(1)]).await;
    within(begun.recv()).await.unwrap();

    stop.stop();
    unsubscribed(&mut peer).await;
    let Message::Release(release) = peer.settled().await else { panic!("no release") };
    assert_eq!(release.leases, [lease(1)]);
    within(running).await.unwrap().unwrap();
}

#[tokio::test]
async fn no_more_handlers_run_at_once_than_asked_for() {
    let node = FakeNode::start().await;
    let (client, mut peer) = node.client().await;
    let (began, mut begun) = mpsc::unbounded_channel();
    let (finish, may_finish) = tokio::sync::watch::channel(false);
    let worker = worker(&client).prefetch(2);
    let (_running, id) = working(worker, &mut peer, move |job| {
        let (began, mut may_finish) = (began.clone(), may_finish.clone());
        async move {
            began.send(job.id.0).unwrap();
            may_finish.wait_for(|may| *may).await.unwrap();
            Ok(().into())
        }
    })
    .await;
    peer.deliver(id, (1..=4).map(leased)).await;
    within(begun.recv()).await.unwrap();
    within(begun.recv()).await.unwrap();
    tokio::task::yield_now().await;
    assert!(begun.try_recv().is_err());
    finish.send(true).unwrap();
    let mut count = 0;
    while count < 4 {
        count += acked(&mut peer).await.items.len();
    }
}
