//! What is said to one node of jobs, subject by subject, and expected in the words of
//! [`batonq_tests::harness::Known`]. Each subject has queues of its own.

use serde_json::{Value, json};

use crate::{Step, step};

pub(crate) const ALL: &[fn() -> Vec<Step>] = &[
    one_job,
    what_is_not_there,
    batches,
    every_option,
    keys,
    groups_and_dependencies,
    failures,
    the_dead,
    changes,
];

/// A plain job with all that there is to know of one.
fn plain_job(id: &str) -> Value {
    json!({
        "id": id, "queue": "q", "data": { "n": 1, "text": "é" }, "priority": 0,
        "created_at": "time", "run_at": "time", "started_at": 0, "attempts": 0,
        "max_attempts": 0, "backoff": 0, "ttl": 0, "timeout": 0, "unique_key": null,
        "depends_on": [], "progress": 0, "progress_msg": null, "tags": [], "lifo": false,
        "remove_on_complete": false, "remove_on_fail": false, "last_heartbeat": 0,
        "stall_timeout": 0, "stall_count": 0, "parent_id": null, "children_ids": [],
        "children_completed": 0, "custom_id": null, "keep_completed_age": 0,
        "keep_completed_count": 0, "completed_at": "number", "group_id": null,
    })
}

fn one_job() -> Vec<Step> {
    let leased = json!({ "id": "$a", "data": { "n": 1, "text": "é" }, "attempts": 0,
        "started_at": "time", "last_heartbeat": "time", "tags": [], "group_id": null });
    let logs = json!([{ "timestamp": "time", "message": "one", "level": "warn" }]);
    let chunk = json!({ "id": "$a", "data": { "chunk": 1 }, "index": 0 });
    vec![
        step("AUTH", json!({ "token": "whatever" }), json!({})),
        step("PING", json!({}), json!({ "pong": true })),
        step(
            "PUSH",
            json!({ "queue": "q", "data": { "n": 1, "text": "é" } }),
            json!({ "id": "$a" }),
        ),
        step("GETSTATE", json!({ "id": "$a" }), json!({ "id": "$a", "state": "waiting" })),
        step(
            "GETJOB",
            json!({ "id": "$a" }),
            json!({ "job": plain_job("$a"), "state": "waiting" }),
        ),
        step("PULL", json!({ "queue": "q", "timeout": 10_000 }), json!({ "job": leased })),
        step("GETSTATE", json!({ "id": "$a" }), json!({ "id": "$a", "state": "active" })),
        step("PROGRESS", json!({ "id": "$a", "progress": 40, "message": "some" }), json!({})),
        step("GETPROGRESS", json!({ "id": "$a" }), json!({ "progress": 40, "message": "some" })),
        step("HEARTBEAT", json!({ "id": "$a" }), json!({})),
        step("LOG", json!({ "id": "$a", "message": "one", "level": "warn" }), json!({})),
        step("GETLOGS", json!({ "id": "$a" }), json!({ "id": "$a", "logs": logs })),
        step("PARTIAL", chunk, json!({})),
        step("ACK", json!({ "id": "$a", "result": { "sum": 3 } }), json!({})),
        step("ACK", json!({ "id": "$a" }), json!({ "error": "~not found" })),
        step("FAIL", json!({ "id": "$a" }), json!({ "error": "~not found" })),
        step("GETSTATE", json!({ "id": "$a" }), json!({ "id": "$a", "state": "completed" })),
        step("GETRESULT", json!({ "id": "$a" }), json!({ "id": "$a", "result": { "sum": 3 } })),
        step(
            "GETJOB",
            json!({ "id": "$a" }),
            json!({ "job": { "id": "$a", "progress": 100 }, "state": "completed" }),
        ),
        step(
            "WAITJOB",
            json!({ "id": "$a", "timeout": 10_000 }),
            json!({ "result": { "sum": 3 } }),
        ),
        step("GETLOGS", json!({ "id": "$a" }), json!({ "logs": logs })),
    ]
}

