//! Messages to our types and back.

use std::time::Duration;

use batonq_protocol::messages::{self as wire, backoff};
use batonq_protocol::{ErrorCode, FrameError, Message};
use bytes::Bytes;

use crate::broker::{Broker, BulkAction, BulkDone, BulkFilter, BulkRequest, Worker, reason_in};
use crate::cluster::Node;
use crate::error::Error;
use crate::explain::{Cause, Explanation};
use crate::job::{
    Backoff, CatchUp, Concurrency, CronRule, Depends, FailureCode, Flow, FlowKey, InvalidField,
    JobId, Lease, NewJob, OnFailure, Options, Overlap, Payload, QueueName, Rate, RateRule, Reason,
    ScheduleName, ScheduleSpec, State, Tag, Timestamp, UniqueHold, UniqueKey, When, check_result,
    cut,
};
use crate::limits;
use crate::metrics::{Counted, LastMinute, Timed};
use crate::store::{
    Attempt, Decision, Edit, Event, Extended, Fire, Job, JobFilter, JobPage, KeyLimit, KeyUse,
    LeasedJob, Need, Pushed, Queue, Retry, Same, Schedule, Settled, Settlement, Verdict,
};

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn duration(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

// ---------------------------------------------------------------- errors

pub(super) fn error(error: &Error) -> wire::Error {
    wire::Error {
        code: error.code().into(),
        detail: error.to_string(),
        field: error.field().unwrap_or_default().into(),
    }
}

pub(super) fn error_message(failed: &Error) -> Message {
    Message::Error(error(failed))
}

pub(super) fn framing_error(violation: &FrameError) -> Message {
    let code = ErrorCode::Framing.into();
    Message::Error(wire::Error { code, detail: violation.to_string(), field: String::new() })
}

pub(super) fn version_error(detail: String) -> Message {
    let code = ErrorCode::UnsupportedVersion.into();
    Message::Error(wire::Error { code, detail, field: "version".into() })
}

// ---------------------------------------------------------------- in

/// Jobs of one message.
pub(super) fn new_jobs(jobs: Vec<wire::NewJob>) -> impl Iterator<Item = Result<NewJob, Error>> {
    let mut last: Option<QueueName> = None;
    jobs.into_iter().map(move |job| {
        // Mostly it is the same queue again.
        let same = last.take().filter(|last| last.as_str() == job.queue);
        let queue = same.map_or_else(|| QueueName::parse(&job.queue), Ok)?;
        last = Some(queue.clone());
        new_job(queue, job)
    })
}

fn new_job(queue: QueueName, job: wire::NewJob) -> Result<NewJob, Error> {
    let when = when(job.delay_ms, job.run_at_ms)?.unwrap_or(When::Now);
    let payload = Payload::new(job.payload)?.with_content_type(&job.content_type)?;
    let new = NewJob {
        queue,
        payload,
        priority: job.priority,
        when,
        ttl: job.ttl_ms.map(duration),
        max_attempts: job.max_attempts.unwrap_or(limits::MAX_ATTEMPTS_DEFAULT),
        backoff: job.backoff.map(backoff_rule).transpose()?,
        timeout: job.timeout_ms.map(duration),
        unique: job.unique.as_ref().map(|unique| UniqueKey::parse(&unique.key)).transpose()?,
        tags: job.tags.iter().map(|tag| Tag::parse(tag)).collect::<Result<_, _>>()?,
        replay_of: None,
        waits_for: job.depends_on_items.iter().map(|place| *place as usize).collect(),
        is_part: false,
        options: Options {
            hold: job.unique.map_or(Ok(UniqueHold::Live), |unique| hold(&unique))?,
            idempotency: key(&job.idempotency_key, "idempotency_key", UniqueKey::parse)?,
            custom_id: None,
            flow: Flow {
                concurrency: job.concurrency.map(|it| concurrency(*it)).transpose()?,
                rate: job.rate.map(|it| rate(*it)).transpose()?,
            },
            depends: Depends {
                on: job.depends_on.into_iter().map(JobId).collect(),
                on_failure: on_failure(job.on_failure)?,
            },
            slot: None,
            extra: None,
        }
        .into(),
    };
    Ok(new.check()?)
}

/// A key that may be empty: then there is none.
fn key<T>(
    text: &str,
    field: &'static str,
    parse: impl Fn(&str) -> Result<T, InvalidField>,
) -> Result<Option<T>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    parse(text).map(Some).map_err(|invalid| Error::invalid(field, invalid.detail))
}

