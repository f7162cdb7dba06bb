//! Jobs as the clients of flashQ see them.
//!
//! A job has all its keys, always: what it does not have is 0, false or empty, and null only where
//! clients expect that. Times are milliseconds since 1970.
//!
//! States have other names there. A cancelled job is gone as far as they can see. What is kept of a
//! lease is when it was last renewed; that stands for its start too, where a list would have to
//! read the story of each job to say it.

use std::time::Duration;

use serde_json::Value;

use super::http::is_held_by_time;
use super::options::{Extra, GROUP};
use super::{Fields, fields};
use crate::job::{Backoff, JobId, QueueName, Reason, State, Timestamp, UniqueHold};
use crate::limits;
use crate::store::{Job, LeasedJob, SESSION_LEASE};

const NONE: &[JobId] = &[];

/// The state of a job of which nothing is known.
pub(super) const UNKNOWN: &str = "unknown";

/// The word for where a job is.
pub(super) fn state_name(job: &Job, now: Timestamp) -> &'static str {
    match job.state {
        // It has become due, and the leader is about to see to it.
        State::Scheduled if job.run_at.is_some_and(|at| at <= now) => "waiting",
        State::Scheduled => "delayed",
        State::Blocked if Extra::of(&job.options).flow => "waiting-parent",
        State::Blocked => "waiting-children",
        State::Ready => "waiting",
        State::Leased => "active",
        State::Completed => "completed",
        State::Dead => "failed",
        State::Cancelled => UNKNOWN,
    }
}

/// A job with all its keys.
pub(super) fn shown(job: &Job) -> Fields {
    keys(job, &Extra::of(&job.options))
}

/// A job that has just been leased. What the lease does not say of it was kept beside.
pub(super) fn shown_leased(queue: &QueueName, leased: &LeasedJob, now: Timestamp) -> Fields {
    let extra = Extra::of(&leased.options);
    let mut fields = keys(&known(queue, leased), &extra);
    let more = [
        ("started_at", at(now).into()),
        ("last_heartbeat", at(now).into()),
        ("backoff", extra.backoff.into()),
        ("ttl", extra.ttl.into()),
        ("unique_key", text(extra.unique_key.as_deref())),
        ("state", "active".into()),
    ];
    fields.extend(object(more));
    fields
}

fn keys(job: &Job, extra: &Extra) -> Fields {
    let hold = match &job.worker {
        Some(worker) if is_held_by_time(worker) => limits::FLASHQ_HTTP_LEASE,
        _ => SESSION_LEASE,
    };
    let renewed_at = job.lease_until.map_or(0, |until| at(before(until, hold)));
    let needs = job.options.depends.on.as_slice();
    let (depends_on, children) = if extra.flow { (NONE, needs) } else { (needs, NONE) };
    let children_completed = if are_children_done(job) { children.len() } else { 0 };
    let data = job.payload.as_ref().map_or(Value::Null, |it| fields::shown(&it.bytes));
    let error = job.error.as_ref().map(|(_, message)| message.as_str());
    let progress_msg = text(progress_message(job).or(error));
    let unique = job.unique.as_ref().filter(|_| job.options.hold == UniqueHold::Live);
    let group = job.options.flow.concurrency.as_ref();
    let completed_at = job.finished_at.filter(|_| job.state == State::Completed);
    object([
        ("id", job.id.0.into()),
        ("queue", job.queue.as_str().into()),
        ("data", data),
        ("priority", job.priority.into()),
        ("created_at", at(job.created_at).into()),
        ("run_at", at(job.run_at.unwrap_or(job.created_at)).into()),
        ("started_at", renewed_at.into()),
        ("attempts", job.attempts.into()),
        ("max_attempts", attempts_max(job.max_attempts).into()),
        ("backoff", backoff_ms(job.backoff.as_ref()).into()),
        ("ttl", job.expires_at.map_or(0, |at| millis(at.since(job.created_at))).into()),
        ("timeout", job.timeout.map_or(0, millis).into()),
        ("unique_key", text(unique.map(|key| key.as_str()))),
        ("depends_on", numbers(depends_on)),
        ("progress", progress_of(job).into()),
        ("progress_msg", progress_msg.clone()),
        ("progress_message", progress_msg),
        ("tags", job.tags.iter().map(|tag| tag.as_str()).collect()),
        ("lifo", extra.lifo.into()),
        ("remove_on_complete", extra.remove_on_complete.into()),
        ("remove_on_fail", extra.remove_on_fail.into()),
        ("last_heartbeat", renewed_at.into()),
        ("stall_timeout", extra.stall_timeout.into()),
        ("stall_count", job.crashes.into()),
        ("parent_id", Value::Null),
        ("children_ids", numbers(children)),
        ("children_completed", children_completed.into()),
        ("custom_id", text(job.options.custom_id.as_ref().map(|id| id.as_str()))),
        ("keep_completed_age", extra.keep_completed_age.into()),
        ("keep_completed_count", extra.keep_completed_count.into()),
        ("completed_at", completed_at.map_or(0, at).into()),
        ("group_id", text(group.and_then(|group| group.key.as_str().strip_prefix(GROUP)))),
    ])
}

