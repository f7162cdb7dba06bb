//! Changes that people ask for.

use std::time::Duration;

use tokio_postgres::Row;

use super::custom_ids::{NAME, NO_QUEUE};
use super::duties::leave_places;
use super::inspect::read_job;
use super::keys::take_for;
use super::lane::{Failure, Tx};
use super::needs::release_dependents;
use super::notes::Noted;
use super::retention::{self, FORGET};
use super::row::{self, count, get, now, time};
use super::settle::finish_waiting;
use super::{PostgresStore, QueueId, leases, logs, retrying, runs};
use crate::job::{JobId, Lease, Options, Payload, QueueName, Reason, State, Timestamp, UniqueHold};
use crate::store::columns::{sql_id, sql_when};
use crate::store::{
    Cancelled, Changed, Destination, Discarded, Edit, Effect, KeyKind, NoteKind, Pausing, Pushed,
};

const PAUSE: &str = "
    UPDATE queue
    SET paused_at = now_ms(), paused_by = $2
    WHERE id = $1 AND paused_at IS NULL";

const RESUME: &str = "
    UPDATE queue
    SET paused_at = NULL, paused_by = NULL
    WHERE id = $1 AND paused_at IS NOT NULL";

/// Locks a finished job, so that nobody forgets or revives it meanwhile. One that is in a run is not
/// found.
const LOCK_FINISHED: &str = "
    SELECT id, state, queue_id, priority, unique_key, options, finished_at, reason
    FROM finished
    WHERE id = $1
    FOR UPDATE";

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
            queue_id, gate, priority, place, job_id, delivery, bytes, ready_at, timeout_ms
        )
        SELECT
            queue_id, coalesce($2, ''), priority, place, id, deliveries + 1, length(payload),
            now_ms(), timeout_ms
        FROM new
    )
    INSERT INTO job (
        id, queue_id, priority, place, created_at, max_attempts, attempts, delivery, crashes,
        timeout_ms, replay_of, replayed_as, content_type, backoff, unique_key, tags, options, gate,
        is_watched, payload
    )
    SELECT
        id, queue_id, priority, place, created_at, max_attempts, 0, deliveries + 1, 0,
        timeout_ms, replay_of, replayed_as, content_type, backoff, unique_key, tags, options, $2,
        (SELECT true FROM dependency WHERE needs_id = $1 LIMIT 1) IS NOT NULL, payload
    FROM new
    RETURNING queue_id, priority, place";

const REQUEST: &str = "
    INSERT INTO cancel (job_id, delivery, requested_at, force_at)
    VALUES ($1, $2, $3, $4)
    ON CONFLICT (job_id) DO UPDATE
    SET force_at = CASE
            WHEN cancel.delivery = excluded.delivery THEN least(cancel.force_at, excluded.force_at)
            ELSE excluded.force_at
        END,
        requested_at = CASE
            WHEN cancel.delivery = excluded.delivery THEN cancel.requested_at
            ELSE excluded.requested_at
        END,
        delivery = excluded.delivery
    RETURNING force_at";

const IS_STILL: &str = "
    SELECT id
    FROM job
    WHERE id = $1 AND queue_id = $2 AND payload = $3 AND content_type IS NOT DISTINCT FROM $4
    FOR UPDATE";

/// is_due: it was scheduled and is so no more. It gets a new place then.
const RESCHEDULE: &str = "
    WITH clock AS MATERIALIZED (SELECT now_ms() AS now),
    due AS MATERIALIZED (
        SELECT
            CASE WHEN $2::bigint IS NULL THEN $3 ELSE (SELECT now FROM clock) + $2 END AS at,
            (SELECT run_at FROM job WHERE id = $1) AS before
    )
    UPDATE job
    SET run_at = CASE WHEN d.at > (SELECT now FROM clock) THEN d.at END
    FROM due d
    WHERE job.id = $1
    RETURNING d.before IS NOT NULL AND run_at IS NULL AS is_due";

