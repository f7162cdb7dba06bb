//! Every command of flashQ, as each of its clients sends it, is answered as each of them reads it.
//!
//! A conversation is written once, in the words of the protocol; [`Dialect`] says it as a client
//! would, and what comes back is compared with what is expected, as far as that goes: a reply may
//! say more. The same conversations are held as text and as MessagePack, once more over HTTP, and
//! those that matter most with three nodes, another one at each step.

#![allow(clippy::unwrap_used, reason = "everything here is a test, which fails by panicking")]

mod dialect;
mod jobs;
mod nodes;
mod queues;

use std::net::SocketAddr;

use batonq_tests::harness::flashq::Mode;
use batonq_tests::harness::{Cluster, FlashQ, Http, Known, Server};
use dialect::Dialect;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// A request to a node and what its reply has to have.
struct Step {
    node: usize,
    cmd: &'static str,
    fields: Value,
    expected: Value,
}

/// A request to the only node.
fn step(cmd: &'static str, fields: Value, expected: Value) -> Step {
    on(0, cmd, fields, expected)
}

/// A request to this node.
fn on(node: usize, cmd: &'static str, fields: Value, expected: Value) -> Step {
    Step { node, cmd, fields, expected }
}

/// The way to a node.
enum Line {
    Tcp(FlashQ),
    /// Each request by itself.
    Http(Http),
}

impl Line {
    async fn ask(&mut self, request: &Value) -> Value {
        match self {
            Self::Tcp(connection) => {
                connection.say(request).await;
                connection.reply().await
            }
            Self::Http(http) => {
                let reply = http.post("/api/command", request.clone()).await;
                assert_eq!(reply.status, 200, "{request}: {}", reply.text);
                reply.json()
            }
        }
    }
}

/// A conversation in progress.
struct Talk {
    dialect: Dialect,
    mode: Mode,
    /// To each node.
    lines: Vec<Line>,
    known: Known,
    wrong: Vec<String>,
}

impl Talk {
    async fn with(nodes: &[SocketAddr], dialect: Dialect, mode: Mode) -> Self {
        let mut lines = Vec::new();
        for node in nodes {
            lines.push(Line::Tcp(FlashQ::connect(*node, mode).await));
        }
        Self { dialect, mode, lines, known: Known::default(), wrong: Vec::new() }
    }

    /// Over HTTP, as the Python client does if it is told to.
    fn over_http(nodes: Vec<Http>) -> Self {
        let (dialect, mode, known) = (Dialect::Python, Mode::Text, Known::default());
        let lines = nodes.into_iter().map(Line::Http).collect();
        Self { dialect, mode, lines, known, wrong: Vec::new() }
    }

    async fn hold(&mut self, steps: Vec<Step>) {
        for (place, step) in steps.into_iter().enumerate() {
            let fields = self.known.filled(step.fields);
            let mut request = self.dialect.request(self.mode, step.cmd, fields);
            let line = &mut self.lines[step.node];
            let id = match line {
                Line::Tcp(_) => self.dialect.req_id(place),
                Line::Http(_) => Value::Null,
            };
            if !id.is_null() {
                request["reqId"] = id.clone();
            }
            let reply = line.ask(&request).await;
            let expected = self.dialect.expected(step.cmd, with_the_usual(step.expected, id));
            if let Err(what) = self.known.compare(&expected, &reply) {
                self.wrong.push(format!("{what}\n  asked {request}\n  told  {reply}"));
            }
        }
    }

    fn end(self) {
        let Self { dialect, mode, wrong, .. } = self;
        assert!(wrong.is_empty(), "{dialect:?}, {mode:?}:\n{}", wrong.join("\n"));
    }
}

/// What every reply has.
fn with_the_usual(mut expected: Value, id: Value) -> Value {
    let is_done = expected.get("error").is_none();
    if is_done {
        expected["error"] = "absent".into();
    }
    expected["ok"] = is_done.into();
    expected["success"] = is_done.into();
    expected["reqId"] = if id.is_null() { "absent".into() } else { id };
    expected
}

async fn understands(dialect: Dialect) {
    for mode in Mode::ALL {
        let server = Server::start();
        let mut talk = Talk::with(&[server.tcp], dialect, mode).await;
        for conversation in jobs::ALL.iter().chain(queues::ALL) {
            talk.hold(conversation()).await;
        }
        talk.end();
    }
}

#[tokio::test]
async fn the_rust_client_is_understood() {
    understands(Dialect::Rust).await;
}

