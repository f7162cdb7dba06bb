//! What the TypeScript client asks one node over HTTP, and what it is to make of the answers, in the
//! words of [`batonq_tests::harness::Known`]. Each subject has queues of its own.

use batonq_tests::harness::Server;
use serde_json::{Value, json};

use crate::clients::Client;
use crate::{Step, hold, step};

pub(crate) const ALL: &[fn() -> Vec<Step>] = &[
    one_job,
    what_is_not_there,
    batches,
    failures,
    changes,
    keys,
    lists,
    pauses_and_limits,
    clearing,
    crons,
    flows,
    statistics,
];

fn pull(queue: &str) -> Value {
    json!({ "queue": queue })
}

fn one_job() -> Vec<Step> {
    let data = json!({ "n": 1, "text": "é" });
    let leased = json!({ "id": "$a", "queue": "q", "data": data, "attempts": 0,
        "started_at": "time", "last_heartbeat": "time", "tags": [], "custom_id": null });
    let logs = json!([{ "timestamp": "time", "message": "one", "level": "warn" }]);
    let id = || json!({ "id": "$a" });
    vec![
        step("PUSH", json!({ "queue": "q", "data": data }), json!({ "id": "$a" })),
        step("GETSTATE", id(), json!({ "state": "waiting" })),
        step("GETJOB", id(), json!({ "job": { "id": "$a", "data": data }, "state": "waiting" })),
        step("COUNT", json!({ "queue": "q" }), json!({ "count": 1 })),
        step("PULL", pull("q"), json!({ "job": leased })),
        step("GETSTATE", id(), json!({ "state": "active" })),
        step("PROGRESS", json!({ "id": "$a", "progress": 40, "message": "some" }), json!({})),
        step("GETPROGRESS", id(), json!({ "progress": { "progress": 40, "message": "some" } })),
        step("HEARTBEAT", id(), json!({})),
        step("LOG", json!({ "id": "$a", "message": "one", "level": "warn" }), json!({})),
        step("GETLOGS", id(), json!({ "logs": logs })),
        step("ACK", json!({ "id": "$a", "result": { "sum": 3 } }), json!({})),
        step("ACK", id(), json!({ "error": "~job not found" })),
        step("FAIL", id(), json!({ "error": "~job not found" })),
        step("GETSTATE", id(), json!({ "state": "completed" })),
        step("GETRESULT", id(), json!({ "result": { "sum": 3 } })),
        step(
            "GETJOB",
            id(),
            json!({ "job": { "id": "$a" }, "state": "completed", "result": { "sum": 3 } }),
        ),
        step(
            "WAITJOB",
            json!({ "id": "$a", "timeout": 10_000 }),
            json!({ "result": { "sum": 3 } }),
        ),
        // Without a result, and with data that a double can not hold.
        step(
            "PUSH",
            json!({ "queue": "q", "data": [9_007_199_254_740_993_u64, "\u{1f600}"] }),
            json!({ "id": "$b" }),
        ),
        step(
            "PULL",
            pull("q"),
            json!({ "job": { "id": "$b", "data": [9_007_199_254_740_993_u64, "\u{1f600}"] } }),
        ),
        step("ACK", json!({ "id": "$b" }), json!({})),
        step("GETRESULT", json!({ "id": "$b" }), json!({ "result": null })),
        step("WAITJOB", json!({ "id": "$b", "timeout": 10_000 }), json!({ "result": null })),
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
        step("GETJOBBYCUSTOMID", json!({}), json!({ "job": null })),
        step("GETPROGRESS", none(), not_found()),
        step("WAITJOB", json!({ "id": 999_999_999, "timeout": 100 }), not_found()),
        step("ACK", none(), not_found()),
        step("FAIL", none(), not_found()),
        step("CANCEL", none(), not_found()),
        step("PROGRESS", json!({ "id": 999_999_999, "progress": 1 }), not_found()),
        step("LOG", json!({ "id": 999_999_999, "message": "m", "level": "info" }), not_found()),
        step("UPDATE", json!({ "id": 999_999_999, "data": 1 }), not_found()),
        step("CHANGEPRIORITY", json!({ "id": 999_999_999, "priority": 1 }), not_found()),
        step("HEARTBEAT", none(), json!({ "error": "~job" })),
        step("PROMOTE", none(), json!({ "error": "~job" })),
        step("DISCARD", none(), json!({ "error": "~job" })),
        step("MOVETODELAYED", json!({ "id": 999_999_999, "delay": 1 }), json!({ "error": "~job" })),
        step("PULL", pull("nothing"), json!({ "job": null })),
        step("COUNT", pull("nothing"), json!({ "count": 0 })),
        step("DLQ", json!({ "queue": "nothing", "count": 100 }), json!({ "jobs": [] })),
        step("ISPAUSED", pull("nothing"), json!({ "paused": false })),
        step("DRAIN", pull("nothing"), json!({ "count": 0 })),
        step("ACKB", json!({ "ids": [999_999_999] }), json!({ "count": 0 })),
    ]
}

