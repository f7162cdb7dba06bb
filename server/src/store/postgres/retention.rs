//! What is kept for a time and then goes: finished jobs, their payloads, and what is noted beside them.
//!
//! Finished jobs are forgotten by age and by number, the oldest first, in parts that a transaction of the
//! leader has room for: see [`duties`](super::duties). Here are those that have rows of their own; those in
//! runs are forgotten by [`runs`](super::runs).

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Row;

use super::duties::rows_max;
use super::kv::forget_values;
use super::lane::{Failure, Tx};
use super::row::{self, get};
use super::runs::{self, Forgotten, RUNS_MAX};
use super::{PostgresStore, QueueId};
use crate::job::{Settings, Timestamp};
use crate::store::columns::{parse_settings, sql_millis};
use crate::store::guards::DECISIONS_KEPT;
use crate::store::{DutyReport, FIRES_KEPT, FORGOTTEN_MAX};

/// How long until finished jobs are looked at again.
const RETENTION_EVERY: Duration = Duration::from_secs(60);

/// Queues of which a statement looks for the last job that is kept: a statement has five seconds, and
/// a million jobs that are a row each take a quarter of one.
const COUNTED_AT_ONCE: usize = 8;

/// So much earlier may a job have finished that is seen after another one, at most.
const COMMITTED_WITHIN_MS: i64 = 60_000;

/// How long it is remembered what leaders did.
const AUDIT_KEPT: Duration = Duration::from_secs(24 * 3600);

/// Keys whose time is over. One that somebody takes again just now is theirs.
const FORGET_KEYS: &str = "
    DELETE FROM unique_key
    WHERE ctid = ANY(ARRAY(
        SELECT ctid
        FROM unique_key
        WHERE expires_at <= $1
        ORDER BY expires_at
        LIMIT $2
        FOR UPDATE SKIP LOCKED
    )) AND expires_at <= $1";

/// Queues that may have no limits any more. Locked against pushes that bring some.
const GATED: &str = "
    SELECT id, settings
    FROM queue
    WHERE is_gated
    ORDER BY id
    LIMIT 100
    FOR UPDATE SKIP LOCKED";

const OPEN_GATES: &str = "
    UPDATE queue
    SET is_gated = false
    WHERE id = ANY($1::bigint[])
    AND (SELECT true FROM job WHERE queue_id = queue.id AND gate IS NOT NULL LIMIT 1) IS NULL";

/// The oldest finished jobs of each queue, if they are older than its queue keeps them.
const OLD_KEPT: &str = "
    SELECT f.id, u.queue_id
    FROM unnest($1::bigint[], $2::bigint[]) AS u (queue_id, until)
    CROSS JOIN LATERAL (
        SELECT id
        FROM finished
        WHERE queue_id = u.queue_id AND state <> 'dead' AND finished_at <= u.until
        ORDER BY finished_at, id
        LIMIT $3
        FOR UPDATE SKIP LOCKED
    ) f
    LIMIT $3";

const OLD_DEAD: &str = "
    SELECT f.id, u.queue_id
    FROM unnest($1::bigint[], $2::bigint[]) AS u (queue_id, until)
    CROSS JOIN LATERAL (
        SELECT id
        FROM finished
        WHERE queue_id = u.queue_id AND state = 'dead' AND finished_at <= u.until
        ORDER BY finished_at, id
        LIMIT $3
        FOR UPDATE SKIP LOCKED
    ) f
    LIMIT $3";

/// The latest finished job of each queue that is one too many: first when it ended, then which of
/// those that ended with it.
const BEYOND_KEPT: &str = "
    SELECT u.queue_id, t.finished_at, f.id
    FROM unnest($1::bigint[], $2::bigint[]) AS u (queue_id, max)
    CROSS JOIN LATERAL (
        SELECT finished_at, upto
        FROM (
            SELECT finished_at, sum(count) OVER (ORDER BY finished_at DESC) AS upto
            FROM (
                (
                    SELECT finished_at, 1 AS count
                    FROM finished
                    WHERE queue_id = u.queue_id AND state <> 'dead'
                    ORDER BY finished_at DESC
                )
                UNION ALL
                (
                    SELECT finished_at, count
                    FROM run
                    WHERE queue_id = u.queue_id AND finished_at IS NOT NULL
                    ORDER BY finished_at DESC
                )
            ) ended
        ) counted
        WHERE upto > u.max
        ORDER BY finished_at DESC
        LIMIT 1
    ) t
    CROSS JOIN LATERAL (
        SELECT id
        FROM (
            SELECT id
            FROM finished
            WHERE queue_id = u.queue_id AND state <> 'dead' AND finished_at = t.finished_at
            UNION ALL
            SELECT id
            FROM completed_job
            WHERE queue_id = u.queue_id AND finished_at = t.finished_at
        ) ended
        ORDER BY id
        OFFSET t.upto - u.max - 1
        LIMIT 1
    ) f";

