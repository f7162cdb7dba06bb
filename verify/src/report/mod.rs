//! What is told of a run: for people, for machines, and as a picture.
//!
//! ```text
//!   Summary ─┐
//!   History ─┴▶ Report ──▶ terminal() markdown()   the same text
//!       │              └─▶ json()                  stable names
//!       └────────────────▶ timeline()              an SVG
//! ```
//!
//! All of it follows from what is handed in. A [`Report`] that was read from its JSON is written as
//! the same text again.

mod document;
mod page;
mod promises;
mod records;
mod timeline;

pub use timeline::timeline;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::check::{self, Bound, Figures, Invariant, Judgement, Quantiles, Verdict, failover_max};
use crate::history::{History, Record, What};
use crate::nemesis::LeftOut;
use crate::summary::{Course, Summary};

/// What a run was and what was found. Its JSON keeps the names of its fields; times are in
/// milliseconds (`_ms`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`Report::FORMAT`] of who wrote it.
    pub format: u32,
    /// Whether all went as planned and nothing is wrong.
    pub is_good: bool,
    /// What the run was.
    pub run: RunFacts,
    /// What came of each promise, by their numbers.
    pub promises: Vec<PromiseRow>,
    /// What came of each invariant, by their numbers.
    pub invariants: Vec<InvariantRow>,
    /// Where invariants were broken; not more than a few of each.
    pub findings: Vec<FindingRow>,
    /// What is promised in numbers.
    pub bounds: Vec<BoundRow>,
    /// Faults that were injected.
    pub faults: Vec<FaultRow>,
    /// Faults that were not.
    pub left_out: Vec<LeftOutRow>,
    /// How long it took until another node led.
    pub failovers: Vec<FailoverRow>,
    /// How late was what had a time.
    pub lateness: Vec<LatenessRow>,
    /// What happened, in numbers.
    pub counts: Counts,
    /// How it ended; none if the history has no end.
    pub end: Option<EndFacts>,
}

/// What a run was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunFacts {
    /// What it was called.
    pub profile: String,
    /// What it was made from.
    pub seed: Option<u64>,
    /// How to have the same plan again.
    pub repeat: Option<String>,
    /// When it began.
    pub started: Option<Timestamp>,
    /// How long it took.
    pub duration_ms: u64,
    /// How it went: `as_planned`, `interrupted` or `broken`.
    pub course: CourseName,
    /// Why it was broken off.
    pub course_why: Option<String>,
    /// The nodes, by their numbers.
    pub nodes: Vec<NodeRow>,
    /// What Postgres says that it is.
    pub postgres: Option<String>,
    /// Cores of the machine.
    pub cores: usize,
    /// Jobs that were to be pushed.
    pub jobs_planned: u64,
    /// Faults that were to be injected.
    pub faults_planned: u32,
    /// What could not be had as it was asked for, and why.
    pub notes: Vec<String>,
}

/// [`Course`], without its reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CourseName {
    /// All that was planned was done.
    AsPlanned,
    /// Somebody ended it before its time.
    Interrupted,
    /// It could not go on.
    Broken,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRow {
    /// What it is called.
    pub name: String,
    /// The release it runs.
    pub version: Option<String>,
}

/// What came of a promise or an invariant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It was kept wherever it was looked for.
    Held,
    /// It was not kept.
    Broken,
    /// It was not looked for.
    NotChecked,
}

/// What came of a promise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromiseRow {
    /// Its number, from 1.
    pub number: u32,
    /// What it says.
    pub promise: String,
    /// What came of it.
    pub standing: Standing,
    /// Why it was not checked.
    pub why: Option<String>,
    /// The names of the invariants that decide it.
    pub invariants: Vec<String>,
    /// The names of its bounds that were not kept.
    pub exceeded: Vec<String>,
    /// What of it is not looked at.
    pub beyond: Option<String>,
}

/// What came of an invariant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvariantRow {
    /// `I1` to `I14`.
    pub name: String,
    /// What it says.
    pub rule: String,
    /// What came of it.
    pub standing: Standing,
    /// Why it was not checked.
    pub why: Option<String>,
    /// How many jobs, leases or other things were looked at.
    pub checked: u64,
    /// How often it was broken.
    pub broken: u64,
}

/// A place where an invariant was broken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindingRow {
    /// Which.
    pub invariant: String,
    /// What is wrong.
    pub sentence: String,
    /// The records that prove it, in words.
    pub records: Vec<String>,
}

/// A number that must not be exceeded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BoundRow {
    /// Of what.
    pub name: String,
    /// The invariant it belongs to.
    pub invariant: String,
    /// What it was; none: there was nothing of the kind.
    pub measured: Option<f64>,
    /// What it may be.
    pub max: f64,
    /// `s`, or `%`.
    pub unit: String,
    /// Whether it was not exceeded.
    pub is_kept: bool,
}

