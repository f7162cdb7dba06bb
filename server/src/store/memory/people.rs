//! Looking, and what people change.

use std::time::Duration;

use super::{HeldKey, Model, Place, Record};
use crate::job::{JobId, Lease, Payload, QueueName, Reason, State, Timestamp, UniqueHold};
use crate::limits;
use crate::store::{
    Attempt, Cancelled, Changed, Destination, Detail, Discarded, Edit, Effect, EventKind, Job,
    JobFilter, JobPage, KeyKind, Note, NoteKind, Paused, Pushed, Queue,
};

impl Model {
    pub(super) fn list(&self, filter: &JobFilter) -> JobPage {
        let matches = |record: &&Record| {
            let job = &record.job;
            filter.queue.as_ref().is_none_or(|queue| job.queue == *queue)
                && filter.state.is_none_or(|state| record.state() == state)
                && filter.tag.as_ref().is_none_or(|tag| job.tags.contains(tag))
                && filter.reason.is_none_or(|reason| job.reason == Some(reason))
                && filter.content_type.as_deref().is_none_or(|wanted| {
                    let payload = job.payload.as_ref();
                    let found = payload.and_then(|payload| payload.content_type.as_deref());
                    found.unwrap_or(Payload::JSON) == wanted
                })
                && filter.created_from.is_none_or(|from| job.created_at >= from)
                && filter.created_to.is_none_or(|to| job.created_at < to)
                && filter.is_replayed.is_none_or(|is| job.replayed_as.is_some() == is)
                && filter.is_live.is_none_or(|is| record.is_live() == is)
                && filter.cursor.is_none_or(|cursor| match filter.oldest_first {
                    true => job.id > cursor,
                    false => job.id < cursor,
                })
        };
        let mut found: Vec<&Record> = self.jobs.values().filter(matches).collect();
        if !filter.oldest_first {
            found.reverse();
        }
        let mut found = found.into_iter().map(Record::listed);
        let jobs: Vec<Job> = found.by_ref().take(filter.limit).collect();
        let next = found.next().and_then(|_| jobs.last().map(|job| job.id));
        JobPage { jobs, next }
    }

    pub(super) fn timeline(&self, id: JobId) -> Option<(Job, Vec<Attempt>)> {
        let record = self.jobs.get(&id)?;
        let skipped = record.attempts.len().saturating_sub(limits::TIMELINE_MAX);
        Some((record.shown(), record.attempts[skipped..].to_vec()))
    }

    pub(super) fn queues(&self, only: Option<&QueueName>) -> Vec<Queue> {
        let wanted = self.queues.iter().filter(|(name, _)| only.is_none_or(|only| only == *name));
        let shown = |(name, paused): (&QueueName, &Option<Paused>)| Queue {
            name: name.clone(),
            paused_at: paused.as_ref().map(|paused| paused.since),
            settings: self.settings.get(name).cloned().unwrap_or_default(),
            counts: self.counts(name),
            oldest_ready: self.oldest_ready(name),
        };
        wanted.map(shown).collect()
    }

    /// Looks at the first job of each gate and priority.
    fn oldest_ready(&self, queue: &QueueName) -> Option<std::time::Duration> {
        let mut seen = std::collections::BTreeSet::new();
        let first = self.line(queue).into_iter().filter_map(|id| self.jobs.get(&id));
        let first = first
            .filter(|record| seen.insert((record.job.options.flow.gate(), record.job.priority)));
        let since = first.filter_map(|record| match record.place {
            Place::Ready(_, since) => Some(since),
            _ => None,
        });
        since.min().map(|since| self.now.since(since))
    }

