//! Before the store is used: is it a Postgres that we can work with, and do the tables fit?
//!
//! What may get better by itself is waited for, with the reason in the log and in readiness:
//! nobody answers, the server is starting up or read-only, there are no connections left, another
//! node migrates. What will not is refused, with what to do: [`Refusal`].

use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::dsn::{Dsn, chain};
use super::migrate::{self, Applied, Fit, SCHEMA_VERSION};

/// How often it is tried again.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// How often the same reason is logged again, in tries.
const LOG_EVERY: u32 = 30;

/// The oldest Postgres with all that elections need (`idle_session_timeout`).
const SERVER_VERSION_MIN: i32 = 140_000;

/// May the node make the tables?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Migrate {
    /// It makes and changes them when it starts.
    Auto,
    /// It waits until somebody else has.
    Off,
}

/// Where the database is.
#[derive(Debug, Clone)]
pub struct Database {
    /// The database, perhaps through a pooler.
    pub dsn: Dsn,
    /// The database, not through a pooler.
    pub direct: Option<Dsn>,
    /// The schema of the tables.
    pub schema: String,
    /// Who makes the tables.
    pub migrate: Migrate,
}

/// Why this database will not do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {detail}")]
pub struct Refusal {
    /// The setting to look at.
    pub setting: &'static str,
    /// What is wrong, and what to do.
    pub detail: String,
}

/// Why it did not work this time.
enum Trouble {
    /// It may get better.
    Wait(String),
    Refuse(Refusal),
}

fn refuse(setting: &'static str, detail: impl Into<String>) -> Trouble {
    Trouble::Refuse(Refusal { setting, detail: detail.into() })
}

/// Opens a connection for once.
///
/// # Errors
///
/// Those of the library.
pub async fn connect(dsn: &Dsn, name: &str) -> Result<Client, tokio_postgres::Error> {
    let mut config = dsn.config().clone();
    config.application_name(format!("batonq/{name}"));
    let (client, connection) = config.connect(dsn.tls()).await?;
    tokio::spawn(async move {
        // Whoever uses the client learns of it.
        connection.await.ok();
    });
    Ok(client)
}

impl Database {
    /// Waits until the database can be worked with; `told` gets each new reason why it can not
    /// yet. The answer: the DSN to work with.
    ///
    /// # Errors
    ///
    /// [`Refusal`].
    pub async fn prepare(&self, told: impl Fn(&str)) -> Result<Dsn, Refusal> {
        let (mut last, mut tries) = (String::new(), 0);
        loop {
            let reason = match self.try_prepare().await {
                Ok(dsn) => return Ok(dsn),
                Err(Trouble::Refuse(refusal)) => return Err(refusal),
                Err(Trouble::Wait(reason)) => reason,
            };
            if reason != last || tries % LOG_EVERY == 0 {
                tracing::warn!(database = self.dsn.address(), reason, "waiting for postgres");
                told(&reason);
            }
            tries += 1;
            last = reason;
            tokio::time::sleep(RETRY_EVERY).await;
        }
    }

    /// Applies the migrations that are missing, and lets producers in. The answer: the versions
    /// that were applied, and what producers may do, in words.
    ///
    /// # Errors
    ///
    /// Why it can not be done; then nothing was changed.
    pub async fn migrate(&self) -> Result<(Vec<i32>, String), String> {
        let mut client = self.connect_directly().await?;
        let applied = migrate::up(&mut client, &self.schema).await.map_err(|error| text(&error))?;
        let producer = migrate::allow_producer(&client, &self.schema).await;
        Ok((applied, producer.unwrap_or_else(|error| text(&error))))
    }

    /// How the tables stand, and what has been applied.
    ///
    /// # Errors
    ///
    /// Why it can not be told.
    pub async fn status(&self) -> Result<(Fit, Vec<Applied>), String> {
        let client = self.connect_directly().await?;
        let fit = migrate::fit(&client, &self.schema).await.map_err(|error| text(&error))?;
        let applied = migrate::applied(&client, &self.schema).await;
        Ok((fit, applied.map_err(|error| text(&error))?))
    }

    async fn connect_directly(&self) -> Result<Client, String> {
        let dsn = self.direct.as_ref().unwrap_or(&self.dsn);
        connect(dsn, "migrate").await.map_err(|error| text(&error))
    }

