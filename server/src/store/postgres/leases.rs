//! Live leases: keeping them, moving them, taking them away.
//!
//! The rows of `lease` are the truth. What this node has given out it also remembers, so that an
//! ack that comes back to it need not look for its row; a lease that it does not remember (given
//! by another node, or before a restart) is found in the table. Nothing is decided by memory: each
//! change compares (job, delivery) with the job's row.
//!
//! Locks are taken in one order everywhere: first the row that says where a job stands (`lease`,
//! `scheduled`, `ready`), those of one table by id, then jobs by id.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustc_hash::{FxHashMap as HashMap, FxHashSet as HashSet};
use tokio::time::Instant;
use tokio_postgres::Row;

use super::lane::{Call, Failure, Tx};
use super::live_runs::{InRun, TAKE_OUT_HELD};
use super::needs::release_dependents;
use super::row::{count, get, job_id, now, parsed};
use super::settle::{Ended, end_badly};
use super::{PostgresStore, QueueId, retrying};
use crate::job::{Ending, JobId, Lease, QueueName, Timestamp, WorkerName};
use crate::store::columns::{sql_id, sql_millis};
use crate::store::{
    Detail, Effect, Extended, Extension, Partial, Progress, SESSION_LEASE, SessionId,
};

/// The ends that are asked for of these jobs.
const CANCELS: &str = "
    SELECT job_id, delivery, force_at
    FROM cancel
    WHERE job_id = ANY($1::bigint[])";

pub(super) type LeaseId = i64;

/// A new row's id: drawn by the node, so that it can ask for the row after a commit whose answer
/// was lost.
pub(super) fn new_id() -> LeaseId {
    (rand::random::<u64>() >> 1).cast_signed()
}

/// How long beyond its end a lease is remembered that nobody has settled here.
const REMEMBERED_BEYOND: Duration = Duration::from_secs(5);

/// How long a lease has been held of which it is asked whether it still is: most are settled sooner.
const ASKED_AFTER: Duration = Duration::from_secs(1);

/// Of so many leases it is asked at once, about; of more in turn.
const ASKED_AT_ONCE: usize = 5_000;

/// What a row says beside its jobs.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub(super) node: Arc<str>,
    pub(super) worker: WorkerName,
    pub(super) session: Option<SessionId>,
    pub(super) started_at: Timestamp,
}

/// A job that was given out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Holding {
    pub(super) lease: Lease,
    /// See [`Known`].
    pub(super) is_plain: bool,
    /// See [`Known`].
    pub(super) run: Option<InRun>,
}

/// What this node remembers of the leases it gave.
#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<Rows>);

#[derive(Debug, Default)]
struct Rows {
    rows: HashMap<LeaseId, Remembered>,
    jobs: HashMap<JobId, Held>,
    /// Runs that this node has taken jobs out of, and what was left of each as a run. Hints: a change may have
    /// been rolled back.
    changed: HashMap<InRun, Option<InRun>>,
    /// Rows whose commit nobody answered.
    doubtful: Vec<LeaseId>,
    /// Leases that were not there when it was asked whether they are still held.
    missing: HashSet<Lease>,
    /// How often that was asked.
    asked: u64,
}

#[derive(Debug)]
struct Remembered {
    origin: Arc<Origin>,
    left: usize,
    given_at: Instant,
    until: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    row: LeaseId,
    delivery: u32,
    is_plain: bool,
    run: Option<InRun>,
}

/// Where leases that were given together come from.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) given: Given,
    /// `None`: from several, or unknown.
    pub(super) queue: Option<(QueueId, QueueName)>,
}

/// A lease that is remembered.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) origin: Arc<Origin>,
    /// The job uses nothing that must be tidied up when it is completed.
    pub(super) is_plain: bool,
    /// The run that the job is in as far as is known: a hint.
    pub(super) run: Option<InRun>,
}

impl Memory {
    /// Remembers a row that is not remembered.
    pub(super) fn insert(&self, id: LeaseId, origin: Origin, held: &[Holding], lasts: Duration) {
        let mut rows = self.0.lock();
        for Holding { lease, is_plain, run } in held {
            let (delivery, is_plain, run) = (lease.delivery, *is_plain, *run);
            let held = Held { row: id, delivery, is_plain, run };
            if let Some(old) = rows.jobs.insert(lease.job, held) {
                rows.leave(old.row);
            }
        }
        let (origin, given_at) = (Arc::new(origin), Instant::now());
        let until = given_at + lasts + REMEMBERED_BEYOND;
        rows.rows.insert(id, Remembered { origin, left: held.len(), given_at, until });
    }

