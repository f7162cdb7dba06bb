//! What is promised in numbers.

use std::collections::BTreeMap;
use std::time::Duration;

use super::tables::Tables;
use super::times::{Due, Times};
use super::verdict::{Figures, Invariant};

/// Another node leads so soon after the one that led was killed.
const KILLED_MAX: Duration = Duration::from_secs(1);

/// Another node leads so soon after the one that led was frozen or cut off.
const CUT_OFF_MAX: Duration = Duration::from_millis(3500);

/// Ninety-nine of a hundred jobs are leased, and slots fired, so soon after their time.
const LATE_MAX: Duration = Duration::from_secs(1);

/// The same of jobs, near faults.
const LATE_NEAR_FAULTS_MAX: Duration = Duration::from_secs(4);

/// The same of slots: a second more than it takes to have another leader.
const SLOT_LATE_NEAR_FAULTS_MAX: Duration = Duration::from_millis(4500);

/// So many of all jobs may be given out again although nobody asked for it.
const DUPLICATES_MAX: f64 = 0.01;

/// And so many for each fault: what was in work there, however few jobs a run has.
const DUPLICATES_PER_FAULT_MAX: f64 = 50.0;

/// What a fault may delay: what is due this long before it, and this long after it is over.
const NEAR_BEFORE_MS: i64 = 1000;
const NEAR_AFTER_MS: i64 = 4000;

/// How a number of times are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quantiles {
    /// How many.
    pub count: usize,
    /// Half of them are not longer.
    pub p50: Duration,
    /// Ninety-nine of a hundred are not longer.
    pub p99: Duration,
    /// None is longer.
    pub max: Duration,
}

impl Quantiles {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |percent: usize| {
            let rank = (times.len() * percent).div_ceil(100).max(1);
            times.get(rank - 1).copied().unwrap_or_default()
        };
        Self { count: times.len(), p50: at(50), p99: at(99), max: at(100) }
    }

    fn of_late<'d>(all: impl Iterator<Item = &'d Due>) -> Self {
        let late = |due: &Due| Duration::from_millis(u64::try_from(due.late_ms).unwrap_or(0));
        Self::of(all.map(late).collect())
    }
}

/// A number that must not be exceeded.
#[derive(Debug, Clone, PartialEq)]
pub struct Bound {
    /// What it belongs to.
    pub invariant: Invariant,
    /// Of what.
    pub name: String,
    /// What it was; `None`: there was nothing of the kind.
    pub measured: Option<f64>,
    /// What it may be, in the same unit.
    pub max: f64,
    /// `s`, or `%`.
    pub unit: &'static str,
}

impl Bound {
    /// Whether it was not exceeded.
    pub fn is_kept(&self) -> bool {
        self.measured.is_none_or(|measured| measured <= self.max)
    }
}

impl Figures {
    pub(super) fn measure(&mut self, tables: &Tables<'_>, times: &Times) {
        let faults = Trouble::of(tables);
        let split = |all: &[Due]| {
            let is_near = |due: &&Due| faults.is_near(due.at_ms);
            let near = Quantiles::of_late(all.iter().filter(is_near));
            (Quantiles::of_late(all.iter().filter(|due| !is_near(due))), near)
        };
        (self.late_in_peace, self.late_near_faults) = split(&times.jobs);
        (self.slots_late_in_peace, self.slots_late_near_faults) = split(&times.slots);
        let mut failovers: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
        for fault in tables.faults.iter().filter(|fault| fault.led_again_ns != 0) {
            let lasted = Duration::from_nanos(fault.led_again_ns.saturating_sub(fault.start_ns));
            failovers.entry(&fault.kind).or_default().push(lasted);
        }
        self.failovers = failovers
            .into_iter()
            .map(|(kind, times)| (kind.to_owned(), Quantiles::of(times)))
            .collect();
    }

