//! Live leases: who has which job, and until when.
//!
//! The rows of `lease` are kept in memory too, so that a settlement finds its lease without a
//! query. On disk a row is written when jobs are claimed and deleted when none of them is left;
//! in between nothing is written for the jobs that are settled, their deliveries tell.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use rusqlite::{Connection, OptionalExtension, params};

use super::tables::{QueueId, Tables};
use crate::job::{Ending, FlowKey, JobId, Lease, Timestamp, WorkerName};
use crate::store::columns::sql_id;
use crate::store::{Effect, Extended, Extension, SESSION_LEASE, SessionId};

pub(super) type LeaseId = i64;

/// By numbers of our own making, which nobody can choose so that they meet.
type ByNumber<K, V> = HashMap<K, V, BuildHasherDefault<NumberHasher>>;

/// All live leases.
#[derive(Default)]
pub(super) struct LeaseIndex {
    rows: ByNumber<LeaseId, LeaseRow>,
    jobs: ByNumber<JobId, Held>,
    by_session: HashMap<SessionId, BTreeSet<LeaseId>>,
    by_expiry: BTreeSet<(Timestamp, LeaseId)>,
    /// Live leases of each queue and concurrency key.
    slots: HashMap<(QueueId, FlowKey), BTreeSet<JobId>>,
}

/// One claim.
#[derive(Clone)]
pub(super) struct LeaseRow {
    pub(super) node: String,
    pub(super) worker: WorkerName,
    pub(super) session: Option<SessionId>,
    pub(super) started_at: Timestamp,
    pub(super) expires_at: Timestamp,
    /// As claimed; those that have left are no longer in `LeaseIndex::jobs` with this row.
    jobs: Vec<Lease>,
    left: usize,
}

/// One leased job.
#[derive(Clone)]
pub(super) struct Held {
    pub(super) row: LeaseId,
    pub(super) delivery: u32,
    pub(super) queue: QueueId,
    /// It uses nothing that must be tidied up when its lease ends.
    pub(super) plain: bool,
    /// It may have tags.
    pub(super) is_tagged: bool,
    /// Of which it has a slot.
    key: Option<FlowKey>,
}

/// A job that is to be leased.
pub(super) struct Taken {
    pub(super) lease: Lease,
    pub(super) queue: QueueId,
    /// See [`Held::plain`].
    pub(super) plain: bool,
    /// See [`Held::is_tagged`].
    pub(super) is_tagged: bool,
    /// Its concurrency key.
    pub(super) key: Option<FlowKey>,
}

/// Spreads numbers that follow one another, for the price of a multiplication.
#[derive(Default)]
struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only numbers are hashed");
    }

    fn write_u64(&mut self, number: u64) {
        // 2^64 divided by the golden ratio.
        self.0 = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_i64(&mut self, number: i64) {
        self.write_u64(number.cast_unsigned());
    }
}

