//! What can be seen of a node from outside.

use batonq_client::{NewJob, PullOptions};
use batonq_tests::harness::Server;
use serde_json::json;

#[tokio::test]
async fn health_says_who_and_how() {
    let server = Server::with().env("NODE_ID", "node-7").start();
    let health = server.http().get("/health").await;
    let body = health.json();
    assert_eq!(health.status, 200);
    assert_eq!((&body["status"], &body["node_id"]), (&json!("healthy"), &json!("node-7")));
    assert_eq!(body["is_leader"], true);
    assert!(body["uptime_seconds"].is_u64());
    for path in ["/health/live", "/health/ready"] {
        let reply = server.http().get(path).await;
        assert_eq!((reply.status, reply.json()), (200, json!({ "status": "ok" })), "{path}");
    }
}

#[tokio::test]
async fn metrics_and_stats_follow_what_happens() {
    let server = Server::start();
    let client = server.client().await;
    let jobs = (0..10).map(|_| NewJob::new("m", "{}")).collect();
    client.push_batch(jobs).await.unwrap();
    let jobs = client.pull(PullOptions::new("m").count(4)).await.unwrap();
    client.ack(&jobs[0]).await.unwrap();
    let reply = server.http().get("/metrics").await;
    assert!(reply.headers["content-type"].to_str().unwrap().starts_with("text/plain"));
    for line in [
        "batonq_jobs_total{event=\"pushed\"} 10",
        "batonq_jobs_total{event=\"claimed\"} 4",
        "batonq_jobs_total{event=\"acked\"} 1",
        "batonq_queue_jobs{queue=\"m\",state=\"ready\"} 6",
        "batonq_queue_jobs{queue=\"m\",state=\"leased\"} 3",
        "batonq_queue_jobs{queue=\"m\",state=\"completed\"} 1",
        "batonq_operation_seconds_count{operation=\"push\"} 1",
        "batonq_commit_items_sum{operation=\"push\"} 10",
        "batonq_connections{transport=\"tcp\"} 1",
        "batonq_queue_oldest_ready_seconds{queue=\"m\"}",
        "batonq_duty_last_success_timestamp_seconds{duty=\"due\"}",
    ] {
        assert!(reply.text.contains(line), "{line} is not in\n{}", reply.text);
    }
    let stats = server.http().get("/v1/stats").await.json();
    assert_eq!((&stats["pushed"], &stats["acked"]), (&json!(10), &json!(1)));
    assert!(stats["push_ms"]["p99"].as_f64().unwrap() > 0.0);
    let workers = server.http().get("/v1/workers").await.json();
    assert_eq!(workers["workers"][0]["name"], "test");
}

#[tokio::test]
async fn the_description_is_of_the_version_that_answers() {
    let server = Server::start();
    let description = server.http().get("/openapi.json").await.json();
    assert_eq!(description["openapi"], "3.1.0");
    let push = &description["paths"]["/v1/queues/{queue}/jobs"]["post"];
    assert_eq!(push["x-role"], "produce");
    let body = &push["requestBody"]["content"]["application/json"]["schema"]["$ref"];
    assert_eq!(body, "#/components/schemas/NewJobBody");
    let fields = &description["components"]["schemas"]["NewJobBody"]["properties"];
    assert!(fields["max_attempts"].is_object());
}

#[tokio::test]
async fn logs_are_json_if_asked_for() {
    let server = Server::with().env("BATONQ_LOG_FORMAT", "json").start();
    let started = batonq_tests::harness::eventually("it says so", async || {
        let log = server.log();
        log.lines().find(|line| line.contains("\"started\"")).map(str::to_owned)
    });
    let line: serde_json::Value = serde_json::from_str(&started.await).unwrap();
    assert_eq!(line["message"], "started");
    assert!(line["tcp"].is_string());
}

#[tokio::test]
async fn a_request_can_be_found_in_the_log_by_its_id() {
    let server = Server::with().env("BATONQ_LOG", "debug").start();
    let headers = [("x-request-id", "find-me-42")];
    server.http().send(hyper::Method::GET, "/v1/jobs/999", None, &headers).await;
    let client = server.client().await;
    client.job(999).await.unwrap_err();
    batonq_tests::harness::eventually("both are there", async || {
        let log = server.log();
        let over_http = log.contains("find-me-42");
        let over_tcp = log.lines().any(|line| {
            line.contains("conn{address=127.0.0.1") && line.contains("request{request_id=")
        });
        (over_http && over_tcp).then_some(())
    })
    .await;
}

#[tokio::test]
async fn http_can_be_turned_off() {
    let server = Server::with().env("HTTP", "0").start();
    assert!(server.client().await.queues().await.unwrap().is_empty());
    assert!(!server.log().contains("http=\"127"), "{}", server.log());
}

#[tokio::test]
async fn a_node_that_is_stopping_says_so_and_lets_running_jobs_end() {
    let server = Server::start();
    let client = server.client().await;
    client.push(NewJob::new("q", "{}")).await.unwrap();
    let mut subscription = client.subscribe("q", 1).await.unwrap();
    let job = subscription.next().await.unwrap();
    let waiting = {
        let http = server.http();
        tokio::spawn(
            async move { http.post("/v1/queues/q/pull", json!({ "wait_ms": 60_000 })).await },
        )
    };
    batonq_tests::harness::eventually("the pull waits", async || {
        let metrics = server.http().get("/metrics").await.text;
        metrics.contains("batonq_connections{transport=\"http\"} 2").then_some(())
    })
    .await;
    server.signal("-TERM");
    // A pull that waits is answered at once.
    assert_eq!(waiting.await.unwrap().json(), json!({ "jobs": [] }));
    client.ack(&job).await.expect("a running job may still be acked");
}

#[tokio::test]
async fn more_jobs_than_a_duty_does_at_once_become_due_without_a_pause() {
    let server = Server::start();
    let client = server.client().await;
    let count = 3 * batonq_server::store::DUTY_ROWS_MAX;
    let delay = std::time::Duration::from_millis(300);
    for jobs in vec![NewJob::new("due", "{}").delay(delay); count].chunks(500) {
        client.push_batch(jobs.to_vec()).await.unwrap();
    }
    batonq_tests::harness::eventually("all are ready", async || {
        let queue = client.queue("due").await.unwrap();
        (queue.ready == count as u64).then_some(())
    })
    .await;
}
