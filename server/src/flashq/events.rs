//! Events as clients of flashQ see them.
//!
//! What is recorded of an event says little; payloads, results and errors are looked up when it is
//! shown. What is gone by then, or can not be read here, is left out: that something has happened is
//! told all the same.
//!
//! `feed.rs` has them as they happen.

use std::collections::{BTreeSet, HashMap};

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};

use super::job::object;
use super::look::is_public;
use super::{Fields, Refused, fields, frame};
use crate::broker::Broker;
use crate::error::Error;
use crate::job::{Ending, JobId, QueueName, Reason};
use crate::store::events::Event;
use crate::store::{Detail, EventId, EventKind, Job, verdict_of};

/// Events that are looked up and shown at once: each may have a payload or a result.
pub(super) const AT_ONCE: usize = 16;

/// The kinds that are shown, and what they are called. Of attempts that failed those are shown that
/// took too long.
const SHOWN: [(EventKind, &str); 6] = [
    (EventKind::Pushed, "pushed"),
    (EventKind::Completed, "completed"),
    (EventKind::Dead, "failed"),
    (EventKind::Progress, "progress"),
    (EventKind::Partial, "partial"),
    (EventKind::Failed, "timeout"),
];

/// What events of this kind are called; `None`: they are not shown.
pub(crate) fn kind_name(kind: EventKind) -> Option<&'static str> {
    SHOWN.iter().find(|(shown, _)| *shown == kind).map(|(_, name)| *name)
}

/// All kinds that are shown.
pub(super) fn kinds() -> Vec<EventKind> {
    SHOWN.map(|(kind, _)| kind).to_vec()
}

/// The kinds of these names; `*` is all that are shown.
///
/// # Errors
///
/// If there is no such name.
pub(super) fn kinds_of(names: &[&str]) -> Result<Vec<EventKind>, Refused> {
    if names.contains(&"*") {
        return Ok(kinds());
    }
    let kind_of = |name: &&str| {
        let found = SHOWN.iter().find(|(_, known)| known == name);
        found.map(|(kind, _)| *kind).ok_or_else(|| {
            let names = SHOWN.map(|(_, name)| name).join(", ");
            Refused::invalid(format_args!("events: must be among {names}, or *"))
        })
    };
    names.iter().map(kind_of).collect()
}

/// Something that has happened.
#[derive(Debug, Serialize)]
pub(crate) struct Shown {
    /// Its number.
    #[serde(skip)]
    pub(crate) id: EventId,
    /// What.
    pub(crate) event_type: &'static str,
    /// Where.
    pub(crate) queue: String,
    /// To which job.
    pub(crate) job_id: u64,
    /// When, in milliseconds since 1970.
    pub(crate) timestamp: i64,
    /// Pushed: the payload. Completed: the result. Partial: the part, and its place. On one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) data: Option<Box<RawValue>>,
    /// Failed: why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// Progress: in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) progress: Option<u32>,
}

impl Shown {
    /// The same as fields of an answer.
    pub(super) fn into_fields(self) -> Fields {
        let mut shown = object([
            ("event_type", self.event_type.into()),
            ("queue", self.queue.into()),
            ("job_id", self.job_id.into()),
            ("timestamp", self.timestamp.into()),
        ]);
        let data = self.data.map(|data| fields::carrier(data.get().to_owned()));
        let more = [
            ("data", data),
            ("error", self.error.map(Value::from)),
            ("progress", self.progress.map(Value::from)),
        ];
        let more = more.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        shown.extend(more);
        shown
    }
}

/// Shows events. Kinds that are not shown, and queues that are batonq's own, are left out.
///
/// # Errors
///
/// Those of the store.
pub(crate) async fn shown(broker: &Broker, events: Vec<Event>) -> Result<Vec<Shown>, Error> {
    let events: Vec<Event> = events.into_iter().filter(is_shown).collect();
    let mut shown = Vec::with_capacity(events.len());
    for part in events.chunks(AT_ONCE) {
        let jobs = jobs_of(broker, part).await?;
        shown.extend(part.iter().filter_map(|event| show(event, &jobs)));
    }
    Ok(shown)
}

fn is_shown(event: &Event) -> bool {
    let is_ours = !is_public(&event.queue);
    let took_too_long = || event.detail.word.as_deref() == Some(verdict_of(Ending::TimedOut).0);
    !is_ours && (event.kind != EventKind::Failed || took_too_long())
}

