//! What clients of flashQ look at: jobs, queues, and how they stand.
//!
//! What a job is asked for that is not there is an answer, not an error: no job, in the state
//! `unknown`. Answers with payloads are bounded; one that would be too large is refused, since a
//! part of it would look like all of it.

use std::time::Duration;

use batonq_protocol::ErrorCode;
use serde_json::Value;
use tokio::time::Instant;

use super::job::{
    UNKNOWN, at, listed, object, progress_message, progress_of, state_name, text, with_state,
};
use super::options::Extra;
use super::{Answer, Client, Fields, Refused, fields};
use crate::broker::{Broker, Condition};
use crate::error::Error;
use crate::job::{JobId, QueueName, State, Timestamp, UniqueKey};
use crate::limits;
use crate::store::{Job, JobFilter, LogLine};

/// Jobs that are read at once, with their payloads.
const AT_ONCE: usize = 50;

/// How long the end of a job is waited for if nobody says.
const WAIT_DEFAULT_MS: u64 = 30_000;

/// Jobs of a list if nobody says.
const LISTED_DEFAULT: u64 = 100;

pub(super) async fn getjob(client: Client<'_>, fields: Fields) -> Answer {
    let found = client.door.broker.job(fields::job_id(&fields)?).await;
    one(&client, known(found)?).await
}

pub(super) async fn getjobbycustomid(client: Client<'_>, fields: Fields) -> Answer {
    let names = ["job_id", "customId", "custom_id"];
    let name = names.into_iter().find(|name| fields.contains_key(*name)).unwrap_or("job_id");
    // What no job can have, none has.
    let Ok(id) = UniqueKey::parse(fields::text(&fields, name)?) else {
        return one(&client, None).await;
    };
    let found = client.door.broker.job_by_custom_id(id).await?;
    one(&client, found).await
}

async fn one(client: &Client<'_>, job: Option<Job>) -> Answer {
    let Some(job) = job.filter(|job| job.state != State::Cancelled) else {
        return Ok(object([("job", Value::Null), ("state", UNKNOWN.into())]));
    };
    let now = now(client);
    let mut fields = with_state(&job, now);
    if job.state == State::Leased
        && let Some(started_at) = started_at(client, job.id).await?
    {
        fields.insert("started_at".into(), at(started_at).into());
    }
    Ok(object([("job", Value::Object(fields)), ("state", state_name(&job, now).into())]))
}