    /// Forgets rows. One that is adopted once more may have lost jobs elsewhere that are remembered
    /// here: when they are heard of they would count as some of those that are left.
    fn forget(&self, rows: &HashSet<LeaseId>) {
        let Rows { rows: remembered, jobs, .. } = &mut *self.0.lock();
        remembered.retain(|id, _| !rows.contains(id));
        jobs.retain(|_, held| !rows.contains(&held.row));
    }

    /// The lease, if it is remembered.
    pub(super) fn known(&self, lease: Lease) -> Option<Known> {
        self.0.lock().known(lease)
    }

    /// The leases, each if it is remembered.
    pub(super) fn known_of(&self, leases: impl Iterator<Item = Lease>) -> Vec<Option<Known>> {
        let rows = self.0.lock();
        leases.map(|lease| rows.known(lease)).collect()
    }

    /// The rows that leases stand in, as far as they are remembered.
    pub(super) fn rows_of(&self, leases: &[Lease]) -> Vec<LeaseId> {
        let rows = self.0.lock();
        let row = |lease: &Lease| {
            let held = rows.jobs.get(&lease.job)?;
            (held.delivery == lease.delivery).then_some(held.row)
        };
        let mut found: Vec<LeaseId> = leases.iter().filter_map(row).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Forgets leases that have ended. The answer: rows of which nothing is left.
    pub(super) fn end(&self, leases: impl Iterator<Item = Lease>) -> Vec<LeaseId> {
        let mut rows = self.0.lock();
        let mut empty = Vec::new();
        for lease in leases {
            let is_it = rows.jobs.get(&lease.job).is_some_and(|it| it.delivery == lease.delivery);
            if is_it && let Some(held) = rows.jobs.remove(&lease.job) {
                empty.extend(rows.leave(held.row));
            }
        }
        empty
    }

    /// These jobs have been taken out of runs, as the rows say: those that were held of what is left
    /// are held of another run now.
    pub(super) fn taken_out(&self, jobs: &[i64], changed: &[Row]) {
        let rows = &mut *self.0.lock();
        for job in jobs {
            if let Some(held) = rows.jobs.get_mut(&JobId(job.cast_unsigned())) {
                held.run = None;
            }
        }
        let run = |row, id, count| {
            let (id, count) = (get::<Option<_>>(row, id)?, get::<Option<_>>(row, count)?);
            Some(InRun { id, count, delivery: get(row, "run_delivery") })
        };
        for row in changed {
            let left = run(row, "left_id", "left_count");
            let Some(gone) = run(row, "run_id", "run_count") else { continue };
            rows.changed.insert(gone, left.filter(|left| left.count < gone.count));
        }
    }

    /// All jobs of these runs have rows of their own.
    pub(super) fn unpacked(&self, runs: impl Iterator<Item = InRun>) {
        self.0.lock().changed.extend(runs.map(|run| (run, None)));
    }

    /// The rows that would be empty if these leases had ended.
    pub(super) fn emptied_by(&self, leases: impl Iterator<Item = Lease>) -> Vec<LeaseId> {
        let rows = self.0.lock();
        let mut ended: HashMap<LeaseId, usize> = HashMap::default();
        for lease in leases {
            if let Some(held) = rows.jobs.get(&lease.job)
                && held.delivery == lease.delivery
            {
                *ended.entry(held.row).or_default() += 1;
            }
        }
        let is_empty = |(row, count): &(LeaseId, usize)| {
            rows.rows.get(row).is_some_and(|row| row.left <= *count)
        };
        ended.into_iter().filter(is_empty).map(|(row, _)| row).collect()
    }

    /// The jobs of these rows are remembered longer. Rows that are gone are forgotten in time.
    fn renew(&self, renewed: &[LeaseId]) {
        let until = Instant::now() + SESSION_LEASE + REMEMBERED_BEYOND;
        let mut rows = self.0.lock();
        for id in renewed {
            if let Some(row) = rows.rows.get_mut(id) {
                row.until = until;
            }
        }
    }

    /// Leases that hang on sessions, to ask whether they are still held: all that were missing the
    /// last time, and a share of the others that have been held for a while.
    pub(super) fn to_ask(&self) -> Vec<Lease> {
        let Rows { rows, jobs, missing, asked, .. } = &mut *self.0.lock();
        *asked += 1;
        let shares = (jobs.len() / ASKED_AT_ONCE) as u64 + 1;
        let turn = *asked % shares;
        let now = Instant::now();
        let is_old = |held: &Held| {
            rows.get(&held.row).is_some_and(|row| {
                row.origin.given.session.is_some() && row.given_at + ASKED_AFTER <= now
            })
        };
        let in_turn = jobs.iter().filter(|(job, held)| job.0 % shares == turn && is_old(held));
        let in_turn = in_turn.map(|(job, held)| Lease { job: *job, delivery: held.delivery });
        let others = in_turn.filter(|lease| !missing.contains(lease));
        others.chain(missing.iter().copied()).collect()
    }

    /// These leases of [`Memory::to_ask`] are not there. The answer: those that are lost, with their
    /// sessions. Others may just have been settled by a statement whose answer is under way: they
    /// are believed to be lost if they are missing the next time too.
    pub(super) fn are_missing(&self, missing: Vec<Lease>) -> Vec<(SessionId, Lease)> {
        let rows = &mut *self.0.lock();
        let before = std::mem::take(&mut rows.missing);
        let (again, first): (Vec<Lease>, Vec<Lease>) =
            missing.into_iter().partition(|lease| before.contains(lease));
        rows.missing.extend(first);
        let session = |lease: Lease| Some((rows.known(lease)?.origin.given.session?, lease));
        again.into_iter().filter_map(session).collect()
    }

    /// Forgets rows that have ended elsewhere.
    pub(super) fn prune(&self) {
        let now = Instant::now();
        let mut rows = self.0.lock();
        let Rows { rows, jobs, changed, .. } = &mut *rows;
        rows.retain(|_, row| row.until > now);
        jobs.retain(|_, held| rows.contains_key(&held.row));
        let known = |run: InRun| changed.get(&run).copied().flatten();
        let all = jobs.values().filter_map(|held| held.run);
        let reached: HashSet<InRun> =
            all.flat_map(|run| std::iter::successors(Some(run), |run| known(*run))).collect();
        changed.retain(|run, _| reached.contains(run));
    }

    /// Nobody knows whether these rows were written: nobody has been given their jobs.
    pub(super) fn doubt(&self, rows: Vec<LeaseId>) {
        self.0.lock().doubtful.extend(rows);
    }

    fn doubtful(&self) -> Vec<LeaseId> {
        self.0.lock().doubtful.clone()
    }

    fn resolved(&self, resolved: &[LeaseId]) {
        self.0.lock().doubtful.retain(|id| !resolved.contains(id));
    }
}

impl Rows {
    fn known(&self, lease: Lease) -> Option<Known> {
        let held = self.jobs.get(&lease.job).filter(|held| held.delivery == lease.delivery)?;
        let origin = Arc::clone(&self.rows.get(&held.row)?.origin);
        let mut run = held.run;
        while let Some(left) = run.and_then(|run| self.changed.get(&run)) {
            run = *left;
        }
        Some(Known { origin, is_plain: held.is_plain, run })
    }