#[tokio::test]
async fn the_typescript_client_is_understood() {
    understands(Dialect::TypeScript).await;
}

#[tokio::test]
async fn the_python_client_is_understood() {
    understands(Dialect::Python).await;
}

#[tokio::test]
async fn the_go_client_is_understood() {
    understands(Dialect::Go).await;
}

#[tokio::test]
async fn the_python_client_is_understood_over_http_too() {
    let server = Server::start();
    let mut talk = Talk::over_http(vec![server.http()]);
    for conversation in jobs::ALL.iter().chain(queues::ALL) {
        talk.hold(conversation()).await;
    }
    talk.end();
}

#[tokio::test]
async fn three_nodes_are_one_broker_over_http_too() {
    let cluster = Cluster::of(3).await;
    let mut talk = Talk::over_http((0..3).map(|place| cluster.http(place)).collect());
    for conversation in nodes::ALL {
        talk.hold(conversation()).await;
    }
    talk.end();
}

#[tokio::test]
async fn three_nodes_are_one_broker() {
    let cluster = Cluster::of(3).await;
    let nodes: Vec<SocketAddr> = cluster.nodes.iter().map(|node| node.tcp).collect();
    for mode in Mode::ALL {
        let mut talk = Talk::with(&nodes, Dialect::Rust, mode).await;
        for conversation in nodes::ALL {
            talk.hold(conversation()).await;
        }
        talk.end();
    }
}

/// A request that is not answered yet, over a connection of its own.
fn asking(node: SocketAddr, cmd: &'static str, fields: Value) -> JoinHandle<Value> {
    tokio::spawn(async move { FlashQ::connect(node, Mode::Text).await.ask(cmd, fields).await })
}

#[tokio::test]
async fn who_waits_at_a_node_hears_of_what_is_done_at_others() {
    let cluster = Cluster::of(3).await;
    let [a, b, c] = [0, 1, 2].map(|place: usize| cluster.nodes[place].tcp);
    let pulling = asking(a, "PULL", json!({ "queue": "w", "timeout": 15_000 }));
    let mut other = FlashQ::connect(b, Mode::Text).await;
    let id = other.done("PUSH", json!({ "queue": "w", "data": 1 })).await["id"].clone();
    assert_eq!(pulling.await.unwrap()["job"]["id"], id);
    // Whoever had it is gone, so it goes round once more.
    assert_eq!(other.done("PULL", json!({ "queue": "w" })).await["job"]["id"], id);
    let waiting = asking(c, "WAITJOB", json!({ "id": id, "timeout": 15_000 }));
    other.done("ACK", json!({ "id": id, "result": [1] })).await;
    assert_eq!(waiting.await.unwrap()["result"], json!([1]));
}

#[tokio::test]
async fn who_waits_for_a_job_is_told_how_it_ended() {
    let server = Server::start();
    let mut worker = FlashQ::connect(server.tcp, Mode::Text).await;
    for (verb, fields, expected) in [
        ("ACK", json!({ "result": { "n": 1 } }), json!({ "n": 1 })),
        ("ACK", json!({}), Value::Null),
        ("FAIL", json!({ "error": "no" }), "Job failed".into()),
        ("CANCEL", json!({}), "cancel".into()),
        ("DISCARD", json!({}), "Job failed".into()),
    ] {
        let push = json!({ "queue": "w", "data": 1, "max_attempts": 1 });
        let id = worker.done("PUSH", push).await["id"].clone();
        let waiting = asking(server.tcp, "WAITJOB", json!({ "id": id, "timeout": 15_000 }));
        worker.done("PULL", json!({ "queue": "w", "timeout": 10_000 })).await;
        let mut fields = fields;
        fields["id"] = id;
        worker.done(verb, fields).await;
        let told = waiting.await.unwrap();
        match expected.as_str() {
            None => assert_eq!(told["result"], expected, "{verb}: {told}"),
            Some(part) => {
                let error = told["error"].as_str().unwrap_or_default();
                assert!(error.to_lowercase().contains(&part.to_lowercase()), "{verb}: {told}");
            }
        }
    }
    let push = json!({ "queue": "w", "data": 1 });
    let id = worker.done("PUSH", push).await["id"].clone();
    let told = worker.ask("WAITJOB", json!({ "id": id, "timeout": 50 })).await;
    assert!(told["error"].as_str().is_some_and(|error| error.contains("Timeout")), "{told}");
}
