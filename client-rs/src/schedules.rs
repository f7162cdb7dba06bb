//! Schedules: jobs that are made by the clock.
//!
//! They are shown with the messages of the protocol as they are: times are in milliseconds since
//! 1970-01-01T00:00:00Z, durations in milliseconds.

use std::time::Duration;

use batonq_protocol::Message;
use batonq_protocol::messages::{
    DeleteSchedule, ListFires, ListSchedules, PauseSchedule, PutSchedule, ResumeSchedule,
    RunSchedule,
};

pub use batonq_protocol::messages::{Fire, Schedule as ScheduleDetail};

use crate::client::{Client, answer, millis};
use crate::error::Error;
use crate::push::{NewJob, Pushed, pushed_one};

/// Schedules in one page.
const PAGE: u32 = 1000;

/// When jobs are made, and what becomes of slots that do not come in time.
///
/// ```
/// use batonq_client::{NewJob, Schedule};
///
/// let nightly = Schedule::new("nightly", "30 2 * * *", NewJob::new("reports", "{}"))
///     .timezone("Europe/Berlin")
///     .overlap("skip");
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    wire: ScheduleDetail,
}

impl Schedule {
    /// A schedule with a cron expression of five fields, of six with seconds first, or `@every`
    /// and a period.
    pub fn new(name: impl Into<String>, schedule: impl Into<String>, job: NewJob) -> Self {
        let (name, schedule, job) = (name.into(), schedule.into(), Some(job.into_wire()));
        Self { wire: ScheduleDetail { name, schedule, job, ..<_>::default() } }
    }

    /// Of the IANA database; UTC unless given.
    #[must_use]
    pub fn timezone(mut self, timezone: impl Into<String>) -> Self {
        self.wire.timezone = timezone.into();
        self
    }

    /// If the job of the slot before has not ended: `allow`, unless given, `skip` or `queue`.
    #[must_use]
    pub fn overlap(mut self, policy: impl Into<String>) -> Self {
        self.wire.overlap = policy.into();
        self
    }

    /// Of slots that were missed: `none`, `last`, unless given, or `all`.
    #[must_use]
    pub fn catch_up(mut self, policy: impl Into<String>) -> Self {
        self.wire.catch_up = policy.into();
        self
    }

    /// Makes up for at most `cap` missed slots that are not older than `window`.
    #[must_use]
    pub fn catch_up_all(mut self, cap: u32, window: Duration) -> Self {
        self.wire.catch_up = "all".to_owned();
        self.wire.catch_up_cap = cap;
        self.wire.catch_up_window_ms = millis(window);
        self
    }

    /// Each job waits up to so long, by chance.
    #[must_use]
    pub fn jitter(mut self, jitter: Duration) -> Self {
        self.wire.jitter_ms = millis(jitter);
        self
    }

    /// No slots after so many jobs.
    #[must_use]
    pub fn runs_max(mut self, count: u64) -> Self {
        self.wire.runs_max = Some(count);
        self
    }
}

/// Schedules. Dropping one of these futures does not recall a change.
///
/// # Errors
///
/// [`Error::OutcomeUnknown`] if a change may be done; otherwise it is not. [`Error::Refused`] with
/// [`crate::ErrorCode::NotFound`] if there is no schedule of that name.
impl Client {
    /// Makes a schedule, or changes the one of its name.
    pub async fn put_schedule(&self, schedule: Schedule) -> Result<(), Error> {
        let schedule = Some(schedule.wire);
        self.done(Message::PutSchedule(Box::new(PutSchedule { schedule }))).await
    }

    /// All schedules, by name.
    pub async fn schedules(&self) -> Result<Vec<ScheduleDetail>, Error> {
        let mut all: Vec<ScheduleDetail> = Vec::new();
        loop {
            let after = all.last().map(|schedule| schedule.name.clone()).unwrap_or_default();
            let list = ListSchedules { name: String::new(), after, limit: PAGE };
            let list = self.call(Message::ListSchedules(list)).await?;
            let page = answer!(list, Schedules)?.schedules;
            let is_last = page.len() < PAGE as usize;
            all.extend(page);
            if is_last {
                return Ok(all);
            }
        }
    }

    /// One schedule.
    pub async fn schedule(&self, name: impl Into<String>) -> Result<ScheduleDetail, Error> {
        let list = ListSchedules { name: name.into(), ..<_>::default() };
        let found = answer!(self.call(Message::ListSchedules(list)).await?, Schedules)?.schedules;
        found.into_iter().next().ok_or_else(|| Error::unexpected(&"Schedules"))
    }

    /// Deletes a schedule and its history. Its jobs stay.
    pub async fn delete_schedule(&self, name: impl Into<String>) -> Result<(), Error> {
        self.done(Message::DeleteSchedule(DeleteSchedule { name: name.into() })).await
    }

    /// Stops a schedule from firing.
    pub async fn pause_schedule(&self, name: impl Into<String>) -> Result<(), Error> {
        self.done(Message::PauseSchedule(PauseSchedule { name: name.into() })).await
    }

    /// Lets a schedule go on with its next slot.
    pub async fn resume_schedule(&self, name: impl Into<String>) -> Result<(), Error> {
        self.done(Message::ResumeSchedule(ResumeSchedule { name: name.into() })).await
    }

    /// Pushes the job of a schedule now, out of turn.
    pub async fn run_schedule(&self, name: impl Into<String>) -> Result<Pushed, Error> {
        let run = Message::RunSchedule(RunSchedule { name: name.into() });
        let results = answer!(self.call(run).await?, Pushed)?.results;
        let result = results.into_iter().next().ok_or_else(|| Error::unexpected(&"Pushed"))?;
        pushed_one(result)
    }

    /// What became of the latest slots of a schedule, newest first; `limit` 0 is 50.
    pub async fn fires(&self, name: impl Into<String>, limit: u32) -> Result<Vec<Fire>, Error> {
        let list = ListFires { name: name.into(), limit };
        Ok(answer!(self.call(Message::ListFires(list)).await?, Fires)?.fires)
    }

    async fn done(&self, message: Message) -> Result<(), Error> {
        answer!(self.call(message).await?, Done).map(|_| ())
    }
}
