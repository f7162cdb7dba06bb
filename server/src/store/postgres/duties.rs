//! What happens by time, in bounded parts.
//!
//! Each part is a transaction that begins by asking for the fence: the leader's row with the token
//! of this term, locked against the next election. A node that has been deposed without knowing
//! it finds no such row; one that is in the middle of a part makes the election wait for its end.
//! What a part changed is noted in `audit`, by token.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Row;

use super::blocks::split_blocks_of;
use super::heads::Head;
use super::kv::forget_values;
use super::lane::{Failure, Tx};
use super::leases::{self, LiveRow};
use super::live_runs::UNPACK_SCHEDULED;
use super::needs::release_dependents;
use super::notes;
use super::row::{self, count, get, job_id, now};
use super::runs::{self, Forgotten, RUNS_MAX};
use super::settle::{Ended, end_badly, finish_waiting};
use super::{PostgresStore, QueueId, retrying};
use crate::job::{Ending, JobId, Lease, Reason, Settings, State, Timestamp};
use crate::leader::Term;
use crate::mutants::{self, Mutant, altered};
use crate::store::columns::{parse_settings, sql_id, sql_millis};
use crate::store::guards::DECISIONS_KEPT;
use crate::store::{
    DUTY_ROWS_MAX, Destination, Duty, DutyReport, Effect, FIRES_KEPT, FORGOTTEN_MAX, NoteKind,
    SessionId,
};

/// How long until finished jobs are looked at again.
const RETENTION_EVERY: Duration = Duration::from_secs(60);

/// Queues of which a statement looks for the last job that is kept: a statement has five seconds, and
/// a million jobs that are a row each take a quarter of one.
const COUNTED_AT_ONCE: usize = 8;

/// So much earlier may a job have finished that is seen after another one, at most.
const COMMITTED_WITHIN_MS: i64 = 60_000;

/// How long it is remembered what leaders did.
const AUDIT_KEPT: Duration = Duration::from_secs(24 * 3600);

/// The row lock is what counts: without it, a statement that began before an election would still
/// be carried out after it.
pub(super) const FENCE: &str = "
    SELECT now_ms() AS now
    FROM leader
    WHERE token = $1::text::uuid
    FOR SHARE";

/// Scheduled jobs go to the end of their lines, in the order in which the first part finds them. The
/// second part notes it, if somebody else does not.
///
/// Those that are in runs stand there as a block, with a new number as its place: see
/// `migrations/0015_live_runs.sql`. As many numbers are used up as if each had a place, as in the other
/// stores. When that was their runs say themselves.
macro_rules! make_ready {
    ($which:literal, $noted:literal) => {
        concat!(
            "
    WITH clock AS MATERIALIZED (SELECT now_ms() AS now),
    due AS MATERIALIZED (
        SELECT ctid AS tid, job_id, run_at, count, bytes
        FROM scheduled ",
            $which,
            "
        FOR UPDATE SKIP LOCKED
    ),
    gone AS (
        DELETE FROM scheduled
        WHERE ctid = ANY(ARRAY(SELECT tid FROM due))
    ),
    placed AS MATERIALIZED (
        SELECT
            job_id, count, bytes,
            (ARRAY(SELECT nextval('number') FROM generate_series(1, count)))[1] AS new_place
        FROM due
    ),
    sorted AS MATERIALIZED (
        SELECT
            array_agg(job_id ORDER BY job_id) FILTER (WHERE count = 1) AS ids,
            array_agg(new_place ORDER BY job_id) FILTER (WHERE count = 1) AS places,
            array_agg(job_id ORDER BY job_id) FILTER (WHERE count > 1) AS run_places,
            array_agg(new_place ORDER BY job_id) FILTER (WHERE count > 1) AS new_run_places
        FROM placed
    ),
    moved AS (
        -- By id: a row that somebody has changed meanwhile stands elsewhere now. Not joined: the
        -- planner would compare each with each.
        UPDATE job
        SET run_at = NULL,
            place = (SELECT places FROM sorted)[width_bucket(id, (SELECT ids FROM sorted))]
        WHERE id = ANY((SELECT ids FROM sorted)::bigint[])
        RETURNING
            id AS job_id, place AS new_place,
            queue_id, priority, delivery, length(payload) AS bytes, expires_at, timeout_ms,
            coalesce(gate, '') AS gate
    ),
    line AS (
        INSERT INTO ready (
            queue_id, gate, priority, place, job_id, delivery, bytes, ready_at, expires_at,
            timeout_ms
        )
        SELECT
            queue_id, gate, priority, new_place, job_id, delivery, bytes, (SELECT now FROM clock),
            expires_at, timeout_ms
        FROM moved
        ORDER BY new_place
    ),
    opened AS (
        UPDATE run
        SET run_at = NULL,
            due_at = (SELECT now FROM clock),
            due_note = nextval('job_note_number_seq'),
            place = (SELECT new_run_places FROM sorted)[
                width_bucket(place, (SELECT run_places FROM sorted))
            ]
        WHERE place = ANY((SELECT run_places FROM sorted)::bigint[])
        AND coalesce(finished_at, 0) = 0 AND run_at IS NOT NULL
        RETURNING place AS new_place, queue_id, priority, delivery, ids
    ),
    blocks AS (
        INSERT INTO ready (
            queue_id, gate, priority, place, job_id, block, job_ids, count, delivery, bytes, ready_at
        )
        SELECT
            queue_id, '', priority, new_place, min(id), new_place, array_agg(id ORDER BY id),
            count(*), delivery, (SELECT bytes FROM placed WHERE new_place = o.new_place),
            (SELECT now FROM clock)
        FROM opened o
        CROSS JOIN LATERAL unnest(ids) AS u (id)
        GROUP BY new_place, queue_id, priority, delivery
        RETURNING queue_id, priority, place, job_ids
    )",
            $noted,
            "
    SELECT
        ARRAY[job_id] AS job_ids, queue_id, priority, new_place,
        (SELECT max(run_at) FROM due) AS run_at
    FROM moved
    UNION ALL
    SELECT job_ids, queue_id, priority, place, (SELECT max(run_at) FROM due)
    FROM blocks
    ORDER BY new_place"
        )
    };
}

