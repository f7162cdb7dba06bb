//! Keeping the hot tables small.
//!
//! A job leaves dead rows in `job`, `ready`, `scheduled` and `lease`, and in the tables of finished jobs
//! once it is forgotten. Autovacuum looks at a database once a minute; at a hundred thousand jobs a
//! second that is gigabytes, which then have to be walked through. So the leader vacuums them when there
//! is something to it, every ten seconds at most; those of finished jobs, which take longer, beside the
//! others. Nothing depends on it, and no order of elections can make it wrong: a plain vacuum takes no
//! lock that a statement waits for, and does not cut tables short, which would.
//!
//! While somebody holds an old snapshot a vacuum reads everything and removes nothing. So after one that
//! left most of what it found in a table there is none of it until the oldest snapshot is another, and
//! then for a twentieth of the time at most. Autovacuum does not know that, and is there only for nodes whose user
//! does not own the tables:
//! `migrations/0014_vacuum.sql` has it begin late and go slowly. One that is at work gives way:
//! Postgres ends it when somebody has waited a second for its table.
//!
//! It has a connection of its own, since it must not be under the time limits of statements, and
//! goes on by itself: who asks for it does not wait.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::PostgresStore;
use super::lane::{Conn, Connector, Failure, PATIENCE};
use super::row::get;

/// Tables, and how many dead rows of each are worth a vacuum.
type Tables = &'static [(&'static str, i64)];

/// Those of jobs that wait or are worked on: what is dead in them is in everybody's way.
const LIVE: Tables =
    &[("job", 20_000), ("ready", 20_000), ("lease", 20_000), ("scheduled", 20_000)];

/// Those of finished jobs, which take longer. A row of `completed_run` has some hundred jobs.
const FINISHED: Tables = &[("finished", 100_000), ("completed_run", 20_000)];

/// After a vacuum that could not remove most of what is dead, none begins for so many times as long
/// as it took.
const IN_VAIN_PAUSE: u32 = 20;

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
    live: Arc<Mutex<Pauses>>,
    finished: Arc<Mutex<Pauses>>,
}

/// Held while tables are vacuumed: those whose last vacuum was in vain.
type Pauses = HashMap<String, InVain>;

#[derive(Debug, PartialEq, Eq)]
struct InVain {
    /// No other before.
    until: Instant,
    /// Nor as long as this is the oldest snapshot, if that is known.
    oldest: Option<String>,
}

impl InVain {
    fn is_over(&self, oldest: Option<&String>) -> bool {
        Instant::now() >= self.until && (self.oldest.is_none() || self.oldest.as_ref() != oldest)
    }
}

impl PostgresStore {
    /// Begins to vacuum what needs it, unless that is under way.
    pub(super) async fn begin_vacuum(&self) -> Result<(), Failure> {
        self.begin_vacuum_of(LIVE, &self.vacuum.live).await?;
        self.begin_vacuum_of(FINISHED, &self.vacuum.finished).await
    }

    async fn begin_vacuum_of(
        &self,
        tables: Tables,
        pauses: &Arc<Mutex<Pauses>>,
    ) -> Result<(), Failure> {
        let Ok(mut pauses) = Arc::clone(pauses).try_lock_owned() else { return Ok(()) };
        let (names, worth): (Vec<&str>, Vec<i64>) = tables.iter().copied().unzip();
        let rows = self.pool.read((DEAD, &[&self.connector.schema, &names, &worth])).await?;
        if rows.is_empty() {
            return Ok(());
        }
        let oldest = self.pool.read((OLDEST, &[])).await?;
        let oldest: Option<String> = oldest.first().map(|row| get(row, "oldest"));
        let is_due = |name: &String| pauses.get(name).is_none_or(|it| it.is_over(oldest.as_ref()));
        let due: Vec<String> = rows.iter().map(|row| get(row, "name")).filter(is_due).collect();
        if !due.is_empty() {
            let connector = Arc::clone(&self.connector);
            tokio::spawn(async move {
                if let Err(error) = run(&connector, &due, oldest.as_ref(), &mut pauses).await {
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
    oldest: Option<&String>,
    pauses: &mut Pauses,
) -> Result<(), Failure> {
    let mut conn: Conn = connector.connect("vacuum", SETTINGS).await?;
    for table in tables {
        let before = dead(&mut conn, connector, table).await?;
        let started = Instant::now();
        // It may be somebody else who is at work on it.
        if let Err(error) = conn.execute(&format!("VACUUM (TRUNCATE off) {table}")).await {
            tracing::debug!(%error, table, "not vacuumed");
            continue;
        }
        let after = dead(&mut conn, connector, table).await?;
        match pause(before, after, started.elapsed(), oldest.cloned()) {
            Some(in_vain) => pauses.insert(table.clone(), in_vain),
            None => pauses.remove(table),
        };
    }
    Ok(())
}

async fn dead(conn: &mut Conn, connector: &Connector, table: &str) -> Result<i64, Failure> {
    let (names, worth) = (vec![table], vec![0i64]);
    let rows = conn.once((DEAD, &[&connector.schema, &names, &worth]), PATIENCE).await?;
    Ok(rows.first().map_or(0, |row| get(row, "dead")))
}

/// What so many dead rows that became so many say of the next vacuum.
fn pause(before: i64, after: i64, took: Duration, oldest: Option<String>) -> Option<InVain> {
    let until = || Instant::now() + took * IN_VAIN_PAUSE;
    (after > before / 2).then(|| InVain { until: until(), oldest })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOK: Duration = Duration::from_secs(3);

    #[tokio::test(start_paused = true)]
    async fn a_vacuum_in_vain_is_not_repeated_as_long_as_the_same_snapshot_is_held() {
        let (one, other) = (Some("7".to_owned()), Some("8".to_owned()));
        assert_eq!(pause(1_000_000, 90_000, TOOK, one.clone()), None);
        let in_vain = pause(1_000_000, 999_000, TOOK, one.clone()).unwrap();
        assert!(!in_vain.is_over(other.as_ref()), "so soon");
        tokio::time::advance(TOOK * IN_VAIN_PAUSE).await;
        assert!(!in_vain.is_over(one.as_ref()));
        assert!(in_vain.is_over(other.as_ref()) && in_vain.is_over(None));
    }

    #[tokio::test(start_paused = true)]
    async fn where_snapshots_can_not_be_seen_it_is_repeated_after_a_while() {
        let in_vain = pause(1_000_000, 999_000, TOOK, None).unwrap();
        assert!(!in_vain.is_over(None));
        tokio::time::advance(TOOK * IN_VAIN_PAUSE).await;
        assert!(in_vain.is_over(None));
    }
}
