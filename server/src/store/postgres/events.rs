//! What happens, for those who listen.
//!
//! Triggers record it (`migrations/0008_events.sql`); they are made with the first watch and go
//! with the last, so that a cluster to which nobody listens does not know of them.
//!
//! # The head
//!
//! Numbers are given before their transactions commit, so a lower one may appear after a higher
//! one. A reader that went by the highest number would skip it. So: read the sequence, then ask who
//! is writing events. Who had got a number by the first holds a lock on the table at the second, or
//! has ended and can be seen. Once none of those is at work any more, nothing more can appear up to
//! the number that was read: that is the head.

use std::collections::HashSet;
use std::time::Duration;

use tokio_postgres::Row;

use super::lane::{Failure, Tx};
use super::row::{get, maybe_job_id, parsed};
use super::{Named, PostgresStore};
use crate::job::{QueueName, Timestamp};
use crate::store::columns::sql_millis;
use crate::store::events::{EVENTS_KEPT, EVENTS_MAX, Event, Watcher};
use crate::store::{DUTY_ROWS_MAX, Detail, EventId, EventKind, EventPage, EventsWanted, Watching};

/// The condition, in SQL, that no events of jobs are recorded.
macro_rules! nobody_listens {
    () => {
        "(
            SELECT true FROM pg_trigger
            WHERE tgrelid = 'job'::regclass AND tgname = 'tell'
            LIMIT 1
        ) IS NULL"
    };
}

pub(super) use nobody_listens;

/// How often the tables are asked for, each time for a moment, before it is given up.
const TRIES_MAX: u32 = 100;

/// The pause between two tries, at most.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// Watches begin and end one after the other.
pub(super) const ONE_AT_A_TIME: &str =
    "SELECT pg_advisory_xact_lock(hashtextextended('batonq watch ' || current_schema(), 0))";

const IF_NOBODY_ELSE: &str = "
    SELECT pg_try_advisory_xact_lock(
        hashtextextended('batonq watch ' || current_schema(), 0)
    ) AS is_ours";

/// A new watch has a number that nobody has seen: what happened before it may not be recorded.
const WATCH: &str = "
    INSERT INTO watch (owner, queue, since, expires_at)
    VALUES ($1, $2, nextval('event_id_seq'), $3::bigint + now_ms())
    ON CONFLICT (owner, queue) DO UPDATE
    SET expires_at = greatest(watch.expires_at, excluded.expires_at)";

/// Nobody watches: whatever is asked for may be missing.
const SINCE: &str = "
    SELECT coalesce(min(since), 9223372036854775807) AS since
    FROM watch
    WHERE queue IN ('', $1)";

pub(super) const LAST: &str = "SELECT last_value AS last FROM event_id_seq";

/// A lock is held until after its transaction can be seen.
const AT_WORK: &str = "
    SELECT virtualtransaction AS writer
    FROM pg_locks
    WHERE locktype = 'relation' AND relation = 'event'::regclass AND mode = 'RowExclusiveLock'
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

const READ: &str = "
    SELECT e.id, e.at, e.kind, q.name, e.job_id, e.number, e.word, e.message
    FROM event e
    CROSS JOIN LATERAL (SELECT name FROM queue WHERE id = e.queue_id OFFSET 0) q
    WHERE e.id > $1 AND e.id <= $2 AND $3 IN ('', q.name)
    ORDER BY e.id
    LIMIT $4";

const FORGET: &str = "
    WITH oldest AS MATERIALIZED (
        SELECT id, at FROM event ORDER BY id LIMIT $3
    ),
    gone AS (
        DELETE FROM event
        WHERE id = ANY(ARRAY(
            SELECT id FROM oldest
            WHERE (at <= $1 OR id <= $2) AND id <= coalesce((SELECT min(seen) FROM webhook), id)
        ))
        RETURNING id
    ),
    noted AS (
        UPDATE watch
        SET since = greatest(since, (SELECT max(id) FROM gone))
        WHERE (SELECT count(*) FROM gone) > 0
    )
    SELECT count(*) AS count
    FROM gone";

const LAPSE: &str = "DELETE FROM watch WHERE expires_at <= now_ms()";

pub(super) const HOT: &[Named] = &[("events", READ), ("forget events", FORGET)];

/// How far numbers are known to be complete.
#[derive(Debug, Default)]
pub(super) struct Tail {
    head: EventId,
    /// A number, and who was writing when it had been read.
    coming: Option<(EventId, HashSet<String>)>,
}

impl Tail {
    /// `last` was read, then these were writing.
    fn advance(&mut self, last: EventId, writers: HashSet<String>) -> EventId {
        if let Some((number, _)) = self.coming.take_if(|(_, it)| it.is_disjoint(&writers)) {
            self.head = self.head.max(number);
        }
        if writers.is_empty() {
            self.head = self.head.max(last);
            self.coming = None;
        } else if self.head < last && self.coming.is_none() {
            self.coming = Some((last, writers));
        }
        self.head
    }
}

/// Does it again and again as long as the tables can not be had.
pub(super) async fn insisting<T, F: Future<Output = Result<T, Failure>>>(
    mut call: impl FnMut() -> F,
) -> Result<T, Failure> {
    let mut tries = 1;
    loop {
        match call().await {
            Err(Failure::Conflict(error)) if tries < TRIES_MAX => {
                tracing::debug!(error, tries, "the tables are in use");
                tokio::time::sleep(PAUSE_MAX.mul_f64(rand::random())).await;
                tries += 1;
            }
            done => return done,
        }
    }
}

pub(super) fn number(row: &Row, column: &str) -> EventId {
    get::<i64>(row, column).cast_unsigned()
}

