//! Leasing ready jobs.

use rusqlite::params;

use super::row;
use super::tables::{QueueId, Tables};
use crate::job::{Lease, Reason, State, Timestamp};
use crate::store::columns::sql_id;
use crate::store::{Claim, Claimed, Effect, Hold, LeasedJob, SESSION_LEASE};

/// In the order of claims. The caller stops reading when it has enough.
const SELECT_READY: &str = "
    SELECT
        r.rank, r.place, j.id, j.delivery, j.attempts, j.max_attempts, j.priority, j.created_at,
        j.expires_at, j.timeout_ms, j.unique_key IS NOT NULL, j.tags, j.content_type, j.payload
    FROM ready r
    CROSS JOIN job j ON j.id = r.job_id
    WHERE r.queue_id = ?1
    ORDER BY r.rank, r.place";

/// A claim takes what stands first without a gap: one range.
const DELETE_READY: &str = "
    DELETE FROM ready
    WHERE queue_id = ?1
    AND (rank, place) <= (?2, ?3)";

/// What a claim found at the head of a queue.
#[derive(Default)]
struct Head {
    jobs: Vec<Found>,
    expired: Vec<(i64, u32)>,
    /// Rank and place of the last one.
    last: Option<(i64, i64)>,
}

struct Found {
    job: LeasedJob,
    is_unique: bool,
    expires_at: Option<Timestamp>,
}

impl Tables {
    pub(super) fn claim(&mut self, claims: Vec<Claim>) -> rusqlite::Result<Claimed> {
        let mut claimed = Claimed::default();
        for claim in claims {
            let jobs = self.claim_one(claim, &mut claimed.expired)?;
            claimed.jobs.push(jobs);
        }
        Ok(claimed)
    }

    fn claim_one(
        &mut self,
        claim: Claim,
        expired: &mut Vec<Effect>,
    ) -> rusqlite::Result<Vec<LeasedJob>> {
        let Some(queue) = self.find_queue(&claim.queue) else { return Ok(Vec::new()) };
        let details = self.details(queue);
        if details.paused_at.is_some() || details.counts.ready == 0 {
            return Ok(Vec::new());
        }
        let (hold, session) = match claim.hold {
            Hold::Session(session) => (SESSION_LEASE, Some(session)),
            Hold::Time(hold) => (hold, None),
        };
        let lease_until = self.now + hold;
        let head = self.read_head(queue, claim.count, claim.bytes_max, lease_until)?;
        let Some((rank, place)) = head.last else { return Ok(Vec::new()) };
        self.execute(DELETE_READY, params![queue, rank, place])?;
        for (id, delivery) in head.expired {
            *self.count(queue, State::Ready) -= 1;
            expired.push(self.bury_waiting(queue, id, delivery, Reason::Expired)?);
        }
        let mut held = Vec::with_capacity(head.jobs.len());
        for found in &head.jobs {
            self.begin_attempt(found)?;
            let plain = !found.is_unique && found.job.timeout.is_none();
            held.push((found.job.lease, queue, plain));
        }
        if !held.is_empty() {
            *self.count(queue, State::Ready) -= held.len() as u64;
            *self.count(queue, State::Leased) += held.len() as u64;
            self.insert_lease(claim.worker, session, self.now, lease_until, held)?;
        }
        Ok(head.jobs.into_iter().map(|found| found.job).collect())
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
            let place = (row.get(0)?, row.get(1)?);
            let expires_at = row::time(row, 8)?;
            if expires_at.is_some_and(|at| at <= self.now) {
                head.expired.push((row.get(2)?, row.get(3)?));
                head.last = Some(place);
                continue;
            }
            let job = leased_job(row, lease_until)?;
            bytes += job.payload.bytes.len();
            if bytes > bytes_max && !head.jobs.is_empty() {
                break;
            }
            head.last = Some(place);
            head.jobs.push(Found { job, is_unique: row.get(10)?, expires_at });
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

fn leased_job(row: &rusqlite::Row<'_>, lease_until: Timestamp) -> rusqlite::Result<LeasedJob> {
    Ok(LeasedJob {
        lease: Lease { job: row::job_id(row, 2)?, delivery: row.get(3)? },
        attempt: row.get::<_, u32>(4)? + 1,
        max_attempts: row.get(5)?,
        priority: row.get(6)?,
        created_at: Timestamp(row.get(7)?),
        lease_until,
        timeout: row::duration(row, 9)?,
        tags: row::tags(row, 11)?,
        payload: row::payload(row, 12, 13)?,
    })
}
