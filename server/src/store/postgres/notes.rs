//! What happens to jobs beside their leases.

use super::lane::{Failure, Tx};
use super::row::{count, get, parsed};
use super::{PostgresStore, inspect, retrying, runs};
use crate::job::{JobId, Timestamp};
use crate::limits;
use crate::store::columns::sql_id;
use crate::store::{Note, NoteKind, Refused};

/// Notes of jobs that are known, in their order, at $2 or now; the oldest make room. $7 are the
/// jobs, each once: of those that are not live it is asked whether they are in runs.
const INSERT: &str = "
    WITH packed AS MATERIALIZED (
        SELECT p.id, p.deliveries
        FROM (
            SELECT array_agg(id) AS ids
            FROM unnest($7::bigint[]) AS u (id)
            WHERE (SELECT true FROM job WHERE id = u.id LIMIT 1) IS NULL
        ) ended
        CROSS JOIN LATERAL completed_in_runs(ended.ids) p
    ),
    live_packed AS MATERIALIZED (
        SELECT id, delivery FROM places_in_runs($7)
    ),
    old AS (
        DELETE FROM job_note
        WHERE ctid = ANY(ARRAY(
            SELECT n.ctid
            FROM unnest($7::bigint[]) AS u (id)
            CROSS JOIN LATERAL (
                SELECT ctid FROM job_note WHERE job_id = u.id ORDER BY number DESC OFFSET $8
            ) n
        ))
    )
    INSERT INTO job_note (job_id, at, kind, delivery, who, detail)
    SELECT
        u.job_id, coalesce($2, now_ms()), u.kind, coalesce(u.delivery, k.delivery), u.who, u.detail
    FROM unnest($1::bigint[], $3::text[], $4::integer[], $5::text[], $6::text[])
        WITH ORDINALITY AS u (job_id, kind, delivery, who, detail, ord)
    CROSS JOIN LATERAL (
        SELECT delivery FROM job WHERE id = u.job_id
        UNION ALL
        SELECT delivery FROM live_packed WHERE id = u.job_id
        UNION ALL
        SELECT deliveries FROM finished WHERE id = u.job_id
        UNION ALL
        SELECT deliveries FROM packed WHERE id = u.job_id
    ) k
    ORDER BY u.ord";

/// The latest. When the time of jobs in runs came is said by the runs.
const NOTES: &str = "
    SELECT at, kind, delivery, who, detail
    FROM (
        SELECT number, at, kind, delivery, who, detail
        FROM job_note
        WHERE job_id = $1
        UNION ALL
        SELECT due_note, due_at, $3, delivery, '', ''
        FROM run
        WHERE bucket = $1 >> 10 AND first <= $1 AND last >= $1 AND $1 = ANY(ids)
        AND due_at IS NOT NULL AND finished_at IS NULL
        UNION ALL
        SELECT due_note, due_at, $3, delivery, '', ''
        FROM run
        WHERE bucket = $1 >> 10 AND first <= $1 AND last >= $1 AND $1 = ANY(ids)
        AND due_at IS NOT NULL AND coalesce(finished_at, 0) <> 0
    ) n
    ORDER BY number DESC
    LIMIT $2";

/// Keeps finished jobs from being forgotten while something is noted of them.
const KEEP: &str = "
    SELECT id
    FROM finished
    WHERE id = ANY($1::bigint[])
    ORDER BY id
    FOR KEY SHARE";

/// See [`super::hot_statements`].
pub(super) const HOT: &[super::Named] = &[("notes::INSERT", INSERT), ("notes::NOTES", NOTES)];

/// How many notes of a job are left when another one comes.
pub(super) fn room() -> i64 {
    i64::try_from(limits::NOTES_MAX - 1).unwrap_or(i64::MAX)
}

/// What is to be noted.
#[derive(Default)]
pub(super) struct Noted {
    /// `None`: now.
    at: Option<Timestamp>,
    jobs: Vec<i64>,
    kinds: Vec<&'static str>,
    deliveries: Vec<Option<i32>>,
    whos: Vec<String>,
    details: Vec<String>,
}

impl Noted {
    pub(super) fn one(job: JobId, kind: NoteKind, detail: impl Into<String>) -> Self {
        let mut noted = Self::default();
        noted.add(job, (kind, None), String::new(), detail.into());
        noted
    }

    /// It was then.
    pub(super) fn at(self, at: Option<Timestamp>) -> Self {
        Self { at, ..self }
    }

    /// The same of many jobs.
    pub(super) fn each(jobs: impl IntoIterator<Item = JobId>, kind: NoteKind) -> Self {
        let mut noted = Self::default();
        for job in jobs {
            noted.add(job, (kind, None), String::new(), String::new());
        }
        noted
    }

    fn add(
        &mut self,
        job: JobId,
        (kind, delivery): (NoteKind, Option<u32>),
        who: String,
        detail: String,
    ) {
        self.jobs.push(sql_id(job));
        self.kinds.push(kind.name());
        self.deliveries.push(delivery.map(u32::cast_signed));
        self.whos.push(who);
        self.details.push(detail);
    }

    pub(super) async fn write(self, tx: &mut Tx<'_>) -> Result<(), Failure> {
        if self.jobs.is_empty() {
            return Ok(());
        }
        let mut distinct = self.jobs.clone();
        distinct.sort_unstable();
        distinct.dedup();
        let at = self.at.map(|at| at.0);
        tx.query(
            INSERT,
            &[
                &self.jobs,
                &at,
                &self.kinds,
                &self.deliveries,
                &self.whos,
                &self.details,
                &distinct,
                &room(),
            ],
        )
        .await
        .map(drop)
    }
}

impl PostgresStore {
    pub(super) async fn find_notes(&self, job: JobId) -> Result<Vec<Note>, Failure> {
        let most = i64::try_from(limits::NOTES_MAX).unwrap_or(i64::MAX);
        let due = NoteKind::Due.name();
        let rows = self.pool.read((NOTES, &[&sql_id(job), &most, &due])).await?;
        let note = |row| {
            let kind = parsed(row, "kind", |name| NoteKind::parse(name).ok_or(()))?;
            Ok(Note {
                at: Timestamp(get(row, "at")),
                kind: kind.ok_or_else(|| inspect::damaged("a note of no kind"))?,
                delivery: count(row, "delivery"),
                who: get(row, "who"),
                detail: get(row, "detail"),
            })
        };
        rows.iter().rev().map(note).collect()
    }

    pub(super) async fn note_all_refused(&self, refused: &[Refused]) -> Result<(), Failure> {
        retrying!(self.try_note_refused(refused))
    }

    async fn try_note_refused(&self, refused: &[Refused]) -> Result<(), Failure> {
        let mut noted = Noted::default();
        for Refused { lease, who, what } in refused {
            let of = (NoteKind::Refused, Some(lease.delivery));
            noted.add(lease.job, of, who.clone(), (*what).into());
        }
        let mut tx = self.pool.begin().await?;
        tx.query(runs::KEEP, &[&noted.jobs]).await?;
        tx.query(KEEP, &[&noted.jobs]).await?;
        noted.write(&mut tx).await?;
        tx.commit(&[]).await.map(drop)
    }
}