/// When the last lease of a job began, unless the job is gone by now.
async fn started_at(client: &Client<'_>, id: JobId) -> Result<Option<Timestamp>, Refused> {
    match client.door.broker.timeline(id).await {
        Ok((_, attempts, _)) => Ok(attempts.last().map(|attempt| attempt.started_at)),
        Err(Error::NotFound(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub(super) async fn getstate(client: Client<'_>, fields: Fields) -> Answer {
    let id = fields::job_id(&fields)?;
    let job = known(client.door.broker.job(id).await)?;
    let state = job.map_or(UNKNOWN, |job| state_name(&job, now(&client)));
    Ok(object([("id", id.0.into()), ("state", state.into())]))
}

pub(super) async fn getresult(client: Client<'_>, fields: Fields) -> Answer {
    let id = fields::job_id(&fields)?;
    let job = known(client.door.broker.job(id).await)?;
    let result = job.and_then(|job| job.result).map_or(Value::Null, |it| fields::shown(&it));
    Ok(object([("id", id.0.into()), ("result", result)]))
}

pub(super) async fn getjobsbatch(client: Client<'_>, fields: Fields) -> Answer {
    let ids = fields::ids(&fields, "ids")?;
    if ids.len() > limits::PAGE_MAX {
        return Err(Refused(
            format!("Too many ids ({} > {})", ids.len(), limits::PAGE_MAX),
            ErrorCode::Invalid,
        ));
    }
    let now = now(&client);
    let jobs = full(&client, &ids).await?;
    let jobs = jobs.iter().filter(|job| job.state != State::Cancelled);
    Ok(object([("jobs", jobs.map(|job| listed(job, now)).collect())]))
}

/// Jobs with their payloads, those that are there.
///
/// # Errors
///
/// If together they are too large for an answer, or those of the broker.
pub(super) async fn full(client: &Client<'_>, ids: &[JobId]) -> Result<Vec<Job>, Refused> {
    let mut jobs = Vec::with_capacity(ids.len());
    let mut bytes = 0;
    for part in ids.chunks(AT_ONCE) {
        let found = client.door.broker.jobs_by_id(part.to_vec()).await?;
        for job in found.into_iter().flatten() {
            bytes += job.payload.as_ref().map_or(0, |payload| payload.bytes.len());
            bytes += job.result.as_ref().map_or(0, |result| result.len());
            jobs.push(job);
        }
        check_bytes(bytes)?;
    }
    Ok(jobs)
}

/// # Errors
///
/// If an answer with so many bytes of payloads is too large.
pub(super) fn check_bytes(bytes: usize) -> Result<(), Refused> {
    match bytes > limits::FLASHQ_ANSWER_BYTES_MAX {
        true => {
            let max = limits::FLASHQ_ANSWER_BYTES_MAX;
            Err(Refused(
                format!("Answer too large (more than {max} bytes): ask for less at once"),
                ErrorCode::PayloadTooLarge,
            ))
        }
        false => Ok(()),
    }
}

/// Which jobs a list is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// All but cancelled ones.
    Any,
    /// Those in this state.
    In(State),
    /// Those that wait for other jobs, as parents of a flow or otherwise.
    Blocked { is_flow: bool },
    /// None: nothing is ever in that state.
    Nothing,
}

impl Kind {
    /// Whatever is no state is no condition either.
    fn parse(name: &str) -> Self {
        match name.to_lowercase().replace(['-', '_'], "").as_str() {
            "waiting" => Self::In(State::Ready),
            "delayed" => Self::In(State::Scheduled),
            "active" => Self::In(State::Leased),
            "completed" => Self::In(State::Completed),
            "failed" => Self::In(State::Dead),
            "waitingchildren" => Self::Blocked { is_flow: false },
            "waitingparent" => Self::Blocked { is_flow: true },
            "stalled" | UNKNOWN => Self::Nothing,
            _ => Self::Any,
        }
    }

    fn state(self) -> Option<State> {
        match self {
            Self::In(state) => Some(state),
            Self::Blocked { .. } => Some(State::Blocked),
            Self::Any | Self::Nothing => None,
        }
    }

    fn has(self, job: &Job) -> bool {
        match self {
            Self::Any => job.state != State::Cancelled,
            Self::In(_) => true,
            Self::Blocked { is_flow } => Extra::of(&job.options).flow == is_flow,
            Self::Nothing => false,
        }
    }
}

pub(super) async fn getjobs(client: Client<'_>, fields: Fields) -> Answer {
    let queue = fields::opt_text(&fields, "queue")?.map(fields::parse_queue).transpose()?;
    let kind = fields::opt_text(&fields, "state")?.map_or(Kind::Any, Kind::parse);
    let limit = fields::opt_number(&fields, "limit")?.unwrap_or(LISTED_DEFAULT);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX).min(limits::PAGE_MAX);
    let offset = fields::opt_number(&fields, "offset")?.unwrap_or(0);
    let offset = usize::try_from(offset).unwrap_or(usize::MAX);
    let (ids, total) = match kind {
        Kind::Nothing => (Vec::new(), 0),
        _ => page(&client, queue, kind, limit, offset).await?,
    };
    let now = now(&client);
    let jobs = full(&client, &ids).await?;
    let jobs = jobs.iter().map(|job| listed(job, now)).collect();
    Ok(object([("jobs", jobs), ("total", total.into())]))
}

/// Jobs of a list, the newest first, and how many there are in all.
async fn page(
    client: &Client<'_>,
    queue: Option<QueueName>,
    kind: Kind,
    limit: usize,
    offset: usize,
) -> Result<(Vec<JobId>, u64), Refused> {
    let total = match kind {
        // They are counted on the way: the store counts both kinds together.
        Kind::Blocked { .. } => None,
        _ => Some(super::queues::total(client, queue.clone(), kind.state()).await?),
    };
    if total.is_some_and(|total| offset as u64 >= total || limit == 0) {
        return Ok((Vec::new(), total.unwrap_or(0)));
    }
    if offset > limits::BULK_COUNT_MAX {
        return Err(Refused::invalid(format_args!(
            "offset is more than {}",
            limits::BULK_COUNT_MAX
        )));
    }
    let mut filter = JobFilter { queue, state: kind.state(), ..JobFilter::default() };
    let (mut ids, mut seen, mut looked_at) = (Vec::new(), 0, 0);
    loop {
        let left = offset.saturating_add(limit).saturating_sub(seen);
        let max = limits::PAGE_MAX;
        filter.limit = if total.is_some() { left.clamp(1, max) } else { max };
        let page = client.door.broker.jobs(filter.clone()).await?;
        for job in page.jobs.iter().filter(|job| kind.has(job) && is_public(&job.queue)) {
            if seen >= offset && ids.len() < limit {
                ids.push(job.id);
            }
            seen += 1;
        }
        looked_at += page.jobs.len();
        let is_full = total.is_some_and(|total| ids.len() >= limit || seen as u64 >= total);
        if is_full || page.next.is_none() || looked_at > limits::BULK_COUNT_MAX {
            return Ok((ids, total.unwrap_or(seen as u64)));
        }
        filter.cursor = page.next;
    }
}

/// Queues of batonq's own are none of the clients'.
pub(super) fn is_public(queue: &QueueName) -> bool {
    Broker::check_public(queue).is_ok()
}

pub(super) async fn waitjob(client: Client<'_>, fields: Fields) -> Answer {
    let id = fields::job_id(&fields)?;
    let patience = fields::opt_number(&fields, "timeout")?.unwrap_or(WAIT_DEFAULT_MS);
    let broker = &client.door.broker;
    let deadline = Instant::now() + Duration::from_millis(patience).min(limits::DELAY_MAX);
    let mut job = broker.job(id).await?;
    let extra = Extra::of(&job.options);
    while !job.state.is_final() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Refused(
                format!("Timeout waiting for job {id} after {patience}ms"),
                ErrorCode::WrongState,
            ));
        }
        if broker.health().condition == Condition::Draining {
            return Err(
                Error::Unavailable("the node is about to stop: ask elsewhere".into()).into()
            );
        }
        job = match broker.wait_job(id, left.min(limits::WAIT_MAX)).await {
            Err(Error::NotFound(_)) => return removed(id, &extra),
            waited => waited?,
        };
    }
    ended(&job)
}

