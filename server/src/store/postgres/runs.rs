//! Completed jobs in runs: what an ack of many jobs leaves behind.
//!
//! A run is one row, written by [`acks`](super::acks), or by the push and completed where it stands
//! ([`live_runs`](super::live_runs)). It is read beside `finished` by the SQL
//! function `completed_in_runs`, in the same statement, so that a job is never seen twice or not at
//! all. Here is what becomes of runs later. They are forgotten whole, and their payloads dropped;
//! whoever wants to change one job of a run, or keep it while others go, unpacks the run first: that
//! moves its jobs to `finished` in the same transaction.
//!
//! Runs are locked before jobs in `finished`, in another statement: one that was unpacked meanwhile is
//! found there.

use tokio_postgres::Row;

use super::lane::{Failure, Tx};
use super::row::get;
use super::{Named, QueueId};

/// Runs that one part of a duty forgets or changes at most: some 20 ms of work if they are full.
pub(super) const RUNS_MAX: i64 = 100;

const UNPACK: &str = "SELECT unpack_runs(ARRAY(SELECT run FROM runs_of($1::bigint[]) AS run))";

/// Those that are split by a job that is one too many, by (finished at, id): it goes, others stay.
const SPLIT: &str = "
    SELECT unpack_runs(ARRAY(
        SELECT r.id
        FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS u (queue_id, last_at, last_id)
        CROSS JOIN LATERAL (
            SELECT id, first, last
            FROM run
            WHERE queue_id = u.queue_id AND finished_at = u.last_at
            OFFSET 0
        ) r
        WHERE r.first <= u.last_id AND r.last > u.last_id
    ))";

/// Keeps runs from being forgotten or unpacked.
pub(super) const KEEP: &str = "
    SELECT id
    FROM run
    WHERE id = ANY(ARRAY(SELECT run FROM runs_of($1::bigint[]) AS run))
    ORDER BY id
    FOR KEY SHARE";

/// Deletes what may be known of the jobs of runs that are `gone`, beside them: in the tables of
/// notes, of progress and of attempts, which are walked through where anything is noted of a number in
/// between. They have no tags and no custom ids.
macro_rules! left_beside {
    () => {
        "
    notes AS (
        DELETE FROM job_note
        WHERE ctid = ANY(ARRAY(
            SELECT n.tid
            FROM gone g
            CROSS JOIN LATERAL (
                SELECT n.tid
                FROM (SELECT id FROM unnest(g.jobs) UNION ALL SELECT unnest(g.ids)) j
                CROSS JOIN LATERAL (
                    SELECT ctid AS tid FROM job_note WHERE job_id = j.id OFFSET 0
                ) n
                WHERE (
                    SELECT true FROM job_note WHERE job_id BETWEEN g.first AND g.last LIMIT 1
                )
                OFFSET 0
            ) n
        ))
    ),
    progresses AS (
        DELETE FROM progress
        WHERE ctid = ANY(ARRAY(
            SELECT p.tid
            FROM gone g
            CROSS JOIN LATERAL (
                SELECT p.tid
                FROM (SELECT id FROM unnest(g.jobs) UNION ALL SELECT unnest(g.ids)) j
                CROSS JOIN LATERAL (
                    SELECT ctid AS tid FROM progress WHERE job_id = j.id OFFSET 0
                ) p
                WHERE (
                    SELECT true FROM progress WHERE job_id BETWEEN g.first AND g.last LIMIT 1
                )
                OFFSET 0
            ) p
        ))
    ),
    logs AS (
        DELETE FROM attempt_log
        WHERE ctid = ANY(ARRAY(
            SELECT l.tid
            FROM gone g
            CROSS JOIN LATERAL (
                SELECT l.tid
                FROM unnest(g.ids) AS j (id)
                CROSS JOIN LATERAL (
                    SELECT ctid AS tid FROM attempt_log WHERE job_id = j.id OFFSET 0
                ) l
                WHERE g.delivery > 1
                OFFSET 0
            ) l
        ))
    )"
    };
}
pub(super) use left_beside;

/// Deletes the runs that are found, and what is left beside them.
macro_rules! forget {
    ($old:literal) => {
        concat!(
            "
    WITH old AS MATERIALIZED (",
            $old,
            "
    ),
    gone AS (
        DELETE FROM run
        WHERE ctid = ANY(ARRAY(SELECT tid FROM old))
        RETURNING queue_id, finished_at, first, last, count, delivery, jobs, ids
    ),
",
            left_beside!(),
            "
    SELECT queue_id, max(finished_at) AS finished_at, count(*) AS runs, sum(count) AS jobs
    FROM gone
    GROUP BY queue_id"
        )
    };
}

