//! Ending leases, or keeping them.

use std::time::{Duration, SystemTime};

use batonq_protocol::messages::{
    self, AckItem, ExtendItem, FailItem, SettleResult, SettleStatus, Settled,
};
use batonq_protocol::{ErrorCode, Message};
use bytes::Bytes;

use crate::client::{Client, answer, millis};
use crate::error::Error;
use crate::failure::Failure;
use crate::job::{Job, Lease, time};

/// That a job is done, and perhaps what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    wire: AckItem,
}

impl Ack {
    /// Done, without a result.
    pub fn new(lease: impl Into<Lease>) -> Self {
        Self { wire: AckItem { lease: lease.into().0, result: Bytes::new() } }
    }

    /// Done, with a result that is kept with the job.
    #[must_use]
    pub fn result(mut self, result: impl Into<Bytes>) -> Self {
        self.wire.result = result.into();
        self
    }
}

impl From<&Job> for Lease {
    fn from(job: &Job) -> Self {
        job.lease.clone()
    }
}

impl From<Job> for Lease {
    fn from(job: Job) -> Self {
        job.lease
    }
}

impl From<&Lease> for Lease {
    fn from(lease: &Lease) -> Self {
        lease.clone()
    }
}

impl From<&Job> for Ack {
    fn from(job: &Job) -> Self {
        Self::new(job)
    }
}

impl From<Job> for Ack {
    fn from(job: Job) -> Self {
        Self::new(job)
    }
}

impl From<Lease> for Ack {
    fn from(lease: Lease) -> Self {
        Self::new(lease)
    }
}

/// Settling. All of it may be repeated as it is when the outcome is unknown: the node answers the
/// same final call with the same lease by the same answer.
///
/// A lease that is not held any more is [`Error::Refused`] with [`ErrorCode::LeaseLost`]; one that
/// the node knows nothing of, with [`ErrorCode::NotFound`].
impl Client {
    /// The job is done.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future does not recall it.
    ///
    /// # Errors
    ///
    /// [`Error::OutcomeUnknown`] if it may be done, and the job is the client's to settle still;
    /// [`Error::Refused`] with [`ErrorCode::LeaseLost`] if someone else may work on the job.
    pub async fn ack(&self, ack: impl Into<Ack>) -> Result<(), Error> {
        one(self.ack_batch([ack.into()]).await?)
    }

    /// The jobs are done. Result `i` is that of job `i`.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future does not recall it.
    ///
    /// # Errors
    ///
    /// [`Error::OutcomeUnknown`] if they may be done; otherwise none is.
    pub async fn ack_batch<A: Into<Ack>>(
        &self,
        acks: impl IntoIterator<Item = A>,
    ) -> Result<Vec<Result<(), Error>>, Error> {
        let items: Vec<_> = acks.into_iter().map(|ack| ack.into().wire).collect();
        let count = items.len();
        self.settle(Message::Ack(messages::Ack { items }), count).await
    }

    /// The attempt went wrong.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future does not recall it.
    ///
    /// # Errors
    ///
    /// Those of [`Client::ack`].
    pub async fn fail(&self, lease: impl Into<Lease>, failure: Failure) -> Result<(), Error> {
        one(self.fail_batch([(lease.into(), failure)]).await?)
    }

    /// The attempts went wrong. Result `i` is that of job `i`.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future does not recall it.
    ///
    /// # Errors
    ///
    /// Those of [`Client::ack_batch`].
    pub async fn fail_batch(
        &self,
        failures: impl IntoIterator<Item = (Lease, Failure)>,
    ) -> Result<Vec<Result<(), Error>>, Error> {
        let items: Vec<_> = failures.into_iter().map(fail_item).collect();
        let count = items.len();
        self.settle(Message::Fail(messages::Fail { items }), count).await
    }

    /// Gives a job back unharmed: the attempt does not count.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future does not recall it.
    ///
    /// # Errors
    ///
    /// Those of [`Client::ack`].
    pub async fn release(&self, lease: impl Into<Lease>) -> Result<(), Error> {
        one(self.release_batch([lease.into()]).await?)
    }

