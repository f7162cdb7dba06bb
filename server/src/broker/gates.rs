//! Queues whose jobs may not all start now, as claims have found, and when that may change.
//!
//! A claim that leaves jobs behind their gates says so. From then on everything that may open a
//! gate wakes one of those who wait for the queue: the end of a lease, a claim that was served in
//! full, and the time at which a rate gives out the next job.

use std::collections::HashMap;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::job::QueueName;

/// The queues that are known to have limits.
#[derive(Debug, Default)]
pub(super) struct Gates {
    closed: Mutex<HashMap<QueueName, Option<Instant>>>,
    earlier: Notify,
}

impl Gates {
    /// A claim has left jobs behind; `until`: when one of them may start by itself.
    pub(super) fn close(&self, queue: &QueueName, until: Option<Instant>) {
        self.closed.lock().insert(queue.clone(), until);
        if until.is_some() {
            self.earlier.notify_one();
        }
    }

    /// A claim has found nothing left behind.
    pub(super) fn open(&self, queue: &QueueName) {
        let mut closed = self.closed.lock();
        if !closed.is_empty() {
            closed.remove(queue);
        }
    }

    /// Whether the queue has limits, as far as is known.
    pub(super) fn is_known(&self, queue: &QueueName) -> bool {
        let closed = self.closed.lock();
        !closed.is_empty() && closed.contains_key(queue)
    }

    /// Waits until queues may be asked again, and says which.
    pub(super) async fn due(&self) -> Vec<QueueName> {
        loop {
            let next = self.closed.lock().values().flatten().min().copied();
            let time = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = time => return self.take_due(),
                () = self.earlier.notified() => {}
            }
        }
    }

    fn take_due(&self) -> Vec<QueueName> {
        let now = Instant::now();
        let mut due = Vec::new();
        for (queue, until) in self.closed.lock().iter_mut() {
            if until.take_if(|at| *at <= now).is_some() {
                due.push(queue.clone());
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn queue(name: &str) -> QueueName {
        QueueName::parse(name).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_is_due_once_when_its_time_has_come() {
        let gates = Gates::default();
        let started = Instant::now();
        let after = |millis| Some(started + Duration::from_millis(millis));
        gates.close(&queue("later"), after(50));
        gates.close(&queue("full"), None);
        gates.close(&queue("soon"), after(20));
        assert_eq!(gates.due().await, [queue("soon")]);
        assert_eq!(gates.due().await, [queue("later")]);
        assert_eq!(started.elapsed(), Duration::from_millis(50));
        assert!(gates.is_known(&queue("soon")) && gates.is_known(&queue("full")));
        gates.open(&queue("soon"));
        assert!(!gates.is_known(&queue("soon")));
    }
}
