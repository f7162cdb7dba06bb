//! Jobs on their way in.

use std::collections::HashMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::{ItemError, any_value, bytes_in, millis};
use crate::error::Error;
use crate::job::{
    Backoff, Concurrency, Depends, Flow, FlowKey, JobId, NewJob, OnFailure, Options, Payload,
    QueueName, Rate, RateRule, State, Tag, Timestamp, UniqueHold, UniqueKey, When,
};
use crate::limits;
use crate::store::{Edit, Pushed, Same};

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
    /// Not stored as long as another job of the queue has the same key.
    #[serde(default)]
    unique: Option<UniqueBody>,
    /// Words to find the job by.
    #[serde(default)]
    tags: Vec<String>,
    /// A push that is repeated with this key within 24 hours is not done again.
    #[serde(default)]
    idempotency_key: Option<String>,
    /// At most `max` jobs of the queue with this key are leased at once; keys take turns.
    #[serde(default)]
    concurrency: Option<ConcurrencyBody>,
    /// At most `limit` jobs of the queue with this key are leased in `per_ms`.
    #[serde(default)]
    rate: Option<RateBody>,
    /// Jobs that must have been completed first. In a flow, also the `ref` of others.
    #[serde(default)]
    depends_on: Vec<NeedBody>,
    /// What becomes of it if one of those dies or is cancelled: `fail` (the default), `ignore` or
    /// `wait`.
    #[serde(default)]
    on_failure: Option<String>,
}

/// A job that another one waits for.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(in crate::http) enum NeedBody {
    /// By its number.
    Id(u64),
    /// By its name within the flow.
    Ref(String),
}

/// How many jobs with a key may be leased at once.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct ConcurrencyBody {
    key: String,
    /// Not there: any number; the key has its fair share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max: Option<u32>,
}

impl From<&Concurrency> for ConcurrencyBody {
    fn from(limit: &Concurrency) -> Self {
        Self { key: limit.key.as_str().into(), max: limit.max }
    }
}

/// How many jobs with a key may be leased in a time.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct RateBody {
    key: String,
    limit: u32,
    per_ms: u64,
    /// So many at once after a rest. Default: a quarter of `limit`, at least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    burst: Option<u32>,
}

impl From<&Rate> for RateBody {
    fn from(limit: &Rate) -> Self {
        let RateRule { limit: count, per, burst } = limit.rule;
        Self { key: limit.key.as_str().into(), limit: count, per_ms: millis(per), burst }
    }
}

/// Jobs that wait for each other: all of them are stored, or none.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct FlowBody {
    /// 1 to 1000 of them.
    pub(in crate::http) jobs: Vec<FlowJobBody>,
}

/// A job of a flow.
#[derive(Debug, Deserialize, JsonSchema)]
pub(in crate::http) struct FlowJobBody {
    /// What others of the flow call it.
    #[serde(default, rename = "ref")]
    name: Option<String>,
    queue: String,
    #[serde(flatten)]
    #[schemars(with = "NewJobBody")]
    job: serde_json::Map<String, Value>,
}

impl FlowBody {
    /// # Errors
    ///
    /// The first field that is wrong.
    pub(in crate::http) fn into_jobs(self) -> Result<Vec<NewJob>, Error> {
        let mut places = HashMap::new();
        for (place, job) in self.jobs.iter().enumerate() {
            if let Some(name) = &job.name
                && places.insert(name.clone(), place).is_some()
            {
                return Err(Error::invalid("ref", format!("{name:?} is given twice")));
            }
        }
        let job = |job: FlowJobBody| {
            let json = Value::Object(job.job).to_string();
            let body: NewJobBody = crate::http::body::parse(json.as_bytes())?;
            body.into_flow_job(QueueName::parse(&job.queue)?, &places)
        };
        self.jobs.into_iter().map(job).collect()
    }
}

/// What makes a job unique.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct UniqueBody {
    key: String,
    /// Held for so long after the push, whatever becomes of the job. Default: until it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    window_ms: Option<u64>,
    /// Held until the job is leased first; a push meanwhile gives the waiting job its payload and
    /// its time. Instead of `window_ms`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    debounce: bool,
}

impl UniqueBody {
    pub(in crate::http) fn new(key: &UniqueKey, hold: UniqueHold) -> Self {
        let window_ms = match hold {
            UniqueHold::WindowMs(window) => Some(millis(window)),
            UniqueHold::Live | UniqueHold::Debounce => None,
        };
        Self { key: key.as_str().into(), window_ms, debounce: hold == UniqueHold::Debounce }
    }

    fn hold(&self) -> Result<UniqueHold, Error> {
        match (self.window_ms, self.debounce) {
            (Some(_), true) => {
                Err(Error::invalid("unique.debounce", "at most one of it and window_ms"))
            }
            (Some(window), false) => Ok(UniqueHold::WindowMs(Duration::from_millis(window))),
            (None, true) => Ok(UniqueHold::Debounce),
            (None, false) => Ok(UniqueHold::Live),
        }
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
        self.into_flow_job(queue, &HashMap::new())
    }

