//! A node's presence in the cluster: one session that says it is there, and hears the others.
//!
//! The session holds a lock of the node's name. Who else wants the name is refused; and when the
//! session ends, because the process died or was silent for longer than the database bears, the
//! others see that the node is gone. The session also writes the heartbeat, reads what is asked of
//! the node, tells the time of the database, and listens to what other nodes tell.
//!
//! A session that breaks is replaced. If the name has been taken meanwhile, the node must go.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_postgres::{AsyncMessage, Client, Row, Statement};
use tokio_util::sync::CancellationToken;

use super::PostgresStore;
use super::dsn::{Dsn, chain};
use super::migrate::quoted;
use super::wake::{Heard, channel};
use crate::clock::{Clock, DatabaseClock};
use crate::cluster::{Card, Demand, Leave, NodeState, Requests};
use crate::job::Timestamp;
use crate::store::Signal;
use crate::store::columns::json;

/// How often the session speaks.
const SPEAK_EVERY: Duration = Duration::from_secs(2);

/// Silence after which the database ends the session.
const SILENCE_MAX_MS: u32 = 8_000;

/// An answer that takes longer has been lost.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// After the session broke.
const AFTER_FAILURE: Duration = Duration::from_millis(500);

/// How long a node waits for its predecessor of the same name to be gone.
const PREDECESSOR_FOR: Duration = Duration::from_secs(10);

/// What a node needs to be present.
pub struct Presence {
    /// The store it works on.
    pub store: Arc<PostgresStore>,
    /// What it says of itself.
    pub card: Card,
    /// How often it says that it lives.
    pub heartbeat_every: Duration,
    /// What others want of it.
    pub requests: Requests,
    /// Who pulls what through it.
    pub demand: Demand,
    /// The clock that is told the database's time.
    pub clock: Arc<DatabaseClock>,
    /// What others tell.
    pub signals: mpsc::UnboundedSender<Signal>,
    /// Is cancelled when the node is registered and its store open.
    pub opened: CancellationToken,
    /// Cancelled: the node is about to leave.
    pub leaving: CancellationToken,
    /// Cancelled: it leaves now.
    pub gone: CancellationToken,
}

impl std::fmt::Debug for Presence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Presence").field("card", &self.card).finish_non_exhaustive()
    }
}

/// What is asked of the node, and what it should know.
const READ: &str = "
    SELECT now_ms() AS now, drain, (SELECT count(*) FROM node) AS nodes
    FROM node
    WHERE id = $1 AND incarnation = $2";

const BEAT: &str = "
    UPDATE node
    SET last_heartbeat = now_ms(), state = $3, demand = $4
    WHERE id = $1 AND incarnation = $2
    RETURNING now_ms() AS now, drain, (SELECT count(*) FROM node) AS nodes";

const TAKE_NAME: &str = "
    SELECT pg_try_advisory_lock(
        hashtextextended('batonq node ' || current_schema() || ' ' || $1, 0)
    )";

const REGISTER: &str = "
    INSERT INTO node (
        id, incarnation, hostname, host, tcp_port, http_port, state, started_at, last_heartbeat,
        version, build, fingerprint
    )
    VALUES ($1, $2, $3, $4, $5, $6, 'active', now_ms(), now_ms(), $7, $8, $9)
    ON CONFLICT (id) DO UPDATE
    SET started_at = CASE
            WHEN node.incarnation = excluded.incarnation THEN node.started_at
            ELSE excluded.started_at
        END,
        drain = CASE WHEN node.incarnation = excluded.incarnation THEN node.drain END,
        incarnation = excluded.incarnation, hostname = excluded.hostname, host = excluded.host,
        tcp_port = excluded.tcp_port, http_port = excluded.http_port, state = excluded.state,
        last_heartbeat = excluded.last_heartbeat, version = excluded.version,
        build = excluded.build, fingerprint = excluded.fingerprint";

