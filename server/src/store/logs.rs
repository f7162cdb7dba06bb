//! What workers write into the logs of their jobs: the part that all stores share.
//!
//! A log is not of a lease but of its job, in every state, and is seen for as long as anything is
//! known of the job. How jobs go must cost nothing for those that have no log: so a line may outlive
//! its job, unseen, until it is swept away. A sweep is a part of [`Duty::Retention`]; it walks along
//! all lines, some thousand at a time, with pauses, and begins anew when it is through.
//!
//! [`Duty::Retention`]: super::Duty::Retention

use std::time::Duration;

use bytes::Bytes;

use super::DUTY_ROWS_MAX;
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

/// Lines that one part of a sweep looks at: some 10 ms of work.
pub(super) const SWEPT_MAX: usize = 2_000;

/// How long a sweep rests between two parts.
const REST: Duration = Duration::from_secs(1);

/// What a part of a sweep has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Swept {
    /// Lines that were looked at.
    pub(super) seen: usize,
    /// Those of them whose jobs are gone, and which are deleted.
    pub(super) gone: usize,
}

impl Swept {
    /// When the sweep goes on. `None`: it is through.
    pub(super) fn next(self) -> Option<Duration> {
        match self {
            Self { seen, .. } if seen < SWEPT_MAX => None,
            // Where so many were gone, more will be.
            Self { gone, .. } if gone >= DUTY_ROWS_MAX => Some(Duration::ZERO),
            _ => Some(REST),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_hurries_only_where_there_is_much_to_delete() {
        let next = |seen, gone| Swept { seen, gone }.next();
        assert_eq!(next(SWEPT_MAX - 1, SWEPT_MAX - 1), None);
        assert_eq!(next(SWEPT_MAX, DUTY_ROWS_MAX), Some(Duration::ZERO));
        assert_eq!(next(SWEPT_MAX, DUTY_ROWS_MAX - 1), Some(REST));
    }
}
