//! Elections: one connection, one lock.
//!
//! What ends the session of a leader that says nothing, and when. Each setting covers what the
//! others do not, so all are asked for; one that the server refuses is a warning, and the bound is
//! weaker by what it covered.
//!
//! | the leader's | ended by |
//! |---|---|
//! | process dies | the kernel closes its socket; `client_connection_check_interval` if a statement runs |
//! | process freezes | `idle_session_timeout`, `idle_in_transaction_session_timeout` |
//! | host vanishes | the same, and `tcp_user_timeout`, keepalives |
//! | statement hangs | `statement_timeout`, `lock_timeout` |

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_util::sync::CancellationToken;

use super::dsn::{Dsn, chain};
use super::migrate::quoted;
use crate::leader::{Profile, Term, Throne};

/// After a connection could not be had.
const AFTER_FAILURE: Duration = Duration::from_millis(500);

/// A node that was asked to resign lets the others go first.
const SIT_OUT: Duration = Duration::from_secs(5);

/// How long the last write of the leader before may take: longer than the database bears it.
const LAST_WRITE_MAX: Duration = Duration::from_secs(10);

/// Every so many beats the lock itself is looked for: an administrator may have released it.
const LOCK_CHECK_EVERY: u32 = 10;

/// What an election is about.
#[derive(Debug, Clone)]
pub struct Election {
    /// The database, not through a transaction pooler.
    pub dsn: Dsn,
    /// The schema of the tables: clusters in one database do not disturb each other.
    pub schema: String,
    /// This node.
    pub node: String,
    /// How soon a silent leader is replaced.
    pub profile: Profile,
}