/// As [`super::notes`] would write it, only that the oldest notes of a job make room once it has been
/// given out so often that there may be too many.
const DUE: &str = make_ready!(
    "
        WHERE run_at <= (SELECT now FROM clock) AND run_at >= $4
        ORDER BY run_at, job_id
        LIMIT $1",
    ",
    old AS (
        DELETE FROM job_note
        WHERE ctid = ANY(ARRAY(
            SELECT n.ctid
            FROM moved m
            CROSS JOIN LATERAL (
                SELECT ctid FROM job_note WHERE job_id = m.job_id ORDER BY number DESC OFFSET $2
            ) n
            WHERE m.delivery > $2
        ))
    ),
    noted AS (
        INSERT INTO job_note (job_id, at, kind, delivery, who, detail)
        SELECT job_id, (SELECT now FROM clock), $3, delivery, '', ''
        FROM moved
        ORDER BY new_place
    )"
);

const PROMOTE: &str = make_ready!(
    "
        WHERE run_at = (SELECT run_at FROM job WHERE id = $1) AND job_id = $1",
    ""
);

const RUN_OUT: &str = "
    SELECT id, expires_at, cardinality(job_ids) AS jobs
    FROM lease
    WHERE expires_at <= $1 AND expires_at >= $3
    ORDER BY expires_at, id
    LIMIT $2
    FOR UPDATE SKIP LOCKED";

const OVERDUE: &str = "
    SELECT at, job_id, delivery
    FROM deadline
    WHERE at <= $1 AND at >= $3
    ORDER BY at, job_id
    LIMIT $2";

const FORCED: &str = "
    SELECT job_id, delivery
    FROM cancel
    WHERE force_at <= $1
    ORDER BY force_at, job_id
    LIMIT $2";

const DELETE_CANCELS: &str = "DELETE FROM cancel WHERE job_id = ANY($1::bigint[])";

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

const DELETE_DEADLINES: &str = "
    DELETE FROM deadline
    WHERE ctid = ANY(ARRAY(
        SELECT d.ctid
        FROM unnest($1::bigint[], $2::bigint[]) AS u (at, job_id)
        CROSS JOIN LATERAL (
            SELECT ctid FROM deadline WHERE at = u.at AND job_id = u.job_id OFFSET 0
        ) d
    ))";

const EXPIRED: &str = "
    SELECT expires_at, job_id
    FROM ttl
    WHERE expires_at <= $1 AND expires_at >= $3
    ORDER BY expires_at, job_id
    LIMIT $2";

