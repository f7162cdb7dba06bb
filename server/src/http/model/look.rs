//! What there is to see.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::push::{BackoffBody, ConcurrencyBody, RateBody, UniqueBody};
use super::{bytes_out, millis, payload_out, time};
use crate::broker::{BulkAction, BulkFilter, BulkRequest, Condition, Worker};
use crate::job::{JobId, Reason, Settings, State, Timestamp};
use crate::metrics::{Counted, LastMinute, Timed, WINDOW};
use crate::store::{Attempt, Decision, Event, Job, JobPage, KeyLimit, KeyUse, Queue};

/// All that is known of a job.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::http) struct JobBody {
    id: u64,
    queue: String,
    state: &'static str,
    priority: i32,
    /// If it is JSON. Left out in lists and timelines.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Value>")]
    payload: Option<Box<RawValue>>,
    /// If it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    /// Payload and result have been dropped: the queue keeps them less long than the job.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    payload_dropped: bool,
    /// Attempts that were charged.
    attempts: u32,
    max_attempts: u32,
    /// Leases given.
    deliveries: u32,
    /// Leases whose worker vanished.
    crashes: u32,
    created_at: String,
    /// While scheduled.
    #[serde(skip_serializing_if = "Option::is_none")]
    run_at: Option<String>,
    /// Not delivered at or after this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backoff: Option<BackoffBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unique: Option<UniqueBody>,
    tags: Vec<String>,
    /// While leased.
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_until: Option<String>,
    /// While leased.
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<String>,
    /// While leased.
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<ProgressShown>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished_at: Option<String>,
    /// Once completed, if it is JSON. Left out in lists and timelines.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Value>")]
    result: Option<Box<RawValue>>,
    /// If it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    result_base64: Option<String>,
    /// Why it is dead.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// What the last attempt that ended badly said. Left out in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorShown>,
    /// The job this one is a copy of.
    #[serde(skip_serializing_if = "Option::is_none")]
    replay_of: Option<u64>,
    /// The latest copy of this job.
    #[serde(skip_serializing_if = "Option::is_none")]
    replayed_as: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    concurrency: Option<ConcurrencyBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<RateBody>,
    /// The jobs that it waits or waited for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    depends_on: Vec<u64>,
    /// What becomes of it if one of those dies or is cancelled.
    #[serde(skip_serializing_if = "Option::is_none")]
    on_failure: Option<&'static str>,
    /// While leased: somebody asks for its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    cancel: Option<CancelShown>,
}

/// Somebody asks for the end of a job.
#[derive(Debug, Serialize, JsonSchema)]
struct CancelShown {
    requested_at: String,
    /// When it is forced.
    force_at: String,
}

/// How far the worker is.
#[derive(Debug, Serialize, JsonSchema)]
struct ProgressShown {
    percent: u8,
    message: String,
}

/// What went wrong.
#[derive(Debug, Serialize, JsonSchema)]
struct ErrorShown {
    code: String,
    message: String,
}

impl From<Job> for JobBody {
    fn from(job: Job) -> Self {
        let (payload, payload_base64, content_type) = match &job.payload {
            Some(payload) => {
                let (value, base64, content_type) = payload_out(payload);
                (value, base64, Some(content_type))
            }
            None => (None, None, None),
        };
        let result = job.result.as_ref().map(|result| bytes_out(result, true));
        let (result, result_base64) = result.unwrap_or_default();
        let progress = job
            .progress
            .map(|progress| ProgressShown { percent: progress.percent, message: progress.message });
        let options = job.options;
        Self {
            id: job.id.0,
            queue: job.queue.as_str().into(),
            state: job.state.name(),
            priority: job.priority,
            payload,
            payload_base64,
            content_type,
            attempts: job.attempts,
            max_attempts: job.max_attempts,
            deliveries: job.deliveries,
            crashes: job.crashes,
            created_at: time(job.created_at),
            run_at: job.run_at.map(time),
            expires_at: job.expires_at.map(time),
            timeout_ms: job.timeout.map(millis),
            backoff: job.backoff.as_ref().map(Into::into),
            unique: job.unique.as_ref().map(|key| UniqueBody::new(key, options.hold)),
            tags: job.tags.iter().map(|tag| tag.as_str().into()).collect(),
            lease_until: job.lease_until.map(time),
            worker: job.worker.map(|worker| worker.as_str().into()),
            progress,
            finished_at: job.finished_at.map(time),
            result,
            result_base64,
            reason: job.reason.map(Reason::name),
            error: job.error.map(|(code, message)| ErrorShown { code, message }),
            replay_of: job.replay_of.map(|id| id.0),
            replayed_as: job.replayed_as.map(|id| id.0),
            payload_dropped: job.is_dropped,
            idempotency_key: options.idempotency.map(|key| key.as_str().into()),
            concurrency: options.flow.concurrency.as_ref().map(Into::into),
            rate: options.flow.rate.as_ref().map(Into::into),
            on_failure: (!options.depends.on.is_empty()).then(|| options.depends.on_failure.name()),
            depends_on: options.depends.on.into_iter().map(|id| id.0).collect(),
            cancel: job.cancel.map(|(requested_at, force_at)| CancelShown {
                requested_at: time(requested_at),
                force_at: time(force_at),
            }),
        }
    }
}

