//! How the queues stand, and the server as a whole, for clients of flashQ.

use std::time::Duration;

use serde_json::Value;

use super::job::object;
use super::look::is_public;
use super::{Answer, Client, Fields, Refused, fields};
use crate::error::Error;
use crate::job::{QueueName, RateRule, State};
use crate::limits;
use crate::store::{Counts, JobFilter, Queue};

/// The latest jobs that are looked at to say how long jobs take.
const LATEST: usize = 100;

pub(super) async fn getjobcounts(client: Client<'_>, fields: Fields) -> Answer {
    let queue = find(&client, fields::queue(&fields)?).await?;
    let counts = queue.map(|queue| queue.counts).unwrap_or_default();
    let mut answer = object([
        ("waiting", counts.ready.into()),
        ("active", counts.leased.into()),
        ("delayed", counts.scheduled.into()),
        ("completed", counts.completed.into()),
        ("failed", counts.dead.into()),
    ]);
    answer.insert("counts".into(), Value::Object(answer.clone()));
    Ok(answer)
}

pub(super) async fn count(client: Client<'_>, fields: Fields) -> Answer {
    let queue = find(&client, fields::queue(&fields)?).await?;
    let counts = queue.map(|queue| queue.counts).unwrap_or_default();
    Ok(object([("count", (counts.ready + counts.scheduled).into())]))
}

pub(super) async fn ispaused(client: Client<'_>, fields: Fields) -> Answer {
    let queue = find(&client, fields::queue(&fields)?).await?;
    let is_paused = queue.is_some_and(|queue| queue.paused_at.is_some());
    Ok(object([("paused", is_paused.into())]))
}

pub(super) async fn listqueues(client: Client<'_>, _: Fields) -> Answer {
    let queues = client.door.broker.queues().await?;
    let shown = |queue: &Queue| {
        Value::Object(object([
            ("name", queue.name.as_str().into()),
            ("pending", queue.counts.ready.into()),
            ("processing", queue.counts.leased.into()),
            ("completed", queue.counts.completed.into()),
            ("delayed", queue.counts.scheduled.into()),
            ("dlq", queue.counts.dead.into()),
            ("paused", queue.paused_at.is_some().into()),
            ("rate_limit", queue.settings.rate.map(per_second).into()),
            ("concurrency_limit", queue.settings.concurrency.into()),
        ]))
    };
    let queues = queues.iter().filter(|queue| is_public(&queue.name));
    Ok(object([("queues", queues.map(shown).collect())]))
}

pub(super) async fn stats(client: Client<'_>, _: Fields) -> Answer {
    let queues = client.door.broker.queues_lately().await?;
    let queues = || queues.iter().filter(|queue| is_public(&queue.name));
    let sum = |of: fn(&Counts) -> u64| Value::from(queues().map(|it| of(&it.counts)).sum::<u64>());
    let shown = |queue: &Queue| {
        let counts = &queue.counts;
        let shown = object([
            ("waiting", counts.ready.into()),
            ("active", counts.leased.into()),
            ("completed", counts.completed.into()),
            ("failed", counts.dead.into()),
            ("delayed", counts.scheduled.into()),
            ("paused", queue.paused_at.is_some().into()),
        ]);
        (queue.name.as_str().to_owned(), Value::Object(shown))
    };
    let by_name: Fields = queues().take(limits::METRIC_QUEUES_MAX).map(shown).collect();
    Ok(object([
        ("queued", sum(|counts| counts.ready)),
        ("processing", sum(|counts| counts.leased)),
        ("delayed", sum(|counts| counts.scheduled)),
        ("dlq", sum(|counts| counts.dead)),
        ("completed", sum(|counts| counts.completed)),
        ("queues", Value::Object(by_name)),
    ]))
}

