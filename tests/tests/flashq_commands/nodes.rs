//! What is said to three nodes, each time to another one. All of it may be said again.

use serde_json::json;

use crate::{Step, on};

pub(crate) const ALL: &[fn() -> Vec<Step>] =
    &[jobs, failures, shared_rules, keys, groups, dependencies, changes, crons_and_values];

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;

/// How long a pull may take that gets something: nodes tell each other, or look once a second.
const LONG: u64 = 10_000;

fn jobs() -> Vec<Step> {
    let logs = json!([{ "timestamp": "time", "message": "m", "level": "info" }]);
    vec![
        on(A, "PUSH", json!({ "queue": "q", "data": { "n": 1 } }), json!({ "id": "$a" })),
        on(B, "GETSTATE", json!({ "id": "$a" }), json!({ "state": "waiting" })),
        on(B, "PULL", json!({ "queue": "q", "timeout": LONG }), json!({ "job": { "id": "$a" } })),
        on(C, "PROGRESS", json!({ "id": "$a", "progress": 50, "message": "half" }), json!({})),
        on(A, "GETPROGRESS", json!({ "id": "$a" }), json!({ "progress": 50, "message": "half" })),
        on(C, "LOG", json!({ "id": "$a", "message": "m", "level": "info" }), json!({})),
        on(A, "GETLOGS", json!({ "id": "$a" }), json!({ "logs": logs })),
        on(A, "HEARTBEAT", json!({ "id": "$a" }), json!({})),
        on(A, "GETSTATE", json!({ "id": "$a" }), json!({ "state": "active" })),
        on(C, "ACK", json!({ "id": "$a", "result": "done" }), json!({})),
        on(B, "ACK", json!({ "id": "$a" }), json!({ "error": "~not found" })),
        on(B, "GETRESULT", json!({ "id": "$a" }), json!({ "result": "done" })),
        on(A, "WAITJOB", json!({ "id": "$a", "timeout": LONG }), json!({ "result": "done" })),
        on(
            A,
            "PUSHB",
            json!({ "queue": "q", "jobs": [{ "data": 1 }, { "data": 2 }, { "data": 3 }] }),
            json!({ "ids": ["$b1", "$b2", "$b3"] }),
        ),
        on(C, "COUNT", json!({ "queue": "q" }), json!({ "count": 3 })),
        on(
            B,
            "PULLB",
            json!({ "queue": "q", "count": 3, "timeout": LONG }),
            json!({ "jobs": [{ "id": "$b1" }, { "id": "$b2" }, { "id": "$b3" }] }),
        ),
        on(C, "ACKB", json!({ "ids": ["$b1", "$b2", "$b3"] }), json!({ "count": 3 })),
        on(A, "GETSTATE", json!({ "id": "$b3" }), json!({ "state": "completed" })),
    ]
}

fn failures() -> Vec<Step> {
    let pull = || json!({ "queue": "f", "timeout": LONG });
    vec![
        on(A, "PUSH", json!({ "queue": "f", "data": 1, "max_attempts": 2 }), json!({ "id": "$f" })),
        on(B, "PULL", pull(), json!({ "job": { "id": "$f", "attempts": 0 } })),
        on(C, "FAIL", json!({ "id": "$f", "error": "boom" }), json!({})),
        on(A, "PULL", pull(), json!({ "job": { "id": "$f", "attempts": 1 } })),
        on(B, "FAIL", json!({ "id": "$f", "error": "boom" }), json!({})),
        on(C, "DLQ", json!({ "queue": "f" }), json!({ "jobs": [{ "id": "$f", "attempts": 2 }] })),
        on(A, "RETRYDLQ", json!({ "queue": "f" }), json!({ "count": 1 })),
        on(C, "PULL", pull(), json!({ "job": { "id": "$f", "attempts": 0 } })),
        on(A, "ACK", json!({ "id": "$f" }), json!({})),
    ]
}