/// A job, and whether it has ended.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::http) struct WaitedBody {
    /// False: the time was up before the job ended.
    finished: bool,
    #[serde(flatten)]
    job: JobBody,
}

impl From<Job> for WaitedBody {
    fn from(job: Job) -> Self {
        Self { finished: job.state.is_final(), job: job.into() }
    }
}

/// A page of jobs, newest first.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::http) struct JobsBody {
    jobs: Vec<JobBody>,
    /// For the next page; null: there is no more.
    cursor: Option<u64>,
}

impl From<JobPage> for JobsBody {
    fn from(page: JobPage) -> Self {
        let jobs = page.jobs.into_iter().map(Into::into).collect();
        Self { jobs, cursor: page.next.map(|id| id.0) }
    }
}

/// A job and what happened to it.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::http) struct TimelineBody {
    job: JobBody,
    /// Oldest first, the last 256 of them.
    attempts: Vec<AttemptShown>,
    /// All that happened, oldest first; of more than 256 leases, or as many other things, the last.
    events: Vec<EventShown>,
}

/// One thing that happened to a job.
#[derive(Debug, Serialize, JsonSchema)]
struct EventShown {
    at: String,
    /// `pushed`, `unblocked`, `due`, `edited`, `moved`, `promoted`, `leased`, `lease_ended`,
    /// `cancel_requested`, `cancel_acknowledged`, `cancel_forced`, `refused`, `discarded`, `ended`,
    /// `retried` or `replayed`.
    kind: &'static str,
    /// The lease that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    delivery: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    /// The worker of the lease, or who was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    who: Option<String>,
    /// How the lease ended, or the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    ending: Option<String>,
    /// The failure's word, or the reason of a death.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    /// For people; a long one is cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// How long a leased job had waited, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    waited_ms: Option<u64>,
    /// How long a lease that ended had run.
    #[serde(skip_serializing_if = "Option::is_none")]
    ran_ms: Option<u64>,
    /// The other job of a replay: the copy, or what this one is a copy of.
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<u64>,
}

impl From<Event> for EventShown {
    fn from(event: Event) -> Self {
        let text = |text: String| (!text.is_empty()).then_some(text);
        Self {
            at: time(event.at),
            kind: event.kind,
            delivery: event.delivery,
            attempt: event.attempt,
            node: text(event.node),
            who: text(event.who),
            ending: text(event.ending),
            code: text(event.code),
            message: text(event.message),
            waited_ms: event.waited.map(millis),
            ran_ms: event.ran.map(millis),
            job: event.job.map(|id| id.0),
        }
    }
}

/// One lease and how it ended.
#[derive(Debug, Serialize, JsonSchema)]
struct AttemptShown {
    delivery: u32,
    attempt: u32,
    node: String,
    worker: String,
    started_at: String,
    /// Null: it runs.
    ended_at: Option<String>,
    /// How it ended: completed, failed, rejected, timed_out, released, crashed, expired,
    /// node_lost. Null: it runs.
    ending: Option<String>,
    code: Option<String>,
    message: Option<String>,
}

impl From<(Job, Vec<Attempt>, Vec<Event>)> for TimelineBody {
    fn from((job, attempts, events): (Job, Vec<Attempt>, Vec<Event>)) -> Self {
        let text = |text: String| (!text.is_empty()).then_some(text);
        let shown = |attempt: Attempt| AttemptShown {
            delivery: attempt.delivery,
            attempt: attempt.attempt,
            node: attempt.node,
            worker: attempt.worker.as_str().into(),
            started_at: time(attempt.started_at),
            ended_at: attempt.ended_at.map(time),
            ending: text(attempt.ending),
            code: text(attempt.code),
            message: text(attempt.message),
        };
        Self {
            job: job.into(),
            attempts: attempts.into_iter().map(shown).collect(),
            events: events.into_iter().map(Into::into).collect(),
        }
    }
}

