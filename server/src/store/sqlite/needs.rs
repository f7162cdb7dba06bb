//! Jobs that wait for other jobs.

use std::collections::VecDeque;

use rusqlite::params;

use super::row::{self, job_id};
use super::tables::{QueueId, Tables};
use crate::job::{Depends, JobId, Reason, State};
use crate::limits;
use crate::store::columns::sql_id;
use crate::store::{Destination, Effect, Need, NoteKind, fate};

impl Tables {
    /// A new job is held up by those that it waits for. The answer: blocked or dead, if it is.
    pub(super) fn block(
        &mut self,
        queue: QueueId,
        job: JobId,
        depends: &Depends,
    ) -> rusqlite::Result<Option<State>> {
        let id = sql_id(job);
        let (mut is_blocked, mut has_failed) = (false, false);
        for need in &depends.on {
            let Some(state) = self.state(*need)? else { continue };
            match fate(state, depends.on_failure) {
                Some(is_good) => has_failed |= !is_good,
                None => {
                    let sql = "INSERT INTO dependency (job_id, needs_id) VALUES (?1, ?2)";
                    self.execute(sql, params![id, sql_id(*need)])?;
                    self.watch(*need)?;
                    is_blocked = true;
                }
            }
        }
        if has_failed {
            let reason = Some(Reason::DependencyFailed);
            self.finish_waiting(queue, id, 1, State::Dead, reason)?;
            return Ok(Some(State::Dead));
        }
        if !is_blocked {
            return Ok(None);
        }
        self.execute("UPDATE job SET is_blocked = 1 WHERE id = ?1", [id])?;
        *self.count(queue, State::Blocked) += 1;
        Ok(Some(State::Blocked))
    }

    /// Somebody waits for this job.
    fn watch(&mut self, job: JobId) -> rusqlite::Result<()> {
        self.leases.set_not_plain(job);
        self.execute("UPDATE job SET is_watched = 1 WHERE id = ?1", [sql_id(job)])
    }

    /// Jobs have ended in this call: those that wait for them go on, or end too.
    pub(super) fn release_dependents(&mut self, effects: &mut Vec<Effect>) -> rusqlite::Result<()> {
        self.ended.sort_unstable();
        let mut ended: VecDeque<(JobId, State)> = std::mem::take(&mut self.ended).into();
        let sql = "SELECT d.job_id, j.queue_id, j.options, j.delivery
                   FROM dependency d CROSS JOIN job j ON j.id = d.job_id
                   WHERE d.needs_id = ?1 ORDER BY d.job_id";
        while let Some((need, state)) = ended.pop_front() {
            let waiting = self.all(sql, [sql_id(need)], |row| {
                let policy = row::options(row, 2)?.depends.on_failure;
                Ok((job_id(row, 0)?, row.get(1)?, policy, row.get(3)?))
            })?;
            for (job, queue, policy, delivery) in waiting {
                match fate(state, policy) {
                    None => {}
                    Some(true) => effects.extend(self.unblock(queue, job, need)?),
                    Some(false) => {
                        *self.count(queue, State::Blocked) -= 1;
                        let (id, reason) = (sql_id(job), Reason::DependencyFailed);
                        effects.push(self.bury_waiting(queue, id, delivery, reason)?);
                    }
                }
            }
            ended.extend(std::mem::take(&mut self.ended));
        }
        Ok(())
    }

    fn unblock(
        &mut self,
        queue: QueueId,
        job: JobId,
        need: JobId,
    ) -> rusqlite::Result<Option<Effect>> {
        let id = sql_id(job);
        let sql = "DELETE FROM dependency WHERE job_id = ?1 AND needs_id = ?2";
        self.execute(sql, params![id, sql_id(need)])?;
        let sql = "SELECT 1 FROM dependency WHERE job_id = ?1 LIMIT 1";
        if self.one(sql, [id], |_| Ok(()))?.is_some() {
            return Ok(None);
        }
        self.execute("UPDATE job SET is_blocked = 0 WHERE id = ?1", [id])?;
        self.note(job, NoteKind::Unblocked, "")?;
        *self.count(queue, State::Blocked) -= 1;
        let sql = "SELECT run_at FROM job WHERE id = ?1";
        let run_at = self.one(sql, [id], |row| row::time(row, 0))?.flatten();
        let Some(at) = run_at.filter(|at| *at > self.now) else {
            return self.join_line(queue, id).map(Some);
        };
        self.insert_scheduled(queue, id, at)?;
        Ok(Some(self.effect(queue, job, Destination::Scheduled(at))))
    }

    /// What is known of the jobs that a job waited for.
    pub(super) fn needs(&self, depends: &Depends) -> rusqlite::Result<Vec<Need>> {
        let sql = "SELECT state, iif(length(result) <= ?2, result, NULL) FROM finished
                   WHERE id = ?1";
        let known = |id: &JobId| {
            let read = |row: &rusqlite::Row<'_>| {
                let state = row::parsed(row, 0, |name| State::parse(name).ok_or(()))?;
                let has_result = row.get_ref(1)?.as_blob().is_ok();
                let result = has_result.then(|| row::bytes(row, 1)).transpose()?;
                Ok(Need { id: *id, state, result })
            };
            let need = self.one(sql, params![sql_id(*id), limits::NEED_STORED_BYTES_MAX], read)?;
            let need = need.unwrap_or(Need { id: *id, state: None, result: None });
            // A job that went round again after it had failed.
            let live = || self.state(*id);
            Ok(Need { state: need.state.map_or_else(live, |state| Ok(Some(state)))?, ..need })
        };
        depends.on.iter().map(known).collect()
    }
}
