//! Receivers outside are told what happens: signed, at least once, and not just anywhere.

use std::collections::BTreeSet;
use std::sync::Arc;

use batonq_client::{Error, PullOptions};
use batonq_tests::harness::cluster::{ack, pull, push};
use batonq_tests::harness::flashq::Mode;
use batonq_tests::harness::{
    Cluster, FlashQ, Http, Postgres, Received, Receiver, Reply, Server, eventually,
};
use hmac::{Hmac, KeyInit, Mac};
use hyper::Method;
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SECRET: &str = "not to be told to anybody";

async fn put(http: &Http, name: &str, body: Value) -> Reply {
    let json = ("content-type", "application/json");
    let path = format!("/v1/webhooks/{name}");
    http.send(Method::PUT, &path, Some(body.to_string().into()), &[json]).await
}

async fn hook(http: &Http, url: &str) {
    let made = put(http, "w", json!({"url": url, "secret": SECRET})).await;
    assert_eq!(made.status, 201, "{}", made.text);
}

/// A server that may tell receivers on this machine.
fn insecure() -> Server {
    Server::with().env("BATONQ_WEBHOOKS_INSECURE", "1").start()
}

fn is_signed(received: &Received, secret: &str) -> bool {
    let signature = received.header("batonq-signature");
    let (time, code) = signature.split_once(",v1=").expect("time and code");
    let time = time.strip_prefix("t=").expect("a time");
    code == hash(&[format!("{time}.").as_bytes(), &received.body].concat(), secret)
}

fn hash(bytes: &[u8], secret: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("a key");
    mac.update(bytes);
    mac.finalize().into_bytes().iter().map(|it| format!("{it:02x}")).collect()
}

/// What the last attempt of a delivery says.
async fn failure(http: &Http) -> String {
    eventually("a delivery has failed", || async {
        let jobs = http.get("/v1/jobs?queue=batonq.webhooks").await.json();
        let id = jobs["jobs"][0]["id"].as_u64()?;
        let job = http.get(&format!("/v1/jobs/{id}")).await.json();
        job["error"]["code"].as_str().map(Into::into)
    })
    .await
}

#[tokio::test]
async fn deliveries_are_signed_and_say_what_happened() {
    let server = insecure();
    let mut receiver = Receiver::start().await;
    hook(&server.http(), &receiver.url()).await;
    let id = push(&server.http(), "q", json!(1)).await;
    let received = receiver.next().await;
    assert!(is_signed(&received, SECRET));
    assert!(!is_signed(&received, "another secret"));
    let event = received.event();
    assert_eq!(
        (&event["kind"], &event["queue"], &event["job"]),
        (&json!("pushed"), &json!("q"), &json!(id))
    );
    assert_eq!(received.header("batonq-event"), "pushed");
    assert_eq!(received.header("batonq-event-id"), event["id"].to_string());
    assert_eq!(received.header("batonq-webhook"), "w");
    assert_eq!(received.header("content-type"), "application/json");
}

#[tokio::test]
async fn deliveries_go_over_tls_to_who_has_the_name() {
    let dir = tempfile::tempdir().expect("a directory");
    let certificate = dir.path().join("certificate.pem");
    let mut receiver = Receiver::start_with_tls(dir.path(), &certificate).await;
    let server = Server::with()
        .env("BATONQ_WEBHOOKS_INSECURE", "1")
        .env("SSL_CERT_FILE", &certificate.display().to_string())
        .start();
    hook(&server.http(), &format!("https://127.0.0.1:{}/", receiver.address.port())).await;
    push(&server.http(), "q", json!(1)).await;
    assert_eq!(failure(&server.http()).await, "TLS", "the certificate is for a name");
    let url = format!("https://localhost:{}/", receiver.address.port());
    assert_eq!(put(&server.http(), "w", json!({"url": url})).await.status, 200);
    assert!(is_signed(&receiver.next().await, SECRET));
}

#[tokio::test]
async fn a_webhook_is_told_of_what_it_asks_for() {
    let server = insecure();
    let http = server.http();
    let mut receiver = Receiver::start().await;
    let body =
        json!({"url": receiver.url(), "secret": SECRET, "queues": ["q"], "kinds": ["completed"]});
    assert_eq!(put(&http, "w", body).await.status, 201);
    push(&http, "other", json!(1)).await;
    let id = push(&http, "q", json!(1)).await;
    ack(&http, &pull(&http, "q", 1, 0).await[0]).await;
    let event = receiver.next().await.event();
    assert_eq!((&event["kind"], &event["job"]), (&json!("completed"), &json!(id)));
    assert!(receiver.rest().is_empty());
}

async fn flashq_hook(http: &Http, receiver: &Receiver, secret: Option<&str>) {
    let kinds = ["pushed", "partial", "completed", "dead"];
    let body = json!({"url": receiver.url(), "secret": secret, "kinds": kinds, "format": "flashq"});
    let made = put(http, "f", body).await;
    assert_eq!((made.status, &made.json()["format"]), (201, &json!("flashq")), "{}", made.text);
}

