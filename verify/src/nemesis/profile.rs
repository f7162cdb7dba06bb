//! How many faults of which kind a run is to have, and which of them a field allows.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Kind;
use crate::field::{DatabaseWay, Field, Ground, faketime};

/// The usual mix, in parts of a thousand.
const MIX: [(Kind, u32); 17] = [
    (Kind::Kill, 450),
    (Kind::Partition, 150),
    (Kind::Freeze, 100),
    (Kind::ClientPartition, 50),
    (Kind::ClientReset, 15),
    (Kind::ClientHalfClose, 10),
    (Kind::ClientCut, 15),
    (Kind::ClientDelay, 30),
    (Kind::DatabaseDelay, 20),
    (Kind::BackendKill, 50),
    (Kind::PostgresRestart, 40),
    (Kind::PostmasterKill, 10),
    (Kind::RollingRestart, 20),
    (Kind::LeaderTerminate, 10),
    (Kind::PoolChurn, 10),
    (Kind::ClockOffset, 10),
    (Kind::RowLock, 10),
];

/// What is done from outside to a cluster that is not ours.
const OUTSIDE: [(Kind, u32); 5] = [
    (Kind::ClientReset, 6),
    (Kind::ClientHalfClose, 3),
    (Kind::ClientCut, 6),
    (Kind::ClientDelay, 4),
    (Kind::ClientPartition, 4),
];

/// What a run is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// How many faults of each kind.
    pub counts: BTreeMap<Kind, u32>,
    /// How long a node that was killed stays down.
    pub down: (Duration, Duration),
    /// How long a node is frozen.
    pub frozen: (Duration, Duration),
    /// How long something is cut off.
    pub cut: (Duration, Duration),
    /// How late what passes is, where that is the fault.
    pub delay: (Duration, Duration),
    /// For how long rows are held.
    pub locked: (Duration, Duration),
    /// Between the end of a fault and the next one.
    pub pause: (Duration, Duration),
    /// Of a hundred faults of nodes, how many begin while another node has one. Only where a third
    /// node is left alone.
    pub overlapping_percent: u32,
}

/// Faults that a field does not allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Which.
    pub kind: Kind,
    /// How many there would have been.
    pub count: u32,
    /// Why not.
    pub why: String,
}

const fn ms(from: u64, to: u64) -> (Duration, Duration) {
    (Duration::from_millis(from), Duration::from_millis(to))
}

impl Profile {
    /// No faults. To be filled by hand.
    pub fn none() -> Self {
        Self {
            counts: BTreeMap::new(),
            down: ms(200, 1500),
            frozen: ms(3000, 8000),
            cut: ms(1000, 10_000),
            delay: ms(200, 2000),
            locked: ms(300, 3000),
            pause: ms(500, 1500),
            overlapping_percent: 15,
        }
    }

    /// For each change: a minute and a half.
    pub fn quick() -> Self {
        let counts = [
            (Kind::Kill, 20),
            (Kind::Partition, 4),
            (Kind::Freeze, 3),
            (Kind::BackendKill, 2),
            (Kind::PostgresRestart, 1),
            (Kind::ClientReset, 2),
            (Kind::ClientCut, 2),
            (Kind::ClientPartition, 1),
            (Kind::LeaderTerminate, 1),
        ];
        Self {
            counts: counts.into(),
            down: ms(200, 800),
            frozen: ms(3000, 5000),
            cut: ms(1000, 5000),
            pause: ms(300, 900),
            ..Self::none()
        }
    }

    /// For a night: about half an hour.
    pub fn soak() -> Self {
        let counts = [
            (Kind::Kill, 200),
            (Kind::Freeze, 40),
            (Kind::Partition, 40),
            (Kind::PostgresRestart, 10),
            (Kind::PostmasterKill, 5),
            (Kind::BackendKill, 20),
            (Kind::ClientPartition, 20),
            (Kind::ClientReset, 10),
            (Kind::ClientHalfClose, 5),
            (Kind::ClientCut, 10),
            (Kind::ClientDelay, 10),
            (Kind::DatabaseDelay, 10),
            (Kind::LeaderTerminate, 5),
            (Kind::PoolChurn, 5),
            (Kind::RollingRestart, 5),
            (Kind::ClockOffset, 3),
        ];
        Self { counts: counts.into(), ..Self::none() }
    }

