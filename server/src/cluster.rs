//! The nodes: who is there, how they are, and asking one to leave.
//!
//! A node is a name and an incarnation, one life of it. What it says of itself stands in the store
//! that all share, so that every node gives the same answers. A node on the embedded store is a
//! cluster of one.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::Error;
use crate::job::{QueueName, Timestamp};
use crate::leader::Term;
use crate::limits;

/// What a node says of itself. It does not change as long as it lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// Its name.
    pub id: String,
    /// Which life of it.
    pub incarnation: i64,
    /// The name of its machine.
    pub hostname: String,
    /// Where clients reach it; may be a name.
    pub host: String,
    /// Where the binary protocol is served.
    pub tcp_port: u16,
    /// Where HTTP is served, if it is.
    pub http_port: Option<u16>,
    /// The version of its program.
    pub version: String,
    /// What it was built from and for.
    pub build: String,
    /// Of the settings that should be the same on all nodes.
    pub fingerprint: String,
}

/// How a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeState {
    /// It serves.
    Active,
    /// It is about to leave.
    Draining,
    /// Nothing has been heard from it for too long.
    Stale,
}

impl NodeState {
    /// The word for it in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Stale => "stale",
        }
    }
}

/// A node as the cluster knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// What it says of itself.
    pub card: Card,
    /// How it is.
    pub state: NodeState,
    /// Whether it leads.
    pub is_leader: bool,
    /// When this life of it began.
    pub started_at: Timestamp,
    /// When it was last heard from.
    pub last_heartbeat: Timestamp,
    /// Jobs that are leased through it.
    pub leased: u64,
}

/// What a node says of one queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sight {
    /// Its name.
    pub node: String,
    /// How it is.
    pub state: NodeState,
    /// Who pulls from the queue through it. `None`: nobody has, as far as it remembers.
    pub pulled: Option<Pulled>,
    /// Whether it may have forgotten: it remembers a bounded number of queues.
    pub is_full: bool,
}

/// Who pulls from a queue through a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pulled {
    /// The queue.
    pub queue: QueueName,
    /// Pulls that wait, and subscriptions.
    pub now: u32,
    /// Subscriptions among them that have no credit left.
    pub busy: u32,
    /// When there was one.
    pub last_at: Timestamp,
}

/// Who leads, and how the work goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// Its name; empty: nobody has been elected yet.
    pub node: String,
    /// The number of its term.
    pub epoch: u64,
    /// When the term began.
    pub since: Timestamp,
    /// When each duty was last done, by whichever leader.
    pub duties: Vec<(String, Timestamp)>,
}

/// The tables of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schema {
    /// Their version.
    pub version: i32,
    /// The version that this program works with.
    pub known: i32,
}

/// What a node does when it is asked to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// Finishes what was asked for, then exits.
    Exit,
    /// The same, but it stays, without giving out jobs, until it is restarted.
    Stay,
}

impl Leave {
    /// The word for it in the store.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exit => "exit",
            Self::Stay => "stay",
        }
    }

    /// The one of this name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Exit, Self::Stay].into_iter().find(|leave| leave.name() == name)
    }
}

/// What the nodes know of each other.
#[async_trait]
pub trait Registry: Send + Sync {
    /// All nodes, by name.
    async fn nodes(&self) -> Result<Vec<Node>, Error>;

    /// What each node says of a queue, as of its last heartbeat.
    async fn sights(&self, queue: &QueueName) -> Result<Vec<Sight>, Error>;

    /// Who leads.
    async fn leader(&self) -> Result<Leader, Error>;

    /// Asks a node to leave. False: there is no such node.
    async fn ask_to_leave(&self, id: &str, leave: Leave) -> Result<bool, Error>;

    /// The tables of the store.
    async fn schema(&self) -> Result<Schema, Error>;

    /// A duty was done. For registries to which the store does not tell it.
    fn note_duty(&self, _duty: &'static str) {}

    /// A part of the leader's work: has the leases of nodes that are gone end soon, and forgets
    /// nodes that are long gone. The answer: how many nodes were found to be gone.
    async fn tidy(&self, term: &Term) -> Result<usize, Error>;
}

/// Which queues are pulled from through this node, and when the others last were. Of more than
/// [`limits::DEMAND_MAX`] those are forgotten that nobody has asked for longest.
#[derive(Debug, Clone, Default)]
pub struct Demand(Arc<Mutex<HashMap<QueueName, Asked>>>);

#[derive(Debug, Clone, Copy)]
struct Asked {
    now: u32,
    busy: u32,
    last: Instant,
}

/// A pull that lasts until it is dropped.
#[derive(Debug)]
pub struct Pulling {
    demand: Demand,
    queue: QueueName,
}

impl Demand {
    /// Somebody begins to pull from a queue.
    pub fn begin(&self, queue: &QueueName) -> Pulling {
        let mut all = self.0.lock();
        match all.get_mut(queue) {
            Some(asked) => asked.now += 1,
            None => {
                if all.len() >= limits::DEMAND_MAX {
                    forget_one(&mut all);
                }
                all.insert(queue.clone(), Asked { now: 1, busy: 0, last: Instant::now() });
            }
        }
        Pulling { demand: self.clone(), queue: queue.clone() }
    }

