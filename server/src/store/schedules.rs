//! What is kept of schedules, and how their slots become jobs: the part that all stores share.

use serde::{Deserialize, Serialize};

use super::columns::{json, parse_backoff, sql_backoff};
use super::{Destination, Effect, Pushed};
use crate::job::{
    CatchUp, CronRule, Depends, InvalidField, JobId, NewJob, OnFailure, Options, Overlap, Payload,
    QueueName, ScheduleName, ScheduleSpec, Slot, State, Tag, Timestamp, UniqueKey, When,
};

/// How often a schedule may fire in one part of its duty, beyond what it has to make up for.
pub(crate) const SCHEDULES_AT_ONCE: usize = 100;

/// A schedule, and what became of it so far.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// Its name.
    pub name: ScheduleName,
    /// When, and what.
    pub spec: ScheduleSpec,
    /// The next slot. `None`: it has ended.
    pub next_at: Option<Timestamp>,
    /// Since when it is paused.
    pub paused_at: Option<Timestamp>,
    /// Jobs that it has made.
    pub runs: u64,
    /// Slots that made no job because nobody led, as far as they were counted.
    pub missed: u64,
    /// The latest slot that made a job, and that job.
    pub last: Option<(Timestamp, JobId)>,
    /// When it was made.
    pub created_at: Timestamp,
}

impl Schedule {
    /// A new one.
    pub(crate) fn new(name: ScheduleName, spec: ScheduleSpec, now: Timestamp) -> Self {
        let next_at = spec.next(now);
        let (paused_at, last) = (None, None);
        Self { name, spec, next_at, paused_at, runs: 0, missed: 0, last, created_at: now }
    }

    /// The same under another specification. If the rule is the same, no slot is lost.
    pub(crate) fn changed(self, spec: ScheduleSpec, now: Timestamp) -> Self {
        let is_same = self.spec.rule == spec.rule && self.next_at.is_some();
        let next_at = match is_same {
            true => self.next_at.filter(|slot| spec.ends_at.is_none_or(|end| *slot < end)),
            false => spec.next(now),
        };
        let is_over = spec.runs_max.is_some_and(|max| self.runs >= max);
        Self { spec, next_at: next_at.filter(|_| !is_over), ..self }
    }

    /// Paused, or going on with the next slot from now.
    pub(crate) fn paused(self, pausing: super::Pausing, now: Timestamp) -> Self {
        match (pausing, self.paused_at) {
            (super::Pausing::Pause, None) => Self { paused_at: Some(now), ..self },
            (super::Pausing::Resume, Some(_)) => {
                let next_at = self.next_at.and_then(|_| self.spec.next(now));
                Self { paused_at: None, next_at, ..self }
            }
            _ => self,
        }
    }
}

/// What became of a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fire {
    /// The slot; of several that were missed, the first.
    pub slot: Timestamp,
    /// When that was decided.
    pub fired_at: Timestamp,
    /// What.
    pub outcome: FireOutcome,
    /// The job that was made, or that kept it from being made.
    pub job: Option<JobId>,
    /// How many slots this is about.
    pub count: u64,
}

/// What became of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FireOutcome {
    /// It made a job.
    Fired,
    /// Somebody asked for it.
    Manual,
    /// The job of the slot before had not ended, or the job could not be stored.
    Skipped,
    /// Nobody led, and it was not made up for.
    Missed,
}

impl FireOutcome {
    const ALL: [Self; 4] = [Self::Fired, Self::Manual, Self::Skipped, Self::Missed];

    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fired => "fired",
            Self::Manual => "manual",
            Self::Skipped => "skipped",
            Self::Missed => "missed",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.name() == name)
    }
}

/// What came of a schedule that was put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutSchedule {
    /// It is new.
    Created,
    /// It was there, and is changed.
    Updated,
    /// There are [`crate::limits::SCHEDULES_MAX`] already.
    TooMany,
}

/// What the duty does with schedules whose slots have come: the jobs to be pushed in one call, and
/// then, by [`Plan::conclude`], what is to be written down.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) jobs: Vec<NewJob>,
    schedules: Vec<Schedule>,
    /// Place of the schedule, and what becomes of the slot.
    slots: Vec<(usize, Planned)>,
    now: Timestamp,
}

#[derive(Debug)]
enum Planned {
    /// Job i of the call.
    Job(Timestamp, usize),
    Skipped(Timestamp, JobId),
    SkippedFor(Timestamp, usize),
    Missed(Timestamp, u64),
}

