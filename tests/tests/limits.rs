//! Each limit at its edge, through the front doors: one below, at it, one above.

use std::net::SocketAddr;
use std::time::Duration;

use batonq_protocol::Message;
use batonq_protocol::messages as wire;
use batonq_server::limits;
use batonq_tests::harness::{Server, Wire, free_text};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What a transport says to a value: yes, or the code.
async fn edges(what: &str, max: usize, refused: &str, mut ask: impl AsyncFnMut(usize) -> String) {
    for (value, expected) in [(max - 1, "OK"), (max, "OK"), (max + 1, refused)] {
        assert_eq!(ask(value).await, expected, "{what} of {value}");
    }
}

fn verdict(reply: &batonq_tests::harness::Reply) -> String {
    match reply.status {
        200..300 => "OK".into(),
        _ => reply.json()["code"].as_str().unwrap_or_default().to_owned(),
    }
}

fn said(message: Message) -> String {
    match message {
        Message::Error(error) => error.code().meaning().name.into(),
        Message::Pushed(pushed) => match &pushed.results[0].error {
            Some(error) => error.code().meaning().name.into(),
            None => "OK".into(),
        },
        _ => "OK".into(),
    }
}

fn job(queue: &str, payload: usize) -> wire::NewJob {
    let payload = Bytes::from(vec![b'1'; payload]);
    wire::NewJob { queue: queue.into(), payload, ..wire::NewJob::default() }
}

fn push(jobs: Vec<wire::NewJob>) -> Message {
    Message::Push(wire::Push { jobs })
}

#[tokio::test]
async fn over_tcp() {
    let server = Server::start();
    let mut wire = Wire::greeted(server.tcp).await;
    edges("payload", limits::PAYLOAD_BYTES_MAX, "PAYLOAD_TOO_LARGE", async |bytes| {
        said(wire.ask(2, push(vec![job("q", bytes)])).await)
    })
    .await;
    edges("queue name", *limits::QUEUE_NAME_BYTES.end(), "INVALID", async |bytes| {
        said(wire.ask(2, push(vec![job(&free_text(bytes), 1)])).await)
    })
    .await;
    edges("batch", limits::BATCH_MAX, "INVALID", async |count| {
        said(wire.ask(2, push(vec![job("q", 1); count])).await)
    })
    .await;
    edges("count of a pull", limits::BATCH_MAX, "INVALID", async |count| {
        let pull = wire::Pull { queue: "none".into(), count: count as u32, ..<_>::default() };
        said(wire.ask(2, Message::Pull(pull)).await)
    })
    .await;
    edges("lease", 86_400_000, "INVALID", async |lease_ms| {
        let lease_ms = lease_ms as u64;
        let pull = wire::Pull { queue: "none".into(), lease_ms, ..<_>::default() };
        said(wire.ask(2, Message::Pull(pull)).await)
    })
    .await;
    edges("credit", limits::CREDIT_MAX as usize, "INVALID", async |credit| {
        let mut wire = Wire::greeted(server.tcp).await;
        let subscribe = wire::Subscribe { queue: "none".into(), credit: credit as u32 };
        said(wire.ask(2, Message::Subscribe(subscribe)).await)
    })
    .await;
    for (wait_ms, expected) in [(60_000, "OK"), (60_001, "INVALID")] {
        // There is a job, so that nobody has to wait.
        said(wire.ask(2, push(vec![job("wait", 1)])).await);
        let pull = wire::Pull { queue: "wait".into(), wait_ms, ..<_>::default() };
        assert_eq!(said(wire.ask(2, Message::Pull(pull)).await), expected, "wait {wait_ms}");
    }
}

#[tokio::test]
async fn over_http() {
    let server = Server::start();
    let http = server.http();
    edges("payload", limits::PAYLOAD_BYTES_MAX, "PAYLOAD_TOO_LARGE", async |bytes| {
        let payload = free_text(bytes - 2);
        verdict(&http.post("/v1/queues/q/jobs", json!({ "payload": payload })).await)
    })
    .await;
    edges("queue name", *limits::QUEUE_NAME_BYTES.end(), "INVALID", async |bytes| {
        let path = format!("/v1/queues/{}/jobs", free_text(bytes));
        verdict(&http.post(&path, json!({ "payload": 1 })).await)
    })
    .await;
    edges("batch", limits::BATCH_MAX, "INVALID", async |count| {
        let jobs: Vec<Value> = vec![json!({ "payload": 1 }); count];
        verdict(&http.post("/v1/queues/q/jobs/batch", json!({ "jobs": jobs })).await)
    })
    .await;
    edges("lease", 86_400_000, "INVALID", async |lease_ms| {
        verdict(&http.post("/v1/queues/none/pull", json!({ "lease_ms": lease_ms })).await)
    })
    .await;
    for (lease_ms, expected) in [(999, "INVALID"), (1000, "OK"), (1001, "OK")] {
        let reply = http.post("/v1/queues/none/pull", json!({ "lease_ms": lease_ms })).await;
        assert_eq!(verdict(&reply), expected, "lease of {lease_ms}");
    }
    edges("tags", limits::TAGS_MAX, "INVALID", async |count| {
        let tags: Vec<String> = (0..count).map(|number| format!("t{number}")).collect();
        verdict(&http.post("/v1/queues/q/jobs", json!({ "payload": 1, "tags": tags })).await)
    })
    .await;
    edges("unique key", *limits::UNIQUE_KEY_BYTES.end(), "INVALID", async |bytes| {
        let unique = json!({ "key": free_text(bytes) });
        verdict(&http.post("/v1/queues/q/jobs", json!({ "payload": 1, "unique": unique })).await)
    })
    .await;
    edges("page", limits::PAGE_MAX, "INVALID", async |limit| {
        verdict(&http.get(&format!("/v1/jobs?limit={limit}")).await)
    })
    .await;
}

