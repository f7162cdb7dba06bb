//! Events as others see them.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::store::events::Event;
use crate::store::{Detail, EventKind};

/// Something that has happened.
#[derive(Debug, Serialize)]
pub struct ShownEvent {
    /// Its number.
    id: u64,
    /// What.
    kind: &'static str,
    /// When.
    at: String,
    /// Where.
    queue: String,
    /// To which job.
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<u64>,
    /// Of the lease that begins or ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    delivery: Option<u32>,
    /// Of progress: how far.
    #[serde(skip_serializing_if = "Option::is_none")]
    percent: Option<u32>,
    /// Of a part of a result: its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u32>,
    /// The part.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Box<RawValue>>,
    /// Who has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<String>,
    /// Why the attempt failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// Why it is dead.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl From<Event> for ShownEvent {
    fn from(event: Event) -> Self {
        let (kind, Detail { number, word, message }) = (event.kind, event.detail);
        let word = |of: EventKind| word.clone().filter(|_| kind == of);
        let (data, message) = match (kind, message) {
            (EventKind::Partial, Some(data)) => (RawValue::from_string(data).ok(), None),
            (_, message) => (None, message),
        };
        Self {
            id: event.id,
            kind: kind.name(),
            at: event.at.to_string(),
            queue: event.queue.as_str().into(),
            job: event.job.map(|job| job.0),
            delivery: number.filter(|_| !matches!(kind, EventKind::Progress | EventKind::Partial)),
            percent: number.filter(|_| kind == EventKind::Progress),
            index: number.filter(|_| kind == EventKind::Partial),
            data,
            worker: word(EventKind::Leased),
            code: word(EventKind::Failed),
            reason: word(EventKind::Dead),
            message,
        }
    }
}
