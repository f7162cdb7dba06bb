//! What happens by time, in bounded parts.
//!
//! Each part is a transaction that begins by asking for the fence: the leader's row with the token
//! of this term, locked against the next election. A node that has been deposed without knowing
//! it finds no such row; one that is in the middle of a part makes the election wait for its end.
//! What a part changed is noted in `audit`, by token.

use std::collections::HashSet;
use std::time::Duration;

use tokio_postgres::Row;

use super::blocks::split_blocks_of;
use super::heads::Head;
use super::lane::{Failure, Tx};
use super::leases::{self, LiveRow};
use super::live_runs::UNPACK_SCHEDULED;
use super::needs::release_dependents;
use super::notes;
use super::row::{count, get, job_id, now};
use super::settle::{Ended, end_badly, finish_waiting};
use super::{PostgresStore, retrying};
use crate::job::{Ending, JobId, Lease, Reason, State, Timestamp};
use crate::leader::Term;
use crate::mutants::{self, Mutant, altered};
use crate::store::columns::sql_id;
use crate::store::{DUTY_ROWS_MAX, Destination, Duty, DutyReport, Effect, NoteKind, SessionId};

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

/// So many rows a part changes at most.
pub(super) fn rows_max() -> i64 {
    DUTY_ROWS_MAX as i64
}

/// See [`super::hot_statements`].
pub(super) const HOT: &[super::Named] = &[
    ("duties::DUE", DUE),
    ("duties::PROMOTE", PROMOTE),
    ("duties::RUN_OUT", RUN_OUT),
    ("duties::OVERDUE", OVERDUE),
    ("duties::FORCED", FORCED),
    ("duties::DELETE_DEADLINES", DELETE_DEADLINES),
    ("duties::EXPIRED", EXPIRED),
    ("duties::OUTLOOK", OUTLOOK),
    ("duties::FIRST_DUE", FIRST_DUE),
    ("duties::FIRST_EXPIRY", FIRST_EXPIRY),
    ("duties::FIRST_TIMEOUT", FIRST_TIMEOUT),
    ("duties::FIRST_TTL", FIRST_TTL),
    ("duties::LEAVE_PLACES", LEAVE_PLACES),
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
            Duty::Retention => self.retention(&mut tx, now).await.map(|(report, count)| Part {
                report,
                count,
                ..Part::default()
            }),
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
