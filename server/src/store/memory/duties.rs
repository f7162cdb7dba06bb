//! What happens by time.

use std::time::Duration;

use super::{Model, Place, Record};
use crate::job::{Ending, JobId, Lease, Reason, State, Timestamp};
use crate::store::{DUTY_ROWS_MAX, Destination, Duty, DutyReport, Effect};

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
            Duty::Due => self.make_ready(id),
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
        self.keys.retain(|_, held| held.until.is_none_or(|until| until > now));
        let finished = |is_dead: bool, model: &Self| -> Vec<(Timestamp, JobId)> {
            let records = model
                .jobs
                .values()
                .filter(|record| !record.is_live() && (record.job.state == State::Dead) == is_dead);
            let mut all: Vec<_> = records
                .filter_map(|record| Some((record.job.finished_at?, record.job.id)))
                .collect();
            all.sort_unstable();
            all
        };
        let mut done = 0;
        for (is_dead, keep) in [(false, self.retention.completed), (true, self.retention.dead)] {
            for (at, id) in finished(is_dead, self) {
                if at + keep <= now && done < DUTY_ROWS_MAX {
                    self.jobs.remove(&id);
                    done += 1;
                }
            }
        }
        let kept = finished(false, self);
        let most = usize::try_from(self.retention.completed_max).unwrap_or(usize::MAX);
        let excess = kept.len().saturating_sub(most).min(DUTY_ROWS_MAX - done);
        for (_, id) in kept.into_iter().take(excess) {
            self.jobs.remove(&id);
            done += 1;
        }
        let is_some_left = self.jobs.values().any(|record| !record.is_live());
        let next = match done >= DUTY_ROWS_MAX {
            true => Some(Duration::ZERO),
            false => is_some_left.then_some(Duration::from_secs(60)),
        };
        DutyReport { next, ..DutyReport::default() }
    }
}
