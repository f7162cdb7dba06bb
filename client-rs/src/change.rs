//! Changing what waits.

use batonq_protocol::Message;
use batonq_protocol::messages::{
    CancelJob, DrainNode, PauseQueue, PromoteJob, ReplayDead, ReplayJob, ResumeQueue, RetryJob,
};

use crate::client::{Client, answer};
use crate::error::Error;
use crate::job::JobId;

/// Changing what waits. Dropping one of these futures does not recall the change.
impl Client {
    /// Gives no more jobs of the queue out, until it is resumed.
    ///
    /// # Errors
    ///
    /// [`Error::OutcomeUnknown`] if it may be done; otherwise it is not.
    pub async fn pause(&self, queue: impl Into<String>) -> Result<(), Error> {
        self.change(Message::PauseQueue(PauseQueue { queue: queue.into() })).await
    }

    /// Gives jobs of the queue out again.
    ///
    /// # Errors
    ///
    /// As [`Client::pause`].
    pub async fn resume(&self, queue: impl Into<String>) -> Result<(), Error> {
        self.change(Message::ResumeQueue(ResumeQueue { queue: queue.into() })).await
    }

    /// Has a node leave, whichever node this client is connected to: it gives out nothing more,
    /// sends its clients elsewhere, and exits.
    ///
    /// # Errors
    ///
    /// As [`Client::pause`]; [`Error::Refused`] with [`crate::ErrorCode::NotFound`] if there is no
    /// such node.
    pub async fn drain(&self, node: impl Into<String>) -> Result<(), Error> {
        self.change(Message::DrainNode(DrainNode { id: node.into(), stay: false })).await
    }

    /// As [`Client::drain`], but the node does not exit: it stays drained until it is restarted.
    ///
    /// # Errors
    ///
    /// As [`Client::drain`].
    pub async fn drain_in_place(&self, node: impl Into<String>) -> Result<(), Error> {
        self.change(Message::DrainNode(DrainNode { id: node.into(), stay: true })).await
    }

    /// Sends a dead job round again, with fresh attempts.
    ///
    /// # Errors
    ///
    /// As [`Client::pause`]; [`Error::Refused`] with [`crate::ErrorCode::WrongState`] if it is not
    /// dead.
    pub async fn retry(&self, id: impl Into<JobId>) -> Result<(), Error> {
        self.change(Message::RetryJob(RetryJob { id: id.into().0 })).await
    }

    /// Pushes a copy of an ended job, and returns the copy.
    ///
    /// # Errors
    ///
    /// As [`Client::pause`]; [`Error::Refused`] with [`crate::ErrorCode::WrongState`] if it has
    /// not ended.
    pub async fn replay(&self, id: impl Into<JobId>) -> Result<JobId, Error> {
        let replay = Message::ReplayJob(ReplayJob { id: id.into().0 });
        let copies = answer!(self.call(replay).await?, Replayed)?.ids;
        copies.first().copied().map(JobId).ok_or_else(|| Error::unexpected(&"Replayed"))
    }

    /// Pushes copies of a queue's dead jobs that have none yet, oldest first, and returns them.
    ///
    /// `reason`, if not empty, picks those that died of it. `limit` 0 is 1 000.
    ///
    /// # Errors
    ///
    /// As [`Client::pause`].
    pub async fn replay_dead(
        &self,
        queue: impl Into<String>,
        reason: impl Into<String>,
        limit: u32,
    ) -> Result<Vec<JobId>, Error> {
        let replay = ReplayDead { queue: queue.into(), reason: reason.into(), limit };
        let copies = answer!(self.call(Message::ReplayDead(replay)).await?, Replayed)?.ids;
        Ok(copies.into_iter().map(JobId).collect())
    }

    /// Cancels a job that waits.
    ///
    /// # Errors
    ///
    /// As [`Client::pause`]; [`Error::Refused`] with [`crate::ErrorCode::WrongState`] if it is
    /// leased or has ended.
    pub async fn cancel(&self, id: impl Into<JobId>) -> Result<(), Error> {
        self.change(Message::CancelJob(CancelJob { id: id.into().0 })).await
    }

    /// Makes a scheduled job ready now.
    ///
    /// # Errors
    ///
    /// As [`Client::pause`]; [`Error::Refused`] with [`crate::ErrorCode::WrongState`] if it is not
    /// scheduled.
    pub async fn promote(&self, id: impl Into<JobId>) -> Result<(), Error> {
        self.change(Message::PromoteJob(PromoteJob { id: id.into().0 })).await
    }

    async fn change(&self, message: Message) -> Result<(), Error> {
        answer!(self.call(message).await?, Done).map(|_| ())
    }
}
