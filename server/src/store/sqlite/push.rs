//! Storing new jobs.

use std::sync::LazyLock;

use rusqlite::params;

use super::row::{self, job_id};
use super::tables::{QueueId, Tables};
use crate::job::{JobId, NewJob, State, Timestamp, UniqueHold, When};
use crate::limits;
use crate::store::columns::{sql_backoff, sql_id, sql_kind, sql_millis, sql_options, sql_tags};
use crate::store::{Detail, Edit, EventKind, KeyKind, Pushed, Refusal, Same};

const INSERT_JOB: &str = "
    INSERT INTO job (
        id, queue_id, priority, place, created_at, max_attempts, attempts, delivery, crashes,
        run_at, expires_at, timeout_ms, replay_of, content_type, backoff, unique_key, tags,
        options, gate, payload
    )
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, 1, 0, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)";

/// How many rows are inserted at once, and how. More at once are not faster.
static INSERT_ROWS: LazyLock<[(usize, String); 3]> =
    LazyLock::new(|| [50, 10, 1].map(|count| (count, insert_rows(count))));

fn insert_rows(count: usize) -> String {
    let row = |place| {
        let payload = 8 + place;
        format!("(?1 + {place}, ?2, ?3, ?1 + {place}, ?4, ?5, 0, 1, 0, ?6, ?7, ?{payload})")
    };
    let rows: Vec<String> = (0..count).map(row).collect();
    format!(
        "INSERT INTO job (
             id, queue_id, priority, place, created_at, max_attempts, attempts, delivery, crashes,
             timeout_ms, content_type, payload
         )
         VALUES {}",
        rows.join(", ")
    )
}

/// The plain jobs at the head that differ in their payloads only.
fn plain_run(jobs: &[NewJob]) -> &[NewJob] {
    let Some(like) = jobs.first() else { return jobs };
    let is_like = |job: &&NewJob| {
        is_plain(job)
            && job.queue == like.queue
            && job.payload.content_type == like.payload.content_type
            && (job.priority, job.max_attempts) == (like.priority, like.max_attempts)
            && job.timeout == like.timeout
    };
    let count = jobs.iter().take_while(is_like).count();
    &jobs[..count]
}

/// Whether a job is ready at once and has nothing that is written elsewhere than in its row.
fn is_plain(job: &NewJob) -> bool {
    let is_bare = job.tags.is_empty() && job.backoff.is_none() && job.waits_for.is_empty();
    let is_free = job.unique.is_none() && job.ttl.is_none() && job.replay_of.is_none();
    is_bare && is_free && job.when == When::Now && job.options.is_default()
}

impl Tables {
    pub(super) fn push(&mut self, jobs: Vec<NewJob>) -> rusqlite::Result<Vec<Pushed>> {
        let mut refusals = Vec::with_capacity(jobs.len());
        for job in &jobs {
            refusals.push(self.refusal(job)?);
        }
        // Jobs that wait for each other are stored together or not at all.
        if jobs.iter().any(|job| job.is_part)
            && let Some(refusal) = refusals.iter().flatten().next().copied()
        {
            refusals.fill(Some(refusal));
        }
        let mut pushed: Vec<Pushed> = Vec::with_capacity(jobs.len());
        while let Some(job) = jobs.get(pushed.len()) {
            let run = plain_run(&jobs[pushed.len()..]);
            let id = |place: usize| pushed.get(place).and_then(Pushed::id);
            match refusals[pushed.len()] {
                Some(refusal) => pushed.push(Pushed::Refused(refusal)),
                None if run.is_empty() => {
                    let one = self.push_one(&job.clone().resolved(id))?;
                    pushed.push(one);
                }
                None => pushed.extend(self.push_run(run)?),
            }
        }
        // Nobody can wait yet for a job that is dead at once.
        self.ended.clear();
        Ok(pushed)
    }

