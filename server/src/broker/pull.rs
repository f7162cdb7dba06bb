//! Giving jobs out, at once or after a wait.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::waiters::Claiming;
use super::{Broker, Core, Loop};
use crate::error::Error;
use crate::group_commit::{Budget, Committer};
use crate::job::{Lease, QueueName, WorkerName};
use crate::limits;
use crate::metrics::{Counted, Timed};
use crate::store::{Claim, Claimed, Duty, Hold, LeasedJob, SESSION_LEASE, Settlement, Verdict};

/// A wish for jobs, and the patience for it.
#[derive(Debug, Clone)]
pub struct Pull {
    /// Where from.
    pub queue: QueueName,
    /// At most so many. Of subscriptions 0: their credit says it.
    pub count: usize,
    /// How long to wait for a first one.
    pub wait: Duration,
    /// Who asks.
    pub worker: WorkerName,
    /// What keeps the leases alive.
    pub hold: Hold,
}

impl Pull {
    /// With how many of so many jobs it is [content](Claim::enough). Who asks once and gets fewer than that
    /// takes it that there are no more.
    fn enough(&self, count: usize) -> usize {
        let goes_on = self.count == 0;
        if goes_on { count.div_ceil(2) } else { count }
    }
}

/// What a claim got.
#[derive(Debug, Default)]
pub(super) struct Given {
    pub(super) jobs: Vec<LeasedJob>,
    /// It got less than it asked for although more may be ready.
    pub(super) has_more: bool,
}

impl Broker {
    /// Leases jobs. Empty: nothing came up in time, or the node has begun to drain.
    ///
    /// # Cancel safety
    ///
    /// Jobs that were leased for a dropped future are released.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] if the node drains, [`Error::Overloaded`], or those of the store.
    pub async fn pull(&self, pull: Pull) -> Result<Vec<LeasedJob>, Error> {
        Self::check_public(&pull.queue)?;
        if self.is_draining() {
            return Err(Error::Unavailable("the node is about to stop: pull elsewhere".into()));
        }
        let deadline = Instant::now() + pull.wait;
        let _pulling = self.demand().begin(&pull.queue);
        let mut waiter = self.wait_for(&pull.queue);
        let credit = Arc::new(Semaphore::new(pull.count));
        let mut has_claimed = false;
        loop {
            if self.is_draining() {
                return Ok(Vec::new());
            }
            let claiming = match has_claimed {
                // There may be what nobody has told.
                false => waiter.claim(&credit),
                true => waiter.claim_open(&credit),
            };
            has_claimed = true;
            let jobs = self.claim(&pull, claiming).await?.unwrap_or_default().jobs;
            if !jobs.is_empty() || Instant::now() >= deadline {
                return Ok(jobs);
            }
            let _waiting = self.metrics().waits();
            waiter.sit(&pull, &credit);
            let handed_over = tokio::select! {
                jobs = waiter.handed_over_or_open(&credit) => jobs,
                () = tokio::time::sleep_until(deadline) => None,
            };
            waiter.stand_up();
            // Until just now it could be handed some.
            let jobs = handed_over.or_else(|| waiter.try_handed_over()).unwrap_or_default();
            if !jobs.is_empty() || Instant::now() >= deadline {
                return Ok(jobs);
            }
        }
    }

    /// Leases jobs that are ready now. `None`: there is nothing to claim.
    pub(super) async fn claim(
        &self,
        pull: &Pull,
        claiming: Option<Claiming<'_>>,
    ) -> Result<Option<Given>, Error> {
        let Some(mut claiming) = claiming else { return Ok(None) };
        let claimed = self.claim_readable(pull, &mut claiming).await;
        match &claimed {
            Ok(given) => claiming.uses(given.jobs.len()),
            Err(_) => claiming.fail(),
        }
        claimed.map(Some)
    }