/// A job in a list: its keys and its state, and once more the job by itself. Some clients read the
/// one, some the other.
pub(super) fn listed(job: &Job, now: Timestamp) -> Value {
    let mut fields = with_state(job, now);
    fields.insert("job".into(), Value::Object(shown(job)));
    Value::Object(fields)
}

/// A job with its state, and how it ended.
pub(super) fn with_state(job: &Job, now: Timestamp) -> Fields {
    let mut fields = shown(job);
    fields.insert("state".into(), state_name(job, now).into());
    if let Some(result) = &job.result {
        fields.insert("result".into(), fields::shown(result));
    }
    if job.state == State::Dead
        && let Some((_, message)) = &job.error
    {
        fields.insert("error".into(), message.as_str().into());
    }
    fields
}

/// How far a job is, in percent.
pub(super) fn progress_of(job: &Job) -> u8 {
    match &job.progress {
        Some(progress) => progress.percent,
        None if job.state == State::Completed => 100,
        None => 0,
    }
}

/// What its worker said last of its progress.
pub(super) fn progress_message(job: &Job) -> Option<&str> {
    job.progress.as_ref().map(|progress| progress.message.as_str()).filter(|text| !text.is_empty())
}

/// A point in time as clients have it.
pub(super) fn at(at: Timestamp) -> u64 {
    u64::try_from(at.0).unwrap_or(0)
}