const BEYOND_DEAD: &str = "
    SELECT u.queue_id, f.finished_at, f.id
    FROM unnest($1::bigint[], $2::bigint[]) AS u (queue_id, max)
    CROSS JOIN LATERAL (
        SELECT finished_at, id
        FROM finished
        WHERE queue_id = u.queue_id AND state = 'dead'
        ORDER BY finished_at DESC, id DESC
        OFFSET u.max
        LIMIT 1
    ) f";

/// The oldest finished jobs of queues, from behind one up to one that is too many.
const OLDEST_KEPT: &str = "
    SELECT f.id, u.queue_id, f.finished_at
    FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[])
        AS u (queue_id, last_at, last_id, from_at, from_id)
    CROSS JOIN LATERAL (
        SELECT id, finished_at
        FROM finished
        WHERE queue_id = u.queue_id AND state <> 'dead'
        AND (finished_at, id) <= (u.last_at, u.last_id)
        AND (finished_at, id) > (u.from_at, u.from_id)
        ORDER BY finished_at, id
        LIMIT $6
        FOR UPDATE SKIP LOCKED
    ) f
    LIMIT $6";

const OLDEST_DEAD: &str = "
    SELECT f.id, u.queue_id, f.finished_at
    FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[])
        AS u (queue_id, last_at, last_id, from_at, from_id)
    CROSS JOIN LATERAL (
        SELECT id, finished_at
        FROM finished
        WHERE queue_id = u.queue_id AND state = 'dead'
        AND (finished_at, id) <= (u.last_at, u.last_id)
        AND (finished_at, id) > (u.from_at, u.from_id)
        ORDER BY finished_at, id
        LIMIT $6
        FOR UPDATE SKIP LOCKED
    ) f
    LIMIT $6";

const DROPPABLE: &str = "
    SELECT id
    FROM finished
    WHERE queue_id = $1 AND state <> 'dead' AND NOT is_dropped
    AND finished_at >= (SELECT payloads_dropped_until FROM queue WHERE id = $1)
    AND finished_at <= $2
    ORDER BY finished_at, id
    LIMIT $3
    FOR UPDATE SKIP LOCKED";

const DROP_PAYLOADS: &str = "
    UPDATE finished
    SET is_dropped = true, payload = '', content_type = NULL, result = NULL
    WHERE id = ANY($1::bigint[])";

/// What finished before then may be committed later, by a minute at most; and what somebody has locked
/// was passed over.
const DROPPED_UNTIL: &str = "
    UPDATE queue
    SET payloads_dropped_until = least(
            $2::bigint - 60000,
            (
                SELECT min(finished_at)
                FROM finished
                WHERE queue_id = $1 AND state <> 'dead' AND NOT is_dropped
                AND finished_at >= payloads_dropped_until AND finished_at <= $2
            ),
            (
                SELECT min(finished_at)
                FROM run
                WHERE queue_id = $1 AND NOT is_dropped
                AND finished_at >= payloads_dropped_until AND finished_at <= $2
            )
        )
    WHERE id = $1 AND payloads_dropped_until < $2::bigint - 60000";

const FORGET_DECISIONS: &str = "
    DELETE FROM decision
    WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM decision WHERE minute <= $1 ORDER BY minute LIMIT $2
    ))";

