//! Judges a history.
//!
//! There are fourteen [invariants](Invariant). Each is decided from the records alone; what nobody
//! knows ([`Outcome::Unknown`](crate::history::Outcome)) is taken as either, whichever keeps the
//! promise. So a finding is a proof: its records contradict each other under any reading.
//!
//! Records are sorted once, by job and by key, and looked at job by job: n log n in all.

mod bounds;
mod clock;
mod deliveries;
mod end;
mod leases;
mod limits;
mod pushes;
mod slots;
mod tables;
mod terms;
mod times;
mod verdict;

use crate::history::History;
use tables::Tables;
use verdict::Findings;

pub(crate) use bounds::failover_max;
pub use bounds::{Bound, Quantiles};
pub use verdict::{Figures, Finding, Invariant, Judgement, Standing, Verdict};

/// Decides whether a broker kept its promises.
pub fn check(history: &History) -> Verdict {
    let tables = Tables::of(history);
    let mut findings = Findings::new(&history.records);
    let mut figures = Figures::of(&tables);
    let mut times = times::Times::default();
    let mut limits = limits::Limits::of(&tables);
    tables.each_case(|case| {
        figures.add(case);
        pushes::judge_case(case, &mut findings);
        leases::judge(case, &mut findings);
        deliveries::judge(case, &mut findings);
        times.judge(case, &mut findings);
        slots::judge_case(case, &mut findings);
        limits.add(case);
        end::judge_case(case, &mut findings);
    });
    tables.each_key(|key| {
        figures.recovered += u64::from(key.is_recovered());
        pushes::judge_key(key, &mut findings);
    });
    limits.judge(&mut findings);
    slots::judge(&tables, &mut times, &mut findings);
    terms::judge(&tables, &mut findings);
    end::judge(&tables, &mut findings);
    figures.measure(&tables, &times);
    Verdict { invariants: findings.judge(&tables), bounds: figures.bounds(), figures }
}
