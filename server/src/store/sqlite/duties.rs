//! What happens by time, in bounded parts.

use std::time::Duration;

use rusqlite::params;

use super::row::job_id;
use super::tables::{QueueId, Tables};
use crate::job::{Ending, JobId, Lease, Reason, State, Timestamp};
use crate::store::columns::{sql_id, sql_millis};
use crate::store::{DUTY_ROWS_MAX, Destination, Duty, DutyReport, Effect, NoteKind, SessionId};

/// How long until finished jobs are looked at again.
const RETENTION_EVERY: Duration = Duration::from_secs(60);

const OLDEST_KEPT: &str = "
    SELECT id, finished_at FROM finished
    WHERE queue_id = ?1 AND state <> 'dead'
    ORDER BY finished_at, id LIMIT ?2";

const OLDEST_DEAD: &str = "
    SELECT id, finished_at FROM finished
    WHERE queue_id = ?1 AND state = 'dead'
    ORDER BY finished_at, id LIMIT ?2";

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

    fn retention(&mut self) -> rusqlite::Result<DutyReport> {
        self.forget_fires()?;
        let events = self.forget_events()?;
        let sql = "DELETE FROM unique_key WHERE (queue_id, kind, key) IN (
                       SELECT queue_id, kind, key FROM unique_key
                       WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2
                   )";
        self.execute(sql, params![self.now.0, DUTY_ROWS_MAX])?;
        self.forget_decisions()?;
        let mut done = 0;
        let queues: Vec<QueueId> = self.queue_ids().into_iter().map(|(_, id)| id).collect();
        for queue in queues {
            done += self.forget_old(queue, DUTY_ROWS_MAX - done)?;
            done += self.drop_payloads(queue, DUTY_ROWS_MAX - done)?;
        }
        let is_some_left = self.one("SELECT 1 FROM finished LIMIT 1", [], |_| Ok(()))?.is_some();
        let next = match done >= DUTY_ROWS_MAX || events >= DUTY_ROWS_MAX {
            true => Some(Duration::ZERO),
            false => is_some_left.then_some(RETENTION_EVERY),
        };
        Ok(DutyReport { next, ..DutyReport::default() })
    }

    /// Forgets up to `room` jobs of a queue that were kept for long enough, or are too many.
    fn forget_old(&mut self, queue: QueueId, room: usize) -> rusqlite::Result<usize> {
        let details = self.details(queue);
        let (counts, settings) = (details.counts, &details.settings);
        let retention = self.retention.of(settings);
        let kept = (counts.completed + counts.cancelled, Some(retention.completed_max));
        let dead = (counts.dead, settings.keep_dead_max);
        let mut done = 0;
        for (oldest, keep, (count, max)) in
            [(OLDEST_KEPT, retention.completed, kept), (OLDEST_DEAD, retention.dead, dead)]
        {
            let excess = count.saturating_sub(max.unwrap_or(u64::MAX));
            let until = self.now.0.saturating_sub(sql_millis(keep));
            let values = params![queue, room - done];
            let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get::<_, i64>(1)?));
            let found: Vec<(i64, i64)> = self.all(oldest, values, read)?;
            for (place, (id, at)) in found.into_iter().enumerate() {
                if place as u64 >= excess && at > until {
                    break;
                }
                self.forget(id)?;
                done += 1;
            }
        }
        Ok(done)
    }

    /// Drops up to `room` payloads of finished jobs of a queue.
    fn drop_payloads(&self, queue: QueueId, room: usize) -> rusqlite::Result<usize> {
        let Some(keep) = self.details(queue).settings.keep_payload else { return Ok(0) };
        let until = self.now.0.saturating_sub(sql_millis(keep));
        let sql = "SELECT id FROM finished
                   WHERE queue_id = ?1 AND state <> 'dead' AND NOT is_dropped
                   AND finished_at <= ?2
                   AND finished_at >= (SELECT payloads_dropped_until FROM queue WHERE id = ?1)
                   ORDER BY finished_at, id LIMIT ?3";
        let old: Vec<i64> = self.all(sql, params![queue, until, room], |row| row.get(0))?;
        for id in &old {
            let sql = "UPDATE finished
                       SET is_dropped = 1, payload = x'', content_type = NULL, result = NULL
                       WHERE id = ?1";
            self.execute(sql, [id])?;
        }
        if old.len() < room {
            let sql = "UPDATE queue SET payloads_dropped_until = ?2 WHERE id = ?1";
            self.execute(sql, params![queue, until])?;
        }
        Ok(old.len())
    }

    /// Deletes all that is known of a finished job.
    pub(super) fn forget(&mut self, id: i64) -> rusqlite::Result<()> {
        // Not RETURNING, which makes a table of its own each time.
        let sql = "SELECT queue_id, state, tags FROM finished WHERE id = ?1";
        let read =
            |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get::<_, String>(1)?, row.get(2)?));
        let Some((queue, state, tags)) = self.one(sql, [id], read)? else { return Ok(()) };
        self.execute("DELETE FROM finished WHERE id = ?1", [id])?;
        if let Some(state) = State::parse(&state) {
            *self.count(queue, state) -= 1;
        }
        self.forget_stories(id, id)?;
        self.forget_tagged(id, tags)
    }

    /// Forgets what happened to the jobs with these ids.
    pub(super) fn forget_stories(&self, first: i64, last: i64) -> rusqlite::Result<()> {
        let sql = "DELETE FROM attempt_log WHERE job_id BETWEEN ?1 AND ?2";
        self.execute(sql, [first, last])?;
        let sql = "DELETE FROM job_note WHERE job_id BETWEEN ?1 AND ?2";
        self.execute(sql, [first, last])
    }

    /// Has a live job found by its tags no more.
    pub(super) fn forget_tags(&self, id: i64) -> rusqlite::Result<()> {
        let sql = "SELECT tags FROM job WHERE id = ?1";
        let tags = self.one(sql, [id], |row| row.get(0))?.flatten();
        self.forget_tagged(id, tags)
    }

    fn forget_tagged(&self, id: i64, tags: Option<String>) -> rusqlite::Result<()> {
        for tag in tags.iter().flat_map(|tags| tags.lines()) {
            let sql = "DELETE FROM job_tag WHERE tag = ?1 AND job_id = ?2";
            self.execute(sql, params![tag, id])?;
        }
        Ok(())
    }

    pub(super) fn earliest(&self, sql: &str) -> rusqlite::Result<Option<Timestamp>> {
        let at: Option<i64> = self.conn.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
        Ok(at.map(Timestamp))
    }
}