/// What is set for a queue at a node holds at all of them.
fn shared_rules() -> Vec<Step> {
    let (queue, push) = (|| json!({ "queue": "p" }), || json!({ "queue": "p", "data": 1 }));
    let pull = || json!({ "queue": "p", "timeout": LONG });
    let hasty = || json!({ "queue": "p", "timeout": 100 });
    vec![
        on(A, "PAUSE", queue(), json!({})),
        on(B, "ISPAUSED", queue(), json!({ "paused": true })),
        on(C, "PUSH", push(), json!({ "id": "$p1" })),
        on(B, "PULL", hasty(), json!({ "job": null })),
        on(C, "RESUME", queue(), json!({})),
        on(B, "PULL", pull(), json!({ "job": { "id": "$p1" } })),
        on(A, "SETCONCURRENCY", json!({ "queue": "p", "limit": 1 }), json!({})),
        on(C, "PUSH", push(), json!({ "id": "$p2" })),
        on(A, "PULL", hasty(), json!({ "job": null })),
        on(C, "PULL", hasty(), json!({ "job": null })),
        on(A, "ACK", json!({ "id": "$p1" }), json!({})),
        on(C, "PULL", pull(), json!({ "job": { "id": "$p2" } })),
        on(B, "CLEARCONCURRENCY", queue(), json!({})),
        on(A, "ACK", json!({ "id": "$p2" }), json!({})),
        on(B, "RATELIMIT", json!({ "queue": "p", "limit": 1 }), json!({})),
        on(A, "PUSH", push(), json!({ "id": "$p3" })),
        on(B, "PUSH", push(), json!({ "id": "$p4" })),
        on(C, "PULL", pull(), json!({ "job": { "id": "$p3" } })),
        on(C, "RATELIMITCLEAR", queue(), json!({})),
        on(B, "PULL", pull(), json!({ "job": { "id": "$p4" } })),
        on(C, "ACKB", json!({ "ids": ["$p3", "$p4"] }), json!({ "count": 2 })),
    ]
}

fn keys() -> Vec<Step> {
    let unique = || json!({ "queue": "k", "data": 1, "unique_key": "u" });
    let custom = |queue| json!({ "queue": queue, "data": 1, "job_id": "c" });
    let pull = || json!({ "queue": "k", "timeout": LONG });
    vec![
        on(A, "PUSH", unique(), json!({ "id": "$k1" })),
        on(B, "PUSH", unique(), json!({ "error": "~duplicate" })),
        on(C, "PULL", pull(), json!({ "job": { "id": "$k1" } })),
        on(C, "PUSH", unique(), json!({ "error": "~duplicate" })),
        on(A, "ACK", json!({ "id": "$k1" }), json!({})),
        on(B, "PUSH", unique(), json!({ "id": "$k2" })),
        on(C, "CANCEL", json!({ "id": "$k2" }), json!({})),
        on(A, "PUSH", custom("k"), json!({ "id": "$k3" })),
        on(B, "PUSH", custom("k"), json!({ "id": "$k3" })),
        on(C, "PUSH", custom("k2"), json!({ "id": "$k3" })),
        on(B, "GETJOBBYCUSTOMID", json!({ "job_id": "c" }), json!({ "job": { "id": "$k3" } })),
        on(B, "PULL", pull(), json!({ "job": { "id": "$k3", "custom_id": "c" } })),
        on(C, "ACK", json!({ "id": "$k3" }), json!({})),
        on(A, "GETJOBBYCUSTOMID", json!({ "job_id": "c" }), json!({ "state": "completed" })),
        on(B, "PUSH", custom("k2"), json!({ "id": "$k4" })),
        on(A, "GETSTATE", json!({ "id": "$k4" }), json!({ "state": "waiting" })),
        on(C, "DRAIN", json!({ "queue": "k2" }), json!({ "count": 1 })),
    ]
}

fn groups() -> Vec<Step> {
    let push = || json!({ "queue": "g", "data": 1, "group_id": "one" });
    let pull = || json!({ "queue": "g", "timeout": LONG });
    let hasty = || json!({ "queue": "g", "timeout": 100 });
    vec![
        on(A, "PUSH", push(), json!({ "id": "$g1" })),
        on(B, "PUSH", push(), json!({ "id": "$g2" })),
        on(C, "PULL", pull(), json!({ "job": { "id": "$g1" } })),
        on(A, "PULL", hasty(), json!({ "job": null })),
        on(B, "PULL", hasty(), json!({ "job": null })),
        on(B, "ACK", json!({ "id": "$g1" }), json!({})),
        on(A, "PULL", pull(), json!({ "job": { "id": "$g2" } })),
        on(C, "ACK", json!({ "id": "$g2" }), json!({})),
    ]
}

