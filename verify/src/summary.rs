//! What a run was: what was asked for, on what it ran, how it went, and the verdict.

use std::time::Duration;

use jiff::Timestamp;

use crate::check::Verdict;
use crate::nemesis::LeftOut;

/// A run, or a history that was judged again.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// What it was called: `quick`, `soak`, `embedded`, `named`; `replay` of a history.
    pub profile: String,
    /// What it was made from; `None` of a replay.
    pub seed: Option<u64>,
    /// What to type to have the same again; `None` of a replay.
    pub repeat: Option<String>,
    /// When it began; `None` of a replay.
    pub started: Option<Timestamp>,
    /// How long it took from the first node to the verdict.
    pub duration: Duration,
    /// The nodes, in the order of their numbers; none of a replay.
    pub nodes: Vec<NodeFacts>,
    /// What Postgres says that it is; `None` if there is none, or none that we could ask.
    pub postgres: Option<String>,
    /// Jobs that were to be pushed; 0 of a replay.
    pub jobs: u64,
    /// Faults that were to be injected. Those that were stand in the verdict's figures.
    pub faults_planned: u32,
    /// Faults that could not be injected here, and why.
    pub left_out: Vec<LeftOut>,
    /// What else could not be had as it was asked for, and why.
    pub notes: Vec<String>,
    /// Cores of the machine it ran on.
    pub cores: usize,
    /// How it went.
    pub course: Course,
    /// What was found.
    pub verdict: Verdict,
}

/// A node of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFacts {
    /// As in the cluster if it is ours, by its address otherwise.
    pub name: String,
    /// The release it runs when all is over; `None`: it did not say.
    pub version: Option<String>,
}

/// How a run went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Course {
    /// All that was planned was done.
    AsPlanned,
    /// Somebody ended it before its time. What was recorded is judged.
    Interrupted,
    /// It could not go on: a node ended by itself or did not come back, or the end could not be
    /// read. What was recorded is judged.
    Broken(String),
}

impl Summary {
    /// Whether all went as planned and nothing is wrong.
    pub fn is_good(&self) -> bool {
        self.course == Course::AsPlanned && self.verdict.is_good()
    }
}
