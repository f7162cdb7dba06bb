//! A server that is killed at any moment loses nothing that it has acknowledged.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use batonq_client::{Client, NewJob, PullOptions, State};
use batonq_tests::harness::{Http, Server, stop_all};
use parking_lot::Mutex;
use rand::RngExt;
use serde_json::json;

const ROUNDS: usize = 50;

/// What clients were told.
#[derive(Default)]
struct Told {
    pushed: HashSet<u64>,
    acked: HashSet<u64>,
    /// Settled, but the answer did not come: either is right.
    unsure: HashSet<u64>,
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_and_nothing_acked_comes_back_over_50_kills() {
    let told = Arc::new(Mutex::new(Told::default()));
    let mut server = Server::with().env("BATONQ_RECONNECT_GRACE", "100ms").start();
    for round in 0..ROUNDS {
        let tcp = [server.client().await, server.client().await];
        let http = server.http();
        let mut work = tokio::task::JoinSet::new();
        for client in tcp.clone() {
            work.spawn(over_tcp(client, Arc::clone(&told)));
            work.spawn(over_http(http.clone(), Arc::clone(&told)));
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
    check(&server.client().await, &told).await;
}

async fn over_tcp(client: Client, told: Arc<Mutex<Told>>) {
    loop {
        let jobs = (0..3).map(|_| NewJob::new("crash", "{}")).collect();
        let Ok(pushed) = client.push_batch(jobs).await else { return };
        told.lock().pushed.extend(pushed.into_iter().flatten().map(|pushed| pushed.id.0));
        let Ok(jobs) = client.pull(PullOptions::new("crash").count(2)).await else { return };
        for job in jobs {
            assert!(!told.lock().acked.contains(&job.id.0), "job {} came back", job.id.0);
            told.lock().unsure.insert(job.id.0);
            if client.ack(&job).await.is_err() {
                return;
            }
            told.lock().acked.insert(job.id.0);
        }
    }
}

async fn over_http(http: Http, told: Arc<Mutex<Told>>) {
    loop {
        let post = async |path: String, body: serde_json::Value| {
            let json = [("content-type", "application/json")];
            let body = Some(body.to_string().into());
            let reply = http.try_send(hyper::Method::POST, &path, body, &json).await.ok()?;
            (reply.status < 300).then(|| reply.json())
        };
        let push = post("/v1/queues/crash/jobs".into(), json!({ "payload": {} })).await;
        let Some(pushed) = push else { return };
        told.lock().pushed.extend(pushed["id"].as_u64());
        let pull = post("/v1/queues/crash/pull".into(), json!({ "count": 1 })).await;
        let Some(pulled) = pull else { return };
        for job in pulled["jobs"].as_array().into_iter().flatten() {
            let id = job["id"].as_u64().expect("a job has an id");
            assert!(!told.lock().acked.contains(&id), "job {id} came back");
            told.lock().unsure.insert(id);
            let ack = post(format!("/v1/jobs/{id}/ack"), json!({ "lease": job["lease"] })).await;
            if ack.is_none() {
                return;
            }
            told.lock().acked.insert(id);
        }
    }
}

async fn check(client: &Client, told: &Told) {
    assert!(told.acked.len() > ROUNDS, "only {} acks in all", told.acked.len());
    for id in &told.pushed {
        let job = client.job(*id).await;
        let job = job.unwrap_or_else(|error| panic!("job {id} is lost: {error}"));
        let is_completed = job.state() == State::Completed;
        assert!(is_completed || !told.acked.contains(id), "job {id} was acked: {job:?}");
        let may_be_completed = told.unsure.contains(id);
        assert!(!is_completed || may_be_completed, "job {id} was never acked");
    }
}
