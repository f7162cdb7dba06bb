//! What a job waits for.

use batonq_server::job::{
    Concurrency, Depends, Flow, FlowKey, JobId, NewJob, OnFailure, Rate, RateRule, Settings, State,
};
use batonq_server::limits::AHEAD_MAX;
use batonq_server::store::{InLine, Limit, Paused, Pausing, Retry, Standing};

use super::given::{SECOND, ack, fail_with, in_time, job, named, queue};
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

fn after(on: &[JobId], on_failure: OnFailure) -> NewJob {
    let mut job = job();
    job.options.depends = Depends { on: on.to_vec(), on_failure };
    job
}

fn line(standing: Standing) -> InLine {
    standing.line.expect("it is ready")
}

fn free() -> InLine {
    InLine { higher: 0, ahead: 0, limits: Vec::new() }
}

rules! {
    async fn nothing_keeps_the_first_job_of_a_queue(given: Given<M>) {
        let id = given.push(job()).await;
        let standing = given.standing(id).await;
        assert_eq!((standing.now, standing.job.id), (given.now(), id));
        assert_eq!((standing.paused, standing.attempt), (None, None));
        assert_eq!((standing.needs, standing.line), (Vec::new(), Some(free())));
        assert_eq!(given.store.standing(JobId(9)).await.unwrap(), None);
    }

    async fn a_paused_queue_says_since_when_and_by_whom(given: Given<M>) {
        let id = given.push(job()).await;
        let since = given.now();
        given.store.set_paused(queue(), Pausing::Pause, "ada".into()).await.unwrap();
        given.pass(SECOND);
        given.store.set_paused(queue(), Pausing::Pause, "bob".into()).await.unwrap();
        let paused = Some(Paused { since, by: "ada".into() });
        assert_eq!(given.standing(id).await.paused, paused);
        let given = given.reopened().await;
        assert_eq!(given.standing(id).await.paused, paused);
        given.store.set_paused(queue(), Pausing::Resume, "eve".into()).await.unwrap();
        assert_eq!(given.standing(id).await.paused, None);
    }

    async fn jobs_stand_behind_their_own_line_and_those_of_higher_priority(given: Given<M>) {
        given.ready_jobs(2).await;
        given.push(at_once("k", 1)).await;
        for _ in 0..3 {
            given.push(NewJob { priority: 1, ..at_once("l", 1) }).await;
        }
        given.push(NewJob { priority: 2, ..job() }).await;
        given.push(NewJob { priority: 9, queue: named("other"), ..job() }).await;
        let own = given.push(at_once("k", 1)).await;
        given.push(NewJob { priority: -1, ..job() }).await;
        given.push(in_time(SECOND)).await;
        let line = line(given.standing(own).await);
        assert_eq!((line.higher, line.ahead), (4, 1));
    }

    async fn what_stands_before_a_job_is_counted_up_to_a_bound(given: Given<M>) {
        given.store.push(vec![job(); AHEAD_MAX]).await.unwrap();
        given.store.push(vec![NewJob { priority: 1, ..job() }; AHEAD_MAX]).await.unwrap();
        given.push(job()).await;
        given.push(NewJob { priority: 1, ..job() }).await;
        let last = given.push(job()).await;
        let line = line(given.standing(last).await);
        assert_eq!((line.higher, line.ahead), (AHEAD_MAX, AHEAD_MAX));
    }

    async fn a_blocked_job_names_those_that_it_still_waits_for(given: Given<M>) {
        let needs = given.ready_jobs(2).await;
        let id = given.push(after(&needs, OnFailure::Wait)).await;
        let (first, second) = (given.lease().await, given.lease().await);
        let expected = vec![(needs[0], Some(State::Leased)), (needs[1], Some(State::Leased))];
        assert_eq!(given.standing(id).await.needs, expected);
        given.end(first, ack()).await;
        given.end(second, fail_with(Retry::Reject)).await;
        assert_eq!(given.standing(id).await.needs, [(needs[1], Some(State::Dead))]);
    }

    async fn a_need_that_is_forgotten_is_still_waited_for(given: Given<M>) {
        let need = given.dead_job(job()).await;
        let id = given.push(after(&[need], OnFailure::Wait)).await;
        given.pass(2 * 3600 * SECOND);
        given.duty(batonq_server::store::Duty::Retention).await;
        assert_eq!(given.standing(id).await.needs, [(need, None)]);
    }

    async fn all_limits_that_are_reached_are_told(given: Given<M>) {
        let rule = RateRule { limit: 1, per: 10 * SECOND, burst: Some(1) };
        let flow = Flow {
            concurrency: Some(Concurrency { key: key("k"), max: Some(1) }),
            rate: Some(Rate { key: key("r"), rule }),
        };
        let holder = given.push(with(flow.clone())).await;
        let settings = Settings { concurrency: Some(1), rate: Some(rule), ..Settings::default() };
        given.store.set_settings(queue(), settings).await.unwrap();
        given.lease().await;
        let id = given.push(with(flow)).await;
        let opens_at = given.now() + 10 * SECOND;
        let limits = [
            Limit::Queue { max: 1, leased: 1 },
            Limit::Key { key: key("k"), max: 1, holders: vec![holder] },
            Limit::QueueRate { rule, opens_at },
            Limit::KeyRate { key: key("r"), rule, opens_at },
        ];
        assert_eq!(line(given.standing(id).await).limits, limits);
        given.pass(10 * SECOND);
        assert_eq!(line(given.standing(id).await).limits, limits[..2]);
    }

    async fn a_leased_job_says_by_whom(given: Given<M>) {
        let id = given.push(job()).await;
        let started = given.now();
        given.lease().await;
        let standing = given.standing(id).await;
        let attempt = standing.attempt.expect("it runs");
        assert_eq!((attempt.worker.as_str(), attempt.started_at), ("w", started));
        assert_eq!((standing.line, standing.job.state), (None, State::Leased));
    }
}