/// All that is known of finished jobs goes, as ranges of jobs whose numbers follow each other:
/// walking along an index is cheaper than searching it for each. A custom id that another job is
/// just taking is that one's.
pub(super) const FORGET: &str = "
    WITH ranges AS MATERIALIZED (
        SELECT unnest($1::bigint[]) AS first, unnest($2::bigint[]) AS last
    ),
    gone AS (
        DELETE FROM finished
        WHERE ctid = ANY(ARRAY(
            SELECT f.ctid
            FROM ranges r
            CROSS JOIN LATERAL (
                SELECT ctid FROM finished WHERE id BETWEEN r.first AND r.last OFFSET 0
            ) f
        ))
        RETURNING id, tags
    ),
    logs AS (
        DELETE FROM attempt_log
        WHERE ctid = ANY(ARRAY(
            SELECT l.ctid
            FROM ranges r
            CROSS JOIN LATERAL (
                SELECT ctid FROM attempt_log WHERE job_id BETWEEN r.first AND r.last OFFSET 0
            ) l
        ))
    ),
    notes AS (
        DELETE FROM job_note
        WHERE ctid = ANY(ARRAY(
            SELECT n.ctid
            FROM ranges r
            CROSS JOIN LATERAL (
                SELECT ctid FROM job_note WHERE job_id BETWEEN r.first AND r.last OFFSET 0
            ) n
        ))
    ),
    names AS (
        DELETE FROM custom_id
        WHERE ctid = ANY(ARRAY(
            SELECT c.ctid
            FROM ranges r
            CROSS JOIN LATERAL (
                SELECT ctid FROM custom_id
                WHERE job_id BETWEEN r.first AND r.last
                OFFSET 0
                FOR UPDATE SKIP LOCKED
            ) c
        ))
    ),
    progresses AS (
        DELETE FROM progress
        WHERE ctid = ANY(ARRAY(
            SELECT p.ctid
            FROM ranges r
            CROSS JOIN LATERAL (
                SELECT ctid FROM progress WHERE job_id BETWEEN r.first AND r.last OFFSET 0
            ) p
        ))
    )
    DELETE FROM job_tag
    WHERE ctid = ANY(ARRAY(
        SELECT t.ctid
        FROM gone g
        CROSS JOIN LATERAL string_to_table(g.tags, E'\\n') AS one (tag)
        CROSS JOIN LATERAL (
            SELECT ctid FROM job_tag WHERE job_tag.tag = one.tag AND job_id = g.id OFFSET 0
        ) t
        WHERE g.tags IS NOT NULL
    ))";

/// Whether any job has ended and is known. The latest: in front of the oldest stand all that were
/// forgotten lately.
const SOME: &str = "
    (SELECT true AS is_some FROM finished ORDER BY id DESC LIMIT 1)
    UNION ALL
    (
        SELECT true
        FROM run
        WHERE coalesce(finished_at, 0) <> 0
        ORDER BY bucket DESC
        LIMIT 1
    )";

const FORGET_FIRES: &str = "
    DELETE FROM cron_fire
    WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM cron_fire WHERE fired_at <= $1 ORDER BY fired_at LIMIT $2
    ))";

const FORGET_AUDIT: &str = "
    DELETE FROM audit
    WHERE id = ANY(ARRAY(SELECT id FROM audit WHERE at < $1 ORDER BY id LIMIT $2))";

/// Finished jobs that are too many, as of when that was asked for.
#[derive(Debug, Default)]
pub(super) struct Excess {
    stretches: Vec<Stretch>,
    asked_at: Option<Instant>,
}

/// Finished jobs of a queue, in the order of (finished at, id): behind one, up to another.
///
/// What was forgotten lately still stands in the index, as long as some transaction could see it.
/// Whoever began from the oldest each time would walk through all of that again.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    queue: QueueId,
    behind: (i64, i64),
    /// Of runs: from when on.
    runs_from: i64,
    last: (i64, i64),
}

impl Excess {
    /// Has a stretch begin a little before the last job and the last run that were forgotten, since
    /// what finished before them may have been committed after that.
    fn go_on(&self, stretch: &mut Stretch) {
        if let Some(known) = self.stretches.iter().find(|known| known.queue == stretch.queue) {
            let before = |at: i64| at.saturating_sub(COMMITTED_WITHIN_MS);
            stretch.behind = (before(known.behind.0), i64::MIN);
            stretch.runs_from = before(known.runs_from);
        }
    }
}

