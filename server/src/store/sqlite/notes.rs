//! What happens to jobs beside their leases.

use rusqlite::{Row, params};

use super::row;
use super::tables::Tables;
use crate::job::{JobId, Timestamp};
use crate::limits;
use crate::store::columns::sql_id;
use crate::store::{Note, NoteKind, Refused};

/// The next note of a job that is known.
const INSERT: &str = "
    INSERT INTO job_note (job_id, number, at, kind, delivery, who, detail)
    SELECT
        ?1, coalesce((SELECT max(number) FROM job_note WHERE job_id = ?1), 0) + 1, ?2, ?3,
        coalesce(?4, delivery), ?5, ?6
    FROM (
        SELECT delivery FROM job WHERE id = ?1
        UNION ALL
        SELECT deliveries FROM finished WHERE id = ?1
    )
    RETURNING number";

impl Tables {
    /// Notes what happens to a job.
    pub(super) fn note(
        &self,
        job: JobId,
        kind: NoteKind,
        detail: impl Into<String>,
    ) -> rusqlite::Result<()> {
        self.insert_note(job, self.now, (kind, None), ("", &detail.into()))
    }

    pub(super) fn note_refused(&self, refused: Vec<Refused>) -> rusqlite::Result<()> {
        refused.into_iter().try_for_each(|Refused { lease, who, what }| {
            let of = (NoteKind::Refused, Some(lease.delivery));
            self.insert_note(lease.job, self.now, of, (&who, what))
        })
    }

    pub(super) fn insert_note(
        &self,
        job: JobId,
        at: Timestamp,
        (kind, delivery): (NoteKind, Option<u32>),
        (who, detail): (&str, &str),
    ) -> rusqlite::Result<()> {
        let id = sql_id(job);
        let values = params![id, at.0, kind.name(), delivery, who, detail];
        let number: Option<i64> = self.one(INSERT, values, |row| row.get(0))?;
        let most = i64::try_from(limits::NOTES_MAX).unwrap_or(i64::MAX);
        match number {
            Some(number) if number > most => {
                let sql = "DELETE FROM job_note WHERE job_id = ?1 AND number <= ?2";
                self.execute(sql, params![id, number - most])
            }
            _ => Ok(()),
        }
    }

    pub(super) fn notes(&self, job: JobId) -> rusqlite::Result<Vec<Note>> {
        let sql = "SELECT at, kind, delivery, who, detail FROM job_note
                   WHERE job_id = ?1 ORDER BY number";
        self.all(sql, [sql_id(job)], |row: &Row<'_>| {
            let kind = row::parsed(row, 1, |name| NoteKind::parse(name).ok_or(()))?;
            Ok(Note {
                at: Timestamp(row.get(0)?),
                kind: kind.ok_or(rusqlite::Error::InvalidQuery)?,
                delivery: row.get(2)?,
                who: row.get(3)?,
                detail: row.get(4)?,
            })
        })
    }
}
