//! Whatever is sent to flashQ's routes, the answer is an envelope that says why nothing was done,
//! with a status that says whose fault it is.

use batonq_tests::harness::{Http, Reply, SOON, Server};
use hyper::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{JSON, get, post, pull, push};

/// What of an answer is not an envelope of a refusal with this status and these words in it.
fn check_refused(reply: &Reply, status: u16, words: &str) -> Result<(), String> {
    let envelope = reply.json();
    let error = envelope["error"].as_str().unwrap_or_default().to_lowercase();
    let has_no_data = envelope.get("data").is_none_or(Value::is_null);
    let is_right = reply.status == status
        && reply.headers["content-type"] == "application/json"
        && envelope["ok"] == false
        && has_no_data
        && !error.is_empty()
        && error.contains(words);
    let told = || format!("not {status} with {words:?}: {} {}", reply.status, reply.text);
    is_right.then_some(()).ok_or_else(told)
}

fn assert_refused(reply: &Reply, status: u16, words: &str, what: &str) {
    check_refused(reply, status, words).unwrap_or_else(|wrong| panic!("{what}: {wrong}"));
}

async fn nothing_was_pushed(http: &Http) {
    assert_eq!(http.get("/v1/queues").await.json(), json!({ "queues": [] }));
    assert_eq!(http.get("/health/ready").await.status, 200);
}

