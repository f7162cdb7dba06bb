//! Who may do what over flashQ's HTTP API, and that nobody else learns a token.

use batonq_tests::harness::{Http, Reply, Server, eventually};
use hyper::Method;
use serde_json::json;

use crate::{JSON, post};

const TOKENS: &str = "prod:produce,cons:consume,obs:observe,adm:admin";

pub(crate) fn guarded() -> Server {
    Server::with().env("BATONQ_TOKENS", TOKENS).env("BATONQ_BIND", "127.0.0.1").start()
}

/// Which tokens get past the door; what comes after it may still say no.
const ROUTES: &[(&str, &[&str])] = &[
    ("POST /queues/q/jobs", &["prod", "adm"]),
    ("POST /queues/q/jobs/batch", &["prod", "adm"]),
    ("POST /queues/q/flow", &["prod", "adm"]),
    ("POST /flows", &["prod", "adm"]),
    ("POST /webhooks/incoming/q", &["prod", "adm"]),
    ("GET /queues/q/jobs?timeout=1", &["cons", "adm"]),
    ("POST /jobs/1/ack", &["cons", "adm"]),
    ("POST /jobs/1/fail", &["cons", "adm"]),
    ("POST /jobs/1/progress", &["cons", "adm"]),
    ("POST /jobs/1/partial", &["cons", "adm"]),
    ("POST /jobs/1/heartbeat", &["cons", "adm"]),
    ("POST /jobs/1/logs", &["cons", "adm"]),
    ("POST /jobs/1/delay", &["cons", "adm"]),
    ("POST /jobs/1/move-to-delayed", &["cons", "adm"]),
    ("POST /jobs/ack/batch", &["cons", "adm"]),
    ("POST /jobs/ack-batch", &["cons", "adm"]),
    ("POST /workers/w/heartbeat", &["cons", "adm"]),
    ("GET /jobs/1/wait?timeout=1", &["prod", "obs", "adm"]),
    ("GET /jobs", &["obs", "adm"]),
    ("GET /jobs/1", &["obs", "adm"]),
    ("GET /jobs/1/state", &["obs", "adm"]),
    ("GET /jobs/1/result", &["obs", "adm"]),
    ("GET /jobs/1/progress", &["obs", "adm"]),
    ("GET /jobs/1/logs", &["obs", "adm"]),
    ("GET /jobs/1/children", &["obs", "adm"]),
    ("GET /jobs/custom/c", &["obs", "adm"]),
    ("GET /queues", &["obs", "adm"]),
    ("GET /queues/q/paused", &["obs", "adm"]),
    ("GET /queues/q/counts", &["obs", "adm"]),
    ("GET /queues/q/count", &["obs", "adm"]),
    ("GET /queues/q/dlq", &["obs", "adm"]),
    ("GET /crons", &["obs", "adm"]),
    ("GET /stats", &["obs", "adm"]),
    ("GET /metrics", &["obs", "adm"]),
    ("GET /metrics/history", &["obs", "adm"]),
    ("GET /metrics/prometheus", &["obs", "adm"]),
    ("GET /workers", &["obs", "adm"]),
    ("GET /system/metrics", &["obs", "adm"]),
    ("GET /settings", &["obs", "adm"]),
    ("POST /jobs/1/cancel", &["adm"]),
    ("POST /jobs/1/promote", &["adm"]),
    ("POST /jobs/1/discard", &["adm"]),
    ("POST /jobs/1/priority", &["adm"]),
    ("POST /jobs/1/update", &["adm"]),
    ("PATCH /jobs/1", &["adm"]),
    ("POST /queues/q/pause", &["adm"]),
    ("POST /queues/q/resume", &["adm"]),
    ("POST /queues/q/drain", &["adm"]),
    ("POST /queues/q/clean", &["adm"]),
    ("DELETE /queues/q/obliterate", &["adm"]),
    ("POST /queues/q/dlq/retry", &["adm"]),
    ("POST /queues/q/dlq/1/retry", &["adm"]),
    ("DELETE /queues/q/dlq", &["adm"]),
    ("POST /queues/q/rate-limit", &["adm"]),
    ("DELETE /queues/q/rate-limit", &["adm"]),
    ("POST /queues/q/ratelimit", &["adm"]),
    ("DELETE /queues/q/ratelimit", &["adm"]),
    ("POST /queues/q/concurrency", &["adm"]),
    ("DELETE /queues/q/concurrency", &["adm"]),
    ("POST /crons/n", &["adm"]),
    ("PUT /crons/n", &["adm"]),
    ("DELETE /crons/n", &["adm"]),
    ("GET /webhooks", &["adm"]),
    ("POST /webhooks", &["adm"]),
    ("DELETE /webhooks/wh_1", &["adm"]),
    ("GET /health", &["", "wrong", "prod", "cons", "obs", "adm"]),
];