/// All queues, by name.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::http) struct QueuesBody {
    pub(in crate::http) queues: Vec<QueueBody>,
}

/// A queue and what is in it.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::http) struct QueueBody {
    name: String,
    paused: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    paused_at: Option<String>,
    counts: CountsShown,
    /// How long the job has waited that has been ready longest.
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_ready_ms: Option<u64>,
    /// What people have set.
    settings: Settings,
}

/// Jobs by state; finished ones as long as they are kept.
#[derive(Debug, Serialize, JsonSchema)]
struct CountsShown {
    scheduled: u64,
    blocked: u64,
    ready: u64,
    leased: u64,
    completed: u64,
    dead: u64,
    cancelled: u64,
}

impl From<Queue> for QueueBody {
    fn from(queue: Queue) -> Self {
        let counts = queue.counts;
        Self {
            name: queue.name.as_str().into(),
            paused: queue.paused_at.is_some(),
            paused_at: queue.paused_at.map(time),
            counts: CountsShown {
                scheduled: counts.scheduled,
                blocked: counts.blocked,
                ready: counts.ready,
                leased: counts.leased,
                completed: counts.completed,
                dead: counts.dead,
                cancelled: counts.cancelled,
            },
            oldest_ready_ms: queue.oldest_ready.map(millis),
            settings: queue.settings,
        }
    }
}

/// Whether a queue gives out jobs.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::http) struct PausedBody {
    pub(in crate::http) name: String,
    pub(in crate::http) paused: bool,
}

/// A job that was changed.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::http) struct ChangedBody {
    pub(in crate::http) id: u64,
    pub(in crate::http) state: &'static str,
}

/// How to cancel a job.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct CancelBody {
    /// How long the worker of a leased job has to end it, up to 86 400 000. Default: 30 000.
    #[serde(default)]
    pub(in crate::http) grace_ms: Option<u64>,
}

/// A job that is cancelled, or whose worker is asked to end it.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::http) struct CancelledBody {
    id: u64,
    /// `cancelled`, or `leased`.
    state: &'static str,
    /// While leased: when it is forced.
    #[serde(skip_serializing_if = "Option::is_none")]
    force_at: Option<String>,
}

impl CancelledBody {
    pub(in crate::http) fn new(job: JobId, force_at: Option<Timestamp>) -> Self {
        let state = if force_at.is_some() { State::Leased } else { State::Cancelled };
        Self { id: job.0, state: state.name(), force_at: force_at.map(time) }
    }
}

/// The keys of a queue that jobs wait or work for.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::http) struct KeysBody {
    pub(in crate::http) keys: Vec<KeyBody>,
}

/// A key, and who uses it.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::http) struct KeyBody {
    key: String,
    /// Ready jobs with this key.
    waiting: u64,
    #[serde(flatten)]
    limit: KeyLimitShown,
}

/// What a key limits.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum KeyLimitShown {
    /// Leases at once.
    Concurrency {
        /// Null: any number.
        max: Option<u32>,
        /// The jobs that are leased.
        holders: Vec<u64>,
    },
    /// Leases in a time.
    Rate {
        limit: u32,
        per_ms: u64,
        burst: Option<u32>,
        /// When the next one may start. Null: now.
        opens_at: Option<String>,
    },
}

impl From<KeyUse> for KeyBody {
    fn from(used: KeyUse) -> Self {
        let limit = match used.limit {
            KeyLimit::Concurrency { max, holders } => KeyLimitShown::Concurrency {
                max,
                holders: holders.into_iter().map(|id| id.0).collect(),
            },
            KeyLimit::Rate { rule, opens_at } => KeyLimitShown::Rate {
                limit: rule.limit,
                per_ms: millis(rule.per),
                burst: rule.burst,
                opens_at: opens_at.map(time),
            },
        };
        Self { key: used.key.as_str().into(), waiting: used.waiting, limit }
    }
}

/// A copy of a job.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::http) struct ReplayedBody {
    pub(in crate::http) id: u64,
    pub(in crate::http) replay_of: u64,
}

