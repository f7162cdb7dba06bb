//! Judging pushes.

use std::collections::BTreeMap;

use super::Model;
use crate::job::{Fill, NewJob, QueueName, State};
use crate::store::guards::{DECISIONS_KEPT, judge, minute_of};
use crate::store::{Decision, Pushed};

impl Model {
    pub(super) fn push_judged(&mut self, jobs: Vec<NewJob>) -> Vec<Pushed> {
        let mut guards = BTreeMap::new();
        for queue in jobs.iter().map(|job| &job.queue) {
            if let Some(settings) = self.settings.get(queue).filter(|it| it.is_guarded()) {
                guards.insert(queue.clone(), (settings.clone(), self.fill(queue)));
            }
        }
        if guards.is_empty() {
            return self.push_all(&jobs);
        }
        // Queues come into being with their first push, also if it is refused.
        for job in &jobs {
            self.queues.entry(job.queue.clone()).or_default();
        }
        let judged = judge(&jobs, &mut guards);
        let minute = minute_of(self.now);
        for (queue, count) in &judged.taken {
            if guards[queue].0.pushes_per_minute.is_some() {
                let before = self.taken_this_minute(queue);
                self.taken.insert(queue.clone(), (minute, before + count));
            }
        }
        for ((queue, guard), (count, max)) in &judged.refused {
            let key = (queue.clone(), minute, *guard);
            let before = self.decisions.get(&key).map_or(0, |decision| decision.count);
            let decision = Decision {
                queue: queue.clone(),
                guard: *guard,
                max: *max,
                count: before + count,
                minute,
                last_at: self.now,
            };
            self.decisions.insert(key, decision);
        }
        let pushed = self.push_all(&judged.admitted(jobs));
        judged.answers(pushed)
    }

    fn taken_this_minute(&self, queue: &QueueName) -> u64 {
        match self.taken.get(queue) {
            Some((minute, count)) if *minute == minute_of(self.now) => *count,
            _ => 0,
        }
    }

    fn fill(&self, queue: &QueueName) -> Fill {
        let mut fill = Fill { this_minute: self.taken_this_minute(queue), ..Fill::default() };
        for record in self.jobs.values().filter(|record| record.job.queue == *queue) {
            if record.is_live() && record.state() != State::Leased {
                fill.waiting += 1;
                let bytes = record.job.payload.as_ref().map_or(0, |payload| payload.bytes.len());
                fill.waiting_bytes += bytes as u64;
            }
        }
        fill
    }

    pub(super) fn list_decisions(&self, queue: Option<&QueueName>, limit: usize) -> Vec<Decision> {
        let of_queue = |decision: &&Decision| queue.is_none_or(|queue| decision.queue == *queue);
        let mut found: Vec<Decision> = self.decisions.values().filter(of_queue).cloned().collect();
        found.sort_by_key(|one| {
            (std::cmp::Reverse(one.minute), one.queue.clone(), one.guard.name())
        });
        found.truncate(limit);
        found
    }

    pub(super) fn forget_decisions(&mut self) {
        let now = self.now;
        self.decisions.retain(|_, decision| decision.minute + DECISIONS_KEPT > now);
    }
}
