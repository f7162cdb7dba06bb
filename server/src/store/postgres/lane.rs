//! Connections that the store keeps for one purpose each, and transactions on them.
//!
//! A lane is one connection and the line of those who wait for it. It is opened when it is first
//! needed and again after it broke. What was prepared on it is remembered. Its planner is told to
//! keep to the indexes: the tables of a queue are now empty and now full of dead rows, and plans
//! that follow statistics fall off a cliff in between.
//!
//! What has not been committed when something fails was not done. A commit whose answer is lost
//! may have been done: [`Failure::InDoubt`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{MutexGuard, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_postgres::error::{Severity, SqlState};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};

use super::dsn::{Dsn, chain};
use super::migrate::quoted;
use crate::error::Error;

/// How long a call may take before its connection is given up.
pub(super) const CALL_MAX: Duration = Duration::from_secs(6);

/// After a connection was refused, others that want one are told so this long, unless another one was
/// opened meanwhile.
const REFUSED_FOR: Duration = Duration::from_millis(250);

/// What every connection of ours is told. `plan_cache_mode` and the rest pin the plans; the
/// timeouts end what a node that is frozen or cut off has left behind: nobody waits for its locks
/// for longer than two seconds.
///
/// The planner can not be told not to hash a correlated `EXISTS`, which then reads the whole
/// table; statements ask with `(SELECT … LIMIT 1)` instead.
pub(super) const SETTINGS: &str = "
    SET statement_timeout = '5s';
    SET lock_timeout = '4s';
    SET idle_in_transaction_session_timeout = '2s';
    SET plan_cache_mode = force_generic_plan;
    SET enable_seqscan = off;
    SET enable_bitmapscan = off;
    SET enable_hashjoin = off;
    SET enable_mergejoin = off;
    SET enable_memoize = off;
    SET jit = off;
    SET client_min_messages = warning;
    SELECT set_config('synchronous_commit', 'on', false)
    WHERE current_setting('synchronous_commit') IN ('off', 'local');";

/// What the leader's lanes are told beside that. Their transactions hold the fence, for which the
/// next election waits: what a leader has left behind that was cut off must end soon. And each does
/// one part after the other: one that needs what somebody else holds gives up soon.
pub(super) const SHORT: &str =
    "SET idle_in_transaction_session_timeout = '1s'; SET lock_timeout = '500ms';";

/// What the lane for queues with limits is told: whoever has the lock of a queue's row has it for some
/// milliseconds, or is frozen or cut off.
pub(super) const BRIEF: &str = "SET lock_timeout = '100ms';";

/// What the lane for looks is told that nobody waits for.
pub(super) const PATIENT: &str = "SET statement_timeout = '60s';";

/// How long a call on that lane may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(65);

/// Opens connections, once it is known where and that the tables fit.
#[derive(Debug)]
pub(super) struct Connector {
    pub(super) schema: String,
    /// What the connections are called in `pg_stat_activity`, before the lane's name.
    pub(super) name: String,
    /// The database, or why it can not be worked with yet.
    pub(super) gate: RwLock<Result<Dsn, String>>,
    /// Why a connection could not be had the last time that one could not be had.
    pub(super) refused: watch::Sender<Option<Failure>>,
    /// When a connection was opened last.
    pub(super) opened_at: Mutex<Option<Instant>>,
}

