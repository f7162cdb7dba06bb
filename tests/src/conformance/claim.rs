//! Leasing ready jobs.

use batonq_server::job::{JobId, NewJob, Options, Payload, Reason, State, Tag, WorkerName};
use batonq_server::store::{Claim, Destination, Duty, Hold, Pausing, SESSION_LEASE, Verdict};
use bytes::Bytes;

use super::given::{Jobs, SECOND, SESSION, fail, in_time, job, named, queue};
use super::rules;

fn claim(count: usize, bytes_max: usize) -> Claim {
    let worker = WorkerName::parse("w").expect("a name");
    Claim { queue: queue(), count, enough: count, bytes_max, worker, hold: Hold::Time(SECOND) }
}

rules! {
    async fn higher_priorities_come_first_then_older_jobs(given: Given<M>) {
        let mut pushed = Vec::new();
        for priority in [0, 5, -5, 5, 0] {
            pushed.push(given.push(NewJob { priority, ..job() }).await);
        }
        let expected = [1, 3, 0, 4, 2].map(|place| pushed[place]);
        assert_eq!(given.claim(10).await.jobs(), expected);
    }

    async fn extreme_priorities_are_in_order(given: Given<M>) {
        let low = given.push(NewJob { priority: i32::MIN, ..job() }).await;
        let high = given.push(NewJob { priority: i32::MAX, ..job() }).await;
        assert_eq!(given.claim(10).await.jobs(), [high, low]);
    }

    async fn a_claim_brings_no_more_than_it_asks_for(given: Given<M>) {
        let pushed = given.ready_jobs(5).await;
        assert_eq!(given.claim(2).await.jobs(), pushed[..2]);
        assert_eq!(given.claim(10).await.jobs(), pushed[2..]);
        assert_eq!(given.claim(10).await, []);
    }

    async fn claims_of_one_call_share_no_job(given: Given<M>) {
        let pushed = given.ready_jobs(3).await;
        let claims = vec![claim(2, usize::MAX), claim(2, usize::MAX), claim(2, usize::MAX)];
        let claimed = given.store.claim(claims).await.unwrap().jobs;
        let claimed: Vec<Vec<JobId>> = claimed.iter().map(|jobs| jobs.jobs()).collect();
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
        given.store.set_paused(queue(), Pausing::Pause, "ada".into()).await.unwrap();
        let id = given.push(job()).await;
        assert_eq!(given.claim(1).await, []);
        given.store.set_paused(queue(), Pausing::Resume, "ada".into()).await.unwrap();
        assert_eq!(given.claim(1).await.jobs(), [id]);
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
        assert_eq!(claimed.jobs[0].jobs(), [fresh]);
        assert_eq!(claimed.expired[0].job, expired);
        assert_eq!(claimed.expired[0].to, Destination::Finished(State::Dead));
        assert_eq!(given.job(expired).await.reason, Some(Reason::Expired));
    }

    async fn a_job_that_becomes_due_stands_behind_those_in_line(given: Given<M>) {
        let delayed = given.push(in_time(SECOND)).await;
        let waiting = given.push(job()).await;
        given.pass(SECOND);
        given.duty(Duty::Due).await;
        assert_eq!(given.claim(2).await.jobs(), [waiting, delayed]);
    }

    async fn a_job_that_comes_back_unharmed_keeps_its_place(given: Given<M>) {
        let pushed = given.ready_jobs(3).await;
        let first = given.lease().await;
        given.end(first, Verdict::Release).await;
        assert_eq!(given.claim(3).await.jobs(), pushed);
        given.store.give_back(SESSION).await.unwrap();
        assert_eq!(given.claim(3).await.jobs(), pushed);
    }

    async fn a_claim_brings_the_job_as_it_was_pushed(given: Given<M>) {
        let payload = job().payload.with_content_type("text/plain").unwrap();
        let tags = vec![Tag::parse("t").unwrap()];
        let extra = Some("{\"kept\":1}".into());
        let options = Options { extra, ..Options::default() };
        let new = NewJob { payload, tags, max_attempts: 3, options: options.into(), ..job() };
        given.push(new.clone()).await;
        let pushed_at = given.now();
        given.pass(SECOND);
        let leased = &given.claim(1).await[0];
        assert_eq!((&leased.payload, &leased.tags), (&new.payload, &new.tags));
        assert_eq!(leased.options, new.options);
        assert_eq!((leased.max_attempts, leased.created_at), (3, pushed_at));
    }

    async fn a_claim_takes_from_its_own_queue_alone(given: Given<M>) {
        let id = given.push(job()).await;
        given.push(NewJob { queue: named("other"), priority: 9, ..job() }).await;
        assert_eq!(given.claim(10).await.jobs(), [id]);
    }

    async fn an_expired_job_takes_up_no_bytes(given: Given<M>) {
        let payload = Payload::new(Bytes::from(vec![b'1'; 100])).unwrap();
        given.push(NewJob { payload: payload.clone(), ttl: Some(SECOND), ..job() }).await;
        let fresh = NewJob { payload, ..job() };
        let ids = [given.push(fresh.clone()).await, given.push(fresh).await];
        given.pass(SECOND);
        let claimed = given.store.claim(vec![claim(10, 200)]).await.unwrap();
        assert_eq!(claimed.jobs[0].jobs(), ids);
    }

    async fn expired_jobs_are_told_in_the_order_of_the_claims(given: Given<M>) {
        let mortal = |name| NewJob { queue: named(name), ttl: Some(SECOND), ..job() };
        // More of the first than it asks for, so that it must look on.
        let mut ids = Vec::new();
        for name in ["a", "a", "b"] {
            ids.push(given.push(mortal(name)).await);
        }
        given.pass(SECOND);
        let of = |name| Claim { queue: named(name), ..claim(1, usize::MAX) };
        let claimed = given.store.claim(vec![of("a"), of("b")]).await.unwrap();
        assert_eq!(claimed.expired.jobs(), ids);
    }

    async fn a_job_that_failed_stands_behind_those_in_line(given: Given<M>) {
        let failed = given.push(job()).await;
        given.end(given.lease().await, fail()).await;
        let waiting = given.push(job()).await;
        given.pass(10 * SECOND);
        given.duty(Duty::Due).await;
        assert_eq!(given.claim(2).await.jobs(), [waiting, failed]);
    }

    async fn a_job_whose_lease_ran_out_keeps_its_place(given: Given<M>) {
        let pushed = given.ready_jobs(3).await;
        for hold in [Hold::Session(SESSION), Hold::Time(SECOND)] {
            given.claim_as(1, hold).await;
            given.pass(SESSION_LEASE);
            given.duty(Duty::Expiry).await;
        }
        assert_eq!(given.claim(3).await.jobs(), pushed);
    }

    async fn a_place_that_was_given_at_the_due_time_is_kept_too(given: Given<M>) {
        let delayed = given.push(in_time(SECOND)).await;
        let first = given.push(job()).await;
        given.pass(SECOND);
        given.duty(Duty::Due).await;
        let last = given.push(job()).await;
        for leased in given.claim(3).await {
            given.end(leased.lease, Verdict::Release).await;
        }
        assert_eq!(given.claim(3).await.jobs(), [first, delayed, last]);
    }
}
