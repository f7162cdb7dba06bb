//! Whatever a client sends to the binary port, it gets the documented answer or none, and nobody
//! else notices.

use std::collections::BTreeMap;
use std::time::Duration;

use batonq_client::NewJob;
use batonq_protocol::messages as wire;
use batonq_protocol::{
    Envelope, ErrorCode, FRAME_BYTES_MAX, FRAME_BYTES_MAX_UNAUTHENTICATED, Message, PREFACE,
};
use batonq_tests::harness::{Server, Wire, frame, hello};
use bytes::{Bytes, BytesMut};
use rand::RngExt;

/// The server still serves.
async fn assert_alive(server: &Server) {
    let client = server.client().await;
    client.push(NewJob::new("alive", "{}")).await.expect("others are served");
    client.close().await;
}

fn code(envelope: Option<&Envelope>) -> Option<ErrorCode> {
    match &envelope?.message {
        Some(Message::Error(error)) => Some(error.code()),
        _ => None,
    }
}

#[tokio::test]
async fn another_protocol_is_cut_off_without_a_word() {
    let server = Server::start();
    let tls_hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    for bytes in [
        &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        tls_hello,
        b"BATONQ\x00\x02",
        b"BATONX",
        b"PUSH q 1\n",
        &[2; 64],
        &[0xff; 64],
    ] {
        let mut wire = server.wire().await;
        wire.send(bytes).await;
        assert!(wire.until_closed().await.is_empty(), "{bytes:?}");
    }
    assert_alive(&server).await;
}

#[tokio::test]
async fn random_bytes_do_no_harm() {
    let server = Server::start();
    for _ in 0..50 {
        let garbage: Vec<u8> = (0..2000).map(|_| rand::rng().random()).collect();
        let mut wire = server.wire().await;
        wire.send(&PREFACE).await;
        wire.send(&garbage).await;
        drop(wire);
        let mut greeted = Wire::greeted(server.tcp).await;
        greeted.send(&garbage).await;
    }
    assert_alive(&server).await;
}

#[tokio::test]
async fn a_frame_cut_at_any_place_is_waited_for_and_then_forgotten() {
    let server = Server::start();
    let mut whole = PREFACE.to_vec();
    whole.extend_from_slice(&frame(1, Message::Hello(Box::new(hello("")))));
    whole.extend_from_slice(&frame(2, Message::ListQueues(wire::ListQueues::default())));
    for cut in 0..whole.len() {
        let mut wire = server.wire().await;
        wire.send(&whole[..cut]).await;
    }
    assert_alive(&server).await;
}

#[tokio::test]
async fn a_frame_that_comes_byte_by_byte_is_understood() {
    let server = Server::start();
    let mut wire = server.wire().await;
    let mut whole = PREFACE.to_vec();
    whole.extend_from_slice(&frame(1, Message::Hello(Box::new(hello("")))));
    for byte in whole {
        wire.send(&[byte]).await;
    }
    assert!(matches!(wire.answer().await, Message::Welcome(_)));
}

#[tokio::test]
async fn a_length_out_of_bounds_closes_the_connection_with_a_framing_error() {
    let server = Server::start();
    let lengths = |max: usize| [0, max as u32 + 1, 1 << 31, u32::MAX];
    let memory_before = server.memory_kib();
    for length in lengths(FRAME_BYTES_MAX_UNAUTHENTICATED) {
        let mut wire = server.wire().await;
        wire.send(&PREFACE).await;
        wire.send(&length.to_be_bytes()).await;
        let heard = wire.until_closed().await;
        assert_eq!(code(heard.first()), Some(ErrorCode::Framing), "{length}");
    }
    for length in lengths(FRAME_BYTES_MAX) {
        let mut wire = Wire::greeted(server.tcp).await;
        wire.send(&length.to_be_bytes()).await;
        let heard = wire.until_closed().await;
        assert_eq!(code(heard.first()), Some(ErrorCode::Framing), "{length}");
    }
    let grown = server.memory_kib().saturating_sub(memory_before);
    assert!(grown < 16 * 1024, "memory grew by {grown} KiB");
    assert_alive(&server).await;
}

#[tokio::test]
async fn the_largest_frame_is_served_and_not_one_byte_more() {
    let server = Server::start();
    let push = |padding: usize| {
        let job = |bytes: usize| wire::NewJob {
            queue: "big".into(),
            payload: Bytes::from(vec![b'1'; bytes]),
            ..wire::NewJob::default()
        };
        let mega = 1024 * 1024;
        let jobs = vec![job(mega), job(mega), job(mega), job(padding)];
        Message::Push(wire::Push { jobs })
    };
    let size = |padding| {
        use prost::Message as _;
        Envelope { request_id: 2, message: Some(push(padding)) }.encoded_len()
    };
    let largest = (1_000_000..1024 * 1024).rev().find(|padding| size(*padding) <= FRAME_BYTES_MAX);
    let largest = largest.expect("some padding fits");
    assert_eq!(size(largest), FRAME_BYTES_MAX);
    for padding in [largest - 1, largest] {
        let mut wire = Wire::greeted(server.tcp).await;
        let Message::Pushed(pushed) = wire.ask(2, push(padding)).await else { panic!("refused") };
        assert!(pushed.results.iter().all(|result| result.error.is_none()));
    }
}

