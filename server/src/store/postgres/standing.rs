//! What a job waits for.

use tokio_postgres::Row;

use super::lane::{Failure, Tx};
use super::row::{self, get, job_id, now, time};
use super::{PostgresStore, QueueId, flow, inspect};
use crate::job::{Closed, JobId, Settings, State, Timestamp};
use crate::limits;
use crate::store::columns::{parse_settings, sql_id};
use crate::store::{InLine, Job, Limit, Paused, Standing};

const QUEUE: &str = "
    SELECT id, settings, paused_at, paused_by, now_ms() AS now
    FROM queue
    WHERE name = $1";

const NEEDS: &str = "SELECT needs_id FROM dependency WHERE job_id = $1 ORDER BY needs_id";

/// How many come before a ready job: of a higher priority, behind any of the first gates; and
/// behind its own gate. Counted up to $2.
const BEFORE: &str = "
    SELECT
        (
            WITH RECURSIVE gates AS (
                (SELECT gate FROM ready WHERE queue_id = j.queue_id ORDER BY gate LIMIT 1)
                UNION ALL
                SELECT n.gate
                FROM gates
                CROSS JOIN LATERAL (
                    SELECT r.gate
                    FROM ready r
                    WHERE r.queue_id = j.queue_id AND r.gate > gates.gate
                    ORDER BY r.gate
                    LIMIT 1
                ) n
            )
            SELECT least(coalesce(sum(count), 0), $2)
            FROM (
                SELECT h.count
                FROM (SELECT gate FROM gates LIMIT $2) g
                CROSS JOIN LATERAL (
                    SELECT r.count
                    FROM ready r
                    WHERE r.queue_id = j.queue_id AND r.gate = g.gate AND r.priority > j.priority
                    LIMIT $2
                ) h
                LIMIT $2
            ) c
        ) AS higher,
        (
            SELECT least(coalesce(sum(count), 0) + coalesce(b.ahead, 0), $2)
            FROM (
                SELECT r.count
                FROM ready r
                WHERE r.queue_id = j.queue_id AND r.gate = coalesce(j.gate, '')
                AND r.priority = j.priority
                AND (r.place, r.job_id) < (coalesce(b.place, j.place), coalesce(b.job_id, j.id))
                LIMIT $2
            ) c
        ) AS ahead
    FROM live_jobs(ARRAY[$1::bigint]) j
    LEFT JOIN LATERAL (
        SELECT place, job_id, array_position(job_ids, j.id) - 1 AS ahead
        FROM ready
        WHERE block = j.place AND j.id = ANY(job_ids)
        OFFSET 0
    ) b ON true";

/// The jobs that hold a key.
const HOLDERS: &str = "
    SELECT s.job_id
    FROM slot s
    CROSS JOIN LATERAL (
        SELECT 1 FROM job WHERE id = s.job_id AND delivery = s.delivery OFFSET 0
    ) j
    WHERE s.queue_id = $1 AND s.key = $2
    ORDER BY s.job_id
    LIMIT $3";

/// See [`super::hot_statements`].
pub(super) const HOT: &[super::Named] =
    &[("standing::NEEDS", NEEDS), ("standing::BEFORE", BEFORE), ("standing::HOLDERS", HOLDERS)];

impl PostgresStore {
    pub(super) async fn find_standing(&self, id: JobId) -> Result<Option<Standing>, Failure> {
        let mut tx = self.pool.begin().await?;
        let Some((job, attempt)) = self.find_with_last(&mut tx, id).await? else {
            return Ok(None);
        };
        let job = Job { payload: None, result: None, ..job };
        let rows = tx.query(QUEUE, &[&job.queue.as_str()]).await?;
        let row = rows.first().ok_or_else(|| Failure::NotDone("a job without a queue".into()))?;
        let needs = match job.state {
            State::Blocked => needs_left(&mut tx, id).await?,
            _ => Vec::new(),
        };
        let line = match job.state {
            State::Ready => Some(in_line(&mut tx, row, &job).await?),
            _ => None,
        };
        tx.commit(&[]).await?;
        let by = get::<Option<String>>(row, "paused_by").unwrap_or_default();
        let paused = time(row, "paused_at").map(|since| Paused { since, by });
        Ok(Some(Standing { now: now(row), job, attempt, paused, needs, line }))
    }
}

/// The jobs that a job still waits for, and where they are.
async fn needs_left(tx: &mut Tx<'_>, id: JobId) -> Result<Vec<(JobId, Option<State>)>, Failure> {
    let mut needs = Vec::new();
    for row in tx.query(NEEDS, &[&sql_id(id)]).await? {
        let need = job_id(&row, "needs_id");
        needs.push((need, inspect::state(tx, need).await?));
    }
    Ok(needs)
}

async fn in_line(tx: &mut Tx<'_>, queue: &Row, job: &Job) -> Result<InLine, Failure> {
    let most = i64::try_from(limits::AHEAD_MAX).unwrap_or(i64::MAX);
    let rows = tx.query(BEFORE, &[&sql_id(job.id), &most]).await?;
    let count = |column| {
        let count = rows.first().map_or(0, |row| get::<i64>(row, column));
        usize::try_from(count).unwrap_or(0)
    };
    let settings = row::parsed(queue, "settings", parse_settings)?.unwrap_or_default();
    let limits = reached(tx, get(queue, "id"), settings, now(queue), job).await?;
    Ok(InLine { higher: count("higher"), ahead: count("ahead"), limits })
}

/// The limits that keep a job from starting.
async fn reached(
    tx: &mut Tx<'_>,
    queue: QueueId,
    settings: Settings,
    now: Timestamp,
    job: &Job,
) -> Result<Vec<Limit>, Failure> {
    let flow = &job.options.flow;
    if !settings.is_limited() && flow.gate().is_none() {
        return Ok(Vec::new());
    }
    let admission = flow::admission(tx, queue, settings, now).await?;
    let is_full = admission.closed(flow).any(|closed| closed == Closed::KeyFull);
    let mut holders = Vec::new();
    if let Some(concurrency) = flow.concurrency.as_ref().filter(|_| is_full) {
        let most = i64::try_from(limits::HOLDERS_SHOWN_MAX).unwrap_or(i64::MAX);
        let rows = tx.query(HOLDERS, &[&queue, &concurrency.key.as_str(), &most]).await?;
        holders.extend(rows.iter().map(|row| job_id(row, "job_id")));
    }
    Ok(Limit::all(&admission, flow, &holders))
}
