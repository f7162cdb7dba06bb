//! Looking, and what people change.

use super::{Model, Place, Record};
use crate::job::{JobId, QueueName, State};
use crate::limits;
use crate::store::{Attempt, Changed, DeadFilter, Effect, Job, JobFilter, JobPage, Pushed, Queue};

impl Model {
    pub(super) fn list(&self, filter: &JobFilter) -> JobPage {
        let matches = |record: &&Record| {
            let job = &record.job;
            filter.queue.as_ref().is_none_or(|queue| job.queue == *queue)
                && filter.state.is_none_or(|state| record.state() == state)
                && filter.tag.as_ref().is_none_or(|tag| job.tags.contains(tag))
                && filter.reason.is_none_or(|reason| job.reason == Some(reason))
                && filter.before.is_none_or(|before| job.id < before)
        };
        let mut found = self.jobs.values().rev().filter(matches).map(Record::listed);
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
        let shown = |(name, paused_at): (&QueueName, &Option<_>)| Queue {
            name: name.clone(),
            paused_at: *paused_at,
            counts: self.counts(name),
            oldest_ready: self.oldest_ready(name),
        };
        wanted.map(shown).collect()
    }

    /// Looks at the first job of each priority.
    fn oldest_ready(&self, queue: &QueueName) -> Option<std::time::Duration> {
        let mut priorities = std::collections::BTreeSet::new();
        let first = self.line(queue).into_iter().filter_map(|id| self.jobs.get(&id));
        let first = first.filter(|record| priorities.insert(record.job.priority));
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
        let (queue, unique) = (record.job.queue.clone(), record.job.unique.clone());
        if let Some(holder) = self.holder(&queue, unique.as_ref()) {
            return Changed::Duplicate(holder);
        }
        let job = &mut self.record(id).job;
        job.attempts = 0;
        job.crashes = 0;
        job.expires_at = None;
        job.finished_at = None;
        job.reason = None;
        Changed::Done(self.make_ready(id))
    }

    pub(super) fn replay(&mut self, original: JobId) -> Changed {
        let Some(record) = self.jobs.get(&original) else { return Changed::NotFound };
        if record.is_live() {
            return Changed::WrongState(record.state());
        }
        let job = record.job.clone();
        let queue = job.queue.clone();
        let copy = job.copy().expect("a record has its payload");
        match self.push(&copy) {
            Pushed::Duplicate { id, .. } => Changed::Duplicate(id),
            Pushed::Inserted { id, .. } => {
                self.record(original).job.replayed_as = Some(id);
                let to = crate::store::Destination::Ready;
                Changed::Done(Effect { job: id, queue, to })
            }
        }
    }

    pub(super) fn replay_dead(&mut self, filter: &DeadFilter) -> Vec<Effect> {
        let is_wanted = |record: &&Record| {
            record.state() == State::Dead
                && record.job.replayed_as.is_none()
                && filter.queue.as_ref().is_none_or(|queue| record.job.queue == *queue)
                && filter.reason.is_none_or(|reason| record.job.reason == Some(reason))
        };
        let dead = self.jobs.values().filter(is_wanted);
        let dead: Vec<JobId> = dead.map(|record| record.job.id).collect();
        let mut effects = Vec::new();
        for id in dead {
            if effects.len() == filter.limit {
                break;
            }
            if let Changed::Done(effect) = self.replay(id) {
                effects.push(effect);
            }
        }
        effects
    }

    pub(super) fn cancel(&mut self, id: JobId) -> Changed {
        match self.jobs.get(&id).map(Record::state) {
            None => Changed::NotFound,
            Some(State::Scheduled | State::Ready) => {
                Changed::Done(self.finish(id, State::Cancelled, None))
            }
            Some(state) => Changed::WrongState(state),
        }
    }

    pub(super) fn promote(&mut self, id: JobId) -> Changed {
        match self.jobs.get(&id).map(Record::state) {
            None => Changed::NotFound,
            Some(State::Scheduled) => Changed::Done(self.make_ready(id)),
            Some(state) => Changed::WrongState(state),
        }
    }
}
