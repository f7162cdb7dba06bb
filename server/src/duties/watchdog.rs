//! Looks after the duties: one that is stuck costs the leader its office.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Chore;
use crate::leader::Leadership;

/// A part that takes longer is stuck: it touches a bounded number of rows.
const PART_MAX: Duration = Duration::from_secs(20);

/// A duty that has failed for so long does not get better by trying.
const FAILING_MAX: Duration = Duration::from_secs(30);

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Knows since when each duty is at it, and since when it fails.
#[derive(Debug, Default)]
pub(crate) struct Watchdog(Mutex<HashMap<Chore, Watch>>);

#[derive(Debug, Default, Clone, Copy)]
struct Watch {
    at_work_since: Option<Instant>,
    failing_since: Option<Instant>,
}

impl Watchdog {
    /// A part begins.
    pub(crate) fn begin(&self, chore: Chore) {
        self.0.lock().entry(chore).or_default().at_work_since = Some(Instant::now());
    }

    /// A part has ended.
    pub(crate) fn end(&self, chore: Chore, is_good: bool) {
        let mut watches = self.0.lock();
        let watch = watches.entry(chore).or_default();
        watch.at_work_since = None;
        watch.failing_since = match is_good {
            true => None,
            false => watch.failing_since.or(Some(Instant::now())),
        };
    }

    /// The term is over.
    pub(crate) fn rest(&self, chore: Chore) {
        self.0.lock().remove(&chore);
    }

    /// Which duty is stuck, and how.
    fn stuck(&self) -> Option<String> {
        let is_over = |since: Option<Instant>, most: Duration| {
            since.is_some_and(|since| since.elapsed() > most)
        };
        self.0.lock().iter().find_map(|(chore, watch)| {
            let name = chore.name();
            if is_over(watch.at_work_since, PART_MAX) {
                return Some(format!("the duty {name} is stuck"));
            }
            is_over(watch.failing_since, FAILING_MAX).then(|| format!("the duty {name} fails"))
        })
    }

    /// Looks until `stop`.
    pub(crate) async fn run(&self, leadership: Leadership, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = stop.cancelled() => return,
            }
            if let (Some(_), Some(reason)) = (leadership.term(), self.stuck()) {
                tracing::error!(reason, "a duty is not done");
                leadership.resign(reason);
                // One complaint is enough for one term.
                self.0.lock().clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn seconds(count: u64) {
        tokio::time::advance(Duration::from_secs(count)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_takes_too_long_is_stuck() {
        let watchdog = Watchdog::default();
        watchdog.begin(Chore::Nodes);
        seconds(20).await;
        assert_eq!(watchdog.stuck(), None);
        seconds(1).await;
        assert_eq!(watchdog.stuck().unwrap(), "the duty nodes is stuck");
        watchdog.end(Chore::Nodes, true);
        assert_eq!(watchdog.stuck(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_duty_that_fails_for_too_long_is_stuck_and_a_success_forgives_it() {
        let watchdog = Watchdog::default();
        for _ in 0..31 {
            watchdog.begin(Chore::Nodes);
            watchdog.end(Chore::Nodes, false);
            seconds(1).await;
        }
        assert_eq!(watchdog.stuck().unwrap(), "the duty nodes fails");
        watchdog.end(Chore::Nodes, true);
        assert_eq!(watchdog.stuck(), None);
    }
}
