//! Jobs behind gates: claims where there are limits.
//!
//! Claims from one such queue are done one after the other, in the whole cluster: each holds the
//! lock of the queue's row while it counts what is in use, decides, and leases. So a limit is
//! exact. What is in use is counted among live leases: a slot whose job has another delivery by
//! now counts for nothing.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::blocks::{blocks_among, split_blocks};
use super::lane::{Call, Failure, Tx};
use super::rounds::{Candidate, Share, candidate};
use super::row::{self, get, job_id, now};
use super::{PostgresStore, QueueId};
use crate::job::{
    Admission, Bucket, Concurrency, Fair, Found, JobId, Line, QueueName, Settings, Timestamp,
    Waiting,
};
use crate::mutants::{self, Mutant};
use crate::store::columns::{parse_options, parse_settings, sql_id, sql_settings};
use crate::store::{Claim, Claimed, KeyUse, KeyUses};

/// When a queue is asked for again whose row somebody holds.
const HELD_PAUSE: Duration = Duration::from_millis(200);

/// Jobs of each line that are read at first. Few: most lines give out one or two.
const PART: i64 = 4;

/// Jobs of a line that are read when it has given out all of those.
const MORE: i64 = 64;

const LOCK_QUEUE: &str = "
    SELECT settings, is_gated, paused_at, now_ms() AS now
    FROM queue
    WHERE id = $1
    FOR NO KEY UPDATE";

/// The first jobs behind each gate. From each gate it hops to the next. With the time at which they
/// are seen: a job that was given back while the queue's lock was waited for must not be leased from
/// a time before that.
const LINES: &str = "
    WITH RECURSIVE gates AS (
        (SELECT gate FROM ready WHERE queue_id = $1 ORDER BY gate LIMIT 1)
        UNION ALL
        SELECT n.gate
        FROM gates
        CROSS JOIN LATERAL (
            SELECT r.gate
            FROM ready r
            WHERE r.queue_id = $1 AND r.gate > gates.gate
            ORDER BY r.gate
            LIMIT 1
        ) n
    )
    SELECT (SELECT now_ms()) AS now, g.gate, t.turn, j.*, o.options
    FROM gates g
    LEFT JOIN LATERAL (
        SELECT turn FROM turn WHERE queue_id = $1 AND gate = g.gate OFFSET 0
    ) t ON true
    CROSS JOIN LATERAL (
        SELECT
            ctid::text AS tid, job_id, block, count, priority, place, delivery, bytes,
            expires_at, timeout_ms
        FROM ready
        WHERE queue_id = $1 AND gate = g.gate
        ORDER BY priority DESC, place, job_id
        LIMIT $2
    ) j
    LEFT JOIN LATERAL (SELECT options FROM job WHERE id = j.job_id OFFSET 0) o ON true";

/// More of one line, behind those that are known. Jobs of runs have no options.
const MORE_OF: &str = "
    SELECT (SELECT now_ms()) AS now, j.*, o.options
    FROM (
        SELECT
            ctid::text AS tid, job_id, block, count, priority, place, delivery, bytes,
            expires_at, timeout_ms
        FROM ready
        WHERE queue_id = $1 AND gate = $2
        AND (priority < $3 OR priority = $3 AND (place, job_id) > ($4, $6::bigint))
        ORDER BY priority DESC, place, job_id
        LIMIT $5
    ) j
    LEFT JOIN LATERAL (SELECT options FROM job WHERE id = j.job_id OFFSET 0) o ON true";

const SLOTS: &str = "
    SELECT s.key, count(*) AS count
    FROM slot s
    CROSS JOIN LATERAL (
        SELECT 1 FROM job WHERE id = s.job_id AND delivery = s.delivery OFFSET 0
    ) j
    WHERE s.queue_id = $1
    GROUP BY s.key";

const BUCKETS: &str = "SELECT key, full_at_us FROM bucket WHERE queue_id = $1";

const LEASED: &str = "
    SELECT count(*) AS count
    FROM lease l
    CROSS JOIN LATERAL (
        SELECT j.queue_id
        FROM unnest(l.job_ids, l.deliveries) AS u (job_id, delivery)
        CROSS JOIN LATERAL (
            SELECT queue_id FROM job WHERE id = u.job_id AND delivery = u.delivery OFFSET 0
        ) j
        UNION ALL
        SELECT queue_id FROM held_in_runs(l.job_ids, l.deliveries)
    ) j
    WHERE j.queue_id = $1";

