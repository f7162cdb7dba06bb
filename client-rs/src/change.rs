//! Changing what waits.

use std::time::{Duration, SystemTime};

use batonq_protocol::Message;
use batonq_protocol::messages::{
    BulkDone, BulkJobs, CancelJob, DeleteJob, DrainNode, EditJob, PauseQueue, PromoteJob,
    ReplayDead, ReplayJob, ResumeQueue, RetryJob, SetSettings, State,
};
use bytes::Bytes;

use crate::client::{Client, answer, millis};
use crate::error::Error;
use crate::job::{JobId, time};

/// What came of a wish to cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelled {
    /// The job is cancelled.
    Done,
    /// Its worker has been asked to end it.
    Requested {
        /// When the job is taken from it.
        force_at: SystemTime,
    },
}

/// What is to be changed of a job that waits.
///
/// ```
/// use batonq_client::Edit;
///
/// let edit = Edit::default().priority(9).queue("urgent");
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Edit {
    wire: EditJob,
}

impl Edit {
    /// Higher first.
    #[must_use]
    pub fn priority(mut self, priority: i32) -> Self {
        self.wire.priority = Some(priority);
        self
    }

    /// What the worker gets, as JSON.
    #[must_use]
    pub fn payload(mut self, payload: impl Into<Bytes>) -> Self {
        self.wire.payload = Some(payload.into());
        self
    }

    /// Not before this long from now.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.wire.delay_ms = Some(millis(delay));
        self
    }

    /// To another queue.
    #[must_use]
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.wire.queue = queue.into();
        self
    }
}

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
        self.replay_edited(id, Edit::default()).await
    }

    /// As [`Client::replay`], with a copy that differs so.
    ///
    /// # Errors
    ///
    /// As [`Client::replay`].
    pub async fn replay_edited(&self, id: impl Into<JobId>, edit: Edit) -> Result<JobId, Error> {
        let replay = ReplayJob { id: id.into().0, edit: Some(edit.wire) };
        let copies = answer!(self.call(Message::ReplayJob(Box::new(replay))).await?, Replayed)?.ids;
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

    /// Cancels a job. If it is leased, its worker is asked to end it, and has half a minute.
    ///
    /// # Errors
    ///
    /// As [`Client::pause`]; [`Error::Refused`] with [`crate::ErrorCode::WrongState`] if it has
    /// ended.
    pub async fn cancel(&self, id: impl Into<JobId>) -> Result<Cancelled, Error> {
        self.ask_to_cancel(CancelJob { id: id.into().0, grace_ms: None }).await
    }

    /// As [`Client::cancel`]; if it is leased, its worker has `grace`, a day at most.
    ///
    /// # Errors
    ///
    /// As [`Client::cancel`].
    pub async fn cancel_within(
        &self,
        id: impl Into<JobId>,
        grace: Duration,
    ) -> Result<Cancelled, Error> {
        self.ask_to_cancel(CancelJob { id: id.into().0, grace_ms: Some(millis(grace)) }).await
    }

    async fn ask_to_cancel(&self, cancel: CancelJob) -> Result<Cancelled, Error> {
        let status = answer!(self.call(Message::CancelJob(cancel)).await?, CancelStatus)?;
        Ok(match status.state() {
            State::Leased => Cancelled::Requested { force_at: time(status.force_at_ms) },
            _ => Cancelled::Done,
        })
    }

    /// Changes a job that waits.
    ///
    /// # Errors
    ///
    /// As [`Client::pause`]; [`Error::Refused`] with [`crate::ErrorCode::WrongState`] if it is
    /// leased or has ended.
    pub async fn edit(&self, id: impl Into<JobId>, edit: Edit) -> Result<(), Error> {
        let edit = EditJob { id: id.into().0, ..edit.wire };
        self.change(Message::EditJob(Box::new(edit))).await
    }

    /// Deletes a job that has ended, with its history.
    ///
    /// # Errors
    ///
    /// As [`Client::pause`]; [`Error::Refused`] with [`crate::ErrorCode::WrongState`] if it has
    /// not ended.
    pub async fn delete(&self, id: impl Into<JobId>) -> Result<(), Error> {
        self.change(Message::DeleteJob(DeleteJob { id: id.into().0 })).await
    }

    /// Does the same to many jobs; the request is JSON in the shape of the HTTP API. A bounded
    /// part of it is done; the answer's cursor, put into the request, goes on.
    ///
    /// # Errors
    ///
    /// As [`Client::pause`]; what was done before an error stays done.
    pub async fn bulk(&self, request: &serde_json::Value) -> Result<BulkDone, Error> {
        let bulk = Message::BulkJobs(BulkJobs { request: request.to_string() });
        answer!(self.call(bulk).await?, BulkDone)
    }

    /// Sets all settings of a queue; they are JSON in the shape of the HTTP API.
    ///
    /// # Errors
    ///
    /// As [`Client::pause`].
    pub async fn set_settings(
        &self,
        queue: impl Into<String>,
        settings: &serde_json::Value,
    ) -> Result<(), Error> {
        let (queue, settings) = (queue.into(), settings.to_string());
        self.change(Message::SetSettings(SetSettings { queue, settings })).await
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
