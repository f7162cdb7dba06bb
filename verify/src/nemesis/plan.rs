//! What is done when: decided before the run, by a seed alone.

use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use super::{Kind, Profile};
use crate::field::{Cut, Direction, Stop};

/// Of a hundred faults that any node can have, how many the leader gets.
const OF_THE_LEADER_PERCENT: u32 = 50;

/// What a connection may still pass before it is cut, at most: amid a frame, or a few further on.
const CUT_AFTER_MAX: u64 = 4096;

/// For how long connections are cut.
const CUTTING: (Duration, Duration) = (Duration::from_millis(300), Duration::from_millis(1500));

/// Faults in order of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What it was made from.
    pub seed: u64,
    /// Each of its faults.
    pub steps: Vec<Step>,
}

/// One fault, and its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// When it begins, since the start of the run. Later if the fault before takes longer to heal
    /// than was thought.
    pub at: Duration,
    /// How long it lasts; zero if it has no length, or takes as long as it takes.
    pub lasts: Duration,
    /// What is done.
    pub deed: Deed,
    /// To whom.
    pub target: Target,
    /// Whether something else is broken already.
    pub begins: Begins,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// [`Kind::Kill`].
    Kill,
    /// [`Kind::Freeze`].
    Freeze,
    /// [`Kind::Partition`].
    Partition(Cut),
    /// [`Kind::DatabaseDelay`].
    DatabaseDelay(Duration),
    /// [`Kind::ClientPartition`].
    ClientPartition(Cut),
    /// [`Kind::ClientDelay`].
    ClientDelay(Duration),
    /// [`Kind::ClientReset`].
    ClientReset,
    /// [`Kind::ClientHalfClose`].
    ClientHalfClose(Direction),
    /// [`Kind::ClientCut`], after so many bytes in that direction.
    ClientCut(Direction, u64),
    /// [`Kind::BackendKill`]; whose decides the number.
    BackendKill(u32),
    /// [`Kind::PostgresRestart`].
    PostgresRestart(Stop),
    /// [`Kind::PostmasterKill`].
    PostmasterKill,
    /// [`Kind::LeaderTerminate`].
    LeaderTerminate,
    /// [`Kind::PoolChurn`].
    PoolChurn,
    /// [`Kind::RollingRestart`].
    RollingRestart,
    /// [`Kind::ClockOffset`], by so many seconds.
    ClockOffset(i64),
    /// [`Kind::Drain`].
    Drain,
    /// [`Kind::RowLock`].
    RowLock,
}

/// To whom it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Whoever leads at that time.
    Leader,
    /// Of the nodes that nothing is done to, the one that this number falls on.
    Node(u32),
    /// The database, or all nodes.
    All,
}

/// When a fault may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begins {
    /// When all before is healed.
    Alone,
    /// While the one before lasts, at another node.
    DuringPrevious,
}

impl Deed {
    /// What kind of fault it is.
    pub const fn kind(self) -> Kind {
        match self {
            Self::Kill => Kind::Kill,
            Self::Freeze => Kind::Freeze,
            Self::Partition(_) => Kind::Partition,
            Self::DatabaseDelay(_) => Kind::DatabaseDelay,
            Self::ClientPartition(_) => Kind::ClientPartition,
            Self::ClientDelay(_) => Kind::ClientDelay,
            Self::ClientReset => Kind::ClientReset,
            Self::ClientHalfClose(_) => Kind::ClientHalfClose,
            Self::ClientCut(..) => Kind::ClientCut,
            Self::BackendKill(_) => Kind::BackendKill,
            Self::PostgresRestart(_) => Kind::PostgresRestart,
            Self::PostmasterKill => Kind::PostmasterKill,
            Self::LeaderTerminate => Kind::LeaderTerminate,
            Self::PoolChurn => Kind::PoolChurn,
            Self::RollingRestart => Kind::RollingRestart,
            Self::ClockOffset(_) => Kind::ClockOffset,
            Self::Drain => Kind::Drain,
            Self::RowLock => Kind::RowLock,
        }
    }

    /// What it is called in a history: the kind, and how if there are several ways, as
    /// `partition_in` or `postgres_restart_fast`.
    pub fn name(self) -> String {
        let how = match self {
            Self::Partition(cut) | Self::ClientPartition(cut) => match cut {
                Cut::Both => "_both",
                Cut::Inwards => "_in",
                Cut::Outwards => "_out",
            },
            Self::PostgresRestart(Stop::Fast) => "_fast",
            Self::PostgresRestart(Stop::Immediate) => "_immediate",
            _ => "",
        };
        format!("{}{how}", self.kind())
    }

