//! The same change to many jobs.
//!
//! A bulk is done in pages, oldest job first, each job by itself as if it had been asked for alone:
//! one whose state does not allow the change is passed over. So it is never half done to a job, and
//! what a page has done stays done whatever comes after it. It goes on from its cursor; whoever is
//! interrupted does it again, since jobs that are done no longer match or are passed over.

use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Broker;
use crate::error::Error;
use crate::job::{self, JobId, QueueName, Reason, State, Tag, When};
use crate::limits;
use crate::store::{Edit, Job, JobFilter};

/// What is to be done to which jobs.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BulkRequest {
    /// What is to be done.
    pub action: BulkAction,
    /// To which jobs.
    #[serde(default)]
    pub filter: BulkFilter,
    /// Needed if the filter names neither a queue nor a tag: it is meant so.
    #[serde(default)]
    pub everything: bool,
    /// Only count.
    #[serde(default)]
    pub dry_run: bool,
    /// Look at so many jobs at most, 1 to 10 000. Default: 1000.
    #[serde(default)]
    pub limit: Option<usize>,
    /// From the answer before, to go on.
    #[serde(default)]
    pub cursor: Option<u64>,
    /// To cancel: how long the workers of leased jobs have, up to 86 400 000. Default: 30 000.
    #[serde(default)]
    pub grace_ms: Option<u64>,
    /// To move: the queue to go to. To replay: the queue of the copies.
    #[serde(default)]
    pub to: Option<String>,
    /// To replay: the priority of the copies.
    #[serde(default)]
    pub priority: Option<i32>,
    /// To replay: so many copies become ready in a second.
    #[serde(default)]
    pub per_second: Option<u32>,
}

impl BulkRequest {
    /// This, to all jobs.
    pub fn new(action: BulkAction) -> Self {
        Self {
            action,
            filter: BulkFilter::default(),
            everything: false,
            dry_run: false,
            limit: None,
            cursor: None,
            grace_ms: None,
            to: None,
            priority: None,
            per_second: None,
        }
    }
}

/// What can be done to many jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BulkAction {
    /// Take jobs back that have not ended.
    Cancel,
    /// Send dead jobs round again.
    Retry,
    /// Delete jobs that have ended.
    Delete,
    /// Put waiting jobs into another queue.
    Move,
    /// Push copies of jobs that have ended and have no copy yet; of dead ones, unless a state is
    /// given.
    Replay,
}

/// Which jobs. What is left out matches all.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BulkFilter {
    /// Of this queue.
    pub queue: Option<String>,
    /// In this state.
    pub state: Option<String>,
    /// With this tag.
    pub tag: Option<String>,
    /// With payloads of this content type.
    pub r#type: Option<String>,
    /// Dead for this reason.
    pub reason: Option<String>,
    /// Pushed at least so long ago.
    pub older_than_ms: Option<u64>,
    /// Pushed less than so long ago.
    pub newer_than_ms: Option<u64>,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, JsonSchema)]
pub struct BulkDone {
    /// Jobs that matched, as far as they were looked at or counted.
    pub matched: u64,
    /// The jobs that were changed; of a replay, the copies.
    pub ids: Vec<u64>,
    /// Jobs that matched and whose state, or whose unique key, did not allow it.
    pub passed_over: u64,
    /// There is more: go on with this. Null: that was all.
    pub cursor: Option<u64>,
}

/// Changes of one bulk that are under way at once, unless their order matters.
const AT_ONCE: usize = 16;

impl BulkFilter {
    /// # Errors
    ///
    /// The first field that is wrong.
    fn into_filter(self, broker: &Broker) -> Result<JobFilter, Error> {
        let text = |text: Option<String>| text.filter(|text| !text.is_empty());
        Ok(JobFilter {
            queue: text(self.queue).as_deref().map(QueueName::parse).transpose()?,
            state: text(self.state).as_deref().map(state_in).transpose()?,
            tag: text(self.tag).as_deref().map(Tag::parse).transpose()?,
            content_type: text(self.r#type),
            reason: text(self.reason).as_deref().map(reason_in).transpose()?,
            created_to: self.older_than_ms.map(|age| broker.ago(age)),
            created_from: self.newer_than_ms.map(|age| broker.ago(age)),
            oldest_first: true,
            ..JobFilter::default()
        })
    }
}

/// # Errors
///
/// [`Error::Invalid`], with the states that there are.
pub fn state_in(name: &str) -> Result<State, Error> {
    let names: Vec<&str> = State::ALL.iter().map(|state| state.name()).collect();
    let unknown = || Error::invalid("state", format!("must be one of {}", names.join(", ")));
    State::parse(name).ok_or_else(unknown)
}

/// # Errors
///
/// [`Error::Invalid`], with the reasons that there are.
pub fn reason_in(name: &str) -> Result<Reason, Error> {
    let names: Vec<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
    let unknown = || Error::invalid("reason", format!("must be one of {}", names.join(", ")));
    Reason::parse(name).ok_or_else(unknown)
}

/// A change that has been checked.
enum Change {
    Cancel(Duration),
    Retry,
    Delete,
    Move(QueueName),
    Replay { edit: Edit, gap: Duration },
}

impl Change {
    fn of(request: &BulkRequest) -> Result<Self, Error> {
        let misplaced = [
            ("grace_ms", request.grace_ms.is_some(), &[BulkAction::Cancel][..]),
            ("to", request.to.is_some(), &[BulkAction::Move, BulkAction::Replay]),
            ("priority", request.priority.is_some(), &[BulkAction::Replay]),
            ("per_second", request.per_second.is_some(), &[BulkAction::Replay]),
        ];
        for (field, is_set, fits) in misplaced {
            if is_set && !fits.contains(&request.action) {
                return Err(Error::invalid(field, "does not fit the action"));
            }
        }
        let to = request.to.as_deref().map(QueueName::parse).transpose()?;
        Ok(match request.action {
            BulkAction::Cancel => Self::Cancel(job::check_grace(request.grace_ms)?),
            BulkAction::Retry => Self::Retry,
            BulkAction::Delete => Self::Delete,
            BulkAction::Move => {
                Self::Move(to.ok_or_else(|| Error::invalid("to", "the queue to go to is missing"))?)
            }
            BulkAction::Replay => {
                let gap = match request.per_second {
                    Some(0) => return Err(Error::invalid("per_second", "must be at least 1")),
                    Some(rate) => Duration::from_secs(1) / rate,
                    None => Duration::ZERO,
                };
                let edit = Edit { priority: request.priority, queue: to, ..Edit::default() };
                Self::Replay { edit, gap }
            }
        })
    }