/// Puts a job that waits back where its row says; with a new place if $2. A blocked job has had
/// nothing but its mark taken away, and waits for others as long as it has rows in `dependency`.
const RETURN: &str = "
    WITH old AS MATERIALIZED (
        SELECT
            ctid AS tid,
            (SELECT true FROM dependency WHERE job_id = $1 LIMIT 1) IS NOT NULL AS is_held,
            run_at,
            place
        FROM job
        WHERE id = $1
    ),
    placed AS MATERIALIZED (
        SELECT
            tid,
            is_held,
            CASE
                WHEN $2 AND NOT is_held AND run_at IS NULL THEN nextval('number')
                ELSE place
            END AS new_place
        FROM old
    ),
    back AS (
        UPDATE job
        SET is_blocked = o.is_held,
            place = o.new_place
        FROM placed o
        WHERE job.ctid = o.tid
        RETURNING job.*
    ),
    line AS (
        INSERT INTO ready (
            queue_id, gate, priority, place, job_id, delivery, bytes, ready_at, expires_at,
            timeout_ms
        )
        SELECT
            queue_id, coalesce(gate, ''), priority, place, id, delivery, length(payload), now_ms(),
            expires_at, timeout_ms
        FROM back
        WHERE NOT is_blocked AND run_at IS NULL
    ),
    schedule AS (
        INSERT INTO scheduled (run_at, job_id, queue_id)
        SELECT run_at, id, queue_id
        FROM back
        WHERE NOT is_blocked AND run_at IS NOT NULL
    )
    SELECT queue_id, priority, place, run_at, is_blocked
    FROM back";

