//! What the pages for people ask one node, from a browser, and what they are to be told.

use batonq_tests::harness::Server;
use serde_json::{Value, json};

use crate::{Step, pull, push, step};

pub(crate) const ALL: &[fn() -> Vec<Step>] = &[one_job, failures, queues, pages, what_is_not_there];

fn one_job() -> Vec<Step> {
    let id = || json!({ "id": "$a" });
    vec![
        step(
            "PUSH",
            json!({ "queue": "q", "data": { "n": 1 }, "priority": 2 }),
            json!({ "data": { "id": "$a", "priority": 2 } }),
        ),
        step(
            "GETJOBS",
            json!({ "queue": "q", "limit": 50 }),
            json!({ "data": [{ "id": "$a", "queue": "q", "state": "waiting", "priority": 2 }] }),
        ),
        step("GETSTATE", id(), json!({ "data": "waiting" })),
        step(
            "PULL",
            json!({ "queue": "q", "count": 1, "timeout": 10_000 }),
            json!({ "data": [{ "id": "$a" }] }),
        ),
        step("PULL", json!({ "queue": "q", "count": 1, "timeout": 50 }), json!({ "data": [] })),
        step("PROGRESS", json!({ "id": "$a", "progress": 40, "message": "some" }), json!({})),
        step("GETPROGRESS", id(), json!({ "data": [40, "some"] })),
        step("ACK", json!({ "id": "$a", "result": [1] }), json!({})),
        step("GETRESULT", id(), json!({ "data": [1] })),
        step(
            "GETJOB",
            id(),
            json!({ "data": { "id": "$a", "state": "completed", "result": [1],
                "created_at": "time", "attempts": "number", "max_attempts": "number" } }),
        ),
    ]
}

fn failures() -> Vec<Step> {
    vec![
        step(
            "PUSH",
            json!({ "queue": "f", "data": 1, "max_attempts": 1 }),
            json!({ "data": { "id": "$f" } }),
        ),
        step(
            "PULL",
            json!({ "queue": "f", "timeout": 10_000 }),
            json!({ "data": [{ "id": "$f" }] }),
        ),
        step("FAIL", json!({ "id": "$f", "error": "boom" }), json!({})),
        step(
            "GETJOB",
            json!({ "id": "$f" }),
            json!({ "data": { "state": "failed", "error": "boom" } }),
        ),
        step("DLQ", json!({ "queue": "f" }), json!({ "data": [{ "id": "$f" }] })),
        step("RETRYDLQ of one", json!({ "queue": "f", "job_id": "$f" }), json!({ "data": 1 })),
        step("RETRYDLQ", json!({ "queue": "f" }), json!({ "data": 0 })),
        step("DISCARD", json!({ "id": "$f" }), json!({})),
        step("RETRYDLQ", json!({ "queue": "f" }), json!({ "data": 1 })),
        step("CANCEL", json!({ "id": "$f" }), json!({})),
        step("CANCEL", json!({ "id": "$f" }), json!({ "error": "~cancel" })),
    ]
}

fn queues() -> Vec<Step> {
    let queue = || json!({ "queue": "p" });
    let listed = |queue: Value| json!({ "data": { "@has": queue } });
    vec![
        step(
            "PUSH",
            json!({ "queue": "p", "data": 1, "delay": 60_000 }),
            json!({ "data": { "id": "$p" } }),
        ),
        step("PAUSE", queue(), json!({})),
        step("RATELIMIT", json!({ "queue": "p", "limit": 9 }), json!({})),
        step("SETCONCURRENCY", json!({ "queue": "p", "limit": 2 }), json!({})),
        step(
            "LISTQUEUES",
            json!({}),
            listed(json!({ "name": "p", "paused": true, "pending": "number", "delayed": 1,
                "processing": 0, "completed": 0, "dlq": 0, "rate_limit": 9 })),
        ),
        step("RESUME", queue(), json!({})),
        step("RATELIMITCLEAR", queue(), json!({})),
        step("CLEARCONCURRENCY", queue(), json!({})),
        step("PROMOTE", json!({ "id": "$p" }), json!({})),
        step("CHANGEPRIORITY", json!({ "id": "$p", "priority": 3 }), json!({})),
        step("MOVETODELAYED", json!({ "id": "$p", "delay": 5 }), json!({ "error": "~job" })),
        step(
            "CLEAN",
            json!({ "queue": "p", "grace": 0, "state": "waiting" }),
            json!({ "data": 1 }),
        ),
        step("DRAIN", queue(), json!({ "data": 0 })),
        step("OBLITERATE", queue(), json!({ "data": "number" })),
    ]
}