/// Which dead jobs to copy.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct ReplayDeadBody {
    /// Of this queue.
    #[serde(default)]
    pub(in crate::http) queue: Option<String>,
    /// Dead for this reason.
    #[serde(default)]
    pub(in crate::http) reason: Option<String>,
    /// At most so many, 1 to 10 000. Default: 1000.
    #[serde(default)]
    pub(in crate::http) limit: Option<usize>,
}

impl ReplayDeadBody {
    pub(in crate::http) fn into_bulk(self) -> BulkRequest {
        let filter = BulkFilter { queue: self.queue, reason: self.reason, ..BulkFilter::default() };
        BulkRequest {
            filter,
            everything: true,
            limit: self.limit,
            ..BulkRequest::new(BulkAction::Replay)
        }
    }
}

/// What guards have refused, the latest first.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::http) struct DecisionsBody {
    pub(in crate::http) decisions: Vec<DecisionBody>,
}

/// Pushes that a queue has refused in one minute, for one reason.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::http) struct DecisionBody {
    queue: String,
    /// The setting that said no.
    guard: &'static str,
    /// What it allowed, last.
    max: u64,
    /// Jobs refused.
    count: u64,
    /// When the minute began.
    minute: String,
    /// When the last one was refused.
    last_at: String,
}

impl From<Decision> for DecisionBody {
    fn from(decision: Decision) -> Self {
        Self {
            queue: decision.queue.as_str().into(),
            guard: decision.guard.name(),
            max: decision.max,
            count: decision.count,
            minute: time(decision.minute),
            last_at: time(decision.last_at),
        }
    }
}

/// Copies of dead jobs.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::http) struct ReplayedDeadBody {
    pub(in crate::http) ids: Vec<u64>,
}

/// A request that needs no body.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct NoBody {}

/// Workers that are, or just were, connected to this node over TCP.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::http) struct WorkersBody {
    pub(in crate::http) workers: Vec<WorkerBody>,
}

/// A worker.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::http) struct WorkerBody {
    name: String,
    client: String,
    address: String,
    connected_at: String,
    silent_ms: u64,
    connected: bool,
}

impl From<Worker> for WorkerBody {
    fn from(worker: Worker) -> Self {
        Self {
            name: worker.visitor.worker.as_str().into(),
            client: worker.visitor.client,
            address: worker.visitor.address,
            connected_at: time(worker.connected_at),
            silent_ms: millis(worker.silent),
            connected: worker.connected,
        }
    }
}

/// What this node did in the last 60 seconds.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::http) struct StatsBody {
    window_s: u64,
    pushed: u64,
    claimed: u64,
    acked: u64,
    failed: u64,
    released: u64,
    push_ms: Percentiles,
    claim_ms: Percentiles,
    settle_ms: Percentiles,
    connections: u64,
    uptime_seconds: u64,
}

/// Times in milliseconds.
#[derive(Debug, Serialize, JsonSchema)]
struct Percentiles {
    p50: f64,
    p99: f64,
}

impl StatsBody {
    pub(in crate::http) fn new(
        minute: &LastMinute,
        connections: u64,
        uptime: std::time::Duration,
    ) -> Self {
        let times = |what| {
            let (p50, p99) = minute.times_ms(what);
            Percentiles { p50, p99 }
        };
        Self {
            window_s: WINDOW.as_secs(),
            pushed: minute.count(Counted::Pushed),
            claimed: minute.count(Counted::Claimed),
            acked: minute.count(Counted::Acked),
            failed: minute.count(Counted::Failed),
            released: minute.count(Counted::Released),
            push_ms: times(Timed::Push),
            claim_ms: times(Timed::Claim),
            settle_ms: times(Timed::Settle),
            connections,
            uptime_seconds: uptime.as_secs(),
        }
    }
}

/// How the node is.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::http) struct HealthBody {
    /// `healthy`, `degraded` or `draining`.
    pub(in crate::http) status: &'static str,
    pub(in crate::http) node_id: String,
    /// A node on its embedded database leads itself.
    pub(in crate::http) is_leader: bool,
    pub(in crate::http) uptime_seconds: u64,
    pub(in crate::http) version: &'static str,
    /// Why it is degraded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::http) reason: Option<String>,
}

/// Whether the node can do its work.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::http) struct ReadyBody {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl From<Condition> for ReadyBody {
    fn from(condition: Condition) -> Self {
        let (status, reason) = match condition {
            Condition::Healthy => ("ok", None),
            Condition::Degraded(reason) => ("degraded", Some(reason)),
            Condition::Draining => ("draining", Some("the node is about to stop".into())),
        };
        Self { status, reason }
    }
}
