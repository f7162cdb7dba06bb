//! Acks of plain jobs whose leases this node remembers: the hot path.
//!
//! A statement for all of them that are in runs that live, by run, if all jobs of the run are acked; one
//! for those that are a good part of their run; and one for those that have rows of their own. What is
//! kept of those that are alike is one row. Where few jobs of a run are acked, or some with large results,
//! they are taken out before, in the same transaction. Acks of jobs that are kept and of those that are
//! not go by themselves.
//!
//! What is passed over is for [`settle`](super::settle) to decide on.

use std::sync::Arc;

use rustc_hash::{FxHashMap as HashMap, FxHashSet as HashSet};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::PostgresStore;
use super::events::nobody_listens;
use super::lane::{Call, Failure};
use super::leases::{self, Given, Known, LeaseId, Origin};
use super::live_runs::{InRun, RUN_MIN, TAKE_OUT, bucket_of};
use super::row::get;
use super::runs::left_beside;
use super::settle::in_part;
use crate::job::{JobId, Lease, State};
use crate::mutants::{self, Mutant, altered};
use crate::store::columns::sql_id;
use crate::store::{Destination, Effect, Settled, Settlement, Verdict};

/// If as many are `gone` as should be, so are the rows of their leases.
macro_rules! delete_emptied {
    () => {
        "
    done AS (
        DELETE FROM lease
        WHERE ctid = ANY(ARRAY(
            SELECT ctid FROM lease
            WHERE id = ANY($1::bigint[])
            AND (SELECT count(*) FROM gone) = $2::bigint
            FOR UPDATE SKIP LOCKED
        ))
    )"
    };
}

/// What is gone.
macro_rules! gone {
    () => {
        "
    SELECT array_agg(id) AS ids
    FROM gone"
    };
}

/// Acks of plain jobs, as ranges of jobs whose numbers follow each other and whose deliveries, and all
/// else that is said of them, are the same: jobs are mostly done in the order of their coming, and
/// walking along an index is cheaper than searching it for each. A stale lease beside a good one is
/// not taken for it. A job that somebody watches is passed over: it takes more than this. Rows of
/// `lease` that somebody has locked, or that may hold a job that was passed over, are left.
///
/// The limit, which takes nothing away, has the planner believe that there is one range, so that it
/// begins with the ranges whatever it believes of the table. Whoever is changing a row is waited for,
/// and what decides is asked of what they left.
macro_rules! ack {
    ($of_range:literal, $of_job:expr, $kept:literal) => {
        concat!(
            "
    WITH gone AS (
        DELETE FROM job
        USING (
            SELECT
                unnest($3::bigint[]) AS first, unnest($4::bigint[]) AS last,
                unnest($5::integer[]) AS lease_delivery, unnest($6::integer[]) AS giver,
                unnest($7::bigint[]) AS started_at, unnest($8::bytea[]) AS result",
            $of_range,
            "
            LIMIT cardinality($3)
        ) a
        WHERE job.id BETWEEN a.first AND a.last AND job.delivery = a.lease_delivery
        AND NOT job.is_watched
        RETURNING
            a.giver, a.started_at, a.result, id, queue_id, priority, created_at, max_attempts,
            attempts, delivery, crashes, expires_at, timeout_ms, replay_of, replayed_as,
            content_type, backoff, unique_key, tags, options, payload",
            $of_job,
            "
    ),
    kept AS (
        INSERT INTO finished (
            id, queue_id, state, priority, created_at, finished_at, max_attempts, attempts,
            deliveries, crashes, node, worker, started_at, expires_at, timeout_ms, replay_of,
            replayed_as, content_type, backoff, unique_key, tags, options, payload, result
        )
        SELECT
            id, queue_id, 'completed', priority, created_at, (SELECT now_ms()), max_attempts,
            attempts, delivery, crashes, ($9::text[])[giver], ($10::text[])[giver], started_at,
            expires_at, timeout_ms, replay_of, replayed_as, content_type, backoff, unique_key,
            tags, options, payload, result
        FROM gone",
            $kept,
            "
    ),
",
            delete_emptied!(),
            gone!()
        )
    };
}

const ACK: &str = ack!("", "", "");