fn what_is_not_there() -> Vec<Step> {
    let none = || json!({ "id": 999_999_999 });
    let not_found = || json!({ "error": "~not found" });
    vec![
        step("GETSTATE", none(), json!({ "state": "unknown" })),
        step("GETJOB", none(), json!({ "job": null, "state": "unknown" })),
        step("GETRESULT", none(), json!({ "result": null })),
        step("GETLOGS", none(), json!({ "logs": [] })),
        step("GETJOBBYCUSTOMID", json!({ "job_id": "nobody" }), json!({ "job": null })),
        step("GETJOBSBATCH", json!({ "ids": [999_999_999] }), json!({ "jobs": [] })),
        step("WAITJOB", json!({ "id": 999_999_999, "timeout": 100 }), not_found()),
        step("ACK", none(), not_found()),
        step("FAIL", none(), not_found()),
        step("CANCEL", none(), not_found()),
        step("ACKB", json!({ "ids": [999_999_999] }), json!({ "count": 0, "ids": [0] })),
        step("PROGRESS", json!({ "id": 999_999_999, "progress": 1 }), not_found()),
        step("LOG", json!({ "id": 999_999_999, "message": "m", "level": "info" }), not_found()),
        step("UPDATEJOB", json!({ "id": 999_999_999, "data": 1 }), not_found()),
        step("CHANGEPRIORITY", json!({ "id": 999_999_999, "priority": 1 }), not_found()),
        step("HEARTBEAT", none(), json!({ "error": "~job" })),
        step("PROMOTE", none(), json!({ "error": "~job" })),
        step("DISCARD", none(), json!({ "error": "~job" })),
        step("MOVETODELAYED", json!({ "id": 999_999_999, "delay": 1 }), json!({ "error": "~job" })),
        step("PULL", json!({ "queue": "nothing", "timeout": 50 }), json!({ "job": null })),
        step(
            "PULLB",
            json!({ "queue": "nothing", "count": 5, "timeout": 50 }),
            json!({ "jobs": [] }),
        ),
        step("COUNT", json!({ "queue": "nothing" }), json!({ "count": 0 })),
        step("DLQ", json!({ "queue": "nothing", "count": 10 }), json!({ "jobs": [] })),
        step("ISPAUSED", json!({ "queue": "nothing" }), json!({ "paused": false })),
        step("DRAIN", json!({ "queue": "nothing" }), json!({ "count": 0 })),
    ]
}

fn batches() -> Vec<Step> {
    let counts = json!({ "waiting": 3, "active": 0, "delayed": 0, "completed": 0, "failed": 0 });
    let mut both = counts.clone();
    both["counts"] = counts;
    let twice = json!([{ "data": 1, "unique_key": "k" }, { "data": 2, "unique_key": "k" }]);
    let refused = json!([{ "index": 1, "error": "~duplicate" }]);
    vec![
        step(
            "PUSHB",
            json!({ "queue": "b", "jobs": [
                { "data": 1 }, { "data": "two", "priority": 5 }, { "data": { "three": [3] } },
            ] }),
            json!({ "ids": ["$b1", "$b2", "$b3"], "failed": [] }),
        ),
        step("GETJOBCOUNTS", json!({ "queue": "b" }), both),
        step("COUNT", json!({ "queue": "b" }), json!({ "count": 3 })),
        step(
            "PULLB",
            json!({ "queue": "b", "count": 10, "timeout": 10_000 }),
            json!({ "jobs": [
                { "id": "$b2", "data": "two", "priority": 5 },
                { "id": "$b1", "data": 1 },
                { "id": "$b3", "data": { "three": [3] } },
            ] }),
        ),
        step("ACKB", json!({ "ids": ["$b1", "$b2"] }), json!({ "count": 2, "ids": [2] })),
        step("ACKB", json!({ "ids": ["$b1", "$b3"] }), json!({ "count": 1, "ids": [1] })),
        step("PUSHB", json!({ "queue": "b", "jobs": [] }), json!({ "ids": [] })),
        step(
            "PUSHB",
            json!({ "queue": "b", "jobs": twice }),
            json!({ "ids": ["$b4"], "errors": refused, "failed": refused }),
        ),
        step("GETJOBCOUNTS", json!({ "queue": "b" }), json!({ "waiting": 1, "completed": 3 })),
    ]
}

