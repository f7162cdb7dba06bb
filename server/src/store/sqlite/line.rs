//! The jobs in line: who stands where.
//!
//! A row of `ready` is a run: jobs with consecutive ids at consecutive places, behind one gate and
//! of one priority. A push of plain jobs makes one of all of them. Who leaves a run in its middle
//! splits it in two.

use rusqlite::{Row, params};

use super::tables::{QueueId, Tables};
use crate::job::State;

/// The last run that begins at a place or before it.
const RUN_OF: &str = "
    SELECT place, job_id, ready_at, more
    FROM ready
    WHERE queue_id = ?1 AND gate = ?2 AND rank = ?3 AND place <= ?4
    ORDER BY place DESC
    LIMIT 1";

const INSERT_RUN: &str = "
    INSERT INTO ready (queue_id, gate, rank, place, job_id, ready_at, more)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";

/// A claim takes what stands first without a gap: one range.
const DELETE_HEAD: &str = "
    DELETE FROM ready
    WHERE queue_id = ?1 AND gate = ''
    AND (rank, place) <= (?2, ?3)";

/// Where a job stands in the line of its queue.
pub(super) struct Spot {
    gate: String,
    rank: i64,
    place: i64,
}

#[derive(Clone, Copy)]
struct Run {
    place: i64,
    job: i64,
    ready_at: i64,
    more: i64,
}

impl Run {
    /// The part of it that stands before a place.
    fn before(self, place: i64) -> Option<Self> {
        let count = place - self.place;
        (count > 0).then(|| Self { more: count - 1, ..self })
    }

    /// The part of it that stands behind a place.
    fn behind(self, place: i64) -> Option<Self> {
        let gone = place + 1 - self.place;
        let more = self.more - gone;
        (more >= 0).then(|| Self { place: place + 1, job: self.job + gone, more, ..self })
    }
}

impl Tables {
    /// Puts a job in line, where its row says.
    pub(super) fn insert_ready(&mut self, queue: QueueId, id: i64) -> rusqlite::Result<()> {
        let spot = self.spot(id)?;
        let run = Run { place: spot.place, job: id, ready_at: self.now.0, more: 0 };
        self.insert_run(queue, &spot, run)?;
        *self.gated(queue) += u64::from(!spot.gate.is_empty());
        *self.count(queue, State::Ready) += 1;
        Ok(())
    }

    /// Puts new jobs in line that have no gate, in the order of their ids.
    pub(super) fn insert_all_ready(
        &mut self,
        queue: QueueId,
        priority: i32,
        first: i64,
        count: usize,
    ) -> rusqlite::Result<()> {
        let spot = Spot { gate: String::new(), rank: -i64::from(priority), place: first };
        let more = i64::try_from(count).unwrap_or(i64::MAX) - 1;
        let run = Run { place: first, job: first, ready_at: self.now.0, more };
        self.insert_run(queue, &spot, run)?;
        *self.count(queue, State::Ready) += count as u64;
        Ok(())
    }

    /// Takes a job out of the line.
    pub(super) fn leave_line(&mut self, queue: QueueId, id: i64) -> rusqlite::Result<()> {
        let spot = self.spot(id)?;
        let run = self.run_of(queue, &spot)?;
        let sql = "DELETE FROM ready
                   WHERE queue_id = ?1 AND gate = ?2 AND rank = ?3 AND place = ?4";
        self.execute(sql, params![queue, spot.gate, spot.rank, run.place])?;
        for part in [run.before(spot.place), run.behind(spot.place)].into_iter().flatten() {
            self.insert_run(queue, &spot, part)?;
        }
        *self.gated(queue) -= u64::from(!spot.gate.is_empty());
        *self.count(queue, State::Ready) -= 1;
        Ok(())
    }

    /// Takes all jobs out of the line that stand behind no gate, up to this one. They are still
    /// counted.
    pub(super) fn leave_line_upto(&self, queue: QueueId, last: i64) -> rusqlite::Result<()> {
        let spot = self.spot(last)?;
        let run = self.run_of(queue, &spot)?;
        self.execute(DELETE_HEAD, params![queue, spot.rank, spot.place])?;
        match run.behind(spot.place) {
            Some(left) => self.insert_run(queue, &spot, left),
            None => Ok(()),
        }
    }

    fn spot(&self, id: i64) -> rusqlite::Result<Spot> {
        let sql = "SELECT gate, -priority, place FROM job WHERE id = ?1";
        let read =
            |row: &Row<'_>| Ok(Spot { gate: row.get(0)?, rank: row.get(1)?, place: row.get(2)? });
        self.conn.prepare_cached(sql)?.query_row([id], read)
    }

    fn run_of(&self, queue: QueueId, spot: &Spot) -> rusqlite::Result<Run> {
        let values = params![queue, spot.gate, spot.rank, spot.place];
        self.conn.prepare_cached(RUN_OF)?.query_row(values, |row| {
            let (place, job) = (row.get(0)?, row.get(1)?);
            Ok(Run { place, job, ready_at: row.get(2)?, more: row.get(3)? })
        })
    }

    fn insert_run(&self, queue: QueueId, spot: &Spot, run: Run) -> rusqlite::Result<()> {
        let Run { place, job, ready_at, more } = run;
        self.execute(INSERT_RUN, params![queue, spot.gate, spot.rank, place, job, ready_at, more])
    }
}