fn hold(unique: &wire::Unique) -> Result<UniqueHold, Error> {
    match (unique.window_ms, unique.debounce) {
        (Some(_), true) => {
            Err(Error::invalid("unique.debounce", "at most one of it and window_ms may be set"))
        }
        (Some(window), false) => Ok(UniqueHold::WindowMs(duration(window))),
        (None, true) => Ok(UniqueHold::Debounce),
        (None, false) => Ok(UniqueHold::Live),
    }
}

fn concurrency(limit: wire::Concurrency) -> Result<Concurrency, Error> {
    let key = FlowKey::parse(&limit.key);
    let key = key.map_err(|invalid| Error::invalid("concurrency.key", invalid.detail))?;
    Ok(Concurrency { key, max: limit.max })
}

fn rate(limit: wire::Rate) -> Result<Rate, Error> {
    let key = FlowKey::parse(&limit.key);
    let key = key.map_err(|invalid| Error::invalid("rate.key", invalid.detail))?;
    let rule = RateRule { limit: limit.limit, per: duration(limit.per_ms), burst: limit.burst };
    Ok(Rate { key, rule })
}

fn on_failure(number: i32) -> Result<OnFailure, Error> {
    match wire::OnFailure::try_from(number) {
        Ok(wire::OnFailure::Unspecified | wire::OnFailure::Fail) => Ok(OnFailure::Fail),
        Ok(wire::OnFailure::Ignore) => Ok(OnFailure::Ignore),
        Ok(wire::OnFailure::Wait) => Ok(OnFailure::Wait),
        Err(_) => Err(Error::invalid("on_failure", "must be fail, ignore or wait")),
    }
}

/// Which job, and what is to be changed of it.
pub(super) fn edit(edit: wire::EditJob) -> Result<(JobId, Edit), Error> {
    let when = when(edit.delay_ms, edit.run_at_ms)?;
    let payload = match edit.payload {
        Some(bytes) => Some(Payload::new(bytes)?.with_content_type(&edit.content_type)?),
        None => None,
    };
    let queue = queue_filter(&edit.queue)?;
    let id = JobId(edit.id);
    Ok((id, Edit { priority: edit.priority, payload, when, queue, was: None }))
}

fn when(delay_ms: Option<u64>, run_at_ms: Option<i64>) -> Result<Option<When>, Error> {
    match (delay_ms, run_at_ms) {
        (Some(_), Some(_)) => {
            Err(Error::invalid("run_at_ms", "at most one of it and delay_ms may be set"))
        }
        (Some(delay), None) => Ok(Some(When::After(duration(delay)))),
        (None, Some(at)) => Ok(Some(When::At(Timestamp(at)))),
        (None, None) => Ok(None),
    }
}

fn backoff_rule(backoff: wire::Backoff) -> Result<Backoff, Error> {
    let rule = backoff.rule.ok_or_else(|| Error::invalid("backoff", "has no rule"))?;
    Ok(match rule {
        backoff::Rule::Exponential(rule) => Backoff::Exponential {
            base: duration(rule.base_ms),
            max: duration(rule.max_ms),
            jitter: rule.jitter,
        },
        backoff::Rule::Fixed(rule) => Backoff::Fixed(duration(rule.delay_ms)),
        backoff::Rule::List(rule) => {
            Backoff::List(rule.delays_ms.into_iter().map(duration).collect())
        }
    })
}

