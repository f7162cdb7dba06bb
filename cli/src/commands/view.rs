//! What is shown of jobs, queues and workers, in tables and as JSON.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use batonq_client::{
    Attempt, Cause, ClusterNode, Decision, Job, JobDetail, JobEvent, KeyUse, Lease, Queue, State,
    WorkerInfo, key_use,
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::exit::Failure;
use crate::output::{Row, length, time};

/// Letters of a payload that a table shows.
const SHOWN_MAX: usize = 60;

/// The word for a state.
pub(super) fn state(state: State) -> String {
    let name = state.as_str_name().trim_start_matches("STATE_");
    name.to_ascii_lowercase()
}

/// Bytes as JSON if they are, else as text, else as base64.
pub(super) fn value(bytes: &[u8]) -> Value {
    if let Ok(value) = serde_json::from_slice(bytes) {
        return value;
    }
    match str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => json!({ "base64": STANDARD.encode(bytes) }),
    }
}

/// A value in one line, cut.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// A lease token as text, the same as over HTTP.
pub(super) fn lease_text(lease: &Lease) -> String {
    URL_SAFE_NO_PAD.encode(lease.as_bytes())
}

/// The lease of a text.
pub(super) fn parse_lease(text: &str) -> Result<Lease, Failure> {
    let token = URL_SAFE_NO_PAD.decode(text);
    token.map(Lease::from_bytes).map_err(|_| Failure::usage("LEASE is not a lease token"))
}

fn text_or_none(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn or_dash(text: Option<&str>) -> String {
    text.unwrap_or("-").to_owned()
}

#[derive(Debug, Serialize)]
pub(super) struct QueueRow {
    name: String,
    paused: bool,
    scheduled: u64,
    blocked: u64,
    ready: u64,
    leased: u64,
    completed: u64,
    dead: u64,
    cancelled: u64,
    oldest_ready_ms: Option<u64>,
}

impl From<Queue> for QueueRow {
    fn from(queue: Queue) -> Self {
        Self {
            name: queue.name,
            paused: queue.paused,
            scheduled: queue.scheduled,
            blocked: queue.blocked,
            ready: queue.ready,
            leased: queue.leased,
            completed: queue.completed,
            dead: queue.dead,
            cancelled: queue.cancelled,
            oldest_ready_ms: queue.oldest_ready_ms,
        }
    }
}

impl Row for QueueRow {
    const HEAD: &'static [&'static str] = &[
        "QUEUE",
        "SCHEDULED",
        "BLOCKED",
        "READY",
        "LEASED",
        "COMPLETED",
        "DEAD",
        "CANCELLED",
        "OLDEST",
        "",
    ];

    fn cells(&self) -> Vec<String> {
        let counts = [
            self.scheduled,
            self.blocked,
            self.ready,
            self.leased,
            self.completed,
            self.dead,
            self.cancelled,
        ];
        let mut cells = vec![self.name.clone()];
        cells.extend(counts.map(|count| count.to_string()));
        cells.push(self.oldest_ready_ms.map_or_else(|| "-".into(), length));
        cells.push(if self.paused { "paused".into() } else { String::new() });
        cells
    }
}

/// A job in a list.
#[derive(Debug, Serialize)]
pub(super) struct JobRow {
    id: u64,
    queue: String,
    state: String,
    priority: i32,
    attempts: u32,
    max_attempts: u32,
    reason: Option<String>,
    created_at: String,
    tags: Vec<String>,
}

impl From<JobDetail> for JobRow {
    fn from(job: JobDetail) -> Self {
        Self {
            id: job.id,
            state: state(job.state()),
            queue: job.queue,
            priority: job.priority,
            attempts: job.attempt,
            max_attempts: job.max_attempts,
            reason: text_or_none(&job.reason),
            created_at: time(job.created_at_ms),
            tags: job.tags,
        }
    }
}

impl Row for JobRow {
    const HEAD: &'static [&'static str] =
        &["ID", "QUEUE", "STATE", "PRIORITY", "ATTEMPTS", "REASON", "CREATED", "TAGS"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.to_string(),
            self.queue.clone(),
            self.state.clone(),
            self.priority.to_string(),
            format!("{}/{}", self.attempts, self.max_attempts),
            or_dash(self.reason.as_deref()),
            self.created_at.clone(),
            self.tags.join(" "),
        ]
    }
}

