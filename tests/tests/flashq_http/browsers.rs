//! What a browser lets pages of other sites do: what the node says they may.

use batonq_tests::harness::{Reply, SOON, Server};
use hyper::Method;

use serde_json::json;

use crate::{JSON, pull, push};

const PAGE: &str = "https://ui.example";

fn allowing(origins: &str) -> Server {
    Server::with().env("BATONQ_CORS_ORIGINS", origins).start()
}

fn header<'a>(reply: &'a Reply, name: &str) -> &'a str {
    reply.headers.get(name).map_or("", |value| value.to_str().unwrap())
}

async fn preflight(server: &Server, path: &str, origin: &str) -> Reply {
    let asked = [
        ("origin", origin),
        ("access-control-request-method", "DELETE"),
        ("access-control-request-headers", "authorization,content-type"),
    ];
    server.http().send(Method::OPTIONS, path, None, &asked).await
}

/// Theirs and ours.
const PATHS: &[&str] = &["/queues/q/dlq", "/jobs/1", "/v1/queues", "/health", "/metrics"];

#[tokio::test]
async fn by_default_no_other_site_may_do_anything() {
    let server = Server::start();
    for path in PATHS {
        let reply = preflight(&server, path, PAGE).await;
        assert_eq!(header(&reply, "access-control-allow-origin"), "", "{path}");
        let origin = ("origin", PAGE);
        let reply = server.http().send(Method::GET, path, None, &[JSON, origin]).await;
        assert_eq!(header(&reply, "access-control-allow-origin"), "", "{path}");
    }
}

/// A browser sends it all the same, and only hides the answer.
#[tokio::test]
async fn a_page_of_another_site_can_neither_change_nor_take_anything() {
    let server = Server::start();
    let http = server.http();
    let id = push(&http, "q", json!(1)).await;
    for route in [
        "POST /queues/q/pause".into(),
        "POST /queues/q/jobs".into(),
        "GET /queues/q/jobs?count=1&timeout=1".into(),
        format!("POST /jobs/{id}/cancel"),
    ] {
        let (method, path) = route.split_once(' ').unwrap();
        for headers in [&[("origin", PAGE)][..], &[JSON, ("origin", PAGE)]] {
            let reply = http.send(method.parse().unwrap(), path, None, headers).await;
            assert_eq!((reply.status, &reply.json()["ok"]), (403, &json!(false)), "{route}");
        }
    }
    assert_eq!(pull(&http, "q").await["id"], id);
}

#[tokio::test]
async fn a_page_of_an_allowed_site_may_ask_and_others_may_not() {
    let server = allowing("https://other.example,https://ui.example");
    for path in PATHS {
        let reply = preflight(&server, path, PAGE).await;
        assert!((200..300).contains(&reply.status), "{path}: {}", reply.status);
        assert_eq!(header(&reply, "access-control-allow-origin"), PAGE, "{path}");
        let methods = header(&reply, "access-control-allow-methods");
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            assert!(methods.contains(method), "{path}: {methods}");
        }
        let headers = header(&reply, "access-control-allow-headers").to_lowercase();
        for name in ["authorization", "content-type", "x-api-key"] {
            assert!(headers.contains(name), "{path}: {headers}");
        }
        // Caches must not tell one site what another may.
        assert!(header(&reply, "vary").to_lowercase().contains("origin"), "{path}");
        for origin in ["https://evil.example", "https://ui.example.evil.example", "null"] {
            let reply = preflight(&server, path, origin).await;
            assert_eq!(header(&reply, "access-control-allow-origin"), "", "{path} {origin}");
        }
    }
    let origin = ("origin", PAGE);
    let reply = server.http().send(Method::GET, "/queues", None, &[JSON, origin]).await;
    assert_eq!(header(&reply, "access-control-allow-origin"), PAGE);
    assert_eq!(reply.json()["ok"], true);
}

#[tokio::test]
async fn a_refusal_can_be_read_by_a_page_too() {
    let server = Server::with()
        .env("BATONQ_CORS_ORIGINS", PAGE)
        .env("BATONQ_TOKENS", "adm:admin")
        .env("BATONQ_BIND", "127.0.0.1")
        .start();
    // A browser asks without a token whether it may ask.
    let reply = preflight(&server, "/queues", PAGE).await;
    assert!((200..300).contains(&reply.status), "{}", reply.status);
    for (path, status) in [("/queues", 401), ("/v1/queues", 401), ("/nothing", 404)] {
        let origin = ("origin", PAGE);
        let reply = server.http().send(Method::GET, path, None, &[JSON, origin]).await;
        assert_eq!(reply.status, status, "{path}");
        assert_eq!(header(&reply, "access-control-allow-origin"), PAGE, "{path}");
    }
}

#[tokio::test]
async fn all_sites_may_be_allowed() {
    let server = allowing("*");
    for path in PATHS {
        let reply = preflight(&server, path, PAGE).await;
        let allowed = header(&reply, "access-control-allow-origin");
        assert!(allowed == "*" || allowed == PAGE, "{path}: {allowed:?}");
    }
}

#[tokio::test]
async fn origins_that_are_none_are_refused_at_the_start() {
    for origins in ["ui.example", "https://ui.example/path", "ftp://ui.example", "https://"] {
        let mut serve = batonq_tests::harness::batonq();
        let dir = tempfile::tempdir().unwrap();
        serve.args(["serve", "--port", "0", "--http-port", "0", "--data-dir"]).arg(dir.path());
        let mut serve = tokio::process::Command::from(serve);
        serve.env("BATONQ_CORS_ORIGINS", origins).kill_on_drop(true);
        let refused = tokio::time::timeout(SOON, serve.output()).await;
        let refused = refused.unwrap_or_else(|_| panic!("it serves {origins}")).unwrap();
        let said = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{origins}: {said}");
        let is_named = said.contains("BATONQ_CORS_ORIGINS") && !said.contains("is no setting");
        assert!(is_named, "{origins}: {said}");
    }
}
