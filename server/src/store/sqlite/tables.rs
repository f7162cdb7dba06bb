//! The tables, and what is kept in memory of them: queues, live leases, counts.
//!
//! What is in memory can always be read from the tables again; after a rollback it is.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};

use super::events::Telling;
use super::leases::LeaseIndex;
use crate::clock::Clock;
use crate::job::{JobId, QueueName, Settings, State, Timestamp};
use crate::store::columns::{parse_settings, sql_settings};
use crate::store::{Counts, Detail, EventKind, Paused, Retention};

/// Numbers are taken from the table in blocks: a crash skips the rest of one.
const NUMBERS_BLOCK: i64 = 1000;

/// The writer's view of the store.
pub(super) struct Tables {
    pub(super) conn: Connection,
    pub(super) node: Arc<str>,
    pub(super) retention: Retention,
    clock: Arc<dyn Clock>,
    /// The time of the present transaction.
    pub(super) now: Timestamp,
    queues: HashMap<QueueName, QueueId>,
    details: HashMap<QueueId, QueueDetails>,
    pub(super) leases: LeaseIndex,
    /// Whether any queue has guards.
    pub(super) has_guards: bool,
    /// Jobs that ended in this call, for those that wait for them.
    pub(super) ended: Vec<(JobId, State)>,
    pub(super) telling: Telling,
    /// The last line of a log, by job and number, that the sweep has looked at: a hint.
    pub(super) swept: (i64, i64),
    /// The next number, and the first that is not ours to use yet.
    numbers: (i64, i64),
    /// The memory may not be what the tables say.
    stale: bool,
}

/// A queue's key in the tables.
pub(super) type QueueId = i64;

/// What is known of a queue.
pub(super) struct QueueDetails {
    pub(super) name: QueueName,
    pub(super) paused: Option<Paused>,
    pub(super) settings: Settings,
    pub(super) counts: Counts,
    /// Ready jobs that wait behind a gate.
    pub(super) gated: u64,
}

impl QueueDetails {
    fn new(name: QueueName) -> Self {
        let (settings, counts) = (Settings::default(), Counts::default());
        Self { name, paused: None, settings, counts, gated: 0 }
    }
}

impl Tables {
    /// # Errors
    ///
    /// If the tables can not be read.
    pub(super) fn new(
        conn: Connection,
        node: &str,
        clock: Arc<dyn Clock>,
        retention: Retention,
    ) -> rusqlite::Result<Self> {
        conn.set_prepared_statement_cache_capacity(128);
        let mut tables = Self {
            conn,
            node: node.into(),
            retention,
            now: clock.now(),
            clock,
            queues: HashMap::new(),
            details: HashMap::new(),
            leases: LeaseIndex::default(),
            has_guards: false,
            ended: Vec::new(),
            telling: Telling::default(),
            swept: (0, 0),
            numbers: (0, 0),
            stale: true,
        };
        tables.reload()?;
        Ok(tables)
    }

    pub(super) fn begin(&mut self) -> rusqlite::Result<()> {
        self.ended.clear();
        if self.stale {
            self.reload()?;
        }
        self.now = self.clock.now();
        self.execute("BEGIN", [])
    }

    pub(super) fn commit(&mut self) -> rusqlite::Result<()> {
        self.execute("COMMIT", [])?;
        self.telling.committed();
        Ok(())
    }

