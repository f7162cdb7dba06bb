//! flashQ's HTTP API, seen by those who use it.
//!
//! A conversation is a table of calls of a client; [`Client`] asks as that client would and reads the
//! answer as it would, and what it makes of it is compared with what is expected.

#![allow(clippy::unwrap_used, reason = "everything here is a test, which fails by panicking")]

mod browsers;
mod clients;
mod dashboard;
mod leases;
mod live;
mod mcp;
mod nodes;
mod refusals;
mod sockets;
mod subscribe;
mod tokens;
mod typescript;
mod webhooks;

use std::sync::Arc;

use batonq_tests::harness::{Cluster, Http, Known, Postgres, Server, eventually};
use clients::Client;
use hyper::Method;
use serde_json::{Value, json};

/// What every client says of what it sends, even if it sends nothing.
const JSON: (&str, &str) = ("content-type", "application/json");

/// A call at a node and what its client is to make of the answer; `error` alone: a refusal.
struct Step {
    node: usize,
    cmd: &'static str,
    fields: Value,
    expected: Value,
}

/// A call at the only node.
fn step(cmd: &'static str, fields: Value, expected: Value) -> Step {
    on(0, cmd, fields, expected)
}

/// A call at this node.
fn on(node: usize, cmd: &'static str, fields: Value, expected: Value) -> Step {
    Step { node, cmd, fields, expected }
}

/// Has a client make calls, one after the other.
///
/// # Panics
///
/// With all that it was told wrong.
async fn hold(client: Client, nodes: &[Http], steps: Vec<Step>) {
    let (mut known, mut wrong) = (Known::default(), Vec::new());
    for step in steps {
        let asked = client.request(step.cmd, &known.filled(step.fields));
        let body = asked.body.as_ref().map(|body| body.to_string().into());
        let (method, path) = (asked.method.clone(), &asked.path);
        let reply = nodes[step.node].send(method, path, body, client.headers()).await;
        let told = match reply.headers["content-type"].to_str() {
            Ok("application/json") => client.read(step.cmd, &reply),
            other => Err(format!("no JSON: {other:?}")),
        };
        let compared = match (step.expected.get("error"), told) {
            (Some(expected), Err(error)) => known.compare(expected, &error.into()),
            (None, Ok(told)) if reply.status == 200 => known.compare(&step.expected, &told),
            (_, told) => Err(format!("{}: {told:?}", reply.status)),
        };
        if let Err(what) = compared {
            wrong.push(format!("{}: {what}\n  asked {asked:?}\n  told  {}", step.cmd, reply.text));
        }
    }
    assert!(wrong.is_empty(), "{client:?}:\n{}", wrong.join("\n"));
}

/// Browsers are told that pages from there may talk to the node.
const ALLOWED: (&str, &str) = ("BATONQ_CORS_ORIGINS", clients::PAGE);

/// Holds conversations with a node of its own, each with names of its own.
async fn understands(client: Client, conversations: &[fn() -> Vec<Step>]) {
    let server = Server::with().env(ALLOWED.0, ALLOWED.1).start();
    for conversation in conversations {
        hold(client, &[server.http()], conversation()).await;
    }
}

#[tokio::test]
async fn the_typescript_client_is_understood() {
    understands(Client::TypeScript, typescript::ALL).await;
}

#[tokio::test]
async fn the_mcp_server_is_understood() {
    understands(Client::Mcp, mcp::ALL).await;
}

#[tokio::test]
async fn the_dashboard_is_understood() {
    understands(Client::Dashboard, dashboard::ALL).await;
}

#[tokio::test]
async fn three_nodes_are_one_broker() {
    let cluster = Cluster::on(Arc::new(Postgres::start()), 3, &[ALLOWED]).await;
    let nodes = [0, 1, 2].map(|place| cluster.http(place));
    for (client, conversation) in nodes::ALL {
        hold(*client, &nodes, conversation()).await;
    }
}

