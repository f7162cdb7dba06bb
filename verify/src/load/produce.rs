//! Clients that push.
//!
//! A push is repeated with the same keys until it is answered, each time at another address. Some
//! that nobody knows the outcome of are left so, and those of bare jobs always are.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::sleep;

use super::answer::Failure;
use super::caller::{Caller, Place};
use super::jobs::Spec;
use super::run::Run;

/// How many of a hundred jobs of which nobody knows whether they were pushed are left so.
const LEFT_UNKNOWN_PERCENT: u32 = 10;
/// Between two tries of the same push.
const AGAIN_AFTER: Duration = Duration::from_millis(50);
/// A producer goes elsewhere after so many calls, though nothing is wrong.
const CALLS_AT_ONE_PLACE: u32 = 100;

/// Pushes until all is pushed, or nothing more shall be.
pub(super) async fn produce(run: Arc<Run>, number: u32) {
    let mut producer = Producer::new(&run, number);
    let quiet = run.quiet.clone();
    let mut calls = 0;
    while let Some(Some(jobs)) = quiet.run_until_cancelled(run.next_jobs(&mut producer.dice)).await
    {
        producer.push(jobs).await;
        calls += 1;
        if calls % CALLS_AT_ONE_PLACE == 0 {
            producer.turn();
        }
    }
}

/// Pushes one more job through a caller, until that is done.
pub(super) async fn push_one(run: &Run, caller: &Caller) {
    let job = [run.one_more()];
    loop {
        match caller.push(run, &job).await.first() {
            Some(Err(failure)) if failure.may_repeat() => sleep(AGAIN_AFTER).await,
            _ => return,
        }
    }
}

struct Producer<'a> {
    run: &'a Run,
    dice: StdRng,
    places: Vec<Place>,
    /// Where it has been.
    callers: Vec<Option<Caller>>,
    at: usize,
}

impl<'a> Producer<'a> {
    fn new(run: &'a Run, number: u32) -> Self {
        let mut places = run.places(number % 2 == 1);
        if places.is_empty() {
            places = run.places(false);
        }
        let at = number as usize / 2 % places.len().max(1);
        let dice = StdRng::seed_from_u64(run.profile.seed.wrapping_add(number.into()));
        let callers = places.iter().map(|_| None).collect();
        Self { run, dice, places, callers, at }
    }

    fn turn(&mut self) {
        self.at = (self.at + 1) % self.places.len();
    }

    async fn push(&mut self, mut jobs: Vec<Spec>) {
        let count = jobs.len();
        while !jobs.is_empty() {
            jobs = self.push_once(jobs).await;
            if jobs.is_empty() || self.run.over.is_cancelled() {
                break;
            }
            self.turn();
            sleep(AGAIN_AFTER).await;
        }
        self.run.answered(count);
    }

    /// Returns what is to be pushed again.
    async fn push_once(&mut self, jobs: Vec<Spec>) -> Vec<Spec> {
        if self.callers[self.at].is_none() {
            let place = &self.places[self.at];
            self.callers[self.at] = Caller::at(self.run, place, "producer").await.ok();
        }
        let Some(caller) = &self.callers[self.at] else { return jobs };
        let answers = caller.push(self.run, &jobs).await;
        let made = answers.iter().filter_map(|answer| answer.ok());
        self.run.remember(made.map(|made| made.job));
        let is_flow = jobs.first().is_some_and(|job| job.place.is_some());
        let leaves = self.dice.random_ratio(LEFT_UNKNOWN_PERCENT, 100);
        let again = jobs.into_iter().zip(answers).filter(|(job, answer)| match answer {
            Ok(_) => false,
            Err(Failure::Unknown) => job.is_repeatable() && !leaves,
            Err(failure) => failure.may_repeat(),
        });
        let again: Vec<Spec> = again.map(|(job, _)| job).collect();
        // A part of a flow would have other places.
        debug_assert!(
            !is_flow || again.is_empty() || again.len() == super::jobs::FLOW_JOBS as usize
        );
        again
    }
}
