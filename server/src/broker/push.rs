//! Handing jobs in.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::time::Instant;

use super::waiters::Handover;
use super::{Broker, Core, Loop};
use crate::error::Error;
use crate::group_commit::{Budget, Committer};
use crate::job::{Guard, JobId, NewJob, QueueName, State};
use crate::limits;
use crate::metrics::{Counted, Timed};
use crate::store::{Claim, Duty, Hold, Offer, Pushed, PushedTo, Refusal};

impl Broker {
    /// Stores jobs. Answer i is about job i; when it is there, it is durable.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future does not recall the jobs.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if a job waits for another one of the call: that is
    /// [`Broker::push_flow`]'s. [`Error::Overloaded`], or those of the store. Then no job of this
    /// call was stored, unless it is [`Error::OutcomeUnknown`].
    pub async fn push(&self, mut jobs: Vec<NewJob>) -> Result<Vec<Result<Pushed, Error>>, Error> {
        jobs.iter().try_for_each(Self::check_pushed)?;
        let started = Instant::now();
        let refused = self.0.core.seal_jobs(&mut jobs).await?;
        let bytes = jobs.iter().map(|job| job.payload.bytes.len()).sum();
        let pushed = self.0.pushes.submit(jobs, bytes).await?;
        self.metrics().time(Timed::Push, started.elapsed());
        let mut pushed: Vec<_> = pushed.into_iter().map(accepted).collect();
        refused.into_iter().for_each(|(place, error)| pushed.insert(place, Err(error)));
        Ok(pushed)
    }

    /// # Errors
    ///
    /// [`Error::Invalid`] if a job's queue is internal, or it waits for others of its call.
    pub fn check_pushed(job: &NewJob) -> Result<(), Error> {
        Self::check_public(&job.queue)?;
        // Places mean nothing beside the jobs of others.
        match job.waits_for.is_empty() {
            true => Ok(()),
            false => Err(Error::invalid("depends_on_items", "is for the jobs of a flow")),
        }
    }

    /// Stores jobs that wait for each other, in one transaction: all of them or, if one is
    /// refused, none. Answer i is about job i.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future does not recall the jobs.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if they wait for each other in a ring; why one of them is refused; else
    /// as [`Broker::push`].
    pub async fn push_flow(&self, jobs: Vec<NewJob>) -> Result<Vec<Pushed>, Error> {
        jobs.iter().try_for_each(|job| Self::check_public(&job.queue))?;
        let (places, mut jobs) = sorted(jobs)?;
        if let Some((_, error)) = self.0.core.seal_jobs(&mut jobs).await?.pop() {
            return Err(error);
        }
        let pushed = self.0.core.push(jobs).await?;
        let mut answers: Vec<(usize, Pushed)> = places.into_iter().zip(pushed).collect();
        answers.sort_unstable_by_key(|(place, _)| *place);
        answers.into_iter().map(|(_, pushed)| accepted(pushed)).collect()
    }
}

pub(super) fn accepted(pushed: Pushed) -> Result<Pushed, Error> {
    match pushed {
        Pushed::Refused(Refusal::NoSuchJob(id)) => {
            Err(Error::invalid("depends_on", format!("there is no job {id}")))
        }
        Pushed::Refused(Refusal::Guard(breach)) => Err(match breach.guard {
            Guard::PayloadBytes => {
                Error::PayloadTooLarge { field: "payload", detail: breach.to_string() }
            }
            _ => Error::RateLimited(format!("{breach}: try again later ({})", breach.guard.name())),
        }),
        pushed => Ok(pushed),
    }
}

/// The jobs with their places, such that each comes after those that it waits for.
///
/// # Errors
///
/// If there is no such order, or a place that is none.
fn sorted(mut jobs: Vec<NewJob>) -> Result<(Vec<usize>, Vec<NewJob>), Error> {
    let invalid = |detail: String| Error::invalid("depends_on", detail);
    for (place, job) in jobs.iter().enumerate() {
        if let Some(unknown) = job.waits_for.iter().find(|need| **need >= jobs.len()) {
            return Err(invalid(format!("job {place} waits for job {unknown} of {}", jobs.len())));
        }
        if job.waits_for.len() + job.options.depends.on.len() > limits::DEPENDS_MAX {
            return Err(invalid(format!("more than {}", limits::DEPENDS_MAX)));
        }
    }
    let mut order: Vec<usize> = Vec::with_capacity(jobs.len());
    let mut left: Vec<usize> = (0..jobs.len()).collect();
    let mut new_place = vec![None; jobs.len()];
    while !left.is_empty() {
        let is_free =
            |place: &usize| jobs[*place].waits_for.iter().all(|need| new_place[*need].is_some());
        let (free, others): (Vec<usize>, Vec<usize>) = left.iter().partition(|it| is_free(it));
        if free.is_empty() {
            let ring: Vec<String> = others.iter().map(usize::to_string).collect();
            return Err(invalid(format!("jobs {} wait for each other in a ring", ring.join(", "))));
        }
        for place in free {
            new_place[place] = Some(order.len());
            order.push(place);
        }
        left = others;
    }
    for job in &mut jobs {
        job.is_part = true;
        job.waits_for = job.waits_for.iter().filter_map(|need| new_place[*need]).collect();
    }
    let mut jobs: Vec<Option<NewJob>> = jobs.into_iter().map(Some).collect();
    let jobs = order.iter().filter_map(|place| jobs[*place].take()).collect();
    Ok((order, jobs))
}

