//! Claims in rounds: what stands first is locked, then it is decided here who gets what, then it is
//! taken. Two round trips for any number of claims.
//!
//! This is how jobs are claimed that one statement can not decide on: those that may have grown too
//! old in line, those that are too large to be given out together, and those of queues with limits.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use tokio_postgres::Row;

use super::blocks::{blocks_among, split_blocks};
use super::claim::stands_first;
use super::cursors::Cursor;
use super::lane::{Failure, Tx};
use super::leases::{Given, Holding, LeaseId, Origin};
use super::needs::{needs, release_dependents};
use super::row::{self, count, get, job_id, now, time};
use super::settle::bury_expired;
use super::{PostgresStore, QueueId};
use crate::job::{JobId, Lease, Timestamp};
use crate::store::columns::{parse_tags, sql_id};
use crate::store::{Claim, Claimed, Effect, Hold, LeasedJob, SESSION_LEASE};

/// What stands first, up to a number for each line: by its cursors, in their order. The time comes
/// with every row, also if there is nothing else.
const LOCK: &str = concat!(
    "
    SELECT now.now, r.*
    FROM (SELECT now_ms() AS now OFFSET 0) now
    LEFT JOIN (
        SELECT q.line, h.*
        FROM unnest($1::integer[], $2::bigint[], $3::bigint[]) AS q (line, queue_id, count)
        CROSS JOIN LATERAL (
            SELECT p.*",
    stands_first!(
        "unnest($4::integer[], $5::integer[], $6::bigint[], $7::bigint[])
            AS c (line, priority, place, job_id)",
        "(place, job_id) > (c.place, c.job_id)",
        "ctid::text AS tid,",
        "q.count"
    ),
    "
    ) r ON true"
);

/// The ids of a lease come as one text for each row: arrays of arrays must be rectangular.
const TAKE: &str = "
    WITH gone AS (
        DELETE FROM ready
        WHERE ctid = ANY($1::text[]::tid[])
    ),
    leases AS (
        INSERT INTO lease (
            id, node, incarnation, worker, session, started_at, expires_at, job_ids, deliveries
        )
        SELECT
            id, $2, $3, worker, session, $4, expires_at, job_ids::bigint[], deliveries::integer[]
        FROM unnest($5::bigint[], $6::text[], $7::bigint[], $8::bigint[], $9::text[], $10::text[])
            AS u (id, worker, session, expires_at, job_ids, deliveries)
    )
    SELECT
        id, attempts, max_attempts, priority, created_at, timeout_ms, tags, content_type, payload,
        options, unique_key IS NOT NULL OR gate IS NOT NULL OR is_watched AS is_special
    FROM job
    WHERE id = ANY($11::bigint[])";

const DELETE_TTLS: &str = "
    DELETE FROM ttl
    WHERE ctid = ANY(ARRAY(
        SELECT t.ctid
        FROM unnest($1::bigint[], $2::bigint[]) AS u (expires_at, job_id)
        CROSS JOIN LATERAL (
            SELECT ctid FROM ttl WHERE expires_at = u.expires_at AND job_id = u.job_id OFFSET 0
        ) t
    ))";

const INSERT_DEADLINES: &str = "
    INSERT INTO deadline (at, job_id, delivery)
    SELECT at, job_id, delivery
    FROM unnest($1::bigint[], $2::bigint[], $3::integer[]) AS u (at, job_id, delivery)";

/// A job that stands in line, locked by us.
#[derive(Clone)]
pub(super) struct Candidate {
    pub(super) tid: String,
    pub(super) lease: Lease,
    pub(super) cursor: Cursor,
    pub(super) bytes: usize,
    pub(super) expires_at: Option<Timestamp>,
    timeout_ms: Option<i64>,
}

/// One queue's line, as far as it has been locked.
struct Line {
    queue: QueueId,
    waiting: VecDeque<Candidate>,
    /// Where to go on, and behind which of the jobs that stand there.
    cursors: Vec<(Cursor, i64)>,
    /// Up to where it has been gone through, by descending priority.
    reached: Vec<Cursor>,
    is_exhausted: bool,
}

/// What one claim has got so far.
#[derive(Default)]
pub(super) struct Share {
    pub(super) jobs: Vec<Candidate>,
    /// What stood before them and was too old.
    pub(super) expired: Vec<Candidate>,
    bytes: usize,
    has_some: bool,
    is_done: bool,
}

/// See [`super::hot_statements`].
pub(super) const HOT: &[super::Named] =
    &[("rounds::LOCK", LOCK), ("rounds::TAKE", TAKE), ("rounds::DELETE_TTLS", DELETE_TTLS)];

impl PostgresStore {
    /// Claims from queues without limits, whatever their jobs ask for. `have_some`: which of them have
    /// got jobs before, so that none is too large to wait.
    pub(super) async fn claim_in_rounds(
        &self,
        claims: &[Claim],
        queues: &[Option<QueueId>],
        have_some: &[bool],
    ) -> Result<Claimed, Failure> {
        let mut tx = self.claim_lane.begin().await?;
        let mut round = Round::new(&self.cursors, claims, queues, have_some);
        round.run(&mut tx).await?;
        let again = self.cursors.allowed(round.empty_lines().into_iter());
        if !again.is_empty() {
            self.look_in(&mut tx, &again).await?;
            round.resume(&self.cursors, &again);
            round.run(&mut tx).await?;
        }
        let lines: Vec<(QueueId, Vec<Cursor>, bool)> = round.ends();
        let Round { shares, now, .. } = round;
        let claimed = self.take(tx, claims, shares, now).await?;
        for (queue, reached, is_exhausted) in lines {
            self.cursors.end(queue, &reached, is_exhausted);
        }
        Ok(claimed)
    }

    /// Takes what was decided on, and commits.
    pub(super) async fn take(
        &self,
        mut tx: Tx<'_>,
        claims: &[Claim],
        shares: Vec<Share>,
        now: Timestamp,
    ) -> Result<Claimed, Failure> {
        // In the order of the claims, however many looks each of them took.
        let expired: Vec<&Candidate> = shares.iter().flat_map(|share| &share.expired).collect();
        let mut expired = self.bury(&mut tx, &expired, now).await?;
        let (more, opened) = release_dependents(self, &mut tx, expired.iter()).await?;
        expired.extend(more);
        let taken: Vec<&Candidate> = shares.iter().flat_map(|share| &share.jobs).collect();
        if taken.is_empty() {
            tx.commit(&[]).await?;
            self.note_all(opened);
            let jobs = vec![Vec::new(); claims.len()];
            return Ok(Claimed { jobs, expired, ..Claimed::default() });
        }
        let leases = Leases::of(claims, &shares, now);
        let tids: Vec<&str> = taken.iter().map(|job| job.tid.as_str()).collect();
        let ids: Vec<i64> = taken.iter().map(|job| sql_id(job.lease.job)).collect();
        let node = &self.node;
        let take: [&(dyn tokio_postgres::types::ToSql + Sync); 11] = [
            &tids,
            &node.id,
            &node.incarnation,
            &now.0,
            &leases.id,
            &leases.worker,
            &leases.session,
            &leases.expires_at,
            &leases.job_ids,
            &leases.deliveries,
            &ids,
        ];
        let ttls = ttls(&taken);
        let deadlines = deadlines(&taken, now);
        let rest: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
            [&ttls.0, &ttls.1, &deadlines.0, &deadlines.1, &deadlines.2];
        let mut calls = vec![(TAKE, &take[..])];
        if !ttls.0.is_empty() {
            calls.push((DELETE_TTLS, &rest[..2]));
        }
        if !deadlines.0.is_empty() {
            calls.push((INSERT_DEADLINES, &rest[2..]));
        }
        let rows = match tx.commit(&calls).await {
            Err(failure @ Failure::InDoubt(_)) => {
                self.leases.doubt(leases.id);
                return Err(failure);
            }
            done => done?,
        };
        self.note_all(opened);
        let handed_out = self.hand_out(claims, shares, &leases, &rows[0], now).await;
        // Nobody has been given them.
        let jobs = handed_out.inspect_err(|_| self.leases.doubt(leases.id.clone()))?;
        Ok(Claimed { jobs, expired, ..Claimed::default() })
    }

    async fn bury(
        &self,
        tx: &mut Tx<'_>,
        expired: &[&Candidate],
        now: Timestamp,
    ) -> Result<Vec<Effect>, Failure> {
        if expired.is_empty() {
            return Ok(Vec::new());
        }
        let tids: Vec<&str> = expired.iter().map(|job| job.tid.as_str()).collect();
        let sql = "DELETE FROM ready WHERE ctid = ANY($1::text[]::tid[])";
        tx.query(sql, &[&tids]).await?;
        let jobs: Vec<JobId> = expired.iter().map(|job| job.lease.job).collect();
        bury_expired(self, tx, &jobs, now).await
    }

    /// Puts bodies and leases together, and remembers who has what.
    async fn hand_out(
        &self,
        claims: &[Claim],
        shares: Vec<Share>,
        leases: &Leases<'_>,
        bodies: &[Row],
        now: Timestamp,
    ) -> Result<Vec<Vec<LeasedJob>>, Failure> {
        let bodies: HashMap<JobId, &Row> =
            bodies.iter().map(|row| (job_id(row, "id"), row)).collect();
        let mut rows = leases.id.iter();
        let mut all = Vec::with_capacity(shares.len());
        for (claim, share) in claims.iter().zip(shares) {
            let mut jobs = Vec::with_capacity(share.jobs.len());
            let mut held = Vec::with_capacity(share.jobs.len());
            let (lease_until, session) = hold(claim, now);
            for candidate in share.jobs {
                let missing = || Failure::NotDone("the tables are damaged: no body".into());
                let body = bodies.get(&candidate.lease.job).ok_or_else(missing)?;
                let mut job = leased_job(body, candidate.lease, lease_until)?;
                let options = &job.options;
                let has_key = get::<bool>(body, "is_special") || options.custom_id.is_some();
                let is_plain = !has_key && candidate.timeout_ms.is_none();
                held.push(Holding { lease: candidate.lease, is_plain, run: None });
                if !options.depends.on.is_empty() {
                    job.needs = needs(self, &options.depends).await?;
                }
                jobs.push(job);
            }
            if !held.is_empty() {
                let id = *rows.next().expect("one row for each claim that got something");
                let given = Given {
                    node: self.node.id.as_str().into(),
                    worker: claim.worker.clone(),
                    session,
                    started_at: now,
                };
                let queue = self.queues.known_id(&claim.queue);
                let queue = queue.map(|id| (id, claim.queue.clone()));
                let origin = Origin { given, queue };
                self.leases.insert(id, origin, &held, lease_until.since(now));
            }
            all.push(jobs);
        }
        Ok(all)
    }
}

/// When a claim's leases end, and what they hang on.
fn hold(claim: &Claim, now: Timestamp) -> (Timestamp, Option<crate::store::SessionId>) {
    match claim.hold {
        Hold::Session(session) => (now + SESSION_LEASE, Some(session)),
        Hold::Time(time) => (now + time, None),
    }
}

fn leased_job(body: &Row, lease: Lease, lease_until: Timestamp) -> Result<LeasedJob, Failure> {
    Ok(LeasedJob {
        lease,
        attempt: count(body, "attempts") + 1,
        max_attempts: count(body, "max_attempts"),
        priority: get(body, "priority"),
        created_at: Timestamp(get(body, "created_at")),
        lease_until,
        timeout: row::duration(body, "timeout_ms"),
        tags: row::parsed(body, "tags", parse_tags)?.unwrap_or_default(),
        payload: row::payload(body),
        needs: Vec::new(),
        options: row::options(body)?.into(),
    })
}

fn ttls(jobs: &[&Candidate]) -> (Vec<i64>, Vec<i64>) {
    let mortal = jobs.iter().filter_map(|job| Some((job.expires_at?.0, sql_id(job.lease.job))));
    mortal.unzip()
}

fn deadlines(jobs: &[&Candidate], now: Timestamp) -> (Vec<i64>, Vec<i64>, Vec<i32>) {
    let mut columns = (Vec::new(), Vec::new(), Vec::new());
    for job in jobs {
        let Some(timeout) = job.timeout_ms else { continue };
        columns.0.push(now.0.saturating_add(timeout));
        columns.1.push(sql_id(job.lease.job));
        columns.2.push(job.lease.delivery.cast_signed());
    }
    columns
}

/// Rows of `lease` as columns, one for each claim that got something.
#[derive(Default)]
struct Leases<'a> {
    id: Vec<LeaseId>,
    worker: Vec<&'a str>,
    session: Vec<Option<i64>>,
    expires_at: Vec<i64>,
    job_ids: Vec<String>,
    deliveries: Vec<String>,
}

