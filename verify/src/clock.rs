//! The one clock of a run: monotonic, and handed to all who write records.

use std::time::Duration;

use tokio::time::Instant;

/// Counts from the start of a run. All copies of it tell the same time.
#[derive(Debug, Clone, Copy)]
pub struct RunClock {
    started: Instant,
}

impl RunClock {
    /// A clock that shows zero now.
    #[expect(clippy::new_without_default, reason = "two of them would not tell the same time")]
    pub fn new() -> Self {
        Self { started: Instant::now() }
    }

    /// Nanoseconds since the start.
    pub fn now_ns(self) -> u64 {
        self.at_ns(Instant::now())
    }

    /// The nanosecond of a moment; 0 if it was before the start.
    pub fn at_ns(self, moment: Instant) -> u64 {
        let since = moment.saturating_duration_since(self.started).as_nanos();
        u64::try_from(since).unwrap_or(u64::MAX)
    }

    /// The moment of a time since the start.
    pub fn moment(self, since: Duration) -> Instant {
        self.started + since
    }
}
