//! Schedules: any node changes them, the leader fires them.

use std::collections::HashSet;
use std::time::Duration;

use super::Broker;
use crate::error::Error;
use crate::job::{QueueName, ScheduleName, ScheduleSpec};
use crate::limits;
use crate::store::{Duty, Fire, Pausing, Pushed, PutSchedule, Schedule, SchedulesWanted};

impl Broker {
    /// Makes a schedule (true), or changes the one of this name.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if there are too many, or those of the store; likewise below.
    pub async fn put_schedule(
        &self,
        name: ScheduleName,
        spec: ScheduleSpec,
    ) -> Result<bool, Error> {
        let mut spec = spec.check()?;
        self.0.core.seal_job(&mut spec.job).await?;
        let put = self.store().put_schedule(name, spec).await?;
        self.alarms().of(Duty::Cron).set(Duration::ZERO);
        match put {
            PutSchedule::Created => Ok(true),
            PutSchedule::Updated => Ok(false),
            PutSchedule::TooMany => Err(Error::invalid(
                "name",
                format!("more than {} schedules", limits::SCHEDULES_MAX),
            )),
        }
    }

    /// A page of schedules, by name. The payload of one that is sealed with a key that this node
    /// does not have is empty; likewise below.
    pub async fn schedules(
        &self,
        after: Option<ScheduleName>,
        limit: usize,
    ) -> Result<Vec<Schedule>, Error> {
        let mut schedules = self.store().schedules(SchedulesWanted::After(after, limit)).await?;
        for schedule in &mut schedules {
            self.open_schedule(schedule);
        }
        Ok(schedules)
    }

    /// One schedule.
    pub async fn schedule(&self, name: ScheduleName) -> Result<Schedule, Error> {
        let found = self.store().schedules(SchedulesWanted::One(name.clone())).await?;
        let mut schedule = found.into_iter().next().ok_or_else(|| no_schedule(&name))?;
        self.open_schedule(&mut schedule);
        Ok(schedule)
    }

    /// False: its payload can not be read, and is empty.
    fn open_schedule(&self, schedule: &mut Schedule) -> bool {
        let opened = self.0.core.sealing.open_schedule(schedule);
        if let Err(reason) = &opened {
            tracing::warn!(schedule = %schedule.name, %reason, "payload can not be read");
        }
        opened.is_ok()
    }

    /// Stores the schedules of a queue once more, so that they are sealed, with the newest key.
    pub(super) async fn renew_schedules(&self, queue: &QueueName) -> Result<(), Error> {
        let mut after = None;
        loop {
            let wanted = SchedulesWanted::After(after, limits::PAGE_MAX);
            let page = self.store().schedules(wanted).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.name.clone());
            for mut schedule in page.into_iter().filter(|it| it.spec.job.queue == *queue) {
                let (name, is_open) = (schedule.name.clone(), self.open_schedule(&mut schedule));
                // True: it has just been deleted.
                if is_open && self.put_schedule(name.clone(), schedule.spec).await? {
                    self.store().delete_schedule(name).await?;
                }
            }
        }
    }

    /// Deletes a schedule and its history. Its jobs stay.
    pub async fn delete_schedule(&self, name: ScheduleName) -> Result<(), Error> {
        match self.store().delete_schedule(name.clone()).await? {
            true => Ok(()),
            false => Err(no_schedule(&name)),
        }
    }

    /// Stops a schedule from firing, or lets it go on with its next slot.
    pub async fn pause_schedule(&self, name: ScheduleName, pausing: Pausing) -> Result<(), Error> {
        let is_there = self.store().pause_schedule(name.clone(), pausing).await?;
        self.alarms().of(Duty::Cron).set(Duration::ZERO);
        if is_there { Ok(()) } else { Err(no_schedule(&name)) }
    }

    /// Pushes the job of a schedule now, out of turn.
    pub async fn run_schedule(&self, name: ScheduleName) -> Result<Pushed, Error> {
        let pushed = self.store().run_schedule(name.clone()).await?;
        let pushed = pushed.ok_or_else(|| no_schedule(&name))?;
        if pushed.id().is_some() {
            let queue = self.schedule(name).await?.spec.job.queue;
            self.0.core.announce_pushed(&[queue], &[pushed], &HashSet::new());
        }
        super::push::accepted(pushed)
    }

    /// What became of the latest slots of a schedule, newest first.
    pub async fn fires(&self, name: ScheduleName, limit: usize) -> Result<Vec<Fire>, Error> {
        self.store().fires(name.clone(), limit).await?.ok_or_else(|| no_schedule(&name))
    }
}

fn no_schedule(name: &ScheduleName) -> Error {
    Error::NotFound(format!("there is no schedule {name}"))
}
