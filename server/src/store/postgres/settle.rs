//! Ending leases.
//!
//! An ack is one compare-and-set on the job's row by (job, delivery), on any node. Acks of plain
//! jobs whose leases this node remembers are [few statements for all of them](super::acks). All else
//! that comes with them is a transaction after that: it locks the jobs, decides by [`job::after`], and
//! writes what was decided in few statements.

use rustc_hash::{FxHashMap as HashMap, FxHashSet as HashSet};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::acks::Ack;
use super::alike::sql_count;
use super::blocks::{BLOCK_MAX, PAYLOAD_MAX};
use super::events::nobody_listens;
use super::lane::{Call, Failure, Tx};
use super::leases::{self, Given};
use super::live_runs::{RETRIED_RUN_MIN, TAKE_OUT_HELD, is_live};
use super::needs::release_dependents;
use super::retention::{self, FORGET};
use super::row::{self, count, get, job_id, now, time};
use super::{PostgresStore, QueueId, retrying};
use crate::job::{self, Charges, Ending, JobId, Lease, Next, Reason, Rules, State, Timestamp};
use crate::mutants::{self, Mutant, altered};
use crate::store::columns::{parse_backoff, sql_id};
use crate::store::{
    CRASHES_MAX, Destination, EVEN_CHANCE, Effect, Settled, SettledAll, Settlement, Verdict,
    ending_of, verdict_of,
};

/// Locks leased jobs, by id, and reads what decides how they go on.
const STANDING: &str = "
    SELECT j.*
    FROM unnest($1::bigint[], $2::integer[]) AS u (id, delivery)
    CROSS JOIN LATERAL (
        SELECT
            id, queue_id, priority, place, attempts, crashes, delivery, max_attempts, backoff,
            expires_at, gate IS NOT NULL AS is_gated, is_watched
        FROM job
        WHERE id = u.id AND delivery = u.delivery
        OFFSET 0
        FOR UPDATE
    ) j";

/// When these jobs were locked, and of which of them somebody had asked for the end by then. A statement
/// of its own: one that has waited for a lock sees what was before it.
const LOCKED: &str = "
    SELECT now.now, c.*
    FROM (SELECT now_ms() AS now OFFSET 0) now
    LEFT JOIN (
        SELECT job_id, delivery FROM cancel WHERE job_id = ANY($1::bigint[])
    ) c ON true";

/// Jobs that end: completed, dead or cancelled. They must be locked.
const FINISH: &str = "
    WITH ended AS MATERIALIZED (
        SELECT u.*, j.*
        FROM unnest(
            $1::bigint[], $2::text[], $3::text[], $4::integer[], $5::integer[], $6::integer[],
            $7::text[], $8::text[], $9::bigint[], $10::bytea[]
        ) AS u (
            job_id, state, reason, attempts_now, deliveries, crashes_now,
            by_node, by_worker, started_at, result
        )
        CROSS JOIN LATERAL (SELECT ctid AS tid, * FROM job WHERE id = u.job_id OFFSET 0) j
    ),
    kept AS (
        INSERT INTO finished (
            id, queue_id, state, reason, priority, created_at, finished_at, max_attempts,
            attempts, deliveries, crashes, node, worker, started_at, expires_at, timeout_ms,
            replay_of, replayed_as, content_type, backoff, unique_key, tags, options, payload,
            result
        )
        SELECT
            id, queue_id, state, reason, priority, created_at, $11, max_attempts,
            coalesce(attempts_now, attempts), deliveries, coalesce(crashes_now, crashes),
            by_node, by_worker, started_at, expires_at, timeout_ms,
            replay_of, replayed_as, content_type, backoff, unique_key, tags, options, payload,
            result
        FROM ended
    ),
    keys AS (
        DELETE FROM unique_key
        WHERE ctid = ANY(ARRAY(
            SELECT k.ctid
            FROM ended e
            CROSS JOIN LATERAL (
                SELECT ctid FROM unique_key
                WHERE queue_id = e.queue_id AND kind = ANY('{0, 2}'::smallint[])
                AND key = e.unique_key AND job_id = e.job_id
                OFFSET 0
            ) k
            WHERE e.unique_key IS NOT NULL
            UNION ALL
            SELECT k.ctid
            FROM ended e
            CROSS JOIN LATERAL (
                SELECT key FROM custom_id WHERE job_id = e.job_id OFFSET 0
            ) c
            CROSS JOIN LATERAL (
                SELECT ctid FROM unique_key
                WHERE queue_id = 0 AND kind = 4 AND key = c.key AND job_id = e.job_id
                OFFSET 0
            ) k
            WHERE e.options IS NOT NULL
        ))
    )
    DELETE FROM job
    WHERE ctid = ANY(ARRAY(SELECT tid FROM ended))";