    async fn claim_readable(
        &self,
        pull: &Pull,
        claiming: &mut Claiming<'_>,
    ) -> Result<Given, Error> {
        let core = &self.0.core;
        let encrypted = core.encrypted().await?;
        core.sealing.check_key(&pull.queue)?;
        loop {
            let started = Instant::now();
            let claim = Claim {
                queue: pull.queue.clone(),
                count: claiming.count(),
                enough: pull.enough(claiming.count()),
                bytes_max: limits::ANSWER_BYTES_MAX,
                worker: pull.worker.clone(),
                hold: pull.hold,
            };
            let claimed = self.0.claims.submit(vec![claim], 0).await?;
            let given = claimed.into_iter().next().unwrap_or_default();
            claiming.end(&given);
            if given.jobs.is_empty() {
                return Ok(given);
            }
            self.metrics().time(Timed::Claim, started.elapsed());
            // Nothing is awaited from here on, or the jobs would be forgotten with this future.
            let jobs = core.open_leased(&encrypted, &pull.queue, given.jobs);
            if !jobs.is_empty() {
                return Ok(Given { jobs, ..given });
            }
        }
    }

    /// Gives jobs back that could not be handed over. They are not charged for it.
    pub fn take_back(&self, leases: Vec<Lease>) {
        if !leases.is_empty() {
            tokio::spawn(take_back(Arc::clone(&self.0.core), leases));
        }
    }
}

pub(super) async fn take_back(core: Arc<Core>, leases: Vec<Lease>) {
    let release = |lease| Settlement { lease, verdict: Verdict::Release };
    end(core, leases.into_iter().map(release).collect()).await;
}

/// Ends leases that their workers have not come to know of.
pub(super) async fn end(core: Arc<Core>, settlements: Vec<Settlement>) {
    match core.store.settle(settlements).await {
        Ok(all) => core.announce(super::settle::effects(&all)),
        // Their leases will run out.
        Err(error) => tracing::warn!(%error, "jobs could not be taken back"),
    }
}

pub(super) fn committer(core: &Arc<Core>, budget: Budget) -> (Committer<Claim, Given>, Loop) {
    let abandoning = Arc::clone(core);
    let abandoned = move |given: Vec<Given>| {
        let jobs = given.into_iter().flat_map(|given| given.jobs);
        let leases: Vec<Lease> = jobs.map(|job| job.lease).collect();
        if !leases.is_empty() {
            tokio::spawn(take_back(Arc::clone(&abandoning), leases));
        }
    };
    let core = Arc::clone(core);
    let commit = move |claims: Vec<Claim>| {
        let core = Arc::clone(&core);
        async move {
            let holds: Vec<Hold> = claims.iter().map(|claim| claim.hold).collect();
            let queues: Vec<QueueName> = claims.iter().map(|claim| claim.queue.clone()).collect();
            core.waiters.begin(&queues);
            let claimed = core.health.watch(core.store.claim(claims).await)?;
            core.announce(&claimed.expired);
            core.note_gates(&queues, &claimed);
            core.note_claimed(&holds, &claimed.jobs);
            let given = claimed.jobs.into_iter().enumerate();
            let has_more = |place| claimed.content.contains(&place);
            Ok(given.map(|(place, jobs)| Given { jobs, has_more: has_more(place) }).collect())
        }
    };
    let (committer, run) = Committer::new(budget, commit, abandoned);
    (committer, Box::pin(run))
}

impl Core {
    fn note_gates(&self, queues: &[QueueName], claimed: &Claimed) {
        for (queue, jobs) in queues.iter().zip(&claimed.jobs) {
            match claimed.closed.iter().find(|(closed, _)| closed == queue) {
                Some((_, until)) => {
                    let until = until.map(|at| Instant::now() + at.since(self.clock.now()));
                    self.gates.close(queue, until);
                }
                // It got all that it asked for: there may be something for the next one.
                None if self.gates.is_known(queue) => match jobs.is_empty() {
                    true => self.gates.open(queue),
                    false => self.waiters.hint(queue, 1),
                },
                None => {}
            }
        }
    }

    pub(super) fn note_claimed(&self, holds: &[Hold], claimed: &[Vec<LeasedJob>]) {
        let count = claimed.iter().map(Vec::len).sum();
        if count > 0 {
            self.metrics.count(Counted::Claimed, count);
            self.metrics.batch(Timed::Claim, count);
        }
        for (hold, jobs) in holds.iter().zip(claimed).filter(|(_, jobs)| !jobs.is_empty()) {
            self.alarms.of(Duty::Expiry).set(match hold {
                Hold::Session(_) => SESSION_LEASE,
                Hold::Time(time) => *time,
            });
            if let Some(timeout) = jobs.iter().filter_map(|job| job.timeout).min() {
                self.alarms.of(Duty::Timeouts).set(timeout);
            }
        }
    }
}
