//! What happens, for those who listen.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::Model;
use crate::job::{JobId, QueueName, Timestamp};
use crate::store::events::{EVENTS_KEPT, EVENTS_MAX, Event, Watcher, is_internal};
use crate::store::{Detail, EventId, EventKind, EventPage, EventsWanted, Watching};

/// Whose events are recorded, and those that are.
#[derive(Default)]
pub(super) struct Telling {
    /// By owner and queue (empty: all queues): since which number, and until when.
    watches: BTreeMap<(String, String), (EventId, Option<Timestamp>)>,
    events: VecDeque<Event>,
    /// The highest number that was given.
    pub(super) last: EventId,
}

impl Model {
    /// Something has happened to a job.
    pub(super) fn tell(&mut self, kind: EventKind, job: JobId, detail: Detail) {
        let queue = self.record(job).job.queue.clone();
        self.record_event(kind, &queue, Some(job), detail);
    }

    /// Something has happened to a queue.
    pub(super) fn tell_queue(&mut self, kind: EventKind, queue: &QueueName) {
        self.record_event(kind, queue, None, Detail::default());
    }

    fn record_event(
        &mut self,
        kind: EventKind,
        queue: &QueueName,
        job: Option<JobId>,
        detail: Detail,
    ) {
        let telling = &mut self.telling;
        let watched = telling.watches.keys().any(|(_, it)| it.is_empty() || it == queue.as_str());
        if !watched || is_internal(queue) {
            return;
        }
        telling.last += 1;
        let (id, at, queue) = (telling.last, self.now, queue.clone());
        telling.events.push_back(Event { id, at, kind, queue, job, detail });
    }

    pub(super) fn watch(&mut self, queue: Option<&QueueName>, hold: Duration) -> Watching {
        self.watch_as(Watcher::Streams, queue, Some(self.now + hold))
    }

    pub(super) fn watch_as(
        &mut self,
        watcher: Watcher<'_>,
        queue: Option<&QueueName>,
        until: Option<Timestamp>,
    ) -> Watching {
        let telling = &mut self.telling;
        // No number that anybody has seen: what happened before this watch may not be recorded.
        telling.last += 1;
        let name = queue.map_or("", |queue| queue.as_str());
        let new = (telling.last, until);
        let (_, known) = telling.watches.entry((watcher.name(), name.into())).or_insert(new);
        *known = (*known).max(until);
        Watching { since: self.since(queue), now: self.telling.last }
    }

    fn since(&self, queue: Option<&QueueName>) -> EventId {
        let name = queue.map_or("", |queue| queue.as_str());
        let covers = |watched: &str| watched.is_empty() || watched == name;
        let covering = self.telling.watches.iter().filter(|((_, watched), _)| covers(watched));
        covering.map(|(_, (since, _))| *since).min().unwrap_or(EventId::MAX)
    }

    pub(super) fn events(&self, wanted: &EventsWanted) -> EventPage {
        let is_wanted = |event: &&Event| {
            (wanted.after + 1..=wanted.upto).contains(&event.id)
                && wanted.queue.as_ref().is_none_or(|queue| event.queue == *queue)
        };
        let events = self.telling.events.iter().filter(is_wanted).take(wanted.limit);
        EventPage::new(events.cloned().collect(), self.since(wanted.queue.as_ref()), wanted)
    }

    /// Watches no more.
    pub(super) fn unwatch(&mut self, watcher: Watcher<'_>) {
        let name = watcher.name();
        self.telling.watches.retain(|(owner, _), _| *owner != name);
    }

    /// Forgets old events, and watches that are over.
    pub(super) fn forget_events(&mut self) {
        let now = self.now;
        let needed = self.webhooks.values().map(|webhook| webhook.seen + 1).min();
        let telling = &mut self.telling;
        telling.watches.retain(|_, (_, until)| until.is_none_or(|until| until > now));
        let too_many = telling.last.saturating_sub(EVENTS_MAX);
        while let Some(event) = telling.events.front()
            && (event.at + EVENTS_KEPT <= now || event.id <= too_many)
            && needed.is_none_or(|needed| event.id < needed)
        {
            let gone = event.id;
            telling.events.pop_front();
            telling.watches.values_mut().for_each(|(since, _)| *since = (*since).max(gone));
        }
    }
}
