//! The tables' versions, and how one becomes the next.
//!
//! A migration is a file of SQL and is never changed once released. All run in one transaction
//! under an advisory lock of that transaction, so that any number of nodes may start at once on
//! an empty database, also behind a pooler.
//!
//! # Expand, then contract
//!
//! Nodes of two neighbouring releases work on the same tables during a rolling upgrade. So a
//! migration only *expands*: it adds tables, columns with defaults and indexes, and what the
//! previous release writes stays valid. What a release no longer uses is removed by a migration of
//! a later release, the *contraction*, which says in [`Migration::serves_from`] which version a
//! program must know at least to go on. A node refuses tables that have contracted beyond it.

use tokio_postgres::Client;

/// One step.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// Its number; the version of the tables after it.
    pub version: i32,
    /// What it brings.
    pub name: &'static str,
    /// The oldest version that a program may know and still work on the tables after this step.
    pub serves_from: i32,
    /// The statements.
    pub sql: &'static str,
}

/// All of them, in order.
pub const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        name: "first",
        serves_from: 1,
        sql: include_str!("migrations/0001_first.sql"),
    },
    Migration {
        version: 2,
        name: "options",
        // The first version would give out jobs over their limits.
        serves_from: 2,
        sql: include_str!("migrations/0002_options.sql"),
    },
    Migration {
        version: 3,
        name: "cron",
        serves_from: 2,
        sql: include_str!("migrations/0003_cron.sql"),
    },
    Migration {
        version: 4,
        name: "guards",
        serves_from: 2,
        sql: include_str!("migrations/0004_guards.sql"),
    },
    Migration {
        version: 5,
        name: "sql",
        serves_from: 2,
        sql: include_str!("migrations/0005_sql.sql"),
    },
    Migration {
        version: 6,
        name: "events_of_jobs",
        serves_from: 2,
        sql: include_str!("migrations/0006_events_of_jobs.sql"),
    },
    Migration {
        version: 7,
        name: "encrypted",
        // Earlier ones would give out what is sealed.
        serves_from: 7,
        sql: include_str!("migrations/0007_encrypted.sql"),
    },
    Migration {
        version: 8,
        name: "events",
        serves_from: 7,
        sql: include_str!("migrations/0008_events.sql"),
    },
    Migration {
        version: 9,
        name: "speed",
        serves_from: 7,
        sql: include_str!("migrations/0009_speed.sql"),
    },
    Migration {
        version: 10,
        name: "custom_ids",
        // Earlier ones would not give back the custom ids of jobs that end.
        serves_from: 10,
        sql: include_str!("migrations/0010_custom_ids.sql"),
    },
    Migration {
        version: 11,
        name: "kv_and_logs",
        serves_from: 10,
        sql: include_str!("migrations/0011_kv_and_logs.sql"),
    },
    Migration {
        version: 12,
        name: "runs",
        // Earlier ones would not find what is completed.
        serves_from: 12,
        sql: include_str!("migrations/0012_runs.sql"),
    },
    Migration {
        version: 13,
        name: "blocks",
        // Earlier ones would take a row for one job, and lose the others.
        serves_from: 13,
        sql: include_str!("migrations/0013_blocks.sql"),
    },
    Migration {
        version: 14,
        name: "vacuum",
        serves_from: 13,
        sql: include_str!("migrations/0014_vacuum.sql"),
    },
    Migration {
        version: 15,
        name: "live_runs",
        // Earlier ones would not find what is ready.
        serves_from: 15,
        sql: include_str!("migrations/0015_live_runs.sql"),
    },
];

/// The version that this program works with.
pub const SCHEMA_VERSION: i32 = MIGRATIONS[MIGRATIONS.len() - 1].version;

/// The advisory lock of those who migrate: "batonq", and the hash of the schema's name.
const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtextextended('batonq migrate ' || $1, 0))";

/// How the tables stand to this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// They can be worked with.
    Fits {
        /// Their version; it may be a newer one that still serves this program.
        version: i32,
    },
    /// They are older: a migration is due.
    Behind {
        /// Their version; 0: there are none.
        version: i32,
    },
    /// They no longer serve this program.
    Beyond {
        /// Their version.
        version: i32,
        /// What a program must know at least.
        serves_from: i32,
    },
}