    /// A job left its row. The row's id, if it was the last one.
    fn leave(&mut self, id: LeaseId) -> Option<LeaseId> {
        let row = self.rows.get_mut(&id)?;
        row.left = row.left.saturating_sub(1);
        (row.left == 0).then(|| {
            self.rows.remove(&id);
            id
        })
    }
}

/// A row of `lease` with those of its jobs that still belong to it.
#[derive(Debug)]
pub(super) struct LiveRow {
    pub(super) id: LeaseId,
    pub(super) given: Given,
    pub(super) leases: Vec<Lease>,
}

impl LiveRow {
    /// Its leases as ended ones.
    pub(super) fn ended(&self, ending: Ending) -> impl Iterator<Item = Ended<'static>> {
        let ended = move |lease: &Lease| Ended::by_us(*lease, ending, self.given.clone());
        self.leases.iter().map(ended)
    }
}

/// The live jobs of these rows are in no run from now on.
const TAKE_OUT_LEASED: &str = "
    SELECT count(*)
    FROM take_out(ARRAY(
        SELECT h.id
        FROM unnest($1::bigint[]) AS u (id)
        CROSS JOIN LATERAL (SELECT job_ids, deliveries FROM lease WHERE id = u.id OFFSET 0) l
        CROSS JOIN LATERAL held_in_runs(l.job_ids, l.deliveries) h
    ))";

/// Rows and their live jobs, by row and then by job. The rows must be locked, and their jobs in no runs.
const LIVE: &str = "
    SELECT
        l.id, l.node, l.worker, l.session, l.started_at,
        p.job_id, p.delivery
    FROM unnest($1::bigint[]) AS u (id)
    CROSS JOIN LATERAL (SELECT * FROM lease WHERE id = u.id OFFSET 0) l
    LEFT JOIN LATERAL (
        SELECT a.job_id, a.delivery
        FROM unnest(l.job_ids, l.deliveries) AS a (job_id, delivery)
        CROSS JOIN LATERAL (
            SELECT 1 FROM job WHERE id = a.job_id AND delivery = a.delivery OFFSET 0
        ) j
    ) p ON true";