#[tokio::test]
async fn each_node_tells_what_all_nodes_have_done() {
    let cluster = Cluster::on(Arc::new(Postgres::start()), 3, &[]).await;
    let nodes = [0, 1, 2].map(|place| cluster.http(place));
    live_a_life(nodes.each_ref(), "q").await;
    fail_for_good(&nodes[1], "f").await;
    for node in &nodes {
        eventually("each has added what it has done", || async {
            let metrics = get(node, "/metrics").await;
            let totals = ["total_pushed", "total_completed", "total_failed"];
            let is_all = totals.map(|name| &metrics[name]) == [&json!(2), &json!(1), &json!(1)];
            let is_lately = metrics["jobs_per_second"].as_f64() > Some(0.0);
            (is_all && is_lately).then_some(())
        })
        .await;
    }
}

/// Sends what a client would: JSON. The `data` of the answer.
///
/// # Panics
///
/// If it is refused.
async fn done(http: &Http, method: Method, path: &str, body: Option<Value>) -> Value {
    let body = body.map(|body| body.to_string().into());
    let reply = http.send(method, path, body, &[JSON]).await;
    assert_eq!((reply.status, &reply.json()["ok"]), (200, &json!(true)), "{path}: {}", reply.text);
    reply.json()["data"].clone()
}

async fn post(http: &Http, path: &str, body: Value) -> Value {
    done(http, Method::POST, path, Some(body)).await
}

async fn get(http: &Http, path: &str) -> Value {
    done(http, Method::GET, path, None).await
}

async fn delete(http: &Http, path: &str) -> Value {
    done(http, Method::DELETE, path, None).await
}

/// Pushes a job that fails for good at once if it fails. Its id.
async fn push(http: &Http, queue: &str, data: Value) -> u64 {
    let body = json!({ "data": data, "max_attempts": 1 });
    let job = post(http, &format!("/queues/{queue}/jobs"), body).await;
    job["id"].as_u64().expect("a pushed job has an id")
}

/// Pulls the job that is there.
async fn pull(http: &Http, queue: &str) -> Value {
    let jobs = get(http, &format!("/queues/{queue}/jobs?count=1&timeout=10000")).await;
    assert_eq!(jobs.as_array().map(Vec::len), Some(1), "{jobs}");
    jobs[0].clone()
}

/// A job with a story: it makes progress, hands out a part of its result and the whole.
async fn live_a_life(at: [&Http; 3], queue: &str) -> u64 {
    let id = push(at[0], queue, json!({ "n": 1 })).await;
    assert_eq!(pull(at[1], queue).await["id"], id);
    let job = format!("/jobs/{id}");
    post(at[2], &format!("{job}/progress"), json!({ "progress": 40, "message": "some" })).await;
    post(at[0], &format!("{job}/partial"), json!({ "data": { "token": "a" }, "index": 0 })).await;
    post(at[2], &format!("{job}/ack"), json!({ "result": { "sum": 3 } })).await;
    id
}

/// What of that story is told, in order.
fn life(queue: &str, id: u64) -> Vec<Value> {
    let told = |kind: &str, more: Value| {
        let mut event = more;
        event["event_type"] = kind.into();
        event["queue"] = queue.into();
        event["job_id"] = id.into();
        event["timestamp"] = "time".into();
        event
    };
    let partial = json!({ "chunk": { "token": "a" }, "index": 0 });
    vec![
        told("pushed", json!({ "data": { "n": 1 }, "error": "absent", "progress": "absent" })),
        told("progress", json!({ "progress": 40, "error": "absent" })),
        told("partial", json!({ "data": partial, "error": "absent" })),
        told("completed", json!({ "data": { "sum": 3 }, "error": "absent" })),
    ]
}

/// A job that fails for good.
async fn fail_for_good(http: &Http, queue: &str) -> u64 {
    let id = push(http, queue, json!(1)).await;
    assert_eq!(pull(http, queue).await["id"], id);
    post(http, &format!("/jobs/{id}/fail"), json!({ "error": "boom" })).await;
    id
}

/// # Panics
///
/// If these are not the expected events.
fn assert_told(expected: &[Value], told: &[Value]) {
    assert_eq!(expected.len(), told.len(), "{told:?}");
    for (expected, told) in expected.iter().zip(told) {
        let compared = Known::default().compare(expected, told);
        compared.unwrap_or_else(|what| panic!("{what}: {told}"));
    }
}