    /// Gives jobs back unharmed. Result `i` is that of job `i`.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future does not recall it.
    ///
    /// # Errors
    ///
    /// Those of [`Client::ack_batch`].
    pub async fn release_batch<L: Into<Lease>>(
        &self,
        leases: impl IntoIterator<Item = L>,
    ) -> Result<Vec<Result<(), Error>>, Error> {
        let leases: Vec<_> = leases.into_iter().map(|lease| lease.into().0).collect();
        let count = leases.len();
        let release = messages::Release { leases, delay_ms: 0 };
        self.settle(Message::Release(release), count).await
    }

    /// Gives a job back, to be worked on not before `delay` from now: the attempt does not count.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future does not recall it.
    ///
    /// # Errors
    ///
    /// Those of [`Client::ack`].
    pub async fn snooze(&self, lease: impl Into<Lease>, delay: Duration) -> Result<(), Error> {
        let leases = vec![lease.into().0];
        let release = messages::Release { leases, delay_ms: millis(delay).max(1) };
        one(self.settle(Message::Release(release), 1).await?)
    }

    /// Lets a lease end `lease_time` from now, and returns that time.
    ///
    /// For jobs pulled with a [lease time](crate::PullOptions::lease); other leases last as long
    /// as the client.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future does not recall it.
    ///
    /// # Errors
    ///
    /// Those of [`Client::ack`].
    pub async fn extend(
        &self,
        lease: impl Into<Lease>,
        lease_time: Duration,
    ) -> Result<SystemTime, Error> {
        let item = ExtendItem { lease: lease.into().0, lease_ms: millis(lease_time) };
        let extend = messages::Extend { items: vec![item] };
        let settled = answer!(self.call(Message::Extend(extend)).await?, Settled)?;
        let until_ms = settled.results.first().map_or(0, |result| result.lease_until_ms);
        one(results(settled, 1)?)?;
        Ok(time(until_ms))
    }

    /// Notes how far the work is, `percent` from 0 to 100. The message is cut after 8 KiB.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future does not recall it.
    ///
    /// # Errors
    ///
    /// Those of [`Client::ack`].
    pub async fn progress(
        &self,
        lease: impl Into<Lease>,
        percent: u8,
        message: impl Into<String>,
    ) -> Result<(), Error> {
        let (lease, message) = (lease.into().0, message.into());
        let progress = messages::Progress { lease, percent: percent.into(), message };
        one(self.settle(Message::Progress(progress), 1).await?)
    }

    async fn settle(
        &self,
        message: Message,
        count: usize,
    ) -> Result<Vec<Result<(), Error>>, Error> {
        results(answer!(self.call(message).await?, Settled)?, count)
    }
}

fn fail_item((lease, failure): (Lease, Failure)) -> FailItem {
    FailItem {
        lease: lease.0,
        code: failure.code,
        message: failure.message,
        retry_in_ms: failure.retry_in.map(millis),
        reject: failure.reject,
    }
}

fn results(settled: Settled, count: usize) -> Result<Vec<Result<(), Error>>, Error> {
    if settled.results.len() != count {
        return Err(Error::unexpected(&"Settled"));
    }
    Ok(settled.results.into_iter().map(result).collect())
}

fn result(result: SettleResult) -> Result<(), Error> {
    let status = result.status();
    if let Some(error) = result.error {
        return Err(error.into());
    }
    match status {
        SettleStatus::Ok => Ok(()),
        SettleStatus::LeaseLost => {
            Err(Error::refused(ErrorCode::LeaseLost, "the lease is no longer held", "lease"))
        }
        SettleStatus::Unknown => {
            Err(Error::refused(ErrorCode::NotFound, "nothing is known of this job", "lease"))
        }
        SettleStatus::Unspecified => Err(Error::unexpected(&"Settled")),
    }
}

fn one(results: Vec<Result<(), Error>>) -> Result<(), Error> {
    results.into_iter().next().unwrap_or_else(|| Err(Error::unexpected(&"Settled")))
}