/// The job that a slot may collide with.
#[derive(Clone, Copy)]
enum Last {
    Job(JobId),
    Item(usize),
}

impl Plan {
    /// `is_live` says of the last jobs of schedules whether they have not ended.
    pub(crate) fn new(
        schedules: Vec<Schedule>,
        now: Timestamp,
        is_live: impl Fn(JobId) -> bool,
    ) -> Self {
        let mut plan = Self { jobs: Vec::new(), schedules, slots: Vec::new(), now };
        for place in 0..plan.schedules.len() {
            plan.add(place, &is_live);
        }
        plan
    }

    fn add(&mut self, place: usize, is_live: &impl Fn(JobId) -> bool) {
        let schedule = self.schedules[place].clone();
        let Some(first) = schedule.next_at else { return };
        let due = schedule.spec.due(first, self.now);
        if due.missed > 0 {
            self.slots.push((place, Planned::Missed(first, due.missed)));
        }
        let mut last = schedule.last.map(|(_, job)| job).filter(|job| is_live(*job)).map(Last::Job);
        let left = schedule.spec.runs_max.map(|max| max.saturating_sub(schedule.runs));
        let mut made = 0;
        let mut next_at = due.next;
        for slot in due.slots {
            if left.is_some_and(|left| made >= left) {
                // Its turn comes if one of the jobs before is not stored.
                next_at = Some(slot);
                break;
            }
            if schedule.spec.overlap == Overlap::Skip
                && let Some(last) = last
            {
                self.slots.push((
                    place,
                    match last {
                        Last::Job(job) => Planned::Skipped(slot, job),
                        Last::Item(item) => Planned::SkippedFor(slot, item),
                    },
                ));
                continue;
            }
            let wait_for = last.filter(|_| schedule.spec.overlap == Overlap::Queue);
            let item = self.jobs.len();
            self.jobs.push(job_of(&schedule, slot, wait_for));
            self.slots.push((place, Planned::Job(slot, item)));
            last = Some(Last::Item(item));
            made += 1;
        }
        self.schedules[place].missed += due.missed;
        self.schedules[place].next_at = next_at;
    }

    /// The schedules as they are now, and what became of their slots.
    pub(crate) fn conclude(self, pushed: &[Pushed]) -> (Vec<Schedule>, Vec<(ScheduleName, Fire)>) {
        let Self { mut schedules, slots, now, .. } = self;
        let mut fires = Vec::with_capacity(slots.len());
        for (place, planned) in slots {
            let schedule = &mut schedules[place];
            let id_of = |item: usize| pushed.get(item).and_then(Pushed::id);
            let (slot, outcome, job, count) = match planned {
                Planned::Missed(slot, count) => (slot, FireOutcome::Missed, None, count),
                Planned::Skipped(slot, job) => (slot, FireOutcome::Skipped, Some(job), 1),
                Planned::SkippedFor(slot, item) => (slot, FireOutcome::Skipped, id_of(item), 1),
                Planned::Job(slot, item) => match pushed.get(item) {
                    Some(Pushed::Inserted { id, .. }) => {
                        schedule.runs += 1;
                        schedule.last = Some((slot, *id));
                        (slot, FireOutcome::Fired, Some(*id), 1)
                    }
                    _ => (slot, FireOutcome::Skipped, id_of(item), 1),
                },
            };
            let fire = Fire { slot, fired_at: now, outcome, job, count };
            fires.push((schedule.name.clone(), fire));
        }
        for schedule in &mut schedules {
            if schedule.spec.runs_max.is_some_and(|max| schedule.runs >= max) {
                schedule.next_at = None;
            }
        }
        (schedules, fires)
    }
}

fn job_of(schedule: &Schedule, slot: Timestamp, wait_for: Option<Last>) -> NewJob {
    let mut job = schedule.spec.job.clone();
    let jitter = schedule.spec.jitter_of(slot);
    job.when = if jitter.is_zero() { When::Now } else { When::At(slot + jitter) };
    job.options.slot = Some(Slot { schedule: schedule.name.clone(), at: slot });
    let on_failure = OnFailure::Ignore;
    match wait_for {
        None => {}
        Some(Last::Job(id)) => job.options.depends = Depends { on: vec![id], on_failure },
        Some(Last::Item(item)) => {
            job.options.depends = Depends { on: Vec::new(), on_failure };
            job.waits_for = vec![item];
        }
    }
    job
}

/// The job that somebody asks for, out of turn.
pub(crate) fn manual_job(schedule: &Schedule, now: Timestamp) -> NewJob {
    let mut job = schedule.spec.job.clone();
    job.when = When::Now;
    job.options.slot = Some(Slot { schedule: schedule.name.clone(), at: now });
    job
}

