//! What is said to one node of queues and all the rest, subject by subject, in the words of
//! [`crate::jobs`].

use serde_json::{Value, json};

use crate::{Step, step};

pub(crate) const ALL: &[fn() -> Vec<Step>] =
    &[pauses_and_limits, lists, clearing, crons, flows, statistics, values, refusals];

fn pauses_and_limits() -> Vec<Step> {
    let pull = || json!({ "queue": "p", "timeout": 10_000 });
    let hasty = || json!({ "queue": "p", "timeout": 50 });
    let push = || json!({ "queue": "p", "data": 1 });
    let queue = || json!({ "queue": "p" });
    let listed = |queue: Value| json!({ "queues": { "@has": queue } });
    vec![
        step("PAUSE", queue(), json!({})),
        step("ISPAUSED", queue(), json!({ "paused": true })),
        step("PUSH", push(), json!({ "id": "$p1" })),
        step("PULL", hasty(), json!({ "job": null })),
        step(
            "LISTQUEUES",
            json!({}),
            listed(json!({ "name": "p", "paused": true, "pending": 1,
            "processing": 0, "completed": 0, "delayed": 0, "dlq": 0, "rate_limit": null,
            "concurrency_limit": null })),
        ),
        step("RESUME", queue(), json!({})),
        step("ISPAUSED", queue(), json!({ "paused": false })),
        step("SETCONCURRENCY", json!({ "queue": "p", "limit": 1 }), json!({})),
        step("LISTQUEUES", json!({}), listed(json!({ "name": "p", "concurrency_limit": 1 }))),
        step("PUSH", push(), json!({ "id": "$p2" })),
        step("PULL", pull(), json!({ "job": { "id": "$p1" } })),
        step("PULL", hasty(), json!({ "job": null })),
        step("ACK", json!({ "id": "$p1" }), json!({})),
        step("PULL", pull(), json!({ "job": { "id": "$p2" } })),
        step("PUSH", push(), json!({ "id": "$p3" })),
        step("PULL", hasty(), json!({ "job": null })),
        step("CLEARCONCURRENCY", queue(), json!({})),
        step("PULL", pull(), json!({ "job": { "id": "$p3" } })),
        step("ACKB", json!({ "ids": ["$p2", "$p3"] }), json!({ "count": 2 })),
        step("RATELIMIT", json!({ "queue": "p", "limit": 1 }), json!({})),
        step("LISTQUEUES", json!({}), listed(json!({ "name": "p", "rate_limit": 1 }))),
        step("PUSH", push(), json!({ "id": "$p4" })),
        step("PUSH", push(), json!({ "id": "$p5" })),
        step("PULL", pull(), json!({ "job": { "id": "$p4" } })),
        step("RATELIMITCLEAR", queue(), json!({})),
        step("PULL", pull(), json!({ "job": { "id": "$p5" } })),
        step(
            "LISTQUEUES",
            json!({}),
            listed(json!({ "name": "p", "processing": 2,
            "rate_limit": null, "concurrency_limit": null })),
        ),
        step("ACKB", json!({ "ids": ["$p4", "$p5"] }), json!({ "count": 2 })),
    ]
}

fn lists() -> Vec<Step> {
    let item = |id: &str, state: &str| {
        json!({ "id": id, "queue": "l", "state": state, "data": "any",
            "job": { "id": id, "queue": "l" } })
    };
    let all = json!([item("$l2", "delayed"), item("$l1", "waiting")]);
    vec![
        step("PUSH", json!({ "queue": "l", "data": 1 }), json!({ "id": "$l1" })),
        step("PUSH", json!({ "queue": "l", "data": 2, "delay": 60_000 }), json!({ "id": "$l2" })),
        step(
            "GETJOBS",
            json!({ "queue": "l", "limit": 100, "offset": 0 }),
            json!({ "jobs": all, "total": 2 }),
        ),
        step(
            "GETJOBS",
            json!({ "queue": "l", "limit": 1, "offset": 1 }),
            json!({ "jobs": [item("$l1", "waiting")], "total": 2 }),
        ),
        step(
            "GETJOBS",
            json!({ "queue": "l", "state": "delayed", "limit": 100, "offset": 0 }),
            json!({ "jobs": [item("$l2", "delayed")], "total": 1 }),
        ),
        step(
            "GETJOBSBATCH",
            json!({ "ids": ["$l1", "$l2", 999_999_999] }),
            json!({ "jobs": [item("$l1", "waiting"), item("$l2", "delayed")] }),
        ),
        step("COUNT", json!({ "queue": "l" }), json!({ "count": 2 })),
        step(
            "GETJOBCOUNTS",
            json!({ "queue": "l" }),
            json!({ "waiting": 1, "delayed": 1,
            "counts": { "waiting": 1, "delayed": 1 } }),
        ),
    ]
}