pub(super) fn ack(broker: &Broker, item: wire::AckItem) -> Result<Settlement, Error> {
    let lease = broker.open_lease(&item.lease)?;
    check_result(&item.result)?;
    let result = (!item.result.is_empty()).then_some(item.result);
    Ok(Settlement { lease, verdict: Verdict::Ack { result } })
}

pub(super) fn fail(broker: &Broker, item: wire::FailItem) -> Result<Settlement, Error> {
    let lease = broker.open_lease(&item.lease)?;
    let code = if item.code.is_empty() { "FAILED" } else { &item.code };
    let retry = match (item.reject, item.retry_in_ms) {
        (true, None) => Retry::Reject,
        (true, Some(_)) => {
            return Err(Error::invalid("retry_in_ms", "a rejected job is not tried again"));
        }
        (false, None) => Retry::Backoff,
        (false, Some(delay)) => Retry::After(check_retry_in(duration(delay))?),
    };
    let verdict = Verdict::Fail {
        code: FailureCode::parse(code)?,
        message: cut(&item.message, limits::ERROR_MESSAGE_BYTES_MAX),
        retry,
        chance: rand::random(),
    };
    Ok(Settlement { lease, verdict })
}

fn check_retry_in(delay: Duration) -> Result<Duration, Error> {
    match delay > limits::DELAY_MAX {
        true => Err(Error::invalid("retry_in_ms", "more than ten years")),
        false => Ok(delay),
    }
}

pub(super) fn release_verdict(delay_ms: u64) -> Result<Verdict, Error> {
    match duration(delay_ms) {
        delay if delay.is_zero() => Ok(Verdict::Release),
        delay if delay > limits::DELAY_MAX => {
            Err(Error::invalid("delay_ms", "more than ten years"))
        }
        delay => Ok(Verdict::Snooze(delay)),
    }
}

pub(super) fn release(
    broker: &Broker,
    token: &[u8],
    verdict: &Verdict,
) -> Result<Settlement, Error> {
    Ok(Settlement { lease: broker.open_lease(token)?, verdict: verdict.clone() })
}

pub(super) fn job_filter(broker: &Broker, filter: wire::ListJobs) -> Result<JobFilter, Error> {
    let state = match wire::State::try_from(filter.state) {
        Ok(wire::State::Unspecified) => None,
        Ok(state) => Some(state_in(state)),
        Err(_) => return Err(Error::invalid("state", "is not a state")),
    };
    let ago = |age: u64| (age != 0).then(|| broker.ago(age));
    Ok(JobFilter {
        queue: queue_filter(&filter.queue)?,
        state,
        tag: (!filter.tag.is_empty()).then(|| Tag::parse(&filter.tag)).transpose()?,
        reason: (!filter.reason.is_empty()).then(|| reason_in(&filter.reason)).transpose()?,
        content_type: (!filter.content_type.is_empty()).then_some(filter.content_type),
        created_to: ago(filter.older_than_ms),
        created_from: ago(filter.newer_than_ms),
        oldest_first: filter.oldest_first,
        limit: page_limit(filter.limit, limits::PAGE_DEFAULT)?,
        cursor: (filter.cursor != 0).then_some(JobId(filter.cursor)),
        ..JobFilter::default()
    })
}

pub(super) fn replay_dead(replay: wire::ReplayDead) -> BulkRequest {
    let set = |text: String| (!text.is_empty()).then_some(text);
    let filter = BulkFilter {
        queue: set(replay.queue),
        reason: set(replay.reason),
        ..BulkFilter::default()
    };
    let limit = (replay.limit != 0).then_some(replay.limit as usize);
    BulkRequest { filter, everything: true, limit, ..BulkRequest::new(BulkAction::Replay) }
}

pub(super) fn bulk_done(done: BulkDone) -> wire::BulkDone {
    wire::BulkDone {
        matched: done.matched,
        ids: done.ids,
        passed_over: done.passed_over,
        cursor: done.cursor.unwrap_or(0),
    }
}