/// See [`leave_places`]. None of them stands in a block.
const LEAVE_PLACES: &str = "
    WITH waiting AS MATERIALIZED (
        SELECT u.id, j.*
        FROM unnest($1::bigint[]) AS u (id)
        CROSS JOIN LATERAL (
            SELECT
                ctid AS tid, queue_id, coalesce(gate, '') AS gate, priority, place, run_at,
                is_blocked
            FROM job
            WHERE id = u.id
            OFFSET 0
        ) j
    ),
    unblocked AS (
        UPDATE job
        SET is_blocked = false
        WHERE ctid = ANY(ARRAY(SELECT tid FROM waiting WHERE is_blocked))
        -- Put so that the index of blocked jobs does not tempt the planner.
        AND coalesce(is_blocked, false)
        RETURNING id AS job_id
    ),
    unscheduled AS (
        DELETE FROM scheduled
        WHERE ctid = ANY(ARRAY(
            SELECT s.ctid
            FROM waiting w
            CROSS JOIN LATERAL (
                SELECT ctid FROM scheduled WHERE run_at = w.run_at AND job_id = w.id OFFSET 0
            ) s
            WHERE w.run_at IS NOT NULL AND NOT w.is_blocked
        ))
        RETURNING job_id
    ),
    unready AS (
        DELETE FROM ready
        WHERE ctid = ANY(ARRAY(
            SELECT r.ctid
            FROM waiting w
            CROSS JOIN LATERAL (
                SELECT ctid FROM ready
                WHERE queue_id = w.queue_id AND gate = w.gate AND priority = w.priority
                AND place = w.place AND job_id = w.id
                OFFSET 0
            ) r
            WHERE w.run_at IS NULL AND NOT w.is_blocked
        ))
        RETURNING job_id
    )
    SELECT job_id FROM unscheduled
    UNION ALL
    SELECT job_id FROM unready
    UNION ALL
    SELECT job_id FROM unblocked";

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

const DONE: &str = "
    INSERT INTO duty (name, epoch, node, succeeded_at, reached)
    VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (name) DO UPDATE
    SET epoch = excluded.epoch, node = excluded.node, succeeded_at = excluded.succeeded_at,
        reached = excluded.reached";

const AUDIT: &str = "
    INSERT INTO audit (at, epoch, token, node, duty, count)
    VALUES ($1, $2, $3::text::uuid, $4, $5, $6)";

/// When there is something to do next, by duty: from a time on, and so many milliseconds ahead.
const OUTLOOK: &str = "
    WITH clock AS MATERIALIZED (SELECT now_ms() AS now)
    SELECT (SELECT now FROM clock) AS now, duty, at
    FROM (
        (
            SELECT 'due' AS duty, run_at AS at FROM scheduled
            WHERE run_at >= $1 AND run_at <= (SELECT now FROM clock) + $2
            ORDER BY run_at, job_id LIMIT 1
        )
        UNION ALL
        (
            SELECT 'expiry', expires_at FROM lease
            WHERE expires_at >= $1 AND expires_at <= (SELECT now FROM clock) + $2
            ORDER BY expires_at LIMIT 1
        )
        UNION ALL
        (
            SELECT 'timeouts', at FROM deadline
            WHERE at >= $1 AND at <= (SELECT now FROM clock) + $2
            ORDER BY at, job_id LIMIT 1
        )
        UNION ALL
        (
            SELECT 'ttl', expires_at FROM ttl
            WHERE expires_at >= $1 AND expires_at <= (SELECT now FROM clock) + $2
            ORDER BY expires_at, job_id LIMIT 1
        )
        UNION ALL
        (
            SELECT 'cron', next_at FROM cron
            WHERE next_at IS NOT NULL AND paused_at IS NULL
            ORDER BY next_at, name LIMIT 1
        )
        UNION ALL
        (SELECT 'cancels', force_at FROM cancel ORDER BY force_at, job_id LIMIT 1)
        UNION ALL
        (SELECT 'now', (SELECT now FROM clock))
    ) next";

/// The duties whose heads are looked for, each from where it has got.
const BY_TIME: [Duty; 4] = [Duty::Due, Duty::Expiry, Duty::Timeouts, Duty::Ttl];

