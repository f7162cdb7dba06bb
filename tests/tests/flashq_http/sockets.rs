//! What happens, as it happens, over WebSockets.

use batonq_tests::harness::{Cluster, Http, Server, Socket, eventually};
use serde_json::{Value, json};

use crate::tokens::guarded;
use crate::{assert_told, fail_for_good, get, life, live_a_life, push};

/// Sockets of a node at a time.
const SOCKETS_MAX: usize = 100;

/// Why a socket is closed.
const GOING_AWAY: u16 = 1001;
const POLICY: u16 = 1008;

async fn open(http: &Http, path: &str) -> Socket {
    Socket::open(http, path, &[]).await.expect("it is let in")
}

async fn take(socket: &mut Socket, count: usize) -> Vec<Value> {
    let mut told = Vec::new();
    while told.len() < count {
        told.push(socket.next().await);
    }
    told
}

#[tokio::test]
async fn a_socket_tells_the_life_of_a_job_with_all_that_belongs_to_it() {
    let server = Server::start();
    let http = server.http();
    let (mut all, mut mine) = (open(&http, "/ws").await, open(&http, "/ws/mine").await);
    let other = fail_for_good(&http, "other").await;
    let id = live_a_life([&http; 3], "mine").await;
    let told = take(&mut all, 6).await;
    let failed = json!({ "event_type": "failed", "queue": "other", "job_id": other,
        "timestamp": "time", "error": "boom" });
    assert_eq!(told[0]["event_type"], "pushed");
    assert_told(&[failed], &told[1..2]);
    assert_told(&life("mine", id), &told[2..]);
    assert_told(&life("mine", id), &take(&mut mine, 4).await);
}

#[tokio::test]
async fn a_socket_at_one_node_tells_what_is_done_at_the_others() {
    let mut cluster = Cluster::of(3).await;
    let nodes = [0, 1, 2].map(|place| cluster.http(place));
    let mut socket = open(&nodes[0], "/ws/q").await;
    let id = live_a_life([&nodes[1], &nodes[2], &nodes[1]], "q").await;
    assert_told(&life("q", id), &take(&mut socket, 4).await);
    let mut stopping = cluster.nodes.remove(0);
    stopping.signal("-TERM");
    assert_eq!(socket.closed().await, Some(GOING_AWAY));
    assert_eq!(stopping.wait(), 0);
}

#[tokio::test]
async fn a_node_that_stops_closes_its_sockets_and_does_not_wait_for_them() {
    let mut server = Server::start();
    let http = server.http();
    let mut sockets = [open(&http, "/ws").await, open(&http, "/ws/dashboard").await];
    server.signal("-TERM");
    for socket in &mut sockets {
        assert_eq!(socket.closed().await, Some(GOING_AWAY));
    }
    assert_eq!(server.wait(), 0);
}

#[tokio::test]
async fn the_dashboard_sees_all_of_the_node_again_and_again() {
    let server = Server::start();
    let http = server.http();
    push(&http, "q", json!(1)).await;
    let mut socket = open(&http, "/ws/dashboard").await;
    let frame = json!({
        "stats": { "queued": 1, "processing": 0, "delayed": 0, "dlq": 0, "completed": 0 },
        "metrics": { "total_pushed": "number", "queues": "any" },
        "queues": [{ "name": "q", "pending": 1, "paused": false }],
        "workers": [], "crons": [], "metrics_history": "any",
        "system_metrics": { "memory_used_mb": "number", "process_id": "number" },
        "sqlite_stats": null, "timestamp": "time",
    });
    let frames = take(&mut socket, 2).await;
    assert_told(&[frame.clone(), frame], &frames);
    assert!(frames[0]["timestamp"].as_u64() < frames[1]["timestamp"].as_u64());
    push(&http, "q", json!(2)).await;
    // One frame may be on its way, another one may just be made.
    assert_eq!(take(&mut socket, 3).await[2]["stats"]["queued"], 2);
    // The points of the past come with the next look of the node.
    eventually("a point of the past", async || {
        let points = get(&http, "/metrics/history").await;
        let point = points.as_array()?.last()?.clone();
        let numbers = ["queued", "processing", "completed", "failed", "throughput", "latency_ms"];
        assert!(numbers.iter().all(|name| point[*name].is_number()), "{point}");
        Some(())
    })
    .await;
}

#[tokio::test]
async fn a_token_comes_by_header_by_query_or_as_the_first_message() {
    let server = guarded();
    let http = server.http();
    let bearer = ("authorization", "Bearer obs");
    let by_key = ("x-api-key", "obs");
    for path in ["/ws", "/ws/q", "/ws/dashboard"] {
        let mut sockets = vec![
            Socket::open(&http, path, &[bearer]).await.unwrap(),
            Socket::open(&http, path, &[by_key]).await.unwrap(),
            open(&http, &format!("{path}?token=obs")).await,
            open(&http, path).await,
        ];
        let auth = json!({ "type": "auth", "token": "obs" });
        sockets[3].say(auth.to_string()).await;
        for socket in &mut sockets {
            // It is looked at before anything is told.
            hears(socket, path, &http.token("adm")).await;
        }
    }
}