    /// How long things take to be well again when it is over, roughly.
    fn recovery(self, nodes: u8) -> Duration {
        let millis = match self.kind() {
            Kind::Kill => 500,
            Kind::Freeze | Kind::Partition | Kind::DatabaseDelay => 300,
            Kind::BackendKill => 1000,
            Kind::PostgresRestart | Kind::ClockOffset => 2000,
            Kind::PostmasterKill => 4000,
            Kind::LeaderTerminate => 500,
            Kind::RollingRestart => 1500 * u64::from(nodes),
            Kind::Drain => 10_000,
            Kind::PoolChurn
            | Kind::RowLock
            | Kind::ClientPartition
            | Kind::ClientDelay
            | Kind::ClientReset
            | Kind::ClientHalfClose
            | Kind::ClientCut => 100,
        };
        Duration::from_millis(millis)
    }

    /// Whether a leader may have to be replaced that it is done to.
    pub(super) const fn may_depose(self) -> bool {
        !matches!(
            self.kind(),
            Kind::ClientPartition
                | Kind::ClientDelay
                | Kind::ClientReset
                | Kind::ClientHalfClose
                | Kind::ClientCut
                | Kind::PoolChurn
                | Kind::Drain
                | Kind::RowLock
        )
    }

    /// Whether it takes one node from those that can work, for a while.
    const fn takes_a_node(self) -> bool {
        matches!(
            self.kind(),
            Kind::Kill
                | Kind::Freeze
                | Kind::Partition
                | Kind::DatabaseDelay
                | Kind::ClientPartition
                | Kind::ClientDelay
        )
    }
}

impl Plan {
    /// The plan of a seed. The same for the same seed, profile and number of nodes, always.
    pub fn new(seed: u64, profile: &Profile, nodes: u8) -> Self {
        let mut chance = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut kinds: Vec<Kind> = Vec::new();
        for (kind, count) in &profile.counts {
            kinds.extend(std::iter::repeat_n(*kind, *count as usize));
        }
        kinds.shuffle(&mut chance);
        let mut steps: Vec<Step> = Vec::new();
        // When all that was planned so far is over.
        let mut over = Duration::ZERO;
        for kind in kinds {
            let mut step = draw(kind, profile, &mut chance);
            let is_overlapping = chance.random_range(0..100) < profile.overlapping_percent;
            let pause = between(profile.pause, &mut chance);
            let moment = chance.random_range(0..100);
            match steps.last().filter(|_| is_overlapping && nodes >= 3) {
                Some(before) if step.can_begin_during(before) => {
                    step.begins = Begins::DuringPrevious;
                    step.at = before.at + before.lasts * moment / 100;
                }
                _ => step.at = over + pause,
            }
            over = over.max(step.at + step.lasts + step.deed.recovery(nodes));
            steps.push(step);
        }
        Self { seed, steps }
    }

    /// How long it takes, if all goes as thought.
    pub fn length(&self, nodes: u8) -> Duration {
        let end = |step: &Step| step.at + step.lasts + step.deed.recovery(nodes);
        self.steps.iter().map(end).max().unwrap_or_default()
    }
}

impl Step {
    /// Two at a time are enough, and a third node is left alone.
    fn can_begin_during(&self, before: &Self) -> bool {
        let is_alone = before.begins == Begins::Alone;
        is_alone && before.deed.takes_a_node() && self.deed.takes_a_node()
    }
}

fn between(range: (Duration, Duration), chance: &mut Xoshiro256PlusPlus) -> Duration {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let (from, to) = (millis(range.0), millis(range.1));
    Duration::from_millis(chance.random_range(from..=to.max(from)))
}

