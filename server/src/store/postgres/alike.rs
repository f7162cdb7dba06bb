//! Jobs of one push that are alike, as columns of its statement.
//!
//! Jobs of one *kind* differ in their payloads only. Each kind is a row of the line, a
//! [block](super::blocks) if it has several jobs, or goes to one claim, or is due at one time. Where jobs
//! of several kinds stand in one line, a kind ends where another one begins, so that the jobs of a push
//! stand in its order.

use std::collections::{HashMap, HashSet};

use bytes::BytesMut;
use tokio_postgres::Row;
use tokio_postgres::types::{self, IsNull, ToSql, Type, to_sql_checked};

use super::blocks::{BLOCK_MAX, PAYLOAD_MAX};
use super::claim::hold;
use super::leases::{LeaseId, new_id};
use super::live_runs::{InRun, LINE_RUN_MIN, RUN_MIN, bucket_of};
use super::row::get;
use super::{PostgresStore, QueueId};
use crate::job::{JobId, NewJob, QueueName, State, Timestamp, When};
use crate::store::columns::{sql_backoff, sql_millis, sql_when};
use crate::store::{Offer, Pushed};

/// With so many kinds a job is compared; what is the same as an older one counts as a kind of its
/// own.
const KINDS_COMPARED: usize = 100;

/// The payloads of a kind: `payload_list` in SQL.
#[derive(Debug)]
struct Payloads<'a>(Vec<&'a [u8]>);

impl ToSql for Payloads<'_> {
    fn to_sql(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match ty.kind() {
            types::Kind::Domain(list) => self.0.to_sql(list, out),
            _ => Err("a payload_list is a domain".into()),
        }
    }

    fn accepts(ty: &Type) -> bool {
        matches!(ty.kind(), types::Kind::Domain(list) if <Vec<&[u8]>>::accepts(list))
    }

    to_sql_checked!();
}

/// Kinds as columns: the parameters of a push.
pub(super) struct Alike<'a> {
    /// The places of the jobs in the push, by kind.
    pub(super) order: Vec<usize>,
    /// How many they are.
    count: i32,
    payloads: Vec<Payloads<'a>>,
    pub(super) queue: Vec<QueueId>,
    priority: Vec<i32>,
    max_attempts: Vec<i32>,
    timeout: Vec<Option<i64>>,
    backoff: Vec<Option<String>>,
    content_type: Vec<Option<&'a str>>,
    /// The first and the last job of each kind, from 1 on.
    first: Vec<i32>,
    last: Vec<i32>,
    bytes: Vec<i32>,
    /// Whether each kind may be a run: see [`live_runs`](super::live_runs).
    is_run: Vec<bool>,
    delay: Vec<Option<i64>>,
    at: Vec<Option<i64>>,
    pub(super) is_offered: Vec<bool>,
}

/// What a push has stored, in the order of its statement.
pub(super) struct Stored {
    /// Of each job.
    pub(super) ids: Vec<i64>,
    /// Of each kind: when it is due, if it is not ready. Empty: all are.
    run_at: Vec<Option<i64>>,
    /// Kinds that may be runs are.
    is_packed: bool,
}

impl Stored {
    pub(super) fn of(row: &Row) -> Self {
        let run_at: Option<Vec<Option<i64>>> = get(row, "run_at");
        let (ids, is_packed) = (get(row, "ids"), get(row, "is_packed"));
        Self { ids, run_at: run_at.unwrap_or_default(), is_packed }
    }

    fn run_at(&self, kind: usize) -> Option<Timestamp> {
        self.run_at.get(kind).copied().flatten().map(Timestamp)
    }
}

