//! What people ask for: looking at jobs and queues, and changing what waits.

use std::pin::pin;
use std::time::Duration;

use tokio::time::Instant;

use super::{Broker, Worker};
use crate::error::Error;
use crate::job::{JobId, Lease, QueueName, Settings, Timestamp, UniqueKey};
use crate::limits;
use crate::store::{
    Attempt, Cancelled, Changed, Decision, Discarded, Duty, Edit, Effect, Event, Job, JobFilter,
    JobPage, KeyUse, Pausing, Queue, Standing, story,
};

/// How often a change is made anew because others have changed the same job meanwhile.
const EDIT_TRIES: usize = 5;

impl Broker {
    /// A job with its payload and result.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], or those of the store; likewise below. [`Error::Unavailable`] too if
    /// it is sealed with a key that this node does not have.
    pub async fn job(&self, id: JobId) -> Result<Job, Error> {
        let job = self.store().job(id).await?.ok_or_else(|| no_job(id))?;
        self.0.core.sealing.open_job(job)
    }

    /// Several jobs, as [`Broker::job`] has them: answer i is about id i. `None`: there is no such
    /// job.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if more than [`limits::PAGE_MAX`] are asked for, or those of
    /// [`Broker::job`] if one of them can not be read.
    pub async fn jobs_by_id(&self, ids: Vec<JobId>) -> Result<Vec<Option<Job>>, Error> {
        check_ids(&ids)?;
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let jobs = self.store().jobs_by_id(ids).await?;
        jobs.into_iter().map(|job| self.opened(job)).collect()
    }

    /// The job that was the last to take a custom id, whether or not it has ended. `None`: nothing is
    /// known of one.
    pub async fn job_by_custom_id(&self, id: UniqueKey) -> Result<Option<Job>, Error> {
        let job = self.store().job_by_custom_id(id).await?;
        self.opened(job)
    }

    fn opened(&self, job: Option<Job>) -> Result<Option<Job>, Error> {
        job.map(|job| self.0.core.sealing.open_job(job)).transpose()
    }

    /// The live lease of each job, also those that other nodes gave. `None`: nobody has the job.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if more than [`limits::PAGE_MAX`] are asked for.
    pub async fn leases_of(&self, ids: Vec<JobId>) -> Result<Vec<Option<Lease>>, Error> {
        check_ids(&ids)?;
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        self.store().leases_of(ids).await
    }

    /// A job once it has ended, or as it is after `wait`, or when the node begins to drain.
    pub async fn wait_job(&self, id: JobId, wait: Duration) -> Result<Job, Error> {
        let deadline = Instant::now() + wait;
        let bell = self.0.core.ending_bells.bell(&id);
        loop {
            let mut rung = pin!(bell.rung());
            rung.as_mut().enable();
            let job = self.job(id).await?;
            let is_over = job.state.is_final() || self.is_draining();
            if is_over || tokio::time::timeout_at(deadline, rung).await.is_err() {
                return Ok(job);
            }
        }
    }

    /// The time that was so long ago, in milliseconds, by this node's clock.
    pub fn ago(&self, age_ms: u64) -> Timestamp {
        Timestamp(self.0.core.clock.now().0.saturating_sub_unsigned(age_ms))
    }

    /// A page of jobs, by id.
    pub async fn jobs(&self, filter: JobFilter) -> Result<JobPage, Error> {
        self.store().jobs(filter).await
    }

    /// A job without its payload and result, its attempts and all that happened to it, oldest
    /// first.
    pub async fn timeline(&self, id: JobId) -> Result<(Job, Vec<Attempt>, Vec<Event>), Error> {
        let (job, attempts) = self.store().timeline(id).await?.ok_or_else(|| no_job(id))?;
        let events = story(&job, &attempts, &self.store().notes(id).await?);
        // Together with many long messages they would not fit into a frame.
        Ok((Job { payload: None, result: None, ..job }, attempts, events))
    }

    /// A job and all that it waits for, as far as the store knows.
    pub(crate) async fn standing(&self, id: JobId) -> Result<Standing, Error> {
        self.store().standing(id).await?.ok_or_else(|| no_job(id))
    }

    /// All queues, by name.
    pub async fn queues(&self) -> Result<Vec<Queue>, Error> {
        self.store().queues(None).await
    }

    /// One queue.
    pub async fn queue(&self, name: QueueName) -> Result<Queue, Error> {
        let found = self.store().queues(Some(name.clone())).await?;
        found.into_iter().next().ok_or_else(|| Error::NotFound(format!("there is no queue {name}")))
    }

    /// Stops a queue from giving out jobs, or lets it go on; `by` says who asks for it.
    pub async fn set_paused(
        &self,
        name: QueueName,
        pausing: Pausing,
        by: String,
    ) -> Result<(), Error> {
        self.store().set_paused(name.clone(), pausing, by).await?;
        self.0.core.waiters.hint_all(&name);
        Ok(())
    }

    /// Sends a dead job round again.
    pub async fn retry(&self, id: JobId) -> Result<Effect, Error> {
        let changed = self.store().retry(id).await?;
        self.conclude(id, changed, "only a dead job can be retried")
    }

    /// Pushes a copy of an ended job, changed so; the effect is about the copy.
    pub async fn replay(&self, id: JobId, edit: Edit) -> Result<Effect, Error> {
        let edit = if edit == Edit::default() { edit } else { edit.check()? };
        let edit = self.0.core.seal_edit(id, edit).await?;
        let changed = self.store().replay(id, edit).await?;
        self.conclude(id, changed, "only a job that has ended can be replayed")
    }

