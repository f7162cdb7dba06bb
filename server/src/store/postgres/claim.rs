//! Leasing ready jobs.
//!
//! One statement for many claims: it takes what stands first in each line, passing over what others
//! have locked, writes one row for each lease and brings the bodies. Who gets what depends only on
//! how many there are, how many each asks for and with how many it is content, so that it can be said
//! beforehand. Where it depends on more, the jobs are claimed in [rounds](super::rounds).
//!
//! Jobs that are in one run come as one row of the answer. Large blocks are not divided between
//! claims where that can be avoided, so that runs are acked as wholes; where they are divided into small
//! parts, they are unpacked.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::alike::sql_count;
use super::cursors::{Cursor, Cursors};
use super::lane::Failure;
use super::leases::{Given, Holding, LeaseId, Origin, new_id};
use super::live_runs::{InRun, UNPACK_PLACES};
use super::needs::needs;
use super::row::at;
use super::{PostgresStore, QueueId, retrying};
use crate::job::{JobId, Lease, Payload, SparseOptions, Timestamp};
use crate::store::columns::{parse_options, parse_tags, sql_id, sql_millis};
use crate::store::{Claim, Claimed, Hold, LeasedJob, SESSION_LEASE, SessionId};

/// The rest of a query that is begun for each line `q`: the rows `p` of it that stand first, behind its
/// cursors, each with its `$tid`; passed over is what others have locked, and queues that give out nothing.
macro_rules! stands_first {
    ($cursors:literal, $behind:literal, $tid:literal, $rows:literal) => {
        concat!(
            "
            FROM ",
            $cursors,
            "
            CROSS JOIN LATERAL (
                SELECT
                    ",
            $tid,
            " job_id, block, count, priority, place, delivery, bytes, expires_at, timeout_ms
                FROM ready
                WHERE queue_id = q.queue_id AND gate = '' AND priority = c.priority
                AND ",
            $behind,
            "
                ORDER BY place, job_id
                LIMIT ",
            $rows,
            "
                FOR UPDATE SKIP LOCKED
            ) p
            WHERE c.line = q.line
            LIMIT ",
            $rows,
            "
        ) h
        WHERE (
            SELECT true FROM queue
            WHERE id = q.queue_id AND paused_at IS NULL AND NOT is_gated
            LIMIT 1
        )"
        )
    };
}
pub(super) use stands_first;