/// Those leases that have not run out, or within the last minute: behind all that a snapshot keeps of
/// those that have ended before. As good as all leases, as long as somebody leads.
macro_rules! lately {
    () => {
        "expires_at >= (SELECT now_ms() - 60000)"
    };
}
pub(super) use lately;

/// The rows that jobs stand in, without an index of jobs: there is one row for each claim that is being
/// worked on, and only leases of other nodes are looked for.
const FIND_LATELY: &str = concat!(
    "
    SELECT id
    FROM lease
    WHERE job_ids && $1::bigint[] AND ",
    lately!(),
    "
    ORDER BY expires_at"
);

const FIND: &str = "
    SELECT id
    FROM lease
    WHERE job_ids && $1::bigint[]
    ORDER BY id";

/// Those that may be held still.
const NOT_LOST: &str = "
    SELECT u.job_id
    FROM unnest($1::bigint[], $2::integer[]) AS u (job_id, delivery)
    WHERE (SELECT true FROM job WHERE id = u.job_id AND delivery = u.delivery LIMIT 1)
    UNION ALL
    SELECT id FROM held_in_runs($1, $2)";

const LOCK: &str = "
    SELECT id
    FROM lease
    WHERE id = ANY($1::bigint[])
    ORDER BY id
    FOR UPDATE";

pub(super) const DELETE: &str = "DELETE FROM lease WHERE id = ANY($1::bigint[])";

/// Rows that somebody has locked are left to them.
pub(super) const DELETE_IF_FREE: &str = "
    DELETE FROM lease
    WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM lease WHERE id = ANY($1::bigint[]) FOR UPDATE SKIP LOCKED
    ))";

/// The same of rows that are believed to be empty by hearsay: those of which a job is still held stay.
pub(super) const DELETE_IF_EMPTY: &str = "
    DELETE FROM lease
    WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM lease
        WHERE id = ANY($1::bigint[])
        AND (
            SELECT true
            FROM unnest(job_ids, deliveries) AS a (job_id, delivery)
            WHERE (
                SELECT true FROM job WHERE id = a.job_id AND job.delivery = a.delivery LIMIT 1
            )
            UNION ALL
            SELECT true FROM held_in_runs(job_ids, deliveries)
            LIMIT 1
        ) IS NULL
        FOR UPDATE SKIP LOCKED
    ))";

const INSERT: &str = "
    INSERT INTO lease (
        id, node, incarnation, worker, session, started_at, expires_at, job_ids, deliveries,
        is_moved
    )
    VALUES ($1, $2, $3, $4, NULL, $5, $6, ARRAY[$7::bigint], ARRAY[$8::integer], true)";

const REWRITE: &str = "UPDATE lease SET job_ids = $2, deliveries = $3 WHERE id = $1";

/// The rows are looked for twice, so that the planner does not go along the order of the locks whatever
/// it believes of the table.
macro_rules! renew {
    ($which:literal) => {
        concat!(
            "
    WITH clock AS MATERIALIZED (SELECT now_ms() AS now),
    renewed AS (
        UPDATE lease
        SET expires_at = (SELECT now FROM clock) + $2
        WHERE id = ANY(ARRAY(
            SELECT id
            FROM lease
            WHERE id = ANY(ARRAY(",
            $which,
            "
            ))
            ORDER BY id
            FOR UPDATE
        ))
        RETURNING id
    )
    SELECT (SELECT now FROM clock) AS now, ARRAY(SELECT id FROM renewed) AS ids"
        )
    };
}

const RENEW: &str = renew!(
    "
                SELECT id FROM lease WHERE session = ANY($1::bigint[])"
);

/// Those of sessions that were all renewed at a time: none of theirs runs out before it. Found by that,
/// not by session: behind all that a snapshot keeps of those that have ended.
const RENEW_SINCE: &str = renew!(
    "
                SELECT id
                FROM lease
                WHERE coalesce(session, 0) = ANY($1::bigint[])
                AND expires_at >= least($3, (SELECT now FROM clock))
                ORDER BY expires_at"
);

const ADOPT: &str = "
    UPDATE lease
    SET expires_at = now_ms() + $2, node = $3, incarnation = $4
    WHERE id = ANY(ARRAY(
        SELECT id
        FROM lease
        WHERE id = ANY(ARRAY(SELECT id FROM lease WHERE session = $1))
        ORDER BY id
        FOR UPDATE
    ))
    RETURNING id";