/// A specification as it is kept, beside the payload.
#[derive(Serialize, Deserialize)]
struct SpecText {
    schedule: String,
    timezone: String,
    overlap: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    catch_up: Option<(u32, u64)>,
    #[serde(default)]
    catches_up: bool,
    jitter_ms: u64,
    ends_at: Option<i64>,
    runs_max: Option<u64>,
    job: JobText,
}

#[derive(Serialize, Deserialize)]
struct JobText {
    queue: QueueName,
    content_type: Option<Box<str>>,
    priority: i32,
    ttl_ms: Option<u64>,
    max_attempts: u32,
    backoff: Option<String>,
    timeout_ms: Option<u64>,
    unique: Option<UniqueKey>,
    tags: Vec<Tag>,
    options: Options,
}

fn to_millis(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A specification as one text, without the payload.
pub(crate) fn sql_spec(spec: &ScheduleSpec) -> String {
    let job = &spec.job;
    let (catches_up, catch_up) = match spec.catch_up {
        CatchUp::None => (false, None),
        CatchUp::Last => (true, None),
        CatchUp::All { cap, window } => (true, Some((cap, to_millis(window)))),
    };
    json(&SpecText {
        schedule: spec.rule.expression().into(),
        timezone: spec.rule.timezone().into(),
        overlap: spec.overlap.name().into(),
        catch_up,
        catches_up,
        jitter_ms: to_millis(spec.jitter),
        ends_at: spec.ends_at.map(|at| at.0),
        runs_max: spec.runs_max,
        job: JobText {
            queue: job.queue.clone(),
            content_type: job.payload.content_type.clone(),
            priority: job.priority,
            ttl_ms: job.ttl.map(to_millis),
            max_attempts: job.max_attempts,
            backoff: job.backoff.as_ref().map(sql_backoff),
            timeout_ms: job.timeout.map(to_millis),
            unique: job.unique.clone(),
            tags: job.tags.clone(),
            options: job.options.clone().into_inner(),
        },
    })
}

/// The specification of such a text and a payload.
pub(crate) fn parse_spec(text: &str, payload: bytes::Bytes) -> Result<ScheduleSpec, InvalidField> {
    let damaged = |what: String| InvalidField { field: "spec".into(), detail: what };
    let spec: SpecText = serde_json::from_str(text).map_err(|error| damaged(error.to_string()))?;
    let millis = std::time::Duration::from_millis;
    let job = spec.job;
    let backoff = job.backoff.as_deref().map(parse_backoff).transpose();
    Ok(ScheduleSpec {
        rule: CronRule::parse(&spec.schedule, &spec.timezone)?,
        overlap: Overlap::parse(&spec.overlap).unwrap_or_default(),
        catch_up: match (spec.catches_up, spec.catch_up) {
            (false, _) => CatchUp::None,
            (true, None) => CatchUp::Last,
            (true, Some((cap, window))) => CatchUp::All { cap, window: millis(window) },
        },
        jitter: millis(spec.jitter_ms),
        ends_at: spec.ends_at.map(Timestamp),
        runs_max: spec.runs_max,
        job: NewJob {
            priority: job.priority,
            ttl: job.ttl_ms.map(millis),
            max_attempts: job.max_attempts,
            backoff: backoff.map_err(|error| damaged(error.to_string()))?,
            timeout: job.timeout_ms.map(millis),
            unique: job.unique,
            tags: job.tags,
            options: job.options.into(),
            ..NewJob::new(job.queue, Payload { bytes: payload, content_type: job.content_type })
        },
    })
}

/// What pushed jobs mean for those who wait.
pub(crate) fn effects_of(jobs: &[NewJob], pushed: &[Pushed]) -> Vec<Effect> {
    let effect = |(job, pushed): (&NewJob, &Pushed)| {
        let (Pushed::Inserted { id, state, run_at } | Pushed::Replaced { id, state, run_at }) =
            pushed
        else {
            return None;
        };
        let to = match (state, run_at) {
            (State::Ready, _) => Destination::Ready,
            (State::Scheduled, Some(at)) => Destination::Scheduled(*at),
            (State::Blocked, _) => Destination::Blocked,
            _ => return None,
        };
        Some(Effect { job: *id, queue: job.queue.clone(), to })
    };
    jobs.iter().zip(pushed).filter_map(effect).collect()
}

#[cfg(test)]
mod properties;
