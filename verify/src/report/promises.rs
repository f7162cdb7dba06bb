//! What users are promised, and which invariants decide whether it was kept.

use super::{InvariantRow, PromiseRow, Standing};
use crate::check::{Bound, Figures, Invariant};
use crate::nemesis::Kind;

/// A promise.
#[derive(Debug)]
struct Promise {
    words: &'static str,
    /// They decide. If the first was not checked, nor was the promise.
    invariants: &'static [Invariant],
    /// Without one of these faults it was not put to the test. None: it always is.
    faults: &'static [Kind],
    /// What of it is not looked at.
    beyond: Option<&'static str>,
}

/// All promises, by their numbers from 1.
const PROMISES: [Promise; 9] = [
    Promise {
        words: "A push that was answered ok is durable, and its job is delivered.",
        invariants: &[
            Invariant::NothingLost,
            Invariant::NothingFromNowhere,
            Invariant::OneJobForAKey,
            Invariant::EndsAsTold,
        ],
        faults: &[],
        beyond: None,
    },
    Promise {
        words: "A job has at most one live lease, and only that one counts, on any node.",
        invariants: &[
            Invariant::NoStaleLease,
            Invariant::OneSuccess,
            Invariant::NoOverlap,
            Invariant::Numbered,
        ],
        faults: &[],
        beyond: None,
    },
    Promise {
        words: "Nothing is delivered before its time, nor long after it.",
        invariants: &[Invariant::NotEarly],
        faults: &[],
        beyond: Some("times to live, pauses and the order within a queue"),
    },
    Promise {
        words: "Jobs of a worker that is gone go round again; one that lives keeps its own.",
        invariants: &[Invariant::Explained, Invariant::NoOverlap],
        faults: &[],
        beyond: Some("how soon that is noticed, and jobs that kill workers"),
    },
    Promise {
        words: "Each slot of a schedule makes one job, whatever happens to leaders.",
        invariants: &[Invariant::EverySlotOnce],
        faults: &[],
        beyond: None,
    },
    Promise {
        words: "At most one leader's work takes effect, and losing it stops nothing for long.",
        invariants: &[Invariant::OneTermAtATime, Invariant::Alive],
        faults: &[],
        beyond: None,
    },
    Promise {
        words: "Limits of concurrency and rate hold across the cluster.",
        invariants: &[Invariant::WithinLimits],
        faults: &[],
        beyond: None,
    },
    Promise {
        words: "A node without its database refuses, and never goes on in memory.",
        invariants: &[Invariant::EndsAsTold, Invariant::NothingLost],
        faults: &[Kind::Partition, Kind::BackendKill, Kind::PostgresRestart, Kind::PostmasterKill],
        beyond: None,
    },
    Promise {
        words: "What happened to a job can be told.",
        invariants: &[Invariant::Explained, Invariant::Numbered],
        faults: &[],
        beyond: Some("where a job is meanwhile, and why it does not run"),
    },
];

/// What came of each promise.
pub(super) fn judge(
    invariants: &[InvariantRow],
    bounds: &[Bound],
    figures: &Figures,
) -> Vec<PromiseRow> {
    let mut counted: Vec<Invariant> = Vec::new();
    let row = |(number, promise): (u32, &Promise)| {
        // A bound counts for the first promise that its invariant decides.
        let is_of = |bound: &&Bound| {
            promise.invariants.contains(&bound.invariant) && !counted.contains(&bound.invariant)
        };
        let exceeded: Vec<String> = bounds
            .iter()
            .filter(is_of)
            .filter(|bound| !bound.is_kept())
            .map(|bound| bound.name.clone())
            .collect();
        counted.extend(promise.invariants);
        promise.judge(number, invariants, exceeded, figures)
    };
    (1..).zip(&PROMISES).map(row).collect()
}

impl Promise {
    fn judge(
        &self,
        number: u32,
        invariants: &[InvariantRow],
        exceeded: Vec<String>,
        figures: &Figures,
    ) -> PromiseRow {
        let rows = || self.invariants.iter().map(|invariant| &invariants[*invariant as usize]);
        let is_broken = !exceeded.is_empty() || rows().any(|row| row.standing == Standing::Broken);
        let untested = self.untested(figures);
        let first = rows().next().filter(|first| first.standing == Standing::NotChecked);
        let (standing, why) = match (&untested, first) {
            (Some(why), _) => (Standing::NotChecked, Some((*why).to_owned())),
            _ if is_broken => (Standing::Broken, None),
            (None, Some(first)) => (Standing::NotChecked, first.why.clone()),
            (None, None) => (Standing::Held, None),
        };
        PromiseRow {
            number,
            promise: self.words.to_owned(),
            standing,
            why,
            invariants: rows().map(|row| row.name.clone()).collect(),
            exceeded,
            beyond: self.beyond.map(str::to_owned),
        }
    }

    fn untested(&self, figures: &Figures) -> Option<&'static str> {
        let is_one = |name: &String| self.faults.iter().any(|kind| name.starts_with(kind.name()));
        let is_tested = self.faults.is_empty() || figures.faults.keys().any(is_one);
        (!is_tested).then_some("no node was ever without its database")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_invariant_decides_a_promise_that_any_fault_puts_to_the_test() {
        for invariant in Invariant::ALL {
            let decides = |promise: &Promise| {
                promise.faults.is_empty() && promise.invariants.contains(&invariant)
            };
            assert!(PROMISES.iter().any(decides), "{invariant:?}");
        }
    }
}
