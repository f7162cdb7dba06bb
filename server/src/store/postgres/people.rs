//! Changes that people ask for.

use tokio_postgres::Row;

use super::duties::LEAVE_PLACES;
use super::inspect::read_job;
use super::lane::{Failure, Tx};
use super::push::push_with_keys;
use super::row::{get, job_id, now};
use super::settle::finish_waiting;
use super::{PostgresStore, retrying};
use crate::job::{JobId, QueueName, Reason, State};
use crate::store::columns::sql_id;
use crate::store::{Changed, DeadFilter, Destination, Effect, Pausing, Pushed};

/// Locks a finished job, so that nobody forgets or revives it meanwhile.
const LOCK_FINISHED: &str = "
    SELECT id, state, queue_id, priority, unique_key
    FROM finished
    WHERE id = $1
    FOR UPDATE";

const TAKE_KEY: &str = "
    INSERT INTO unique_key (queue_id, key, job_id)
    VALUES ($1, $2, $3)
    ON CONFLICT (queue_id, key) DO UPDATE SET job_id = unique_key.job_id
    RETURNING job_id";

const REVIVE: &str = "
    WITH gone AS (
        DELETE FROM finished
        WHERE id = $1
        RETURNING *
    ),
    new AS MATERIALIZED (
        SELECT *, nextval('number') AS place FROM gone
    ),
    line AS (
        INSERT INTO ready (
            queue_id, priority, place, job_id, delivery, bytes, ready_at, timeout_ms
        )
        SELECT
            queue_id, priority, place, id, deliveries + 1, length(payload), now_ms(), timeout_ms
        FROM new
    )
    INSERT INTO job (
        id, queue_id, priority, place, created_at, max_attempts, attempts, delivery, crashes,
        timeout_ms, replay_of, replayed_as, content_type, backoff, unique_key, tags, payload
    )
    SELECT
        id, queue_id, priority, place, created_at, max_attempts, 0, deliveries + 1, 0,
        timeout_ms, replay_of, replayed_as, content_type, backoff, unique_key, tags, payload
    FROM new
    RETURNING queue_id, priority, place";

const REPLAYABLE: &str = "
    SELECT id
    FROM finished
    WHERE state = 'dead' AND replayed_as IS NULL AND id > $1
    AND ($2::bigint IS NULL OR queue_id = $2)
    AND ($3::text IS NULL OR reason = $3)
    ORDER BY id
    LIMIT $4
    FOR UPDATE";

impl PostgresStore {
    pub(super) async fn pause(&self, queue: &QueueName, pausing: Pausing) -> Result<(), Failure> {
        let ids = self.queues.ids(&self.pool, std::iter::once(queue)).await?;
        let sql = match pausing {
            Pausing::Pause => {
                "UPDATE queue SET paused_at = now_ms() WHERE id = $1 AND paused_at IS NULL"
            }
            Pausing::Resume => {
                "UPDATE queue SET paused_at = NULL WHERE id = $1 AND paused_at IS NOT NULL"
            }
        };
        let tx = self.pool.begin().await?;
        tx.commit(&[(sql, &[&ids[queue]])]).await?;
        if pausing == Pausing::Resume {
            self.note_resumed(ids[queue]);
        }
        Ok(())
    }

    pub(super) async fn retry_job(&self, job: JobId) -> Result<Changed, Failure> {
        retrying!(self.try_retry(job))
    }

    async fn try_retry(&self, job: JobId) -> Result<Changed, Failure> {
        let mut tx = self.pool.begin().await?;
        let id = sql_id(job);
        let finished = match self.lock_finished(&mut tx, job).await? {
            Ok(row) => row,
            Err(changed) => return Ok(changed),
        };
        if get::<&str>(&finished, "state") != State::Dead.name() {
            return Ok(Changed::WrongState(state_of(&finished)));
        }
        let queue: i64 = get(&finished, "queue_id");
        if let Some(key) = get::<Option<&str>>(&finished, "unique_key") {
            let holder = tx.query(TAKE_KEY, &[&queue, &key, &id]).await?;
            let holder = job_id(&holder[0], "job_id");
            if holder != job {
                return Ok(Changed::Duplicate(holder));
            }
        }
        let rows = tx.commit(&[(REVIVE, &[&id])]).await?;
        let row = &rows[0][0];
        self.note_all(vec![(queue, get(row, "priority"), get(row, "place"))]);
        let queue = self.queues.name(&self.pool, queue).await?;
        Ok(Changed::Done(Effect { job, queue, to: Destination::Ready }))
    }

    /// Locks a finished job; else, what is to be answered.
    async fn lock_finished(
        &self,
        tx: &mut Tx<'_>,
        job: JobId,
    ) -> Result<Result<Row, Changed>, Failure> {
        match tx.query(LOCK_FINISHED, &[&sql_id(job)]).await?.pop() {
            Some(row) => Ok(Ok(row)),
            None => Ok(Err(self.not_there(tx, job).await?)),
        }
    }

