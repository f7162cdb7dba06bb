//! Whatever a client sends over HTTP, it gets a problem that names the field, and nothing is done.

use std::time::Duration;

use batonq_tests::harness::{Http, Server};
use bytes::Bytes;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PUSH: &str = "/v1/queues/q/jobs";

/// Sends bytes as they are; all that comes back until the server closes.
async fn raw(http: &Http, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(http.address).await.expect("the server listens");
    stream.write_all(bytes).await.ok();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut answer));
    // A reset is a close too.
    read.await.expect("the server closes").ok();
    String::from_utf8_lossy(&answer).into_owned()
}

async fn nothing_was_pushed(http: &Http) {
    assert_eq!(http.get("/v1/queues").await.json(), json!({ "queues": [] }));
    assert_eq!(http.get("/health/ready").await.status, 200);
}

#[tokio::test]
async fn a_bad_body_is_refused_by_its_field() {
    let server = Server::start();
    let http = server.http();
    let deep = format!("{{\"payload\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let keys: String = (0..100_000).map(|n| format!("\"k{n}\":{n},")).collect();
    for (body, field) in [
        (deep.as_bytes(), "body"),
        (format!("{{{keys}\"payload\":1}}").as_bytes(), "k0"),
        (b"{\"payload\":\"\xff\xfe\"}", "body"),
        (b"not json", "body"),
        (b"{\"payload\":1,\"priority\":-99999999999}", "priority"),
        (b"{\"payload\":1,\"delay_ms\":-1}", "delay_ms"),
        (b"{\"payload\":1,\"delay_ms\":99999999999999999999}", "delay_ms"),
        (b"{\"payload\":1,\"delay_ms\":18446744073709551615}", "delay_ms"),
        (b"{\"payload\":1,\"ttl_ms\":0}", "ttl_ms"),
        (b"{\"payload\":1,\"max_attempts\":0}", "max_attempts"),
        (b"{\"payload\":1,\"max_attempts\":1001}", "max_attempts"),
        (b"{\"payload\":1,\"timeout_ms\":99}", "timeout_ms"),
        (b"{\"payload\":1,\"unique\":{\"key\":\"a\\u0000b\"}}", "unique.key"),
        (b"{\"payload\":1,\"tags\":[\"a\\u0000\"]}", "tags"),
        (b"{\"payload\":1,\"surprise\":true}", "surprise"),
        (b"{\"payload\":1,\"payload\":2}", "payload"),
        (b"{}", "payload"),
        (b"", "payload"),
    ] {
        let reply = http.post_text(PUSH, body.to_vec()).await;
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        assert_eq!(reply.problem(), (400, "INVALID".into()), "{shown}: {}", reply.text);
        assert_eq!(reply.json()["field"], field, "{shown}");
        assert_eq!(reply.headers["content-type"], "application/problem+json");
        assert_eq!(reply.json()["retryable"], false);
    }
    nothing_was_pushed(&http).await;
}

#[tokio::test]
async fn a_million_keys_are_refused_soon_and_cost_little() {
    let server = Server::start();
    let before = server.memory_kib();
    let keys: String = (0..1_000_000).map(|n| format!("\"{n:x}\":1,")).collect();
    let body = format!("{{{keys}\"payload\":1}}");
    let reply = server.http().post_text(PUSH, body).await;
    assert_eq!(reply.problem(), (413, "PAYLOAD_TOO_LARGE".into()));
    let payload: String = (0..300_000).map(|n| format!("\"{n:x}\":1,")).collect();
    let body = format!("{{\"payload\":{{{payload}\"z\":1}}}}");
    let reply = server.http().post_text(PUSH, body).await;
    assert_eq!(reply.problem(), (413, "PAYLOAD_TOO_LARGE".into()));
    let grown = server.memory_kib().saturating_sub(before);
    assert!(grown < 100 * 1024, "memory grew by {grown} KiB");
    nothing_was_pushed(&server.http()).await;
}

#[tokio::test]
async fn a_body_is_refused_beyond_its_limit_announced_or_not() {
    let server = Server::start();
    let http = server.http();
    let announced = raw(
        &http,
        b"POST /v1/queues/q/jobs HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
          content-length: 99999999999\r\n\r\n",
    )
    .await;
    assert!(announced.starts_with("HTTP/1.1 413"), "{announced}");
    let mut chunked = b"POST /v1/queues/q/jobs HTTP/1.1\r\nhost: x\r\n\
        content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
        .to_vec();
    for _ in 0..5 {
        chunked.extend_from_slice(b"100000\r\n");
        chunked.extend(std::iter::repeat_n(b' ', 0x10_0000));
        chunked.extend_from_slice(b"\r\n");
    }
    let streamed = raw(&http, &chunked).await;
    assert!(streamed.is_empty() || streamed.starts_with("HTTP/1.1 413"), "{streamed}");
    nothing_was_pushed(&http).await;
}