/// All that is known of a job, as JSON.
pub(super) fn job_value(job: &JobDetail) -> Value {
    let mut shown = json!({
        "id": job.id, "queue": job.queue, "state": state(job.state()), "priority": job.priority,
        "payload": value(&job.payload), "attempts": job.attempt, "max_attempts": job.max_attempts,
        "deliveries": job.delivery, "crashes": job.crashes, "created_at": time(job.created_at_ms),
        "tags": job.tags,
    });
    let result = (!job.result.is_empty()).then(|| value(&job.result));
    let error = (!job.error_code.is_empty())
        .then(|| json!({ "code": job.error_code, "message": job.error_message }));
    let id = |id: u64| (id != 0).then_some(id);
    for (name, value) in [
        ("content_type", json!(text_or_none(&job.content_type))),
        ("run_at", json!(job.run_at_ms.map(time))),
        ("expires_at", json!(job.expires_at_ms.map(time))),
        ("timeout_ms", json!(job.timeout_ms)),
        ("unique_key", json!(text_or_none(&job.unique_key))),
        ("lease_until", json!(job.lease_until_ms.map(time))),
        ("worker", json!(text_or_none(&job.worker))),
        ("progress_percent", json!(job.progress_percent)),
        ("progress_message", json!(text_or_none(&job.progress_message))),
        ("finished_at", json!(job.finished_at_ms.map(time))),
        ("result", json!(result)),
        ("reason", json!(text_or_none(&job.reason))),
        ("error", json!(error)),
        (
            "concurrency",
            json!(job.concurrency.as_ref().map(|it| json!({
                "key": it.key, "max": it.max,
            }))),
        ),
        (
            "rate",
            json!(job.rate.as_ref().map(|it| json!({
                "key": it.key, "limit": it.limit, "per_ms": it.per_ms, "burst": it.burst,
            }))),
        ),
        ("depends_on", json!((!job.depends_on.is_empty()).then_some(&job.depends_on))),
        ("unique_window_ms", json!(job.unique_window_ms)),
        ("unique_debounce", json!(job.unique_debounce.then_some(true))),
        ("idempotency_key", json!(text_or_none(&job.idempotency_key))),
        ("cancel_force_at", json!(job.cancel_force_at_ms.map(time))),
        ("replay_of", json!(id(job.replay_of))),
        ("replayed_as", json!(id(job.replayed_as))),
        ("payload_dropped", json!(job.payload_dropped.then_some(true))),
    ] {
        if !value.is_null() {
            shown[name] = value;
        }
    }
    shown
}

