//! Random operations on a store that is made to stumble: what it says of a call that failed is so.
//!
//! A trap lies in the tables: triggers that count the rows that are written. The n-th of them fails,
//! or ends the connection that wrote it. The model is only told of what the store has done, and
//! after each step everything that can be seen must be the same, and the tables must not contradict
//! themselves. So a call that answered is there; one that says that nothing was done left nothing;
//! one that does not know was done as a whole or not at all. At last all jobs are worked off.

use std::sync::Arc;

use batonq_server::clock::ManualClock;
use batonq_server::error::Error;
use batonq_server::store::{Pausing, Store};
use proptest::prelude::*;
use rusqlite::Connection;

use crate::aftermath::{difference, queues, work_off};
use crate::consistency;
use crate::drift::{Answer, Given, RETENTION, Step, perform};
use crate::stores::{Maker, Memory, Schema, Shared, Sqlite};

/// Where a call stumbles.
#[derive(Debug, Clone, Copy)]
pub struct Trap {
    /// At the row so many rows on, if the call writes as many.
    rows: u32,
    /// Only at the commit, where the store has connections.
    is_late: bool,
    /// Who stumbles is gone: the connection, where there is one, and the node.
    is_fatal: bool,
}

/// Steps, of which some stumble.
pub fn steps() -> impl Strategy<Value = Vec<(Step, Option<Trap>)>> {
    let rows = prop_oneof![4 => 1..4_u32, 2 => 4..10_u32, 1 => 10..40_u32];
    let trap = (rows, any::<bool>(), any::<bool>());
    let trap = trap.prop_map(|(rows, is_late, is_fatal)| Trap { rows, is_late, is_fatal });
    let step = (crate::drift::step(), proptest::option::weighted(0.6, trap));
    proptest::collection::vec(step, 1..40)
}

/// Stores in whose tables a trap can be laid.
pub trait Trapped: Maker {
    /// It takes a number for ids from its memory, and forgets it when it stumbles.
    const REMEMBERS_NUMBERS: bool;

    /// Lays the trap. Nobody stumbles until it is armed.
    fn lay(home: &Self::Home) -> impl Future<Output = ()>;

    /// Arms it. The answer: the next number for ids.
    fn arm(home: &Self::Home, trap: Trap) -> impl Future<Output = i64>;

    /// Nobody stumbles any more. `number`: what was used up since is as if it had not been.
    fn disarm(home: &Self::Home, number: Option<i64>) -> impl Future<Output = ()>;

    /// Which jobs break which rules of the tables.
    fn broken(home: &Self::Home) -> impl Future<Output = Vec<String>>;
}

fn open(home: &tempfile::TempDir) -> Connection {
    Connection::open(home.path().join("batonq.db")).expect("the store made it")
}

impl Trapped for Sqlite {
    const REMEMBERS_NUMBERS: bool = true;

    async fn lay(home: &Self::Home) {
        let conn = open(home);
        let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'";
        let mut tables = conn.prepare(sql).expect("it is good");
        let names = tables.query_map([], |row| row.get::<_, String>(0)).expect("it is good");
        let names: Vec<String> = names.map(|name| name.expect("it is text")).collect();
        conn.execute_batch("CREATE TABLE trap (rows INTEGER); INSERT INTO trap VALUES (0)")
            .expect("it is ours");
        for name in names {
            for change in ["INSERT", "UPDATE", "DELETE"] {
                let sql = format!(
                    "CREATE TRIGGER trap_{name}_{change} AFTER {change} ON {name}
                     WHEN (SELECT rows FROM trap) > 0
                     BEGIN
                         UPDATE trap SET rows = rows - 1;
                         SELECT RAISE(ABORT, 'stumbled') WHERE (SELECT rows FROM trap) = 0;
                     END"
                );
                conn.execute_batch(&sql).expect("it is ours");
            }
        }
    }

    async fn arm(home: &Self::Home, trap: Trap) -> i64 {
        open(home).execute("UPDATE trap SET rows = ?1", [trap.rows]).expect("it is ours");
        0
    }