fn every_option() -> Vec<Step> {
    let options = json!({
        "queue": "o", "data": null, "priority": 7, "delay": 0, "ttl": 60_000, "timeout": 30_000,
        "max_attempts": 4, "backoff": 250, "unique_key": "uk", "tags": ["x", "y"], "lifo": true,
        "remove_on_complete": false, "remove_on_fail": false, "stall_timeout": 20_000,
        "job_id": "cid", "keep_completed_age": 1000, "keep_completed_count": 5, "group_id": "g",
    });
    let shown = json!({
        "id": "$o", "queue": "o", "data": null, "priority": 7, "ttl": 60_000, "timeout": 30_000,
        "max_attempts": 4, "backoff": 250, "unique_key": "uk", "tags": ["x", "y"], "lifo": true,
        "remove_on_complete": false, "remove_on_fail": false, "stall_timeout": 20_000,
        "custom_id": "cid", "keep_completed_age": 1000, "keep_completed_count": 5, "group_id": "g",
    });
    let found = json!({ "job": shown, "state": "waiting" });
    vec![
        step("PUSH", options, json!({ "id": "$o" })),
        step("GETJOB", json!({ "id": "$o" }), found.clone()),
        step("GETJOBBYCUSTOMID", json!({ "job_id": "cid" }), found),
        step("PULL", json!({ "queue": "o", "timeout": 10_000 }), json!({ "job": shown })),
        step("ACK", json!({ "id": "$o" }), json!({})),
        // A number that is too large for a double, and what JSON can not say in one way only.
        step(
            "PUSH",
            json!({ "queue": "o", "data": [9_007_199_254_740_993_u64, -1, 0.5, "\u{0}\u{1f600}"] }),
            json!({ "id": "$o2" }),
        ),
        step(
            "PULL",
            json!({ "queue": "o", "timeout": 10_000 }),
            json!({ "job": { "id": "$o2", "data": [9_007_199_254_740_993_u64, -1, 0.5, "\u{0}\u{1f600}"] } }),
        ),
        step("ACK", json!({ "id": "$o2" }), json!({})),
        // It leaves nothing behind.
        step(
            "PUSH",
            json!({ "queue": "o", "data": 1, "remove_on_complete": true }),
            json!({ "id": "$o3" }),
        ),
        step("PULL", json!({ "queue": "o", "timeout": 10_000 }), json!({ "job": { "id": "$o3" } })),
        step("ACK", json!({ "id": "$o3" }), json!({})),
        step("GETSTATE", json!({ "id": "$o3" }), json!({ "state": "unknown" })),
        step(
            "PUSH",
            json!({ "queue": "o", "data": 1, "remove_on_fail": true, "max_attempts": 1 }),
            json!({ "id": "$o4" }),
        ),
        step("PULL", json!({ "queue": "o", "timeout": 10_000 }), json!({ "job": { "id": "$o4" } })),
        step("FAIL", json!({ "id": "$o4" }), json!({})),
        step("GETSTATE", json!({ "id": "$o4" }), json!({ "state": "unknown" })),
        step("DLQ", json!({ "queue": "o", "count": 10 }), json!({ "jobs": [] })),
        // What is to come later stands in nobody's way.
        step(
            "PUSH",
            json!({ "queue": "o", "data": 1, "priority": 9, "delay": 60_000 }),
            json!({ "id": "$o5" }),
        ),
        step("PUSH", json!({ "queue": "o", "data": 2 }), json!({ "id": "$o6" })),
        step("GETSTATE", json!({ "id": "$o5" }), json!({ "state": "delayed" })),
        step("PULL", json!({ "queue": "o", "timeout": 10_000 }), json!({ "job": { "id": "$o6" } })),
        step("ACK", json!({ "id": "$o6" }), json!({})),
    ]
}

fn keys() -> Vec<Step> {
    let unique = || json!({ "queue": "k", "data": 1, "unique_key": "u" });
    let custom = |queue| json!({ "queue": queue, "data": 1, "job_id": "c" });
    let debounced =
        || json!({ "queue": "k", "data": 1, "debounce_id": "d", "debounce_ttl": 60_000 });
    vec![
        step("PUSH", unique(), json!({ "id": "$k1" })),
        step("PUSH", unique(), json!({ "error": "~duplicate" })),
        step("PULL", json!({ "queue": "k", "timeout": 10_000 }), json!({ "job": { "id": "$k1" } })),
        step("PUSH", unique(), json!({ "error": "~duplicate" })),
        step("ACK", json!({ "id": "$k1" }), json!({})),
        // Free again, whatever became of its holder.
        step("PUSH", unique(), json!({ "id": "$k2" })),
        step("CANCEL", json!({ "id": "$k2" }), json!({})),
        step("PUSH", unique(), json!({ "id": "$k3" })),
        step("DISCARD", json!({ "id": "$k3" }), json!({})),
        step("PUSH", unique(), json!({ "id": "$k4" })),
        step("DRAIN", json!({ "queue": "k" }), json!({ "count": 1 })),
        step("PUSH", unique(), json!({ "id": "$k5" })),
        step("OBLITERATE", json!({ "queue": "k" }), json!({ "count": "number" })),
        step("PUSH", custom("k"), json!({ "id": "$k6" })),
        step("PUSH", custom("k"), json!({ "id": "$k6" })),
        step("PUSH", custom("other"), json!({ "id": "$k6" })),
        step("COUNT", json!({ "queue": "other" }), json!({ "count": 0 })),
        step("PUSHB", json!({ "queue": "k", "jobs": [custom("k")] }), json!({ "ids": ["$k6"] })),
        step("PULL", json!({ "queue": "k", "timeout": 10_000 }), json!({ "job": { "id": "$k6" } })),
        step("ACK", json!({ "id": "$k6" }), json!({})),
        step("GETJOBBYCUSTOMID", json!({ "job_id": "c" }), json!({ "state": "completed" })),
        step("PUSH", custom("k"), json!({ "id": "$k7" })),
        step("GETSTATE", json!({ "id": "$k7" }), json!({ "state": "waiting" })),
        step("PUSH", debounced(), json!({ "id": "$k8" })),
        step("PUSH", debounced(), json!({ "error": "~debounced" })),
    ]
}

