//! Who may do what: the same on both transports.

use batonq_client::{Client, Error, ErrorCode, NewJob, PullOptions};
use batonq_protocol::messages as wire;
use batonq_protocol::{Message, PREFACE};
use batonq_tests::harness::{Server, batonq, eventually, hello};

const TOKENS: &str = "prod:produce,cons:consume,obs:observe,adm:admin,both:produce+consume";

fn guarded() -> Server {
    Server::with().env("BATONQ_TOKENS", TOKENS).env("BATONQ_BIND", "127.0.0.1").start()
}

/// Which tokens get past the door; what comes after it may still say no.
const ROUTES: &[(&str, &[&str])] = &[
    ("POST /v1/queues/q/jobs", &["prod", "adm", "both"]),
    ("POST /v1/queues/q/jobs/batch", &["prod", "adm", "both"]),
    ("POST /v1/flows", &["prod", "adm", "both"]),
    ("POST /v1/queues/q/pull", &["cons", "adm", "both"]),
    ("POST /v1/jobs/1/ack", &["cons", "adm", "both"]),
    ("POST /v1/jobs/1/fail", &["cons", "adm", "both"]),
    ("POST /v1/jobs/1/release", &["cons", "adm", "both"]),
    ("POST /v1/jobs/1/extend", &["cons", "adm", "both"]),
    ("POST /v1/jobs/1/progress", &["cons", "adm", "both"]),
    ("POST /v1/ack", &["cons", "adm", "both"]),
    ("POST /v1/fail", &["cons", "adm", "both"]),
    ("POST /v1/release", &["cons", "adm", "both"]),
    ("GET /v1/jobs", &["obs", "adm"]),
    ("GET /v1/jobs/1", &["obs", "adm"]),
    ("GET /v1/jobs/1/wait", &["prod", "obs", "adm", "both"]),
    ("GET /v1/jobs/1/timeline", &["obs", "adm"]),
    ("GET /v1/jobs/1/explain", &["obs", "adm"]),
    ("GET /v1/dlq", &["obs", "adm"]),
    ("GET /v1/queues", &["obs", "adm"]),
    ("GET /v1/queues/q", &["obs", "adm"]),
    ("GET /v1/queues/q/keys", &["obs", "adm"]),
    ("GET /v1/cron", &["obs", "adm"]),
    ("GET /v1/cron/s", &["obs", "adm"]),
    ("GET /v1/cron/s/history", &["obs", "adm"]),
    ("PUT /v1/cron/s", &["adm"]),
    ("DELETE /v1/cron/s", &["adm"]),
    ("POST /v1/cron/s/run", &["adm"]),
    ("POST /v1/cron/s/pause", &["adm"]),
    ("POST /v1/cron/s/resume", &["adm"]),
    ("GET /v1/workers", &["obs", "adm"]),
    ("GET /v1/stats", &["obs", "adm"]),
    ("GET /v1/events", &["obs", "adm"]),
    ("GET /v1/webhooks", &["adm"]),
    ("GET /v1/webhooks/s", &["adm"]),
    ("PUT /v1/webhooks/s", &["adm"]),
    ("DELETE /v1/webhooks/s", &["adm"]),
    ("GET /metrics", &["obs", "adm"]),
    ("GET /cluster/nodes", &["obs", "adm"]),
    ("GET /cluster/leader", &["obs", "adm"]),
    ("GET /cluster/info", &["obs", "adm"]),
    ("POST /cluster/nodes/1/drain", &["adm"]),
    ("POST /v1/jobs/1/retry", &["adm"]),
    ("POST /v1/jobs/1/cancel", &["adm"]),
    ("POST /v1/jobs/1/promote", &["adm"]),
    ("PATCH /v1/jobs/1", &["adm"]),
    ("PUT /v1/queues/q/settings", &["adm"]),
    ("DELETE /v1/jobs/1", &["adm"]),
    ("POST /v1/bulk", &["adm"]),
    ("GET /v1/decisions", &["obs", "adm"]),
    ("POST /v1/jobs/1/replay", &["adm"]),
    ("POST /v1/dlq/replay", &["adm"]),
    ("POST /v1/queues/q/pause", &["adm"]),
    ("POST /v1/queues/q/resume", &["adm"]),
    ("GET /health", &["", "wrong", "prod", "cons", "obs", "adm", "both"]),
    ("GET /health/live", &["", "wrong", "prod", "cons", "obs", "adm", "both"]),
    ("GET /health/ready", &["", "wrong", "prod", "cons", "obs", "adm", "both"]),
    ("GET /openapi.json", &["", "wrong", "prod", "cons", "obs", "adm", "both"]),
];

