//! What the server for language models asks one node, and what it is to be told.

use serde_json::json;

use crate::{Step, step};

pub(crate) const ALL: &[fn() -> Vec<Step>] = &[one_job, failures, queues, the_rest];

fn one_job() -> Vec<Step> {
    let id = || json!({ "id": "$a" });
    let logs = json!([{ "timestamp": "time", "message": "one", "level": "info" }]);
    vec![
        step(
            "PUSH",
            json!({ "queue": "q", "data": { "n": 1 }, "job_id": "c", "tags": ["t"] }),
            json!({ "data": { "id": "$a", "queue": "q", "custom_id": "c", "tags": ["t"] } }),
        ),
        // How it looks for a job by its name: in all of them.
        step(
            "GETJOBS",
            json!({ "limit": 1000 }),
            json!({ "data": [{ "id": "$a", "custom_id": "c", "state": "waiting" }] }),
        ),
        step(
            "GETJOBS",
            json!({ "queue": "q", "limit": 10 }),
            json!({ "data": { "jobs": [{ "id": "$a", "state": "waiting" }], "total": 1 } }),
        ),
        step("GETSTATE", id(), json!({ "data": { "state": "waiting" } })),
        step("PULL", json!({ "queue": "q", "count": 1 }), json!({ "data": [{ "id": "$a" }] })),
        step("PROGRESS", json!({ "id": "$a", "progress": 40, "message": "some" }), json!({})),
        step("PARTIAL", json!({ "id": "$a", "data": { "token": "x" } }), json!({})),
        step("ADDLOG", json!({ "id": "$a", "message": "one", "level": "info" }), json!({})),
        step("GETLOGS", id(), json!({ "data": logs })),
        step("ACKB", json!({ "ids": ["$a"] }), json!({ "data": 1 })),
        step("GETRESULT", id(), json!({ "data": null })),
        step(
            "GETJOB",
            id(),
            json!({ "data": { "id": "$a", "state": "completed", "data": { "n": 1 } } }),
        ),
        step("WAITJOB", json!({ "id": "$a", "timeout": 1000 }), json!({ "data": null })),
        step("ACK", id(), json!({ "error": "~not found" })),
    ]
}

fn failures() -> Vec<Step> {
    vec![
        step(
            "PUSH",
            json!({ "queue": "f", "data": 1, "max_attempts": 1 }),
            json!({ "data": { "id": "$f" } }),
        ),
        step("PULL", json!({ "queue": "f", "count": 1 }), json!({ "data": [{ "id": "$f" }] })),
        step("FAIL", json!({ "id": "$f", "error": "boom" }), json!({})),
        step("DLQ", json!({ "queue": "f", "count": 100 }), json!({ "data": [{ "id": "$f" }] })),
        step("RETRYDLQ", json!({ "queue": "f", "job_id": "$f" }), json!({ "data": 1 })),
        step("RETRYDLQ", json!({ "queue": "f" }), json!({ "data": 0 })),
        step("MOVETODELAYED", json!({ "id": "$f", "delay": 9 }), json!({ "error": "~job" })),
        step("UPDATEJOB", json!({ "id": "$f", "data": 2 }), json!({})),
        step("CHANGEPRIORITY", json!({ "id": "$f", "priority": 4 }), json!({})),
        step(
            "PULL",
            json!({ "queue": "f", "count": 5 }),
            json!({ "data": [{ "id": "$f", "data": 2, "priority": 4 }] }),
        ),
        step("MOVETODELAYED", json!({ "id": "$f", "delay": 60_000 }), json!({})),
        step("PROMOTE", json!({ "id": "$f" }), json!({})),
        step("DISCARD", json!({ "id": "$f" }), json!({})),
        step("PURGEDLQ", json!({ "queue": "f" }), json!({ "data": 1 })),
    ]
}

fn queues() -> Vec<Step> {
    let queue = || json!({ "queue": "p" });
    let children = json!([{ "queue": "fc", "data": 1 }]);
    vec![
        step("PAUSE", queue(), json!({})),
        step("ISPAUSED", queue(), json!({ "data": true })),
        step("RESUME", queue(), json!({})),
        step("RATELIMIT", json!({ "queue": "p", "limit": 9 }), json!({})),
        step("SETCONCURRENCY", json!({ "queue": "p", "limit": 2 }), json!({})),
        step(
            "LISTQUEUES",
            json!({}),
            json!({ "data": { "@has": { "name": "p", "rate_limit": 9, "concurrency_limit": 2 } } }),
        ),
        step("RATELIMITCLEAR", queue(), json!({})),
        step("CLEARCONCURRENCY", queue(), json!({})),
        step("PUSH", json!({ "queue": "p", "data": 1 }), json!({ "data": { "id": "$p" } })),
        step("COUNT", queue(), json!({ "data": 1 })),
        step("GETJOBCOUNTS", queue(), json!({ "data": { "waiting": 1, "active": 0 } })),
        step("CANCEL", json!({ "id": "$p" }), json!({})),
        step("DRAIN", queue(), json!({ "data": 0 })),
        step(
            "CLEAN",
            json!({ "queue": "p", "grace": 0, "state": "completed", "limit": 10 }),
            json!({ "data": 0 }),
        ),
        step("OBLITERATE", queue(), json!({ "data": "number" })),
        step(
            "FLOW",
            json!({ "queue": "fp", "data": 0, "children": children, "priority": 0 }),
            json!({ "data": { "parent_id": "$0", "children_ids": ["$1"] } }),
        ),
        step("GETCHILDREN", json!({ "id": "$0" }), json!({ "data": [{ "id": "$1" }] })),
    ]
}

fn the_rest() -> Vec<Step> {
    let cron = json!({ "name": "n", "queue": "s", "data": 1, "schedule": "0 0 1 1 *" });
    let hook = json!({ "url": "https://example.com/", "events": ["completed"] });
    vec![
        step("CRONADD", cron, json!({})),
        step("CRONLIST", json!({}), json!({ "data": [{ "name": "n" }] })),
        step("CRONDELETE", json!({ "name": "n" }), json!({ "data": true })),
        step("CRONDELETE", json!({ "name": "n" }), json!({ "data": false })),
        step("STATS", json!({}), json!({ "data": { "queued": "number", "dlq": "number" } })),
        step(
            "METRICS",
            json!({}),
            json!({ "data": { "total_pushed": "number", "queues": "any" } }),
        ),
        step("METRICSHISTORY", json!({}), json!({ "data": "any" })),
        step("HEALTH", json!({}), json!({ "data": { "status": "healthy" } })),
        step("LISTWORKERS", json!({}), json!({ "data": [] })),
        step(
            "SYSTEMMETRICS",
            json!({}),
            json!({ "data": { "memory_used_mb": "number", "memory_total_mb": "number",
                "memory_percent": "number", "cpu_percent": "number", "tcp_connections": "number",
                "uptime_seconds": "number", "process_id": "number" } }),
        ),
        step("CREATEWEBHOOK", hook, json!({ "data": "~wh_" })),
        step(
            "LISTWEBHOOKS",
            json!({}),
            json!({ "data": [{ "id": "~wh_", "url": "https://example.com/",
                "events": ["completed"], "queue": null, "created_at": "time" }] }),
        ),
        step("DELETEWEBHOOK", json!({ "id": "wh_nobody" }), json!({ "data": false })),
    ]
}
