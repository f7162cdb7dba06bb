//! Jobs on their way out, and what workers say of them.

use std::time::Duration;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::{ItemError, any_value, bytes_in, bytes_out, lease_out, millis, payload_out, time};
use crate::broker::Broker;
use crate::error::Error;
use crate::job::{FailureCode, QueueName, State, check_result, cut};
use crate::limits;
use crate::store::{Extended, LeasedJob, Need, Retry, Settled, Verdict};

/// A wish for jobs.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct PullBody {
    /// At most so many, 1 to 1000.
    #[serde(default = "one")]
    pub(in crate::http) count: u32,
    /// How long to wait for a first one, up to 60 000.
    #[serde(default)]
    pub(in crate::http) wait_ms: u64,
    /// How long the leases last unless extended, 1 000 to 86 400 000.
    #[serde(default = "default_lease")]
    pub(in crate::http) lease_ms: u64,
    /// The worker's name, for timelines.
    #[serde(default)]
    pub(in crate::http) worker: String,
}

fn one() -> u32 {
    1
}

fn default_lease() -> u64 {
    millis(limits::LEASE_DEFAULT)
}

/// Jobs to work on.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::http) struct PulledBody {
    /// Empty: nothing came up in time.
    pub(in crate::http) jobs: Vec<LeasedBody>,
}

/// A job to work on.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::http) struct LeasedBody {
    id: u64,
    /// To be handed back when settling.
    lease: String,
    queue: String,
    /// If it is JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Value>")]
    payload: Option<Box<RawValue>>,
    /// If it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    content_type: String,
    priority: i32,
    /// The attempt that begins; 1 is the first.
    attempt: u32,
    max_attempts: u32,
    /// How often the job has been leased, this time included.
    delivery: u32,
    created_at: String,
    lease_until: String,
    /// How long this attempt may run.
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout_ms: Option<u64>,
    tags: Vec<String>,
    /// The jobs that it waited for, by id.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    needs: Vec<NeedShown>,
}

/// A job that another one waited for.
#[derive(Debug, Serialize, JsonSchema)]
struct NeedShown {
    id: u64,
    /// Null: nothing is known of it any more.
    state: Option<&'static str>,
    /// If it is JSON of at most 64 KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Value>")]
    result: Option<Box<RawValue>>,
    /// If it is not JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    result_base64: Option<String>,
}

impl From<&Need> for NeedShown {
    fn from(need: &Need) -> Self {
        let result = need.result.as_ref().map(|result| bytes_out(result, true));
        let (result, result_base64) = result.unwrap_or_default();
        Self { id: need.id.0, state: need.state.map(State::name), result, result_base64 }
    }
}

impl LeasedBody {
    pub(in crate::http) fn new(broker: &Broker, queue: &QueueName, job: &LeasedJob) -> Self {
        let (payload, payload_base64, content_type) = payload_out(&job.payload);
        Self {
            id: job.lease.job.0,
            lease: lease_out(broker, job.lease),
            queue: queue.as_str().into(),
            payload,
            payload_base64,
            content_type,
            priority: job.priority,
            attempt: job.attempt,
            max_attempts: job.max_attempts,
            delivery: job.lease.delivery,
            created_at: time(job.created_at),
            lease_until: time(job.lease_until),
            timeout_ms: job.timeout.map(millis),
            tags: job.tags.iter().map(|tag| tag.as_str().into()).collect(),
            needs: job.needs.iter().map(Into::into).collect(),
        }
    }
}

/// A job is done.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct AckBody {
    /// The job; needed only to check that it is the lease's.
    #[serde(default)]
    pub(in crate::http) id: Option<u64>,
    pub(in crate::http) lease: String,
    /// Any JSON value, to be kept with the job.
    #[serde(default, deserialize_with = "any_value")]
    #[schemars(with = "Option<Value>")]
    result: Option<Box<RawValue>>,
    /// A result that is not JSON, as base64.
    #[serde(default)]
    result_base64: Option<String>,
}

impl AckBody {
    pub(in crate::http) fn verdict(self) -> Result<Verdict, Error> {
        let result: Option<Bytes> = bytes_in(self.result, self.result_base64, "result_base64")?;
        result.as_ref().map(check_result).transpose()?;
        Ok(Verdict::Ack { result: result.filter(|result| !result.is_empty()) })
    }
}

/// A job went wrong.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct FailBody {
    /// The job; needed only to check that it is the lease's.
    #[serde(default)]
    pub(in crate::http) id: Option<u64>,
    pub(in crate::http) lease: String,
    #[serde(default)]
    error: FailureBody,
    /// When to try again, instead of the job's backoff.
    #[serde(default)]
    retry_in_ms: Option<u64>,
    /// No more attempts: the job is dead, reason `REJECTED`.
    #[serde(default)]
    reject: bool,
}