#[tokio::test]
async fn over_http_each_route_asks_for_its_role() {
    let server = guarded();
    for (route, allowed) in ROUTES {
        let (method, path) = route.split_once(' ').unwrap();
        for token in ["", "wrong", "prod", "cons", "obs", "adm", "both"] {
            let http = server.http().token(token);
            let method = method.parse().unwrap();
            let json = ("content-type", "application/json");
            let body = (method != hyper::Method::GET).then(|| "{}".into());
            // A stream would not end.
            let no_number = ("last-event-id", "none");
            let reply = http.send(method, path, body, &[json, no_number]).await;
            let is_let_in = !matches!(reply.status, 401 | 403);
            assert_eq!(is_let_in, allowed.contains(&token), "{route} with {token:?}");
            let is_known = !matches!(token, "" | "wrong");
            if !is_let_in {
                assert_eq!(reply.status, if is_known { 403 } else { 401 }, "{route} {token:?}");
            }
        }
    }
}

#[tokio::test]
async fn every_described_route_is_in_the_test_of_roles() {
    let server = guarded();
    let description = server.http().get("/openapi.json").await.json();
    let this = include_str!("access.rs");
    for (path, methods) in description["paths"].as_object().unwrap() {
        let path = path.replace("{queue}", "q").replace("{id}", "1").replace("{name}", "s");
        for method in methods.as_object().unwrap().keys() {
            let route = format!("\"{} {path}\"", method.to_uppercase());
            assert!(this.contains(&route), "{route} is not tested");
        }
    }
}

#[tokio::test]
async fn a_token_may_come_in_either_header() {
    let server = guarded();
    let by_key = [("x-api-key", "obs")];
    let reply = server.http().send(hyper::Method::GET, "/v1/stats", None, &by_key).await;
    assert_eq!(reply.status, 200);
}

#[tokio::test]
async fn over_tcp_nobody_comes_in_without_a_token() {
    let server = guarded();
    for token in ["", "wrong", "adm2"] {
        let mut wire = server.wire().await;
        wire.send(&PREFACE).await;
        wire.say(1, Message::Hello(Box::new(hello(token)))).await;
        let heard = wire.until_closed().await;
        let Some(Message::Error(error)) = &heard[0].message else { panic!("{heard:?}") };
        assert_eq!(error.code(), ErrorCode::Unauthenticated, "{token:?}");
    }
}

