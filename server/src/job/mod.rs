//! What a job is and what may happen to it. Pure: no clock, no I/O, no async.
//!
//! Everything here is valid by construction: a [`QueueName`] has been parsed, a [`Payload`] is not
//! too large. The transports parse once, at the edge; what they refuse is an [`InvalidField`].

use std::borrow::Cow;

mod backoff;
mod cron;
mod flow;
mod guard;
mod lease;
mod life;
mod name;
mod new_job;
mod options;
mod schedule;
mod settings;
mod time;

pub use backoff::Backoff;
pub use cron::CronRule;
pub use flow::{
    Admission, Bucket, Closed, Concurrency, Fair, Flow, Found, Line, Rate, RateRule, Waiting,
};
pub use guard::{Breach, Fill, Guard};
pub use lease::{Lease, LeaseKey};
pub use life::{Charges, Ending, Next, Reason, Rules, State, after};
pub use name::{
    FailureCode, FlowKey, KvKey, QueueName, ScheduleName, Tag, UniqueKey, WebhookName, WorkerName,
    cut,
};
pub use new_job::{
    JobId, NewJob, Payload, TooLarge, When, check_grace, check_lease, check_result, check_wait,
};
pub use options::{Depends, OnFailure, Options, Slot, SparseOptions, UniqueHold};
pub use schedule::{CatchUp, Due, Overlap, ScheduleSpec};
pub use settings::{KeyLimits, Settings};
pub use time::Timestamp;

/// A value that can not be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {field}: {detail}")]
pub struct InvalidField {
    /// Its name on the wire.
    pub field: Cow<'static, str>,
    /// What is wrong, and what would be right.
    pub detail: String,
}

impl InvalidField {
    pub(crate) fn new(field: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        Self { field: field.into(), detail: detail.into() }
    }
}
