//! No store drifts from the model.

use batonq_tests::drift;
use batonq_tests::harness::Postgres;
use batonq_tests::stores::{Maker, Shared, Sqlite};
use proptest::test_runner::{Config, TestRunner};

/// Sequences for each store: some seconds. With `BATONQ_LONG=1` twenty times as many.
const CASES: u32 = 100;

fn drift<M: Maker>() {
    let times = if std::env::var_os("BATONQ_LONG").is_some() { 20 } else { 1 };
    let config = Config { cases: CASES * times, failure_persistence: None, ..Config::default() };
    let steps = proptest::collection::vec(drift::step(), 1..60);
    let run = |steps| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(drift::run::<M>(steps));
        Ok(())
    };
    if let Err(failure) = TestRunner::new(config).run(&steps, run) {
        panic!("{} drifts from the model: {failure}", M::NAME);
    }
}

#[test]
fn sqlite_answers_like_the_model() {
    drift::<Sqlite>();
}

#[test]
fn postgres_answers_like_the_model() {
    let _all_cases_share_it = Postgres::shared();
    drift::<Shared>();
}
