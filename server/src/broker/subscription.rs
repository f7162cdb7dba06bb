//! A pull that goes on as long as its worker has credit.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::waiters::Waiter;
use super::{Broker, Pull};
use crate::error::Error;
use crate::job::{Lease, QueueName, WorkerName};
use crate::limits;
use crate::store::{Hold, LeasedJob, SessionId};

/// After a claim failed, the subscription looks again this much later.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Jobs for one subscription.
#[derive(Debug)]
pub struct Delivery {
    /// Which of the connection's subscriptions.
    pub subscription: u64,
    /// At least one.
    pub jobs: Vec<LeasedJob>,
}

/// A running subscription. It ends when this is dropped; jobs on their way are released.
#[derive(Debug)]
pub struct Subscription {
    credit: Arc<Semaphore>,
    _stop: DropGuard,
}

impl Subscription {
    /// Lets the worker have so many jobs more.
    pub fn add_credit(&self, credit: u32) {
        let room = (limits::CREDIT_MAX as usize).saturating_sub(self.credit.available_permits());
        self.credit.add_permits(room.min(credit as usize));
    }
}

impl Broker {
    /// Sends ready jobs to `deliveries` as long as there is credit: each job uses one.
    ///
    /// `number` names the subscription in its deliveries. A receiver that is closed ends the
    /// subscription; what it has not taken must be [taken back](Broker::take_back) by its owner.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] if the queue is encrypted and this node has no key.
    pub fn subscribe(
        &self,
        number: u64,
        queue: QueueName,
        worker: WorkerName,
        session: SessionId,
        deliveries: mpsc::Sender<Delivery>,
    ) -> Result<Subscription, Error> {
        self.0.core.sealing.check_key(&queue)?;
        let credit = Arc::new(Semaphore::new(0));
        let stop = CancellationToken::new();
        let pull =
            Pull { queue, count: 0, wait: Duration::ZERO, worker, hold: Hold::Session(session) };
        let feed = Feed {
            broker: self.clone(),
            number,
            credit: Arc::clone(&credit),
            stop: stop.clone(),
            deliveries,
        };
        tokio::spawn(feed.run(pull));
        Ok(Subscription { credit, _stop: stop.drop_guard() })
    }
}

struct Feed {
    broker: Broker,
    number: u64,
    credit: Arc<Semaphore>,
    stop: CancellationToken,
    deliveries: mpsc::Sender<Delivery>,
}

impl Feed {
    async fn run(self, mut pull: Pull) {
        let pulling = self.broker.demand().begin(&pull.queue);
        let (mut waiter, bell) = self.broker.wait_for(&pull.queue);
        waiter.sit(&pull, &self.credit);
        while !self.is_over() {
            // Before more is claimed, or these would wait as long as there is a backlog.
            while let Some(jobs) = waiter.try_handed_over() {
                self.deliver(jobs).await;
            }
            let has_credit = self.credit.available_permits() > 0;
            let mut rung = pin!(bell.rung());
            if has_credit {
                // Without credit it would be woken in place of somebody who has some.
                rung.as_mut().enable();
            }
            if has_credit && !waiter.is_clear() {
                self.claim(&mut pull, &mut waiter).await;
                continue;
            }
            let credit = async {
                match has_credit {
                    true => std::future::pending().await,
                    // It is closed by nobody.
                    false => drop(pulling.busy(self.credit.acquire()).await),
                }
            };
            tokio::select! {
                jobs = waiter.handed_over() => self.deliver(jobs).await,
                () = credit => {}
                () = rung, if has_credit => {}
                () = self.stop.cancelled() => return,
                () = self.deliveries.closed() => return,
            }
        }
    }

    fn is_over(&self) -> bool {
        self.broker.is_draining() || self.stop.is_cancelled() || self.deliveries.is_closed()
    }

    /// Claims as many as there is credit for, up to a batch.
    async fn claim(&self, pull: &mut Pull, waiter: &mut Waiter) {
        let rings = waiter.rings();
        pull.count = self.credit.forget_permits(limits::BATCH_MAX);
        if pull.count == 0 {
            return;
        }
        let claimed = self.broker.claim(pull).await;
        let jobs = claimed.as_ref().map_or(0, Vec::len);
        self.credit.add_permits(pull.count - jobs);
        match claimed {
            Ok(jobs) => {
                if jobs.len() < pull.count {
                    waiter.came_short(rings);
                }
                self.deliver(jobs).await;
            }
            Err(error) => {
                tracing::warn!(queue = %pull.queue, %error, "claim failed");
                tokio::time::sleep(AFTER_FAILURE).await;
            }
        }
    }

    async fn deliver(&self, jobs: Vec<LeasedJob>) {
        if jobs.is_empty() {
            return;
        }
        let delivery = Delivery { subscription: self.number, jobs };
        let undelivered = tokio::select! {
            biased;
            () = self.stop.cancelled() => delivery.jobs,
            permit = self.deliveries.reserve() => match permit {
                Ok(permit) => return permit.send(delivery),
                Err(_) => delivery.jobs,
            },
        };
        let leases: Vec<Lease> = undelivered.into_iter().map(|job| job.lease).collect();
        self.broker.take_back(leases);
    }
}
