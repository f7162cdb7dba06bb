//! The stores there are, for suites that run on each of them.

use std::sync::Arc;

use batonq_server::clock::{Clock, ManualClock};
use batonq_server::store::memory::MemoryStore;
use batonq_server::store::sqlite::{Options, SqliteStore};
use batonq_server::store::{Retention, Store};
use tempfile::TempDir;

/// Makes stores of one kind.
pub trait Maker {
    /// Where its data live, beyond the store itself.
    type Home;

    /// The name of the kind.
    const NAME: &'static str;

    /// A new place for data.
    fn home() -> Self::Home;

    /// Opens the store at `home`, with what an earlier one has left there.
    fn open(home: &Self::Home, clock: &Arc<ManualClock>, retention: Retention) -> Arc<dyn Store>;
}

/// The model.
#[derive(Debug)]
pub struct Memory;

/// The embedded store.
#[derive(Debug)]
pub struct Sqlite;

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

    fn open(home: &Self::Home, clock: &Arc<ManualClock>, retention: Retention) -> Arc<dyn Store> {
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

    fn open(home: &Self::Home, clock: &Arc<ManualClock>, retention: Retention) -> Arc<dyn Store> {
        let options = Options {
            dir: home.path().to_owned(),
            node: NODE.into(),
            clock: as_clock(clock),
            retention,
        };
        Arc::new(SqliteStore::open(options).expect("a new store opens"))
    }
}
