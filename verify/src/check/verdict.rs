//! What was found.

use std::collections::BTreeMap;

use super::bounds::{Bound, Quantiles};
use super::tables::{At, Case, Tables};
use crate::history::Record;

/// What a broker must never break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Invariant {
    /// I1
    NothingLost,
    /// I2
    NothingFromNowhere,
    /// I3
    OneSuccess,
    /// I4
    NoOverlap,
    /// I5
    Numbered,
    /// I6
    NoStaleLease,
    /// I7
    Explained,
    /// I8
    OneJobForAKey,
    /// I9
    NotEarly,
    /// I10
    EverySlotOnce,
    /// I11
    OneTermAtATime,
    /// I12
    WithinLimits,
    /// I13
    EndsAsTold,
    /// I14
    Alive,
}

impl Invariant {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 14] = [
        Self::NothingLost,
        Self::NothingFromNowhere,
        Self::OneSuccess,
        Self::NoOverlap,
        Self::Numbered,
        Self::NoStaleLease,
        Self::Explained,
        Self::OneJobForAKey,
        Self::NotEarly,
        Self::EverySlotOnce,
        Self::OneTermAtATime,
        Self::WithinLimits,
        Self::EndsAsTold,
        Self::Alive,
    ];

    /// `I1` to `I14`.
    pub fn name(self) -> String {
        format!("I{}", self as usize + 1)
    }

    /// What it says.
    pub const fn rule(self) -> &'static str {
        match self {
            Self::NothingLost => "a push that was answered ok is delivered and comes to one end",
            Self::NothingFromNowhere => "every job and every delivery was pushed by somebody",
            Self::OneSuccess => "at most one lease of a job is acked",
            Self::NoOverlap => "a lease begins when the one before has ended",
            Self::Numbered => "deliveries are 1, 2, 3, and attempts follow from how they ended",
            Self::NoStaleLease => "a lease that has ended is good for nothing",
            Self::Explained => "every delivery after the first has a reason",
            Self::OneJobForAKey => "pushes with one key are one job",
            Self::NotEarly => "no job is delivered before its time",
            Self::EverySlotOnce => "every slot of a schedule makes one job",
            Self::OneTermAtATime => "what leaders do comes in blocks, one for each term",
            Self::WithinLimits => "limits of concurrency and rate hold at any time",
            Self::EndsAsTold => "the database ends with what clients were told",
            Self::Alive => "after the last fault all is served again, and all work is done",
        }
    }

    /// Why there was nothing to look at, if there was nothing.
    const fn nothing(self) -> &'static str {
        match self {
            Self::NothingLost | Self::OneJobForAKey => "no push was answered ok",
            Self::NothingFromNowhere => "there were no jobs",
            Self::OneSuccess => "no ack was answered ok",
            Self::NoOverlap | Self::Explained => "no job was delivered twice",
            Self::Numbered => "no job was delivered",
            Self::NoStaleLease => "no lease was used",
            Self::NotEarly => "no job had a time",
            Self::EverySlotOnce => "there were no schedules",
            Self::OneTermAtATime => "nothing is known of what leaders did",
            Self::WithinLimits => "no queue had a limit",
            Self::EndsAsTold => "nothing was left in the database",
            Self::Alive => "nothing is known of the end",
        }
    }

    /// Whether it can not be judged before all is over: it is about what is left then, or about
    /// what calls have done whose records may be missing.
    pub(super) const fn needs_the_end(self) -> bool {
        matches!(
            self,
            Self::NothingLost
                | Self::NothingFromNowhere
                | Self::Explained
                | Self::EverySlotOnce
                | Self::EndsAsTold
                | Self::Alive
        )
    }
}

/// What came of an invariant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It held wherever it was looked for.
    Held,
    /// It was broken.
    Violated,
    /// It was not looked for; why.
    NotChecked(&'static str),
}

/// A place where an invariant was broken.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// What is wrong, in a sentence.
    pub sentence: String,
    /// The records that prove it.
    pub records: Vec<Record>,
}

/// What was found of an invariant.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// Which.
    pub invariant: Invariant,
    /// What came of it.
    pub standing: Standing,
    /// How many jobs, leases or other things were looked at.
    pub checked: u64,
    /// How often it was broken.
    pub broken: u64,
    /// The first of those places, at most [`Judgement::FINDINGS_MAX`].
    pub findings: Vec<Finding>,
}

impl Judgement {
    /// So many findings are kept of an invariant.
    pub const FINDINGS_MAX: usize = 20;
}

/// What was found in a history.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// All invariants, in the order of their numbers.
    pub invariants: Vec<Judgement>,
    /// What is promised in numbers.
    pub bounds: Vec<Bound>,
    /// What happened, in numbers.
    pub figures: Figures,
}

impl Verdict {
    /// Whether nothing is wrong: no invariant was broken, and all bounds were kept.
    pub fn is_good(&self) -> bool {
        self.violated().next().is_none() && self.bounds.iter().all(Bound::is_kept)
    }

