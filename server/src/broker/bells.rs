//! What wakes those who wait: one bell for each thing that somebody waits for.
//!
//! A waiter enlists *before* it looks, so that what happens between looking and waiting rings for
//! it. A bell exists only while somebody has it; ringing where nobody waits costs a look-up.

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use dashmap::DashMap;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// The bells of one kind of thing.
pub(super) struct Bells<K: Eq + Hash> {
    bells: Arc<DashMap<K, Arc<Notify>>>,
}

impl<K: Eq + Hash> Default for Bells<K> {
    fn default() -> Self {
        Self { bells: Arc::default() }
    }
}

impl<K: Eq + Hash> fmt::Debug for Bells<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bells").field("count", &self.bells.len()).finish()
    }
}

impl<K: Eq + Hash + Clone> Bells<K> {
    /// The bell for `key`.
    pub(super) fn bell(&self, key: &K) -> Bell<K> {
        let notify = Arc::clone(self.bells.entry(key.clone()).or_default().value());
        Bell { notify: Some(notify), key: key.clone(), bells: Arc::clone(&self.bells) }
    }

    /// Wakes `count` of those who wait for `key`, those first who have waited longest.
    pub(super) fn ring(&self, key: &K, count: usize) {
        if let Some(notify) = self.bells.get(key) {
            // One of the handles is the map's own.
            let waiters = Arc::strong_count(&notify).saturating_sub(1);
            (0..count.min(waiters)).for_each(|_| notify.notify_one());
        }
    }

    /// Wakes all who wait for `key`.
    pub(super) fn ring_all(&self, key: &K) {
        self.ring(key, usize::MAX);
    }

    /// What is waited for.
    pub(super) fn waited_for(&self) -> Vec<K> {
        self.bells.iter().map(|bell| bell.key().clone()).collect()
    }

    /// Wakes everybody.
    pub(super) fn ring_everywhere(&self) {
        for notify in self.bells.iter() {
            (1..Arc::strong_count(&notify)).for_each(|_| notify.notify_one());
        }
    }
}

/// A place in the line of those who wait for one thing.
pub(super) struct Bell<K: Eq + Hash> {
    /// `None` only while it is dropped.
    notify: Option<Arc<Notify>>,
    key: K,
    bells: Arc<DashMap<K, Arc<Notify>>>,
}

impl<K: Eq + Hash> Bell<K> {
    /// Joins the line. To be pinned and `enable`d before looking; then awaited.
    ///
    /// # Cancel safety
    ///
    /// A ring that reached a dropped future is passed on to the next in line.
    pub(super) fn rung(&self) -> Notified<'_> {
        self.notify.as_ref().expect("it is not being dropped").notified()
    }
}

impl<K: Eq + Hash> Drop for Bell<K> {
    fn drop(&mut self) {
        // This handle goes first, so that of two that are dropped at once one sees that the map's
        // is the last. Nobody can get another while the entry is locked.
        drop(self.notify.take());
        self.bells.remove_if(&self.key, |_, notify| Arc::strong_count(notify) == 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;

    #[tokio::test]
    async fn a_ring_after_enlisting_is_not_missed() {
        let bells = Bells::<&str>::default();
        let bell = bells.bell(&"q");
        let mut rung = pin!(bell.rung());
        rung.as_mut().enable();
        bells.ring(&"q", 1);
        rung.await;
    }

    #[tokio::test]
    async fn a_ring_that_reached_nobody_is_passed_on() {
        let bells = Bells::<&str>::default();
        let (first, second) = (bells.bell(&"q"), bells.bell(&"q"));
        let mut rung = pin!(second.rung());
        {
            let mut gone = pin!(first.rung());
            gone.as_mut().enable();
            rung.as_mut().enable();
            bells.ring(&"q", 1);
        }
        rung.await;
    }

    #[test]
    fn bells_that_nobody_has_are_gone() {
        let bells = Bells::<&str>::default();
        let (first, second) = (bells.bell(&"q"), bells.bell(&"q"));
        drop(first);
        assert_eq!(bells.bells.len(), 1);
        drop(second);
        assert_eq!(bells.bells.len(), 0);
    }
}
