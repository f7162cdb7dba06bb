//! Jobs that are leased by the push that stores them. A store may decline; then they are ready.

use batonq_server::job::{NewJob, Payload, Settings, State, Tag, WorkerName};
use batonq_server::store::{
    Claim, Destination, Duty, EventKind, EventsWanted, Hold, LeasedJob, Offer, Pausing, PushedTo,
};
use bytes::Bytes;

use super::given::{Given, Jobs, SECOND, SESSION, ack, fail, in_time, job, named, queue};
use super::rules;
use crate::stores::Maker;

fn waiting(count: usize) -> Claim {
    let worker = WorkerName::parse("w").expect("a name");
    Claim {
        queue: queue(),
        count,
        enough: count,
        bytes_max: usize::MAX,
        worker,
        hold: Hold::Session(SESSION),
    }
}

impl<M: Maker> Given<M> {
    /// Pushes jobs, each to the claim with this number, of those that wait for so many.
    async fn push_to(&self, jobs: Vec<(NewJob, Option<usize>)>, counts: &[usize]) -> PushedTo {
        let claims = counts.iter().map(|count| waiting(*count)).collect();
        let (jobs, owners) = jobs.into_iter().unzip();
        let done = self.store.push_to(jobs, Offer { owners, claims }).await.expect("it works");
        assert_eq!(done.leased.len(), counts.len());
        done
    }

    /// A job that was leased as it was pushed or, if the store declines, at once after it.
    async fn handed_over(&self, job: NewJob) -> LeasedJob {
        let mut done = self.push_to(vec![(job, Some(0))], &[1]).await;
        let leased = match self.store.hands_over() {
            true => done.leased.remove(0),
            false => self.claim(1).await,
        };
        leased.into_iter().next().expect("a job")
    }

    /// Nothing of this is leased, and all is there.
    async fn declines(&self, job: NewJob) {
        let done = self.push_to(vec![(job, Some(0))], &[1]).await;
        assert_eq!(done.leased, [[]]);
        let id = done.pushed[0].id().expect("it is stored");
        assert_ne!(self.state(id).await, State::Leased);
    }
}

rules! {
    async fn a_job_that_is_handed_over_is_as_one_that_was_claimed(given: Given<M>) {
        let payload = Payload::new(Bytes::from_static(b"[7]")).unwrap();
        let like = || NewJob { payload: payload.clone(), priority: 3, ..job() };
        given.push(like()).await;
        let claimed = given.claim(1).await.remove(0);
        let handed_over = given.handed_over(like()).await;
        assert_eq!(handed_over, LeasedJob { lease: handed_over.lease, ..claimed });
        assert_eq!((handed_over.lease.delivery, given.counts().await.leased), (1, 2));
        let id = handed_over.lease.job;
        assert_eq!(given.job(id).await.state, State::Leased);
        let to = given.end(handed_over.lease, ack()).await;
        assert_eq!(to, Destination::Finished(State::Completed));
    }

    async fn each_gets_its_own_and_the_rest_stands_in_line(given: Given<M>) {
        let jobs = [Some(0), None, Some(1), Some(0), None].map(|owner| (job(), owner));
        let done = given.push_to(jobs.to_vec(), &[2, 1]).await;
        let ids: Vec<_> = done.pushed.iter().filter_map(|pushed| pushed.id()).collect();
        let in_line = match given.store.hands_over() {
            true => {
                assert_eq!(done.leased[0].jobs(), [ids[0], ids[3]]);
                assert_eq!(done.leased[1].jobs(), [ids[2]]);
                vec![ids[1], ids[4]]
            }
            false => ids,
        };
        assert_eq!(given.claim(9).await.jobs(), in_line);
    }

    async fn a_delayed_job_beside_it_comes_at_its_time(given: Given<M>) {
        let jobs = vec![(in_time(SECOND), None), (job(), Some(0)), (in_time(SECOND), None)];
        let done = given.push_to(jobs, &[2]).await;
        let ids: Vec<_> = done.pushed.iter().filter_map(|pushed| pushed.id()).collect();
        match given.store.hands_over() {
            true => assert_eq!(done.leased[0].jobs(), [ids[1]]),
            false => assert_eq!(given.claim(9).await.jobs(), [ids[1]]),
        }
        assert_eq!((given.counts().await.scheduled, given.counts().await.leased), (2, 1));
        given.pass(SECOND);
        given.duty(Duty::Due).await;
        assert_eq!(given.claim(9).await.jobs(), [ids[0], ids[2]]);
    }

    async fn its_lease_ends_in_any_way_that_leases_end(given: Given<M>) {
        let failed = given.handed_over(job()).await.lease;
        assert!(matches!(given.end(failed, fail()).await, Destination::Scheduled(_)));
        let lost = given.handed_over(job()).await.lease;
        given.store.give_back(SESSION).await.unwrap();
        let again = given.lease().await;
        assert_eq!((again.job, again.delivery), (lost.job, 2));
        let late = given.handed_over(NewJob { timeout: Some(SECOND), ..job() }).await;
        given.pass(SECOND);
        given.duty(Duty::Timeouts).await;
        assert_eq!(given.state(late.lease.job).await, State::Scheduled);
    }

    async fn it_outlives_a_restart_as_any_lease(given: Given<M>) {
        let lease = given.handed_over(job()).await.lease;
        let given = given.reopened().await;
        assert_eq!(given.claim(1).await, []);
        given.end(lease, ack()).await;
    }

    async fn a_queue_that_is_paused_or_limited_hands_nothing_over(given: Given<M>) {
        given.ready_jobs(1).await;
        given.lease().await;
        given.store.set_paused(queue(), Pausing::Pause, "me".into()).await.unwrap();
        given.declines(job()).await;
        given.store.set_paused(queue(), Pausing::Resume, "me".into()).await.unwrap();
        let settings = Settings { concurrency: Some(1), ..Settings::default() };
        given.store.set_settings(queue(), settings).await.unwrap();
        given.declines(job()).await;
        let guarded = Settings { depth_max: Some(9), ..Settings::default() };
        given.store.set_settings(named("q"), guarded).await.unwrap();
        given.declines(job()).await;
        assert_eq!(given.counts().await.ready, 3);
    }

    async fn a_job_that_asks_for_more_than_a_place_in_line_is_not_handed_over(given: Given<M>) {
        given.declines(in_time(SECOND)).await;
        given.declines(NewJob { ttl: Some(SECOND), ..job() }).await;
        given.declines(NewJob { tags: vec![Tag::parse("t").unwrap()], ..job() }).await;
    }

    async fn whoever_listens_hears_of_its_push_and_then_of_its_lease(given: Given<M>) {
        let watching = given.store.watch(Some(queue()), 60 * SECOND).await.unwrap();
        given.handed_over(job()).await;
        let all = given.store.watch(None, 60 * SECOND).await.unwrap().now;
        let mut upto = 0;
        while upto < all {
            upto = given.store.event_head().await.unwrap();
        }
        let wanted = EventsWanted { after: watching.now, upto, queue: Some(queue()), limit: 9 };
        let heard = given.store.events(wanted).await.unwrap().events;
        let kinds: Vec<EventKind> = heard.into_iter().map(|event| event.kind).collect();
        assert_eq!(kinds, [EventKind::Pushed, EventKind::Leased]);
    }
}