/// Faults of a kind that were injected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultRow {
    /// What was done, and how.
    pub kind: String,
    /// How often.
    pub count: u64,
}

/// Faults of a kind that were not injected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOutRow {
    /// Which.
    pub kind: String,
    /// How many there would have been.
    pub count: u32,
    /// Why not.
    pub why: String,
}

/// How times are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spread {
    /// How many.
    pub count: usize,
    /// Half of them are not longer.
    pub p50_ms: u64,
    /// Ninety-nine of a hundred are not longer.
    pub p99_ms: u64,
    /// None is longer.
    pub max_ms: u64,
}

/// How long it took until another node led.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverRow {
    /// After which faults.
    pub kind: String,
    /// How long.
    #[serde(flatten)]
    pub spread: Spread,
    /// How long it may take; none: nothing is promised.
    pub bound_ms: Option<u64>,
}

/// How late was what had a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatenessRow {
    /// `jobs` or `slots`.
    pub what: String,
    /// Whether a fault was near.
    pub is_near_faults: bool,
    /// How late.
    #[serde(flatten)]
    pub spread: Spread,
}

/// What happened, in numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Counts {
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
    /// Jobs that were delivered again because somebody had asked for it, by how the lease before
    /// ended.
    pub redelivered_as_asked: BTreeMap<String, u64>,
    /// Jobs that were delivered again although nobody had, by how the lease before ended.
    pub redelivered_unasked: BTreeMap<String, u64>,
    /// Jobs of the latter, each once.
    pub duplicates: u64,
    /// Their share of all jobs.
    pub duplicates_percent: f64,
    /// Slots of schedules that had to be fired, and were looked for.
    pub slots: u64,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndFacts {
    /// Since the start of the run, when the last fault was healed.
    pub healed_ms: u64,
    /// After that, until each client was served again; none: never.
    pub served_after_ms: Option<u64>,
    /// After that and after the last push, until nothing was left to do; none: never.
    pub drained_after_ms: Option<u64>,
    /// How many nodes said that they lead.
    pub leaders: u32,
}

impl Report {
    /// Rises when a field goes or changes its meaning. New ones may come at any time.
    pub const FORMAT: u32 = 1;

    /// The report of a run with this history.
    pub fn new(summary: &Summary, history: &History) -> Self {
        let Verdict { invariants, bounds, figures } = &summary.verdict;
        let rows: Vec<InvariantRow> = invariants.iter().map(InvariantRow::new).collect();
        Self {
            format: Self::FORMAT,
            is_good: summary.is_good(),
            run: RunFacts::new(summary),
            promises: promises::judge(&rows, bounds, figures),
            findings: invariants.iter().flat_map(FindingRow::all).collect(),
            bounds: bounds.iter().map(BoundRow::new).collect(),
            faults: figures.faults.iter().map(FaultRow::new).collect(),
            left_out: summary.left_out.iter().map(LeftOutRow::new).collect(),
            failovers: figures.failovers.iter().map(FailoverRow::new).collect(),
            lateness: LatenessRow::all(figures),
            counts: Counts::new(figures, &rows),
            end: EndFacts::find(history),
            invariants: rows,
        }
    }

    /// For people at a terminal.
    pub fn terminal(&self) -> String {
        document::terminal(&page::blocks(self))
    }

    /// For people, to be shown in a browser.
    pub fn markdown(&self) -> String {
        document::markdown(&page::blocks(self))
    }

    /// For machines.
    pub fn json(&self) -> String {
        let text = serde_json::to_string_pretty(self);
        text.expect("its keys are strings and its numbers are finite") + "\n"
    }
}

impl RunFacts {
    fn new(summary: &Summary) -> Self {
        let (course, course_why) = match &summary.course {
            Course::AsPlanned => (CourseName::AsPlanned, None),
            Course::Interrupted => (CourseName::Interrupted, None),
            Course::Broken(why) => (CourseName::Broken, Some(why.clone())),
        };
        let node = |node: &crate::summary::NodeFacts| NodeRow {
            name: node.name.clone(),
            version: node.version.clone(),
        };
        Self {
            profile: summary.profile.clone(),
            seed: summary.seed,
            repeat: summary.repeat.clone(),
            started: summary.started,
            duration_ms: millis(summary.duration),
            course,
            course_why,
            nodes: summary.nodes.iter().map(node).collect(),
            postgres: summary.postgres.clone(),
            cores: summary.cores,
            jobs_planned: summary.jobs,
            faults_planned: summary.faults_planned,
            notes: summary.notes.clone(),
        }
    }
}