/// Those that are still in line, locked.
const LOCK_JOBS: &str = "
    SELECT job_id
    FROM ready
    WHERE ctid = ANY($1::text[]::tid[])
    FOR UPDATE SKIP LOCKED";

const INSERT_SLOTS: &str = "
    INSERT INTO slot (job_id, delivery, queue_id, key)
    SELECT job_id, delivery, $1, key
    FROM unnest($2::bigint[], $3::integer[], $4::text[]) AS u (job_id, delivery, key)
    ON CONFLICT (job_id) DO UPDATE
    SET delivery = excluded.delivery, queue_id = excluded.queue_id, key = excluded.key";

const FORGET_TURNS: &str = "
    DELETE FROM turn
    WHERE queue_id = $1 AND gate <> ALL($2::text[])";

const SET_TURNS: &str = "
    INSERT INTO turn (queue_id, gate, turn)
    SELECT $1, gate, turn
    FROM unnest($2::text[], $3::bigint[]) AS u (gate, turn)
    ON CONFLICT (queue_id, gate) DO UPDATE SET turn = excluded.turn";

const SET_BUCKETS: &str = "
    INSERT INTO bucket (queue_id, key, full_at_us)
    SELECT $1, key, full_at_us
    FROM unnest($2::text[], $3::bigint[]) AS u (key, full_at_us)
    ON CONFLICT (queue_id, key) DO UPDATE SET full_at_us = excluded.full_at_us";

const FORGET_BUCKETS: &str = "DELETE FROM bucket WHERE queue_id = $1 AND full_at_us <= $2";

/// Live jobs with limits, by id.
const KEYED: &str = "
    SELECT
        j.id, j.options,
        j.run_at IS NULL AND NOT j.is_blocked AS is_ready_or_leased,
        (
            SELECT true FROM ready r
            WHERE r.queue_id = j.queue_id AND r.gate = j.gate AND r.priority = j.priority
            AND r.place = j.place
            LIMIT 1
        ) IS NOT NULL AS is_ready
    FROM job j
    WHERE j.queue_id = $1 AND j.gate IS NOT NULL
    ORDER BY j.id";

/// See [`super::hot_statements`].
pub(super) const HOT: &[super::Named] = &[
    ("flow::LINES", LINES),
    ("flow::MORE_OF", MORE_OF),
    ("flow::SLOTS", SLOTS),
    ("flow::INSERT_SLOTS", INSERT_SLOTS),
];

/// What was in use when the claim began.
struct Before {
    turns: HashMap<String, i64>,
    buckets: HashMap<String, Bucket>,
}

impl PostgresStore {
    /// Claims from a queue with limits. `None`: it has none any more.
    pub(super) async fn claim_gated(
        &self,
        queue: QueueId,
        claims: &[Claim],
    ) -> Result<Option<Claimed>, Failure> {
        let nothing = Claimed { jobs: vec![Vec::new(); claims.len()], ..Claimed::default() };
        let mut tx = self.gate_lane.begin().await?;
        let rows = match tx.query(LOCK_QUEUE, &[&queue]).await {
            Err(Failure::Held(error)) => {
                tracing::debug!(error, "another node claims from the queue, or is frozen");
                drop(tx);
                return self.later(claims).await.map(Some);
            }
            done => done?,
        };
        let Some(row) = rows.first() else { return Ok(None) };
        if !get::<bool>(row, "is_gated") {
            self.gated.write().remove(&queue);
            self.cursors.forget(queue);
            return Ok(None);
        }
        if get::<Option<i64>>(row, "paused_at").is_some() {
            return Ok(Some(nothing));
        }
        let (mut seen, settings) = (now(row), row::parsed(row, "settings", parse_settings)?);
        let mut admission = admission(&mut tx, queue, settings.unwrap_or_default(), seen).await?;
        let lines = lines(&mut tx, queue, &mut seen).await?;
        admission.now_us = seen.0 * 1000;
        // Nobody is kept from anything: there are no turns to be taken.
        let is_plain =
            !admission.settings.is_limited() && lines.iter().all(|line| line.gate.is_empty());
        let turns = lines.iter().filter_map(|line| Some((line.gate.clone(), line.turn?)));
        let before = Before { turns: turns.collect(), buckets: buckets(&admission) };
        let ends = lines
            .iter()
            .filter_map(|line| line.jobs.back().map(|last| (line.gate.clone(), end(last))));
        let mut ends: HashMap<String, End> = ends.collect();
        let mut fair = Fair::new(admission, lines);
        let (mut picked, mut closed) = (Vec::with_capacity(claims.len()), Vec::new());
        for claim in claims {
            let own = fill(&mut tx, (queue, &mut seen), &mut fair, &mut ends, claim).await?;
            if own.share.jobs.len() < claim.count {
                closed.extend(fair.closed().map(|until| (claim.queue.clone(), until)));
            }
            picked.push(own);
        }
        keep_locked(&mut tx, &mut picked).await?;
        if !is_plain {
            remember(&mut tx, queue, &picked, fair, &before).await?;
        }
        let shares = picked.into_iter().map(|picked| picked.share).collect();
        let claimed = self.take(tx, claims, shares, seen).await?;
        Ok(Some(Claimed { closed, ..claimed }))
    }

