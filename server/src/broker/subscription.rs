//! A pull that goes on as long as its worker has credit.

use std::cmp::Reverse;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::pull::Given;
use super::waiters::Waiter;
use super::{Broker, Pull};
use crate::error::Error;
use crate::job::{Lease, QueueName, WorkerName};
use crate::limits;
use crate::store::{Hold, LeasedJob, SessionId};

/// After a claim failed, the subscription looks again this much later.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// For what is left of its credit, if that is the smaller part of it, a subscription claims this much later,
/// or when half of its credit has come back. Jobs that stand in line together go to one claim so: else the
/// rest of a worker's credit would divide them, and the rest of them the next credit, for ever (as small
/// windows did to TCP: RFC 1122, section 4.2.3.4).
const FOR_MORE_CREDIT: Duration = Duration::from_millis(10);

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
    added: Arc<Notify>,
    _stop: DropGuard,
}

impl Subscription {
    /// Lets the worker have so many jobs more.
    pub fn add_credit(&self, credit: u32) {
        let room = (limits::CREDIT_MAX as usize).saturating_sub(self.credit.available_permits());
        self.credit.add_permits(room.min(credit as usize));
        self.added.notify_waiters();
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
        let added = Arc::new(Notify::new());
        let stop = CancellationToken::new();
        let pull =
            Pull { queue, count: 0, wait: Duration::ZERO, worker, hold: Hold::Session(session) };
        let feed = Feed {
            broker: self.clone(),
            number,
            credit: Arc::clone(&credit),
            added: Arc::clone(&added),
            stop: stop.clone(),
            deliveries,
        };
        tokio::spawn(feed.run(pull));
        Ok(Subscription { credit, added, _stop: stop.drop_guard() })
    }
}

struct Feed {
    broker: Broker,
    number: u64,
    credit: Arc<Semaphore>,
    /// Told when there is more of it.
    added: Arc<Notify>,
    stop: CancellationToken,
    deliveries: mpsc::Sender<Delivery>,
}

impl Feed {
    async fn run(self, pull: Pull) {
        let pulling = self.broker.demand().begin(&pull.queue);
        let mut waiter = self.broker.wait_for(&pull.queue);
        waiter.sit(&pull, &self.credit);
        while !self.is_over() {
            // Before more is claimed, or these would wait as long as there is a backlog.
            while let Some(jobs) = waiter.try_handed_over() {
                self.deliver(jobs).await;
            }
            let credit = self.credit.available_permits();
            let claimed = self.broker.claim(&pull, waiter.claim_open(&self.credit)).await;
            match claimed {
                Ok(None) => {}
                Ok(Some(Given { jobs, has_more })) => {
                    if has_more {
                        waiter.pass_on();
                    }
                    for jobs in in_order(jobs, &mut waiter) {
                        self.deliver(jobs).await;
                    }
                    if has_more {
                        self.rest(&mut waiter, FOR_MORE_CREDIT, Some(credit.div_ceil(2))).await;
                    }
                    continue;
                }
                Err(error) => {
                    tracing::warn!(queue = %pull.queue, %error, "claim failed");
                    self.rest(&mut waiter, AFTER_FAILURE, None).await;
                    continue;
                }
            }
            let has_credit = self.credit.available_permits() > 0;
            if !has_credit {
                waiter.pass_on();
            }
            let credit = async {
                match has_credit {
                    true => std::future::pending().await,
                    // It is closed by nobody.
                    false => drop(pulling.busy(self.credit.acquire()).await),
                }
            };
            tokio::select! {
                jobs = waiter.handed_over_or_open(&self.credit) => {
                    self.deliver(jobs.unwrap_or_default()).await;
                }
                () = credit => {}
                () = self.stop.cancelled() => return,
                () = self.deliveries.closed() => return,
            }
        }
    }

    fn is_over(&self) -> bool {
        self.broker.is_draining() || self.stop.is_cancelled() || self.deliveries.is_closed()
    }

    /// Claims nothing for a while, or until there is so much credit.
    async fn rest(&self, waiter: &mut Waiter, time: Duration, enough: Option<usize>) {
        let mut over = pin!(tokio::time::sleep(time));
        loop {
            let mut added = pin!(self.added.notified());
            // Enlist before looking, or what comes in between would be missed.
            added.as_mut().enable();
            if enough.is_some_and(|enough| self.credit.available_permits() >= enough) {
                return;
            }
            tokio::select! {
                jobs = waiter.handed_over() => self.deliver(jobs).await,
                () = added => {}
                () = &mut over => return,
                () = self.stop.cancelled() => return,
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

/// What was claimed, as it stood in line, and what was handed over meanwhile, of which some may have
/// been pushed before.
fn in_order(claimed: Vec<LeasedJob>, waiter: &mut Waiter) -> Vec<Vec<LeasedJob>> {
    let mut handed_over: Vec<LeasedJob> =
        std::iter::from_fn(|| waiter.try_handed_over()).flatten().collect();
    if handed_over.is_empty() {
        return vec![claimed];
    }
    let rank = |job: &LeasedJob| (Reverse(job.priority), job.lease.job);
    handed_over.sort_by_key(rank);
    let mut handed_over = handed_over.into_iter().peekable();
    let mut jobs = Vec::with_capacity(claimed.len() + handed_over.len());
    for job in claimed {
        while let Some(before) = handed_over.next_if(|other| rank(other) < rank(&job)) {
            jobs.push(before);
        }
        jobs.push(job);
    }
    jobs.extend(handed_over);
    let (mut deliveries, mut bytes) = (vec![Vec::new()], 0);
    for job in jobs {
        bytes += job.payload.bytes.len();
        let has_room = |jobs: &&mut Vec<LeasedJob>| {
            jobs.is_empty() || (jobs.len() < limits::BATCH_MAX && bytes <= limits::ANSWER_BYTES_MAX)
        };
        match deliveries.last_mut().filter(has_room) {
            Some(jobs) => jobs.push(job),
            None => {
                bytes = job.payload.bytes.len();
                deliveries.push(vec![job]);
            }
        }
    }
    deliveries
}