fn clearing() -> Vec<Step> {
    let push = |queue| json!({ "queue": queue, "data": 1 });
    let pull = |queue| json!({ "queue": queue, "timeout": 10_000 });
    let clean = |queue, state| json!({ "queue": queue, "grace": 0, "state": state });
    vec![
        step("PUSH", push("c"), json!({ "id": "$c1" })),
        step("PULL", pull("c"), json!({ "job": { "id": "$c1" } })),
        step("ACK", json!({ "id": "$c1" }), json!({})),
        step("PUSH", push("c"), json!({ "id": "$c2" })),
        step("PUSH", json!({ "queue": "c", "data": 1, "delay": 60_000 }), json!({ "id": "$c3" })),
        // Not of another queue, nor what is too young, nor in another state.
        step("CLEAN", clean("c2", "completed"), json!({ "count": 0 })),
        step(
            "CLEAN",
            json!({ "queue": "c", "grace": 3_600_000, "state": "completed" }),
            json!({ "count": 0 }),
        ),
        step("CLEAN", clean("c", "failed"), json!({ "count": 0 })),
        step("CLEAN", json!({ "queue": "c", "grace": 0, "limit": 10 }), json!({ "count": 1 })),
        step("GETSTATE", json!({ "id": "$c1" }), json!({ "state": "unknown" })),
        step("CLEAN", clean("c", "delayed"), json!({ "count": 1 })),
        step("GETSTATE", json!({ "id": "$c2" }), json!({ "state": "waiting" })),
        step("CLEAN", clean("c", "waiting"), json!({ "count": 1 })),
        step("PUSH", push("c"), json!({ "id": "$c4" })),
        step("PUSH", json!({ "queue": "c", "data": 1, "delay": 60_000 }), json!({ "id": "$c5" })),
        step("PULL", pull("c"), json!({ "job": { "id": "$c4" } })),
        step("PUSH", push("c"), json!({ "id": "$c6" })),
        step("DRAIN", json!({ "queue": "c" }), json!({ "count": 2 })),
        step("GETSTATE", json!({ "id": "$c4" }), json!({ "state": "active" })),
        step("PUSH", push("c"), json!({ "id": "$c7" })),
        step("OBLITERATE", json!({ "queue": "c" }), json!({ "count": "number" })),
        step("ACK", json!({ "id": "$c4" }), json!({ "error": "~not found" })),
        step("PULL", json!({ "queue": "c", "timeout": 50 }), json!({ "job": null })),
        step(
            "GETJOBCOUNTS",
            json!({ "queue": "c" }),
            json!({ "waiting": 0, "active": 0,
            "delayed": 0, "failed": 0 }),
        ),
    ]
}

fn crons() -> Vec<Step> {
    let every = json!({ "name": "every", "queue": "s", "data": { "n": 1 },
        "schedule": "*/30 * * * * *", "repeat_every": null, "priority": 0, "next_run": "time",
        "executions": "number", "limit": 5 });
    let bad = |schedule| json!({ "name": "bad", "queue": "s", "data": 1, "schedule": schedule });
    let mut steps = vec![
        step(
            "CRON",
            json!({ "name": "every", "queue": "s", "data": { "n": 1 },
                "schedule": "*/30 * * * * *", "limit": 5 }),
            json!({}),
        ),
        step("CRONLIST", json!({}), json!({ "crons": [every], "jobs": [every] })),
        step(
            "CRON",
            json!({ "name": "every", "queue": "s", "data": 2, "repeat_every": 60_000,
                "priority": 3 }),
            json!({}),
        ),
        step(
            "CRONLIST",
            json!({}),
            json!({ "crons": [{ "name": "every", "data": 2, "schedule": null,
                "repeat_every": 60_000, "priority": 3, "limit": null }] }),
        ),
        step("CRONDELETE", json!({ "name": "every" }), json!({})),
        step("CRONDELETE", json!({ "name": "every" }), json!({ "error": "~cron job not found" })),
        step("CRONLIST", json!({}), json!({ "crons": [] })),
        step("CRON", bad("often"), json!({ "error": "~invalid" })),
        step("CRON", bad("99 * * * *"), json!({ "error": "~invalid" })),
        step(
            "CRON",
            json!({ "name": "bad", "queue": "s", "data": 1 }),
            json!({ "error": "~must" }),
        ),
    ];
    for schedule in ["*/5", "*/5 * * * *", "0 9 * * 1-5", "0 0 0 1 1 *", "@daily"] {
        let cron = json!({ "name": "kind", "queue": "s", "schedule": schedule });
        let listed = json!({ "crons": [{ "name": "kind", "schedule": schedule }] });
        steps.push(step("CRON", cron, json!({})));
        steps.push(step("CRONLIST", json!({}), listed));
    }
    steps.push(step("CRONDELETE", json!({ "name": "kind" }), json!({})));
    // It fires.
    let often = json!({ "name": "often", "queue": "s2", "data": 7, "repeat_every": 1000 });
    steps.push(step("CRON", often, json!({})));
    let fired = json!({ "job": { "id": "$s1", "data": 7 } });
    steps.push(step("PULL", json!({ "queue": "s2", "timeout": 10_000 }), fired));
    steps.push(step("CRONDELETE", json!({ "name": "often" }), json!({})));
    steps
}