/// What a part of retention has forgotten or dropped.
#[derive(Debug, Clone, Copy, Default)]
struct Gone {
    rows: i64,
    runs: i64,
    /// Those of runs.
    jobs: i64,
}

impl Gone {
    fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.runs += other.runs;
        self.jobs += other.jobs;
    }

    fn add_runs(&mut self, forgotten: &[Forgotten]) {
        self.runs += forgotten.iter().map(|of_queue| of_queue.runs).sum::<i64>();
        self.jobs += forgotten.iter().map(|of_queue| of_queue.jobs).sum::<i64>();
    }

    /// How many rows of `finished` may still go.
    fn room(self) -> i64 {
        number(FORGOTTEN_MAX) - self.rows
    }

    fn is_full(self) -> bool {
        self.room() <= 0 || self.runs >= RUNS_MAX
    }
}

/// See [`super::hot_statements`].
pub(super) const HOT: &[super::Named] = &[
    ("retention::FORGET_KEYS", FORGET_KEYS),
    ("retention::OPEN_GATES", OPEN_GATES),
    ("retention::OLD_KEPT", OLD_KEPT),
    ("retention::OLD_DEAD", OLD_DEAD),
    ("retention::OLDEST_KEPT", OLDEST_KEPT),
    ("retention::OLDEST_DEAD", OLDEST_DEAD),
    ("retention::BEYOND_KEPT", BEYOND_KEPT),
    ("retention::BEYOND_DEAD", BEYOND_DEAD),
    ("retention::DROPPABLE", DROPPABLE),
    ("retention::FORGET", FORGET),
];

impl PostgresStore {
    /// A part of the duty of retention, and how much has gone.
    pub(super) async fn retention(
        &self,
        tx: &mut Tx<'_>,
        now: Timestamp,
    ) -> Result<(DutyReport, usize), Failure> {
        let gone = self.forget_finished(tx, now).await?;
        tx.query(FORGET_KEYS, &[&now.0, &rows_max()]).await?;
        let events = self.forget_events(tx, now).await?;
        let old = |keep| now.0.saturating_sub(sql_millis(keep));
        tx.query(FORGET_FIRES, &[&old(FIRES_KEPT), &rows_max()]).await?;
        tx.query(FORGET_DECISIONS, &[&old(DECISIONS_KEPT), &rows_max()]).await?;
        let expired = forget_values(tx, now).await?;
        let swept = self.sweep(tx).await?;
        self.open_gates(tx).await?;
        tx.query(FORGET_AUDIT, &[&old(AUDIT_KEPT), &rows_max()]).await?;
        let is_some_left = !tx.query(SOME, &[]).await?.is_empty();
        let is_full = gone.is_full() || events.max(expired) >= rows_max();
        let next = match is_full {
            true => Some(Duration::ZERO),
            false => is_some_left.then_some(RETENTION_EVERY),
        };
        let next = swept.iter().map(|swept| swept.next()).chain([next]).flatten().min();
        let report = DutyReport { next, ..DutyReport::default() };
        let swept: usize = swept.iter().map(|swept| swept.gone).sum();
        let count = usize::try_from(gone.rows + gone.jobs + expired).unwrap_or(0) + swept;
        Ok((report, count))
    }

    /// Queues whose last job with a limit has ended are plain again.
    async fn open_gates(&self, tx: &mut Tx<'_>) -> Result<(), Failure> {
        let gated = tx.query(GATED, &[]).await?;
        let mut open: Vec<i64> = Vec::new();
        for row in &gated {
            let settings = row::parsed(row, "settings", parse_settings)?.unwrap_or_default();
            open.extend((!settings.is_limited()).then(|| get::<i64>(row, "id")));
        }
        match open.is_empty() {
            true => Ok(()),
            false => tx.query(OPEN_GATES, &[&open]).await.map(drop),
        }
    }