/// The jobs that have what these events do not say.
async fn jobs_of(broker: &Broker, events: &[Event]) -> Result<HashMap<JobId, Job>, Error> {
    let has_more =
        |kind| matches!(kind, EventKind::Pushed | EventKind::Completed | EventKind::Dead);
    let ids = events.iter().filter(|event| has_more(event.kind)).filter_map(|event| event.job);
    let ids: BTreeSet<JobId> = ids.collect();
    let mut jobs = HashMap::new();
    let found = match broker.jobs_by_id(ids.iter().copied().collect()).await {
        Ok(found) => found,
        // One that can not be read must not keep the others from being shown.
        Err(_) => one_by_one(broker, &ids).await?,
    };
    jobs.extend(found.into_iter().flatten().map(|job| (job.id, job)));
    Ok(jobs)
}

async fn one_by_one(broker: &Broker, ids: &BTreeSet<JobId>) -> Result<Vec<Option<Job>>, Error> {
    let mut jobs = Vec::new();
    for id in ids {
        match broker.job(*id).await {
            Ok(job) => jobs.push(Some(job)),
            Err(Error::NotFound(_)) => {}
            Err(error) => {
                // Leases are never sealed: if they can be read, it is not the store that fails.
                broker.leases_of(vec![*id]).await?;
                tracing::debug!(job = id.0, %error, "left out of an event");
            }
        }
    }
    Ok(jobs)
}

fn show(event: &Event, jobs: &HashMap<JobId, Job>) -> Option<Shown> {
    let id = event.job?;
    let job = jobs.get(&id);
    let data = match event.kind {
        EventKind::Pushed => {
            job.and_then(|job| job.payload.as_ref()).map(|it| fields::shown(&it.bytes))
        }
        EventKind::Completed => job.and_then(|job| job.result.as_ref()).map(|it| fields::shown(it)),
        EventKind::Partial => Some(part(&event.detail)),
        _ => None,
    };
    Some(Shown {
        id: event.id,
        event_type: kind_name(event.kind)?,
        queue: event.queue.as_str().into(),
        job_id: id.0,
        timestamp: event.at.0,
        data: data.and_then(|data| to_raw_value(&frame::Shown(&data)).ok()),
        error: match event.kind {
            EventKind::Dead => why_dead(&event.detail, job.and_then(|job| job.error.as_ref())),
            EventKind::Failed => event.detail.message.clone(),
            _ => None,
        },
        progress: event.detail.number.filter(|_| event.kind == EventKind::Progress),
    })
}

/// What the last attempt said, if the job died of it; else the reason.
fn why_dead(detail: &Detail, error: Option<&(String, String)>) -> Option<String> {
    let reason = detail.word.as_deref();
    let others = [Reason::Expired, Reason::DependencyFailed].map(|reason| Some(reason.name()));
    let error = error.filter(|_| !others.contains(&reason));
    let said = error.into_iter().flat_map(|(code, message)| [message.as_str(), code.as_str()]);
    said.chain(reason).find(|text| !text.is_empty()).map(Into::into)
}

/// A part of a result, with its place if it has one.
fn part(detail: &Detail) -> Value {
    let chunk = fields::shown(detail.message.as_deref().unwrap_or("null").as_bytes());
    let mut part = Map::from_iter([("chunk".to_owned(), chunk)]);
    part.extend(detail.number.map(|index| ("index".to_owned(), index.into())));
    Value::Object(part)
}

