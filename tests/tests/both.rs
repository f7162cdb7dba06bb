//! The same conversation over the binary protocol and over HTTP gives the same answers.
//!
//! A conversation is written once, in the words of [`Line`]; each transport says it in its own
//! way, to a server of its own, and what comes back is compared line by line.

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use batonq_client::{
    Ack, Backoff, Client, Error, ErrorCode, Failure, JobFilter, Lease, NewJob, Outcome, PullOptions,
};
use batonq_tests::harness::{Http, Server};
use serde_json::{Value, json};

/// One request. Leases and ids are named by the place of their job in the conversation.
#[derive(Debug, Clone)]
enum Line {
    Push(&'static str, Options),
    Batch(&'static str, Vec<Options>),
    Pull(&'static str, u32),
    Ack(u64, Option<&'static str>),
    AckMany(Vec<u64>),
    Fail(u64, &'static str, Option<u64>, bool),
    Release(u64),
    Extend(u64, u64),
    Progress(u64, u8),
    Get(u64),
    Wait(u64, u64),
    Timeline(u64),
    List(&'static str, &'static str, &'static str),
    Queue(&'static str),
    Pause(&'static str),
    Resume(&'static str),
    Retry(u64),
    Replay(u64),
    ReplayDead(&'static str),
    Cancel(u64),
    Promote(u64),
}

#[derive(Debug, Clone, Default)]
struct Options {
    payload: &'static str,
    priority: i32,
    delay_ms: Option<u64>,
    ttl_ms: Option<u64>,
    max_attempts: Option<u32>,
    fixed_backoff_ms: Option<u64>,
    timeout_ms: Option<u64>,
    unique: Option<&'static str>,
    tag: Option<&'static str>,
}

/// A transport that can say every line.
trait Speaker {
    async fn say(&mut self, line: &Line) -> Value;
}

fn plain() -> Options {
    Options { payload: "{\"n\":1}", ..Options::default() }
}

#[expect(clippy::too_many_lines, reason = "a table, as long as there are things")]
fn conversation() -> Vec<Line> {
    use Line::{
        Ack, AckMany, Batch, Cancel, Extend, Fail, Get, List, Pause, Progress, Promote, Pull, Push,
        Queue, Release, Replay, ReplayDead, Resume, Retry, Timeline, Wait,
    };
    vec![
        // 1: the plain way.
        Push("q", plain()),
        Get(1),
        Pull("q", 1),
        Progress(1, 40),
        Progress(1, 101),
        Extend(1, 60_000),
        Extend(1, 10),
        Ack(1, Some("{\"done\":true}")),
        Ack(1, None),
        Fail(1, "LATE", None, false),
        Get(1),
        Wait(1, 1000),
        Timeline(1),
        // 2, 3, 4: higher first, then first in first out.
        Push("q", Options { priority: -1, ..plain() }),
        Push("q", Options { priority: 9, tag: Some("vip"), ..plain() }),
        Push("q", Options { priority: 9, ..plain() }),
        Pull("q", 10),
        AckMany(vec![2, 3, 4]),
        AckMany(vec![2, 1000]),
        // 5: unique while live.
        Push("q", Options { unique: Some("k"), ..plain() }),
        Push("q", Options { unique: Some("k"), ..plain() }),
        Pull("q", 1),
        Push("q", Options { unique: Some("k"), ..plain() }),
        Release(5),
        Release(5),
        Ack(5, None),
        Pull("q", 1),
        Ack(5, None),
        // 6: fails, is tried again, dies, goes round again, dies, is replayed as 7.
        Push("q", Options { max_attempts: Some(2), fixed_backoff_ms: Some(3_600_000), ..plain() }),
        Pull("q", 1),
        Fail(6, "FIRST", None, false),
        Promote(6),
        Pull("q", 1),
        Fail(6, "SECOND", Some(5), false),
        Fail(6, "SECOND", Some(5), false),
        Get(6),
        Timeline(6),
        List("q", "dead", ""),
        Retry(6),
        Retry(6),
        Pull("q", 1),
        Fail(6, "NEVER", None, true),
        Replay(6),
        Get(6),
        Get(7),
        Cancel(7),
        Cancel(7),
        ReplayDead("q"),
        // 8: delayed; promoted; 9: cancelled.
        Push("q", Options { delay_ms: Some(3_600_000), ..plain() }),
        Pull("q", 1),
        Promote(8),
        Promote(8),
        Push("q", Options { delay_ms: Some(3_600_000), ..plain() }),
        Cancel(9),
        Pause("q"),
        Pull("q", 1),
        Queue("q"),
        Resume("q"),
        Pull("q", 1),
        Ack(8, None),
        // 10, 11: a batch with bad ones.
        Batch(
            "q",
            vec![
                plain(),
                Options { max_attempts: Some(0), ..plain() },
                Options { timeout_ms: Some(1), ..plain() },
                Options { ttl_ms: Some(86_400_000), tag: Some("vip"), ..plain() },
            ],
        ),
        List("q", "", "vip"),
        List("q", "ready", ""),
        Queue("q"),
        // What is not there, and what is not valid.
        Get(999),
        Timeline(999),
        Retry(999),
        Queue("nothing"),
        Push("no good", plain()),
        Pull("no/good", 1),
        Pull("q", 1001),
        Wait(10, 60_001),
    ]
}

#[tokio::test]
async fn both_transports_give_the_same_answers() {
    let (over_tcp, over_http) = (Server::start(), Server::start());
    let mut tcp = OverTcp { client: over_tcp.client().await, leases: HashMap::new() };
    let mut http = OverHttp { http: over_http.http(), leases: HashMap::new() };
    for line in conversation() {
        let said = (tcp.say(&line).await, http.say(&line).await);
        assert_eq!(said.0, said.1, "{line:?}");
        // The answers must also say something.
        assert!(!said.0.is_null(), "{line:?}");
    }
}

fn token(text: &str) -> Lease {
    Lease::from_bytes(URL_SAFE_NO_PAD.decode(text).expect("a lease is base64url"))
}

/// A lease that nobody has, for jobs that were never pulled.
const NO_LEASE: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAA";

struct OverTcp {
    client: Client,
    leases: HashMap<u64, Lease>,
}

impl OverTcp {
    fn lease(&self, id: u64) -> Lease {
        self.leases.get(&id).cloned().unwrap_or_else(|| token(NO_LEASE))
    }
}

fn refused(error: &Error) -> Value {
    match error {
        // The statuses of a batch have no field; the client puts one in.
        Error::Refused { code: code @ (ErrorCode::LeaseLost | ErrorCode::NotFound), .. } => {
            json!({ "code": code.meaning().name, "field": null })
        }
        Error::Refused { code, field, .. } => {
            json!({ "code": code.meaning().name, "field": field })
        }
        other => panic!("not an answer: {other}"),
    }
}

fn answered<T>(result: Result<T, Error>, show: impl FnOnce(T) -> Value) -> Value {
    result.map_or_else(|error| refused(&error), show)
}

fn new_job(queue: &str, options: &Options) -> NewJob {
    let millis = Duration::from_millis;
    let mut job = NewJob::new(queue, options.payload).priority(options.priority);
    if let Some(delay) = options.delay_ms {
        job = job.delay(millis(delay));
    }
    if let Some(ttl) = options.ttl_ms {
        job = job.ttl(millis(ttl));
    }
    if let Some(max) = options.max_attempts {
        job = job.max_attempts(max);
    }
    if let Some(delay) = options.fixed_backoff_ms {
        job = job.backoff(Backoff::fixed(millis(delay)));
    }
    if let Some(timeout) = options.timeout_ms {
        job = job.timeout(millis(timeout));
    }
    if let Some(key) = options.unique {
        job = job.unique(key);
    }
    if let Some(tag) = options.tag {
        job = job.tag(tag);
    }
    job
}

fn text(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or(Value::Null)
}

fn none_if_empty(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { text.into() }
}

fn shown_job(job: &batonq_client::JobDetail) -> Value {
    let error = (!job.error_code.is_empty())
        .then(|| json!({ "code": job.error_code, "message": job.error_message }));
    json!({
        "id": job.id, "queue": job.queue, "state": state_name(job.state()),
        "priority": job.priority, "payload": text(&job.payload), "attempts": job.attempt,
        "max_attempts": job.max_attempts, "deliveries": job.delivery, "crashes": job.crashes,
        "tags": job.tags, "unique": none_if_empty(&job.unique_key), "timeout_ms": job.timeout_ms,
        "progress": job.progress_percent, "result": text(&job.result),
        "reason": none_if_empty(&job.reason), "error": error,
        "replay_of": (job.replay_of != 0).then_some(job.replay_of),
        "replayed_as": (job.replayed_as != 0).then_some(job.replayed_as),
        "is_leased_until": job.lease_until_ms.is_some(),
        "is_finished": job.finished_at_ms.is_some(),
        "is_scheduled": job.run_at_ms.is_some(),
        "expires": job.expires_at_ms.is_some(),
    })
}

fn state_name(state: batonq_client::State) -> String {
    format!("{state:?}").to_lowercase()
}

fn outcome(outcome: Outcome) -> &'static str {
    if outcome == Outcome::Inserted { "inserted" } else { "duplicate" }
}

impl Speaker for OverTcp {
    #[expect(clippy::too_many_lines, reason = "a table, as long as there are things")]
    async fn say(&mut self, line: &Line) -> Value {
        let ok = || json!("ok");
        let client = &self.client;
        match line.clone() {
            Line::Push(queue, options) => {
                answered(client.push(new_job(queue, &options)).await, |pushed| {
                    json!([pushed.id.0, outcome(pushed.outcome), state_name(pushed.state)])
                })
            }
            Line::Batch(queue, batch) => {
                let jobs = batch.iter().map(|options| new_job(queue, options)).collect();
                let results = client.push_batch(jobs).await.expect("the call is valid");
                let show = |result| {
                    answered(result, |pushed: batonq_client::Pushed| {
                        json!([pushed.id.0, outcome(pushed.outcome), state_name(pushed.state)])
                    })
                };
                results.into_iter().map(show).collect()
            }
            Line::Pull(queue, count) => {
                // With leases of their own time, as HTTP has them.
                let pull = PullOptions::new(queue).count(count).lease(Duration::from_secs(30));
                let pulled = client.pull(pull).await;
                if let Ok(jobs) = &pulled {
                    let leases = jobs.iter().map(|job| (job.id.0, job.lease.clone()));
                    self.leases.extend(leases);
                }
                answered(pulled, |jobs| {
                    let show = |job: &batonq_client::Job| {
                        json!([
                            job.id.0,
                            text(&job.payload),
                            job.priority,
                            job.attempt,
                            job.delivery,
                            job.max_attempts,
                            job.tags,
                            &*job.queue,
                        ])
                    };
                    jobs.iter().map(show).collect()
                })
            }
            Line::Ack(id, result) => {
                let ack = Ack::new(self.lease(id));
                let ack = match result {
                    Some(result) => ack.result(result),
                    None => ack,
                };
                answered(client.ack(ack).await, |()| ok())
            }
            Line::AckMany(ids) => {
                let acks = ids.iter().map(|id| Ack::new(self.lease(*id)));
                let results = client.ack_batch(acks).await.expect("the call is valid");
                results.into_iter().map(|result| answered(result, |()| ok())).collect()
            }
            Line::Fail(id, code, retry_in, reject) => {
                let mut failure = Failure::new(code, "it went wrong");
                if let Some(delay) = retry_in {
                    failure = failure.retry_in(Duration::from_millis(delay));
                }
                let failure = if reject { failure.reject() } else { failure };
                answered(client.fail(self.lease(id), failure).await, |()| ok())
            }
            Line::Release(id) => answered(client.release(self.lease(id)).await, |()| ok()),
            Line::Extend(id, millis) => {
                let lease = Duration::from_millis(millis);
                answered(client.extend(self.lease(id), lease).await, |_| ok())
            }
            Line::Progress(id, percent) => {
                answered(client.progress(self.lease(id), percent, "").await, |()| ok())
            }
            Line::Get(id) => answered(client.job(id).await, |job| shown_job(&job)),
            Line::Wait(id, millis) => {
                let wait = client.wait_job(id, Duration::from_millis(millis)).await;
                answered(wait, |job| shown_job(&job))
            }
            Line::Timeline(id) => answered(client.timeline(id).await, |timeline| {
                let show = |attempt: &batonq_client::Attempt| {
                    json!([
                        attempt.delivery,
                        attempt.attempt,
                        attempt.ending,
                        attempt.code,
                        attempt.message,
                        attempt.ended_at_ms.is_some(),
                    ])
                };
                timeline.attempts.iter().map(show).collect()
            }),
            Line::List(queue, state, tag) => {
                let mut filter =
                    JobFilter { queue: queue.into(), tag: tag.into(), ..<_>::default() };
                if !state.is_empty() {
                    let name = format!("STATE_{}", state.to_uppercase());
                    let state = batonq_client::State::from_str_name(&name);
                    filter.set_state(state.expect("a state"));
                }
                answered(client.jobs(filter).await, |page| {
                    page.jobs.iter().map(|job| json!([job.id, state_name(job.state())])).collect()
                })
            }
            Line::Queue(name) => answered(client.queue(name).await, |queue| {
                json!([
                    queue.name,
                    queue.paused,
                    queue.scheduled,
                    queue.ready,
                    queue.leased,
                    queue.completed,
                    queue.dead,
                    queue.cancelled,
                ])
            }),
            Line::Pause(name) => answered(client.pause(name).await, |()| ok()),
            Line::Resume(name) => answered(client.resume(name).await, |()| ok()),
            Line::Retry(id) => answered(client.retry(id).await, |()| ok()),
            Line::Cancel(id) => answered(client.cancel(id).await, |_| ok()),
            Line::Promote(id) => answered(client.promote(id).await, |()| ok()),
            Line::Replay(id) => answered(client.replay(id).await, |id| json!(id.0)),
            Line::ReplayDead(queue) => answered(client.replay_dead(queue, "", 10).await, |ids| {
                ids.iter().map(|id| id.0).collect()
            }),
        }
    }
}

struct OverHttp {
    http: Http,
    leases: HashMap<u64, String>,
}

fn body(options: &Options) -> Value {
    let mut body = json!({
        "payload": text(options.payload.as_bytes()), "priority": options.priority,
    });
    let fields = [
        ("delay_ms", json!(options.delay_ms)),
        ("ttl_ms", json!(options.ttl_ms)),
        ("max_attempts", json!(options.max_attempts)),
        ("timeout_ms", json!(options.timeout_ms)),
        ("tags", json!(options.tag.map(|tag| [tag]))),
        ("unique", json!(options.unique.map(|key| json!({ "key": key })))),
        (
            "backoff",
            json!(options.fixed_backoff_ms.map(|ms| json!({ "type": "fixed", "delay_ms": ms }))),
        ),
    ];
    for (name, value) in fields.into_iter().filter(|(_, value)| !value.is_null()) {
        body[name] = value;
    }
    body
}

fn http_job(job: &Value) -> Value {
    json!({
        "id": job["id"], "queue": job["queue"], "state": job["state"],
        "priority": job["priority"], "payload": job["payload"], "attempts": job["attempts"],
        "max_attempts": job["max_attempts"], "deliveries": job["deliveries"],
        "crashes": job["crashes"], "tags": job["tags"], "unique": job["unique"]["key"],
        "timeout_ms": job["timeout_ms"], "progress": job["progress"]["percent"],
        "result": job["result"], "reason": job["reason"], "error": job["error"],
        "replay_of": job["replay_of"], "replayed_as": job["replayed_as"],
        "is_leased_until": !job["lease_until"].is_null(),
        "is_finished": !job["finished_at"].is_null(),
        "is_scheduled": !job["run_at"].is_null(),
        "expires": !job["expires_at"].is_null(),
    })
}

fn list<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value[name].as_array().into_iter().flatten()
}

fn item(result: &Value) -> Value {
    if result["error"].is_object() {
        return json!({ "code": result["error"]["code"], "field": result["error"]["field"] });
    }
    match result["status"].as_str() {
        Some("ok") => json!("ok"),
        Some("lease_lost") => json!({ "code": "LEASE_LOST", "field": null }),
        Some("unknown") => json!({ "code": "NOT_FOUND", "field": null }),
        _ => json!([result["id"], result["outcome"], result["state"]]),
    }
}

impl OverHttp {
    fn lease(&self, id: u64) -> String {
        self.leases.get(&id).cloned().unwrap_or_else(|| NO_LEASE.into())
    }

    async fn post(&self, path: &str, body: Value, show: impl FnOnce(&Value) -> Value) -> Value {
        let reply = self.http.post(path, body).await;
        self.show(reply, show)
    }

    async fn get(&self, path: &str, show: impl FnOnce(&Value) -> Value) -> Value {
        let reply = self.http.get(path).await;
        self.show(reply, show)
    }

    fn show(
        &self,
        reply: batonq_tests::harness::Reply,
        show: impl FnOnce(&Value) -> Value,
    ) -> Value {
        let body = reply.json();
        match reply.status {
            200..300 => show(&body),
            _ => json!({ "code": body["code"], "field": body["field"] }),
        }
    }

    async fn settle(&self, id: u64, verb: &str, mut body: Value) -> Value {
        body["lease"] = self.lease(id).into();
        self.post(&format!("/v1/jobs/{id}/{verb}"), body, |_| json!("ok")).await
    }

    async fn change(&self, id: u64, verb: &str) -> Value {
        self.post(&format!("/v1/jobs/{id}/{verb}"), json!({}), |_| json!("ok")).await
    }
}

impl Speaker for OverHttp {
    #[expect(clippy::too_many_lines, reason = "a table, as long as there are things")]
    async fn say(&mut self, line: &Line) -> Value {
        let encoded = |name: &str| name.replace(' ', "%20").replace('/', "%2F");
        match line.clone() {
            Line::Push(queue, options) => {
                let path = format!("/v1/queues/{}/jobs", encoded(queue));
                self.post(&path, body(&options), item).await
            }
            Line::Batch(queue, batch) => {
                let jobs: Vec<Value> = batch.iter().map(body).collect();
                let path = format!("/v1/queues/{queue}/jobs/batch");
                let show = |body: &Value| list(body, "results").map(item).collect();
                self.post(&path, json!({ "jobs": jobs }), show).await
            }
            Line::Pull(queue, count) => {
                let path = format!("/v1/queues/{}/pull", encoded(queue));
                let reply = self.http.post(&path, json!({ "count": count })).await;
                for job in list(&reply.json(), "jobs") {
                    let lease = job["lease"].as_str().expect("a lease is a text").to_owned();
                    self.leases.insert(job["id"].as_u64().expect("a number"), lease);
                }
                self.show(reply, |body| {
                    let show = |job: &Value| {
                        json!([
                            job["id"],
                            job["payload"],
                            job["priority"],
                            job["attempt"],
                            job["delivery"],
                            job["max_attempts"],
                            job["tags"],
                            job["queue"],
                        ])
                    };
                    list(body, "jobs").map(show).collect()
                })
            }
            Line::Ack(id, result) => {
                let body = match result {
                    Some(result) => json!({ "result": text(result.as_bytes()) }),
                    None => json!({}),
                };
                self.settle(id, "ack", body).await
            }
            Line::AckMany(ids) => {
                let acks: Vec<Value> =
                    ids.iter().map(|id| json!({ "lease": self.lease(*id) })).collect();
                let show = |body: &Value| list(body, "results").map(item).collect();
                self.post("/v1/ack", json!({ "acks": acks }), show).await
            }
            Line::Fail(id, code, retry_in, reject) => {
                let mut body = json!({ "error": { "code": code, "message": "it went wrong" } });
                if let Some(delay) = retry_in {
                    body["retry_in_ms"] = delay.into();
                }
                if reject {
                    body["reject"] = true.into();
                }
                self.settle(id, "fail", body).await
            }
            Line::Release(id) => self.settle(id, "release", json!({})).await,
            Line::Extend(id, lease) => {
                self.settle(id, "extend", json!({ "lease_ms": lease })).await
            }
            Line::Progress(id, percent) => {
                self.settle(id, "progress", json!({ "percent": percent })).await
            }
            Line::Get(id) => self.get(&format!("/v1/jobs/{id}"), http_job).await,
            Line::Wait(id, millis) => {
                let path = format!("/v1/jobs/{id}/wait?timeout_ms={millis}");
                let mut said = self.get(&path, http_job).await;
                // The one field that has another name here.
                if said["field"] == "timeout_ms" {
                    said["field"] = "wait_ms".into();
                }
                said
            }
            Line::Timeline(id) => {
                let show = |attempt: &Value| {
                    json!([
                        attempt["delivery"],
                        attempt["attempt"],
                        attempt["ending"].as_str().unwrap_or(""),
                        attempt["code"].as_str().unwrap_or(""),
                        attempt["message"].as_str().unwrap_or(""),
                        !attempt["ended_at"].is_null(),
                    ])
                };
                let path = format!("/v1/jobs/{id}/timeline");
                self.get(&path, |body| list(body, "attempts").map(show).collect()).await
            }
            Line::List(queue, state, tag) => {
                let mut path = format!("/v1/jobs?queue={queue}");
                for (name, value) in [("state", state), ("tag", tag)] {
                    if !value.is_empty() {
                        path += &format!("&{name}={value}");
                    }
                }
                let show = |job: &Value| json!([job["id"], job["state"]]);
                self.get(&path, |body| list(body, "jobs").map(show).collect()).await
            }
            Line::Queue(name) => {
                self.get(&format!("/v1/queues/{name}"), |queue| {
                    let counts = &queue["counts"];
                    json!([
                        queue["name"],
                        queue["paused"],
                        counts["scheduled"],
                        counts["ready"],
                        counts["leased"],
                        counts["completed"],
                        counts["dead"],
                        counts["cancelled"],
                    ])
                })
                .await
            }
            Line::Pause(name) | Line::Resume(name) => {
                let verb = if matches!(line, Line::Pause(_)) { "pause" } else { "resume" };
                self.post(&format!("/v1/queues/{name}/{verb}"), json!({}), |_| json!("ok")).await
            }
            Line::Retry(id) => self.change(id, "retry").await,
            Line::Cancel(id) => self.change(id, "cancel").await,
            Line::Promote(id) => self.change(id, "promote").await,
            Line::Replay(id) => {
                let path = format!("/v1/jobs/{id}/replay");
                self.post(&path, json!({}), |body| body["id"].clone()).await
            }
            Line::ReplayDead(queue) => {
                let body = json!({ "queue": queue, "limit": 10 });
                self.post("/v1/dlq/replay", body, |body| body["ids"].clone()).await
            }
        }
    }
}
