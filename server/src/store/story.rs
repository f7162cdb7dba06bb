//! The story of a job: everything that happened to it, in order.
//!
//! Most of it is derived from what is there anyway: the job, and its leases. What can not be
//! derived is a [`Note`]: what people did, what became ready by itself, and who came too late.

use std::time::Duration;

use super::{Attempt, Job};
use crate::job::{Ending, JobId, Lease, Reason, State, Timestamp, cut};
use crate::limits;

/// Something that happened to a job beside its leases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// When.
    pub at: Timestamp,
    /// What.
    pub kind: NoteKind,
    /// The lease that it is about; of a waiting job the coming one.
    pub delivery: u32,
    /// Who, in words. Empty: it is not known.
    pub who: String,
    /// More of it, as the kind says.
    pub detail: String,
}

/// What is noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoteKind {
    /// It waits for no other job any more.
    Unblocked,
    /// Its time came.
    Due,
    /// It was changed; what.
    Edited,
    /// It went to another queue; which.
    Moved,
    /// It was made ready before its time.
    Promoted,
    /// It had died before it was retried; why.
    Died,
    /// It was sent round again.
    Retried,
    /// Its end was asked for; when it is forced.
    CancelRequested,
    /// Somebody wanted to end a lease that was lost; how.
    Refused,
    /// It was copied; the number of the copy.
    Replayed,
    /// It was set aside while it waited.
    Discarded,
}

impl NoteKind {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Unblocked,
        Self::Due,
        Self::Edited,
        Self::Moved,
        Self::Promoted,
        Self::Died,
        Self::Retried,
        Self::CancelRequested,
        Self::Refused,
        Self::Replayed,
        Self::Discarded,
    ];

    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unblocked => "unblocked",
            Self::Due => "due",
            Self::Edited => "edited",
            Self::Moved => "moved",
            Self::Promoted => "promoted",
            Self::Died => "ended",
            Self::Retried => "retried",
            Self::CancelRequested => "cancel_requested",
            Self::Refused => "refused",
            Self::Replayed => "replayed",
            Self::Discarded => "discarded",
        }
    }

    /// The kind of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Where it stands among what happened at the same time around the same lease.
    const fn phase(self) -> Phase {
        match self {
            Self::Unblocked
            | Self::Due
            | Self::Edited
            | Self::Moved
            | Self::Promoted
            | Self::Retried => Phase::Before,
            Self::CancelRequested => Phase::During,
            Self::Died | Self::Discarded => Phase::After,
            Self::Refused | Self::Replayed => Phase::Later,
        }
    }
}

/// The end of a lost lease, as somebody wanted it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Which.
    pub lease: Lease,
    /// Who, in words.
    pub who: String,
    /// How: `ack`, `fail` or `release`.
    pub what: &'static str,
}

/// One thing that happened to a job.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// `pushed`, `leased`, `lease_ended`, `cancel_acknowledged`, `cancel_forced`, `ended`, or one
    /// of [`NoteKind::name`].
    pub kind: &'static str,
    /// The lease that it is about.
    pub delivery: Option<u32>,
    /// The attempt that the lease was.
    pub attempt: Option<u32>,
    /// The node of the lease.
    pub node: String,
    /// The worker of the lease, or who was refused.
    pub who: String,
    /// How a lease ended, or the job. Empty: nothing has.
    pub ending: String,
    /// The failure's word, or the reason of a death. Empty: there is none.
    pub code: String,
    /// For people. Empty: there is nothing more to say.
    pub message: String,
    /// How long a leased job had waited.
    pub waited: Option<Duration>,
    /// How long a lease that ended had run.
    pub ran: Option<Duration>,
    /// The other job of a replay.
    pub job: Option<JobId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Before,
    Start,
    During,
    End,
    After,
    Later,
}