    /// Forgets finished jobs that were kept for long enough or are too many, and drops payloads.
    async fn forget_finished(&self, tx: &mut Tx<'_>, now: Timestamp) -> Result<Gone, Failure> {
        let mut all: Vec<(QueueId, Settings)> = Vec::new();
        for row in tx.query("SELECT id, settings FROM queue ORDER BY id", &[]).await? {
            let settings = row::parsed(&row, "settings", parse_settings)?.unwrap_or_default();
            all.push((get(&row, "id"), settings));
        }
        let until = |keep: Duration| now.0.saturating_sub(sql_millis(keep));
        let ids: Vec<QueueId> = all.iter().map(|(id, _)| *id).collect();
        let of = |settings| self.retention.of(settings);
        let kept: Vec<i64> = all.iter().map(|(_, it)| until(of(it).completed)).collect();
        let dead: Vec<i64> = all.iter().map(|(_, it)| until(of(it).dead)).collect();
        let mut gone = Gone::default();
        gone.add_runs(&runs::forget_old(tx, &ids, &kept).await?);
        for (sql, old) in [(OLD_KEPT, kept), (OLD_DEAD, dead)] {
            gone.rows += number(forget(tx, sql, &[&ids, &old, &gone.room()]).await?.len());
        }
        // What is old fills this part: what is too many is looked for when it does not.
        if !gone.is_full() {
            let excess = self.forget_excess(tx, &all, gone.room()).await?;
            gone.add(excess);
        }
        for (queue, settings) in &all {
            if let Some(keep) = settings.keep_payload
                && !gone.is_full()
            {
                drop_payloads(tx, *queue, until(keep), &mut gone).await?;
            }
        }
        Ok(gone)
    }

    /// Forgets what is too much. It takes a while to look beyond a million jobs: where that is, is
    /// remembered for a minute, as long as there is something left.
    async fn forget_excess(
        &self,
        tx: &mut Tx<'_>,
        queues: &[(QueueId, Settings)],
        room: i64,
    ) -> Result<Gone, Failure> {
        let mut excess = std::mem::take(&mut *self.excess.lock());
        let mut gone = Gone::default();
        if excess.asked_at.is_some_and(|at| at.elapsed() < RETENTION_EVERY) {
            gone = forget_kept(tx, &mut excess.stretches, room).await?;
        }
        if gone.rows + gone.runs == 0 {
            let kept = queues.iter().map(|(id, it)| (*id, self.retention.of(it).completed_max));
            let mut stretches = beyond(tx, BEYOND_KEPT, kept).await?;
            stretches.iter_mut().for_each(|stretch| excess.go_on(stretch));
            split_runs(tx, &stretches).await?;
            excess = Excess { stretches, asked_at: Some(Instant::now()) };
            gone = forget_kept(tx, &mut excess.stretches, room).await?;
        }
        // If this part is not committed, what it would have forgotten is found when it is asked again.
        *self.excess.lock() = excess;
        let dead = queues.iter().filter_map(|(id, it)| Some((*id, it.keep_dead_max?)));
        let mut dead = beyond(tx, BEYOND_DEAD, dead).await?;
        gone.rows += forget_stretches(tx, OLDEST_DEAD, &mut dead, room - gone.rows).await?;
        Ok(gone)
    }
}

/// What is too many, of each queue that has such.
async fn beyond(
    tx: &mut Tx<'_>,
    sql: &'static str,
    kept: impl Iterator<Item = (QueueId, u64)>,
) -> Result<Vec<Stretch>, Failure> {
    let (queues, most): (Vec<QueueId>, Vec<i64>) =
        kept.map(|(queue, max)| (queue, i64::try_from(max).unwrap_or(i64::MAX))).unzip();
    let mut rows = Vec::new();
    for (queues, most) in queues.chunks(COUNTED_AT_ONCE).zip(most.chunks(COUNTED_AT_ONCE)) {
        rows.extend(tx.query(sql, &[&queues, &most]).await?);
    }
    let stretch = |row: &Row| Stretch {
        queue: get(row, "queue_id"),
        behind: (i64::MIN, i64::MIN),
        runs_from: i64::MIN,
        last: (get(row, "finished_at"), get(row, "id")),
    };
    Ok(rows.iter().map(stretch).collect())
}

/// A run that ends beyond its stretch and does not begin there is unpacked.
async fn split_runs(tx: &mut Tx<'_>, stretches: &[Stretch]) -> Result<(), Failure> {
    let column = |of: fn(&Stretch) -> i64| stretches.iter().map(of).collect::<Vec<i64>>();
    match stretches.is_empty() {
        true => Ok(()),
        false => {
            let (queues, at) = (column(|it| it.queue), column(|it| it.last.0));
            runs::split(tx, (&queues, &at, &column(|it| it.last.1))).await
        }
    }
}

