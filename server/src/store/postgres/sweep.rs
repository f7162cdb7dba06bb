//! What is left of jobs that are gone, and is swept away: see [`sweep`](crate::store::sweep).
//!
//! * Lines of logs: to look for them with each job that goes would cost those that have none.
//! * Progress that was told while its job was acked, of queues that keep no completed jobs. The ack waits
//!   for it, and then deletes what was there when its statement began.

use super::PostgresStore;
use super::lane::{Failure, Tx};
use super::row::get;
use crate::store::sweep::{SWEPT_MAX, Swept};

/// Goes on with a sweep along a table, behind a row. Rows of jobs that are gone go, too; but those whose
/// numbers lie between those of a run stay as long as it does, since looking into it costs more than they
/// do.
macro_rules! sweep {
    ($table:literal, $number:literal) => {
        concat!(
            "
    WITH looked AS MATERIALIZED (
        SELECT ctid AS tid, job_id, ",
            $number,
            "::bigint AS number
        FROM ",
            $table,
            "
        WHERE (job_id, ",
            $number,
            ") > ($1, $2::bigint)
        ORDER BY job_id, ",
            $number,
            "
        LIMIT $3
    ),
    gone AS (
        DELETE FROM ",
            $table,
            "
        WHERE ctid = ANY(ARRAY(
            SELECT tid
            FROM looked l
            WHERE (SELECT true FROM job WHERE id = l.job_id LIMIT 1) IS NULL
            AND (SELECT true FROM finished WHERE id = l.job_id LIMIT 1) IS NULL
            AND (
                SELECT true FROM run
                WHERE bucket = l.job_id >> 10 AND l.job_id BETWEEN first AND last
                AND finished_at IS NULL
                UNION ALL
                SELECT true FROM run
                WHERE bucket = l.job_id >> 10 AND l.job_id BETWEEN first AND last
                AND coalesce(finished_at, 0) <> 0
                LIMIT 1
            ) IS NULL
        ))
        RETURNING 1
    )
    SELECT
        job_id, number, (SELECT count(*) FROM looked) AS seen, (SELECT count(*) FROM gone) AS gone
    FROM looked
    ORDER BY job_id DESC, number DESC
    LIMIT 1"
        )
    };
}

const LOGS: &str = sweep!("job_log", "number");

/// A job has one row at most.
const PROGRESS: &str = sweep!("progress", "delivery");

/// See [`super::hot_statements`].
pub(super) const HOT: &[super::Named] = &[("sweep::LOGS", LOGS), ("sweep::PROGRESS", PROGRESS)];

/// The last row, by job and number, that a sweep has looked at.
type Place = (i64, i64);

/// How far the sweeps have come: hints.
#[derive(Debug, Default)]
pub(super) struct Places {
    logs: Place,
    progress: Place,
}

impl PostgresStore {
    /// Goes on with the sweeps, in the leader's transaction. If it is not committed, what this part has
    /// passed over waits for the next sweep.
    pub(super) async fn sweep(&self, tx: &mut Tx<'_>) -> Result<[Swept; 2], Failure> {
        let Places { logs, progress } = *self.swept.lock();
        let (swept_logs, logs) = part(tx, LOGS, logs).await?;
        let (swept_progress, progress) = part(tx, PROGRESS, progress).await?;
        *self.swept.lock() = Places { logs, progress };
        Ok([swept_logs, swept_progress])
    }
}

/// A part of a sweep, behind this place, and where the next one begins.
async fn part(
    tx: &mut Tx<'_>,
    sql: &'static str,
    (job, number): Place,
) -> Result<(Swept, Place), Failure> {
    let most = i64::try_from(SWEPT_MAX).unwrap_or(i64::MAX);
    let rows = tx.query(sql, &[&job, &number, &most]).await?;
    let Some(row) = rows.first() else {
        return Ok((Swept { seen: 0, gone: 0 }, Place::default()));
    };
    let count = |column| usize::try_from(get::<i64>(row, column)).unwrap_or(0);
    let swept = Swept { seen: count("seen"), gone: count("gone") };
    let last = (get(row, "job_id"), get(row, "number"));
    Ok((swept, swept.next().map_or(Place::default(), |_| last)))
}
