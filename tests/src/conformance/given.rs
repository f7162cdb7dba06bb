//! An empty store and the words to speak of it.

use std::sync::Arc;
use std::time::Duration;

use batonq_server::clock::{Clock, ManualClock};
use batonq_server::job::{
    Backoff, FailureCode, JobId, Lease, NewJob, Payload, QueueName, State, Timestamp, When,
    WorkerName,
};
use batonq_server::store::{
    Cancelled, Claim, Claimed, Counts, Destination, Duty, DutyReport, Effect, Event, Hold, Job,
    LeasedJob, Pushed, Queue, Retention, Retry, SessionId, Settled, Settlement, Standing, Store,
    Verdict, story,
};
use bytes::Bytes;

use crate::stores::Maker;

/// One second.
pub(super) const SECOND: Duration = Duration::from_secs(1);

/// The session that [`Given::claim`] claims for.
pub(super) const SESSION: SessionId = SessionId(7);

/// Finished jobs are kept for a minute, ten at most; dead ones for an hour.
const RETENTION: Retention = Retention {
    completed: Duration::from_secs(60),
    completed_max: 10,
    dead: Duration::from_secs(3600),
};

/// An empty store on a clock that stands still.
pub struct Given<M: Maker> {
    pub(super) store: Arc<dyn Store>,
    clock: Arc<ManualClock>,
    home: M::Home,
}

impl<M: Maker> std::fmt::Debug for Given<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(M::NAME)
    }
}

/// The queue that is meant if none is said.
pub(super) fn queue() -> QueueName {
    named("q")
}

pub(super) fn named(name: &str) -> QueueName {
    QueueName::parse(name).expect("a name")
}

/// A job that is as plain as can be, with a fixed backoff of ten seconds.
pub(super) fn job() -> NewJob {
    let payload = Payload::new(Bytes::from_static(b"{}")).expect("it is small");
    NewJob { backoff: Some(Backoff::Fixed(10 * SECOND)), ..NewJob::new(queue(), payload) }
}

/// One that says nothing but its payload: those that are pushed together may be kept together.
pub(super) fn plain() -> NewJob {
    NewJob::new(queue(), Payload::new(Bytes::from_static(b"{}")).expect("it is small"))
}

pub(super) fn in_time(delay: Duration) -> NewJob {
    NewJob { when: When::After(delay), ..job() }
}

/// What effects or leased jobs are about, in their order.
pub(super) trait Jobs {
    fn jobs(&self) -> Vec<JobId>;
}

impl Jobs for [Effect] {
    fn jobs(&self) -> Vec<JobId> {
        self.iter().map(|effect| effect.job).collect()
    }
}

impl Jobs for [LeasedJob] {
    fn jobs(&self) -> Vec<JobId> {
        self.iter().map(|job| job.lease.job).collect()
    }
}

pub(super) fn claim(count: usize, hold: Hold) -> Claim {
    let worker = WorkerName::parse("w").expect("a name");
    Claim { queue: queue(), count, enough: count, bytes_max: usize::MAX, worker, hold }
}

pub(super) fn ack() -> Verdict {
    Verdict::Ack { result: None }
}

pub(super) fn fail() -> Verdict {
    fail_with(Retry::Backoff)
}

pub(super) fn fail_with(retry: Retry) -> Verdict {
    let code = FailureCode::parse("NO").expect("a code");
    Verdict::Fail { code, message: "it went wrong".into(), retry, chance: 0.0 }
}

impl<M: Maker> Given<M> {
    pub(super) async fn empty() -> Self {
        let (clock, home) = (ManualClock::new(), M::home());
        Self { store: M::open(&home, &clock, RETENTION).await, clock, home }
    }

    /// The store is closed, and another one opened in its place.
    pub(super) async fn reopened(self) -> Self {
        let Self { store, clock, home } = self;
        drop(store);
        Self { store: M::open(&home, &clock, RETENTION).await, clock, home }
    }

