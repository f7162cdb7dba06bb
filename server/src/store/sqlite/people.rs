//! Changes that people ask for.

use std::time::Duration;

use rusqlite::params;

use super::row;
use super::tables::{QueueId, Tables};
use crate::job::{JobId, Lease, Options, Payload, QueueName, Reason, State, Timestamp, UniqueHold};
use crate::store::columns::sql_id;
use crate::store::{
    Cancelled, Changed, Destination, Detail, Discarded, Edit, Effect, EventKind, KeyKind, NoteKind,
    Paused, Pausing, Pushed,
};

const REVIVE: &str = "
    INSERT INTO job (
        id, queue_id, priority, place, created_at, max_attempts, attempts, delivery, crashes,
        timeout_ms, replay_of, replayed_as, content_type, backoff, unique_key, tags, options, gate,
        is_watched, payload
    )
    SELECT
        id, queue_id, priority, ?2, created_at, max_attempts, 0, deliveries + 1, 0,
        timeout_ms, replay_of, replayed_as, content_type, backoff, unique_key, tags, options, ?3,
        EXISTS (SELECT 1 FROM dependency WHERE needs_id = ?1), payload
    FROM finished
    WHERE id = ?1";

impl Tables {
    pub(super) fn set_paused(
        &mut self,
        name: &QueueName,
        pausing: Pausing,
        by: String,
    ) -> rusqlite::Result<()> {
        let queue = self.queue(name)?;
        let is_paused = self.details(queue).paused.is_some();
        match (pausing, is_paused) {
            (Pausing::Pause, false) => {
                self.mark_paused(queue, Some(Paused { since: self.now, by }))
            }
            (Pausing::Resume, true) => self.mark_paused(queue, None),
            (Pausing::Pause, true) | (Pausing::Resume, false) => Ok(()),
        }
    }