impl<'a> Leases<'a> {
    fn of(claims: &'a [Claim], shares: &[Share], now: Timestamp) -> Self {
        let mut leases = Self::default();
        for (claim, share) in claims.iter().zip(shares) {
            if share.jobs.is_empty() {
                continue;
            }
            let (lease_until, session) = hold(claim, now);
            leases.id.push(super::leases::new_id());
            leases.worker.push(claim.worker.as_str());
            leases.session.push(session.map(|session| session.0.cast_signed()));
            leases.expires_at.push(lease_until.0);
            leases.job_ids.push(array(share.jobs.iter().map(|job| job.lease.job.0)));
            leases.deliveries.push(array(share.jobs.iter().map(|job| job.lease.delivery.into())));
        }
        leases
    }
}

/// Numbers as Postgres writes an array.
fn array(numbers: impl Iterator<Item = u64>) -> String {
    let mut text = String::from("{");
    for (place, number) in numbers.enumerate() {
        if place > 0 {
            text.push(',');
        }
        text.push_str(&number.to_string());
    }
    text.push('}');
    text
}

/// Who gets what.
struct Round<'a> {
    claims: &'a [Claim],
    /// The line of each claim; `None`: nobody has pushed to its queue yet.
    line_of: Vec<Option<usize>>,
    lines: Vec<Line>,
    shares: Vec<Share>,
    /// What is locked already: a second look may find it again.
    locked: HashSet<JobId>,
    now: Timestamp,
}