    pub(super) fn retry(&mut self, id: JobId) -> Changed {
        let Some(record) = self.jobs.get(&id) else { return Changed::NotFound };
        if record.state() != State::Dead {
            return Changed::WrongState(record.state());
        }
        let is_unique = record.job.options.hold == UniqueHold::Live;
        let unique = record.job.unique.clone().filter(|_| is_unique);
        let queue = record.job.queue.clone();
        let custom_id = record.job.options.custom_id.clone();
        let holder = self.custom_id_holder(custom_id.as_ref());
        if let Some(holder) = holder.or_else(|| self.holder(&queue, unique.as_ref())) {
            return Changed::Duplicate(holder);
        }
        self.custom_ids.extend(custom_id.map(|custom_id| (custom_id, id)));
        if let Some(key) = unique {
            let held = HeldKey { job: id, until: None };
            self.keys.insert((queue, KeyKind::Live, key), held);
        }
        let job = &mut self.record(id).job;
        let died = (job.finished_at, job.reason);
        job.attempts = 0;
        job.crashes = 0;
        job.expires_at = None;
        job.finished_at = None;
        job.reason = None;
        self.tell(EventKind::Pushed, id, Detail::default());
        self.note_death(id, died);
        let effect = self.make_ready(id);
        self.note(id, NoteKind::Retried, "");
        Changed::Done(effect)
    }

    /// That a job died, since it is about to live again.
    fn note_death(&mut self, id: JobId, (at, reason): (Option<Timestamp>, Option<Reason>)) {
        let record = self.record(id);
        let detail = reason.map(Reason::name).unwrap_or_default().into();
        let (delivery, who) = (record.job.deliveries, String::new());
        let at = at.unwrap_or_default();
        record.keep(Note { at, kind: NoteKind::Died, delivery, who, detail });
    }

    pub(super) fn replay(&mut self, original: JobId, edit: Edit) -> Changed {
        let Some(record) = self.jobs.get(&original) else { return Changed::NotFound };
        if record.is_live() {
            return Changed::WrongState(record.state());
        }
        let Some(copy) = record.job.clone().copy(edit) else { return Changed::Dropped };
        let queue = copy.queue.clone();
        self.queues.entry(queue.clone()).or_default();
        match self.push(&copy) {
            Pushed::Duplicate { id, .. } => Changed::Duplicate(id),
            Pushed::Replaced { .. } | Pushed::Refused(_) => Changed::NotFound,
            Pushed::Inserted { id, run_at, .. } => {
                self.record(original).job.replayed_as = Some(id);
                self.note(original, NoteKind::Replayed, id.to_string());
                let to = run_at.map_or(Destination::Ready, Destination::Scheduled);
                Changed::Done(Effect { job: id, queue, to })
            }
        }
    }

    pub(super) fn delete(&mut self, id: JobId) -> Changed {
        let Some(record) = self.jobs.get(&id) else { return Changed::NotFound };
        let (state, queue) = (record.state(), record.job.queue.clone());
        if record.is_live() {
            return Changed::WrongState(state);
        }
        self.jobs.remove(&id);
        Changed::Done(Effect { job: id, queue, to: Destination::Finished(state) })
    }

    pub(super) fn cancel(&mut self, id: JobId, grace: Duration) -> Cancelled {
        match self.jobs.get(&id).map(Record::state) {
            None => Cancelled::NotFound,
            Some(State::Blocked | State::Scheduled | State::Ready) => {
                let mut effects = vec![self.finish(id, State::Cancelled, None)];
                effects.extend(self.release_dependents());
                Cancelled::Done(effects)
            }
            Some(State::Leased) => self.ask_to_cancel(id, grace),
            Some(state) => Cancelled::WrongState(state),
        }
    }

    fn ask_to_cancel(&mut self, id: JobId, grace: Duration) -> Cancelled {
        let now = self.now;
        let record = self.record(id);
        let (since, planned) = record.job.cancel.unwrap_or((now, now + grace));
        let force_at = planned.min(now + grace);
        record.job.cancel = Some((since, force_at));
        let asked = (NoteKind::CancelRequested, format!("forced at {}", now + grace));
        let session = record.holding().and_then(|holding| holding.session);
        let lease = Lease { job: id, delivery: record.job.deliveries };
        self.note(id, asked.0, asked.1);
        Cancelled::Requested { lease, session, force_at }
    }