    pub(super) fn pass(&self, time: Duration) {
        M::pass(&self.home, &self.clock, time);
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(super) async fn push(&self, job: NewJob) -> JobId {
        match self.store.push(vec![job]).await.expect("it works")[..] {
            [Pushed::Inserted { id, .. }] => id,
            ref other => panic!("not inserted: {other:?}"),
        }
    }

    /// So many jobs of one push.
    pub(super) async fn together(&self, job: NewJob, count: usize) -> Vec<JobId> {
        let pushed = self.store.push(vec![job; count]).await.expect("it works");
        pushed.iter().map(|pushed| pushed.id().expect("it is stored")).collect()
    }

    /// A second passes, and all that is due becomes ready. The answer: what that was.
    pub(super) async fn a_second_passes(&self) -> Vec<JobId> {
        self.pass(SECOND);
        let mut due = Vec::new();
        loop {
            match self.duty(Duty::Due).await.effects.jobs() {
                none if none.is_empty() => return due,
                more => due.extend(more),
            }
        }
    }

    pub(super) async fn ready_jobs(&self, count: usize) -> Vec<JobId> {
        let mut ids = Vec::new();
        for _ in 0..count {
            ids.push(self.push(job()).await);
        }
        ids
    }

    /// Claims for a session.
    pub(super) async fn claim(&self, count: usize) -> Vec<LeasedJob> {
        self.claim_as(count, Hold::Session(SESSION)).await
    }

    pub(super) async fn claim_as(&self, count: usize, hold: Hold) -> Vec<LeasedJob> {
        let claimed = self.store.claim(vec![claim(count, hold)]).await.expect("it works");
        claimed.jobs.into_iter().next().expect("one claim, one answer")
    }

    /// Claims for a session, so many in each of several claims of one call.
    pub(super) async fn claim_at_once<const N: usize>(
        &self,
        counts: &[usize; N],
    ) -> [Vec<LeasedJob>; N] {
        let claims = counts.map(|count| claim(count, Hold::Session(SESSION)));
        let claimed = self.store.claim(claims.to_vec()).await.expect("it works");
        claimed.jobs.try_into().expect("an answer to each claim")
    }

    /// Claims for a session, and says all that came of it.
    pub(super) async fn claimed(&self, count: usize) -> Claimed {
        let claim = claim(count, Hold::Session(SESSION));
        self.store.claim(vec![claim]).await.expect("it works")
    }

    /// Claims one job that must be there.
    pub(super) async fn lease(&self) -> Lease {
        self.claim(1).await.first().expect("a job is ready").lease
    }

    pub(super) async fn settle(&self, lease: Lease, verdict: Verdict) -> Settled {
        let settled = self.store.settle(vec![Settlement { lease, verdict }]).await;
        settled.expect("it works").settled.remove(0)
    }

    /// Settles a live lease; where the job went.
    pub(super) async fn end(&self, lease: Lease, verdict: Verdict) -> Destination {
        match self.settle(lease, verdict).await {
            Settled::Done(effect) => effect.to,
            other => panic!("the lease is not live: {other:?}"),
        }
    }

    /// Cancels; a worker has ten seconds.
    pub(super) async fn cancel(&self, id: JobId) -> Cancelled {
        self.store.cancel(id, 10 * SECOND).await.expect("it works")
    }

    pub(super) async fn duty(&self, duty: Duty) -> DutyReport {
        self.store.run_duty(&M::term(&self.home), duty).await.expect("it works")
    }

    pub(super) async fn job(&self, id: JobId) -> Job {
        self.store.job(id).await.expect("it works").expect("the job is there")
    }

    pub(super) async fn state(&self, id: JobId) -> State {
        self.job(id).await.state
    }

    pub(super) async fn standing(&self, id: JobId) -> Standing {
        self.store.standing(id).await.expect("it works").expect("the job is there")
    }

    /// What is noted of a job: what, and more of it.
    pub(super) async fn noted(&self, id: JobId) -> Vec<(&'static str, String)> {
        let notes = self.store.notes(id).await.expect("it works");
        notes.into_iter().map(|note| (note.kind.name(), note.detail)).collect()
    }

    /// The story of a job: what happened, and when.
    pub(super) async fn story(&self, id: JobId) -> Vec<Event> {
        let told = self.store.timeline(id).await.expect("it works");
        let (job, attempts) = told.expect("the job is there");
        story(&job, &attempts, &self.store.notes(id).await.expect("it works"))
    }

    pub(super) async fn queue(&self) -> Queue {
        let queues = self.store.queues(Some(queue())).await.expect("it works");
        queues.into_iter().next().expect("the queue is there")
    }

    pub(super) async fn counts(&self) -> Counts {
        self.queue().await.counts
    }

    /// A job that has been dead since its first attempt.
    pub(super) async fn dead_job(&self, job: NewJob) -> JobId {
        let id = self.push(job).await;
        let lease = self.lease().await;
        assert_eq!(lease.job, id);
        self.end(lease, fail_with(Retry::Reject)).await;
        id
    }
}