#[tokio::test]
async fn frames_that_come_together_are_answered_each_by_itself() {
    let server = Server::start();
    let mut wire = Wire::greeted(server.tcp).await;
    let job = |queue: &str, payload: &'static str| wire::NewJob {
        queue: queue.into(),
        payload: Bytes::from(payload),
        ..wire::NewJob::default()
    };
    let push = |jobs| Message::Push(wire::Push { jobs });
    let ack = |items| Message::Ack(wire::Ack { items });
    let messages = [
        push(vec![job("q", "1")]),
        push(vec![]),
        push(vec![job("q", "0"), job("batonq.own", "0")]),
        push(vec![job("q", "2"), job("", "0"), job("q", "3")]),
        ack(vec![]),
        ack(vec![wire::AckItem::default()]),
        push(vec![job("q", "4")]),
    ];
    let frames: Vec<BytesMut> =
        messages.into_iter().zip(2..).map(|(it, id)| frame(id, it)).collect();
    wire.send(&frames.concat()).await;
    let mut answers = BTreeMap::new();
    for _ in 0..frames.len() {
        let heard = wire.hear().await.expect("an answer to each");
        answers.insert(heard.request_id, heard.message.expect("a known message"));
    }
    let field = |error: &Option<wire::Error>| error.as_ref().map(|error| error.field.clone());
    let told = |answer: &Message| match answer {
        Message::Pushed(pushed) => pushed.results.iter().map(|it| field(&it.error)).collect(),
        Message::Settled(settled) => settled.results.iter().map(|it| field(&it.error)).collect(),
        Message::Error(error) => vec![Some(format!("all: {}", error.field))],
        other => panic!("{other:?}"),
    };
    let wrong = |field: &str| Some(field.to_owned());
    let expected = [
        vec![None],
        vec![wrong("all: jobs")],
        vec![wrong("all: queue")],
        vec![None, wrong("queue"), None],
        vec![wrong("all: items")],
        vec![wrong("lease")],
        vec![None],
    ];
    assert_eq!(answers.values().map(told).collect::<Vec<_>>(), expected);
    let pull = wire::Pull { queue: "q".into(), count: 9, ..wire::Pull::default() };
    let Message::Pulled(pulled) = wire.ask(20, Message::Pull(pull)).await else { panic!("no") };
    let payloads: Vec<&[u8]> = pulled.jobs.iter().map(|job| &job.payload[..]).collect();
    assert_eq!(payloads, [b"1", b"2", b"3", b"4"], "in the order in which they came");
}

#[tokio::test]
async fn before_the_hello_nothing_else_is_answered() {
    let server = Server::start();
    let mut wire = server.wire().await;
    wire.send(&PREFACE).await;
    wire.say(1, Message::ListQueues(wire::ListQueues::default())).await;
    assert!(wire.until_closed().await.is_empty());
}

#[tokio::test]
async fn no_version_in_common_is_said() {
    let server = Server::start();
    for (version_min, version_max) in [(2, 9), (0, 0), (5, 1)] {
        let mut wire = server.wire().await;
        wire.send(&PREFACE).await;
        wire.say(
            7,
            Message::Hello(Box::new(wire::Hello { version_min, version_max, ..hello("") })),
        )
        .await;
        let heard = wire.until_closed().await;
        assert_eq!(code(heard.first()), Some(ErrorCode::UnsupportedVersion));
        assert_eq!(heard[0].request_id, 7);
    }
}

#[tokio::test]
async fn a_bad_request_is_answered_and_the_connection_stays() {
    let server = Server::start();
    let mut wire = Wire::greeted(server.tcp).await;
    let job = |queue: &str| wire::NewJob { queue: queue.into(), ..wire::NewJob::default() };
    let bad_lease = Bytes::from_static(&[0; 20]);
    for (message, field) in [
        (Message::Push(wire::Push { jobs: vec![] }), "jobs"),
        (Message::Push(wire::Push { jobs: vec![job("q"); 1001] }), "jobs"),
        (Message::Pull(wire::Pull { queue: "a b".into(), ..wire::Pull::default() }), "queue"),
        (
            Message::Pull(wire::Pull { queue: "q".into(), count: 1001, ..wire::Pull::default() }),
            "count",
        ),
        (
            Message::Pull(wire::Pull { queue: "q".into(), lease_ms: 999, ..wire::Pull::default() }),
            "lease_ms",
        ),
        (
            Message::Pull(wire::Pull {
                queue: "q".into(),
                wait_ms: 60_001,
                ..wire::Pull::default()
            }),
            "wait_ms",
        ),
        (Message::Ack(wire::Ack { items: vec![] }), "items"),
        (
            Message::Progress(wire::Progress {
                lease: bad_lease.clone(),
                ..wire::Progress::default()
            }),
            "lease",
        ),
        (Message::Welcome(Box::default()), "message"),
        (Message::Subscribe(wire::Subscribe { queue: String::new(), credit: 1 }), "queue"),
        (Message::Subscribe(wire::Subscribe { queue: "q".into(), credit: 10_001 }), "credit"),
    ] {
        let what = format!("{message:?}").chars().take(60).collect::<String>();
        let Message::Error(error) = wire.ask(9, message).await else { panic!("{what}") };
        assert_eq!((error.code(), error.field.as_str()), (ErrorCode::Invalid, field), "{what}");
    }
    let items = vec![wire::ExtendItem { lease: bad_lease, lease_ms: 1000 }];
    let extend = Message::Extend(wire::Extend { items });
    let Message::Settled(settled) = wire.ask(9, extend).await else { panic!("no answer") };
    assert_eq!(settled.results[0].error.as_ref().map(|error| error.field.as_str()), Some("lease"));
    // An envelope with a message of a later version.
    wire.send(&[0, 0, 0, 5, 0x08, 0x09, 0xfa, 0x3f, 0x00]).await;
    assert!(
        matches!(wire.answer().await, Message::Error(error) if error.code() == ErrorCode::Invalid)
    );
    assert!(matches!(wire.ask(3, Message::Ping(wire::Ping {})).await, Message::Pong(_)));
}