/// Everything that happened to a job, oldest first. `attempts` and `notes` are the last of each.
pub fn story(job: &Job, attempts: &[Attempt], notes: &[Note]) -> Vec<Event> {
    let mut all: Vec<((Timestamp, u32, Phase), Event)> = Vec::new();
    let mut add = |delivery, phase, event: Event| all.push(((event.at, delivery, phase), event));
    let pushed =
        Event { at: job.created_at, kind: "pushed", job: job.replay_of, ..Event::default() };
    add(0, Phase::Before, pushed);
    for note in notes {
        add(note.delivery, note.kind.phase(), of_note(note));
    }
    for attempt in attempts {
        add(attempt.delivery, Phase::Start, leased(attempt));
        if let Some(ended_at) = attempt.ended_at {
            add(attempt.delivery, Phase::End, lease_ended(attempt, ended_at));
        }
    }
    if let Some(at) = job.finished_at {
        if let Some(kind) = answer_to_cancel(job, attempts, notes) {
            let delivery = Some(job.deliveries);
            add(job.deliveries, Phase::End, Event { at, kind, delivery, ..Event::default() });
        }
        let (ending, code) = (job.state.name().into(), job.reason.map(Reason::name));
        let code = code.unwrap_or_default().into();
        add(
            job.deliveries,
            Phase::After,
            Event { at, kind: "ended", ending, code, ..Event::default() },
        );
    }
    all.sort_by_key(|(place, _)| *place);
    let mut events: Vec<Event> = all.into_iter().map(|(_, event)| event).collect();
    add_waits(&mut events);
    events
}

fn of_note(note: &Note) -> Event {
    let event =
        Event { at: note.at, kind: note.kind.name(), who: note.who.clone(), ..Event::default() };
    let (delivery, message) = (Some(note.delivery), note.detail.clone());
    match note.kind {
        NoteKind::Died => {
            Event { ending: State::Dead.name().into(), code: note.detail.clone(), ..event }
        }
        NoteKind::Replayed => Event { job: note.detail.parse().ok().map(JobId), ..event },
        NoteKind::CancelRequested | NoteKind::Refused => Event { delivery, message, ..event },
        _ => Event { message, ..event },
    }
}

fn leased(attempt: &Attempt) -> Event {
    Event {
        at: attempt.started_at,
        kind: "leased",
        delivery: Some(attempt.delivery),
        attempt: Some(attempt.attempt),
        node: attempt.node.clone(),
        who: attempt.worker.as_str().into(),
        ..Event::default()
    }
}

fn lease_ended(attempt: &Attempt, at: Timestamp) -> Event {
    Event {
        at,
        kind: "lease_ended",
        ending: attempt.ending.clone(),
        code: attempt.code.clone(),
        message: cut(&attempt.message, limits::EVENT_MESSAGE_BYTES_MAX),
        ran: Some(at.since(attempt.started_at)),
        ..leased(attempt)
    }
}

/// What came of the wish to cancel the last lease of a job.
fn answer_to_cancel(job: &Job, attempts: &[Attempt], notes: &[Note]) -> Option<&'static str> {
    let is_asked = notes
        .iter()
        .any(|note| note.kind == NoteKind::CancelRequested && note.delivery == job.deliveries);
    let last = attempts.last().filter(|attempt| attempt.delivery == job.deliveries)?;
    let is_forced = last.ending == Ending::Cancelled.name();
    match (job.state, is_asked) {
        (State::Cancelled, true) if is_forced => Some("cancel_forced"),
        (State::Cancelled, true) => Some("cancel_acknowledged"),
        _ => None,
    }
}

/// How long each lease was waited for: since the job last became ready, as far as that is known.
fn add_waits(events: &mut [Event]) {
    let mut ready_since: Option<Timestamp> = None;
    let mut last_delivery = 0;
    for event in events {
        match event.kind {
            "leased" => {
                let delivery = event.delivery.unwrap_or(0);
                // What happened before has been forgotten otherwise.
                let is_next = delivery == last_delivery + 1;
                event.waited = ready_since.filter(|_| is_next).map(|since| event.at.since(since));
                last_delivery = delivery;
            }
            "pushed" | "unblocked" | "due" | "edited" | "moved" | "promoted" | "retried"
            | "lease_ended" => ready_since = Some(event.at),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_their_names_are_one_to_one() {
        for kind in NoteKind::ALL {
            assert_eq!(NoteKind::parse(kind.name()), Some(kind));
        }
        assert_eq!(NoteKind::parse("leased"), None);
    }
}