fn ended(job: &Job) -> Answer {
    match job.state {
        State::Completed => {
            let result = job.result.as_ref().map(|it| ("result".to_owned(), fields::shown(it)));
            Ok(result.into_iter().collect())
        }
        State::Cancelled => {
            Err(Refused("Job failed: it was cancelled".into(), ErrorCode::WrongState))
        }
        _ => Err(Refused("Job failed".into(), ErrorCode::WrongState)),
    }
}

/// A job that was there has ended and was deleted at once, as it was asked for.
fn removed(id: JobId, extra: &Extra) -> Answer {
    match (extra.remove_on_complete, extra.remove_on_fail) {
        (_, false) => Ok(Fields::new()),
        (false, true) => Err(Refused("Job failed".into(), ErrorCode::WrongState)),
        (true, true) => Err(Refused(
            format!("Job not found: {id} has ended and was removed"),
            ErrorCode::NotFound,
        )),
    }
}

pub(super) async fn getprogress(client: Client<'_>, fields: Fields) -> Answer {
    let job = client.door.broker.job(fields::job_id(&fields)?).await?;
    if job.state == State::Cancelled {
        return Err(Refused::no_job(job.id));
    }
    let progress = Value::from(progress_of(&job));
    let message = text(progress_message(&job));
    let plain = object([("id", job.id.0.into()), ("progress", progress), ("message", message)]);
    match wants_object(client.req_id) {
        true => Ok(object([("progress", Value::Object(plain))])),
        false => Ok(plain),
    }
}

