//! Unique keys.

use batonq_server::job::{NewJob, State, UniqueKey};
use batonq_server::store::{Changed, DeadFilter, Pushed, Retry};

use super::given::{SECOND, ack, fail, fail_with, job, named};
use super::rules;

fn keyed() -> NewJob {
    NewJob { unique: Some(UniqueKey::parse("k").expect("a key")), ..job() }
}

rules! {
    async fn a_second_job_with_the_key_of_a_live_one_is_a_duplicate(given: Given<M>) {
        let id = given.push(keyed()).await;
        for state in [State::Ready, State::Leased] {
            let pushed = given.store.push(vec![keyed()]).await.unwrap();
            assert_eq!(pushed, [Pushed::Duplicate { id, state }]);
            given.claim(1).await;
        }
    }

    async fn the_second_of_two_in_one_call_is_a_duplicate(given: Given<M>) {
        let pushed = given.store.push(vec![keyed(), keyed()]).await.unwrap();
        let Pushed::Inserted { id, .. } = pushed[0] else { panic!("{pushed:?}") };
        assert_eq!(pushed[1], Pushed::Duplicate { id, state: State::Ready });
        assert_eq!(given.counts().await.ready, 1);
    }

    async fn keys_of_other_queues_do_not_matter(given: Given<M>) {
        given.push(keyed()).await;
        given.push(NewJob { queue: named("other"), ..keyed() }).await;
    }

    async fn every_end_releases_the_key(given: Given<M>) {
        given.push(keyed()).await;
        given.end(given.lease().await, ack()).await;
        given.push(keyed()).await;
        given.end(given.lease().await, fail_with(Retry::Reject)).await;
        let id = given.push(keyed()).await;
        given.store.cancel(id).await.unwrap();
        given.push(NewJob { ttl: Some(SECOND), ..keyed() }).await;
        given.pass(SECOND);
        assert_eq!(given.claim(1).await, []);
        given.push(keyed()).await;
    }

    async fn a_job_between_its_attempts_keeps_its_key(given: Given<M>) {
        let id = given.push(keyed()).await;
        given.end(given.lease().await, fail()).await;
        let pushed = given.store.push(vec![keyed()]).await.unwrap();
        assert_eq!(pushed, [Pushed::Duplicate { id, state: State::Scheduled }]);
    }

    async fn a_dead_job_can_not_come_back_while_another_has_its_key(given: Given<M>) {
        let dead = given.dead_job(keyed()).await;
        let live = given.push(keyed()).await;
        assert_eq!(given.store.retry(dead).await.unwrap(), Changed::Duplicate(live));
        assert_eq!(given.store.replay(dead).await.unwrap(), Changed::Duplicate(live));
        assert_eq!(given.state(dead).await, State::Dead);
    }

    async fn a_retried_job_has_its_key_again(given: Given<M>) {
        let id = given.dead_job(keyed()).await;
        given.store.retry(id).await.unwrap();
        let pushed = given.store.push(vec![keyed()]).await.unwrap();
        assert_eq!(pushed, [Pushed::Duplicate { id, state: State::Ready }]);
    }

    async fn a_copy_has_the_key_of_its_original(given: Given<M>) {
        let dead = given.dead_job(keyed()).await;
        let Changed::Done(copy) = given.store.replay(dead).await.unwrap() else { panic!() };
        let pushed = given.store.push(vec![keyed()]).await.unwrap();
        assert_eq!(pushed, [Pushed::Duplicate { id: copy.job, state: State::Ready }]);
    }

    async fn a_dead_job_whose_key_is_taken_is_passed_over(given: Given<M>) {
        given.dead_job(keyed()).await;
        let free = given.dead_job(job()).await;
        given.push(keyed()).await;
        let filter = DeadFilter { limit: 1, ..DeadFilter::default() };
        let copies = given.store.replay_dead(filter).await.unwrap();
        assert_eq!(given.job(copies[0].job).await.replay_of, Some(free));
    }
}
