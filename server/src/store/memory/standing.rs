//! What a job waits for.

use super::{Model, Place, Record};
use crate::job::{JobId, QueueName};
use crate::limits;
use crate::store::{InLine, Job, Limit, Standing};

impl Model {
    pub(super) fn standing(&self, id: JobId) -> Option<Standing> {
        let record = self.jobs.get(&id)?;
        let job = Job { payload: None, result: None, ..record.shown() };
        let is_last = |ending: &str| ["", "completed"].contains(&ending);
        let last = record.attempts.last().filter(|attempt| is_last(&attempt.ending));
        let state = |need: &JobId| (*need, self.jobs.get(need).map(Record::state));
        let needs = match record.place {
            Place::Blocked => record.blocked_by.iter().map(state).collect(),
            _ => Vec::new(),
        };
        let is_ready = matches!(record.place, Place::Ready(..));
        Some(Standing {
            now: self.now,
            attempt: last.cloned(),
            paused: self.queues.get(&job.queue).cloned().flatten(),
            needs,
            line: is_ready.then(|| self.in_line(id, &job.queue)),
            job,
        })
    }

    fn in_line(&self, id: JobId, queue: &QueueName) -> InLine {
        let own = &self.jobs[&id].job;
        let flow = &own.options.flow;
        let line = self.line(queue);
        let of = |wanted: &dyn Fn(&Job) -> bool| {
            let others = line.iter().map(|other| &self.jobs[other].job);
            others.take_while(|job| job.id != id).filter(|job| wanted(job)).count()
        };
        let is_beside =
            |job: &Job| job.priority == own.priority && job.options.flow.gate() == flow.gate();
        let holders = self.jobs.values().filter(|record| {
            let key = record.job.options.flow.concurrency.as_ref().map(|one| &one.key);
            record.holding().is_some()
                && record.job.queue == *queue
                && key == flow.concurrency.as_ref().map(|one| &one.key)
        });
        let holders: Vec<JobId> =
            holders.map(|record| record.job.id).take(limits::HOLDERS_SHOWN_MAX).collect();
        InLine {
            higher: of(&|job| job.priority > own.priority).min(limits::AHEAD_MAX),
            ahead: of(&is_beside).min(limits::AHEAD_MAX),
            limits: Limit::all(&self.admission(queue), flow, &holders),
        }
    }
}