impl<'a> Round<'a> {
    fn new(
        cursors: &super::cursors::Cursors,
        claims: &'a [Claim],
        queues: &[Option<QueueId>],
        have_some: &[bool],
    ) -> Self {
        let mut lines: Vec<Line> = Vec::new();
        let mut by_queue: HashMap<QueueId, usize> = HashMap::new();
        let mut line_of = Vec::with_capacity(queues.len());
        for queue in queues {
            let line = queue.map(|queue| {
                *by_queue.entry(queue).or_insert_with(|| {
                    let cursors = from(cursors.begin(queue));
                    let is_exhausted = cursors.is_empty();
                    let (waiting, reached) = (VecDeque::new(), Vec::new());
                    lines.push(Line { queue, waiting, cursors, reached, is_exhausted });
                    lines.len() - 1
                })
            });
            line_of.push(line);
        }
        let share = |has_some: &bool| Share { has_some: *has_some, ..Share::default() };
        let shares = have_some.iter().map(share).collect();
        let locked = HashSet::new();
        Self { claims, line_of, lines, shares, locked, now: Timestamp(0) }
    }

    /// Locks and shares out until every claim has what it wants or its line has no more.
    async fn run(&mut self, tx: &mut Tx<'_>) -> Result<(), Failure> {
        loop {
            let wanted = self.wanted();
            if wanted.is_empty() {
                return Ok(());
            }
            self.lock(tx, &wanted).await?;
            self.share_out();
        }
    }

