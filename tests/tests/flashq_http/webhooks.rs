//! Webhooks as flashQ's clients make them and as their receivers know them.

use std::sync::Arc;

use batonq_tests::harness::{Cluster, Http, Known, Postgres, Received, Receiver, Server};
use hmac::{Hmac, KeyInit, Mac};
use hyper::Method;
use serde_json::{Value, json};
use sha2::Sha256;

use crate::{JSON, assert_told, delete, fail_for_good, get, live_a_life, post, pull, push};

const SECRET: &str = "not to be told to anybody";

/// A server that may tell receivers on this machine.
fn insecure() -> Server {
    Server::with().env("BATONQ_WEBHOOKS_INSECURE", "1").start()
}

async fn hook(http: &Http, more: Value, receiver: &Receiver) -> String {
    let mut body = more;
    body["url"] = receiver.url().into();
    let id = post(http, "/webhooks", body).await;
    let id = id.as_str().expect("the id is a text").to_owned();
    assert!(id.starts_with("wh_"), "{id}");
    id
}

fn signature(received: &Received, secret: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(&received.body);
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn delivery(event: &str, queue: &str, id: u64, data: Value, error: Value) -> Value {
    json!({ "event": event, "queue": queue, "job_id": id, "timestamp": "time", "data": data,
        "error": error })
}

#[tokio::test]
async fn a_receiver_gets_what_it_knows_and_can_tell_who_sent_it() {
    let server = insecure();
    let http = server.http();
    let mut receiver = Receiver::start().await;
    let events = ["pushed", "partial", "completed", "failed"];
    hook(&http, json!({ "events": events, "secret": SECRET }), &receiver).await;
    let id = live_a_life([&http; 3], "q").await;
    let failed = fail_for_good(&http, "f").await;
    let chunk = json!({ "chunk": { "token": "a" }, "index": 0 });
    let expected = [
        delivery("pushed", "q", id, json!({ "n": 1 }), Value::Null),
        delivery("partial", "q", id, chunk, Value::Null),
        delivery("completed", "q", id, json!({ "sum": 3 }), Value::Null),
        delivery("pushed", "f", failed, json!(1), Value::Null),
        delivery("failed", "f", failed, Value::Null, json!("boom")),
    ];
    let mut told = Vec::new();
    for _ in &expected {
        let received = receiver.next().await;
        assert_eq!(received.header("x-flashq-signature"), signature(&received, SECRET));
        assert_ne!(received.header("x-flashq-signature"), signature(&received, "another"));
        assert_eq!(received.header("content-type"), "application/json");
        told.push(received.event());
    }
    // Deliveries may overtake each other; each is as it has to be.
    for expected in expected {
        let is_it = |told: &&Value| {
            (&told["event"], &told["job_id"]) == (&expected["event"], &expected["job_id"])
        };
        let told = told.iter().find(is_it).unwrap_or_else(|| panic!("no {expected}"));
        assert_told(&[expected], std::slice::from_ref(told));
    }
}

#[tokio::test]
async fn a_webhook_without_a_secret_is_not_signed() {
    let server = insecure();
    let mut receiver = Receiver::start().await;
    hook(&server.http(), json!({ "events": ["*"] }), &receiver).await;
    let id = push(&server.http(), "q", json!("x")).await;
    let received = receiver.next().await;
    assert!(received.headers.get("x-flashq-signature").is_none());
    assert_told(&[delivery("pushed", "q", id, json!("x"), Value::Null)], &[received.event()]);
}

#[tokio::test]
async fn a_webhook_is_told_what_it_asks_for_of_its_queue() {
    let server = insecure();
    let http = server.http();
    let mut receiver = Receiver::start().await;
    hook(&http, json!({ "events": ["completed"], "queue": "mine" }), &receiver).await;
    live_a_life([&http; 3], "other").await;
    let id = push(&http, "mine", json!(1)).await;
    pull(&http, "mine").await;
    post(&http, &format!("/jobs/{id}/ack"), json!({})).await;
    let told = receiver.next().await.event();
    assert_told(&[delivery("completed", "mine", id, Value::Null, Value::Null)], &[told]);
    assert!(receiver.rest().is_empty());
}

#[tokio::test]
async fn webhooks_are_listed_without_secrets_and_those_of_ours_are_not_among_them() {
    let server = insecure();
    let http = server.http();
    let receiver = Receiver::start().await;
    let wanted = json!({ "events": ["completed", "failed"], "queue": "q", "secret": SECRET });
    let id = hook(&http, wanted, &receiver).await;
    let ours = json!({ "url": "https://example.com/", "secret": SECRET }).to_string();
    let made = http.send(Method::PUT, "/v1/webhooks/ours", Some(ours.into()), &[JSON]).await;
    assert_eq!(made.status, 201, "{}", made.text);
    let reply = http.get("/webhooks").await;
    assert!(!reply.text.contains(SECRET), "{}", reply.text);
    let expected = json!([{ "id": id, "url": receiver.url(), "events": ["completed", "failed"],
        "queue": "q", "created_at": "time" }]);
    let listed = &reply.json()["data"];
    Known::default().compare(&expected, listed).unwrap_or_else(|what| panic!("{what}: {listed}"));
    // Ours can not be deleted by that way either.
    assert_eq!(delete(&http, "/webhooks/ours").await, json!(false));
    assert_eq!(delete(&http, &format!("/webhooks/{id}")).await, json!(true));
    assert_eq!(delete(&http, &format!("/webhooks/{id}")).await, json!(false));
    assert_eq!(get(&http, "/webhooks").await, json!([]));
    assert_eq!(http.get("/v1/webhooks/ours").await.status, 200);
}

#[tokio::test]
async fn webhooks_are_the_same_at_every_node() {
    let settings = [("BATONQ_WEBHOOKS_INSECURE", "1")];
    let cluster = Cluster::on(Arc::new(Postgres::start()), 3, &settings).await;
    let nodes = [0, 1, 2].map(|place| cluster.http(place));
    let mut receiver = Receiver::start().await;
    let id = hook(&nodes[0], json!({ "events": ["completed"] }), &receiver).await;
    for node in &nodes {
        let listed = get(node, "/webhooks").await;
        assert_eq!(listed[0]["id"], id.as_str(), "{listed}");
    }
    let job = live_a_life([&nodes[1], &nodes[2], &nodes[0]], "q").await;
    let told = receiver.next().await.event();
    assert_told(&[delivery("completed", "q", job, json!({ "sum": 3 }), Value::Null)], &[told]);
    assert_eq!(delete(&nodes[2], &format!("/webhooks/{id}")).await, json!(true));
    assert_eq!(get(&nodes[1], "/webhooks").await, json!([]));
}

/// What others send becomes a job as it is.
#[tokio::test]
async fn whatever_comes_in_is_the_data_of_a_job() {
    let server = Server::start();
    let http = server.http();
    for body in
        [json!({ "cmd": "PUSH", "queue": "x" }), json!([1, "two"]), json!("text"), Value::Null]
    {
        let job = post(&http, "/webhooks/incoming/in", body.clone()).await;
        assert_eq!((&job["queue"], &job["data"]), (&json!("in"), &body));
        let pulled = pull(&http, "in").await;
        assert_eq!((&pulled["id"], &pulled["data"]), (&job["id"], &body));
    }
    let text = r#"{"b": 1, "a": [1.50, 9007199254740993]}"#;
    http.post_text("/webhooks/incoming/in", text).await;
    let pulled = http.get("/queues/in/jobs?count=1&timeout=10000").await;
    assert!(pulled.text.contains("9007199254740993"), "{}", pulled.text);
}