    fn refusal(&mut self, job: &NewJob) -> rusqlite::Result<Option<Refusal>> {
        self.queue(&job.queue)?;
        for need in &job.options.depends.on {
            if self.state(*need)?.is_none() {
                return Ok(Some(Refusal::NoSuchJob(*need)));
            }
        }
        Ok(None)
    }

    /// Stores plain jobs that are alike, in as few statements as are fast.
    fn push_run(&mut self, run: &[NewJob]) -> rusqlite::Result<Vec<Pushed>> {
        let like = &run[0];
        let queue = self.queue(&like.queue)?;
        let first = self.next_numbers(run.len())?;
        let (mut left, mut id) = (run, first);
        while !left.is_empty() {
            let (count, sql) = INSERT_ROWS
                .iter()
                .find(|(count, _)| *count <= left.len())
                .expect("the last of them inserts one row");
            let (rows, rest) = left.split_at(*count);
            self.insert_rows(sql, queue, id, rows)?;
            (left, id) = (rest, id + *count as i64);
        }
        for id in first..id {
            self.tell(EventKind::Pushed, queue, Some(id), &Detail::default())?;
        }
        self.insert_all_ready(queue, like.priority, first, run.len())?;
        let pushed = |id: i64| Pushed::Inserted {
            id: JobId(id.cast_unsigned()),
            state: State::Ready,
            run_at: None,
        };
        Ok((first..id).map(pushed).collect())
    }

    fn insert_rows(
        &self,
        sql: &str,
        queue: QueueId,
        first: i64,
        rows: &[NewJob],
    ) -> rusqlite::Result<()> {
        let like = &rows[0];
        let mut statement = self.conn.prepare_cached(sql)?;
        statement.raw_bind_parameter(1, first)?;
        statement.raw_bind_parameter(2, queue)?;
        statement.raw_bind_parameter(3, like.priority)?;
        statement.raw_bind_parameter(4, self.now.0)?;
        statement.raw_bind_parameter(5, like.max_attempts)?;
        statement.raw_bind_parameter(6, like.timeout.map(sql_millis))?;
        statement.raw_bind_parameter(7, like.payload.content_type.as_deref())?;
        for (place, job) in rows.iter().enumerate() {
            statement.raw_bind_parameter(8 + place, &job.payload.bytes[..])?;
        }
        statement.raw_execute().map(drop)
    }

