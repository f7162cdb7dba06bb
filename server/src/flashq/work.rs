//! What producers and workers ask for: pushing, pulling, settling.
//!
//! A batch is one call of the broker, however large it is. Jobs are settled by their numbers: with
//! the leases that this node remembers, and where those do not hold, with what the store knows.

use std::time::Duration;

use batonq_protocol::ErrorCode;
use futures_util::{StreamExt, stream};
use serde_json::Value;
use tokio::time::Instant;

use super::http::is_held_by_time;
use super::job::{object, shown_leased};
use super::leases::{Given, Removal};
use super::options::new_job;
use super::{Answer, Client, Fields, Refused, fields};
use crate::broker::{Condition, Pull};
use crate::error::Error;
use crate::job::{FailureCode, JobId, Lease, NewJob, QueueName, State, check_result, cut};
use crate::limits;
use crate::store::{
    Destination, Extension, Hold, LeasedJob, Progress, Pushed, Retry, Same, Settled, Settlement,
    Verdict,
};

/// How long a pull waits if nobody says.
const PULL_WAIT_MS: u64 = 60_000;

/// A pull that the store keeps waiting is answered this much after its time: its client waits for
/// a second more.
const PULL_LATE_MAX: Duration = Duration::from_millis(500);

/// A pull from a node that gives out nothing more is answered after this pause at most: workers ask
/// again at once.
const DRAINING_PAUSE: Duration = Duration::from_millis(500);

/// Removals of ended jobs that are under way at once.
const REMOVALS_AT_ONCE: usize = 16;

pub(super) async fn ping(_: Client<'_>, _: Fields) -> Answer {
    Ok(object([("pong", true.into())]))
}

pub(super) async fn push(client: Client<'_>, fields: Fields) -> Answer {
    let payload = fields::payload(fields::value(&fields, "data")?)?;
    let job = new_job(fields::queue(&fields)?, payload, &fields)?;
    let keys = Keys::of(&job);
    let pushed = client.door.broker.push(vec![job]).await?;
    let missing = || Error::Internal("an answer is missing".into());
    let id = keys.id(pushed.into_iter().next().ok_or_else(missing)?)?;
    Ok(object([("id", id.0.into())]))
}

pub(super) async fn pushb(client: Client<'_>, mut fields: Fields) -> Answer {
    let queue = fields::queue(&fields)?;
    let jobs = fields::take_objects(&mut fields, "jobs")?;
    if jobs.len() > limits::BATCH_MAX {
        let most = limits::BATCH_MAX;
        return Err(Refused::invalid(format_args!("Batch too large (max {most} jobs)")));
    }
    let mut answers: Vec<Result<JobId, Refused>> = Vec::with_capacity(jobs.len());
    let (mut good, mut keys) = (Vec::new(), Vec::new());
    for fields in &jobs {
        let none = Value::Null;
        let data = fields.get("data").unwrap_or(&none);
        let job = fields::payload(data).and_then(|data| new_job(queue.clone(), data, fields));
        // The number of a good one is filled in below.
        answers.push(job.map(|job| {
            keys.push(Keys::of(&job));
            good.push(job);
            JobId(0)
        }));
    }
    if !good.is_empty() {
        let pushed = client.door.broker.push(good).await?;
        let places = answers.iter_mut().filter(|answer| answer.is_ok());
        for ((place, keys), pushed) in places.zip(keys).zip(pushed) {
            *place = keys.id(pushed);
        }
    }
    let ids = answers.iter().filter_map(|answer| answer.as_ref().ok()).map(|id| id.0).collect();
    let refused = answers.iter().enumerate().filter_map(|(index, answer)| {
        let refused = answer.as_ref().err()?;
        let error = refused.0.as_str().into();
        Some(Value::Object(object([("index", index.into()), ("error", error)])))
    });
    let errors: Value = refused.collect();
    Ok(object([("ids", ids), ("errors", errors.clone()), ("failed", errors)]))
}

/// What a job may have in common with another one.
struct Keys {
    unique: Option<String>,
}

impl Keys {
    fn of(job: &NewJob) -> Self {
        Self { unique: job.unique.as_ref().map(|key| key.as_str().to_owned()) }
    }

    /// The number that is the answer to a push.
    fn id(&self, pushed: Result<Pushed, Error>) -> Result<JobId, Refused> {
        let key = self.unique.as_deref().unwrap_or_default();
        match pushed? {
            Pushed::Duplicate { id, of: Same::Unique, .. } => Err(Refused(
                format!("Duplicate job with key: {key} (held by job {id})"),
                ErrorCode::Duplicate,
            )),
            Pushed::Duplicate { of: Same::Window, .. } => Err(Refused(
                format!("Debounced: job with id '{key}' was pushed recently"),
                ErrorCode::Duplicate,
            )),
            pushed => pushed
                .id()
                .ok_or_else(|| Refused("Internal error: not stored".into(), ErrorCode::Internal)),
        }
    }
}

