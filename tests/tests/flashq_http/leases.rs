//! Whose a job is that was pulled over HTTP: its worker's for a time, since there is no connection to
//! tell that the worker is there.

use batonq_tests::harness::flashq::Mode;
use batonq_tests::harness::{FlashQ, Http, SOON, Server, eventually};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::{get, post, pull, push};

/// How long a job is a worker's from its last sign of life.
const HELD: SignedDuration = SignedDuration::from_secs(120);

/// The same of one who is connected, who renews it all the time.
const SESSION_HELD: SignedDuration = SignedDuration::from_secs(30);

/// More than any of this takes, and less than half of what lies between the two.
const SLACK: SignedDuration = SignedDuration::from_secs(40);

/// A lease that has just begun runs for so long, give or take how long it took to see that.
fn assert_about(until: Timestamp, held: SignedDuration) {
    let left = until.duration_since(Timestamp::now());
    assert!((held - SLACK..held + SLACK).contains(&left), "{left:?} is not about {held:?}");
}

async fn job(http: &Http, id: u64) -> Value {
    http.get(&format!("/v1/jobs/{id}")).await.json()
}

async fn lease_until(http: &Http, id: u64) -> Timestamp {
    let job = job(http, id).await;
    assert_eq!(job["state"], "leased", "{job}");
    job["lease_until"].as_str().expect("a leased job has it").parse().expect("a time")
}

/// Pulls over HTTP that wait, as the node counts them.
async fn waiting_pulls(http: &Http) -> Option<u64> {
    let metrics = http.get("/metrics").await.text;
    let count = metrics.lines().find_map(|line| line.strip_prefix("batonq_waiting_pulls "));
    count.and_then(|count| count.parse().ok())
}

#[tokio::test]
async fn a_pull_whose_client_goes_away_takes_nothing() {
    let server = Server::start();
    let http = server.http();
    let command = json!({ "cmd": "PULL", "queue": "q", "timeout": 60_000 }).to_string();
    let command = format!("content-length: {}\r\n\r\n{command}", command.len());
    for (first, rest) in [
        ("GET /queues/q/jobs?count=5&timeout=60000", "\r\n"),
        ("POST /api/command", command.as_str()),
    ] {
        let mut gone = TcpStream::connect(http.address).await.unwrap();
        let head = format!("{first} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n");
        gone.write_all(format!("{head}{rest}").as_bytes()).await.unwrap();
        let waits = async || (waiting_pulls(&http).await == Some(1)).then_some(());
        eventually("the pull waits", waits).await;
        drop(gone);
        let has_ended = async || (waiting_pulls(&http).await == Some(0)).then_some(());
        eventually("the pull has ended with its client", has_ended).await;
        let id = push(&http, "q", json!(1)).await;
        let untouched = job(&http, id).await;
        assert_eq!((&untouched["state"], &untouched["deliveries"]), (&json!("ready"), &json!(0)));
        assert_eq!(pull(&http, "q").await["id"], id);
        post(&http, &format!("/jobs/{id}/ack"), json!({})).await;
    }
}

#[tokio::test]
async fn a_job_is_its_workers_for_a_time_and_longer_with_each_sign_of_life() {
    let server = Server::start();
    let http = server.http();
    let id = push(&http, "q", json!(1)).await;
    pull(&http, "q").await;
    let mut until = lease_until(&http, id).await;
    assert_about(until, HELD);
    for _ in 0..3 {
        // Clocks are read in milliseconds: the first one may be in the same.
        until = eventually("it is held for longer", async || {
            post(&http, &format!("/jobs/{id}/heartbeat"), json!({})).await;
            Some(lease_until(&http, id).await).filter(|longer| *longer > until)
        })
        .await;
    }
    post(&http, &format!("/jobs/{id}/ack"), json!({ "result": 1 })).await;
    let late = http.post(&format!("/jobs/{id}/heartbeat"), json!({})).await;
    assert_eq!(late.json()["ok"], false, "{}", late.text);
}

#[tokio::test]
async fn a_job_that_a_command_has_pulled_is_held_for_the_same_time() {
    let server = Server::start();
    let http = server.http();
    let id = push(&http, "q", json!(1)).await;
    let pulled = http.post("/api/command", json!({ "cmd": "PULL", "queue": "q" })).await.json();
    assert_eq!(pulled["job"]["id"], id, "{pulled}");
    assert_about(lease_until(&http, id).await, HELD);
    let alive = json!({ "cmd": "HEARTBEAT", "id": id });
    assert_eq!(http.post("/api/command", alive).await.json()["ok"], true);
}

/// A worker that is connected needs no signs of life, and one over HTTP changes nothing for it.
#[tokio::test]
async fn a_job_of_a_connection_hangs_on_it_still() {
    let server = Server::with().env("BATONQ_RECONNECT_GRACE", "100ms").start();
    let http = server.http();
    let id = push(&http, "q", json!(1)).await;
    let mut worker = FlashQ::connect(server.tcp, Mode::Text).await;
    let pulled = worker.done("PULL", json!({ "queue": "q", "timeout": 10_000 })).await;
    assert_eq!(pulled["job"]["id"], id);
    post(&http, &format!("/jobs/{id}/heartbeat"), json!({})).await;
    assert_about(lease_until(&http, id).await, SESSION_HELD);
    drop(worker);
    // Among the dead, since it had one attempt: a crash counts.
    let has_crashed = async || {
        let state = get(&http, &format!("/jobs/{id}/state")).await;
        (state["state"] != "active").then_some(())
    };
    eventually("its connection is missed", has_crashed).await;
}

#[tokio::test]
async fn a_pull_waits_for_as_long_as_it_says() {
    let server = Server::start();
    let http = server.http();
    assert_eq!(get(&http, "/queues/q/jobs?timeout=1").await, json!([]));
    let waiting = tokio::spawn({
        let http = http.clone();
        async move { get(&http, "/queues/q/jobs?count=3&timeout=60000").await }
    });
    let waits = async || (waiting_pulls(&http).await == Some(1)).then_some(());
    eventually("the pull waits", waits).await;
    let id = push(&http, "q", json!(1)).await;
    let jobs = tokio::time::timeout(SOON, waiting).await.expect("it is told").unwrap();
    assert_eq!((jobs.as_array().map(Vec::len), &jobs[0]["id"]), (Some(1), &json!(id)));
}