    /// Where a job is that was not where it was looked for.
    async fn not_there(&self, tx: &mut Tx<'_>, job: JobId) -> Result<Changed, Failure> {
        let state = super::inspect::state(tx, job).await?;
        Ok(state.map_or(Changed::NotFound, Changed::WrongState))
    }

    pub(super) async fn replay_job(&self, job: JobId) -> Result<Changed, Failure> {
        retrying!(self.try_replay(job))
    }

    async fn try_replay(&self, original: JobId) -> Result<Changed, Failure> {
        let mut tx = self.pool.begin().await?;
        let mut pushed = Vec::new();
        let changed = self.replay_in(&mut tx, original, &mut pushed).await?;
        tx.commit(&[]).await?;
        self.note_all(pushed);
        Ok(changed)
    }

    async fn replay_in(
        &self,
        tx: &mut Tx<'_>,
        original: JobId,
        notes: &mut Vec<super::settle::Note>,
    ) -> Result<Changed, Failure> {
        if let Err(changed) = self.lock_finished(tx, original).await? {
            return Ok(changed);
        }
        let Some(job) = read_job(self, tx, original).await? else { return Ok(Changed::NotFound) };
        let queue = job.queue.clone();
        let Some(copy) = job.copy() else { return Ok(Changed::NotFound) };
        let queues = self.queues.ids(&self.pool, std::iter::once(&queue)).await?;
        let pushed = push_with_keys(tx, std::slice::from_ref(&copy), &queues).await?;
        match pushed[0] {
            Pushed::Duplicate { id, .. } => Ok(Changed::Duplicate(id)),
            Pushed::Inserted { id, .. } => {
                let sql = "UPDATE finished SET replayed_as = $2 WHERE id = $1";
                tx.query(sql, &[&sql_id(original), &sql_id(id)]).await?;
                notes.push((queues[&queue], copy.priority, sql_id(id)));
                Ok(Changed::Done(Effect { job: id, queue, to: Destination::Ready }))
            }
        }
    }

    pub(super) async fn replay_all(&self, filter: &DeadFilter) -> Result<Vec<Effect>, Failure> {
        retrying!(self.try_replay_all(filter))
    }

    async fn try_replay_all(&self, filter: &DeadFilter) -> Result<Vec<Effect>, Failure> {
        let queue = match &filter.queue {
            None => None,
            Some(name) => match self.queues.find_all(&self.pool, std::iter::once(name)).await? {
                found if found.is_empty() => return Ok(Vec::new()),
                found => Some(found[name]),
            },
        };
        let reason = filter.reason.map(Reason::name);
        let mut tx = self.pool.begin().await?;
        let (mut effects, mut notes) = (Vec::new(), Vec::new());
        let mut last = 0_i64;
        // One whose unique key is taken uses up none of the limit.
        while effects.len() < filter.limit {
            let wanted = i64::try_from(filter.limit - effects.len()).unwrap_or(i64::MAX);
            let found = tx.query(REPLAYABLE, &[&last, &queue, &reason, &wanted]).await?;
            let Some(newest) = found.last() else { break };
            last = get(newest, "id");
            for row in &found {
                let original = job_id(row, "id");
                if let Changed::Done(effect) = self.replay_in(&mut tx, original, &mut notes).await?
                {
                    effects.push(effect);
                }
            }
        }
        tx.commit(&[]).await?;
        self.note_all(notes);
        Ok(effects)
    }

    pub(super) async fn cancel_job(&self, job: JobId) -> Result<Changed, Failure> {
        retrying!(self.try_cancel(job))
    }

    async fn try_cancel(&self, job: JobId) -> Result<Changed, Failure> {
        let mut tx = self.pool.begin().await?;
        let left = tx.query(LEAVE_PLACES, &[&vec![sql_id(job)]]).await?;
        if left.is_empty() {
            return self.not_there(&mut tx, job).await;
        }
        let now = now(&tx.query("SELECT now_ms() AS now", &[]).await?[0]);
        let mut effects =
            finish_waiting(self, &mut tx, &[job], State::Cancelled, None, now).await?;
        tx.commit(&[]).await?;
        Ok(effects.pop().map_or(Changed::NotFound, Changed::Done))
    }

    pub(super) async fn promote_job(&self, job: JobId) -> Result<Changed, Failure> {
        retrying!(self.try_promote(job))
    }

    async fn try_promote(&self, job: JobId) -> Result<Changed, Failure> {
        let mut tx = self.pool.begin().await?;
        let mut notes = Vec::new();
        let Some(effect) = self.make_ready(&mut tx, job, &mut notes).await? else {
            return self.not_there(&mut tx, job).await;
        };
        tx.commit(&[]).await?;
        self.note_all(notes);
        Ok(Changed::Done(effect))
    }
}

fn state_of(row: &Row) -> State {
    State::parse(get(row, "state")).unwrap_or(State::Dead)
}