/// The oldest runs of each queue, if they are older than its queue keeps them.
const FORGET_OLD: &str = forget!(
    "
        SELECT r.tid
        FROM unnest($1::bigint[], $2::bigint[]) AS u (queue_id, until)
        CROSS JOIN LATERAL (
            SELECT ctid AS tid
            FROM run
            WHERE queue_id = u.queue_id AND finished_at <= u.until
            ORDER BY finished_at, id
            LIMIT $3
            FOR UPDATE SKIP LOCKED
        ) r
        LIMIT $3"
);

/// The oldest runs of queues, from a time on, up to a job that is one too many.
const FORGET_OLDEST: &str = forget!(
    "
        SELECT r.tid
        FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[])
            AS u (queue_id, last_at, last_id, from_at)
        CROSS JOIN LATERAL (
            SELECT ctid AS tid
            FROM run
            WHERE queue_id = u.queue_id AND finished_at BETWEEN u.from_at AND u.last_at
            AND (finished_at < u.last_at OR last <= u.last_id)
            ORDER BY finished_at, id
            LIMIT $5
            FOR UPDATE SKIP LOCKED
        ) r
        LIMIT $5"
);

const DROP_PAYLOADS: &str = "
    UPDATE run
    SET is_dropped = true,
        payloads = NULL,
        results = NULL,
        content_type = NULL,
        jobs = CASE
            WHEN jobs IS NOT NULL THEN ARRAY(
                SELECT (
                    id, priority, created_at, max_attempts, expires_at, replay_of, NULL, backoff,
                    options, '', NULL
                )::packed
                FROM unnest(jobs)
            )
        END
    WHERE id = ANY(ARRAY(
        SELECT id
        FROM run
        WHERE queue_id = $1 AND NOT is_dropped
        AND finished_at >= (SELECT payloads_dropped_until FROM queue WHERE id = $1)
        AND finished_at <= $2
        ORDER BY finished_at, id
        LIMIT $3
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING id";

/// See [`super::hot_statements`].
pub(super) const HOT: &[Named] = &[
    ("runs::UNPACK", UNPACK),
    ("runs::SPLIT", SPLIT),
    ("runs::KEEP", KEEP),
    ("runs::FORGET_OLD", FORGET_OLD),
    ("runs::FORGET_OLDEST", FORGET_OLDEST),
    ("runs::DROP_PAYLOADS", DROP_PAYLOADS),
];

/// Runs of a queue that were forgotten.
pub(super) struct Forgotten {
    pub(super) queue: QueueId,
    /// When the latest of them had finished.
    pub(super) last_at: i64,
    pub(super) runs: i64,
    pub(super) jobs: i64,
}

/// These jobs are in no run from now on.
pub(super) async fn unpack(tx: &mut Tx<'_>, jobs: &[i64]) -> Result<(), Failure> {
    tx.query(UNPACK, &[&jobs]).await.map(drop)
}

/// The jobs of runs that end behind one of these jobs, and do not begin there, are in no run from now
/// on: by queue, time and number.
pub(super) async fn split(
    tx: &mut Tx<'_>,
    (queues, at, ids): (&[QueueId], &[i64], &[i64]),
) -> Result<(), Failure> {
    tx.query(SPLIT, &[&queues, &at, &ids]).await.map(drop)
}

/// Forgets runs of queues that had finished by then, the oldest first.
pub(super) async fn forget_old(
    tx: &mut Tx<'_>,
    queues: &[QueueId],
    until: &[i64],
) -> Result<Vec<Forgotten>, Failure> {
    Ok(read(&tx.query(FORGET_OLD, &[&queues, &until, &RUNS_MAX]).await?))
}

/// Forgets runs of queues up to a job, by time and number, from a time on.
pub(super) async fn forget_oldest(
    tx: &mut Tx<'_>,
    (queues, last_at, last_id, from_at): (&[QueueId], &[i64], &[i64], &[i64]),
) -> Result<Vec<Forgotten>, Failure> {
    let params: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
        [&queues, &last_at, &last_id, &from_at, &RUNS_MAX];
    Ok(read(&tx.query(FORGET_OLDEST, &params).await?))
}

fn read(rows: &[Row]) -> Vec<Forgotten> {
    let forgotten = |row: &Row| Forgotten {
        queue: get(row, "queue_id"),
        last_at: get(row, "finished_at"),
        runs: get(row, "runs"),
        jobs: get(row, "jobs"),
    };
    rows.iter().map(forgotten).collect()
}

/// Drops payloads and results of up to `room` runs that had finished by then. The answer: of how
/// many.
pub(super) async fn drop_payloads(
    tx: &mut Tx<'_>,
    queue: QueueId,
    until: i64,
    room: i64,
) -> Result<i64, Failure> {
    let rows = tx.query(DROP_PAYLOADS, &[&queue, &until, &room]).await?;
    Ok(i64::try_from(rows.len()).unwrap_or(RUNS_MAX))
}
