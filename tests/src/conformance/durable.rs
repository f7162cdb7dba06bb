//! What outlives the store.

use batonq_server::job::State;
use batonq_server::store::{Counts, Duty, Pausing, Progress, SESSION_LEASE};

use super::given::{Jobs, SECOND, SESSION, ack, fail, in_time, job, queue};
use super::rules;

rules! {
    async fn the_lease_key_stays_the_same(given: Given<M>) {
        let key = given.store.lease_key();
        assert_eq!(given.reopened().await.store.lease_key(), key);
    }

    async fn every_job_is_where_it_was(given: Given<M>) {
        given.dead_job(job()).await;
        let ids = given.ready_jobs(4).await;
        let held = given.claim(3).await;
        given.end(held[0].lease, ack()).await;
        given.end(held[1].lease, fail()).await;
        let delayed = given.push(in_time(60 * SECOND)).await;
        given.cancel(delayed).await;
        let mut before = Vec::new();
        for id in ids.iter().chain([&delayed]) {
            before.push(given.store.timeline(*id).await.unwrap());
        }

        let given = given.reopened().await;

        for (id, before) in ids.iter().chain([&delayed]).zip(before) {
            assert_eq!(given.store.timeline(*id).await.unwrap(), before);
        }
        let expected =
            Counts { blocked: 0, scheduled: 1, ready: 1, leased: 1, completed: 1, dead: 1, cancelled: 1 };
        assert_eq!(given.counts().await, expected);
    }

    async fn a_worker_keeps_its_leases(given: Given<M>) {
        given.ready_jobs(2).await;
        let held = given.claim(2).await;
        let progress = Progress { percent: 40, message: "on".into() };
        given.store.progress(held[0].lease, progress.clone()).await.unwrap();

        let given = given.reopened().await;

        assert_eq!(given.job(held[0].lease.job).await.progress, Some(progress));
        given.end(held[0].lease, ack()).await;
        assert_eq!(given.store.adopt(SESSION).await.unwrap(), [held[1].lease]);
        given.pass(SESSION_LEASE);
        assert_eq!(given.duty(Duty::Expiry).await.effects.jobs(), [held[1].lease.job]);
    }

    async fn a_number_is_never_used_twice(given: Given<M>) {
        let first = given.push(job()).await;
        given.end(given.lease().await, ack()).await;
        given.pass(60 * SECOND);
        given.duty(Duty::Retention).await;
        assert_eq!(given.store.job(first).await.unwrap(), None);
        let given = given.reopened().await;
        assert!(given.push(job()).await > first);
    }

    async fn the_line_is_as_it_was(given: Given<M>) {
        let delayed = given.push(in_time(SECOND)).await;
        let waiting = given.push(job()).await;
        let given = given.reopened().await;
        given.pass(SECOND);
        given.duty(Duty::Due).await;
        let newest = given.push(job()).await;
        let given = given.reopened().await;
        assert_eq!(given.claim(3).await.jobs(), [waiting, delayed, newest]);
    }

    async fn a_paused_queue_stays_paused(given: Given<M>) {
        given.push(job()).await;
        given.store.set_paused(queue(), Pausing::Pause, "ada".into()).await.unwrap();
        let since = given.now();
        let given = given.reopened().await;
        assert_eq!(given.queue().await.paused_at, Some(since));
        assert_eq!(given.claim(1).await, []);
    }

    async fn a_store_that_is_well_says_so(given: Given<M>) {
        assert_eq!(given.store.check().await, Ok(()));
        let id = given.push(job()).await;
        assert_eq!(given.store.check().await, Ok(()));
        assert_eq!(given.state(id).await, State::Ready);
    }
}