    pub(super) fn roll_back(&mut self) {
        self.stale = true;
        if !self.conn.is_autocommit()
            && let Err(error) = self.conn.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "rollback failed");
        }
    }

    /// Runs a statement whose row count is of no interest.
    pub(super) fn execute(&self, sql: &str, params: impl rusqlite::Params) -> rusqlite::Result<()> {
        self.conn.prepare_cached(sql)?.execute(params).map(|_| ())
    }

    /// Reads everything that is kept in memory.
    fn reload(&mut self) -> rusqlite::Result<()> {
        let sql = "SELECT value FROM meta WHERE key = 'next_number'";
        let next = self.conn.query_row(sql, [], |row| row.get(0))?;
        self.numbers = (next, next);
        self.reload_queues()?;
        self.leases = LeaseIndex::load(&self.conn)?;
        self.reload_events()?;
        let held: Vec<QueueId> = self.leases.queues().collect();
        for queue in held {
            *self.count(queue, State::Leased) += 1;
        }
        self.stale = false;
        Ok(())
    }

    fn reload_queues(&mut self) -> rusqlite::Result<()> {
        self.queues.clear();
        self.details.clear();
        let sql = "SELECT id, name, paused_at, settings, paused_by FROM queue";
        let mut statement = self.conn.prepare(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let name: String = row.get(1)?;
            let Ok(name) = QueueName::parse(&name) else { continue };
            let by = row.get::<_, Option<String>>(4)?.unwrap_or_default();
            let since: Option<i64> = row.get(2)?;
            let details = QueueDetails {
                paused: since.map(|since| Paused { since: Timestamp(since), by }),
                settings: super::row::parsed(row, 3, parse_settings)?.unwrap_or_default(),
                ..QueueDetails::new(name.clone())
            };
            self.queues.insert(name, row.get(0)?);
            self.details.insert(row.get(0)?, details);
        }
        drop(rows);
        drop(statement);
        self.note_guards();
        for sql in [
            "SELECT queue_id, iif(is_blocked, 'blocked', 'scheduled'), count(*) FROM job
             WHERE run_at IS NOT NULL OR is_blocked GROUP BY 1, 2",
            "SELECT queue_id, 'ready', sum(1 + more) FROM ready GROUP BY 1",
            "SELECT queue_id, state, count(*) FROM finished GROUP BY 1, 2",
        ] {
            self.reload_counts(sql)?;
        }
        self.reload_gated()
    }

    fn reload_gated(&mut self) -> rusqlite::Result<()> {
        let sql = "SELECT queue_id, sum(1 + more) FROM ready WHERE gate <> '' GROUP BY 1";
        let mut statement = self.conn.prepare(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (queue, count): (QueueId, i64) = (row.get(0)?, row.get(1)?);
            if let Some(details) = self.details.get_mut(&queue) {
                details.gated = u64::try_from(count).unwrap_or(0);
            }
        }
        Ok(())
    }

    fn reload_counts(&mut self, sql: &str) -> rusqlite::Result<()> {
        let mut counted = Vec::new();
        let mut statement = self.conn.prepare(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            counted.push((row.get(0)?, row.get::<_, String>(1)?, row.get::<_, i64>(2)?));
        }
        drop(rows);
        drop(statement);
        for (queue, state, count) in counted {
            if let Some(state) = State::parse(&state) {
                *self.count(queue, state) = u64::try_from(count).unwrap_or(0);
            }
        }
        Ok(())
    }

    /// The next number, for an id or a place.
    pub(super) fn next_number(&mut self) -> rusqlite::Result<i64> {
        self.next_numbers(1)
    }

    /// The first of so many numbers that follow one another.
    pub(super) fn next_numbers(&mut self, count: usize) -> rusqlite::Result<i64> {
        let (next, end) = self.numbers;
        let upto = next + i64::try_from(count).unwrap_or(i64::MAX);
        if upto > end {
            let end = upto.max(next + NUMBERS_BLOCK);
            self.execute("UPDATE meta SET value = ?1 WHERE key = 'next_number'", [end])?;
            self.numbers.1 = end;
        }
        self.numbers.0 = upto;
        Ok(next)
    }

    /// Gives back the numbers that were not used.
    pub(super) fn close(&self) -> rusqlite::Result<()> {
        let sql = "UPDATE meta SET value = ?1 WHERE key = 'next_number'";
        if self.stale { Ok(()) } else { self.execute(sql, [self.numbers.0]) }
    }

    pub(super) fn find_queue(&self, name: &QueueName) -> Option<QueueId> {
        self.queues.get(name).copied()
    }

    /// The queue, made if there is none.
    pub(super) fn queue(&mut self, name: &QueueName) -> rusqlite::Result<QueueId> {
        if let Some(id) = self.find_queue(name) {
            return Ok(id);
        }
        self.execute("INSERT INTO queue (name) VALUES (?1)", [name.as_str()])?;
        let id = self.conn.last_insert_rowid();
        self.queues.insert(name.clone(), id);
        self.details.insert(id, QueueDetails::new(name.clone()));
        Ok(id)
    }

    pub(super) fn details(&self, id: QueueId) -> &QueueDetails {
        self.details.get(&id).expect("a job's queue has a row, and queues are never deleted")
    }

    pub(super) fn queue_ids(&self) -> BTreeSet<(&QueueName, QueueId)> {
        self.queues.iter().map(|(name, id)| (name, *id)).collect()
    }

    pub(super) fn mark_paused(
        &mut self,
        id: QueueId,
        paused: Option<Paused>,
    ) -> rusqlite::Result<()> {
        let (since, by) = paused.as_ref().map(|paused| (paused.since.0, &paused.by)).unzip();
        let sql = "UPDATE queue SET paused_at = ?2, paused_by = ?3 WHERE id = ?1";
        self.execute(sql, params![id, since, by])?;
        let is_paused = paused.is_some();
        if let Some(details) = self.details.get_mut(&id) {
            details.paused = paused;
        }
        let kind = if is_paused { EventKind::Paused } else { EventKind::Resumed };
        self.tell(kind, id, None, &Detail::default())
    }

    pub(super) fn set_settings(
        &mut self,
        name: &QueueName,
        settings: Settings,
    ) -> rusqlite::Result<()> {
        let id = self.queue(name)?;
        let sql = "UPDATE queue SET settings = ?2 WHERE id = ?1";
        self.execute(sql, params![id, sql_settings(&settings)])?;
        if self.details(id).settings != settings {
            self.tell(EventKind::Settings, id, None, &Detail::default())?;
        }
        if let Some(details) = self.details.get_mut(&id)
            && details.settings != settings
        {
            details.settings = settings;
            self.execute("DELETE FROM bucket WHERE queue_id = ?1", [id])?;
        }
        self.note_guards();
        Ok(())
    }

    fn note_guards(&mut self) {
        self.has_guards = self.details.values().any(|queue| queue.settings.is_guarded());
    }

    /// How many ready jobs of the queue wait behind a gate, to be changed.
    pub(super) fn gated(&mut self, id: QueueId) -> &mut u64 {
        &mut self.details.get_mut(&id).expect("see `details`").gated
    }

    /// How many jobs of the queue are in `state`, to be changed.
    pub(super) fn count(&mut self, id: QueueId, state: State) -> &mut u64 {
        let details = self.details.get_mut(&id).expect("see `details`");
        details.counts.of(state)
    }

    /// Reads one row, if there is one.
    pub(super) fn one<T>(
        &self,
        sql: &str,
        params: impl rusqlite::Params,
        read: impl FnOnce(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Option<T>> {
        self.conn.prepare_cached(sql)?.query_row(params, read).optional()
    }

    /// Reads all rows. The statement must bound how many there are.
    pub(super) fn all<T>(
        &self,
        sql: &str,
        params: impl rusqlite::Params,
        read: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Vec<T>> {
        self.conn.prepare_cached(sql)?.query_map(params, read)?.collect()
    }
}