/// What an attempt may have left beside its lease. Must come before the job goes.
const END_ATTEMPTS: &str = "
    WITH deadlines AS (
        DELETE FROM deadline
        WHERE ctid = ANY(ARRAY(
            SELECT d.ctid
            FROM unnest($1::bigint[], $2::bigint[]) AS u (job_id, started_at)
            CROSS JOIN LATERAL (
                SELECT timeout_ms FROM job WHERE id = u.job_id OFFSET 0
            ) j
            CROSS JOIN LATERAL (
                SELECT ctid FROM deadline
                WHERE at = u.started_at + j.timeout_ms AND job_id = u.job_id
                OFFSET 0
            ) d
            WHERE j.timeout_ms IS NOT NULL
        ))
    ),
    slots AS (
        DELETE FROM slot
        WHERE job_id = ANY($1::bigint[])
    ),
    cancels AS (
        DELETE FROM cancel
        WHERE job_id = ANY($1::bigint[])
    )
    DELETE FROM progress
    WHERE job_id = ANY($1::bigint[])";

const LOG: &str = "
    INSERT INTO attempt_log (
        job_id, delivery, attempt, node, worker, started_at, ended_at, ending, code, message
    )
    SELECT job_id, delivery, attempt, node, worker, started_at, $10, ending, code, message
    FROM unnest(
        $1::bigint[], $2::integer[], $3::integer[], $4::text[], $5::text[], $6::bigint[],
        $7::text[], $8::text[], $9::text[]
    ) AS u (job_id, delivery, attempt, node, worker, started_at, ending, code, message)";

/// Jobs that go round again: at once, in their old places, or at a time. One that stood in a block gets
/// a place of its own: its number, before those that it left behind.
const GO_ON: &str = "
    WITH going AS MATERIALIZED (
        SELECT u.*, j.*
        FROM unnest($1::bigint[], $2::integer[], $3::integer[], $4::bigint[])
            AS u (job_id, attempts_now, crashes_now, next_at)
        CROSS JOIN LATERAL (
            SELECT
                ctid AS tid, queue_id, priority, greatest(place, id) AS place, delivery,
                length(payload) AS bytes, expires_at, timeout_ms, coalesce(gate, '') AS gate
            FROM job
            WHERE id = u.job_id
            OFFSET 0
        ) j
    ),
    line AS (
        INSERT INTO ready (
            queue_id, gate, priority, place, job_id, delivery, bytes, ready_at, expires_at,
            timeout_ms
        )
        SELECT
            queue_id, gate, priority, place, job_id, delivery + 1, bytes, $5, expires_at,
            timeout_ms
        FROM going
        WHERE next_at IS NULL
    ),
    schedule AS (
        INSERT INTO scheduled (run_at, job_id, queue_id)
        SELECT next_at, job_id, queue_id
        FROM going
        WHERE next_at IS NOT NULL
    ),
    ttls AS (
        INSERT INTO ttl (expires_at, job_id)
        SELECT expires_at, job_id
        FROM going
        WHERE expires_at IS NOT NULL
    )
    UPDATE job
    SET attempts = g.attempts_now,
        crashes = g.crashes_now,
        delivery = job.delivery + 1,
        place = g.place,
        run_at = g.next_at
    FROM going g
    WHERE job.ctid = g.tid";

