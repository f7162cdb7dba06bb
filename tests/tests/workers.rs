//! Workers that die, freeze, come back, or are just slow.

use std::time::Duration;

use batonq_client::{Failure, JobContext, NewJob, PullOptions, Worker};
use batonq_protocol::Message;
use batonq_protocol::messages as wire;
use batonq_tests::harness::{Server, ServerBuilder, Wire, eventually, hello};
use serde_json::json;

/// A server that loses its patience soon.
fn impatient() -> ServerBuilder {
    Server::with()
        .env("BATONQ_HEARTBEAT_INTERVAL", "200ms")
        .env("BATONQ_HEARTBEAT_TIMEOUT", "1s")
        .env("BATONQ_RECONNECT_GRACE", "500ms")
}

fn pull(queue: &str) -> Message {
    Message::Pull(wire::Pull { queue: queue.into(), ..wire::Pull::default() })
}

async fn pulled(wire: &mut Wire) -> wire::LeasedJob {
    let Message::Pulled(mut pulled) = wire.ask(5, pull("q")).await else { panic!("no answer") };
    pulled.jobs.remove(0)
}

async fn state(server: &Server, id: u64) -> (i32, u32) {
    let job = server.client().await.job(id).await.expect("it is there");
    (job.state, job.crashes)
}

#[tokio::test]
async fn a_worker_whose_connection_is_lost_gives_its_jobs_back_charged_as_a_crash() {
    let server = impatient().start();
    let client = server.client().await;
    let id = client.push(NewJob::new("q", "{}")).await.unwrap().id.0;
    let mut worker = Wire::greeted(server.tcp).await;
    let job = pulled(&mut worker).await;
    assert_eq!((job.id, job.delivery, job.attempt), (id, 1, 1));
    drop(worker);
    let again = client.pull(PullOptions::new("q").wait(Duration::from_secs(10))).await.unwrap();
    assert_eq!((again[0].delivery, again[0].attempt), (2, 1), "the attempt is not charged");
    assert_eq!(state(&server, id).await.1, 1);
}

#[tokio::test]
async fn a_worker_that_falls_silent_gives_its_jobs_back() {
    let server = impatient().start();
    let client = server.client().await;
    client.push(NewJob::new("q", "{}")).await.unwrap();
    let mut frozen = Wire::greeted(server.tcp).await;
    pulled(&mut frozen).await;
    let again = client.pull(PullOptions::new("q").wait(Duration::from_secs(10))).await.unwrap();
    assert_eq!(again[0].delivery, 2);
    assert!(frozen.until_closed().await.len() <= 1, "the silent connection is closed");
}

#[tokio::test]
async fn a_slow_worker_that_is_heard_from_keeps_its_job() {
    let server = impatient().start();
    let client = server.client().await;
    client.push(NewJob::new("q", "{}")).await.unwrap();
    let mut slow = Wire::greeted(server.tcp).await;
    let job = pulled(&mut slow).await;
    for beat in 0..15 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let pong = slow.ask(10 + beat, Message::Ping(wire::Ping {})).await;
        assert!(matches!(pong, Message::Pong(_)));
    }
    let ack = wire::Ack { items: vec![wire::AckItem { lease: job.lease, ..<_>::default() }] };
    let Message::Settled(settled) = slow.ask(6, Message::Ack(ack)).await else { panic!() };
    assert_eq!(settled.results[0].status(), wire::SettleStatus::Ok);
}

#[tokio::test]
async fn a_worker_that_comes_back_in_time_keeps_its_leases() {
    let server = Server::with().env("BATONQ_RECONNECT_GRACE", "5s").start();
    let client = server.client().await;
    client.push(NewJob::new("q", "{}")).await.unwrap();
    let mut worker = server.wire().await;
    worker.send(&batonq_protocol::PREFACE).await;
    let Message::Welcome(welcome) = worker.ask(1, Message::Hello(Box::new(hello("")))).await else {
        panic!("not welcome")
    };
    let job = pulled(&mut worker).await;
    drop(worker);
    let mut back = server.wire().await;
    back.send(&batonq_protocol::PREFACE).await;
    let again = wire::Hello { session: welcome.session, ..hello("") };
    let Message::Welcome(again) = back.ask(1, Message::Hello(Box::new(again))).await else {
        panic!()
    };
    assert_eq!((again.resumed, again.session), (true, welcome.session));
    assert_eq!(again.leases, std::slice::from_ref(&job.lease));
    let ack = wire::Ack { items: vec![wire::AckItem { lease: job.lease, ..<_>::default() }] };
    let Message::Settled(settled) = back.ask(6, Message::Ack(ack)).await else { panic!() };
    assert_eq!(settled.results[0].status(), wire::SettleStatus::Ok);
}

