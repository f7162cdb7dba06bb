//! What happens by time.

use std::time::Duration;

use super::{Model, Place, Record};
use crate::job::{Ending, JobId, Lease, QueueName, Reason, State, Timestamp};
use crate::store::{DUTY_ROWS_MAX, Destination, Duty, DutyReport, Effect, FORGOTTEN_MAX, NoteKind};

impl Model {
    pub(super) fn run_duty(&mut self, duty: Duty) -> DutyReport {
        match duty {
            Duty::Retention => return self.retention(),
            Duty::Cron => return self.cron(),
            _ => {}
        }
        let mut planned = self.planned(duty);
        planned.sort_unstable();
        let over: Vec<JobId> = planned
            .iter()
            .filter(|(at, _)| *at <= self.now)
            .take(DUTY_ROWS_MAX)
            .map(|(_, id)| *id)
            .collect();
        let mut report = DutyReport::default();
        // Leases run out by row, and so in the order of their jobs.
        let mut in_order = over;
        if duty == Duty::Expiry {
            in_order.sort_unstable();
        }
        for id in in_order {
            self.do_one(duty, id, &mut report);
        }
        let next = self.planned(duty).into_iter().min();
        report.next = match report.effects.len() >= DUTY_ROWS_MAX {
            true => Some(Duration::ZERO),
            false => next.map(|(at, _)| at.since(self.now)),
        };
        report
    }

    /// When something is to be done with which job.
    fn planned(&self, duty: Duty) -> Vec<(Timestamp, JobId)> {
        let at = |record: &Record| match (duty, &record.place) {
            (Duty::Due, Place::Scheduled(at)) => Some(*at),
            (Duty::Expiry, Place::Leased(holding)) => Some(holding.expires_at),
            (Duty::Timeouts, Place::Leased(holding)) => {
                record.job.timeout.map(|timeout| holding.started_at + timeout)
            }
            (Duty::Cancels, Place::Leased(_)) => record.job.cancel.map(|(_, force_at)| force_at),
            (Duty::Ttl, Place::Blocked | Place::Scheduled(_) | Place::Ready(..)) => {
                record.job.expires_at
            }
            _ => None,
        };
        self.jobs.values().filter_map(|record| Some((at(record)?, record.job.id))).collect()
    }

    fn do_one(&mut self, duty: Duty, id: JobId, report: &mut DutyReport) {
        let record = self.record(id);
        let lease = Lease { job: id, delivery: record.job.deliveries };
        let session = record.holding().and_then(|holding| holding.session);
        let effect = match duty {
            Duty::Due => {
                self.note(id, NoteKind::Due, "");
                self.make_ready(id)
            }
            Duty::Expiry => {
                report.lost.extend(session.map(|session| (session, lease)));
                let is_held = session.is_some();
                self.take_away(id, if is_held { Ending::NodeLost } else { Ending::Expired })
            }
            Duty::Timeouts => {
                report.lost.extend(session.map(|session| (session, lease)));
                self.take_away(id, Ending::TimedOut)
            }
            Duty::Cancels => {
                report.lost.extend(session.map(|session| (session, lease)));
                self.take_away(id, Ending::Cancelled)
            }
            Duty::Ttl | Duty::Retention | Duty::Cron => {
                self.finish(id, State::Dead, Some(Reason::Expired))
            }
        };
        report.effects.push(effect);
    }

    /// A job joins the line, behind those that stand in it.
    pub(super) fn make_ready(&mut self, id: JobId) -> Effect {
        let (number, now) = (self.next_number(), self.now);
        let record = self.record(id);
        record.place = Place::Ready(number, now);
        let queue = record.job.queue.clone();
        Effect { job: id, queue, to: Destination::Ready }
    }

    fn retention(&mut self) -> DutyReport {
        let now = self.now;
        self.forget_fires();
        self.forget_events();
        self.forget_decisions();
        self.forget_kv();
        self.keys.retain(|_, held| held.until.is_none_or(|until| until > now));
        let queues: Vec<QueueName> = self.queues.keys().cloned().collect();
        let mut over: Vec<JobId> =
            queues.iter().flat_map(|queue| self.forgettable(queue)).collect();
        over.truncate(FORGOTTEN_MAX);
        for id in &over {
            self.jobs.remove(id);
        }
        for queue in &queues {
            self.drop_payloads(queue);
        }
        let is_some_left = self.jobs.values().any(|record| !record.is_live());
        let next = match over.len() >= FORGOTTEN_MAX {
            true => Some(Duration::ZERO),
            false => is_some_left.then_some(Duration::from_secs(60)),
        };
        DutyReport { next, ..DutyReport::default() }
    }

    /// The finished jobs of a queue, oldest first: dead ones, or the others.
    fn finished(&self, queue: &QueueName, is_dead: bool) -> Vec<(Timestamp, JobId)> {
        let of_queue = self.jobs.values().filter(|record| record.job.queue == *queue);
        let of_kind = of_queue
            .filter(|record| !record.is_live() && (record.job.state == State::Dead) == is_dead);
        let mut all: Vec<_> =
            of_kind.filter_map(|record| Some((record.job.finished_at?, record.job.id))).collect();
        all.sort_unstable();
        all
    }

    /// What has been kept for long enough, or is too much.
    fn forgettable(&self, queue: &QueueName) -> Vec<JobId> {
        let settings = self.settings.get(queue).cloned().unwrap_or_default();
        let retention = self.retention.of(&settings);
        let mut over = Vec::new();
        for (is_dead, keep, max) in [
            (false, retention.completed, Some(retention.completed_max)),
            (true, retention.dead, settings.keep_dead_max),
        ] {
            let all = self.finished(queue, is_dead);
            let max = max.and_then(|max| usize::try_from(max).ok()).unwrap_or(usize::MAX);
            let excess = all.len().saturating_sub(max);
            let is_over = |(place, (at, _)): &(usize, (Timestamp, JobId))| {
                *place < excess || *at + keep <= self.now
            };
            over.extend(all.into_iter().enumerate().filter(is_over).map(|(_, (_, id))| id));
        }
        over
    }

    fn drop_payloads(&mut self, queue: &QueueName) {
        let Some(keep) = self.settings.get(queue).and_then(|settings| settings.keep_payload) else {
            return;
        };
        for (at, id) in self.finished(queue, false) {
            if at + keep <= self.now {
                let job = &mut self.record(id).job;
                (job.payload, job.result, job.is_dropped) = (None, None, true);
            }
        }
    }
}