    /// `places` are those of the flow's jobs by their names.
    fn into_flow_job(
        self,
        queue: QueueName,
        places: &HashMap<String, usize>,
    ) -> Result<NewJob, Error> {
        let when = when(self.delay_ms, self.run_at.as_deref())?.unwrap_or(When::Now);
        let (options, waits_for) = self.options(places)?;
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
            unique: self.unique.as_ref().map(|it| UniqueKey::parse(&it.key)).transpose()?,
            tags: self.tags.iter().map(|tag| Tag::parse(tag)).collect::<Result<_, _>>()?,
            replay_of: None,
            options: options.into(),
            waits_for,
            is_part: false,
        };
        Ok(job.check()?)
    }

    fn options(&self, places: &HashMap<String, usize>) -> Result<(Options, Vec<usize>), Error> {
        let flow_key = |field, text: &str| {
            FlowKey::parse(text).map_err(|invalid| Error::invalid(field, invalid.detail))
        };
        let concurrency = self.concurrency.as_ref().map(|limit| {
            Ok::<_, Error>(Concurrency {
                key: flow_key("concurrency.key", &limit.key)?,
                max: limit.max,
            })
        });
        let rate = self.rate.as_ref().map(|limit| {
            let rule = RateRule {
                limit: limit.limit,
                per: Duration::from_millis(limit.per_ms),
                burst: limit.burst,
            };
            Ok::<_, Error>(Rate { key: flow_key("rate.key", &limit.key)?, rule })
        });
        let idempotency = self.idempotency_key.as_deref().map(UniqueKey::parse).transpose();
        let idempotency =
            idempotency.map_err(|invalid| Error::invalid("idempotency_key", invalid.detail))?;
        let (mut on, mut waits_for) = (Vec::new(), Vec::new());
        for need in &self.depends_on {
            match need {
                NeedBody::Id(id) => on.push(JobId(*id)),
                NeedBody::Ref(name) => {
                    let unknown = || format!("{name:?} is no ref of this flow");
                    let place = places.get(name);
                    let place = place.ok_or_else(|| Error::invalid("depends_on", unknown()))?;
                    waits_for.push(*place);
                }
            }
        }
        let on_failure = match self.on_failure.as_deref() {
            None => OnFailure::Fail,
            Some(name) => OnFailure::parse(name)
                .ok_or_else(|| Error::invalid("on_failure", "must be fail, ignore or wait"))?,
        };
        let options = Options {
            hold: self.unique.as_ref().map_or(Ok(UniqueHold::Live), UniqueBody::hold)?,
            idempotency,
            custom_id: None,
            flow: Flow { concurrency: concurrency.transpose()?, rate: rate.transpose()? },
            depends: Depends { on, on_failure },
            slot: None,
            extra: None,
        };
        Ok((options, waits_for))
    }
}

/// When a job may run, if that is said.
fn when(delay_ms: Option<u64>, run_at: Option<&str>) -> Result<Option<When>, Error> {
    match (delay_ms, run_at) {
        (Some(_), Some(_)) => {
            Err(Error::invalid("run_at", "at most one of it and delay_ms may be there"))
        }
        (Some(delay), None) => Ok(Some(When::After(Duration::from_millis(delay)))),
        (None, Some(at)) => {
            let wrong = |_| Error::invalid("run_at", "must be RFC 3339, as 2030-01-31T12:00:00Z");
            let at: jiff::Timestamp = at.parse().map_err(wrong)?;
            Ok(Some(When::At(Timestamp(at.as_millisecond()))))
        }
        (None, None) => Ok(None),
    }
}

/// What is to be changed of a waiting job.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct EditBody {
    /// Any JSON value.
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
    priority: Option<i32>,
    /// Not before this time from now; 0: now.
    #[serde(default)]
    delay_ms: Option<u64>,
    /// Not before this time, RFC 3339. Instead of `delay_ms`.
    #[serde(default)]
    run_at: Option<String>,
    /// Another queue.
    #[serde(default)]
    queue: Option<String>,
}

impl EditBody {
    /// # Errors
    ///
    /// The first field that is wrong.
    pub(in crate::http) fn into_edit(self) -> Result<Edit, Error> {
        let default =
            if self.payload.is_some() { Payload::JSON } else { "application/octet-stream" };
        let content_type = self.content_type.as_deref().unwrap_or(default).to_owned();
        let bytes = bytes_in(self.payload, self.payload_base64, "payload_base64")?;
        let payload = match bytes {
            Some(bytes) => Some(Payload::new(bytes)?.with_content_type(&content_type)?),
            None => None,
        };
        Ok(Edit {
            priority: self.priority,
            payload,
            when: when(self.delay_ms, self.run_at.as_deref())?,
            queue: self.queue.as_deref().map(QueueName::parse).transpose()?,
            was: None,
        })
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
    /// The new job, or the one that has the key.
    id: u64,
    /// `inserted`; `duplicate`: a live job has the unique key; `replaced`: a waiting job with the
    /// debounce key took over payload and time; `throttled`: a job has the unique key within its
    /// window; `repeated`: the same push was done before.
    pub(in crate::http) outcome: &'static str,
    /// Where that job is.
    state: &'static str,
}

impl From<Pushed> for PushedBody {
    fn from(pushed: Pushed) -> Self {
        let (id, outcome, state) = match pushed {
            Pushed::Inserted { id, state, .. } => (id, "inserted", state),
            Pushed::Replaced { id, state, .. } => (id, "replaced", state),
            Pushed::Duplicate { id, state, of: Same::Unique | Same::CustomId } => {
                (id, "duplicate", state)
            }
            Pushed::Duplicate { id, state, of: Same::Window } => (id, "throttled", state),
            Pushed::Duplicate { id, state, of: Same::Push } => (id, "repeated", state),
            // The broker has made an error of it.
            Pushed::Refused(_) => (JobId(0), "refused", State::Dead),
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