#[tokio::test]
async fn a_receiver_of_flashq_is_told_as_flashq_tells() {
    let server = insecure();
    let mut receiver = Receiver::start().await;
    flashq_hook(&server.http(), &receiver, None).await;
    let mut client = FlashQ::connect(server.tcp, Mode::Text).await;
    let data = json!({ "n": [1.50, null], "text": "é\n" });
    let one = client.done("PUSH", json!({ "queue": "q", "data": data })).await["id"].clone();
    let told = |event: &str, id: &Value, data: Value, error: Value| json!({ "event": event, "queue": "q", "job_id": id, "data": data, "error": error });
    let mut received = Vec::new();
    let mut next = async || {
        let delivery = receiver.next().await;
        let mut body = delivery.event();
        assert!(body["timestamp"].as_u64().is_some_and(|at| at > 1_700_000_000_000), "{body}");
        body.as_object_mut().expect("an object").remove("timestamp");
        received.push(delivery);
        body
    };
    assert_eq!(next().await, told("pushed", &one, data, Value::Null));
    client.done("PULL", json!({ "queue": "q" })).await;
    client.done("PARTIAL", json!({ "id": one, "data": "some", "index": 2 })).await;
    let chunk = json!({ "chunk": "some", "index": 2 });
    assert_eq!(next().await, told("partial", &one, chunk, Value::Null));
    client.done("ACK", json!({ "id": one, "result": { "sum": 3 } })).await;
    assert_eq!(next().await, told("completed", &one, json!({ "sum": 3 }), Value::Null));
    let push = json!({ "queue": "q", "data": null, "max_attempts": 1 });
    let two = client.done("PUSH", push).await["id"].clone();
    assert_eq!(next().await, told("pushed", &two, Value::Null, Value::Null));
    client.done("PULL", json!({ "queue": "q" })).await;
    client.done("FAIL", json!({ "id": two, "error": "it broke" })).await;
    assert_eq!(next().await, told("failed", &two, Value::Null, json!("it broke")));
    for delivery in received {
        let signatures = ["x-flashq-signature", "batonq-signature"];
        assert_eq!(signatures.map(|name| delivery.header(name)), [""; 2], "there is no secret");
        assert_eq!(delivery.header("content-type"), "application/json");
    }
}

#[tokio::test]
async fn a_receiver_of_flashq_finds_the_signature_where_flashq_has_it() {
    let server = insecure();
    let mut receiver = Receiver::start().await;
    flashq_hook(&server.http(), &receiver, Some("short")).await;
    push(&server.http(), "q", json!(1)).await;
    let received = receiver.next().await;
    let code = received.header("x-flashq-signature");
    assert_eq!(code, hash(&received.body, "short"));
    assert_eq!(received.header("batonq-signature"), "");
}

#[tokio::test]
async fn what_a_receiver_refuses_is_told_again() {
    let server = insecure();
    let mut receiver = Receiver::start().await;
    receiver.answer(500, None);
    hook(&server.http(), &receiver.url()).await;
    push(&server.http(), "q", json!(1)).await;
    let (first, second) = (receiver.next().await, receiver.next().await);
    assert_eq!(first.header("batonq-event-id"), second.header("batonq-event-id"));
    assert_eq!(first.body, second.body);
    assert!(is_signed(&second, SECRET));
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let server = insecure();
    let (mut receiver, mut elsewhere) = (Receiver::start().await, Receiver::start().await);
    receiver.answer(302, Some(&elsewhere.url()));
    hook(&server.http(), &receiver.url()).await;
    push(&server.http(), "q", json!(1)).await;
    receiver.next().await;
    assert_eq!(failure(&server.http()).await, "HTTP_302");
    assert!(elsewhere.rest().is_empty());
}

#[tokio::test]
async fn private_addresses_are_refused() {
    let server = Server::start();
    let http = server.http();
    let mut receiver = Receiver::start().await;
    for url in [receiver.url(), "https://10.0.0.1/".into(), "https://[::1]/".into(), "x".into()] {
        let refused = put(&http, "w", json!({"url": url, "secret": SECRET})).await;
        assert_eq!((refused.status, &refused.json()["field"]), (400, &json!("url")), "{url}");
    }
    // A name tells only when it is looked up.
    hook(&http, &format!("https://localhost:{}/", receiver.address.port())).await;
    push(&http, "q", json!(1)).await;
    assert_eq!(failure(&http).await, "REFUSED");
    assert!(receiver.rest().is_empty());
}

#[tokio::test]
async fn a_secret_is_never_shown() {
    let server = insecure();
    let http = server.http();
    let url = "https://example.com/";
    let made = put(&http, "w", json!({"url": url, "secret": SECRET})).await;
    let one = http.get("/v1/webhooks/w").await;
    let all = http.get("/v1/webhooks").await;
    assert_eq!((one.json()["url"].as_str(), all.status), (Some(url), 200));
    assert_eq!(all.json()["webhooks"][0]["name"], "w");
    for shown in [&made, &one, &all] {
        assert!(!shown.text.contains(SECRET), "{}", shown.text);
    }
    assert!(!server.log().contains(SECRET));
}

