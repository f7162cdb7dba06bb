//! The conformance suite on every store: same rules, no skips.

use batonq_tests::conformance;
use batonq_tests::stores::{Memory, Shared, Sqlite};
use libtest_mimic::{Arguments, Trial};

fn main() {
    let rules =
        [conformance::all::<Memory>(), conformance::all::<Sqlite>(), conformance::all::<Shared>()]
            .concat();
    let trials = rules.into_iter().map(|rule| {
        Trial::test(rule.name, move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on((rule.check)());
            Ok(())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit();
}