/// Not those that another node has adopted.
const LOCK_OURS: &str = "
    SELECT id
    FROM lease
    WHERE id = ANY(ARRAY(SELECT id FROM lease WHERE session = $1))
    AND node = $2 AND incarnation = $3
    ORDER BY id
    FOR UPDATE";

/// Of a node that was away for a moment.
const RENEW_OWN: &str = "
    UPDATE lease
    SET expires_at = greatest(expires_at, now_ms() + $3)
    WHERE id = ANY(ARRAY(
        SELECT id
        FROM lease
        WHERE node = $1 AND incarnation = $2 AND session IS NOT NULL
        ORDER BY id
        FOR UPDATE
    ))";

/// The lock on the job, or on the run that it is in, has whoever ends the lease wait, and waits for them:
/// nothing is noted after the end. No answer: the lease has ended, or what it waited for has taken the job
/// out of its run.
const PROGRESS: &str = "
    WITH alone AS MATERIALIZED (
        SELECT id FROM job WHERE id = $1 AND delivery = $2 FOR SHARE
    ),
    packed AS MATERIALIZED (
        SELECT id
        FROM run
        WHERE id = ANY(ARRAY(
            SELECT run_id FROM places_in_runs(ARRAY[$1::bigint]) WHERE delivery = $2
        ))
        AND (finished_at > 0) IS NOT TRUE AND delivery = $2 AND $1 = ANY(ids)
        FOR SHARE
    )
    INSERT INTO progress (job_id, delivery, percent, message)
    SELECT $1, $2, $3::smallint, $4::text
    WHERE (SELECT true FROM (SELECT id FROM alone UNION ALL SELECT id FROM packed) held LIMIT 1)
    ON CONFLICT (job_id) DO UPDATE
    SET delivery = excluded.delivery, percent = excluded.percent, message = excluded.message
    RETURNING job_id";

/// There is no row of a part of a result that a trigger could tell of. The lock has whoever ends the
/// lease wait: no part comes after the end.
const PARTIAL: &str = "
    WITH held AS MATERIALIZED (
        SELECT id, queue_id FROM job WHERE id = $1 AND delivery = $2 FOR SHARE
    ),
    told AS (
        INSERT INTO event (at, kind, queue_id, job_id, number, message)
        SELECT now_ms(), 'partial', queue_id, id, $3::integer, $4::text
        FROM held
        WHERE watched(ARRAY[queue_id]) <> '{}'
    )
    SELECT id FROM held";

/// The live jobs of rows that the transaction has locked.
pub(super) async fn live(tx: &mut Tx<'_>, ids: &[LeaseId]) -> Result<Vec<LiveRow>, Failure> {
    let mut live: Vec<LiveRow> = Vec::new();
    if ids.is_empty() {
        return Ok(live);
    }
    let answers = tx.all(&[(TAKE_OUT_LEASED, &[&ids]), (LIVE, &[&ids])]).await?;
    for row in answers.into_iter().flatten().skip(1) {
        let id = get(&row, "id");
        if live.last().is_none_or(|last| last.id != id) {
            let (given, leases) = (given(&row)?, Vec::new());
            live.push(LiveRow { id, given, leases });
        }
        let job: Option<i64> = get(&row, "job_id");
        if let (Some(job), Some(last)) = (job, live.last_mut()) {
            let delivery = super::row::count(&row, "delivery");
            last.leases.push(Lease { job: JobId(job.cast_unsigned()), delivery });
        }
    }
    Ok(live)
}

fn given(row: &Row) -> Result<Given, Failure> {
    let worker = parsed(row, "worker", WorkerName::parse)?;
    Ok(Given {
        node: get::<&str>(row, "node").into(),
        worker: worker.ok_or_else(|| Failure::NotDone("the tables are damaged".into()))?,
        session: get::<Option<i64>>(row, "session").map(|id| SessionId(id.cast_unsigned())),
        started_at: Timestamp(get(row, "started_at")),
    })
}

fn ids(rows: &[Row]) -> Vec<LeaseId> {
    rows.iter().map(|row| get(row, "id")).collect()
}

/// How rows are looked for, one after the other. A lease can move to another row between the look and
/// the lock.
const FINDS: [&str; 3] = [FIND_LATELY, FIND, FIND];