impl<'a> Alike<'a> {
    /// `owners`: see [`Offer`]; those that nobody gets stand in line. Empty: all do. In queues with
    /// limits each stands alone: it is decided on alone.
    pub(super) fn of(
        jobs: &'a [NewJob],
        queues: &HashMap<QueueName, QueueId>,
        owners: &[Option<usize>],
        gated: &HashSet<QueueId>,
    ) -> Self {
        let owner = |place: usize| owners.get(place).copied().flatten();
        let may_join = |job: &NewJob| {
            job.payload.bytes.len() <= PAYLOAD_MAX
                && (gated.is_empty() || !gated.contains(&queues[&job.queue]))
        };
        let Kinds { kinds: all, of_job } = Kinds::of(jobs, owner, may_join);
        let mut order: Vec<usize> = (0..jobs.len()).collect();
        order.sort_by_key(|place| of_job[*place]);
        let last = all.iter().scan(0, |before, kind| {
            *before += kind.count;
            Some(*before)
        });
        let last: Vec<i32> = last.map(sql_count).collect();
        let first = last.iter().zip(&all).map(|(last, kind)| last - sql_count(kind.count) + 1);
        let jobs_of = || all.iter().map(|kind| kind.first);
        let (delay, at) = jobs_of().map(|job| sql_when(job.when)).unzip();
        let mut places = order.iter();
        let payloads = all.iter().map(|kind| {
            let places = places.by_ref().take(kind.count);
            Payloads(places.map(|place| &jobs[*place].payload.bytes[..]).collect())
        });
        let payloads = payloads.collect();
        Self {
            delay,
            at,
            count: sql_count(jobs.len()),
            payloads,
            queue: jobs_of().map(|job| queues[&job.queue]).collect(),
            priority: jobs_of().map(|job| job.priority).collect(),
            max_attempts: jobs_of().map(|job| job.max_attempts.cast_signed()).collect(),
            timeout: jobs_of().map(|job| job.timeout.map(sql_millis)).collect(),
            backoff: jobs_of().map(|job| job.backoff.as_ref().map(sql_backoff)).collect(),
            content_type: jobs_of().map(|job| job.payload.content_type.as_deref()).collect(),
            first: first.collect(),
            bytes: all.iter().map(|kind| sql_count(kind.bytes)).collect(),
            is_run: all.iter().map(Kind::is_run).collect(),
            is_offered: all.iter().map(|kind| kind.owner.is_some()).collect(),
            last,
            order,
        }
    }

    /// They are stored, durably: the kinds that `stands` tells of are in line if they are not delayed;
    /// the others have been handed over.
    pub(super) fn note(
        &self,
        store: &PostgresStore,
        stored: &Stored,
        stands: impl Fn(usize) -> bool,
    ) {
        for kind in 0..self.queue.len() {
            let (queue, priority) = (self.queue[kind], self.priority[kind]);
            let (first, last) = (count_of(self.first[kind]), count_of(self.last[kind]));
            match (stored.run_at(kind), stands(kind)) {
                (Some(at), _) => store.outbox.due(at),
                (None, true) => {
                    store.note_several(queue, priority, stored.ids[first - 1], last - first + 1);
                }
                (None, false) => store.cursors.pass(queue, priority, stored.ids[last - 1]),
            }
        }
    }

    /// The runs that the jobs are in, in the order of the kinds.
    pub(super) fn runs(&self, stored: &Stored) -> Vec<Option<InRun>> {
        let mut runs = vec![None; stored.ids.len()];
        let kinds = self.first.iter().zip(&self.last).zip(&self.is_run);
        for ((first, last), _) in kinds.filter(|(_, is_run)| **is_run && stored.is_packed) {
            let mut from = count_of(*first) - 1;
            let ids = &stored.ids[from..count_of(*last)];
            for run in ids.chunk_by(|one, other| bucket_of(*one) == bucket_of(*other)) {
                let to = from + run.len();
                let run = InRun { id: run[0], count: sql_count(run.len()), delivery: 1 };
                runs[from..to].fill(Some(run));
                from = to;
            }
        }
        runs
    }

    /// What became of the jobs, in their own order.
    pub(super) fn pushed(&self, stored: &Stored) -> Vec<Pushed> {
        let mut pushed = vec![None; self.order.len()];
        let mut jobs = self.order.iter().zip(&stored.ids);
        for (kind, Payloads(payloads)) in self.payloads.iter().enumerate() {
            let run_at = stored.run_at(kind);
            let state = if run_at.is_some() { State::Scheduled } else { State::Ready };
            for (place, id) in jobs.by_ref().take(payloads.len()) {
                let id = JobId(id.cast_unsigned());
                pushed[*place] = Some(Pushed::Inserted { id, state, run_at });
            }
        }
        pushed.into_iter().flatten().collect()
    }

    /// Whether some may not be ready at once.
    pub(super) fn has_delays(&self) -> bool {
        self.delay.iter().chain(&self.at).any(Option::is_some)
    }

    /// With those of the statement between them.
    pub(super) fn params<'b>(
        &'b self,
        between: &[&'b (dyn ToSql + Sync)],
    ) -> Vec<&'b (dyn ToSql + Sync)> {
        let first: [&(dyn ToSql + Sync); 12] = [
            &self.count,
            &self.payloads,
            &self.queue,
            &self.priority,
            &self.max_attempts,
            &self.timeout,
            &self.backoff,
            &self.content_type,
            &self.first,
            &self.last,
            &self.bytes,
            &self.is_run,
        ];
        let times: [&(dyn ToSql + Sync); 2] = [&self.delay, &self.at];
        let times = if self.has_delays() { &times[..] } else { &[] };
        [&first[..], between, times].concat()
    }
}