impl InvariantRow {
    fn new(judgement: &Judgement) -> Self {
        let Judgement { invariant, standing, checked, broken, .. } = judgement;
        let (standing, why) = match standing {
            check::Standing::Held => (Standing::Held, None),
            check::Standing::Violated => (Standing::Broken, None),
            check::Standing::NotChecked(why) => (Standing::NotChecked, Some((*why).to_owned())),
        };
        let (name, rule) = (invariant.name(), invariant.rule().to_owned());
        Self { name, rule, standing, why, checked: *checked, broken: *broken }
    }
}

impl FindingRow {
    fn all(judgement: &Judgement) -> impl Iterator<Item = Self> + '_ {
        judgement.findings.iter().map(|finding| Self {
            invariant: judgement.invariant.name(),
            sentence: finding.sentence.clone(),
            records: finding.records.iter().map(records::words).collect(),
        })
    }
}

impl BoundRow {
    fn new(bound: &Bound) -> Self {
        Self {
            name: bound.name.clone(),
            invariant: bound.invariant.name(),
            measured: bound.measured,
            max: bound.max,
            unit: bound.unit.to_owned(),
            is_kept: bound.is_kept(),
        }
    }
}

impl FaultRow {
    fn new((kind, count): (&String, &u64)) -> Self {
        Self { kind: kind.clone(), count: *count }
    }
}

impl LeftOutRow {
    fn new(left_out: &LeftOut) -> Self {
        let LeftOut { kind, count, why } = left_out;
        Self { kind: kind.to_string(), count: *count, why: why.clone() }
    }
}

impl From<Quantiles> for Spread {
    fn from(of: Quantiles) -> Self {
        let Quantiles { count, p50, p99, max } = of;
        Self { count, p50_ms: millis(p50), p99_ms: millis(p99), max_ms: millis(max) }
    }
}

impl FailoverRow {
    fn new((kind, times): (&String, &Quantiles)) -> Self {
        let bound_ms = failover_max(kind).map(millis);
        Self { kind: kind.clone(), spread: Spread::from(*times), bound_ms }
    }
}

impl LatenessRow {
    fn all(figures: &Figures) -> Vec<Self> {
        let all = [
            ("jobs", false, figures.late_in_peace),
            ("jobs", true, figures.late_near_faults),
            ("slots", false, figures.slots_late_in_peace),
            ("slots", true, figures.slots_late_near_faults),
        ];
        let row = |(what, is_near_faults, times): (&str, bool, Quantiles)| Self {
            what: what.to_owned(),
            is_near_faults,
            spread: Spread::from(times),
        };
        all.into_iter().filter(|(_, _, times)| times.count > 0).map(row).collect()
    }
}

impl Counts {
    fn new(figures: &Figures, invariants: &[InvariantRow]) -> Self {
        let named = |(ending, count): (&String, &u64)| {
            let name = if ending.is_empty() { "not_known" } else { ending };
            (name.to_owned(), *count)
        };
        let is_unasked = |ending: &String| Figures::is_unasked(ending);
        let redelivered = || figures.redelivered.iter();
        Self {
            records: figures.records,
            is_cut: figures.is_cut,
            calls: figures.calls,
            unknown: figures.unknown,
            jobs: figures.jobs,
            recovered: figures.recovered,
            leases: figures.leases,
            redelivered_as_asked: redelivered()
                .filter(|(ending, _)| !is_unasked(ending))
                .map(named)
                .collect(),
            redelivered_unasked: redelivered()
                .filter(|(ending, _)| is_unasked(ending))
                .map(named)
                .collect(),
            duplicates: figures.duplicates,
            duplicates_percent: figures.duplicates_share() * 100.0,
            slots: invariants[Invariant::EverySlotOnce as usize].checked,
        }
    }
}

impl EndFacts {
    fn find(history: &History) -> Option<Self> {
        let last = |record: &Record| match record {
            Record::End(end) => Some(*end),
            _ => None,
        };
        let end = history.records.iter().rev().find_map(last)?;
        let pushed = |record: &Record| match record {
            Record::Call(call) if matches!(call.what, What::Push { .. }) => Some(call.end_ns),
            _ => None,
        };
        let pushed_ns = history.records.iter().filter_map(pushed).max().unwrap_or(0);
        let after = |at_ns: u64, since_ns: u64| {
            let after = Duration::from_nanos(at_ns.saturating_sub(since_ns));
            (at_ns != 0).then(|| millis(after))
        };
        Some(Self {
            healed_ms: millis(Duration::from_nanos(end.healed_ns)),
            served_after_ms: after(end.served_ns, end.healed_ns),
            drained_after_ms: after(end.drained_ns, end.healed_ns.max(pushed_ns)),
            leaders: end.leaders,
        })
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