/// A fault of this kind: how, to whom and for how long.
fn draw(kind: Kind, profile: &Profile, chance: &mut Xoshiro256PlusPlus) -> Step {
    let cut = [Cut::Both, Cut::Inwards, Cut::Outwards][chance.random_range(0..3_usize)];
    let direction = [Direction::ToServer, Direction::ToClient][chance.random_range(0..2_usize)];
    let stop = [Stop::Fast, Stop::Immediate][chance.random_range(0..2_usize)];
    let is_of_the_leader = chance.random_range(0..100) < OF_THE_LEADER_PERCENT;
    let pick: u32 = chance.random();
    let node = Target::Node(pick);
    let any = if is_of_the_leader { Target::Leader } else { node };
    let zero = (Duration::ZERO, Duration::ZERO);
    let (deed, target, lasts) = match kind {
        Kind::Kill => (Deed::Kill, any, profile.down),
        Kind::Freeze => (Deed::Freeze, any, profile.frozen),
        Kind::Partition => (Deed::Partition(cut), any, profile.cut),
        Kind::DatabaseDelay => {
            (Deed::DatabaseDelay(between(profile.delay, chance)), any, profile.cut)
        }
        Kind::ClientPartition => (Deed::ClientPartition(cut), node, profile.cut),
        Kind::ClientDelay => (Deed::ClientDelay(between(profile.delay, chance)), node, profile.cut),
        Kind::ClientReset => (Deed::ClientReset, node, zero),
        Kind::ClientHalfClose => (Deed::ClientHalfClose(direction), node, zero),
        Kind::ClientCut => {
            (Deed::ClientCut(direction, chance.random_range(0..CUT_AFTER_MAX)), node, CUTTING)
        }
        Kind::BackendKill => (Deed::BackendKill(pick), Target::All, zero),
        Kind::PostgresRestart => (Deed::PostgresRestart(stop), Target::All, profile.down),
        Kind::PostmasterKill => (Deed::PostmasterKill, Target::All, zero),
        Kind::LeaderTerminate => (Deed::LeaderTerminate, Target::Leader, zero),
        Kind::PoolChurn => (Deed::PoolChurn, Target::All, profile.cut),
        Kind::RollingRestart => (Deed::RollingRestart, Target::All, zero),
        Kind::ClockOffset => {
            let seconds = if is_of_the_leader { 3600 } else { -3600 };
            (Deed::ClockOffset(seconds), node, profile.cut)
        }
        Kind::Drain => (Deed::Drain, node, zero),
        Kind::RowLock => (Deed::RowLock, Target::All, profile.locked),
    };
    let lasts = between(lasts, chance);
    Step { at: Duration::ZERO, lasts, deed, target, begins: Begins::Alone }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn profiles() -> [Profile; 4] {
        [Profile::quick(), Profile::soak(), Profile::mix(500), Profile::outside(23, 3)]
    }

    #[test]
    fn the_same_seed_makes_the_same_plan() {
        for profile in profiles() {
            assert_eq!(Plan::new(7, &profile, 3), Plan::new(7, &profile, 3));
            assert_ne!(Plan::new(7, &profile, 3).steps, Plan::new(8, &profile, 3).steps);
        }
    }

    #[test]
    fn a_plan_that_was_printed_once_can_be_made_again() {
        let plan = Plan::new(1, &Profile::quick(), 3);
        let first = plan.steps.iter().take(4).map(|step| step.deed.name());
        let known = ["client_partition_out", "kill", "partition_both", "freeze"];
        assert_eq!(first.collect::<Vec<_>>(), known);
    }

    #[test]
    fn a_plan_has_exactly_the_faults_that_were_asked_for() {
        for (seed, profile) in (0..).zip(profiles()) {
            let mut counts = BTreeMap::new();
            for step in Plan::new(seed, &profile, 3).steps {
                *counts.entry(step.deed.kind()).or_insert(0) += 1;
            }
            assert_eq!(counts, profile.counts);
        }
    }

    #[test]
    fn a_mix_has_as_many_faults_as_were_asked_for() {
        for count in [0, 1, 7, 100, 333, 1000] {
            assert_eq!(Profile::mix(count).count(), count);
            assert_eq!(Profile::outside(count, 3).count(), count + 3);
        }
        assert_eq!(Profile::mix(1000).counts[&Kind::Kill], 450);
    }

    #[test]
    fn one_node_is_always_left_alone() {
        for nodes in [2_u8, 3, 5] {
            for seed in 0..200 {
                let steps = Plan::new(seed, &Profile::soak(), nodes).steps;
                for step in &steps {
                    let is_under_way =
                        |other: &&Step| other.at <= step.at && step.at < other.at + other.lasts;
                    let broken = steps.iter().filter(is_under_way).count();
                    assert!(broken <= usize::from(nodes - 1).min(2), "{seed}: {step:?}");
                }
            }
        }
    }

    #[test]
    fn faults_meet_only_where_the_plan_says_so() {
        let steps = Plan::new(3, &Profile::soak(), 3).steps;
        let mut over = Duration::ZERO;
        for step in &steps {
            assert_eq!(step.begins == Begins::DuringPrevious, step.at < over, "{step:?}");
            over = over.max(step.at + step.lasts + step.deed.recovery(3));
        }
        let meeting = steps.iter().filter(|step| step.begins == Begins::DuringPrevious).count();
        assert!((10..60).contains(&meeting), "{meeting}");
    }

    #[test]
    fn a_quick_plan_takes_about_a_minute_and_a_half() {
        for seed in 0..100 {
            let length = Plan::new(seed, &Profile::quick(), 3).length(3);
            let bounds = Duration::from_secs(60)..Duration::from_secs(120);
            assert!(bounds.contains(&length), "{seed}: {length:?}");
        }
    }
}