fn batches() -> Vec<Step> {
    let three = json!([{ "data": 1 }, { "data": "two", "priority": 5 }, { "data": [3] }]);
    vec![
        step("PUSHB", json!({ "queue": "b", "jobs": three }), json!({ "ids": ["$1", "$2", "$3"] })),
        step(
            "GETJOBCOUNTS",
            json!({ "queue": "b" }),
            json!({ "waiting": 3, "active": 0, "delayed": 0, "completed": 0, "failed": 0 }),
        ),
        step(
            "PULLB",
            json!({ "queue": "b", "count": 10 }),
            json!({ "jobs": [
                { "id": "$2", "data": "two", "priority": 5 },
                { "id": "$1", "data": 1 },
                { "id": "$3", "data": [3] },
            ] }),
        ),
        step("ACKB", json!({ "ids": ["$1", "$2"] }), json!({ "count": 2 })),
        step("ACKB", json!({ "ids": ["$1", "$3"] }), json!({ "count": 1 })),
        step("GETJOBCOUNTS", json!({ "queue": "b" }), json!({ "waiting": 0, "completed": 3 })),
    ]
}

fn failures() -> Vec<Step> {
    let once = || json!({ "queue": "f", "data": 1, "max_attempts": 1, "tags": ["t"] });
    let dead = json!({ "id": "$f", "attempts": 1, "tags": ["t"], "progress_msg": "boom" });
    vec![
        step("PUSH", once(), json!({ "id": "$f" })),
        step("PULL", pull("f"), json!({ "job": { "id": "$f", "attempts": 0 } })),
        step("FAIL", json!({ "id": "$f", "error": "boom" }), json!({})),
        step("GETSTATE", json!({ "id": "$f" }), json!({ "state": "failed" })),
        step("WAITJOB", json!({ "id": "$f", "timeout": 10_000 }), json!({ "error": "~failed" })),
        step("DLQ", json!({ "queue": "f", "count": 100 }), json!({ "jobs": [dead] })),
        step("CANCEL", json!({ "id": "$f" }), json!({ "error": "~cancel" })),
        step("RETRYDLQ", json!({ "queue": "f" }), json!({ "ids": [1] })),
        step("PULL", pull("f"), json!({ "job": { "id": "$f", "attempts": 0 } })),
        step("FAIL", json!({ "id": "$f" }), json!({})),
        step("RETRYDLQ of one", json!({ "queue": "f", "id": "$f" }), json!({ "ids": [1] })),
        step("RETRYDLQ of one", json!({ "queue": "f", "id": "$f" }), json!({ "ids": [0] })),
        step("PULL", pull("f"), json!({ "job": { "id": "$f" } })),
        step("DISCARD", json!({ "id": "$f" }), json!({})),
        step("PURGEDLQ", json!({ "queue": "f" }), json!({ "count": 1 })),
        step("DLQ", json!({ "queue": "f", "count": 100 }), json!({ "jobs": [] })),
        // With attempts left it goes round again.
        step(
            "PUSH",
            json!({ "queue": "f", "data": 1, "max_attempts": 3, "backoff": 0 }),
            json!({ "id": "$g" }),
        ),
        step("PULL", pull("f"), json!({ "job": { "id": "$g", "attempts": 0 } })),
        step("FAIL", json!({ "id": "$g", "error": "once" }), json!({})),
        step("PULL", pull("f"), json!({ "job": { "id": "$g", "attempts": 1 } })),
        step("ACK", json!({ "id": "$g" }), json!({})),
    ]
}

