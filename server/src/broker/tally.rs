//! What all nodes together have done.
//!
//! Each node counts for itself ([`crate::metrics`]). Every [`ADD_EVERY`] it adds what is new to sums
//! that all nodes share: values by key that are batonq's own. So each node tells the same, and what a
//! node has done stays when it goes. A node on which nothing happens asks for nothing.
//!
//! The sums drive nothing. A node that is killed takes the counts of its last seconds along, and where
//! the store does not say whether it has added something, that is not added again: a sum may lack a
//! little, and never has too much.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::{Broker, Core, Loop};
use crate::error::Error;
use crate::job::KvKey;
use crate::metrics::{Counted, WINDOW};
use crate::store::KvValue;
use crate::store::events::INTERNAL;

/// How often a node adds what it has done: by how much the sums of two nodes may differ.
const ADD_EVERY: Duration = Duration::from_secs(5);

/// How long a node that stops may take for the last time.
const LAST_MAX: Duration = Duration::from_secs(1);

/// Acks are summed up by spans of this length as well, to tell how many there are lately.
const SPAN: Duration = Duration::from_secs(10);

/// So many spans are lately.
const SPANS: i64 = (WINDOW.as_millis() / SPAN.as_millis()) as i64;

/// How long the sum of a span is kept.
const SPAN_KEPT: Duration = Duration::from_secs(2 * WINDOW.as_secs());

/// What is summed up.
const SUMMED: [(Counted, &str); 3] =
    [(Counted::Pushed, "pushed"), (Counted::Acked, "acked"), (Counted::Failed, "failed")];

/// What all nodes together have done, as far as this one knows.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Done {
    /// Jobs that were pushed.
    pub pushed: u64,
    /// Jobs that were acked.
    pub acked: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Acks in a second, on average over the last minute.
    pub acked_per_second: f64,
}

/// How much of what this node has done is in the sums, in the order of [`SUMMED`].
#[derive(Debug, Default)]
pub(super) struct Tally(Mutex<[u64; SUMMED.len()]>);

impl Broker {
    /// What all nodes together have done since their store was made.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub async fn done(&self) -> Result<Done, Error> {
        let core = &self.0.core;
        let now = core.clock.now().0;
        let first = span_at(now) - (SPANS - 1);
        let mut keys = SUMMED.map(|(_, name)| sum_of(name)).to_vec();
        keys.extend((first..first + SPANS).map(|span| sum_of(&format!("acked.{span}"))));
        let keys: Vec<KvKey> =
            keys.iter().map(|key| KvKey::parse(key)).collect::<Result<_, _>>()?;
        // Before the sums are read: what is added meanwhile is missing, not counted twice.
        let own = core.unadded();
        let found = core.store.kv_get(keys, usize::MAX).await?.unwrap_or_default();
        let sums: Vec<u64> = found.iter().map(number).collect();
        let (totals, spans) = sums.split_at(SUMMED.len().min(sums.len()));
        let total = |place: usize| totals.get(place).copied().unwrap_or_default() + own[place];
        let lately = spans.iter().sum::<u64>() + own[1];
        let seconds = (now - first * span_ms()) as f64 / 1000.0;
        Ok(Done {
            pushed: total(0),
            acked: total(1),
            failed: total(2),
            acked_per_second: lately as f64 / seconds.max(1.0),
        })
    }
}

impl Core {
    /// What this node has done and has yet to add.
    fn unadded(&self) -> [u64; SUMMED.len()] {
        let added = *self.tally.0.lock();
        std::array::from_fn(|place| {
            self.metrics.total(SUMMED[place].0).saturating_sub(added[place])
        })
    }

    /// Adds what is new to the sums.
    async fn add_done(&self) {
        let span = span_at(self.clock.now().0);
        for (place, count) in self.unadded().into_iter().enumerate().filter(|(_, count)| *count > 0)
        {
            let (what, name) = SUMMED[place];
            // If nobody knows whether it is there now, it is taken to be.
            self.tally.0.lock()[place] += count;
            match self.add(name, count).await {
                Ok(()) if what == Counted::Acked => {
                    let name = format!("acked.{span}");
                    let added = self.add(&name, count).await;
                    added.unwrap_or_else(|error| tracing::debug!(%error, "acks were not added"));
                    self.keep(&name).await;
                }
                Ok(()) => {}
                Err(Error::OutcomeUnknown(_)) => {}
                Err(error) => {
                    tracing::debug!(%error, "what was done will be added later");
                    self.tally.0.lock()[place] -= count;
                }
            }
        }
    }

