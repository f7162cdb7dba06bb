//! Ending leases as their workers say.

use std::time::Duration;

use batonq_server::job::{Backoff, Lease, NewJob, Reason, State};
use batonq_server::store::{
    CRASHES_MAX, Destination, Duty, Hold, Retry, Settled, Settlement, Verdict,
};
use bytes::Bytes;

use super::given::{SECOND, SESSION, ack, fail, fail_with, job};
use super::rules;

rules! {
    async fn an_acked_job_is_completed_and_keeps_its_result(given: Given<M>) {
        let id = given.push(job()).await;
        let result = Some(Bytes::from_static(b"\"done\""));
        given.end(given.lease().await, Verdict::Ack { result: result.clone() }).await;
        let job = given.job(id).await;
        assert_eq!((job.state, job.result), (State::Completed, result));
        assert_eq!((job.deliveries, job.attempts), (1, 0));
        assert_eq!(job.finished_at, Some(given.now()));
        assert_eq!(given.counts().await.completed, 1);
    }

    async fn a_lost_lease_can_not_be_settled(given: Given<M>) {
        given.ready_jobs(1).await;
        let lost = given.lease().await;
        given.end(lost, Verdict::Release).await;
        let held = given.lease().await;
        for verdict in [ack(), fail()] {
            assert_eq!(given.settle(lost, verdict).await, Settled::LeaseLost);
        }
        given.end(held, ack()).await;
        assert_eq!(given.settle(lost, ack()).await, Settled::LeaseLost);
    }

    async fn the_same_settlement_again_is_fine(given: Given<M>) {
        for verdict in [ack(), fail(), fail_with(Retry::Reject), Verdict::Release] {
            given.ready_jobs(1).await;
            let lease = given.lease().await;
            given.end(lease, verdict.clone()).await;
            assert_eq!(given.settle(lease, verdict).await, Settled::Repeated);
        }
    }

    async fn it_is_so_also_while_somebody_else_has_the_job(given: Given<M>) {
        for verdict in [fail(), Verdict::Release] {
            given.ready_jobs(1).await;
            let lease = given.lease().await;
            given.end(lease, verdict.clone()).await;
            given.pass(10 * SECOND);
            given.duty(Duty::Due).await;
            let held = given.lease().await;
            assert_eq!((held.job, held.delivery), (lease.job, 2));
            assert_eq!(given.settle(lease, verdict).await, Settled::Repeated);
            given.end(held, ack()).await;
        }
    }

    async fn it_is_so_also_after_the_last_attempt(given: Given<M>) {
        let id = given.push(NewJob { max_attempts: 1, ..job() }).await;
        let lease = given.lease().await;
        given.end(lease, fail()).await;
        assert_eq!(given.state(id).await, State::Dead);
        assert_eq!(given.settle(lease, fail()).await, Settled::Repeated);
    }

    async fn it_is_so_whenever_the_worker_wants_the_retry(given: Given<M>) {
        given.ready_jobs(1).await;
        let lease = given.lease().await;
        given.end(lease, fail()).await;
        let later = fail_with(Retry::After(SECOND));
        assert_eq!(given.settle(lease, later).await, Settled::Repeated);
        assert_eq!(given.settle(lease, fail_with(Retry::Reject)).await, Settled::LeaseLost);
    }

    async fn another_settlement_afterwards_is_not(given: Given<M>) {
        given.ready_jobs(1).await;
        let lease = given.lease().await;
        given.end(lease, ack()).await;
        for verdict in [fail(), Verdict::Release] {
            assert_eq!(given.settle(lease, verdict).await, Settled::LeaseLost);
        }
    }

    async fn in_one_call_the_second_of_two_is_a_repetition(given: Given<M>) {
        given.ready_jobs(1).await;
        let lease = given.lease().await;
        let twice = vec![Settlement { lease, verdict: ack() }; 2];
        let settled = given.store.settle(twice).await.unwrap();
        assert!(matches!(settled.settled[..], [Settled::Done(_), Settled::Repeated]), "{settled:?}");
    }

    async fn a_stale_lease_does_not_spoil_its_neighbours(given: Given<M>) {
        given.ready_jobs(2).await;
        let stale = given.lease().await;
        given.end(stale, Verdict::Release).await;
        let held = given.claim(2).await;
        let leases = [held[0].lease, stale, held[1].lease];
        let all = leases.map(|lease| Settlement { lease, verdict: ack() }).to_vec();
        let settled = given.store.settle(all).await.unwrap();
        assert!(matches!(
            settled.settled[..],
            [Settled::Done(_), Settled::LeaseLost, Settled::Done(_)]
        ));
    }

    async fn acks_and_other_ends_in_one_call_are_each_what_they_are(given: Given<M>) {
        given.ready_jobs(4).await;
        let held: Vec<Lease> = given.claim(4).await.iter().map(|job| job.lease).collect();
        let ends = [
            (held[0], ack()),
            (held[1], fail()),
            // Of two ends of one lease the first one counts, also if the other one is an ack.
            (held[2], Verdict::Release),
            (held[2], ack()),
            (held[3], ack()),
        ];
        let all = ends.map(|(lease, verdict)| Settlement { lease, verdict }).to_vec();
        let settled = given.store.settle(all).await.unwrap().settled;
        let to = |settled: &Settled| match settled {
            Settled::Done(effect) => Some((effect.job, effect.to)),
            _ => None,
        };
        let completed = Destination::Finished(State::Completed);
        let again = Destination::Scheduled(given.now() + 10 * SECOND);
        assert_eq!(
            settled.iter().map(to).collect::<Vec<_>>(),
            [
                Some((held[0].job, completed)),
                Some((held[1].job, again)),
                Some((held[2].job, Destination::Ready)),
                None,
                Some((held[3].job, completed)),
            ]
        );
        assert_eq!(settled[3], Settled::LeaseLost);
    }

    async fn nothing_is_known_of_a_job_that_never_was(given: Given<M>) {
        let lease = Lease { job: batonq_server::job::JobId(99), delivery: 1 };
        assert_eq!(given.settle(lease, ack()).await, Settled::Unknown);
    }

    async fn a_failed_job_is_tried_again_after_its_backoff(given: Given<M>) {
        let id = given.push(job()).await;
        let to = given.end(given.lease().await, fail()).await;
        assert_eq!(to, Destination::Scheduled(given.now() + 10 * SECOND));
        given.pass(10 * SECOND);
        given.duty(Duty::Due).await;
        let again = &given.claim(1).await[0];
        assert_eq!((again.lease.job, again.lease.delivery, again.attempt), (id, 2, 2));
    }

    async fn a_worker_may_choose_the_delay(given: Given<M>) {
        given.push(job()).await;
        let to = given.end(given.lease().await, fail_with(Retry::After(3 * SECOND))).await;
        assert_eq!(to, Destination::Scheduled(given.now() + 3 * SECOND));
    }

    async fn a_list_of_delays_is_gone_through(given: Given<M>) {
        let backoff = Some(Backoff::List(vec![SECOND, 5 * SECOND]));
        given.push(NewJob { backoff, ..job() }).await;
        for delay in [SECOND, 5 * SECOND, 5 * SECOND] {
            let to = given.end(given.lease().await, fail()).await;
            assert_eq!(to, Destination::Scheduled(given.now() + delay));
            given.pass(delay);
            given.duty(Duty::Due).await;
        }
    }

    async fn the_last_attempt_that_fails_is_the_end(given: Given<M>) {
        let backoff = Some(Backoff::Fixed(Duration::ZERO));
        let id = given.push(NewJob { max_attempts: 2, backoff, ..job() }).await;
        given.end(given.lease().await, fail()).await;
        given.duty(Duty::Due).await;
        let to = given.end(given.lease().await, fail()).await;
        assert_eq!(to, Destination::Finished(State::Dead));
        let job = given.job(id).await;
        assert_eq!((job.reason, job.attempts), (Some(Reason::MaxAttemptsExceeded), 2));
        assert_eq!(job.error, Some(("NO".into(), "it went wrong".into())));
        assert_eq!(given.counts().await.dead, 1);
    }

    async fn a_rejected_job_is_dead_at_once(given: Given<M>) {
        let id = given.dead_job(job()).await;
        let job = given.job(id).await;
        assert_eq!((job.reason, job.attempts), (Some(Reason::Rejected), 1));
    }

    async fn a_released_job_is_not_charged(given: Given<M>) {
        let id = given.push(NewJob { max_attempts: 1, ..job() }).await;
        for delivery in 1..=20 {
            let lease = given.lease().await;
            assert_eq!(lease.delivery, delivery);
            assert_eq!(given.end(lease, Verdict::Release).await, Destination::Ready);
        }
        let job = given.job(id).await;
        assert_eq!((job.attempts, job.crashes, job.deliveries), (0, 0, 20));
    }

    async fn a_job_whose_workers_keep_vanishing_is_poison(given: Given<M>) {
        let id = given.push(NewJob { max_attempts: 1, ..job() }).await;
        for crash in 1..=CRASHES_MAX {
            assert_eq!(given.state(id).await, State::Ready, "before crash {crash}");
            given.lease().await;
            given.store.give_back(SESSION).await.unwrap();
        }
        let job = given.job(id).await;
        assert_eq!((job.reason, job.crashes, job.attempts), (Some(Reason::Poison), CRASHES_MAX, 0));
    }

    async fn a_job_whose_time_to_live_ends_before_its_next_attempt_is_dead(given: Given<M>) {
        let id = given.push(NewJob { ttl: Some(5 * SECOND), ..job() }).await;
        given.end(given.lease().await, fail()).await;
        assert_eq!(given.job(id).await.reason, Some(Reason::Expired));
    }

    async fn a_running_job_outlives_its_time_to_live(given: Given<M>) {
        let id = given.push(NewJob { ttl: Some(5 * SECOND), ..job() }).await;
        let lease = given.lease().await;
        given.pass(6 * SECOND);
        assert_eq!(given.duty(Duty::Ttl).await.effects, []);
        given.end(lease, ack()).await;
        assert_eq!(given.state(id).await, State::Completed);
    }

    async fn a_lease_that_was_never_given_is_lost(given: Given<M>) {
        let id = given.push(job()).await;
        let first = Lease { job: id, delivery: 1 };
        assert_eq!(given.settle(first, ack()).await, Settled::LeaseLost);
        given.lease().await;
        let second = Lease { job: id, delivery: 2 };
        assert_eq!(given.settle(second, ack()).await, Settled::LeaseLost);
        assert_eq!(given.state(id).await, State::Leased);
    }

    async fn nothing_is_known_of_a_job_that_was_forgotten(given: Given<M>) {
        given.push(job()).await;
        let lease = given.lease().await;
        given.end(lease, ack()).await;
        given.pass(60 * SECOND);
        given.duty(Duty::Retention).await;
        assert_eq!(given.settle(lease, ack()).await, Settled::Unknown);
    }

    async fn a_lease_beyond_its_time_is_good_until_it_is_taken_away(given: Given<M>) {
        given.ready_jobs(1).await;
        let lease = given.claim_as(1, Hold::Time(SECOND)).await[0].lease;
        given.pass(5 * SECOND);
        assert_eq!(given.end(lease, ack()).await, Destination::Finished(State::Completed));
    }

    async fn a_verdict_on_a_lease_that_was_taken_away_is_too_late(given: Given<M>) {
        given.push(NewJob { timeout: Some(SECOND), ..job() }).await;
        let lease = given.lease().await;
        given.pass(SECOND);
        given.duty(Duty::Timeouts).await;
        for verdict in [ack(), fail(), Verdict::Release] {
            assert_eq!(given.settle(lease, verdict).await, Settled::LeaseLost);
        }
    }

    async fn the_delay_of_a_failure_is_left_to_its_chance(given: Given<M>) {
        let backoff =
            Some(Backoff::Exponential { base: 8 * SECOND, max: 8 * SECOND, jitter: 0.5 });
        for (chance, delay) in [(0.0, 8 * SECOND), (0.5, 6 * SECOND), (1.0, 4 * SECOND)] {
            given.push(NewJob { backoff: backoff.clone(), ..job() }).await;
            let mut verdict = fail();
            if let Verdict::Fail { chance: its, .. } = &mut verdict {
                *its = chance;
            }
            let to = given.end(given.lease().await, verdict).await;
            assert_eq!(to, Destination::Scheduled(given.now() + delay), "{chance}");
        }
    }
}
