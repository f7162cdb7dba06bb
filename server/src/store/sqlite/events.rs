//! What happens, for those who listen.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rusqlite::params;

use super::row;
use super::tables::{QueueId, Tables};
use crate::job::{JobId, Lease, QueueName, Timestamp, WorkerName};
use crate::store::columns::{sql_id, sql_millis};
use crate::store::events::{EVENTS_KEPT, EVENTS_MAX, Event, Watcher, is_internal};
use crate::store::{DUTY_ROWS_MAX, Detail, EventId, EventKind, EventPage, EventsWanted, Watching};

const INSERT: &str = "
    INSERT INTO event (at, kind, queue_id, job_id, number, word, message)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";

const SELECT: &str = "
    SELECT e.id, e.at, e.kind, q.name, e.job_id, e.number, e.word, e.message
    FROM event e
    CROSS JOIN queue q ON q.id = e.queue_id
    WHERE e.id > ?1 AND e.id <= ?2 AND ?3 IN ('', q.name)
    ORDER BY e.id
    LIMIT ?4";

/// What no webhook needs any more and is old, or too much.
const OLD: &str = "
    SELECT id FROM event
    WHERE (at <= ?1 OR id <= ?2) AND id <= coalesce((SELECT min(seen) FROM webhook), id)
    ORDER BY id
    LIMIT ?3";

/// Whose events are recorded: what the tables say of it.
#[derive(Default)]
pub(super) struct Telling {
    /// By name; an empty one stands for all.
    queues: HashSet<String>,
    /// The highest number that was given in this or an earlier transaction.
    last: EventId,
    /// The same, of those that have been committed.
    pub(super) head: Arc<AtomicU64>,
}

impl Telling {
    /// The transaction has been committed.
    pub(super) fn committed(&self) {
        self.head.store(self.last, Ordering::Release);
    }

    fn is_watched(&self, queue: &QueueName) -> bool {
        let watched = self.queues.contains("") || self.queues.contains(queue.as_str());
        watched && !is_internal(queue)
    }
}

impl Tables {
    /// Something has happened: recorded if somebody watches.
    pub(super) fn tell(
        &mut self,
        kind: EventKind,
        queue: QueueId,
        job: Option<i64>,
        detail: &Detail,
    ) -> rusqlite::Result<()> {
        if self.telling.queues.is_empty() || !self.telling.is_watched(&self.details(queue).name) {
            return Ok(());
        }
        let Detail { number, word, message } = detail;
        let (at, kind) = (self.now.0, kind.name());
        self.execute(INSERT, params![at, kind, queue, job, number, word, message])?;
        self.telling.last = self.conn.last_insert_rowid().cast_unsigned();
        Ok(())
    }

    pub(super) fn tell_leased(
        &mut self,
        queue: QueueId,
        lease: Lease,
        worker: &WorkerName,
    ) -> rusqlite::Result<()> {
        if self.telling.queues.is_empty() {
            return Ok(());
        }
        let detail = Detail {
            number: Some(lease.delivery),
            word: Some(worker.as_str().into()),
            message: None,
        };
        self.tell(EventKind::Leased, queue, Some(sql_id(lease.job)), &detail)
    }

    pub(super) fn watch_queue(
        &mut self,
        queue: Option<&QueueName>,
        hold: Duration,
    ) -> rusqlite::Result<Watching> {
        self.watch_as(Watcher::Streams, queue, Some(self.now + hold))
    }

    pub(super) fn watch_as(
        &mut self,
        watcher: Watcher<'_>,
        queue: Option<&QueueName>,
        until: Option<Timestamp>,
    ) -> rusqlite::Result<Watching> {
        // A number that nobody has seen: what happened before this watch may not be recorded.
        let none = None::<i64>;
        self.execute(INSERT, params![self.now.0, "", 0, none, none, none, none])?;
        let now = self.conn.last_insert_rowid();
        self.execute("DELETE FROM event WHERE id = ?1", [now])?;
        let name = queue.map_or("", |queue| queue.as_str());
        let sql = "INSERT INTO watch (owner, queue, since, expires_at) VALUES (?1, ?2, ?3, ?4)
                   ON CONFLICT (owner, queue)
                   DO UPDATE SET expires_at = max(expires_at, excluded.expires_at)";
        self.execute(sql, params![watcher.name(), name, now, until.map(|at| at.0)])?;
        self.telling.queues.insert(name.to_owned());
        self.telling.last = now.cast_unsigned();
        Ok(Watching { since: self.since(name)?, now: now.cast_unsigned() })
    }