    /// Nobody gets anything of a queue that another node holds, until it may be asked again.
    async fn later(&self, claims: &[Claim]) -> Result<Claimed, Failure> {
        let rows = self.gate_lane.once(("SELECT now_ms() AS now", &[])).await?;
        let until = now(&rows[0]) + HELD_PAUSE;
        let closed = claims.iter().take(1).map(|claim| (claim.queue.clone(), Some(until)));
        let jobs = vec![Vec::new(); claims.len()];
        Ok(Claimed { jobs, closed: closed.collect(), ..Claimed::default() })
    }

    pub(super) async fn set_queue_settings(
        &self,
        queue: &QueueName,
        settings: &Settings,
    ) -> Result<(), Failure> {
        let ids = self.queues.ids(&self.pool, std::iter::once(queue)).await?;
        let id = ids[queue];
        let text = sql_settings(settings);
        let (is_limited, is_guarded) = (settings.is_limited(), settings.is_guarded());
        let keeps = self.says_it_keeps(settings);
        let sql = "UPDATE queue SET settings = $2, is_gated = is_gated OR $3, is_guarded = $4,
                   keeps_completed = $5
                   WHERE id = $1";
        let mut tx = self.pool.begin().await?;
        let rows = tx.query(LOCK_QUEUE, &[&id]).await?;
        if rows.first().is_some_and(|row| get::<&str>(row, "settings") != text) {
            tx.query("DELETE FROM bucket WHERE queue_id = $1", &[&id]).await?;
        }
        tx.commit(&[(sql, &[&id, &text, &is_limited, &is_guarded, &keeps])]).await?;
        if is_limited {
            self.gated.write().insert(id);
        }
        self.note_settings(id, settings);
        // Somebody may start now who could not.
        self.note_resumed(id);
        self.outbox.opened(id);
        Ok(())
    }

    pub(super) async fn find_key_uses(&self, name: &QueueName) -> Result<Vec<KeyUse>, Failure> {
        let ids = self.queues.find_all(&self.pool, std::iter::once(name)).await?;
        let Some(queue) = ids.get(name) else { return Ok(Vec::new()) };
        let mut tx = self.pool.begin().await?;
        let sql = "SELECT settings, now_ms() AS now FROM queue WHERE id = $1";
        let rows = tx.query(sql, &[queue]).await?;
        let settings = row::parsed(&rows[0], "settings", parse_settings)?.unwrap_or_default();
        let admission = admission(&mut tx, *queue, settings, now(&rows[0])).await?;
        let rows = tx.query(KEYED, &[queue]).await?;
        tx.commit(&[]).await?;
        let mut uses = KeyUses::default();
        for row in &rows {
            let flow = row::options(row)?.flow;
            match (get(row, "is_ready"), get(row, "is_ready_or_leased")) {
                (true, _) => uses.waits(&flow),
                (false, true) => uses.holds(&flow, job_id(row, "id")),
                (false, false) => {}
            }
        }
        Ok(uses.shown(&admission))
    }

    /// A lease of this queue has ended: if it has limits, another job may start now.
    pub(super) fn note_opened(&self, queue: QueueId) {
        if self.gated.read().contains(&queue) {
            self.outbox.opened(queue);
        }
    }
}

