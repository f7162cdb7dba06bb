//! Clients that vanish: some are cut off in the middle of their work, without a word; some freeze
//! for longer than a node bears, and go on as if nothing had been.
//!
//! Each lives on a thread with a runtime of its own. A client whose runtime is dropped is as dead as
//! if its process had been killed: the kernel closes the socket, and nobody says goodbye. One whose
//! runtime is not driven is as silent as if its process had been stopped.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rand::RngExt;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use super::jobs::QueueKind;
use super::run::Run;
use super::work::Worker;

/// Jobs that it has at once: few, or those that meet it again and again would be taken for poison.
const CREDIT: u32 = 25;
/// How long it works before it vanishes.
const WORKS_MS: std::ops::Range<u64> = 500..4000;
/// For how long it is silent: a node bears 15 s.
const FREEZES: Duration = Duration::from_secs(17);
/// Between two looks whether the run is over.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How a client vanishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// Its connection is cut, and it comes again as another one.
    Crash,
    /// It says nothing for a while.
    Freeze,
}

/// Vanishes again and again, until the run is quiet. `None`: there is no thread to be had.
pub(super) fn vanish(run: &Arc<Run>, number: u32, manner: Manner) -> Option<JoinHandle<()>> {
    let run = Arc::clone(run);
    let thread = std::thread::Builder::new().name(format!("{manner:?} {number}"));
    let vanish = move || {
        let mut round = 0;
        while !run.quiet.is_cancelled()
            && let Ok(runtime) = Builder::new_current_thread().enable_all().build()
        {
            let number = number + 2000 + round * 7;
            match manner {
                Manner::Crash => live(&runtime, &run, number, None),
                Manner::Freeze => live(&runtime, &run, number, Some(FREEZES)),
            }
            round += 1;
        }
    };
    thread.spawn(vanish).ok()
}

/// One life. The end of the runtime ends the client.
fn live(runtime: &Runtime, run: &Run, number: u32, freezes: Option<Duration>) {
    let mut worker = Worker::new(run, number, false);
    let works = Duration::from_millis(worker.dice.random_range(WORKS_MS));
    let kind = match number % 3 {
        0 => QueueKind::Bare,
        1 => QueueKind::Plain,
        _ => QueueKind::Mixed,
    };
    let mut life = std::pin::pin!(async move {
        if let Some(caller) = worker.arrive("vanishing").await {
            worker.shift(&caller, (kind, CREDIT), Duration::MAX).await;
        }
    });
    let ends = runtime.block_on(async { timeout(works, &mut life).await.is_ok() });
    let (Some(freezes), false) = (freezes, ends) else { return };
    let mut frozen = Duration::ZERO;
    while frozen < freezes && !run.quiet.is_cancelled() {
        std::thread::sleep(LOOK_EVERY);
        frozen += LOOK_EVERY;
    }
    // It goes on where it was, and is cut off then.
    runtime.block_on(async { timeout(works, &mut life).await.ok() });
}
