//! Asking for jobs.

use std::time::Duration;

use batonq_protocol::{Message, messages};

use crate::client::{Client, millis};
use crate::error::Error;
use crate::job::Job;
use crate::request::Answer;

/// How many jobs to pull, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullOptions {
    queue: String,
    count: u32,
    wait: Duration,
    lease: Option<Duration>,
}

impl PullOptions {
    /// One job of `queue`, without waiting, held as long as the client lives.
    pub fn new(queue: impl Into<String>) -> Self {
        Self { queue: queue.into(), count: 1, wait: Duration::ZERO, lease: None }
    }

    /// The most jobs to get.
    #[must_use]
    pub fn count(mut self, count: u32) -> Self {
        self.count = count;
        self
    }

    /// How long to wait for a first job.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// Holds the jobs for this time whatever becomes of the client, unless
    /// [extended](Client::extend).
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = Some(lease);
        self
    }
}

impl Client {
    /// Asks for jobs. Empty: nothing came up in time.
    ///
    /// # Cancel safety
    ///
    /// Jobs that arrive after this future is dropped are given back.
    ///
    /// # Errors
    ///
    /// No job was leased for good, whichever it is.
    pub async fn pull(&self, options: PullOptions) -> Result<Vec<Job>, Error> {
        let pull = messages::Pull {
            queue: options.queue,
            count: options.count,
            wait_ms: millis(options.wait),
            lease_ms: options.lease.map_or(0, millis),
        };
        match self.ask(Message::Pull(pull), options.wait).await? {
            Answer::Jobs(jobs) => Ok(jobs),
            other => Err(Error::unexpected(&other)),
        }
    }
}