    fn since(&self, queue: &str) -> rusqlite::Result<EventId> {
        let sql = "SELECT min(since) FROM watch WHERE queue IN ('', ?1)";
        let since = self.conn.prepare_cached(sql)?.query_row([queue], |row| row.get(0))?;
        Ok(Option::unwrap_or(since, EventId::MAX))
    }

    pub(super) fn events(&self, wanted: &EventsWanted) -> rusqlite::Result<EventPage> {
        let (after, upto) = (sql_number(wanted.after), sql_number(wanted.upto));
        let queue = wanted.queue.as_ref().map_or("", |queue| queue.as_str());
        let events = self.all(SELECT, params![after, upto, queue, wanted.limit], read)?;
        Ok(EventPage::new(events, self.since(queue)?, wanted))
    }

    /// Reads whose events are recorded.
    fn reload_watched(&mut self) -> rusqlite::Result<()> {
        let queues = self.all("SELECT DISTINCT queue FROM watch", [], |row| row.get(0))?;
        self.telling.queues = queues.into_iter().collect();
        Ok(())
    }

    /// Watches no more.
    pub(super) fn unwatch(&mut self, watcher: Watcher<'_>) -> rusqlite::Result<()> {
        self.execute("DELETE FROM watch WHERE owner = ?1", [watcher.name()])?;
        self.reload_watched()
    }

    /// The same, and how far numbers have come.
    pub(super) fn reload_events(&mut self) -> rusqlite::Result<()> {
        self.reload_watched()?;
        let sql = "SELECT seq FROM sqlite_sequence WHERE name = 'event'";
        self.telling.last = self.one(sql, [], |row| row.get(0))?.unwrap_or(0);
        self.telling.committed();
        Ok(())
    }

    /// Forgets old events, and watches that are over. The answer: how many events.
    pub(super) fn forget_events(&mut self) -> rusqlite::Result<usize> {
        if self.telling.queues.is_empty() && self.telling.last == 0 {
            return Ok(0);
        }
        let sql = "DELETE FROM watch WHERE expires_at <= ?1";
        self.execute(sql, [self.now.0])?;
        self.reload_watched()?;
        let old = self.now.0.saturating_sub(sql_millis(EVENTS_KEPT));
        let too_many = sql_number(self.telling.last.saturating_sub(EVENTS_MAX));
        let gone: Vec<i64> =
            self.all(OLD, params![old, too_many, DUTY_ROWS_MAX], |row| row.get(0))?;
        let Some(last) = gone.last() else { return Ok(0) };
        self.execute("DELETE FROM event WHERE id <= ?1", [last])?;
        self.execute("UPDATE watch SET since = max(since, ?1)", [last])?;
        Ok(gone.len())
    }
}

fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Event> {
    let missing = || rusqlite::Error::InvalidQuery;
    let kind = row::parsed(row, 2, |kind| EventKind::parse(kind).ok_or(()))?;
    let job: Option<i64> = row.get(4)?;
    Ok(Event {
        id: row.get(0)?,
        at: Timestamp(row.get(1)?),
        kind: kind.ok_or_else(missing)?,
        queue: row::parsed(row, 3, QueueName::parse)?.ok_or_else(missing)?,
        job: job.map(|id| JobId(id.cast_unsigned())),
        detail: Detail { number: row.get(5)?, word: row.get(6)?, message: row.get(7)? },
    })
}

pub(super) fn sql_number(id: EventId) -> i64 {
    i64::try_from(id).unwrap_or(i64::MAX)
}