fn changes() -> Vec<Step> {
    vec![
        step("PUSH", json!({ "queue": "m", "data": 1, "delay": 60_000 }), json!({ "id": "$m" })),
        step("GETSTATE", json!({ "id": "$m" }), json!({ "state": "delayed" })),
        step("UPDATE", json!({ "id": "$m", "data": { "new": true } }), json!({})),
        step("CHANGEPRIORITY", json!({ "id": "$m", "priority": 8 }), json!({})),
        step("PROMOTE", json!({ "id": "$m" }), json!({})),
        step("PROMOTE", json!({ "id": "$m" }), json!({ "error": "~not" })),
        step(
            "PULL",
            pull("m"),
            json!({ "job": { "id": "$m", "data": { "new": true }, "priority": 8 } }),
        ),
        step("MOVETODELAYED", json!({ "id": "$m", "delay": 60_000 }), json!({})),
        step("GETSTATE", json!({ "id": "$m" }), json!({ "state": "delayed" })),
        step("ACK", json!({ "id": "$m" }), json!({ "error": "~not found" })),
        step("CANCEL", json!({ "id": "$m" }), json!({})),
        step("CANCEL", json!({ "id": "$m" }), json!({ "error": "~cancel" })),
    ]
}

fn keys() -> Vec<Step> {
    let unique = || json!({ "queue": "k", "data": 1, "unique_key": "u" });
    let custom = || json!({ "queue": "k", "data": 1, "job_id": "c" });
    let debounced =
        || json!({ "queue": "k", "data": 1, "debounce_id": "d", "debounce_ttl": 60_000 });
    vec![
        step("PUSH", unique(), json!({ "id": "$k1" })),
        step("PUSH", unique(), json!({ "error": "~duplicate" })),
        step("PUSH", custom(), json!({ "id": "$k2" })),
        step("PUSH", custom(), json!({ "id": "$k2" })),
        step("GETJOB", json!({ "id": "$k2" }), json!({ "job": { "custom_id": "c" } })),
        step("PUSH", debounced(), json!({ "id": "$k3" })),
        step("PUSH", debounced(), json!({ "error": "~debounced" })),
        step("DRAIN", json!({ "queue": "k" }), json!({ "count": 3 })),
    ]
}

fn lists() -> Vec<Step> {
    let item = |id: &str, state: &str| json!({ "job": { "id": id, "queue": "l", "data": "any" }, "state": state });
    let all = json!([item("$l2", "delayed"), item("$l1", "waiting")]);
    vec![
        step("PUSH", json!({ "queue": "l", "data": 1 }), json!({ "id": "$l1" })),
        step("PUSH", json!({ "queue": "l", "data": 2, "delay": 60_000 }), json!({ "id": "$l2" })),
        // It leaves an offset of 0 out.
        step("GETJOBS", json!({ "queue": "l", "limit": 100 }), json!({ "jobs": all, "total": 2 })),
        step(
            "GETJOBS",
            json!({ "queue": "l", "limit": 1, "offset": 1 }),
            json!({ "jobs": [item("$l1", "waiting")], "total": 2 }),
        ),
        step(
            "GETJOBS",
            json!({ "queue": "l", "state": "delayed", "limit": 100 }),
            json!({ "jobs": [item("$l2", "delayed")], "total": 1 }),
        ),
        step("GETJOBS", json!({ "limit": 100 }), json!({ "jobs": "any", "total": "number" })),
    ]
}

