//! What flashQ's clients were told holds when a node or a worker is gone.

use std::collections::HashSet;
use std::sync::Arc;

use batonq_tests::harness::flashq::Mode;
use batonq_tests::harness::{Cluster, FlashQ, Server, eventually, stop_all};
use parking_lot::Mutex;
use rand::RngExt;
use serde_json::{Value, json};
use tokio::time::Duration;

const ROUNDS: usize = 20;

/// What clients were told.
#[derive(Default)]
struct Told {
    pushed: HashSet<u64>,
    acked: HashSet<u64>,
    /// Acked, but the reply did not come: either is right.
    unsure: HashSet<u64>,
}

fn id(value: &Value) -> u64 {
    value.as_u64().expect("an id is a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_and_nothing_acked_comes_back_over_20_kills() {
    let told = Arc::new(Mutex::new(Told::default()));
    let mut server = Server::with().env("BATONQ_RECONNECT_GRACE", "100ms").start();
    for round in 0..ROUNDS {
        let mut work = tokio::task::JoinSet::new();
        for mode in Mode::ALL {
            for _ in 0..2 {
                let client = FlashQ::connect(server.tcp, mode).await;
                work.spawn(push_and_ack(client, Arc::clone(&told)));
            }
        }
        let before = told.lock().pushed.len();
        let pause = rand::rng().random_range(20..120);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        server.kill();
        stop_all(work).await;
        assert!(told.lock().pushed.len() > before || pause < 60, "round {round} did nothing");
        server = server.restart();
    }
    let told = std::mem::take(&mut *told.lock());
    check(&server, &told).await;
}

/// Goes on until the server is gone.
async fn push_and_ack(mut client: FlashQ, told: Arc<Mutex<Told>>) {
    loop {
        let jobs = json!({ "queue": "crash", "jobs": [{ "data": 1 }, { "data": 2 }] });
        let Some(pushed) = client.try_ask("PUSHB", jobs).await else { return };
        told.lock().pushed.extend(pushed["ids"].as_array().into_iter().flatten().map(id));
        let job = json!({ "queue": "crash", "data": 3 });
        let Some(pushed) = client.try_ask("PUSH", job).await else { return };
        told.lock().pushed.insert(id(&pushed["id"]));
        let pull = json!({ "queue": "crash", "count": 2, "timeout": 0 });
        let Some(pulled) = client.try_ask("PULLB", pull).await else { return };
        for job in pulled["jobs"].as_array().into_iter().flatten() {
            let id = id(&job["id"]);
            assert!(!told.lock().acked.contains(&id), "job {id} came back");
            told.lock().unsure.insert(id);
            let Some(acked) = client.try_ask("ACK", json!({ "id": id })).await else { return };
            assert_eq!(acked["ok"], true, "{acked}");
            told.lock().acked.insert(id);
        }
    }
}

async fn check(server: &Server, told: &Told) {
    assert!(told.acked.len() > ROUNDS, "only {} acks in all", told.acked.len());
    let mut client = FlashQ::connect(server.tcp, Mode::Binary).await;
    for id in &told.pushed {
        let told_now = client.done("GETSTATE", json!({ "id": id })).await;
        let state = told_now["state"].as_str().expect("a state is a text");
        assert_ne!(state, "unknown", "job {id} is lost");
        let is_completed = state == "completed";
        assert!(is_completed || !told.acked.contains(id), "job {id} was acked and is {state}");
        assert!(!is_completed || told.unsure.contains(id), "job {id} was never acked");
    }
}

/// How often a job has failed, or lost its worker.
fn charges(job: &Value) -> u64 {
    id(&job["attempts"]) + id(&job["stall_count"])
}

/// A node that soon gives up on workers whose connection is gone.
fn impatient() -> Server {
    Server::with().env("BATONQ_RECONNECT_GRACE", "100ms").start()
}

#[tokio::test]
async fn jobs_of_a_worker_that_vanishes_come_back_and_it_counts() {
    let server = impatient();
    for mode in Mode::ALL {
        let mut client = FlashQ::connect(server.tcp, mode).await;
        let jobs = json!({ "queue": "lost", "jobs": [{ "data": 1 }, { "data": 2 }] });
        client.done("PUSHB", jobs).await;
        let pull = json!({ "queue": "lost", "count": 2, "timeout": 15_000 });
        let mut lost = FlashQ::connect(server.tcp, mode).await;
        let pulled = lost.done("PULLB", pull.clone()).await;
        assert_eq!(pulled["jobs"].as_array().map(Vec::len), Some(2));
        drop(lost);
        let mut seen = HashSet::new();
        while seen.len() < 2 {
            for job in client.done("PULLB", pull.clone()).await["jobs"].as_array().expect("jobs") {
                let told = client.done("GETJOB", json!({ "id": job["id"] })).await;
                assert_eq!(charges(&told["job"]), 1, "{told}");
                client.done("ACK", json!({ "id": job["id"] })).await;
                seen.insert(id(&job["id"]));
            }
        }
    }
}

#[tokio::test]
async fn a_job_that_every_worker_dies_of_ends_among_the_dead() {
    let server = impatient();
    let mut client = FlashQ::connect(server.tcp, Mode::Text).await;
    let job = client.done("PUSH", json!({ "queue": "poison", "data": 1 })).await["id"].clone();
    for _ in 0..50 {
        let mut victim = FlashQ::connect(server.tcp, Mode::Text).await;
        victim.done("PULL", json!({ "queue": "poison", "timeout": 500 })).await;
        if client.done("GETSTATE", json!({ "id": job })).await["state"] == "failed" {
            break;
        }
    }
    let dead = client.done("DLQ", json!({ "queue": "poison" })).await;
    assert_eq!(dead["jobs"][0]["id"], job);
}

#[tokio::test]
async fn who_leaves_amid_a_pull_takes_no_job() {
    let server = impatient();
    for mode in Mode::ALL {
        for _ in 0..10 {
            let mut gone = FlashQ::connect(server.tcp, mode).await;
            let pull = json!({ "cmd": "PULL", "queue": "amid", "timeout": 30_000, "reqId": "1" });
            gone.say(&pull).await;
            gone.done("PING", json!({})).await;
        }
        let http = server.http();
        let is_noticed = async || {
            let workers = http.get("/v1/workers").await.json();
            workers["workers"].as_array().expect("a list").is_empty().then_some(())
        };
        eventually("the node hears of it", is_noticed).await;
        let mut client = FlashQ::connect(server.tcp, mode).await;
        client.done("PUSH", json!({ "queue": "amid", "data": 1 })).await;
        let pulled = client.done("PULL", json!({ "queue": "amid", "timeout": 15_000 })).await;
        let told = client.done("GETJOB", json!({ "id": pulled["job"]["id"] })).await;
        assert_eq!(charges(&told["job"]), 0, "{told}");
        client.done("ACK", json!({ "id": pulled["job"]["id"] })).await;
    }
}

#[tokio::test]
async fn a_worker_keeps_its_jobs_as_long_as_it_is_connected_and_others_may_ack_them() {
    let server = Server::with()
        .env("BATONQ_RECONNECT_GRACE", "100ms")
        .env("BATONQ_HEARTBEAT_INTERVAL", "200ms")
        .env("BATONQ_HEARTBEAT_TIMEOUT", "500ms")
        .start();
    let (mut worker, mut other) = (
        FlashQ::connect(server.tcp, Mode::Text).await,
        FlashQ::connect(server.tcp, Mode::Binary).await,
    );
    other.done("PUSH", json!({ "queue": "kept", "data": 1 })).await;
    let job =
        worker.done("PULL", json!({ "queue": "kept", "timeout": 10_000 })).await["job"].clone();
    let pulled = other.done("PULL", json!({ "queue": "kept", "timeout": 2000 })).await;
    assert_eq!(pulled["job"], Value::Null);
    other.done("ACK", json!({ "id": job["id"] })).await;
    assert_eq!(worker.ask("ACK", json!({ "id": job["id"] })).await["ok"], false);
}

#[tokio::test]
async fn a_node_that_is_told_to_stop_lets_pulls_go_and_workers_finish() {
    let mut server = Server::start();
    let mut worker = FlashQ::connect(server.tcp, Mode::Text).await;
    let job = worker.done("PUSH", json!({ "queue": "stop", "data": 1 })).await["id"].clone();
    worker.done("PULL", json!({ "queue": "stop", "timeout": 10_000 })).await;
    let mut idle = FlashQ::connect(server.tcp, Mode::Text).await;
    idle.say(&json!({ "cmd": "PULL", "queue": "none", "timeout": 60_000, "reqId": "1" })).await;
    idle.done("PING", json!({})).await;
    server.signal("-TERM");
    let told = idle.until_closed().await;
    assert_eq!(told.len(), 1);
    assert_eq!(told[0]["job"], Value::Null, "{told:?}");
    worker.done("ACK", json!({ "id": job })).await;
    assert!(worker.until_closed().await.is_empty());
    assert_eq!(server.wait(), 0);
    server.resume();
    let mut other = FlashQ::connect(server.tcp, Mode::Text).await;
    assert_eq!(other.done("GETSTATE", json!({ "id": job })).await["state"], "completed");
}

#[tokio::test]
async fn what_a_node_has_told_holds_at_the_others_when_it_is_killed() {
    let mut cluster = Cluster::of(3).await;
    let mut lost = FlashQ::connect(cluster.nodes[0].tcp, Mode::Text).await;
    let mut ids = Vec::new();
    for place in 0..3 {
        let push = json!({ "queue": "node", "data": place });
        ids.push(lost.done("PUSH", push).await["id"].clone());
    }
    let pull = json!({ "queue": "node", "timeout": 15_000 });
    assert_eq!(lost.done("PULL", pull.clone()).await["job"]["id"], ids[0]);
    lost.done("ACK", json!({ "id": ids[0], "result": "kept" })).await;
    assert_eq!(lost.done("PULL", pull.clone()).await["job"]["id"], ids[1]);
    cluster.nodes[0].kill();
    let mut other = FlashQ::connect(cluster.nodes[1].tcp, Mode::Binary).await;
    assert_eq!(other.done("GETRESULT", json!({ "id": ids[0] })).await["result"], "kept");
    let mut left = vec![ids[1].clone(), ids[2].clone()];
    while !left.is_empty() {
        let id = other.done("PULL", pull.clone()).await["job"]["id"].clone();
        let place = left.iter().position(|it| *it == id).expect("a job that is not acked");
        left.remove(place);
        let told = other.done("GETJOB", json!({ "id": id })).await;
        // The worker was not to blame.
        assert_eq!(charges(&told["job"]), 0, "{told}");
        other.done("ACK", json!({ "id": id })).await;
    }
}