    /// Deletes a job that has ended, with its history.
    pub async fn delete(&self, id: JobId) -> Result<(), Error> {
        let changed = self.store().delete(id).await?;
        self.conclude(id, changed, "only a job that has ended can be deleted: cancel it first")?;
        Ok(())
    }

    /// Takes a waiting job back, or asks the worker of a leased one to end it within `grace`. The
    /// answer: when that is forced; `None`: it is cancelled.
    pub async fn cancel(&self, id: JobId, grace: Duration) -> Result<Option<Timestamp>, Error> {
        let core = &self.0.core;
        match self.store().cancel(id, grace).await? {
            Cancelled::Done(effects) => {
                core.announce(&effects);
                Ok(None)
            }
            Cancelled::Requested { lease, session, force_at } => {
                if let Some(session) = session {
                    core.tell_cancelled(session, lease);
                }
                core.alarms.of(Duty::Cancels).set(force_at.since(core.clock.now()));
                Ok(Some(force_at))
            }
            Cancelled::NotFound => Err(no_job(id)),
            Cancelled::WrongState(state) => {
                let rule = "only a job that has not ended can be cancelled";
                Err(Error::WrongState(format!("job {id} is {}: {rule}", state.name())))
            }
        }
    }

    /// Sets a waiting job aside: it is dead, and what waits for it goes on as after any death.
    pub async fn discard(&self, id: JobId) -> Result<Effect, Error> {
        match self.store().discard(id).await? {
            Discarded::Done(effect, more) => {
                self.0.core.announce(std::iter::once(&effect).chain(&more));
                Ok(effect)
            }
            Discarded::NotFound => Err(no_job(id)),
            Discarded::WrongState(state) => {
                let rule = "only a job that waits can be discarded";
                Err(Error::WrongState(format!("job {id} is {}: {rule}", state.name())))
            }
        }
    }

    /// Changes a waiting job.
    pub async fn edit(&self, id: JobId, edit: Edit) -> Result<Effect, Error> {
        let edit = edit.check()?;
        for _ in 0..EDIT_TRIES {
            let edit = self.0.core.seal_edit(id, edit.clone()).await?;
            let changed = self.store().edit(id, edit).await?;
            if changed != Changed::Outdated {
                return self.conclude(id, changed, "only a job that waits can be changed");
            }
        }
        self.conclude(id, Changed::Outdated, "")
    }

    /// Sets all settings of a queue. If it is encrypted then, what is asked for after the answer
    /// is sealed, on every node.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if it is to be encrypted and this node has no key.
    pub async fn set_settings(&self, name: QueueName, settings: Settings) -> Result<(), Error> {
        let settings = settings.check()?;
        let is_encrypted = settings.encrypted;
        let change = self.store().set_settings(name.clone(), settings);
        self.0.core.while_nobody_asks(is_encrypted, change).await?;
        if is_encrypted {
            self.renew_schedules(&name).await?;
        }
        self.0.core.waiters.hint_all(&name);
        Ok(())
    }

    /// What guards have refused, of one queue or of all; the latest first.
    pub async fn decisions(
        &self,
        queue: Option<QueueName>,
        limit: usize,
    ) -> Result<Vec<Decision>, Error> {
        self.store().decisions(queue, limit).await
    }

    /// The keys of a queue that jobs wait or work for.
    pub async fn key_uses(&self, name: QueueName) -> Result<Vec<KeyUse>, Error> {
        self.store().key_uses(name).await
    }

    /// Makes a scheduled job ready.
    pub async fn promote(&self, id: JobId) -> Result<Effect, Error> {
        let changed = self.store().promote(id).await?;
        self.conclude(id, changed, "only a scheduled job can be promoted")
    }

    fn conclude(&self, id: JobId, changed: Changed, rule: &str) -> Result<Effect, Error> {
        match changed {
            Changed::Done(effect) => {
                self.0.core.announce([&effect]);
                Ok(effect)
            }
            Changed::NotFound => Err(no_job(id)),
            Changed::WrongState(state) => {
                Err(Error::WrongState(format!("job {id} is {}: {rule}", state.name())))
            }
            Changed::Dropped => Err(Error::WrongState(format!(
                "the payload of job {id} has been dropped: its queue keeps it less long"
            ))),
            Changed::Outdated => {
                Err(Error::Unavailable(format!("job {id} is being changed by others").into()))
            }
            Changed::Duplicate(other) => {
                let what = "the unique key or the custom id";
                Err(Error::Duplicate(format!("job {other} has {what} of job {id} now")))
            }
        }
    }

    /// Workers that are, or just were, connected to this node, by name.
    pub fn workers(&self) -> Vec<Worker> {
        let mut workers: Vec<Worker> =
            self.0.core.sessions.list().into_iter().map(|(_, worker)| worker).collect();
        workers.sort_by(|a, b| a.visitor.worker.cmp(&b.visitor.worker));
        workers
    }
}

fn check_ids(ids: &[JobId]) -> Result<(), Error> {
    match ids.len() > limits::PAGE_MAX {
        true => Err(Error::invalid("ids", format!("more than {}", limits::PAGE_MAX))),
        false => Ok(()),
    }
}

pub(super) fn no_job(id: JobId) -> Error {
    Error::NotFound(format!("there is no job {id}"))
}