    /// How many jobs are to be locked more, by line.
    fn wanted(&self) -> Vec<(usize, i64)> {
        let mut wanted = vec![0; self.lines.len()];
        for ((claim, share), line) in self.claims.iter().zip(&self.shares).zip(&self.line_of) {
            if let Some(line) = line
                && !share.is_done
            {
                wanted[*line] += claim.count - share.jobs.len();
            }
        }
        let left = wanted.into_iter().enumerate().zip(&self.lines);
        left.filter(|((_, wanted), line)| *wanted > 0 && !line.is_exhausted)
            .map(|((place, wanted), _)| (place, i64::try_from(wanted).unwrap_or(i64::MAX)))
            .collect()
    }

    async fn lock(&mut self, tx: &mut Tx<'_>, wanted: &[(usize, i64)]) -> Result<(), Failure> {
        let mut q = (Vec::new(), Vec::new(), Vec::new());
        let mut c = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (place, count) in wanted {
            let number = i32::try_from(*place).unwrap_or(i32::MAX);
            q.0.push(number);
            q.1.push(self.lines[*place].queue);
            q.2.push(*count);
            for (cursor, job) in &self.lines[*place].cursors {
                c.0.push(number);
                c.1.push(cursor.priority);
                c.2.push(cursor.after);
                c.3.push(*job);
            }
        }
        let rows = loop {
            let rows = tx.query(LOCK, &[&q.0, &q.1, &q.2, &c.0, &c.1, &c.2, &c.3]).await?;
            let blocks = Self::blocks(&rows, wanted);
            if blocks.is_empty() {
                break rows;
            }
            split_blocks(tx, blocks).await?;
        };
        let mut found = vec![0_i64; self.lines.len()];
        for row in &rows {
            self.now = now(row);
            let Some(line) = get::<Option<i32>>(row, "line") else { continue };
            let place = usize::try_from(line).unwrap_or(0);
            found[place] += 1;
            self.lines[place].add(candidate(row), &mut self.locked);
        }
        for (place, count) in wanted {
            self.lines[*place].is_exhausted = found[*place] < *count;
        }
        Ok(())
    }

