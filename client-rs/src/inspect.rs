//! Looking at jobs, queues, workers and nodes.
//!
//! These calls change nothing, and answer with the messages of the protocol as they are: times
//! are in milliseconds since 1970-01-01T00:00:00Z, durations in milliseconds.

use std::time::Duration;

use batonq_protocol::messages::{
    Decision, Explain, GetJob, GetStats, GetTimeline, KeyUse, ListDecisions, ListKeys, ListNodes,
    ListQueues, ListWorkers, Ping, WaitJob,
};
use batonq_protocol::{ErrorCode, Message};
use tokio::time::Instant;

pub use batonq_protocol::messages::{
    Attempt, Cause, Explanation, Job as JobDetail, JobEvent, JobPage, Limits,
    ListJobs as JobFilter, Node as ClusterNode, Queue, State, Stats, Timeline,
    Worker as WorkerInfo,
};

use crate::client::{Client, answer, millis};
use crate::error::Error;
use crate::job::JobId;

/// What a node answers at most when asked for its queues.
const QUEUES_MAX: usize = 1000;

/// Looking. Nothing is changed, so each may be repeated.
impl Client {
    /// A job as it is.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with [`ErrorCode::NotFound`] if there is none.
    pub async fn job(&self, id: impl Into<JobId>) -> Result<JobDetail, Error> {
        let get = GetJob { id: id.into().0 };
        answer!(self.call(Message::GetJob(get)).await?, Job).map(|job| *job)
    }

    /// A job once it has ended, or as it is after `wait`.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with [`ErrorCode::NotFound`] if there is none.
    pub async fn wait_job(&self, id: impl Into<JobId>, wait: Duration) -> Result<JobDetail, Error> {
        let question = WaitJob { id: id.into().0, wait_ms: millis(wait) };
        answer!(self.ask(Message::WaitJob(question), wait).await?, Job).map(|job| *job)
    }

    /// Jobs, by id, newest first unless the filter says otherwise, without payloads and results. The page's cursor leads to the next.
    ///
    /// # Errors
    ///
    /// As [`Client::queues`].
    pub async fn jobs(&self, filter: JobFilter) -> Result<JobPage, Error> {
        answer!(self.call(Message::ListJobs(Box::new(filter))).await?, JobPage)
    }

    /// The keys of a queue that jobs wait or work for, and their limits.
    ///
    /// # Errors
    ///
    /// Those of [`Client::job`].
    pub async fn keys(&self, queue: impl Into<String>) -> Result<Vec<KeyUse>, Error> {
        let list = Message::ListKeys(ListKeys { queue: queue.into() });
        Ok(answer!(self.call(list).await?, Keys)?.keys)
    }

    /// What guards have refused, of one queue or, if it is empty, of all; the latest first. `limit`
    /// 0 is 50.
    ///
    /// # Errors
    ///
    /// As [`Client::queues`].
    pub async fn decisions(
        &self,
        queue: impl Into<String>,
        limit: u32,
    ) -> Result<Vec<Decision>, Error> {
        let list = Message::ListDecisions(ListDecisions { queue: queue.into(), limit });
        Ok(answer!(self.call(list).await?, Decisions)?.decisions)
    }

    /// A job, each lease on it and all that happened to it, oldest first.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with [`ErrorCode::NotFound`] if there is none.
    pub async fn timeline(&self, id: impl Into<JobId>) -> Result<Timeline, Error> {
        let get = GetTimeline { id: id.into().0 };
        answer!(self.call(Message::GetTimeline(get)).await?, Timeline).map(|timeline| *timeline)
    }

    /// Why a job does not run: all that keeps it from it, what has to change first at first.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with [`ErrorCode::NotFound`] if there is none.
    pub async fn explain(&self, id: impl Into<JobId>) -> Result<Explanation, Error> {
        let explain = Explain { id: id.into().0 };
        answer!(self.call(Message::Explain(explain)).await?, Explanation).map(|told| *told)
    }

    /// All queues.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if the token's roles do not allow it, or the node can not answer now;
    /// [`Error::Timeout`], [`Error::Disconnected`].
    pub async fn queues(&self) -> Result<Vec<Queue>, Error> {
        let mut all: Vec<Queue> = Vec::new();
        loop {
            let after = all.last().map(|queue| queue.name.clone()).unwrap_or_default();
            let list = ListQueues { queue: String::new(), after };
            let page = answer!(self.call(Message::ListQueues(list)).await?, Queues)?.queues;
            let is_last = page.len() < QUEUES_MAX;
            all.extend(page);
            if is_last {
                return Ok(all);
            }
        }
    }

    /// One queue.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with [`ErrorCode::NotFound`] if there is none.
    pub async fn queue(&self, name: impl Into<String>) -> Result<Queue, Error> {
        let list = ListQueues { queue: name.into(), after: String::new() };
        let queues = answer!(self.call(Message::ListQueues(list)).await?, Queues)?.queues;
        let none = || Error::refused(ErrorCode::NotFound, "there is no such queue", "queue");
        queues.into_iter().next().ok_or_else(none)
    }

    /// The workers that this node knows.
    ///
    /// # Errors
    ///
    /// As [`Client::queues`].
    pub async fn workers(&self) -> Result<Vec<WorkerInfo>, Error> {
        let list = Message::ListWorkers(ListWorkers {});
        Ok(answer!(self.call(list).await?, Workers)?.workers)
    }

    /// All nodes of the cluster, by id. Every node gives the same answer.
    ///
    /// # Errors
    ///
    /// As [`Client::queues`].
    pub async fn nodes(&self) -> Result<Vec<ClusterNode>, Error> {
        let list = Message::ListNodes(ListNodes {});
        Ok(answer!(self.call(list).await?, Nodes)?.nodes)
    }

    /// What this node did in the last minute.
    ///
    /// # Errors
    ///
    /// As [`Client::queues`].
    pub async fn stats(&self) -> Result<Stats, Error> {
        answer!(self.call(Message::GetStats(GetStats {})).await?, Stats).map(|stats| *stats)
    }

    /// How long the node takes to answer.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`], [`Error::Disconnected`].
    pub async fn ping(&self) -> Result<Duration, Error> {
        let asked_at = Instant::now();
        answer!(self.call(Message::Ping(Ping {})).await?, Pong)?;
        Ok(asked_at.elapsed())
    }
}
