//! Whatever a client sends in flashQ's protocol, it gets a reply or is cut off, and nobody else
//! notices.

use batonq_tests::harness::flashq::{Mode, framed};
use batonq_tests::harness::{FlashQ, Server, ServerBuilder};
use rand::RngExt;
use serde_json::{Value, json};
use tokio::time::{Duration, Instant};

const MEGA: usize = 1024 * 1024;

/// With tokens: who has not shown one is nobody.
fn guarded() -> ServerBuilder {
    Server::with().env("BATONQ_TOKENS", "adm:admin,prod:produce").env("BATONQ_BIND", "127.0.0.1")
}

/// The server still serves.
async fn assert_alive(server: &Server) {
    let mut client = FlashQ::connect(server.tcp, Mode::Text).await;
    client.ask("AUTH", json!({ "token": "adm" })).await;
    client.done("PUSH", json!({ "queue": "alive", "data": 1 })).await;
}

/// A client that may do everything.
async fn admin(server: &Server, mode: Mode) -> FlashQ {
    let mut client = FlashQ::connect(server.tcp, mode).await;
    client.done("AUTH", json!({ "token": "adm" })).await;
    client
}

/// Before and after it has shown a token.
async fn clients(server: &Server, mode: Mode) -> [FlashQ; 2] {
    [FlashQ::connect(server.tcp, mode).await, admin(server, mode).await]
}

/// Nothing but refusals.
fn assert_refused(replies: &[Value]) {
    for reply in replies {
        assert_eq!((&reply["ok"], &reply["success"]), (&json!(false), &json!(false)), "{reply}");
        assert!(reply["error"].as_str().is_some_and(|error| !error.is_empty()), "{reply}");
    }
}

#[tokio::test]
async fn a_line_without_an_end_is_cut_off_before_it_fills_the_memory() {
    let server = guarded().start();
    let before = server.memory_kib();
    for (mut client, megas) in clients(&server, Mode::Text).await.into_iter().zip([2, 64]) {
        client.send(b"{\"cmd\":\"PUSH\",\"data\":\"").await;
        for _ in 0..megas {
            client.send(&vec![b'x'; MEGA]).await;
        }
        assert_refused(&client.until_closed().await);
    }
    let grown = server.memory_kib().saturating_sub(before);
    assert!(grown < 64 * 1024, "memory grew by {grown} KiB");
    assert_alive(&server).await;
}

#[tokio::test]
async fn before_a_token_was_shown_little_is_read() {
    let server = guarded().start();
    let before = server.memory_kib();
    let mut clients = Vec::new();
    for _ in 0..50 {
        let mut client = FlashQ::connect(server.tcp, Mode::Binary).await;
        client.send(&(15 * MEGA as u32).to_be_bytes()).await;
        client.send(&vec![0; MEGA]).await;
        clients.push(client);
    }
    let grown = server.memory_kib().saturating_sub(before);
    assert!(grown < 16 * 1024, "memory grew by {grown} KiB");
    assert_refused(&clients.remove(0).until_closed().await);
    assert_alive(&server).await;
}

#[tokio::test]
async fn what_is_nested_too_deeply_is_refused() {
    let server = guarded().start();
    for depth in [200, 5_000, 20_000] {
        for mut client in clients(&server, Mode::Text).await {
            let (open, close) = ("[".repeat(depth), "]".repeat(depth));
            let line = format!("{{\"cmd\":\"PUSH\",\"queue\":\"q\",\"data\":{open}{close}}}\n");
            client.send(line.as_bytes()).await;
            assert_refused(&[client.reply().await]);
        }
        for mut client in clients(&server, Mode::Binary).await {
            let mut body = vec![0x83, 0xa3];
            body.extend_from_slice(b"cmd\xa4PUSH\xa5queue\xa1q\xa4data");
            body.extend(std::iter::repeat_n(0x91, depth));
            body.push(0xc0);
            client.send(&framed(&body)).await;
            assert_refused(&[client.reply().await]);
        }
    }
    assert_alive(&server).await;
}

#[tokio::test]
async fn a_count_that_is_only_claimed_costs_nothing() {
    let server = guarded().start();
    let before = server.memory_kib();
    for head in [
        &b"\xdd\xff\xff\xff\xff"[..],
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x01",
        b"\x82\xa3cmd\xa4ACKB\xa3ids\xdd\xff\xff\xff\xff",
        b"\x82\xa3cmd\xa5PUSHB\xa4jobs\xdd\x7f\xff\xff\xff\x80",
    ] {
        for mut client in clients(&server, Mode::Binary).await {
            client.send(&framed(head)).await;
            assert_refused(&[client.reply().await]);
        }
    }
    for mode in Mode::ALL {
        let mut client = admin(&server, mode).await;
        client.done("PUSH", json!({ "queue": "q", "data": 1 })).await;
        for count in [1 << 60, u64::MAX] {
            let asked = json!({ "queue": "q", "count": count, "timeout": 10 });
            assert!(client.ask("PULLB", asked).await["ok"].is_boolean());
            client.ask("GETJOBS", json!({ "limit": count })).await;
            client.ask("DLQ", json!({ "queue": "q", "count": count })).await;
            client.ask("PULL", json!({ "queue": "none", "timeout": 0 })).await;
        }
    }
    let grown = server.memory_kib().saturating_sub(before);
    assert!(grown < 16 * 1024, "memory grew by {grown} KiB");
    assert_alive(&server).await;
}

