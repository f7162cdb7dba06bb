//! Keeping leases, and losing them.

use batonq_server::job::{NewJob, State};
use batonq_server::store::{
    Destination, Duty, Extended, Extension, Hold, Progress, SESSION_LEASE, SessionId, Settled,
    Verdict,
};

use super::given::{Jobs, SECOND, SESSION, ack, job};
use super::rules;

rules! {
    async fn a_session_that_is_renewed_keeps_its_leases(given: Given<M>) {
        given.ready_jobs(2).await;
        let held = given.claim(2).await;
        for _ in 0..10 {
            given.pass(SESSION_LEASE - SECOND);
            given.store.renew(vec![SESSION]).await.unwrap();
            assert_eq!(given.duty(Duty::Expiry).await.effects, []);
        }
        given.end(held[1].lease, ack()).await;
    }

    async fn a_session_that_is_not_renewed_loses_them_at_nobodys_charge(given: Given<M>) {
        let id = given.push(job()).await;
        let lease = given.lease().await;
        given.pass(SESSION_LEASE);
        let report = given.duty(Duty::Expiry).await;
        assert_eq!(report.effects[0].to, Destination::Ready);
        assert_eq!(report.lost, [(SESSION, lease)]);
        let job = given.job(id).await;
        assert_eq!((job.crashes, job.attempts, job.deliveries), (0, 0, 1));
        assert_eq!(job.error.unwrap().0, "NODE_LOST");
        assert_eq!(given.settle(lease, ack()).await, Settled::LeaseLost);
    }

    async fn a_lease_of_its_own_time_that_runs_out_is_a_crash(given: Given<M>) {
        let id = given.push(job()).await;
        given.claim_as(1, Hold::Time(5 * SECOND)).await;
        given.store.renew(vec![SESSION]).await.unwrap();
        given.pass(5 * SECOND);
        let report = given.duty(Duty::Expiry).await;
        assert_eq!((report.effects.len(), report.lost.len()), (1, 0));
        let job = given.job(id).await;
        assert_eq!((job.state, job.crashes), (State::Ready, 1));
        assert_eq!(job.error.unwrap().0, "LEASE_EXPIRED");
    }

    async fn an_extended_lease_lasts_longer_and_alone(given: Given<M>) {
        let ids = given.ready_jobs(2).await;
        let held = given.claim(2).await;
        let extension = Extension { lease: held[0].lease, hold: 100 * SECOND };
        let extended = given.store.extend(vec![extension]).await.unwrap();
        assert_eq!(extended, [Some(Extended { until: given.now() + 100 * SECOND, cancel_at: None })]);
        assert_eq!(given.job(ids[0]).await.lease_until, Some(given.now() + 100 * SECOND));
        // It no longer hangs on the session.
        let given_back = given.store.give_back(SESSION).await.unwrap();
        assert_eq!(given_back.jobs(), ids[1..]);
        given.end(held[0].lease, ack()).await;
    }

    async fn a_lost_lease_is_not_extended(given: Given<M>) {
        given.ready_jobs(1).await;
        let lease = given.lease().await;
        given.end(lease, Verdict::Release).await;
        given.lease().await;
        let extended = given.store.extend(vec![Extension { lease, hold: SECOND }]).await.unwrap();
        assert_eq!(extended, [None]);
    }

    async fn a_worker_that_is_back_finds_its_leases(given: Given<M>) {
        given.ready_jobs(3).await;
        let held = given.claim(3).await;
        given.end(held[1].lease, ack()).await;
        given.pass(SESSION_LEASE - SECOND);
        let adopted = given.store.adopt(SESSION).await.unwrap();
        assert_eq!(adopted, [held[0].lease, held[2].lease]);
        given.pass(2 * SECOND);
        assert_eq!(given.duty(Duty::Expiry).await.effects, [], "they were renewed");
        assert_eq!(given.store.adopt(SessionId(99)).await.unwrap(), []);
    }

    async fn giving_back_touches_the_session_alone_and_once(given: Given<M>) {
        given.ready_jobs(2).await;
        given.claim(1).await;
        let other = given.claim_as(1, Hold::Session(SessionId(8))).await;
        assert_eq!(given.store.give_back(SESSION).await.unwrap().len(), 1);
        assert_eq!(given.store.give_back(SESSION).await.unwrap(), []);
        given.end(other[0].lease, ack()).await;
    }

    async fn progress_is_shown_while_the_lease_lives(given: Given<M>) {
        let id = given.push(job()).await;
        let lease = given.lease().await;
        let progress = Progress { percent: 40, message: "on".into() };
        assert!(given.store.progress(lease, progress.clone()).await.unwrap());
        assert_eq!(given.job(id).await.progress, Some(progress.clone()));
        given.end(lease, Verdict::Release).await;
        assert!(!given.store.progress(lease, progress).await.unwrap());
        given.lease().await;
        assert_eq!(given.job(id).await.progress, None);
    }

    async fn renewing_a_session_keeps_no_other(given: Given<M>) {
        given.ready_jobs(2).await;
        given.claim(1).await;
        let other = given.claim_as(1, Hold::Session(SessionId(8))).await;
        given.pass(SESSION_LEASE - SECOND);
        given.store.renew(vec![SESSION]).await.unwrap();
        given.pass(SECOND);
        let report = given.duty(Duty::Expiry).await;
        assert_eq!(report.lost, [(SessionId(8), other[0].lease)]);
    }

    async fn extending_a_lease_does_not_give_its_attempt_more_time(given: Given<M>) {
        given.push(NewJob { timeout: Some(5 * SECOND), ..job() }).await;
        let lease = given.lease().await;
        given.pass(3 * SECOND);
        given.store.extend(vec![Extension { lease, hold: 100 * SECOND }]).await.unwrap();
        assert_eq!(given.duty(Duty::Timeouts).await.next, Some(2 * SECOND));
        given.pass(2 * SECOND);
        let report = given.duty(Duty::Timeouts).await;
        assert_eq!((report.effects.len(), report.lost.len()), (1, 0), "no session holds it");
    }

    async fn a_lease_beyond_its_time_is_extended_if_nobody_has_taken_it(given: Given<M>) {
        given.ready_jobs(1).await;
        let lease = given.claim_as(1, Hold::Time(SECOND)).await[0].lease;
        given.pass(5 * SECOND);
        let extended = given.store.extend(vec![Extension { lease, hold: SECOND }]).await.unwrap();
        assert_eq!(extended, [Some(Extended { until: given.now() + SECOND, cancel_at: None })]);
        assert_eq!(given.duty(Duty::Expiry).await.effects, []);
    }

    async fn what_is_given_back_is_told_by_job(given: Given<M>) {
        let low = given.push(job()).await;
        let high = given.push(NewJob { priority: 5, ..job() }).await;
        assert_eq!(given.claim(1).await.jobs(), [high]);
        assert_eq!(given.claim(1).await.jobs(), [low]);
        assert_eq!(given.store.give_back(SESSION).await.unwrap().jobs(), [low, high]);
    }

    async fn one_lease_of_a_claim_ends_without_the_others(given: Given<M>) {
        given.ready_jobs(3).await;
        let held = given.claim(3).await;
        given.end(held[1].lease, Verdict::Release).await;
        let again = given.claim_as(1, Hold::Session(SessionId(8))).await;
        assert_eq!(again[0].lease.job, held[1].lease.job);
        assert_eq!(given.store.give_back(SESSION).await.unwrap().len(), 2);
        given.end(again[0].lease, ack()).await;
    }
}