    pub(super) fn discard(&mut self, id: JobId) -> Discarded {
        match self.jobs.get(&id).map(Record::state) {
            None => Discarded::NotFound,
            Some(State::Blocked | State::Scheduled | State::Ready) => {
                let effect = self.finish(id, State::Dead, Some(Reason::Rejected));
                self.note(id, NoteKind::Discarded, "");
                Discarded::Done(effect, self.release_dependents())
            }
            Some(state) => Discarded::WrongState(state),
        }
    }

    pub(super) fn edit(&mut self, id: JobId, edit: Edit) -> Changed {
        match self.jobs.get(&id).map(Record::state) {
            None => return Changed::NotFound,
            Some(State::Blocked | State::Scheduled | State::Ready) => {}
            Some(state) => return Changed::WrongState(state),
        }
        let job = &self.record(id).job;
        if let Some((queue, payload)) = &edit.was
            && (job.queue != *queue || job.payload.as_ref() != Some(payload))
        {
            return Changed::Outdated;
        }
        if let Some(queue) = edit.queue.clone()
            && let Err(holder) = self.move_to(id, queue)
        {
            return Changed::Duplicate(holder);
        }
        let words = edit.words();
        self.apply(id, edit);
        if let Some(words) = words {
            self.note(id, NoteKind::Edited, words);
        }
        let record = self.record(id);
        let to = match record.place {
            Place::Ready(..) => Destination::Ready,
            Place::Scheduled(at) => Destination::Scheduled(at),
            _ => Destination::Blocked,
        };
        let queue = record.job.queue.clone();
        Changed::Done(Effect { job: id, queue, to })
    }

    /// Moves a job with the key that it has as long as it lives. Its other keys stay behind.
    fn move_to(&mut self, id: JobId, queue: QueueName) -> Result<(), JobId> {
        let record = self.record(id);
        if record.job.queue == queue {
            return Ok(());
        }
        let is_unique = record.job.options.hold == UniqueHold::Live;
        let key = record.job.unique.clone().filter(|_| is_unique);
        if let Some(holder) = self.holder(&queue, key.as_ref()) {
            return Err(holder);
        }
        self.queues.entry(queue.clone()).or_default();
        self.keys.retain(|(_, kind, _), held| held.job != id || !kind.ends_with_job());
        if let Some(key) = key {
            let held = HeldKey { job: id, until: None };
            self.keys.insert((queue.clone(), KeyKind::Live, key), held);
        }
        let is_ready = matches!(self.record(id).place, Place::Ready(..));
        let place = is_ready.then(|| self.next_number());
        let now = self.now;
        let record = self.record(id);
        let detail = format!("from {} to {queue}", record.job.queue);
        record.job.queue = queue;
        if let Some(number) = place {
            record.place = Place::Ready(number, now);
        }
        self.note(id, NoteKind::Moved, detail);
        Ok(())
    }

    /// What an edit says of a job by itself.
    pub(super) fn apply(&mut self, id: JobId, edit: Edit) {
        let (now, run_at) = (self.now, edit.when.map(|when| self.run_at(when)));
        let record = self.record(id);
        if let Place::Ready(_, since) = &mut record.place {
            *since = now;
        }
        if let Some(payload) = edit.payload {
            record.job.payload = Some(payload);
        }
        if let Some(priority) = edit.priority {
            record.job.priority = priority;
        }
        let Some(run_at) = run_at else { return };
        record.job.run_at = run_at;
        match (&record.place, run_at) {
            (Place::Scheduled(_) | Place::Ready(..), Some(at)) => {
                record.place = Place::Scheduled(at);
            }
            (Place::Scheduled(_), None) => drop(self.make_ready(id)),
            _ => {}
        }
    }

    pub(super) fn promote(&mut self, id: JobId) -> Changed {
        match self.jobs.get(&id).map(Record::state) {
            None => Changed::NotFound,
            Some(State::Scheduled) => {
                self.note(id, NoteKind::Promoted, "");
                Changed::Done(self.make_ready(id))
            }
            Some(state) => Changed::WrongState(state),
        }
    }
}