/// The same, and where enough of them are alike they become runs: of those jobs that a run can say
/// everything of, and that are small, so that nobody who looks for one reads more than two megabytes.
/// All of them have rows of their own while events are recorded, which is done where rows appear. See
/// `migrations/0012_runs.sql`.
const ACK_IN_RUNS: &str = ack!(
    ", unnest($11::boolean[]) AS is_run",
    concat!(
        ",
            (
                a.is_run AND delivery = 1 AND attempts = 0 AND crashes = 0 AND tags IS NULL
                AND unique_key IS NULL AND timeout_ms IS NULL AND replayed_as IS NULL
                AND length(payload) + coalesce(octet_length(options), 0)
                    + coalesce(length(a.result), 0) <= 2048
                AND ",
        nobody_listens!(),
        "
            ) AS is_packed"
    ),
    "
        WHERE NOT is_packed
    ),
    packed AS (
        INSERT INTO run (
            id, bucket, queue_id, finished_at, started_at, first, last, count, node, worker, jobs
        )
        SELECT
            min(id), id >> 10, queue_id, (SELECT now_ms()), started_at, min(id), max(id), count(*),
            ($9::text[])[giver], ($10::text[])[giver],
            array_agg((
                id, priority, created_at, max_attempts, expires_at, replay_of, content_type,
                backoff, options, payload, result
            )::packed)
        FROM gone
        WHERE is_packed
        GROUP BY id >> 10, queue_id, started_at, giver"
);

/// Larger results are kept with their jobs, not in runs.
const RESULT_MAX: usize = 1024;

/// Where runs that live stand, as the end of a subquery `a` and the beginning of what is asked of them: each
/// is searched for once, whatever the planner believes of the table, and what is said of it is worked out
/// once, not for each of its jobs.
macro_rules! standing_at {
    () => {
        "
            CROSS JOIN LATERAL (
                SELECT ctid AS tid
                FROM run
                WHERE id = run_id AND (finished_at > 0) IS NOT TRUE
                OFFSET 0
            ) r
            OFFSET 0
        ) a
        WHERE run.ctid = a.tid AND (run.finished_at > 0) IS NOT TRUE"
    };
}

