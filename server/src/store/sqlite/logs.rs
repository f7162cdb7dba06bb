//! The logs of jobs.

use rusqlite::{Row, params};

use super::row;
use super::tables::Tables;
use crate::job::{JobId, Timestamp};
use crate::limits;
use crate::store::StoredLine;
use crate::store::columns::sql_id;
use crate::store::sweep::{SWEPT_MAX, Swept};

/// The next line of a job that is known.
const INSERT: &str = "
    INSERT INTO job_log (job_id, number, at, level, message)
    SELECT
        id, coalesce((SELECT max(number) FROM job_log WHERE job_id = ?1), 0) + 1, ?2, ?3, ?4
    FROM (
        SELECT id FROM job WHERE id = ?1
        UNION ALL
        SELECT id FROM finished WHERE id = ?1
    )
    RETURNING number";

const LINES: &str = "
    SELECT at, level, message
    FROM job_log
    WHERE job_id = ?1 AND (
        EXISTS (SELECT 1 FROM job WHERE id = ?1) OR EXISTS (SELECT 1 FROM finished WHERE id = ?1)
    )
    ORDER BY number";

/// The next lines of the sweep, and whether their jobs are gone.
const NEXT: &str = "
    SELECT
        job_id, number,
        NOT EXISTS (SELECT 1 FROM job WHERE id = job_log.job_id)
        AND NOT EXISTS (SELECT 1 FROM finished WHERE id = job_log.job_id)
    FROM job_log
    WHERE (job_id, number) > (?1, ?2)
    ORDER BY job_id, number
    LIMIT ?3";

impl Tables {
    pub(super) fn log(&self, job: JobId, level: &str, message: &[u8]) -> rusqlite::Result<bool> {
        let id = sql_id(job);
        let values = params![id, self.now.0, level, message];
        let number: Option<i64> = self.one(INSERT, values, |row| row.get(0))?;
        let Some(number) = number else { return Ok(false) };
        let most = i64::try_from(limits::LOGS_MAX).unwrap_or(i64::MAX);
        if number > most {
            let sql = "DELETE FROM job_log WHERE job_id = ?1 AND number <= ?2";
            self.execute(sql, params![id, number - most])?;
        }
        Ok(true)
    }

    pub(super) fn logs(&self, job: JobId) -> rusqlite::Result<Vec<StoredLine>> {
        self.all(LINES, [sql_id(job)], |row: &Row<'_>| {
            Ok(StoredLine {
                at: Timestamp(row.get(0)?),
                level: row.get(1)?,
                message: row::bytes(row, 2)?,
            })
        })
    }

    /// Goes on with the sweep.
    pub(super) fn sweep_logs(&mut self) -> rusqlite::Result<Swept> {
        let (job, number) = self.swept;
        let next: Vec<(i64, i64, bool)> =
            self.all(NEXT, params![job, number, SWEPT_MAX], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })?;
        let mut gone = 0;
        for (job, number, _) in next.iter().filter(|(.., is_gone)| *is_gone) {
            let sql = "DELETE FROM job_log WHERE job_id = ?1 AND number = ?2";
            self.execute(sql, [job, number])?;
            gone += 1;
        }
        let swept = Swept { seen: next.len(), gone };
        let last = next.last().map(|(job, number, _)| (*job, *number));
        self.swept = last.filter(|_| swept.next().is_some()).unwrap_or_default();
        Ok(swept)
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;
    use crate::clock::ManualClock;
    use crate::store::Retention;

    #[test]
    fn lines_of_jobs_that_are_gone_are_swept_away_in_parts() {
        let mut conn = Connection::open_in_memory().unwrap();
        super::super::create(&mut conn).unwrap();
        conn.execute_batch(
            "INSERT INTO queue (id, name) VALUES (1, 'q');
             INSERT INTO job (id, queue_id, priority, place, created_at, max_attempts, attempts,
                 delivery, crashes, payload)
             VALUES (5, 1, 0, 5, 0, 1, 0, 1, 0, x'7b7d');
             WITH RECURSIVE line (number) AS (
                 SELECT 1 UNION ALL SELECT number + 1 FROM line WHERE number < 2500
             )
             INSERT INTO job_log SELECT iif(number <= 10, 5, 6), number, 0, 'info', x'' FROM line",
        )
        .unwrap();
        let mut tables = Tables::new(conn, "n", ManualClock::new(), Retention::default()).unwrap();
        let mut sweep = || tables.sweep_logs().unwrap();
        assert_eq!(sweep(), Swept { seen: SWEPT_MAX, gone: SWEPT_MAX - 10 });
        assert_eq!(sweep(), Swept { seen: 500, gone: 500 });
        // It begins anew.
        assert_eq!(sweep(), Swept { seen: 10, gone: 0 });
    }
}