/// The same of plain jobs that go on at one time, are alike and were pushed together, if they are not too
/// few: they are a run again, and wait as one row. Where another one comes between them that is to stand
/// in the same line, a run ends, so that they come in the order of their numbers. Must be carried out
/// first: what it takes is not there any more. Nothing is done while events are recorded.
const GO_ON_TOGETHER: &str = concat!(
    "
    WITH going AS MATERIALIZED (
        SELECT
            u.*, j.*, job_id >> 10 AS bucket,
            u.crashes_now = 0 AND crashes = 0 AND expires_at IS NULL AND timeout_ms IS NULL
                AND replay_of IS NULL AND replayed_as IS NULL AND unique_key IS NULL
                AND tags IS NULL AND options IS NULL AND gate IS NULL AND NOT is_watched
                AND length(payload) <= $6 AS is_plain
        FROM unnest($1::bigint[], $2::integer[], $3::integer[], $4::bigint[])
            AS u (job_id, attempts_now, crashes_now, next_at)
        CROSS JOIN LATERAL (
            SELECT
                ctid AS tid, queue_id, priority, created_at, delivery, max_attempts, content_type,
                backoff, payload, crashes, expires_at, timeout_ms, replay_of, replayed_as,
                unique_key, tags, options, gate, is_watched
            FROM job
            WHERE id = u.job_id
            OFFSET 0
        ) j
        WHERE u.next_at IS NOT NULL
    ),
    numbered AS (
        SELECT
            *,
            -- As far as jobs of a line are alike both grow by one with each of them.
            row_number() OVER (PARTITION BY queue_id, priority, next_at ORDER BY job_id)
                - row_number() OVER (
                    PARTITION BY
                        queue_id, priority, next_at, bucket, created_at, delivery, max_attempts,
                        content_type, backoff, attempts_now, is_plain
                    ORDER BY job_id
                ) AS stretch
        FROM going
    ),
    parts AS (
        SELECT
            *,
            (row_number() OVER (
                PARTITION BY
                    queue_id, priority, next_at, bucket, created_at, delivery, max_attempts,
                    content_type, backoff, attempts_now, stretch
                ORDER BY job_id
            ) - 1) / $7::integer AS part
        FROM numbered
        WHERE is_plain AND ",
    nobody_listens!(),
    "
    ),
    runs AS MATERIALIZED (
        SELECT
            bucket, queue_id, priority, created_at, delivery, max_attempts, content_type, backoff,
            attempts_now, next_at, array_agg(tid) AS tids, array_agg(job_id ORDER BY job_id) AS ids,
            array_agg(payload ORDER BY job_id) AS payloads, count(*)::integer AS count,
            sum(length(payload))::integer AS bytes
        FROM parts
        GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, stretch, part
        HAVING count(*) >= $5::integer
    ),
    gone AS (
        DELETE FROM job
        WHERE ctid = ANY(ARRAY(SELECT unnest(tids) FROM runs))
    ),
    stored AS (
        INSERT INTO run (
            id, bucket, queue_id, first, last, count, place, priority, created_at, run_at,
            max_attempts, attempts, delivery, content_type, backoff, ids, payloads
        )
        SELECT
            ids[1], bucket, queue_id, ids[1], ids[count], count, ids[1], priority, created_at,
            next_at, max_attempts, attempts_now, delivery + 1, content_type, backoff, ids, payloads
        FROM runs
    )
    INSERT INTO scheduled (run_at, job_id, queue_id, count, bytes)
    SELECT next_at, ids[1], queue_id, count, bytes FROM runs"
);

/// Those of these jobs that others wait for. Nobody else begins to while the job is locked.
const AWAITED: &str = "
    SELECT DISTINCT d.needs_id
    FROM unnest($1::bigint[]) AS u (id)
    CROSS JOIN LATERAL (
        SELECT needs_id FROM dependency WHERE needs_id = u.id LIMIT 1
    ) d";

/// How leases ended whose jobs are not leased any more.
const BEFORE: &str = concat!(
    "
    WITH packed AS MATERIALIZED (
        SELECT id, state, deliveries FROM completed_in_runs($1)
    ),
    live_packed AS MATERIALIZED (
        SELECT id FROM places_in_runs($1)
    )
    SELECT u.ord, f.state, f.deliveries, a.ending, j.is_live
    FROM unnest($1::bigint[], $2::integer[]) WITH ORDINALITY AS u (id, delivery, ord)
    LEFT JOIN LATERAL (
        SELECT state, deliveries FROM finished WHERE id = u.id
        UNION ALL
        SELECT state, deliveries FROM packed WHERE id = u.id
        OFFSET 0
    ) f ON true
    LEFT JOIN LATERAL (
        SELECT ending FROM attempt_log WHERE job_id = u.id AND delivery = u.delivery OFFSET 0
    ) a ON true
    CROSS JOIN LATERAL (",
    is_live!(),
    "
    ) j"
);

const DELETE_TTLS_OF: &str = "
    DELETE FROM ttl
    WHERE ctid = ANY(ARRAY(
        SELECT t.ctid
        FROM unnest($1::bigint[]) AS u (id)
        CROSS JOIN LATERAL (SELECT expires_at FROM job WHERE id = u.id OFFSET 0) j
        CROSS JOIN LATERAL (
            SELECT ctid FROM ttl WHERE expires_at = j.expires_at AND job_id = u.id OFFSET 0
        ) t
    ))";

/// A job that ends while it waits for others waits no longer, also if it is sent round again.
const DELETE_NEEDS_OF: &str = "
    DELETE FROM dependency
    WHERE ctid = ANY(ARRAY(
        SELECT d.ctid
        FROM unnest($1::bigint[]) AS u (id)
        CROSS JOIN LATERAL (SELECT ctid FROM dependency WHERE job_id = u.id OFFSET 0) d
    ))";

/// A lease that ends without completing its job.
#[derive(Debug, Clone)]
pub(super) struct Ended<'a> {
    pub(super) lease: Lease,
    ending: Ending,
    code: &'a str,
    message: &'a str,
    chance: f64,
    given: Given,
}

impl Ended<'static> {
    /// For a reason that its worker has not given.
    pub(super) fn by_us(lease: Lease, ending: Ending, given: Given) -> Self {
        let (code, message) = verdict_of(ending);
        Self { lease, ending, code, message, chance: EVEN_CHANCE, given }
    }
}

