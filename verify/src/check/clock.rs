//! Two clocks: that of the calls, and the database's.

use crate::history::End;

/// How the clock of the calls is turned into the database's, never better than is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    offset_ms: i64,
    error_ms: i64,
}

impl Clock {
    pub(super) fn of(end: &End) -> Self {
        Self { offset_ms: end.database_offset_ms, error_ms: end.offset_error_ms }
    }

    /// What the database's clock showed then, or more.
    pub(super) fn at_least_ms(self, ns: u64) -> i64 {
        millis(ns) + self.offset_ms - self.error_ms
    }

    /// What the database's clock showed then, or less.
    pub(super) fn at_most_ms(self, ns: u64) -> i64 {
        millis(ns) + 1 + self.offset_ms + self.error_ms
    }
}

fn millis(ns: u64) -> i64 {
    i64::try_from(ns / 1_000_000).expect("a u64 of nanoseconds is 584 years")
}