/// An open connection. Dropping it closes it.
pub(super) struct Conn {
    client: Arc<Client>,
    driver: JoinHandle<()>,
    statements: HashMap<&'static str, Statement>,
    /// A transaction was left open and is being rolled back, so that nobody waits for its locks.
    undoing: Option<JoinHandle<bool>>,
    /// An answer did not come in time: what is under way on it is not known.
    is_spent: bool,
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connector {
    /// Opens a connection and settles how it behaves.
    pub(super) async fn connect(&self, lane: &str, settings: &str) -> Result<Conn, Failure> {
        let dsn = self.gate.read().clone().map_err(Failure::NotDone);
        let connected = match dsn {
            Ok(dsn) => self.connect_to(&dsn, lane, settings).await,
            Err(failure) => Err(failure),
        };
        match connected {
            Ok(conn) => {
                *self.opened_at.lock() = Some(Instant::now());
                Ok(conn)
            }
            Err(failure) => {
                self.refused.send_replace(Some(failure.clone()));
                Err(failure)
            }
        }
    }

    /// Whether a connection has been opened since then.
    fn has_opened_since(&self, at: Instant) -> bool {
        self.opened_at.lock().is_some_and(|opened_at| opened_at > at)
    }

    /// The same, also before it is known that the tables fit.
    pub(super) async fn connect_to(
        &self,
        dsn: &Dsn,
        lane: &str,
        settings: &str,
    ) -> Result<Conn, Failure> {
        let mut config = dsn.config().clone();
        config.application_name(format!("batonq/{}/{lane}", self.name));
        let (client, connection) =
            config.connect(dsn.tls()).await.map_err(|error| Failure::of(&error))?;
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = chain(&error), "connection to postgres ended");
            }
        });
        let client = Arc::new(client);
        let conn =
            Conn { client, driver, statements: HashMap::new(), undoing: None, is_spent: false };
        let path = quoted(&self.schema);
        let settings = format!("SET search_path = {path}, pg_temp; {SETTINGS} {settings}");
        conn.client.batch_execute(&settings).await.map_err(|error| Failure::of(&error))?;
        Ok(conn)
    }
}

/// Why a transaction came to nothing, or perhaps did not.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum Failure {
    /// Nothing was done.
    #[error("{0}")]
    NotDone(String),
    /// Nothing was done because of others at work on the same rows: do it again.
    #[error("{0}")]
    Conflict(String),
    /// Nothing was done because somebody held what was needed for too long.
    #[error("{0}")]
    Held(String),
    /// Nothing was done because it took too long.
    #[error("{0}")]
    TooLong(String),
    /// It may have been done.
    #[error("{0}")]
    InDoubt(String),
}

impl Failure {
    /// An error before the commit was asked for.
    pub(super) fn of(error: &tokio_postgres::Error) -> Self {
        let text = match error.as_db_error() {
            Some(error) => format!("postgres: {}", error.message()),
            None => format!("postgres: {}", chain(error)),
        };
        match error.code() {
            Some(&SqlState::T_R_DEADLOCK_DETECTED | &SqlState::T_R_SERIALIZATION_FAILURE) => {
                Self::Conflict(text)
            }
            Some(&SqlState::LOCK_NOT_AVAILABLE) => Self::Held(text),
            Some(&SqlState::QUERY_CANCELED) => Self::TooLong(text),
            _ => Self::NotDone(text),
        }
    }

    /// An error after the commit was asked for.
    fn of_commit(error: &tokio_postgres::Error) -> Self {
        let is_certain = error.as_db_error().is_some_and(|error| {
            !matches!(error.parsed_severity(), Some(Severity::Fatal | Severity::Panic))
        });
        match (Self::of(error), is_certain) {
            (failure, true) => failure,
            (
                Self::NotDone(text)
                | Self::Conflict(text)
                | Self::Held(text)
                | Self::TooLong(text)
                | Self::InDoubt(text),
                false,
            ) => Self::InDoubt(text),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NotDone(text)
            | Failure::Conflict(text)
            | Failure::Held(text)
            | Failure::TooLong(text) => Self::Unavailable(text.into()),
            Failure::InDoubt(text) => Self::OutcomeUnknown(text.into()),
        }
    }
}

/// A statement and its parameters.
pub(super) type Call<'a> = (&'static str, &'a [&'a (dyn ToSql + Sync)]);

impl Conn {
    async fn statement(&mut self, sql: &'static str) -> Result<Statement, Failure> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(sql).await.map_err(|error| Failure::of(&error))?;
        self.statements.insert(sql, statement.clone());
        Ok(statement)
    }

    /// Does a statement that no transaction may hold, however long it takes.
    pub(super) async fn execute(&self, sql: &str) -> Result<(), Failure> {
        self.client.batch_execute(sql).await.map_err(|error| Failure::of(&error))
    }

