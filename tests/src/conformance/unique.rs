//! Unique keys.

use batonq_server::job::{NewJob, Payload, State, UniqueHold, UniqueKey, When};
use batonq_server::limits;
use batonq_server::store::{Changed, Duty, Edit, Pushed, Retry, Same};
use bytes::Bytes;

use super::given::{SECOND, ack, fail, fail_with, job, named};
use super::rules;

fn keyed() -> NewJob {
    NewJob { unique: Some(UniqueKey::parse("k").expect("a key")), ..job() }
}

fn with_hold(hold: UniqueHold) -> NewJob {
    let mut job = keyed();
    job.options.hold = hold;
    job
}

rules! {
    async fn a_second_job_with_the_key_of_a_live_one_is_a_duplicate(given: Given<M>) {
        let id = given.push(keyed()).await;
        for state in [State::Ready, State::Leased] {
            let pushed = given.store.push(vec![keyed()]).await.unwrap();
            assert_eq!(pushed, [Pushed::Duplicate { id, state, of: Same::Unique }]);
            given.claim(1).await;
        }
    }

    async fn the_second_of_two_in_one_call_is_a_duplicate(given: Given<M>) {
        let pushed = given.store.push(vec![keyed(), keyed()]).await.unwrap();
        let Pushed::Inserted { id, .. } = pushed[0] else { panic!("{pushed:?}") };
        assert_eq!(pushed[1], Pushed::Duplicate { id, state: State::Ready, of: Same::Unique });
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
        given.cancel(id).await;
        given.push(NewJob { ttl: Some(SECOND), ..keyed() }).await;
        given.pass(SECOND);
        assert_eq!(given.claim(1).await, []);
        given.push(keyed()).await;
    }

    async fn a_job_between_its_attempts_keeps_its_key(given: Given<M>) {
        let id = given.push(keyed()).await;
        given.end(given.lease().await, fail()).await;
        let pushed = given.store.push(vec![keyed()]).await.unwrap();
        assert_eq!(pushed, [Pushed::Duplicate { id, state: State::Scheduled, of: Same::Unique }]);
    }

    async fn a_dead_job_can_not_come_back_while_another_has_its_key(given: Given<M>) {
        let dead = given.dead_job(keyed()).await;
        let live = given.push(keyed()).await;
        assert_eq!(given.store.retry(dead).await.unwrap(), Changed::Duplicate(live));
        assert_eq!(given.store.replay(dead, Edit::default()).await.unwrap(), Changed::Duplicate(live));
        assert_eq!(given.state(dead).await, State::Dead);
    }

    async fn a_retried_job_has_its_key_again(given: Given<M>) {
        let id = given.dead_job(keyed()).await;
        given.store.retry(id).await.unwrap();
        let pushed = given.store.push(vec![keyed()]).await.unwrap();
        assert_eq!(pushed, [Pushed::Duplicate { id, state: State::Ready, of: Same::Unique }]);
    }

    async fn a_copy_has_the_key_of_its_original(given: Given<M>) {
        let dead = given.dead_job(keyed()).await;
        let Changed::Done(copy) = given.store.replay(dead, Edit::default()).await.unwrap() else { panic!() };
        let pushed = given.store.push(vec![keyed()]).await.unwrap();
        assert_eq!(pushed, [Pushed::Duplicate { id: copy.job, state: State::Ready, of: Same::Unique }]);
    }

    async fn a_key_with_a_window_is_held_for_it_whatever_becomes_of_the_job(given: Given<M>) {
        let throttled = with_hold(UniqueHold::WindowMs(10 * SECOND));
        let id = given.push(throttled.clone()).await;
        given.end(given.lease().await, ack()).await;
        given.pass(9 * SECOND);
        let pushed = given.store.push(vec![throttled.clone()]).await.unwrap();
        let state = State::Completed;
        assert_eq!(pushed, [Pushed::Duplicate { id, state, of: Same::Window }]);
        given.push(keyed()).await;
        given.pass(SECOND);
        given.push(throttled).await;
    }

    async fn of_debounced_jobs_the_last_one_wins(given: Given<M>) {
        let debounced = |payload: &'static [u8]| {
            let payload = Payload::new(Bytes::from_static(payload)).unwrap();
            let when = When::After(10 * SECOND);
            NewJob { payload, when, ..with_hold(UniqueHold::Debounce) }
        };
        let id = given.push(debounced(b"1")).await;
        given.pass(6 * SECOND);
        let run_at = Some(given.now() + 10 * SECOND);
        let pushed = given.store.push(vec![debounced(b"2")]).await.unwrap();
        assert_eq!(pushed, [Pushed::Replaced { id, state: State::Scheduled, run_at }]);
        given.pass(6 * SECOND);
        given.duty(Duty::Due).await;
        assert_eq!(given.claim(1).await, []);
        given.pass(4 * SECOND);
        given.duty(Duty::Due).await;
        let leased = &given.claim(1).await[0];
        assert_eq!((leased.lease.job, &leased.payload.bytes[..]), (id, &b"2"[..]));
        assert_ne!(given.push(debounced(b"3")).await, id);
    }

    async fn two_debounced_jobs_of_one_call_become_one(given: Given<M>) {
        let pushed = given.store.push(vec![with_hold(UniqueHold::Debounce); 2]).await.unwrap();
        let Pushed::Inserted { id, .. } = pushed[0] else { panic!("{pushed:?}") };
        assert_eq!(pushed[1], Pushed::Replaced { id, state: State::Ready, run_at: None });
        assert_eq!(given.counts().await.ready, 1);
    }

    async fn a_push_that_is_repeated_is_not_done_again(given: Given<M>) {
        let mut job = job();
        job.options.idempotency = Some(UniqueKey::parse("i").unwrap());
        let id = given.push(job.clone()).await;
        let of = Same::Push;
        let again = given.store.push(vec![job.clone()]).await.unwrap();
        assert_eq!(again, [Pushed::Duplicate { id, state: State::Ready, of }]);
        given.end(given.lease().await, ack()).await;
        given.pass(61 * SECOND);
        given.duty(Duty::Retention).await;
        let again = given.store.push(vec![job.clone()]).await.unwrap();
        assert_eq!(again, [Pushed::Duplicate { id, state: State::Completed, of }]);
        given.pass(limits::IDEMPOTENCY_WINDOW);
        given.push(job).await;
    }

    async fn a_refused_duplicate_holds_no_key(given: Given<M>) {
        given.push(keyed()).await;
        let mut both = keyed();
        both.options.idempotency = Some(UniqueKey::parse("i").unwrap());
        given.store.push(vec![both.clone()]).await.unwrap();
        given.end(given.lease().await, ack()).await;
        given.push(both).await;
    }

    async fn kinds_of_keys_do_not_meet(given: Given<M>) {
        given.push(keyed()).await;
        given.push(with_hold(UniqueHold::Debounce)).await;
        given.push(with_hold(UniqueHold::WindowMs(SECOND))).await;
        assert_eq!(given.counts().await.ready, 3);
    }

    async fn a_throttled_job_can_be_replayed_within_its_window(given: Given<M>) {
        let id = given.dead_job(with_hold(UniqueHold::WindowMs(60 * SECOND))).await;
        assert!(matches!(given.store.replay(id, Edit::default()).await.unwrap(), Changed::Done(_)));
    }

    async fn a_dead_job_whose_key_is_taken_is_not_copied(given: Given<M>) {
        let dead = given.dead_job(keyed()).await;
        let holder = given.push(keyed()).await;
        let copied = given.store.replay(dead, Edit::default()).await.unwrap();
        assert_eq!(copied, Changed::Duplicate(holder));
        assert_eq!(given.job(dead).await.replayed_as, None);
    }
}
