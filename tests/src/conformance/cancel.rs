//! Asking for the end of leased jobs, giving jobs back for later, and changing waiting ones.

use batonq_server::job::{NewJob, Payload, State, UniqueKey, When};
use batonq_server::store::{
    Cancelled, Changed, Destination, Duty, Edit, Extension, Settled, Verdict,
};
use bytes::Bytes;

use super::given::{Jobs, SECOND, SESSION, ack, fail, job, named, queue};
use super::rules;

rules! {
    async fn the_end_of_a_leased_job_is_asked_for(given: Given<M>) {
        let id = given.push(job()).await;
        let lease = given.lease().await;
        let force_at = given.now() + 10 * SECOND;
        let requested = Cancelled::Requested { lease, session: Some(SESSION), force_at };
        assert_eq!(given.cancel(id).await, requested);
        assert_eq!(given.job(id).await.cancel, Some((given.now(), force_at)));
        assert_eq!(given.state(id).await, State::Leased);
    }

    async fn whoever_extends_the_lease_hears_of_it(given: Given<M>) {
        given.ready_jobs(1).await;
        let lease = given.lease().await;
        given.store.cancel(lease.job, 9 * SECOND).await.unwrap();
        let extended = given.store.extend(vec![Extension { lease, hold: SECOND }]).await.unwrap();
        let force_at = given.now() + 9 * SECOND;
        assert_eq!(extended[0].unwrap().cancel_at, Some(force_at));
        given.end(lease, Verdict::Release).await;
        let again = given.push(job()).await;
        let lease = given.lease().await;
        assert_eq!(lease.job, again);
        let extended = given.store.extend(vec![Extension { lease, hold: SECOND }]).await.unwrap();
        assert_eq!(extended[0].unwrap().cancel_at, None);
    }

    async fn whoever_asks_twice_can_only_shorten_the_time(given: Given<M>) {
        let id = given.push(job()).await;
        given.lease().await;
        given.cancel(id).await;
        let since = given.now();
        given.pass(SECOND);
        given.store.cancel(id, 60 * SECOND).await.unwrap();
        assert_eq!(given.job(id).await.cancel, Some((since, since + 10 * SECOND)));
        given.store.cancel(id, SECOND).await.unwrap();
        assert_eq!(given.job(id).await.cancel, Some((since, since + 2 * SECOND)));
    }

    async fn such_a_job_does_not_go_round_again(given: Given<M>) {
        for verdict in [fail(), Verdict::Release, Verdict::Snooze(SECOND)] {
            let id = given.push(job()).await;
            let lease = given.lease().await;
            given.cancel(id).await;
            let to = given.end(lease, verdict).await;
            assert_eq!(to, Destination::Finished(State::Cancelled));
        }
        let id = given.push(job()).await;
        given.lease().await;
        given.cancel(id).await;
        given.store.give_back(SESSION).await.unwrap();
        assert_eq!(given.state(id).await, State::Cancelled);
    }

    async fn a_worker_that_is_done_before_it_hears_has_done_its_job(given: Given<M>) {
        let id = given.push(job()).await;
        let lease = given.lease().await;
        given.cancel(id).await;
        assert_eq!(given.end(lease, ack()).await, Destination::Finished(State::Completed));
        given.pass(20 * SECOND);
        assert_eq!(given.duty(Duty::Cancels).await.effects, []);
    }

    async fn a_worker_that_does_not_end_it_in_time_loses_it(given: Given<M>) {
        let id = given.push(job()).await;
        let lease = given.lease().await;
        given.cancel(id).await;
        given.pass(10 * SECOND - std::time::Duration::from_millis(1));
        let report = given.duty(Duty::Cancels).await;
        assert_eq!(report.effects, []);
        assert_eq!(report.next, Some(std::time::Duration::from_millis(1)));
        given.pass(SECOND);
        let report = given.duty(Duty::Cancels).await;
        assert_eq!(report.effects.jobs(), [id]);
        assert_eq!(report.lost, [(SESSION, lease)]);
        assert_eq!(given.state(id).await, State::Cancelled);
        assert_eq!(given.settle(lease, ack()).await, Settled::LeaseLost);
        let (_, attempts) = given.store.timeline(id).await.unwrap().unwrap();
        assert_eq!(attempts[0].ending, "cancelled");
    }

    async fn the_wish_ends_with_the_lease(given: Given<M>) {
        let id = given.push(job()).await;
        given.lease().await;
        given.cancel(id).await;
        let given = given.reopened().await;
        assert!(given.job(id).await.cancel.is_some());
        given.store.give_back(SESSION).await.unwrap();
        assert_eq!(given.job(id).await.cancel, None);
    }

    async fn a_snoozed_job_comes_back_later_and_is_not_charged(given: Given<M>) {
        let id = given.push(NewJob { max_attempts: 1, ..job() }).await;
        let at = given.now() + 30 * SECOND;
        for _ in 0..3 {
            let to = given.end(given.lease().await, Verdict::Snooze(30 * SECOND)).await;
            assert!(matches!(to, Destination::Scheduled(_)));
            given.pass(30 * SECOND);
            given.duty(Duty::Due).await;
        }
        let job = given.job(id).await;
        assert_eq!((job.attempts, job.deliveries, job.error), (0, 3, None));
        assert!(given.now() > at);
    }

    async fn a_repeated_snooze_is_taken_for_the_same(given: Given<M>) {
        given.push(job()).await;
        let lease = given.lease().await;
        given.end(lease, Verdict::Snooze(SECOND)).await;
        assert_eq!(given.settle(lease, Verdict::Snooze(SECOND)).await, Settled::Repeated);
        assert_eq!(given.settle(lease, Verdict::Release).await, Settled::LeaseLost);
    }

    async fn a_waiting_job_gets_another_priority_and_payload(given: Given<M>) {
        let first = given.push(job()).await;
        let second = given.push(job()).await;
        let payload = Payload::new(Bytes::from_static(b"[2]")).unwrap();
        let edit = Edit { priority: Some(5), payload: Some(payload.clone()), ..Edit::default() };
        assert!(matches!(given.store.edit(second, edit).await.unwrap(), Changed::Done(_)));
        let claimed = given.claim(2).await;
        assert_eq!(claimed.jobs(), [second, first]);
        assert_eq!((claimed[0].priority, &claimed[0].payload), (5, &payload));
        given.store.give_back(SESSION).await.unwrap();
        assert_eq!(given.claim(2).await.jobs(), [second, first]);
    }

    async fn a_waiting_job_gets_another_time(given: Given<M>) {
        let id = given.push(job()).await;
        let later = Edit { when: Some(When::After(60 * SECOND)), ..Edit::default() };
        given.store.edit(id, later).await.unwrap();
        assert_eq!(given.job(id).await.run_at, Some(given.now() + 60 * SECOND));
        assert_eq!(given.claim(1).await, []);
        let now = Edit { when: Some(When::Now), ..Edit::default() };
        given.store.edit(id, now).await.unwrap();
        assert_eq!(given.lease().await.job, id);
    }

    async fn a_job_moves_to_another_queue_with_its_unique_key(given: Given<M>) {
        let unique = Some(UniqueKey::parse("k").unwrap());
        let other = named("other");
        let id = given.push(NewJob { queue: other.clone(), unique: unique.clone(), ..job() }).await;
        let first = given.push(job()).await;
        let edit = Edit { queue: Some(queue()), ..Edit::default() };
        given.store.edit(id, edit.clone()).await.unwrap();
        let second = given.push(NewJob { queue: other, unique: unique.clone(), ..job() }).await;
        assert_eq!(given.store.edit(second, edit).await.unwrap(), Changed::Duplicate(id));
        assert_eq!(given.claim(5).await.jobs(), [first, id]);
        assert_eq!(given.state(second).await, State::Ready);
    }

    async fn an_edit_that_was_made_for_something_else_changes_nothing(given: Given<M>) {
        let payload = |text: &'static str| Payload::new(Bytes::from_static(text.as_bytes())).unwrap();
        let id = given.push(NewJob { payload: payload("1"), ..job() }).await;
        let typed = payload("1").with_content_type("text/plain").unwrap();
        for was in [
            (queue(), payload("2")),
            (queue(), typed.clone()),
            (named("other"), payload("1")),
        ] {
            let edit = Edit { payload: Some(payload("3")), was: Some(was), ..Edit::default() };
            let edit = Edit { queue: Some(named("elsewhere")), ..edit };
            assert_eq!(given.store.edit(id, edit).await.unwrap(), Changed::Outdated);
        }
        assert_eq!(given.job(id).await.payload, Some(payload("1")));
        let was = Some((queue(), payload("1")));
        let edit = Edit { payload: Some(typed), was, priority: Some(3), ..Edit::default() };
        assert!(matches!(given.store.edit(id, edit).await.unwrap(), Changed::Done(_)));
        let claimed = given.claim(1).await;
        assert_eq!((claimed.jobs(), claimed[0].priority), (vec![id], 3));
    }

    async fn a_leased_or_ended_job_is_not_changed(given: Given<M>) {
        let id = given.push(job()).await;
        let lease = given.lease().await;
        let edit = Edit { priority: Some(5), ..Edit::default() };
        let changed = given.store.edit(id, edit.clone()).await.unwrap();
        assert_eq!(changed, Changed::WrongState(State::Leased));
        given.end(lease, ack()).await;
        let changed = given.store.edit(id, edit.clone()).await.unwrap();
        assert_eq!(changed, Changed::WrongState(State::Completed));
        let nobody = batonq_server::job::JobId(99);
        assert_eq!(given.store.edit(nobody, edit).await.unwrap(), Changed::NotFound);
    }
}
