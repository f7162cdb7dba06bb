//! Sweeps: what is left of jobs that are gone is looked for, and deleted: the part that all stores share.
//!
//! It is for what is cheaper to find later than to delete with its job. Nobody sees it meanwhile. A
//! sweep is a part of [`Duty::Retention`]; it walks along all rows of a table, some thousand at a
//! time, with pauses, and begins anew when it is through.
//!
//! [`Duty::Retention`]: super::Duty::Retention

use std::time::Duration;

use super::DUTY_ROWS_MAX;

/// Rows that one part of a sweep looks at: some 10 ms of work.
pub(super) const SWEPT_MAX: usize = 2_000;

/// How long a sweep rests between two parts.
const REST: Duration = Duration::from_secs(1);

/// What a part of a sweep has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Swept {
    /// Rows that were looked at.
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
