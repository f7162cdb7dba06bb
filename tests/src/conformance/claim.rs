//! Leasing ready jobs.

use batonq_server::job::{JobId, NewJob, Payload, Reason, State, WorkerName};
use batonq_server::store::{
    Claim, Destination, Duty, Hold, LeasedJob, Pausing, SESSION_LEASE, Verdict,
};
use bytes::Bytes;

use super::given::{SECOND, SESSION, in_time, job, named, queue};
use super::rules;

fn ids(jobs: &[LeasedJob]) -> Vec<JobId> {
    jobs.iter().map(|job| job.lease.job).collect()
}

fn claim(count: usize, bytes_max: usize) -> Claim {
    let worker = WorkerName::parse("w").expect("a name");
    Claim { queue: queue(), count, bytes_max, worker, hold: Hold::Time(SECOND) }
}

rules! {
    async fn higher_priorities_come_first_then_older_jobs(given: Given<M>) {
        let mut pushed = Vec::new();
        for priority in [0, 5, -5, 5, 0] {
            pushed.push(given.push(NewJob { priority, ..job() }).await);
        }
        let expected = [1, 3, 0, 4, 2].map(|place| pushed[place]);
        assert_eq!(ids(&given.claim(10).await), expected);
    }

    async fn extreme_priorities_are_in_order(given: Given<M>) {
        let low = given.push(NewJob { priority: i32::MIN, ..job() }).await;
        let high = given.push(NewJob { priority: i32::MAX, ..job() }).await;
        assert_eq!(ids(&given.claim(10).await), [high, low]);
    }

    async fn a_claim_brings_no_more_than_it_asks_for(given: Given<M>) {
        let pushed = given.ready_jobs(5).await;
        assert_eq!(ids(&given.claim(2).await), pushed[..2]);
        assert_eq!(ids(&given.claim(10).await), pushed[2..]);
        assert_eq!(given.claim(10).await, []);
    }

    async fn claims_of_one_call_share_no_job(given: Given<M>) {
        let pushed = given.ready_jobs(3).await;
        let claims = vec![claim(2, usize::MAX), claim(2, usize::MAX), claim(2, usize::MAX)];
        let claimed = given.store.claim(claims).await.unwrap().jobs;
        let claimed: Vec<Vec<JobId>> = claimed.iter().map(|jobs| ids(jobs)).collect();
        assert_eq!(claimed, [pushed[..2].to_vec(), pushed[2..].to_vec(), vec![]]);
    }

    async fn a_claim_says_all_that_a_worker_needs(given: Given<M>) {
        let id = given.push(NewJob { timeout: Some(SECOND), priority: 3, ..job() }).await;
        let leased = &given.claim(1).await[0];
        assert_eq!((leased.lease.job, leased.lease.delivery, leased.attempt), (id, 1, 1));
        assert_eq!((leased.priority, leased.timeout), (3, Some(SECOND)));
        assert_eq!(leased.lease_until, given.now() + SESSION_LEASE);
        let timed = given.push(job()).await;
        let leased = &given.claim_as(1, Hold::Time(5 * SECOND)).await[0];
        assert_eq!((leased.lease.job, leased.lease_until), (timed, given.now() + 5 * SECOND));
    }

    async fn a_claim_stops_before_it_has_too_many_bytes_but_brings_one_job(given: Given<M>) {
        let payload = Payload::new(Bytes::from(vec![b'1'; 100])).unwrap();
        for _ in 0..4 {
            given.push(NewJob { payload: payload.clone(), ..job() }).await;
        }
        for (bytes_max, count) in [(200, 2), (1, 1), (199, 1)] {
            let claimed = given.store.claim(vec![claim(10, bytes_max)]).await.unwrap();
            assert_eq!(claimed.jobs[0].len(), count, "{bytes_max}");
        }
    }

    async fn nothing_comes_from_a_paused_queue(given: Given<M>) {
        given.store.set_paused(queue(), Pausing::Pause).await.unwrap();
        let id = given.push(job()).await;
        assert_eq!(given.claim(1).await, []);
        given.store.set_paused(queue(), Pausing::Resume).await.unwrap();
        assert_eq!(ids(&given.claim(1).await), [id]);
    }

    async fn nothing_comes_from_a_queue_that_nobody_has_pushed_to(given: Given<M>) {
        let claim = Claim { queue: named("nothing"), ..claim(1, 1) };
        assert_eq!(given.store.claim(vec![claim]).await.unwrap().jobs, [vec![]]);
    }

    async fn an_expired_job_is_not_handed_out_but_dies(given: Given<M>) {
        let expired = given.push(NewJob { ttl: Some(10 * SECOND), ..job() }).await;
        let fresh = given.push(job()).await;
        given.pass(10 * SECOND);
        let claimed = given.store.claim(vec![claim(1, usize::MAX)]).await.unwrap();
        assert_eq!(ids(&claimed.jobs[0]), [fresh]);
        assert_eq!(claimed.expired[0].job, expired);
        assert_eq!(claimed.expired[0].to, Destination::Finished(State::Dead));
        assert_eq!(given.job(expired).await.reason, Some(Reason::Expired));
    }

    async fn a_job_that_becomes_due_stands_behind_those_in_line(given: Given<M>) {
        let delayed = given.push(in_time(SECOND)).await;
        let waiting = given.push(job()).await;
        given.pass(SECOND);
        given.duty(Duty::Due).await;
        assert_eq!(ids(&given.claim(2).await), [waiting, delayed]);
    }

    async fn a_job_that_comes_back_unharmed_keeps_its_place(given: Given<M>) {
        let pushed = given.ready_jobs(3).await;
        let first = given.lease().await;
        given.end(first, Verdict::Release).await;
        assert_eq!(ids(&given.claim(3).await), pushed);
        given.store.give_back(SESSION).await.unwrap();
        assert_eq!(ids(&given.claim(3).await), pushed);
    }
}
