//! Handing jobs in, getting them, changing them.

use std::time::Duration;

use hyper::StatusCode;

use super::{Answered, Call, ok};
use crate::broker::Pull;
use crate::door::{check_batch, each};
use crate::error::Error;
use crate::http::body;
use crate::http::model::lease::{LeasedBody, PullBody, PulledBody};
use crate::http::model::look::{
    ChangedBody, NoBody, PausedBody, ReplayDeadBody, ReplayedBody, ReplayedDeadBody,
};
use crate::http::model::push::{BatchBody, BatchPushedBody, NewJobBody, PushedBody};
use crate::http::query::{page_limit, reason};
use crate::job::{QueueName, State, WorkerName, check_lease, check_wait};
use crate::limits;
use crate::store::{DeadFilter, Hold, Pausing, Pushed};

pub(in crate::http) async fn push(call: Call, job: NewJobBody) -> Answered<PushedBody> {
    let job = job.into_job(call.queue()?)?;
    let pushed = call.door.broker.push(vec![job]).await?;
    let pushed = pushed.into_iter().next();
    let pushed = pushed.ok_or_else(|| Error::Internal("an answer is missing".into()))?;
    let status = match pushed {
        Pushed::Inserted { .. } => StatusCode::CREATED,
        Pushed::Duplicate { .. } => StatusCode::OK,
    };
    Ok((status, pushed.into()))
}

pub(in crate::http) async fn push_batch(call: Call, batch: BatchBody) -> Answered<BatchPushedBody> {
    let queue = call.queue()?;
    check_batch("jobs", batch.jobs.len())?;
    let job = |json: Box<serde_json::value::RawValue>| {
        body::parse::<NewJobBody>(json.get().as_bytes())?.into_job(queue.clone())
    };
    let jobs = batch.jobs.into_iter().map(job).collect();
    let results = each(jobs, |jobs| call.door.broker.push(jobs)).await?;
    ok(BatchPushedBody { results: results.into_iter().map(Into::into).collect() })
}

pub(in crate::http) async fn pull(call: Call, pull: PullBody) -> Answered<PulledBody> {
    let queue = call.queue()?;
    let count = pull.count as usize;
    if !(1..=limits::BATCH_MAX).contains(&count) {
        let detail = format!("must be from 1 to {}", limits::BATCH_MAX);
        return Err(Error::invalid("count", detail));
    }
    let wish = Pull {
        queue: queue.clone(),
        count,
        wait: check_wait("wait_ms", Duration::from_millis(pull.wait_ms))?,
        worker: WorkerName::parse(&pull.worker)?,
        hold: Hold::Time(check_lease(Duration::from_millis(pull.lease_ms))?),
    };
    let broker = &call.door.broker;
    let jobs = broker.pull(wish).await?;
    ok(PulledBody { jobs: jobs.iter().map(|job| LeasedBody::new(broker, &queue, job)).collect() })
}

pub(in crate::http) async fn retry(call: Call, _: NoBody) -> Answered<ChangedBody> {
    let job = call.door.broker.retry(call.job()?).await?.job;
    ok(ChangedBody { id: job.0, state: State::Ready.name() })
}

pub(in crate::http) async fn cancel(call: Call, _: NoBody) -> Answered<ChangedBody> {
    let job = call.door.broker.cancel(call.job()?).await?.job;
    ok(ChangedBody { id: job.0, state: State::Cancelled.name() })
}

pub(in crate::http) async fn promote(call: Call, _: NoBody) -> Answered<ChangedBody> {
    let job = call.door.broker.promote(call.job()?).await?.job;
    ok(ChangedBody { id: job.0, state: State::Ready.name() })
}

pub(in crate::http) async fn replay(call: Call, _: NoBody) -> Answered<ReplayedBody> {
    let original = call.job()?;
    let copy = call.door.broker.replay(original).await?.job;
    Ok((StatusCode::CREATED, ReplayedBody { id: copy.0, replay_of: original.0 }))
}

pub(in crate::http) async fn replay_dead(
    call: Call,
    which: ReplayDeadBody,
) -> Answered<ReplayedDeadBody> {
    let filter = DeadFilter {
        queue: which.queue.as_deref().map(QueueName::parse).transpose()?,
        reason: which.reason.as_deref().map(reason).transpose()?,
        limit: page_limit(which.limit, limits::PAGE_MAX)?,
    };
    let ids = call.door.broker.replay_dead(filter).await?;
    ok(ReplayedDeadBody { ids: ids.into_iter().map(|id| id.0).collect() })
}

pub(in crate::http) async fn pause(call: Call, _: NoBody) -> Answered<PausedBody> {
    set_paused(call, Pausing::Pause).await
}

pub(in crate::http) async fn resume(call: Call, _: NoBody) -> Answered<PausedBody> {
    set_paused(call, Pausing::Resume).await
}

async fn set_paused(call: Call, pausing: Pausing) -> Answered<PausedBody> {
    let queue = call.queue()?;
    call.door.broker.set_paused(queue.clone(), pausing).await?;
    ok(PausedBody { name: queue.as_str().into(), paused: pausing == Pausing::Pause })
}
