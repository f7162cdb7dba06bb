//! Keeping the hot tables small.
//!
//! A job leaves dead rows in `job`, `ready` and `lease`. Autovacuum looks at a database once a
//! minute; at a hundred thousand jobs a second that is gigabytes, which then have to be walked
//! through. So the leader vacuums these three when there is something to it, every ten seconds at
//! most. Nothing depends on it, and no order of elections can make it wrong: a plain vacuum takes
//! no lock that a statement waits for, and does not cut tables short, which would.
//!
//! It has a connection of its own, since it must not be under the time limits of statements, and
//! goes on by itself: who asks for it does not wait.

use std::sync::Arc;

use super::PostgresStore;
use super::lane::{Connector, Failure};
use super::row::get;

/// With fewer dead rows it is left to autovacuum.
const DEAD_MIN: i64 = 20_000;

const DEAD: &str = "
    SELECT relname::text AS name
    FROM pg_stat_all_tables
    WHERE schemaname = $1 AND relname = ANY('{job, ready, lease}'::name[]) AND n_dead_tup >= $2";

/// A vacuum may take as long as it takes, but waits for nobody.
const SETTINGS: &str = "SET statement_timeout = 0; SET lock_timeout = '1s';";

impl PostgresStore {
    /// Begins to vacuum what needs it, unless that is under way.
    pub(super) async fn begin_vacuum(&self) -> Result<(), Failure> {
        let Ok(one) = Arc::clone(&self.vacuum).try_lock_owned() else { return Ok(()) };
        let rows = self.pool.read((DEAD, &[&self.connector.schema, &DEAD_MIN])).await?;
        let tables: Vec<&'static str> =
            rows.iter().filter_map(|row| vacuum(get(row, "name"))).collect();
        if tables.is_empty() {
            return Ok(());
        }
        let connector = Arc::clone(&self.connector);
        tokio::spawn(async move {
            if let Err(error) = run(&connector, &tables).await {
                tracing::debug!(%error, "vacuum failed");
            }
            drop(one);
        });
        Ok(())
    }
}

fn vacuum(table: &str) -> Option<&'static str> {
    match table {
        "job" => Some("VACUUM (SKIP_LOCKED, TRUNCATE off) job"),
        "ready" => Some("VACUUM (SKIP_LOCKED, TRUNCATE off) ready"),
        "lease" => Some("VACUUM (SKIP_LOCKED, TRUNCATE off) lease"),
        _ => None,
    }
}

async fn run(connector: &Connector, statements: &[&'static str]) -> Result<(), Failure> {
    let conn = connector.connect("vacuum", SETTINGS).await?;
    for sql in statements {
        conn.execute(sql).await?;
    }
    Ok(())
}