/// What comes first in a table from one time up to another.
macro_rules! first {
    ($at:literal, $table:literal, $order:literal) => {
        concat!(
            "SELECT ",
            $at,
            " AS at FROM ",
            $table,
            " WHERE ",
            $at,
            " >= $1 AND ",
            $at,
            " <= $2 ORDER BY ",
            $order,
            " LIMIT 1"
        )
    };
}

const FIRST_DUE: &str = first!("run_at", "scheduled", "run_at, job_id");

const FIRST_EXPIRY: &str = first!("expires_at", "lease", "expires_at");

const FIRST_TIMEOUT: &str = first!("at", "deadline", "at, job_id");

const FIRST_TTL: &str = first!("expires_at", "ttl", "expires_at, job_id");

const FIRST_CANCEL: &str = first!("force_at", "cancel", "force_at, job_id");

/// Up to when duties are done, of the one that is furthest behind.
const DONE_UP_TO: &str = "
    SELECT min(coalesce(reached, succeeded_at)) AS at FROM duty WHERE name = ANY($1::text[])";

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

/// A part of a duty, before it is committed.
#[derive(Default)]
struct Part {
    report: DutyReport,
    /// Rows changed.
    count: usize,
    notes: Vec<super::settle::Note>,
    /// Leases that have ended.
    ended: Vec<Lease>,
    /// Up to here all is done that happens by time.
    reached: Option<Timestamp>,
}

impl Part {
    /// Nothing is due.
    fn idle(first: First, now: Timestamp) -> Self {
        let next = first.at.map(|at| at.since(now));
        let report = DutyReport { next, ..DutyReport::default() };
        Self { report, reached: Some(now), ..Self::default() }
    }
}

/// What comes first by time.
struct First {
    at: Option<Timestamp>,
    /// It was looked for up to here.
    until: i64,
}

fn rows_max() -> i64 {
    DUTY_ROWS_MAX as i64
}

/// See [`super::hot_statements`].
pub(super) const HOT: &[super::Named] = &[
    ("duties::DUE", DUE),
    ("duties::PROMOTE", PROMOTE),
    ("duties::RUN_OUT", RUN_OUT),
    ("duties::OVERDUE", OVERDUE),
    ("duties::FORCED", FORCED),
    ("duties::FORGET_KEYS", FORGET_KEYS),
    ("duties::OPEN_GATES", OPEN_GATES),
    ("duties::DELETE_DEADLINES", DELETE_DEADLINES),
    ("duties::EXPIRED", EXPIRED),
    ("duties::OUTLOOK", OUTLOOK),
    ("duties::FIRST_DUE", FIRST_DUE),
    ("duties::FIRST_EXPIRY", FIRST_EXPIRY),
    ("duties::FIRST_TIMEOUT", FIRST_TIMEOUT),
    ("duties::FIRST_TTL", FIRST_TTL),
    ("duties::LEAVE_PLACES", LEAVE_PLACES),
    ("duties::OLD_KEPT", OLD_KEPT),
    ("duties::OLD_DEAD", OLD_DEAD),
    ("duties::OLDEST_KEPT", OLDEST_KEPT),
    ("duties::OLDEST_DEAD", OLDEST_DEAD),
    ("duties::BEYOND_KEPT", BEYOND_KEPT),
    ("duties::BEYOND_DEAD", BEYOND_DEAD),
    ("duties::DROPPABLE", DROPPABLE),
    ("duties::FORGET", FORGET),
];

/// Takes waiting jobs out of their places. The answer: those that have been there; the others are
/// somebody else's.
pub(super) async fn leave_places(
    tx: &mut Tx<'_>,
    jobs: &[JobId],
) -> Result<HashSet<JobId>, Failure> {
    let ids: Vec<i64> = jobs.iter().map(|job| sql_id(*job)).collect();
    split_blocks_of(tx, &ids).await?;
    let left = tx.query(LEAVE_PLACES, &[&ids]).await?;
    Ok(left.iter().map(|row| job_id(row, "job_id")).filter(|job| jobs.contains(job)).collect())
}

impl PostgresStore {
    pub(super) async fn do_duty(&self, term: &Term, duty: Duty) -> Result<DutyReport, Failure> {
        retrying!(self.try_duty(term, duty))
    }

