//! People and clients that come in between: jobs are cancelled, queues pause, leases are used that
//! are over.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::sleep;

use super::jobs::QueueKind;
use super::run::{Old, Run};
use crate::history::How;

/// How long the worker of a cancelled job has to end it.
const GRACE: Duration = Duration::from_millis(500);
/// How long a queue pauses.
const PAUSE: Duration = Duration::from_millis(800);
/// Between two looks for old leases.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Cancels a job now and then.
pub(super) async fn cancel(run: Arc<Run>) {
    let mut dice = StdRng::seed_from_u64(run.profile.seed ^ 1);
    let every = Duration::from_millis(run.profile.cancel_every_ms);
    while run.quiet.run_until_cancelled(sleep(every)).await.is_some() {
        if let Some(job) = run.newest(&mut dice)
            && let Some(caller) = run.someone(&mut dice)
        {
            // Most of them have ended by then, and the history has the answer.
            caller.cancel(job, GRACE).await.ok();
        }
    }
}

/// Pauses a queue now and then, not for long unless a node that is asked to resume it does not
/// answer. So it is none with jobs that have a time: how late those are is looked at.
pub(super) async fn pause(run: Arc<Run>) {
    let mut dice = StdRng::seed_from_u64(run.profile.seed ^ 2);
    let every = Duration::from_millis(run.profile.pause_every_ms);
    while run.quiet.run_until_cancelled(sleep(every)).await.is_some() {
        let kind = if dice.random_bool(0.5) { QueueKind::Plain } else { QueueKind::Bare };
        let Some(caller) = run.someone(&mut dice) else { continue };
        // If it is not known whether it is paused, it is resumed all the same.
        caller.set_paused(run.queue(kind), true).await.ok();
        run.quiet.run_until_cancelled(sleep(PAUSE)).await;
        resume(&run, kind, &mut dice).await;
    }
}

/// Lets a queue go on, however often that must be asked.
async fn resume(run: &Run, kind: QueueKind, dice: &mut StdRng) {
    while !run.over.is_cancelled()
        && let Some(caller) = run.someone(dice)
        && caller.set_paused(run.queue(kind), false).await.is_err()
    {
        sleep(LOOK_EVERY).await;
    }
}

/// Uses leases that should be over, each once.
pub(super) async fn come_late(run: Arc<Run>) {
    let mut dice = StdRng::seed_from_u64(run.profile.seed ^ 3);
    while run.over.run_until_cancelled(sleep(LOOK_EVERY)).await.is_some() {
        while let Some(Old { held, ended_by, .. }) = run.next_old() {
            let Some(caller) = run.someone(&mut dice) else { break };
            let ways = [How::Ack, How::Fail, How::Release, How::Extend, How::Progress];
            let ways: Vec<How> = ways.into_iter().filter(|how| Some(*how) != ended_by).collect();
            // The history has the answer.
            match ways[dice.random_range(0..ways.len())] {
                How::Extend => drop(caller.extend(&held, Duration::from_secs(1)).await),
                How::Progress => drop(caller.progress(&held).await),
                how => drop(caller.settle(how, &[held]).await),
            }
        }
    }
}
