//! The limit that the embedded store is measured against: a bare loop over tables of the same
//! shape, in one thread, without anything around it.
//!
//! `cargo run --release -p batonq-server --example bare_sqlite -- SECONDS BATCH [kept|none]`
//!
//! `kept`: each job leaves a finished row with its payload. `none`: it leaves nothing.

use std::io::Write;
use std::time::Duration;

use rusqlite::{Connection, params};
use tokio::time::Instant;

/// What an ack does with each job.
const FINISH: [&str; 2] = [
    "INSERT INTO finished (id, payload) SELECT id, payload FROM job WHERE id = ?1",
    "DELETE FROM job WHERE id = ?1",
];

const PAYLOAD: [u8; 60] = [b'x'; 60];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let seconds: u64 = arguments.next().map_or(Ok(5), |text| text.parse())?;
    let batch: i64 = arguments.next().map_or(Ok(500), |text| text.parse())?;
    let finished = arguments.next().unwrap_or_else(|| "kept".into());
    let ack = match finished.as_str() {
        "kept" => FINISH.as_slice(),
        "none" => &FINISH[1..],
        other => return Err(format!("kept or none, not {other}").into()),
    };
    let dir = tempfile::tempdir()?;
    let conn = Connection::open(dir.path().join("bare.db"))?;
    conn.pragma_update(None, "page_size", 8192)?;
    conn.pragma_update(None, "journal_mode", "WAL")?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.pragma_update(None, "wal_autocheckpoint", 8192)?;
    conn.execute_batch(
        "CREATE TABLE job (id INTEGER PRIMARY KEY, payload BLOB NOT NULL) STRICT;
         CREATE TABLE ready (place INTEGER PRIMARY KEY, job_id INTEGER NOT NULL) STRICT;
         CREATE TABLE lease (id INTEGER PRIMARY KEY, jobs BLOB NOT NULL) STRICT;
         CREATE TABLE finished (id INTEGER PRIMARY KEY, payload BLOB NOT NULL) STRICT;",
    )?;
    let started = Instant::now();
    let mut jobs = 0;
    while started.elapsed() < Duration::from_secs(seconds) {
        push(&conn, jobs, batch)?;
        let claimed = claim(&conn, batch)?;
        end(&conn, &claimed, ack)?;
        jobs += batch;
    }
    let rate = jobs as f64 / started.elapsed().as_secs_f64();
    writeln!(
        std::io::stdout(),
        "BARE_RESULT jobs_per_sec={rate:.0} batch={batch} finished={finished}"
    )?;
    Ok(())
}

/// One transaction, as each of the three.
fn push(conn: &Connection, first: i64, count: i64) -> rusqlite::Result<()> {
    let transaction = conn.unchecked_transaction()?;
    for id in first..first + count {
        let sql = "INSERT INTO job (id, payload) VALUES (?1, ?2)";
        conn.prepare_cached(sql)?.execute(params![id, &PAYLOAD[..]])?;
        let sql = "INSERT INTO ready (place, job_id) VALUES (?1, ?1)";
        conn.prepare_cached(sql)?.execute([id])?;
    }
    transaction.commit()
}

fn claim(conn: &Connection, count: i64) -> rusqlite::Result<Vec<i64>> {
    let transaction = conn.unchecked_transaction()?;
    let sql = "SELECT job_id, payload FROM ready JOIN job ON id = job_id ORDER BY place LIMIT ?1";
    let read = |row: &rusqlite::Row<'_>| {
        let payload: Vec<u8> = row.get(1)?;
        Ok((row.get(0)?, payload))
    };
    let found: Vec<(i64, Vec<u8>)> =
        conn.prepare_cached(sql)?.query_map([count], read)?.collect::<Result<_, _>>()?;
    let ids: Vec<i64> = found.into_iter().map(|(id, _)| id).collect();
    let last = ids.last().copied().unwrap_or(0);
    conn.prepare_cached("DELETE FROM ready WHERE place <= ?1")?.execute([last])?;
    let packed: Vec<u8> = ids.iter().flat_map(|id| id.to_be_bytes()).collect();
    conn.prepare_cached("INSERT INTO lease (jobs) VALUES (?1)")?.execute([packed])?;
    transaction.commit()?;
    Ok(ids)
}

fn end(conn: &Connection, ids: &[i64], statements: &[&str]) -> rusqlite::Result<()> {
    let transaction = conn.unchecked_transaction()?;
    for id in ids {
        for sql in statements {
            conn.prepare_cached(sql)?.execute([id])?;
        }
    }
    conn.prepare_cached("DELETE FROM lease")?.execute([])?;
    transaction.commit()
}
