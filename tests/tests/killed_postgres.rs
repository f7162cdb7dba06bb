//! A Postgres that is killed with all its processes, under a load of batches as the benchmark
//! makes it, loses nothing that was answered: replies come after commits, and commits are on disk.

use std::collections::HashSet;
use std::sync::Arc;

use batonq_client::{Client, NewJob, Subscription};
use batonq_tests::harness::{Cluster, Postgres, eventually, stop_all};
use parking_lot::Mutex;
use tokio::task::JoinSet;

const ROUNDS: usize = 5;
const BATCH: usize = 500;

/// What clients were told.
#[derive(Default)]
struct Told {
    pushed: HashSet<u64>,
    acked: HashSet<u64>,
}

type Shared = Arc<Mutex<Told>>;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_answered_is_lost_when_postgres_is_killed_under_load() {
    let postgres = Postgres::start_with(&["fsync=on", "synchronous_commit=on"]);
    let settings = [("BATONQ_RECONNECT_GRACE", "100ms")];
    let cluster = Cluster::on(Arc::new(postgres), 1, &settings).await;
    let told = Shared::default();
    for round in 0..ROUNDS {
        let client = cluster.nodes[0].client().await;
        let mut load = JoinSet::new();
        for _ in 0..2 {
            load.spawn(produce(client.clone(), Arc::clone(&told)));
            load.spawn(consume(client.clone(), subscribe(&client).await, Arc::clone(&told)));
        }
        // In the middle of it, wherever that is: so many acks after the last time.
        let enough = told.lock().acked.len() + 4 * BATCH + round * 700;
        eventually("acks", async || (told.lock().acked.len() >= enough).then_some(())).await;
        cluster.postgres.kill_all();
        stop_all(load).await;
        // What it still holds goes round again.
        client.close().await;
        cluster.postgres.resume();
        cluster.ready().await;
        check(&cluster.postgres, &told).await;
    }
    let client = cluster.nodes[0].client().await;
    drain(&client, &told).await;
    check(&cluster.postgres, &told).await;
}

async fn subscribe(client: &Client) -> Subscription {
    client.subscribe("load", 2 * BATCH as u32).await.expect("the node is ready")
}

async fn produce(client: Client, told: Shared) {
    loop {
        let jobs = (0..BATCH).map(|_| NewJob::new("load", vec![b'x'; 60])).collect();
        let Ok(pushed) = client.push_batch(jobs).await else { return };
        told.lock().pushed.extend(pushed.into_iter().flatten().map(|pushed| pushed.id.0));
    }
}

async fn consume(client: Client, mut subscription: Subscription, told: Shared) {
    loop {
        let jobs = subscription.next_batch().await;
        if jobs.is_empty() {
            return;
        }
        for job in &jobs {
            assert!(!told.lock().acked.contains(&job.id.0), "job {} came back", job.id.0);
        }
        // What is not answered may have been done: it is not counted, and does not come back.
        let Ok(acked) = client.ack_batch(&jobs).await else { return };
        let done = jobs.iter().zip(acked).filter(|(_, acked)| acked.is_ok());
        told.lock().acked.extend(done.map(|(job, _)| job.id.0));
    }
}

/// Takes what is left.
async fn drain(client: &Client, told: &Shared) {
    let mut consumer = JoinSet::new();
    consumer.spawn(consume(client.clone(), subscribe(client).await, Arc::clone(told)));
    eventually("an empty queue", async || {
        let queue = client.queue("load").await.ok()?;
        (queue.ready + queue.leased == 0).then_some(())
    })
    .await;
    stop_all(consumer).await;
    let queue = client.queue("load").await.expect("it is there");
    assert!(queue.completed as usize >= told.lock().pushed.len());
}

/// What was answered is there.
async fn check(postgres: &Postgres, told: &Shared) {
    let ids = |sql: &'static str| async move {
        let rows = postgres.client().await.query(sql, &[]).await.expect("it answers");
        rows.iter().map(|row| row.get::<_, i64>(0).cast_unsigned()).collect::<HashSet<u64>>()
    };
    let live = ids("SELECT id FROM batonq.live_job").await;
    let sql = "SELECT id FROM batonq.finished WHERE state = 'completed'
               UNION ALL SELECT id FROM batonq.completed_job";
    let completed = ids(sql).await;
    let told = told.lock();
    let lost = told.pushed.iter().filter(|id| !live.contains(id) && !completed.contains(id));
    assert_eq!(lost.count(), 0, "of {} pushed", told.pushed.len());
    assert_eq!(told.acked.difference(&completed).count(), 0, "of {} acked", told.acked.len());
    assert_eq!(live.intersection(&completed).count(), 0);
}