    /// All that is remembered, at most [`limits::DEMAND_MAX`]; what is asked for now comes first,
    /// then what was asked for last.
    pub fn list(&self, now: Timestamp) -> Vec<Pulled> {
        let all = self.0.lock();
        let mut list: Vec<Pulled> =
            all.iter().map(|(queue, asked)| asked.shown(queue, now)).collect();
        list.sort_by_key(|pulled| Reverse((pulled.now > 0, pulled.last_at)));
        list.truncate(limits::DEMAND_MAX);
        list
    }
}

impl Pulling {
    fn change(&self, change: impl FnOnce(&mut Asked)) {
        if let Some(asked) = self.demand.0.lock().get_mut(&self.queue) {
            change(asked);
        }
    }

    /// Waits for what lets it go on. Meanwhile it takes no job.
    pub async fn busy<T>(&self, until: impl Future<Output = T>) -> T {
        let _busy = Busy::begin(self);
        until.await
    }
}

/// Counts a pull as busy until it is dropped.
struct Busy<'a>(&'a Pulling);

impl<'a> Busy<'a> {
    fn begin(pulling: &'a Pulling) -> Self {
        pulling.change(|asked| asked.busy += 1);
        Self(pulling)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.change(|asked| asked.busy = asked.busy.saturating_sub(1));
    }
}

impl Asked {
    fn shown(self, queue: &QueueName, now: Timestamp) -> Pulled {
        let ago = if self.now > 0 { 0 } else { self.last.elapsed().as_millis() };
        let last_at = Timestamp(now.0.saturating_sub(i64::try_from(ago).unwrap_or(i64::MAX)));
        Pulled { queue: queue.clone(), now: self.now, busy: self.busy, last_at }
    }
}

/// Forgets what nobody has asked for longest. What is asked for now stays.
fn forget_one(all: &mut HashMap<QueueName, Asked>) {
    let idle = all.iter().filter(|(_, asked)| asked.now == 0);
    let oldest = idle.min_by_key(|(_, asked)| asked.last).map(|(queue, _)| queue.clone());
    if let Some(queue) = oldest {
        all.remove(&queue);
    }
}

impl Drop for Pulling {
    fn drop(&mut self) {
        self.change(|asked| {
            asked.now = asked.now.saturating_sub(1);
            asked.last = Instant::now();
        });
    }
}

/// What others want of this node.
#[derive(Debug, Clone)]
pub struct Requests(Arc<watch::Sender<Option<Leave>>>);

impl Default for Requests {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }
}

impl Requests {
    /// The node shall leave. The first request counts, except that an exit replaces a stay.
    pub fn leave(&self, leave: Leave) {
        self.0.send_if_modified(|asked| {
            let is_more = match (*asked, leave) {
                (None, _) | (Some(Leave::Stay), Leave::Exit) => true,
                (Some(_), _) => false,
            };
            if is_more {
                *asked = Some(leave);
            }
            is_more
        });
    }

    /// Waits until the node shall leave in this way or a stronger one.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub async fn asked(&self, leave: Leave) {
        let is_it = |asked: &Option<Leave>| match leave {
            Leave::Stay => asked.is_some(),
            Leave::Exit => *asked == Some(Leave::Exit),
        };
        // The sender is in `self`.
        self.0.subscribe().wait_for(is_it).await.ok();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn queue(name: &str) -> QueueName {
        QueueName::parse(name).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_remembered_who_pulls_and_who_did() {
        let demand = Demand::default();
        drop(demand.begin(&queue("left")));
        tokio::time::advance(Duration::from_secs(5)).await;
        let _pulls = [demand.begin(&queue("now")), demand.begin(&queue("now"))];
        let pulled = |name, now, last_at| {
            let (queue, last_at) = (queue(name), Timestamp(last_at));
            Pulled { queue, now, busy: 0, last_at }
        };
        let expected = [pulled("now", 2, 9000), pulled("left", 0, 4000)];
        assert_eq!(demand.list(Timestamp(9000)), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn of_too_many_queues_the_one_is_forgotten_that_was_pulled_from_first() {
        let demand = Demand::default();
        for number in 0..=limits::DEMAND_MAX {
            drop(demand.begin(&queue(&format!("q{number}"))));
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        let list = demand.list(Timestamp(0));
        assert_eq!(list.len(), limits::DEMAND_MAX);
        assert!(list.iter().all(|pulled| pulled.queue != queue("q0")));
    }
}