/// Calls that are wrong in themselves: method and path, body, and what the answer is about.
const BAD: &[(&str, &str, &str)] = &[
    ("POST /queues/q/jobs", "not json", "invalid"),
    ("POST /queues/q/jobs", "[1]", "invalid"),
    ("POST /queues/q/jobs", "{\"data\":\"\u{1}\"}", "invalid"),
    ("POST /queues/q/jobs", r#"{"data":1,"priority":"high"}"#, "priority"),
    ("POST /queues/q/jobs", r#"{"data":1,"priority":99999999999}"#, "priority"),
    ("POST /queues/q/jobs", r#"{"data":1,"delay":-1}"#, "delay"),
    ("POST /queues/q/jobs", r#"{"data":1,"ttl":1.5}"#, "ttl"),
    ("POST /queues/q/jobs", r#"{"data":1,"max_attempts":-1}"#, "max_attempts"),
    ("POST /queues/q/jobs", r#"{"data":1,"tags":"t"}"#, "tags"),
    ("POST /queues/q/jobs", r#"{"data":1,"depends_on":["x"]}"#, "depends_on"),
    ("POST /queues/a%20b!/jobs", r#"{"data":1}"#, "queue name"),
    ("POST /queues/a%2Fb/jobs", r#"{"data":1}"#, "queue name"),
    ("POST /queues/batonq.webhooks/jobs", r#"{"data":1}"#, "queue"),
    ("POST /queues/q/jobs/batch", "{}", "jobs"),
    ("POST /queues/q/jobs/batch", r#"{"jobs":1}"#, "expected a sequence"),
    ("POST /queues/q/jobs/batch", r#"{"jobs":[1]}"#, "expected a map"),
    ("GET /queues/q/jobs?count=-1", "", "count"),
    ("GET /queues/q/jobs?count=x", "", "count"),
    ("GET /queues/q/jobs?count=1&timeout=soon", "", "timeout"),
    ("GET /jobs/one", "", "id"),
    ("GET /jobs/-1/state", "", "id"),
    ("GET /jobs/99999999999999999999/result", "", "id"),
    ("GET /jobs?limit=x", "", "limit"),
    ("GET /jobs?offset=-1", "", "offset"),
    ("GET /jobs/1/wait?timeout=x", "", "timeout"),
    ("POST /jobs/1/progress", "{}", "progress"),
    ("POST /jobs/1/progress", r#"{"progress":300}"#, "progress"),
    ("POST /jobs/1/logs", "{}", "message"),
    ("POST /jobs/1/priority", "{}", "priority"),
    ("POST /jobs/1/move-to-delayed", "{}", "delay"),
    ("POST /jobs/ack-batch", "{}", "ids"),
    ("POST /jobs/ack/batch", r#"{"ids":["x"]}"#, "ids"),
    ("POST /queues/q/rate-limit", "{}", "limit"),
    ("POST /queues/q/rate-limit", r#"{"limit":0}"#, "limit"),
    ("POST /queues/q/concurrency", r#"{"limit":"all"}"#, "limit"),
    ("POST /queues/q/clean", r#"{"grace":0,"state":"gone"}"#, "state"),
    ("POST /queues/q/flow", r#"{"data":1,"children":[]}"#, "child"),
    ("POST /flows", r#"{"parent_data":1,"children":[{"queue":"q"}]}"#, "queue"),
    ("PUT /crons/n", r#"{"queue":"q","data":1,"schedule":"often"}"#, "invalid"),
    ("PUT /crons/n", r#"{"queue":"q","data":1}"#, "schedule"),
    ("POST /workers/w/heartbeat", r#"{"queues":["a b!"]}"#, "queue"),
    ("POST /webhooks", r#"{"events":["completed"]}"#, "url"),
    ("POST /webhooks", r#"{"url":"https://example.com/"}"#, "events"),
    ("POST /webhooks", r#"{"url":"https://example.com/","events":["born"]}"#, "events"),
    ("POST /webhooks", r#"{"url":"https://10.0.0.1/","events":["*"]}"#, "url"),
    ("POST /webhooks", r#"{"url":"http://localhost:1/","events":["*"]}"#, "url"),
    ("GET /events/job/1?events=born", "", "events"),
    ("GET /events/a%20b!", "", "queue"),
];

#[tokio::test]
async fn a_bad_call_is_the_callers_fault_and_names_what_is_wrong() {
    let server = Server::start();
    let mut wrong = Vec::new();
    for (route, body, words) in BAD {
        let (method, path) = route.split_once(' ').unwrap();
        let body = (!body.is_empty()).then(|| (*body).into());
        let reply = server.http().send(method.parse().unwrap(), path, body, &[JSON]).await;
        let checked = check_refused(&reply, 400, words);
        wrong.extend(checked.err().map(|what| format!("{route} {what}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    nothing_was_pushed(&server.http()).await;
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let server = Server::start();
    for route in [
        "POST /jobs/999999999/ack",
        "POST /jobs/999999999/fail",
        "POST /jobs/999999999/cancel",
        "GET /jobs/999999999/progress",
        "GET /jobs/999999999/wait?timeout=10",
        "GET /events/job/999999999",
        "GET /server/settings",
        "POST /server/shutdown",
        "POST /server/reset",
        "POST /settings/auth",
        "GET /sqlite/stats",
        "POST /s3/backup",
    ] {
        let (method, path) = route.split_once(' ').unwrap();
        let body = (method == "POST").then(|| "{}".into());
        let reply = server.http().send(method.parse().unwrap(), path, body, &[JSON]).await;
        assert_refused(&reply, 404, "", route);
    }
    // What neither of the two has is none of flashQ's.
    for path in ["/", "/jobs/1/nothing", "/queue/q/jobs"] {
        assert_eq!(server.http().get(path).await.status, 404, "{path}");
    }
    nothing_was_pushed(&server.http()).await;
}

#[tokio::test]
async fn a_wrong_method_is_told_which_there_are() {
    let server = Server::start();
    for (route, allowed) in [
        ("GET /jobs/1/ack", "POST"),
        ("DELETE /queues/q/pause", "POST"),
        ("POST /stats", "GET"),
        ("POST /queues/q/dlq", "DELETE GET"),
    ] {
        let (method, path) = route.split_once(' ').unwrap();
        let reply = server.http().send(method.parse().unwrap(), path, None, &[JSON]).await;
        assert_eq!(reply.status, 405, "{route}: {}", reply.text);
        let mut told: Vec<&str> = reply.headers["allow"].to_str().unwrap().split(", ").collect();
        told.sort_unstable();
        assert_eq!(told.join(" "), allowed, "{route}");
    }
}

#[tokio::test]
async fn what_can_not_be_done_now_is_a_conflict() {
    let server = Server::start();
    let http = server.http();
    let id = push(&http, "q", json!(1)).await;
    let refused = http.post(&format!("/jobs/{id}/promote"), json!({})).await;
    assert_refused(&refused, 409, "not", "it waits already");
    pull(&http, "q").await;
    let refused = http.post(&format!("/jobs/{id}/priority"), json!({ "priority": 1 })).await;
    assert_refused(&refused, 409, "", "somebody works on it");
    post(&http, &format!("/jobs/{id}/ack"), json!({})).await;
    let refused = http.post(&format!("/jobs/{id}/cancel"), json!({})).await;
    assert_refused(&refused, 409, "cancel", "it is over");
    let unique = json!({ "data": 1, "unique_key": "u" });
    post(&http, "/queues/q/jobs", unique.clone()).await;
    assert_refused(&http.post("/queues/q/jobs", unique).await, 409, "duplicate", "a second one");
}

#[tokio::test]
async fn a_body_must_say_that_it_is_json_unless_it_is_empty() {
    let server = Server::start();
    let http = server.http();
    for headers in [&[][..], &[("content-type", "text/plain")]] {
        let body = Some(r#"{"data":1}"#.into());
        let reply = http.send(Method::POST, "/queues/q/jobs", body, headers).await;
        assert_refused(&reply, 415, "content-type", "a page of another site can send that");
    }
    nothing_was_pushed(&http).await;
    for headers in [&[][..], &[JSON]] {
        let reply = http.send(Method::POST, "/queues/q/pause", None, headers).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
    }
}

#[tokio::test]
async fn what_is_too_large_is_refused_and_costs_little() {
    let server = Server::start();
    let http = server.http();
    let before = server.memory_kib();
    let large = format!(r#"{{"data":"{}"}}"#, "x".repeat(2 * 1024 * 1024));
    for _ in 0..5 {
        let reply = http.post_text("/queues/q/jobs", large.clone()).await;
        assert_refused(&reply, 413, "too large", "a payload");
    }
    let jobs: Vec<Value> = (0..1001).map(|n| json!({ "data": n })).collect();
    let reply = http.post("/queues/q/jobs/batch", json!({ "jobs": jobs })).await;
    assert!(matches!(reply.status, 400 | 413), "{}", reply.text);
    assert_refused(&reply, reply.status, "batch too large", "a batch");
    let mut stream = TcpStream::connect(http.address).await.unwrap();
    let head = "POST /queues/q/jobs HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
        content-length: 99999999999\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await;
    // A reset is a close too.
    read.expect("the server closes").ok();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("\"ok\":false"), "{answer}");
    let grown = server.memory_kib().saturating_sub(before);
    assert!(grown < 64 * 1024, "memory grew by {grown} KiB");
    nothing_was_pushed(&http).await;
}

#[tokio::test]
async fn what_is_nested_too_deeply_is_refused() {
    let server = Server::start();
    for depth in [200, 5_000, 20_000] {
        let nested = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        for (path, body) in [
            ("/queues/q/jobs", format!(r#"{{"data":{nested}}}"#)),
            ("/webhooks/incoming/q", nested.clone()),
            ("/jobs/1/ack", format!(r#"{{"result":{nested}}}"#)),
        ] {
            let reply = server.http().post_text(path, body).await;
            assert_refused(&reply, 400, "", path);
        }
        let command = format!(r#"{{"cmd":"PUSH","queue":"q","data":{nested}}}"#);
        let reply = server.http().post_text("/api/command", command).await;
        assert_eq!(reply.json()["ok"], false, "{}", reply.text);
    }
    nothing_was_pushed(&server.http()).await;
}

#[tokio::test]
async fn a_huge_count_costs_nothing() {
    let server = Server::start();
    let http = server.http();
    push(&http, "q", json!(1)).await;
    let before = server.memory_kib();
    for count in [1 << 60, u64::MAX] {
        let dead = get(&http, &format!("/queues/q/dlq?count={count}")).await;
        assert_eq!(dead, json!([]));
        let listed = get(&http, &format!("/jobs?queue=q&limit={count}")).await;
        assert_eq!(listed["total"], 1, "{listed}");
        let beyond = http.get(&format!("/jobs?queue=q&offset={count}")).await;
        assert!(beyond.status < 500, "{}", beyond.text);
        let jobs = get(&http, &format!("/queues/q/jobs?count={count}&timeout=10")).await;
        assert!(jobs.as_array().unwrap().len() <= 1, "{jobs}");
    }
    let grown = server.memory_kib().saturating_sub(before);
    assert!(grown < 16 * 1024, "memory grew by {grown} KiB");
    assert_eq!(http.get("/health/ready").await.status, 200);
}

/// A command by itself is answered as over TCP: by what it says, not by the status.
#[tokio::test]
async fn a_command_that_is_refused_is_an_answer() {
    let server = Server::start();
    for (command, words) in [
        (json!({ "cmd": "NOSUCH" }), "invalid"),
        (json!({ "cmd": "ACK", "id": 999_999_999 }), "not found"),
        (json!({ "cmd": "PUSH", "data": 1 }), "missing field `queue`"),
        (json!({ "cmd": "PULL", "queue": 7 }), "invalid"),
        (json!({ "queue": "q" }), "cmd"),
        (json!([1]), "invalid"),
    ] {
        let told = server.http().post("/api/command", command.clone()).await.json();
        let error = told["error"].as_str().unwrap_or_default().to_lowercase();
        assert_eq!((&told["ok"], &told["success"]), (&json!(false), &json!(false)), "{told}");
        assert!(error.contains(words), "{command}: {told}");
    }
    let told = server.http().post_text("/api/command", "no json").await;
    assert_eq!((told.status, &told.json()["ok"]), (200, &json!(false)), "{}", told.text);
    let marked = json!({ "cmd": "PING", "reqId": "a-1" });
    let reply = server.http().post("/api/command", marked).await;
    assert_eq!((reply.status, &reply.json()["reqId"]), (200, &json!("a-1")));
}

/// Both have these paths: who says JSON is a client of flashQ's, who says nothing is ours.
#[tokio::test]
async fn health_and_metrics_are_ours_unless_they_are_asked_for_as_json() {
    let server = Server::start();
    let http = server.http();
    let ours = http.get("/health").await;
    assert!(ours.json()["is_leader"].is_boolean(), "{}", ours.text);
    assert!(ours.json().get("ok").is_none(), "{}", ours.text);
    let ours = http.get("/metrics").await;
    assert!(ours.text.contains("\nbatonq_waiting_pulls"), "{}", ours.text);
    assert_eq!(get(&http, "/health").await["status"], "healthy");
    assert!(get(&http, "/metrics").await["queues"].is_array());
}

#[tokio::test]
async fn prometheus_is_told_in_its_words() {
    let server = Server::start();
    let http = server.http();
    push(&http, "q", json!(1)).await;
    let reply = http.get("/metrics/prometheus").await;
    let kind = reply.headers["content-type"].to_str().unwrap();
    assert!(reply.status == 200 && kind.starts_with("text/plain"), "{kind}: {}", reply.text);
    for (name, kind) in [
        ("flashq_jobs_pushed_total", "counter"),
        ("flashq_jobs_completed_total", "counter"),
        ("flashq_jobs_failed_total", "counter"),
        ("flashq_jobs_current", "gauge"),
        ("flashq_throughput_per_second", "gauge"),
        ("flashq_latency_ms", "gauge"),
        ("flashq_queue_jobs", "gauge"),
        ("flashq_workers_active", "gauge"),
    ] {
        let announced = format!("# TYPE {name} {kind}\n");
        assert_eq!(reply.text.matches(&announced).count(), 1, "{name}: {}", reply.text);
        assert!(reply.text.contains(&format!("\n{name}")), "{name}: {}", reply.text);
    }
    let pending = ["queue=\"q\"", "state=\"pending\""];
    let mut lines = reply.text.lines();
    let line = lines.find(|line| pending.iter().all(|part| line.contains(part)));
    assert!(line.is_some_and(|line| line.ends_with(" 1")), "{}", reply.text);
}