/// Which events are wanted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    /// Of this queue.
    pub(crate) queue: Option<QueueName>,
    /// Of this job.
    pub(crate) job: Option<JobId>,
    /// Of these kinds; empty: of all that are shown.
    pub(crate) kinds: Vec<EventKind>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Timestamp;

    fn event(kind: EventKind, detail: Detail) -> Event {
        let queue = QueueName::parse("q").unwrap();
        Event { id: 5, at: Timestamp(1234), kind, queue, job: Some(JobId(7)), detail }
    }

    fn json(event: &Event) -> Value {
        serde_json::to_value(show(event, &HashMap::new()).unwrap()).unwrap()
    }

    #[test]
    fn kinds_have_the_names_that_clients_know() {
        for (kind, name) in [
            (EventKind::Pushed, Some("pushed")),
            (EventKind::Completed, Some("completed")),
            (EventKind::Dead, Some("failed")),
            (EventKind::Failed, Some("timeout")),
            (EventKind::Leased, None),
            (EventKind::Released, None),
            (EventKind::Cancelled, None),
            (EventKind::Paused, None),
        ] {
            assert_eq!(kind_name(kind), name, "{kind:?}");
        }
    }

    #[test]
    fn kinds_are_asked_for_by_these_names() {
        assert_eq!(kinds_of(&["failed", "pushed"]), Ok(vec![EventKind::Dead, EventKind::Pushed]));
        assert_eq!(kinds_of(&["pushed", "*"]).unwrap().len(), SHOWN.len());
        assert_eq!(kinds_of(&[]), Ok(Vec::new()));
        let refused = kinds_of(&["pushed", "dead"]).unwrap_err().0;
        assert!(refused.starts_with("Invalid: events: must be among pushed, "), "{refused}");
    }

    #[test]
    fn an_event_has_only_what_there_is_to_say_of_it() {
        let wanted = serde_json::json!(
            {"event_type": "pushed", "queue": "q", "job_id": 7, "timestamp": 1234}
        );
        assert_eq!(json(&event(EventKind::Pushed, Detail::default())), wanted);

        let progress = Detail { number: Some(40), message: Some("half".into()), word: None };
        assert_eq!(json(&event(EventKind::Progress, progress))["progress"], 40);

        let timeout = Detail { message: Some("too long".into()), ..Detail::default() };
        assert_eq!(json(&event(EventKind::Failed, timeout))["error"], "too long");
    }

    #[test]
    fn a_job_is_dead_for_what_its_last_attempt_said_or_for_what_came_instead() {
        let failed = |message: &str| Some(("CODE".to_owned(), message.to_owned()));
        for (reason, error, expected) in [
            (Reason::MaxAttemptsExceeded, failed("boom"), "boom"),
            (Reason::MaxAttemptsExceeded, failed(""), "CODE"),
            (Reason::Rejected, None, "REJECTED"),
            (Reason::Expired, failed("boom"), "EXPIRED"),
            (Reason::DependencyFailed, failed("boom"), "DEPENDENCY_FAILED"),
        ] {
            let detail = Detail { word: Some(reason.name().into()), ..Detail::default() };
            assert_eq!(why_dead(&detail, error.as_ref()).as_deref(), Some(expected), "{reason:?}");
            assert_eq!(why_dead(&detail, None).as_deref(), Some(reason.name()));
        }
    }

    #[test]
    fn a_part_of_a_result_stands_beside_its_place() {
        let part = Detail { number: Some(2), message: Some("{\"a\": 1.10}".into()), word: None };
        let shown = show(&event(EventKind::Partial, part), &HashMap::new()).unwrap();
        assert_eq!(shown.data.unwrap().get(), r#"{"chunk":{"a": 1.10},"index":2}"#);

        let plain = Detail { message: Some("\"x\"".into()), ..Detail::default() };
        let shown = show(&event(EventKind::Partial, plain), &HashMap::new()).unwrap();
        assert_eq!(shown.data.unwrap().get(), r#"{"chunk":"x"}"#);
    }

    #[test]
    fn of_failed_attempts_those_are_shown_that_took_too_long() {
        let failed = |code: &str| Detail { word: Some(code.into()), ..Detail::default() };
        assert!(is_shown(&event(EventKind::Failed, failed("TIMEOUT"))));
        assert!(!is_shown(&event(EventKind::Failed, failed("CRASH"))));
        assert!(is_shown(&event(EventKind::Dead, failed("rejected"))));
        let queue = QueueName::parse("batonq.webhooks").unwrap();
        assert!(!is_shown(&Event { queue, ..event(EventKind::Pushed, Detail::default()) }));
    }

    #[test]
    fn an_event_of_a_connection_has_the_same_fields() {
        let part = Detail { number: Some(2), message: Some("[1,\n2]".into()), word: None };
        let event = event(EventKind::Partial, part);
        let of_stream = json(&event);
        let of_connection = show(&event, &HashMap::new()).unwrap().into_fields();
        let of_connection =
            serde_json::to_string(&frame::Shown(&Value::Object(of_connection))).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&of_connection).unwrap(), of_stream);
        assert!(!of_connection.contains('\n'));
    }
}
