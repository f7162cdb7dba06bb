//! Jobs on their way in.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::{ItemError, any_value, bytes_in, millis};
use crate::error::Error;
use crate::job::{Backoff, NewJob, Payload, QueueName, State, Tag, Timestamp, UniqueKey, When};
use crate::limits;
use crate::store::Pushed;

/// A new job.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct NewJobBody {
    /// Any JSON value; it is kept byte for byte.
    #[serde(default, deserialize_with = "any_value")]
    #[schemars(with = "Option<Value>")]
    payload: Option<Box<RawValue>>,
    /// A payload that is not JSON, as base64. Instead of `payload`.
    #[serde(default)]
    payload_base64: Option<String>,
    /// What `payload_base64` is. Default: application/octet-stream.
    #[serde(default)]
    content_type: Option<String>,
    /// Higher first.
    #[serde(default)]
    priority: i32,
    /// Not before this time from now.
    #[serde(default)]
    delay_ms: Option<u64>,
    /// Not before this time, RFC 3339. Instead of `delay_ms`.
    #[serde(default)]
    run_at: Option<String>,
    /// Not later than this time from now.
    #[serde(default)]
    ttl_ms: Option<u64>,
    /// Dead after so many failed attempts. Default: 25.
    #[serde(default)]
    max_attempts: Option<u32>,
    /// The delay between attempts. Default: exponential from 1 s to 1 h.
    #[serde(default)]
    backoff: Option<BackoffBody>,
    /// How long one attempt may run.
    #[serde(default)]
    timeout_ms: Option<u64>,
    /// Refused as a duplicate while a live job of the queue has the same key.
    #[serde(default)]
    unique: Option<UniqueBody>,
    /// Words to find the job by.
    #[serde(default)]
    tags: Vec<String>,
}

/// What makes a job unique.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct UniqueBody {
    key: String,
}

impl From<&UniqueKey> for UniqueBody {
    fn from(key: &UniqueKey) -> Self {
        Self { key: key.as_str().into() }
    }
}

/// The delay between attempts.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub(in crate::http) enum BackoffBody {
    /// Doubles from `base_ms` up to `max_ms`; `jitter` (0 to 1) of it is left to chance.
    Exponential {
        base_ms: u64,
        #[serde(default = "hour_ms")]
        max_ms: u64,
        #[serde(default = "half")]
        jitter: f64,
    },
    /// The same each time.
    Fixed { delay_ms: u64 },
    /// In turn, the last one for ever.
    List { delays_ms: Vec<u64> },
}

fn hour_ms() -> u64 {
    3_600_000
}

fn half() -> f64 {
    0.5
}

impl From<BackoffBody> for Backoff {
    fn from(body: BackoffBody) -> Self {
        let delay = Duration::from_millis;
        match body {
            BackoffBody::Exponential { base_ms, max_ms, jitter } => {
                Self::Exponential { base: delay(base_ms), max: delay(max_ms), jitter }
            }
            BackoffBody::Fixed { delay_ms } => Self::Fixed(delay(delay_ms)),
            BackoffBody::List { delays_ms } => {
                Self::List(delays_ms.into_iter().map(delay).collect())
            }
        }
    }
}

impl From<&Backoff> for BackoffBody {
    fn from(backoff: &Backoff) -> Self {
        match backoff {
            Backoff::Exponential { base, max, jitter } => {
                Self::Exponential { base_ms: millis(*base), max_ms: millis(*max), jitter: *jitter }
            }
            Backoff::Fixed(delay) => Self::Fixed { delay_ms: millis(*delay) },
            Backoff::List(delays) => {
                Self::List { delays_ms: delays.iter().copied().map(millis).collect() }
            }
        }
    }
}

impl NewJobBody {
    /// # Errors
    ///
    /// The first field that is wrong.
    pub(in crate::http) fn into_job(self, queue: QueueName) -> Result<NewJob, Error> {
        let when = self.when()?;
        let delay = Duration::from_millis;
        let is_json = self.payload.is_some();
        if is_json && self.content_type.as_deref().is_some_and(|name| name != Payload::JSON) {
            return Err(Error::invalid("content_type", "is for payload_base64"));
        }
        let bytes = bytes_in(self.payload, self.payload_base64, "payload_base64")?;
        let bytes = bytes.ok_or_else(|| Error::invalid("payload", "is missing"))?;
        let default = if is_json { Payload::JSON } else { "application/octet-stream" };
        let content_type = self.content_type.as_deref().unwrap_or(default);
        let job = NewJob {
            queue,
            payload: Payload::new(bytes)?.with_content_type(content_type)?,
            priority: self.priority,
            when,
            ttl: self.ttl_ms.map(delay),
            max_attempts: self.max_attempts.unwrap_or(limits::MAX_ATTEMPTS_DEFAULT),
            backoff: self.backoff.map(Into::into),
            timeout: self.timeout_ms.map(delay),
            unique: self.unique.map(|unique| UniqueKey::parse(&unique.key)).transpose()?,
            tags: self.tags.iter().map(|tag| Tag::parse(tag)).collect::<Result<_, _>>()?,
            replay_of: None,
        };
        Ok(job.check()?)
    }

    fn when(&self) -> Result<When, Error> {
        match (self.delay_ms, &self.run_at) {
            (Some(_), Some(_)) => {
                Err(Error::invalid("run_at", "at most one of it and delay_ms may be there"))
            }
            (Some(delay), None) => Ok(When::After(Duration::from_millis(delay))),
            (None, Some(at)) => {
                let wrong =
                    |_| Error::invalid("run_at", "must be RFC 3339, as 2030-01-31T12:00:00Z");
                let at: jiff::Timestamp = at.parse().map_err(wrong)?;
                Ok(When::At(Timestamp(at.as_millisecond())))
            }
            (None, None) => Ok(When::Now),
        }
    }
}

/// New jobs, each of which succeeds or fails by itself.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct BatchBody {
    /// 1 to 1000 of them.
    #[schemars(with = "Vec<NewJobBody>")]
    pub(in crate::http) jobs: Vec<Box<RawValue>>,
}

/// What became of a pushed job.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::http) struct PushedBody {
    /// The new job, or the live one that has the unique key.
    id: u64,
    /// `inserted` or `duplicate`.
    pub(in crate::http) outcome: &'static str,
    /// Where that job is.
    state: &'static str,
}

impl From<Pushed> for PushedBody {
    fn from(pushed: Pushed) -> Self {
        let (id, outcome, state) = match pushed {
            Pushed::Inserted { id, run_at: None } => (id, "inserted", State::Ready),
            Pushed::Inserted { id, run_at: Some(_) } => (id, "inserted", State::Scheduled),
            Pushed::Duplicate { id, state } => (id, "duplicate", state),
        };
        Self { id: id.0, outcome, state: state.name() }
    }
}

/// What became of each job of a batch.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::http) struct BatchPushedBody {
    /// In the order of the jobs.
    pub(in crate::http) results: Vec<PushResult>,
}

/// What became of one job.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub(in crate::http) enum PushResult {
    /// It was looked at.
    Pushed(PushedBody),
    /// It was refused.
    Refused {
        /// Why.
        error: ItemError,
    },
}

impl From<Result<Pushed, Error>> for PushResult {
    fn from(result: Result<Pushed, Error>) -> Self {
        match result {
            Ok(pushed) => Self::Pushed(pushed.into()),
            Err(error) => Self::Refused { error: (&error).into() },
        }
    }
}