fn flows() -> Vec<Step> {
    let children = json!([
        { "queue": "fc", "data": 1 },
        { "queue": "fc", "data": 2, "priority": 3 },
        { "queue": "fc", "data": 3, "delay": 0 },
    ]);
    let ids = json!(["$fl1", "$fl2", "$fl3"]);
    let told = |completed| {
        json!({ "parent_id": "$fl0", "children_ids": ids, "ids": ids, "completed": completed,
            "total": 3, "children": [{ "id": "$fl1" }, { "id": "$fl2" }, { "id": "$fl3" }] })
    };
    let (state, parent) = (|| json!({ "id": "$fl0" }), || json!({ "parent_id": "$fl0" }));
    vec![
        step(
            "FLOW",
            json!({ "queue": "fp", "data": { "all": true }, "children": children, "priority": 0 }),
            json!({ "parent_id": "$fl0", "children_ids": ids }),
        ),
        step("GETSTATE", state(), json!({ "state": "waiting-parent" })),
        step("GETCHILDREN", parent(), told(0)),
        step("PULL", json!({ "queue": "fp", "timeout": 50 }), json!({ "job": null })),
        step(
            "PULLB",
            json!({ "queue": "fc", "count": 3, "timeout": 10_000 }),
            json!({ "jobs": [
                { "id": "$fl2", "data": 2 }, { "id": "$fl1" }, { "id": "$fl3" },
            ] }),
        ),
        step("ACK", json!({ "id": "$fl1" }), json!({})),
        step("GETCHILDREN", parent(), told(1)),
        step("ACKB", json!({ "ids": ["$fl2", "$fl3"] }), json!({ "count": 2 })),
        step("GETSTATE", state(), json!({ "state": "waiting" })),
        step(
            "PULL",
            json!({ "queue": "fp", "timeout": 10_000 }),
            json!({ "job": { "id": "$fl0", "children_ids": ids, "children_completed": 3 } }),
        ),
        step("GETCHILDREN", parent(), told(3)),
        step("ACK", json!({ "id": "$fl0" }), json!({})),
        step("GETCHILDREN", parent(), told(3)),
        step(
            "FLOW",
            json!({ "queue": "fp", "data": 1, "children": [] }),
            json!({ "error": "~at least one child" }),
        ),
    ]
}

fn statistics() -> Vec<Step> {
    let numbers = json!({ "total_pushed": "number", "total_completed": "number",
        "total_failed": "number", "jobs_per_second": "number", "avg_latency_ms": "number",
        "queues": { "@has": { "name": "st", "pending": 1, "processing": 0, "dlq": 0,
            "rate_limit": null } } });
    let mut both = numbers.clone();
    both["metrics"] = numbers;
    let queue = json!({ "waiting": 1, "active": 0, "completed": 0, "failed": 0, "delayed": 0,
        "paused": false });
    vec![
        step("PUSH", json!({ "queue": "st", "data": 1 }), json!({ "id": "$st" })),
        step(
            "STATS",
            json!({}),
            json!({ "queued": "number", "processing": "number", "delayed": "number",
                "dlq": "number", "completed": "number", "queues": { "st": queue } }),
        ),
        step("METRICS", json!({}), both),
    ]
}