impl PostgresStore {
    pub(super) async fn pause(
        &self,
        queue: &QueueName,
        pausing: Pausing,
        by: &str,
    ) -> Result<(), Failure> {
        let ids = self.queues.ids(&self.pool, std::iter::once(queue)).await?;
        let id = &ids[queue];
        let tx = self.pool.begin().await?;
        match pausing {
            Pausing::Pause => tx.commit(&[(PAUSE, &[id, &by])]).await?,
            Pausing::Resume => tx.commit(&[(RESUME, &[id])]).await?,
        };
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
        let options = row::options(&finished)?;
        let key = get::<Option<&str>>(&finished, "unique_key");
        if let Some(holder) = take_keys_again(&mut tx, job, (queue, key), &options).await? {
            return Ok(Changed::Duplicate(holder));
        }
        let gate = options.flow.gate();
        if gate.is_some() {
            self.set_gated(&mut tx, vec![queue]).await?;
        }
        let reason = get::<Option<String>>(&finished, "reason").unwrap_or_default();
        let died = Noted::one(job, NoteKind::Died, reason);
        died.at(time(&finished, "finished_at")).write(&mut tx).await?;
        let rows = tx.query(REVIVE, &[&id, &gate]).await?;
        let row = &rows[0];
        Noted::one(job, NoteKind::Retried, "").write(&mut tx).await?;
        tx.commit(&[]).await?;
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

    pub(super) async fn replay_job(&self, job: JobId, edit: &Edit) -> Result<Changed, Failure> {
        retrying!(self.try_replay(job, edit.clone()))
    }

    async fn try_replay(&self, original: JobId, edit: Edit) -> Result<Changed, Failure> {
        let mut tx = self.pool.begin().await?;
        runs::unpack(&mut tx, &[sql_id(original)]).await?;
        if let Err(changed) = self.lock_finished(&mut tx, original).await? {
            return Ok(changed);
        }
        let Some(job) = read_job(self, &mut tx, original).await? else {
            return Ok(Changed::NotFound);
        };
        let Some(copy) = job.copy(edit) else { return Ok(Changed::Dropped) };
        let queues = self.queues.ids(&self.pool, std::iter::once(&copy.queue)).await?;
        let copies = [copy];
        let pushed = self.push_in(&mut tx, &copies, &queues).await?;
        let (id, run_at) = match pushed[0] {
            Pushed::Duplicate { id, .. } => return Ok(Changed::Duplicate(id)),
            Pushed::Replaced { .. } | Pushed::Refused(_) => return Ok(Changed::NotFound),
            Pushed::Inserted { id, run_at, .. } => (id, run_at),
        };
        Noted::one(original, NoteKind::Replayed, id.to_string()).write(&mut tx).await?;
        let sql = "UPDATE finished SET replayed_as = $2 WHERE id = $1";
        tx.commit(&[(sql, &[&sql_id(original), &sql_id(id)])]).await?;
        self.note_pushed(&copies, &queues, &pushed);
        let to = run_at.map_or(Destination::Ready, Destination::Scheduled);
        let [copy] = copies;
        Ok(Changed::Done(Effect { job: id, queue: copy.queue, to }))
    }

    pub(super) async fn delete_job(&self, job: JobId) -> Result<Changed, Failure> {
        retrying!(self.try_delete(job))
    }

    async fn try_delete(&self, job: JobId) -> Result<Changed, Failure> {
        let mut tx = self.pool.begin().await?;
        runs::unpack(&mut tx, &[sql_id(job)]).await?;
        let row = match self.lock_finished(&mut tx, job).await? {
            Ok(row) => row,
            Err(changed) => return Ok(changed),
        };
        let (first, last) = retention::ranges(vec![sql_id(job)]);
        tx.commit(&[(FORGET, &[&first, &last]), (logs::DELETE, &[&sql_id(job)])]).await?;
        let queue = self.queues.name(&self.pool, get(&row, "queue_id")).await?;
        Ok(Changed::Done(Effect { job, queue, to: Destination::Finished(state_of(&row)) }))
    }

    pub(super) async fn cancel_job(
        &self,
        job: JobId,
        grace: Duration,
    ) -> Result<Cancelled, Failure> {
        retrying!(self.try_cancel(job, grace))
    }

    async fn try_cancel(&self, job: JobId, grace: Duration) -> Result<Cancelled, Failure> {
        let mut tx = self.pool.begin().await?;
        let left = leave_places(&mut tx, &[job]).await?;
        let now = now(&tx.query("SELECT now_ms() AS now", &[]).await?[0]);
        if left.is_empty() {
            return self.ask_to_cancel(tx, job, now, grace).await;
        }
        let mut effects =
            finish_waiting(self, &mut tx, &[job], State::Cancelled, None, now).await?;
        let (more, opened) = release_dependents(self, &mut tx, effects.iter()).await?;
        effects.extend(more);
        tx.commit(&[]).await?;
        self.note_all(opened);
        Ok(Cancelled::Done(effects))
    }

    /// Notes that somebody asks for the end of a leased job.
    async fn ask_to_cancel(
        &self,
        mut tx: Tx<'_>,
        job: JobId,
        now: Timestamp,
        grace: Duration,
    ) -> Result<Cancelled, Failure> {
        let id = sql_id(job);
        let sql = "SELECT delivery FROM job WHERE id = $1";
        // It has just gone elsewhere: whoever asks again will meet it there.
        let moved = || Failure::Conflict("the job is on its way".into());
        let Some(row) = tx.query(sql, &[&id]).await?.pop() else {
            return match super::inspect::state(&mut tx, job).await? {
                None => Ok(Cancelled::NotFound),
                Some(state) if state.is_final() => Ok(Cancelled::WrongState(state)),
                Some(_) => Err(moved()),
            };
        };
        let lease = Lease { job, delivery: count(&row, "delivery") };
        let rows = leases::find(&mut tx, &[lease]).await?;
        let held = rows.iter().find(|row| row.leases.contains(&lease));
        let session = held.ok_or_else(moved)?.given.session;
        let sql = "UPDATE job SET is_watched = true WHERE id = $1 AND delivery = $2 RETURNING id";
        let delivery = lease.delivery.cast_signed();
        if tx.query(sql, &[&id, &delivery]).await?.is_empty() {
            return Err(moved());
        }
        let rows = tx.query(REQUEST, &[&id, &delivery, &now.0, &(now + grace).0]).await?;
        let force_at = Timestamp(get(&rows[0], "force_at"));
        let detail = format!("forced at {}", now + grace);
        Noted::one(job, NoteKind::CancelRequested, detail).write(&mut tx).await?;
        tx.commit(&[]).await?;
        Ok(Cancelled::Requested { lease, session, force_at })
    }

    pub(super) async fn discard_job(&self, job: JobId) -> Result<Discarded, Failure> {
        retrying!(self.try_discard(job))
    }

    async fn try_discard(&self, job: JobId) -> Result<Discarded, Failure> {
        let mut tx = self.pool.begin().await?;
        if leave_places(&mut tx, &[job]).await?.is_empty() {
            return match super::inspect::state(&mut tx, job).await? {
                None => Ok(Discarded::NotFound),
                Some(State::Blocked | State::Scheduled | State::Ready) => {
                    Err(Failure::Conflict("the job is on its way".into()))
                }
                Some(state) => Ok(Discarded::WrongState(state)),
            };
        }
        let now = now(&tx.query("SELECT now_ms() AS now", &[]).await?[0]);
        let (dead, reason) = (State::Dead, Some(Reason::Rejected));
        let mut ended = finish_waiting(self, &mut tx, &[job], dead, reason, now).await?;
        let gone = || Failure::NotDone("the tables are damaged: a place without a job".into());
        let effect = ended.pop().ok_or_else(gone)?;
        Noted::one(job, NoteKind::Discarded, "").write(&mut tx).await?;
        let (more, opened) = release_dependents(self, &mut tx, std::iter::once(&effect)).await?;
        tx.commit(&[]).await?;
        self.note_all(opened);
        Ok(Discarded::Done(effect, more))
    }

    pub(super) async fn edit_job(&self, job: JobId, edit: &Edit) -> Result<Changed, Failure> {
        retrying!(self.try_edit(job, edit))
    }

    async fn try_edit(&self, job: JobId, edit: &Edit) -> Result<Changed, Failure> {
        let mut tx = self.pool.begin().await?;
        match super::inspect::state(&mut tx, job).await? {
            Some(State::Blocked | State::Scheduled | State::Ready) => {}
            other => return Ok(other.map_or(Changed::NotFound, Changed::WrongState)),
        }
        if let Some((queue, payload)) = &edit.was
            && !self.is_still(&mut tx, job, queue, payload).await?
        {
            return Ok(Changed::Outdated);
        }
        let queue = match &edit.queue {
            None => None,
            Some(name) => {
                let ids = self.queues.ids(&self.pool, std::iter::once(name)).await?;
                Some(ids[name])
            }
        };
        if let Some(to) = queue
            && let Some(changed) = self.move_to(&mut tx, job, to).await?
        {
            return Ok(changed);
        }
        let Some(row) = self.apply(&mut tx, job, edit).await? else {
            return self.not_there(&mut tx, job).await;
        };
        if let Some(words) = edit.words() {
            Noted::one(job, NoteKind::Edited, words).write(&mut tx).await?;
        }
        tx.commit(&[]).await?;
        let (queue, priority) = (get(&row, "queue_id"), get(&row, "priority"));
        let to = match (get(&row, "is_blocked"), time(&row, "run_at")) {
            (true, _) => Destination::Blocked,
            (false, Some(at)) => Destination::Scheduled(at),
            (false, None) => {
                self.note_ready(queue, priority, get(&row, "place"));
                Destination::Ready
            }
        };
        let queue = self.queues.name(&self.pool, queue).await?;
        Ok(Changed::Done(Effect { job, queue, to }))
    }

    /// Locks a waiting job, and says whether it has this queue and this payload.
    async fn is_still(
        &self,
        tx: &mut Tx<'_>,
        job: JobId,
        queue: &QueueName,
        was: &Payload,
    ) -> Result<bool, Failure> {
        let id = sql_id(job);
        if leave_places(tx, &[job]).await?.is_empty() {
            return Ok(false);
        }
        let ids = self.queues.find_all(&self.pool, std::iter::once(queue)).await?;
        let (queue, content_type) = (ids.get(queue), was.content_type.as_deref());
        let rows = tx.query(IS_STILL, &[&id, &queue, &&was.bytes[..], &content_type]).await?;
        tx.query(RETURN, &[&id, &false]).await?;
        Ok(!rows.is_empty())
    }

    /// Moves a waiting job with the key that it has as long as it lives. Its other keys stay
    /// behind. The answer: why it can not be done, if so.
    async fn move_to(
        &self,
        tx: &mut Tx<'_>,
        job: JobId,
        to: QueueId,
    ) -> Result<Option<Changed>, Failure> {
        let id = sql_id(job);
        let left = leave_places(tx, &[job]).await?;
        if left.is_empty() {
            return self.not_there(tx, job).await.map(Some);
        }
        let sql = "SELECT queue_id, unique_key, options, gate FROM job WHERE id = $1 FOR UPDATE";
        let rows = tx.query(sql, &[&id]).await?;
        let row = &rows[0];
        let key: Option<&str> = get(row, "unique_key");
        let key =
            key.filter(|_| matches!(row::options(row), Ok(it) if it.hold == UniqueHold::Live));
        if get::<QueueId>(row, "queue_id") == to {
            tx.query(RETURN, &[&id, &false]).await?;
            return Ok(None);
        }
        if let Some(key) = key
            && let Some(holder) = take_for(tx, job, (to, KeyKind::Live, key)).await?
        {
            return Ok(Some(Changed::Duplicate(holder)));
        }
        if get::<Option<&str>>(row, "gate").is_some() {
            self.set_gated(tx, vec![to]).await?;
        }
        let sql = "DELETE FROM unique_key
                   WHERE queue_id = (SELECT queue_id FROM job WHERE id = $1)
                   AND kind = ANY('{0, 2}'::smallint[])
                   AND key = (SELECT unique_key FROM job WHERE id = $1)
                   AND job_id = $1";
        tx.query(sql, &[&id]).await?;
        tx.query("UPDATE job SET queue_id = $2 WHERE id = $1", &[&id, &to]).await?;
        tx.query(RETURN, &[&id, &true]).await?;
        let from = self.queues.name(&self.pool, get(row, "queue_id")).await?;
        let to = self.queues.name(&self.pool, to).await?;
        Noted::one(job, NoteKind::Moved, format!("from {from} to {to}")).write(tx).await?;
        Ok(None)
    }

    /// What an edit says of a waiting job by itself. The answer: the job's row as it is then;
    /// `None`: it does not wait.
    pub(super) async fn apply(
        &self,
        tx: &mut Tx<'_>,
        job: JobId,
        edit: &Edit,
    ) -> Result<Option<Row>, Failure> {
        let id = sql_id(job);
        let left = leave_places(tx, &[job]).await?;
        if left.is_empty() {
            return Ok(None);
        }
        if let Some(payload) = &edit.payload {
            let sql = "UPDATE job SET payload = $2, content_type = $3 WHERE id = $1";
            let (bytes, content_type) = (&payload.bytes[..], payload.content_type.as_deref());
            tx.query(sql, &[&id, &bytes, &content_type]).await?;
        }
        if let Some(priority) = edit.priority {
            tx.query("UPDATE job SET priority = $2 WHERE id = $1", &[&id, &priority]).await?;
        }
        let mut is_new = false;
        if let Some(when) = edit.when {
            let (delay, at) = sql_when(when);
            let rows = tx.query(RESCHEDULE, &[&id, &delay, &at]).await?;
            is_new = rows.first().is_some_and(|row| get(row, "is_due"));
        }
        let rows = tx.query(RETURN, &[&id, &is_new]).await?;
        Ok(rows.into_iter().next())
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
        Noted::one(job, NoteKind::Promoted, "").write(&mut tx).await?;
        tx.commit(&[]).await?;
        self.note_all(notes);
        Ok(Changed::Done(effect))
    }
}

/// A job that is to live again takes the keys that it has as long as it lives. Else: who has one of
/// them.
async fn take_keys_again(
    tx: &mut Tx<'_>,
    job: JobId,
    (queue, unique): (QueueId, Option<&str>),
    options: &Options,
) -> Result<Option<JobId>, Failure> {
    // In the order of pushes.
    if let Some(custom_id) = &options.custom_id {
        let name = custom_id.as_str();
        let holder = take_for(tx, job, (NO_QUEUE, KeyKind::CustomId, name)).await?;
        if holder.is_some() {
            return Ok(holder);
        }
        tx.query(NAME, &[&vec![name], &vec![sql_id(job)]]).await?;
    }
    match unique.filter(|_| options.hold == UniqueHold::Live) {
        Some(key) => take_for(tx, job, (queue, KeyKind::Live, key)).await,
        None => Ok(None),
    }
}

fn state_of(row: &Row) -> State {
    State::parse(get(row, "state")).unwrap_or(State::Dead)
}