#[tokio::test]
async fn a_bad_job_in_a_batch_fails_alone() {
    let server = Server::start();
    let mut wire = Wire::greeted(server.tcp).await;
    let good = wire::NewJob { queue: "q".into(), ..wire::NewJob::default() };
    let jobs = vec![
        good.clone(),
        wire::NewJob { queue: "q\0".into(), ..good.clone() },
        wire::NewJob { payload: Bytes::from(vec![0; 1024 * 1024 + 1]), ..good.clone() },
        wire::NewJob { delay_ms: Some(u64::MAX), ..good.clone() },
        wire::NewJob { delay_ms: Some(1), run_at_ms: Some(1), ..good.clone() },
        wire::NewJob { run_at_ms: Some(i64::MIN), ..good.clone() },
        wire::NewJob { max_attempts: Some(0), ..good.clone() },
        wire::NewJob { ttl_ms: Some(0), ..good.clone() },
        wire::NewJob { backoff: Some(wire::Backoff::default()), ..good.clone() },
        wire::NewJob { unique: Some(Box::default()), ..good.clone() },
        wire::NewJob { tags: vec!["t".repeat(129)], ..good.clone() },
        wire::NewJob { content_type: "a\nb".into(), ..good.clone() },
        good,
    ];
    let push = Message::Push(wire::Push { jobs });
    let Message::Pushed(pushed) = wire.ask(2, push).await else { panic!("refused as a whole") };
    let outcomes: Vec<(String, String)> = pushed
        .results
        .iter()
        .map(|result| match &result.error {
            None => ("OK".into(), String::new()),
            Some(error) => (error.code().meaning().name.into(), error.field.clone()),
        })
        .collect();
    let expected = [
        ("OK", ""),
        ("INVALID", "queue"),
        ("PAYLOAD_TOO_LARGE", "payload"),
        ("INVALID", "delay_ms"),
        ("INVALID", "run_at_ms"),
        ("INVALID", "run_at"),
        ("INVALID", "max_attempts"),
        ("INVALID", "ttl_ms"),
        ("INVALID", "backoff"),
        ("INVALID", "unique.key"),
        ("INVALID", "tags"),
        ("INVALID", "content_type"),
        ("OK", ""),
    ];
    assert_eq!(outcomes, expected.map(|(code, field)| (code.to_owned(), field.to_owned())));
}

#[tokio::test]
async fn a_client_that_does_not_read_is_not_served_further_and_costs_little() {
    let server = Server::start();
    let client = server.client().await;
    let payload = vec![b'1'; 900_000];
    for _ in 0..4 {
        let jobs = (0..3).map(|_| NewJob::new("big", payload.clone())).collect();
        client.push_batch(jobs).await.expect("it is stored");
    }
    let first = client.jobs(batonq_client::JobFilter::default()).await.expect("it is served");
    let id = first.jobs[0].id;
    let before = server.memory_kib();
    let mut greedy = Wire::greeted(server.tcp).await;
    for request_id in 2..2000 {
        greedy.say(request_id, Message::GetJob(wire::GetJob { id })).await;
    }
    for _ in 0..50 {
        client.push(NewJob::new("alive", "{}")).await.expect("others are served");
    }
    let grown = server.memory_kib().saturating_sub(before);
    assert!(grown < 200 * 1024, "memory grew by {grown} KiB for 1.8 GB of answers");
}

#[tokio::test]
async fn half_a_hello_is_not_waited_for_for_ever() {
    let server = Server::start();
    let mut wire = server.wire().await;
    wire.send(&PREFACE[..3]).await;
    let closed = tokio::time::timeout(Duration::from_secs(15), wire.until_closed()).await;
    assert!(closed.expect("it is cut off after ten seconds").is_empty());
}