pub(super) fn sql_number(id: EventId) -> i64 {
    i64::try_from(id).unwrap_or(i64::MAX)
}

impl PostgresStore {
    pub(super) async fn watch_queue(
        &self,
        queue: Option<&QueueName>,
        hold: Duration,
    ) -> Result<Watching, Failure> {
        insisting(|| self.try_watch(queue, hold)).await
    }

    async fn try_watch(
        &self,
        queue: Option<&QueueName>,
        hold: Duration,
    ) -> Result<Watching, Failure> {
        let mut tx = self.pool.begin().await?;
        tx.query(ONE_AT_A_TIME, &[]).await?;
        let name = queue.map_or("", |queue| queue.as_str());
        watch_as(&mut tx, Watcher::Streams, &[name], Some(hold)).await?;
        let rows = tx.commit(&[(SINCE, &[&name])]).await?;
        let since = number(&rows[0][0], "since");
        // What was recorded before the commit was not asked for; what comes has a higher number.
        let rows = self.pool.read((LAST, &[])).await?;
        Ok(Watching { since, now: number(&rows[0], "last") })
    }

    pub(super) async fn find_head(&self) -> Result<EventId, Failure> {
        let last = number(&self.pool.read((LAST, &[])).await?[0], "last");
        let at_work = self.pool.read((AT_WORK, &[])).await?;
        let writers = at_work.iter().map(|row| get(row, "writer")).collect();
        Ok(self.tail.lock().advance(last, writers))
    }

    pub(super) async fn read_events(&self, wanted: &EventsWanted) -> Result<EventPage, Failure> {
        let limit = i64::try_from(wanted.limit).unwrap_or(i64::MAX);
        let (after, upto) = (sql_number(wanted.after), sql_number(wanted.upto));
        let queue = wanted.queue.as_ref().map_or("", |queue| queue.as_str());
        let tx = self.pool.begin().await?;
        // In this order: what is forgotten in between is then taken for missing, not passed over.
        let rows =
            tx.commit(&[(READ, &[&after, &upto, &queue, &limit]), (SINCE, &[&queue])]).await?;
        let events = rows[0].iter().map(read).collect::<Result<_, _>>()?;
        Ok(EventPage::new(events, number(&rows[1][0], "since"), wanted))
    }

    /// Forgets old events, and watches that are over; with the last of them, the triggers. The
    /// answer: how many events.
    pub(super) async fn forget_events(
        &self,
        tx: &mut Tx<'_>,
        now: Timestamp,
    ) -> Result<i64, Failure> {
        let last = number(&tx.query(LAST, &[]).await?[0], "last");
        let old = now.0.saturating_sub(sql_millis(EVENTS_KEPT));
        let too_many = sql_number(last.saturating_sub(EVENTS_MAX));
        let gone = tx.query(FORGET, &[&old, &too_many, &(DUTY_ROWS_MAX as i64)]).await?;
        let count = get(&gone[0], "count");
        // Who watches at this moment may begin: the next part will see.
        let is_ours = tx.query(IF_NOBODY_ELSE, &[]).await?;
        if !get::<bool>(&is_ours[0], "is_ours") {
            return Ok(count);
        }
        tx.query(LAPSE, &[]).await?;
        let sql = "SELECT end_telling()
                   WHERE is_telling() AND NOT EXISTS (SELECT 1 FROM watch)";
        tx.query(sql, &[]).await?;
        Ok(count)
    }
}

/// Watches queues, in a transaction that has [`ONE_AT_A_TIME`]. An empty name stands for all.
pub(super) async fn watch_as(
    tx: &mut Tx<'_>,
    watcher: Watcher<'_>,
    queues: &[&str],
    hold: Option<Duration>,
) -> Result<(), Failure> {
    let (owner, hold) = (watcher.name(), hold.map(sql_millis));
    for queue in queues {
        tx.query(WATCH, &[&owner, queue, &hold]).await?;
    }
    let is_telling = tx.query("SELECT is_telling() OR begin_telling() AS is_on", &[]).await?;
    match get::<bool>(&is_telling[0], "is_on") {
        true => Ok(()),
        false => Err(Failure::Conflict("the tables are in use".into())),
    }
}

fn read(row: &Row) -> Result<Event, Failure> {
    let damaged = || Failure::NotDone("the tables are damaged: an event".into());
    let kind = parsed(row, "kind", |kind| EventKind::parse(kind).ok_or(()))?;
    Ok(Event {
        id: number(row, "id"),
        at: Timestamp(get(row, "at")),
        kind: kind.ok_or_else(damaged)?,
        queue: parsed(row, "name", QueueName::parse)?.ok_or_else(damaged)?,
        job: maybe_job_id(row, "job_id"),
        detail: Detail {
            number: get::<Option<i32>>(row, "number").map(i32::cast_unsigned),
            word: get(row, "word"),
            message: get(row, "message"),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writers(names: &[&str]) -> HashSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_head_waits_for_those_who_were_writing_when_the_number_was_read() {
        let mut tail = Tail::default();
        assert_eq!(tail.advance(5, writers(&[])), 5, "nobody is at work");
        assert_eq!(tail.advance(8, writers(&["a", "b"])), 5, "they may have got 6, 7 or 8");
        assert_eq!(tail.advance(9, writers(&["b", "c"])), 5, "b is still at work");
        assert_eq!(tail.advance(12, writers(&["c", "d"])), 8);
        assert_eq!(tail.advance(13, writers(&["d"])), 8);
        assert_eq!(tail.advance(13, writers(&["e"])), 12);
        assert_eq!(tail.advance(13, writers(&[])), 13);
    }
}