/// The part of a job's row that decides how it goes on.
pub(super) struct Standing {
    pub(super) queue: QueueId,
    priority: i32,
    place: i64,
    is_gated: bool,
    is_watched: bool,
    charges: Charges,
    rules: Rules,
}

/// A place in a line where a job is ready, to be noted after the commit.
pub(super) type Note = (QueueId, i32, i64);

/// A place in a line behind all others: something may start that could not.
pub(super) fn opened(queue: QueueId) -> Note {
    (queue, 0, i64::MAX)
}

fn params<const N: usize>(all: [&(dyn ToSql + Sync); N]) -> [&(dyn ToSql + Sync); N] {
    all
}

/// Locks jobs that are held by these leases. Those that are not found are lost.
async fn standing(
    store: &PostgresStore,
    tx: &mut Tx<'_>,
    leases: impl Iterator<Item = Lease>,
) -> Result<(Timestamp, HashMap<Lease, Standing>), Failure> {
    let mut sorted: Vec<Lease> = leases.collect();
    sorted.sort_unstable();
    let ids: Vec<i64> = sorted.iter().map(|lease| sql_id(lease.job)).collect();
    let deliveries: Vec<i32> = sorted.iter().map(|lease| lease.delivery.cast_signed()).collect();
    let calls: [Call<'_>; 3] = [
        (TAKE_OUT_HELD, &[&ids, &deliveries]),
        (STANDING, &[&ids, &deliveries]),
        (LOCKED, &[&ids]),
    ];
    let answers = tx.all(&calls).await?;
    // Before the commit: if that fails, acks of what is said to be left are passed over.
    store.leases.taken_out(&ids, &answers[0]);
    let (rows, locked) = (&answers[1], &answers[2]);
    let mut found = HashMap::with_capacity_and_hasher(rows.len(), Default::default());
    let is_asked = |row: &&Row| get::<Option<i64>>(row, "job_id").is_some();
    let asked: HashSet<Lease> = locked
        .iter()
        .filter(is_asked)
        .map(|row| Lease { job: job_id(row, "job_id"), delivery: count(row, "delivery") })
        .collect();
    for row in rows {
        let lease = Lease { job: job_id(row, "id"), delivery: count(row, "delivery") };
        found.insert(lease, read_standing(row, asked.contains(&lease))?);
    }
    Ok((now(&locked[0]), found))
}

fn read_standing(row: &Row, is_cancelled: bool) -> Result<Standing, Failure> {
    Ok(Standing {
        queue: get(row, "queue_id"),
        priority: get(row, "priority"),
        place: get(row, "place"),
        is_gated: get(row, "is_gated"),
        is_watched: get(row, "is_watched"),
        charges: Charges { attempts: count(row, "attempts"), crashes: count(row, "crashes") },
        rules: Rules {
            max_attempts: count(row, "max_attempts"),
            crashes_max: CRASHES_MAX,
            backoff: row::parsed(row, "backoff", parse_backoff)?.unwrap_or_default(),
            expires_at: time(row, "expires_at"),
            is_cancelled,
        },
    })
}

/// Ends leases without completing their jobs. Those whose job has another delivery by now are
/// passed over. The rows of `lease` are the caller's business.
pub(super) async fn end_badly(
    store: &PostgresStore,
    tx: &mut Tx<'_>,
    ended: &[Ended<'_>],
) -> Result<(Vec<Effect>, Vec<Note>), Failure> {
    if ended.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let (now, found) = standing(store, tx, ended.iter().map(|ended| ended.lease)).await?;
    let held: Vec<(&Ended<'_>, &Standing)> =
        ended.iter().filter_map(|ended| Some((ended, found.get(&ended.lease)?))).collect();
    let mut plan = Plan::default();
    for (ended, standing) in &held {
        plan.end(ended, standing, now);
    }
    plan.carry_out(tx, now).await?;
    let mut effects = Vec::with_capacity(held.len());
    for ((ended, standing), to) in held.iter().zip(plan.to) {
        let queue = store.queues.name(&store.pool, standing.queue).await?;
        effects.push(Effect { job: ended.lease.job, queue, to });
    }
    Ok((effects, plan.notes))
}

/// What is to be written, as columns.
#[derive(Default)]
struct Plan<'a> {
    log: Log<'a>,
    finish: Finish<'a>,
    go_on: (Vec<i64>, Vec<i32>, Vec<i32>, Vec<Option<i64>>),
    to: Vec<Destination>,
    notes: Vec<Note>,
}

#[derive(Default)]
struct Log<'a> {
    job_id: Vec<i64>,
    delivery: Vec<i32>,
    attempt: Vec<i32>,
    node: Vec<&'a str>,
    worker: Vec<&'a str>,
    started_at: Vec<i64>,
    ending: Vec<&'a str>,
    code: Vec<&'a str>,
    message: Vec<&'a str>,
}

