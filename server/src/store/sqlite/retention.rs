//! Forgetting jobs that have ended, and what stands beside them.

use std::time::Duration;

use rusqlite::{Row, params};

use super::row;
use super::tables::{QueueId, Tables};
use crate::job::State;
use crate::store::columns::sql_millis;
use crate::store::{DUTY_ROWS_MAX, DutyReport, FORGOTTEN_MAX};

/// How long until finished jobs are looked at again.
const EVERY: Duration = Duration::from_secs(60);

const OLDEST_KEPT: &str = "
    SELECT f.id, f.state, f.tags, f.finished_at
    FROM kept k
    CROSS JOIN finished f ON f.id BETWEEN k.first_id AND k.last_id
    WHERE k.queue_id = ?1
    ORDER BY k.finished_at, k.first_id, f.id
    LIMIT ?2";

const OLDEST_DEAD: &str = "
    SELECT id, state, tags, finished_at
    FROM finished
    WHERE queue_id = ?1 AND state = 'dead'
    ORDER BY finished_at, id
    LIMIT ?2";

/// Runs up to a job, which are gone with it.
const DELETE_KEPT: &str = "
    DELETE FROM kept
    WHERE queue_id = ?1
    AND (finished_at, first_id) <= (?2, ?3)
    AND (finished_at < ?2 OR last_id <= ?3)";

/// Of those that people have deleted one by one, too.
const DELETE_KEPT_UNTIL: &str = "
    DELETE FROM kept
    WHERE queue_id = ?1 AND finished_at <= ?2";

const WITH_PAYLOADS: &str = "
    SELECT f.id
    FROM kept k
    CROSS JOIN finished f ON f.id BETWEEN k.first_id AND k.last_id
    WHERE k.queue_id = ?1 AND NOT f.is_dropped AND k.finished_at <= ?2
    AND k.finished_at >= (SELECT payloads_dropped_until FROM queue WHERE id = ?1)
    ORDER BY k.finished_at, k.first_id, f.id
    LIMIT ?3";

/// A job that has ended.
struct Ended {
    id: i64,
    state: State,
    tags: Option<String>,
    at: i64,
}

