//! Queues that keep no completed jobs.

use batonq_server::job::{Depends, NewJob, Options, Settings, State, Tag, UniqueKey};
use batonq_server::store::{
    Counts, Destination, Duty, EventKind, EventsWanted, JobFilter, Need, Pushed, Same, Settled,
    Settlement, Verdict,
};
use bytes::Bytes;

use super::given::{Given, SECOND, ack, fail, job, queue};
use super::rules;
use crate::stores::Maker;

/// Both ways to say that none are kept.
fn none_kept() -> [Settings; 2] {
    let by_time =
        Settings { keep_completed: Some(std::time::Duration::ZERO), ..Settings::default() };
    [by_time, Settings { keep_completed_max: Some(0), ..Settings::default() }]
}

async fn keep_none<M: Maker>(given: &Given<M>) {
    let [_, by_number] = none_kept();
    given.store.set_settings(queue(), by_number).await.expect("it works");
}

rules! {
    async fn one_whose_end_was_asked_for_is_forgotten_as_well(given: Given<M>) {
        keep_none(&given).await;
        let id = given.push(job()).await;
        let lease = given.lease().await;
        given.cancel(id).await;
        given.end(lease, ack()).await;
        assert_eq!(given.store.job(id).await.unwrap(), None);
    }

    async fn an_acked_job_is_forgotten_at_once(given: Given<M>) {
        for settings in none_kept() {
            given.store.set_settings(queue(), settings).await.unwrap();
            let id = given.push(job()).await;
            let to = given.end(given.lease().await, ack()).await;
            assert_eq!(to, Destination::Finished(State::Completed));
            assert_eq!(given.store.job(id).await.unwrap(), None);
            assert_eq!(given.counts().await, Counts::default());
        }
    }

    async fn the_same_ack_again_finds_nothing(given: Given<M>) {
        keep_none(&given).await;
        given.ready_jobs(2).await;
        let lease = given.lease().await;
        given.end(lease, ack()).await;
        assert_eq!(given.settle(lease, ack()).await, Settled::Unknown);
        let twice = vec![Settlement { lease: given.lease().await, verdict: ack() }; 2];
        let settled = given.store.settle(twice).await.unwrap().settled;
        assert!(matches!(settled[..], [Settled::Done(_), Settled::Unknown]), "{settled:?}");
    }

    async fn nothing_is_left_of_its_story(given: Given<M>) {
        keep_none(&given).await;
        let tag = Tag::parse("t").unwrap();
        let id = given.push(NewJob { tags: vec![tag.clone()], ..job() }).await;
        given.end(given.lease().await, fail()).await;
        given.pass(10 * SECOND);
        given.duty(Duty::Due).await;
        assert_ne!(given.noted(id).await, []);
        given.end(given.lease().await, ack()).await;
        assert_eq!(given.store.timeline(id).await.unwrap(), None);
        assert_eq!(given.noted(id).await, []);
        let tagged = JobFilter { tag: Some(tag), limit: 9, ..JobFilter::default() };
        assert_eq!(given.store.jobs(tagged).await.unwrap().jobs, []);
        let reopened = given.reopened().await;
        assert_eq!(reopened.counts().await, Counts::default());
    }

    async fn whoever_listens_hears_of_it(given: Given<M>) {
        keep_none(&given).await;
        let watching = given.store.watch(Some(queue()), 60 * SECOND).await.unwrap();
        given.push(job()).await;
        given.end(given.lease().await, ack()).await;
        let upto = given.store.event_head().await.unwrap();
        let wanted =
            EventsWanted { after: watching.now, upto, queue: Some(queue()), limit: 9 };
        let heard = given.store.events(wanted).await.unwrap().events;
        assert_eq!(heard.last().unwrap().kind, EventKind::Completed);
    }

    async fn its_keys_outlive_it_as_ever(given: Given<M>) {
        keep_none(&given).await;
        let unique = Some(UniqueKey::parse("k").unwrap());
        let unique = NewJob { unique, ..job() };
        given.push(unique.clone()).await;
        given.end(given.lease().await, ack()).await;
        given.push(unique).await;
        given.end(given.lease().await, ack()).await;
        let idempotency = Some(UniqueKey::parse("i").unwrap());
        let once = NewJob { options: Options { idempotency, ..Options::default() }.into(), ..job() };
        let id = given.push(once.clone()).await;
        given.end(given.lease().await, ack()).await;
        let again = Pushed::Duplicate { id, state: State::Completed, of: Same::Push };
        assert_eq!(given.store.push(vec![once]).await.unwrap(), [again]);
    }

    async fn a_job_that_others_wait_for_is_kept_until_retention_comes(given: Given<M>) {
        keep_none(&given).await;
        let need = given.push(job()).await;
        let depends = Depends { on: vec![need], ..Depends::default() };
        let waits = NewJob { options: Options { depends, ..Options::default() }.into(), ..job() };
        given.push(waits).await;
        let result = Some(Bytes::from_static(b"[1]"));
        given.end(given.lease().await, Verdict::Ack { result: result.clone() }).await;
        assert_eq!(given.counts().await.completed, 1);
        let leased = given.claim(1).await;
        assert_eq!(leased[0].needs, [Need { id: need, state: Some(State::Completed), result }]);
        given.duty(Duty::Retention).await;
        assert_eq!(given.store.job(need).await.unwrap(), None);
    }

    async fn cancelled_and_dead_jobs_are_kept_as_ever(given: Given<M>) {
        keep_none(&given).await;
        let dead = given.dead_job(job()).await;
        let cancelled = given.push(job()).await;
        given.cancel(cancelled).await;
        assert_eq!(given.state(cancelled).await, State::Cancelled);
        given.duty(Duty::Retention).await;
        assert_eq!(given.store.job(cancelled).await.unwrap(), None);
        assert_eq!(given.state(dead).await, State::Dead);
    }

    async fn what_was_kept_before_is_kept_until_retention_comes(given: Given<M>) {
        let earlier = given.push(job()).await;
        given.end(given.lease().await, ack()).await;
        given.push(job()).await;
        let lease = given.lease().await;
        keep_none(&given).await;
        given.end(lease, ack()).await;
        assert_eq!((given.counts().await.completed, given.state(earlier).await), (1, State::Completed));
        given.duty(Duty::Retention).await;
        assert_eq!(given.store.job(earlier).await.unwrap(), None);
    }
}