pub(super) fn decision(decision: Decision) -> wire::Decision {
    wire::Decision {
        queue: decision.queue.as_str().into(),
        guard: decision.guard.name().into(),
        max: decision.max,
        count: decision.count,
        minute_ms: decision.minute.0,
        last_at_ms: decision.last_at.0,
    }
}

pub(super) fn queue_filter(name: &str) -> Result<Option<QueueName>, Error> {
    Ok((!name.is_empty()).then(|| QueueName::parse(name)).transpose()?)
}

pub(super) fn page_limit(limit: u32, default: usize) -> Result<usize, Error> {
    match limit as usize {
        0 => Ok(default),
        limit if limit <= limits::PAGE_MAX => Ok(limit),
        _ => Err(Error::invalid("limit", format!("more than {}", limits::PAGE_MAX))),
    }
}

/// A name that may be empty: then there is none.
pub(super) fn schedule_name(name: &str) -> Result<Option<ScheduleName>, Error> {
    Ok((!name.is_empty()).then(|| ScheduleName::parse(name)).transpose()?)
}

pub(super) fn schedule_in(put: wire::Schedule) -> Result<(ScheduleName, ScheduleSpec), Error> {
    let name = ScheduleName::parse(&put.name)?;
    let window = match put.catch_up_window_ms {
        0 => Duration::from_secs(24 * 3600),
        window => duration(window),
    };
    let cap = if put.catch_up_cap == 0 { 100 } else { put.catch_up_cap };
    let overlap = match put.overlap.as_str() {
        "" => Overlap::default(),
        name => Overlap::parse(name)
            .ok_or_else(|| Error::invalid("overlap", "must be allow, skip or queue"))?,
    };
    let catch_up = match put.catch_up.as_str() {
        "none" => CatchUp::None,
        "" | "last" => CatchUp::Last,
        "all" => CatchUp::All { cap, window },
        _ => return Err(Error::invalid("catch_up", "must be none, last or all")),
    };
    let job = put.job.ok_or_else(|| Error::invalid("job", "is missing"))?;
    let spec = ScheduleSpec {
        rule: CronRule::parse(&put.schedule, &put.timezone)?,
        overlap,
        catch_up,
        jitter: duration(put.jitter_ms),
        ends_at: put.ends_at_ms.map(Timestamp),
        runs_max: put.runs_max,
        job: new_job(QueueName::parse(&job.queue)?, job)?,
    };
    Ok((name, spec))
}

// ---------------------------------------------------------------- out

fn new_job_out(job: NewJob) -> wire::NewJob {
    let Options { hold, idempotency, flow, depends, .. } = job.options.into_inner();
    let unique = job.unique.map(|key| wire::Unique {
        key: key.as_str().into(),
        window_ms: match hold {
            UniqueHold::WindowMs(window) => Some(millis(window)),
            UniqueHold::Live | UniqueHold::Debounce => None,
        },
        debounce: hold == UniqueHold::Debounce,
    });
    wire::NewJob {
        queue: job.queue.as_str().into(),
        payload: job.payload.bytes,
        content_type: job.payload.content_type.map(String::from).unwrap_or_default(),
        priority: job.priority,
        ttl_ms: job.ttl.map(millis),
        max_attempts: Some(job.max_attempts),
        backoff: job.backoff.map(|rule| backoff_out(&rule)),
        timeout_ms: job.timeout.map(millis),
        unique: unique.map(Box::new),
        tags: tags(&job.tags),
        idempotency_key: idempotency.map(|key| key.as_str().into()).unwrap_or_default(),
        concurrency: flow.concurrency.as_ref().map(concurrency_out).map(Box::new),
        rate: flow.rate.as_ref().map(rate_out).map(Box::new),
        depends_on: depends.on.iter().map(|id| id.0).collect(),
        ..wire::NewJob::default()
    }
}