fn pauses_and_limits() -> Vec<Step> {
    let queue = || json!({ "queue": "p" });
    let listed = |queue: Value| json!({ "queues": { "@has": queue } });
    vec![
        step("PAUSE", queue(), json!({})),
        step("ISPAUSED", queue(), json!({ "paused": true })),
        step("PUSH", json!({ "queue": "p", "data": 1 }), json!({ "id": "$p" })),
        step("SETCONCURRENCY", json!({ "queue": "p", "limit": 2 }), json!({})),
        step("RATELIMIT", json!({ "queue": "p", "limit": 9 }), json!({})),
        step(
            "LISTQUEUES",
            json!({}),
            listed(json!({ "name": "p", "paused": true, "pending": 1, "processing": 0,
                "completed": 0, "delayed": 0, "dlq": 0, "rate_limit": 9, "concurrency_limit": 2 })),
        ),
        step("RESUME", queue(), json!({})),
        step("ISPAUSED", queue(), json!({ "paused": false })),
        step("CLEARCONCURRENCY", queue(), json!({})),
        step("RATELIMITCLEAR", queue(), json!({})),
        step(
            "LISTQUEUES",
            json!({}),
            listed(json!({ "name": "p", "rate_limit": null, "concurrency_limit": null })),
        ),
        step("PULL", queue(), json!({ "job": { "id": "$p" } })),
        step("ACK", json!({ "id": "$p" }), json!({})),
    ]
}

fn clearing() -> Vec<Step> {
    let push = || json!({ "queue": "c", "data": 1 });
    let clean = |state| json!({ "queue": "c", "grace": 0, "state": state });
    vec![
        step("PUSH", push(), json!({ "id": "$c1" })),
        step("PULL", pull("c"), json!({ "job": { "id": "$c1" } })),
        step("ACK", json!({ "id": "$c1" }), json!({})),
        step("CLEAN", clean("failed"), json!({ "count": 0 })),
        step("CLEAN", clean("completed"), json!({ "count": 1 })),
        step("GETSTATE", json!({ "id": "$c1" }), json!({ "state": "unknown" })),
        step("PUSH", push(), json!({ "id": "$c2" })),
        step("PUSH", push(), json!({ "id": "$c3" })),
        step("DRAIN", json!({ "queue": "c" }), json!({ "count": 2 })),
        step("PUSH", push(), json!({ "id": "$c4" })),
        step("OBLITERATE", json!({ "queue": "c" }), json!({ "count": 1 })),
        step("COUNT", json!({ "queue": "c" }), json!({ "count": 0 })),
    ]
}

fn crons() -> Vec<Step> {
    let cron = json!({ "name": "n:1", "queue": "s", "data": { "n": 1 }, "priority": 0,
        "repeat_every": 60_000, "limit": 5 });
    let listed = json!({ "name": "n:1", "queue": "s", "data": { "n": 1 }, "schedule": null,
        "repeat_every": 60_000, "priority": 0, "next_run": "time", "executions": "number",
        "limit": 5 });
    let daily =
        json!({ "name": "d", "queue": "s", "data": 1, "schedule": "@daily", "priority": 3 });
    vec![
        step("CRON", cron, json!({})),
        step("CRONLIST", json!({}), json!({ "crons": [listed] })),
        step("CRONDELETE", json!({ "name": "n:1" }), json!({})),
        step("CRONDELETE", json!({ "name": "n:1" }), json!({ "data": false })),
        step("CRON", daily, json!({})),
        step(
            "CRONLIST",
            json!({}),
            json!({ "crons": [{ "name": "d", "schedule": "@daily", "priority": 3 }] }),
        ),
        step(
            "CRON",
            json!({ "name": "bad", "queue": "s", "data": 1 }),
            json!({ "error": "~must" }),
        ),
        step("CRONDELETE", json!({ "name": "d" }), json!({})),
    ]
}