async fn run(election: &Election, throne: &Throne, stop: &CancellationToken) {
    while !stop.is_cancelled() {
        let pause = tokio::select! {
            pause = election.stand(throne) => pause,
            () = stop.cancelled() => Duration::ZERO,
        };
        // Whatever happened: the session is closed by now.
        throne.leave();
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// A session that ends when this is dropped.
struct Session {
    client: Client,
    driver: tokio::task::JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        // Aborting drops the socket, which ends the session in the database.
        self.driver.abort();
    }
}

impl Election {
    /// Stands for election until `stop`, on a thread of its own: nothing that keeps the other
    /// threads busy may cost the leadership. When the thread ends, the lock has been given up.
    ///
    /// # Errors
    ///
    /// If the thread can not be started.
    pub fn start(
        self,
        throne: Throne,
        stop: CancellationToken,
    ) -> std::io::Result<std::thread::JoinHandle<()>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new()
            .name("batonq-election".into())
            .spawn(move || runtime.block_on(run(&self, &throne, &stop)))
    }

    /// One session: follows, perhaps leads, and ends. The answer: how long to wait before another.
    async fn stand(&self, throne: &Throne) -> Duration {
        let session = match self.connect().await {
            Ok(session) => session,
            Err(error) => {
                tracing::debug!(error, "no connection for the election");
                return AFTER_FAILURE;
            }
        };
        if let Err(error) = self.follow(&session.client).await {
            tracing::debug!(error, "election interrupted");
            return AFTER_FAILURE;
        }
        let (term, sent) = match self.win(&session.client).await {
            Ok(won) => won,
            Err(error) => {
                tracing::warn!(error, "lock won, but not the term");
                return AFTER_FAILURE;
            }
        };
        throne.take(term, sent + self.profile.trust);
        tracing::info!(epoch = term.epoch, profile = self.profile.name, "term won");
        let (reason, pause) = tokio::select! {
            error = self.lead(&session.client, throne, term, sent) => (error, Duration::ZERO),
            reason = throne.asked_to_resign() => (reason, SIT_OUT),
        };
        throne.leave();
        tracing::warn!(epoch = term.epoch, reason, "term lost");
        pause
    }

    async fn connect(&self) -> Result<Session, String> {
        let mut config = self.dsn.config().clone();
        config
            .application_name(format!("batonq/{}/election", self.node))
            .connect_timeout(Duration::from_secs(1))
            .keepalives_idle(Duration::from_secs(1))
            .keepalives_interval(Duration::from_secs(1))
            .keepalives_retries(2)
            .tcp_user_timeout(self.profile.trust);
        let connect = tokio::time::timeout(Duration::from_secs(5), config.connect(self.dsn.tls()));
        let connected = connect.await.map_err(|_| "no answer in time".to_owned())?;
        let (client, connection) = connected.map_err(|error| chain(&error))?;
        let driver = tokio::spawn(async move {
            // Whoever uses the client learns of it.
            connection.await.ok();
        });
        let session = Session { client, driver };
        self.bound(&session.client).await?;
        Ok(session)
    }

    /// Has the server end this session when nothing is heard from it.
    async fn bound(&self, client: &Client) -> Result<(), String> {
        let Profile { session_silence_max, statement_max, .. } = self.profile;
        let (silence, statement) = (session_silence_max.as_millis(), statement_max.as_millis());
        let user_timeout = (silence - 500).to_string();
        let half = (statement / 2).to_string();
        let settings = [
            ("idle_session_timeout", silence.to_string()),
            ("idle_in_transaction_session_timeout", silence.to_string()),
            ("statement_timeout", statement.to_string()),
            ("lock_timeout", half.clone()),
            ("tcp_keepalives_idle", "1".into()),
            ("tcp_keepalives_interval", "1".into()),
            ("tcp_keepalives_count", "2".into()),
            ("tcp_user_timeout", user_timeout),
            ("client_connection_check_interval", half),
        ];
        for (name, value) in settings {
            let sql = format!("SET {name} = '{value}'");
            let set = self.in_time(client.batch_execute(&sql)).await;
            if let Err(error) = set {
                tracing::warn!(setting = name, error, "refused: a silent leader may last longer");
            }
        }
        self.in_time(client.batch_execute("SELECT 1")).await
    }

    async fn in_time<T>(
        &self,
        query: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, String> {
        match tokio::time::timeout(self.profile.trust, query).await {
            Ok(done) => done.map_err(|error| chain(&error)),
            Err(_) => Err("no answer in time".into()),
        }
    }

    /// Asks for the lock until it is granted.
    async fn follow(&self, client: &Client) -> Result<(), String> {
        let sql = format!("SELECT pg_try_advisory_lock({})", lock_key(&self.schema));
        let lock = self.in_time(client.prepare(&sql)).await?;
        loop {
            let row = self.in_time(client.query_one(&lock, &[])).await?;
            if row.get(0) {
                return Ok(());
            }
            let jitter = 0.75 + 0.5 * rand::random::<f64>();
            tokio::time::sleep(self.profile.poll.mul_f64(jitter)).await;
        }
    }

    /// Writes down who leads, and when that was sent. Waits for the last write of the one before.
    async fn win(&self, client: &Client) -> Result<(Term, Instant), String> {
        let token: u128 = rand::random();
        let schema = quoted(&self.schema);
        let sql = format!(
            "UPDATE {schema}.leader
             SET epoch = epoch + 1, token = $1::text::uuid, node = $2, elected_at = {schema}.now_ms()
             RETURNING epoch"
        );
        let text = Term { epoch: 0, token }.token_text();
        let started = Instant::now();
        loop {
            let sent = Instant::now();
            let params: [&(dyn ToSql + Sync); 2] = [&text, &self.node];
            let won = client.query_one(&sql, &params);
            match tokio::time::timeout(self.profile.trust, won).await {
                Ok(Ok(row)) => {
                    let epoch = u64::try_from(row.get::<_, i64>(0)).unwrap_or(0);
                    return Ok((Term { epoch, token }, sent));
                }
                // The last write of the one before is still under way.
                Ok(Err(error))
                    if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE)
                        && started.elapsed() < LAST_WRITE_MAX => {}
                Ok(Err(error)) => return Err(chain(&error)),
                Err(_) => return Err("no answer in time".into()),
            }
        }
    }

    /// Keeps the trust until a beat fails. The answer: why.
    async fn lead(
        &self,
        client: &Client,
        throne: &Throne,
        term: Term,
        mut sent: Instant,
    ) -> String {
        let [beat, check] = self.beats(term);
        let (beat, check) = match tokio::try_join!(
            self.in_time(client.prepare(&beat)),
            self.in_time(client.prepare(&check))
        ) {
            Ok(prepared) => prepared,
            Err(error) => return error,
        };
        let mut count = 0;
        loop {
            tokio::time::sleep_until(sent + self.profile.beat).await;
            let deadline = sent + self.profile.trust;
            sent = Instant::now();
            count += 1;
            let statement = if count % LOCK_CHECK_EVERY == 0 { &check } else { &beat };
            match tokio::time::timeout_at(deadline, client.query_opt(statement, &[])).await {
                Ok(Ok(Some(_))) => throne.trust(sent + self.profile.trust),
                Ok(Ok(None)) => return "the lock or the term is somebody else's".into(),
                Ok(Err(error)) => return chain(&error),
                Err(_) => return "the database did not answer in time".into(),
            }
        }
    }

    /// The beat, and the one that looks for the lock too.
    fn beats(&self, term: Term) -> [String; 2] {
        let schema = quoted(&self.schema);
        let beat = format!(
            "SELECT 1 FROM {schema}.leader
             WHERE token = '{}'::uuid AND NOT pg_is_in_recovery()",
            term.token_text()
        );
        let check = format!(
            "{beat} AND EXISTS (
                 SELECT 1 FROM pg_locks
                 WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND granted
                 AND (classid::bigint << 32) | objid::bigint = {}
             )",
            lock_key(&self.schema)
        );
        [beat, check]
    }
}

/// The lock of a cluster, as SQL: of the product and the schema, not a constant.
fn lock_key(schema: &str) -> String {
    format!("hashtextextended('batonq leader ' || '{}', 0)", schema.replace('\'', "''"))
}