pub(super) fn schedule_out(schedule: Schedule) -> wire::Schedule {
    let spec = schedule.spec;
    let (catch_up, cap, window) = match spec.catch_up {
        CatchUp::None => ("none", 0, 0),
        CatchUp::Last => ("last", 0, 0),
        CatchUp::All { cap, window } => ("all", cap, millis(window)),
    };
    wire::Schedule {
        name: schedule.name.as_str().into(),
        schedule: spec.rule.expression().into(),
        timezone: spec.rule.timezone().into(),
        overlap: spec.overlap.name().into(),
        catch_up: catch_up.into(),
        catch_up_cap: cap,
        catch_up_window_ms: window,
        jitter_ms: millis(spec.jitter),
        ends_at_ms: spec.ends_at.map(|at| at.0),
        runs_max: spec.runs_max,
        job: Some(new_job_out(spec.job)),
        next_at_ms: schedule.next_at.map(|at| at.0),
        paused_at_ms: schedule.paused_at.map(|at| at.0),
        runs: schedule.runs,
        missed: schedule.missed,
        last_slot_ms: schedule.last.map(|(slot, _)| slot.0),
        last_job: schedule.last.map_or(0, |(_, job)| job.0),
        created_at_ms: schedule.created_at.0,
    }
}

pub(super) fn fire_out(fire: Fire) -> wire::Fire {
    wire::Fire {
        slot_ms: fire.slot.0,
        fired_at_ms: fire.fired_at.0,
        outcome: fire.outcome.name().into(),
        job: fire.job.map_or(0, |id| id.0),
        count: fire.count,
    }
}

pub(super) fn token(broker: &Broker, lease: Lease) -> Bytes {
    Bytes::copy_from_slice(&broker.lease_token(lease))
}

pub(super) fn push_result(result: Result<Pushed, Error>) -> wire::PushResult {
    let (id, outcome, state) = match result {
        Ok(Pushed::Inserted { id, state, .. }) => (id, wire::Outcome::Inserted, state),
        Ok(Pushed::Replaced { id, state, .. }) => (id, wire::Outcome::Replaced, state),
        Ok(Pushed::Duplicate { id, state, of }) => {
            let outcome = match of {
                Same::Unique | Same::CustomId => wire::Outcome::Duplicate,
                Same::Window => wire::Outcome::Throttled,
                Same::Push => wire::Outcome::Repeated,
            };
            (id, outcome, state)
        }
        Ok(Pushed::Refused(_)) => {
            let unseen = Error::Internal("a refusal was not told".into());
            return push_result(Err(unseen));
        }
        Err(failed) => {
            return wire::PushResult { error: Some(error(&failed)), ..Default::default() };
        }
    };
    let state = state_out(state).into();
    wire::PushResult { id: id.0, outcome: outcome.into(), state, error: None }
}

/// `queue` is left empty where the receiver knows it.
pub(super) fn leased_job(broker: &Broker, job: LeasedJob, queue: &str) -> wire::LeasedJob {
    wire::LeasedJob {
        id: job.lease.job.0,
        lease: token(broker, job.lease),
        payload: job.payload.bytes,
        content_type: job.payload.content_type.map(String::from).unwrap_or_default(),
        attempt: job.attempt,
        max_attempts: job.max_attempts,
        delivery: job.lease.delivery,
        priority: job.priority,
        created_at_ms: job.created_at.0,
        lease_until_ms: job.lease_until.0,
        timeout_ms: job.timeout.map_or(0, millis),
        queue: queue.into(),
        tags: tags(&job.tags),
        needs: job.needs.into_iter().map(need).collect(),
    }
}

fn need(need: Need) -> wire::Need {
    wire::Need {
        id: need.id.0,
        state: need.state.map_or(wire::State::Unspecified, state_out).into(),
        result: need.result,
    }
}