impl LeaseIndex {
    pub(super) fn load(conn: &Connection) -> rusqlite::Result<Self> {
        let mut index = Self::default();
        let sql = "SELECT queue_id, options FROM job WHERE id = ?1 AND delivery = ?2";
        let mut job = conn.prepare(sql)?;
        let mut statement = conn
            .prepare("SELECT id, node, worker, session, started_at, expires_at, jobs FROM lease")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let lease_row = LeaseRow {
                node: row.get(1)?,
                worker: WorkerName::parse(&row.get::<_, String>(2)?)
                    .unwrap_or_else(|_| WorkerName::parse("").expect("it may be empty")),
                session: row.get::<_, Option<i64>>(3)?.map(|id| SessionId(id.cast_unsigned())),
                started_at: Timestamp(row.get(4)?),
                expires_at: Timestamp(row.get(5)?),
                jobs: Vec::new(),
                left: 0,
            };
            let mut held = Vec::new();
            for lease in unpack(row.get_ref(6)?.as_blob()?) {
                let id = lease.job.0.cast_signed();
                let read = |row: &rusqlite::Row<'_>| {
                    let key = super::row::options(row, 1)?.flow.concurrency.map(|it| it.key);
                    Ok(Taken { lease, queue: row.get(0)?, plain: false, is_tagged: true, key })
                };
                held.extend(job.query_row(params![id, lease.delivery], read).optional()?);
            }
            index.insert(row.get(0)?, lease_row, held);
        }
        Ok(index)
    }

    /// The queue of each leased job.
    pub(super) fn queues(&self) -> impl Iterator<Item = QueueId> {
        self.jobs.values().map(|held| held.queue)
    }

    fn insert(&mut self, id: LeaseId, row: LeaseRow, taken: Vec<Taken>) {
        let jobs: Vec<Lease> = taken.iter().map(|taken| taken.lease).collect();
        for Taken { lease, queue, plain, is_tagged, key } in taken {
            if let Some(key) = &key {
                self.slots.entry((queue, key.clone())).or_default().insert(lease.job);
            }
            let delivery = lease.delivery;
            let held = Held { row: id, delivery, queue, plain, is_tagged, key };
            self.jobs.insert(lease.job, held);
        }
        if let Some(session) = row.session {
            self.by_session.entry(session).or_default().insert(id);
        }
        self.by_expiry.insert((row.expires_at, id));
        self.rows.insert(id, LeaseRow { left: jobs.len(), jobs, ..row });
    }

    /// The job, if somebody has it.
    pub(super) fn held(&self, job: JobId) -> Option<Held> {
        self.jobs.get(&job).cloned()
    }

    /// The live lease of each job.
    pub(super) fn live(&self, jobs: &[JobId]) -> Vec<Option<Lease>> {
        let lease = |job: &JobId| {
            let held = self.jobs.get(job)?;
            Some(Lease { job: *job, delivery: held.delivery })
        };
        jobs.iter().map(lease).collect()
    }

    /// The job, if this very lease is live.
    pub(super) fn find(&self, lease: Lease) -> Option<&Held> {
        self.jobs.get(&lease.job).filter(|held| held.delivery == lease.delivery)
    }

    /// From now on there is something to tidy up when the job's lease ends.
    pub(super) fn set_not_plain(&mut self, job: JobId) {
        if let Some(held) = self.jobs.get_mut(&job) {
            held.plain = false;
        }
    }

    pub(super) fn row(&self, id: LeaseId) -> &LeaseRow {
        self.rows.get(&id).expect("a held job's row is there until its last job leaves")
    }

    /// The leases that a row still holds.
    fn leases_of(&self, id: LeaseId) -> Vec<Lease> {
        let row = self.row(id);
        let is_left = |lease: &&Lease| self.jobs.get(&lease.job).is_some_and(|held| held.row == id);
        row.jobs.iter().filter(is_left).copied().collect()
    }

    fn rows_of(&self, session: SessionId) -> Vec<LeaseId> {
        self.by_session.get(&session).map(|ids| ids.iter().copied().collect()).unwrap_or_default()
    }

    fn leases_of_session(&self, session: SessionId) -> Vec<Lease> {
        let mut leases: Vec<Lease> =
            self.rows_of(session).into_iter().flat_map(|id| self.leases_of(id)).collect();
        leases.sort_unstable();
        leases
    }

    /// Who has slots of the queue's keys.
    pub(super) fn slots(
        &self,
        queue: QueueId,
    ) -> impl Iterator<Item = (&FlowKey, &BTreeSet<JobId>)> {
        let of_queue = self.slots.iter().filter(move |((of, _), _)| *of == queue);
        of_queue.map(|((_, key), holders)| (key, holders))
    }

    /// When the next lease runs out.
    pub(super) fn next_expiry(&self) -> Option<Timestamp> {
        self.by_expiry.first().map(|(at, _)| *at)
    }

    /// Leases that have run out, of at least `count` jobs if there are so many, by job.
    pub(super) fn run_out(&self, now: Timestamp, count: usize) -> Vec<Lease> {
        let mut leases = Vec::new();
        for (at, id) in &self.by_expiry {
            if *at > now || leases.len() >= count {
                break;
            }
            leases.extend(self.leases_of(*id));
        }
        leases.sort_unstable();
        leases
    }

    fn set_expiry(&mut self, id: LeaseId, at: Timestamp) {
        if let Some(row) = self.rows.get_mut(&id) {
            self.by_expiry.remove(&(row.expires_at, id));
            row.expires_at = at;
            self.by_expiry.insert((at, id));
        }
    }

    /// Takes a job out of its row. True: it was the last one, and the row is gone.
    fn remove(&mut self, job: JobId) -> Option<(LeaseId, bool)> {
        let held = self.jobs.remove(&job)?;
        if let Some(key) = held.key {
            let slot = (held.queue, key);
            if let Some(holders) = self.slots.get_mut(&slot) {
                holders.remove(&job);
                if holders.is_empty() {
                    self.slots.remove(&slot);
                }
            }
        }
        let row = self.rows.get_mut(&held.row)?;
        row.left -= 1;
        if row.left > 0 {
            return Some((held.row, false));
        }
        self.by_expiry.remove(&(row.expires_at, held.row));
        let session = row.session;
        self.rows.remove(&held.row);
        if let Some(session) = session
            && let Some(ids) = self.by_session.get_mut(&session)
        {
            ids.remove(&held.row);
            if ids.is_empty() {
                self.by_session.remove(&session);
            }
        }
        Some((held.row, true))
    }
}

