//! Acks of plain jobs whose leases this node remembers: the hot path.
//!
//! A statement for all of them that are in runs that live, by run, if all jobs of the run are acked; and
//! one for those that have rows of their own. What is kept of those that are alike is one row. Where only a
//! part of a run is acked, it is taken out before, in the same transaction. Acks of jobs that are kept
//! and of those that are not go by themselves.
//!
//! What is passed over is for [`settle`](super::settle) to decide on.

use std::sync::Arc;

use rustc_hash::{FxBuildHasher, FxHashMap as HashMap, FxHashSet as HashSet};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::PostgresStore;
use super::events::nobody_listens;
use super::lane::{Call, Failure};
use super::leases::{self, Given, Known, LeaseId, Origin};
use super::live_runs::{InRun, RUN_MIN, TAKE_OUT, TAKE_OUT_TOGETHER, bucket_of};
use super::row::get;
use super::runs::left_beside;
use super::settle::in_part;
use crate::job::{JobId, Lease, State};
use crate::mutants::{Mutant, altered};
use crate::store::columns::sql_id;
use crate::store::{Destination, Effect, Settled, Settlement, Verdict};

/// The end of each statement here: if as many are `gone` as should be, so are the rows of their leases. The
/// answer is what is gone.
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
    )
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
            delete_emptied!()
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

/// Acks of all jobs of runs that live, by the runs: see [`live_runs`](super::live_runs). One that others
/// have changed meanwhile is passed over.
const ACK_RUNS: &str = concat!(
    "
    WITH gone AS (
        UPDATE run
        SET finished_at = (SELECT now_ms()),
            started_at = a.started_at,
            node = ($7::text[])[giver],
            worker = ($8::text[])[giver],
            results = ($9::bytea[])[first_result:first_result + run.count - 1]
        FROM (
            SELECT
                unnest($3::bigint[]) AS run_id, unnest($4::integer[]) AS size,
                unnest($5::integer[]) AS giver,
                unnest($6::bigint[]) AS started_at, unnest($10::integer[]) AS first_result
            LIMIT cardinality($3)
        ) a
        -- Twice, so that the planner goes by the index whatever it believes of the table.
        WHERE run.id = a.run_id AND run.id = ANY($3::bigint[])
        AND run.count = a.size AND (run.finished_at > 0) IS NOT TRUE
        RETURNING run.id
    ),
",
    delete_emptied!()
);

/// The same of runs that are not kept; of none while events are recorded, as below.
const ACK_RUNS_AND_FORGET: &str = concat!(
    "
    WITH gone AS (
        DELETE FROM run
        USING (
            SELECT unnest($3::bigint[]) AS run_id, unnest($4::integer[]) AS size
            LIMIT cardinality($3)
        ) a
        -- Twice, so that the planner goes by the index whatever it believes of the table.
        WHERE run.id = a.run_id AND run.id = ANY($3::bigint[])
        AND run.count = a.size AND (run.finished_at > 0) IS NOT TRUE
        AND ",
    nobody_listens!(),
    "
        RETURNING id, first, last, jobs, ids
    ),
",
    left_beside!(),
    ",
",
    delete_emptied!()
);

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
    delete_emptied!()
);