fn pages() -> Vec<Step> {
    let cron = json!({ "name": "n", "queue": "s", "schedule": "0 0 1 1 *", "enabled": true });
    let alive = json!({ "id": "w 1", "queues": ["q"], "concurrency": 4, "jobs_processed": 7 });
    let worker = json!({ "id": "w 1", "queues": ["q"], "concurrency": 4, "jobs_processed": 7,
        "last_heartbeat": "time" });
    vec![
        step("CRON", cron, json!({})),
        step(
            "CRONLIST",
            json!({}),
            json!({ "data": [{ "name": "n", "queue": "s", "schedule": "0 0 1 1 *" }] }),
        ),
        step("CRONDELETE", json!({ "name": "n" }), json!({ "data": true })),
        step("WORKERS", json!({}), json!({ "data": [] })),
        step("WORKERHEARTBEAT", alive, json!({})),
        step("WORKERS", json!({}), json!({ "data": [worker] })),
        step("WEBHOOKS", json!({}), json!({ "data": [] })),
        step(
            "STATS",
            json!({}),
            json!({ "data": { "queued": "number", "processing": "number",
            "delayed": "number", "dlq": "number", "completed": "number" } }),
        ),
        step(
            "METRICS",
            json!({}),
            json!({ "data": { "total_pushed": "number",
            "total_completed": "number", "total_failed": "number", "jobs_per_second": "number",
            "avg_latency_ms": "number", "queues": "any" } }),
        ),
        step("METRICSHISTORY", json!({}), json!({ "data": "any" })),
        step("HEALTH", json!({}), json!({ "data": { "status": "healthy" } })),
        step("SYSTEMMETRICS", json!({}), json!({ "data": { "memory_used_mb": "number" } })),
        step(
            "SETTINGS",
            json!({}),
            json!({ "data": { "version": "any", "tcp_port": "number", "http_port": "number",
                "sqlite": { "enabled": true }, "s3_backup": { "enabled": false },
                "auth_enabled": false, "auth_token_count": 0, "uptime_seconds": "number" } }),
        ),
    ]
}

/// It says so, and does nothing.
fn what_is_not_there() -> Vec<Step> {
    let absent = || json!({ "error": "any" });
    vec![
        step("S3BACKUPS", json!({}), absent()),
        step("SQLITESTATS", json!({}), absent()),
        step("CLEARQUEUES", json!({}), absent()),
        step("SHUTDOWN", json!({}), absent()),
        step("SAVEAUTH", json!({ "tokens": "a,b" }), absent()),
        step("GETSTATE", json!({ "id": 999_999_999 }), json!({ "data": "unknown" })),
        step(
            "GETJOB",
            json!({ "id": 999_999_999 }),
            json!({ "data": { "job": null, "state": "unknown", "result": null } }),
        ),
        step("GETJOBS", json!({ "queue": "nothing" }), json!({ "data": [] })),
    ]
}

/// Whoever asks by hand says nothing of JSON, and is answered as flashQ itself answers.
#[tokio::test]
async fn without_the_marks_of_a_client_answers_are_plain() {
    let server = Server::start();
    let http = server.http();
    let id = push(&http, "q", json!(1)).await;
    let children = json!([{ "queue": "c", "data": 1 }]);
    let flow = http.post("/queues/p/flow", json!({ "data": 0, "children": children })).await.json();
    let (parent, child) = (&flow["data"]["parent_id"], &flow["data"]["children_ids"][0]);
    pull(&http, "q").await;
    for (path, expected) in [
        (format!("/jobs/{id}/state"), json!("active")),
        (format!("/jobs/{id}/progress"), json!([0, null])),
        (format!("/jobs/{id}/result"), json!(null)),
        ("/queues/q/paused".into(), json!(false)),
        ("/queues/q/count".into(), json!(0)),
        (
            format!("/jobs/{parent}/children"),
            json!({ "children": [child], "completed": 0, "total": 1 }),
        ),
    ] {
        let reply = http.get(&path).await;
        let told = reply.json();
        assert_eq!((&told["ok"], &told["data"]), (&json!(true), &expected), "{path}: {told}");
    }
    let listed = http.get("/jobs?queue=q").await.json();
    assert_eq!(listed["data"][0]["id"], id, "{listed}");
}
