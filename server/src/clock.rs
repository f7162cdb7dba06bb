//! The time of day, for leases and schedules of stores that have no clock of their own.
//!
//! Waiting is `tokio::time`'s business, not this module's.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::job::Timestamp;

/// What tells the time of day.
pub trait Clock: Send + Sync + 'static {
    /// Now. Never less than an earlier answer of the same clock.
    fn now(&self) -> Timestamp;
}

/// The machine's time of day when the clock was made, and from there on the monotonic clock.
///
/// A jump of the machine's time of day while the node runs thus expires no lease. The price: a
/// correction of the time of day is seen at the next start only, as is time spent suspended.
#[derive(Debug)]
pub struct SystemClock {
    started_at: Timestamp,
    started: Instant,
}

impl SystemClock {
    /// A clock that begins at the machine's time of day.
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn start() -> Arc<Self> {
        let since_epoch = std::time::SystemTime::now()
            .duration_since(std::time::SystemTime::UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        Arc::new(Self { started_at: Timestamp(0) + since_epoch, started: Instant::now() })
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        self.started_at + self.started.elapsed()
    }
}

/// The time of a database, as it was last told, and from there on the monotonic clock.
///
/// For what a node says and when it wakes; what is due is decided by the database itself. The
/// machine's time of day plays no part in it.
#[derive(Debug)]
pub struct DatabaseClock(Mutex<Told>);

#[derive(Debug)]
struct Told {
    at: Timestamp,
    heard: Instant,
    /// What was answered last.
    latest: Timestamp,
}

impl DatabaseClock {
    /// A clock that has been told nothing yet, and stands at 1970.
    pub fn unset() -> Arc<Self> {
        let (at, latest) = (Timestamp(0), Timestamp(0));
        Arc::new(Self(Mutex::new(Told { at, heard: Instant::now(), latest })))
    }

    /// It is `now` in the database.
    pub fn set(&self, now: Timestamp) {
        let mut told = self.0.lock();
        told.at = now;
        told.heard = Instant::now();
    }
}

impl Clock for DatabaseClock {
    fn now(&self) -> Timestamp {
        let mut told = self.0.lock();
        told.latest = told.latest.max(told.at + told.heard.elapsed());
        told.latest
    }
}

/// A clock that stands still until it is moved, for tests.
#[derive(Debug)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// A clock that stands at some moment of 2026.
    pub fn new() -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(1_790_000_000_000)))
    }

    /// Moves it on.
    pub fn advance(&self, by: Duration) {
        let millis = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.0.fetch_add(millis, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}