/// An object of these fields.
pub(super) fn object<const N: usize>(entries: [(&str, Value); N]) -> Fields {
    entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The numbers of jobs.
pub(super) fn numbers(ids: &[JobId]) -> Value {
    ids.iter().map(|id| id.0).collect()
}

/// Text that may be missing.
pub(super) fn text(text: Option<&str>) -> Value {
    text.map_or(Value::Null, Value::from)
}

/// Whether all that a flow's parent waited for is completed.
fn are_children_done(job: &Job) -> bool {
    !matches!(job.state, State::Blocked | State::Cancelled)
        && job.reason != Some(Reason::DependencyFailed)
}

/// As many as there may be is their 0: no limit.
fn attempts_max(max: u32) -> u32 {
    if max == *limits::MAX_ATTEMPTS.end() { 0 } else { max }
}

/// Their delay after the first failure is twice the base.
fn backoff_ms(backoff: Option<&Backoff>) -> u64 {
    match backoff.cloned().unwrap_or_default() {
        Backoff::Exponential { base, .. } => millis(base / 2),
        Backoff::Fixed(delay) => millis(delay),
        Backoff::List(delays) => delays.first().copied().map_or(0, millis),
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn before(at: Timestamp, time: Duration) -> Timestamp {
    Timestamp(at.0.saturating_sub_unsigned(millis(time)))
}

/// What a lease says of its job.
fn known(queue: &QueueName, leased: &LeasedJob) -> Job {
    Job {
        id: leased.lease.job,
        queue: queue.clone(),
        state: State::Leased,
        priority: leased.priority,
        payload: Some(leased.payload.clone()),
        is_dropped: false,
        attempts: leased.attempt.saturating_sub(1),
        max_attempts: leased.max_attempts,
        deliveries: leased.lease.delivery,
        crashes: 0,
        created_at: leased.created_at,
        run_at: None,
        expires_at: None,
        timeout: leased.timeout,
        backoff: None,
        unique: None,
        tags: leased.tags.clone(),
        lease_until: Some(leased.lease_until),
        worker: None,
        progress: None,
        cancel: None,
        finished_at: None,
        result: None,
        reason: None,
        options: leased.options.clone().into_inner(),
        error: None,
        replay_of: None,
        replayed_as: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Depends, Lease, Options, Payload, WorkerName};
    use crate::store::Progress;

    const NOW: Timestamp = Timestamp(100_000);

    fn leased(options: Options) -> LeasedJob {
        LeasedJob {
            lease: Lease { job: JobId(7), delivery: 1 },
            payload: Payload::new(bytes::Bytes::from_static(b"{\"a\":1}")).unwrap(),
            attempt: 3,
            max_attempts: 1000,
            priority: -1,
            created_at: Timestamp(50_000),
            lease_until: Timestamp(95_000),
            timeout: None,
            tags: Vec::new(),
            needs: Vec::new(),
            options: options.into(),
        }
    }

    fn job(state: State) -> Job {
        let queue = QueueName::parse("q").unwrap();
        Job { state, lease_until: None, ..known(&queue, &leased(Options::default())) }
    }

    fn parent(state: State) -> Job {
        let depends = Depends { on: vec![JobId(1), JobId(2)], ..Depends::default() };
        let extra = Extra { flow: true, ..Extra::default() }.kept();
        Job { options: Options { depends, extra, ..Options::default() }, ..job(state) }
    }

    #[test]
    fn a_job_has_all_its_keys_and_null_only_where_clients_expect_it() {
        let names = "id queue data priority created_at run_at started_at attempts max_attempts \
            backoff ttl timeout unique_key depends_on progress progress_msg tags lifo \
            remove_on_complete remove_on_fail last_heartbeat stall_timeout stall_count parent_id \
            children_ids children_completed custom_id keep_completed_age keep_completed_count \
            completed_at group_id";
        let may_be_null = ["unique_key", "progress_msg", "parent_id", "custom_id", "group_id"];
        let queue = QueueName::parse("q").unwrap();
        let just_leased = shown_leased(&queue, &leased(Options::default()), NOW);
        for shown in [shown(&job(State::Ready)), just_leased] {
            for name in names.split_whitespace() {
                let value = shown.get(name).unwrap_or_else(|| panic!("{name} is missing"));
                assert_eq!(value.is_null(), may_be_null.contains(&name), "{name}: {value}");
            }
        }
    }

    #[test]
    fn every_state_has_its_name() {
        for (job, name) in [
            (job(State::Scheduled), "delayed"),
            (Job { run_at: Some(Timestamp(100_001)), ..job(State::Scheduled) }, "delayed"),
            (Job { run_at: Some(NOW), ..job(State::Scheduled) }, "waiting"),
            (job(State::Ready), "waiting"),
            (job(State::Blocked), "waiting-children"),
            (parent(State::Blocked), "waiting-parent"),
            (parent(State::Ready), "waiting"),
            (job(State::Leased), "active"),
            (job(State::Completed), "completed"),
            (job(State::Dead), "failed"),
            (job(State::Cancelled), "unknown"),
        ] {
            assert_eq!(state_name(&job, NOW), name, "{:?}", job.state);
        }
    }

    #[test]
    fn a_parent_has_children_where_others_have_what_they_depend_on() {
        let shown = shown(&parent(State::Blocked));
        assert_eq!(shown["children_ids"], serde_json::json!([1, 2]));
        assert_eq!(shown["depends_on"], serde_json::json!([]));
        let completed = |job| super::shown(&job)["children_completed"].clone();
        assert_eq!(completed(parent(State::Blocked)), 0);
        assert_eq!(completed(parent(State::Leased)), 2);
        let reason = Some(Reason::DependencyFailed);
        assert_eq!(completed(Job { reason, ..parent(State::Dead) }), 0);
        let plain = Job {
            options: Options { extra: None, ..parent(State::Ready).options },
            ..job(State::Ready)
        };
        assert_eq!(super::shown(&plain)["depends_on"], serde_json::json!([1, 2]));
    }

    #[test]
    fn times_and_rules_are_as_they_were_given() {
        let base = Duration::from_millis(200);
        let backoff = Backoff::Exponential { base, max: 10 * base, jitter: 0.0 };
        let job = Job {
            expires_at: Some(Timestamp(50_300)),
            lease_until: Some(Timestamp(95_000)),
            backoff: Some(backoff),
            progress: Some(Progress { percent: 40, message: "on the way".into() }),
            error: Some(("E".into(), "an earlier failure".into())),
            ..job(State::Leased)
        };
        let shown = shown(&job);
        for (name, expected) in [
            ("created_at", 50_000),
            ("run_at", 50_000),
            ("last_heartbeat", 65_000),
            ("attempts", 2),
            ("max_attempts", 0),
            ("backoff", 100),
            ("ttl", 300),
            ("progress", 40),
        ] {
            assert_eq!(shown[name], expected, "{name}");
        }
        assert_eq!(shown["progress_msg"], "on the way");
        let waiting = Job { progress: None, ..job.clone() };
        assert_eq!(super::shown(&waiting)["progress_msg"], "an earlier failure");
        let worker = Some(WorkerName::parse("flashq-http@127.0.0.1:5000").unwrap());
        let lease_until = Some(Timestamp(185_000));
        let by_time = super::shown(&Job { worker, lease_until, ..job });
        assert_eq!(by_time["last_heartbeat"], 65_000);
    }

    #[test]
    fn a_leased_job_shows_what_was_kept_with_it() {
        let extra = Extra { backoff: 5, ttl: 6, unique_key: Some("k".into()), ..Extra::default() };
        let options = Options { extra: extra.kept(), ..Options::default() };
        let shown = shown_leased(&QueueName::parse("q").unwrap(), &leased(options), NOW);
        assert_eq!(shown["backoff"], 5);
        assert_eq!(shown["ttl"], 6);
        assert_eq!(shown["unique_key"], "k");
        assert_eq!(shown["started_at"], 100_000);
        assert_eq!(shown["state"], "active");
    }
}
