//! The same conversation over the binary protocol and over HTTP gives the same answers.
//!
//! A conversation is written once, in the words of [`Line`]; each transport says it in its own
//! way, to a server of its own, and what comes back is compared line by line.

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use batonq_client::{
    Ack, Backoff, Cancelled, Client, Edit, Error, ErrorCode, Failure, JobFilter, KeyUse, Lease,
    NewJob, OnFailure, PullOptions, key_use,
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
    CancelWithin(u64, u64),
    Promote(u64),
    Flow(Vec<Options>),
    Snooze(u64, u64),
    Edit(u64, Change),
    Settings(&'static str, &'static str),
    Keys(&'static str),
}

/// What is to be changed of a job.
#[derive(Debug, Clone, Copy, Default)]
struct Change {
    priority: Option<i32>,
    payload: Option<&'static str>,
    delay_ms: Option<u64>,
    queue: Option<&'static str>,
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
    window_ms: Option<u64>,
    debounce: bool,
    tag: Option<&'static str>,
    idempotency: Option<&'static str>,
    /// Key and, unless it is for a fair share only, how many at once.
    concurrency: Option<(&'static str, Option<u32>)>,
    /// Key, how many, and in how many milliseconds.
    rate: Option<(&'static str, u32, u64)>,
    depends_on: &'static [u64],
    /// In a flow: places.
    after: &'static [u32],
    on_failure: Option<OnFailure>,
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

const HOUR: u64 = 3_600_000;

#[expect(clippy::too_many_lines, reason = "a table, as long as there are things")]
fn conversation_about_options() -> Vec<Line> {
    use Line::{
        Ack, Cancel, CancelWithin, Edit, Fail, Flow, Get, Keys, List, Pull, Push, Queue, Release,
        Settings, Snooze, Timeline,
    };
    let window = |window_ms| Options { unique: Some("w"), window_ms: Some(window_ms), ..plain() };
    let debounce = |payload, delay_ms| {
        let unique = Some("d");
        Push("q", Options { payload, delay_ms, unique, debounce: true, ..plain() })
    };
    let idempotent = Options { idempotency: Some("i"), ..plain() };
    let at_once = |max| Options { concurrency: Some(("k", max)), ..plain() };
    let in_time = |limit, per_ms| Options { rate: Some(("r", limit, per_ms)), ..plain() };
    let after = |after, on_failure| Options { after, on_failure, ..plain() };
    let needs = |depends_on, on_failure| Options { depends_on, on_failure, ..plain() };
    vec![
        // 1: unique for a time.
        Push("q", window(HOUR)),
        Push("q", window(HOUR)),
        Get(1),
        Pull("q", 1),
        Ack(1, None),
        Push("q", window(HOUR)),
        Push("q", window(0)),
        Push("q", window(31 * 24 * HOUR)),
        // 2, 4: the last one wins. It gets a new place, which is a number, too.
        debounce("1", Some(HOUR)),
        debounce("2", None),
        Get(2),
        Pull("q", 1),
        debounce("3", None),
        Ack(2, None),
        Pull("q", 1),
        Ack(4, None),
        // 5: a push is not repeated.
        Push("q", idempotent.clone()),
        Push("q", idempotent.clone()),
        Pull("q", 1),
        Ack(5, None),
        Push("q", idempotent),
        Get(5),
        // 6, 7: one at once.
        Push("q", at_once(Some(1))),
        Push("q", at_once(Some(1))),
        Push("q", at_once(Some(0))),
        Pull("q", 5),
        Keys("q"),
        Ack(6, None),
        Pull("q", 5),
        Get(7),
        Ack(7, None),
        Keys("q"),
        // 8, 9: one in an hour, until somebody sets something else.
        Push("q", in_time(1, HOUR)),
        Push("q", in_time(1, HOUR)),
        Push("q", in_time(1, 8 * 24 * HOUR)),
        Pull("q", 5),
        Keys("q"),
        Get(8),
        Ack(8, None),
        Pull("q", 5),
        Settings("q", "{\"keys\":{\"r\":{\"rate\":{\"limit\":9,\"per_ms\":1}}}}"),
        Queue("q"),
        Pull("q", 5),
        Ack(9, None),
        Settings("q", "{\"concurrency\":0}"),
        Settings("q", "{\"concurency\":1}"),
        Settings("no good", "{}"),
        Settings("q", "{\"concurrency\":1}"),
        // 10, 11: by turns, and one at once by the setting.
        Push("q", at_once(None)),
        Push("q", plain()),
        Pull("q", 5),
        Get(10),
        Ack(10, None),
        Pull("q", 5),
        Ack(11, None),
        Settings("q", "{}"),
        // 12, 13, 14: a flow.
        Flow(vec![plain(), after(&[0], None), after(&[0, 1], Some(OnFailure::Ignore))]),
        Flow(vec![after(&[1], None), after(&[0], None)]),
        Flow(vec![plain(), Options { max_attempts: Some(0), ..plain() }]),
        Get(14),
        Queue("q"),
        List("q", "blocked", ""),
        Pull("q", 5),
        Ack(12, Some("{\"part\":1}")),
        Pull("q", 5),
        Fail(13, "NO", None, true),
        Pull("q", 5),
        Ack(14, None),
        // 17, 18, 19: for jobs that have ended badly or well, or never were.
        Push("q", needs(&[13], None)),
        Get(17),
        Push("q", needs(&[13], Some(OnFailure::Wait))),
        Push("q", needs(&[12], None)),
        Push("q", needs(&[9_999], None)),
        Cancel(18),
        Pull("q", 5),
        // 19 is given back for later, and changed.
        Snooze(19, 400 * 24 * 365 * HOUR),
        Snooze(19, HOUR),
        Snooze(19, HOUR),
        Get(19),
        Edit(19, Change { delay_ms: Some(0), priority: Some(3), ..Change::default() }),
        Edit(19, Change { payload: Some("[1]"), queue: Some("other"), ..Change::default() }),
        Edit(19, Change { queue: Some("no good"), ..Change::default() }),
        Edit(19, Change::default()),
        Edit(999, Change { priority: Some(1), ..Change::default() }),
        Get(19),
        Pull("q", 5),
        Pull("other", 5),
        Edit(19, Change { priority: Some(1), ..Change::default() }),
        // Its end is asked for.
        CancelWithin(19, 25 * HOUR),
        CancelWithin(19, HOUR),
        Get(19),
        Release(19),
        CancelWithin(19, HOUR),
        Get(19),
        Timeline(19),
    ]
}

#[tokio::test]
async fn both_transports_give_the_same_answers_about_options() {
    compare(conversation_about_options()).await;
}

#[tokio::test]
async fn both_transports_give_the_same_answers() {
    compare(conversation()).await;
}

async fn compare(conversation: Vec<Line>) {
    let (over_tcp, over_http) = (Server::start(), Server::start());
    let mut tcp = OverTcp { client: over_tcp.client().await, leases: HashMap::new() };
    let mut http = OverHttp { http: over_http.http(), leases: HashMap::new() };
    for line in conversation {
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
    job = match (options.unique, options.window_ms) {
        (Some(key), Some(window)) => job.unique_for(key, millis(window)),
        (Some(key), None) if options.debounce => job.debounce(key),
        (Some(key), None) => job.unique(key),
        (None, _) => job,
    };
    if let Some(tag) = options.tag {
        job = job.tag(tag);
    }
    if let Some(key) = options.idempotency {
        job = job.idempotency_key(key);
    }
    job = match options.concurrency {
        Some((key, Some(max))) => job.concurrency(key, max),
        Some((key, None)) => job.fair_share(key),
        None => job,
    };
    if let Some((key, limit, per)) = options.rate {
        job = job.rate(key, limit, millis(per));
    }
    if let Some(policy) = options.on_failure {
        job = job.on_failure(policy);
    }
    let job = options.depends_on.iter().fold(job, |job, id| job.after(*id));
    options.after.iter().fold(job, |job, place| job.after_item(*place))
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
    let on_failure = (!job.depends_on.is_empty()).then(|| word(&job.on_failure()));
    json!({
        "id": job.id, "queue": job.queue, "state": state_name(job.state()),
        "priority": job.priority, "payload": text(&job.payload), "attempts": job.attempt,
        "max_attempts": job.max_attempts, "deliveries": job.delivery, "crashes": job.crashes,
        "tags": job.tags, "unique": none_if_empty(&job.unique_key), "timeout_ms": job.timeout_ms,
        "window_ms": job.unique_window_ms, "is_debounced": job.unique_debounce,
        "idempotency_key": none_if_empty(&job.idempotency_key),
        "concurrency": job.concurrency.as_ref().map(|it| json!([it.key, it.max])),
        "rate": job.rate.as_ref().map(|it| json!([it.key, it.limit, it.per_ms, it.burst])),
        "depends_on": job.depends_on, "on_failure": on_failure,
        "is_cancel_requested": job.cancel_requested_at_ms.is_some(),
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
    word(&state)
}

fn word(name: &impl std::fmt::Debug) -> String {
    format!("{name:?}").to_lowercase()
}

fn pushed_job(pushed: batonq_client::Pushed) -> Value {
    json!([pushed.id.0, word(&pushed.outcome), state_name(pushed.state)])
}

impl Speaker for OverTcp {
    #[expect(clippy::too_many_lines, reason = "a table, as long as there are things")]
    async fn say(&mut self, line: &Line) -> Value {
        let ok = || json!("ok");
        let client = &self.client;
        match line.clone() {
            Line::Push(queue, options) => {
                answered(client.push(new_job(queue, &options)).await, pushed_job)
            }
            Line::Batch(queue, batch) => {
                let jobs = batch.iter().map(|options| new_job(queue, options)).collect();
                let results = client.push_batch(jobs).await.expect("the call is valid");
                results.into_iter().map(|result| answered(result, pushed_job)).collect()
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
                            job.needs.iter().map(need).collect::<Vec<_>>(),
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
                    queue.blocked,
                    text(queue.settings.as_bytes()),
                ])
            }),
            Line::Pause(name) => answered(client.pause(name).await, |()| ok()),
            Line::Resume(name) => answered(client.resume(name).await, |()| ok()),
            Line::Retry(id) => answered(client.retry(id).await, |()| ok()),
            Line::Cancel(id) => answered(client.cancel(id).await, |_| ok()),
            Line::CancelWithin(id, grace) => {
                let cancelled = client.cancel_within(id, Duration::from_millis(grace)).await;
                answered(cancelled, |it| matches!(it, Cancelled::Requested { .. }).into())
            }
            Line::Promote(id) => answered(client.promote(id).await, |()| ok()),
            Line::Flow(flow) => {
                let jobs = flow.iter().map(|options| new_job("q", options)).collect();
                answered(client.push_flow(jobs).await, |all| {
                    all.into_iter().map(pushed_job).collect()
                })
            }
            Line::Snooze(id, millis) => {
                let delay = Duration::from_millis(millis);
                answered(client.snooze(self.lease(id), delay).await, |()| ok())
            }
            Line::Edit(id, change) => answered(client.edit(id, edit(change)).await, |()| ok()),
            Line::Settings(queue, settings) => {
                let settings = text(settings.as_bytes());
                answered(client.set_settings(queue, &settings).await, |()| ok())
            }
            Line::Keys(queue) => {
                answered(client.keys(queue).await, |keys| keys.iter().map(key_use).collect())
            }
            Line::Replay(id) => answered(client.replay(id).await, |id| json!(id.0)),
            Line::ReplayDead(queue) => answered(client.replay_dead(queue, "", 10).await, |ids| {
                ids.iter().map(|id| id.0).collect()
            }),
        }
    }
}

fn need(need: &batonq_client::Need) -> Value {
    json!([need.id.0, state_name(need.state), need.result.as_ref().map(|result| text(result))])
}

fn edit(change: Change) -> Edit {
    let mut edit = Edit::default();
    if let Some(priority) = change.priority {
        edit = edit.priority(priority);
    }
    if let Some(payload) = change.payload {
        edit = edit.payload(payload);
    }
    if let Some(delay) = change.delay_ms {
        edit = edit.delay(Duration::from_millis(delay));
    }
    change.queue.into_iter().fold(edit, Edit::queue)
}

fn key_use(used: &KeyUse) -> Value {
    match &used.limit {
        Some(key_use::Limit::Concurrency(it)) => {
            json!([used.key, used.waiting, it.max, it.holders])
        }
        Some(key_use::Limit::Rate(it)) => {
            let is_closed = it.opens_at_ms.is_some();
            json!([used.key, used.waiting, it.limit, it.per_ms, it.burst, is_closed])
        }
        None => Value::Null,
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
        ("unique", options.unique.map_or(Value::Null, |key| unique(key, options))),
        ("idempotency_key", json!(options.idempotency)),
        ("concurrency", json!(options.concurrency.map(|it| json!({ "key": it.0, "max": it.1 })))),
        (
            "rate",
            json!(options.rate.map(|it| json!({ "key": it.0, "limit": it.1, "per_ms": it.2 }))),
        ),
        ("on_failure", json!(options.on_failure.map(|policy| word(&policy)))),
        (
            "backoff",
            json!(options.fixed_backoff_ms.map(|ms| json!({ "type": "fixed", "delay_ms": ms }))),
        ),
    ];
    for (name, value) in fields.into_iter().filter(|(_, value)| !value.is_null()) {
        body[name] = value;
    }
    let places = options.after.iter().map(|place| json!(place.to_string()));
    let needs: Vec<Value> = options.depends_on.iter().map(|id| json!(id)).chain(places).collect();
    if !needs.is_empty() {
        body["depends_on"] = needs.into();
    }
    body
}

fn unique(key: &str, options: &Options) -> Value {
    match options.window_ms {
        Some(window) => json!({ "key": key, "window_ms": window }),
        None => json!({ "key": key, "debounce": options.debounce }),
    }
}

fn http_job(job: &Value) -> Value {
    json!({
        "id": job["id"], "queue": job["queue"], "state": job["state"],
        "priority": job["priority"], "payload": job["payload"], "attempts": job["attempts"],
        "max_attempts": job["max_attempts"], "deliveries": job["deliveries"],
        "crashes": job["crashes"], "tags": job["tags"], "unique": job["unique"]["key"],
        "window_ms": job["unique"]["window_ms"], "is_debounced": job["unique"]["debounce"] == true,
        "idempotency_key": job["idempotency_key"],
        "concurrency": fields(&job["concurrency"], &["key", "max"]),
        "rate": fields(&job["rate"], &["key", "limit", "per_ms", "burst"]),
        "depends_on": list(job, "depends_on").collect::<Vec<_>>(), "on_failure": job["on_failure"],
        "is_cancel_requested": !job["cancel"]["requested_at"].is_null(),
        "timeout_ms": job["timeout_ms"], "progress": job["progress"]["percent"],
        "result": job["result"], "reason": job["reason"], "error": job["error"],
        "replay_of": job["replay_of"], "replayed_as": job["replayed_as"],
        "is_leased_until": !job["lease_until"].is_null(),
        "is_finished": !job["finished_at"].is_null(),
        "is_scheduled": !job["run_at"].is_null(),
        "expires": !job["expires_at"].is_null(),
    })
}

fn edit_body(change: Change) -> Value {
    let mut body = json!({});
    for (name, value) in [
        ("priority", json!(change.priority)),
        ("payload", json!(change.payload.map(|payload| text(payload.as_bytes())))),
        ("delay_ms", json!(change.delay_ms)),
        ("queue", json!(change.queue)),
    ] {
        if !value.is_null() {
            body[name] = value;
        }
    }
    body
}

/// These of an object, if it is one.
fn fields(value: &Value, names: &[&str]) -> Value {
    let of = |object: &serde_json::Map<String, Value>| {
        names.iter().map(|name| object.get(*name).cloned().unwrap_or_default()).collect()
    };
    value.as_object().map_or(Value::Null, of)
}

fn http_key(used: &Value) -> Value {
    if used["kind"] == "concurrency" {
        return fields(used, &["key", "waiting", "max", "holders"]);
    }
    let mut shown = fields(used, &["key", "waiting", "limit", "per_ms", "burst", "opens_at"]);
    shown[5] = (!shown[5].is_null()).into();
    shown
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

    async fn put(&self, method: hyper::Method, path: &str, body: Value) -> Value {
        let json = [("content-type", "application/json")];
        let reply = self.http.send(method, path, Some(body.to_string().into()), &json).await;
        self.show(reply, |_| json!("ok"))
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
                            list(job, "needs")
                                .map(|need| fields(need, &["id", "state", "result"]))
                                .collect::<Vec<_>>(),
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
                        counts["blocked"],
                        queue["settings"],
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
            Line::CancelWithin(id, grace) => {
                let (path, body) = (format!("/v1/jobs/{id}/cancel"), json!({ "grace_ms": grace }));
                self.post(&path, body, |body| body["force_at"].is_string().into()).await
            }
            Line::Flow(flow) => {
                let job = |(place, options): (usize, &Options)| {
                    let mut job = body(options);
                    (job["ref"], job["queue"]) = (place.to_string().into(), "q".into());
                    job
                };
                let jobs: Vec<Value> = flow.iter().enumerate().map(job).collect();
                let show = |body: &Value| list(body, "results").map(item).collect();
                self.post("/v1/flows", json!({ "jobs": jobs }), show).await
            }
            Line::Snooze(id, delay) => {
                self.settle(id, "release", json!({ "delay_ms": delay })).await
            }
            Line::Edit(id, change) => {
                let path = format!("/v1/jobs/{id}");
                self.put(hyper::Method::PATCH, &path, edit_body(change)).await
            }
            Line::Settings(queue, settings) => {
                let path = format!("/v1/queues/{}/settings", encoded(queue));
                self.put(hyper::Method::PUT, &path, text(settings.as_bytes())).await
            }
            Line::Keys(queue) => {
                let path = format!("/v1/queues/{queue}/keys");
                self.get(&path, |body| list(body, "keys").map(http_key).collect()).await
            }
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