impl Tables {
    /// Writes a lease over jobs.
    pub(super) fn insert_lease(
        &mut self,
        worker: WorkerName,
        session: Option<SessionId>,
        started_at: Timestamp,
        expires_at: Timestamp,
        taken: Vec<Taken>,
    ) -> rusqlite::Result<()> {
        self.execute(
            "INSERT INTO lease (node, worker, session, started_at, expires_at, jobs)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                &*self.node,
                worker.as_str(),
                session.map(|id| id.0.cast_signed()),
                started_at.0,
                expires_at.0,
                pack(taken.iter().map(|taken| &taken.lease)),
            ],
        )?;
        let node = self.node.to_string();
        let row =
            LeaseRow { node, worker, session, started_at, expires_at, jobs: Vec::new(), left: 0 };
        self.leases.insert(self.conn.last_insert_rowid(), row, taken);
        Ok(())
    }

    /// Takes a job out of its lease.
    pub(super) fn drop_lease(&mut self, job: JobId) -> rusqlite::Result<()> {
        match self.leases.remove(job) {
            Some((row, true)) => self.execute("DELETE FROM lease WHERE id = ?1", [row]),
            _ => Ok(()),
        }
    }

    pub(super) fn extend(&mut self, extension: Extension) -> rusqlite::Result<Option<Extended>> {
        let Some(until) = self.prolong(extension)? else { return Ok(None) };
        let sql = "SELECT force_at FROM cancel WHERE job_id = ?1";
        let cancel_at = self.one(sql, [sql_id(extension.lease.job)], |row| row.get(0))?;
        Ok(Some(Extended { until, cancel_at: cancel_at.map(Timestamp) }))
    }

    fn prolong(&mut self, extension: Extension) -> rusqlite::Result<Option<Timestamp>> {
        let lease = extension.lease;
        let until = self.now + extension.hold;
        let Some(held) = self.leases.held(lease.job) else { return Ok(None) };
        if held.delivery != lease.delivery {
            return Ok(None);
        }
        let row = self.leases.row(held.row).clone();
        if row.left == 1 && row.session.is_none() {
            self.set_expiry(held.row, until)?;
            return Ok(Some(until));
        }
        // A lease of its own, so that whoever takes the old row away does not take this job.
        self.drop_lease(lease.job)?;
        self.rewrite_lease(held.row)?;
        let Held { queue, plain, is_tagged, key, .. } = held;
        let own = vec![Taken { lease, queue, plain, is_tagged, key }];
        self.insert_lease(row.worker, None, row.started_at, until, own)?;
        Ok(Some(until))
    }

    /// A job that left its row while keeping its delivery must not be found in the row again.
    fn rewrite_lease(&mut self, id: LeaseId) -> rusqlite::Result<()> {
        if !self.leases.rows.contains_key(&id) {
            return Ok(());
        }
        let left = pack(self.leases.leases_of(id).iter());
        self.execute("UPDATE lease SET jobs = ?2 WHERE id = ?1", params![id, left])
    }

    fn set_expiry(&mut self, id: LeaseId, at: Timestamp) -> rusqlite::Result<()> {
        self.execute("UPDATE lease SET expires_at = ?2 WHERE id = ?1", params![id, at.0])?;
        self.leases.set_expiry(id, at);
        Ok(())
    }

    pub(super) fn renew(&mut self, sessions: Vec<SessionId>) -> rusqlite::Result<()> {
        let until = self.now + SESSION_LEASE;
        for session in sessions {
            for id in self.leases.rows_of(session) {
                self.set_expiry(id, until)?;
            }
        }
        Ok(())
    }

    pub(super) fn adopt(&mut self, session: SessionId) -> rusqlite::Result<Vec<Lease>> {
        self.renew(vec![session])?;
        Ok(self.leases.leases_of_session(session))
    }

    pub(super) fn give_back(&mut self, session: SessionId) -> rusqlite::Result<Vec<Effect>> {
        let mut effects = Vec::new();
        for lease in self.leases.leases_of_session(session) {
            effects.push(self.take_away(lease, Ending::Crashed)?);
        }
        self.release_dependents(&mut effects)?;
        Ok(effects)
    }
}

const PACKED_BYTES: usize = 12;

fn pack<'a>(leases: impl Iterator<Item = &'a Lease>) -> Vec<u8> {
    let mut packed = Vec::new();
    for lease in leases {
        packed.extend_from_slice(&lease.job.0.to_be_bytes());
        packed.extend_from_slice(&lease.delivery.to_be_bytes());
    }
    packed
}

fn unpack(packed: &[u8]) -> impl Iterator<Item = Lease> {
    let (entries, _) = packed.as_chunks::<PACKED_BYTES>();
    entries.iter().map(|entry| {
        let (job, delivery) = entry.split_at(8);
        Lease {
            job: JobId(u64::from_be_bytes(job.try_into().expect("8 of 12 bytes"))),
            delivery: u32::from_be_bytes(delivery.try_into().expect("4 of 12 bytes")),
        }
    })
}
