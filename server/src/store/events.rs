//! What happens to jobs and queues, for those who listen.
//!
//! # Promises
//!
//! * **Nothing is recorded that nobody asked for.** An event is a row, and a row has its price; so
//!   events of a queue are recorded only while somebody [watches](super::Store::watch) it: a stream
//!   for some minutes at a time, a webhook as long as it is there. A job of any other queue pays
//!   nothing.
//! * **Nothing is skipped.** An event is recorded in the transaction that makes it true, so a crash
//!   loses neither or both. It has a number, and numbers are told in their order only:
//!   [`event_head`](super::Store::event_head) is a number below which nothing can appear any more.
//!   Whoever has read up to a number goes on from there, on any node.
//! * **What is missing is known.** A [`Watching`] says since when its queue has been watched without
//!   a gap, and what has been forgotten since: whoever comes with an earlier number has missed
//!   something and is told so.
//!
//! # Life of an event
//!
//! ```text
//!   recorded ──▶ below the head ──▶ read, by any number of listeners ──▶ forgotten
//!   (committed)  (all before it      (in order)                         (after EVENTS_KEPT, or
//!                 are, too)                                               EVENTS_MAX later ones, and
//!                                                                         no webhook needs it)
//! ```
//!
//! # Failures
//!
//! A node that dies takes no event with it. Streams that end come back within the time that their
//! watch has left; later, they are told that they have missed something. In a shared store the head
//! waits for the transactions that were recording when a number was given: one that pushes in SQL to
//! a watched queue and stays open makes later events late, never lost.
//!
//! Queues whose names begin with `batonq.` are ours; nothing of them is recorded, or the delivery
//! of an event would be one.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Partial, Progress};
use crate::job::{Ending, JobId, QueueName, Reason, State, Timestamp};
use crate::limits;

/// How long events are kept.
pub const EVENTS_KEPT: Duration = Duration::from_secs(3600);

/// How many of the latest events are kept.
pub const EVENTS_MAX: u64 = 500_000;

/// The number of an event. They rise in the order in which events are told, with gaps.
pub type EventId = u64;

/// Something that has happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its number.
    pub id: EventId,
    /// When.
    pub at: Timestamp,
    /// What.
    pub kind: EventKind,
    /// Where.
    pub queue: QueueName,
    /// To which job. `None`: to the queue itself.
    pub job: Option<JobId>,
    /// More about it.
    pub detail: Detail,
}

/// What there is to say of an event, by its kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detail {
    /// The delivery whose lease begins or ends; of progress: how far, 0 to 100; of a part of a
    /// result: its place.
    pub number: Option<u32>,
    /// Leased: the worker. Failed: the code. Dead: the reason.
    pub word: Option<String>,
    /// Failed, progress: for people. A part of a result: the part, as JSON on one line.
    pub message: Option<String>,
}

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A job is new, or a dead one goes round again.
    Pushed,
    /// A worker has it.
    Leased,
    /// Its worker says how far it is.
    Progress,
    /// Its worker hands out a part of the result. This event is all that is kept of it.
    Partial,
    /// It is done.
    Completed,
    /// An attempt ended badly.
    Failed,
    /// A worker has given it back unharmed.
    Released,
    /// It is dead.
    Dead,
    /// It was taken back.
    Cancelled,
    /// A queue gives nothing out.
    Paused,
    /// It does again.
    Resumed,
    /// A queue's settings have changed.
    Settings,
}

impl EventKind {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Pushed,
        Self::Leased,
        Self::Progress,
        Self::Partial,
        Self::Completed,
        Self::Failed,
        Self::Released,
        Self::Dead,
        Self::Cancelled,
        Self::Paused,
        Self::Resumed,
        Self::Settings,
    ];

    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pushed => "pushed",
            Self::Leased => "leased",
            Self::Progress => "progress",
            Self::Partial => "partial",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Released => "released",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
            Self::Paused => "paused",
            Self::Resumed => "resumed",
            Self::Settings => "settings",
        }
    }

    /// The kind of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The end of a lease that did not complete its job.
    pub(crate) const fn of_ending(ending: Ending) -> Self {
        match ending {
            Ending::Released | Ending::Snoozed(_) => Self::Released,
            _ => Self::Failed,
        }
    }

    /// The end of a job.
    pub(crate) const fn of_end(state: State) -> Self {
        match state {
            State::Completed => Self::Completed,
            State::Cancelled => Self::Cancelled,
            _ => Self::Dead,
        }
    }
}

