//! What happens, as it happens: seen by those who listen over HTTP.

use std::collections::BTreeMap;
use std::sync::Arc;

use batonq_server::limits::PARTIAL_BYTES_MAX;
use batonq_tests::harness::cluster::{ack, pull, push};
use batonq_tests::harness::flashq::Mode;
use batonq_tests::harness::{Cluster, FlashQ, Http, Live, Postgres, Seen, Server};
use serde_json::{Value, json};

async fn listen(http: &Http, path: &str) -> Live {
    http.listen(path, None).await.expect("a stream")
}

fn kinds(seen: &[Seen]) -> Vec<&str> {
    seen.iter().map(|seen| seen.kind.as_str()).collect()
}

async fn fail(http: &Http, job: &Value) {
    let body = json!({"lease": job["lease"], "error": {"code": "NO", "message": "no"}});
    let failed = http.post(&format!("/v1/jobs/{}/fail", job["id"]), body).await;
    assert_eq!(failed.status, 200, "{}", failed.text);
}

async fn live_a_life(http: &Http) -> u64 {
    let body =
        json!({"payload": 1, "max_attempts": 2, "backoff": {"type": "fixed", "delay_ms": 1}});
    let pushed = http.post("/v1/queues/q/jobs", body).await;
    fail(http, &pull(http, "q", 1, 5_000).await[0]).await;
    let job = &pull(http, "q", 1, 5_000).await[0];
    assert!(ack(http, job).await < 300);
    pushed.json()["id"].as_u64().expect("an id")
}

#[tokio::test]
async fn a_stream_shows_the_life_of_a_job_in_order() {
    let server = Server::start();
    let http = server.http();
    let mut live = listen(&http, "/v1/events").await;
    let id = live_a_life(&http).await;
    let seen = live.take(5).await;
    assert_eq!(kinds(&seen), ["pushed", "leased", "failed", "leased", "completed"]);
    assert!(seen.iter().all(|seen| seen.job() == id && seen.data["queue"] == "q"));
    assert!(seen.is_sorted_by_key(Seen::id));
    assert_eq!(live.last, Some(seen[4].id()));
    assert_eq!((&seen[2].data["code"], &seen[2].data["delivery"]), (&json!("NO"), &json!(1)));
}

#[tokio::test]
async fn a_part_of_a_result_is_shown_as_its_worker_has_handed_it_out() {
    let server = Server::start();
    let mut worker = FlashQ::connect(server.tcp, Mode::Text).await;
    worker.done("PUSH", json!({ "queue": "q", "data": 1 })).await;
    let id = worker.done("PULL", json!({ "queue": "q" })).await["job"]["id"].clone();
    let mut live = listen(&server.http(), "/v1/events?kind=partial").await;
    worker.done("PARTIAL", json!({ "id": id, "data": { "text": "a\nb" }, "index": 3 })).await;
    worker.done("PARTIAL", json!({ "id": id, "data": null })).await;
    let seen = live.take(2).await;
    assert_eq!(kinds(&seen), ["partial", "partial"]);
    assert!(seen.iter().all(|seen| seen.data["job"] == id));
    assert_eq!(
        (&seen[0].data["index"], &seen[0].data["data"]["text"]),
        (&json!(3), &json!("a\nb"))
    );
    assert_eq!((seen[1].data.get("index"), seen[1].data.get("data")), (None, Some(&Value::Null)));
    let large = json!({ "id": id, "data": "x".repeat(PARTIAL_BYTES_MAX) });
    assert_eq!(worker.ask("PARTIAL", large).await["ok"], false);
    let far = json!({ "id": id, "data": 1, "index": 1_u64 << 32 });
    assert_eq!(worker.ask("PARTIAL", far).await["error"], "Invalid: index: more than 32 bits");
    worker.done("ACK", json!({ "id": id })).await;
    let late = worker.ask("PARTIAL", json!({ "id": id, "data": 1 })).await;
    assert!(late["error"].as_str().is_some_and(|error| error.contains("not found")), "{late}");
}

#[tokio::test]
async fn a_stream_shows_what_it_was_asked_for() {
    let server = Server::start();
    let http = server.http();
    let mut other = listen(&http, "/v1/events?queue=other").await;
    let mut ends = listen(&http, "/v1/events?kind=failed,completed").await;
    let id = live_a_life(&http).await;
    let mut of_job = http.listen(&format!("/v1/events?job={id}"), Some(0)).await.expect("a stream");
    let theirs = push(&http, "other", json!(1)).await;
    assert_eq!(other.next().await.expect("an event").job(), theirs);
    assert_eq!(kinds(&ends.take(2).await), ["failed", "completed"]);
    let seen = of_job.take(6).await;
    assert_eq!(seen[0].kind, "missed", "before anybody watched, nothing was recorded");
    assert!(seen[1..].iter().all(|seen| seen.job() == id));
}

#[tokio::test]
async fn a_paused_queue_is_told_of() {
    let server = Server::start();
    let mut live = listen(&server.http(), "/v1/events?queue=q").await;
    server.http().post("/v1/queues/q/pause", json!({})).await;
    server.http().post("/v1/queues/q/resume", json!({})).await;
    assert_eq!(kinds(&live.take(2).await), ["paused", "resumed"]);
}

#[tokio::test]
async fn bad_requests_name_what_is_wrong() {
    let server = Server::start();
    for (path, field) in [
        ("/v1/events?kind=born", "kind"),
        ("/v1/events?queue=a%20b", "queue"),
        ("/v1/events?job=x", "job"),
        ("/v1/events?after=x", "after"),
        ("/v1/events?after=999", "after"),
        ("/v1/events?tags=x", "tags"),
    ] {
        let refused = server.http().get(path).await;
        assert_eq!((refused.status, &refused.json()["field"]), (400, &json!(field)), "{path}");
    }
}