pub(super) fn cancel_status(force_at: Option<Timestamp>) -> wire::CancelStatus {
    let state = if force_at.is_some() { State::Leased } else { State::Cancelled };
    wire::CancelStatus {
        state: state_out(state).into(),
        force_at_ms: force_at.map_or(0, |at| at.0),
    }
}

pub(super) fn key_use(used: KeyUse) -> wire::KeyUse {
    let limit = match used.limit {
        KeyLimit::Concurrency { max, holders } => {
            let holders = holders.into_iter().map(|id| id.0).collect();
            wire::key_use::Limit::Concurrency(wire::KeyConcurrency { max, holders })
        }
        KeyLimit::Rate { rule, opens_at } => wire::key_use::Limit::Rate(wire::KeyRate {
            limit: rule.limit,
            per_ms: millis(rule.per),
            burst: rule.burst,
            opens_at_ms: opens_at.map(|at| at.0),
        }),
    };
    wire::KeyUse { key: used.key.as_str().into(), waiting: used.waiting, limit: Some(limit) }
}

fn tags(tags: &[Tag]) -> Vec<String> {
    tags.iter().map(|tag| tag.as_str().to_owned()).collect()
}

pub(super) fn settle_result(result: Result<Settled, Error>) -> wire::SettleResult {
    let status = match result {
        Ok(Settled::Done(_) | Settled::Repeated) => wire::SettleStatus::Ok,
        Ok(Settled::LeaseLost) => wire::SettleStatus::LeaseLost,
        Ok(Settled::Unknown) => wire::SettleStatus::Unknown,
        Err(failed) => {
            return wire::SettleResult { error: Some(error(&failed)), ..Default::default() };
        }
    };
    wire::SettleResult { status: status.into(), ..Default::default() }
}

pub(super) fn extend_result(result: Result<Option<Extended>, Error>) -> wire::SettleResult {
    match result {
        Ok(Some(extended)) => wire::SettleResult {
            status: wire::SettleStatus::Ok.into(),
            lease_until_ms: extended.until.0,
            cancel_force_at_ms: extended.cancel_at.map(|at| at.0),
            error: None,
        },
        Ok(None) => settle_result(Ok(Settled::LeaseLost)),
        Err(error) => settle_result(Err(error)),
    }
}

fn concurrency_out(limit: &Concurrency) -> wire::Concurrency {
    wire::Concurrency { key: limit.key.as_str().into(), max: limit.max }
}

fn rate_out(limit: &Rate) -> wire::Rate {
    let RateRule { limit: count, per, burst } = limit.rule;
    wire::Rate { key: limit.key.as_str().into(), limit: count, per_ms: millis(per), burst }
}

fn on_failure_out(policy: OnFailure) -> wire::OnFailure {
    match policy {
        OnFailure::Fail => wire::OnFailure::Fail,
        OnFailure::Ignore => wire::OnFailure::Ignore,
        OnFailure::Wait => wire::OnFailure::Wait,
    }
}

