//! The bytes of known frames, shared with the tests of every client.
//!
//! Each file in `golden/` has the bytes of one frame as hex; lines that begin with `#` are for
//! people. `BATONQ_BLESS=1` writes them anew, which is a change of the protocol.

use std::path::PathBuf;

use batonq_protocol::messages::*;
use batonq_protocol::{Envelope, FRAME_BYTES_MAX, FrameCodec, Message, PREFACE};
use bytes::{Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

fn lease() -> Bytes {
    Bytes::from_static(&[0, 0, 0, 0, 0, 0, 0, 41, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8])
}

#[expect(clippy::too_many_lines, reason = "a table, as long as there are things")]
fn frames() -> Vec<(&'static str, u64, Message)> {
    let job = NewJob {
        queue: "mail".into(),
        payload: Bytes::from_static(b"{\"to\":\"ada\"}"),
        priority: -5,
        delay_ms: Some(1500),
        max_attempts: Some(3),
        backoff: Some(Backoff {
            rule: Some(backoff::Rule::Exponential(backoff::Exponential {
                base_ms: 1000,
                max_ms: 60_000,
                jitter: 0.5,
            })),
        }),
        unique: Some(Box::new(Unique { key: "ada".into(), ..Default::default() })),
        tags: vec!["welcome".into()],
        ..NewJob::default()
    };
    let leased = LeasedJob {
        id: 41,
        lease: lease(),
        payload: Bytes::from_static(b"{\"to\":\"ada\"}"),
        attempt: 1,
        max_attempts: 3,
        delivery: 1,
        created_at_ms: 1_790_000_000_000,
        lease_until_ms: 1_790_000_030_000,
        ..LeasedJob::default()
    };
    vec![
        (
            "hello",
            1,
            Message::Hello(Box::new(Hello {
                version_min: 1,
                version_max: 1,
                token: "s3cret".into(),
                worker: "mailer-1".into(),
                session: 0,
                client: "golden/1".into(),
            })),
        ),
        (
            "welcome",
            1,
            Message::Welcome(Box::new(Welcome {
                version: 1,
                node_id: "node-1".into(),
                server_version: "0.1.0".into(),
                session: 8812,
                heartbeat_interval_ms: 5000,
                heartbeat_timeout_ms: 15_000,
                reconnect_grace_ms: 3000,
                limits: Some(Limits { frame_bytes_max: 4_194_304, ..Limits::default() }),
                ..Welcome::default()
            })),
        ),
        ("push", 2, Message::Push(Push { jobs: vec![job] })),
        (
            "pushed",
            2,
            Message::Pushed(Pushed {
                results: vec![
                    PushResult {
                        id: 41,
                        outcome: Outcome::Inserted.into(),
                        state: State::Scheduled.into(),
                        error: None,
                    },
                    PushResult {
                        error: Some(Error {
                            code: ErrorCode::Invalid.into(),
                            detail: "longer than 256 bytes".into(),
                            field: "queue".into(),
                        }),
                        ..PushResult::default()
                    },
                ],
            }),
        ),
        ("subscribe", 3, Message::Subscribe(Subscribe { queue: "mail".into(), credit: 10 })),
        ("delivery", 0, Message::Delivery(Delivery { subscription: 3, jobs: vec![leased] })),
        (
            "pull",
            4,
            Message::Pull(Pull {
                queue: "mail".into(),
                count: 10,
                wait_ms: 30_000,
                lease_ms: 60_000,
            }),
        ),
        (
            "ack",
            5,
            Message::Ack(Ack {
                items: vec![AckItem { lease: lease(), result: Bytes::from_static(b"\"sent\"") }],
            }),
        ),
        (
            "fail",
            6,
            Message::Fail(Fail {
                items: vec![FailItem {
                    lease: lease(),
                    code: "SMTP".into(),
                    message: "connection refused".into(),
                    retry_in_ms: Some(0),
                    reject: false,
                }],
            }),
        ),
        (
            "settled",
            5,
            Message::Settled(Settled {
                results: vec![SettleResult {
                    status: SettleStatus::Ok.into(),
                    ..SettleResult::default()
                }],
            }),
        ),
        ("ping", 7, Message::Ping(Ping {})),
        (
            "error",
            8,
            Message::Error(Error {
                code: ErrorCode::Overloaded.into(),
                detail: "too many bytes are waiting to be stored".into(),
                field: String::new(),
            }),
        ),
        ("go_away", 0, Message::GoAway(GoAway { reason: "shutting down".into() })),
    ]
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden").join(format!("{name}.hex"))
}

fn read(name: &str) -> BytesMut {
    let text = std::fs::read_to_string(path(name)).expect("the golden file exists");
    let hex: String =
        text.lines().filter(|line| !line.starts_with('#')).flat_map(str::chars).collect();
    let digits: Vec<u32> = hex.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
}

fn write(name: &str, envelope: &Envelope, bytes: &[u8]) {
    let what = format!("{envelope:?}");
    let rows: Vec<String> = bytes
        .chunks(16)
        .map(|row| row.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" "))
        .collect();
    std::fs::write(path(name), format!("# {what}\n{}\n", rows.join("\n"))).expect("it is written");
}

#[test]
fn frames_are_encoded_and_decoded_as_in_the_golden_files() {
    for (name, request_id, message) in frames() {
        let envelope = Envelope { request_id, message: Some(message) };
        let mut codec = FrameCodec::new(FRAME_BYTES_MAX);
        let mut encoded = BytesMut::new();
        codec.encode(&envelope, &mut encoded).expect("it fits");
        if std::env::var_os("BATONQ_BLESS").is_some() {
            write(name, &envelope, &encoded);
        }
        assert_eq!(encoded, read(name), "{name} is encoded otherwise than before");
        let decoded = codec.decode(&mut read(name)).expect("it is a frame");
        assert_eq!(decoded, Some(envelope), "{name} is decoded otherwise than before");
    }
}

#[test]
fn the_preface_never_changes() {
    assert_eq!(&PREFACE, &[0x42, 0x41, 0x54, 0x4f, 0x4e, 0x51, 0x00, 0x01]);
}
