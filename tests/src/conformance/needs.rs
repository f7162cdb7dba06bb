//! Jobs that wait for other jobs.

use batonq_server::job::{Depends, JobId, NewJob, OnFailure, Reason, State, When};
use batonq_server::store::{
    Destination, Duty, Effect, LeasedJob, Need, Pushed, Refusal, Retry, Settled, Settlement,
    Verdict,
};
use bytes::Bytes;

use super::given::{Jobs, SECOND, ack, fail_with, job, queue};
use super::rules;

fn after(on: &[JobId]) -> NewJob {
    with_policy(on, OnFailure::Fail)
}

fn with_policy(on: &[JobId], on_failure: OnFailure) -> NewJob {
    let mut job = job();
    job.options.depends = Depends { on: on.to_vec(), on_failure };
    job
}

rules! {
    async fn a_job_waits_until_all_that_it_needs_are_completed(given: Given<M>) {
        let needs = given.ready_jobs(2).await;
        let id = given.push(after(&needs)).await;
        assert_eq!(given.state(id).await, State::Blocked);
        assert_eq!(given.counts().await.blocked, 1);
        let leased = given.claim(9).await;
        assert_eq!(leased.jobs(), needs);
        given.end(leased[0].lease, ack()).await;
        assert_eq!(given.state(id).await, State::Blocked);
        given.end(leased[1].lease, ack()).await;
        assert_eq!(given.state(id).await, State::Ready);
        assert_eq!(given.lease().await.job, id);
    }

    async fn a_job_that_others_wait_for_is_acked_among_others_and_no_lease_is_left(given: Given<M>) {
        let needs = given.ready_jobs(5).await;
        let leased = [given.claim(3).await, given.claim(2).await].concat();
        given.push(after(&needs[..1])).await;
        let settlement = |job: &LeasedJob| Settlement { lease: job.lease, verdict: ack() };
        let all = given.store.settle(leased.iter().map(settlement).collect()).await.unwrap();
        assert!(all.settled.iter().all(|settled| matches!(settled, Settled::Done(_))));
        assert_eq!(given.duty(Duty::Expiry).await.next, None);
    }

    async fn whoever_waits_is_told_of(given: Given<M>) {
        let need = given.push(job()).await;
        let id = given.push(after(&[need])).await;
        let lease = given.lease().await;
        let settlement = Settlement { lease, verdict: ack() };
        let all = given.store.settle(vec![settlement]).await.unwrap();
        assert_eq!(all.more, [Effect { job: id, queue: queue(), to: Destination::Ready }]);
    }

    async fn the_results_of_those_that_it_needed_come_with_a_job(given: Given<M>) {
        let need = given.push(job()).await;
        given.push(after(&[need])).await;
        let result = Some(Bytes::from_static(b"[1]"));
        given.end(given.lease().await, Verdict::Ack { result: result.clone() }).await;
        let expected = Need { id: need, state: Some(State::Completed), result };
        assert_eq!(given.claim(1).await[0].needs, [expected]);
    }

    async fn what_has_been_completed_already_is_not_waited_for(given: Given<M>) {
        let need = given.push(job()).await;
        given.end(given.lease().await, ack()).await;
        let id = given.push(after(&[need])).await;
        assert_eq!(given.state(id).await, State::Ready);
    }

    async fn a_job_that_nobody_knows_can_not_be_waited_for(given: Given<M>) {
        let pushed = given.store.push(vec![job(), after(&[JobId(99)])]).await.unwrap();
        assert!(matches!(pushed[0], Pushed::Inserted { .. }));
        assert_eq!(pushed[1], Pushed::Refused(Refusal::NoSuchJob(JobId(99))));
        assert_eq!(given.counts().await.ready, 1);
    }

    async fn when_one_fails_those_that_need_it_follow_their_policies(given: Given<M>) {
        for verdict in [Some(fail_with(Retry::Reject)), None] {
            let need = given.push(job()).await;
            let fails = given.push(with_policy(&[need], OnFailure::Fail)).await;
            let goes_on = given.push(with_policy(&[need], OnFailure::Ignore)).await;
            let waits = given.push(with_policy(&[need], OnFailure::Wait)).await;
            match verdict {
                Some(verdict) => drop(given.end(given.lease().await, verdict).await),
                None => drop(given.cancel(need).await),
            }
            let failed = given.job(fails).await;
            assert_eq!((failed.state, failed.reason), (State::Dead, Some(Reason::DependencyFailed)));
            assert_eq!(given.state(goes_on).await, State::Ready);
            assert_eq!(given.state(waits).await, State::Blocked);
            given.end(given.lease().await, ack()).await;
        }
    }

    async fn a_failure_goes_down_the_line(given: Given<M>) {
        let need = given.push(job()).await;
        let second = given.push(after(&[need])).await;
        let third = given.push(after(&[second])).await;
        given.end(given.lease().await, fail_with(Retry::Reject)).await;
        assert_eq!(given.state(second).await, State::Dead);
        assert_eq!(given.state(third).await, State::Dead);
    }

    async fn who_waits_on_goes_on_once_the_other_is_retried_and_completed(given: Given<M>) {
        let need = given.push(job()).await;
        let id = given.push(with_policy(&[need], OnFailure::Wait)).await;
        given.end(given.lease().await, fail_with(Retry::Reject)).await;
        given.store.retry(need).await.unwrap();
        given.end(given.lease().await, ack()).await;
        assert_eq!(given.lease().await.job, id);
    }

    async fn a_job_that_expires_fails_those_that_need_it(given: Given<M>) {
        let need = given.push(NewJob { ttl: Some(SECOND), ..job() }).await;
        let by_duty = given.push(after(&[need])).await;
        given.pass(SECOND);
        given.duty(Duty::Ttl).await;
        assert_eq!(given.state(by_duty).await, State::Dead);
        let need = given.push(NewJob { ttl: Some(SECOND), ..job() }).await;
        let by_claim = given.push(after(&[need])).await;
        given.pass(SECOND);
        assert_eq!(given.claim(1).await, []);
        assert_eq!(given.state(by_claim).await, State::Dead);
    }

    async fn a_job_that_waits_keeps_its_time(given: Given<M>) {
        let need = given.push(job()).await;
        let id = given.push(NewJob { when: When::After(60 * SECOND), ..after(&[need]) }).await;
        given.end(given.lease().await, ack()).await;
        assert_eq!(given.state(id).await, State::Scheduled);
        let need = given.push(job()).await;
        let id = given.push(NewJob { when: When::After(SECOND), ..after(&[need]) }).await;
        given.pass(2 * SECOND);
        given.end(given.lease().await, ack()).await;
        assert_eq!(given.state(id).await, State::Ready);
    }

    async fn a_flow_is_stored_as_a_whole_or_not_at_all(given: Given<M>) {
        let child = job();
        let parent = NewJob { waits_for: vec![0, 1], is_part: true, ..job() };
        let flow = vec![child.clone(), child.clone(), parent.clone()];
        let pushed = given.store.push(flow).await.unwrap();
        let id = pushed[2].id().unwrap();
        assert_eq!(given.state(id).await, State::Blocked);
        assert_eq!(given.job(id).await.options.depends.on.len(), 2);
        let bad = vec![child, after(&[JobId(99)]), parent];
        let refused = Pushed::Refused(Refusal::NoSuchJob(JobId(99)));
        assert_eq!(given.store.push(bad).await.unwrap(), [refused; 3]);
        assert_eq!(given.counts().await.ready, 2);
    }

    async fn a_job_whose_need_has_failed_already_is_dead_at_once(given: Given<M>) {
        let need = given.dead_job(job()).await;
        let pushed = given.store.push(vec![after(&[need])]).await.unwrap();
        let Pushed::Inserted { id, state, .. } = pushed[0] else { panic!("{pushed:?}") };
        assert_eq!((state, given.state(id).await), (State::Dead, State::Dead));
        let reason = Some(Reason::DependencyFailed);
        assert_eq!(given.job(id).await.reason, reason);
    }

    async fn a_blocked_job_can_be_cancelled_and_expires(given: Given<M>) {
        let need = given.push(job()).await;
        let cancelled = given.push(after(&[need])).await;
        given.cancel(cancelled).await;
        assert_eq!(given.state(cancelled).await, State::Cancelled);
        let expired = given.push(NewJob { ttl: Some(SECOND), ..after(&[need]) }).await;
        given.pass(SECOND);
        given.duty(Duty::Ttl).await;
        assert_eq!(given.job(expired).await.reason, Some(Reason::Expired));
        given.end(given.lease().await, ack()).await;
        assert_eq!(given.counts().await.ready, 0);
    }

    async fn who_ended_while_it_waited_waits_for_nothing_when_it_is_sent_round_again(given: Given<M>) {
        let need = given.push(job()).await;
        let id = given.push(NewJob { ttl: Some(SECOND), ..after(&[need]) }).await;
        given.pass(SECOND);
        given.duty(Duty::Ttl).await;
        given.store.retry(id).await.unwrap();
        let leased = given.claim(9).await;
        assert_eq!(leased.jobs(), [need, id]);
        given.end(leased[0].lease, ack()).await;
        assert_eq!(given.state(id).await, State::Leased);
        assert_eq!(given.claim(9).await, []);
        given.end(leased[1].lease, ack()).await;
    }

    async fn who_waits_still_waits_after_a_restart(given: Given<M>) {
        let need = given.push(job()).await;
        let id = given.push(after(&[need])).await;
        let given = given.reopened().await;
        assert_eq!((given.state(id).await, given.counts().await.blocked), (State::Blocked, 1));
        given.end(given.lease().await, ack()).await;
        assert_eq!(given.state(id).await, State::Ready);
    }

    async fn a_job_that_is_leased_while_somebody_begins_to_wait_lets_him_go_on(given: Given<M>) {
        let need = given.push(job()).await;
        let lease = given.lease().await;
        let id = given.push(after(&[need])).await;
        given.end(lease, ack()).await;
        assert_eq!(given.state(id).await, State::Ready);
    }
}