#[tokio::test]
async fn names_and_queries_are_checked() {
    let server = Server::start();
    let http = server.http();
    let long = format!("/v1/queues/{}/jobs", "q".repeat(257));
    for path in [&long, "/v1/queues/a%00b/jobs", "/v1/queues/a%2Fb/jobs", "/v1/queues/%ff/jobs"] {
        let reply = http.post(path, json!({ "payload": 1 })).await;
        assert_eq!(reply.problem(), (400, "INVALID".into()), "{path}");
        assert_eq!(reply.json()["field"], "queue", "{path}");
    }
    for (path, field) in [
        ("/v1/jobs?colour=red", "colour"),
        ("/v1/jobs?limit=0", "limit"),
        ("/v1/jobs?limit=1001", "limit"),
        ("/v1/jobs?limit=-1", "limit"),
        ("/v1/jobs?state=waiting", "state"),
        ("/v1/jobs?reason=BAD", "reason"),
        ("/v1/jobs?limit=1&limit=2", "limit"),
        ("/v1/jobs/one", "id"),
        ("/v1/jobs/-1", "id"),
        ("/v1/jobs/99999999999999999999", "id"),
    ] {
        let reply = http.get(path).await;
        assert_eq!(reply.problem(), (400, "INVALID".into()), "{path}");
        assert_eq!(reply.json()["field"], field, "{path}");
    }
    assert_eq!(http.get("/v2/jobs").await.problem(), (404, "NOT_FOUND".into()));
    assert_eq!(http.get("/v1/../../etc/passwd").await.problem(), (404, "NOT_FOUND".into()));
    let wrong = http.get("/v1/ack").await;
    assert_eq!((wrong.status, wrong.headers["allow"].to_str().unwrap()), (405, "POST"));
    nothing_was_pushed(&http).await;
}

#[tokio::test]
async fn a_body_must_say_that_it_is_json() {
    let server = Server::start();
    let http = server.http();
    let body = Bytes::from_static(b"{\"payload\":1}");
    for headers in [&[][..], &[("content-type", "text/plain")]] {
        let reply = http.send(hyper::Method::POST, PUSH, Some(body.clone()), headers).await;
        assert_eq!(reply.status, 415);
    }
    nothing_was_pushed(&http).await;
}

#[tokio::test]
async fn leases_that_are_none_are_refused() {
    let server = Server::start();
    let http = server.http();
    http.post(PUSH, json!({ "payload": 1 })).await;
    let forged = "AAAAAAAAAAEAAAABAAAAAAAAAAA";
    for lease in ["", "1-1", "AAAA", forged, "ä"] {
        let reply = http.post("/v1/jobs/1/ack", json!({ "lease": lease })).await;
        assert_eq!(reply.problem(), (400, "INVALID".into()), "{lease}");
        assert_eq!(reply.json()["field"], "lease", "{lease}");
    }
    let pulled = http.post("/v1/queues/q/pull", json!({})).await.json();
    let reply = http.post("/v1/jobs/2/ack", json!({ "lease": pulled["jobs"][0]["lease"] })).await;
    assert_eq!(reply.json()["field"], "lease");
}

#[tokio::test]
async fn requests_that_could_be_smuggled_are_refused() {
    let server = Server::start();
    let http = server.http();
    let get = "GET /health HTTP/1.1\r\nhost: x\r\n\r\n";
    for head in [
        "content-length: 5\r\ncontent-length: 6\r\n",
        "content-length: 5\r\ntransfer-encoding: chunked\r\n",
        "content-length: +5\r\n",
        "content-length: 5 \r\n x: y\r\n",
        "transfer-encoding: xchunked\r\n",
    ] {
        let request =
            format!("POST {PUSH} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{head}\r\n{get}");
        let answer = raw(&http, request.as_bytes()).await;
        assert!(answer.matches("HTTP/1.1 ").count() <= 1, "{head}: {answer}");
        assert!(!answer.contains("healthy"), "{head}: {answer}");
    }
    nothing_was_pushed(&http).await;
}

#[tokio::test]
async fn garbage_and_other_protocols_do_no_harm() {
    let server = Server::start();
    let http = server.http();
    for bytes in
        [&b"BATONQ\x00\x01"[..], b"\x16\x03\x01\x02\x00\x01", &[0xff; 4096], b"\r\n\r\n\r\n"]
    {
        let mut stream = TcpStream::connect(http.address).await.unwrap();
        stream.write_all(bytes).await.ok();
        stream.shutdown().await.ok();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok();
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400"));
    }
    nothing_was_pushed(&http).await;
}

#[tokio::test]
async fn a_head_that_comes_too_slowly_is_cut_off() {
    let server = Server::start();
    let http = server.http();
    let answer = raw(&http, b"GET /health HTTP/1.1\r\nhost: x\r\nx-slow: ").await;
    assert!(!answer.contains("200 OK"), "{answer}");
}

#[tokio::test]
async fn a_request_id_is_given_back_and_never_a_strange_one() {
    let server = Server::start();
    let http = server.http();
    let ask = async |id: &str| {
        let headers = [("x-request-id", id)];
        let reply = http.send(hyper::Method::GET, "/health", None, &headers).await;
        reply.headers["x-request-id"].to_str().unwrap().to_owned()
    };
    assert_eq!(ask("abc-123").await, "abc-123");
    assert_ne!(ask("a b").await, "a b");
    assert_eq!(ask("").await.len(), 16);
}

#[tokio::test]
async fn payloads_that_are_not_json_come_back_as_they_were() {
    let server = Server::start();
    let http = server.http();
    let binary = json!({ "payload_base64": "AP8=", "content_type": "image/png" });
    http.post(PUSH, binary).await;
    // Over the binary protocol anything may be called JSON.
    let client = server.client().await;
    client.push(batonq_client::NewJob::new("q", &b"\xff{"[..])).await.unwrap();
    http.post_text(PUSH, "{\"payload\": {\"b\":1,  \"a\":[1.50] }}").await;
    let reply = http.post("/v1/queues/q/pull", json!({ "count": 3 })).await;
    let jobs = &reply.json()["jobs"];
    assert_eq!(
        (&jobs[0]["payload_base64"], &jobs[0]["content_type"]),
        (&json!("AP8="), &json!("image/png"))
    );
    assert_eq!(jobs[1]["payload_base64"], "/3s=");
    assert!(reply.text.contains("{\"b\":1,  \"a\":[1.50] }"), "{}", reply.text);
}
