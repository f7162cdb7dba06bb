//! Handing jobs in.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Broker, Core, Loop};
use crate::error::Error;
use crate::group_commit::{Budget, Committer};
use crate::job::{NewJob, QueueName};
use crate::metrics::{Counted, Timed};
use crate::store::{Duty, Pushed};

impl Broker {
    /// Stores jobs. Answer i is about job i; when it is there, it is durable.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future does not recall the jobs.
    ///
    /// # Errors
    ///
    /// [`Error::Overloaded`], or those of the store. Then no job of this call was stored, unless
    /// it is [`Error::OutcomeUnknown`].
    pub async fn push(&self, jobs: Vec<NewJob>) -> Result<Vec<Pushed>, Error> {
        let started = Instant::now();
        let bytes = jobs.iter().map(|job| job.payload.bytes.len()).sum();
        let pushed = self.0.pushes.submit(jobs, bytes).await?;
        self.metrics().time(Timed::Push, started.elapsed());
        Ok(pushed)
    }
}

pub(super) fn committer(core: &Arc<Core>, budget: Budget) -> (Committer<NewJob, Pushed>, Loop) {
    let core = Arc::clone(core);
    let commit = move |jobs: Vec<NewJob>| {
        let core = Arc::clone(&core);
        async move {
            let queues: Vec<QueueName> = jobs.iter().map(|job| job.queue.clone()).collect();
            let soonest_ttl = jobs.iter().filter_map(|job| job.ttl).min();
            core.metrics.batch(Timed::Push, jobs.len());
            let pushed = core.health.watch(core.store.push(jobs).await)?;
            core.announce_pushed(&queues, &pushed);
            if let Some(ttl) = soonest_ttl {
                core.alarms.of(Duty::Ttl).set(ttl);
            }
            Ok(pushed)
        }
    };
    let (committer, run) = Committer::new(budget, commit, |_| {});
    (committer, Box::pin(run))
}

impl Core {
    fn announce_pushed(&self, queues: &[QueueName], pushed: &[Pushed]) {
        let mut inserted = 0;
        let mut run: Option<(&QueueName, usize)> = None;
        for (queue, pushed) in queues.iter().zip(pushed) {
            let Pushed::Inserted { run_at, .. } = pushed else { continue };
            inserted += 1;
            if let Some(run_at) = run_at {
                self.alarms.of(Duty::Due).set(run_at.since(self.clock.now()));
                continue;
            }
            match &mut run {
                Some((same, count)) if *same == queue => *count += 1,
                _ => {
                    self.ring(run.take());
                    run = Some((queue, 1));
                }
            }
        }
        self.ring(run);
        self.metrics.count(Counted::Pushed, inserted);
    }
}