#[tokio::test]
async fn leases_outlive_a_restart_of_the_server_for_a_worker_that_comes_back() {
    let server = Server::start();
    let client = server.client().await;
    let id = client.push(NewJob::new("q", "{}")).await.unwrap().id.0;
    let mut worker = server.wire().await;
    worker.send(&batonq_protocol::PREFACE).await;
    let Message::Welcome(welcome) = worker.ask(1, Message::Hello(Box::new(hello("")))).await else {
        panic!("not welcome")
    };
    let job = pulled(&mut worker).await;
    let server = server.restart();
    let mut back = server.wire().await;
    back.send(&batonq_protocol::PREFACE).await;
    let again = wire::Hello { session: welcome.session, ..hello("") };
    let Message::Welcome(again) = back.ask(1, Message::Hello(Box::new(again))).await else {
        panic!()
    };
    assert!(again.resumed);
    assert_eq!(again.leases, std::slice::from_ref(&job.lease));
    let ack = wire::Ack { items: vec![wire::AckItem { lease: job.lease, ..<_>::default() }] };
    let Message::Settled(settled) = back.ask(6, Message::Ack(ack)).await else { panic!() };
    assert_eq!(settled.results[0].status(), wire::SettleStatus::Ok);
    assert_eq!(state(&server, id).await.0, i32::from(wire::State::Completed));
}

#[tokio::test]
async fn a_job_that_keeps_killing_workers_is_set_aside_as_poison() {
    let server = impatient().env("BATONQ_RECONNECT_GRACE", "100ms").start();
    let client = server.client().await;
    let id = client.push(NewJob::new("q", "{}")).await.unwrap().id.0;
    for delivery in 1..=5 {
        let mut victim = Wire::greeted(server.tcp).await;
        let pull = wire::Pull { queue: "q".into(), wait_ms: 10_000, ..wire::Pull::default() };
        let Message::Pulled(pulled) = victim.ask(5, Message::Pull(pull)).await else { panic!() };
        assert_eq!(pulled.jobs[0].delivery, delivery);
    }
    let job = eventually("the job is dead", async || {
        let job = client.job(id).await.unwrap();
        (job.state == i32::from(wire::State::Dead)).then_some(job)
    })
    .await;
    assert_eq!((job.reason.as_str(), job.crashes, job.attempt), ("POISON", 5, 0));
    let timeline = client.timeline(id).await.unwrap();
    let endings: Vec<&str> = timeline.attempts.iter().map(|a| a.ending.as_str()).collect();
    assert_eq!(endings, ["crashed"; 5]);
}

#[tokio::test]
async fn an_http_lease_ends_by_itself_unless_extended() {
    let server = Server::start();
    let http = server.http();
    for _ in 0..2 {
        http.post("/v1/queues/q/jobs", json!({ "payload": 1 })).await;
    }
    let pull = http.post("/v1/queues/q/pull", json!({ "count": 2, "lease_ms": 1000 })).await;
    let (extended, left) = (&pull.json()["jobs"][0], &pull.json()["jobs"][1]);
    let path = format!("/v1/jobs/{}/extend", extended["id"]);
    let more = json!({ "lease": extended["lease"], "lease_ms": 60_000 });
    assert_eq!(http.post(&path, more).await.status, 200);
    let again = http.post("/v1/queues/q/pull", json!({ "count": 2, "wait_ms": 10_000 })).await;
    assert_eq!(again.json()["jobs"].as_array().unwrap().len(), 1);
    assert_eq!(again.json()["jobs"][0]["id"], left["id"]);
    let stale = format!("/v1/jobs/{}/ack", left["id"]);
    let refused = http.post(&stale, json!({ "lease": left["lease"] })).await;
    assert_eq!(refused.problem(), (409, "LEASE_LOST".into()));
    let kept = format!("/v1/jobs/{}/ack", extended["id"]);
    assert_eq!(http.post(&kept, json!({ "lease": extended["lease"] })).await.status, 200);
}