/// A migration that has been applied.
#[derive(Debug, Clone)]
pub struct Applied {
    /// Its number.
    pub version: i32,
    /// Its name.
    pub name: String,
    /// When, in words.
    pub at: String,
}

/// Looks how the tables in `schema` stand.
///
/// # Errors
///
/// Those of the database.
pub async fn fit(client: &Client, schema: &str) -> Result<Fit, tokio_postgres::Error> {
    let sql = "SELECT to_regclass(format('%I.migration', $1::text)) IS NOT NULL";
    if !client.query_one_scalar::<bool, _>(sql, &[&schema]).await? {
        return Ok(Fit::Behind { version: 0 });
    }
    let sql = format!(
        "SELECT coalesce(max(version), 0), coalesce(max(serves_from), 0) FROM {}.migration",
        quoted(schema)
    );
    let row = client.query_one(&sql, &[]).await?;
    let (version, serves_from): (i32, i32) = (row.get(0), row.get(1));
    Ok(match version {
        _ if serves_from > SCHEMA_VERSION => Fit::Beyond { version, serves_from },
        _ if version < SCHEMA_VERSION => Fit::Behind { version },
        _ => Fit::Fits { version },
    })
}

/// Applies what is missing. The answer: the versions that were applied, in order.
///
/// # Errors
///
/// Those of the database; then nothing was changed.
pub async fn up(client: &mut Client, schema: &str) -> Result<Vec<i32>, tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    transaction.batch_execute("SET LOCAL lock_timeout = '30s'").await?;
    transaction.execute(LOCK, &[&schema]).await?;
    let exists = "SELECT 1 FROM pg_namespace WHERE nspname = $1";
    let exists = transaction.query_opt(exists, &[&schema]).await?.is_some();
    let schema = quoted(schema);
    // CREATE SCHEMA IF NOT EXISTS would ask for the right to create one all the same.
    if !exists {
        transaction.batch_execute(&format!("CREATE SCHEMA {schema}")).await?;
    }
    transaction
        .batch_execute(&format!(
            "SET LOCAL search_path = {schema}, pg_temp;
             CREATE TABLE IF NOT EXISTS migration (
                 version integer PRIMARY KEY,
                 name text NOT NULL,
                 serves_from integer NOT NULL,
                 applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
             )"
        ))
        .await?;
    let sql = "SELECT coalesce(max(version), 0) FROM migration";
    let version: i32 = transaction.query_one(sql, &[]).await?.get(0);
    let mut applied = Vec::new();
    for migration in MIGRATIONS.iter().filter(|migration| migration.version > version) {
        transaction.batch_execute(migration.sql).await?;
        let sql = "INSERT INTO migration (version, name, serves_from) VALUES ($1, $2, $3)";
        let Migration { version, name, serves_from, .. } = migration;
        transaction.execute(sql, &[version, name, serves_from]).await?;
        applied.push(*version);
    }
    transaction.commit().await?;
    Ok(applied)
}

/// Lets the role `batonq_producer` use the functions of the schema, and makes that role if it may.
/// The answer: what came of it, in words. What it lacked can be made good later and this done again.
///
/// # Errors
///
/// Those of the database.
pub async fn allow_producer(
    client: &Client,
    schema: &str,
) -> Result<String, tokio_postgres::Error> {
    let sql = format!("SELECT {}.allow_producer()", quoted(schema));
    client.query_one_scalar(&sql, &[]).await
}

/// What has been applied.
///
/// # Errors
///
/// Those of the database.
pub async fn applied(client: &Client, schema: &str) -> Result<Vec<Applied>, tokio_postgres::Error> {
    if let Fit::Behind { version: 0 } = fit(client, schema).await? {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT version, name, applied_at::text FROM {}.migration ORDER BY version",
        quoted(schema)
    );
    let rows = client.query(&sql, &[]).await?;
    let applied =
        rows.iter().map(|row| Applied { version: row.get(0), name: row.get(1), at: row.get(2) });
    Ok(applied.collect())
}

/// A name as SQL writes it.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_rise_by_one_and_serve_no_future_program() {
        for (place, migration) in MIGRATIONS.iter().enumerate() {
            assert_eq!(migration.version as usize, place + 1);
            assert!((1..=migration.version).contains(&migration.serves_from));
        }
    }
}