/// What stands first in each line goes to its claims, in their order, as far as it reaches: line
/// `l` gives out `count` jobs at most, of the first `rows` rows. The claims are laid end to end, claim
/// number n up to `ends[n]`, and `share_out` says behind how many jobs each row begins: those that are
/// content with less may get less, so that large blocks are not divided. Of the last block it may be a part;
/// the others stand on.
///
/// If there is more to it than that (a job that may have grown too old in line, or more bytes than
/// one answer holds) nothing is taken, and the only row says so.
///
/// The jobs of a block are in runs that have its number, or have rows that are read along the index, from
/// the first number to the last: they have the block's number, and no others in between. What is taken of
/// a run is one row of the answer. A block may have been cut since the statement began to look: what is
/// locked is its latest version then, which is not to be found by where it is stored, but by its number.
/// Its place may be behind those that come next then, so that the cursor goes to its number. A place that
/// is no job's number may be shared by others that stand there one by one: the cursor stays before it.
const CLAIM: &str = concat!(
    "
    WITH clock AS MATERIALIZED (SELECT now_ms() AS now),
    found AS MATERIALIZED (
        SELECT q.base, q.count AS wanted, h.*
        FROM unnest($2::integer[], $3::bigint[], $4::integer[], $5::integer[], $16::bigint[])
            AS q (line, queue_id, base, count, rows)
        CROSS JOIN LATERAL (
            SELECT p.*, sum(p.count) OVER (ROWS UNBOUNDED PRECEDING) - p.count AS before",
    stands_first!(
        "unnest($6::integer[], $7::integer[], $8::bigint[]) AS c (line, priority, place)",
        "place > c.place",
        "ctid AS tid, job_ids,",
        "q.rows"
    ),
    "
    ),
    shared AS MATERIALIZED (
        SELECT share_out(array_agg(count), array_agg(base), $1::integer[], $17::integer[]) AS starts
        FROM found
        HAVING max(count) >= 64
    ),
    line AS MATERIALIZED (
        SELECT
            *, least(count, base + wanted - start) AS taken,
            start + count <= base + wanted AS is_whole, start > base + before AS is_spared
        FROM (
            SELECT
                *,
                coalesce(
                    (SELECT starts FROM shared)[row_number() OVER ()], (base + before)::integer
                ) AS start,
                CASE WHEN lead(base) OVER () = base THEN lead(priority) OVER () END
                    AS next_priority,
                CASE WHEN lead(base) OVER () = base THEN lead(place) OVER () END AS next_place
            FROM found
        ) f
        WHERE start < base + wanted
    ),
    parts AS MATERIALIZED (
        SELECT
            *,
            coalesce(
                job_ids[greatest(coalesce(($1::integer[])[owner], 0) - start, 0) + 1], job_id
            ) AS first_id,
            coalesce(
                job_ids[least(($1::integer[])[owner + 1] - start, taken)], job_id
            ) AS last_id
        FROM (
            SELECT
                *,
                generate_series(
                    width_bucket(start, $1::integer[]),
                    width_bucket(start + taken - 1, $1::integer[])
                ) AS owner
            FROM line
        ) l
    ),
    jobs AS MATERIALIZED (
        SELECT
            p.owner, j.id, p.delivery, p.priority, p.place, p.job_id AS first, p.block, p.count,
            p.is_whole, p.is_spared, p.next_priority, p.next_place, p.timeout_ms, j.attempts,
            j.max_attempts, j.created_at, j.tags, j.content_type, j.payload, j.options, j.is_special,
            j.run, j.run_count, j.ids, j.payloads
        FROM parts p
        CROSS JOIN LATERAL (
            SELECT
                id, attempts, max_attempts, created_at, tags, content_type, payload, options,
                unique_key IS NOT NULL OR gate IS NOT NULL OR is_watched AS is_special,
                NULL::bigint AS run, NULL::integer AS run_count, NULL::bigint[] AS ids,
                NULL::bytea[] AS payloads
            FROM job
            WHERE id BETWEEN p.first_id AND p.last_id AND place = coalesce(p.block, p.place)
            UNION ALL
            SELECT
                r.ids[w.low], r.attempts, r.max_attempts, r.created_at, NULL, r.content_type, NULL,
                NULL, false, r.id, r.count, r.ids[w.low:w.high], r.payloads[w.low:w.high]
            FROM run r
            CROSS JOIN LATERAL (
                SELECT
                    width_bucket(p.first_id - 1, r.ids) + 1 AS low,
                    width_bucket(p.last_id, r.ids) AS high
                OFFSET 0
            ) w
            WHERE r.place = p.block AND coalesce(r.finished_at, 0) = 0 AND r.run_at IS NULL
            AND w.low <= w.high
            ORDER BY id
        ) j
    ),
    total AS MATERIALIZED (
        SELECT
            count(expires_at) = 0 AND coalesce(sum(bytes), 0) <= $9
            AND coalesce(sum(taken), 0)
                = (SELECT coalesce(sum(coalesce(cardinality(ids), 1)), 0) FROM jobs)
            AS is_plain
        FROM line
    ),
    gone AS (
        DELETE FROM ready
        WHERE ctid = ANY(ARRAY(
            SELECT tid FROM line WHERE block IS NULL AND (SELECT is_plain FROM total)
        ))
    ),
    gone_blocks AS (
        DELETE FROM ready
        WHERE block = ANY(ARRAY(
            SELECT block FROM line
            WHERE block IS NOT NULL AND is_whole AND (SELECT is_plain FROM total)
        ))
    ),
    cut AS (
        UPDATE ready
        SET place = CASE
                WHEN ready.place = ready.job_id THEN ready.job_ids[l.taken + 1]
                ELSE ready.place
            END,
            job_id = ready.job_ids[l.taken + 1],
            job_ids = ready.job_ids[l.taken + 1:],
            count = ready.count - l.taken,
            bytes = ready.bytes - ready.bytes::bigint * l.taken / ready.count
        FROM line l
        -- Twice, so that the planner goes by the index whatever it believes of the table.
        WHERE ready.block = l.block AND ready.block = ANY(ARRAY(
            SELECT block FROM line WHERE NOT is_whole AND (SELECT is_plain FROM total)
        ))
    ),
    leases AS (
        INSERT INTO lease (
            id, node, incarnation, worker, session, started_at, expires_at, job_ids, deliveries
        )
        SELECT
            ($10::bigint[])[owner + 1], $11, $12, ($13::text[])[owner + 1], ($14::bigint[])[owner + 1],
            (SELECT now FROM clock), (SELECT now FROM clock) + ($15::bigint[])[owner + 1],
            array_agg(id), array_agg(delivery)
        FROM (
            SELECT owner, unnest(coalesce(ids, ARRAY[id])) AS id, delivery
            FROM jobs
            WHERE (SELECT is_plain FROM total)
        ) u
        GROUP BY owner
    ),
    deadlines AS (
        INSERT INTO deadline (at, job_id, delivery)
        SELECT (SELECT now FROM clock) + timeout_ms, id, delivery
        FROM jobs
        WHERE timeout_ms IS NOT NULL AND (SELECT is_plain FROM total)
    )
    SELECT total.is_plain, (SELECT now FROM clock), jobs.*
    FROM total
    LEFT JOIN jobs ON total.is_plain"
);

/// A block is divided into so many parts at most before its jobs have rows of their own.
const PARTS_MAX: usize = 8;

/// Jobs that one statement gives out: more at once is not faster.
const CLAIMED_MAX: usize = 2000;

/// See [`super::hot_statements`].
pub(super) const HOT: &[super::Named] = &[("claim::CLAIM", CLAIM)];

/// A claim from a queue that is known, and its place among the claims of the call.
#[derive(Clone, Copy)]
struct Wish<'a> {
    place: usize,
    claim: &'a Claim,
    queue: QueueId,
    /// How many it is still to get.
    count: usize,
    /// With how many of them it is content.
    enough: usize,
    /// How many bytes of them. Of the first job it does not matter.
    bytes: usize,
}

