//! What a store says of a call that failed is so, wherever it failed; and what it has said is there
//! after a crash, wherever that came.

use std::cell::Cell;
use std::fmt::Debug;

use batonq_tests::crash;
use batonq_tests::harness::Postgres;
use batonq_tests::stores::{Shared, Sqlite};
use batonq_tests::stumble::{self, Trapped};
use proptest::strategy::Strategy;
use proptest::test_runner::{Config, TestRunner};

/// So many sequences; with `BATONQ_LONG=1` twenty times as many.
fn each<S: Strategy<Value: Debug>, T>(
    cases: u32,
    sequences: S,
    run: impl AsyncFn(S::Value) -> T,
    done: impl Fn(T),
) {
    let times = if std::env::var_os("BATONQ_LONG").is_some() { 20 } else { 1 };
    let config = Config { cases: cases * times, failure_persistence: None, ..Config::default() };
    let one = |sequence| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        done(runtime.expect("a runtime").block_on(run(sequence)));
        Ok(())
    };
    if let Err(failure) = TestRunner::new(config).run(&sequences, one) {
        panic!("{failure}");
    }
}

fn stumble<M: Trapped>(cases: u32) -> stumble::Tally {
    let all = Cell::new(stumble::Tally::default());
    each(cases, stumble::steps(), stumble::run::<M>, |tally| {
        let (undone, unknown) =
            (all.get().undone + tally.undone, all.get().unknown + tally.unknown);
        all.set(stumble::Tally { undone, unknown });
    });
    all.get()
}

#[test]
fn sqlite_does_what_it_says_also_when_it_fails() {
    let tally = stumble::<Sqlite>(40);
    assert!(tally.undone > 40, "hardly anything failed: {tally:?}");
}

#[test]
fn postgres_does_what_it_says_also_when_it_fails() {
    let _all_cases_share_it = Postgres::shared();
    let tally = stumble::<Shared>(12);
    assert!(tally.undone + tally.unknown > 10, "hardly anything failed: {tally:?}");
}

#[test]
fn sqlite_has_what_it_said_after_a_crash_at_any_byte() {
    each(12, crash::sequences(), crash::run, drop);
}
