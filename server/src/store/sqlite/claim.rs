//! Leasing ready jobs.

use std::time::Duration;

use rusqlite::params;

use super::leases::Taken;
use super::row;
use super::tables::{QueueId, Tables};
use crate::job::{JobId, Lease, QueueName, Reason, SparseOptions, State, Timestamp};
use crate::store::columns::sql_id;
use crate::store::{Claim, Claimed, Effect, Hold, LeasedJob, SESSION_LEASE, SessionId};

/// What [`read_found`] reads. The last says whether those from `expires_at` on are worth it.
macro_rules! columns {
    () => {
        "j.id, j.delivery, j.attempts, j.max_attempts, j.priority, j.created_at, j.content_type,
         j.payload, j.expires_at, j.timeout_ms, j.unique_key IS NOT NULL OR j.is_watched, j.tags,
         j.options,
         j.is_watched OR coalesce(j.expires_at, j.timeout_ms, j.unique_key, j.tags, j.options)
             IS NOT NULL"
    };
}

/// In the order of claims. The caller stops reading when it has enough.
const SELECT_READY: &str = concat!(
    "SELECT ",
    columns!(),
    "
    FROM ready r
    CROSS JOIN job j ON j.id BETWEEN r.job_id AND r.job_id + r.more
    WHERE r.queue_id = ?1 AND r.gate = ''
    ORDER BY r.rank, r.place, j.id"
);

const SELECT_ONE: &str = concat!("SELECT ", columns!(), " FROM job j WHERE j.id = ?1");

/// What a claim found at the head of a queue.
#[derive(Default)]
struct Head {
    jobs: Vec<Found>,
    expired: Vec<(i64, u32)>,
    last: Option<i64>,
}

pub(super) struct Found {
    pub(super) job: LeasedJob,
    /// It has a key, or others wait for it.
    is_special: bool,
    expires_at: Option<Timestamp>,
}

impl Tables {
    pub(super) fn claim(&mut self, claims: Vec<Claim>) -> rusqlite::Result<Claimed> {
        let mut claimed = Claimed::default();
        let is_gated: Vec<bool> = claims.iter().map(|claim| self.is_gated(&claim.queue)).collect();
        for (claim, is_gated) in claims.into_iter().zip(is_gated) {
            let jobs = self.claim_one(claim, is_gated, &mut claimed)?;
            claimed.jobs.push(jobs);
        }
        self.release_dependents(&mut claimed.expired)?;
        Ok(claimed)
    }

    /// Whether the queue, or a job that is ready there, has limits.
    fn is_gated(&mut self, queue: &QueueName) -> bool {
        let Some(queue) = self.find_queue(queue) else { return false };
        let details = self.details(queue);
        details.gated > 0 || details.settings.is_limited()
    }

    fn claim_one(
        &mut self,
        claim: Claim,
        is_gated: bool,
        claimed: &mut Claimed,
    ) -> rusqlite::Result<Vec<LeasedJob>> {
        let Some(queue) = self.find_queue(&claim.queue) else { return Ok(Vec::new()) };
        let details = self.details(queue);
        if details.paused.is_some() {
            return Ok(Vec::new());
        }
        match is_gated {
            true => self.claim_gated(queue, claim, claimed),
            false if details.counts.ready == 0 => Ok(Vec::new()),
            false => self.claim_plain(queue, claim, &mut claimed.expired),
        }
    }

    fn claim_plain(
        &mut self,
        queue: QueueId,
        claim: Claim,
        expired: &mut Vec<Effect>,
    ) -> rusqlite::Result<Vec<LeasedJob>> {
        let lease_until = self.now + hold(&claim).0;
        let head = self.read_head(queue, claim.count, claim.bytes_max, lease_until)?;
        let Some(last) = head.last else { return Ok(Vec::new()) };
        self.leave_line_upto(queue, last)?;
        for (id, delivery) in head.expired {
            *self.count(queue, State::Ready) -= 1;
            expired.push(self.bury_waiting(queue, id, delivery, Reason::Expired)?);
        }
        self.hand_out(queue, claim, head.jobs)
    }