/// A socket that was let in is told something.
async fn hears(socket: &mut Socket, path: &str, admin: &Http) {
    if path != "/ws/dashboard" {
        // Whoever comes in by a message is in when that was read, so it is pushed until it is told.
        let told = async {
            loop {
                push(admin, "q", json!(1)).await;
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            event = socket.next() => assert_eq!(event["event_type"], "pushed"),
            () = told => unreachable!("it pushes for ever"),
        }
        return;
    }
    assert!(socket.next().await["stats"].is_object());
}

#[tokio::test]
async fn without_a_good_token_nothing_is_told() {
    let server = guarded();
    let http = server.http();
    let auth = |token: &str| json!({ "type": "auth", "token": token }).to_string();
    for path in ["/ws", "/ws/q", "/ws/dashboard", "/ws?token=wrong"] {
        for said in [auth("wrong"), auth("prod"), auth(""), "{}".into(), "no json".into()] {
            let mut socket = open(&http, path).await;
            push(&http.token("prod"), "q", json!(1)).await;
            socket.say(said.clone()).await;
            assert_eq!(socket.closed().await, Some(POLICY), "{path}: {said}");
        }
        let bearer = ("authorization", "Bearer prod");
        let refused = Socket::open(&http, path, &[bearer]).await.err();
        assert_eq!(refused, Some(403), "{path}");
    }
    // Who says nothing is not waited for.
    let mut silent = open(&http, "/ws").await;
    assert_eq!(silent.closed().await, Some(POLICY));
}

#[tokio::test]
async fn a_page_of_another_site_gets_no_socket() {
    let server = Server::with().env("BATONQ_CORS_ORIGINS", "https://ui.example").start();
    let http = server.http();
    let own = format!("http://{}", http.address);
    for path in ["/ws", "/ws/q", "/ws/dashboard"] {
        for (origin, refusal) in [
            ("https://evil.example", Some(403)),
            ("null", Some(403)),
            ("https://ui.example.evil.example", Some(403)),
            ("https://ui.example", None),
            (own.as_str(), None),
        ] {
            let opened = Socket::open(&http, path, &[("origin", origin)]).await;
            assert_eq!(opened.err(), refusal, "{path} from {origin}");
        }
    }
}

#[tokio::test]
async fn there_are_only_so_many_sockets_at_a_time() {
    let server = Server::start();
    let http = server.http();
    let mut sockets = Vec::new();
    for _ in 0..SOCKETS_MAX {
        sockets.push(open(&http, "/ws").await);
    }
    for path in ["/ws", "/ws/q", "/ws/dashboard"] {
        assert_eq!(Socket::open(&http, path, &[]).await.err(), Some(503), "{path}");
    }
    // Nobody else is kept out.
    assert_eq!(http.get("/health/ready").await.status, 200);
    drop(sockets.pop());
    let is_let_in = async || Socket::open(&http, "/ws", &[]).await.ok();
    eventually("the place of one that has gone is free", is_let_in).await;
}

#[tokio::test]
async fn garbage_and_large_messages_end_their_socket_and_nothing_else() {
    let server = Server::start();
    let http = server.http();
    let before = server.memory_kib();
    let mut bystander = open(&http, "/ws").await;
    for path in ["/ws", "/ws/q", "/ws/dashboard"] {
        let mut garbage = open(&http, path).await;
        garbage.send(&[0xff; 4096]).await;
        garbage.closed().await;
        // A frame that only claims to be large, and is not masked.
        let mut claim = open(&http, path).await;
        claim.send(&[0x81, 0x7f, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).await;
        claim.closed().await;
        let mut large = open(&http, path).await;
        large.say("x".repeat(1024 * 1024)).await;
        large.closed().await;
    }
    // What is no message for the node is none of its business.
    let mut talker = open(&http, "/ws").await;
    talker.say("whatever").await;
    let id = push(&http, "q", json!(1)).await;
    for socket in [&mut bystander, &mut talker] {
        assert_eq!(socket.next().await["job_id"], id);
    }
    let grown = server.memory_kib().saturating_sub(before);
    assert!(grown < 32 * 1024, "memory grew by {grown} KiB");
}

#[tokio::test]
async fn a_request_that_is_no_handshake_is_refused() {
    let server = Server::start();
    for path in ["/ws", "/ws/q", "/ws/dashboard"] {
        let reply = server.http().get(path).await;
        assert!((400..500).contains(&reply.status), "{path}: {}", reply.status);
        assert_eq!(reply.json()["ok"], false, "{path}: {}", reply.text);
    }
}