pub(super) fn job(job: Job) -> wire::Job {
    let Options { hold, idempotency, flow, depends, .. } = job.options;
    let unique_window_ms = match hold {
        UniqueHold::WindowMs(window) => Some(millis(window)),
        UniqueHold::Live | UniqueHold::Debounce => None,
    };
    let (payload, content_type) = match job.payload {
        Some(payload) => (payload.bytes, payload.content_type.map(String::from)),
        None => (Bytes::new(), None),
    };
    let (error_code, error_message) = job.error.unwrap_or_default();
    let (progress_percent, progress_message) = match job.progress {
        Some(progress) => (Some(u32::from(progress.percent)), progress.message),
        None => (None, String::new()),
    };
    wire::Job {
        id: job.id.0,
        queue: job.queue.as_str().into(),
        state: state_out(job.state).into(),
        priority: job.priority,
        payload,
        content_type: content_type.unwrap_or_default(),
        attempt: job.attempts,
        max_attempts: job.max_attempts,
        delivery: job.deliveries,
        crashes: job.crashes,
        created_at_ms: job.created_at.0,
        run_at_ms: job.run_at.map(|at| at.0),
        expires_at_ms: job.expires_at.map(|at| at.0),
        timeout_ms: job.timeout.map(millis),
        unique_key: job.unique.map(|key| key.as_str().into()).unwrap_or_default(),
        tags: tags(&job.tags),
        backoff: job.backoff.map(|rule| backoff_out(&rule)),
        lease_until_ms: job.lease_until.map(|at| at.0),
        worker: job.worker.map(|worker| worker.as_str().into()).unwrap_or_default(),
        progress_percent,
        progress_message,
        finished_at_ms: job.finished_at.map(|at| at.0),
        result: job.result.unwrap_or_default(),
        reason: job.reason.map(Reason::name).unwrap_or_default().into(),
        error_code,
        error_message,
        replay_of: job.replay_of.map_or(0, |id| id.0),
        replayed_as: job.replayed_as.map_or(0, |id| id.0),
        payload_dropped: job.is_dropped,
        unique_window_ms,
        unique_debounce: hold == UniqueHold::Debounce,
        idempotency_key: idempotency.map(|key| key.as_str().into()).unwrap_or_default(),
        concurrency: flow.concurrency.as_ref().map(concurrency_out),
        rate: flow.rate.as_ref().map(rate_out),
        depends_on: depends.on.iter().map(|id| id.0).collect(),
        on_failure: on_failure_out(depends.on_failure).into(),
        cancel_requested_at_ms: job.cancel.map(|(since, _)| since.0),
        cancel_force_at_ms: job.cancel.map(|(_, force_at)| force_at.0),
    }
}

fn backoff_out(rule: &Backoff) -> wire::Backoff {
    let rule = match rule {
        Backoff::Exponential { base, max, jitter } => {
            backoff::Rule::Exponential(backoff::Exponential {
                base_ms: millis(*base),
                max_ms: millis(*max),
                jitter: *jitter,
            })
        }
        Backoff::Fixed(delay) => backoff::Rule::Fixed(backoff::Fixed { delay_ms: millis(*delay) }),
        Backoff::List(delays) => {
            let delays_ms = delays.iter().copied().map(millis).collect();
            backoff::Rule::List(backoff::List { delays_ms })
        }
    };
    wire::Backoff { rule: Some(rule) }
}

fn state_out(state: State) -> wire::State {
    match state {
        State::Scheduled => wire::State::Scheduled,
        State::Blocked => wire::State::Blocked,
        State::Ready => wire::State::Ready,
        State::Leased => wire::State::Leased,
        State::Completed => wire::State::Completed,
        State::Dead => wire::State::Dead,
        State::Cancelled => wire::State::Cancelled,
    }
}

fn state_in(state: wire::State) -> State {
    let same = |ours: &State| state_out(*ours) == state;
    State::ALL.into_iter().find(same).expect("each state of the wire but none is one of ours")
}

pub(super) fn job_page(page: JobPage) -> wire::JobPage {
    wire::JobPage {
        jobs: page.jobs.into_iter().map(job).collect(),
        cursor: page.next.map_or(0, |id| id.0),
    }
}

pub(super) fn timeline((of, attempts, events): (Job, Vec<Attempt>, Vec<Event>)) -> wire::Timeline {
    let attempt = |attempt: Attempt| wire::Attempt {
        delivery: attempt.delivery,
        attempt: attempt.attempt,
        node: attempt.node,
        worker: attempt.worker.as_str().into(),
        started_at_ms: attempt.started_at.0,
        ended_at_ms: attempt.ended_at.map(|at| at.0),
        ending: attempt.ending,
        code: attempt.code,
        message: attempt.message,
    };
    wire::Timeline {
        job: Some(job(of)),
        attempts: attempts.into_iter().map(attempt).collect(),
        events: events.into_iter().map(event).collect(),
    }
}