/// Jobs that differ in their payloads only and stand side by side, or go to the same claim.
struct Kind<'a> {
    first: &'a NewJob,
    owner: Option<usize>,
    count: usize,
    bytes: usize,
}

#[derive(Default)]
struct Kinds<'a> {
    /// By claim; those that nobody gets come last, in the order of their lines.
    kinds: Vec<Kind<'a>>,
    /// By the place of the job.
    of_job: Vec<usize>,
}

impl<'a> Kinds<'a> {
    /// `may_join`: whether a job may stand in a block.
    fn of(
        jobs: &'a [NewJob],
        owner: impl Fn(usize) -> Option<usize>,
        may_join: impl Fn(&NewJob) -> bool,
    ) -> Self {
        let mut all = Self::default();
        let mut number = 0;
        for (place, job) in jobs.iter().enumerate() {
            let owner = owner(place);
            // Mostly it is as the one before, or as one of a few.
            if !all.kinds.get(number).is_some_and(|kind| kind.is_line(job, owner)) {
                let mut known = (0..all.kinds.len()).rev().take(KINDS_COMPARED);
                let line = known.find(|kind| all.kinds[*kind].is_line(job, owner));
                number = line.unwrap_or(all.kinds.len());
            }
            let joins = |kind: &Kind<'_>| kind.takes(job) && may_join(kind.first) && may_join(job);
            if !all.kinds.get(number).is_some_and(joins) {
                number = all.kinds.len();
                all.kinds.push(Kind { first: job, owner, count: 0, bytes: 0 });
            }
            all.kinds[number].count += 1;
            all.kinds[number].bytes += job.payload.bytes.len();
            all.of_job.push(number);
        }
        all.by_owner()
    }

    fn by_owner(self) -> Self {
        let mut kinds: Vec<(usize, Kind<'a>)> = self.kinds.into_iter().enumerate().collect();
        kinds.sort_by_key(|(_, kind)| kind.owner.unwrap_or(usize::MAX));
        let mut rank = vec![0; kinds.len()];
        for (place, (number, _)) in kinds.iter().enumerate() {
            rank[*number] = place;
        }
        Self {
            kinds: kinds.into_iter().map(|(_, kind)| kind).collect(),
            of_job: self.of_job.into_iter().map(|kind| rank[kind]).collect(),
        }
    }
}

impl Kind<'_> {
    /// Whether a job stands in the same line, or will, or goes to the same claim.
    fn is_line(&self, job: &NewJob, owner: Option<usize>) -> bool {
        self.owner == owner
            && self.first.queue == job.queue
            && self.first.priority == job.priority
            && is_delayed(self.first) == is_delayed(job)
    }

    /// Whether its jobs may be one row as long as nothing becomes of them but what most become. Those that
    /// go to one claim mostly come back together, and those that wait for one time become ready together.
    fn is_run(&self) -> bool {
        let is_together = self.owner.is_some() || is_delayed(self.first);
        let least = if is_together { RUN_MIN } else { LINE_RUN_MIN };
        self.count >= least && self.first.timeout.is_none()
    }

    /// Whether a job of the line is of this kind, and there is room for it.
    fn takes(&self, job: &NewJob) -> bool {
        self.count < BLOCK_MAX
            && self.first.max_attempts == job.max_attempts
            && self.first.when == job.when
            && self.first.timeout == job.timeout
            && self.first.backoff == job.backoff
            && self.first.payload.content_type == job.payload.content_type
    }
}

/// Rows of `lease` as columns, one for each claim.
pub(super) struct Leases<'a> {
    pub(super) id: Vec<LeaseId>,
    pub(super) worker: Vec<&'a str>,
    pub(super) session: Vec<Option<i64>>,
    pub(super) lasts: Vec<i64>,
    pub(super) first: Vec<i32>,
    pub(super) last: Vec<i32>,
    pub(super) queue: Vec<QueueId>,
}

impl<'a> Leases<'a> {
    pub(super) fn of(
        to: &'a Offer,
        alike: &Alike<'_>,
        queues: &HashMap<QueueName, QueueId>,
    ) -> Self {
        let claims = || to.claims.iter();
        let (mut first, mut last) = (vec![1; to.claims.len()], vec![0; to.claims.len()]);
        for (number, place) in (1..).zip(&alike.order) {
            if let Some(owner) = to.owners[*place] {
                if last[owner] == 0 {
                    first[owner] = number;
                }
                last[owner] = number;
            }
        }
        Self {
            id: claims().map(|_| new_id()).collect(),
            worker: claims().map(|claim| claim.worker.as_str()).collect(),
            session: claims().map(|claim| Some(hold(claim).1?.0.cast_signed())).collect(),
            lasts: claims().map(|claim| sql_millis(hold(claim).0)).collect(),
            queue: claims().map(|claim| queues[&claim.queue]).collect(),
            first,
            last,
        }
    }
}