#[tokio::test]
async fn a_node_that_stops_ends_its_streams_and_another_one_goes_on() {
    let mut cluster = Cluster::of(2).await;
    let mut live = listen(&cluster.http(0), "/v1/events").await;
    let first = push(&cluster.http(1), "q", json!(1)).await;
    assert_eq!(live.next().await.expect("an event").job(), first);
    let mut stopping = cluster.nodes.remove(0);
    stopping.signal("-TERM");
    let end = live.next().await.expect("an end");
    assert_eq!((end.kind.as_str(), &end.data["reason"]), ("end", &json!("draining")));
    assert!(live.next().await.is_none());
    assert_eq!(stopping.wait(), 0);
    let second = push(&cluster.http(0), "q", json!(2)).await;
    let mut live = cluster.http(0).listen("/v1/events", live.last).await.expect("a stream");
    let seen = live.next().await.expect("an event");
    assert_eq!((seen.kind.as_str(), seen.job()), ("pushed", second));
}

#[tokio::test]
async fn what_is_committed_late_is_told_first() {
    let cluster = Cluster::of(1).await;
    let http = cluster.http(0);
    let mut live = listen(&http, "/v1/events").await;
    push(&http, "q", json!(0)).await;
    live.next().await.expect("an event");
    let (mut late, connection) =
        tokio_postgres::connect(&cluster.postgres.dsn(), tokio_postgres::NoTls)
            .await
            .expect("a connection");
    tokio::spawn(connection);
    let transaction = late.transaction().await.expect("a transaction");
    let sql = "UPDATE batonq.queue SET paused_at = 1";
    transaction.batch_execute(sql).await.expect("an event of its own");
    for number in 0..50 {
        push(&http, "q", json!(number)).await;
    }
    transaction.commit().await.expect("it is committed");
    let seen = live.take(51).await;
    assert_eq!(seen[0].kind, "paused");
    assert!(seen.is_sorted_by(|one, next| one.id() < next.id()));
}

/// Pushes jobs and completes some. The answer: which were pushed, and how many completed.
async fn work(http: &Http, count: u64) -> (Vec<u64>, usize) {
    let jobs: Vec<Value> = (0..count).map(|number| json!({"payload": number})).collect();
    let pushed = http.post("/v1/queues/q/jobs/batch", json!({"jobs": jobs})).await.json();
    let ids = pushed["results"].as_array().expect("answers");
    let ids = ids.iter().map(|one| one["id"].as_u64().expect("an id")).collect();
    let pulled = pull(http, "q", count, 5_000).await;
    let acks: Vec<Value> =
        pulled.iter().map(|job| json!({"id": job["id"], "lease": job["lease"]})).collect();
    let completed = acks.len();
    let acked = http.post("/v1/ack", json!({"acks": acks})).await;
    assert_eq!(acked.status, 200, "{}", acked.text);
    (ids, completed)
}

/// Listens on one node after the other until so many jobs have been completed.
async fn hear_all(nodes: Vec<Http>, mut last: u64, count: usize) -> Vec<Seen> {
    let mut heard: Vec<Seen> = Vec::new();
    let mut place = 0;
    while heard.iter().filter(|seen| seen.kind == "completed").count() < count {
        place += 1;
        let node = &nodes[place % nodes.len()];
        let Ok(mut live) = node.listen("/v1/events?queue=q", Some(last)).await else {
            tokio::task::yield_now().await;
            continue;
        };
        // Away after some events, or when the node is gone.
        for _ in 0..97 {
            let Some(seen) = live.next().await.filter(|seen| seen.kind != "end") else { break };
            last = live.last.expect("every event has a number");
            heard.push(seen);
            if heard.iter().filter(|seen| seen.kind == "completed").count() == count {
                break;
            }
        }
    }
    heard
}

#[tokio::test]
async fn a_listener_that_goes_from_node_to_node_misses_nothing_and_hears_nothing_twice() {
    let mut cluster = Cluster::on(Arc::new(Postgres::start()), 3, &[]).await;
    let nodes: Vec<Http> = (0..3).map(|place| cluster.http(place)).collect();
    let mut begun = listen(&nodes[0], "/v1/events?queue=q").await;
    push(&nodes[0], "q", json!("first")).await;
    let first = begun.next().await.expect("an event").id();
    drop(begun);
    let listener = tokio::spawn(hear_all(nodes.clone(), first, 1001));
    let (mut ids, mut done) = (Vec::new(), 0);
    for round in 0..20 {
        // Two at once, so that commits overtake each other.
        let (a, b) = tokio::join!(work(&nodes[0], 25), work(&nodes[1], 25));
        ids.extend(a.0.into_iter().chain(b.0));
        done += a.1 + b.1;
        if round == 10 {
            cluster.nodes[2].kill();
        }
    }
    // What one of two pulls has left behind.
    for _ in 0..1001 - done {
        assert!(ack(&nodes[0], &pull(&nodes[0], "q", 1, 10_000).await[0]).await < 300);
    }
    let heard = listener.await.expect("it hears all");
    assert!(heard.is_sorted_by(|one, next| one.id() < next.id()), "in order, and once each");
    let mut lives: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
    for seen in &heard {
        lives.entry(seen.job()).or_default().push(&seen.kind);
    }
    for id in ids {
        assert_eq!(lives[&id], ["pushed", "leased", "completed"], "job {id}");
    }
}
