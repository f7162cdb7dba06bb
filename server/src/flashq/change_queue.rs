//! What clients of flashQ change of whole queues.
//!
//! Many jobs are changed in parts, each job by itself: a command that is cut short has done a part
//! of its work, and does the rest when it is sent again. A name that no queue has yet can be
//! paused and limited.

use std::time::Duration;

use batonq_protocol::ErrorCode;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::change_job::forced;
use super::job::object;
use super::look::known;
use super::{Answer, Client, Fields, Refused, fields, queues};
use crate::broker::{Broker, BulkAction, BulkFilter, BulkRequest};
use crate::error::Error;
use crate::job::{JobId, QueueName, RateRule, Settings, State, Timestamp};
use crate::limits;
use crate::store::{Job, JobFilter, Pausing};

/// Changes that are under way at once.
const AT_ONCE: usize = 16;

pub(super) async fn pause(client: Client<'_>, fields: Fields) -> Answer {
    set_paused(&client, fields::queue(&fields)?, Pausing::Pause).await
}

pub(super) async fn resume(client: Client<'_>, fields: Fields) -> Answer {
    set_paused(&client, fields::queue(&fields)?, Pausing::Resume).await
}

async fn set_paused(client: &Client<'_>, queue: QueueName, pausing: Pausing) -> Answer {
    client.door.broker.set_paused(queue, pausing, client.who.to_owned()).await?;
    Ok(Fields::new())
}

pub(super) async fn drain(client: Client<'_>, fields: Fields) -> Answer {
    let queue = fields::queue(&fields)?;
    // In this order: a job that becomes due meanwhile is met as a ready one.
    let delayed = bulk(&client, BulkAction::Cancel, &queue, Some(State::Scheduled)).await?;
    let waiting = bulk(&client, BulkAction::Cancel, &queue, Some(State::Ready)).await?;
    Ok(counted(delayed + waiting))
}

/// Takes everything away that belongs to a queue. Its schedules go first, so that nothing new
/// comes; what is leased is taken from its workers.
pub(super) async fn obliterate(client: Client<'_>, fields: Fields) -> Answer {
    let queue = fields::queue(&fields)?;
    super::cron::delete_all_of(&client, &queue).await?;
    let mut count = bulk(&client, BulkAction::Cancel, &queue, None).await?;
    let leased = JobFilter {
        queue: Some(queue.clone()),
        state: Some(State::Leased),
        limit: limits::PAGE_MAX,
        ..JobFilter::default()
    };
    let leased = client.door.broker.jobs(leased).await?.jobs;
    let leased: Vec<JobId> = leased.into_iter().map(|job| job.id).collect();
    forced(&client, &leased).await;
    for state in [State::Completed, State::Dead] {
        count += bulk(&client, BulkAction::Delete, &queue, Some(state)).await?;
    }
    bulk(&client, BulkAction::Delete, &queue, Some(State::Cancelled)).await?;
    if let Some(found) = queues::find(&client, queue.clone()).await? {
        let settings = Settings { concurrency: None, rate: None, ..found.settings.clone() };
        if settings != found.settings {
            client.door.broker.set_settings(queue.clone(), settings).await?;
        }
        if found.paused_at.is_some() {
            set_paused(&client, queue, Pausing::Resume).await?;
        }
    }
    Ok(counted(count))
}

pub(super) async fn clean(client: Client<'_>, fields: Fields) -> Answer {
    let queue = fields::queue(&fields)?;
    let grace = fields::number(&fields, "grace")?;
    let state = match fields::opt_text(&fields, "state")?.unwrap_or("completed") {
        "waiting" => State::Ready,
        "delayed" => State::Scheduled,
        "completed" => State::Completed,
        "failed" => State::Dead,
        _ => {
            let states = "waiting, delayed, completed, failed";
            return Err(Refused(format!("Invalid state. Use: {states}"), ErrorCode::Invalid));
        }
    };
    let limit = fields::opt_number(&fields, "limit")?.unwrap_or(u64::MAX);
    let until = client.door.broker.ago(grace);
    let mut filter = JobFilter {
        queue: Some(queue),
        state: Some(state),
        // Up to and including that time.
        created_to: Some(until + Duration::from_millis(1)),
        oldest_first: true,
        limit: limits::PAGE_MAX,
        ..JobFilter::default()
    };
    let mut count: u64 = 0;
    while count < limit {
        let page = client.door.broker.jobs(filter.clone()).await?;
        let room = usize::try_from(limit - count).unwrap_or(usize::MAX);
        let old = page.jobs.iter().filter(|job| age_from(job) <= until).take(room);
        count += remove_all(&client, old.map(|job| (job.id, job.state)).collect()).await?;
        filter.cursor = page.next;
        if page.next.is_none() {
            break;
        }
    }
    Ok(object([("count", count.into())]))
}

/// Since when a job is as it is, as far as cleaning goes.
fn age_from(job: &Job) -> Timestamp {
    job.finished_at.unwrap_or(job.created_at)
}