fn event(event: Event) -> wire::JobEvent {
    wire::JobEvent {
        at_ms: event.at.0,
        kind: event.kind.into(),
        delivery: event.delivery.unwrap_or(0),
        attempt: event.attempt.unwrap_or(0),
        node: event.node,
        who: event.who,
        ending: event.ending,
        code: event.code,
        message: event.message,
        waited_ms: event.waited.map(millis),
        ran_ms: event.ran.map(millis),
        job: event.job.map_or(0, |id| id.0),
    }
}

pub(super) fn explanation(explanation: Explanation) -> wire::Explanation {
    let need = |(id, state): (JobId, Option<State>)| {
        let state = state.map_or(wire::State::Unspecified, state_out).into();
        wire::JobState { id: id.0, state }
    };
    let cause = |cause: Cause| wire::Cause {
        code: cause.code.name().into(),
        detail: cause.detail,
        since_ms: cause.since.map(|at| at.0),
        until_ms: cause.until.map(|at| at.0),
        who: cause.who.unwrap_or_default(),
        node: cause.node.unwrap_or_default(),
        key: cause.key.unwrap_or_default(),
        count: cause.count,
        limit: cause.limit,
        jobs: cause.jobs.into_iter().map(need).collect(),
    };
    wire::Explanation {
        now_ms: explanation.now.0,
        causes: explanation.causes.into_iter().map(cause).collect(),
        job: Some(job(explanation.job)),
    }
}

pub(super) fn queue(queue: Queue) -> wire::Queue {
    wire::Queue {
        name: queue.name.as_str().into(),
        paused: queue.paused_at.is_some(),
        paused_at_ms: queue.paused_at.map(|at| at.0),
        scheduled: queue.counts.scheduled,
        ready: queue.counts.ready,
        leased: queue.counts.leased,
        completed: queue.counts.completed,
        dead: queue.counts.dead,
        cancelled: queue.counts.cancelled,
        oldest_ready_ms: queue.oldest_ready.map(millis),
        blocked: queue.counts.blocked,
        settings: serde_json::to_string(&queue.settings).unwrap_or_default(),
    }
}

pub(super) fn node(node: Node) -> wire::Node {
    let card = node.card;
    wire::Node {
        id: card.id,
        incarnation: card.incarnation,
        hostname: card.hostname,
        host: card.host,
        tcp_port: card.tcp_port.into(),
        http_port: card.http_port.unwrap_or(0).into(),
        is_leader: node.is_leader,
        state: node.state.name().into(),
        started_at_ms: node.started_at.0,
        last_heartbeat_ms: node.last_heartbeat.0,
        leased: node.leased,
        version: card.version,
        fingerprint: card.fingerprint,
    }
}

pub(super) fn worker(worker: Worker) -> wire::Worker {
    wire::Worker {
        name: worker.visitor.worker.as_str().into(),
        client: worker.visitor.client,
        address: worker.visitor.address,
        connected_at_ms: worker.connected_at.0,
        silent_ms: millis(worker.silent),
        connected: worker.connected,
    }
}

pub(super) fn stats(minute: &LastMinute, connections: u64, uptime: Duration) -> wire::Stats {
    let (push_p50_ms, push_p99_ms) = minute.times_ms(Timed::Push);
    let (claim_p50_ms, claim_p99_ms) = minute.times_ms(Timed::Claim);
    let (settle_p50_ms, settle_p99_ms) = minute.times_ms(Timed::Settle);
    wire::Stats {
        window_s: crate::metrics::WINDOW.as_secs() as u32,
        pushed: minute.count(Counted::Pushed),
        claimed: minute.count(Counted::Claimed),
        acked: minute.count(Counted::Acked),
        failed: minute.count(Counted::Failed),
        push_p50_ms,
        push_p99_ms,
        claim_p50_ms,
        claim_p99_ms,
        settle_p50_ms,
        settle_p99_ms,
        connections: u32::try_from(connections).unwrap_or(u32::MAX),
        uptime_s: uptime.as_secs(),
    }
}
