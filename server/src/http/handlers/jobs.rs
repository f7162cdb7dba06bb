//! Handing jobs in, getting them, changing them.

use std::time::Duration;

use hyper::StatusCode;

use super::{Answered, Call, ok};
use crate::broker::{BulkDone, BulkRequest, Pull};
use crate::door::{check_batch, each};
use crate::error::Error;
use crate::http::body;
use crate::http::model::lease::{LeasedBody, PullBody, PulledBody};
use crate::http::model::look::{
    CancelBody, CancelledBody, ChangedBody, NoBody, PausedBody, ReplayDeadBody, ReplayedBody,
    ReplayedDeadBody,
};
use crate::http::model::push::{
    BatchBody, BatchPushedBody, EditBody, FlowBody, NewJobBody, PushedBody,
};
use crate::job::{Settings, State, WorkerName, check_grace, check_lease, check_wait};
use crate::limits;
use crate::store::{Destination, Hold, Pausing, Pushed};

pub(in crate::http) async fn push(call: Call, job: NewJobBody) -> Answered<PushedBody> {
    let job = job.into_job(call.queue()?)?;
    let pushed = call.door.broker.push(vec![job]).await?;
    let pushed = pushed.into_iter().next();
    let pushed = pushed.ok_or_else(|| Error::Internal("an answer is missing".into()))??;
    let status = match pushed {
        Pushed::Inserted { .. } => StatusCode::CREATED,
        Pushed::Duplicate { .. } | Pushed::Replaced { .. } | Pushed::Refused(_) => StatusCode::OK,
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
    let results = each(jobs, |jobs| call.door.broker.push(jobs)).await?.into_iter();
    ok(BatchPushedBody { results: results.map(|result| result.flatten().into()).collect() })
}

pub(in crate::http) async fn push_flow(call: Call, flow: FlowBody) -> Answered<BatchPushedBody> {
    check_batch("jobs", flow.jobs.len())?;
    let results = call.door.broker.push_flow(flow.into_jobs()?).await?;
    let results = results.into_iter().map(|pushed| Ok(pushed).into());
    let body = BatchPushedBody { results: results.collect() };
    Ok((StatusCode::CREATED, body))
}

pub(in crate::http) async fn edit(call: Call, edit: EditBody) -> Answered<ChangedBody> {
    let effect = call.door.broker.edit(call.job()?, edit.into_edit()?).await?;
    let state = match effect.to {
        Destination::Ready => State::Ready,
        Destination::Scheduled(_) => State::Scheduled,
        Destination::Blocked => State::Blocked,
        Destination::Finished(state) => state,
    };
    ok(ChangedBody { id: effect.job.0, state: state.name() })
}

pub(in crate::http) async fn set_settings(call: Call, settings: Settings) -> Answered<Settings> {
    call.door.broker.set_settings(call.queue()?, settings.clone()).await?;
    ok(settings)
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

pub(in crate::http) async fn cancel(call: Call, wish: CancelBody) -> Answered<CancelledBody> {
    let job = call.job()?;
    let force_at = call.door.broker.cancel(job, check_grace(wish.grace_ms)?).await?;
    let status = if force_at.is_some() { StatusCode::ACCEPTED } else { StatusCode::OK };
    Ok((status, CancelledBody::new(job, force_at)))
}

pub(in crate::http) async fn promote(call: Call, _: NoBody) -> Answered<ChangedBody> {
    let job = call.door.broker.promote(call.job()?).await?.job;
    ok(ChangedBody { id: job.0, state: State::Ready.name() })
}

pub(in crate::http) async fn replay(call: Call, edit: EditBody) -> Answered<ReplayedBody> {
    let original = call.job()?;
    let copy = call.door.broker.replay(original, edit.into_edit()?).await?.job;
    Ok((StatusCode::CREATED, ReplayedBody { id: copy.0, replay_of: original.0 }))
}

pub(in crate::http) async fn replay_dead(
    call: Call,
    which: ReplayDeadBody,
) -> Answered<ReplayedDeadBody> {
    let ids = call.door.broker.bulk(which.into_bulk()).await?.ids;
    ok(ReplayedDeadBody { ids })
}

pub(in crate::http) async fn bulk(call: Call, request: BulkRequest) -> Answered<BulkDone> {
    ok(call.door.broker.bulk(request).await?)
}

pub(in crate::http) async fn delete(call: Call) -> Result<(), Error> {
    call.door.broker.delete(call.job()?).await
}

pub(in crate::http) async fn pause(call: Call, _: NoBody) -> Answered<PausedBody> {
    set_paused(call, Pausing::Pause).await
}

pub(in crate::http) async fn resume(call: Call, _: NoBody) -> Answered<PausedBody> {
    set_paused(call, Pausing::Resume).await
}

async fn set_paused(call: Call, pausing: Pausing) -> Answered<PausedBody> {
    let queue = call.queue()?;
    call.door.broker.set_paused(queue.clone(), pausing, call.who).await?;
    ok(PausedBody { name: queue.as_str().into(), paused: pausing == Pausing::Pause })
}