fn flows() -> Vec<Step> {
    let children = json!([{ "queue": "fc", "data": 1 }, { "queue": "fc", "data": 2 }]);
    let children = json!({ "queue": "fp", "parent_data": { "all": true }, "children": children, "priority": 0 });
    let ids = json!(["$1", "$2"]);
    vec![
        step("PUSHFLOW", children, json!({ "parent_id": "$0", "children_ids": ids })),
        step("GETSTATE", json!({ "id": "$0" }), json!({ "state": "waiting-parent" })),
        step(
            "GETCHILDREN",
            json!({ "id": "$0" }),
            json!({ "children": [{ "id": "$1" }, { "id": "$2" }] }),
        ),
        step(
            "PULLB",
            json!({ "queue": "fc", "count": 2 }),
            json!({ "jobs": [{ "id": "$1", "data": 1 }, { "id": "$2", "data": 2 }] }),
        ),
        step("ACKB", json!({ "ids": ids }), json!({ "count": 2 })),
        step("PULL", pull("fp"), json!({ "job": { "id": "$0", "data": { "all": true } } })),
        step("ACK", json!({ "id": "$0" }), json!({})),
    ]
}

fn statistics() -> Vec<Step> {
    let metrics = json!({ "total_pushed": "number", "total_completed": "number",
        "total_failed": "number", "jobs_per_second": "number", "avg_latency_ms": "number",
        "queues": { "@has": { "name": "st", "pending": 1, "processing": 0, "dlq": 0 } } });
    vec![
        step("PUSH", json!({ "queue": "st", "data": 1 }), json!({ "id": "$st" })),
        step(
            "STATS",
            json!({}),
            json!({ "queued": "number", "processing": "number", "delayed": "number",
                "dlq": "number", "completed": "number" }),
        ),
        step("METRICS", json!({}), json!({ "metrics": metrics })),
    ]
}

/// Its calls of these names send no id; then nothing is done, and the caller hears of it.
#[tokio::test]
async fn an_id_that_is_undefined_is_an_error_and_no_job() {
    let server = Server::start();
    let undefined = || json!({ "id": "undefined", "message": "m", "level": "info" });
    let steps = ["GETLOGS", "LOG", "HEARTBEAT", "GETCHILDREN"];
    let steps = steps.map(|cmd| step(cmd, undefined(), json!({ "error": "~id" })));
    hold(Client::TypeScript, &[server.http()], steps.into()).await;
}

/// What it makes of the answer does not show which jobs of a batch were refused; the answer does.
#[tokio::test]
async fn a_batch_names_what_it_did_not_take() {
    let server = Server::start();
    let twice = json!([{ "data": 1, "unique_key": "k" }, { "data": 2, "unique_key": "k" }]);
    let reply = server.http().post("/queues/b/jobs/batch", json!({ "jobs": twice })).await.json();
    assert_eq!(reply["ok"], true, "{reply}");
    assert_eq!(reply["ids"].as_array().map(Vec::len), Some(1), "{reply}");
    assert_eq!(reply["errors"][0]["index"], 1, "{reply}");
}

/// Where its own call goes wrong, whoever names the job is answered as that call reads it.
#[tokio::test]
async fn a_job_is_found_by_the_name_that_it_was_given() {
    let server = Server::start();
    let http = server.http();
    let job = json!({ "data": 1, "job_id": "order 7/8" });
    let id = crate::post(&http, "/queues/q/jobs", job).await["id"].clone();
    let reply = http.get("/jobs/custom/order%207%2F8").await;
    assert_eq!((&reply.json()["job"]["id"], &reply.json()["state"]), (&id, &json!("waiting")));
}