/// Why a session ended.
enum End {
    /// It broke: another one is opened.
    Broken(String),
    /// The node has left.
    Left,
    /// Another node has the name.
    Taken(String),
}

struct Session {
    client: Client,
    read: Statement,
    beat: Statement,
    notifications: mpsc::UnboundedReceiver<String>,
    driver: tokio::task::JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Presence {
    /// Is present until the node leaves. The answer: why it must go, if another has its name.
    pub async fn run(self, dsn: Dsn) -> Option<String> {
        let mut last = String::new();
        loop {
            match self.attend(&dsn).await {
                End::Left => return None,
                End::Taken(reason) => return Some(reason),
                End::Broken(error) => {
                    if error != last {
                        tracing::warn!(error, "presence interrupted");
                        // Nobody listens any more: the node is stopping.
                        self.signals.send(Signal::Interrupted).ok();
                    }
                    last = error;
                    tokio::select! {
                        () = tokio::time::sleep(AFTER_FAILURE) => {}
                        () = self.gone.cancelled() => return None,
                    }
                }
            }
        }
    }

    async fn attend(&self, dsn: &Dsn) -> End {
        let mut session = match self.open(dsn).await {
            Ok(session) => session,
            Err(error) => return End::Broken(error),
        };
        match self.register(&session.client).await {
            Ok(None) => {}
            Ok(Some(reason)) => return End::Taken(reason),
            Err(error) => return End::Broken(error),
        }
        if let Err(error) = self.store.open(dsn).await {
            return End::Broken(error);
        }
        if self.opened.is_cancelled() {
            // Its leases were orphans as long as it was away.
            self.store.renew_own().await;
        }
        self.opened.cancel();
        let mut next = Instant::now();
        let mut beaten: Option<(Instant, bool)> = None;
        loop {
            let was_leaving = beaten.is_some_and(|(_, was_leaving)| was_leaving);
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                () = self.leaving.cancelled(), if !was_leaving => {}
                () = self.gone.cancelled() => return self.leave(&session.client).await,
                message = session.notifications.recv() => match message {
                    None => return End::Broken("the connection was lost".into()),
                    Some(message) => {
                        if !self.pass_on(&message).await {
                            continue;
                        }
                    }
                },
            }
            next = Instant::now() + SPEAK_EVERY;
            let is_leaving = self.leaving.is_cancelled();
            let is_fresh = beaten.is_some_and(|(at, was_leaving)| {
                at.elapsed() < self.heartbeat_every && was_leaving == is_leaving
            });
            match self.speak(&session, is_leaving, is_fresh).await {
                Ok(Some(row)) => self.read(&row),
                Ok(None) => return End::Broken("the node's row is gone".into()),
                Err(error) => return End::Broken(error),
            }
            if !is_fresh {
                beaten = Some((Instant::now(), is_leaving));
            }
        }
    }

    async fn open(&self, dsn: &Dsn) -> Result<Session, String> {
        let mut config = dsn.config().clone();
        config.application_name(format!("batonq/{}/presence", self.card.id));
        let (client, mut connection) =
            config.connect(dsn.tls()).await.map_err(|error| chain(&error))?;
        let (heard, notifications) = mpsc::unbounded_channel();
        let driver = tokio::spawn(async move {
            let mut messages =
                futures_util::stream::poll_fn(move |context| connection.poll_message(context));
            while let Some(Ok(message)) = messages.next().await {
                if let AsyncMessage::Notification(told) = message
                    && heard.send(told.payload().to_owned()).is_err()
                {
                    return;
                }
            }
        });
        let schema = &self.store.connector.schema;
        let path = quoted(schema);
        let setup = format!(
            "SET search_path = {path}, pg_temp; SET statement_timeout = '4s';
             SET idle_in_transaction_session_timeout = '5s';
             SET tcp_keepalives_idle = 2; SET tcp_keepalives_interval = 2;
             SET tcp_keepalives_count = 2; SET tcp_user_timeout = {SILENCE_MAX_MS};
             SET idle_session_timeout = {SILENCE_MAX_MS};
             LISTEN {}",
            quoted(&channel(schema))
        );
        in_time(client.batch_execute(&setup)).await?;
        let read = in_time(client.prepare(READ)).await?;
        let beat = in_time(client.prepare(BEAT)).await?;
        Ok(Session { client, read, beat, notifications, driver })
    }