/// All that is known of a job, a line each.
pub(super) fn job_lines(job: &JobDetail) -> String {
    let Value::Object(fields) = job_value(job) else { return String::new() };
    let line = |(name, value): (&String, &Value)| match value {
        Value::String(text) => format!("{name:<17} {text}"),
        value => format!("{name:<17} {value}"),
    };
    fields.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// One lease of a job.
#[derive(Debug, Serialize)]
pub(super) struct AttemptRow {
    delivery: u32,
    attempt: u32,
    ending: Option<String>,
    started_at: String,
    duration_ms: Option<i64>,
    node: String,
    worker: String,
    code: Option<String>,
    message: Option<String>,
}

impl From<Attempt> for AttemptRow {
    fn from(attempt: Attempt) -> Self {
        Self {
            delivery: attempt.delivery,
            attempt: attempt.attempt,
            ending: text_or_none(&attempt.ending),
            started_at: time(attempt.started_at_ms),
            duration_ms: attempt.ended_at_ms.map(|ended| ended - attempt.started_at_ms),
            node: attempt.node,
            worker: attempt.worker,
            code: text_or_none(&attempt.code),
            message: text_or_none(&attempt.message),
        }
    }
}

/// One thing that happened to a job.
#[derive(Debug, Serialize)]
pub(super) struct EventRow {
    at: String,
    kind: String,
    delivery: Option<u32>,
    attempt: Option<u32>,
    node: Option<String>,
    who: Option<String>,
    ending: Option<String>,
    code: Option<String>,
    message: Option<String>,
    waited_ms: Option<u64>,
    ran_ms: Option<u64>,
    job: Option<u64>,
}

impl From<JobEvent> for EventRow {
    fn from(event: JobEvent) -> Self {
        let number = |number: u32| (number != 0).then_some(number);
        Self {
            at: time(event.at_ms),
            kind: event.kind,
            delivery: number(event.delivery),
            attempt: number(event.attempt),
            node: text_or_none(&event.node),
            who: text_or_none(&event.who),
            ending: text_or_none(&event.ending),
            code: text_or_none(&event.code),
            message: text_or_none(&event.message),
            waited_ms: event.waited_ms,
            ran_ms: event.ran_ms,
            job: (event.job != 0).then_some(event.job),
        }
    }
}

impl EventRow {
    /// How long, what came of it, and why.
    fn words(&self) -> String {
        let times = [("waited", self.waited_ms), ("ran", self.ran_ms)];
        let times = times.map(|(word, time)| time.map(|time| format!("{word} {}", length(time))));
        let job = self.job.map(|id| format!("job {id}"));
        let rest = [&self.ending, &self.code, &self.message].map(Clone::clone);
        let words = rest.into_iter().chain(times).chain([job]).flatten();
        words.collect::<Vec<_>>().join(", ")
    }
}

impl Row for EventRow {
    const HEAD: &'static [&'static str] = &["AT", "WHAT", "DELIVERY", "NODE", "WHO", "HOW"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.at.clone(),
            self.kind.clone(),
            self.delivery.map_or_else(|| "-".into(), |number| number.to_string()),
            or_dash(self.node.as_deref()),
            or_dash(self.who.as_deref()),
            self.words(),
        ]
    }
}

/// One thing that keeps a job from running.
#[derive(Debug, Serialize)]
pub(super) struct CauseRow {
    code: String,
    detail: String,
    since: Option<String>,
    until: Option<String>,
    who: Option<String>,
    node: Option<String>,
    key: Option<String>,
    count: Option<u64>,
    limit: Option<u64>,
    jobs: Vec<Value>,
}

impl From<Cause> for CauseRow {
    fn from(cause: Cause) -> Self {
        let known = |it: State| (it != State::Unspecified).then(|| state(it));
        let jobs = cause.jobs.iter().map(|it| json!({ "id": it.id, "state": known(it.state()) }));
        Self {
            jobs: jobs.collect(),
            code: cause.code,
            detail: cause.detail,
            since: cause.since_ms.map(time),
            until: cause.until_ms.map(time),
            who: text_or_none(&cause.who),
            node: text_or_none(&cause.node),
            key: text_or_none(&cause.key),
            count: cause.count,
            limit: cause.limit,
        }
    }
}

impl Row for CauseRow {
    const HEAD: &'static [&'static str] = &["CAUSE", "IN WORDS"];

    fn cells(&self) -> Vec<String> {
        vec![self.code.clone(), self.detail.clone()]
    }
}

/// A job to work on.
#[derive(Debug, Serialize)]
pub(super) struct LeasedRow {
    id: u64,
    lease: String,
    attempt: u32,
    delivery: u32,
    priority: i32,
    payload: Value,
}

impl From<&Job> for LeasedRow {
    fn from(job: &Job) -> Self {
        Self {
            id: job.id.0,
            lease: lease_text(&job.lease),
            attempt: job.attempt,
            delivery: job.delivery,
            priority: job.priority,
            payload: value(&job.payload),
        }
    }
}

impl Row for LeasedRow {
    const HEAD: &'static [&'static str] = &["ID", "LEASE", "ATTEMPT", "PRIORITY", "PAYLOAD"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.to_string(),
            self.lease.clone(),
            self.attempt.to_string(),
            self.priority.to_string(),
            short(&self.payload),
        ]
    }
}

/// A node.
#[derive(Debug, Serialize)]
pub(super) struct NodeRow {
    id: String,
    host: String,
    tcp_port: u32,
    http_port: u32,
    state: String,
    is_leader: bool,
    leased: u64,
    started_at: String,
    last_heartbeat: String,
    version: String,
    fingerprint: String,
}