/// Jobs that end.
#[derive(Default)]
pub(super) struct Finish<'a> {
    job_id: Vec<i64>,
    state: Vec<&'static str>,
    reason: Vec<Option<&'static str>>,
    attempts: Vec<Option<i32>>,
    deliveries: Vec<i32>,
    crashes: Vec<Option<i32>>,
    node: Vec<Option<&'a str>>,
    worker: Vec<Option<&'a str>>,
    started_at: Vec<Option<i64>>,
    result: Vec<Option<&'a [u8]>>,
}

impl<'a> Finish<'a> {
    /// A job that ends without having been completed.
    pub(super) fn end(
        &mut self,
        job: JobId,
        state: State,
        reason: Option<Reason>,
        deliveries: u32,
        charges: Option<Charges>,
    ) {
        self.job_id.push(sql_id(job));
        self.state.push(state.name());
        self.reason.push(reason.map(Reason::name));
        self.attempts.push(charges.map(|charges| charges.attempts.cast_signed()));
        self.deliveries.push(deliveries.cast_signed());
        self.crashes.push(charges.map(|charges| charges.crashes.cast_signed()));
        self.node.push(None);
        self.worker.push(None);
        self.started_at.push(None);
        self.result.push(None);
    }

    fn complete(&mut self, lease: Lease, given: &'a Given, result: Option<&'a [u8]>) {
        self.end(lease.job, State::Completed, None, lease.delivery, None);
        let last = self.job_id.len() - 1;
        self.node[last] = Some(&given.node);
        self.worker[last] = Some(given.worker.as_str());
        self.started_at[last] = Some(given.started_at.0);
        self.result[last] = result;
    }

    pub(super) async fn carry_out(&self, tx: &mut Tx<'_>, now: Timestamp) -> Result<(), Failure> {
        if self.job_id.is_empty() {
            return Ok(());
        }
        let params = params([
            &self.job_id,
            &self.state,
            &self.reason,
            &self.attempts,
            &self.deliveries,
            &self.crashes,
            &self.node,
            &self.worker,
            &self.started_at,
            &self.result,
            &now.0,
        ]);
        tx.query(FINISH, &params).await.map(drop)
    }
}

impl<'a> Plan<'a> {
    fn end(&mut self, ended: &'a Ended<'_>, standing: &Standing, now: Timestamp) {
        let (lease, charges) = (ended.lease, standing.charges);
        let log = &mut self.log;
        log.job_id.push(sql_id(lease.job));
        log.delivery.push(lease.delivery.cast_signed());
        log.attempt.push(charges.attempts.cast_signed() + 1);
        log.node.push(&ended.given.node);
        log.worker.push(ended.given.worker.as_str());
        log.started_at.push(ended.given.started_at.0);
        log.ending.push(ended.ending.name());
        log.code.push(ended.code);
        log.message.push(ended.message);
        let (next, charges) = job::after(ended.ending, charges, &standing.rules, now, ended.chance);
        let charges = if mutants::is(Mutant::UncountedEnding) { standing.charges } else { charges };
        if standing.is_gated {
            self.notes.push(opened(standing.queue));
        }
        let run_at = match next {
            Next::Completed => unreachable!("no ending but completion leads there"),
            Next::Dead(reason) => {
                let dead = State::Dead;
                self.finish.end(lease.job, dead, Some(reason), lease.delivery, Some(charges));
                self.to.push(Destination::Finished(dead));
                return;
            }
            Next::Cancelled => {
                let end = State::Cancelled;
                self.finish.end(lease.job, end, None, lease.delivery, Some(charges));
                self.to.push(Destination::Finished(end));
                return;
            }
            Next::Ready => None,
            Next::Scheduled(at) => Some(at),
        };
        self.go_on.0.push(sql_id(lease.job));
        self.go_on.1.push(charges.attempts.cast_signed());
        self.go_on.2.push(charges.crashes.cast_signed());
        self.go_on.3.push(run_at.map(|at| at.0));
        if run_at.is_none() {
            let place = standing.place.max(sql_id(lease.job));
            self.notes.push((standing.queue, standing.priority, place));
        }
        self.to.push(run_at.map_or(Destination::Ready, Destination::Scheduled));
    }

    /// Whether so many go on at one time that they may be a run.
    fn are_many_at_once(&self) -> bool {
        let mut counts: HashMap<i64, usize> = HashMap::default();
        self.go_on.3.iter().flatten().any(|at| {
            let count = counts.entry(*at).or_default();
            *count += 1;
            *count >= RETRIED_RUN_MIN
        })
    }