    async fn try_prepare(&self) -> Result<Dsn, Trouble> {
        let first = connect(&self.dsn, "start").await.map_err(|error| trouble(&error))?;
        let version = first.query_one("SHOW server_version_num", &[]).await;
        let version: String = version.map_err(|error| trouble(&error))?.get(0);
        if version.parse().unwrap_or(0) < SERVER_VERSION_MIN {
            let found = version.parse::<i32>().unwrap_or(0) / 10_000;
            let detail = format!("is Postgres {found}; batonq needs Postgres 14 or later");
            return Err(refuse("DATABASE_URL", detail));
        }
        let second = connect(&self.dsn, "start").await.map_err(|error| trouble(&error))?;
        let is_pooled = is_pooled(&first, &second).await.map_err(|error| trouble(&error))?;
        let dsn = match (&self.direct, is_pooled) {
            (Some(direct), _) => direct.clone(),
            (None, false) => self.dsn.clone(),
            (None, true) => return Err(pooled("DATABASE_URL", "set BATONQ_DIRECT_DATABASE_URL")),
        };
        let mut client = connect(&dsn, "start").await.map_err(|error| trouble(&error))?;
        if self.direct.is_some() {
            let other = connect(&dsn, "start").await.map_err(|error| trouble(&error))?;
            if self::is_pooled(&client, &other).await.map_err(|error| trouble(&error))? {
                let setting = "BATONQ_DIRECT_DATABASE_URL";
                return Err(pooled(setting, "give the address of Postgres itself"));
            }
            if is_pooled {
                tracing::info!("DATABASE_URL is a transaction pooler: connections are direct");
            }
        }
        self.fit(&mut client).await.map(|()| dsn)
    }

    async fn fit(&self, client: &mut Client) -> Result<(), Trouble> {
        let schema = &self.schema;
        let mut fit = migrate::fit(client, schema).await.map_err(|error| trouble(&error))?;
        if let (Fit::Behind { version }, Migrate::Auto) = (fit, self.migrate) {
            let applied = migrate::up(client, schema).await.map_err(|error| trouble(&error))?;
            if !applied.is_empty() {
                tracing::info!(schema, from = version, ?applied, "tables migrated");
                let producer = migrate::allow_producer(client, schema).await;
                let producer = producer.unwrap_or_else(|error| text(&error));
                tracing::info!(schema, producer, "functions for producers");
            }
            fit = migrate::fit(client, schema).await.map_err(|error| trouble(&error))?;
        }
        match fit {
            Fit::Fits { .. } => Ok(()),
            Fit::Behind { version } => Err(Trouble::Wait(format!(
                "the tables in schema {schema} have version {version}, this batonq needs \
                 {SCHEMA_VERSION}: run batonq migrate up"
            ))),
            Fit::Beyond { version, serves_from } => Err(refuse(
                "BATONQ_SCHEMA",
                format!(
                    "the tables in {schema} have version {version} and serve programs that know \
                     version {serves_from} or later; this batonq knows {SCHEMA_VERSION}: use a \
                     newer batonq"
                ),
            )),
        }
    }
}

fn pooled(setting: &'static str, fix: &str) -> Trouble {
    refuse(
        setting,
        format!(
            "leads through a pooler that gives each transaction another connection: locks and \
             notifications do not work there, and two nodes would lead at once; {fix}"
        ),
    )
}

/// Two connections that are on the same server process at once, or one that is now on this one and
/// now on that, are not connections to Postgres itself.
async fn is_pooled(first: &Client, second: &Client) -> Result<bool, tokio_postgres::Error> {
    let mut pids: Vec<i32> = Vec::new();
    for _ in 0..2 {
        for client in [first, second] {
            // Without a named statement, which some poolers do not know.
            let rows = client.query_typed("SELECT pg_backend_pid()", &[]).await?;
            pids.push(rows[0].get(0));
        }
    }
    Ok(pids[0] == pids[1] || pids[0] != pids[2] || pids[1] != pids[3])
}

fn text(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(error) => error.message().to_owned(),
        None => chain(error),
    }
}

fn trouble(error: &tokio_postgres::Error) -> Trouble {
    let text = text(error);
    let Some(code) = error.code() else { return Trouble::Wait(text) };
    let wrong = match *code {
        SqlState::INVALID_PASSWORD | SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            "check the user and the password"
        }
        SqlState::INVALID_CATALOG_NAME => "create the database, or name another",
        SqlState::INSUFFICIENT_PRIVILEGE => {
            "grant the user CREATE on the database (or run batonq migrate up as one who may, and \
             grant it the tables), and set BATONQ_MIGRATE=off"
        }
        _ => return Trouble::Wait(text),
    };
    refuse("DATABASE_URL", format!("{text}: {wrong}"))
}
