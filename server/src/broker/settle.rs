//! Ending leases, or keeping them.

use std::sync::Arc;

use serde::de::IgnoredAny;
use tokio::time::Instant;

use super::{Broker, Core, Loop};
use crate::error::Error;
use crate::group_commit::{Budget, Committer};
use crate::job::Lease;
use crate::limits;
use crate::metrics::{Counted, Timed};
use crate::store::{
    Duty, Effect, Extended, Extension, Partial, Progress, Refused, Settled, SettledAll, Settlement,
    Verdict,
};

impl Broker {
    /// Ends leases as their workers say. Answer i is about settlement i.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future does not recall the settlements.
    ///
    /// # Errors
    ///
    /// [`Error::Overloaded`], or those of the store. Then no lease has ended, unless it is
    /// [`Error::OutcomeUnknown`].
    pub async fn settle(&self, mut settlements: Vec<Settlement>) -> Result<Vec<Settled>, Error> {
        let started = Instant::now();
        self.0.core.seal_results(&mut settlements).await?;
        let bytes = settlements.iter().map(|settlement| settlement.verdict.bytes()).sum();
        let settled = self.0.settles.submit(settlements, bytes).await?;
        self.metrics().time(Timed::Settle, started.elapsed());
        Ok(settled)
    }

    /// Has it noted who wanted to end leases that were lost, as far as that keeps nobody waiting.
    pub fn note_refused(&self, refused: Vec<Refused>) {
        if refused.is_empty() {
            return;
        }
        let core = Arc::clone(&self.0.core);
        let Ok(permit) = Arc::clone(&core.refusals).try_acquire_owned() else {
            tracing::debug!(count = refused.len(), "refusals were not noted: there are too many");
            return;
        };
        tokio::spawn(async move {
            if let Err(error) = core.store.note_refused(refused).await {
                tracing::debug!(%error, "refusals were not noted");
            }
            drop(permit);
        });
    }

    /// Gives each lease a time of its own from now on. `None`: it is lost.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub async fn extend(&self, extensions: Vec<Extension>) -> Result<Vec<Option<Extended>>, Error> {
        let soonest = extensions.iter().map(|extension| extension.hold).min();
        let extended = self.store().extend(extensions).await?;
        if let Some(soonest) = soonest {
            self.alarms().of(Duty::Expiry).set(soonest);
        }
        Ok(extended)
    }

    /// Notes how far a worker is.
    ///
    /// # Errors
    ///
    /// [`Error::LeaseLost`], or those of the store.
    pub async fn progress(&self, lease: Lease, progress: Progress) -> Result<(), Error> {
        match self.store().progress(lease, progress).await? {
            true => Ok(()),
            false => Err(Error::LeaseLost),
        }
    }

    /// Hands out a part of a result to those who listen. It is kept no longer than they need it;
    /// if nobody listens, it is not kept at all.
    ///
    /// # Errors
    ///
    /// [`Error::LeaseLost`], [`Error::PayloadTooLarge`] beyond [`limits::PARTIAL_BYTES_MAX`],
    /// [`Error::Invalid`] if it is no JSON, or those of the store.
    pub async fn partial(&self, lease: Lease, partial: Partial) -> Result<(), Error> {
        let (bytes, bytes_max) = (partial.data.len(), limits::PARTIAL_BYTES_MAX);
        if bytes > bytes_max {
            let detail = format!("data has {bytes} bytes; at most {bytes_max} are allowed");
            return Err(Error::PayloadTooLarge { field: "data", detail });
        }
        if serde_json::from_slice::<IgnoredAny>(&partial.data).is_err() {
            return Err(Error::invalid("data", "must be JSON"));
        }
        match self.store().partial(lease, partial).await? {
            true => Ok(()),
            false => Err(Error::LeaseLost),
        }
    }
}

impl Verdict {
    fn bytes(&self) -> usize {
        match self {
            Self::Ack { result } => result.as_ref().map_or(0, |result| result.len()),
            Self::Fail { message, .. } => message.len(),
            Self::Release | Self::Snooze(_) => 0,
        }
    }

    /// The word for what a worker asks for.
    pub(crate) const fn word(&self) -> &'static str {
        match self {
            Self::Ack { .. } => "ack",
            Self::Fail { .. } => "fail",
            Self::Release | Self::Snooze(_) => "release",
        }
    }

    fn counted(&self) -> Counted {
        match self {
            Self::Ack { .. } => Counted::Acked,
            Self::Fail { .. } => Counted::Failed,
            Self::Release | Self::Snooze(_) => Counted::Released,
        }
    }
}

/// What settlements mean for those who wait.
pub(super) fn effects(all: &SettledAll) -> impl Iterator<Item = &Effect> {
    fn effect(settled: &Settled) -> Option<&Effect> {
        match settled {
            Settled::Done(effect) => Some(effect),
            Settled::Repeated | Settled::LeaseLost | Settled::Unknown => None,
        }
    }
    all.settled.iter().filter_map(effect).chain(&all.more)
}

pub(super) fn committer(
    core: &Arc<Core>,
    budget: Budget,
) -> (Committer<Settlement, Settled>, Loop) {
    let core = Arc::clone(core);
    let commit = move |settlements: Vec<Settlement>| {
        let core = Arc::clone(&core);
        async move {
            let verdicts: Vec<Counted> =
                settlements.iter().map(|settlement| settlement.verdict.counted()).collect();
            core.metrics.batch(Timed::Settle, verdicts.len());
            let all = core.health.watch(core.store.settle(settlements).await)?;
            core.announce(effects(&all));
            core.count_settled(&verdicts, &all.settled);
            Ok(all.settled)
        }
    };
    let (committer, run) = Committer::new(budget, commit, |_| {});
    (committer, Box::pin(run))
}

impl Core {
    fn count_settled(&self, verdicts: &[Counted], settled: &[Settled]) {
        for what in [Counted::Acked, Counted::Failed, Counted::Released] {
            let pairs = verdicts.iter().zip(settled);
            let done = pairs.filter(|(verdict, settled)| {
                **verdict == what && matches!(settled, Settled::Done(_))
            });
            self.metrics.count(what, done.count());
        }
    }
}