#[tokio::test]
async fn an_attempt_that_runs_too_long_is_charged_and_its_worker_is_told() {
    let server = Server::start();
    let client = server.client().await;
    let job = NewJob::new("q", "{}").timeout(Duration::from_millis(200)).max_attempts(1);
    let id = client.push(job).await.unwrap().id.0;
    let mut worker = Wire::greeted(server.tcp).await;
    let job = pulled(&mut worker).await;
    let Message::LeasesLost(lost) = worker.answer().await else { panic!("not told") };
    assert_eq!(lost.leases, [job.lease]);
    let job = client.job(id).await.unwrap();
    assert_eq!(
        (job.reason.as_str(), job.error_code.as_str()),
        ("MAX_ATTEMPTS_EXCEEDED", "TIMEOUT")
    );
}

#[tokio::test]
async fn an_http_client_that_leaves_while_it_waits_takes_no_job_with_it() {
    use tokio::io::AsyncWriteExt;
    let server = Server::start();
    let http = server.http();
    let connections = async || {
        let text = http.get("/metrics").await.text;
        let line = "batonq_connections{transport=\"http\"} ";
        text.lines().find_map(|found| found.strip_prefix(line)?.parse::<u32>().ok())
    };
    let body = "{\"wait_ms\":60000}";
    let request = format!(
        "POST /v1/queues/q/pull HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut leaver = tokio::net::TcpStream::connect(http.address).await.unwrap();
    leaver.write_all(request.as_bytes()).await.unwrap();
    eventually("it waits", async || (connections().await == Some(2)).then_some(())).await;
    drop(leaver);
    eventually("it has left", async || (connections().await == Some(1)).then_some(())).await;
    http.post("/v1/queues/q/jobs", json!({ "payload": 1 })).await;
    let pulled = http.post("/v1/queues/q/pull", json!({ "wait_ms": 5_000 })).await.json();
    assert_eq!(pulled["jobs"][0]["delivery"], 1);
}

#[tokio::test]
async fn a_worker_over_http_hears_of_a_cancel_when_it_extends() {
    let server = Server::start();
    let http = server.http();
    let id = http.post("/v1/queues/a/jobs", json!({ "payload": 1 })).await.json()["id"].take();
    let pulled = http.post("/v1/queues/a/pull", json!({ "worker": "w" })).await.json();
    let job = &pulled["jobs"][0];
    let extend = async || {
        let more = json!({ "lease": job["lease"], "lease_ms": 30_000 });
        http.post(&format!("/v1/jobs/{id}/extend"), more).await.json()
    };
    assert_eq!(extend().await.get("cancel_at"), None);
    let asked = http.post(&format!("/v1/jobs/{id}/cancel"), json!({ "grace_ms": 60_000 })).await;
    assert_eq!((asked.status, &asked.json()["state"]), (202, &json!("leased")));
    assert_eq!(extend().await["cancel_at"], asked.json()["force_at"]);
}

#[tokio::test]
async fn large_results_that_come_together_are_all_kept_and_one_that_is_too_large_fails_its_job() {
    const LARGEST: usize = 1024 * 1024;
    let server = Server::start();
    let client = server.client().await;
    let lengths = [LARGEST; 8].into_iter().chain([LARGEST + 1, 5 * LARGEST]);
    let jobs = lengths.map(|length| NewJob::new("q", length.to_string()).max_attempts(1));
    let pushed = client.push_batch(jobs.collect()).await.unwrap();
    let ids: Vec<u64> = pushed.into_iter().map(|job| job.unwrap().id.0).collect();
    // None of them ends before all have begun.
    let all = std::sync::Arc::new(tokio::sync::Barrier::new(ids.len()));
    let worker = Worker::new(server.client().await, "q").concurrency(ids.len() as u32);
    let handler = move |job: JobContext| {
        let all = std::sync::Arc::clone(&all);
        async move {
            let length: usize = String::from_utf8_lossy(&job.payload).parse().expect("a length");
            all.wait().await;
            Ok::<_, Failure>(vec![b'x'; length])
        }
    };
    let working = tokio::spawn(worker.run(handler));
    let queue = eventually("an end of all", async || {
        let queue = client.queue("q").await.ok()?;
        (queue.ready + queue.leased == 0).then_some(queue)
    });
    let queue = queue.await;
    assert_eq!((queue.completed, queue.dead), (8, 2));
    working.abort();
}