fn groups_and_dependencies() -> Vec<Step> {
    let pull = || json!({ "queue": "g", "timeout": 10_000 });
    let grouped = || json!({ "queue": "g", "data": 1, "group_id": "one" });
    vec![
        step("PUSH", grouped(), json!({ "id": "$g1" })),
        step("PUSH", grouped(), json!({ "id": "$g2" })),
        step("PULL", pull(), json!({ "job": { "id": "$g1", "group_id": "one" } })),
        step("PULL", json!({ "queue": "g", "timeout": 50 }), json!({ "job": null })),
        step("PUSH", json!({ "queue": "g", "data": 1 }), json!({ "id": "$g3" })),
        step("PULL", pull(), json!({ "job": { "id": "$g3" } })),
        // However it ends, the next one of the group comes.
        step("CANCEL", json!({ "id": "$g1" }), json!({})),
        step("PULL", pull(), json!({ "job": { "id": "$g2" } })),
        step("ACKB", json!({ "ids": ["$g2", "$g3"] }), json!({ "count": 2 })),
        step("PUSH", json!({ "queue": "g", "data": 1 }), json!({ "id": "$g4" })),
        step(
            "PUSH",
            json!({ "queue": "g", "data": 2, "depends_on": ["$g4"] }),
            json!({ "id": "$g5" }),
        ),
        step("GETSTATE", json!({ "id": "$g5" }), json!({ "state": "waiting-children" })),
        step(
            "GETJOB",
            json!({ "id": "$g5" }),
            json!({ "job": { "depends_on": ["$g4"] }, "state": "waiting-children" }),
        ),
        step("PULL", pull(), json!({ "job": { "id": "$g4" } })),
        step("PULL", json!({ "queue": "g", "timeout": 50 }), json!({ "job": null })),
        step("ACK", json!({ "id": "$g4" }), json!({})),
        step("GETSTATE", json!({ "id": "$g5" }), json!({ "state": "waiting" })),
        step("PULL", pull(), json!({ "job": { "id": "$g5" } })),
        step("ACK", json!({ "id": "$g5" }), json!({})),
    ]
}

fn failures() -> Vec<Step> {
    let pull = || json!({ "queue": "f", "timeout": 10_000 });
    vec![
        step(
            "PUSH",
            json!({ "queue": "f", "data": 1, "max_attempts": 3, "backoff": 0 }),
            json!({ "id": "$f1" }),
        ),
        step("PULL", pull(), json!({ "job": { "id": "$f1", "attempts": 0 } })),
        step("FAIL", json!({ "id": "$f1", "error": "boom" }), json!({})),
        step("PULL", pull(), json!({ "job": { "id": "$f1", "attempts": 1 } })),
        step(
            "GETJOB",
            json!({ "id": "$f1" }),
            json!({ "job": { "attempts": 1, "progress_msg": "boom" }, "state": "active" }),
        ),
        step("MOVETODELAYED", json!({ "id": "$f1", "delay": 60_000 }), json!({})),
        step(
            "GETJOB",
            json!({ "id": "$f1" }),
            json!({ "job": { "attempts": 1, "started_at": 0 }, "state": "delayed" }),
        ),
        step("PROMOTE", json!({ "id": "$f1" }), json!({})),
        step("PULL", pull(), json!({ "job": { "id": "$f1", "attempts": 1 } })),
        step("FAIL", json!({ "id": "$f1" }), json!({})),
        step("PULL", pull(), json!({ "job": { "id": "$f1", "attempts": 2 } })),
        step("FAIL", json!({ "id": "$f1", "error": "boom" }), json!({})),
        step("GETSTATE", json!({ "id": "$f1" }), json!({ "state": "failed" })),
        step(
            "GETJOB",
            json!({ "id": "$f1" }),
            json!({ "job": { "attempts": 3 }, "state": "failed" }),
        ),
        // The second attempt comes after twice the backoff.
        step("PUSH", json!({ "queue": "f", "data": 1, "backoff": 60_000 }), json!({ "id": "$f2" })),
        step("PULL", pull(), json!({ "job": { "id": "$f2" } })),
        step("FAIL", json!({ "id": "$f2", "error": "later" }), json!({})),
        step("GETSTATE", json!({ "id": "$f2" }), json!({ "state": "delayed" })),
        step("PULL", json!({ "queue": "f", "timeout": 50 }), json!({ "job": null })),
    ]
}

