//! The logs of jobs.

use super::lane::{Failure, Tx};
use super::row::{self, get};
use super::{PostgresStore, retrying};
use crate::job::{JobId, Timestamp};
use crate::limits;
use crate::store::StoredLine;
use crate::store::columns::sql_id;
use crate::store::logs::{SWEPT_MAX, Swept};

/// The next line of a job that is known; the oldest make room.
const INSERT: &str = "
    WITH old AS (
        DELETE FROM job_log
        WHERE ctid = ANY(ARRAY(
            SELECT ctid FROM job_log WHERE job_id = $1 ORDER BY number DESC OFFSET $4
        ))
    )
    INSERT INTO job_log (job_id, at, level, message)
    SELECT id, now_ms(), $2::text, $3::bytea
    FROM (
        SELECT id FROM job WHERE id = $1
        UNION ALL
        SELECT id FROM places_in_runs(ARRAY[$1::bigint])
        UNION ALL
        SELECT id FROM finished WHERE id = $1
        UNION ALL
        SELECT id FROM completed_in_runs(ARRAY[$1])
        WHERE (SELECT true FROM job WHERE id = $1) IS NULL
    ) known
    RETURNING job_id";

const LINES: &str = "
    SELECT at, level, message
    FROM job_log
    WHERE job_id = $1 AND coalesce(
        (SELECT true FROM job WHERE id = $1), (SELECT true FROM finished WHERE id = $1),
        (SELECT true FROM completed_in_runs(ARRAY[$1])),
        (SELECT true FROM places_in_runs(ARRAY[$1::bigint]))
    )
    ORDER BY number DESC
    LIMIT $2";

/// The log of a job.
pub(super) const DELETE: &str = "DELETE FROM job_log WHERE job_id = $1";

/// Goes on with the sweep, behind a line. Lines of jobs that are gone go, too; but those whose numbers lie
/// between those of a run stay as long as it does, since looking into it costs more than they do.
const SWEEP: &str = "
    WITH looked AS MATERIALIZED (
        SELECT ctid AS tid, job_id, number
        FROM job_log
        WHERE (job_id, number) > ($1, $2)
        ORDER BY job_id, number
        LIMIT $3
    ),
    gone AS (
        DELETE FROM job_log
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
    LIMIT 1";

/// See [`super::hot_statements`].
pub(super) const HOT: &[super::Named] = &[
    ("logs::INSERT", INSERT),
    ("logs::LINES", LINES),
    ("logs::DELETE", DELETE),
    ("logs::SWEEP", SWEEP),
];

impl PostgresStore {
    pub(super) async fn write_log(
        &self,
        job: JobId,
        level: &str,
        message: &[u8],
    ) -> Result<bool, Failure> {
        retrying!(self.try_write_log(job, level, message))
    }

    async fn try_write_log(
        &self,
        job: JobId,
        level: &str,
        message: &[u8],
    ) -> Result<bool, Failure> {
        let room = i64::try_from(limits::LOGS_MAX - 1).unwrap_or(i64::MAX);
        let tx = self.pool.begin().await?;
        let written = tx.commit(&[(INSERT, &[&sql_id(job), &level, &message, &room])]).await?;
        Ok(!written[0].is_empty())
    }

    pub(super) async fn find_log(&self, job: JobId) -> Result<Vec<StoredLine>, Failure> {
        let most = i64::try_from(limits::LOGS_MAX).unwrap_or(i64::MAX);
        let rows = self.pool.read((LINES, &[&sql_id(job), &most])).await?;
        let line = |row| StoredLine {
            at: Timestamp(get(row, "at")),
            level: get(row, "level"),
            message: row::bytes(row, "message"),
        };
        Ok(rows.iter().rev().map(line).collect())
    }

    /// Goes on with the sweep, in the leader's transaction.
    pub(super) async fn sweep_logs(&self, tx: &mut Tx<'_>) -> Result<Swept, Failure> {
        let (job, number) = *self.swept.lock();
        let most = i64::try_from(SWEPT_MAX).unwrap_or(i64::MAX);
        let rows = tx.query(SWEEP, &[&job, &number, &most]).await?;
        let Some(row) = rows.first() else {
            *self.swept.lock() = (0, 0);
            return Ok(Swept { seen: 0, gone: 0 });
        };
        let count = |column| usize::try_from(get::<i64>(row, column)).unwrap_or(0);
        let swept = Swept { seen: count("seen"), gone: count("gone") };
        // If this part is not committed, what it has passed over waits for the next sweep.
        let last = (get(row, "job_id"), get(row, "number"));
        *self.swept.lock() = swept.next().map_or((0, 0), |_| last);
        Ok(swept)
    }
}