/// It will not be ready at once, by whatever clock.
fn is_delayed(job: &NewJob) -> bool {
    matches!(job.when, When::After(delay) if sql_millis(delay) > 0)
}

fn count_of(number: i32) -> usize {
    usize::try_from(number).unwrap_or(0)
}

/// A number of jobs as a parameter.
pub(super) fn sql_count(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::job::Payload;

    fn job(queue: &str, priority: i32, max_attempts: u32) -> NewJob {
        let payload = Payload::new(Bytes::from_static(b"1")).unwrap();
        let queue = QueueName::parse(queue).unwrap();
        NewJob { priority, max_attempts, ..NewJob::new(queue, payload) }
    }

    /// The places of the jobs of each row, in the order of the rows.
    fn rows(jobs: &[NewJob], owners: &[Option<usize>], gated: &[QueueId]) -> Vec<Vec<usize>> {
        let queues = [("a", 1), ("b", 2)];
        let queues = queues.map(|(name, id)| (QueueName::parse(name).unwrap(), id)).into();
        let gated = gated.iter().copied().collect();
        let alike = Alike::of(jobs, &queues, owners, &gated);
        let row = |(first, last): (&i32, &i32)| {
            alike.order[first.cast_unsigned() as usize - 1..last.cast_unsigned() as usize].to_vec()
        };
        alike.first.iter().zip(&alike.last).map(row).collect()
    }

    #[test]
    fn jobs_that_are_alike_stand_in_one_row() {
        assert_eq!(rows(&vec![job("a", 0, 1); 3], &[], &[]), [[0, 1, 2]]);
        let full = rows(&vec![job("a", 0, 1); BLOCK_MAX + 1], &[], &[]);
        assert_eq!(full.iter().map(Vec::len).collect::<Vec<_>>(), [BLOCK_MAX, 1]);
    }

    #[test]
    fn those_of_other_lines_may_come_between_them_and_those_of_their_own_may_not() {
        let (own, other) = (job("a", 0, 1), job("a", 0, 2));
        let between = [own.clone(), job("b", 0, 1), job("a", 1, 1), own.clone()];
        assert_eq!(rows(&between, &[], &[]), [vec![0, 3], vec![1], vec![2]]);
        let between = [own.clone(), own.clone(), other, own];
        assert_eq!(rows(&between, &[], &[]), [vec![0, 1], vec![2], vec![3]]);
    }

    #[test]
    fn delayed_ones_stand_in_no_line_and_those_that_are_due_together_are_of_one_kind() {
        let delayed = |seconds| {
            let when = When::After(Duration::from_secs(seconds));
            NewJob { when, ..job("a", 0, 1) }
        };
        let own = || job("a", 0, 1);
        let jobs = [own(), delayed(1), own(), delayed(1), delayed(2), own(), delayed(1)];
        assert_eq!(rows(&jobs, &[], &[]), [vec![0, 2, 5], vec![1, 3], vec![4], vec![6]]);
        let past = NewJob { when: When::At(Timestamp(1)), ..own() };
        let jobs = [own(), past, own(), NewJob { when: When::After(Duration::ZERO), ..own() }];
        assert_eq!(rows(&jobs, &[], &[]), [[0], [1], [2], [3]], "these may be ready");
    }

    #[test]
    fn large_ones_and_those_of_queues_with_limits_stand_alone() {
        let large = Payload::new(Bytes::from(vec![b'1'; PAYLOAD_MAX + 1])).unwrap();
        let large = NewJob { payload: large, ..job("a", 0, 1) };
        let jobs = [job("a", 0, 1), large.clone(), large, job("b", 0, 1), job("b", 0, 1)];
        assert_eq!(rows(&jobs, &[], &[2]), [[0], [1], [2], [3], [4]]);
    }

    #[test]
    fn what_goes_to_claims_comes_first_by_claim() {
        let owners = [None, Some(1), Some(0), Some(1), None];
        let jobs = vec![job("a", 0, 1); 5];
        assert_eq!(rows(&jobs, &owners, &[]), [vec![2], vec![1, 3], vec![0, 4]]);
    }
}
