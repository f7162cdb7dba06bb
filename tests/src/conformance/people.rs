//! What people change.

use std::collections::BTreeMap;

use batonq_server::job::{
    Depends, JobId, KeyLimits, NewJob, OnFailure, Payload, Reason, Settings, State, Tag, When,
};
use batonq_server::store::{
    CRASHES_MAX, Cancelled, Changed, Destination, Discarded, Duty, Edit, Effect, Pausing,
};
use bytes::Bytes;

use super::given::{Jobs, SECOND, SESSION, ack, fail, in_time, job, named, queue};
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
        let Changed::Done(effect) = given.store.replay(original, Edit::default()).await.unwrap() else { panic!() };
        let copy = given.job(effect.job).await;
        assert_eq!((copy.state, copy.priority), (State::Ready, 4));
        assert_eq!(copy.replay_of, Some(original));
        let original = given.job(original).await;
        assert_eq!((original.state, original.replayed_as), (State::Dead, Some(copy.id)));
    }

    async fn a_copy_may_differ(given: Given<M>) {
        let original = given.dead_job(NewJob { priority: 4, ..job() }).await;
        let payload = Payload::new(Bytes::from_static(b"7")).unwrap();
        let edit = Edit {
            priority: Some(5),
            payload: Some(payload.clone()),
            when: Some(When::After(SECOND)),
            queue: Some(named("other")),
            ..Edit::default()
        };
        let Changed::Done(effect) = given.store.replay(original, edit).await.unwrap() else {
            panic!()
        };
        assert_eq!(effect.to, Destination::Scheduled(given.now() + SECOND));
        let copy = given.job(effect.job).await;
        assert_eq!((copy.priority, copy.payload, copy.queue), (5, Some(payload), named("other")));
        assert_eq!(given.job(original).await.priority, 4);
    }

    async fn an_ended_job_can_be_deleted(given: Given<M>) {
        let tagged = NewJob { tags: vec![Tag::parse("t").unwrap()], ..job() };
        let dead = given.dead_job(tagged).await;
        assert!(matches!(given.store.delete(dead).await.unwrap(), Changed::Done(_)));
        assert_eq!(given.store.delete(dead).await.unwrap(), Changed::NotFound);
        assert_eq!(given.store.timeline(dead).await.unwrap(), None);
        assert_eq!(given.counts().await.dead, 0);
        let waiting = given.push(job()).await;
        assert_eq!(given.store.delete(waiting).await.unwrap(), Changed::WrongState(State::Ready));
        given.lease().await;
        assert_eq!(given.store.delete(waiting).await.unwrap(), Changed::WrongState(State::Leased));
    }

    async fn a_waiting_job_can_be_cancelled(given: Given<M>) {
        for waiting in [job(), in_time(SECOND)] {
            let id = given.push(waiting).await;
            assert!(matches!(given.cancel(id).await, Cancelled::Done(_)));
            assert_eq!(given.state(id).await, State::Cancelled);
            assert_eq!(given.cancel(id).await, Cancelled::WrongState(State::Cancelled));
        }
        assert_eq!(given.claim(1).await, []);
        given.pass(SECOND);
        assert_eq!(given.duty(Duty::Due).await.effects, []);
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
        given.store.set_paused(queue(), Pausing::Pause, "ada".into()).await.unwrap();
        let since = given.now();
        given.pass(SECOND);
        given.store.set_paused(queue(), Pausing::Pause, "ada".into()).await.unwrap();
        assert_eq!(given.queue().await.paused_at, Some(since));
        given.store.set_paused(queue(), Pausing::Resume, "ada".into()).await.unwrap();
        assert_eq!(given.queue().await.paused_at, None);
    }

    async fn encrypted_queues_and_the_queues_of_jobs_are_told(given: Given<M>) {
        assert_eq!(given.store.encrypted_queues().await.unwrap(), []);
        let id = given.push(job()).await;
        let leased = given.lease().await;
        let keys = BTreeMap::from([("\"encrypted\":true".to_owned(), KeyLimits::default())]);
        let open = Settings { keys, ..Settings::default() };
        given.store.set_settings(queue(), open.clone()).await.unwrap();
        let encrypted = Settings { encrypted: true, ..open };
        given.store.set_settings(named("secret"), encrypted).await.unwrap();
        assert_eq!(given.store.encrypted_queues().await.unwrap(), [named("secret")]);
        let ended = given.dead_job(NewJob { queue: queue(), ..job() }).await;
        let queues = given.store.queues_of(vec![ended, id, JobId(99)]).await.unwrap();
        assert_eq!((leased.job, queues), (id, vec![None, Some(queue()), None]));
    }

    async fn nothing_is_done_to_a_job_that_never_was(given: Given<M>) {
        let nobody = JobId(99);
        assert_eq!(given.store.retry(nobody).await.unwrap(), Changed::NotFound);
        assert_eq!(given.store.replay(nobody, Edit::default()).await.unwrap(), Changed::NotFound);
        assert_eq!(given.cancel(nobody).await, Cancelled::NotFound);
        assert_eq!(given.store.promote(nobody).await.unwrap(), Changed::NotFound);
    }

    async fn retried_and_promoted_jobs_stand_behind_those_in_line(given: Given<M>) {
        let dead = given.dead_job(job()).await;
        let scheduled = given.push(in_time(SECOND)).await;
        let waiting = given.push(job()).await;
        given.store.promote(scheduled).await.unwrap();
        given.store.retry(dead).await.unwrap();
        assert_eq!(given.claim(3).await.jobs(), [waiting, scheduled, dead]);
    }

    async fn a_retried_job_is_forgiven_its_crashes(given: Given<M>) {
        let id = given.push(job()).await;
        for _ in 0..CRASHES_MAX {
            given.lease().await;
            given.store.give_back(SESSION).await.unwrap();
        }
        given.store.retry(id).await.unwrap();
        given.lease().await;
        given.store.give_back(SESSION).await.unwrap();
        let job = given.job(id).await;
        assert_eq!((job.state, job.crashes, job.deliveries), (State::Ready, 1, CRASHES_MAX + 1));
    }

    async fn a_retried_job_still_points_to_its_copy(given: Given<M>) {
        let id = given.dead_job(job()).await;
        let Changed::Done(copy) = given.store.replay(id, Edit::default()).await.unwrap() else { panic!() };
        given.store.retry(id).await.unwrap();
        assert_eq!(given.job(id).await.replayed_as, Some(copy.job));
    }

    async fn a_copy_is_pushed_with_what_its_original_was_pushed_with(given: Given<M>) {
        let payload = job().payload.with_content_type("text/plain").unwrap();
        let new = NewJob {
            payload: payload.clone(),
            when: When::After(SECOND),
            ttl: Some(70 * SECOND),
            max_attempts: 3,
            timeout: Some(5 * SECOND),
            tags: vec![Tag::parse("t").unwrap()],
            ..job()
        };
        let original = given.push(new.clone()).await;
        given.cancel(original).await;
        given.pass(50 * SECOND);
        let Changed::Done(effect) = given.store.replay(original, Edit::default()).await.unwrap() else { panic!() };
        let copy = given.job(effect.job).await;
        assert_eq!((copy.state, copy.payload, copy.tags), (State::Ready, Some(payload), new.tags));
        assert_eq!((copy.max_attempts, copy.timeout), (3, new.timeout));
        assert_eq!((copy.backoff, copy.created_at), (new.backoff, given.now()));
        assert_eq!(copy.expires_at, Some(given.now() + 70 * SECOND));
    }

    async fn a_second_copy_takes_the_place_of_the_first(given: Given<M>) {
        let original = given.dead_job(job()).await;
        given.store.replay(original, Edit::default()).await.unwrap();
        let Changed::Done(second) = given.store.replay(original, Edit::default()).await.unwrap() else { panic!() };
        assert_eq!(given.job(original).await.replayed_as, Some(second.job));
    }

    async fn only_an_ended_job_is_copied(given: Given<M>) {
        let id = given.push(in_time(SECOND)).await;
        assert_eq!(given.store.replay(id, Edit::default()).await.unwrap(), Changed::WrongState(State::Scheduled));
        given.store.promote(id).await.unwrap();
        assert_eq!(given.store.replay(id, Edit::default()).await.unwrap(), Changed::WrongState(State::Ready));
        let lease = given.lease().await;
        assert_eq!(given.store.replay(id, Edit::default()).await.unwrap(), Changed::WrongState(State::Leased));
        given.end(lease, ack()).await;
        assert!(matches!(given.store.replay(id, Edit::default()).await.unwrap(), Changed::Done(_)));
    }

    async fn only_a_scheduled_job_is_promoted(given: Given<M>) {
        let id = given.push(job()).await;
        assert_eq!(given.store.promote(id).await.unwrap(), Changed::WrongState(State::Ready));
        let lease = given.lease().await;
        assert_eq!(given.store.promote(id).await.unwrap(), Changed::WrongState(State::Leased));
        given.end(lease, ack()).await;
        assert_eq!(given.store.promote(id).await.unwrap(), Changed::WrongState(State::Completed));
    }

    async fn a_waiting_job_can_be_discarded(given: Given<M>) {
        let need = given.push(in_time(60 * SECOND)).await;
        let mut blocked = job();
        blocked.options.depends = Depends { on: vec![need], on_failure: OnFailure::Wait };
        for waiting in [job(), in_time(SECOND), blocked] {
            let id = given.push(waiting).await;
            let Discarded::Done(effect, more) = given.store.discard(id).await.unwrap() else {
                panic!()
            };
            let to = Destination::Finished(State::Dead);
            assert_eq!((effect, more), (Effect { job: id, queue: queue(), to }, vec![]));
            let dead = given.job(id).await;
            assert_eq!((dead.state, dead.reason), (State::Dead, Some(Reason::Rejected)));
            let again = given.store.discard(id).await.unwrap();
            assert_eq!(again, Discarded::WrongState(State::Dead));
        }
        assert_eq!(given.claim(1).await, []);
        let counts = given.counts().await;
        assert_eq!((counts.scheduled, counts.blocked, counts.dead), (1, 0, 3));
    }

    async fn a_discarded_job_can_be_sent_round_again(given: Given<M>) {
        let id = given.push(job()).await;
        given.end(given.lease().await, fail()).await;
        given.store.discard(id).await.unwrap();
        assert_eq!(given.job(id).await.attempts, 1);
        given.store.retry(id).await.unwrap();
        assert_eq!(given.lease().await.delivery, 2);
        let kinds: Vec<_> = given.story(id).await.iter().map(|event| event.kind).collect();
        let before = ["pushed", "leased", "lease_ended", "discarded", "ended"];
        assert_eq!(kinds, [&before[..], &["retried", "leased"]].concat());
    }

    async fn those_that_wait_for_a_discarded_job_learn_of_it(given: Given<M>) {
        let need = given.push(job()).await;
        let with = |on_failure| {
            let mut job = job();
            job.options.depends = Depends { on: vec![need], on_failure };
            job
        };
        let fails = given.push(with(OnFailure::Fail)).await;
        let goes_on = given.push(with(OnFailure::Ignore)).await;
        let Discarded::Done(_, more) = given.store.discard(need).await.unwrap() else { panic!() };
        assert_eq!(more.jobs(), [fails, goes_on]);
        assert_eq!(given.job(fails).await.reason, Some(Reason::DependencyFailed));
        assert_eq!(given.state(goes_on).await, State::Ready);
    }

    async fn only_a_waiting_job_is_discarded(given: Given<M>) {
        let id = given.push(job()).await;
        let lease = given.lease().await;
        let discarded = given.store.discard(id).await.unwrap();
        assert_eq!(discarded, Discarded::WrongState(State::Leased));
        given.end(lease, ack()).await;
        let discarded = given.store.discard(id).await.unwrap();
        assert_eq!(discarded, Discarded::WrongState(State::Completed));
        assert_eq!(given.store.discard(JobId(99)).await.unwrap(), Discarded::NotFound);
    }

    async fn an_ended_job_is_not_cancelled(given: Given<M>) {
        let id = given.dead_job(job()).await;
        assert_eq!(given.cancel(id).await, Cancelled::WrongState(State::Dead));
    }
}
