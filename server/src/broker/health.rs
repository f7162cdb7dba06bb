//! Whether this node can do its work.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Broker;
use crate::error::Error;

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// How it is.
    pub condition: Condition,
    /// How long it has been running.
    pub uptime: Duration,
}

/// How a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// It serves.
    Healthy,
    /// It can not reach or write its store; why.
    Degraded(String),
    /// It is about to stop.
    Draining,
}

impl Condition {
    /// The word for it in answers.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded(_) => "degraded",
            Self::Draining => "draining",
        }
    }
}

impl Broker {
    /// How this node is.
    pub fn health(&self) -> Health {
        let core = &self.0.core;
        let condition = match (self.is_draining(), core.health.failure()) {
            (true, _) => Condition::Draining,
            (false, Some(failure)) => Condition::Degraded(failure),
            (false, None) => Condition::Healthy,
        };
        Health { condition, uptime: core.started.elapsed() }
    }
}

/// Remembers how the store last did.
#[derive(Debug)]
pub(super) struct Monitor {
    known: Mutex<Option<String>>,
    look: Notify,
}

impl Monitor {
    /// Of a store that, to begin with, can not be used for this reason.
    pub(super) fn new(failure: Option<String>) -> Self {
        Self { known: Mutex::new(failure), look: Notify::new() }
    }

    /// Takes note of what the store answered.
    pub(super) fn watch<T>(&self, answer: Result<T, Error>) -> Result<T, Error> {
        let failure = match &answer {
            Err(
                error @ (Error::Unavailable(_) | Error::OutcomeUnknown(_) | Error::Internal(_)),
            ) => Some(error.to_string()),
            _ => None,
        };
        let mut known = self.known.lock();
        match (&*known, &failure) {
            (None, Some(error)) => {
                tracing::error!(error, "store failed");
                // One connection may be lost, and the next one is good.
                self.look();
            }
            (Some(_), None) => tracing::info!("store works again"),
            _ => {}
        }
        *known = failure;
        answer
    }

    /// It is time to try the store.
    pub(super) fn look(&self) {
        self.look.notify_one();
    }

    /// Waits until it is said that it is time.
    pub(super) async fn is_time(&self) {
        self.look.notified().await;
    }

    pub(super) fn failure(&self) -> Option<String> {
        self.known.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn is_time(monitor: &Monitor) -> bool {
        tokio::time::timeout(std::time::Duration::from_millis(1), monitor.is_time()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_has_failed_is_tried_at_once_and_then_from_time_to_time() {
        let monitor = Monitor::new(None);
        let fail = || monitor.watch::<()>(Err(Error::Unavailable("gone".into()))).is_err();
        assert!(!is_time(&monitor).await);
        assert!(fail());
        assert!(is_time(&monitor).await, "nobody is told for a while that it works again");
        assert!(fail());
        assert!(!is_time(&monitor).await, "it is tried without a pause");
    }
}
