//! `batonq cron`.

use std::process::ExitCode;
use std::time::Duration;

use batonq_client::{Fire, NewJob, Schedule, ScheduleDetail};
use serde::Serialize;
use serde_json::json;

use crate::Shared;
use crate::exit::Failure;
use crate::output::{Row, parse_duration, time};

/// What to do with schedules.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Cron {
    /// List the schedules
    Ls,
    /// Make a schedule, or change the one of this name
    Put(Put),
    /// Delete a schedule; its jobs stay
    Rm(Named),
    /// Stop a schedule from firing
    Pause(Named),
    /// Let a schedule go on with its next slot
    Resume(Named),
    /// Push its job now, out of turn
    Run(Named),
    /// What became of its latest slots, newest first
    History(History),
}

/// One schedule.
#[derive(Debug, clap::Args)]
pub(crate) struct Named {
    /// The schedule
    name: String,
}

/// Arguments of `cron put`.
#[derive(Debug, clap::Args)]
pub(crate) struct Put {
    /// The schedule
    name: String,

    /// Five fields, six with seconds first, or @every and a period
    schedule: String,

    /// Where its jobs go
    queue: String,

    /// What its jobs carry, JSON
    #[arg(default_value = "null")]
    payload: String,

    /// Of the IANA database, as Europe/Berlin
    #[arg(long, default_value = "UTC", value_name = "ZONE")]
    timezone: String,

    /// If the job of the slot before has not ended
    #[arg(long, default_value = "allow", value_parser = ["allow", "skip", "queue"])]
    overlap: String,

    /// What becomes of slots that were missed
    #[arg(long, default_value = "last", value_parser = ["none", "last", "all"])]
    catch_up: String,

    /// Let each job wait up to so long, by chance
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    jitter: Option<Duration>,

    /// Stop after so many jobs
    #[arg(long, value_name = "N")]
    runs_max: Option<u64>,

    /// Higher first
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    priority: i32,
}

/// Arguments of `cron history`.
#[derive(Debug, clap::Args)]
pub(crate) struct History {
    /// The schedule
    name: String,

    /// At most so many
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
}

impl Cron {
    pub(crate) async fn run(self, shared: &Shared) -> Result<ExitCode, Failure> {
        let client = shared.connect("").await?;
        let told = |name: &str, what: &str| {
            let value = json!({ "name": name, "status": what });
            shared.output.value(&value, &format!("{name} {what}"))
        };
        match self {
            Self::Ls => {
                let schedules = client.schedules().await?;
                let rows: Vec<ScheduleRow> = schedules.into_iter().map(Into::into).collect();
                shared.output.rows(&rows)?;
            }
            Self::Put(put) => {
                let name = put.name.clone();
                client.put_schedule(put.schedule()?).await?;
                let next = client.schedule(&name).await?.next_at_ms.map(time);
                let value = json!({ "name": name, "next_at": next });
                let sentence = match &next {
                    Some(next) => format!("{name} fires next at {next}"),
                    None => format!("{name} has ended"),
                };
                shared.output.value(&value, &sentence)?;
            }
            Self::Rm(Named { name }) => {
                client.delete_schedule(&name).await?;
                told(&name, "is deleted")?;
            }
            Self::Pause(Named { name }) => {
                client.pause_schedule(&name).await?;
                told(&name, "is paused")?;
            }
            Self::Resume(Named { name }) => {
                client.resume_schedule(&name).await?;
                told(&name, "goes on")?;
            }
            Self::Run(Named { name }) => {
                let id = client.run_schedule(&name).await?.id.0;
                let value = json!({ "name": name, "id": id });
                shared.output.value(&value, &format!("{name} made job {id}"))?;
            }
            Self::History(history) => {
                let fires = client.fires(history.name, history.limit).await?;
                let rows: Vec<FireRow> = fires.into_iter().map(Into::into).collect();
                shared.output.rows(&rows)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Put {
    fn schedule(self) -> Result<Schedule, Failure> {
        if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(&self.payload) {
            return Err(Failure::usage(format!("the payload is no JSON ({error})")));
        }
        let job = NewJob::new(self.queue, self.payload).priority(self.priority);
        let mut schedule = Schedule::new(self.name, self.schedule, job)
            .timezone(self.timezone)
            .overlap(self.overlap)
            .catch_up(self.catch_up)
            .jitter(self.jitter.unwrap_or_default());
        if let Some(runs_max) = self.runs_max {
            schedule = schedule.runs_max(runs_max);
        }
        Ok(schedule)
    }
}

/// A schedule.
#[derive(Debug, Serialize)]
struct ScheduleRow {
    name: String,
    schedule: String,
    timezone: String,
    queue: String,
    overlap: String,
    catch_up: String,
    paused: bool,
    next_at: Option<String>,
    last_at: Option<String>,
    last_job: Option<u64>,
    runs: u64,
    missed: u64,
}

impl From<ScheduleDetail> for ScheduleRow {
    fn from(schedule: ScheduleDetail) -> Self {
        Self {
            name: schedule.name,
            schedule: schedule.schedule,
            timezone: schedule.timezone,
            queue: schedule.job.map(|job| job.queue).unwrap_or_default(),
            overlap: schedule.overlap,
            catch_up: schedule.catch_up,
            paused: schedule.paused_at_ms.is_some(),
            next_at: schedule.next_at_ms.map(time),
            last_at: schedule.last_slot_ms.map(time),
            last_job: (schedule.last_job != 0).then_some(schedule.last_job),
            runs: schedule.runs,
            missed: schedule.missed,
        }
    }
}

impl Row for ScheduleRow {
    const HEAD: &'static [&'static str] =
        &["NAME", "SCHEDULE", "ZONE", "QUEUE", "NEXT", "LAST", "RUNS", "MISSED", ""];

    fn cells(&self) -> Vec<String> {
        let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
        vec![
            self.name.clone(),
            self.schedule.clone(),
            self.timezone.clone(),
            self.queue.clone(),
            or_dash(&self.next_at),
            or_dash(&self.last_at),
            self.runs.to_string(),
            self.missed.to_string(),
            if self.paused { "paused".into() } else { String::new() },
        ]
    }
}

/// What became of a slot.
#[derive(Debug, Serialize)]
struct FireRow {
    slot: String,
    fired_at: String,
    outcome: String,
    job: Option<u64>,
    count: u64,
}

impl From<Fire> for FireRow {
    fn from(fire: Fire) -> Self {
        Self {
            slot: time(fire.slot_ms),
            fired_at: time(fire.fired_at_ms),
            outcome: fire.outcome,
            job: (fire.job != 0).then_some(fire.job),
            count: fire.count,
        }
    }
}

impl Row for FireRow {
    const HEAD: &'static [&'static str] = &["SLOT", "FIRED", "OUTCOME", "JOB", "COUNT"];

    fn cells(&self) -> Vec<String> {
        let job = self.job.map_or_else(|| "-".into(), |job| job.to_string());
        let count = self.count.to_string();
        vec![self.slot.clone(), self.fired_at.clone(), self.outcome.clone(), job, count]
    }
}