/// See [`super::hot_statements`].
pub(super) const HOT: &[super::Named] = &[
    ("acks::ACK", ACK),
    ("acks::ACK_IN_RUNS", ACK_IN_RUNS),
    ("acks::ACK_AND_FORGET", ACK_AND_FORGET),
    ("acks::ACK_RUNS", ACK_RUNS),
    ("acks::ACK_RUNS_AND_FORGET", ACK_RUNS_AND_FORGET),
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
        let mut count: HashMap<JobId, u32> =
            HashMap::with_capacity_and_hasher(settlements.len(), FxBuildHasher);
        for settlement in settlements {
            *count.entry(settlement.lease.job).or_default() += 1;
        }
        let ack = |(place, (settlement, known)): (usize, (&'a Settlement, Option<Known>))| {
            let Settlement { lease, verdict: Verdict::Ack { result } } = settlement else {
                return None;
            };
            let Known { origin, run, .. } =
                known.filter(|it| it.is_plain && it.origin.queue.is_some())?;
            let ack = Ack { lease: *lease, result: result.as_deref(), origin, run };
            (count.get(&lease.job) == Some(&1)).then_some((place, ack))
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
        let (runs, jobs) =
            (Runs::of(acks, &parts.runs, deleted), Jobs::of(acks, &parts.singles, deleted));
        let (of_runs, of_jobs) = (runs.params(is_kept), jobs.params(is_kept));
        let apart: [&(dyn ToSql + Sync); 1] = [&parts.apart];
        let together: [&(dyn ToSql + Sync); 2] = [&parts.together, &(RUN_MIN as i32)];
        let calls: [(bool, Call<'_>); 4] = [
            (parts.apart.is_empty(), (TAKE_OUT, &apart)),
            (parts.together.is_empty(), (TAKE_OUT_TOGETHER, &together)),
            (parts.runs.is_empty(), (leaving_run(is_kept), &of_runs)),
            (parts.singles.is_empty(), (jobs.sql(is_kept), &of_jobs)),
        ];
        let calls: Vec<Call<'_>> =
            calls.into_iter().filter(|(is_idle, _)| !is_idle).map(|(_, call)| call).collect();
        if let [call] = calls[..] {
            let gone = ids_of(&self.settle_lane.once(call).await?);
            return Ok(parts.done(acks, &gone, &gone));
        }
        let mut tx = self.settle_lane.begin().await?;
        let answers = tx.all(&calls).await?;
        let mut answers = answers.iter();
        let mut next = |is_idle: bool| if is_idle { None } else { answers.next() };
        let apart = next(parts.apart.is_empty());
        let together = next(parts.together.is_empty());
        let gone_runs = next(parts.runs.is_empty()).map(|rows| ids_of(rows)).unwrap_or_default();
        let gone_jobs = next(parts.singles.is_empty()).map(|rows| ids_of(rows)).unwrap_or_default();
        let done = parts.done(acks, &gone_runs, &gone_jobs);
        let rows: [&(dyn ToSql + Sync); 1] = [&empty];
        let delete: [Call<'_>; 1] = [(leases::DELETE_IF_FREE, &rows)];
        let are_empty = done.len() == acks.len() && !empty.is_empty();
        tx.commit(if are_empty { &delete } else { &[] }).await?;
        for (jobs, changed) in [(&parts.apart, apart), (&parts.together, together)] {
            self.leases.taken_out(jobs, changed.map_or(&[], Vec::as_slice));
        }
        Ok(done)
    }
}

/// Acks by what they take, as places.
#[derive(Default)]
struct Parts {
    /// All jobs of runs, by job.
    runs: Vec<(InRun, Vec<usize>)>,
    /// Jobs that have rows of their own, or will have.
    singles: Vec<usize>,
    /// Jobs that are taken out of their runs, to be runs.
    together: Vec<i64>,
    /// The same, to have rows.
    apart: Vec<i64>,
    /// The buckets of those that are taken out together. From each at most what is remembered of one run:
    /// if that is out of date, what comes out must not be taken for what was asked for.
    buckets: HashSet<i64>,
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
                && ack.result.is_none_or(|result| result.len() <= RESULT_MAX)
        };
        let (count, are_alike) = (places.len(), places.iter().all(joins));
        let bucket = bucket_of(sql_id(acks[places[0]].lease.job));
        let jobs = places.iter().map(|place| sql_id(acks[*place].lease.job));
        if are_alike && i32::try_from(count) == Ok(run.count) {
            self.runs.push((run, places));
        } else if are_alike && count >= RUN_MIN && self.buckets.insert(bucket) {
            let own = InRun { id: sql_id(acks[places[0]].lease.job), count: count as i32 };
            self.together.extend(jobs);
            self.runs.push((own, places));
        } else {
            self.apart.extend(jobs);
            self.singles.extend(places);
        }
    }

    /// Whether one statement does it.
    fn is_one(&self) -> bool {
        self.apart.is_empty()
            && self.together.is_empty()
            && (self.runs.is_empty() || self.singles.is_empty())
    }

    /// The places of acks that were not passed over, by the numbers of runs and jobs.
    fn done(&self, acks: &[&Ack<'_>], runs: &HashSet<i64>, jobs: &HashSet<i64>) -> Vec<usize> {
        let of_runs = self.runs.iter().filter(|(run, _)| runs.contains(&run.id));
        let is_done = |place: &&usize| jobs.contains(&sql_id(acks[**place].lease.job));
        let of_jobs = self.singles.iter().filter(is_done);
        of_runs.flat_map(|(_, places)| places).chain(of_jobs).copied().collect()
    }
}

/// Acks of runs as columns.
struct Runs<'a> {
    deleted: &'a [LeaseId],
    count: i64,
    id: Vec<i64>,
    /// How many each of them has.
    jobs: Vec<i32>,
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
        for (_, places) in runs {
            let own = || places.iter().map(|place| acks[*place].result);
            let has_some = own().any(|result| result.is_some());
            first_result.push(has_some.then(|| result.len() as i32 + 1));
            result.extend(own().filter(|_| has_some));
        }
        Self {
            deleted,
            count: runs.len() as i64,
            id: runs.iter().map(|(run, _)| run.id).collect(),
            jobs: runs.iter().map(|(run, _)| run.count).collect(),
            giver,
            started_at: given().map(|given| given.started_at.0).collect(),
            node,
            worker,
            result,
            first_result,
        }
    }

    fn params(&self, is_kept: bool) -> Vec<&(dyn ToSql + Sync)> {
        let all: [&(dyn ToSql + Sync); 10] = [
            &self.deleted,
            &self.count,
            &self.id,
            &self.jobs,
            &self.giver,
            &self.started_at,
            &self.node,
            &self.worker,
            &self.result,
            &self.first_result,
        ];
        all[..if is_kept { 10 } else { 4 }].to_vec()
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