    /// For a node on its embedded database: it is killed again and again.
    pub fn embedded(kills: u32) -> Self {
        let counts = [(Kind::Kill, kills)].into();
        Self { counts, down: ms(50, 500), pause: ms(200, 1200), ..Self::none() }
    }

    /// So many faults in the usual mix.
    pub fn mix(count: u32) -> Self {
        Self { counts: shares(count, &MIX), ..Self::none() }
    }

    /// So many faults of these kinds only, as often as each other.
    pub fn only(count: u32, kinds: &[Kind]) -> Self {
        let parts: Vec<(Kind, u32)> = kinds.iter().map(|kind| (*kind, 1)).collect();
        Self { counts: shares(count, &parts), ..Self::none() }
    }

    /// For a cluster that is not ours: what can be done from outside. Nodes leave so often beside
    /// that.
    pub fn outside(count: u32, drains: u32) -> Self {
        let mut counts = shares(count, &OUTSIDE);
        counts.insert(Kind::Drain, drains);
        counts.retain(|_, count| *count > 0);
        Self { counts, ..Self::none() }
    }

    /// How many faults there are.
    pub fn count(&self) -> u32 {
        self.counts.values().sum()
    }

    /// What of it a field allows, and what is left out.
    pub fn on(&self, field: &Field) -> (Self, Vec<LeftOut>) {
        let mut left_out = Vec::new();
        let mut profile = self.clone();
        profile.counts.retain(|kind, count| match kind.is_possible_on(field) {
            Ok(()) => true,
            Err(_) if *count == 0 => false,
            Err(why) => {
                left_out.push(LeftOut { kind: *kind, count: *count, why });
                false
            }
        });
        (profile, left_out)
    }
}

/// So many faults, shared out by parts.
fn shares(count: u32, parts: &[(Kind, u32)]) -> BTreeMap<Kind, u32> {
    let all: u64 = parts.iter().map(|(_, part)| u64::from(*part)).sum();
    let whole = |part: u32| u64::from(count) * u64::from(part);
    let mut counts: Vec<(Kind, u64, u64)> =
        parts.iter().map(|(kind, part)| (*kind, whole(*part) / all, whole(*part) % all)).collect();
    // What is left over goes to the largest remainders.
    let given: u64 = counts.iter().map(|(_, count, _)| count).sum();
    counts.sort_by_key(|(_, _, remainder)| std::cmp::Reverse(*remainder));
    let left = usize::try_from(u64::from(count) - given).expect("fewer than there are kinds");
    counts.iter_mut().take(left).for_each(|(_, count, _)| *count += 1);
    let to_count = |count| u32::try_from(count).expect("no more than were asked for");
    let counts = counts.into_iter().map(|(kind, count, _)| (kind, to_count(count)));
    counts.filter(|(_, count)| *count > 0).collect()
}

impl Kind {
    /// Whether a field allows it.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn is_possible_on(self, field: &Field) -> Result<(), String> {
        let refused = |error: crate::field::FieldError| error.to_string();
        match self {
            Self::ClientPartition
            | Self::ClientDelay
            | Self::ClientReset
            | Self::ClientHalfClose
            | Self::ClientCut => Ok(()),
            Self::Drain if field.ground() != Ground::Named => {
                Err("rolling restarts drain the nodes of our own".into())
            }
            Self::Drain if !field.may_drain() => {
                Err("nobody has said that nodes that leave are started again".into())
            }
            Self::Drain => Ok(()),
            _ if field.ground() == Ground::Named => Err("the nodes are not ours".into()),
            Self::Kill | Self::Freeze | Self::RollingRestart => Ok(()),
            Self::ClockOffset => faketime().map(drop).map_err(refused),
            Self::Partition => field.database_way(1).map(drop).map_err(refused),
            Self::DatabaseDelay => match field.database_way(1).map_err(refused)? {
                DatabaseWay::Proxy(_) => Ok(()),
                DatabaseWay::Namespace(_) => Err("wires drop packets but do not slow them".into()),
            },
            Self::BackendKill
            | Self::PostgresRestart
            | Self::PostmasterKill
            | Self::LeaderTerminate
            | Self::PoolChurn
            | Self::RowLock => field.postgres().map(drop).map_err(refused),
        }
    }
}