/// Forgets runs, and then up to `room` jobs, and has the stretches begin behind them. Jobs come last:
/// where runs are unpacked that have not been forgotten yet, jobs of theirs still come to them.
async fn forget_kept(
    tx: &mut Tx<'_>,
    stretches: &mut [Stretch],
    room: i64,
) -> Result<Gone, Failure> {
    let mut gone = Gone::default();
    if stretches.is_empty() {
        return Ok(gone);
    }
    let column = |of: fn(&Stretch) -> i64| stretches.iter().map(of).collect::<Vec<i64>>();
    let (queues, from_at) = (column(|it| it.queue), column(|it| it.runs_from));
    let (last_at, last_id) = (column(|it| it.last.0), column(|it| it.last.1));
    let forgotten = runs::forget_oldest(tx, (&queues, &last_at, &last_id, &from_at)).await?;
    for Forgotten { queue, last_at, .. } in &forgotten {
        let mine = stretches.iter_mut().filter(|stretch| stretch.queue == *queue);
        mine.for_each(|stretch| stretch.runs_from = *last_at);
    }
    gone.add_runs(&forgotten);
    if !gone.is_full() {
        gone.rows = forget_stretches(tx, OLDEST_KEPT, stretches, room).await?;
    }
    Ok(gone)
}

/// Forgets up to `room` jobs, and has the stretches begin behind them.
async fn forget_stretches(
    tx: &mut Tx<'_>,
    sql: &'static str,
    stretches: &mut [Stretch],
    room: i64,
) -> Result<i64, Failure> {
    if stretches.is_empty() {
        return Ok(0);
    }
    let column = |of: fn(&Stretch) -> i64| stretches.iter().map(of).collect::<Vec<i64>>();
    let (queues, last_at, last_id) =
        (column(|it| it.queue), column(|it| it.last.0), column(|it| it.last.1));
    let (behind_at, behind_id) = (column(|it| it.behind.0), column(|it| it.behind.1));
    let params: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
        [&queues, &last_at, &last_id, &behind_at, &behind_id, &room];
    let rows = forget(tx, sql, &params).await?;
    for stretch in stretches {
        let mine = rows.iter().rev().find(|row| get::<QueueId>(row, "queue_id") == stretch.queue);
        if let Some(row) = mine {
            stretch.behind = (get(row, "finished_at"), get(row, "id"));
        }
    }
    Ok(number(rows.len()))
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Drops payloads of jobs that had finished by then, as far as there is room.
async fn drop_payloads(
    tx: &mut Tx<'_>,
    queue: QueueId,
    until: i64,
    gone: &mut Gone,
) -> Result<(), Failure> {
    gone.runs += runs::drop_payloads(tx, queue, until, RUNS_MAX - gone.runs).await?;
    let rows = tx.query(DROPPABLE, &[&queue, &until, &gone.room()]).await?;
    let ids: Vec<i64> = rows.iter().map(|row| get(row, "id")).collect();
    if !ids.is_empty() {
        tx.query(DROP_PAYLOADS, &[&ids]).await?;
    }
    gone.rows += number(ids.len());
    if !gone.is_full() {
        tx.query(DROPPED_UNTIL, &[&queue, &until]).await?;
    }
    Ok(())
}

/// Deletes all that is known of the finished jobs that `sql` finds. The answer: what it found.
async fn forget(
    tx: &mut Tx<'_>,
    sql: &'static str,
    params: &[&(dyn tokio_postgres::types::ToSql + Sync)],
) -> Result<Vec<Row>, Failure> {
    let rows = tx.query(sql, params).await?;
    if !rows.is_empty() {
        let (first, last) = ranges(rows.iter().map(|row| get(row, "id")).collect());
        tx.query(FORGET, &[&first, &last]).await?;
    }
    Ok(rows)
}

/// The first and the last of each range of numbers that follow each other, for [`FORGET`].
pub(super) fn ranges(mut ids: Vec<i64>) -> (Vec<i64>, Vec<i64>) {
    ids.sort_unstable();
    ids.chunk_by(|one, next| one + 1 == *next).map(|all| (all[0], all[all.len() - 1])).unzip()
}