    /// Rolls back what was left open, at once and without waiting for it.
    fn undo(&mut self) {
        let client = Arc::clone(&self.client);
        let undo = async move { client.batch_execute("ROLLBACK").await.is_ok() };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => self.undoing = Some(runtime.spawn(undo)),
            Err(_) => self.is_spent = true,
        }
    }

    async fn finish_undoing(&mut self) {
        if let Some(undoing) = self.undoing.take() {
            let undone = tokio::time::timeout(CALL_MAX, undoing).await;
            self.is_spent |= !matches!(undone, Ok(Ok(true)));
        }
    }

    /// Whether it can not be used any more.
    pub(super) fn is_closed(&self) -> bool {
        self.is_spent || self.client.is_closed()
    }

    /// Does one statement that is a transaction of its own.
    pub(super) async fn once(
        &mut self,
        call: Call<'_>,
        call_max: Duration,
    ) -> Result<Vec<Row>, Failure> {
        let done = tokio::time::timeout(call_max, async {
            let statement = self.statement(call.0).await?;
            let rows = self.client.query(&statement, call.1).await;
            rows.map_err(|error| Failure::of_commit(&error))
        });
        match done.await {
            Ok(done) => done,
            Err(_) => {
                self.is_spent = true;
                Err(Failure::InDoubt("postgres: no answer in time".into()))
            }
        }
    }

    async fn send_all(
        &mut self,
        calls: &[Call<'_>],
        last: &'static str,
        has_begun: bool,
    ) -> Result<Vec<Vec<Row>>, Failure> {
        let mut statements = Vec::with_capacity(calls.len());
        for (sql, params) in calls {
            statements.push((self.statement(sql).await?, *params));
        }
        let client = &self.client;
        let begin = async {
            match has_begun {
                true => Ok(()),
                false => client.batch_execute("BEGIN").await,
            }
        };
        let queries =
            join_all(statements.iter().map(|(statement, params)| client.query(statement, params)));
        let end = async {
            match last.is_empty() {
                true => Ok(()),
                false => client.batch_execute(last).await,
            }
        };
        // They are sent in the order in which they are first polled.
        let (begun, rows, ended) = tokio::join!(biased; begin, queries, end);
        begun.map_err(|error| Failure::of(&error))?;
        let mut answers = Vec::with_capacity(rows.len());
        for rows in rows {
            // A statement that failed for certain makes the commit a rollback. One whose answer
            // never came tells nothing about the commit behind it.
            answers.push(rows.map_err(|error| match last.is_empty() {
                true => Failure::of(&error),
                false => Failure::of_commit(&error),
            })?);
        }
        ended.map_err(|error| Failure::of_commit(&error))?;
        Ok(answers)
    }
}

/// A connection for one purpose.
#[derive(Debug)]
pub(super) struct Lane {
    name: &'static str,
    connector: Arc<Connector>,
    /// Settings beside those of all.
    settings: &'static str,
    /// How long a single statement may take.
    call_max: Duration,
    slot: tokio::sync::Mutex<Slot>,
}

#[derive(Default)]
struct Slot {
    conn: Option<Conn>,
    refused: Option<(Instant, Failure)>,
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slot").field("is_open", &self.conn.is_some()).finish_non_exhaustive()
    }
}

impl Lane {
    pub(super) fn new(name: &'static str, connector: &Arc<Connector>) -> Self {
        let connector = Arc::clone(connector);
        Self {
            name,
            connector,
            settings: "",
            call_max: CALL_MAX,
            slot: tokio::sync::Mutex::default(),
        }
    }

    /// With settings beside those of all lanes.
    pub(super) fn with(self, settings: &'static str) -> Self {
        Self { settings, ..self }
    }

    /// With another bound on how long a single statement may take.
    pub(super) fn bearing(self, call_max: Duration) -> Self {
        Self { call_max, ..self }
    }

