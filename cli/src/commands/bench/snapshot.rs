//! A session that keeps a snapshot open: what makes a table's dead rows stay.

use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage, config::SslMode};

use crate::exit::Failure;

/// The same for as long as the snapshot is held.
const NAME: &str = "SELECT txid_current_snapshot()";

/// A transaction that sees the database as it was when it began.
pub(super) struct Snapshot {
    session: Client,
    connection: JoinHandle<Result<(), tokio_postgres::Error>>,
    name: String,
}

impl Snapshot {
    /// Takes it, with the session that this DSN describes.
    pub(super) async fn take(dsn: &str) -> Result<Self, Failure> {
        let mut config: Config =
            dsn.parse().map_err(|error| Failure::usage(format!("--database-url: {error}")))?;
        if config.get_ssl_mode() == SslMode::Require {
            let detail = "--hold-snapshot does not speak TLS: leave sslmode=require out";
            return Err(Failure::usage(detail));
        }
        config.application_name("batonq bench");
        let (session, connection) = config.connect(NoTls).await.map_err(failed)?;
        let connection = tokio::spawn(connection);
        let begin = "SET idle_in_transaction_session_timeout = 0;
                     BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
        session.batch_execute(begin).await.map_err(failed)?;
        let name = name(&session).await?;
        Ok(Self { session, connection, name })
    }

    /// Gives it up.
    ///
    /// # Errors
    ///
    /// If it was not held all the time.
    pub(super) async fn release(self) -> Result<(), Failure> {
        let is_held = name(&self.session).await? == self.name;
        drop(self.session);
        self.connection.await.map_err(Failure::other)?.map_err(failed)?;
        match is_held {
            true => Ok(()),
            false => Err(failed("the transaction has ended")),
        }
    }
}

async fn name(session: &Client) -> Result<String, Failure> {
    let messages = session.simple_query(NAME).await.map_err(failed)?;
    let name = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    name.ok_or_else(|| failed("it has no name"))
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::other(format!("the snapshot is not held: {error}"))
}