impl From<ClusterNode> for NodeRow {
    fn from(node: ClusterNode) -> Self {
        Self {
            id: node.id,
            host: node.host,
            tcp_port: node.tcp_port,
            http_port: node.http_port,
            state: node.state,
            is_leader: node.is_leader,
            leased: node.leased,
            started_at: time(node.started_at_ms),
            last_heartbeat: time(node.last_heartbeat_ms),
            version: node.version,
            fingerprint: node.fingerprint,
        }
    }
}

impl Row for NodeRow {
    const HEAD: &'static [&'static str] =
        &["NODE", "", "STATE", "LEASED", "HOST", "TCP", "HTTP", "STARTED", "VERSION", "SETTINGS"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.clone(),
            if self.is_leader { "leader".into() } else { String::new() },
            self.state.clone(),
            self.leased.to_string(),
            self.host.clone(),
            self.tcp_port.to_string(),
            self.http_port.to_string(),
            self.started_at.clone(),
            self.version.clone(),
            self.fingerprint.clone(),
        ]
    }
}

/// A worker.
#[derive(Debug, Serialize)]
pub(super) struct WorkerRow {
    name: String,
    client: String,
    address: String,
    connected: bool,
    connected_at: String,
    silent_ms: u64,
}

impl From<WorkerInfo> for WorkerRow {
    fn from(worker: WorkerInfo) -> Self {
        Self {
            name: worker.name,
            client: worker.client,
            address: worker.address,
            connected: worker.connected,
            connected_at: time(worker.connected_at_ms),
            silent_ms: worker.silent_ms,
        }
    }
}

impl Row for WorkerRow {
    const HEAD: &'static [&'static str] =
        &["WORKER", "CLIENT", "ADDRESS", "CONNECTED", "HEARD FROM", ""];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.client.clone(),
            self.address.clone(),
            self.connected_at.clone(),
            format!("{} ago", length(self.silent_ms)),
            if self.connected { String::new() } else { "lost".into() },
        ]
    }
}

/// A key of a queue, and who uses it.
#[derive(Debug, Serialize)]
pub(super) struct KeyRow {
    key: String,
    limit: String,
    waiting: u64,
    holders: Vec<u64>,
    opens_at: Option<String>,
}

impl From<KeyUse> for KeyRow {
    fn from(used: KeyUse) -> Self {
        let (limit, holders, opens_at) = match used.limit {
            Some(key_use::Limit::Concurrency(one)) => {
                let max = one.max.map_or_else(|| "any".into(), |max| max.to_string());
                (format!("{max} at once"), one.holders, None)
            }
            Some(key_use::Limit::Rate(one)) => {
                let limit = format!("{} in {}", one.limit, length(one.per_ms));
                (limit, Vec::new(), one.opens_at_ms.map(time))
            }
            None => (String::new(), Vec::new(), None),
        };
        Self { key: used.key, limit, waiting: used.waiting, holders, opens_at }
    }
}

impl Row for KeyRow {
    const HEAD: &'static [&'static str] = &["KEY", "LIMIT", "WAITING", "HELD BY", "CLOSED UNTIL"];

    fn cells(&self) -> Vec<String> {
        let holders: Vec<String> = self.holders.iter().map(u64::to_string).collect();
        vec![
            self.key.clone(),
            self.limit.clone(),
            self.waiting.to_string(),
            if holders.is_empty() { "-".into() } else { holders.join(" ") },
            self.opens_at.clone().unwrap_or_else(|| "-".into()),
        ]
    }
}

/// What guards refused in a minute.
#[derive(Debug, Serialize)]
pub(super) struct DecisionRow {
    queue: String,
    guard: String,
    max: u64,
    count: u64,
    minute: String,
    last_at: String,
}

impl From<Decision> for DecisionRow {
    fn from(decision: Decision) -> Self {
        Self {
            queue: decision.queue,
            guard: decision.guard,
            max: decision.max,
            count: decision.count,
            minute: time(decision.minute_ms),
            last_at: time(decision.last_at_ms),
        }
    }
}

impl Row for DecisionRow {
    const HEAD: &'static [&'static str] = &["QUEUE", "GUARD", "ALLOWS", "REFUSED", "LAST"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.queue.clone(),
            self.guard.clone(),
            self.max.to_string(),
            self.count.to_string(),
            self.last_at.clone(),
        ]
    }
}