#[tokio::test]
async fn over_tcp_each_request_asks_for_its_role() {
    let server = guarded();
    let requests = [
        (Message::Push(wire::Push::default()), &["prod", "adm", "both"][..]),
        (Message::PushFlow(wire::PushFlow::default()), &["prod", "adm", "both"]),
        (Message::Pull(wire::Pull::default()), &["cons", "adm", "both"]),
        (Message::Subscribe(wire::Subscribe::default()), &["cons", "adm", "both"]),
        (Message::AddCredit(wire::AddCredit::default()), &["cons", "adm", "both"]),
        (Message::Unsubscribe(wire::Unsubscribe::default()), &["cons", "adm", "both"]),
        (Message::Ack(wire::Ack::default()), &["cons", "adm", "both"]),
        (Message::Fail(wire::Fail::default()), &["cons", "adm", "both"]),
        (Message::Release(wire::Release::default()), &["cons", "adm", "both"]),
        (Message::Extend(wire::Extend::default()), &["cons", "adm", "both"]),
        (Message::Progress(wire::Progress::default()), &["cons", "adm", "both"]),
        (Message::WaitJob(wire::WaitJob::default()), &["prod", "obs", "adm", "both"]),
        (Message::GetJob(wire::GetJob::default()), &["obs", "adm"]),
        (Message::ListJobs(Box::default()), &["obs", "adm"]),
        (Message::GetTimeline(wire::GetTimeline::default()), &["obs", "adm"]),
        (Message::Explain(wire::Explain::default()), &["obs", "adm"]),
        (Message::ListQueues(wire::ListQueues::default()), &["obs", "adm"]),
        (Message::ListWorkers(wire::ListWorkers::default()), &["obs", "adm"]),
        (Message::GetStats(wire::GetStats::default()), &["obs", "adm"]),
        (Message::ListNodes(wire::ListNodes::default()), &["obs", "adm"]),
        (Message::DrainNode(wire::DrainNode::default()), &["adm"]),
        (Message::PauseQueue(wire::PauseQueue::default()), &["adm"]),
        (Message::ResumeQueue(wire::ResumeQueue::default()), &["adm"]),
        (Message::RetryJob(wire::RetryJob::default()), &["adm"]),
        (Message::ReplayJob(Box::default()), &["adm"]),
        (Message::ReplayDead(wire::ReplayDead::default()), &["adm"]),
        (Message::CancelJob(wire::CancelJob::default()), &["adm"]),
        (Message::PromoteJob(wire::PromoteJob::default()), &["adm"]),
        (Message::EditJob(Box::default()), &["adm"]),
        (Message::SetSettings(wire::SetSettings::default()), &["adm"]),
        (Message::DeleteJob(wire::DeleteJob::default()), &["adm"]),
        (Message::BulkJobs(wire::BulkJobs::default()), &["adm"]),
        (Message::ListKeys(wire::ListKeys::default()), &["obs", "adm"]),
        (Message::ListDecisions(wire::ListDecisions::default()), &["obs", "adm"]),
        (Message::ListSchedules(wire::ListSchedules::default()), &["obs", "adm"]),
        (Message::ListFires(wire::ListFires::default()), &["obs", "adm"]),
        (Message::PutSchedule(Box::default()), &["adm"]),
        (Message::DeleteSchedule(wire::DeleteSchedule::default()), &["adm"]),
        (Message::PauseSchedule(wire::PauseSchedule::default()), &["adm"]),
        (Message::ResumeSchedule(wire::ResumeSchedule::default()), &["adm"]),
        (Message::RunSchedule(wire::RunSchedule::default()), &["adm"]),
        (Message::Ping(wire::Ping {}), &["prod", "cons", "obs", "adm", "both"]),
    ];
    for token in ["prod", "cons", "obs", "adm", "both"] {
        let mut wire = server.wire().await;
        wire.send(&PREFACE).await;
        let welcome = wire.ask(1, Message::Hello(Box::new(hello(token)))).await;
        assert!(matches!(welcome, Message::Welcome(_)), "{token}");
        for (request, allowed) in &requests {
            let answer = wire.ask(2, request.clone()).await;
            let is_let_in =
                !matches!(&answer, Message::Error(error) if error.code() == ErrorCode::Forbidden);
            assert_eq!(is_let_in, allowed.contains(&token), "{request:?} with {token}");
        }
    }
}

#[tokio::test]
async fn the_client_is_told_what_it_may_not_do() {
    let server = guarded();
    let connect = |token| Client::builder().url(&server.url()).token(token).connect();
    let producer = connect("prod").await.unwrap();
    producer.push(NewJob::new("q", "{}")).await.unwrap();
    let refused = producer.pull(PullOptions::new("q")).await.unwrap_err();
    assert!(matches!(refused, Error::Refused { code: ErrorCode::Forbidden, .. }), "{refused}");
    let refused = connect("wrong").await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::Unauthenticated));
}

#[tokio::test]
async fn a_token_is_never_logged() {
    let server = Server::with()
        .env("BATONQ_TOKENS", "canary-7531:admin")
        .env("BATONQ_BIND", "127.0.0.1")
        .env("BATONQ_LOG", "trace")
        .start();
    server.http().token("canary-7531").get("/v1/stats").await;
    let client = Client::builder().url(&server.url()).token("canary-7531").connect().await.unwrap();
    client.push(NewJob::new("q", "\"canary-8642\"")).await.unwrap();
    server.http().token("canary-7531x").get("/v1/stats").await;
    eventually("it logs all of it", async || server.log().contains("401").then_some(())).await;
    assert!(!server.log().contains("canary"), "{}", server.log());
}

#[test]
fn other_addresses_than_loopback_need_tokens_or_a_switch() {
    let dir = tempfile::tempdir().unwrap();
    let mut serve = batonq();
    serve.args(["serve", "--bind", "0.0.0.0", "--data-dir"]).arg(dir.path());
    let refused = serve.output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("BATONQ_TOKENS") && said.contains("BATONQ_INSECURE"), "{said}");
    let open = Server::with().env("BATONQ_BIND", "0.0.0.0").env("BATONQ_INSECURE", "1").start();
    assert_eq!(open.tcp.ip().to_string(), "0.0.0.0");
}
