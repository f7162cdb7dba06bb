//! Whether the tables of a store contradict themselves.
//!
//! Each job stands in exactly one place, nobody waits for what has ended, no job has two leases.
//! The rules are SQL, so that they can be asked of any database, also of one that was not made by
//! a test: on Postgres [`POSTGRES`] is one statement and nothing else.

use std::path::Path;

use rusqlite::Connection;

/// The rules of the shared store. Columns: the rule that is broken, and the job.
pub const POSTGRES: &str = include_str!("postgres.sql");

/// The rules of the embedded store, for a connection that has `temp.held`.
const SQLITE: &str = include_str!("sqlite.sql");

/// What a lease of the embedded store has of each job: its number in 8 bytes, its delivery in 4.
const PACKED_BYTES: usize = 12;

/// Which jobs of a schema break which rules.
///
/// # Panics
///
/// If the database can not be asked.
pub async fn of_postgres(client: &tokio_postgres::Client, schema: &str) -> Vec<String> {
    let path = format!("SET search_path = {schema}, pg_temp");
    client.batch_execute(&path).await.expect("the schema is there");
    let rows = client.query(POSTGRES, &[]).await.expect("the tables are there");
    let told = |row: &tokio_postgres::Row| {
        format!("job {} {}", row.get::<_, i64>("job_id"), row.get::<_, &str>("rule"))
    };
    rows.iter().map(told).collect()
}

/// Which jobs of the store in a directory break which rules. A store may be at work on it.
///
/// # Panics
///
/// If the file can not be read.
pub fn of_sqlite(dir: &Path) -> Vec<String> {
    let conn = Connection::open(dir.join("batonq.db")).expect("the file is there");
    check(&conn).expect("the tables are there")
}

fn check(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    conn.execute_batch("CREATE TEMP TABLE held (job_id INTEGER, delivery INTEGER); BEGIN")?;
    let mut leases = conn.prepare("SELECT jobs FROM lease")?;
    let mut rows = leases.query([])?;
    while let Some(row) = rows.next()? {
        let (entries, _) = row.get_ref(0)?.as_blob()?.as_chunks::<PACKED_BYTES>();
        for entry in entries {
            let (job, delivery) = entry.split_at(8);
            let job = i64::from_be_bytes(job.try_into().expect("8 of 12 bytes"));
            let delivery = u32::from_be_bytes(delivery.try_into().expect("4 of 12 bytes"));
            conn.execute("INSERT INTO temp.held VALUES (?1, ?2)", (job, delivery))?;
        }
    }
    let mut rules = conn.prepare(SQLITE)?;
    let told = rules.query_map([], |row| {
        Ok(format!("job {} {}", row.get::<_, i64>("job_id")?, row.get::<_, String>("rule")?))
    })?;
    told.collect()
}
