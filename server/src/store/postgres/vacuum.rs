//! Keeping the hot tables small.
//!
//! A job leaves dead rows in `job`, `ready` and `lease`. Autovacuum looks at a database once a
//! minute; at a hundred thousand jobs a second that is gigabytes, which then have to be walked
//! through. So the leader vacuums these three when there is something to it, every ten seconds at
//! most. Nothing depends on it, and no order of elections can make it wrong: a plain vacuum takes
//! no lock that a statement waits for, and does not cut tables short, which would.
//!
//! While somebody holds an old snapshot a vacuum reads everything and removes nothing. So one that
//! left most of what it found waits with the next, so that those take a twentieth of the time.
//!
//! It has a connection of its own, since it must not be under the time limits of statements, and
//! goes on by itself: who asks for it does not wait.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Row;

use super::PostgresStore;
use super::lane::{Conn, Connector, Failure, PATIENCE};
use super::row::get;

/// With fewer dead rows it is left to autovacuum.
const DEAD_MIN: i64 = 20_000;

/// After a vacuum that could not remove most of what is dead, none begins for so many times as long
/// as it took.
const IN_VAIN_PAUSE: u32 = 20;

const DEAD: &str = "
    SELECT relname::text AS name, n_dead_tup AS dead
    FROM pg_stat_all_tables
    WHERE schemaname = $1 AND relname = ANY('{job, ready, lease}'::name[]) AND n_dead_tup >= $2";

/// A vacuum may take as long as it takes, but waits for nobody.
const SETTINGS: &str = "SET statement_timeout = 0; SET lock_timeout = '1s';";

/// Held while tables are vacuumed: when the next one may begin.
pub(super) type Pause = Option<Instant>;

impl PostgresStore {
    /// Begins to vacuum what needs it, unless that is under way.
    pub(super) async fn begin_vacuum(&self) -> Result<(), Failure> {
        let Ok(mut pause) = Arc::clone(&self.vacuum).try_lock_owned() else { return Ok(()) };
        if pause.is_some_and(|until| Instant::now() < until) {
            return Ok(());
        }
        let rows = self.pool.read((DEAD, &[&self.connector.schema, &DEAD_MIN])).await?;
        let tables: Vec<&'static str> =
            rows.iter().filter_map(|row| vacuum(get(row, "name"))).collect();
        if tables.is_empty() {
            return Ok(());
        }
        let (connector, before) = (Arc::clone(&self.connector), dead(&rows));
        tokio::spawn(async move {
            let started = Instant::now();
            match run(&connector, &tables).await {
                Ok(after) => *pause = next(before, after, started.elapsed()),
                Err(error) => tracing::debug!(%error, "vacuum failed"),
            }
        });
        Ok(())
    }
}

fn dead(rows: &[Row]) -> i64 {
    rows.iter().map(|row| get::<i64>(row, "dead")).sum()
}

/// When to vacuum again after so many dead rows became so many. `None`: when there is something to
/// it.
fn next(before: i64, after: i64, took: Duration) -> Pause {
    let is_in_vain = after > before / 2;
    is_in_vain.then(|| Instant::now() + took * IN_VAIN_PAUSE)
}

fn vacuum(table: &str) -> Option<&'static str> {
    match table {
        "job" => Some("VACUUM (SKIP_LOCKED, TRUNCATE off) job"),
        "ready" => Some("VACUUM (SKIP_LOCKED, TRUNCATE off) ready"),
        "lease" => Some("VACUUM (SKIP_LOCKED, TRUNCATE off) lease"),
        _ => None,
    }
}

/// The answer: how many dead rows are left.
async fn run(connector: &Connector, statements: &[&'static str]) -> Result<i64, Failure> {
    let mut conn: Conn = connector.connect("vacuum", SETTINGS).await?;
    for sql in statements {
        conn.execute(sql).await?;
    }
    Ok(dead(&conn.once((DEAD, &[&connector.schema, &DEAD_MIN]), PATIENCE).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_vacuum_in_vain_is_not_repeated_soon() {
        let took = Duration::from_secs(3);
        assert_eq!(next(1_000_000, 90_000, took), None);
        assert_eq!(next(1_000_000, 999_000, took), Some(Instant::now() + took * IN_VAIN_PAUSE));
    }
}