/// Acks of all jobs of runs that live, by the runs: see [`live_runs`](super::live_runs). One that has other
/// jobs is passed over. The answer: the numbers of those that are done, from 1 on; what is remembered
/// of runs, their own numbers too, only says where to look.
const ACK_RUNS: &str = concat!(
    "
    WITH gone AS (
        UPDATE run
        SET finished_at = (SELECT now_ms()),
            started_at = a.started_at,
            node = ($10::text[])[giver],
            worker = ($11::text[])[giver],
            results = ($12::bytea[])[first_result:first_result + run.count - 1]
        FROM (
            SELECT *
            FROM unnest(
                $3::bigint[], $5::integer[], $6::integer[], $7::integer[], $8::integer[],
                $9::bigint[], $13::integer[]
            ) WITH ORDINALITY AS u (
                run_id, first_job, size, lease_delivery, giver, started_at, first_result, part
            )",
    standing_at!(),
    "
        AND run.delivery = a.lease_delivery
        AND run.ids = ($4::bigint[])[first_job:first_job + size - 1]
        RETURNING a.part AS id
    ),
",
    delete_emptied!(),
    gone!()
);

/// The same of runs that are not kept; of none while events are recorded, as below.
const ACK_RUNS_AND_FORGET: &str = concat!(
    "
    WITH gone AS (
        DELETE FROM run
        USING (
            SELECT *
            FROM unnest($3::bigint[], $5::integer[], $6::integer[], $7::integer[])
                WITH ORDINALITY AS u (run_id, first_job, size, lease_delivery, part)",
    standing_at!(),
    "
        AND run.delivery = a.lease_delivery
        AND run.ids = ($4::bigint[])[first_job:first_job + size - 1]
        AND ",
    nobody_listens!(),
    "
        RETURNING
            a.part AS id, run.first, run.last, run.delivery, run.jobs, run.ids
    ),
",
    left_beside!(),
    ",
",
    delete_emptied!(),
    gone!()
);

/// Acks of pieces of runs that live. They are runs from now on that have ended; what is left of each is one
/// that lives if it has as many jobs as a run has at least, and if no more than two kilobytes are
/// written again for each job that is acked; else those jobs have rows. Passed over is a piece of which
/// some jobs are not there any more, and all while events are recorded. The answer: the pieces that are
/// gone, by number, of which runs, and what is left of each as a run.
macro_rules! ack_pieces {
    ($end:expr) => {
        concat!(
            "
    WITH taken AS (
        DELETE FROM run
        USING (
            SELECT tid, part, ($4::bigint[])[first_job:first_job + jobs - 1] AS acked, lease_delivery
            FROM unnest($3::bigint[], $5::integer[], $6::integer[], $7::integer[])
                WITH ORDINALITY AS u (run_id, first_job, jobs, lease_delivery, part)",
            standing_at!(),
            "
        AND run.delivery = a.lease_delivery
        AND (
            SELECT count(*)
            FROM unnest(run.ids) AS u (id)
            WHERE a.acked[width_bucket(u.id, a.acked)] = u.id
        ) = cardinality(a.acked)
        AND ",
            nobody_listens!(),
            "
        RETURNING run.*, pg_column_size(run.payloads) AS bytes, a.part, a.acked
    ),
    gone AS MATERIALIZED (
        SELECT
            t.id, t.count AS size, t.part, t.bucket, t.queue_id, t.place, t.priority, t.created_at,
            t.due_at, t.due_note, t.attempts, t.delivery, t.max_attempts, t.content_type, t.backoff,
            s.*, s.ids[1] AS first, s.ids[cardinality(s.ids)] AS last, NULL::packed[] AS jobs,
            coalesce(
                cardinality(s.left_ids) >= 16 AND t.bytes <= 2048 * cardinality(s.ids), false
            ) AS is_left
        FROM taken t
        CROSS JOIN LATERAL (
            SELECT
                array_agg(id) FILTER (WHERE is_acked) AS ids,
                array_agg(payload) FILTER (WHERE is_acked) AS payloads,
                array_agg(id) FILTER (WHERE NOT is_acked) AS left_ids,
                array_agg(payload) FILTER (WHERE NOT is_acked) AS left_payloads
            FROM (
                SELECT
                    u.id, u.payload,
                    coalesce(t.acked[width_bucket(u.id, t.acked)] = u.id, false) AS is_acked
                FROM unnest(t.ids, t.payloads) AS u (id, payload)
                OFFSET 0
            ) u
        ) s
    ),
    left_runs AS (
        INSERT INTO run (
            id, bucket, queue_id, first, last, count, place, priority, created_at, due_at, due_note,
            max_attempts, attempts, delivery, content_type, backoff, ids, payloads
        )
        SELECT
            left_ids[1], bucket, queue_id, left_ids[1], left_ids[cardinality(left_ids)],
            cardinality(left_ids), place, priority, created_at, due_at, due_note, max_attempts,
            attempts, delivery, content_type, backoff, left_ids, left_payloads
        FROM gone
        WHERE is_left
    ),
    left_jobs AS (
        INSERT INTO job (
            id, queue_id, priority, place, created_at, max_attempts, attempts, delivery, crashes,
            content_type, backoff, payload, was_packed
        )
        SELECT
            u.id, queue_id, priority, place, created_at, max_attempts, attempts, delivery, 0,
            content_type, backoff, u.payload, true
        FROM gone
        CROSS JOIN LATERAL unnest(left_ids, left_payloads) AS u (id, payload)
        WHERE NOT is_left
    ),
    left_notes AS (
        INSERT INTO job_note (job_id, number, at, kind, delivery, who, detail)
        OVERRIDING SYSTEM VALUE
        SELECT unnest(left_ids), due_note, due_at, 'due', delivery, '', ''
        FROM gone
        WHERE NOT is_left AND due_at IS NOT NULL
    ),
",
            $end,
            ",
",
            delete_emptied!(),
            "
    SELECT
        part, id AS run_id, size AS run_count, delivery AS run_delivery,
        CASE WHEN is_left THEN left_ids[1] END AS left_id,
        CASE WHEN is_left THEN cardinality(left_ids) END AS left_count
    FROM gone"
        )
    };
}

const ACK_PIECES: &str = ack_pieces!(
    "
    kept AS (
        INSERT INTO run (
            id, bucket, queue_id, first, last, count, place, priority, created_at, due_at, due_note,
            attempts, delivery, max_attempts, content_type, backoff, ids, payloads, finished_at,
            started_at, node, worker, results
        )
        SELECT
            first, bucket, queue_id, first, last, cardinality(ids), place, priority, created_at,
            due_at, due_note, attempts, delivery, max_attempts, content_type, backoff, ids, payloads,
            (SELECT now_ms()), ($9::bigint[])[part], ($10::text[])[($8::integer[])[part]],
            ($11::text[])[($8::integer[])[part]],
            ($12::bytea[])[($13::integer[])[part]:($13::integer[])[part] + cardinality(ids) - 1]
        FROM gone
    )"
);

const ACK_PIECES_AND_FORGET: &str = ack_pieces!(left_beside!());

/// The same of jobs that are not kept. Passed over are also those that have been retried or have
/// tags, and all of them while events are recorded, which is done where jobs finish.
const ACK_AND_FORGET: &str = concat!(
    "
    WITH ranges AS MATERIALIZED (
        SELECT
            unnest($3::bigint[]) AS first, unnest($4::bigint[]) AS last,
            unnest($5::integer[]) AS lease_delivery
    ),
    gone AS (
        DELETE FROM job
        USING (SELECT * FROM ranges LIMIT cardinality($3)) r
        WHERE job.id BETWEEN r.first AND r.last AND job.delivery = r.lease_delivery
        AND job.delivery = 1 AND NOT job.is_watched AND job.tags IS NULL
        AND ",
    nobody_listens!(),
    "
        RETURNING id
    ),
    forgotten AS MATERIALIZED (
        SELECT first, last FROM ranges WHERE (SELECT count(*) FROM gone) = $2::bigint
        UNION ALL
        SELECT id, id FROM gone WHERE (SELECT count(*) FROM gone) <> $2::bigint
    ),
    notes AS (
        DELETE FROM job_note
        WHERE ctid = ANY(ARRAY(
            SELECT n.ctid
            FROM forgotten f
            CROSS JOIN LATERAL (
                SELECT ctid FROM job_note WHERE job_id BETWEEN f.first AND f.last OFFSET 0
            ) n
        ))
    ),
    progresses AS (
        DELETE FROM progress
        WHERE ctid = ANY(ARRAY(
            SELECT p.ctid
            FROM forgotten f
            CROSS JOIN LATERAL (
                SELECT ctid FROM progress WHERE job_id BETWEEN f.first AND f.last OFFSET 0
            ) p
        ))
    ),
",
    delete_emptied!(),
    gone!()
);

/// See [`super::hot_statements`].
pub(super) const HOT: &[super::Named] = &[
    ("acks::ACK", ACK),
    ("acks::ACK_IN_RUNS", ACK_IN_RUNS),
    ("acks::ACK_AND_FORGET", ACK_AND_FORGET),
    ("acks::ACK_RUNS", ACK_RUNS),
    ("acks::ACK_RUNS_AND_FORGET", ACK_RUNS_AND_FORGET),
    ("acks::ACK_PIECES", ACK_PIECES),
    ("acks::ACK_PIECES_AND_FORGET", ACK_PIECES_AND_FORGET),
];

/// An ack of a plain job.
pub(super) struct Ack<'a> {
    pub(super) lease: Lease,
    result: Option<&'a [u8]>,
    origin: Arc<Origin>,
    /// The run that it was given out of.
    run: Option<InRun>,
}

impl PostgresStore {
    /// The acks of plain jobs that are remembered, and their places. One whose job is settled
    /// elsewhere among these, too, is not plain: it matters which comes first.
    pub(super) fn plain_acks<'a>(&self, settlements: &'a [Settlement]) -> Vec<(usize, Ack<'a>)> {
        let known = self.leases.known_of(settlements.iter().map(|settlement| settlement.lease));
        let mut jobs: Vec<JobId> = settlements.iter().map(|it| it.lease.job).collect();
        // Stable, since that merges sequences that rise: each call brings one.
        jobs.sort();
        let repeated = jobs.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]);
        let repeated: HashSet<JobId> = repeated.collect();
        let ack = |(place, (settlement, known)): (usize, (&'a Settlement, Option<Known>))| {
            let Settlement { lease, verdict: Verdict::Ack { result } } = settlement else {
                return None;
            };
            let Known { origin, run, .. } =
                known.filter(|it| it.is_plain && it.origin.queue.is_some())?;
            let ack = Ack { lease: *lease, result: result.as_deref(), origin, run };
            (!repeated.contains(&lease.job)).then_some((place, ack))
        };
        settlements.iter().zip(known).enumerate().filter_map(ack).collect()
    }

    /// Acks, those that are kept in one statement and those that are not in another. `None`: it
    /// was passed over.
    pub(super) async fn ack(&self, acks: &[Ack<'_>]) -> Result<Vec<Option<Settled>>, Failure> {
        let mut order: Vec<usize> = (0..acks.len()).collect();
        order.sort_unstable_by_key(|place| acks[*place].lease);
        let (kept, forgotten): (Vec<usize>, Vec<usize>) =
            order.into_iter().partition(|place| self.is_kept(&acks[*place]));
        let mut settled: Vec<Option<Settled>> = vec![None; acks.len()];
        let mut empty = Vec::new();
        for (places, is_kept) in [(kept, true), (forgotten, false)] {
            if places.is_empty() {
                continue;
            }
            let sorted: Vec<&Ack<'_>> = places.iter().map(|place| &acks[*place]).collect();
            let done = self.ack_sorted(&sorted, is_kept).await;
            let done = done.map_err(|failure| in_part(failure, &settled))?;
            empty.extend(self.leases.end(done.iter().map(|at| sorted[*at].lease)));
            for at in done {
                let Ack { lease, origin, .. } = sorted[at];
                let Some((id, queue)) = &origin.queue else { continue };
                self.note_opened(*id);
                let to = Destination::Finished(State::Completed);
                let effect = Effect { job: lease.job, queue: queue.clone(), to };
                settled[places[at]] = Some(Settled::Done(effect));
            }
        }
        if settled.iter().any(Option::is_none) {
            self.delete_empty(&empty).await;
        }
        Ok(settled)
    }

    /// Deletes rows of leases that have all ended; those that are left run out by themselves.
    pub(super) async fn delete_empty(&self, rows: &[LeaseId]) {
        if rows.is_empty() {
            return;
        }
        if let Err(error) = self.keep_lane.once((leases::DELETE_IF_EMPTY, &[&rows])).await {
            tracing::debug!(%error, "empty leases were left");
        }
    }

    fn is_kept(&self, ack: &Ack<'_>) -> bool {
        ack.origin.queue.as_ref().is_none_or(|(queue, _)| self.keeps_completed(*queue))
    }

    /// Acks, by job: in one statement as a rule, else in one transaction. The answer: the places of those
    /// that were not passed over.
    async fn ack_sorted(&self, acks: &[&Ack<'_>], is_kept: bool) -> Result<Vec<usize>, Failure> {
        let empty = self.leases.emptied_by(acks.iter().map(|ack| ack.lease));
        let parts = Parts::of(acks);
        // A statement that is alone sees for itself whether they are empty.
        let deleted = if parts.is_one() { empty.as_slice() } else { &[] };
        let (wholes, pieces, jobs) = (
            Runs::of(acks, &parts.wholes, deleted),
            Runs::of(acks, &parts.pieces, deleted),
            Jobs::of(acks, &parts.singles, deleted),
        );
        let (of_wholes, of_pieces, of_jobs) =
            (wholes.params(is_kept), pieces.params(is_kept), jobs.params(is_kept));
        let apart: [&(dyn ToSql + Sync); 1] = [&parts.apart];
        let calls: [(bool, Call<'_>); 4] = [
            (parts.apart.is_empty(), (TAKE_OUT, &apart)),
            (parts.pieces.is_empty(), (ack_pieces(is_kept), &of_pieces)),
            (parts.wholes.is_empty(), (leaving_run(is_kept), &of_wholes)),
            (parts.singles.is_empty(), (jobs.sql(is_kept), &of_jobs)),
        ];
        let used: Vec<Call<'_>> =
            calls.iter().filter(|(is_idle, _)| !is_idle).map(|(_, call)| *call).collect();
        let (answers, tx) = match used[..] {
            [call] => (vec![self.settle_lane.once(call).await?], None),
            _ => {
                let mut tx = self.settle_lane.begin().await?;
                (tx.all(&used).await?, Some(tx))
            }
        };
        let mut answers = answers.into_iter();
        let mut next = |is_idle: bool| match is_idle {
            true => Vec::new(),
            false => answers.next().unwrap_or_default(),
        };
        let [apart, pieces, wholes, jobs] = calls.map(|(is_idle, _)| next(is_idle));
        let done = parts.done(acks, &pieces, &wholes, &jobs);
        if let Some(tx) = tx {
            let rows: [&(dyn ToSql + Sync); 1] = [&empty];
            let delete: [Call<'_>; 1] = [(leases::DELETE_IF_FREE, &rows)];
            let are_empty = done.len() == acks.len() && !empty.is_empty();
            tx.commit(if are_empty { &delete } else { &[] }).await?;
        }
        self.leases.taken_out(&parts.apart, &apart);
        let acked = parts.pieces.iter().flat_map(|(_, places)| places);
        let acked: Vec<i64> = acked.map(|place| sql_id(acks[*place].lease.job)).collect();
        self.leases.taken_out(&acked, &pieces);
        Ok(done)
    }
}

fn ack_pieces(is_kept: bool) -> &'static str {
    if is_kept { ACK_PIECES } else { ACK_PIECES_AND_FORGET }
}

/// Acks by what they take, as places.
#[derive(Default)]
struct Parts {
    /// All jobs of runs, by job.
    wholes: Vec<(InRun, Vec<usize>)>,
    /// Many jobs of runs, by job.
    pieces: Vec<(InRun, Vec<usize>)>,
    /// Jobs that have rows of their own, or will have.
    singles: Vec<usize>,
    /// Jobs that are taken out of their runs, to have rows.
    apart: Vec<i64>,
}

impl Parts {
    fn of(acks: &[&Ack<'_>]) -> Self {
        let mut parts = Self::default();
        let mut found: Vec<(InRun, Vec<usize>)> = Vec::new();
        let mut by_run: HashMap<InRun, usize> = HashMap::default();
        for (place, ack) in acks.iter().enumerate() {
            let Some(run) = ack.run else {
                parts.singles.push(place);
                continue;
            };
            let number = *by_run.entry(run).or_insert_with(|| {
                found.push((run, Vec::new()));
                found.len() - 1
            });
            found[number].1.push(place);
        }
        for (run, places) in found {
            parts.add(acks, run, places);
        }
        parts.singles.sort_unstable();
        parts
    }

    /// Adds the acks of a run.
    fn add(&mut self, acks: &[&Ack<'_>], run: InRun, places: Vec<usize>) {
        let origin = &acks[places[0]].origin;
        let joins = |place: &usize| {
            let ack = acks[*place];
            Arc::ptr_eq(&ack.origin, origin)
                && ack.lease.delivery.cast_signed() == run.delivery
                && ack.result.is_none_or(|result| result.len() <= RESULT_MAX)
        };
        let (count, are_alike) = (places.len(), places.iter().all(joins));
        if are_alike && i32::try_from(count) == Ok(run.count) {
            self.wholes.push((run, places));
        } else if are_alike && count >= RUN_MIN && !mutants::is(Mutant::AckLeavesRow) {
            self.pieces.push((run, places));
        } else {
            self.apart.extend(places.iter().map(|place| sql_id(acks[*place].lease.job)));
            self.singles.extend(places);
        }
    }

    /// Whether one statement does it.
    fn is_one(&self) -> bool {
        let idle = [self.pieces.is_empty(), self.wholes.is_empty(), self.singles.is_empty()];
        idle.into_iter().filter(|is_idle| !is_idle).count() == 1 && self.apart.is_empty()
    }

    /// The places of acks that were not passed over, by the answers of the statements.
    fn done(&self, acks: &[&Ack<'_>], pieces: &[Row], wholes: &[Row], jobs: &[Row]) -> Vec<usize> {
        let pieces: HashSet<i64> = pieces.iter().map(|row| get(row, "part")).collect();
        let (wholes, jobs) = (ids_of(wholes), ids_of(jobs));
        let of_pieces = (1..).zip(&self.pieces).filter(|(part, _)| pieces.contains(part));
        let of_wholes = (1..).zip(&self.wholes).filter(|(part, _)| wholes.contains(part));
        let of_runs = of_pieces.chain(of_wholes).flat_map(|(_, (_, places))| places);
        let is_done = |place: &&usize| jobs.contains(&sql_id(acks[**place].lease.job));
        of_runs.chain(self.singles.iter().filter(is_done)).copied().collect()
    }
}

/// Acks of runs, or of pieces of them, as columns.
struct Runs<'a> {
    deleted: &'a [LeaseId],
    count: i64,
    id: Vec<i64>,
    /// Which jobs are acked, of all of them; where those of each begin, from 1 on; and how many they are.
    acked: Vec<i64>,
    first_acked: Vec<i32>,
    acked_count: Vec<i32>,
    delivery: Vec<i32>,
    giver: Vec<i32>,
    started_at: Vec<i64>,
    node: Vec<&'a str>,
    worker: Vec<&'a str>,
    result: Vec<Option<&'a [u8]>>,
    /// Where the results of a run begin, from 1 on, if it has any.
    first_result: Vec<Option<i32>>,
}

impl<'a> Runs<'a> {
    fn of(acks: &[&'a Ack<'_>], runs: &[(InRun, Vec<usize>)], deleted: &'a [LeaseId]) -> Self {
        let given = || runs.iter().map(|(_, places)| &acks[places[0]].origin.given);
        let (giver, node, worker) = givers(given());
        let (mut result, mut first_result) = (Vec::new(), Vec::with_capacity(runs.len()));
        let (mut acked, mut first_acked) = (Vec::new(), Vec::with_capacity(runs.len()));
        for (_, places) in runs {
            first_acked.push(acked.len() as i32 + 1);
            acked.extend(places.iter().map(|place| sql_id(acks[*place].lease.job)));
            let own = || places.iter().map(|place| acks[*place].result);
            let has_some = own().any(|result| result.is_some());
            first_result.push(has_some.then(|| result.len() as i32 + 1));
            result.extend(own().filter(|_| has_some));
        }
        Self {
            deleted,
            count: runs.len() as i64,
            id: runs.iter().map(|(run, _)| run.id).collect(),
            acked,
            first_acked,
            acked_count: runs.iter().map(|(_, places)| places.len() as i32).collect(),
            delivery: runs.iter().map(|(run, _)| run.delivery).collect(),
            giver,
            started_at: given().map(|given| given.started_at.0).collect(),
            node,
            worker,
            result,
            first_result,
        }
    }

    fn params(&self, is_kept: bool) -> Vec<&(dyn ToSql + Sync)> {
        let all: [&(dyn ToSql + Sync); 13] = [
            &self.deleted,
            &self.count,
            &self.id,
            &self.acked,
            &self.first_acked,
            &self.acked_count,
            &self.delivery,
            &self.giver,
            &self.started_at,
            &self.node,
            &self.worker,
            &self.result,
            &self.first_result,
        ];
        all[..if is_kept { 13 } else { 7 }].to_vec()
    }
}

/// Acks of jobs that have rows of their own as columns, by range.
struct Jobs<'a> {
    deleted: &'a [LeaseId],
    count: i64,
    first: Vec<i64>,
    last: Vec<i64>,
    delivery: Vec<i32>,
    giver: Vec<i32>,
    started_at: Vec<i64>,
    result: Vec<Option<&'a [u8]>>,
    node: Vec<&'a str>,
    worker: Vec<&'a str>,
    is_run: Vec<bool>,
}

impl<'a> Jobs<'a> {
    fn of(acks: &[&'a Ack<'_>], singles: &[usize], deleted: &'a [LeaseId]) -> Self {
        let own: Vec<&Ack<'_>> = singles.iter().map(|place| acks[*place]).collect();
        let ranges = ranges(&own);
        let given = || ranges.iter().map(|range| &range.ack.origin.given);
        let (giver, node, worker) = givers(given());
        let delivery = |range: &Range<'_, '_>| range.ack.lease.delivery.cast_signed();
        Self {
            deleted,
            count: own.len() as i64,
            first: ranges.iter().map(|range| sql_id(range.ack.lease.job)).collect(),
            last: ranges.iter().map(|range| range.last).collect(),
            delivery: ranges.iter().map(delivery).collect(),
            giver,
            started_at: given().map(|given| given.started_at.0).collect(),
            result: ranges.iter().map(|range| range.ack.result).collect(),
            node,
            worker,
            is_run: in_runs(&ranges),
        }
    }

    fn sql(&self, is_kept: bool) -> &'static str {
        leaving_row(match (is_kept, self.is_run.contains(&true)) {
            (true, true) => ACK_IN_RUNS,
            (true, false) => ACK,
            (false, _) => ACK_AND_FORGET,
        })
    }

    fn params(&self, is_kept: bool) -> Vec<&(dyn ToSql + Sync)> {
        let all: [&(dyn ToSql + Sync); 11] = [
            &self.deleted,
            &self.count,
            &self.first,
            &self.last,
            &self.delivery,
            &self.giver,
            &self.started_at,
            &self.result,
            &self.node,
            &self.worker,
            &self.is_run,
        ];
        let count = match (is_kept, self.is_run.contains(&true)) {
            (true, true) => 11,
            (true, false) => 10,
            (false, _) => 5,
        };
        all[..count].to_vec()
    }
}

/// The numbers that a statement answers with.
fn ids_of(rows: &[Row]) -> HashSet<i64> {
    let ids: Option<Vec<i64>> = rows.first().and_then(|row| get(row, "ids"));
    ids.unwrap_or_default().into_iter().collect()
}

/// Acks that differ in nothing but the numbers of their jobs, which follow each other.
struct Range<'a, 'b> {
    /// The first of them.
    ack: &'b Ack<'a>,
    /// The number of the last job.
    last: i64,
}

/// The ranges of acks that are in order.
fn ranges<'a, 'b>(acks: &[&'b Ack<'a>]) -> Vec<Range<'a, 'b>> {
    let mut ranges: Vec<Range<'_, '_>> = Vec::new();
    for ack in acks {
        let id = sql_id(ack.lease.job);
        match ranges.last_mut() {
            Some(range) if range.last + 1 == id && range.ack.is_alike(ack) => range.last = id,
            _ => ranges.push(Range { ack, last: id }),
        }
    }
    ranges
}

/// Who gave leases: for each the place, from 1 on, of its node and worker among those that are told
/// apart. Rows and groups carry a number about instead of two texts.
fn givers<'a>(given: impl Iterator<Item = &'a Given>) -> (Vec<i32>, Vec<&'a str>, Vec<&'a str>) {
    let (mut places, mut nodes, mut workers) = (HashMap::default(), Vec::new(), Vec::new());
    let place = |given: &'a Given| {
        let giver = (&*given.node, given.worker.as_str());
        *places.entry(giver).or_insert_with(|| {
            nodes.push(giver.0);
            workers.push(giver.1);
            nodes.len() as i32
        })
    };
    (given.map(place).collect(), nodes, workers)
}

/// Which of the ranges are to be in runs: those that come with enough others from the same lease
/// row in the same bucket.
fn in_runs(ranges: &[Range<'_, '_>]) -> Vec<bool> {
    let run_of = |range: &Range<'_, '_>| {
        (Arc::as_ptr(&range.ack.origin), bucket_of(sql_id(range.ack.lease.job)))
    };
    let mut counts: HashMap<_, i64> = HashMap::default();
    for range in ranges {
        let count = range.last - sql_id(range.ack.lease.job) + 1;
        *counts.entry(run_of(range)).or_default() += count;
    }
    ranges.iter().map(|range| counts[&run_of(range)] >= RUN_MIN as i64).collect()
}

impl Ack<'_> {
    fn is_bare(&self, other: &Self) -> bool {
        self.lease.delivery == other.lease.delivery
            && self.result.is_none()
            && other.result.is_none()
    }

    fn is_alike(&self, other: &Self) -> bool {
        if Arc::ptr_eq(&self.origin, &other.origin) {
            return self.is_bare(other);
        }
        let (given, others) = (&self.origin.given, &other.origin.given);
        self.is_bare(other)
            && given.started_at == others.started_at
            && given.worker == others.worker
            && given.node == others.node
    }
}

/// Of a statement that acks.
fn leaving_row(sql: &'static str) -> &'static str {
    let (delete, keep) =
        ("DELETE FROM job\n        USING (", "UPDATE job SET place = job.place FROM (");
    altered(Mutant::AckLeavesRow, sql, delete, keep)
}

/// Of one that acks runs.
fn leaving_run(is_kept: bool) -> &'static str {
    let (sql, good, bad) = match is_kept {
        true => (ACK_RUNS, "SET finished_at = (SELECT now_ms())", "SET finished_at = NULL"),
        false => (
            ACK_RUNS_AND_FORGET,
            "DELETE FROM run\n        USING (",
            "UPDATE run SET place = run.place FROM (",
        ),
    };
    altered(Mutant::AckLeavesRow, sql, good, bad)
}