    /// The blocks among what stands first, as far as their jobs are wanted.
    fn blocks(rows: &[Row], wanted: &[(usize, i64)]) -> BTreeSet<i64> {
        let mut blocks = BTreeSet::new();
        for (place, wanted) in wanted {
            let is_own = |row: &&Row| {
                get::<Option<i32>>(row, "line")
                    .is_some_and(|line| usize::try_from(line) == Ok(*place))
            };
            blocks.extend(blocks_among(rows.iter().filter(is_own), *wanted));
        }
        blocks
    }

    fn share_out(&mut self) {
        for ((claim, share), line) in self.claims.iter().zip(&mut self.shares).zip(&self.line_of) {
            let Some(line) = line else { continue };
            let line = &mut self.lines[*line];
            while !share.is_done
                && let Some(job) = line.waiting.front()
            {
                if job.expires_at.is_some_and(|at| at <= self.now) {
                    share.expired.extend(line.waiting.pop_front());
                    continue;
                }
                if share.bytes + job.bytes > claim.bytes_max && share.has_some {
                    share.is_done = true;
                    continue;
                }
                share.bytes += job.bytes;
                share.has_some = true;
                share.jobs.extend(line.waiting.pop_front());
                share.is_done = share.jobs.len() >= claim.count;
            }
        }
    }

    /// Queues whose claims came away with nothing.
    fn empty_lines(&self) -> Vec<QueueId> {
        let is_short = |place: usize| {
            self.shares
                .iter()
                .zip(&self.line_of)
                .any(|(share, line)| *line == Some(place) && share.jobs.is_empty())
        };
        let lines = self.lines.iter().enumerate();
        lines
            .filter(|(place, line)| line.is_exhausted && is_short(*place))
            .map(|(_, line)| line.queue)
            .collect()
    }

    /// Goes on with what a look has found.
    fn resume(&mut self, cursors: &super::cursors::Cursors, looks: &super::cursors::Looks) {
        for line in self.lines.iter_mut().filter(|line| looks.has(line.queue)) {
            line.cursors = from(cursors.begin(line.queue));
            line.reached.clear();
            line.is_exhausted = line.cursors.is_empty();
        }
    }

    /// Where each line was left. What was locked and not taken will be found from there.
    fn ends(&self) -> Vec<(QueueId, Vec<Cursor>, bool)> {
        let end = |line: &Line| {
            let mut reached = line.reached.clone();
            if let Some(left) = line.waiting.front() {
                reached.retain(|cursor| cursor.priority >= left.cursor.priority);
                if let Some(last) = reached.last_mut()
                    && last.priority == left.cursor.priority
                {
                    last.after = last.after.min(left.cursor.after - 1);
                }
            }
            (line.queue, reached, line.is_exhausted && line.waiting.is_empty())
        };
        self.lines.iter().map(end).collect()
    }
}

/// Behind all that stands at these places.
fn from(cursors: Vec<Cursor>) -> Vec<(Cursor, i64)> {
    cursors.into_iter().map(|cursor| (cursor, i64::MAX)).collect()
}

impl Line {
    fn add(&mut self, job: Candidate, locked: &mut HashSet<JobId>) {
        let at = job.cursor;
        let number = sql_id(job.lease.job);
        for (cursor, behind) in &mut self.cursors {
            if cursor.priority == at.priority {
                (cursor.after, *behind) = (at.after, number);
            }
        }
        // What stands before it has been gone through.
        self.cursors.retain(|(cursor, _)| cursor.priority <= at.priority);
        // Others may come to stand at a place that is not the job's number.
        let after = if at.after == number { at.after } else { at.after - 1 };
        match self.reached.last_mut() {
            Some(last) if last.priority == at.priority => last.after = after,
            _ => self.reached.push(Cursor { after, ..at }),
        }
        if locked.insert(job.lease.job) {
            self.waiting.push_back(job);
        }
    }
}

pub(super) fn candidate(row: &Row) -> Candidate {
    Candidate {
        tid: get(row, "tid"),
        lease: Lease { job: job_id(row, "job_id"), delivery: count(row, "delivery") },
        cursor: Cursor { priority: get(row, "priority"), after: get(row, "place") },
        bytes: usize::try_from(get::<i32>(row, "bytes")).unwrap_or(0),
        expires_at: time(row, "expires_at"),
        timeout_ms: get(row, "timeout_ms"),
    }
}
