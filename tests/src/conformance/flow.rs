//! Limits by queue and by key, and fair share.

use std::time::Duration;

use batonq_server::job::{
    Concurrency, Flow, FlowKey, JobId, KeyLimits, NewJob, Rate, RateRule, Settings, State,
};
use batonq_server::store::{Destination, Duty, Edit, KeyLimit, KeyUse, Verdict};

use super::given::{Jobs, SECOND, SESSION, ack, fail, job, queue};
use super::rules;

fn key(name: &str) -> FlowKey {
    FlowKey::parse(name).expect("a key")
}

fn with(flow: Flow) -> NewJob {
    let mut job = job();
    job.options.flow = flow;
    job
}

fn at_once(name: &str, max: u32) -> NewJob {
    let concurrency = Some(Concurrency { key: key(name), max: Some(max) });
    with(Flow { concurrency, rate: None })
}

fn tenant(name: &str) -> NewJob {
    with(Flow { concurrency: Some(Concurrency { key: key(name), max: None }), rate: None })
}

fn rule(limit: u32, per: Duration, burst: u32) -> RateRule {
    RateRule { limit, per, burst: Some(burst) }
}

fn in_time(name: &str, rule: RateRule) -> NewJob {
    with(Flow { concurrency: None, rate: Some(Rate { key: key(name), rule }) })
}

