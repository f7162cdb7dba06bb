//! What is looked at after something has gone wrong: whether a store is as the model says, and
//! whether its jobs can still be worked off.

use std::time::Duration;

use batonq_server::job::{Lease, OnFailure, QueueName, State, WorkerName};
use batonq_server::leader::Term;
use batonq_server::store::{
    Claim, Duty, Hold, Job, JobFilter, Pausing, SchedulesWanted, Settlement, Store, Verdict,
};

use crate::drift::visible;

/// In each round a minute passes: more than anything here waits for, many times.
const ROUNDS_MAX: u32 = 200;

/// The queues of [`crate::drift::step`].
pub(crate) fn queues() -> [QueueName; 2] {
    ["a", "b"].map(|name| QueueName::parse(name).expect("a name"))
}

/// The first thing that can be seen of a store and is another in the model, and what it is there.
/// `newest` is the newest job that has been seen.
pub(crate) async fn difference(
    store: &dyn Store,
    model: &dyn Store,
    newest: &mut u64,
) -> Option<(String, String)> {
    let expected = visible(model, newest).await.expect("the model does not fail");
    let seen = visible(store, &mut newest.clone()).await.expect("it can be looked at");
    let (seen_count, expected_count) = (seen.len(), expected.len());
    let other = seen.into_iter().zip(expected).find(|(seen, expected)| seen != expected);
    let counts = || Some((seen_count.to_string(), expected_count.to_string()));
    other.or_else(|| counts().filter(|(seen, expected)| seen != expected))
}

/// Resumes and claims and acks until no job is live. `pass` moves the time on.
///
/// # Panics
///
/// If some are never to be had.
pub(crate) async fn work_off(store: &dyn Store, term: &Term, pass: impl Fn(Duration)) {
    for schedule in store.schedules(SchedulesWanted::After(None, 10)).await.unwrap() {
        store.delete_schedule(schedule.name).await.unwrap();
    }
    for queue in queues() {
        store.set_paused(queue, Pausing::Resume, "ada".into()).await.unwrap();
    }
    let live = JobFilter { is_live: Some(true), limit: 100, ..JobFilter::default() };
    for _ in 0..ROUNDS_MAX {
        pass(Duration::from_secs(60));
        for duty in Duty::ALL {
            store.run_duty(term, duty).await.unwrap();
        }
        ack_what_is_there(store).await;
        let left = store.jobs(live.clone()).await.unwrap().jobs;
        if left.is_empty() {
            return;
        }
        let is_stuck = left.iter().all(|job| job.state == State::Blocked);
        if let Some(job) = left.iter().find(|job| is_stuck && waits_on(job)) {
            // What it waits for has ended badly, and nobody sends that round again.
            store.cancel(job.id, Duration::ZERO).await.unwrap();
        }
    }
    panic!("never to be had: {:#?}", store.jobs(live).await.unwrap().jobs);
}

fn waits_on(job: &Job) -> bool {
    job.options.depends.on_failure == OnFailure::Wait
}

async fn ack_what_is_there(store: &dyn Store) {
    let worker = WorkerName::parse("w").expect("a name");
    let hold = Hold::Time(Duration::from_secs(10));
    let claim = |queue| Claim {
        queue,
        count: 50,
        enough: 50,
        bytes_max: usize::MAX,
        worker: worker.clone(),
        hold,
    };
    let claimed = store.claim(queues().map(claim).to_vec()).await.unwrap().jobs.concat();
    let ack = |lease: Lease| Settlement { lease, verdict: Verdict::Ack { result: None } };
    store.settle(claimed.into_iter().map(|job| ack(job.lease)).collect()).await.unwrap();
}