pub(super) async fn pull(client: Client<'_>, fields: Fields) -> Answer {
    let (queue, wait) = (fields::queue(&fields)?, wait(&fields)?);
    let jobs = take(&client, queue, 1, wait).await?;
    Ok(object([("job", jobs.into_iter().next().unwrap_or(Value::Null))]))
}

pub(super) async fn pullb(client: Client<'_>, fields: Fields) -> Answer {
    let (queue, wait) = (fields::queue(&fields)?, wait(&fields)?);
    let count = fields::number(&fields, "count")?;
    let count = usize::try_from(count).unwrap_or(usize::MAX).min(limits::BATCH_MAX);
    let jobs = match count {
        0 => Vec::new(),
        count => take(&client, queue, count, wait).await?,
    };
    Ok(object([("jobs", Value::Array(jobs))]))
}

fn wait(fields: &Fields) -> Result<Duration, Refused> {
    let millis = fields::opt_number(fields, "timeout")?.unwrap_or(PULL_WAIT_MS);
    Ok(Duration::from_millis(millis).min(limits::FLASHQ_WAIT_MAX))
}

/// Leases jobs; none, if there are none in time.
///
/// Once there are some nothing is awaited: they would be forgotten with this future.
async fn take(
    client: &Client<'_>,
    queue: QueueName,
    count: usize,
    wait: Duration,
) -> Result<Vec<Value>, Refused> {
    let broker = &client.door.broker;
    let deadline = Instant::now() + wait;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let pull = Pull {
            queue: queue.clone(),
            count,
            wait: left.min(limits::WAIT_MAX),
            worker: client.worker.clone(),
            hold: client.hold,
        };
        let late = pull.wait + PULL_LATE_MAX;
        let jobs = match tokio::time::timeout(late, broker.pull(pull)).await {
            Ok(Ok(jobs)) => jobs,
            Ok(Err(_)) if broker.health().condition == Condition::Draining => Vec::new(),
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => Vec::new(),
        };
        if !jobs.is_empty() {
            return Ok(handed_out(client, &queue, &jobs));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if broker.health().condition == Condition::Draining {
            tokio::time::sleep(left.min(DRAINING_PAUSE)).await;
            return Ok(Vec::new());
        }
        if left.is_zero() {
            return Ok(Vec::new());
        }
    }
}

fn handed_out(client: &Client<'_>, queue: &QueueName, jobs: &[LeasedJob]) -> Vec<Value> {
    if let Hold::Session(session) = client.hold {
        client.leases.note(session, jobs);
    }
    let now = client.door.broker.ago(0);
    jobs.iter().map(|job| Value::Object(shown_leased(queue, job, now))).collect()
}

pub(super) async fn ack(client: Client<'_>, fields: Fields) -> Answer {
    let id = fields::job_id(&fields)?;
    let result = fields::opt_value(&fields, "result").map(fields::json);
    if let Some(result) = &result {
        check_result(result).map_err(|large| Refused::from(Error::from(large)))?;
    }
    settle_one(&client, id, Verdict::Ack { result }).await
}

pub(super) async fn fail(client: Client<'_>, fields: Fields) -> Answer {
    let id = fields::job_id(&fields)?;
    let message = fields::opt_text(&fields, "error")?.unwrap_or_default();
    let verdict = Verdict::Fail {
        code: FailureCode::parse("FAILED")?,
        message: cut(message, limits::ERROR_MESSAGE_BYTES_MAX),
        retry: Retry::Backoff,
        chance: rand::random(),
    };
    settle_one(&client, id, verdict).await
}

async fn settle_one(client: &Client<'_>, id: JobId, verdict: Verdict) -> Answer {
    match settle(client, &[id], &verdict).await? {
        0 => Err(Refused::no_job(id)),
        _ => Ok(Fields::new()),
    }
}

pub(super) async fn ackb(client: Client<'_>, fields: Fields) -> Answer {
    let mut ids = fields::ids(&fields, "ids")?;
    ids.sort_unstable();
    ids.dedup();
    let mut count = 0;
    for ids in ids.chunks(limits::BATCH_MAX) {
        count += settle(&client, ids, &Verdict::Ack { result: None }).await?;
    }
    Ok(object([("ids", [count].into_iter().collect()), ("count", count.into())]))
}

/// Ends the leases of jobs, whoever has them. The answer: of how many.
async fn settle(client: &Client<'_>, ids: &[JobId], verdict: &Verdict) -> Result<usize, Refused> {
    let (mut hinted, mut others) = (Vec::new(), Vec::new());
    for id in ids {
        match client.leases.get(*id) {
            Some(given) => hinted.push(given),
            None => others.push(*id),
        }
    }
    let mut count = hinted.len();
    let lost = settle_given(client, hinted, verdict).await?;
    count -= lost.len();
    others.extend(lost);
    if others.is_empty() {
        return Ok(count);
    }
    let known = known_leases(client, others).await?;
    count += known.len();
    let lost = settle_given(client, known, verdict).await?;
    Ok(count - lost.len())
}