/// What is in use; exact under the lock of the queue.
pub(super) async fn admission(
    tx: &mut Tx<'_>,
    queue: QueueId,
    settings: Settings,
    now: Timestamp,
) -> Result<Admission, Failure> {
    let of_queue: [&(dyn ToSql + Sync); 1] = [&queue];
    let mut calls: Vec<Call<'_>> = vec![(SLOTS, &of_queue), (BUCKETS, &of_queue)];
    if settings.concurrency.is_some() {
        calls.push((LEASED, &of_queue));
    }
    let found = tx.all(&calls).await?;
    let number = |row: &Row| u32::try_from(get::<i64>(row, "count")).unwrap_or(u32::MAX);
    let slots = found[0].iter().map(|row| (get(row, "key"), number(row))).collect();
    let bucket = |row: &Row| (get(row, "key"), Bucket { full_at_us: get(row, "full_at_us") });
    let mut buckets: HashMap<String, Bucket> = found[1].iter().map(bucket).collect();
    let leased = found.get(2).and_then(|rows| rows.first()).map_or(0, number);
    let bucket = buckets.remove("").unwrap_or_default();
    if mutants::is(Mutant::IgnoreLimits) {
        return Ok(Admission { settings, now_us: now.0 * 1000, ..Admission::default() });
    }
    Ok(Admission { settings, leased, slots, bucket, buckets, now_us: now.0 * 1000 })
}

fn buckets(admission: &Admission) -> HashMap<String, Bucket> {
    let mut all = admission.buckets.clone();
    all.insert(String::new(), admission.bucket);
    all
}

fn waiting(row: &Row) -> Result<Waiting<Candidate>, Failure> {
    let candidate = candidate(row);
    let flow = row::parsed(row, "options", parse_options)?.unwrap_or_default().flow;
    Ok(Waiting {
        priority: candidate.cursor.priority,
        place: candidate.cursor.after,
        expires_at: candidate.expires_at,
        bytes: candidate.bytes,
        flow,
        job: candidate,
    })
}

/// What such a call finds in line, once the blocks among it are split. Those that somebody holds are
/// passed over.
async fn single(tx: &mut Tx<'_>, call: Call<'_>) -> Result<Vec<Row>, Failure> {
    let mut before = BTreeSet::new();
    loop {
        let mut rows = tx.query(call.0, call.1).await?;
        let blocks = blocks_among(&rows, MORE);
        if blocks.is_subset(&before) {
            rows.retain(|row| get::<Option<i64>>(row, "block").is_none());
            return Ok(rows);
        }
        before.extend(&blocks);
        split_blocks(tx, blocks).await?;
    }
}

/// The lines of a queue. `seen` becomes the time at which they were read, if there are any.
async fn lines(
    tx: &mut Tx<'_>,
    queue: QueueId,
    seen: &mut Timestamp,
) -> Result<Vec<Line<Candidate>>, Failure> {
    let mut lines: Vec<Line<Candidate>> = Vec::new();
    for row in &single(tx, (LINES, &[&queue, &PART])).await? {
        *seen = now(row);
        let gate: &str = get(row, "gate");
        if lines.last().is_none_or(|line| line.gate != gate) {
            let (gate, turn) = (gate.to_owned(), get(row, "turn"));
            lines.push(Line { gate, turn, jobs: VecDeque::new(), has_more: false });
        }
        if let Some(line) = lines.last_mut() {
            line.jobs.push_back(waiting(row)?);
            line.has_more = line.jobs.len() as i64 == PART;
        }
    }
    Ok(lines)
}

/// What one claim may have.
#[derive(Default)]
struct Picked {
    share: Share,
    /// Of each of its jobs.
    keys: Vec<Option<Concurrency>>,
}

/// Up to where a line has been read: a job's priority, its place, and its number.
type End = (i32, i64, i64);

fn end(last: &Waiting<Candidate>) -> End {
    (last.priority, last.place, sql_id(last.job.lease.job))
}