impl Wish<'_> {
    /// It has got these jobs.
    fn less(&mut self, jobs: &[LeasedJob]) {
        let bytes: usize = jobs.iter().map(|job| job.payload.bytes.len()).sum();
        self.count = self.claim.count.saturating_sub(jobs.len());
        self.enough = self.claim.enough.saturating_sub(jobs.len());
        self.bytes = self.claim.bytes_max.saturating_sub(bytes);
    }
}

impl PostgresStore {
    pub(super) async fn claim_jobs(&self, claims: &[Claim]) -> Result<Claimed, Failure> {
        retrying!(self.try_claim(claims))
    }

    async fn try_claim(&self, claims: &[Claim]) -> Result<Claimed, Failure> {
        let known =
            self.queues.find_all(&self.pool, claims.iter().map(|claim| &claim.queue)).await?;
        let queues: Vec<Option<QueueId>> =
            claims.iter().map(|claim| known.get(&claim.queue).copied()).collect();
        let is_gated =
            |queue: &Option<QueueId>| queue.is_some_and(|queue| self.gated.read().contains(&queue));
        // Which it may turn out to be only now.
        let was_gated: Vec<bool> = queues.iter().map(is_gated).collect();
        let plain: Vec<Option<QueueId>> = queues
            .iter()
            .zip(&was_gated)
            .map(|(queue, was_gated)| queue.filter(|_| !was_gated))
            .collect();
        let mut claimed = match plain.iter().any(Option::is_some) {
            true => self.claim_plain(claims, &plain).await?,
            false => Claimed { jobs: vec![Vec::new(); claims.len()], ..Claimed::default() },
        };
        let gated: BTreeSet<QueueId> =
            queues.iter().filter(|queue| is_gated(queue)).flatten().copied().collect();
        for queue in gated {
            let of_queue =
                |place: &usize| queues[*place] == Some(queue) && claimed.jobs[*place].is_empty();
            let places: Vec<usize> = (0..claims.len()).filter(of_queue).collect();
            let own: Vec<Claim> = places.iter().map(|place| claims[*place].clone()).collect();
            let more = match self.claim_limited(queue, &own).await {
                Ok(more) => more,
                // What others have got is theirs; these find nothing this time.
                Err(error) if claimed.jobs.iter().any(|jobs| !jobs.is_empty()) => {
                    tracing::warn!(%error, "claim failed");
                    continue;
                }
                Err(error) => return Err(error),
            };
            claimed.expired.extend(more.expired);
            claimed.closed.extend(more.closed);
            claimed.content.extend(more.content.into_iter().map(|place| places[place]));
            for (place, jobs) in places.into_iter().zip(more.jobs) {
                claimed.jobs[place] = jobs;
            }
        }
        Ok(claimed)
    }

    /// Claims from a queue that has, or had, limits.
    async fn claim_limited(&self, queue: QueueId, claims: &[Claim]) -> Result<Claimed, Failure> {
        match self.claim_gated(queue, claims).await? {
            Some(claimed) => Ok(claimed),
            None => self.claim_plain(claims, &vec![Some(queue); claims.len()]).await,
        }
    }