    async fn add(&self, name: &str, count: u64) -> Result<(), Error> {
        let by = i64::try_from(count).unwrap_or(i64::MAX);
        // What stands there is a number of ours: there is nothing to be said of it.
        self.store.kv_add(KvKey::parse(&sum_of(name))?, by).await.map(drop)
    }

    /// The sum of a span goes when its time is over.
    async fn keep(&self, name: &str) {
        let Ok(key) = KvKey::parse(&sum_of(name)) else { return };
        if let Err(error) = self.store.kv_expire(key, SPAN_KEPT).await {
            tracing::debug!(%error, "the sum of a span stays until it is added to again");
        }
    }
}

/// Adds what this node does to what all do, as long as it runs.
pub(super) fn share(core: Arc<Core>, stop: CancellationToken) -> Loop {
    Box::pin(async move {
        while stop.run_until_cancelled(tokio::time::sleep(ADD_EVERY)).await.is_some() {
            core.add_done().await;
        }
        let last = tokio::time::timeout(LAST_MAX, core.add_done()).await;
        tracing::debug!(is_done = last.is_ok(), "what was done last was added");
    })
}

fn sum_of(name: &str) -> String {
    format!("{INTERNAL}done.{name}")
}

fn span_ms() -> i64 {
    i64::try_from(SPAN.as_millis()).unwrap_or(i64::MAX)
}

/// The number of the span that a time is in.
fn span_at(now_ms: i64) -> i64 {
    now_ms.div_euclid(span_ms())
}

fn number(value: &Option<KvValue>) -> u64 {
    let text = value.as_ref().and_then(|value| str::from_utf8(&value.value).ok());
    text.and_then(|text| text.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::Patience;
    use super::*;
    use crate::clock::ManualClock;
    use crate::cluster::Demand;
    use crate::secrets::Keyring;
    use crate::store::Retention;
    use crate::store::memory::MemoryStore;

    /// Two nodes on one store.
    fn nodes() -> ([Broker; 2], Arc<ManualClock>) {
        let clock = ManualClock::new();
        let store = Arc::new(MemoryStore::new("n", clock.clone(), Retention::default()));
        let node = || {
            let (patience, stop) = (Patience::default(), CancellationToken::new());
            let (demand, keys) = (Demand::default(), Keyring::default());
            Broker::new(store.clone(), clock.clone(), patience, demand, keys, &stop).0
        };
        ([node(), node()], clock)
    }

    #[tokio::test]
    async fn each_node_tells_what_all_have_done() {
        let ([one, other], _) = nodes();
        one.metrics().count(Counted::Pushed, 3);
        other.metrics().count(Counted::Acked, 2);
        other.metrics().count(Counted::Failed, 1);
        assert_eq!((one.done().await.unwrap().pushed, other.done().await.unwrap().pushed), (3, 0));
        for node in [&one, &other, &one] {
            node.0.core.add_done().await;
        }
        for node in [&one, &other] {
            let done = node.done().await.unwrap();
            assert_eq!((done.pushed, done.acked, done.failed), (3, 2, 1));
        }
        one.metrics().count(Counted::Acked, 4);
        one.0.core.add_done().await;
        assert_eq!(other.done().await.unwrap().acked, 6);
    }

    #[tokio::test]
    async fn acks_of_more_than_a_minute_ago_are_in_the_sum_and_not_in_the_rate() {
        let ([node, _], clock) = nodes();
        let per_second = async || node.done().await.unwrap().acked_per_second;
        node.metrics().count(Counted::Acked, 60);
        let before = per_second().await;
        assert!((1.0..=1.2).contains(&before), "{before}");
        node.0.core.add_done().await;
        assert!((per_second().await - before).abs() < f64::EPSILON);
        clock.advance(WINDOW);
        assert!(per_second().await.abs() < f64::EPSILON);
        assert_eq!(node.done().await.unwrap().acked, 60);
    }
}