    async fn open(&self) -> Result<MutexGuard<'_, Slot>, Failure> {
        let mut slot = self.slot.lock().await;
        if let Some(conn) = &mut slot.conn {
            conn.finish_undoing().await;
        }
        if slot.conn.as_ref().is_some_and(|conn| !conn.is_closed()) {
            return Ok(slot);
        }
        slot.conn = None;
        if let Some((at, failure)) = &slot.refused
            && at.elapsed() < REFUSED_FOR
            && !self.connector.has_opened_since(*at)
        {
            return Err(failure.clone());
        }
        let connect =
            tokio::time::timeout(CALL_MAX, self.connector.connect(self.name, self.settings)).await;
        match connect.unwrap_or_else(|_| Err(too_slow())) {
            Ok(conn) => {
                slot.conn = Some(conn);
                slot.refused = None;
                Ok(slot)
            }
            Err(failure) => {
                // Before the store is open nobody was asked: it may be open the next moment.
                if self.connector.gate.read().is_ok() {
                    slot.refused = Some((Instant::now(), failure.clone()));
                }
                Err(failure)
            }
        }
    }

    /// Begins a transaction. If it is dropped, it is rolled back.
    pub(super) async fn begin(&self) -> Result<Tx<'_>, Failure> {
        Ok(Tx { home: Home::Lane(self.open().await?), has_begun: false })
    }

    /// Does one statement that is a transaction of its own.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future does not recall the statement.
    pub(super) async fn once(&self, call: Call<'_>) -> Result<Vec<Row>, Failure> {
        let mut slot = self.open().await?;
        let conn = slot.conn.as_mut().expect("it has just been opened");
        #[cfg(feature = "mutants")]
        if self.answers_early(call) {
            return conn.once_and_commit_later(call).await;
        }
        conn.once(call, self.call_max).await
    }
}

/// How often something is read again whose connection was lost.
const READ_TRIES: u32 = 3;

/// Connections for what is not the hot path.
#[derive(Debug, Clone)]
pub(super) struct Pool {
    pool: bb8::Pool<Manager>,
    refused: watch::Receiver<Option<Failure>>,
}

/// Opens the pool's connections.
#[derive(Debug)]
pub(super) struct Manager(Arc<Connector>);

impl bb8::ManageConnection for Manager {
    type Connection = Conn;
    type Error = Failure;

    async fn connect(&self) -> Result<Conn, Failure> {
        self.0.connect("pool", "").await
    }

    /// Known without asking the database: one that was closed while nobody used it.
    async fn is_valid(&self, conn: &mut Conn) -> Result<(), Failure> {
        match conn.is_closed() {
            true => Err(Failure::NotDone("postgres: connection closed".into())),
            false => Ok(()),
        }
    }

    fn has_broken(&self, conn: &mut Conn) -> bool {
        conn.undoing.is_some() || conn.is_closed()
    }
}

impl Pool {
    /// A pool that opens its connections when they are needed, up to `connections_max`.
    pub(super) fn new(connector: &Arc<Connector>, connections_max: u32) -> Self {
        let builder = bb8::Pool::builder()
            .max_size(connections_max)
            .min_idle(0)
            .test_on_check_out(true)
            .retry_connection(false)
            .idle_timeout(Duration::from_secs(60))
            .connection_timeout(CALL_MAX);
        let pool = builder.build_unchecked(Manager(Arc::clone(connector)));
        Self { pool, refused: connector.refused.subscribe() }
    }

    /// Begins a transaction. If it is dropped, it is rolled back.
    pub(super) async fn begin(&self) -> Result<Tx<'_>, Failure> {
        let mut refused = self.refused.clone();
        refused.mark_unchanged();
        // The pool does not tell those who wait that there is nothing to wait for.
        let refusal = async {
            loop {
                if refused.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
                let failure = refused.borrow().clone();
                if let (Some(failure), 0) = (failure, self.pool.state().connections) {
                    return failure;
                }
            }
        };
        let conn = tokio::select! {
            conn = self.pool.get() => conn.map_err(|error| match error {
                bb8::RunError::User(failure) => failure,
                bb8::RunError::TimedOut => too_slow(),
            })?,
            failure = refusal => return Err(failure),
        };
        Ok(Tx { home: Home::Pool(Box::new(conn)), has_begun: false })
    }

    /// Does one statement that changes nothing: on another connection, if one breaks on the way.
    pub(super) async fn read(&self, call: Call<'_>) -> Result<Vec<Row>, Failure> {
        let mut tries = 0;
        loop {
            let mut tx = self.begin().await?;
            let conn = tx.conn()?;
            match conn.once(call, CALL_MAX).await {
                Err(_) if conn.is_closed() && tries < READ_TRIES => tries += 1,
                Err(Failure::InDoubt(text)) => return Err(Failure::NotDone(text)),
                done => return done,
            }
        }
    }
}