/// The totals are those of all nodes.
pub(super) async fn metrics(client: Client<'_>, _: Fields) -> Answer {
    let broker = &client.door.broker;
    let queues = broker.queues_lately().await?;
    let shown = |queue: &Queue| {
        Value::Object(object([
            ("name", queue.name.as_str().into()),
            ("pending", (queue.counts.ready + queue.counts.scheduled).into()),
            ("processing", queue.counts.leased.into()),
            ("dlq", queue.counts.dead.into()),
            ("rate_limit", queue.settings.rate.map(per_second).into()),
        ]))
    };
    let queues = queues.iter().filter(|queue| is_public(&queue.name));
    let queues = queues.take(limits::METRIC_QUEUES_MAX).map(shown).collect();
    let done = broker.done().await?;
    let mut answer = object([
        ("total_pushed", done.pushed.into()),
        ("total_completed", done.acked.into()),
        ("total_failed", done.failed.into()),
        ("jobs_per_second", done.acked_per_second.into()),
        ("avg_latency_ms", latency_ms(&client).await?.into()),
        ("queues", queues),
    ]);
    answer.insert("metrics".into(), Value::Object(answer.clone()));
    Ok(answer)
}

/// How long the latest jobs took from their push to their completion, on average.
async fn latency_ms(client: &Client<'_>) -> Result<f64, Refused> {
    let state = Some(State::Completed);
    let filter = JobFilter { state, limit: LATEST, ..JobFilter::default() };
    let page = client.door.broker.jobs(filter).await?;
    let jobs = page.jobs.iter().filter(|job| is_public(&job.queue));
    let times = jobs.filter_map(|job| Some(job.finished_at?.since(job.created_at)));
    let times: Vec<Duration> = times.collect();
    let sum: Duration = times.iter().sum();
    Ok(sum.as_secs_f64() * 1000.0 / times.len().max(1) as f64)
}

/// How many jobs there are in a state, in one queue or in all. In any state: those that have been
/// cancelled are gone.
pub(super) async fn total(
    client: &Client<'_>,
    queue: Option<QueueName>,
    state: Option<State>,
) -> Result<u64, Refused> {
    let queues = match queue {
        Some(name) => find(client, name).await?.into_iter().collect(),
        None => client.door.broker.queues().await?,
    };
    let queues = queues.iter().filter(|queue| is_public(&queue.name));
    Ok(queues.map(|queue| in_state(&queue.counts, state)).sum())
}

fn in_state(counts: &Counts, state: Option<State>) -> u64 {
    match state {
        Some(State::Scheduled) => counts.scheduled,
        Some(State::Blocked) => counts.blocked,
        Some(State::Ready) => counts.ready,
        Some(State::Leased) => counts.leased,
        Some(State::Completed) => counts.completed,
        Some(State::Dead) => counts.dead,
        Some(State::Cancelled) => counts.cancelled,
        None => {
            let waiting = counts.scheduled + counts.blocked + counts.ready;
            waiting + counts.leased + counts.completed + counts.dead
        }
    }
}

/// A queue, if there is one of this name.
pub(super) async fn find(client: &Client<'_>, name: QueueName) -> Result<Option<Queue>, Refused> {
    match client.door.broker.queue(name).await {
        Ok(queue) => Ok(Some(queue)),
        Err(Error::NotFound(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A rate, as jobs in a second; at least 1.
fn per_second(rule: RateRule) -> u64 {
    let per = u64::try_from(rule.per.as_millis()).unwrap_or(u64::MAX).max(1);
    (u64::from(rule.limit) * 1000).div_ceil(per)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_shown_by_the_second() {
        let rule =
            |limit, millis| RateRule { limit, per: Duration::from_millis(millis), burst: None };
        assert_eq!(per_second(rule(5, 1000)), 5);
        assert_eq!(per_second(rule(1, 60_000)), 1);
        assert_eq!(per_second(rule(7, 100)), 70);
    }

    #[test]
    fn in_any_state_are_all_but_cancelled_jobs() {
        let counts = Counts {
            scheduled: 1,
            blocked: 2,
            ready: 4,
            leased: 8,
            completed: 16,
            dead: 32,
            cancelled: 64,
        };
        assert_eq!(in_state(&counts, None), 63);
        let each = State::ALL.map(|state| in_state(&counts, Some(state)));
        assert_eq!(each, [1, 2, 4, 8, 16, 32, 64]);
    }
}
