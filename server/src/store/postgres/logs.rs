//! The logs of jobs.

use super::lane::Failure;
use super::row::{self, get};
use super::{PostgresStore, retrying};
use crate::job::{JobId, Timestamp};
use crate::limits;
use crate::store::StoredLine;
use crate::store::columns::sql_id;

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

/// See [`super::hot_statements`].
pub(super) const HOT: &[super::Named] =
    &[("logs::INSERT", INSERT), ("logs::LINES", LINES), ("logs::DELETE", DELETE)];

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
}