    async fn try_duty(&self, term: &Term, duty: Duty) -> Result<DutyReport, Failure> {
        let lane = match duty {
            Duty::Due | Duty::Cron => &self.time_lane,
            Duty::Expiry | Duty::Timeouts | Duty::Cancels | Duty::Ttl | Duty::Retention => {
                &self.duty_lane
            }
        };
        let mut tx = lane.begin().await?;
        let now = fence(&mut tx, term).await?;
        let mut part = match duty {
            Duty::Due => self.due(&mut tx, now).await,
            Duty::Expiry => self.expiry(&mut tx, now).await,
            Duty::Timeouts => self.timeouts(&mut tx, now).await,
            Duty::Cancels => self.cancels(&mut tx, now).await,
            Duty::Cron => self.fire(&mut tx, now).await.map(|fired| Part {
                report: fired.report,
                count: fired.count,
                notes: fired.notes,
                ..Part::default()
            }),
            Duty::Ttl => self.ttl(&mut tx, now).await,
            Duty::Retention => self.retention(&mut tx, now).await,
        }?;
        let (more, opened) = release_dependents(self, &mut tx, part.report.effects.iter()).await?;
        part.report.effects.extend(more);
        part.notes.extend(opened);
        let (count, at) = (part.count, (now, part.reached));
        self.finish_part(tx, term, duty.name(), count, at).await?;
        if let Some(at) = part.reached {
            self.heads[&duty].reach(at);
        }
        self.leases.end(part.ended.into_iter());
        self.note_all(part.notes);
        Ok(part.report)
    }

    pub(super) async fn look_ahead(&self) -> Result<Vec<(Duty, Duration)>, Failure> {
        let look = self.outlook.look();
        let rows = self.duty_lane.once((OUTLOOK, &[&look.from, &look.ahead])).await;
        drop(look);
        if let Err(Failure::TooLong(_)) = rows {
            self.reach_as_noted(&self.outlook, &BY_TIME).await?;
        }
        let rows = rows?;
        let at = |row: &Row| Timestamp(get(row, "at"));
        // Nothing was found before the first of them, and nothing new is due before now.
        if let Some(first) = rows.iter().map(at).min() {
            self.outlook.reach(first);
        }
        let ahead = |row: &Row| {
            let name: &str = get(row, "duty");
            let duty = Duty::ALL.into_iter().find(|duty| duty.name() == name)?;
            Some((duty, at(row).since(now(row))))
        };
        Ok(rows.iter().filter_map(ahead).collect())
    }