fn values() -> Vec<Step> {
    let key = |key| json!({ "key": key });
    let entries =
        json!([{ "key": "v:a", "value": 1 }, { "key": "v:b", "value": "two", "ttl": 60_000 }]);
    let mixed = json!([{ "key": "v:c", "value": 1 }, { "key": "batonq.x", "value": 1 }]);
    vec![
        step("KVSET", json!({ "key": "v:é", "value": { "n": [1, null] } }), json!({})),
        step("KVGET", key("v:é"), json!({ "value": { "n": [1, null] } })),
        step("KVGET", key("v:none"), json!({ "value": null })),
        step("KVEXISTS", key("v:é"), json!({ "exists": true })),
        step("KVEXISTS", key("v:none"), json!({ "exists": false })),
        step("KVTTL", key("v:é"), json!({ "ttl": -1 })),
        step("KVTTL", key("v:none"), json!({ "ttl": -2 })),
        step("KVEXPIRE", json!({ "key": "v:é", "ttl": 60_000 }), json!({ "exists": true })),
        step("KVEXPIRE", json!({ "key": "v:none", "ttl": 60_000 }), json!({ "exists": false })),
        step("KVTTL", key("v:é"), json!({ "ttl": "number" })),
        step("KVMSET", json!({ "entries": entries }), json!({ "count": 2 })),
        step(
            "KVMGET",
            json!({ "keys": ["v:b", "v:none", "v:a"] }),
            json!({ "values": ["two", null, 1] }),
        ),
        step("KVKEYS", json!({ "pattern": "v:?" }), json!({ "keys": ["v:a", "v:b", "v:é"] })),
        step("KVKEYS", json!({ "pattern": "*é" }), json!({ "keys": ["v:é"] })),
        step("KVKEYS", json!({ "pattern": "*x" }), json!({ "keys": [] })),
        step("KVINCR", json!({ "key": "v:a", "by": 41 }), json!({ "value": 42 })),
        step("KVINCR", key("v:new"), json!({ "value": 1 })),
        step("KVINCR", json!({ "key": "v:new", "by": -3 }), json!({ "value": -2 })),
        step("KVGET", key("v:new"), json!({ "value": -2 })),
        step("KVINCR", key("v:b"), json!({ "error": "~value is not" })),
        step("KVDEL", key("v:a"), json!({ "exists": true })),
        step("KVDEL", key("v:a"), json!({ "exists": false })),
        step("KVGET", key("v:a"), json!({ "value": null })),
        step("KVSET", json!({ "key": "", "value": 1 }), json!({ "error": "~key" })),
        step("KVSET", json!({ "key": "k".repeat(1025), "value": 1 }), json!({ "error": "~key" })),
        step(
            "KVSET",
            json!({ "key": "batonq.x", "value": 1 }),
            json!({ "error": "~key: batonq.x" }),
        ),
        step("KVMSET", json!({ "entries": mixed }), json!({ "count": 1 })),
        step("KVMGET", json!({ "keys": ["batonq.x", "v:c"] }), json!({ "values": [null, 1] })),
        step("KVINCR", key("batonq.x"), json!({ "error": "~key: batonq.x" })),
        step("KVKEYS", json!({ "pattern": "batonq*" }), json!({ "keys": [] })),
    ]
}

fn refusals() -> Vec<Step> {
    let invalid = || json!({ "error": "~invalid" });
    let long = "q".repeat(257);
    vec![
        step("NOSUCH", json!({}), invalid()),
        step("push", json!({ "queue": "r", "data": 1 }), invalid()),
        step("PUSH", json!({ "data": 1 }), json!({ "error": "~missing field `queue`" })),
        step("PULL", json!({}), json!({ "error": "~missing field `queue`" })),
        step("PULL", json!({ "queue": 7 }), invalid()),
        step("PULL", json!({ "queue": "r", "timeout": -1 }), invalid()),
        step("ACK", json!({ "id": "one" }), invalid()),
        step("ACK", json!({ "id": 1.5 }), invalid()),
        step("ACK", json!({}), json!({ "error": "~missing field `id`" })),
        step("ACKB", json!({ "ids": 1 }), invalid()),
        step("PUSHB", json!({ "queue": "r", "jobs": 1 }), invalid()),
        step("PUSH", json!({ "queue": "", "data": 1 }), json!({ "error": "~queue name" })),
        step("PUSH", json!({ "queue": long, "data": 1 }), json!({ "error": "~queue name" })),
        step("PUSH", json!({ "queue": "a b!", "data": 1 }), json!({ "error": "~queue name" })),
        step("PUSH", json!({ "queue": "r", "data": 1, "max_attempts": -1 }), invalid()),
        step("PUSH", json!({ "queue": "r", "data": 1, "tags": "t" }), invalid()),
        step("COUNT", json!({ "queue": "r" }), json!({ "count": 0 })),
    ]
}
