//! Keeping the hot tables small.
//!
//! A job leaves dead rows in `job`, `ready`, `scheduled` and `lease`, and in `run` once it is
//! forgotten. Autovacuum looks at a database once a minute; at a hundred thousand jobs a second that is
//! gigabytes, which then have to be walked through. So the leader vacuums them when there is something to
//! it, every ten seconds at most; `run`, which takes longer, beside the others. Nothing depends on it, and no
//! order of elections can make it wrong: a plain vacuum takes no lock that a statement waits for, and does
//! not cut tables short, which would.
//!
//! While somebody holds an old snapshot a vacuum reads everything and removes nothing. So after one that
//! left most of what it found in a table, while the oldest snapshot was the same from its beginning to
//! its end, there is none of it until the oldest is another. Autovacuum does not know that, and is there
//! only for nodes whose user does not own the tables: `migrations/0014_vacuum.sql` has it begin late and
//! go slowly. One that is at work gives way: Postgres ends it when somebody has waited a second for its
//! table.
//!
//! It has a connection of its own, since it must not be under the time limits of statements, and
//! goes on by itself: who asks for it does not wait.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::Mutex;
use tokio_postgres::Row;

use super::PostgresStore;
use super::lane::{Conn, Connector, Failure, PATIENCE};
use super::row::get;

/// Tables, and how many dead rows of each are worth a vacuum.
type Tables = &'static [(&'static str, i64)];

/// Those of jobs that wait or are worked on: what is dead in them is in everybody's way.
const LIVE: Tables =
    &[("job", 20_000), ("ready", 20_000), ("lease", 20_000), ("scheduled", 20_000)];

/// Those of completed jobs, which take longer; a row has some hundred jobs. `finished` is not among them:
/// who begins to watch events needs it for a moment.
const COMPLETED: Tables = &[("run", 20_000)];

const DEAD: &str = "
    SELECT s.relname::text AS name, s.n_dead_tup AS dead
    FROM unnest($2::text[], $3::bigint[]) WITH ORDINALITY AS t (name, worth, ord)
    JOIN pg_stat_all_tables s ON s.schemaname = $1 AND s.relname = t.name
    WHERE s.n_dead_tup >= t.worth
    ORDER BY t.ord";

/// The oldest snapshot, by its first transaction, that keeps what is dead in this database: of a session,
/// a standby or a prepared transaction.
const OLDEST: &str = "
    SELECT xmin::text AS oldest
    FROM (
        SELECT backend_xmin AS xmin FROM pg_stat_activity
        WHERE coalesce(datname = current_database(), true)
        -- Nobody's: autovacuum, whose own snapshot does not count.
        AND usesysid IS NOT NULL
        UNION ALL
        SELECT xmin FROM pg_replication_slots
        UNION ALL
        SELECT transaction FROM pg_prepared_xacts WHERE database = current_database()
    ) held
    WHERE xmin IS NOT NULL
    ORDER BY age(xmin) DESC
    LIMIT 1";

/// A vacuum may take as long as it takes. It waits for its table long enough for an autovacuum to give
/// way.
const SETTINGS: &str = "SET statement_timeout = 0; SET lock_timeout = '3s';";

/// What is known of the tables.
#[derive(Debug, Default)]
pub(super) struct Vacuum {
    live: Arc<Mutex<InVain>>,
    completed: Arc<Mutex<InVain>>,
}

/// Held while tables are vacuumed: those whose last vacuum was in vain, and the snapshot that was the
/// oldest meanwhile.
type InVain = HashMap<String, String>;

impl PostgresStore {
    /// Begins to vacuum what needs it, unless that is under way.
    pub(super) async fn begin_vacuum(&self) -> Result<(), Failure> {
        self.begin_vacuum_of(LIVE, &self.vacuum.live).await?;
        self.begin_vacuum_of(COMPLETED, &self.vacuum.completed).await
    }

    async fn begin_vacuum_of(
        &self,
        tables: Tables,
        in_vain: &Arc<Mutex<InVain>>,
    ) -> Result<(), Failure> {
        let Ok(mut in_vain) = Arc::clone(in_vain).try_lock_owned() else { return Ok(()) };
        let (names, worth): (Vec<&str>, Vec<i64>) = tables.iter().copied().unzip();
        let rows = self.pool.read((DEAD, &[&self.connector.schema, &names, &worth])).await?;
        if rows.is_empty() {
            return Ok(());
        }
        let oldest = read_oldest(&self.pool.read((OLDEST, &[])).await?);
        let is_due =
            |name: &String| in_vain.get(name).is_none_or(|held| Some(held) != oldest.as_ref());
        let due: Vec<String> = rows.iter().map(|row| get(row, "name")).filter(is_due).collect();
        if !due.is_empty() {
            let connector = Arc::clone(&self.connector);
            tokio::spawn(async move {
                if let Err(error) = run(&connector, &due, &mut in_vain).await {
                    tracing::debug!(%error, "vacuum failed");
                }
            });
        }
        Ok(())
    }
}

async fn run(
    connector: &Connector,
    tables: &[String],
    in_vain: &mut InVain,
) -> Result<(), Failure> {
    let mut conn: Conn = connector.connect("vacuum", SETTINGS).await?;
    for table in tables {
        let before = sight(&mut conn, connector, table).await?;
        // It may be somebody else who is at work on it.
        if let Err(error) = conn.execute(&format!("VACUUM (TRUNCATE off) {table}")).await {
            tracing::debug!(%error, table, "not vacuumed");
            continue;
        }
        let after = sight(&mut conn, connector, table).await?;
        match held_throughout(&before, after) {
            Some(oldest) => in_vain.insert(table.clone(), oldest),
            None => in_vain.remove(table),
        };
    }
    Ok(())
}

/// Before or after a vacuum: how many rows of its table are dead, and the oldest snapshot.
type Sight = (i64, Option<String>);

async fn sight(conn: &mut Conn, connector: &Connector, table: &str) -> Result<Sight, Failure> {
    let (names, worth) = (vec![table], vec![0i64]);
    let rows = conn.once((DEAD, &[&connector.schema, &names, &worth]), PATIENCE).await?;
    let dead = rows.first().map_or(0, |row| get(row, "dead"));
    Ok((dead, read_oldest(&conn.once((OLDEST, &[]), PATIENCE).await?)))
}

fn read_oldest(rows: &[Row]) -> Option<String> {
    rows.first().map(|row| get(row, "oldest"))
}

/// The snapshot that has kept most of what was dead, if it is one that was the oldest from before to
/// after. Where many jobs end meanwhile, as many may be dead after a vacuum that was not in vain.
fn held_throughout(before: &Sight, after: Sight) -> Option<String> {
    let is_in_vain = after.0 > before.0 / 2 && after.1 == before.1;
    after.1.filter(|_| is_in_vain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vacuum_is_in_vain_if_one_snapshot_has_kept_most_of_what_was_dead() {
        let sight = |dead, oldest: &str| (dead, Some(oldest.to_owned()));
        let before = sight(1_000_000, "7");
        assert_eq!(held_throughout(&before, sight(999_000, "7")).as_deref(), Some("7"));
        assert_eq!(held_throughout(&before, sight(90_000, "7")), None);
        assert_eq!(held_throughout(&before, sight(999_000, "8")), None, "they have died meanwhile");
        assert_eq!(held_throughout(&(1, None), (1, None)), None);
    }
}