/// The rows that these leases stand in, locked. A lease that is in none of them is lost.
pub(super) async fn find(tx: &mut Tx<'_>, leases: &[Lease]) -> Result<Vec<LiveRow>, Failure> {
    let mut rows: Vec<LiveRow> = Vec::new();
    for sql in FINDS {
        let is_missing = |lease: &&Lease| !rows.iter().any(|row| row.leases.contains(lease));
        let (mut missing, deliveries): (Vec<i64>, Vec<i32>) = leases
            .iter()
            .filter(is_missing)
            .map(|lease| (sql_id(lease.job), lease.delivery.cast_signed()))
            .unzip();
        if sql == FIND && !missing.is_empty() {
            // Nobody is to walk through all for what is known to be lost.
            let left = tx.query(NOT_LOST, &[&missing, &deliveries]).await?;
            missing = left.iter().map(|row| get(row, "job_id")).collect();
        }
        if missing.is_empty() {
            break;
        }
        let found = ids(&tx.query(sql, &[&missing]).await?);
        let new = |id: &LeaseId| !rows.iter().any(|row| row.id == *id);
        let found: Vec<LeaseId> = found.into_iter().filter(new).collect();
        if found.is_empty() {
            if sql == FIND {
                break;
            }
            continue;
        }
        let locked = ids(&tx.query(LOCK, &[&found]).await?);
        rows.extend(live(tx, &locked).await?);
    }
    Ok(rows)
}

/// Takes jobs out of rows that the transaction has locked; `ended` says which.
pub(super) async fn leave(
    tx: &mut Tx<'_>,
    rows: &[LiveRow],
    has_left: impl Fn(&Lease) -> bool,
) -> Result<(), Failure> {
    let mut empty = Vec::new();
    for row in rows {
        let left: Vec<&Lease> = row.leases.iter().filter(|lease| !has_left(lease)).collect();
        if left.is_empty() {
            empty.push(row.id);
        } else if left.len() < row.leases.len() {
            let jobs: Vec<i64> = left.iter().map(|lease| sql_id(lease.job)).collect();
            let deliveries: Vec<i32> =
                left.iter().map(|lease| lease.delivery.cast_signed()).collect();
            tx.query(REWRITE, &[&row.id, &jobs, &deliveries]).await?;
        }
    }
    if !empty.is_empty() {
        tx.query(DELETE, &[&empty]).await?;
    }
    Ok(())
}

/// See [`super::hot_statements`].
pub(super) const HOT: &[super::Named] = &[
    ("leases::LIVE", LIVE),
    ("leases::FIND_LATELY", FIND_LATELY),
    ("leases::NOT_LOST", NOT_LOST),
    ("leases::RENEW", RENEW),
    ("leases::RENEW_SINCE", RENEW_SINCE),
    ("leases::ADOPT", ADOPT),
    ("leases::LOCK_OURS", LOCK_OURS),
    ("leases::PROGRESS", PROGRESS),
    ("leases::DELETE", DELETE),
    ("leases::DELETE_IF_FREE", DELETE_IF_FREE),
    ("leases::DELETE_IF_EMPTY", DELETE_IF_EMPTY),
];

/// When the leases of which sessions were last renewed, by the database's clock.
#[derive(Debug, Default)]
pub(super) struct Renewed {
    at: Option<Timestamp>,
    sessions: HashSet<i64>,
}

impl PostgresStore {
    pub(super) async fn extend_leases(
        &self,
        extensions: &[Extension],
    ) -> Result<Vec<Option<Extended>>, Failure> {
        retrying!(self.try_extend(extensions))
    }

    async fn try_extend(&self, extensions: &[Extension]) -> Result<Vec<Option<Extended>>, Failure> {
        let mut tx = self.keep_lane.begin().await?;
        let clock = tx.query("SELECT now_ms() AS now", &[]).await?;
        let now = now(&clock[0]);
        let leases: Vec<Lease> = extensions.iter().map(|extension| extension.lease).collect();
        let mut rows = find(&mut tx, &leases).await?;
        let mut until = Vec::with_capacity(extensions.len());
        for extension in extensions {
            until.push(self.extend_one(&mut tx, &mut rows, *extension, now).await?);
        }
        let jobs: Vec<i64> = leases.iter().map(|lease| sql_id(lease.job)).collect();
        let asked = tx.commit(&[(CANCELS, &[&jobs])]).await?;
        // What it remembers of them is no longer so: they are looked for when they are settled.
        self.leases.end(leases.iter().copied());
        let cancel_at = |lease: &Lease| {
            let is_of = |row: &&Row| {
                job_id(row, "job_id") == lease.job && count(row, "delivery") == lease.delivery
            };
            asked[0].iter().find(is_of).map(|row| Timestamp(get(row, "force_at")))
        };
        let extended = |(until, lease): (Option<Timestamp>, &Lease)| {
            Some(Extended { until: until?, cancel_at: cancel_at(lease) })
        };
        Ok(until.into_iter().zip(&leases).map(extended).collect())
    }

