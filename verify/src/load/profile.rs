//! How much is asked, how fast, and how badly clients behave.

use super::jobs::LARGE;

/// On fewer nodes subscribers need not be everywhere.
pub(super) const SPREAD_FROM: usize = 3;

/// How large a run is, and what happens in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// Decides what the jobs are like, and when clients do what they should not.
    pub seed: u64,
    /// How many jobs are pushed.
    pub jobs: u64,
    /// How many of them in a second.
    pub jobs_per_second: u32,
    /// Jobs in one call, at most; some queues get them in smaller parts.
    pub batch: u32,
    /// So many of a thousand jobs are pushed and acked by calls of their own.
    pub singles_permille: u32,
    /// Clients that push; every other one over HTTP.
    pub producers: u32,
    /// Clients that subscribe to the large queues.
    pub subscribers: u32,
    /// Clients that pull from all queues in turn; every other one over HTTP.
    pub pullers: u32,
    /// Clients whose connections are cut while they have jobs.
    pub crashers: u32,
    /// Clients that stop for longer than a node bears.
    pub freezers: u32,
    /// Whether a schedule fires each second.
    pub has_schedule: bool,
    /// Between two jobs that somebody cancels, in milliseconds; 0: nobody does.
    pub cancel_every_ms: u64,
    /// Between two pauses of a queue, in milliseconds; 0: nobody pauses.
    pub pause_every_ms: u64,
    /// What becomes of jobs.
    pub behaviour: Behaviour,
}

/// What workers do with their jobs, of a thousand each; what is left is acked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behaviour {
    /// The attempt fails.
    pub fail: u32,
    /// It is rejected.
    pub reject: u32,
    /// It is given back.
    pub release: u32,
    /// Its progress is told before it is acked.
    pub progress: u32,
    /// It is extended before it is acked, if its lease has a time of its own.
    pub extend: u32,
    /// It is acked through another node.
    pub elsewhere: u32,
    /// It is acked twice.
    pub twice: u32,
    /// It is worked on for a while.
    pub slow: u32,
    /// Nobody settles it, if its lease has a time of its own; later somebody tries.
    pub leak: u32,
}

impl Behaviour {
    /// Workers that do what they should.
    pub const GOOD: Self = Self {
        fail: 0,
        reject: 0,
        release: 0,
        progress: 0,
        extend: 0,
        elsewhere: 0,
        twice: 0,
        slow: 0,
        leak: 0,
    };

    /// Workers as they are.
    pub const USUAL: Self = Self {
        fail: 50,
        reject: 2,
        release: 10,
        progress: 5,
        extend: 20,
        elsewhere: 5,
        twice: 10,
        slow: 3,
        leak: 10,
    };
}

impl Profile {
    /// A hundred thousand jobs in two minutes.
    pub fn quick(seed: u64) -> Self {
        Self {
            seed,
            jobs: 100_000,
            jobs_per_second: 1000,
            batch: 100,
            singles_permille: 20,
            producers: 6,
            subscribers: 4,
            pullers: 6,
            crashers: 2,
            freezers: 1,
            has_schedule: true,
            cancel_every_ms: 100,
            pause_every_ms: 7000,
            behaviour: Behaviour::USUAL,
        }
    }

    /// On so many nodes. From three on each large queue has a subscriber that stays at each of them,
    /// beside those that come and go: what waits while one is frozen is then the broker's doing, and
    /// not that all who work on it are there.
    pub fn on(self, nodes: u8) -> Self {
        let subscribers = match usize::from(nodes) >= SPREAD_FROM {
            true => self.subscribers.max(LARGE.len() as u32 * (u32::from(nodes) + 1)),
            false => self.subscribers,
        };
        Self { subscribers, ..self }
    }

    /// A million jobs in twenty minutes.
    pub fn soak(seed: u64) -> Self {
        Self { jobs: 1_000_000, jobs_per_second: 900, ..Self::quick(seed) }
    }
}
