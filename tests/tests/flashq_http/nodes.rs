//! What is said to three nodes, each time to another one.

use serde_json::{Value, json};

use crate::clients::Client;
use crate::{Step, on};

/// Who says it.
type Said = (Client, fn() -> Vec<Step>);

pub(crate) const ALL: &[Said] = &[
    (Client::TypeScript, jobs),
    (Client::TypeScript, failures),
    (Client::TypeScript, rules),
    (Client::Dashboard, pages),
];

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;

/// Nodes tell each other, or look once a second: well within the time that such a pull waits.
fn pull(queue: &str) -> Value {
    json!({ "queue": queue })
}

fn jobs() -> Vec<Step> {
    let logs = json!([{ "timestamp": "time", "message": "m", "level": "info" }]);
    let id = || json!({ "id": "$a" });
    vec![
        on(A, "PUSH", json!({ "queue": "q", "data": { "n": 1 } }), json!({ "id": "$a" })),
        on(B, "GETSTATE", id(), json!({ "state": "waiting" })),
        on(B, "PULL", pull("q"), json!({ "job": { "id": "$a", "data": { "n": 1 } } })),
        on(C, "PROGRESS", json!({ "id": "$a", "progress": 50, "message": "half" }), json!({})),
        on(A, "GETPROGRESS", id(), json!({ "progress": { "progress": 50, "message": "half" } })),
        on(C, "LOG", json!({ "id": "$a", "message": "m", "level": "info" }), json!({})),
        on(A, "GETLOGS", id(), json!({ "logs": logs })),
        on(A, "HEARTBEAT", id(), json!({})),
        on(C, "ACK", json!({ "id": "$a", "result": "done" }), json!({})),
        on(B, "ACK", id(), json!({ "error": "~not found" })),
        on(B, "GETRESULT", id(), json!({ "result": "done" })),
        on(A, "WAITJOB", json!({ "id": "$a", "timeout": 10_000 }), json!({ "result": "done" })),
        on(
            A,
            "PUSHB",
            json!({ "queue": "q", "jobs": [{ "data": 1 }, { "data": 2 }] }),
            json!({ "ids": ["$b1", "$b2"] }),
        ),
        on(
            B,
            "PULLB",
            json!({ "queue": "q", "count": 2 }),
            json!({ "jobs": [{ "id": "$b1" }, { "id": "$b2" }] }),
        ),
        on(C, "ACKB", json!({ "ids": ["$b1", "$b2"] }), json!({ "count": 2 })),
        on(A, "GETSTATE", json!({ "id": "$b2" }), json!({ "state": "completed" })),
    ]
}

fn failures() -> Vec<Step> {
    let push = json!({ "queue": "f", "data": 1, "max_attempts": 1 });
    let dlq = || json!({ "queue": "f", "count": 100 });
    vec![
        on(A, "PUSH", push, json!({ "id": "$f" })),
        on(B, "PULL", pull("f"), json!({ "job": { "id": "$f", "attempts": 0 } })),
        on(C, "FAIL", json!({ "id": "$f", "error": "boom" }), json!({})),
        on(A, "DLQ", dlq(), json!({ "jobs": [{ "id": "$f", "attempts": 1 }] })),
        on(B, "RETRYDLQ of one", json!({ "queue": "f", "id": "$f" }), json!({ "ids": [1] })),
        on(C, "PULL", pull("f"), json!({ "job": { "id": "$f", "attempts": 0 } })),
        on(A, "FAIL", json!({ "id": "$f" }), json!({})),
        on(C, "RETRYDLQ", json!({ "queue": "f" }), json!({ "ids": [1] })),
        on(A, "PULL", pull("f"), json!({ "job": { "id": "$f" } })),
        on(B, "ACK", json!({ "id": "$f" }), json!({})),
        on(C, "DLQ", dlq(), json!({ "jobs": [] })),
    ]
}

/// What is set at a node holds at all of them.
fn rules() -> Vec<Step> {
    let cron = json!({ "name": "n", "queue": "s", "data": 1, "schedule": "0 0 1 1 *" });
    vec![
        on(A, "PAUSE", json!({ "queue": "p" }), json!({})),
        on(B, "ISPAUSED", json!({ "queue": "p" }), json!({ "paused": true })),
        on(C, "RESUME", json!({ "queue": "p" }), json!({})),
        on(A, "ISPAUSED", json!({ "queue": "p" }), json!({ "paused": false })),
        on(B, "CRON", cron, json!({})),
        on(C, "CRONLIST", json!({}), json!({ "crons": [{ "name": "n" }] })),
        on(A, "CRONDELETE", json!({ "name": "n" }), json!({})),
    ]
}

/// Workers that show a sign of life to one node are seen from all of them.
fn pages() -> Vec<Step> {
    let alive = |id: &str| json!({ "id": id, "queues": ["q"], "concurrency": 2 });
    let again = json!({ "id": "w1", "queues": ["q", "r"], "jobs_processed": 9 });
    let workers = json!([
        { "id": "w1", "queues": ["q", "r"], "jobs_processed": 9 },
        { "id": "w2", "queues": ["q"], "concurrency": 2 },
    ]);
    vec![
        on(A, "WORKERHEARTBEAT", alive("w2"), json!({})),
        on(B, "WORKERHEARTBEAT", alive("w1"), json!({})),
        on(C, "WORKERHEARTBEAT", again, json!({})),
        on(A, "WORKERS", json!({}), json!({ "data": workers })),
        on(B, "WORKERS", json!({}), json!({ "data": workers })),
        on(C, "WORKERS", json!({}), json!({ "data": workers })),
        on(B, "SETTINGS", json!({}), json!({ "data": { "sqlite": { "enabled": false } } })),
    ]
}