    async fn extend_one(
        &self,
        tx: &mut Tx<'_>,
        rows: &mut Vec<LiveRow>,
        Extension { lease, hold }: Extension,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, Failure> {
        let until = now + hold;
        let Some(row) = rows.iter_mut().find(|row| row.leases.contains(&lease)) else {
            return Ok(None);
        };
        if row.leases.len() == 1 && row.given.session.is_none() {
            let sql = "UPDATE lease SET expires_at = $2 WHERE id = $1";
            tx.query(sql, &[&row.id, &until.0]).await?;
            return Ok(Some(until));
        }
        // A lease of its own, so that whoever takes the old row away does not take this job.
        leave(tx, std::slice::from_ref(row), |other| *other == lease).await?;
        row.leases.retain(|other| *other != lease);
        let id = new_id();
        let given = Given { session: None, ..row.given.clone() };
        let (job, delivery) = (sql_id(lease.job), lease.delivery.cast_signed());
        let worker = given.worker.as_str();
        let started_at = given.started_at.0;
        let node = &self.node;
        tx.query(
            INSERT,
            &[&id, &node.id, &node.incarnation, &worker, &started_at, &until.0, &job, &delivery],
        )
        .await?;
        rows.push(LiveRow { id, given, leases: vec![lease] });
        Ok(Some(until))
    }

    pub(super) async fn note_progress(
        &self,
        lease: Lease,
        progress: &Progress,
    ) -> Result<bool, Failure> {
        retrying!(self.try_note_progress(lease, progress))
    }

    async fn try_note_progress(&self, lease: Lease, progress: &Progress) -> Result<bool, Failure> {
        let percent = i16::from(progress.percent);
        let (job, delivery) = (sql_id(lease.job), lease.delivery.cast_signed());
        let call: Call<'_> = (PROGRESS, &[&job, &delivery, &percent, &progress.message]);
        let Some(tx) = self.begin_to_tell(lease).await? else { return Ok(false) };
        if !tx.commit(&[call]).await?[0].is_empty() {
            return Ok(true);
        }
        // Not in vain again, however often others divide its run.
        self.tell_alone(lease, call).await
    }

    /// Begins to tell something of a job. `None`: nobody has this lease.
    async fn begin_to_tell(&self, lease: Lease) -> Result<Option<Tx<'_>>, Failure> {
        let mut tx = self.tell_lane.begin().await?;
        Ok(self.is_held(&mut tx, lease).await?.then_some(tx))
    }

    /// Tells something of a job that is in no run then. Whether anything was told.
    async fn tell_alone(&self, lease: Lease, call: Call<'_>) -> Result<bool, Failure> {
        let Some(tx) = self.begin_to_tell(lease).await? else { return Ok(false) };
        let (jobs, deliveries) = (vec![sql_id(lease.job)], vec![lease.delivery.cast_signed()]);
        let answers = tx.commit(&[(TAKE_OUT_HELD, &[&jobs, &deliveries]), call]).await?;
        self.leases.taken_out(&jobs, &answers[0]);
        Ok(!answers[1].is_empty())
    }

    pub(super) async fn tell_partial(
        &self,
        lease: Lease,
        partial: &Partial,
    ) -> Result<bool, Failure> {
        let Detail { number, message, .. } = Detail::of_partial(partial);
        let number = number.map(u32::cast_signed);
        let (job, delivery) = (sql_id(lease.job), lease.delivery.cast_signed());
        let call: Call<'_> = (PARTIAL, &[&job, &delivery, &number, &message]);
        retrying!(self.tell_alone(lease, call))
    }

    /// Whether somebody has a lease, as far as its own row says.
    async fn is_held(&self, tx: &mut Tx<'_>, lease: Lease) -> Result<bool, Failure> {
        if self.leases.known(lease).is_some() {
            return Ok(true);
        }
        let rows = find(tx, &[lease]).await?;
        Ok(rows.iter().any(|row| row.leases.contains(&lease)))
    }

    pub(super) async fn renew_sessions(&self, sessions: &[SessionId]) -> Result<(), Failure> {
        let sessions: Vec<i64> = sessions.iter().map(|session| session.0.cast_signed()).collect();
        let lasts = sql_millis(SESSION_LEASE);
        let since = {
            let renewed = self.renewed.lock();
            let is_known = |id: &i64| renewed.sessions.contains(id);
            renewed.at.filter(|_| sessions.iter().all(is_known))
        };
        let rows = match since {
            Some(at) => self.keep_lane.once((RENEW_SINCE, &[&sessions, &lasts, &at.0])).await?,
            None => self.keep_lane.once((RENEW, &[&sessions, &lasts])).await?,
        };
        let row = rows.first().ok_or_else(|| Failure::NotDone("no answer to a renewal".into()))?;
        self.leases.renew(&get::<Vec<LeaseId>>(row, "ids"));
        let at = Some(Timestamp(get(row, "now")));
        *self.renewed.lock() = Renewed { at, sessions: sessions.into_iter().collect() };
        Ok(())
    }

