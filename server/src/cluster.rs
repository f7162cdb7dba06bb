//! The nodes: who is there, how they are, and asking one to leave.
//!
//! A node is a name and an incarnation, one life of it. What it says of itself stands in the store
//! that all share, so that every node gives the same answers. A node on the embedded store is a
//! cluster of one.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::error::Error;
use crate::job::Timestamp;
use crate::leader::Term;

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