    /// Claims from queues without limits.
    async fn claim_plain(
        &self,
        claims: &[Claim],
        queues: &[Option<QueueId>],
    ) -> Result<Claimed, Failure> {
        let all = claims.iter().zip(queues).enumerate();
        let mut wishes: Vec<Wish<'_>> = all
            .filter_map(|(place, (claim, queue))| {
                let Claim { count, enough, bytes_max: bytes, .. } = *claim;
                Some(Wish { place, claim, queue: (*queue)?, count, enough, bytes })
            })
            .collect();
        // By queue; those of one queue in the order of their coming.
        wishes.sort_by_key(|wish| wish.queue);
        let mut claimed = Claimed { jobs: vec![Vec::new(); claims.len()], ..Claimed::default() };
        match self.claim_wishes(wishes, &mut claimed).await {
            // What others have got is theirs; these find nothing this time.
            Err(error) if claimed.jobs.iter().any(|jobs| !jobs.is_empty()) => {
                tracing::warn!(%error, "claim failed");
                let has_more = |place: &usize| {
                    let got = claimed.jobs[*place].len();
                    got > 0 && got < claims[*place].count
                };
                claimed.content = (0..claims.len()).filter(has_more).collect();
                Ok(claimed)
            }
            done => done.map(|()| claimed),
        }
    }