    /// Renews all leases that hang on sessions of this node.
    pub(super) async fn renew_own(&self) {
        let (node, lasts) = (&self.node, sql_millis(SESSION_LEASE));
        let renewed =
            self.keep_lane.once((RENEW_OWN, &[&node.id, &node.incarnation, &lasts])).await;
        if let Err(error) = renewed {
            tracing::warn!(%error, "leases could not be renewed");
        }
    }

    pub(super) async fn adopt_session(&self, session: SessionId) -> Result<Vec<Lease>, Failure> {
        let mut tx = self.keep_lane.begin().await?;
        let (id, lasts, node) = (session.0.cast_signed(), sql_millis(SESSION_LEASE), &self.node);
        let adopted = tx.query(ADOPT, &[&id, &lasts, &node.id, &node.incarnation]).await?;
        let rows = live(&mut tx, &ids(&adopted)).await?;
        tx.commit(&[]).await?;
        self.leases.forget(&rows.iter().map(|row| row.id).collect());
        for row in &rows {
            let holding = |lease: &Lease| Holding { lease: *lease, is_plain: false, run: None };
            let held: Vec<Holding> = row.leases.iter().map(holding).collect();
            if !held.is_empty() {
                let origin = Origin { given: row.given.clone(), queue: None };
                self.leases.insert(row.id, origin, &held, SESSION_LEASE);
            }
        }
        let mut leases: Vec<Lease> = rows.into_iter().flat_map(|row| row.leases).collect();
        leases.sort_unstable();
        Ok(leases)
    }

    pub(super) async fn give_back_session(
        &self,
        session: SessionId,
    ) -> Result<Vec<Effect>, Failure> {
        retrying!(self.try_give_back(session))
    }

    async fn try_give_back(&self, session: SessionId) -> Result<Vec<Effect>, Failure> {
        let mut tx = self.keep_lane.begin().await?;
        let id = session.0.cast_signed();
        let node = &self.node;
        let locked = tx.query(LOCK_OURS, &[&id, &node.id, &node.incarnation]).await?;
        let rows = live(&mut tx, &ids(&locked)).await?;
        self.take_away(tx, &rows, Ending::Crashed).await
    }

    /// Ends all leases of rows that the transaction has locked, by job, and commits.
    pub(super) async fn take_away(
        &self,
        mut tx: Tx<'_>,
        rows: &[LiveRow],
        ending: Ending,
    ) -> Result<Vec<Effect>, Failure> {
        let mut ended: Vec<Ended<'_>> = rows.iter().flat_map(|row| row.ended(ending)).collect();
        ended.sort_unstable_by_key(|ended| ended.lease);
        let (mut effects, mut notes) = end_badly(self, &mut tx, &ended).await?;
        let (more, opened) = release_dependents(self, &mut tx, effects.iter()).await?;
        effects.extend(more);
        notes.extend(opened);
        let gone: Vec<LeaseId> = rows.iter().map(|row| row.id).collect();
        tx.commit(&[(DELETE, &[&gone])]).await?;
        self.leases.end(ended.iter().map(|ended| ended.lease));
        self.note_all(notes);
        Ok(effects)
    }

    /// Undoes claims whose commit may or may not have happened: nobody was given their jobs, and
    /// the sessions that they hang on may live for long.
    pub(super) async fn release_doubtful(&self) -> Result<(), Failure> {
        let doubtful = self.leases.doubtful();
        if doubtful.is_empty() {
            return Ok(());
        }
        let mut tx = self.keep_lane.begin().await?;
        let locked = ids(&tx.query(LOCK, &[&doubtful]).await?);
        let rows = live(&mut tx, &locked).await?;
        let ended: Vec<Ended<'_>> =
            rows.iter().flat_map(|row| row.ended(Ending::NodeLost)).collect();
        let (effects, mut notes) = end_badly(self, &mut tx, &ended).await?;
        let (_, opened) = release_dependents(self, &mut tx, effects.iter()).await?;
        notes.extend(opened);
        tx.commit(&[(DELETE, &[&locked])]).await?;
        self.leases.resolved(&doubtful);
        self.note_all(notes);
        tracing::warn!(count = ended.len(), "claims of unknown outcome were taken back");
        Ok(())
    }
}