/// What went wrong.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct FailureBody {
    /// A word for machines. Default: `FAILED`.
    #[serde(default = "failed")]
    code: String,
    /// For people; cut after 8 KiB.
    #[serde(default)]
    message: String,
}

fn failed() -> String {
    "FAILED".into()
}

impl Default for FailureBody {
    fn default() -> Self {
        Self { code: failed(), message: String::new() }
    }
}

impl FailBody {
    pub(in crate::http) fn verdict(self) -> Result<Verdict, Error> {
        let delay = self.retry_in_ms.map(Duration::from_millis);
        let retry = match (self.reject, delay) {
            (true, Some(_)) => {
                return Err(Error::invalid("retry_in_ms", "a rejected job is not tried again"));
            }
            (_, Some(delay)) if delay > limits::DELAY_MAX => {
                return Err(Error::invalid("retry_in_ms", "more than ten years"));
            }
            (true, None) => Retry::Reject,
            (false, None) => Retry::Backoff,
            (false, Some(delay)) => Retry::After(delay),
        };
        Ok(Verdict::Fail {
            code: FailureCode::parse(&self.error.code)?,
            message: cut(&self.error.message, limits::ERROR_MESSAGE_BYTES_MAX),
            retry,
            chance: rand::random(),
        })
    }
}

/// A job is given back unharmed.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct ReleaseBody {
    /// The job; needed only to check that it is the lease's.
    #[serde(default)]
    pub(in crate::http) id: Option<u64>,
    pub(in crate::http) lease: String,
    /// Not before this time, still without an attempt being charged. Default: at once.
    #[serde(default)]
    delay_ms: u64,
}

impl ReleaseBody {
    pub(in crate::http) fn verdict(&self) -> Result<Verdict, Error> {
        match Duration::from_millis(self.delay_ms) {
            delay if delay.is_zero() => Ok(Verdict::Release),
            delay if delay > limits::DELAY_MAX => {
                Err(Error::invalid("delay_ms", "more than ten years"))
            }
            delay => Ok(Verdict::Snooze(delay)),
        }
    }
}

/// More time for a job.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct ExtendBody {
    pub(in crate::http) lease: String,
    /// From now on, 1 000 to 86 400 000.
    pub(in crate::http) lease_ms: u64,
}

/// The lease has more time.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::http) struct ExtendedBody {
    lease_until: String,
    /// Somebody asks for the end of the job: when that is forced.
    #[serde(skip_serializing_if = "Option::is_none")]
    cancel_at: Option<String>,
}

impl From<Extended> for ExtendedBody {
    fn from(extended: Extended) -> Self {
        Self { lease_until: time(extended.until), cancel_at: extended.cancel_at.map(time) }
    }
}

/// How far a worker is.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct ProgressBody {
    pub(in crate::http) lease: String,
    /// 0 to 100.
    pub(in crate::http) percent: u32,
    /// For people; cut after 8 KiB.
    #[serde(default)]
    pub(in crate::http) message: String,
}

macro_rules! batch {
    ($(#[$doc:meta])* $name:ident, $field:ident, $item:ty) => {
        $(#[$doc])*
        #[derive(Debug, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub(in crate::http) struct $name {
            /// 1 to 1000 of them.
            pub(in crate::http) $field: Vec<$item>,
        }
    };
}

batch!(
    /// Jobs that are done.
    AcksBody, acks, AckBody
);
batch!(
    /// Jobs that went wrong.
    FailsBody, fails, FailBody
);
batch!(
    /// Jobs that are given back.
    ReleasesBody, releases, ReleaseBody
);

/// It is done.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::http) struct DoneBody {
    /// Always `ok`.
    status: &'static str,
}

pub(in crate::http) const DONE: DoneBody = DoneBody { status: "ok" };

/// What became of each settlement.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::http) struct SettledBody {
    /// In the order of the settlements.
    pub(in crate::http) results: Vec<SettleResult>,
}

/// What became of one settlement.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub(in crate::http) enum SettleResult {
    /// It was looked at.
    Settled {
        /// The job.
        id: u64,
        /// `ok`, `lease_lost`, or `unknown`.
        status: &'static str,
    },
    /// It was refused.
    Refused {
        /// Why.
        error: ItemError,
    },
}

impl SettleResult {
    pub(in crate::http) fn new(id: u64, result: &Result<Settled, Error>) -> Self {
        let status = match result {
            Ok(Settled::Done(_) | Settled::Repeated) => "ok",
            Ok(Settled::LeaseLost) => "lease_lost",
            Ok(Settled::Unknown) => "unknown",
            Err(error) => return Self::Refused { error: error.into() },
        };
        Self::Settled { id, status }
    }
}