    async fn claim_wishes(
        &self,
        mut wishes: Vec<Wish<'_>>,
        claimed: &mut Claimed,
    ) -> Result<(), Failure> {
        let mut looks = self.cursors.due(queues_of(&wishes).into_iter());
        for may_look in [true, false] {
            self.look_at(&looks).await?;
            let mut short: Vec<Wish<'_>> = Vec::new();
            for part in parts(&wishes) {
                let exhausted = self.claim_part(part, claimed).await?;
                let is_short = |wish: &&Wish<'_>| {
                    claimed.jobs[wish.place].is_empty() && exhausted.contains(&wish.queue)
                };
                short.extend(part.iter().filter(is_short));
            }
            looks = self.cursors.allowed(queues_of(&short).into_iter());
            short.retain(|wish| may_look && looks.has(wish.queue));
            if short.is_empty() {
                break;
            }
            wishes = short;
        }
        Ok(())
    }

    /// Claims a part. The answer: queues that seem to have no more.
    async fn claim_part(
        &self,
        part: &[Wish<'_>],
        claimed: &mut Claimed,
    ) -> Result<HashSet<QueueId>, Failure> {
        let mut part = part.to_vec();
        let mut exhausted = HashSet::new();
        while !part.is_empty() {
            let mut lines = Lines::of(&part, &self.cursors);
            if !lines.cursors.0.is_empty() && !self.claim_lines(&part, &mut lines, claimed).await? {
                self.claim_singly(&part, claimed).await?;
                break;
            }
            for line in &lines.lines {
                self.cursors.end(line.queue, &line.reached, line.is_exhausted());
                self.cursors.found(line.queue, line.stood, line.rows_found);
            }
            let ended = lines.lines.iter().filter(|line| line.is_exhausted());
            exhausted.extend(ended.map(|line| line.queue));
            // There were fewer jobs in a row than last time.
            part.iter_mut().for_each(|wish| wish.less(&claimed.jobs[wish.place]));
            let goes_on = |wish: &Wish<'_>| wish.count > 0 && wish.bytes > 0;
            part.retain(|wish| goes_on(wish) && !exhausted.contains(&wish.queue));
            let sparing = lines.lines.iter().filter(|line| line.spares()).map(|line| line.queue);
            let sparing: HashSet<QueueId> = sparing.collect();
            let is_content =
                |wish: &mut Wish<'_>| wish.enough == 0 && sparing.contains(&wish.queue);
            claimed.content.extend(part.extract_if(.., is_content).map(|wish| wish.place));
        }
        Ok(exhausted)
    }

    /// Claims where it must be decided on each job.
    async fn claim_singly(&self, part: &[Wish<'_>], claimed: &mut Claimed) -> Result<(), Failure> {
        let claim = |wish: &Wish<'_>| Claim {
            count: wish.count,
            enough: wish.enough,
            bytes_max: wish.bytes,
            ..wish.claim.clone()
        };
        let claims: Vec<Claim> = part.iter().map(claim).collect();
        let has_some = |wish: &Wish<'_>| !claimed.jobs[wish.place].is_empty();
        let have_some: Vec<bool> = part.iter().map(has_some).collect();
        let queues: Vec<Option<QueueId>> = part.iter().map(|wish| Some(wish.queue)).collect();
        let more = self.claim_in_rounds(&claims, &queues, &have_some).await?;
        claimed.expired.extend(more.expired);
        for (wish, jobs) in part.iter().zip(more.jobs) {
            claimed.jobs[wish.place].extend(jobs);
        }
        Ok(())
    }

    /// Claims in one statement. False: that can not decide on these jobs.
    async fn claim_lines(
        &self,
        part: &[Wish<'_>],
        lines: &mut Lines,
        claimed: &mut Claimed,
    ) -> Result<bool, Failure> {
        let claims = || part.iter().map(|wish| wish.claim);
        let ids: Vec<LeaseId> = part.iter().map(|_| new_id()).collect();
        let workers: Vec<&str> = claims().map(|claim| claim.worker.as_str()).collect();
        let lasts: Vec<i64> = claims().map(|claim| sql_millis(hold(claim).0)).collect();
        let sessions: Vec<Option<i64>> =
            claims().map(|claim| Some(hold(claim).1?.0.cast_signed())).collect();
        let bytes_max = part.iter().map(|wish| wish.bytes).min().unwrap_or(0);
        let bytes_max = i64::try_from(bytes_max).unwrap_or(i64::MAX);
        let (node, q, c) = (&self.node, lines.columns(), &lines.cursors);
        let enough: Vec<i32> = part.iter().map(|wish| sql_count(wish.enough)).collect();
        let params: [&(dyn ToSql + Sync); 17] = [
            &lines.ends,
            &q.line,
            &q.queue,
            &q.base,
            &q.count,
            &c.0,
            &c.1,
            &c.2,
            &bytes_max,
            &ids,
            &node.id,
            &node.incarnation,
            &workers,
            &sessions,
            &lasts,
            &q.rows,
            &enough,
        ];
        let rows = match self.claim_lane.once((CLAIM, &params)).await {
            Err(failure @ Failure::InDoubt(_)) => {
                self.leases.doubt(ids);
                return Err(failure);
            }
            done => done?,
        };
        if !at::<bool>(&rows[0], column::IS_PLAIN) {
            return Ok(false);
        }
        let handed_over = self.hand_over(part, lines, &ids, &rows, claimed).await;
        // Else nobody has been given them.
        handed_over.inspect_err(|_| self.leases.doubt(ids))?;
        Ok(true)
    }

    /// Puts the answer together, and remembers who has what.
    async fn hand_over(
        &self,
        part: &[Wish<'_>],
        lines: &mut Lines,
        ids: &[LeaseId],
        rows: &[Row],
        claimed: &mut Claimed,
    ) -> Result<(), Failure> {
        let mut jobs: Vec<Vec<LeasedJob>> = vec![Vec::new(); part.len()];
        let mut held: Vec<Vec<Holding>> = vec![Vec::new(); part.len()];
        let mut pieces: HashMap<i64, Vec<Piece>> = HashMap::new();
        let mut block = (None, 0);
        let now = Timestamp(at(&rows[0], column::NOW));
        let mut payloads = payloads(rows);
        for row in rows {
            let Some(owner) = at::<Option<i32>>(row, column::OWNER) else { break };
            let owner = usize::try_from(owner).unwrap_or(0);
            let wish = part.get(owner).ok_or_else(damaged)?;
            let numbers = ids_of(row);
            let found = Found::of(row, numbers.len());
            lines.found(wish.queue, &found);
            let mut job = leased_job(row, now + hold(wish.claim).0)?;
            let mut is_plain = !at::<bool>(row, column::IS_SPECIAL) && job.timeout.is_none();
            if let Some(text) = at(row, column::OPTIONS) {
                job.options = parse_options(text).map_err(|_| damaged())?.into();
                is_plain &= job.options.custom_id.is_none();
                if !job.options.depends.on.is_empty() {
                    job.needs = needs(self, &job.options.depends).await?;
                }
            }
            let run = run_of(row);
            if let Some((run, block)) = run.zip(at(row, column::BLOCK)) {
                let piece = Piece { run, jobs: found.jobs, stood: found.count };
                pieces.entry(block).or_default().push(piece);
            }
            if block.0.replace((owner, found.first)) != Some((owner, found.first)) {
                block.1 = jobs[owner].len();
            }
            let is_in_order = jobs[owner][block.1..]
                .last()
                .is_none_or(|last| sql_id(last.lease.job) < numbers[0]);
            for id in numbers {
                job.lease.job = JobId(id.cast_unsigned());
                job.payload.bytes = payloads.next().ok_or_else(damaged)?;
                held[owner].push(Holding { lease: job.lease, is_plain, run });
                jobs[owner].push(job.clone());
            }
            // Some may have rows that stand between those of a run.
            if !is_in_order {
                jobs[owner][block.1..].sort_by_key(|job| job.lease.job);
                held[owner][block.1..].sort_by_key(|holding| holding.lease.job);
            }
        }
        for (((wish, id), jobs), held) in part.iter().zip(ids).zip(jobs).zip(held) {
            if held.is_empty() {
                continue;
            }
            let (lasts, session) = hold(wish.claim);
            let (node, worker) = (self.node.id.as_str().into(), wish.claim.worker.clone());
            let given = Given { node, worker, session, started_at: now };
            let queue = Some((wish.queue, wish.claim.queue.clone()));
            self.leases.insert(*id, Origin { given, queue }, &held, lasts);
            claimed.jobs[wish.place].extend(jobs);
        }
        // Others may have passed over what was locked and is left.
        for (queue, at) in lines.left() {
            self.outbox.ready(queue, at.priority, at.after, 1);
        }
        self.unpack_divided(pieces).await;
        Ok(())
    }

    /// Pieces of blocks, by number, were given out. Where they are small on average, others will come for
    /// small ones as well, and each of them would read the whole run, as would each of their acks. What is
    /// left of a block of which most was given out before is no such piece.
    async fn unpack_divided(&self, pieces: HashMap<i64, Vec<Piece>>) {
        let is_small = |pieces: &[Piece]| {
            let taken: usize = pieces.iter().map(|piece| piece.jobs).sum();
            let most = pieces.iter().map(|piece| piece.run.count).max().unwrap_or(0);
            let most = usize::try_from(most).unwrap_or(0);
            let has_most = pieces.iter().all(|piece| piece.stood * 2 >= most);
            has_most && taken * PARTS_MAX < pieces.len() * most
        };
        let small: Vec<(i64, Vec<Piece>)> =
            pieces.into_iter().filter(|(_, pieces)| is_small(pieces)).collect();
        if small.is_empty() {
            return;
        }
        let places: Vec<i64> = small.iter().map(|(place, _)| *place).collect();
        match self.claim_lane.once((UNPACK_PLACES, &[&places])).await {
            Ok(_) => {
                let pieces = small.into_iter().flat_map(|(_, pieces)| pieces);
                self.leases.unpacked(pieces.map(|piece| piece.run));
            }
            Err(error) => tracing::debug!(%error, "runs were left as they are"),
        }
    }
}

/// Where the columns of [`CLAIM`] are.
mod column {
    pub(super) const IS_PLAIN: usize = 0;
    pub(super) const NOW: usize = 1;
    pub(super) const OWNER: usize = 2;
    pub(super) const JOB_ID: usize = 3;
    pub(super) const DELIVERY: usize = 4;
    pub(super) const PRIORITY: usize = 5;
    pub(super) const PLACE: usize = 6;
    pub(super) const FIRST: usize = 7;
    pub(super) const BLOCK: usize = 8;
    pub(super) const COUNT: usize = 9;
    pub(super) const IS_WHOLE: usize = 10;
    pub(super) const IS_SPARED: usize = 11;
    pub(super) const NEXT_PRIORITY: usize = 12;
    pub(super) const NEXT_PLACE: usize = 13;
    pub(super) const TIMEOUT_MS: usize = 14;
    pub(super) const ATTEMPTS: usize = 15;
    pub(super) const MAX_ATTEMPTS: usize = 16;
    pub(super) const CREATED_AT: usize = 17;
    pub(super) const TAGS: usize = 18;
    pub(super) const CONTENT_TYPE: usize = 19;
    pub(super) const PAYLOAD: usize = 20;
    pub(super) const OPTIONS: usize = 21;
    pub(super) const IS_SPECIAL: usize = 22;
    pub(super) const RUN: usize = 23;
    pub(super) const RUN_COUNT: usize = 24;
    pub(super) const IDS: usize = 25;
    pub(super) const PAYLOADS: usize = 26;
}

fn damaged() -> Failure {
    Failure::NotDone("the tables are damaged: a job's row can not be read".into())
}

/// The jobs of a row.
fn ids_of(row: &Row) -> Vec<i64> {
    at::<Option<Vec<i64>>>(row, column::IDS).unwrap_or_else(|| vec![at(row, column::JOB_ID)])
}

/// The run that they are in.
fn run_of(row: &Row) -> Option<InRun> {
    let count = at::<Option<i32>>(row, column::RUN_COUNT);
    let (id, count) = at::<Option<i64>>(row, column::RUN).zip(count)?;
    Some(InRun { id, count, delivery: at(row, column::DELIVERY) })
}

/// The payloads of the jobs of all rows, in one piece of memory.
fn payloads(rows: &[Row]) -> impl Iterator<Item = Bytes> {
    let of_row = |row| match at::<Option<Vec<&[u8]>>>(row, column::PAYLOADS) {
        Some(payloads) => payloads,
        None => vec![at::<Option<&[u8]>>(row, column::PAYLOAD).unwrap_or_default()],
    };
    let parts: Vec<&[u8]> = rows.iter().flat_map(of_row).collect();
    let mut all = BytesMut::with_capacity(parts.iter().map(|payload| payload.len()).sum());
    let add = |payload: &[u8]| {
        all.extend_from_slice(payload);
        all.len()
    };
    let ends: Vec<usize> = parts.into_iter().map(add).collect();
    let all = all.freeze();
    let mut start = 0;
    ends.into_iter().map(move |end| all.slice(std::mem::replace(&mut start, end)..end))
}

/// A job of a row, without what tells it from the others.
fn leased_job(row: &Row, lease_until: Timestamp) -> Result<LeasedJob, Failure> {
    let number = |column| u32::try_from(at::<i32>(row, column)).unwrap_or(0);
    let job = JobId(at::<i64>(row, column::JOB_ID).cast_unsigned());
    let timeout: Option<i64> = at(row, column::TIMEOUT_MS);
    let tags = at::<Option<&str>>(row, column::TAGS).map(parse_tags).transpose();
    let content_type: Option<&str> = at(row, column::CONTENT_TYPE);
    Ok(LeasedJob {
        lease: Lease { job, delivery: number(column::DELIVERY) },
        attempt: number(column::ATTEMPTS) + 1,
        max_attempts: number(column::MAX_ATTEMPTS),
        priority: at(row, column::PRIORITY),
        created_at: Timestamp(at(row, column::CREATED_AT)),
        lease_until,
        timeout: timeout.map(|millis| Duration::from_millis(millis.max(0).cast_unsigned())),
        tags: tags.map_err(|_| damaged())?.unwrap_or_default(),
        payload: Payload { bytes: Bytes::new(), content_type: content_type.map(Into::into) },
        needs: Vec::new(),
        options: SparseOptions::default(),
    })
}

fn queues_of(wishes: &[Wish<'_>]) -> Vec<QueueId> {
    let mut queues: Vec<QueueId> = wishes.iter().map(|wish| wish.queue).collect();
    queues.dedup();
    queues
}

/// Wishes that one statement can serve.
fn parts<'a, 'b>(wishes: &'b [Wish<'a>]) -> impl Iterator<Item = &'b [Wish<'a>]> {
    let mut rest = wishes;
    std::iter::from_fn(move || {
        let mut count = 0;
        let fits = |wish: &&Wish<'_>| {
            count += wish.count;
            count <= CLAIMED_MAX
        };
        let fitting = rest.iter().take_while(fits).count().max(1).min(rest.len());
        let (part, left) = rest.split_at(fitting);
        rest = left;
        (!part.is_empty()).then_some(part)
    })
}

