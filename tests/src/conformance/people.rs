//! What people change.

use batonq_server::job::{NewJob, Reason, State};
use batonq_server::store::{Changed, DeadFilter, Duty, Pausing};

use super::given::{SECOND, ack, fail, in_time, job, named, queue};
use super::rules;

rules! {
    async fn a_retried_job_starts_afresh_under_its_id(given: Given<M>) {
        let id = given.dead_job(NewJob { ttl: Some(60 * SECOND), ..job() }).await;
        assert!(matches!(given.store.retry(id).await.unwrap(), Changed::Done(_)));
        let job = given.job(id).await;
        assert_eq!((job.state, job.attempts, job.reason), (State::Ready, 0, None));
        assert_eq!((job.expires_at, job.finished_at), (None, None));
        let again = &given.claim(1).await[0];
        assert_eq!((again.lease.delivery, again.attempt), (2, 1));
        given.end(again.lease, ack()).await;
        assert_eq!(given.store.timeline(id).await.unwrap().unwrap().1.len(), 2);
    }

    async fn only_a_dead_job_is_retried(given: Given<M>) {
        let id = given.push(job()).await;
        assert_eq!(given.store.retry(id).await.unwrap(), Changed::WrongState(State::Ready));
        let lease = given.lease().await;
        assert_eq!(given.store.retry(id).await.unwrap(), Changed::WrongState(State::Leased));
        given.end(lease, ack()).await;
        assert_eq!(given.store.retry(id).await.unwrap(), Changed::WrongState(State::Completed));
        let nobody = batonq_server::job::JobId(99);
        assert_eq!(given.store.retry(nobody).await.unwrap(), Changed::NotFound);
    }

    async fn a_replay_is_a_copy_and_both_point_to_each_other(given: Given<M>) {
        let original = given.dead_job(NewJob { priority: 4, ..job() }).await;
        let Changed::Done(effect) = given.store.replay(original).await.unwrap() else { panic!() };
        let copy = given.job(effect.job).await;
        assert_eq!((copy.state, copy.priority), (State::Ready, 4));
        assert_eq!(copy.replay_of, Some(original));
        let original = given.job(original).await;
        assert_eq!((original.state, original.replayed_as), (State::Dead, Some(copy.id)));
    }

    async fn dead_jobs_are_copied_once(given: Given<M>) {
        let dead = [given.dead_job(job()).await, given.dead_job(job()).await];
        let other = DeadFilter { queue: Some(named("other")), reason: None, limit: 10 };
        assert_eq!(given.store.replay_dead(other).await.unwrap(), []);
        let reason = Some(Reason::Poison);
        let other = DeadFilter { queue: Some(queue()), reason, limit: 10 };
        assert_eq!(given.store.replay_dead(other).await.unwrap(), []);
        for original in dead {
            let one = DeadFilter { queue: None, reason: Some(Reason::Rejected), limit: 1 };
            let copies = given.store.replay_dead(one).await.unwrap();
            assert_eq!(given.job(copies[0].job).await.replay_of, Some(original));
        }
        let all = DeadFilter { limit: 10, ..DeadFilter::default() };
        assert_eq!(given.store.replay_dead(all).await.unwrap(), []);
    }

    async fn a_waiting_job_can_be_cancelled_a_running_one_not(given: Given<M>) {
        for waiting in [job(), in_time(SECOND)] {
            let id = given.push(waiting).await;
            assert!(matches!(given.store.cancel(id).await.unwrap(), Changed::Done(_)));
            assert_eq!(given.state(id).await, State::Cancelled);
            assert_eq!(
                given.store.cancel(id).await.unwrap(),
                Changed::WrongState(State::Cancelled)
            );
        }
        assert_eq!(given.claim(1).await, []);
        given.pass(SECOND);
        assert_eq!(given.duty(Duty::Due).await.effects, []);
        let id = given.push(job()).await;
        given.lease().await;
        assert_eq!(given.store.cancel(id).await.unwrap(), Changed::WrongState(State::Leased));
    }

    async fn a_scheduled_job_can_be_promoted(given: Given<M>) {
        let id = given.push(in_time(SECOND)).await;
        assert!(matches!(given.store.promote(id).await.unwrap(), Changed::Done(_)));
        assert_eq!(given.store.promote(id).await.unwrap(), Changed::WrongState(State::Ready));
        let lease = given.lease().await;
        given.end(lease, fail()).await;
        given.store.promote(id).await.unwrap();
        assert_eq!(given.lease().await.delivery, 2);
    }

    async fn a_pause_keeps_its_beginning(given: Given<M>) {
        given.store.set_paused(queue(), Pausing::Pause).await.unwrap();
        let since = given.now();
        given.pass(SECOND);
        given.store.set_paused(queue(), Pausing::Pause).await.unwrap();
        assert_eq!(given.queue().await.paused_at, Some(since));
        given.store.set_paused(queue(), Pausing::Resume).await.unwrap();
        assert_eq!(given.queue().await.paused_at, None);
    }
}