pub(super) fn committer(core: &Arc<Core>, budget: Budget) -> (Committer<NewJob, Pushed>, Loop) {
    let core = Arc::clone(core);
    let commit = move |jobs: Vec<NewJob>| {
        let core = Arc::clone(&core);
        async move { core.push(jobs).await }
    };
    let (committer, run) = Committer::new(budget, commit, |_| {});
    (committer, Box::pin(run))
}

impl Core {
    pub(super) async fn push(self: &Arc<Self>, jobs: Vec<NewJob>) -> Result<Vec<Pushed>, Error> {
        let queues: Vec<QueueName> = jobs.iter().map(|job| job.queue.clone()).collect();
        let soonest_ttl = jobs.iter().filter_map(|job| job.ttl).min();
        self.metrics.batch(Timed::Push, jobs.len());
        let handover = self.waiters.assign(&jobs);
        let (pushed, handed_over) = match handover.is_empty() {
            true => (self.health.watch(self.store.push(jobs).await)?, HashSet::new()),
            false => self.push_to(jobs, handover).await?,
        };
        self.announce_pushed(&queues, &pushed, &handed_over);
        if let Some(ttl) = soonest_ttl {
            self.alarms.of(Duty::Ttl).set(ttl);
        }
        Ok(pushed)
    }

    /// Pushes to those who wait. The second answer: the jobs that they got.
    async fn push_to(
        self: &Arc<Self>,
        jobs: Vec<NewJob>,
        mut handover: Handover,
    ) -> Result<(Vec<Pushed>, HashSet<JobId>), Error> {
        let claims = std::mem::take(&mut handover.claims);
        let owners = std::mem::take(&mut handover.owners);
        let offer = Offer { owners, claims: claims.clone() };
        let done = match self.encrypted().await {
            Ok(encrypted) => {
                let done = self.health.watch(self.store.push_to(jobs, offer).await);
                done.map(|done| (done, encrypted))
            }
            Err(error) => Err(error),
        };
        let (PushedTo { pushed, leased }, encrypted) = match done {
            Ok(done) => done,
            Err(error) => {
                handover.hand_over(Vec::new());
                return Err(error);
            }
        };
        let holds: Vec<Hold> = claims.iter().map(|claim| claim.hold).collect();
        self.note_claimed(&holds, &leased);
        let ids = leased.iter().flatten().map(|job| job.lease.job).collect();
        let open = |(claim, jobs): (&Claim, _)| self.open_leased(&encrypted, &claim.queue, jobs);
        let left = handover.hand_over(claims.iter().zip(leased).map(open).collect());
        if !left.is_empty() {
            let leases = left.into_iter().map(|job| job.lease).collect();
            tokio::spawn(super::pull::take_back(Arc::clone(self), leases));
        }
        Ok((pushed, ids))
    }

    pub(super) fn announce_pushed(
        &self,
        queues: &[QueueName],
        pushed: &[Pushed],
        handed_over: &HashSet<JobId>,
    ) {
        let mut inserted = 0;
        let mut run: Option<(&QueueName, usize)> = None;
        for (queue, pushed) in queues.iter().zip(pushed) {
            let (Pushed::Inserted { state, run_at, .. } | Pushed::Replaced { state, run_at, .. }) =
                pushed
            else {
                continue;
            };
            inserted += usize::from(matches!(pushed, Pushed::Inserted { .. }));
            match (state, run_at) {
                (State::Ready, _) if pushed.id().is_some_and(|id| handed_over.contains(&id)) => {
                    continue;
                }
                (State::Ready, _) => {}
                (State::Scheduled, Some(run_at)) => {
                    self.alarms.of(Duty::Due).set(run_at.since(self.clock.now()));
                    continue;
                }
                _ => continue,
            }
            match &mut run {
                Some((same, count)) if *same == queue => *count += 1,
                _ => {
                    self.ring(run.take());
                    run = Some((queue, 1));
                }
            }
        }
        self.ring(run);
        self.metrics.count(Counted::Pushed, inserted);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::job::Payload;

    fn flow(waits_for: &[&[usize]]) -> Vec<NewJob> {
        let job = |waits_for: &&[usize]| {
            let payload = Payload::new(Bytes::from_static(b"{}")).unwrap();
            let queue = QueueName::parse("q").unwrap();
            NewJob { waits_for: waits_for.to_vec(), ..NewJob::new(queue, payload) }
        };
        waits_for.iter().map(job).collect()
    }

    #[test]
    fn a_flow_is_put_in_order() {
        let (places, jobs) = sorted(flow(&[&[1, 2], &[], &[1]])).unwrap();
        assert_eq!(places, [1, 2, 0]);
        let waits_for: Vec<_> = jobs.into_iter().map(|job| job.waits_for).collect();
        assert_eq!(waits_for, [vec![], vec![0], vec![0, 1]]);
    }

    #[test]
    fn rings_and_places_that_are_none_are_refused() {
        for bad in [&[&[0][..]][..], &[&[1], &[0]], &[&[], &[2], &[1]], &[&[1]]] {
            let refused = sorted(flow(bad)).unwrap_err();
            assert_eq!(refused.field(), Some("depends_on"), "{bad:?}");
        }
    }
}
