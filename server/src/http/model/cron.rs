//! Schedules.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::push::NewJobBody;
use super::{millis, payload_out, time};
use crate::error::Error;
use crate::job::{CatchUp, CronRule, Overlap, QueueName, ScheduleSpec, Timestamp};
use crate::store::{Fire, Schedule};

/// A schedule, and what it pushes: all that a new job may have, too.
#[derive(Debug, Deserialize, JsonSchema)]
pub(in crate::http) struct PutScheduleBody {
    /// Five fields, six with seconds first, or `@every` and a period.
    schedule: String,
    /// Of the IANA database. Default: UTC.
    #[serde(default)]
    timezone: String,
    /// Where its jobs go.
    queue: String,
    /// If the job of the slot before has not ended: `allow` (the default), `skip` or `queue`.
    #[serde(default)]
    overlap: Option<String>,
    /// What becomes of missed slots.
    #[serde(default)]
    catch_up: Option<CatchUpBody>,
    /// Each job waits up to so long, by chance.
    #[serde(default)]
    jitter_ms: u64,
    /// No slots from then on, RFC 3339.
    #[serde(default)]
    ends_at: Option<String>,
    /// No slots after so many jobs.
    #[serde(default)]
    runs_max: Option<u64>,
    #[serde(flatten)]
    #[schemars(with = "NewJobBody")]
    job: Map<String, Value>,
}

/// What becomes of slots that were missed because nobody led.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "policy", rename_all = "snake_case", deny_unknown_fields)]
enum CatchUpBody {
    /// They are counted.
    None,
    /// The latest makes its job.
    Last,
    /// The latest ones make theirs.
    All {
        /// At most so many, 1 to 1000. Default: 100.
        #[serde(default = "hundred")]
        cap: u32,
        /// No older than this, up to 30 days. Default: a day.
        #[serde(default = "day_ms")]
        window_ms: u64,
    },
}

fn hundred() -> u32 {
    100
}

fn day_ms() -> u64 {
    24 * 3600 * 1000
}

impl From<CatchUpBody> for CatchUp {
    fn from(body: CatchUpBody) -> Self {
        match body {
            CatchUpBody::None => Self::None,
            CatchUpBody::Last => Self::Last,
            CatchUpBody::All { cap, window_ms } => {
                Self::All { cap, window: Duration::from_millis(window_ms) }
            }
        }
    }
}

impl From<CatchUp> for CatchUpBody {
    fn from(catch_up: CatchUp) -> Self {
        match catch_up {
            CatchUp::None => Self::None,
            CatchUp::Last => Self::Last,
            CatchUp::All { cap, window } => Self::All { cap, window_ms: millis(window) },
        }
    }
}

impl PutScheduleBody {
    /// # Errors
    ///
    /// The first field that is wrong.
    pub(in crate::http) fn into_spec(self) -> Result<ScheduleSpec, Error> {
        for field in ["delay_ms", "run_at", "depends_on"] {
            if self.job.contains_key(field) {
                return Err(Error::invalid(field, "the schedule says when its jobs run"));
            }
        }
        let json = Value::Object(self.job).to_string();
        let job: NewJobBody = crate::http::body::parse(json.as_bytes())?;
        let overlap = match self.overlap.as_deref() {
            None => Overlap::default(),
            Some(name) => Overlap::parse(name)
                .ok_or_else(|| Error::invalid("overlap", "must be allow, skip or queue"))?,
        };
        let ends_at = self.ends_at.map(|at| {
            let at = at.parse::<jiff::Timestamp>().map_err(|_| {
                Error::invalid("ends_at", "must be RFC 3339, as 2030-01-31T12:00:00Z")
            })?;
            Ok::<_, Error>(Timestamp(at.as_millisecond()))
        });
        Ok(ScheduleSpec {
            rule: CronRule::parse(&self.schedule, &self.timezone)?,
            overlap,
            catch_up: self.catch_up.map_or(CatchUp::default(), Into::into),
            jitter: Duration::from_millis(self.jitter_ms),
            ends_at: ends_at.transpose()?,
            runs_max: self.runs_max,
            job: job.into_job(QueueName::parse(&self.queue)?)?,
        })
    }
}

/// A schedule, and what became of it so far.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::http) struct ScheduleBody {
    name: String,
    schedule: String,
    timezone: String,
    overlap: &'static str,
    catch_up: CatchUpBody,
    jitter_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ends_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    runs_max: Option<u64>,
    queue: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    priority: i32,
    max_attempts: u32,
    tags: Vec<String>,
    paused: bool,
    /// Null: it has ended.
    next_at: Option<String>,
    /// The latest slot that made a job.
    last_at: Option<String>,
    /// That job.
    last_job: Option<u64>,
    /// Jobs that it has made.
    runs: u64,
    /// Slots that made no job because nobody led.
    missed: u64,
    created_at: String,
}

impl From<Schedule> for ScheduleBody {
    fn from(schedule: Schedule) -> Self {
        let spec = schedule.spec;
        let (payload, payload_base64, _) = payload_out(&spec.job.payload);
        Self {
            name: schedule.name.as_str().into(),
            schedule: spec.rule.expression().into(),
            timezone: spec.rule.timezone().into(),
            overlap: spec.overlap.name(),
            catch_up: spec.catch_up.into(),
            jitter_ms: millis(spec.jitter),
            ends_at: spec.ends_at.map(time),
            runs_max: spec.runs_max,
            queue: spec.job.queue.as_str().into(),
            payload: payload.and_then(|json| serde_json::from_str(json.get()).ok()),
            payload_base64,
            priority: spec.job.priority,
            max_attempts: spec.job.max_attempts,
            tags: spec.job.tags.iter().map(|tag| tag.as_str().into()).collect(),
            paused: schedule.paused_at.is_some(),
            next_at: schedule.next_at.map(time),
            last_at: schedule.last.map(|(slot, _)| time(slot)),
            last_job: schedule.last.map(|(_, job)| job.0),
            runs: schedule.runs,
            missed: schedule.missed,
            created_at: time(schedule.created_at),
        }
    }
}

/// A page of schedules, by name.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::http) struct SchedulesBody {
    schedules: Vec<ScheduleBody>,
    /// For the next page; null: there is no more.
    cursor: Option<String>,
}

impl SchedulesBody {
    pub(in crate::http) fn new(schedules: Vec<Schedule>, limit: usize) -> Self {
        let last = schedules.last().map(|schedule| schedule.name.as_str().to_owned());
        let cursor = last.filter(|_| schedules.len() >= limit);
        Self { schedules: schedules.into_iter().map(Into::into).collect(), cursor }
    }
}

/// What became of the latest slots, newest first.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::http) struct FiresBody {
    pub(in crate::http) fires: Vec<FireBody>,
}

/// What became of a slot, or of several that were missed.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::http) struct FireBody {
    /// Of several, the first.
    slot: String,
    fired_at: String,
    /// `fired`, `manual`, `skipped` or `missed`.
    outcome: &'static str,
    /// The job that was made, or that kept it from being made.
    job: Option<u64>,
    count: u64,
}

impl From<Fire> for FireBody {
    fn from(fire: Fire) -> Self {
        Self {
            slot: time(fire.slot),
            fired_at: time(fire.fired_at),
            outcome: fire.outcome.name(),
            job: fire.job.map(|id| id.0),
            count: fire.count,
        }
    }
}