    async fn disarm(home: &Self::Home, _: Option<i64>) {
        open(home).execute("UPDATE trap SET rows = 0", []).expect("it is ours");
    }

    async fn broken(home: &Self::Home) -> Vec<String> {
        consistency::of_sqlite(home.path())
    }
}

impl Trapped for Shared {
    const REMEMBERS_NUMBERS: bool = false;

    async fn lay(home: &Schema) {
        let name = &home.name;
        let sql = format!(
            "CREATE TABLE {name}.trap (rows integer, is_late boolean, is_fatal boolean);
             INSERT INTO {name}.trap VALUES (0);
             CREATE FUNCTION {name}.stumble() RETURNS trigger LANGUAGE plpgsql AS $$
             DECLARE
                 here record;
             BEGIN
                 UPDATE {name}.trap SET rows = rows - 1
                 WHERE rows > 0 AND is_late = TG_ARGV[0]::boolean
                 RETURNING * INTO here;
                 IF here.rows = 0 AND here.is_fatal THEN
                     PERFORM pg_terminate_backend(pg_backend_pid()), pg_sleep(10);
                 ELSIF here.rows = 0 THEN
                     RAISE EXCEPTION 'stumbled';
                 END IF;
                 RETURN NULL;
             END $$;
             DO $$
             DECLARE
                 one text;
             BEGIN
                 FOR one IN
                     SELECT table_name FROM information_schema.tables
                     WHERE table_schema = '{name}' AND table_type = 'BASE TABLE'
                     AND table_name NOT IN ('trap', 'migration')
                 LOOP
                     EXECUTE format(
                         'CREATE TRIGGER zz_trap AFTER INSERT OR UPDATE OR DELETE ON {name}.%1$I
                          FOR EACH ROW EXECUTE FUNCTION {name}.stumble(false);
                          CREATE CONSTRAINT TRIGGER zz_late AFTER INSERT OR UPDATE OR DELETE
                          ON {name}.%1$I DEFERRABLE INITIALLY DEFERRED
                          FOR EACH ROW EXECUTE FUNCTION {name}.stumble(true)', one);
                 END LOOP;
             END $$"
        );
        home.server.execute(&sql).await;
    }

    async fn arm(home: &Schema, trap: Trap) -> i64 {
        let Schema { name, server, .. } = home;
        let Trap { rows, is_late, is_fatal } = trap;
        let sql = format!(
            "UPDATE {name}.trap SET (rows, is_late, is_fatal) = ({rows}, {is_late}, {is_fatal})"
        );
        server.execute(&sql).await;
        let sql = format!("SELECT last_value + is_called::int FROM {name}.number");
        server.value(&sql).await.parse().expect("a number")
    }

    async fn disarm(home: &Schema, number: Option<i64>) {
        let Schema { name, server, .. } = home;
        let number = number.map_or(String::new(), |number| {
            format!("; SELECT setval('{name}.number', {number}, false)")
        });
        server.execute(&format!("UPDATE {name}.trap SET rows = 0{number}")).await;
    }

    async fn broken(home: &Schema) -> Vec<String> {
        consistency::of_postgres(&home.server.client().await, &home.name).await
    }
}

/// A store that stumbles, beside the model.
struct Run<M: Trapped> {
    clock: Arc<ManualClock>,
    model: Arc<dyn Store>,
    home: M::Home,
    store: Option<Arc<dyn Store>>,
    given: Given,
    newest: u64,
    tally: Tally,
}

/// How many calls stumbled, by what was said of them.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tally {
    /// Nothing was done.
    pub undone: u32,
    /// It is not known.
    pub unknown: u32,
}

