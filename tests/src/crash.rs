//! Random operations on the embedded store, and a crash at any byte of what it wrote.
//!
//! A store appends to its log and answers when that is on disk. So the files as they were at any
//! moment are the database of the beginning and the log up to a byte: all crashes can be had of one
//! run. What had been answered by then must be there, and nothing else: a transaction that was half
//! written is not there at all. Behind the byte there may be rubbish, as after a power cut.

use std::path::Path;
use std::sync::Arc;

use batonq_server::clock::ManualClock;
use batonq_server::leader::Term;
use batonq_server::store::Store;
use proptest::prelude::*;
use tempfile::TempDir;

use crate::aftermath::{difference, work_off};
use crate::consistency;
use crate::drift::{Given, RETENTION, Step, perform};
use crate::stores::{Maker, Memory, Sqlite};

/// A moment of a run.
#[derive(Debug, Clone, Copy)]
pub struct Crash {
    /// Which part of all that was written is there.
    share: f64,
    /// Whether there is rubbish behind it.
    is_torn: bool,
}

/// Steps and crashes.
pub fn sequences() -> impl Strategy<Value = (Vec<Step>, Vec<Crash>)> {
    let crash = (0.0..=1.0, any::<bool>()).prop_map(|(share, is_torn)| Crash { share, is_torn });
    let steps = proptest::collection::vec(crate::drift::step(), 5..60);
    (steps, proptest::collection::vec(crash, 8))
}

/// What was done to a store, in its order.
struct Run {
    clock: Arc<ManualClock>,
    given: Given,
}

impl Run {
    fn new() -> Self {
        Self { clock: ManualClock::new(), given: Given::default() }
    }

    async fn step(&mut self, store: &dyn Store, step: &Step) {
        match step {
            Step::Pass(time) => self.clock.advance(*time),
            step => {
                let answer = perform(store, &Term::SOLE, &self.given, step).await;
                self.given.add(&answer.expect("nothing fails by itself"));
            }
        }
    }
}

/// A step that is one transaction, and leaves the log as it is.
fn plain(step: Step) -> Step {
    match step {
        Step::Reopen | Step::SettleAny(..) => Step::Decisions,
        other => other,
    }
}

/// Does the steps, and looks at what each crash leaves.
///
/// # Panics
///
/// If that is not what was answered.
pub async fn run((steps, crashes): (Vec<Step>, Vec<Crash>)) {
    let steps: Vec<Step> = steps.into_iter().map(plain).collect();
    let (mut run, home) = (Run::new(), Sqlite::home());
    let store = Sqlite::open(&home, &run.clock, RETENTION).await;
    let log = home.path().join("batonq.db-wal");
    let length = || std::fs::metadata(&log).map_or(0, |log| log.len());
    let begin = length();
    let mut ends = Vec::with_capacity(steps.len());
    for step in &steps {
        run.step(&*store, step).await;
        ends.push(length());
    }
    let written = length() - begin;
    for crash in crashes {
        let left = begin + (written as f64 * crash.share) as u64;
        let answered = ends.partition_point(|end| *end <= left);
        let what = format!("{crash:?} after {answered} steps of {steps:#?}");
        check(&left_by(home.path(), left, crash), &steps[..answered], &what).await;
    }
}

/// The files that a crash leaves.
fn left_by(dir: &Path, left: u64, crash: Crash) -> TempDir {
    let copy = Sqlite::home();
    std::fs::copy(dir.join("batonq.db"), copy.path().join("batonq.db")).expect("it is there");
    let mut log = std::fs::read(dir.join("batonq.db-wal")).expect("it is there");
    let left = usize::try_from(left).expect("it is in memory");
    log.truncate(left);
    if crash.is_torn {
        log.resize(left + 10_000, 0xa5);
    }
    std::fs::write(copy.path().join("batonq.db-wal"), log).expect("the directory is ours");
    copy
}

/// A store that opens these files has what was answered, no more, and goes on.
async fn check(home: &TempDir, answered: &[Step], what: &str) {
    let mut run = Run::new();
    let model = Memory::open(&Memory::home(), &run.clock, RETENTION).await;
    for step in answered {
        run.step(&*model, step).await;
    }
    let store = Sqlite::open(home, &run.clock, RETENTION).await;
    assert_eq!(difference(&*store, &*model, &mut 0).await, None, "{what}");
    assert_eq!(consistency::of_sqlite(home.path()), [""; 0], "{what}");
    work_off(&*store, &Term::SOLE, |time| Sqlite::pass(home, &run.clock, time)).await;
    assert_eq!(consistency::of_sqlite(home.path()), [""; 0], "{what}");
}