rules! {
    async fn no_more_of_a_key_are_leased_at_once_than_it_allows(given: Given<M>) {
        for _ in 0..4 {
            given.push(at_once("k", 2)).await;
        }
        let leased = given.claim(10).await;
        assert_eq!(leased.len(), 2);
        assert_eq!(given.claim(10).await, []);
        given.end(leased[0].lease, ack()).await;
        assert_eq!(given.claim(10).await.len(), 1);
    }

    async fn every_end_of_a_lease_gives_the_slot_back(given: Given<M>) {
        let first = NewJob { priority: 1, timeout: Some(5 * SECOND), ..at_once("k", 1) };
        given.push(first).await;
        let after = given.push(at_once("k", 1)).await;
        let free = async || given.store.key_uses(queue()).await.unwrap();
        for end in ["release", "fail", "snooze", "crash", "timeout", "cancel"] {
            let lease = given.lease().await;
            assert_eq!(given.claim(1).await, [], "{end}");
            match end {
                "release" => drop(given.end(lease, Verdict::Release).await),
                "fail" => drop(given.end(lease, fail()).await),
                "snooze" => drop(given.end(lease, Verdict::Snooze(SECOND)).await),
                "crash" => drop(given.store.give_back(SESSION).await.unwrap()),
                "timeout" => {
                    given.pass(5 * SECOND);
                    given.duty(Duty::Timeouts).await;
                }
                _ => {
                    given.cancel(lease.job).await;
                    given.pass(10 * SECOND);
                    given.duty(Duty::Cancels).await;
                }
            }
            let [KeyUse { limit: KeyLimit::Concurrency { holders, .. }, .. }] = &free().await[..]
            else {
                panic!("one key");
            };
            assert!(holders.is_empty(), "{end}: {holders:?}");
            given.pass(20 * SECOND);
            given.duty(Duty::Due).await;
        }
        assert_eq!(given.lease().await.job, after);
    }

    async fn a_full_key_keeps_no_other_key_waiting(given: Given<M>) {
        given.push(at_once("full", 1)).await;
        given.lease().await;
        given.push(at_once("full", 1)).await;
        let plain = given.push(job()).await;
        let other = given.push(at_once("other", 1)).await;
        assert_eq!(given.claim(10).await.jobs(), [plain, other]);
    }

    async fn keys_take_turns_so_that_many_jobs_of_one_starve_nobody(given: Given<M>) {
        let mut many = Vec::new();
        for _ in 0..20 {
            many.push(given.push(tenant("big")).await);
        }
        let small = [given.push(tenant("small")).await, given.push(tenant("small")).await];
        let order: Vec<JobId> = [given.claim(3).await.jobs(), given.claim(3).await.jobs()].concat();
        assert_eq!(order, [many[0], small[0], many[1], small[1], many[2], many[3]]);
    }

    async fn within_a_key_jobs_are_first_in_first_out(given: Given<M>) {
        let mut pushed = Vec::new();
        for _ in 0..12 {
            pushed.push(given.push(at_once("k", 1)).await);
        }
        for expected in pushed {
            let lease = given.lease().await;
            assert_eq!(lease.job, expected);
            given.end(lease, ack()).await;
        }
    }

    async fn a_long_line_is_served_to_its_end(given: Given<M>) {
        let mut pushed = Vec::new();
        for _ in 0..100 {
            pushed.push(given.push(tenant("one")).await);
        }
        assert_eq!(given.claim(200).await.jobs(), pushed);
    }

    async fn a_rate_gives_out_its_burst_and_then_so_many_in_a_time(given: Given<M>) {
        for _ in 0..9 {
            given.push(in_time("api", rule(2, 10 * SECOND, 3))).await;
        }
        assert_eq!(given.claim(9).await.len(), 3);
        for (pass, count) in [(0, 0), (4, 0), (1, 1), (0, 0), (10, 2), (4, 0), (1, 1)] {
            given.pass(pass * SECOND);
            assert_eq!(given.claim(9).await.len(), count as usize);
        }
    }

    async fn a_rate_is_used_up_though_claims_come_a_little_late(given: Given<M>) {
        for name in ["api", "other"] {
            for _ in 0..5 {
                given.push(in_time(name, rule(1, SECOND, 1))).await;
            }
        }
        for (pass_ms, late_ms) in [(0, 0), (1010, 10), (1390, 400), (1590, 990), (10, 0)] {
            given.pass(Duration::from_millis(pass_ms));
            // One after the other: what one key used must not make the other one forgotten.
            let counts = [given.claim(1).await.len(), given.claim(1).await.len()];
            assert_eq!((counts, given.claim(9).await.len()), ([1, 1], 0), "{late_ms} ms late");
        }
    }

    async fn a_claim_says_when_a_rate_opens_again(given: Given<M>) {
        for _ in 0..2 {
            given.push(in_time("api", rule(1, 10 * SECOND, 1))).await;
        }
        let claimed = given.claimed(5).await;
        assert_eq!(claimed.closed, [(queue(), Some(given.now() + 10 * SECOND))]);
        given.pass(10 * SECOND);
        assert_eq!(given.claimed(5).await.closed, []);
    }

    async fn a_rate_that_is_set_anew_begins_anew(given: Given<M>) {
        for _ in 0..4 {
            given.push(in_time("api", rule(1, 3600 * SECOND, 1))).await;
        }
        assert_eq!(given.claim(9).await.len(), 1);
        let limits = KeyLimits { concurrency: None, rate: Some(rule(1, 10 * SECOND, 1)) };
        let keys = [("api".to_owned(), limits)].into();
        let settings = Settings { keys, ..Settings::default() };
        for count in [1, 0] {
            // The same again changes nothing.
            given.store.set_settings(queue(), settings.clone()).await.unwrap();
            assert_eq!(given.claim(9).await.len(), count);
        }
        given.pass(10 * SECOND);
        assert_eq!(given.claim(9).await.len(), 1);
    }

    async fn a_queue_has_limits_of_its_own(given: Given<M>) {
        given.ready_jobs(9).await;
        let settings = Settings { concurrency: Some(2), ..Settings::default() };
        given.store.set_settings(queue(), settings).await.unwrap();
        let leased = given.claim(9).await;
        assert_eq!(leased.len(), 2);
        given.end(leased[0].lease, ack()).await;
        assert_eq!(given.claim(9).await.len(), 1);
        let rate = Some(rule(1, 10 * SECOND, 1));
        let settings = Settings { rate, ..Settings::default() };
        given.store.set_settings(queue(), settings.clone()).await.unwrap();
        assert_eq!(given.queue().await.settings, settings);
        assert_eq!(given.claim(9).await.len(), 1);
        given.store.set_settings(queue(), Settings::default()).await.unwrap();
        assert_eq!(given.claim(9).await.len(), 5);
    }

    async fn what_people_set_for_a_key_counts_for_more_than_what_jobs_say(given: Given<M>) {
        for _ in 0..5 {
            given.push(at_once("k", 1)).await;
        }
        let limits = KeyLimits { concurrency: Some(3), rate: None };
        let keys = [("k".to_owned(), limits)].into_iter().collect();
        given.store.set_settings(queue(), Settings { keys, ..Settings::default() }).await.unwrap();
        assert_eq!(given.claim(9).await.len(), 3);
    }

    async fn the_use_of_keys_can_be_seen(given: Given<M>) {
        let holder = given.push(at_once("k", 1)).await;
        given.lease().await;
        given.push(at_once("k", 1)).await;
        given.push(in_time("api", rule(1, 10 * SECOND, 1))).await;
        given.lease().await;
        given.push(in_time("api", rule(1, 10 * SECOND, 1))).await;
        let opens_at = Some(given.now() + 10 * SECOND);
        let limit = KeyLimit::Concurrency { max: Some(1), holders: vec![holder] };
        let concurrency = KeyUse { key: key("k"), limit, waiting: 1 };
        let limit = KeyLimit::Rate { rule: rule(1, 10 * SECOND, 1), opens_at };
        let rate = KeyUse { key: key("api"), limit, waiting: 1 };
        assert_eq!(given.store.key_uses(queue()).await.unwrap(), [concurrency, rate]);
    }

    async fn a_queue_whose_last_limited_job_has_ended_is_as_any_other(given: Given<M>) {
        given.push(at_once("k", 1)).await;
        given.end(given.lease().await, ack()).await;
        given.duty(Duty::Retention).await;
        let pushed = given.ready_jobs(3).await;
        assert_eq!(given.claim(9).await.jobs(), pushed);
        given.push(at_once("k", 1)).await;
        given.push(at_once("k", 1)).await;
        assert_eq!(given.claim(9).await.len(), 1);
    }

    async fn limits_hold_for_jobs_that_come_into_line_in_any_way(given: Given<M>) {
        let retried = given.dead_job(at_once("k", 1)).await;
        given.duty(Duty::Retention).await;
        given.store.retry(retried).await.unwrap();
        let mut delayed = at_once("k", 1);
        delayed.when = batonq_server::job::When::After(SECOND);
        given.push(delayed.clone()).await;
        given.pass(SECOND);
        given.duty(Duty::Due).await;
        let promoted = given.push(delayed).await;
        given.store.promote(promoted).await.unwrap();
        assert_eq!(given.counts().await.ready, 3);
        assert_eq!(given.claim(9).await.len(), 1);
    }

    async fn a_moved_job_is_under_the_limits_of_its_new_queue(given: Given<M>) {
        let other = super::given::named("other");
        for _ in 0..2 {
            let id = given.push(NewJob { queue: other.clone(), ..at_once("k", 1) }).await;
            let edit = Edit { queue: Some(queue()), ..Edit::default() };
            given.store.edit(id, edit).await.unwrap();
        }
        assert_eq!(given.claim(9).await.len(), 1);
        assert_eq!(given.counts().await.ready, 1);
    }

    async fn slots_and_rates_outlive_a_restart(given: Given<M>) {
        for _ in 0..3 {
            given.push(at_once("k", 1)).await;
            given.push(in_time("api", rule(1, 10 * SECOND, 1))).await;
        }
        let leased = given.claim(9).await;
        assert_eq!(leased.len(), 2);
        let given = given.reopened().await;
        assert_eq!(given.claim(9).await, []);
        given.end(leased[0].lease, ack()).await;
        assert_eq!(given.claim(9).await.len(), 1);
    }

    async fn of_claims_made_at_once_the_last_ends_the_turns_also_if_no_key_is_left(given: Given<M>) {
        let pushed = [given.push(tenant("k")).await, given.push(job()).await];
        given.push(job()).await;
        let claims = given.claim_at_once(&[2, 1]).await;
        assert_eq!(claims.map(|jobs| jobs.len()), [2, 1]);
        // Nobody waited then: all begin anew, in the order of their coming.
        given.store.give_back(SESSION).await.unwrap();
        assert_eq!(given.claim(2).await.jobs(), pushed);
    }

    async fn a_limited_job_that_fails_waits_its_time(given: Given<M>) {
        let id = given.push(at_once("k", 1)).await;
        let to = given.end(given.lease().await, fail()).await;
        assert!(matches!(to, Destination::Scheduled(_)));
        assert_eq!(given.claim(9).await, []);
        given.pass(10 * SECOND);
        given.duty(Duty::Due).await;
        assert_eq!(given.lease().await.job, id);
        assert_eq!(given.state(id).await, State::Leased);
    }
}