/// Removes jobs, each unless somebody else has changed it meanwhile. The answer: how many.
async fn remove_all(client: &Client<'_>, jobs: Vec<(JobId, State)>) -> Result<u64, Refused> {
    let removals = jobs.into_iter().map(|(id, state)| remove(&client.door.broker, id, state));
    let removed: Vec<u64> = stream::iter(removals).buffered(AT_ONCE).try_collect().await?;
    Ok(removed.into_iter().sum())
}

async fn remove(broker: &Broker, id: JobId, state: State) -> Result<u64, Error> {
    let removed = match state.is_final() {
        true => broker.delete(id).await,
        false => broker.cancel(id, Duration::ZERO).await.map(drop),
    };
    match removed {
        Ok(()) => Ok(1),
        Err(Error::NotFound(_) | Error::WrongState(_)) => Ok(0),
        Err(error) => Err(error),
    }
}

pub(super) async fn retrydlq(client: Client<'_>, fields: Fields) -> Answer {
    let queue = fields::queue(&fields)?;
    let count = match fields::opt_number(&fields, "id")? {
        Some(id) => retry_one(&client, &queue, JobId(id)).await?,
        None => bulk(&client, BulkAction::Retry, &queue, None).await?,
    };
    // Some clients read the one, some the other.
    Ok(object([("ids", [count].into_iter().collect()), ("count", count.into())]))
}

async fn retry_one(client: &Client<'_>, queue: &QueueName, id: JobId) -> Result<usize, Refused> {
    let broker = &client.door.broker;
    if known(broker.job(id).await)?.is_none_or(|job| job.queue != *queue) {
        return Ok(0);
    }
    match broker.retry(id).await {
        Ok(_) => Ok(1),
        Err(Error::NotFound(_) | Error::WrongState(_)) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

pub(super) async fn purgedlq(client: Client<'_>, fields: Fields) -> Answer {
    let queue = fields::queue(&fields)?;
    Ok(counted(bulk(&client, BulkAction::Delete, &queue, Some(State::Dead)).await?))
}

/// Does the same to all jobs of a queue that are in a state, or in any that it can be done in. The
/// answer: to how many.
async fn bulk(
    client: &Client<'_>,
    action: BulkAction,
    queue: &QueueName,
    state: Option<State>,
) -> Result<usize, Refused> {
    let mut request = BulkRequest {
        filter: BulkFilter {
            queue: Some(queue.as_str().into()),
            state: state.map(|state| state.name().into()),
            ..BulkFilter::default()
        },
        limit: Some(limits::BULK_MAX),
        grace_ms: (action == BulkAction::Cancel).then_some(0),
        ..BulkRequest::new(action)
    };
    let mut count = 0;
    loop {
        let done = client.door.broker.bulk(request.clone()).await?;
        count += done.ids.len();
        match done.cursor {
            Some(cursor) => request.cursor = Some(cursor),
            None => return Ok(count),
        }
    }
}

fn counted(count: usize) -> Fields {
    object([("count", count.into())])
}

pub(super) async fn ratelimit(client: Client<'_>, fields: Fields) -> Answer {
    let limit = fields::number(&fields, "limit")?;
    let limit = in_range("limit", limit, &limits::RATE_LIMIT)?;
    // As many at once as in a second.
    let rule = RateRule { limit, per: Duration::from_secs(1), burst: Some(limit) };
    set(&client, &fields, |settings| settings.rate = Some(rule)).await
}

pub(super) async fn ratelimitclear(client: Client<'_>, fields: Fields) -> Answer {
    set(&client, &fields, |settings| settings.rate = None).await
}

pub(super) async fn setconcurrency(client: Client<'_>, fields: Fields) -> Answer {
    let limit = fields::number(&fields, "limit")?;
    let limit = in_range("limit", limit, &limits::CONCURRENCY)?;
    set(&client, &fields, |settings| settings.concurrency = Some(limit)).await
}

pub(super) async fn clearconcurrency(client: Client<'_>, fields: Fields) -> Answer {
    set(&client, &fields, |settings| settings.concurrency = None).await
}

fn in_range(name: &str, value: u64, range: &std::ops::RangeInclusive<u32>) -> Result<u32, Refused> {
    let fits = u32::try_from(value).ok().filter(|value| range.contains(value));
    fits.ok_or_else(|| {
        let (min, max) = (range.start(), range.end());
        let hint = "a queue that is to give out nothing can be paused";
        Refused::invalid(format_args!("{name} must be from {min} to {max}; {hint}"))
    })
}

/// Changes one of a queue's settings and leaves the others as they are.
async fn set(client: &Client<'_>, fields: &Fields, change: impl FnOnce(&mut Settings)) -> Answer {
    let queue = fields::queue(fields)?;
    let found = queues::find(client, queue.clone()).await?;
    let before = found.map(|queue| queue.settings).unwrap_or_default();
    let mut settings = before.clone();
    change(&mut settings);
    if settings != before {
        client.door.broker.set_settings(queue, settings).await?;
    }
    Ok(Fields::new())
}
