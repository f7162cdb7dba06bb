//! Jobs that stand in line as one row: blocks. See `migrations/0013_blocks.sql`.
//!
//! A push of many jobs that are alike writes one row of `ready` for up to [`BLOCK_MAX`] of them, and
//! a claim takes it as a whole or cuts off its front. So a line costs next to nothing beside the jobs
//! themselves. All else that is done to a job that waits is done to a row of its own: it
//! [splits](split_blocks_of) the block first. That is one statement; a claim that comes at
//! the same time is waited for, and what it has taken is not in the block any more. Jobs that have
//! become due together share the place of their block, a new number; the others have their own then.
//!
//! Two kinds of claims decide on each job, and split what they meet: those in
//! [rounds](super::rounds) and those of queues [with limits](super::flow).

use std::collections::BTreeSet;

use tokio_postgres::Row;

use super::lane::{Call, Failure, Tx};
use super::live_runs::{UNPACK_PLACES, UNPACK_SCHEDULED};
use super::row::get;

/// Three rows of this size fit a page, and cutting off the front writes the rest again.
pub(super) const BLOCK_MAX: usize = 250;

/// Jobs with larger payloads stand alone: a claim takes blocks whole, whatever they weigh.
pub(super) const PAYLOAD_MAX: usize = 1024;

/// Gives each job of these blocks a row of its own, if none of them is in a run any more. The block is
/// looked for twice: a claim that was waited for has left another version of the row.
macro_rules! split {
    ($blocks:literal, $wait:literal) => {
        concat!(
            "
    WITH locked AS MATERIALIZED (
        SELECT r.block
        FROM (",
            $blocks,
            "
        ) k
        CROSS JOIN LATERAL (
            SELECT block
            FROM ready
            WHERE block = k.block AND (
                SELECT true
                FROM run
                WHERE place = k.block AND coalesce(finished_at, 0) = 0 AND run_at IS NULL
                LIMIT 1
            ) IS NULL
            OFFSET 0
            FOR UPDATE ",
            $wait,
            "
        ) r
    ),
    gone AS (
        DELETE FROM ready
        WHERE block = ANY(ARRAY(SELECT block FROM locked))
        RETURNING queue_id, priority, block, delivery, ready_at, timeout_ms, job_ids
    ),
    waiting AS MATERIALIZED (
        SELECT queue_id, priority, block, delivery, ready_at, timeout_ms, unnest(job_ids) AS id
        FROM gone
    ),
    placed AS (
        UPDATE job
        SET place = greatest(place, id)
        WHERE id = ANY(ARRAY(SELECT id FROM waiting))
    )
    INSERT INTO ready (
        queue_id, gate, priority, place, job_id, delivery, bytes, ready_at, timeout_ms
    )
    SELECT
        w.queue_id, '', w.priority, greatest(w.block, w.id), w.id, w.delivery, j.bytes, w.ready_at,
        w.timeout_ms
    FROM waiting w
    CROSS JOIN LATERAL (
        SELECT length(payload) AS bytes FROM job WHERE id = w.id OFFSET 0
    ) j"
        )
    };
}

/// Those that somebody holds are left.
const SPLIT: &str = split!("SELECT u.block FROM unnest($1::bigint[]) AS u (block)", "SKIP LOCKED");

const SPLIT_OF: &str = split!(
    "
            SELECT DISTINCT place AS block
            FROM job
            WHERE id = ANY($1::bigint[]) AND run_at IS NULL AND NOT is_blocked
            ORDER BY place",
    ""
);

/// Whoever claims locks blocks and then runs.
const LOCK_OF: &str = "
    SELECT block
    FROM ready
    WHERE block = ANY(ARRAY(
        SELECT place FROM job WHERE id = ANY($1::bigint[]) AND run_at IS NULL
        UNION
        SELECT place FROM places_in_runs($1)
    ))
    ORDER BY block
    FOR UPDATE";

/// None of those that stand where these jobs do is in a run from now on.
const UNPACK_PLACES_OF: &str = "
    SELECT unpack_places(ARRAY(
        SELECT place FROM job WHERE id = ANY($1::bigint[]) AND run_at IS NULL
        UNION
        SELECT place FROM places_in_runs($1)
    ))";

/// See [`super::hot_statements`].
pub(super) const HOT: &[super::Named] = &[
    ("blocks::SPLIT", SPLIT),
    ("blocks::SPLIT_OF", SPLIT_OF),
    ("blocks::LOCK_OF", LOCK_OF),
    ("blocks::UNPACK_PLACES_OF", UNPACK_PLACES_OF),
];

/// The numbers of blocks among rows of `ready`, as far as the first `wanted` jobs reach.
pub(super) fn blocks_among<'a>(
    rows: impl IntoIterator<Item = &'a Row>,
    wanted: i64,
) -> BTreeSet<i64> {
    let (mut blocks, mut before) = (BTreeSet::new(), 0);
    for row in rows {
        if before >= wanted {
            break;
        }
        blocks.extend(get::<Option<i64>>(row, "block"));
        before += i64::from(get::<i32>(row, "count"));
    }
    blocks
}

/// From now on each job of these blocks has a row and a place of its own, unless somebody holds the
/// block.
pub(super) async fn split_blocks(tx: &mut Tx<'_>, blocks: BTreeSet<i64>) -> Result<(), Failure> {
    let blocks: Vec<i64> = blocks.into_iter().collect();
    tx.all(&[(UNPACK_PLACES, &[&blocks]), (SPLIT, &[&blocks])]).await.map(drop)
}

/// Those of these jobs that wait in a block, or in a run for their time, have a row and a place of their
/// own from now on, as have those that wait there with them.
pub(super) async fn split_blocks_of(tx: &mut Tx<'_>, jobs: &[i64]) -> Result<(), Failure> {
    let calls: [Call<'_>; 4] = [
        (UNPACK_SCHEDULED, &[&jobs]),
        (LOCK_OF, &[&jobs]),
        (UNPACK_PLACES_OF, &[&jobs]),
        (SPLIT_OF, &[&jobs]),
    ];
    tx.all(&calls).await.map(drop)
}
