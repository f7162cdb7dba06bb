//! Events as clients of flashQ see them.

use std::collections::HashMap;

use base64::Engine;
use bytes::Bytes;
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;

use crate::broker::Broker;
use crate::error::Error;
use crate::job::JobId;
use crate::limits;
use crate::store::events::{Event, is_internal};
use crate::store::{EventKind, Job};

/// Something that has happened to a job.
#[derive(Debug, Serialize)]
pub(crate) struct Shown {
    pub(super) event_type: &'static str,
    pub(super) queue: String,
    pub(super) job_id: u64,
    /// Milliseconds since 1970.
    pub(super) timestamp: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) data: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) progress: Option<u32>,
}

/// What they call it. `None`: they are not told of it.
pub(crate) fn kind_name(kind: EventKind) -> Option<&'static str> {
    match kind {
        EventKind::Pushed => Some("pushed"),
        EventKind::Completed => Some("completed"),
        EventKind::Dead => Some("failed"),
        EventKind::Partial => Some("partial"),
        EventKind::Progress => Some("progress"),
        _ => None,
    }
}

/// Events with the payloads, results and errors of their jobs, as far as these are still there.
/// Without those that they are not told of.
///
/// # Errors
///
/// Those of the store.
pub(crate) async fn shown(broker: &Broker, events: Vec<Event>) -> Result<Vec<Shown>, Error> {
    let mut all = Vec::with_capacity(events.len());
    for page in events.chunks(limits::PAGE_MAX) {
        let mut ids: Vec<JobId> = page.iter().filter_map(|event| event.job).collect();
        ids.sort_unstable();
        ids.dedup();
        let jobs = broker.jobs_by_id(ids).await?.into_iter().flatten();
        let jobs: HashMap<JobId, Job> = jobs.map(|job| (job.id, job)).collect();
        all.extend(page.iter().filter_map(|event| one(event, jobs.get(&event.job?))));
    }
    Ok(all)
}

fn one(event: &Event, job: Option<&Job>) -> Option<Shown> {
    let (event_type, job_id) = (kind_name(event.kind)?, event.job?.0);
    if is_internal(&event.queue) {
        return None;
    }
    let detail = &event.detail;
    let message = || detail.message.as_deref();
    let data = match event.kind {
        EventKind::Pushed => {
            job.and_then(|job| job.payload.as_ref()).and_then(|it| as_json(&it.bytes))
        }
        EventKind::Completed => job.and_then(|job| job.result.as_ref()).and_then(as_json),
        EventKind::Partial => message().and_then(|text| part(text, detail.number)),
        _ => None,
    };
    let error = job.and_then(|job| job.error.as_ref()).map(|(_, message)| message.clone());
    Some(Shown {
        event_type,
        queue: event.queue.as_str().into(),
        job_id,
        timestamp: event.at.0,
        data,
        error: error.filter(|_| event.kind == EventKind::Dead),
        progress: detail.number.filter(|_| event.kind == EventKind::Progress),
    })
}

fn part(chunk: &str, index: Option<u32>) -> Option<Box<RawValue>> {
    let index = index.map(|index| format!(",\"index\":{index}")).unwrap_or_default();
    RawValue::from_string(format!("{{\"chunk\":{chunk}{index}}}")).ok()
}

/// JSON as it is, on one line; other text as text, other bytes in base64.
fn as_json(bytes: &Bytes) -> Option<Box<RawValue>> {
    let text = match str::from_utf8(bytes) {
        Ok(text) => text.replace(['\n', '\r'], " "),
        Err(_) => base64::engine::general_purpose::STANDARD.encode(bytes),
    };
    RawValue::from_string(text.clone()).or_else(|_| to_raw(&text)).ok()
}

fn to_raw(text: &str) -> serde_json::Result<Box<RawValue>> {
    RawValue::from_string(json!(text).to_string())
}
