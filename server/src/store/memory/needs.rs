//! Jobs that wait for other jobs.

use std::collections::VecDeque;

use super::{Model, Place, Record};
use crate::job::{JobId, Reason, State};
use crate::limits;
use crate::store::{Destination, Effect, Need, NoteKind, fate};

impl Model {
    /// A new job is held up by those that it waits for.
    pub(super) fn block(&mut self, id: JobId) {
        let depends = self.record(id).job.options.depends.clone();
        let mut has_failed = false;
        for need in depends.on {
            let state = self.jobs[&need].state();
            match fate(state, depends.on_failure) {
                None => drop(self.record(id).blocked_by.insert(need)),
                Some(is_good) => has_failed |= !is_good,
            }
        }
        if has_failed {
            self.finish_one(id, State::Dead, Some(Reason::DependencyFailed));
        } else if !self.record(id).blocked_by.is_empty() {
            self.record(id).place = Place::Blocked;
        }
    }

    /// Jobs have ended in this call: those that wait for them go on, or end too.
    pub(super) fn release_dependents(&mut self) -> Vec<Effect> {
        self.ended.sort_unstable();
        let mut ended: VecDeque<(JobId, State)> = std::mem::take(&mut self.ended).into();
        let mut effects = Vec::new();
        while let Some((need, state)) = ended.pop_front() {
            let waits = |record: &&Record| record.blocked_by.contains(&need);
            let waiting: Vec<JobId> =
                self.jobs.values().filter(waits).map(|record| record.job.id).collect();
            for id in waiting {
                let policy = self.record(id).job.options.depends.on_failure;
                match fate(state, policy) {
                    None => {}
                    Some(true) => effects.extend(self.unblock(id, need)),
                    Some(false) => {
                        let reason = Some(Reason::DependencyFailed);
                        effects.push(self.finish_one(id, State::Dead, reason));
                        ended.push_back((id, State::Dead));
                    }
                }
            }
        }
        effects
    }

    fn unblock(&mut self, id: JobId, need: JobId) -> Option<Effect> {
        let now = self.now;
        let record = self.record(id);
        record.blocked_by.remove(&need);
        if !record.blocked_by.is_empty() {
            return None;
        }
        self.note(id, NoteKind::Unblocked, "");
        let record = self.record(id);
        let Some(at) = record.job.run_at.filter(|at| *at > now) else {
            return Some(self.make_ready(id));
        };
        record.place = Place::Scheduled(at);
        let queue = record.job.queue.clone();
        Some(Effect { job: id, queue, to: Destination::Scheduled(at) })
    }

    /// What is known of the jobs that a job waited for.
    pub(super) fn needs(&mut self, id: JobId) -> Vec<Need> {
        let on = self.record(id).job.options.depends.on.clone();
        let known = |id: JobId| {
            let record = self.jobs.get(&id);
            let result = record.and_then(|record| record.job.result.clone());
            let result = result.filter(|result| result.len() <= limits::NEED_STORED_BYTES_MAX);
            Need { id, state: record.map(Record::state), result }
        };
        on.into_iter().map(known).collect()
    }
}
