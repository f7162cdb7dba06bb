//! Why a job does not run: the same over HTTP, over TCP and on the command line.

use std::time::Duration;

use batonq_client::{Client, NewJob, PullOptions};
use batonq_tests::harness::cluster::push;
use batonq_tests::harness::{Cluster, Http, Server, eventually};
use serde_json::{Value, json};

async fn explained(http: &Http, id: u64) -> Vec<Value> {
    let reply = http.get(&format!("/v1/jobs/{id}/explain")).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()["causes"].as_array().expect("a list").clone()
}

fn codes(causes: &[Value]) -> Vec<&str> {
    causes.iter().map(|cause| cause["code"].as_str().expect("a code")).collect()
}

fn cause<'a>(causes: &'a [Value], code: &str) -> &'a Value {
    let found = causes.iter().find(|cause| cause["code"] == code);
    found.unwrap_or_else(|| panic!("no {code} in {causes:?}"))
}

/// A worker that waits for jobs of a queue which may not give any out.
async fn waiting_worker(server: &Server, queue: &str) -> Client {
    let client = server.client_named("ada").await;
    let (puller, queue) = (client.clone(), queue.to_owned());
    tokio::spawn(async move {
        let wait = PullOptions::new(queue).wait(Duration::from_secs(30));
        puller.pull(wait).await.ok();
    });
    client
}

#[tokio::test]
async fn a_paused_queue_is_told_first_then_that_nobody_pulls() {
    let server = Server::start();
    let http = server.http();
    let id = push(&http, "q", json!(1)).await;
    let causes = explained(&http, id).await;
    assert_eq!(codes(&causes), ["NO_PULLER"]);
    assert!(causes[0]["detail"].as_str().unwrap().contains("nobody has pulled from queue q"));
    http.post("/v1/queues/q/pause", json!({})).await;
    let causes = explained(&http, id).await;
    assert_eq!(codes(&causes), ["QUEUE_PAUSED", "NO_PULLER"]);
    assert!(causes[0]["who"].as_str().unwrap().starts_with("anyone (127.0.0.1:"));
    assert!(causes[0]["since"].is_string());
    let ada = server.client_named("ada").await;
    ada.resume("q").await.unwrap();
    ada.pause("q").await.unwrap();
    let causes = explained(&http, id).await;
    assert!(causes[0]["who"].as_str().unwrap().starts_with("ada (127.0.0.1:"), "{causes:?}");
}

#[tokio::test]
async fn whoever_pulls_is_seen_and_so_is_that_they_have_gone() {
    let server = Server::start();
    let http = server.http();
    http.post("/v1/queues/q/pause", json!({})).await;
    let id = push(&http, "q", json!(1)).await;
    let client = waiting_worker(&server, "q").await;
    eventually("the pull is seen", async || {
        (codes(&explained(&http, id).await) == ["QUEUE_PAUSED"]).then_some(())
    })
    .await;
    drop(client);
    let empty = http.post("/v1/queues/other/pull", json!({"count": 1})).await;
    assert_eq!(empty.status, 200);
    let other = push(&http, "other", json!(1)).await;
    let causes = explained(&http, other).await;
    assert_eq!((codes(&causes), causes[0]["count"].as_u64()), (vec!["NO_PULLER"], Some(0)));
    assert!(causes[0]["since"].is_string() && causes[0]["node"].is_string(), "{causes:?}");
}

#[tokio::test]
async fn workers_without_credit_are_busy() {
    let server = Server::start();
    let (http, client) = (server.http(), server.client_named("ada").await);
    let mut jobs = client.subscribe("q", 1).await.unwrap();
    push(&http, "q", json!(1)).await;
    let held = jobs.next().await.expect("a job");
    let id = push(&http, "q", json!(2)).await;
    eventually("its worker is busy", async || {
        (codes(&explained(&http, id).await) == ["WORKERS_BUSY"]).then_some(())
    })
    .await;
    let causes = explained(&http, held.id.0).await;
    assert_eq!((codes(&causes), &causes[0]["who"]), (vec!["LEASED"], &json!("ada")));
}

#[tokio::test]
async fn times_keys_rates_and_lines_are_told_with_their_numbers() {
    let server = Server::start();
    let http = server.http();
    let later = http.post("/v1/queues/q/jobs", json!({"payload": 1, "delay_ms": 3_600_000})).await;
    let causes = explained(&http, later.json()["id"].as_u64().unwrap()).await;
    assert_eq!(codes(&causes), ["SCHEDULED", "NO_PULLER"]);
    assert!(
        causes[0]["until"].is_string()
            && causes[0]["detail"].as_str().unwrap().contains("in 59 min")
    );
    let keyed = json!({
        "payload": 1, "concurrency": {"key": "k", "max": 1},
        "rate": {"key": "r", "limit": 1, "per_ms": 3_600_000, "burst": 1},
    });
    let mut ids = Vec::new();
    for _ in 0..3 {
        let pushed = http.post("/v1/queues/q/jobs", keyed.clone()).await.json();
        ids.push(pushed["id"].as_u64().unwrap());
    }
    http.post("/v1/queues/q/pull", json!({"count": 1, "worker": "bob"})).await;
    let causes = explained(&http, ids[2]).await;
    assert_eq!(codes(&causes), ["KEY_FULL", "KEY_RATE", "NO_PULLER", "BEHIND"]);
    assert_eq!(causes[0]["jobs"], json!([{"id": ids[0], "state": "leased"}]));
    assert_eq!((&causes[0]["key"], &causes[0]["limit"]), (&json!("k"), &json!(1)));
    assert_eq!(causes[1]["key"], "r");
    assert!(causes[1]["until"].is_string());
    assert_eq!(causes[3]["count"], 1);
}