    async fn carry_out(&self, tx: &mut Tx<'_>, now: Timestamp) -> Result<(), Failure> {
        let Log { job_id, delivery, attempt, node, worker, started_at, ending, code, message } =
            &self.log;
        let log = params([
            job_id, delivery, attempt, node, worker, started_at, ending, code, message, &now.0,
        ]);
        let attempts = params([job_id, started_at]);
        let (jobs, charged, crashed, next_at) = &self.go_on;
        let go_on = params([jobs, charged, crashed, next_at, &now.0]);
        let (least, most) = (sql_count(RETRIED_RUN_MIN), sql_count(BLOCK_MAX));
        let payload_max = sql_count(PAYLOAD_MAX);
        let together = params([jobs, charged, crashed, next_at, &least, &payload_max, &most]);
        let mut calls = vec![(logging(LOG), &log[..]), (END_ATTEMPTS, &attempts[..])];
        if self.are_many_at_once() {
            calls.push((raising_together(), &together[..]));
        }
        if !jobs.is_empty() {
            calls.push((raising(GO_ON), &go_on[..]));
        }
        tx.all(&calls).await?;
        self.finish.carry_out(tx, now).await
    }
}

/// Jobs that were in line until now, locked and taken out of it, are dead: their time is over.
pub(super) async fn bury_expired(
    store: &PostgresStore,
    tx: &mut Tx<'_>,
    jobs: &[JobId],
    now: Timestamp,
) -> Result<Vec<Effect>, Failure> {
    finish_waiting(store, tx, jobs, State::Dead, Some(Reason::Expired), now).await
}

/// Waiting jobs, already out of their place, end.
pub(super) async fn finish_waiting(
    store: &PostgresStore,
    tx: &mut Tx<'_>,
    jobs: &[JobId],
    state: State,
    reason: Option<Reason>,
    now: Timestamp,
) -> Result<Vec<Effect>, Failure> {
    let ids: Vec<i64> = jobs.iter().map(|job| sql_id(*job)).collect();
    let sql = "SELECT id, queue_id, delivery FROM job WHERE id = ANY($1::bigint[])
               ORDER BY id FOR UPDATE";
    let rows = tx.query(sql, &[&ids]).await?;
    let found: HashMap<JobId, &Row> = rows.iter().map(|row| (job_id(row, "id"), row)).collect();
    let mut finish = Finish::default();
    let mut effects = Vec::with_capacity(jobs.len());
    for job in jobs {
        let Some(row) = found.get(job) else { continue };
        // A waiting job has the number of its next lease.
        finish.end(*job, state, reason, count(row, "delivery") - 1, None);
        let queue = store.queues.name(&store.pool, get(row, "queue_id")).await?;
        effects.push(Effect { job: *job, queue, to: Destination::Finished(state) });
    }
    tx.all(&[(DELETE_TTLS_OF, &[&ids]), (DELETE_NEEDS_OF, &[&ids])]).await?;
    finish.carry_out(tx, now).await?;
    Ok(effects)
}

/// See [`super::hot_statements`].
pub(super) const HOT: &[super::Named] = &[
    ("settle::STANDING", STANDING),
    ("settle::LOCKED", LOCKED),
    ("settle::FINISH", FINISH),
    ("settle::END_ATTEMPTS", END_ATTEMPTS),
    ("settle::LOG", LOG),
    ("settle::GO_ON", GO_ON),
    ("settle::GO_ON_TOGETHER", GO_ON_TOGETHER),
    ("settle::AWAITED", AWAITED),
    ("settle::BEFORE", BEFORE),
    ("settle::DELETE_TTLS_OF", DELETE_TTLS_OF),
    ("settle::DELETE_NEEDS_OF", DELETE_NEEDS_OF),
];

impl PostgresStore {
    pub(super) async fn settle_all(
        &self,
        settlements: &[Settlement],
    ) -> Result<SettledAll, Failure> {
        retrying!(self.try_settle(settlements))
    }