/// The lines that wishes are for, one after the other.
struct Lines {
    lines: Vec<Line>,
    /// Where each wish ends, if they are laid end to end.
    ends: Vec<i32>,
    /// Line, priority, and the place that they begin behind.
    cursors: (Vec<i32>, Vec<i32>, Vec<i64>),
}

/// Lines as columns.
struct Columns {
    line: Vec<i32>,
    queue: Vec<QueueId>,
    base: Vec<i32>,
    count: Vec<i32>,
    rows: Vec<i64>,
}

/// Jobs of a run that one claim got.
struct Piece {
    run: InRun,
    jobs: usize,
    /// How many jobs stood in the block.
    stood: usize,
}

/// A row of the answer, and the row of the line that it is of.
struct Found {
    /// The first job of the row of the line.
    first: i64,
    at: Cursor,
    /// How many jobs stood in the row of the line.
    count: usize,
    /// All of them are taken, by this claim and others.
    is_whole: bool,
    /// A claim before got less, so that it is not divided.
    is_spared: bool,
    /// Others may stand at the same place, one by one.
    is_shared: bool,
    /// Where the next row of the line stands, which may be left.
    next: Option<Cursor>,
    /// How many jobs this is.
    jobs: usize,
}

impl Found {
    fn of(row: &Row, jobs: usize) -> Self {
        let next = at::<Option<i32>>(row, column::NEXT_PRIORITY);
        let next = next.zip(at::<Option<i64>>(row, column::NEXT_PLACE));
        let (first, place): (i64, i64) = (at(row, column::FIRST), at(row, column::PLACE));
        let is_shared = place != first;
        let block: Option<i64> = at(row, column::BLOCK);
        let after = block.filter(|_| !is_shared).unwrap_or(place);
        Self {
            first,
            at: Cursor { priority: at(row, column::PRIORITY), after },
            count: usize::try_from(at::<i32>(row, column::COUNT)).unwrap_or(1),
            is_whole: at(row, column::IS_WHOLE),
            is_spared: at(row, column::IS_SPARED),
            is_shared,
            next: next.map(|(priority, after)| Cursor { priority, after }),
            jobs,
        }
    }
}