    /// The invariants that were broken.
    pub fn violated(&self) -> impl Iterator<Item = &Judgement> {
        self.invariants.iter().filter(|judgement| judgement.standing == Standing::Violated)
    }
}

/// What happened, in numbers.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Figures {
    /// Records in the history.
    pub records: u64,
    /// Whether the history was cut off.
    pub is_cut: bool,
    /// Calls, one for each job of a call.
    pub calls: u64,
    /// Calls of which nobody knows what came of them.
    pub unknown: u64,
    /// Jobs that anybody knows of.
    pub jobs: u64,
    /// Jobs that are there although nobody was told that their push was done.
    pub recovered: u64,
    /// Leases that were given.
    pub leases: u64,
    /// Jobs that were delivered again, by how the lease before ended; each job once for each
    /// ending. An empty word: not known.
    pub redelivered: BTreeMap<String, u64>,
    /// Jobs that were given out again although nobody had asked for it.
    pub duplicates: u64,
    /// How late jobs with a time were leased, where no fault was near.
    pub late_in_peace: Quantiles,
    /// The same, near faults.
    pub late_near_faults: Quantiles,
    /// How late slots of schedules were fired, where no fault was near.
    pub slots_late_in_peace: Quantiles,
    /// The same, near faults.
    pub slots_late_near_faults: Quantiles,
    /// Faults by kind.
    pub faults: BTreeMap<String, u64>,
    /// How long it took until another node led, by kind of the fault.
    pub failovers: BTreeMap<String, Quantiles>,
}

/// Endings of leases that nobody asked for.
const UNASKED: [&str; 4] = ["crashed", "expired", "node_lost", ""];

impl Figures {
    pub(super) fn of(tables: &Tables<'_>) -> Self {
        let mut faults = BTreeMap::new();
        for fault in &tables.faults {
            *faults.entry(fault.kind.clone()).or_default() += 1;
        }
        Self {
            records: tables.records.len() as u64,
            is_cut: tables.is_cut,
            calls: tables.calls,
            unknown: tables.unknown,
            faults,
            ..Self::default()
        }
    }

    pub(super) fn add(&mut self, case: &Case<'_>) {
        self.jobs += 1;
        self.leases += case.spans.len() as u64;
        let Some((_, ended)) = case.spans.split_last() else { return };
        if ended.is_empty() {
            return;
        }
        let mut endings: Vec<&str> = ended.iter().map(|span| span.ending).collect();
        endings.sort_unstable();
        endings.dedup();
        self.duplicates += u64::from(endings.iter().any(|ending| Self::is_unasked(ending)));
        for ending in endings {
            match self.redelivered.get_mut(ending) {
                Some(count) => *count += 1,
                None => drop(self.redelivered.insert(ending.to_owned(), 1)),
            }
        }
    }

    /// Whether a lease ended in a way that nobody had asked for.
    pub fn is_unasked(ending: &str) -> bool {
        UNASKED.contains(&ending)
    }

    /// Duplicates among all jobs, from 0 to 1.
    pub fn duplicates_share(&self) -> f64 {
        self.duplicates as f64 / (self.jobs as f64).max(1.0)
    }
}

/// Gathers what is found.
#[derive(Debug)]
pub(super) struct Findings<'t> {
    records: &'t [Record],
    all: [Found; Invariant::ALL.len()],
}

#[derive(Debug, Default)]
struct Found {
    checked: u64,
    broken: u64,
    kept: Vec<Finding>,
}

impl<'t> Findings<'t> {
    pub(super) fn new(records: &'t [Record]) -> Self {
        Self { records, all: Default::default() }
    }

    /// Something more was looked at.
    pub(super) fn looked(&mut self, invariant: Invariant) {
        self.all[invariant as usize].checked += 1;
    }

    /// Something is wrong.
    pub(super) fn add(
        &mut self,
        invariant: Invariant,
        proof: &[At],
        sentence: impl FnOnce() -> String,
    ) {
        let found = &mut self.all[invariant as usize];
        found.broken += 1;
        if found.kept.len() < Judgement::FINDINGS_MAX {
            let records = proof.iter().map(|at| self.records[at.place()].clone()).collect();
            found.kept.push(Finding { sentence: sentence(), records });
        }
    }

    pub(super) fn judge(self, tables: &Tables<'_>) -> Vec<Judgement> {
        let judgement = |(invariant, found): (Invariant, Found)| {
            let standing = match (found.broken, found.checked) {
                (1.., _) => Standing::Violated,
                _ if invariant.needs_the_end() && !tables.is_ended() => {
                    Standing::NotChecked("the history has no end")
                }
                (0, 0) => Standing::NotChecked(invariant.nothing()),
                _ => Standing::Held,
            };
            let Found { checked, broken, kept } = found;
            Judgement { invariant, standing, checked, broken, findings: kept }
        };
        Invariant::ALL.into_iter().zip(self.all).map(judgement).collect()
    }
}