    /// Takes the name and writes the node's row. The answer: why it can not be taken.
    async fn register(&self, client: &Client) -> Result<Option<String>, String> {
        let until = Instant::now() + PREDECESSOR_FOR;
        let card = &self.card;
        loop {
            let row = in_time(client.query_one(TAKE_NAME, &[&card.id])).await?;
            if row.get(0) {
                break;
            }
            if Instant::now() >= until {
                return Ok(Some(self.holder(client).await?));
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        let (tcp, http) = (i32::from(card.tcp_port), card.http_port.map(i32::from));
        let values: [&(dyn tokio_postgres::types::ToSql + Sync); 9] = [
            &card.id,
            &card.incarnation,
            &card.hostname,
            &card.host,
            &tcp,
            &http,
            &card.version,
            &card.build,
            &card.fingerprint,
        ];
        in_time(client.execute(REGISTER, &values)).await?;
        Ok(None)
    }

    async fn holder(&self, client: &Client) -> Result<String, String> {
        let sql = "SELECT host, hostname FROM node WHERE id = $1";
        let row = in_time(client.query_opt(sql, &[&self.card.id])).await?;
        let place = row.map_or_else(String::new, |row| {
            let (host, hostname): (String, String) = (row.get(0), row.get(1));
            format!(" (at {host}, machine {hostname})")
        });
        Ok(format!(
            "a live node{place} has the id {}: give each node its own NODE_ID, or stop that one",
            self.card.id
        ))
    }

    /// Says that the node lives, or, if that was said a moment ago, only asks.
    async fn speak(
        &self,
        session: &Session,
        is_leaving: bool,
        is_fresh: bool,
    ) -> Result<Option<Row>, String> {
        let state = if is_leaving { NodeState::Draining } else { NodeState::Active }.name();
        let Card { id, incarnation, .. } = &self.card;
        let client = &session.client;
        match is_fresh {
            true => in_time(client.query_opt(&session.read, &[id, incarnation])).await,
            false => {
                let demand = json(&self.demand.list(self.clock.now()));
                in_time(client.query_opt(&session.beat, &[id, incarnation, &state, &demand])).await
            }
        }
    }

    fn read(&self, row: &Row) {
        self.clock.set(Timestamp(row.get("now")));
        self.store.outbox.set_readers(row.get::<_, i64>("nodes") > 1);
        let drain: Option<&str> = row.get("drain");
        if let Some(leave) = drain.and_then(Leave::parse) {
            self.requests.leave(leave);
        }
    }

    /// True: something is asked of this node.
    async fn pass_on(&self, message: &str) -> bool {
        let Heard { signals, nodes, empty } = self.store.hear(message).await;
        for signal in signals {
            // Nobody listens any more: the node is stopping.
            self.signals.send(signal).ok();
        }
        self.store.delete_empty(&empty).await;
        nodes.contains(&self.card.id)
    }

    async fn leave(&self, client: &Client) -> End {
        let sql = "DELETE FROM node WHERE id = $1 AND incarnation = $2";
        let Card { id, incarnation, .. } = &self.card;
        if let Err(error) = in_time(client.execute(sql, &[id, incarnation])).await {
            tracing::warn!(error, "the node could not deregister: it will be seen as stale");
        }
        End::Left
    }
}

async fn in_time<T>(
    query: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, String> {
    match tokio::time::timeout(ANSWER_MAX, query).await {
        Ok(done) => done.map_err(|error| chain(&error)),
        Err(_) => Err("no answer in time".into()),
    }
}