/// Who watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Watcher<'a> {
    /// Streams, on whichever node: for a time.
    Streams,
    /// A webhook, as long as it is there.
    Webhook(&'a str),
}

impl Watcher<'_> {
    /// The word for it in the tables.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Streams => String::new(),
            Self::Webhook(name) => format!("webhook {name}"),
        }
    }
}

/// What somebody who watches a queue can rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watching {
    /// Every event of the queue with a higher number has been recorded and is still there.
    pub since: EventId,
    /// Every event from now on has a higher number.
    pub now: EventId,
}

/// Which events to read.
#[derive(Debug, Clone)]
pub struct EventsWanted {
    /// Of this queue; `None`: of all.
    pub queue: Option<QueueName>,
    /// With higher numbers than this.
    pub after: EventId,
    /// Up to this one, which must be no more than [`event_head`](super::Store::event_head) has
    /// said.
    pub upto: EventId,
    /// At most so many; fewer, if they are large.
    pub limit: usize,
}

/// Events by number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventPage {
    /// The events.
    pub events: Vec<Event>,
    /// As in [`Watching`]. If it is higher than the number asked for, something may be missing.
    pub since: EventId,
    /// All up to this number has been read: as far as was asked for, or up to the last event of a
    /// page that is full.
    pub upto: EventId,
}

impl EventPage {
    /// What was read, up to where the page is full: it has as many events as were asked for, or
    /// [`limits::EVENTS_PAGE_BYTES`] of messages.
    pub(crate) fn new(mut events: Vec<Event>, since: EventId, wanted: &EventsWanted) -> Self {
        let mut bytes = 0;
        let last = events.iter().position(|event| {
            bytes += event.detail.message.as_ref().map_or(0, String::len);
            bytes >= limits::EVENTS_PAGE_BYTES
        });
        events.truncate(last.map_or(wanted.limit, |last| last + 1));
        let is_full = last.is_some() || events.len() >= wanted.limit;
        let full_at = events.last().map(|event| event.id).filter(|_| is_full);
        Self { events, since, upto: full_at.unwrap_or(wanted.upto) }
    }
}

/// Whether events of a queue are never recorded.
pub(crate) fn is_internal(queue: &QueueName) -> bool {
    queue.as_str().starts_with(INTERNAL)
}

/// How the names of queues and the keys of values begin that are batonq's own.
pub const INTERNAL: &str = "batonq.";

impl Detail {
    /// Of the end of a lease without completion. Empty texts say nothing.
    pub(crate) fn of_failure(delivery: u32, code: &str, message: &str) -> Self {
        let said = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Self { number: Some(delivery), word: said(code), message: said(message) }
    }

    /// Of the end of a job, after so many deliveries.
    pub(crate) fn of_end(deliveries: u32, reason: Option<Reason>) -> Self {
        let word = reason.map(|reason| reason.name().to_owned());
        Self { number: Some(deliveries).filter(|count| *count > 0), word, message: None }
    }

    /// Of a worker's word.
    pub(crate) fn of_progress(progress: &Progress) -> Self {
        let message = Some(progress.message.clone()).filter(|message| !message.is_empty());
        Self { number: Some(progress.percent.into()), word: None, message }
    }

    /// Of a part of a result, on one line, as streams show it.
    pub(crate) fn of_partial(partial: &Partial) -> Self {
        let message = Some(String::from_utf8_lossy(&partial.data).replace(['\n', '\r'], " "));
        Self { number: partial.index, word: None, message }
    }
}
