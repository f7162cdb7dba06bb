//! Changes that people ask for.

use rusqlite::params;

use super::row::job_id;
use super::tables::Tables;
use crate::job::{JobId, QueueName, State};
use crate::store::columns::sql_id;
use crate::store::{Changed, DeadFilter, Destination, Effect, Pausing, Pushed};

const REVIVE: &str = "
    INSERT INTO job (
        id, queue_id, priority, place, created_at, max_attempts, attempts, delivery, crashes,
        timeout_ms, replay_of, replayed_as, content_type, backoff, unique_key, tags, payload
    )
    SELECT
        id, queue_id, priority, ?2, created_at, max_attempts, 0, deliveries + 1, 0,
        timeout_ms, replay_of, replayed_as, content_type, backoff, unique_key, tags, payload
    FROM finished
    WHERE id = ?1";

impl Tables {
    pub(super) fn set_paused(
        &mut self,
        name: &QueueName,
        pausing: Pausing,
    ) -> rusqlite::Result<()> {
        let queue = self.queue(name)?;
        let paused_at = self.details(queue).paused_at;
        match (pausing, paused_at) {
            (Pausing::Pause, None) => self.set_paused_at(queue, Some(self.now)),
            (Pausing::Resume, Some(_)) => self.set_paused_at(queue, None),
            (Pausing::Pause, Some(_)) | (Pausing::Resume, None) => Ok(()),
        }
    }

    pub(super) fn retry(&mut self, job: JobId) -> rusqlite::Result<Changed> {
        let id = sql_id(job);
        match self.state(job)? {
            Some(State::Dead) => {}
            Some(state) => return Ok(Changed::WrongState(state)),
            None => return Ok(Changed::NotFound),
        }
        let sql = "SELECT queue_id, priority, unique_key FROM finished WHERE id = ?1";
        let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
        let (queue, priority, key) = self.conn.prepare_cached(sql)?.query_row([id], read)?;
        let key: Option<String> = key;
        if let Some(holder) = self.holder_of_key(queue, key.as_deref())? {
            return Ok(Changed::Duplicate(holder));
        }
        if let Some(key) = key {
            self.insert_key(queue, &key, id)?;
        }
        let place = self.next_number()?;
        self.execute(REVIVE, params![id, place])?;
        self.execute("DELETE FROM finished WHERE id = ?1", [id])?;
        *self.count(queue, State::Dead) -= 1;
        self.insert_ready(queue, priority, place, id)?;
        Ok(Changed::Done(self.effect(queue, job, Destination::Ready)))
    }

    pub(super) fn replay(&mut self, original: JobId) -> rusqlite::Result<Changed> {
        let Some(job) = self.job(original)? else { return Ok(Changed::NotFound) };
        if !job.state.is_final() {
            return Ok(Changed::WrongState(job.state));
        }
        let queue = job.queue.clone();
        let Some(copy) = job.copy() else { return Ok(Changed::NotFound) };
        match self.push_one(&copy)? {
            Pushed::Duplicate { id, .. } => Ok(Changed::Duplicate(id)),
            Pushed::Inserted { id, .. } => {
                let sql = "UPDATE finished SET replayed_as = ?2 WHERE id = ?1";
                self.execute(sql, params![sql_id(original), sql_id(id)])?;
                Ok(Changed::Done(Effect { job: id, queue, to: Destination::Ready }))
            }
        }
    }

    pub(super) fn replay_dead(&mut self, filter: &DeadFilter) -> rusqlite::Result<Vec<Effect>> {
        let sql = "SELECT id FROM finished
                   WHERE state = 'dead' AND replayed_as IS NULL AND id > ?1
                   AND (?2 IS NULL OR queue_id = ?2)
                   AND (?3 IS NULL OR reason = ?3)
                   ORDER BY id LIMIT ?4";
        let queue = match &filter.queue {
            None => None,
            Some(name) => match self.find_queue(name) {
                None => return Ok(Vec::new()),
                found => found,
            },
        };
        let reason = filter.reason.map(|reason| reason.name());
        let mut effects = Vec::new();
        let mut last = 0;
        // One whose unique key is taken uses up none of the limit.
        while effects.len() < filter.limit {
            let wanted = filter.limit - effects.len();
            let found =
                self.all(sql, params![last, queue, reason, wanted], |row| job_id(row, 0))?;
            let Some(newest) = found.last() else { break };
            last = sql_id(*newest);
            for original in found {
                if let Changed::Done(effect) = self.replay(original)? {
                    effects.push(effect);
                }
            }
        }
        Ok(effects)
    }

    pub(super) fn cancel(&mut self, job: JobId) -> rusqlite::Result<Changed> {
        match self.end_waiting(job, State::Cancelled, None)? {
            Ok(effect) => Ok(Changed::Done(effect)),
            Err(Some(state)) => Ok(Changed::WrongState(state)),
            Err(None) => Ok(match self.state(job)? {
                Some(state) => Changed::WrongState(state),
                None => Changed::NotFound,
            }),
        }
    }

    pub(super) fn promote(&mut self, job: JobId) -> rusqlite::Result<Changed> {
        match self.state(job)? {
            Some(State::Scheduled) => Ok(Changed::Done(self.make_ready(sql_id(job))?)),
            Some(state) => Ok(Changed::WrongState(state)),
            None => Ok(Changed::NotFound),
        }
    }
}