struct Line {
    queue: QueueId,
    /// Where its wishes begin.
    base: i32,
    wanted: usize,
    /// How many rows are looked at.
    rows: usize,
    found: usize,
    rows_found: usize,
    /// How many jobs stood in those rows.
    stood: usize,
    /// Claims got less, so that some are not divided.
    has_spared: bool,
    /// Where the row behind them stands, if there is one.
    next: Option<Cursor>,
    /// The last row that was found, by its first job.
    last: Option<(i64, Cursor)>,
    /// Up to where it has been gone through, by descending priority.
    reached: Vec<Cursor>,
}

impl Line {
    fn is_exhausted(&self) -> bool {
        self.found < self.wanted && self.rows_found < self.rows && self.next.is_none()
    }

    /// Whether claims got less, so that something is not divided.
    fn spares(&self) -> bool {
        self.has_spared || self.found < self.wanted && self.next.is_some()
    }
}

impl Lines {
    fn of(part: &[Wish<'_>], cursors: &Cursors) -> Self {
        let (mut lines, mut ends, mut end) = (Vec::<Line>::new(), Vec::new(), 0);
        let mut from = (Vec::new(), Vec::new(), Vec::new());
        for wishes in part.chunk_by(|one, other| one.queue == other.queue) {
            let queue = wishes[0].queue;
            let in_a_row = cursors.in_a_row(queue);
            for cursor in cursors.begin(queue) {
                from.0.push(sql_count(lines.len()));
                from.1.push(cursor.priority);
                from.2.push(cursor.after);
            }
            let base = end;
            for wish in wishes {
                end += wish.count;
                ends.push(sql_count(end));
            }
            let wanted = end - base;
            // The first may have been cut before.
            let rows = if in_a_row > 1 { wanted.div_ceil(in_a_row) + 1 } else { wanted };
            lines.push(Line {
                queue,
                base: sql_count(base),
                wanted,
                rows,
                found: 0,
                rows_found: 0,
                stood: 0,
                has_spared: false,
                next: None,
                last: None,
                reached: Vec::new(),
            });
        }
        Self { lines, ends, cursors: from }
    }

    fn columns(&self) -> Columns {
        let lines = || self.lines.iter();
        Columns {
            line: (0..).zip(lines()).map(|(number, _)| number).collect(),
            queue: lines().map(|line| line.queue).collect(),
            base: lines().map(|line| line.base).collect(),
            count: lines().map(|line| sql_count(line.wanted)).collect(),
            rows: lines().map(|line| i64::from(sql_count(line.rows))).collect(),
        }
    }

    /// Jobs of this line were given out.
    fn found(&mut self, queue: QueueId, found: &Found) {
        let Some(line) = self.lines.iter_mut().find(|line| line.queue == queue) else { return };
        let at = found.at;
        line.found += found.jobs;
        line.next = found.next;
        let before = line.last.replace((found.first, at));
        if before.is_some_and(|(first, _)| first == found.first) {
            return;
        }
        line.rows_found += 1;
        line.stood += found.count;
        line.has_spared |= found.is_spared;
        let is_left = found.is_shared || !found.is_whole;
        let after = if is_left { at.after - 1 } else { at.after };
        match line.reached.last_mut() {
            Some(last) if last.priority == at.priority => last.after = after,
            _ => line.reached.push(Cursor { after, ..at }),
        }
    }

    /// Where rows stand that were locked and are left, or may be.
    fn left(&self) -> impl Iterator<Item = (QueueId, Cursor)> {
        let lines = self.lines.iter().filter(|line| !line.is_exhausted());
        lines.flat_map(|line| {
            let last = line.last.filter(|_| line.stood > line.rows_found).map(|(_, at)| at);
            last.into_iter().chain(line.next).map(|at| (line.queue, at))
        })
    }
}

/// How long a claim's leases last, and what they hang on.
pub(super) fn hold(claim: &Claim) -> (Duration, Option<SessionId>) {
    match claim.hold {
        Hold::Session(session) => (SESSION_LEASE, Some(session)),
        Hold::Time(time) => (time, None),
    }
}