/// Clients do not agree on what progress is. The one that wants an object has request ids of three
/// parts; those that want a number have digits only, or none.
fn wants_object(req_id: Option<&str>) -> bool {
    req_id.is_some_and(|id| id.bytes().any(|byte| !byte.is_ascii_digit()))
}

pub(super) async fn getlogs(client: Client<'_>, fields: Fields) -> Answer {
    let id = fields::job_id(&fields)?;
    let lines = client.door.broker.logs(id).await?;
    let line = |line: &LogLine| {
        Value::Object(object([
            ("timestamp", at(line.at).into()),
            ("message", line.message.as_str().into()),
            ("level", line.level.as_str().into()),
        ]))
    };
    Ok(object([("id", id.0.into()), ("logs", lines.iter().map(line).collect())]))
}

pub(super) async fn dlq(client: Client<'_>, fields: Fields) -> Answer {
    let count = fields::opt_number(&fields, "count")?.unwrap_or(LISTED_DEFAULT);
    let count = usize::try_from(count).unwrap_or(usize::MAX).min(limits::PAGE_MAX);
    let mut filter = JobFilter {
        queue: Some(fields::queue(&fields)?),
        state: Some(State::Dead),
        oldest_first: true,
        ..JobFilter::default()
    };
    let mut ids = Vec::new();
    while ids.len() < count {
        filter.limit = count - ids.len();
        let page = client.door.broker.jobs(filter.clone()).await?;
        ids.extend(page.jobs.iter().map(|job| job.id));
        filter.cursor = page.next;
        if page.next.is_none() {
            break;
        }
    }
    let now = now(&client);
    let jobs = full(&client, &ids).await?;
    let jobs = jobs.iter().map(|job| Value::Object(with_state(job, now)));
    Ok(object([("jobs", jobs.collect())]))
}

/// The time by this node's clock.
pub(super) fn now(client: &Client<'_>) -> Timestamp {
    client.door.broker.ago(0)
}

/// A job that may not be there.
pub(super) fn known(found: Result<Job, Error>) -> Result<Option<Job>, Refused> {
    match found {
        Ok(job) => Ok(Some(job)),
        Err(Error::NotFound(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_known_by_any_spelling() {
        for (name, kind) in [
            ("waiting", Kind::In(State::Ready)),
            ("DELAYED", Kind::In(State::Scheduled)),
            ("Active", Kind::In(State::Leased)),
            ("completed", Kind::In(State::Completed)),
            ("failed", Kind::In(State::Dead)),
            ("waiting-children", Kind::Blocked { is_flow: false }),
            ("waiting_children", Kind::Blocked { is_flow: false }),
            ("waitingParent", Kind::Blocked { is_flow: true }),
            ("stalled", Kind::Nothing),
            ("unknown", Kind::Nothing),
            ("whatever", Kind::Any),
            ("", Kind::Any),
        ] {
            assert_eq!(Kind::parse(name), kind, "{name}");
        }
    }

    #[test]
    fn the_shape_of_a_request_id_tells_what_progress_is_to_its_client() {
        for (req_id, is_object) in [
            (None, false),
            (Some("1"), false),
            (Some("4711"), false),
            (Some("mbq2k1-x7f3-12"), true),
        ] {
            assert_eq!(wants_object(req_id), is_object, "{req_id:?}");
        }
    }

    #[test]
    fn a_job_that_is_gone_after_its_end_ended_as_its_removal_says() {
        let removal = |on_complete, on_fail| Extra {
            remove_on_complete: on_complete,
            remove_on_fail: on_fail,
            ..Extra::default()
        };
        let gone = |extra: Extra| removed(JobId(7), &extra);
        assert_eq!(gone(removal(true, false)), Ok(Fields::new()));
        assert_eq!(gone(removal(false, false)), Ok(Fields::new()));
        let failed = Err(Refused("Job failed".into(), ErrorCode::WrongState));
        assert_eq!(gone(removal(false, true)), failed);
        assert!(gone(removal(true, true)).unwrap_err().0.starts_with("Job not found: 7"));
    }
}
