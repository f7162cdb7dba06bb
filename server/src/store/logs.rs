//! What workers write into the logs of their jobs: the part that all stores share.
//!
//! A log is not of a lease but of its job, in every state, and is seen for as long as anything is
//! known of the job. How jobs go must cost nothing for those that have no log: so a line may outlive
//! its job, unseen, until it is [swept](super::sweep) away.

use bytes::Bytes;

use crate::job::Timestamp;

/// A line of a job's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// When it was written.
    pub at: Timestamp,
    /// How much it matters, in a word: `info`.
    pub level: String,
    /// For people; already cut.
    pub message: String,
}

/// A line as a store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredLine {
    /// When it was written.
    pub at: Timestamp,
    /// How much it matters, in a word.
    pub level: String,
    /// The message, perhaps sealed.
    pub message: Bytes,
}