    pub(super) fn retry(&mut self, job: JobId) -> rusqlite::Result<Changed> {
        let id = sql_id(job);
        match self.state(job)? {
            Some(State::Dead) => {}
            Some(state) => return Ok(Changed::WrongState(state)),
            None => return Ok(Changed::NotFound),
        }
        let sql = "SELECT queue_id, unique_key, options FROM finished WHERE id = ?1";
        let read = |row: &rusqlite::Row<'_>| {
            Ok((row.get(0)?, row.get::<_, Option<String>>(1)?, row::options(row, 2)?))
        };
        let (queue, key, options) = self.conn.prepare_cached(sql)?.query_row([id], read)?;
        if let Some(holder) = self.take_keys_again((queue, id), key.as_deref(), &options)? {
            return Ok(Changed::Duplicate(holder));
        }
        let place = self.next_number()?;
        self.note_death(job)?;
        self.execute(REVIVE, params![id, place, options.flow.gate().unwrap_or_default()])?;
        self.execute("DELETE FROM finished WHERE id = ?1", [id])?;
        self.note(job, NoteKind::Retried, "")?;
        *self.count(queue, State::Dead) -= 1;
        self.tell(EventKind::Pushed, queue, Some(id), &Detail::default())?;
        self.insert_ready(queue, id)?;
        Ok(Changed::Done(self.effect(queue, job, Destination::Ready)))
    }

    /// A job that is to live again takes the keys that it has as long as it lives. Else: who has one
    /// of them; then it has taken none.
    fn take_keys_again(
        &self,
        (queue, id): (QueueId, i64),
        unique: Option<&str>,
        options: &Options,
    ) -> rusqlite::Result<Option<JobId>> {
        if let Some(custom_id) = &options.custom_id
            && let Some(holder) = self.holder_of_custom_id(custom_id)?
        {
            return Ok(Some(holder));
        }
        if let Some(key) = unique.filter(|_| options.hold == UniqueHold::Live) {
            if let Some(holder) = self.holder_of_key(queue, KeyKind::Live, key)? {
                return Ok(Some(holder));
            }
            self.take_key(queue, KeyKind::Live, key, id, None)?;
        }
        if let Some(custom_id) = &options.custom_id {
            self.take_custom_id(custom_id, id)?;
        }
        Ok(None)
    }

    /// That a job died, since it is about to live again.
    fn note_death(&self, job: JobId) -> rusqlite::Result<()> {
        let sql = "SELECT finished_at, coalesce(reason, '') FROM finished WHERE id = ?1";
        let read = |row: &rusqlite::Row<'_>| Ok((Timestamp(row.get(0)?), row.get(1)?));
        let died: Option<(Timestamp, String)> = self.one(sql, [sql_id(job)], read)?;
        let Some((at, reason)) = died else { return Ok(()) };
        self.insert_note(job, at, (NoteKind::Died, None), ("", &reason))
    }

    pub(super) fn replay(&mut self, original: JobId, edit: Edit) -> rusqlite::Result<Changed> {
        let Some(job) = self.job(original)? else { return Ok(Changed::NotFound) };
        if !job.state.is_final() {
            return Ok(Changed::WrongState(job.state));
        }
        let Some(copy) = job.copy(edit) else { return Ok(Changed::Dropped) };
        let queue = copy.queue.clone();
        match self.push_one(&copy)? {
            Pushed::Duplicate { id, .. } => Ok(Changed::Duplicate(id)),
            Pushed::Replaced { .. } | Pushed::Refused(_) => Ok(Changed::NotFound),
            Pushed::Inserted { id, run_at, .. } => {
                let sql = "UPDATE finished SET replayed_as = ?2 WHERE id = ?1";
                self.execute(sql, params![sql_id(original), sql_id(id)])?;
                self.note(original, NoteKind::Replayed, id.to_string())?;
                let to = run_at.map_or(Destination::Ready, Destination::Scheduled);
                Ok(Changed::Done(Effect { job: id, queue, to }))
            }
        }
    }

    pub(super) fn delete(&mut self, id: JobId) -> rusqlite::Result<Changed> {
        Ok(match self.state(id)? {
            None => Changed::NotFound,
            Some(state) if !state.is_final() => Changed::WrongState(state),
            Some(state) => {
                let sql = "SELECT queue_id FROM finished WHERE id = ?1";
                let queue =
                    self.conn.prepare_cached(sql)?.query_row([sql_id(id)], |row| row.get(0))?;
                self.forget_one(queue, sql_id(id))?;
                Changed::Done(self.effect(queue, id, Destination::Finished(state)))
            }
        })
    }

    pub(super) fn cancel(&mut self, job: JobId, grace: Duration) -> rusqlite::Result<Cancelled> {
        match self.end_waiting(job, State::Cancelled, None)? {
            Ok(effect) => {
                let mut effects = vec![effect];
                self.release_dependents(&mut effects)?;
                Ok(Cancelled::Done(effects))
            }
            Err(Some(_)) => self.ask_to_cancel(job, grace),
            Err(None) => Ok(match self.state(job)? {
                Some(state) => Cancelled::WrongState(state),
                None => Cancelled::NotFound,
            }),
        }
    }

    /// Notes that somebody asks for the end of a leased job.
    fn ask_to_cancel(&mut self, job: JobId, grace: Duration) -> rusqlite::Result<Cancelled> {
        let sql = "INSERT INTO cancel (job_id, requested_at, force_at) VALUES (?1, ?2, ?3)
                   ON CONFLICT DO UPDATE SET force_at = min(force_at, excluded.force_at)
                   RETURNING force_at";
        let values = params![sql_id(job), self.now.0, (self.now + grace).0];
        let force_at = self.one(sql, values, |row| row.get(0))?.map(Timestamp);
        self.leases.set_not_plain(job);
        let held = self.leases.held(job);
        let (Some(held), Some(force_at)) = (held, force_at) else { return Ok(Cancelled::NotFound) };
        let lease = Lease { job, delivery: held.delivery };
        let session = self.leases.row(held.row).session;
        let detail = format!("forced at {}", self.now + grace);
        self.note(job, NoteKind::CancelRequested, detail)?;
        Ok(Cancelled::Requested { lease, session, force_at })
    }

    pub(super) fn discard(&mut self, job: JobId) -> rusqlite::Result<Discarded> {
        match self.end_waiting(job, State::Dead, Some(Reason::Rejected))? {
            Ok(effect) => {
                self.note(job, NoteKind::Discarded, "")?;
                let mut more = Vec::new();
                self.release_dependents(&mut more)?;
                Ok(Discarded::Done(effect, more))
            }
            Err(_) => {
                let state = self.state(job)?;
                Ok(state.map_or(Discarded::NotFound, Discarded::WrongState))
            }
        }
    }

    pub(super) fn edit(&mut self, job: JobId, edit: Edit) -> rusqlite::Result<Changed> {
        match self.state(job)? {
            None => return Ok(Changed::NotFound),
            Some(State::Blocked | State::Scheduled | State::Ready) => {}
            Some(state) => return Ok(Changed::WrongState(state)),
        }
        if let Some((queue, payload)) = &edit.was
            && !self.is_still(job, queue, payload)?
        {
            return Ok(Changed::Outdated);
        }
        if let Some(queue) = &edit.queue
            && let Some(holder) = self.move_to(job, queue)?
        {
            return Ok(Changed::Duplicate(holder));
        }
        self.apply(job, &edit)?;
        if let Some(words) = edit.words() {
            self.note(job, NoteKind::Edited, words)?;
        }
        let id = sql_id(job);
        let queue = self.queue_of(id)?;
        let sql = "SELECT run_at FROM job WHERE id = ?1";
        let run_at = self.one(sql, [id], |row| row::time(row, 0))?.flatten();
        let to = match (self.live_state(job)?, run_at) {
            (State::Scheduled, Some(at)) => Destination::Scheduled(at),
            (State::Ready, _) => Destination::Ready,
            _ => Destination::Blocked,
        };
        Ok(Changed::Done(self.effect(queue, job, to)))
    }

    fn is_still(&self, job: JobId, queue: &QueueName, was: &Payload) -> rusqlite::Result<bool> {
        let sql = "SELECT payload = ?2 AND content_type IS ?3 FROM job WHERE id = ?1";
        let (id, content_type) = (sql_id(job), was.content_type.as_deref());
        let values = params![id, &was.bytes[..], content_type];
        let is_same = self.one(sql, values, |row| row.get(0))?.unwrap_or(false);
        Ok(is_same && self.find_queue(queue) == Some(self.queue_of(id)?))
    }

    /// Moves a job with the key that it has as long as it lives. Its other keys stay behind. The
    /// answer: who has that key there, if somebody has.
    fn move_to(&mut self, job: JobId, name: &QueueName) -> rusqlite::Result<Option<JobId>> {
        let id = sql_id(job);
        let (from, to) = (self.queue_of(id)?, self.queue(name)?);
        if from == to {
            return Ok(None);
        }
        let sql = "SELECT unique_key, options FROM job WHERE id = ?1";
        let read =
            |row: &rusqlite::Row<'_>| Ok((row.get::<_, Option<String>>(0)?, row::options(row, 1)?));
        let (key, options) = self.conn.prepare_cached(sql)?.query_row([id], read)?;
        let key = key.filter(|_| options.hold == UniqueHold::Live);
        if let Some(key) = &key
            && let Some(holder) = self.holder_of_key(to, KeyKind::Live, key)?
        {
            return Ok(Some(holder));
        }
        self.release_key(from, id)?;
        if let Some(key) = key {
            self.take_key(to, KeyKind::Live, &key, id, None)?;
        }
        let state = self.live_state(job)?;
        if state == State::Ready {
            self.leave_line(from, id)?;
        } else {
            self.moved_queue(from, to, state);
        }
        self.execute("UPDATE job SET queue_id = ?2 WHERE id = ?1", params![id, to])?;
        if state == State::Ready {
            self.join_line(to, id)?;
        }
        let detail = format!("from {} to {name}", self.details(from).name);
        self.note(job, NoteKind::Moved, detail)?;
        Ok(None)
    }

    fn moved_queue(&mut self, from: QueueId, to: QueueId, state: State) {
        *self.count(from, state) -= 1;
        *self.count(to, state) += 1;
    }

    /// What an edit says of a job by itself.
    pub(super) fn apply(&mut self, job: JobId, edit: &Edit) -> rusqlite::Result<()> {
        let id = sql_id(job);
        if let Some(payload) = &edit.payload {
            let sql = "UPDATE job SET payload = ?2, content_type = ?3 WHERE id = ?1";
            let (bytes, content_type) = (&payload.bytes[..], payload.content_type.as_deref());
            self.execute(sql, params![id, bytes, content_type])?;
        }
        let (queue, state) = (self.queue_of(id)?, self.live_state(job)?);
        if state == State::Ready {
            self.leave_line(queue, id)?;
        }
        if let Some(priority) = edit.priority {
            let sql = "UPDATE job SET priority = ?2 WHERE id = ?1";
            self.execute(sql, params![id, priority])?;
        }
        if state == State::Ready {
            self.insert_ready(queue, id)?;
        }
        let Some(when) = edit.when else { return Ok(()) };
        let run_at = self.run_at(when);
        match (state, run_at) {
            (State::Scheduled, None) => return self.make_ready(id).map(drop),
            (State::Scheduled, Some(_)) => self.leave_schedule(queue, id)?,
            (State::Ready, Some(_)) => self.leave_line(queue, id)?,
            _ => {}
        }
        let sql = "UPDATE job SET run_at = ?2 WHERE id = ?1";
        self.execute(sql, params![id, run_at.map(|at| at.0)])?;
        match run_at {
            Some(at) if state != State::Blocked => self.insert_scheduled(queue, id, at),
            _ => Ok(()),
        }
    }

    pub(super) fn promote(&mut self, job: JobId) -> rusqlite::Result<Changed> {
        match self.state(job)? {
            Some(State::Scheduled) => {
                self.note(job, NoteKind::Promoted, "")?;
                Ok(Changed::Done(self.make_ready(sql_id(job))?))
            }
            Some(state) => Ok(Changed::WrongState(state)),
            None => Ok(Changed::NotFound),
        }
    }
}
