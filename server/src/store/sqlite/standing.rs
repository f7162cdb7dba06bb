//! What a job waits for.

use rusqlite::{Row, params};

use super::row::job_id;
use super::tables::{QueueId, Tables};
use crate::job::{JobId, State};
use crate::limits;
use crate::store::columns::sql_id;
use crate::store::{InLine, Job, Limit, Standing};

/// Jobs behind one gate that come before a rank, up to a number.
const OF_HIGHER_RANK: &str = "
    SELECT min(?4, coalesce(sum(1 + more), 0))
    FROM (SELECT more FROM ready WHERE queue_id = ?1 AND gate = ?2 AND rank < ?3 LIMIT ?4)";

const AHEAD: &str = "
    SELECT min(?5, coalesce(sum(min(1 + more, ?4 - place)), 0))
    FROM (
        SELECT more, place FROM ready
        WHERE queue_id = ?1 AND gate = ?2 AND rank = ?3 AND place < ?4
        LIMIT ?5
    )";

impl Tables {
    pub(super) fn find_standing(&self, id: JobId) -> rusqlite::Result<Option<Standing>> {
        let Some(job) = self.job(id)? else { return Ok(None) };
        let queue = self.find_queue(&job.queue).ok_or(rusqlite::Error::QueryReturnedNoRows)?;
        let needs = match job.state {
            State::Blocked => self.needs_left(id)?,
            _ => Vec::new(),
        };
        let is_ready = job.state == State::Ready;
        Ok(Some(Standing {
            now: self.now,
            attempt: self.last_attempt(&job)?,
            paused: self.details(queue).paused.clone(),
            needs,
            line: is_ready.then(|| self.in_line_of(queue, &job)).transpose()?,
            job: Job { payload: None, result: None, ..job },
        }))
    }

    /// The jobs that a job still waits for, and where they are.
    fn needs_left(&self, id: JobId) -> rusqlite::Result<Vec<(JobId, Option<State>)>> {
        let sql = "SELECT needs_id FROM dependency WHERE job_id = ?1 ORDER BY needs_id";
        let left = self.all(sql, [sql_id(id)], |row| job_id(row, 0))?;
        left.into_iter().map(|need| Ok((need, self.state(need)?))).collect()
    }

    fn in_line_of(&self, queue: QueueId, job: &Job) -> rusqlite::Result<InLine> {
        let most = limits::AHEAD_MAX;
        let number = |row: &Row<'_>| row.get::<_, usize>(0);
        let (own, rank) = (job.options.flow.gate().unwrap_or_default(), -i64::from(job.priority));
        let mut higher = 0;
        for gate in self.gates(queue)?.into_iter().take(most) {
            let left = most - higher;
            let found = self.one(OF_HIGHER_RANK, params![queue, gate, rank, left], number)?;
            higher += found.unwrap_or(0);
        }
        let sql = "SELECT place FROM job WHERE id = ?1";
        let place: Option<i64> = self.one(sql, [sql_id(job.id)], |row| row.get(0))?;
        let ahead = self.one(AHEAD, params![queue, own, rank, place, most], number)?;
        let flow = &job.options.flow;
        let key = flow.concurrency.as_ref().map(|one| &one.key);
        let of_key = self.leases.slots(queue).find(|(of, _)| Some(*of) == key);
        let holders: Vec<JobId> = of_key.map_or_else(Vec::new, |(_, holders)| {
            holders.iter().take(limits::HOLDERS_SHOWN_MAX).copied().collect()
        });
        let limits = Limit::all(&self.admission(queue)?, flow, &holders);
        Ok(InLine { higher, ahead: ahead.unwrap_or(0), limits })
    }
}