/// Does the steps.
///
/// # Panics
///
/// If what the store says of them is not so.
pub async fn run<M: Trapped>(steps: Vec<(Step, Option<Trap>)>) -> Tally {
    let clock = ManualClock::new();
    let home = M::home();
    let mut run = Run::<M> {
        model: Memory::open(&Memory::home(), &clock, RETENTION).await,
        store: Some(M::open(&home, &clock, RETENTION).await),
        home,
        clock,
        given: Given::default(),
        newest: 0,
        tally: Tally::default(),
    };
    M::lay(&run.home).await;
    for queue in queues() {
        // Queues come into being by themselves, whatever becomes of the call that needs them.
        run.step(Step::Pause(queue, Pausing::Resume), None, "at first").await;
    }
    for (number, (step, trap)) in steps.into_iter().enumerate() {
        let what = format!("step {number}: {step:?}, {trap:?}");
        run.step(step, trap, &what).await;
        assert_eq!(M::broken(&run.home).await, [""; 0], "{what}");
    }
    let Run { store, home, clock, .. } = &run;
    let store = store.as_deref().expect("it is open");
    work_off(store, &M::term(home), |time| M::pass(home, clock, time)).await;
    assert_eq!(M::broken(home).await, [""; 0]);
    run.tally
}

/// A shared store may do several claims or settlements of a call by themselves.
fn alone(step: Step) -> Step {
    match step {
        Step::Claim(mut claims) => {
            claims.truncate(1);
            Step::Claim(claims)
        }
        Step::Settle(mut settlements) => {
            settlements.truncate(1);
            Step::Settle(settlements)
        }
        Step::SettleAny(..) => Step::Decisions,
        other => other,
    }
}

impl<M: Trapped> Run<M> {
    fn store(&self) -> &dyn Store {
        self.store.as_deref().expect("it is open")
    }

    async fn reopen(&mut self) {
        // The old one is closed before the new one is opened.
        drop(self.store.take());
        self.store = Some(M::open(&self.home, &self.clock, RETENTION).await);
    }

    async fn step(&mut self, step: Step, trap: Option<Trap>, what: &str) {
        match (step, trap) {
            (Step::Pass(time), _) => M::pass(&self.home, &self.clock, time),
            (Step::Reopen, _) => self.reopen().await,
            (step, None) => {
                let done = self.perform(&step).await;
                self.agree(&step, done.expect("the store does not fail by itself"), what).await;
            }
            (step, Some(trap)) => self.stumble(alone(step), trap, what).await,
        }
        assert_eq!(self.difference().await, None, "{what}");
    }

    async fn perform(&self, step: &Step) -> Result<Answer, Error> {
        perform(self.store(), &M::term(&self.home), &self.given, step).await
    }

    /// The store has done it: the model does it too, and says the same.
    async fn agree(&mut self, step: &Step, answer: Answer, what: &str) {
        let model = self.on_model(step).await;
        assert_eq!(answer, model, "{what}");
    }

    async fn on_model(&mut self, step: &Step) -> Answer {
        let model = perform(&*self.model, &M::term(&self.home), &self.given, step).await;
        let model = model.expect("the model does not fail");
        self.given.add(&model);
        model
    }

    async fn stumble(&mut self, step: Step, trap: Trap, what: &str) {
        if M::REMEMBERS_NUMBERS {
            self.reopen().await;
        }
        let number = M::arm(&self.home, trap).await;
        match self.perform(&step).await {
            Ok(answer) => {
                M::disarm(&self.home, None).await;
                self.agree(&step, answer, what).await;
                return;
            }
            Err(Error::Unavailable(_)) => {
                self.tally.undone += 1;
                M::disarm(&self.home, Some(number)).await;
            }
            Err(Error::OutcomeUnknown(_)) => {
                self.tally.unknown += 1;
                assert!(trap.is_fatal, "it is known what became of it: {what}");
                self.reopen().await;
                let is_done = self.difference().await.is_some();
                M::disarm(&self.home, (!is_done).then_some(number)).await;
                if is_done {
                    self.on_model(&step).await;
                }
            }
            Err(other) => panic!("{other:?} is no error of a store: {what}"),
        }
        if trap.is_fatal {
            self.reopen().await;
        }
    }

    async fn difference(&mut self) -> Option<(String, String)> {
        let store = self.store.as_deref().expect("it is open");
        difference(store, &*self.model, &mut self.newest).await
    }
}
