//! What happens by time, in bounded parts.

use std::time::Duration;

use rusqlite::params;

use super::row::job_id;
use super::tables::{QueueId, Tables};
use crate::job::{Ending, JobId, Lease, Reason, State, Timestamp};
use crate::store::columns::sql_id;
use crate::store::{DUTY_ROWS_MAX, Destination, Duty, DutyReport, Effect, NoteKind, SessionId};

impl Tables {
    pub(super) fn run_duty(&mut self, duty: Duty) -> rusqlite::Result<DutyReport> {
        let mut report = match duty {
            Duty::Due => self.due(),
            Duty::Expiry => self.expiry(),
            Duty::Timeouts => self.timeouts(),
            Duty::Cancels => self.cancels(),
            Duty::Cron => self.cron(),
            Duty::Ttl => self.ttl(),
            Duty::Retention => self.retention(),
        }?;
        self.release_dependents(&mut report.effects)?;
        Ok(report)
    }

    /// When to come back, if `done` rows were done now and the rest is next due at `next`.
    fn next(&self, done: usize, next: Option<Timestamp>) -> Option<Duration> {
        match done >= DUTY_ROWS_MAX {
            true => Some(Duration::ZERO),
            false => next.map(|at| at.since(self.now)),
        }
    }

    fn due(&mut self) -> rusqlite::Result<DutyReport> {
        let sql =
            "SELECT job_id FROM scheduled WHERE run_at <= ?1 ORDER BY run_at, job_id LIMIT ?2";
        let due = self.all(sql, params![self.now.0, DUTY_ROWS_MAX], |row| row.get(0))?;
        let mut effects = Vec::with_capacity(due.len());
        for id in due {
            self.note(JobId(i64::cast_unsigned(id)), NoteKind::Due, "")?;
            effects.push(self.make_ready(id)?);
        }
        let next = self.earliest("SELECT min(run_at) FROM scheduled")?;
        Ok(DutyReport { next: self.next(effects.len(), next), effects, lost: Vec::new() })
    }

    /// A scheduled job becomes ready, behind those that are.
    pub(super) fn make_ready(&mut self, id: i64) -> rusqlite::Result<Effect> {
        let queue = self.queue_of(id)?;
        self.leave_schedule(queue, id)?;
        self.join_line(queue, id)
    }

    pub(super) fn queue_of(&self, id: i64) -> rusqlite::Result<QueueId> {
        let sql = "SELECT queue_id FROM job WHERE id = ?1";
        self.conn.prepare_cached(sql)?.query_row([id], |row| row.get(0))
    }

    /// A job that stands nowhere stands behind those that are ready.
    pub(super) fn join_line(&mut self, queue: QueueId, id: i64) -> rusqlite::Result<Effect> {
        let place = self.next_number()?;
        let sql = "UPDATE job SET run_at = NULL, place = ?2 WHERE id = ?1";
        self.execute(sql, params![id, place])?;
        self.insert_ready(queue, id)?;
        Ok(self.effect(queue, JobId(id.cast_unsigned()), Destination::Ready))
    }

    pub(super) fn leave_schedule(&mut self, queue: QueueId, id: i64) -> rusqlite::Result<()> {
        let sql = "DELETE FROM scheduled
                   WHERE run_at = (SELECT run_at FROM job WHERE id = ?1) AND job_id = ?1";
        self.execute(sql, [id])?;
        *self.count(queue, State::Scheduled) -= 1;
        Ok(())
    }

    fn expiry(&mut self) -> rusqlite::Result<DutyReport> {
        let mut report = DutyReport::default();
        for lease in self.leases.run_out(self.now, DUTY_ROWS_MAX) {
            let session = self.session_of(lease);
            let ending = if session.is_some() { Ending::NodeLost } else { Ending::Expired };
            report.effects.push(self.take_away(lease, ending)?);
            report.lost.extend(session.map(|session| (session, lease)));
        }
        report.next = self.next(report.effects.len(), self.leases.next_expiry());
        Ok(report)
    }

    fn session_of(&self, lease: Lease) -> Option<SessionId> {
        self.leases.held(lease.job).and_then(|held| self.leases.row(held.row).session)
    }

    fn timeouts(&mut self) -> rusqlite::Result<DutyReport> {
        let sql = "SELECT job_id FROM deadline WHERE at <= ?1 ORDER BY at, job_id LIMIT ?2";
        let over = self.all(sql, params![self.now.0, DUTY_ROWS_MAX], |row| job_id(row, 0))?;
        let mut report = DutyReport::default();
        for job in over {
            let Some(held) = self.leases.held(job) else { continue };
            let lease = Lease { job, delivery: held.delivery };
            report.lost.extend(self.session_of(lease).map(|session| (session, lease)));
            report.effects.push(self.take_away(lease, Ending::TimedOut)?);
        }
        let next = self.earliest("SELECT min(at) FROM deadline")?;
        report.next = self.next(report.effects.len(), next);
        Ok(report)
    }

    fn cancels(&mut self) -> rusqlite::Result<DutyReport> {
        let sql = "SELECT job_id FROM cancel WHERE force_at <= ?1
                   ORDER BY force_at, job_id LIMIT ?2";
        let over = self.all(sql, params![self.now.0, DUTY_ROWS_MAX], |row| job_id(row, 0))?;
        let mut report = DutyReport::default();
        for job in over {
            let Some(held) = self.leases.held(job) else { continue };
            let lease = Lease { job, delivery: held.delivery };
            report.lost.extend(self.session_of(lease).map(|session| (session, lease)));
            report.effects.push(self.take_away(lease, Ending::Cancelled)?);
        }
        let next = self.earliest("SELECT min(force_at) FROM cancel")?;
        report.next = self.next(report.effects.len(), next);
        Ok(report)
    }

    fn ttl(&mut self) -> rusqlite::Result<DutyReport> {
        let sql =
            "SELECT job_id FROM ttl WHERE expires_at <= ?1 ORDER BY expires_at, job_id LIMIT ?2";
        let over = self.all(sql, params![self.now.0, DUTY_ROWS_MAX], |row| job_id(row, 0))?;
        let mut effects = Vec::with_capacity(over.len());
        for job in over {
            effects.extend(self.end_waiting(job, State::Dead, Some(Reason::Expired))?.ok());
        }
        let next = self.earliest("SELECT min(expires_at) FROM ttl")?;
        Ok(DutyReport { next: self.next(effects.len(), next), effects, lost: Vec::new() })
    }

    /// Ends a job that is scheduled or ready. Else: where it is; `None`: it is not live.
    pub(super) fn end_waiting(
        &mut self,
        job: JobId,
        state: State,
        reason: Option<Reason>,
    ) -> rusqlite::Result<Result<Effect, Option<State>>> {
        let id = sql_id(job);
        let sql = "SELECT queue_id, delivery FROM job WHERE id = ?1";
        let live = self.one(sql, [id], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let Some((queue, delivery)) = live else { return Ok(Err(None)) };
        match self.live_state(job)? {
            State::Scheduled => self.leave_schedule(queue, id)?,
            State::Ready => self.leave_line(queue, id)?,
            State::Blocked => *self.count(queue, State::Blocked) -= 1,
            other => return Ok(Err(Some(other))),
        }
        self.finish_waiting(queue, id, delivery, state, reason).map(Ok)
    }

    pub(super) fn earliest(&self, sql: &str) -> rusqlite::Result<Option<Timestamp>> {
        let at: Option<i64> = self.conn.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
        Ok(at.map(Timestamp))
    }
}