async fn ask(http: &Http, route: &str, headers: &[(&str, &str)]) -> Reply {
    let (method, path) = route.split_once(' ').unwrap();
    let method: Method = method.parse().unwrap();
    let body = matches!(method.as_str(), "POST" | "PUT" | "PATCH").then(|| "{}".into());
    http.send(method, path, body, headers).await
}

#[tokio::test]
async fn each_route_asks_for_its_role() {
    let server = guarded();
    for (route, allowed) in ROUTES {
        for token in ["", "wrong", "prod", "cons", "obs", "adm"] {
            let reply = ask(&server.http().token(token), route, &[JSON]).await;
            let is_let_in = !matches!(reply.status, 401 | 403);
            assert_eq!(is_let_in, allowed.contains(&token), "{route} with {token:?}");
            if is_let_in {
                continue;
            }
            let is_known = !matches!(token, "" | "wrong");
            assert_eq!(reply.status, if is_known { 403 } else { 401 }, "{route} {token:?}");
            assert_eq!(reply.json()["ok"], false, "{route} {token:?}: {}", reply.text);
            // How every client tells that it is about its token.
            let error = reply.json()["error"].as_str().unwrap_or_default().to_lowercase();
            let is_told = error.contains("auth") || error.contains("invalid token");
            assert!(is_told, "{route} {token:?}: {error}");
            if !is_known {
                assert_eq!(reply.headers["www-authenticate"], "Bearer", "{route}");
            }
        }
    }
}

#[tokio::test]
async fn a_token_may_come_in_either_header_and_not_in_a_query() {
    let server = guarded();
    let http = server.http();
    assert_eq!(ask(&http, "GET /stats", &[JSON, ("x-api-key", "obs")]).await.status, 200);
    for path in ["/stats", "/jobs", "/queues", "/metrics/prometheus", "/settings"] {
        let reply = ask(&http, &format!("GET {path}?token=adm"), &[JSON]).await;
        assert_eq!(reply.status, 401, "{path}");
    }
}

#[tokio::test]
async fn a_command_asks_for_its_role_too() {
    let server = guarded();
    let push = || json!({ "cmd": "PUSH", "queue": "q", "data": 1 });
    let auth = |token| json!({ "cmd": "AUTH", "token": token });
    for (token, command, status) in [
        ("", push(), 401),
        ("wrong", push(), 401),
        ("obs", push(), 403),
        ("prod", push(), 200),
        ("prod", json!({ "cmd": "OBLITERATE", "queue": "q" }), 403),
        ("prod", json!({ "cmd": "PING" }), 200),
        // It says whether its token is good, and lets in nobody.
        ("", auth("prod"), 200),
        ("", push(), 401),
    ] {
        let reply = server.http().token(token).post("/api/command", command.clone()).await;
        assert_eq!(reply.status, status, "{command} with {token:?}: {}", reply.text);
        assert_eq!(reply.json()["ok"], status == 200, "{command}: {}", reply.text);
    }
    let told = server.http().post("/api/command", auth("wrong")).await.json();
    assert_eq!(told["ok"], false, "{told}");
}

#[tokio::test]
async fn settings_count_tokens_and_show_none() {
    let server = guarded();
    let settings = ask(&server.http().token("obs"), "GET /settings", &[JSON]).await;
    let data = &settings.json()["data"];
    let counted = (&data["auth_enabled"], &data["auth_token_count"]);
    assert_eq!(counted, (&json!(true), &json!(4)));
    for token in ["prod", "cons", "\"obs\"", "\"adm\""] {
        assert!(!settings.text.contains(token), "{}", settings.text);
    }
}

#[tokio::test]
async fn nothing_confidential_is_ever_logged() {
    let server = Server::with()
        .env("BATONQ_TOKENS", "canary-7531:admin")
        .env("BATONQ_BIND", "127.0.0.1")
        .env("BATONQ_LOG", "trace")
        .start();
    let http = server.http();
    let admin = http.token("canary-7531");
    post(&admin, "/queues/q/jobs", json!({ "data": "canary-8642" })).await;
    let hook = json!({ "url": "https://example.com/", "events": ["*"], "secret": "canary-9753-0123456789" });
    post(&admin, "/webhooks", hook).await;
    drop(http.listen("/events?token=canary-7531", None).await.unwrap());
    assert!(http.listen("/events?token=canary-7531x", None).await.is_err());
    http.get("/stats?token=canary-7531").await;
    let auth = json!({ "cmd": "AUTH", "token": "canary-7531" });
    http.post("/api/command", auth).await;
    let headers = [("x-api-key", "canary-7531")];
    batonq_tests::harness::Socket::open(&http, "/ws?token=canary-7531", &headers).await.unwrap();
    eventually("it logs all of it", async || server.log().contains("/ws").then_some(())).await;
    assert!(!server.log().contains("canary"), "{}", server.log());
}