#[tokio::test]
async fn a_job_that_waits_for_ever_says_so() {
    let server = Server::start();
    let http = server.http();
    let need = push(&http, "q", json!(1)).await;
    let body = json!({"payload": 2, "depends_on": [need], "on_failure": "wait"});
    let id = http.post("/v1/queues/q/jobs", body).await.json()["id"].as_u64().unwrap();
    let causes = explained(&http, id).await;
    let blocked = cause(&causes, "BLOCKED");
    assert_eq!(blocked["jobs"], json!([{"id": need, "state": "ready"}]));
    http.post(&format!("/v1/jobs/{need}/cancel"), json!({})).await;
    let causes = explained(&http, id).await;
    assert_eq!(codes(&causes)[0], "BLOCKED_FOREVER");
    assert_eq!(causes[0]["jobs"], json!([{"id": need, "state": "cancelled"}]));
}

#[tokio::test]
async fn what_has_ended_says_how_and_why() {
    let server = Server::start();
    let http = server.http();
    let id = push(&http, "q", json!(1)).await;
    let job = &http.post("/v1/queues/q/pull", json!({"count": 1})).await.json()["jobs"][0];
    let error = json!({"code": "BAD", "message": "no use"});
    let fail = json!({"lease": job["lease"], "error": error, "reject": true});
    http.post(&format!("/v1/jobs/{id}/fail"), fail).await;
    let causes = explained(&http, id).await;
    assert_eq!(codes(&causes), ["DEAD"]);
    let detail = causes[0]["detail"].as_str().unwrap();
    assert!(detail.contains("REJECTED") && detail.contains("BAD: no use"), "{detail}");
    assert_eq!(http.get("/v1/jobs/99/explain").await.status, 404);
}

#[tokio::test]
async fn the_client_and_the_command_line_say_the_same() {
    let server = Server::start();
    let client = server.client().await;
    let id = client.push(NewJob::new("q", "1")).await.unwrap().id;
    let explanation = client.explain(id).await.unwrap();
    assert_eq!(explanation.causes[0].code, "NO_PULLER");
    assert_eq!(explanation.job.unwrap().id, id.0);
    let said = server.command(&["explain", &id.to_string()]).output().unwrap();
    let text = String::from_utf8(said.stdout).unwrap();
    assert!(said.status.success() && text.contains("NO_PULLER"), "{text}");
    let said = server.command(&["-o", "json", "explain", &id.to_string()]).output().unwrap();
    let value: Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!(value["causes"][0]["code"], "NO_PULLER");
}

#[tokio::test]
async fn a_pull_on_one_node_is_seen_by_the_others() {
    let cluster = Cluster::of(2).await;
    let http = cluster.http(1);
    http.post("/v1/queues/q/pause", json!({})).await;
    let id = push(&http, "q", json!(1)).await;
    assert_eq!(codes(&explained(&http, id).await), ["QUEUE_PAUSED", "NO_PULLER"]);
    let _worker = waiting_worker(&cluster.nodes[0], "q").await;
    eventually("the other node has told", async || {
        (codes(&explained(&http, id).await) == ["QUEUE_PAUSED"]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_timeline_tells_of_changes_and_of_those_who_came_too_late() {
    let server = Server::start();
    let http = server.http();
    let pushed = http.post("/v1/queues/q/jobs", json!({"payload": 1, "delay_ms": 3_600_000})).await;
    let id = pushed.json()["id"].as_u64().unwrap();
    http.post(&format!("/v1/jobs/{id}/promote"), json!({})).await;
    let pull = json!({"count": 1, "worker": "bob"});
    let stale = http.post("/v1/queues/q/pull", pull.clone()).await.json()["jobs"][0].clone();
    let body = json!({"lease": stale["lease"]});
    http.post(&format!("/v1/jobs/{id}/release"), body.clone()).await;
    let job = http.post("/v1/queues/q/pull", pull).await.json()["jobs"][0].clone();
    assert_eq!(http.post(&format!("/v1/jobs/{id}/ack"), body).await.status, 409);
    let timeline = async || http.get(&format!("/v1/jobs/{id}/timeline")).await.json();
    let refused = eventually("the refusal is noted", async || {
        let told = timeline().await;
        let events = told["events"].as_array().expect("a list");
        events.iter().find(|event| event["kind"] == "refused").cloned()
    })
    .await;
    assert_eq!((&refused["delivery"], &refused["message"]), (&json!(1), &json!("ack")));
    assert!(refused["who"].as_str().unwrap().starts_with("anyone ("), "{refused}");
    http.post(&format!("/v1/jobs/{id}/ack"), json!({"lease": job["lease"]})).await;
    let told = timeline().await;
    let kinds: Vec<&str> = told["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["kind"].as_str().unwrap())
        .collect();
    let expected = [
        "pushed",
        "promoted",
        "leased",
        "lease_ended",
        "leased",
        "refused",
        "lease_ended",
        "ended",
    ];
    assert_eq!(kinds, expected);
    let (of_client, id) = (server.client().await.timeline(id).await.unwrap(), id.to_string());
    assert_eq!(of_client.events.len(), expected.len());
    let said = server.command(&["timeline", &id]).output().unwrap();
    let text = String::from_utf8(said.stdout).unwrap();
    assert!(text.contains("promoted") && text.contains("refused"), "{text}");
}