    /// Leases jobs that stand in line no more.
    pub(super) fn hand_out(
        &mut self,
        queue: QueueId,
        claim: Claim,
        jobs: Vec<Found>,
    ) -> rusqlite::Result<Vec<LeasedJob>> {
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        let (hold, session) = hold(&claim);
        let mut taken = Vec::with_capacity(jobs.len());
        for found in &jobs {
            self.begin_attempt(found)?;
            self.tell_leased(queue, found.job.lease, &claim.worker)?;
            let key = found.job.options.flow.concurrency.as_ref().map(|it| it.key.clone());
            let has_key = found.is_special || found.job.options.custom_id.is_some();
            let plain = !has_key && found.job.timeout.is_none() && key.is_none();
            let is_tagged = !found.job.tags.is_empty();
            taken.push(Taken { lease: found.job.lease, queue, plain, is_tagged, key });
        }
        *self.count(queue, State::Ready) -= taken.len() as u64;
        *self.count(queue, State::Leased) += taken.len() as u64;
        self.insert_lease(claim.worker, session, self.now, self.now + hold, taken)?;
        let with_needs = |found: Found| {
            let needs = self.needs(&found.job.options.depends)?;
            Ok(LeasedJob { needs, ..found.job })
        };
        jobs.into_iter().map(with_needs).collect()
    }

    /// A job as it is to be handed out.
    pub(super) fn body(&self, id: JobId, claim: &Claim) -> rusqlite::Result<Found> {
        let lease_until = self.now + hold(claim).0;
        let mut statement = self.conn.prepare_cached(SELECT_ONE)?;
        statement.query_row([sql_id(id)], |row| read_found(row, lease_until))
    }

    fn read_head(
        &self,
        queue: QueueId,
        count: usize,
        bytes_max: usize,
        lease_until: Timestamp,
    ) -> rusqlite::Result<Head> {
        let mut head = Head::default();
        let mut bytes = 0;
        let mut statement = self.conn.prepare_cached(SELECT_READY)?;
        let mut rows = statement.query([queue])?;
        while head.jobs.len() < count
            && let Some(row) = rows.next()?
        {
            let found = read_found(row, lease_until)?;
            let lease = found.job.lease;
            if found.expires_at.is_some_and(|at| at <= self.now) {
                head.expired.push((sql_id(lease.job), lease.delivery));
                head.last = Some(sql_id(lease.job));
                continue;
            }
            bytes += found.job.payload.bytes.len();
            if bytes > bytes_max && !head.jobs.is_empty() {
                break;
            }
            head.last = Some(sql_id(lease.job));
            head.jobs.push(found);
        }
        Ok(head)
    }

    /// A waiting job's clock stops, a running one's starts.
    fn begin_attempt(&self, found: &Found) -> rusqlite::Result<()> {
        let id = sql_id(found.job.lease.job);
        if let Some(expires_at) = found.expires_at {
            self.delete_ttl(id, expires_at)?;
        }
        if let Some(timeout) = found.job.timeout {
            let sql = "INSERT INTO deadline (at, job_id) VALUES (?1, ?2)";
            self.execute(sql, params![(self.now + timeout).0, id])?;
        }
        Ok(())
    }
}

fn hold(claim: &Claim) -> (Duration, Option<SessionId>) {
    match claim.hold {
        Hold::Session(session) => (SESSION_LEASE, Some(session)),
        Hold::Time(hold) => (hold, None),
    }
}

fn read_found(row: &rusqlite::Row<'_>, lease_until: Timestamp) -> rusqlite::Result<Found> {
    let job = LeasedJob {
        lease: Lease { job: row::job_id(row, 0)?, delivery: row.get(1)? },
        attempt: row.get::<_, u32>(2)? + 1,
        max_attempts: row.get(3)?,
        priority: row.get(4)?,
        created_at: Timestamp(row.get(5)?),
        lease_until,
        payload: row::payload(row, 6, 7)?,
        timeout: None,
        tags: Vec::new(),
        needs: Vec::new(),
        options: SparseOptions::default(),
    };
    let is_plain = !row.get::<_, bool>(13)?;
    if is_plain {
        return Ok(Found { job, is_special: false, expires_at: None });
    }
    let (timeout, tags) = (row::duration(row, 9)?, row::tags(row, 11)?);
    Ok(Found {
        job: LeasedJob { timeout, tags, options: row::options(row, 12)?.into(), ..job },
        is_special: row.get(10)?,
        expires_at: row::time(row, 8)?,
    })
}