/// Gives a claim what it may have. `ends` says up to where each line has been read, `seen` when
/// the last of them was.
async fn fill(
    tx: &mut Tx<'_>,
    (queue, seen): (QueueId, &mut Timestamp),
    fair: &mut Fair<Candidate>,
    ends: &mut HashMap<String, End>,
    claim: &Claim,
) -> Result<Picked, Failure> {
    let (mut picked, mut left) = (Picked::default(), None);
    while picked.share.jobs.len() < claim.count {
        match fair.next(left) {
            Found::Job(job) => {
                left = Some(left.unwrap_or(claim.bytes_max).saturating_sub(job.bytes));
                picked.keys.push(job.flow.concurrency);
                picked.share.jobs.push(job.job);
            }
            Found::Expired(job) => picked.share.expired.push(job.job),
            Found::Dry(at) => {
                let gate = fair.line(at).gate.clone();
                let (priority, place, job) = ends.get(&gate).copied().unwrap_or((i32::MAX, 0, 0));
                let more: Call<'_> = (MORE_OF, &[&queue, &gate, &priority, &place, &MORE, &job]);
                let rows = single(tx, more).await?;
                *seen = rows.first().map_or(*seen, now);
                let jobs = rows.iter().map(waiting).collect::<Result<VecDeque<_>, _>>()?;
                if let Some(last) = jobs.back() {
                    ends.insert(gate, end(last));
                }
                let has_more = jobs.len() as i64 == MORE;
                fair.fill(at, jobs, has_more);
            }
            Found::TooLarge | Found::Nothing => break,
        }
    }
    Ok(picked)
}

/// Drops what somebody else has taken out of its line meanwhile.
async fn keep_locked(tx: &mut Tx<'_>, picked: &mut [Picked]) -> Result<(), Failure> {
    let shares = || picked.iter().map(|picked| &picked.share);
    let all = || shares().flat_map(|share| share.jobs.iter().chain(&share.expired));
    let tids: Vec<&str> = all().map(|job| job.tid.as_str()).collect();
    if tids.is_empty() {
        return Ok(());
    }
    let rows = tx.query(LOCK_JOBS, &[&tids]).await?;
    let locked: HashSet<JobId> = rows.iter().map(|row| job_id(row, "job_id")).collect();
    for Picked { share, keys } in picked {
        let is_locked = |job: &Candidate| locked.contains(&job.lease.job);
        let mut is_kept = share.jobs.iter().map(is_locked).collect::<Vec<_>>().into_iter();
        keys.retain(|_| is_kept.next().unwrap_or(false));
        share.jobs.retain(is_locked);
        share.expired.retain(is_locked);
    }
    Ok(())
}

/// Writes down the slots, turns and rates that were used.
async fn remember(
    tx: &mut Tx<'_>,
    queue: QueueId,
    picked: &[Picked],
    fair: Fair<Candidate>,
    before: &Before,
) -> Result<(), Failure> {
    let (turns, admission) = fair.end();
    let mut slots = (Vec::new(), Vec::new(), Vec::new());
    for Picked { share, keys } in picked {
        for (job, key) in share.jobs.iter().zip(keys) {
            let Some(concurrency) = key else { continue };
            slots.0.push(sql_id(job.lease.job));
            slots.1.push(job.lease.delivery.cast_signed());
            slots.2.push(concurrency.key.as_str());
        }
    }
    let gates: Vec<&str> = turns.iter().map(|(gate, _)| gate.as_str()).collect();
    let served = turns.iter().filter(|(gate, turn)| before.turns.get(gate) != Some(turn));
    let served: (Vec<&str>, Vec<i64>) = served.map(|(gate, turn)| (gate.as_str(), *turn)).unzip();
    let after = buckets(&admission);
    let spent = after
        .iter()
        .filter(|(key, bucket)| before.buckets.get(*key).copied().unwrap_or_default() != **bucket);
    let spent: (Vec<&str>, Vec<i64>) =
        spent.map(|(key, bucket)| (key.as_str(), bucket.full_at_us)).unzip();
    let mut calls: Vec<Call<'_>> = Vec::new();
    let slot_params: [&(dyn ToSql + Sync); 4] = [&queue, &slots.0, &slots.1, &slots.2];
    if !slots.0.is_empty() {
        calls.push((INSERT_SLOTS, &slot_params));
    }
    let turn_params: [&(dyn ToSql + Sync); 3] = [&queue, &served.0, &served.1];
    if !served.0.is_empty() {
        calls.push((SET_TURNS, &turn_params));
    }
    let gone: [&(dyn ToSql + Sync); 2] = [&queue, &gates];
    calls.push((FORGET_TURNS, &gone));
    let bucket_params: [&(dyn ToSql + Sync); 3] = [&queue, &spent.0, &spent.1];
    let as_new_until = Bucket::as_new_until_us(admission.now_us);
    let full: [&(dyn ToSql + Sync); 2] = [&queue, &as_new_until];
    if !spent.0.is_empty() {
        calls.push((FORGET_BUCKETS, &full));
        calls.push((SET_BUCKETS, &bucket_params));
    }
    tx.all(&calls).await.map(drop)
}
