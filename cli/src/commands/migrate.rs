//! `batonq migrate`: the tables in Postgres.

use std::collections::BTreeMap;
use std::process::ExitCode;

use batonq_server::config::{Config, Sources};
use batonq_server::store::postgres::Database;
use batonq_server::store::postgres::migrate::{Applied, Fit, MIGRATIONS, SCHEMA_VERSION};
use serde::Serialize;

use crate::exit::Failure;
use crate::output::{Format, Row, say};

/// The tables of a shared store. The database is that of the environment, as for `batonq serve`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Migrate {
    /// Apply what is missing; do nothing if nothing is
    Up,
    /// Show what has been applied
    Status,
    /// Print the statements, for those who apply them themselves
    Sql,
}

/// What `up` did.
#[derive(Debug, Serialize)]
struct Done {
    schema: String,
    applied: Vec<i32>,
    /// What producers may do, in words.
    producer: String,
}

/// A line of `status`.
#[derive(Debug, Serialize)]
struct Line {
    version: i32,
    name: String,
    applied_at: String,
}

impl Row for Line {
    const HEAD: &'static [&'static str] = &["VERSION", "NAME", "APPLIED"];

    fn cells(&self) -> Vec<String> {
        vec![self.version.to_string(), self.name.clone(), self.applied_at.clone()]
    }
}

impl From<Applied> for Line {
    fn from(applied: Applied) -> Self {
        Self { version: applied.version, name: applied.name, applied_at: applied.at }
    }
}

impl Migrate {
    pub(crate) async fn run(self, format: Format) -> Result<ExitCode, Failure> {
        match self {
            Self::Up => up(&database()?, format).await?,
            Self::Status => status(&database()?, format).await?,
            Self::Sql => MIGRATIONS.iter().try_for_each(|migration| say(migration.sql))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn database() -> Result<Database, Failure> {
    let sources = Sources::of_process(BTreeMap::new(), None);
    Config::load_database(&sources).map_err(Failure::usage)
}

fn failed(detail: String) -> Failure {
    Failure::other(format!("DATABASE_URL: {detail}"))
}

async fn up(database: &Database, format: Format) -> Result<(), Failure> {
    let (applied, producer) = database.migrate().await.map_err(failed)?;
    let done = match applied.last() {
        None => "nothing to do".to_owned(),
        Some(version) => format!("now version {version}"),
    };
    let sentence = format!("schema {}: {done}\n{producer}", database.schema);
    format.value(&Done { schema: database.schema.clone(), applied, producer }, &sentence)
}

async fn status(database: &Database, format: Format) -> Result<(), Failure> {
    let (fit, applied) = database.status().await.map_err(failed)?;
    let lines: Vec<Line> = applied.into_iter().map(Into::into).collect();
    format.rows(&lines)?;
    if format == Format::Human {
        let (version, word) = match fit {
            Fit::Fits { version } => (version, "fits"),
            Fit::Behind { version } => (version, "run batonq migrate up"),
            Fit::Beyond { version, .. } => (version, "use a newer batonq"),
        };
        let schema = &database.schema;
        say(&format!("schema {schema}: version {version} of {SCHEMA_VERSION}, {word}"))?;
    }
    Ok(())
}