    async fn first(
        &self,
        tx: &mut Tx<'_>,
        (duty, sql): (Duty, &'static str),
        now: Timestamp,
    ) -> Result<First, Failure> {
        let head = &self.heads[&duty];
        let look = head.look();
        let until = now.0.saturating_add(look.ahead);
        let at = earliest(tx, sql, (Timestamp(look.from), until)).await;
        drop(look);
        if let Err(Failure::TooLong(_)) = at {
            self.reach_as_noted(head, &[duty]).await?;
        }
        Ok(First { at: at?, until })
    }

    /// Where a new leader can not look in full, it goes on where the one before has been.
    async fn reach_as_noted(&self, head: &Head, duties: &[Duty]) -> Result<(), Failure> {
        let names: Vec<&str> = duties.iter().map(|duty| duty.name()).collect();
        let rows = self.pool.read((DONE_UP_TO, &[&names])).await?;
        if let Some(at) = rows.first().and_then(|row| get::<Option<i64>>(row, "at")) {
            head.reach_at_least(Timestamp(at));
        }
        Ok(())
    }

    /// Notes what was done, and when and up to when, and commits.
    pub(super) async fn finish_part(
        &self,
        tx: Tx<'_>,
        term: &Term,
        duty: &'static str,
        count: usize,
        (now, reached): (Timestamp, Option<Timestamp>),
    ) -> Result<(), Failure> {
        let epoch = i64::try_from(term.epoch).unwrap_or(i64::MAX);
        let (node, token) = (&self.node.id, term.token_text());
        let rows = i32::try_from(count).unwrap_or(i32::MAX);
        let reached = reached.map(|at| at.0);
        let done: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
            [&duty, &epoch, node, &now.0, &reached];
        let audit: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
            [&now.0, &epoch, &token, node, &duty, &rows];
        let calls = [(DONE, &done[..]), (AUDIT, &audit[..])];
        tx.commit(if count > 0 { &calls } else { &calls[..1] }).await.map(drop)
    }

    async fn effects(
        &self,
        rows: &[Row],
        notes: &mut Vec<super::settle::Note>,
    ) -> Result<Vec<Effect>, Failure> {
        let mut effects = Vec::with_capacity(rows.len());
        for row in rows {
            let id = get(row, "queue_id");
            let queue = self.queues.name(&self.pool, id).await?;
            for job in get::<Vec<i64>>(row, "job_ids") {
                notes.push((id, get(row, "priority"), get(row, "new_place")));
                let job = JobId(job.cast_unsigned());
                effects.push(Effect { job, queue: queue.clone(), to: Destination::Ready });
            }
        }
        Ok(effects)
    }

    async fn due(&self, tx: &mut Tx<'_>, now: Timestamp) -> Result<Part, Failure> {
        let soon = "run_at <= (SELECT now FROM clock) + 3600000";
        let sql = altered(Mutant::DueTooEarly, DUE, "run_at <= (SELECT now FROM clock)", soon);
        let first = self.first(tx, (Duty::Due, FIRST_DUE), now).await?;
        let is_early = mutants::is(Mutant::DueTooEarly);
        let Some(from) = first.at.filter(|at| *at <= now || is_early) else {
            return Ok(Part::idle(first, now));
        };
        let due = NoteKind::Due.name();
        let rows = tx.query(sql, &[&rows_max(), &notes::room(), &due, &from.0]).await?;
        let mut notes = Vec::new();
        let effects = self.effects(&rows, &mut notes).await?;
        let count = effects.len();
        let reached = reached(&rows, "run_at", now);
        let next = next(tx, FIRST_DUE, rows.len(), (reached, first.until), now).await?;
        let report = DutyReport { effects, lost: Vec::new(), next };
        Ok(Part { report, count, notes, ended: Vec::new(), reached: Some(reached) })
    }

    /// A scheduled job becomes ready, behind those that are. `None`: it is not scheduled.
    pub(super) async fn make_ready(
        &self,
        tx: &mut Tx<'_>,
        job: JobId,
        notes: &mut Vec<super::settle::Note>,
    ) -> Result<Option<Effect>, Failure> {
        tx.query(UNPACK_SCHEDULED, &[&vec![sql_id(job)]]).await?;
        let rows = tx.query(PROMOTE, &[&sql_id(job)]).await?;
        Ok(self.effects(&rows, notes).await?.pop())
    }

    async fn expiry(&self, tx: &mut Tx<'_>, now: Timestamp) -> Result<Part, Failure> {
        let now = if mutants::is(Mutant::EarlyRecovery) { now + mutants::EARLY } else { now };
        let first = self.first(tx, (Duty::Expiry, FIRST_EXPIRY), now).await?;
        let Some(from) = first.at.filter(|at| *at <= now) else {
            let mut part = Part::idle(first, now);
            part.report.next = mutants::sooner(Mutant::EarlyRecovery, part.report.next);
            return Ok(part);
        };
        let run_out = tx.query(RUN_OUT, &[&now.0, &rows_max(), &from.0]).await?;
        let mut jobs = 0;
        let has_room = |row: &&Row| {
            let has_room = jobs < DUTY_ROWS_MAX;
            jobs += usize::try_from(get::<i32>(row, "jobs")).unwrap_or(0);
            has_room
        };
        let ids: Vec<leases::LeaseId> =
            run_out.iter().take_while(has_room).map(|row| get(row, "id")).collect();
        let rows = leases::live(tx, &ids).await?;
        let mut part = self.take_rows(tx, &rows).await?;
        let gone: Vec<leases::LeaseId> = rows.iter().map(|row| row.id).collect();
        tx.query(leases::DELETE, &[&gone]).await?;
        let is_left = |row: &&Row| !gone.contains(&get(row, "id"));
        let left = run_out.iter().filter(is_left).map(|row| get(row, "expires_at")).min();
        let reached = left.map_or_else(|| reached(&run_out, "expires_at", now), Timestamp);
        let done = part.report.effects.len();
        let next = next(tx, FIRST_EXPIRY, done, (reached, first.until), now).await?;
        part.reached = Some(reached);
        part.report.next = mutants::sooner(Mutant::EarlyRecovery, next);
        Ok(part)
    }

    async fn take_rows(&self, tx: &mut Tx<'_>, rows: &[LiveRow]) -> Result<Part, Failure> {
        let mut ended: Vec<(Ended<'_>, Option<SessionId>)> = Vec::new();
        for row in rows {
            let session = row.given.session;
            let ending = if session.is_some() { Ending::NodeLost } else { Ending::Expired };
            ended.extend(row.ended(ending).map(|ended| (ended, session)));
        }
        ended.sort_unstable_by_key(|(ended, _)| ended.lease);
        let lost = ended.iter().filter_map(|(ended, session)| Some(((*session)?, ended.lease)));
        let lost = lost.collect();
        let ended: Vec<Ended<'_>> = ended.into_iter().map(|(ended, _)| ended).collect();
        let (effects, notes) = end_badly(self, tx, &ended).await?;
        let report = DutyReport { effects, lost, next: None };
        let ended = ended.iter().map(|ended| ended.lease).collect();
        Ok(Part { count: report.effects.len(), report, notes, ended, reached: None })
    }

    async fn timeouts(&self, tx: &mut Tx<'_>, now: Timestamp) -> Result<Part, Failure> {
        // Not locked: who settles such a job has its row first and this one then.
        let first = self.first(tx, (Duty::Timeouts, FIRST_TIMEOUT), now).await?;
        let Some(from) = first.at.filter(|at| *at <= now) else {
            return Ok(Part::idle(first, now));
        };
        let overdue = tx.query(OVERDUE, &[&now.0, &rows_max(), &from.0]).await?;
        let held: Vec<Lease> = overdue
            .iter()
            .map(|row| Lease { job: job_id(row, "job_id"), delivery: count(row, "delivery") })
            .collect();
        let mut part = self.take_leases(tx, &held, Ending::TimedOut).await?;
        let at: Vec<i64> = overdue.iter().map(|row| get(row, "at")).collect();
        let jobs: Vec<i64> = overdue.iter().map(|row| get(row, "job_id")).collect();
        tx.query(DELETE_DEADLINES, &[&at, &jobs]).await?;
        let reached = reached(&overdue, "at", now);
        let until = (reached, first.until);
        part.report.next = next(tx, FIRST_TIMEOUT, overdue.len(), until, now).await?;
        part.reached = Some(reached);
        Ok(part)
    }

    async fn cancels(&self, tx: &mut Tx<'_>, now: Timestamp) -> Result<Part, Failure> {
        let forced = tx.query(FORCED, &[&now.0, &rows_max()]).await?;
        let held: Vec<Lease> = forced
            .iter()
            .map(|row| Lease { job: job_id(row, "job_id"), delivery: count(row, "delivery") })
            .collect();
        let mut part = self.take_leases(tx, &held, Ending::Cancelled).await?;
        let jobs: Vec<i64> = forced.iter().map(|row| get(row, "job_id")).collect();
        tx.query(DELETE_CANCELS, &[&jobs]).await?;
        let all = (Timestamp(i64::MIN), i64::MAX);
        part.report.next = next(tx, FIRST_CANCEL, forced.len(), all, now).await?;
        Ok(part)
    }

    /// Takes leases away that have run for long enough. Those that are lost are passed over.
    async fn take_leases(
        &self,
        tx: &mut Tx<'_>,
        held: &[Lease],
        ending: Ending,
    ) -> Result<Part, Failure> {
        let rows = leases::find(tx, held).await?;
        let row_of = |lease: &Lease| rows.iter().find(|row| row.leases.contains(lease));
        let (mut ended, mut lost) = (Vec::new(), Vec::new());
        for lease in held {
            let Some(row) = row_of(lease) else { continue };
            lost.extend(row.given.session.map(|session| (session, *lease)));
            ended.push(Ended::by_us(*lease, ending, row.given.clone()));
        }
        let (effects, notes) = end_badly(self, tx, &ended).await?;
        leases::leave(tx, &rows, |lease| held.contains(lease)).await?;
        let count = effects.len();
        let ended = ended.iter().map(|ended| ended.lease).collect();
        let report = DutyReport { effects, lost, next: None };
        Ok(Part { report, count, notes, ended, reached: None })
    }

    async fn ttl(&self, tx: &mut Tx<'_>, now: Timestamp) -> Result<Part, Failure> {
        let first = self.first(tx, (Duty::Ttl, FIRST_TTL), now).await?;
        let Some(from) = first.at.filter(|at| *at <= now) else {
            return Ok(Part::idle(first, now));
        };
        let over = tx.query(EXPIRED, &[&now.0, &rows_max(), &from.0]).await?;
        let mortal: Vec<JobId> = over.iter().map(|row| job_id(row, "job_id")).collect();
        let left = leave_places(tx, &mortal).await?;
        let jobs: Vec<JobId> = mortal.into_iter().filter(|job| left.contains(job)).collect();
        let expired = Some(Reason::Expired);
        let effects = finish_waiting(self, tx, &jobs, State::Dead, expired, now).await?;
        let reached = reached(&over, "expires_at", now);
        let next = next(tx, FIRST_TTL, effects.len(), (reached, first.until), now).await?;
        let count = effects.len();
        let report = DutyReport { effects, lost: Vec::new(), next };
        Ok(Part { report, count, reached: Some(reached), ..Part::default() })
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

    async fn retention(&self, tx: &mut Tx<'_>, now: Timestamp) -> Result<Part, Failure> {
        let gone = self.forget_finished(tx, now).await?;
        tx.query(FORGET_KEYS, &[&now.0, &rows_max()]).await?;
        let events = self.forget_events(tx, now).await?;
        let old = |keep| now.0.saturating_sub(sql_millis(keep));
        tx.query(FORGET_FIRES, &[&old(FIRES_KEPT), &rows_max()]).await?;
        tx.query(FORGET_DECISIONS, &[&old(DECISIONS_KEPT), &rows_max()]).await?;
        let expired = forget_values(tx, now).await?;
        let swept = self.sweep_logs(tx).await?;
        self.open_gates(tx).await?;
        tx.query(FORGET_AUDIT, &[&old(AUDIT_KEPT), &rows_max()]).await?;
        let is_some_left = !tx.query(SOME, &[]).await?.is_empty();
        let is_full = gone.is_full() || events.max(expired) >= rows_max();
        let next = match is_full {
            true => Some(Duration::ZERO),
            false => is_some_left.then_some(RETENTION_EVERY),
        };
        let next = [next, swept.next()].into_iter().flatten().min();
        let report = DutyReport { next, ..DutyReport::default() };
        let count = usize::try_from(gone.rows + gone.jobs + expired).unwrap_or(0) + swept.gone;
        Ok(Part { report, count, ..Part::default() })
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

/// Asks for the fence. The answer: the database's time.
pub(super) async fn fence(tx: &mut Tx<'_>, term: &Term) -> Result<Timestamp, Failure> {
    let rows = tx.query(fence_sql(), &[&term.token_text()]).await?;
    #[cfg(feature = "mutants")]
    mutants::linger(Mutant::DropForShare).await;
    let deposed = || Failure::NotDone("another node leads by now".into());
    rows.first().map(now).ok_or_else(deposed)
}

/// [`FENCE`], unless this process is wrong about it.
fn fence_sql() -> &'static str {
    let by_token = "token = $1::text::uuid";
    let sole = "token = $1::text::uuid OR $1::text ~ '^0+$'";
    let sql = altered(Mutant::SkipFence, FENCE, by_token, "$1::text <> ''");
    let sql = altered(Mutant::FollowerFiresCron, sql, by_token, sole);
    altered(Mutant::DropForShare, sql, "FOR SHARE", "")
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

/// The first time from one up to another, by this statement.
async fn earliest(
    tx: &mut Tx<'_>,
    sql: &'static str,
    (from, until): (Timestamp, i64),
) -> Result<Option<Timestamp>, Failure> {
    let rows = tx.query(sql, &[&from.0, &until]).await?;
    Ok(rows.first().map(|row| Timestamp(get(row, "at"))))
}

/// Up to when all is done, if these rows were found and done, by their times.
fn reached(rows: &[Row], column: &str, now: Timestamp) -> Timestamp {
    match rows.last() {
        Some(row) if rows.len() >= DUTY_ROWS_MAX => Timestamp(get(row, column)),
        _ => now,
    }
}

/// When to come back, if `done` rows were done now and what comes first of the rest is between these
/// times.
async fn next(
    tx: &mut Tx<'_>,
    sql: &'static str,
    done: usize,
    between: (Timestamp, i64),
    now: Timestamp,
) -> Result<Option<Duration>, Failure> {
    if done >= DUTY_ROWS_MAX {
        return Ok(Some(Duration::ZERO));
    }
    Ok(earliest(tx, sql, between).await?.map(|at| at.since(now)))
}