    pub(super) fn bounds(&self) -> Vec<Bound> {
        let p99 = |invariant, name: &str, of: &Quantiles, max| {
            seconds(invariant, name, (of, of.p99), max)
        };
        let jobs = |name, of, max| p99(Invariant::NotEarly, name, of, max);
        let slots = |name, of, max| p99(Invariant::EverySlotOnce, name, of, max);
        let duplicates = Bound {
            invariant: Invariant::Explained,
            name: "jobs given out again unasked".to_owned(),
            measured: (self.jobs > 0).then(|| self.duplicates_share() * 100.0),
            max: self.duplicates_share_max() * 100.0,
            unit: "%",
        };
        let slots_near = &self.slots_late_near_faults;
        let mut bounds = vec![
            duplicates,
            jobs("jobs late, p99", &self.late_in_peace, LATE_MAX),
            jobs("jobs late near faults, p99", &self.late_near_faults, LATE_NEAR_FAULTS_MAX),
            slots("slots late, p99", &self.slots_late_in_peace, LATE_MAX),
            slots("slots late near faults, p99", slots_near, SLOT_LATE_NEAR_FAULTS_MAX),
        ];
        for (kind, times) in &self.failovers {
            if let Some(max) = failover_max(kind) {
                let name = format!("failover after {kind}, longest");
                bounds.push(seconds(Invariant::Alive, &name, (times, times.max), max));
            }
        }
        bounds
    }

    fn duplicates_share_max(&self) -> f64 {
        let faults: u64 = self.faults.values().sum();
        let of_faults = faults as f64 * DUPLICATES_PER_FAULT_MAX / (self.jobs as f64).max(1.0);
        of_faults.clamp(DUPLICATES_MAX, 1.0)
    }
}

fn seconds(
    invariant: Invariant,
    name: &str,
    (of, measured): (&Quantiles, Duration),
    max: Duration,
) -> Bound {
    Bound {
        invariant,
        name: name.to_owned(),
        measured: (of.count > 0).then_some(measured.as_secs_f64()),
        max: max.as_secs_f64(),
        unit: "s",
    }
}

/// How long another leader may take, by kind of the fault. `None`: nothing is promised.
pub(crate) fn failover_max(kind: &str) -> Option<Duration> {
    if kind == "kill" {
        return Some(KILLED_MAX);
    }
    (kind == "freeze" || kind.starts_with("partition")).then_some(CUT_OFF_MAX)
}

/// When there was trouble, by the database's clock: times that do not overlap, in order.
struct Trouble(Vec<(i64, i64)>);

impl Trouble {
    fn of(tables: &Tables<'_>) -> Self {
        let Some(clock) = tables.clock() else {
            // Then nobody knows when.
            let all = (i64::MIN, i64::MAX);
            return Self(if tables.faults.is_empty() { Vec::new() } else { vec![all] });
        };
        let mut times: Vec<(i64, i64)> = tables
            .faults
            .iter()
            .map(|fault| {
                let (from_ms, to_ms) =
                    (clock.at_least_ms(fault.start_ns), clock.at_most_ms(fault.end_ns));
                (from_ms - NEAR_BEFORE_MS, to_ms + NEAR_AFTER_MS)
            })
            .collect();
        times.sort_unstable();
        times.dedup_by(|next, before| {
            let is_joined = next.0 <= before.1;
            before.1 = if is_joined { before.1.max(next.1) } else { before.1 };
            is_joined
        });
        Self(times)
    }

    fn is_near(&self, at_ms: i64) -> bool {
        let begun = self.0.partition_point(|(from_ms, _)| *from_ms <= at_ms);
        begun > 0 && at_ms <= self.0[begun - 1].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_jobs_may_have_as_many_duplicates_as_were_in_work() {
        let share = |jobs: u64, faults: u64| {
            let faults = [("kill".to_owned(), faults)].into();
            Figures { jobs, faults, ..Figures::default() }.duplicates_share_max()
        };
        assert_eq!([share(1_000_000, 36), share(10_000, 4), share(10, 9)], [0.01, 0.02, 1.0]);
    }
}