impl Tables {
    pub(super) fn retention(&mut self) -> rusqlite::Result<DutyReport> {
        self.forget_fires()?;
        let events = self.forget_events()?;
        let sql = "DELETE FROM unique_key WHERE (queue_id, kind, key) IN (
                       SELECT queue_id, kind, key FROM unique_key
                       WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2
                   )";
        self.execute(sql, params![self.now.0, DUTY_ROWS_MAX])?;
        self.forget_decisions()?;
        let expired = self.forget_kv()?;
        let mut done = 0;
        let queues: Vec<QueueId> = self.queue_ids().into_iter().map(|(_, id)| id).collect();
        for queue in queues {
            done += self.forget_old(queue, FORGOTTEN_MAX - done)?;
            done += self.drop_payloads(queue, FORGOTTEN_MAX - done)?;
        }
        let is_some_left = self.one("SELECT 1 FROM finished LIMIT 1", [], |_| Ok(()))?.is_some();
        let is_full = done >= FORGOTTEN_MAX || events.max(expired) >= DUTY_ROWS_MAX;
        let next = match is_full {
            true => Some(Duration::ZERO),
            false => is_some_left.then_some(EVERY),
        };
        let next = [next, self.sweep_logs()?.next()].into_iter().flatten().min();
        Ok(DutyReport { next, ..DutyReport::default() })
    }

    /// Forgets up to `room` jobs of a queue that were kept for long enough, or are too many.
    fn forget_old(&mut self, queue: QueueId, room: usize) -> rusqlite::Result<usize> {
        let details = self.details(queue);
        let (counts, settings) = (details.counts, &details.settings);
        let dead_max = settings.keep_dead_max.unwrap_or(u64::MAX);
        let retention = self.retention.of(settings);
        let count = counts.completed + counts.cancelled;
        let excess = count.saturating_sub(retention.completed_max);
        let until = self.now.0.saturating_sub(sql_millis(retention.completed));
        let (old, is_all) = self.old(OLDEST_KEPT, (queue, room), (excess, until))?;
        self.forget(queue, &old)?;
        if let Some(last) = old.last() {
            self.execute(DELETE_KEPT, params![queue, last.at, last.id])?;
        }
        if is_all {
            self.execute(DELETE_KEPT_UNTIL, [queue, until])?;
        }
        let excess = counts.dead.saturating_sub(dead_max);
        let until = self.now.0.saturating_sub(sql_millis(retention.dead));
        let (dead, _) = self.old(OLDEST_DEAD, (queue, room - old.len()), (excess, until))?;
        self.forget(queue, &dead)?;
        Ok(old.len() + dead.len())
    }

    /// The first `excess` jobs, and those that ended until then, at most as many as there is room
    /// for. And whether these are all of them.
    fn old(
        &self,
        sql: &str,
        (queue, room): (QueueId, usize),
        (excess, until): (u64, i64),
    ) -> rusqlite::Result<(Vec<Ended>, bool)> {
        let mut found = self.all(sql, params![queue, room], read_ended)?;
        let is_old = |(place, one): &(usize, &Ended)| (*place as u64) < excess || one.at <= until;
        let count = found.iter().enumerate().take_while(is_old).count();
        found.truncate(count);
        Ok((found, count < room))
    }

    /// Drops up to `room` payloads of finished jobs of a queue.
    fn drop_payloads(&self, queue: QueueId, room: usize) -> rusqlite::Result<usize> {
        let Some(keep) = self.details(queue).settings.keep_payload else { return Ok(0) };
        let until = self.now.0.saturating_sub(sql_millis(keep));
        let values = params![queue, until, room];
        let old: Vec<i64> = self.all(WITH_PAYLOADS, values, |row| row.get(0))?;
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
    pub(super) fn forget_one(&mut self, queue: QueueId, id: i64) -> rusqlite::Result<()> {
        let sql = "SELECT id, state, tags, finished_at FROM finished WHERE id = ?1";
        let ended = self.conn.prepare_cached(sql)?.query_row([id], read_ended)?;
        self.execute("DELETE FROM job_log WHERE job_id = ?1", [id])?;
        self.forget(queue, &[ended])
    }

    fn forget(&mut self, queue: QueueId, jobs: &[Ended]) -> rusqlite::Result<()> {
        for job in jobs {
            *self.count(queue, job.state) -= 1;
            self.forget_tagged(job.id, job.tags.as_deref())?;
        }
        for run in jobs.chunk_by(|one, next| one.id + 1 == next.id) {
            let (first, last) = (run[0].id, run[run.len() - 1].id);
            self.execute("DELETE FROM finished WHERE id BETWEEN ?1 AND ?2", [first, last])?;
            self.forget_stories(first, last)?;
            self.forget_custom_ids(first, last)?;
        }
        Ok(())
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
        let tags: Option<String> = self.one(sql, [id], |row| row.get(0))?.flatten();
        self.forget_tagged(id, tags.as_deref())
    }

    fn forget_tagged(&self, id: i64, tags: Option<&str>) -> rusqlite::Result<()> {
        for tag in tags.iter().flat_map(|tags| tags.lines()) {
            let sql = "DELETE FROM job_tag WHERE tag = ?1 AND job_id = ?2";
            self.execute(sql, params![tag, id])?;
        }
        Ok(())
    }
}

fn read_ended(row: &Row<'_>) -> rusqlite::Result<Ended> {
    let state = row::parsed(row, 1, |name| State::parse(name).ok_or(()))?;
    let state = state.ok_or(rusqlite::Error::InvalidQuery)?;
    Ok(Ended { id: row.get(0)?, state, tags: row.get(2)?, at: row.get(3)? })
}
