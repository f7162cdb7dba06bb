//! Storing new jobs.

use std::time::Duration;

use batonq_server::job::{Backoff, NewJob, State, Tag, Timestamp, UniqueKey, When};
use batonq_server::store::{Pausing, Pushed};

use super::given::{SECOND, in_time, job, queue};
use super::rules;

rules! {
    async fn a_pushed_job_is_ready_and_as_it_was_pushed(given: Given<M>) {
        let id = given.push(NewJob { priority: 7, ..job() }).await;
        let stored = given.job(id).await;
        assert_eq!((stored.state, stored.priority, stored.queue), (State::Ready, 7, queue()));
        assert_eq!(stored.payload, Some(job().payload));
        assert_eq!((stored.attempts, stored.deliveries, stored.created_at), (0, 0, given.now()));
    }

    async fn ids_rise_in_the_order_of_the_jobs(given: Given<M>) {
        let pushed = given.store.push(vec![job(); 100]).await.unwrap();
        let ids: Vec<u64> = pushed
            .iter()
            .map(|pushed| match pushed {
                Pushed::Inserted { id, .. } => id.0,
                other => panic!("no key, no duplicate: {other:?}"),
            })
            .collect();
        assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
    }

    async fn a_delayed_job_is_scheduled_until_it_is_due(given: Given<M>) {
        let id = given.push(in_time(10 * SECOND)).await;
        assert_eq!(given.state(id).await, State::Scheduled);
        assert_eq!(given.job(id).await.run_at, Some(given.now() + 10 * SECOND));
        assert_eq!(given.claim(1).await, []);
    }

    async fn a_job_for_a_time_that_is_past_is_ready(given: Given<M>) {
        for when in [When::At(Timestamp(0)), When::At(given.now()), When::After(Duration::ZERO)] {
            let id = given.push(NewJob { when, ..job() }).await;
            assert_eq!(given.state(id).await, State::Ready, "{when:?}");
        }
    }

    async fn a_queue_comes_into_being_with_its_first_job(given: Given<M>) {
        assert_eq!(given.store.queues(None).await.unwrap(), []);
        given.push(job()).await;
        assert_eq!(given.counts().await.ready, 1);
    }

    async fn nothing_is_pushed_by_an_empty_call(given: Given<M>) {
        assert_eq!(given.store.push(vec![]).await.unwrap(), []);
    }

    async fn a_job_keeps_all_that_it_was_pushed_with(given: Given<M>) {
        let payload = job().payload.with_content_type("text/plain").unwrap();
        let backoff = Backoff::Exponential { base: SECOND, max: 9 * SECOND, jitter: 0.25 };
        let new = NewJob {
            payload: payload.clone(),
            ttl: Some(70 * SECOND),
            max_attempts: 3,
            backoff: Some(backoff.clone()),
            timeout: Some(5 * SECOND),
            unique: Some(UniqueKey::parse("k").unwrap()),
            tags: vec![Tag::parse("s").unwrap(), Tag::parse("t").unwrap()],
            ..job()
        };
        let stored = given.job(given.push(new.clone()).await).await;
        assert_eq!(stored.payload, Some(payload));
        assert_eq!(stored.expires_at, Some(given.now() + 70 * SECOND));
        assert_eq!((stored.max_attempts, stored.backoff), (3, Some(backoff)));
        assert_eq!((stored.timeout, stored.unique), (Some(5 * SECOND), new.unique));
        assert_eq!((stored.tags, stored.replay_of), (new.tags, None));
    }

    async fn a_scheduled_job_does_not_say_when_it_runs_once_it_is_ready(given: Given<M>) {
        let id = given.push(in_time(SECOND)).await;
        given.store.promote(id).await.unwrap();
        assert_eq!(given.job(id).await.run_at, None);
    }

    async fn a_paused_queue_takes_jobs(given: Given<M>) {
        given.store.set_paused(queue(), Pausing::Pause, "ada".into()).await.unwrap();
        let id = given.push(job()).await;
        assert_eq!(given.state(id).await, State::Ready);
    }
}
