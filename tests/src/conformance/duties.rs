//! What happens by time.

use std::time::Duration;

use batonq_server::job::{Backoff, NewJob, Reason, State};
use batonq_server::store::{
    DUTY_ROWS_MAX, Destination, Duty, FORGOTTEN_MAX, Hold, SESSION_LEASE, Verdict,
};

use super::given::{Jobs, SECOND, SESSION, ack, fail, in_time, job, named};
use super::rules;

rules! {
    async fn due_jobs_become_ready_in_the_order_of_their_times(given: Given<M>) {
        let late = given.push(in_time(3 * SECOND)).await;
        let early = given.push(in_time(2 * SECOND)).await;
        let later = given.push(in_time(9 * SECOND)).await;
        given.pass(3 * SECOND);
        let report = given.duty(Duty::Due).await;
        assert_eq!(report.effects.jobs(), [early, late]);
        assert_eq!(report.next, Some(6 * SECOND));
        assert_eq!(given.state(later).await, State::Scheduled);
    }

    async fn a_duty_that_is_done_twice_changes_nothing_more(given: Given<M>) {
        given.push(in_time(SECOND)).await;
        given.push(NewJob { ttl: Some(SECOND), ..job() }).await;
        given.pass(SECOND);
        for duty in Duty::ALL {
            given.duty(duty).await;
            let counts = given.counts().await;
            assert_eq!(given.duty(duty).await.effects, [], "{duty:?}");
            assert_eq!(given.counts().await, counts, "{duty:?}");
        }
    }

    async fn a_duty_does_a_bounded_part_and_says_that_there_is_more(given: Given<M>) {
        // What has a timeout is a row by itself.
        let job = NewJob { timeout: Some(SECOND), ..in_time(SECOND) };
        given.store.push(vec![job; DUTY_ROWS_MAX + 1]).await.unwrap();
        given.pass(SECOND);
        let report = given.duty(Duty::Due).await;
        assert_eq!((report.effects.len(), report.next), (DUTY_ROWS_MAX, Some(Duration::ZERO)));
        let report = given.duty(Duty::Due).await;
        assert_eq!((report.effects.len(), report.next), (1, None));
    }

    async fn a_duty_with_nothing_in_sight_says_so(given: Given<M>) {
        for duty in Duty::ALL {
            assert_eq!(given.duty(duty).await.next, None, "{duty:?}");
        }
    }

    async fn an_attempt_that_runs_too_long_is_charged(given: Given<M>) {
        let timed = NewJob { timeout: Some(5 * SECOND), max_attempts: 2, ..job() };
        let id = given.push(timed).await;
        let lease = given.lease().await;
        given.pass(4 * SECOND);
        assert_eq!(given.duty(Duty::Timeouts).await.next, Some(SECOND));
        given.store.renew(vec![SESSION]).await.unwrap();
        given.pass(SECOND);
        let report = given.duty(Duty::Timeouts).await;
        assert_eq!(report.lost, [(SESSION, lease)]);
        assert!(matches!(report.effects[0].to, Destination::Scheduled(_)));
        let job = given.job(id).await;
        assert_eq!((job.attempts, job.error.unwrap().0.as_str()), (1, "TIMEOUT"));
    }

    async fn an_attempt_that_ended_in_time_does_not_time_out(given: Given<M>) {
        for verdict in [ack(), Verdict::Release] {
            given.push(NewJob { timeout: Some(5 * SECOND), ..job() }).await;
            given.end(given.lease().await, verdict).await;
        }
        given.pass(5 * SECOND);
        assert_eq!(given.duty(Duty::Timeouts).await, batonq_server::store::DutyReport::default());
    }

    async fn waiting_jobs_die_when_their_time_to_live_is_over(given: Given<M>) {
        let ready = given.push(NewJob { ttl: Some(5 * SECOND), ..job() }).await;
        let scheduled =
            given.push(NewJob { ttl: Some(6 * SECOND), ..in_time(60 * SECOND) }).await;
        given.pass(6 * SECOND);
        let report = given.duty(Duty::Ttl).await;
        assert_eq!(report.effects.jobs(), [ready, scheduled]);
        for id in [ready, scheduled] {
            assert_eq!(given.job(id).await.reason, Some(Reason::Expired));
        }
        assert_eq!(given.claim(10).await, []);
        given.pass(60 * SECOND);
        assert_eq!(given.duty(Duty::Due).await.effects, []);
    }

    async fn finished_jobs_are_forgotten_in_time(given: Given<M>) {
        let dead = given.dead_job(job()).await;
        let completed = given.push(job()).await;
        given.end(given.lease().await, ack()).await;
        given.pass(59 * SECOND);
        given.duty(Duty::Retention).await;
        assert_eq!(given.state(completed).await, State::Completed);
        given.pass(SECOND);
        given.duty(Duty::Retention).await;
        assert_eq!(given.store.job(completed).await.unwrap(), None);
        assert_eq!(given.state(dead).await, State::Dead);
        given.pass(3600 * SECOND);
        given.duty(Duty::Retention).await;
        assert_eq!(given.store.timeline(dead).await.unwrap(), None);
        assert_eq!(given.counts().await, batonq_server::store::Counts::default());
    }

    async fn the_oldest_go_when_there_are_too_many(given: Given<M>) {
        let ids = given.ready_jobs(12).await;
        for leased in given.claim(12).await {
            given.end(leased.lease, ack()).await;
            given.pass(SECOND);
        }
        given.duty(Duty::Retention).await;
        assert_eq!(given.counts().await.completed, 10);
        assert_eq!(given.store.job(ids[1]).await.unwrap(), None);
        assert_eq!(given.state(ids[2]).await, State::Completed);
    }

    async fn jobs_that_are_due_at_once_become_ready_in_the_order_of_their_ids(given: Given<M>) {
        let ids =
            [given.push(in_time(SECOND)).await, given.push(in_time(SECOND)).await];
        given.pass(SECOND);
        assert_eq!(given.duty(Duty::Due).await.effects.jobs(), ids);
    }

    async fn leases_that_run_out_are_told_by_job(given: Given<M>) {
        let ids = given.ready_jobs(2).await;
        given.claim_as(1, Hold::Time(3 * SECOND)).await;
        given.claim_as(1, Hold::Time(2 * SECOND)).await;
        given.pass(SECOND);
        assert_eq!(given.duty(Duty::Expiry).await.next, Some(SECOND));
        given.pass(2 * SECOND);
        assert_eq!(given.duty(Duty::Expiry).await.effects.jobs(), ids);
    }

    async fn attempts_time_out_in_the_order_of_their_ends(given: Given<M>) {
        let timed = |timeout| NewJob { timeout: Some(timeout), ..job() };
        let late = given.push(timed(3 * SECOND)).await;
        let early = given.push(timed(2 * SECOND)).await;
        let held = given.claim(2).await;
        given.pass(3 * SECOND);
        let report = given.duty(Duty::Timeouts).await;
        assert_eq!(report.effects.jobs(), [early, late]);
        assert_eq!(report.lost, [(SESSION, held[1].lease), (SESSION, held[0].lease)]);
    }

    async fn the_last_attempt_that_times_out_is_the_end(given: Given<M>) {
        let id =
            given.push(NewJob { timeout: Some(SECOND), max_attempts: 1, ..job() }).await;
        given.lease().await;
        given.pass(SECOND);
        given.duty(Duty::Timeouts).await;
        assert_eq!(given.job(id).await.reason, Some(Reason::MaxAttemptsExceeded));
    }

    async fn a_retry_that_no_worker_asked_for_has_an_even_chance(given: Given<M>) {
        let backoff =
            Some(Backoff::Exponential { base: 8 * SECOND, max: 8 * SECOND, jitter: 0.5 });
        given.push(NewJob { backoff, timeout: Some(SECOND), ..job() }).await;
        given.lease().await;
        given.pass(SECOND);
        let report = given.duty(Duty::Timeouts).await;
        assert_eq!(report.effects[0].to, Destination::Scheduled(given.now() + 6 * SECOND));
    }

    async fn jobs_expire_in_the_order_of_their_times(given: Given<M>) {
        let living = |ttl| NewJob { ttl: Some(ttl), ..job() };
        let late = given.push(living(3 * SECOND)).await;
        let early = given.push(living(2 * SECOND)).await;
        given.push(living(9 * SECOND)).await;
        given.pass(3 * SECOND);
        let report = given.duty(Duty::Ttl).await;
        assert_eq!(report.effects.jobs(), [early, late]);
        assert_eq!(report.next, Some(6 * SECOND));
    }

    async fn a_job_that_waits_again_can_expire_again(given: Given<M>) {
        let id = given.push(NewJob { ttl: Some(60 * SECOND), ..job() }).await;
        given.end(given.lease().await, fail()).await;
        assert_eq!(given.duty(Duty::Ttl).await.next, Some(60 * SECOND));
        given.pass(60 * SECOND);
        assert_eq!(given.duty(Duty::Ttl).await.effects.jobs(), [id]);
        let job = given.job(id).await;
        assert_eq!((job.reason, job.deliveries), (Some(Reason::Expired), 1));
    }

    async fn a_session_that_lives_is_no_reason_to_look_again_soon(given: Given<M>) {
        given.ready_jobs(1).await;
        given.claim(1).await;
        given.pass(10 * SECOND);
        given.store.renew(vec![SESSION]).await.unwrap();
        assert_eq!(given.duty(Duty::Expiry).await.next, Some(SESSION_LEASE));
    }

    async fn completed_and_cancelled_jobs_of_a_queue_are_counted_together(given: Given<M>) {
        let dead = given.dead_job(job()).await;
        let elsewhere = given.push(NewJob { queue: named("other"), ..job() }).await;
        given.cancel(elsewhere).await;
        let oldest = given.push(job()).await;
        given.end(given.lease().await, ack()).await;
        for _ in 0..10 {
            given.pass(SECOND);
            let id = given.push(job()).await;
            given.cancel(id).await;
        }
        given.duty(Duty::Retention).await;
        assert_eq!(given.store.job(oldest).await.unwrap(), None);
        assert_eq!(given.counts().await.cancelled, 10);
        assert_eq!(given.state(elsewhere).await, State::Cancelled);
        assert_eq!(given.state(dead).await, State::Dead);
    }

    async fn finished_jobs_are_looked_at_every_minute_as_long_as_there_are_any(given: Given<M>) {
        given.push(job()).await;
        assert_eq!(given.duty(Duty::Retention).await.next, None);
        given.end(given.lease().await, ack()).await;
        assert_eq!(given.duty(Duty::Retention).await.next, Some(60 * SECOND));
        given.pass(60 * SECOND);
        assert_eq!(given.duty(Duty::Retention).await.next, None);
    }

    async fn a_bounded_number_is_forgotten_at_once(given: Given<M>) {
        let mut left = FORGOTTEN_MAX + 1;
        while left > 0 {
            let count = left.min(DUTY_ROWS_MAX);
            let jobs = vec![NewJob { ttl: Some(SECOND), ..job() }; count];
            given.store.push(jobs).await.unwrap();
            left -= count;
        }
        given.pass(SECOND);
        while given.duty(Duty::Ttl).await.next == Some(Duration::ZERO) {}
        given.pass(3600 * SECOND);
        assert_eq!(given.duty(Duty::Retention).await.next, Some(Duration::ZERO));
        assert_eq!(given.counts().await.dead, 1);
        assert_eq!(given.duty(Duty::Retention).await.next, None);
        assert_eq!(given.counts().await.dead, 0);
    }
}