#[tokio::test]
async fn a_secret_is_sealed_where_there_is_a_key() {
    let key = "5a".repeat(32);
    let server =
        Server::with().env("BATONQ_WEBHOOKS_INSECURE", "1").env("BATONQ_MASTER_KEY", &key).start();
    let mut receiver = Receiver::start().await;
    hook(&server.http(), &receiver.url()).await;
    push(&server.http(), "q", json!(1)).await;
    assert!(is_signed(&receiver.next().await, SECRET));
    let (kept, secret) = (server.dir(), SECRET.as_bytes());
    for file in std::fs::read_dir(kept).expect("a directory").flatten() {
        let bytes = std::fs::read(file.path()).expect("a file");
        assert!(!bytes.windows(secret.len()).any(|part| part == secret), "{file:?}");
    }
}

#[tokio::test]
async fn bad_webhooks_name_what_is_wrong() {
    let server = insecure();
    let url = "https://example.com/";
    for (body, field) in [
        (json!({"url": url}), "secret"),
        (json!({"url": url, "secret": "short"}), "secret"),
        (json!({"secret": SECRET}), "url"),
        (json!({"url": "example.com", "secret": SECRET}), "url"),
        (json!({"url": url, "secret": SECRET, "queues": ["a b"]}), "queues"),
        (json!({"url": url, "secret": SECRET, "kinds": ["born"]}), "kinds"),
        (json!({"url": url, "secret": SECRET, "events": []}), "events"),
        (json!({"url": url, "secret": SECRET, "format": "flash"}), "format"),
        (json!({"url": url, "secret": "", "format": "flashq"}), "secret"),
    ] {
        let refused = put(&server.http(), "w", body.clone()).await;
        assert_eq!((refused.status, &refused.json()["field"]), (400, &json!(field)), "{body}");
    }
    assert_eq!(server.http().get("/v1/webhooks/w").await.status, 404);
}

#[tokio::test]
async fn a_deleted_webhook_is_told_of_nothing() {
    let server = insecure();
    let http = server.http();
    let (mut gone, mut other) = (Receiver::start().await, Receiver::start().await);
    hook(&http, &gone.url()).await;
    let deleted = http.send(Method::DELETE, "/v1/webhooks/w", None, &[]).await;
    assert_eq!(deleted.status, 200);
    assert_eq!(http.send(Method::DELETE, "/v1/webhooks/w", None, &[]).await.status, 404);
    put(&http, "v", json!({"url": other.url(), "secret": SECRET})).await;
    push(&http, "q", json!(1)).await;
    other.next().await;
    assert!(gone.rest().is_empty());
}

#[tokio::test]
async fn our_own_queue_is_closed_to_clients() {
    let server = Server::start();
    let http = server.http();
    let body = json!({"payload": 1});
    for (path, body) in [
        ("/v1/queues/batonq.webhooks/jobs", body.clone()),
        ("/v1/queues/batonq.webhooks/jobs/batch", json!({"jobs": [body]})),
        ("/v1/queues/batonq.webhooks/pull", json!({})),
    ] {
        let refused = http.post(path, body).await;
        assert_eq!((refused.status, &refused.json()["field"]), (400, &json!("queue")), "{path}");
    }
    let client = server.client().await;
    let refused = client.pull(PullOptions::new("batonq.webhooks")).await;
    assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
}

#[tokio::test]
async fn deliveries_go_on_when_the_leader_is_killed() {
    let settings = [("BATONQ_WEBHOOKS_INSECURE", "1")];
    let postgres = Arc::new(Postgres::start());
    let mut cluster = Cluster::on(postgres, 2, &settings).await;
    let mut receiver = Receiver::start().await;
    let nodes = cluster.nodes_seen_by(0).await;
    let leader = nodes["leader"].as_str().expect("somebody leads").to_owned();
    let place = usize::from(leader == "n2");
    let survivor = cluster.http(1 - place);
    hook(&survivor, &receiver.url()).await;
    let (mut pushed, mut told) = (BTreeSet::new(), BTreeSet::new());
    for number in 0..20 {
        pushed.insert(push(&survivor, "q", json!(number)).await);
        if number == 10 {
            told.extend(receiver.next().await.event()["job"].as_u64());
            cluster.nodes[place].kill();
        }
    }
    while told != pushed {
        told.extend(receiver.next().await.event()["job"].as_u64());
    }
}

#[tokio::test]
async fn a_receiver_may_close_the_connection_with_its_answer() {
    let server = insecure();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("it is bound"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            // The body is one JSON object.
            while !request.ends_with(b"}") {
                assert_ne!(stream.read_buf(&mut request).await.expect("a request"), 0);
            }
            let answer = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
            stream.write_all(answer).await.expect("it is read");
        }
    });
    hook(&server.http(), &url).await;
    push(&server.http(), "q", json!(1)).await;
    eventually("it is delivered", || async {
        let jobs = server.http().get("/v1/jobs?queue=batonq.webhooks").await.json();
        let job = &jobs["jobs"][0];
        assert_ne!(job["attempts"], 1, "{job}");
        (job["state"] == "completed").then_some(())
    })
    .await;
}