    pub(super) fn push_one(&mut self, job: &NewJob) -> rusqlite::Result<Pushed> {
        let queue = self.queue(&job.queue)?;
        if let Some(pushed) = self.met(queue, job)? {
            return Ok(pushed);
        }
        let number = self.next_number()?;
        let run_at = self.run_at(job.when);
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
                sql_options(&job.options),
                job.options.flow.gate().unwrap_or_default(),
                &job.payload.bytes[..],
            ],
        )?;
        self.insert_extras(queue, number, job, expires_at)?;
        self.tell(EventKind::Pushed, queue, Some(number), &Detail::default())?;
        let id = JobId(number.cast_unsigned());
        let state = match self.block(queue, id, &job.options.depends)? {
            Some(state) => state,
            None if run_at.is_some() => State::Scheduled,
            None => State::Ready,
        };
        match (state, run_at) {
            (State::Scheduled, Some(run_at)) => self.insert_scheduled(queue, number, run_at)?,
            (State::Ready, _) => self.insert_ready(queue, number)?,
            _ => {}
        }
        Ok(Pushed::Inserted { id, state, run_at })
    }

    /// When a job may run. `None`: at once.
    pub(super) fn run_at(&self, when: When) -> Option<Timestamp> {
        let run_at = match when {
            When::Now => None,
            When::After(delay) => Some(self.now + delay),
            When::At(at) => Some(at),
        };
        run_at.filter(|at| *at > self.now)
    }

    /// What becomes of a push that meets another job with one of its keys.
    fn met(&mut self, queue: QueueId, job: &NewJob) -> rusqlite::Result<Option<Pushed>> {
        if let Some(key) = &job.options.idempotency
            && let Some(id) = self.holder_of_key(queue, KeyKind::Push, key.as_str())?
        {
            return self.duplicate(id, Same::Push).map(Some);
        }
        if let Some(key) = &job.options.custom_id
            && let Some(id) = self.holder_of_custom_id(key)?
        {
            return self.duplicate(id, Same::CustomId).map(Some);
        }
        let Some(key) = &job.unique else { return Ok(None) };
        let kind = KeyKind::of(job.options.hold);
        let Some(id) = self.holder_of_key(queue, kind, key.as_str())? else { return Ok(None) };
        match kind {
            KeyKind::Debounce => self.debounce(id, job),
            KeyKind::Window => self.duplicate(id, Same::Window).map(Some),
            _ => self.duplicate(id, Same::Unique).map(Some),
        }
    }

    fn duplicate(&self, id: JobId, of: Same) -> rusqlite::Result<Pushed> {
        let state = self.state(id)?.unwrap_or(State::Completed);
        Ok(Pushed::Duplicate { id, state, of })
    }

    /// A waiting job takes over what the later push says. `None`: it waits no longer.
    fn debounce(&mut self, id: JobId, job: &NewJob) -> rusqlite::Result<Option<Pushed>> {
        let sql = "SELECT delivery FROM job WHERE id = ?1";
        let delivery: Option<u32> = self.one(sql, [sql_id(id)], |row| row.get(0))?;
        if delivery != Some(1) || self.leases.held(id).is_some() {
            return Ok(None);
        }
        let (payload, when) = (Some(job.payload.clone()), Some(job.when));
        self.apply(id, &Edit { payload, when, ..Edit::default() })?;
        let sql = "SELECT run_at FROM job WHERE id = ?1";
        let run_at = self.one(sql, [sql_id(id)], |row| row::time(row, 0))?.flatten();
        Ok(Some(Pushed::Replaced { id, state: self.live_state(id)?, run_at }))
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
            let until = match job.options.hold {
                UniqueHold::WindowMs(window) => Some(self.now + window),
                UniqueHold::Live | UniqueHold::Debounce => None,
            };
            self.take_key(queue, KeyKind::of(job.options.hold), key.as_str(), id, until)?;
        }
        if let Some(key) = &job.options.idempotency {
            let until = Some(self.now + limits::IDEMPOTENCY_WINDOW);
            self.take_key(queue, KeyKind::Push, key.as_str(), id, until)?;
        }
        if let Some(key) = &job.options.custom_id {
            self.take_custom_id(key, id)?;
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

    /// Gives a key to a job. Whoever had it has it no longer.
    pub(super) fn take_key(
        &self,
        queue: QueueId,
        kind: KeyKind,
        key: &str,
        id: i64,
        until: Option<Timestamp>,
    ) -> rusqlite::Result<()> {
        let sql = "INSERT OR REPLACE INTO unique_key (queue_id, kind, key, job_id, expires_at)
                   VALUES (?1, ?2, ?3, ?4, ?5)";
        self.execute(sql, params![queue, sql_kind(kind), key, id, until.map(|at| at.0)])
    }

    pub(super) fn insert_ttl(&self, id: i64, expires_at: Timestamp) -> rusqlite::Result<()> {
        let sql = "INSERT INTO ttl (expires_at, job_id) VALUES (?1, ?2)";
        self.execute(sql, params![expires_at.0, id])
    }

    /// The job that has a key now.
    pub(super) fn holder_of_key(
        &self,
        queue: QueueId,
        kind: KeyKind,
        key: &str,
    ) -> rusqlite::Result<Option<JobId>> {
        let sql = "SELECT job_id FROM unique_key
                   WHERE queue_id = ?1 AND kind = ?2 AND key = ?3
                   AND (expires_at IS NULL OR expires_at > ?4)";
        self.one(sql, params![queue, sql_kind(kind), key, self.now.0], |row| job_id(row, 0))
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