    /// Whether jobs are changed one after the other, so that they stand in line in their order.
    fn is_ordered(&self) -> bool {
        matches!(self, Self::Retry | Self::Move(_) | Self::Replay { .. })
    }

    /// Whether it can be done to a job in this state.
    fn fits(&self, state: State) -> bool {
        match self {
            Self::Cancel(_) => !state.is_final(),
            Self::Retry => state == State::Dead,
            Self::Delete | Self::Replay { .. } => state.is_final(),
            Self::Move(_) => !state.is_final() && state != State::Leased,
        }
    }
}

impl Broker {
    /// Does the same to many jobs, a bounded part of it; see [`BulkDone::cursor`].
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], or those of the store: then a part of it may be done.
    pub async fn bulk(&self, request: BulkRequest) -> Result<BulkDone, Error> {
        let change = Change::of(&request)?;
        let limit = request.limit.unwrap_or(limits::PAGE_MAX);
        if !(1..=limits::BULK_MAX).contains(&limit) {
            let detail = format!("must be from 1 to {}", limits::BULK_MAX);
            return Err(Error::invalid("limit", detail));
        }
        let mut filter = request.filter.into_filter(self)?;
        if filter.queue.is_none() && filter.tag.is_none() && !request.everything {
            let detail = "names neither a queue nor a tag: if all are meant, set everything";
            return Err(Error::invalid("filter", detail));
        }
        match &change {
            Change::Cancel(_) | Change::Move(_) => filter.is_live = Some(true),
            Change::Delete => filter.is_live = Some(false),
            Change::Retry => filter.state = Some(filter.state.unwrap_or(State::Dead)),
            Change::Replay { .. } => {
                // Its own copies, should they die at once, are none of its business.
                let now = self.ago(0);
                filter.created_to = Some(filter.created_to.map_or(now, |to| to.min(now)));
                filter.state = Some(filter.state.unwrap_or(State::Dead));
                filter.is_replayed = Some(false);
            }
        }
        filter.cursor = request.cursor.map(JobId);
        let limit = if request.dry_run { limits::BULK_COUNT_MAX } else { limit };
        let mut done = BulkDone::default();
        loop {
            let matched = usize::try_from(done.matched).unwrap_or(usize::MAX);
            filter.limit = limits::PAGE_MAX.min(limit - matched);
            let page = self.store().jobs(filter.clone()).await?;
            filter.cursor = page.next;
            done.cursor = page.next.map(|id| id.0);
            done.matched += page.jobs.len() as u64;
            if !request.dry_run {
                self.change_all(&change, page.jobs, &mut done).await?;
            }
            if page.next.is_none() || done.matched >= limit as u64 {
                return Ok(done);
            }
        }
    }

    async fn change_all(
        &self,
        change: &Change,
        jobs: Vec<Job>,
        done: &mut BulkDone,
    ) -> Result<(), Error> {
        let at_once = if change.is_ordered() { 1 } else { AT_ONCE };
        let first = u32::try_from(done.ids.len()).unwrap_or(u32::MAX);
        let mut place = first;
        let changes = jobs.into_iter().map(|job| {
            place = place.saturating_add(1);
            self.change_one(change, job, place - 1)
        });
        let changed: Vec<Option<JobId>> =
            stream::iter(changes).buffered(at_once).try_collect().await?;
        for id in changed {
            match id {
                Some(id) => done.ids.push(id.0),
                None => done.passed_over += 1,
            }
        }
        Ok(())
    }

    /// `None`: it was passed over.
    async fn change_one(
        &self,
        change: &Change,
        job: Job,
        place: u32,
    ) -> Result<Option<JobId>, Error> {
        let id = job.id;
        if !change.fits(job.state) {
            return Ok(None);
        }
        let changed = match change {
            Change::Cancel(grace) => self.cancel(id, *grace).await.map(|_| id),
            Change::Retry => self.retry(id).await.map(|effect| effect.job),
            Change::Delete => self.delete(id).await.map(|()| id),
            Change::Move(to) => {
                let edit = Edit { queue: Some(to.clone()), ..Edit::default() };
                self.edit(id, edit).await.map(|effect| effect.job)
            }
            Change::Replay { edit, gap } => {
                let delay = gap.saturating_mul(place);
                let when = (!delay.is_zero()).then_some(When::After(delay));
                self.replay(id, Edit { when, ..edit.clone() }).await.map(|effect| effect.job)
            }
        };
        match changed {
            Ok(id) => Ok(Some(id)),
            Err(Error::NotFound(_) | Error::WrongState(_) | Error::Duplicate(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