    async fn try_settle(&self, settlements: &[Settlement]) -> Result<SettledAll, Failure> {
        self.look_at_queues().await?;
        let (places, acks): (Vec<usize>, Vec<Ack<'_>>) =
            self.plain_acks(settlements).into_iter().unzip();
        if acks.is_empty() {
            let all: Vec<&Settlement> = settlements.iter().collect();
            return self.settle_any(&all).await;
        }
        let mut all = SettledAll::default();
        let mut settled: Vec<Option<Settled>> = vec![None; settlements.len()];
        for (place, done) in places.into_iter().zip(self.ack(&acks).await?) {
            settled[place] = done;
        }
        // Acks that were passed over are settled once more, to learn why.
        let left = settlements.iter().zip(&settled).filter(|(_, done)| done.is_none());
        let left: Vec<&Settlement> = left.map(|(settlement, _)| settlement).collect();
        if !left.is_empty() {
            let outcomes = retrying!(self.settle_any(&left));
            let outcomes = outcomes.map_err(|failure| in_part(failure, &settled))?;
            let open = settled.iter_mut().filter(|done| done.is_none());
            open.zip(outcomes.settled).for_each(|(open, outcome)| *open = Some(outcome));
            all.more = outcomes.more;
            self.leases.end(left.iter().map(|settlement| settlement.lease));
        }
        all.settled = settled.into_iter().flatten().collect();
        Ok(all)
    }

    async fn settle_any(&self, settlements: &[&Settlement]) -> Result<SettledAll, Failure> {
        let mut tx = self.settle_lane.begin().await?;
        let mut settled: Vec<Option<Settled>> = vec![None; settlements.len()];
        let mut ended: Vec<Lease> = Vec::new();
        let mut notes = Vec::new();
        // A job that is named twice is settled once; the rest is about what that left.
        let mut left: Vec<usize> = (0..settlements.len()).collect();
        while !left.is_empty() {
            let mut seen = HashSet::default();
            let (first, others): (Vec<usize>, Vec<usize>) =
                left.into_iter().partition(|place| seen.insert(settlements[*place].lease.job));
            let round: Vec<&Settlement> = first.iter().map(|place| settlements[*place]).collect();
            let done = self.settle_round(&mut tx, &round, &mut notes).await?;
            for (place, outcome) in first.into_iter().zip(done) {
                if matches!(outcome, Settled::Done(_)) {
                    ended.push(settlements[place].lease);
                }
                settled[place] = Some(outcome);
            }
            left = others;
        }
        let settled: Vec<Settled> = settled.into_iter().flatten().collect();
        let effects = settled.iter().filter_map(|settled| match settled {
            Settled::Done(effect) => Some(effect),
            _ => None,
        });
        let (more, opened) = release_dependents(self, &mut tx, effects).await?;
        notes.extend(opened);
        tx.commit(&[]).await?;
        self.leases.end(ended.into_iter());
        self.note_all(notes);
        Ok(SettledAll { settled, more })
    }

    /// Settles, each job once.
    async fn settle_round(
        &self,
        tx: &mut Tx<'_>,
        round: &[&Settlement],
        notes: &mut Vec<Note>,
    ) -> Result<Vec<Settled>, Failure> {
        let mut given: HashMap<Lease, Given> = HashMap::default();
        let mut unknown = Vec::new();
        for Settlement { lease, .. } in round {
            match self.leases.known(*lease) {
                Some(known) => drop(given.insert(*lease, known.origin.given.clone())),
                None => unknown.push(*lease),
            }
        }
        let rows = leases::find(tx, &unknown).await?;
        for row in &rows {
            given.extend(row.leases.iter().map(|lease| (*lease, row.given.clone())));
        }
        let mut effects = self.complete(tx, round, &given, notes).await?;
        let ended: Vec<Ended<'_>> =
            round.iter().filter_map(|settlement| bad_end(settlement, &given)).collect();
        let (bad, more) = end_badly(self, tx, &ended).await?;
        effects.extend(bad);
        notes.extend(more);
        let by_job: HashMap<JobId, Effect> =
            effects.into_iter().map(|effect| (effect.job, effect)).collect();
        let has_ended = |lease: &Lease| {
            by_job.contains_key(&lease.job) && round.iter().any(|it| it.lease == *lease)
        };
        leases::leave(tx, &rows, has_ended).await?;
        // Those that were lost have left their rows as well.
        let left = self.leases.emptied_by(round.iter().map(|settlement| settlement.lease));
        tx.query(leases::DELETE_IF_FREE, &[&left]).await?;
        let lost: Vec<&Settlement> = round
            .iter()
            .copied()
            .filter(|settlement| !by_job.contains_key(&settlement.lease.job))
            .collect();
        let mut before = settled_before(tx, &lost).await?.into_iter();
        let outcome = |settlement: &&Settlement| match by_job.get(&settlement.lease.job) {
            Some(effect) => Settled::Done(effect.clone()),
            None => before.next().expect("one answer for each that was lost"),
        };
        Ok(round.iter().map(outcome).collect())
    }

    async fn complete(
        &self,
        tx: &mut Tx<'_>,
        round: &[&Settlement],
        given: &HashMap<Lease, Given>,
        notes: &mut Vec<Note>,
    ) -> Result<Vec<Effect>, Failure> {
        let acks: Vec<(&Lease, Option<&[u8]>, &Given)> = round
            .iter()
            .filter_map(|settlement| match &settlement.verdict {
                Verdict::Ack { result } => {
                    let given = given.get(&settlement.lease)?;
                    Some((&settlement.lease, result.as_deref(), given))
                }
                _ => None,
            })
            .collect();
        if acks.is_empty() {
            return Ok(Vec::new());
        }
        let (now, found) = standing(self, tx, acks.iter().map(|(lease, ..)| **lease)).await?;
        let mut finish = Finish::default();
        let mut effects = Vec::with_capacity(acks.len());
        let (mut ids, mut started, mut forgotten) = (Vec::new(), Vec::new(), Vec::new());
        let mut watched = Vec::new();
        for (lease, result, given) in acks {
            let Some(standing) = found.get(lease) else { continue };
            if !self.keeps_completed(standing.queue) {
                let of = if standing.is_watched { &mut watched } else { &mut forgotten };
                of.push(sql_id(lease.job));
            }
            finish.complete(*lease, given, result);
            notes.extend(standing.is_gated.then(|| opened(standing.queue)));
            ids.push(sql_id(lease.job));
            started.push(given.started_at.0);
            let queue = self.queues.name(&self.pool, standing.queue).await?;
            let to = Destination::Finished(State::Completed);
            effects.push(Effect { job: lease.job, queue, to });
        }
        tx.query(END_ATTEMPTS, &[&ids, &started]).await?;
        finish.carry_out(tx, now).await?;
        if !watched.is_empty() {
            let awaited = tx.query(AWAITED, &[&watched]).await?;
            let awaited: HashSet<i64> = awaited.iter().map(|row| get(row, "needs_id")).collect();
            forgotten.extend(watched.into_iter().filter(|job| !awaited.contains(job)));
        }
        if !forgotten.is_empty() {
            let (first, last) = retention::ranges(forgotten);
            tx.query(FORGET, &[&first, &last]).await?;
        }
        Ok(effects)
    }
}

/// Of [`GO_ON`].
fn raising(sql: &'static str) -> &'static str {
    let sql = altered(Mutant::SameDelivery, sql, "job.delivery + 1", "job.delivery");
    altered(Mutant::SameDelivery, sql, "delivery + 1, bytes", "delivery, bytes")
}

/// [`GO_ON_TOGETHER`], unless this process is wrong about it.
fn raising_together() -> &'static str {
    altered(Mutant::SameDelivery, GO_ON_TOGETHER, "delivery + 1", "delivery")
}

/// Of [`LOG`].
fn logging(sql: &'static str) -> &'static str {
    let end = "started_at, ending, code, message)";
    let never = "started_at, ending, code, message) WHERE false";
    let sql = altered(Mutant::UnloggedEnding, sql, end, never);
    let once = "started_at, ending, code, message) ON CONFLICT DO NOTHING";
    altered(Mutant::SameDelivery, sql, end, once)
}

/// Nothing may be said to be undone once a part of it is done.
pub(super) fn in_part(failure: Failure, settled: &[Option<Settled>]) -> Failure {
    match settled.iter().any(Option::is_some) {
        true => Failure::InDoubt(failure.to_string()),
        false => failure,
    }
}

fn bad_end<'a>(settlement: &'a Settlement, given: &HashMap<Lease, Given>) -> Option<Ended<'a>> {
    let given = given.get(&settlement.lease)?.clone();
    let lease = settlement.lease;
    match &settlement.verdict {
        Verdict::Ack { .. } => None,
        Verdict::Fail { code, message, chance, .. } => {
            let (ending, code) = (ending_of(&settlement.verdict), code.as_str());
            Some(Ended { lease, ending, code, message, chance: *chance, given })
        }
        Verdict::Release | Verdict::Snooze(_) => {
            let ending = ending_of(&settlement.verdict);
            Some(Ended { lease, ending, code: "", message: "", chance: 0.0, given })
        }
    }
}

