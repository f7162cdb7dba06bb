//! Events as others see them.

use serde::Serialize;

use crate::store::EventKind;
use crate::store::events::Event;

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
        let (kind, detail) = (event.kind, event.detail);
        let word = |of: EventKind| detail.word.clone().filter(|_| kind == of);
        let is_progress = kind == EventKind::Progress;
        Self {
            id: event.id,
            kind: kind.name(),
            at: event.at.to_string(),
            queue: event.queue.as_str().into(),
            job: event.job.map(|job| job.0),
            delivery: detail.number.filter(|_| !is_progress),
            percent: detail.number.filter(|_| is_progress),
            worker: word(EventKind::Leased),
            code: word(EventKind::Failed),
            reason: word(EventKind::Dead),
            message: detail.message,
        }
    }
}
