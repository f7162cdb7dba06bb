//! The stores there are, for suites that run on each of them.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use batonq_server::clock::{Clock, ManualClock};
use batonq_server::leader::Term;
use batonq_server::store::memory::MemoryStore;
use batonq_server::store::postgres::{self, Dsn, Identity, PostgresStore, migrate};
use batonq_server::store::sqlite::{Options, SqliteStore};
use batonq_server::store::{Retention, Store};
use parking_lot::Mutex;
use tempfile::TempDir;

use crate::harness::Postgres;

/// Makes stores of one kind.
pub trait Maker {
    /// Where its data live, beyond the store itself.
    type Home;

    /// The name of the kind.
    const NAME: &'static str;

    /// A new place for data.
    fn home() -> Self::Home;

    /// Opens the store at `home`, with what an earlier one has left there.
    fn open(
        home: &Self::Home,
        clock: &Arc<ManualClock>,
        retention: Retention,
    ) -> impl Future<Output = Arc<dyn Store>>;

    /// Moves the time on.
    fn pass(_home: &Self::Home, clock: &Arc<ManualClock>, time: Duration) {
        clock.advance(time);
    }

    /// The permission to do duties.
    fn term(_home: &Self::Home) -> Term {
        Term::SOLE
    }
}

/// The model.
#[derive(Debug)]
pub struct Memory;

/// The embedded store.
#[derive(Debug)]
pub struct Sqlite;

/// The shared store.
#[derive(Debug)]
pub struct Shared;

fn as_clock(clock: &Arc<ManualClock>) -> Arc<dyn Clock> {
    Arc::<ManualClock>::clone(clock)
}

/// The node that all stores say they are.
pub const NODE: &str = "node-1";

impl Maker for Memory {
    /// The store itself, since it has nothing else.
    type Home = std::sync::OnceLock<Arc<dyn Store>>;

    const NAME: &'static str = "memory";

    fn home() -> Self::Home {
        std::sync::OnceLock::new()
    }

    async fn open(
        home: &Self::Home,
        clock: &Arc<ManualClock>,
        retention: Retention,
    ) -> Arc<dyn Store> {
        let make =
            || -> Arc<dyn Store> { Arc::new(MemoryStore::new(NODE, as_clock(clock), retention)) };
        Arc::clone(home.get_or_init(make))
    }
}

impl Maker for Sqlite {
    type Home = TempDir;

    const NAME: &'static str = "sqlite";

    fn home() -> Self::Home {
        tempfile::tempdir().expect("a temporary directory can be made")
    }

    async fn open(
        home: &Self::Home,
        clock: &Arc<ManualClock>,
        retention: Retention,
    ) -> Arc<dyn Store> {
        let options = Options {
            dir: home.path().to_owned(),
            node: NODE.into(),
            clock: as_clock(clock),
            retention,
        };
        Arc::new(SqliteStore::open(options).expect("a new store opens"))
    }
}

/// A schema of its own in the server that tests share, with a clock that the test moves.
#[derive(Debug)]
pub struct Schema {
    /// The server.
    pub server: Arc<Postgres>,
    /// Its name.
    pub name: String,
    term: Mutex<Option<Term>>,
}

impl Schema {
    /// An empty one.
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("s{}", COUNT.fetch_add(1, Ordering::Relaxed));
        Self { server: Postgres::shared(), name, term: Mutex::new(None) }
    }

    fn clock(&self) -> std::path::PathBuf {
        self.server.dir().join(format!("{}.clock", self.name))
    }

    fn set_time(&self, clock: &ManualClock) {
        let new = self.clock().with_extension("new");
        std::fs::write(&new, clock.now().0.to_string()).expect("the directory is there");
        std::fs::rename(&new, self.clock()).expect("it was just written");
    }

    /// Makes the tables, elects this test, and lets the file tell the time.
    async fn make(&self) {
        let mut client = self.server.client().await;
        migrate::up(&mut client, &self.name).await.expect("the migrations run");
        let term = Term { epoch: 1, token: rand::random() };
        let Self { name, .. } = self;
        let (clock, token) = (self.clock(), term.token_text());
        let sql = format!(
            "CREATE OR REPLACE FUNCTION {name}.now_ms() RETURNS bigint LANGUAGE sql VOLATILE
             AS 'SELECT pg_read_file(''{}'')::bigint';
             UPDATE {name}.leader SET epoch = 1, token = '{token}'",
            clock.display()
        );
        client.batch_execute(&sql).await.expect("the tables are there");
        *self.term.lock() = Some(term);
    }
}

impl Default for Schema {
    fn default() -> Self {
        Self::new()
    }
}

impl Maker for Shared {
    type Home = Schema;

    const NAME: &'static str = "postgres";

    fn home() -> Self::Home {
        Schema::new()
    }

    async fn open(
        home: &Self::Home,
        clock: &Arc<ManualClock>,
        retention: Retention,
    ) -> Arc<dyn Store> {
        home.set_time(clock);
        let is_new = home.term.lock().is_none();
        if is_new {
            home.make().await;
        }
        let store = PostgresStore::new(postgres::Options {
            schema: home.name.clone(),
            node: Identity { id: NODE.into(), incarnation: 1 },
            connections_max: postgres::CONNECTIONS_MIN,
            retention,
            stale_after: Duration::from_secs(60),
        });
        let dsn = Dsn::parse(&home.server.dsn(), None).expect("a good DSN");
        store.open(&dsn).await.expect("the store opens");
        store
    }

    fn pass(home: &Self::Home, clock: &Arc<ManualClock>, time: Duration) {
        clock.advance(time);
        home.set_time(clock);
    }

    fn term(home: &Self::Home) -> Term {
        home.term.lock().expect("it was opened")
    }
}