#[tokio::test]
async fn a_length_out_of_bounds_is_refused_and_the_connection_closed() {
    let server = guarded().start();
    for length in [16 * MEGA as u32 + 1, 0x01ff_ffff] {
        for mut client in clients(&server, Mode::Binary).await {
            client.send(&length.to_be_bytes()).await;
            let heard = client.until_closed().await;
            assert_eq!(heard.len(), 1);
            assert_refused(&heard);
        }
    }
    assert_alive(&server).await;
}

#[tokio::test]
async fn what_is_no_request_is_refused_and_the_next_one_served() {
    let server = Server::start();
    for line in [
        &b"\n"[..],
        b"\r\n",
        b"{\n",
        b"{]\n",
        b"[]\n",
        b"7\n",
        b"\"PUSH\"\n",
        b"null\n",
        b"{}\n",
        b"{\"cmd\":7}\n",
        b"{\"cmd\":\"STATS\",\"reqId\":7}\n",
        b"{\"cmd\":\"STATS\"} {\"cmd\":\"STATS\"}\n",
    ] {
        let mut client = FlashQ::connect(server.tcp, Mode::Text).await;
        client.send(b"{\"cmd\":\"PING\"}\n").await;
        client.send(line).await;
        client.send(b"{\"cmd\":\"PING\"}\r\n").await;
        assert_eq!(client.reply().await["pong"], true);
        assert_refused(&[client.reply().await]);
        assert_eq!(client.reply().await["pong"], true, "{}", line.escape_ascii());
    }
    for body in [&b""[..], b"\xc0", b"\x90", b"\x80", b"\xc1", b"\x81\x01\x02", b"\x81\xa3cmd"] {
        let mut client = FlashQ::connect(server.tcp, Mode::Binary).await;
        client.send(&framed(body)).await;
        client.say(&json!({ "cmd": "PING" })).await;
        assert_refused(&[client.reply().await]);
        assert_eq!(client.reply().await["pong"], true, "{}", body.escape_ascii());
    }
}

#[tokio::test]
async fn text_that_is_none_is_refused_or_cut_off() {
    let server = Server::start();
    for bytes in [
        &b"{\"cmd\":\"PUSH\",\"queue\":\"q\",\"data\":\"\xff\xfe\"}\n"[..],
        b"{\"cmd\":\"\xc3\x28\"}\n",
        b"{\"\xed\xa0\x80\":1}\n",
    ] {
        let mut client = FlashQ::connect(server.tcp, Mode::Text).await;
        client.send(bytes).await;
        let heard = client.hear().await;
        assert_refused(heard.as_slice());
    }
    let mut client = FlashQ::connect(server.tcp, Mode::Binary).await;
    client.send(&framed(b"\x82\xa3cmd\xa4PULL\xa5queue\xa2\xff\xfe")).await;
    assert_refused(client.hear().await.as_slice());
    assert_alive(&server).await;
}

#[tokio::test]
async fn random_bytes_do_no_harm() {
    let server = guarded().start();
    for first in [b'{', b'\n', b'\r', 0, 1] {
        for _ in 0..10 {
            let mut garbage: Vec<u8> = (0..2000).map(|_| rand::rng().random()).collect();
            garbage[0] = first;
            FlashQ::connect(server.tcp, Mode::Text).await.send(&garbage).await;
            for mode in Mode::ALL {
                admin(&server, mode).await.send(&garbage).await;
            }
        }
    }
    assert_alive(&server).await;
}

#[tokio::test]
async fn a_request_cut_at_any_place_is_waited_for_and_then_forgotten() {
    let server = Server::start();
    for mode in Mode::ALL {
        let push = json!({ "cmd": "PUSH", "queue": "cut", "data": "\u{e9}", "reqId": "1" });
        let whole = mode.encode(&push);
        // A last line needs no end.
        for cut in 0..whole.len() - 1 {
            FlashQ::connect(server.tcp, mode).await.send(&whole[..cut]).await;
        }
        let mut client = FlashQ::connect(server.tcp, mode).await;
        assert_eq!(client.done("COUNT", json!({ "queue": "cut" })).await["count"], 0);
        let mut slow = FlashQ::connect(server.tcp, mode).await;
        for byte in whole {
            slow.send(&[byte]).await;
        }
        assert_eq!(slow.reply().await["ok"], true);
        client.done("OBLITERATE", json!({ "queue": "cut" })).await;
    }
}