/// Whether leases that are not held any more ended just as they are said to.
async fn settled_before(tx: &mut Tx<'_>, lost: &[&Settlement]) -> Result<Vec<Settled>, Failure> {
    if lost.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<i64> = lost.iter().map(|settlement| sql_id(settlement.lease.job)).collect();
    let deliveries: Vec<i32> =
        lost.iter().map(|settlement| settlement.lease.delivery.cast_signed()).collect();
    let rows = tx.query(BEFORE, &[&ids, &deliveries]).await?;
    let mut outcomes = vec![Settled::Unknown; lost.len()];
    for row in &rows {
        let place = usize::try_from(get::<i64>(row, "ord")).unwrap_or(1) - 1;
        outcomes[place] = outcome_before(row, lost[place]);
    }
    Ok(outcomes)
}

fn outcome_before(row: &Row, settlement: &Settlement) -> Settled {
    let state: Option<&str> = get(row, "state");
    let ended_last =
        get::<Option<i32>>(row, "deliveries") == Some(settlement.lease.delivery.cast_signed());
    let was_completed = ended_last && state == Some(State::Completed.name());
    let ending = match get::<Option<&str>>(row, "ending") {
        None if was_completed => Some(Ending::Completed.name()),
        logged => logged,
    };
    let expected = ending_of(&settlement.verdict);
    match (ending == Some(expected.name()), state.is_some() || get(row, "is_live")) {
        (true, _) => Settled::Repeated,
        (false, true) if mutants::is(Mutant::AcceptLostLease) => Settled::Repeated,
        (false, true) => Settled::LeaseLost,
        (false, false) => Settled::Unknown,
    }
}
