//! Jobs behind gates: claims where there are limits.

use std::collections::{HashMap, VecDeque};

use rusqlite::params;

use super::row::{self, job_id};
use super::tables::{QueueId, Tables};
use crate::job::{Admission, Bucket, Fair, Found, JobId, Line, QueueName, Reason, State, Waiting};
use crate::store::columns::sql_id;
use crate::store::{Claim, Claimed, KeyUse, KeyUses, LeasedJob};

/// Jobs of one line that are read at a time.
const PART: usize = 8;

/// Hops from gate to gate.
const NEXT_GATE: &str = "
    SELECT gate FROM ready
    WHERE queue_id = ?1 AND gate > ?2
    ORDER BY gate
    LIMIT 1";

const IN_LINE: &str = "
    SELECT j.id, j.delivery, j.priority, j.place, j.expires_at, length(j.payload), j.options
    FROM ready r
    CROSS JOIN job j ON j.id BETWEEN r.job_id AND r.job_id + r.more
    WHERE r.queue_id = ?1 AND r.gate = ?2
    ORDER BY r.rank, r.place, j.id
    LIMIT ?3";

/// A job in line: its number, and that of its next lease.
type InLine = (JobId, u32);

impl Tables {
    pub(super) fn claim_gated(
        &mut self,
        queue: QueueId,
        claim: Claim,
        claimed: &mut Claimed,
    ) -> rusqlite::Result<Vec<LeasedJob>> {
        let mut fair = Fair::new(self.admission(queue)?, self.lines(queue)?);
        let (mut taken, mut left) = (Vec::new(), None);
        while taken.len() < claim.count {
            match fair.next(left) {
                Found::Job(job) => {
                    let room = left.unwrap_or(claim.bytes_max);
                    left = Some(room.saturating_sub(job.bytes));
                    self.leave_line(queue, sql_id(job.job.0))?;
                    // It is counted once more when it is handed out.
                    *self.count(queue, State::Ready) += 1;
                    taken.push(self.body(job.job.0, &claim)?);
                }
                Found::Expired(job) => {
                    let (id, delivery) = (sql_id(job.job.0), job.job.1);
                    self.leave_line(queue, id)?;
                    let expired = Reason::Expired;
                    claimed.expired.push(self.bury_waiting(queue, id, delivery, expired)?);
                }
                // What was read before has been taken out of the line.
                Found::Dry(at) => {
                    let gate = fair.line(at).gate.clone();
                    let (jobs, has_more) = self.in_line(queue, &gate)?;
                    fair.fill(at, jobs, has_more);
                }
                Found::TooLarge | Found::Nothing => break,
            }
        }
        if taken.len() < claim.count {
            let closed = fair.closed();
            claimed.closed.extend(closed.map(|until| (claim.queue.clone(), until)));
        }
        let (turns, admission) = fair.end();
        self.remember(queue, turns, &admission)?;
        self.hand_out(queue, claim, taken)
    }

    fn lines(&self, queue: QueueId) -> rusqlite::Result<Vec<Line<InLine>>> {
        let sql = "SELECT gate, turn FROM turn WHERE queue_id = ?1";
        let turns = self.all(sql, [queue], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let turns: HashMap<String, i64> = turns.into_iter().collect();
        let line = |gate: String| {
            let (jobs, has_more) = self.in_line(queue, &gate)?;
            Ok(Line { turn: turns.get(&gate).copied(), gate, jobs, has_more })
        };
        self.gates(queue)?.into_iter().map(line).collect()
    }

    /// The gates that jobs wait behind; an empty one for those that wait behind none.
    pub(super) fn gates(&self, queue: QueueId) -> rusqlite::Result<Vec<String>> {
        let mut gates: Vec<String> = Vec::new();
        let sql = "SELECT 1 FROM ready WHERE queue_id = ?1 AND gate = '' LIMIT 1";
        gates.extend(self.one(sql, [queue], |_| Ok(String::new()))?);
        let mut last = String::new();
        while let Some(gate) = self.one(NEXT_GATE, params![queue, last], |row| row.get(0))? {
            last = gate;
            gates.push(last.clone());
        }
        Ok(gates)
    }

    /// The first jobs of a line, and whether there may be more.
    fn in_line(
        &self,
        queue: QueueId,
        gate: &str,
    ) -> rusqlite::Result<(VecDeque<Waiting<InLine>>, bool)> {
        let jobs = self.all(IN_LINE, params![queue, gate, PART], |row| {
            Ok(Waiting {
                job: (job_id(row, 0)?, row.get(1)?),
                priority: row.get(2)?,
                place: row.get(3)?,
                expires_at: row::time(row, 4)?,
                bytes: row.get(5)?,
                flow: row::options(row, 6)?.flow,
            })
        })?;
        let has_more = jobs.len() == PART;
        Ok((jobs.into(), has_more))
    }

    /// What is in use.
    pub(super) fn admission(&self, queue: QueueId) -> rusqlite::Result<Admission> {
        let details = self.details(queue);
        let slots = self.leases.slots(queue);
        let slots = slots.map(|(key, holders)| {
            (key.as_str().to_owned(), u32::try_from(holders.len()).unwrap_or(u32::MAX))
        });
        let sql = "SELECT key, full_at_us FROM bucket WHERE queue_id = ?1";
        let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, Bucket { full_at_us: row.get(1)? }));
        let mut buckets: HashMap<String, Bucket> =
            self.all(sql, [queue], read)?.into_iter().collect();
        Ok(Admission {
            settings: details.settings.clone(),
            leased: u32::try_from(details.counts.leased).unwrap_or(u32::MAX),
            slots: slots.collect(),
            bucket: buckets.remove("").unwrap_or_default(),
            buckets,
            now_us: self.now.0 * 1000,
        })
    }

    fn remember(
        &self,
        queue: QueueId,
        turns: Vec<(String, i64)>,
        admission: &Admission,
    ) -> rusqlite::Result<()> {
        self.execute("DELETE FROM turn WHERE queue_id = ?1", [queue])?;
        for (gate, turn) in turns {
            let sql = "INSERT INTO turn (queue_id, gate, turn) VALUES (?1, ?2, ?3)";
            self.execute(sql, params![queue, gate, turn])?;
        }
        let sql = "DELETE FROM bucket WHERE queue_id = ?1";
        self.execute(sql, [queue])?;
        let buckets = admission.buckets.iter().map(|(key, bucket)| (key.as_str(), bucket));
        for (key, bucket) in buckets.chain([("", &admission.bucket)]) {
            if !bucket.is_as_new(admission.now_us) {
                let sql = "INSERT INTO bucket (queue_id, key, full_at_us) VALUES (?1, ?2, ?3)";
                self.execute(sql, params![queue, key, bucket.full_at_us])?;
            }
        }
        Ok(())
    }

    pub(super) fn key_uses(&self, name: &QueueName) -> rusqlite::Result<Vec<KeyUse>> {
        let Some(queue) = self.find_queue(name) else { return Ok(Vec::new()) };
        let admission = self.admission(queue)?;
        let sql = "SELECT options, id FROM job WHERE queue_id = ?1 AND gate <> '' ORDER BY id";
        let flows =
            self.all(sql, [queue], |row| Ok((row::options(row, 0)?.flow, job_id(row, 1)?)))?;
        let mut uses = KeyUses::default();
        for (flow, id) in flows {
            match self.live_state(id)? {
                State::Ready => uses.waits(&flow),
                State::Leased => uses.holds(&flow, id),
                _ => {}
            }
        }
        Ok(uses.shown(&admission))
    }
}
