//! Storing new jobs.

use rusqlite::params;

use super::row::job_id;
use super::tables::{QueueId, Tables};
use crate::job::{JobId, NewJob, State, Timestamp, When};
use crate::store::Pushed;
use crate::store::columns::{sql_backoff, sql_id, sql_millis, sql_tags};

const INSERT_JOB: &str = "
    INSERT INTO job (
        id, queue_id, priority, place, created_at, max_attempts, attempts, delivery, crashes,
        run_at, expires_at, timeout_ms, replay_of, content_type, backoff, unique_key, tags, payload
    )
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, 1, 0, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)";

impl Tables {
    pub(super) fn push(&mut self, jobs: Vec<NewJob>) -> rusqlite::Result<Vec<Pushed>> {
        jobs.iter().map(|job| self.push_one(job)).collect()
    }

    pub(super) fn push_one(&mut self, job: &NewJob) -> rusqlite::Result<Pushed> {
        let queue = self.queue(&job.queue)?;
        if let Some(id) = self.holder_of_key(queue, job.unique.as_ref().map(|key| key.as_str()))? {
            return Ok(Pushed::Duplicate { id, state: self.live_state(id)? });
        }
        let number = self.next_number()?;
        let run_at = match job.when {
            When::Now => None,
            When::After(delay) => Some(self.now + delay),
            When::At(at) => Some(at),
        };
        let run_at = run_at.filter(|at| *at > self.now);
        let expires_at = job.ttl.map(|ttl| self.now + ttl);
        self.execute(
            INSERT_JOB,
            params![
                number,
                queue,
                job.priority,
                if run_at.is_none() { number } else { 0 },
                self.now.0,
                job.max_attempts,
                run_at.map(|at| at.0),
                expires_at.map(|at| at.0),
                job.timeout.map(sql_millis),
                job.replay_of.map(sql_id),
                job.payload.content_type.as_deref(),
                job.backoff.as_ref().map(sql_backoff),
                job.unique.as_ref().map(|key| key.as_str()),
                sql_tags(&job.tags),
                &job.payload.bytes[..],
            ],
        )?;
        self.insert_extras(queue, number, job, expires_at)?;
        match run_at {
            Some(run_at) => self.insert_scheduled(queue, number, run_at)?,
            None => self.insert_ready(queue, job.priority, number, number)?,
        }
        Ok(Pushed::Inserted { id: JobId(number.cast_unsigned()), run_at })
    }

    /// What only jobs have that use it.
    fn insert_extras(
        &self,
        queue: QueueId,
        id: i64,
        job: &NewJob,
        expires_at: Option<Timestamp>,
    ) -> rusqlite::Result<()> {
        if let Some(key) = &job.unique {
            self.insert_key(queue, key.as_str(), id)?;
        }
        if let Some(expires_at) = expires_at {
            self.insert_ttl(id, expires_at)?;
        }
        for tag in &job.tags {
            let sql = "INSERT INTO job_tag (tag, job_id) VALUES (?1, ?2)";
            self.execute(sql, params![tag.as_str(), id])?;
        }
        Ok(())
    }

    pub(super) fn insert_key(&self, queue: QueueId, key: &str, id: i64) -> rusqlite::Result<()> {
        let sql = "INSERT INTO unique_key (queue_id, key, job_id) VALUES (?1, ?2, ?3)";
        self.execute(sql, params![queue, key, id])
    }

    pub(super) fn insert_ttl(&self, id: i64, expires_at: Timestamp) -> rusqlite::Result<()> {
        let sql = "INSERT INTO ttl (expires_at, job_id) VALUES (?1, ?2)";
        self.execute(sql, params![expires_at.0, id])
    }

    /// The live job that has a unique key.
    pub(super) fn holder_of_key(
        &self,
        queue: QueueId,
        key: Option<&str>,
    ) -> rusqlite::Result<Option<JobId>> {
        let Some(key) = key else { return Ok(None) };
        let sql = "SELECT job_id FROM unique_key WHERE queue_id = ?1 AND key = ?2";
        self.one(sql, params![queue, key], |row| job_id(row, 0))
    }

    /// A job's row says what it waits for; this puts it in line.
    pub(super) fn insert_ready(
        &mut self,
        queue: QueueId,
        priority: i32,
        place: i64,
        id: i64,
    ) -> rusqlite::Result<()> {
        self.execute(
            "INSERT INTO ready (queue_id, rank, place, job_id, ready_at)
             VALUES (?1, ?2, ?3, ?4, ?5)",
            params![queue, -i64::from(priority), place, id, self.now.0],
        )?;
        *self.count(queue, State::Ready) += 1;
        Ok(())
    }

    pub(super) fn insert_scheduled(
        &mut self,
        queue: QueueId,
        id: i64,
        run_at: Timestamp,
    ) -> rusqlite::Result<()> {
        let sql = "INSERT INTO scheduled (run_at, job_id) VALUES (?1, ?2)";
        self.execute(sql, params![run_at.0, id])?;
        *self.count(queue, State::Scheduled) += 1;
        Ok(())
    }
}
