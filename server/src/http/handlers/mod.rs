//! Who serves which route: one function each, which converts, calls the broker, and converts back.

pub(super) mod cluster;
pub(super) mod cron;
pub(super) mod events;
pub(super) mod jobs;
pub(super) mod look;
pub(super) mod settle;
pub(super) mod webhooks;

use hyper::StatusCode;

use super::query::Query;
use crate::door::Door;
use crate::error::Error;
use crate::job::{JobId, QueueName};

/// A request that may be served: its body has been read, its role checked.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) door: Door,
    /// Who asks, in words.
    pub(super) who: String,
    /// Names and values from the path, decoded.
    pub(super) path: Vec<(String, String)>,
    pub(super) query: Query,
    /// The last event that a client has seen that comes back.
    pub(super) last_event_id: Option<String>,
}

impl Call {
    pub(in crate::http) fn named(&self, name: &str) -> &str {
        let found = self.path.iter().find(|(key, _)| key == name);
        found.map_or("", |(_, value)| value)
    }

    fn queue(&self) -> Result<QueueName, Error> {
        Ok(QueueName::parse(self.named("queue"))?)
    }

    fn job(&self) -> Result<JobId, Error> {
        let id = self.named("id").parse();
        id.map(JobId).map_err(|_| Error::invalid("id", "must be a whole number"))
    }
}

/// What a handler answers: a status and a value.
pub(super) type Answered<T> = Result<(StatusCode, T), Error>;

fn ok<T>(value: T) -> Answered<T> {
    Ok((StatusCode::OK, value))
}