/// The leases of jobs, as the store has them.
async fn known_leases(client: &Client<'_>, ids: Vec<JobId>) -> Result<Vec<Given>, Refused> {
    let broker = &client.door.broker;
    let leases: Vec<Lease> = broker.leases_of(ids).await?.into_iter().flatten().collect();
    if leases.is_empty() {
        return Ok(Vec::new());
    }
    let jobs = broker.jobs_by_id(leases.iter().map(|lease| lease.job).collect()).await?;
    let given = leases.into_iter().zip(jobs).map(|(lease, job)| {
        let removal = job.map_or(Removal::default(), |job| Removal::of(&job.options));
        Given { lease, removal }
    });
    Ok(given.collect())
}

/// Ends these leases. The answer: the jobs of those that were held no more.
async fn settle_given(
    client: &Client<'_>,
    given: Vec<Given>,
    verdict: &Verdict,
) -> Result<Vec<JobId>, Refused> {
    if given.is_empty() {
        return Ok(Vec::new());
    }
    let settlement = |given: &Given| Settlement { lease: given.lease, verdict: verdict.clone() };
    let settled = client.door.broker.settle(given.iter().map(settlement).collect()).await?;
    let (mut lost, mut removed) = (Vec::new(), Vec::new());
    for (given, settled) in given.into_iter().zip(settled) {
        client.leases.forget(given.lease);
        match settled {
            Settled::Done(effect) => {
                let is_removed = match effect.to {
                    Destination::Finished(State::Completed) => given.removal.on_complete,
                    Destination::Finished(State::Dead) => given.removal.on_fail,
                    _ => false,
                };
                removed.extend(is_removed.then_some(given.lease.job));
            }
            // Also if that lease has ended just so before: somebody else may have the job by now.
            Settled::Repeated | Settled::LeaseLost | Settled::Unknown => {
                lost.push(given.lease.job);
            }
        }
    }
    remove(client, removed).await;
    Ok(lost)
}

/// Deletes jobs that have ended, as they were pushed to be.
async fn remove(client: &Client<'_>, ids: Vec<JobId>) {
    let broker = &client.door.broker;
    let remove = |id: JobId| async move {
        match broker.delete(id).await {
            // Somebody else has, or has sent it round again.
            Ok(()) | Err(Error::NotFound(_) | Error::WrongState(_)) => {}
            Err(error) => tracing::warn!(job = id.0, %error, "an ended job was not removed"),
        }
    };
    stream::iter(ids).for_each_concurrent(REMOVALS_AT_ONCE, remove).await;
}

pub(super) async fn progress(client: Client<'_>, fields: Fields) -> Answer {
    let id = fields::job_id(&fields)?;
    let percent = fields::number(&fields, "progress")?;
    let percent = u8::try_from(percent)
        .map_err(|_| Refused::invalid(format_args!("progress: `{percent}` is no u8")))?;
    let message = fields::opt_text(&fields, "message")?.unwrap_or_default();
    let message = cut(message, limits::ERROR_MESSAGE_BYTES_MAX);
    let progress = Progress { percent: percent.min(100), message };
    let broker = &client.door.broker;
    if let Some(given) = client.leases.get(id) {
        match broker.progress(given.lease, progress.clone()).await {
            Ok(()) => return Ok(Fields::new()),
            Err(Error::LeaseLost) => client.leases.forget(given.lease),
            Err(error) => return Err(error.into()),
        }
    }
    let refused = || Refused(format!("Job not found in processing: {id}"), ErrorCode::LeaseLost);
    match broker.leases_of(vec![id]).await?.into_iter().next().flatten() {
        None => Err(refused()),
        Some(lease) => match broker.progress(lease, progress).await {
            Ok(()) => Ok(Fields::new()),
            Err(Error::LeaseLost) => Err(refused()),
            Err(error) => Err(error.into()),
        },
    }
}

/// A sign of life. A lease that hangs on a connection lives as long as that and needs none; one that
/// was given over HTTP has its time again from now on.
pub(super) async fn heartbeat(client: Client<'_>, fields: Fields) -> Answer {
    let id = fields::job_id(&fields)?;
    let broker = &client.door.broker;
    let refused = || Refused(format!("Job {id} not in processing"), ErrorCode::WrongState);
    let lease = broker.leases_of(vec![id]).await?.into_iter().next().flatten();
    let lease = lease.ok_or_else(refused)?;
    let job = broker.jobs_by_id(vec![id]).await?.into_iter().next().flatten();
    if !job.and_then(|job| job.worker).is_some_and(|worker| is_held_by_time(&worker)) {
        return Ok(Fields::new());
    }
    let extension = Extension { lease, hold: limits::FLASHQ_HTTP_LEASE };
    match broker.extend(vec![extension]).await?.into_iter().next().flatten() {
        Some(_) => Ok(Fields::new()),
        None => Err(refused()),
    }
}
