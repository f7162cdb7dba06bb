//! The nodes' Postgres, as somebody who looks at it from outside.

use tokio_postgres::{Client, NoTls};

use crate::load::{Error, Targets};
use crate::record::Recorder;

/// How often its clock is read.
const READINGS: u32 = 20;

/// How the database's clock goes beside the clock of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DatabaseClock {
    /// The database's clock less the clock of the run.
    pub(crate) offset_ms: i64,
    /// How far that may be off.
    pub(crate) error_ms: i64,
}

/// One look at the database's clock: read between two times of the run.
#[derive(Debug, Clone, Copy)]
struct Reading {
    start_ns: u64,
    end_ns: u64,
    database_ms: i64,
}

impl DatabaseClock {
    /// Reads it: in the database if there is a URL of it, else through a node.
    ///
    /// # Errors
    ///
    /// If it can not be read.
    pub(crate) async fn read(
        targets: &Targets,
        recorder: &Recorder,
        (client, queue): (&batonq_client::Client, &str),
    ) -> Result<Self, Error> {
        let mut readings = Vec::new();
        if targets.database.is_some() {
            let database = connect(targets).await?;
            for _ in 0..READINGS {
                let start_ns = recorder.now_ns();
                let row = database.query_one("SELECT now_ms()", &[]).await?;
                let (end_ns, database_ms) = (recorder.now_ns(), row.get(0));
                readings.push(Reading { start_ns, end_ns, database_ms });
            }
            return Ok(Self::of(&readings));
        }
        let asked = |what| move |error| Error::asked(what, &error);
        // Whoever explains a job says what time it is.
        let job =
            batonq_client::NewJob::new(queue, "0").delay(std::time::Duration::from_secs(3600));
        let job = client.push(job).await.map_err(asked("push"))?.id;
        for _ in 0..READINGS {
            let start_ns = recorder.now_ns();
            let database_ms = client.explain(job).await.map_err(asked("explain"))?.now_ms;
            readings.push(Reading { start_ns, end_ns: recorder.now_ns(), database_ms });
        }
        client.cancel(job).await.map_err(asked("cancel"))?;
        Ok(Self::of(&readings))
    }

    /// What all readings together say.
    fn of(readings: &[Reading]) -> Self {
        let micros = |ns: u64| i64::try_from(ns / 1000).unwrap_or(i64::MAX);
        // A time in milliseconds is that of up to one before or after.
        let least = |it: &Reading| it.database_ms * 1000 - 1000 - micros(it.end_ns);
        let most = |it: &Reading| it.database_ms * 1000 + 1000 - micros(it.start_ns);
        let low = readings.iter().map(least).max().unwrap_or(0);
        let high = readings.iter().map(most).min().unwrap_or(0);
        // The wrong way round, if the clock was set in between.
        let (low, high) = (low.min(high), low.max(high));
        Self::between(low.div_euclid(1000), -(-high).div_euclid(1000))
    }

    fn between(low_ms: i64, high_ms: i64) -> Self {
        let offset_ms = low_ms + (high_ms - low_ms) / 2;
        Self { offset_ms, error_ms: (high_ms - offset_ms).max(offset_ms - low_ms) }
    }

    /// What holds for both times at which it was read.
    pub(crate) fn and(self, other: Self) -> Self {
        let low = |it: Self| it.offset_ms - it.error_ms;
        let high = |it: Self| it.offset_ms + it.error_ms;
        Self::between(low(self).min(low(other)), high(self).max(high(other)))
    }

    /// The database's time, or a little before it.
    pub(crate) fn earliest_ms(self, run_ns: u64) -> i64 {
        let run_ms = i64::try_from(run_ns / 1_000_000).unwrap_or(i64::MAX);
        run_ms + self.offset_ms - self.error_ms
    }
}

/// A session that sees the nodes' tables.
///
/// # Errors
///
/// If there is none to be had.
pub(crate) async fn connect(targets: &Targets) -> Result<Client, Error> {
    let url = targets.database.as_deref().unwrap_or_default();
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    // It ends with its client, and the client says what was wrong.
    tokio::spawn(async { connection.await.ok() });
    let schema = match targets.schema.as_str() {
        "" => "batonq",
        schema => schema,
    };
    let path = format!("SET search_path TO \"{}\"", schema.replace('"', "\"\""));
    client.batch_execute(&path).await?;
    Ok(client)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_known_as_well_as_the_best_readings_say() {
        let ms = 1_000_000;
        let reading = |start, end, database_ms| Reading {
            start_ns: start * ms,
            end_ns: end * ms,
            database_ms,
        };
        let clock = DatabaseClock::of(&[
            reading(0, 100, 5050),
            reading(200, 204, 5203),
            reading(300, 900, 5301),
        ]);
        // From the second: 4998 to 5004; from the third: 5002 at most.
        assert_eq!(clock, DatabaseClock { offset_ms: 5000, error_ms: 2 });
        assert_eq!(clock.earliest_ms(10 * ms), 5008);
    }

    #[test]
    fn two_looks_at_a_clock_hold_together() {
        let (start, end) = (
            DatabaseClock { offset_ms: 100, error_ms: 1 },
            DatabaseClock { offset_ms: 104, error_ms: 2 },
        );
        assert_eq!(start.and(end), DatabaseClock { offset_ms: 102, error_ms: 4 });
    }
}
