//! Looking.

use std::time::Duration;

use hyper::StatusCode;

use super::{Answered, Call, ok};
use crate::broker::Condition;
use crate::door::version;
use crate::error::Error;
use crate::http::model::explain::ExplainBody;
use crate::http::model::look::{
    DecisionsBody, HealthBody, JobBody, JobsBody, KeysBody, NoBody, QueueBody, QueuesBody,
    ReadyBody, StatsBody, TimelineBody, WaitedBody, WorkersBody,
};
use crate::job::{State, check_wait};
use crate::store::JobFilter;

pub(in crate::http) async fn job(call: Call, _: NoBody) -> Answered<JobBody> {
    ok(call.door.broker.job(call.job()?).await?.into())
}

pub(in crate::http) async fn wait(call: Call, _: NoBody) -> Answered<WaitedBody> {
    let wait = Duration::from_millis(call.query.number("timeout_ms")?.unwrap_or(0));
    let wait = check_wait("timeout_ms", wait)?;
    ok(call.door.broker.wait_job(call.job()?, wait).await?.into())
}

pub(in crate::http) async fn timeline(call: Call, _: NoBody) -> Answered<TimelineBody> {
    ok(call.door.broker.timeline(call.job()?).await?.into())
}

pub(in crate::http) async fn explain(call: Call, _: NoBody) -> Answered<ExplainBody> {
    ok(call.door.explain(call.job()?).await?.into())
}

pub(in crate::http) async fn jobs(call: Call, _: NoBody) -> Answered<JobsBody> {
    ok(call.door.broker.jobs(call.query.filter(&call.door.broker)?).await?.into())
}

pub(in crate::http) async fn dead(call: Call, _: NoBody) -> Answered<JobsBody> {
    let filter = JobFilter { state: Some(State::Dead), ..call.query.filter(&call.door.broker)? };
    ok(call.door.broker.jobs(filter).await?.into())
}

pub(in crate::http) async fn queues(call: Call, _: NoBody) -> Answered<QueuesBody> {
    let queues = call.door.broker.queues().await?.into_iter().map(Into::into).collect();
    ok(QueuesBody { queues })
}

pub(in crate::http) async fn queue(call: Call, _: NoBody) -> Answered<QueueBody> {
    ok(call.door.broker.queue(call.queue()?).await?.into())
}

pub(in crate::http) async fn workers(call: Call, _: NoBody) -> Answered<WorkersBody> {
    let workers = call.door.broker.workers().into_iter().map(Into::into).collect();
    ok(WorkersBody { workers })
}

pub(in crate::http) async fn keys(call: Call, _: NoBody) -> Answered<KeysBody> {
    let keys = call.door.broker.key_uses(call.queue()?).await?;
    ok(KeysBody { keys: keys.into_iter().map(Into::into).collect() })
}

pub(in crate::http) async fn stats(call: Call, _: NoBody) -> Answered<StatsBody> {
    let metrics = call.door.broker.metrics();
    let uptime = call.door.broker.health().uptime;
    ok(StatsBody::new(&metrics.last_minute(), metrics.connections(), uptime))
}

pub(in crate::http) async fn health(call: Call, _: NoBody) -> Answered<HealthBody> {
    let health = call.door.broker.health();
    let status = health.condition.name();
    let reason = match health.condition {
        Condition::Degraded(reason) => Some(reason),
        Condition::Healthy | Condition::Draining => None,
    };
    ok(HealthBody {
        status,
        node_id: call.door.card.id.clone(),
        is_leader: call.door.leadership.term().is_some(),
        uptime_seconds: health.uptime.as_secs(),
        version: version(),
        reason,
    })
}

pub(in crate::http) async fn live(_: Call, _: NoBody) -> Answered<ReadyBody> {
    ok(Condition::Healthy.into())
}

pub(in crate::http) async fn ready(call: Call, _: NoBody) -> Answered<ReadyBody> {
    let condition = call.door.broker.health().condition;
    let status = match condition {
        Condition::Healthy => StatusCode::OK,
        Condition::Degraded(_) | Condition::Draining => StatusCode::SERVICE_UNAVAILABLE,
    };
    Ok((status, condition.into()))
}

/// For Prometheus. If the store can not say what is in the queues, the rest is said.
pub(in crate::http) async fn metrics(call: Call) -> Result<String, Error> {
    let queues = match call.door.broker.queues().await {
        Ok(queues) => queues,
        Err(error) => {
            tracing::warn!(%error, "metrics without queues");
            Vec::new()
        }
    };
    let metrics = call.door.broker.metrics();
    metrics.leads(call.door.leadership.term().map(|term| term.epoch));
    Ok(metrics.text(&queues))
}

pub(in crate::http) async fn decisions(call: Call, _: NoBody) -> Answered<DecisionsBody> {
    let (queue, limit) = (call.query.queue()?, call.query.limit()?);
    let decisions = call.door.broker.decisions(queue, limit).await?;
    ok(DecisionsBody { decisions: decisions.into_iter().map(Into::into).collect() })
}