fn too_slow() -> Failure {
    Failure::NotDone("postgres: no answer in time".into())
}

/// Where a transaction has its connection from.
enum Home<'a> {
    Lane(MutexGuard<'a, Slot>),
    Pool(Box<bb8::PooledConnection<'a, Manager>>),
}

/// A transaction. Statements that do not depend on each other's answers go in one round trip.
pub(super) struct Tx<'a> {
    home: Home<'a>,
    has_begun: bool,
}

impl Drop for Tx<'_> {
    fn drop(&mut self) {
        if self.has_begun
            && let Ok(conn) = self.conn()
        {
            conn.undo();
        }
    }
}

impl Tx<'_> {
    fn conn(&mut self) -> Result<&mut Conn, Failure> {
        match &mut self.home {
            Home::Pool(conn) => Ok(conn),
            Home::Lane(slot) => {
                let lost = || Failure::NotDone("postgres: the connection was lost".into());
                slot.conn.as_mut().ok_or_else(lost)
            }
        }
    }

    /// Does a statement.
    pub(super) async fn query(
        &mut self,
        sql: &'static str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Failure> {
        let rows = self.all(&[(sql, params)]).await?;
        Ok(rows.into_iter().next().unwrap_or_default())
    }

    /// Does a statement that was put together for this call, and is not worth remembering.
    pub(super) async fn query_text(
        &mut self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Failure> {
        self.all(&[]).await?;
        let conn = self.conn()?;
        let rows = tokio::time::timeout(CALL_MAX, conn.client.query(sql, params)).await;
        match rows {
            Ok(rows) => rows.map_err(|error| Failure::of(&error)),
            Err(_) => {
                conn.is_spent = true;
                Err(too_slow())
            }
        }
    }

    /// Does statements, in one round trip. Answer i is of statement i.
    pub(super) async fn all(&mut self, calls: &[Call<'_>]) -> Result<Vec<Vec<Row>>, Failure> {
        self.send(calls, "").await
    }

    /// Does statements and commits, in one round trip.
    pub(super) async fn commit(mut self, calls: &[Call<'_>]) -> Result<Vec<Vec<Row>>, Failure> {
        let rows = self.send(calls, "COMMIT").await?;
        self.has_begun = false;
        Ok(rows)
    }

    async fn send(
        &mut self,
        calls: &[Call<'_>],
        last: &'static str,
    ) -> Result<Vec<Vec<Row>>, Failure> {
        let is_commit = !last.is_empty();
        let has_begun = std::mem::replace(&mut self.has_begun, true);
        let conn = self.conn()?;
        let sent = tokio::time::timeout(CALL_MAX, conn.send_all(calls, last, has_begun)).await;
        sent.unwrap_or_else(|_| {
            conn.is_spent = true;
            match is_commit {
                true => Err(Failure::InDoubt("postgres: no answer in time".into())),
                false => Err(too_slow()),
            }
        })
    }
}

#[cfg(feature = "mutants")]
impl Lane {
    /// Whether [`Mutant::ReplyBeforeCommit`] is wrong about this. What leases jobs is left out: they
    /// would be acked before they are there.
    ///
    /// [`Mutant::ReplyBeforeCommit`]: crate::mutants::Mutant::ReplyBeforeCommit
    fn answers_early(&self, (sql, _): Call<'_>) -> bool {
        crate::mutants::is(crate::mutants::Mutant::ReplyBeforeCommit)
            && ["push", "settle"].contains(&self.name)
            && !sql.contains("INSERT INTO lease")
    }
}

#[cfg(feature = "mutants")]
impl Conn {
    /// Does one statement, and commits when it has been answered.
    async fn once_and_commit_later(&mut self, call: Call<'_>) -> Result<Vec<Row>, Failure> {
        let done = self.send_all(&[call], "", false).await.inspect_err(|_| self.undo());
        let client = Arc::clone(&self.client);
        let commit = async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            client.batch_execute("COMMIT").await.is_ok()
        };
        if done.is_ok() {
            self.undoing = Some(tokio::spawn(commit));
        }
        Ok(done?.into_iter().next().unwrap_or_default())
    }
}