#[tokio::test]
async fn every_reply_names_its_request() {
    let server = Server::start();
    for mode in Mode::ALL {
        let mut client = FlashQ::connect(server.tcp, mode).await;
        for request in [
            json!({ "cmd": "NOSUCH", "reqId": "a" }),
            json!({ "cmd": "PULL", "reqId": "a" }),
            json!({ "cmd": "ACK", "id": "x", "reqId": "a" }),
            json!({ "cmd": "PUSH", "queue": "q", "data": 1, "priority": "high", "reqId": "a" }),
            json!({ "cmd": 7, "reqId": "a" }),
            json!({ "reqId": "a" }),
        ] {
            client.say(&request).await;
            let reply = client.reply().await;
            assert_eq!(reply["reqId"], "a", "{request} {reply}");
            assert_refused(&[reply]);
        }
        for request in [json!({ "cmd": "PING" }), json!({ "cmd": "PING", "reqId": null })] {
            client.say(&request).await;
            let reply = client.reply().await;
            assert_eq!((&reply["ok"], reply.get("reqId")), (&json!(true), None), "{request}");
        }
    }
}

#[tokio::test]
async fn replies_that_name_no_request_come_in_order_and_others_as_they_are_ready() {
    let server = Server::start();
    for mode in Mode::ALL {
        let mut client = FlashQ::connect(server.tcp, mode).await;
        let entries: Vec<_> =
            (0..50).map(|key| json!({ "key": format!("k{key}"), "value": key })).collect();
        client.done("KVMSET", json!({ "entries": entries })).await;
        client.say(&json!({ "cmd": "PULL", "queue": "empty", "timeout": 300 })).await;
        for key in 0..50 {
            client.say(&json!({ "cmd": "KVGET", "key": format!("k{key}") })).await;
            client.say(&json!({ "cmd": "PING" })).await;
        }
        client.say(&json!({ "cmd": "PING", "reqId": "fast" })).await;
        assert_eq!(client.reply().await["reqId"], "fast");
        assert_eq!(client.reply().await["job"], Value::Null);
        for key in 0..50 {
            assert_eq!(client.reply().await["value"], key);
            assert_eq!(client.reply().await["pong"], true);
        }
    }
}

#[tokio::test]
async fn an_ack_never_waits_behind_a_pull() {
    let server = Server::start();
    for mode in Mode::ALL {
        let mut client = FlashQ::connect(server.tcp, mode).await;
        client.done("PUSH", json!({ "queue": "q", "data": 1 })).await;
        let pulled = client.done("PULL", json!({ "queue": "q", "timeout": 1000 })).await;
        let started = Instant::now();
        for place in 0..100 {
            let id = format!("pull {place}");
            let pull = json!({ "cmd": "PULL", "queue": "empty", "timeout": 15_000, "reqId": id });
            client.say(&pull).await;
        }
        client.done("ACK", json!({ "id": pulled["job"]["id"] })).await;
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    }
}

#[tokio::test]
async fn nothing_is_done_for_who_has_not_shown_a_token() {
    let server = guarded().start();
    for mode in Mode::ALL {
        let mut client = FlashQ::connect(server.tcp, mode).await;
        for (cmd, fields) in [
            ("PUSH", json!({ "queue": "q", "data": 1 })),
            ("STATS", json!({})),
            ("NOSUCH", json!({})),
            ("AUTH", json!({ "token": "wrong" })),
            ("AUTH", json!({ "token": "" })),
        ] {
            let reply = client.ask(cmd, fields).await;
            let error = reply["error"].as_str().unwrap_or_default().to_lowercase();
            let is_told = error.contains("auth") || error.contains("invalid token");
            assert!(is_told || cmd == "NOSUCH", "{reply}");
            assert_refused(&[reply]);
        }
        client.done("AUTH", json!({ "token": "prod" })).await;
        client.done("PUSH", json!({ "queue": "q", "data": 1 })).await;
        assert_refused(&[client.ask("PULL", json!({ "queue": "q" })).await]);
        assert_refused(&[client.ask("OBLITERATE", json!({ "queue": "q" })).await]);
        // A wrong one takes away nothing.
        assert_refused(&[client.ask("AUTH", json!({ "token": "wrong" })).await]);
        client.done("PUSH", json!({ "queue": "q", "data": 1 })).await;
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_is_not_served_further_and_costs_little() {
    let server = Server::start();
    let mut client = FlashQ::connect(server.tcp, Mode::Text).await;
    let push = json!({ "queue": "big", "data": "x".repeat(900_000) });
    let id = client.done("PUSH", push).await["id"].clone();
    let before = server.memory_kib();
    for mode in Mode::ALL {
        let mut greedy = FlashQ::connect(server.tcp, mode).await;
        let asked = mode.encode(&json!({ "cmd": "GETJOB", "id": id, "reqId": "g" })).repeat(1000);
        greedy.send(&asked).await;
        for _ in 0..50 {
            client.done("PUSH", json!({ "queue": "alive", "data": 1 })).await;
        }
    }
    let grown = server.memory_kib().saturating_sub(before);
    assert!(grown < 200 * 1024, "memory grew by {grown} KiB for 1.8 GB of replies");
}
