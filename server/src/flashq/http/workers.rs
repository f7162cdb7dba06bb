//! Workers that say that they are there. What they say is kept for half a minute, for all nodes.

use serde_json::Value;

use super::super::job::{at, object};
use super::super::{Answer, Fields, Refused, fields};
use super::route::{Call, with_data};
use crate::broker::WorkerNote;
use crate::door::Door;

pub(super) async fn heartbeat(call: Call<'_>) -> Answer {
    let queues = fields::opt_texts(&call.fields, "queues")?.unwrap_or_default();
    let concurrency = fields::opt_number(&call.fields, "concurrency")?.unwrap_or(0);
    let wide = |_| Refused::invalid(format_args!("concurrency: `{concurrency}` is no u32"));
    let note = WorkerNote {
        id: call.named("id").to_owned(),
        queues: queues.into_iter().map(fields::parse_queue).collect::<Result<_, _>>()?,
        concurrency: u32::try_from(concurrency).map_err(wide)?,
        jobs_processed: fields::opt_number(&call.fields, "jobs_processed")?.unwrap_or(0),
        at: call.front.door().broker.ago(0),
    };
    call.front.door().broker.note_worker(note).await?;
    Ok(Fields::new())
}

pub(super) async fn serve(call: Call<'_>) -> Answer {
    Ok(with_data(list(call.front.door()).await?, Fields::new()))
}

/// The workers, by their ids.
///
/// # Errors
///
/// Those of the broker.
pub(super) async fn list(door: &Door) -> Result<Value, Refused> {
    let workers = door.broker.noted_workers().await?;
    Ok(workers.iter().map(shown).collect())
}

fn shown(worker: &WorkerNote) -> Value {
    Value::Object(object([
        ("id", worker.id.as_str().into()),
        ("queues", worker.queues.iter().map(|queue| queue.as_str()).collect()),
        ("concurrency", worker.concurrency.into()),
        ("last_heartbeat", at(worker.at).into()),
        ("jobs_processed", worker.jobs_processed.into()),
    ]))
}
