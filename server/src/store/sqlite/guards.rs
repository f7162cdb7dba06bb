//! Judging pushes.

use std::collections::BTreeMap;

use rusqlite::params;

use super::row;
use super::tables::{QueueId, Tables};
use crate::job::{Fill, Guard, NewJob, QueueName, Timestamp};
use crate::store::columns::sql_millis;
use crate::store::guards::{DECISIONS_KEPT, judge, minute_of};
use crate::store::{DUTY_ROWS_MAX, Decision, Pushed};

/// Of jobs that are not leased.
const WAITING_BYTES: &str = "
    SELECT coalesce(sum(length(j.payload)), 0)
    FROM job j
    WHERE j.queue_id = ?1 AND (
        j.is_blocked OR j.run_at IS NOT NULL OR j.place <= (
            SELECT r.place + r.more FROM ready r
            WHERE r.queue_id = j.queue_id AND r.gate = j.gate AND r.rank = -j.priority
            AND r.place <= j.place
            ORDER BY r.place DESC LIMIT 1
        )
    )";

impl Tables {
    pub(super) fn push_judged(&mut self, jobs: Vec<NewJob>) -> rusqlite::Result<Vec<Pushed>> {
        if !self.has_guards {
            return self.push(jobs);
        }
        let mut guards = BTreeMap::new();
        for queue in jobs.iter().map(|job| &job.queue) {
            let Some(id) = self.find_queue(queue).filter(|_| !guards.contains_key(queue)) else {
                continue;
            };
            let settings = self.details(id).settings.clone();
            if settings.is_guarded() {
                let fill = self.fill(id, settings.waiting_bytes_max.is_some())?;
                guards.insert(queue.clone(), (settings, fill));
            }
        }
        // Queues come into being with their first push, also if it is refused.
        for job in &jobs {
            self.queue(&job.queue)?;
        }
        let judged = judge(&jobs, &mut guards);
        let minute = minute_of(self.now).0;
        for queue in judged.taken.keys() {
            let (settings, fill) = &guards[queue];
            if settings.pushes_per_minute.is_some() {
                let sql = "INSERT OR REPLACE INTO taken (queue_id, minute, count)
                           VALUES (?1, ?2, ?3)";
                let id = self.queue(queue)?;
                self.execute(sql, params![id, minute, sql_count(fill.this_minute)])?;
            }
        }
        for ((queue, guard), (count, max)) in &judged.refused {
            let sql = "INSERT INTO decision (minute, queue_id, guard, max, count, last_at)
                       VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                       ON CONFLICT DO UPDATE
                       SET count = count + excluded.count, max = excluded.max,
                           last_at = excluded.last_at";
            let (count, max) = (sql_count(*count), sql_count(*max));
            let id = self.queue(queue)?;
            self.execute(sql, params![minute, id, guard.name(), max, count, self.now.0])?;
        }
        let pushed = self.push(judged.admitted(jobs))?;
        Ok(judged.answers(pushed))
    }

    fn fill(&self, queue: QueueId, with_bytes: bool) -> rusqlite::Result<Fill> {
        let sql = "SELECT count FROM taken WHERE queue_id = ?1 AND minute = ?2";
        let this_minute = self.one(sql, [queue, minute_of(self.now).0], |row| row.get(0))?;
        let bytes = match with_bytes {
            true => self.one(WAITING_BYTES, [queue], |row| row.get(0))?,
            false => None,
        };
        let counts = self.details(queue).counts;
        Ok(Fill {
            this_minute: number(this_minute),
            waiting: counts.scheduled + counts.blocked + counts.ready,
            waiting_bytes: number(bytes),
        })
    }

    pub(super) fn decisions(
        &self,
        queue: Option<&QueueName>,
        limit: usize,
    ) -> rusqlite::Result<Vec<Decision>> {
        let sql = "SELECT q.name, d.guard, d.max, d.count, d.minute, d.last_at
                   FROM decision d JOIN queue q ON q.id = d.queue_id
                   WHERE ?1 IS NULL OR q.name = ?1
                   ORDER BY d.minute DESC, q.name, d.guard
                   LIMIT ?2";
        self.all(sql, params![queue.map(QueueName::as_str), limit], |row| {
            let guard = row::parsed(row, 1, |name| Guard::parse(name).ok_or(()))?;
            Ok(Decision {
                queue: row::parsed(row, 0, QueueName::parse)?
                    .ok_or(rusqlite::Error::InvalidQuery)?,
                guard: guard.ok_or(rusqlite::Error::InvalidQuery)?,
                max: number(row.get(2)?),
                count: number(row.get(3)?),
                minute: Timestamp(row.get(4)?),
                last_at: Timestamp(row.get(5)?),
            })
        })
    }

    pub(super) fn forget_decisions(&self) -> rusqlite::Result<()> {
        let until = self.now.0.saturating_sub(sql_millis(DECISIONS_KEPT));
        let sql = "DELETE FROM decision WHERE (minute, queue_id, guard) IN (
                       SELECT minute, queue_id, guard FROM decision
                       WHERE minute <= ?1 ORDER BY minute LIMIT ?2
                   )";
        self.execute(sql, params![until, DUTY_ROWS_MAX])
    }
}

fn number(count: Option<i64>) -> u64 {
    count.and_then(|count| u64::try_from(count).ok()).unwrap_or(0)
}

fn sql_count(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