fn the_dead() -> Vec<Step> {
    let pull = || json!({ "queue": "d", "timeout": 10_000 });
    let once = || json!({ "queue": "d", "data": 1, "max_attempts": 1, "tags": ["t"] });
    let dead = json!({ "id": "$d1", "attempts": 1, "tags": ["t"], "progress_msg": "no" });
    vec![
        step("PUSH", once(), json!({ "id": "$d1" })),
        step("PULL", pull(), json!({ "job": { "id": "$d1" } })),
        step("FAIL", json!({ "id": "$d1", "error": "no" }), json!({})),
        step("DLQ", json!({ "queue": "d", "count": 10 }), json!({ "jobs": [dead] })),
        step("CANCEL", json!({ "id": "$d1" }), json!({ "error": "~cancel" })),
        step("RETRYDLQ", json!({ "queue": "d" }), json!({ "count": 1, "ids": [1] })),
        step("RETRYDLQ", json!({ "queue": "d" }), json!({ "count": 0, "ids": [0] })),
        step("PULL", pull(), json!({ "job": { "id": "$d1", "attempts": 0 } })),
        step("DISCARD", json!({ "id": "$d1" }), json!({})),
        step("GETSTATE", json!({ "id": "$d1" }), json!({ "state": "failed" })),
        step("ACK", json!({ "id": "$d1" }), json!({ "error": "~not found" })),
        step("PUSH", once(), json!({ "id": "$d2" })),
        step("DISCARD", json!({ "id": "$d2" }), json!({})),
        step(
            "DLQ",
            json!({ "queue": "d", "count": 10 }),
            json!({ "jobs": [{ "id": "$d1" }, { "id": "$d2" }] }),
        ),
        step("DLQ", json!({ "queue": "d", "count": 1 }), json!({ "jobs": [{ "id": "$d1" }] })),
        step("RETRYDLQ", json!({ "queue": "d", "id": "$d2" }), json!({ "count": 1, "ids": [1] })),
        step("PULL", pull(), json!({ "job": { "id": "$d2" } })),
        step("ACK", json!({ "id": "$d2" }), json!({})),
        step("PURGEDLQ", json!({ "queue": "d" }), json!({ "count": 1 })),
        step("PURGEDLQ", json!({ "queue": "d" }), json!({ "count": 0 })),
        step("DLQ", json!({ "queue": "d", "count": 10 }), json!({ "jobs": [] })),
    ]
}

fn changes() -> Vec<Step> {
    let pull = || json!({ "queue": "m", "timeout": 10_000 });
    vec![
        step("PUSH", json!({ "queue": "m", "data": 1, "delay": 60_000 }), json!({ "id": "$m1" })),
        step("PUSH", json!({ "queue": "m", "data": 2, "priority": 1 }), json!({ "id": "$m2" })),
        step("UPDATEJOB", json!({ "id": "$m1", "data": { "new": true } }), json!({})),
        step("CHANGEPRIORITY", json!({ "id": "$m1", "priority": 8 }), json!({})),
        step("PROMOTE", json!({ "id": "$m1" }), json!({})),
        step("PROMOTE", json!({ "id": "$m1" }), json!({ "error": "~not" })),
        step(
            "PULL",
            pull(),
            json!({ "job": { "id": "$m1", "data": { "new": true }, "priority": 8 } }),
        ),
        step("CANCEL", json!({ "id": "$m2" }), json!({})),
        step("CANCEL", json!({ "id": "$m2" }), json!({ "error": "~cancel" })),
        step("PULL", json!({ "queue": "m", "timeout": 50 }), json!({ "job": null })),
        // Of an active job, too.
        step("CANCEL", json!({ "id": "$m1" }), json!({})),
        step("ACK", json!({ "id": "$m1" }), json!({ "error": "~not found" })),
        step("GETSTATE", json!({ "id": "$m1" }), json!({ "state": "any" })),
        step("MOVETODELAYED", json!({ "id": "$m1", "delay": 10 }), json!({ "error": "~job" })),
    ]
}