#[tokio::test]
async fn a_large_backlog_comes_in_frames_that_fit() {
    let server = Server::start();
    let mut wire = Wire::greeted(server.tcp).await;
    for _ in 0..4 {
        let jobs = vec![job("big", limits::PAYLOAD_BYTES_MAX); 3];
        assert_eq!(said(wire.ask(2, push(jobs)).await), "OK");
    }
    let mut seen = 0;
    while seen < 12 {
        let pull = wire::Pull { queue: "big".into(), count: 1000, ..<_>::default() };
        let Message::Pulled(pulled) = wire.ask(3, Message::Pull(pull)).await else { panic!() };
        assert!((1..=3).contains(&pulled.jobs.len()));
        seen += pulled.jobs.len();
    }
}

#[tokio::test]
async fn too_many_waiting_pulls_of_one_connection_are_refused_and_the_rest_serve() {
    let server = Server::start();
    let mut wire = Wire::greeted(server.tcp).await;
    for request_id in 2..=131 {
        let pull = wire::Pull { queue: "none".into(), wait_ms: 30_000, ..<_>::default() };
        wire.say(request_id, Message::Pull(pull)).await;
    }
    for _ in 0..2 {
        let Message::Error(error) = wire.answer().await else { panic!("not refused") };
        assert_eq!(error.code().meaning().name, "OVERLOADED");
    }
    assert_eq!(said(wire.ask(500, push(vec![job("q", 1)])).await), "OK");
}

#[tokio::test]
async fn more_requests_than_may_be_in_flight_are_read_later_and_all_answered() {
    let server = Server::start();
    let mut wire = Wire::greeted(server.tcp).await;
    let count = limits::IN_FLIGHT_MAX as u64 + 1;
    let mut frames = bytes::BytesMut::new();
    for request_id in 2..2 + count {
        let frame = batonq_tests::harness::frame(request_id, push(vec![job("q", 1)]));
        frames.extend_from_slice(&frame);
    }
    wire.send(&frames).await;
    for _ in 0..count {
        assert_eq!(said(wire.answer().await), "OK");
    }
}

/// What a client hears that asks a while after it has connected: an answer before the question
/// would be taken for a broken connection.
async fn answer_to_a_late_request(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let early = tokio::time::timeout(Duration::from_millis(50), stream.read_u8()).await;
    assert!(early.is_err(), "it answers before it is asked: {early:?}");
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: node\r\n\r\n").await.expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("it answers");
    answer.chars().take(12).collect()
}

#[tokio::test]
async fn one_connection_more_than_allowed_is_turned_away_and_others_stay() {
    // However long it takes to connect them all, none is cut off for its silence.
    let server = Server::with().env("BATONQ_HEARTBEAT_TIMEOUT", "10m").start();
    let mut client = Wire::greeted(server.tcp).await;
    let mut open = Vec::new();
    // One below the limit, all but for one, there is room for another.
    for _ in 2..limits::CONNECTIONS_MAX {
        // This test needs 10 000 file handles here and there: `ulimit -n`.
        open.push(Wire::greeted(server.tcp).await);
    }
    assert_eq!(server.http().get("/health").await.status, 200);
    let last =
        batonq_tests::harness::eventually("that one has gone, the last is let in", async || {
            let mut last = server.wire().await;
            last.send(&batonq_protocol::PREFACE).await;
            last.say(1, Message::Hello(Box::new(batonq_tests::harness::hello("")))).await;
            last.hear().await.map(|_| last)
        });
    open.push(last.await);
    batonq_tests::harness::eventually("all of them are let in, and one is refused", async || {
        let reply = server.http().get("/health").await;
        (reply.problem() == (503, "OVERLOADED".into())).then_some(())
    })
    .await;
    assert_eq!(answer_to_a_late_request(server.http().address).await, "HTTP/1.1 503");
    assert!(server.wire().await.until_closed().await.is_empty());
    assert_eq!(said(client.ask(2, push(vec![job("q", 1)])).await), "OK");
    open.clear();
    batonq_tests::harness::eventually("there is room again", async || {
        (server.http().get("/health").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn more_queues_than_fit_into_an_answer_are_listed_in_parts() {
    let server = Server::start();
    let client = server.client().await;
    let count = limits::PAGE_MAX * 2 + 1;
    let name = |number: usize| format!("{}-{number:05}", free_text(240));
    let jobs: Vec<_> =
        (0..count).map(|number| batonq_client::NewJob::new(name(number), "{}")).collect();
    for jobs in jobs.chunks(500) {
        client.push_batch(jobs.to_vec()).await.unwrap();
    }
    let queues = client.queues().await.unwrap();
    assert_eq!(queues.len(), count);
    assert!(queues.iter().enumerate().all(|(number, queue)| queue.name == name(number)));
    let listed = server.http().get("/v1/queues").await.json();
    assert_eq!(listed["queues"].as_array().unwrap().len(), count);
}