fn dependencies() -> Vec<Step> {
    let pull = |queue| json!({ "queue": queue, "timeout": LONG });
    let children = json!([{ "queue": "fc", "data": 1 }, { "queue": "fc", "data": 2 }]);
    let ids = json!(["$c1", "$c2"]);
    vec![
        on(A, "PUSH", json!({ "queue": "d", "data": 1 }), json!({ "id": "$d1" })),
        on(
            B,
            "PUSH",
            json!({ "queue": "d", "data": 2, "depends_on": ["$d1"] }),
            json!({ "id": "$d2" }),
        ),
        on(C, "PULL", pull("d"), json!({ "job": { "id": "$d1" } })),
        on(A, "PULL", json!({ "queue": "d", "timeout": 100 }), json!({ "job": null })),
        on(A, "ACK", json!({ "id": "$d1" }), json!({})),
        on(B, "PULL", pull("d"), json!({ "job": { "id": "$d2" } })),
        on(C, "ACK", json!({ "id": "$d2" }), json!({})),
        on(
            A,
            "FLOW",
            json!({ "queue": "fp", "data": 0, "children": children }),
            json!({ "parent_id": "$c0", "children_ids": ids }),
        ),
        on(
            B,
            "PULLB",
            json!({ "queue": "fc", "count": 2, "timeout": LONG }),
            json!({ "jobs": [{ "id": "$c1" }, { "id": "$c2" }] }),
        ),
        on(C, "ACK", json!({ "id": "$c1" }), json!({})),
        on(
            A,
            "GETCHILDREN",
            json!({ "parent_id": "$c0" }),
            json!({ "completed": 1, "total": 2, "ids": ids }),
        ),
        on(A, "ACKB", json!({ "ids": ["$c2"] }), json!({ "count": 1 })),
        on(C, "PULL", pull("fp"), json!({ "job": { "id": "$c0", "children_ids": ids } })),
        on(B, "ACK", json!({ "id": "$c0" }), json!({})),
    ]
}

fn changes() -> Vec<Step> {
    vec![
        on(A, "PUSH", json!({ "queue": "m", "data": 1, "delay": 60_000 }), json!({ "id": "$m" })),
        on(B, "CHANGEPRIORITY", json!({ "id": "$m", "priority": 8 }), json!({})),
        on(C, "UPDATEJOB", json!({ "id": "$m", "data": [2] }), json!({})),
        on(B, "PROMOTE", json!({ "id": "$m" }), json!({})),
        on(
            A,
            "PULL",
            json!({ "queue": "m", "timeout": LONG }),
            json!({ "job": { "id": "$m", "priority": 8, "data": [2] } }),
        ),
        on(B, "MOVETODELAYED", json!({ "id": "$m", "delay": 60_000 }), json!({})),
        on(C, "GETSTATE", json!({ "id": "$m" }), json!({ "state": "delayed" })),
        on(A, "ACK", json!({ "id": "$m" }), json!({ "error": "~not found" })),
        on(C, "DISCARD", json!({ "id": "$m" }), json!({})),
        on(A, "DLQ", json!({ "queue": "m" }), json!({ "jobs": [{ "id": "$m" }] })),
        on(B, "OBLITERATE", json!({ "queue": "m" }), json!({ "count": 1 })),
        on(C, "DLQ", json!({ "queue": "m" }), json!({ "jobs": [] })),
    ]
}

fn crons_and_values() -> Vec<Step> {
    let cron = json!({ "name": "n", "queue": "s", "data": 1, "schedule": "0 0 1 1 *" });
    let key = || json!({ "key": "v" });
    vec![
        on(A, "CRON", cron, json!({})),
        on(B, "CRONLIST", json!({}), json!({ "crons": [{ "name": "n" }] })),
        on(C, "CRONDELETE", json!({ "name": "n" }), json!({})),
        on(A, "CRONLIST", json!({}), json!({ "crons": [] })),
        on(A, "KVSET", json!({ "key": "v", "value": 1 }), json!({})),
        on(B, "KVGET", key(), json!({ "value": 1 })),
        on(C, "KVINCR", key(), json!({ "value": 2 })),
        on(B, "KVEXPIRE", json!({ "key": "v", "ttl": 60_000 }), json!({ "exists": true })),
        on(A, "KVTTL", key(), json!({ "ttl": "number" })),
        on(C, "KVKEYS", json!({}), json!({ "keys": ["v"] })),
        on(C, "KVDEL", key(), json!({ "exists": true })),
        on(A, "KVGET", key(), json!({ "value": null })),
    ]
}
