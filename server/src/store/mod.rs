//! Where jobs are kept: the contract that every store fulfils.
//!
//! # What a store promises
//!
//! * **Durable.** A call that answers `Ok` has been committed; a crash right after does not undo
//!   it. A call that answers [`Error::Unavailable`] has done nothing. [`Error::OutcomeUnknown`] is
//!   for a commit whose answer was lost. No other errors come from a store.
//! * **One transaction per call.** A call is done as a whole or not at all, however many items it
//!   has. Items are independent: one that finds nothing to do (a lost lease, a taken unique key)
//!   says so in its place and its neighbours succeed. Each item for itself holds everywhere; a
//!   shared store may take several transactions for claims of several queues and for settlements of
//!   several kinds. If a later one fails, what was claimed is handed out, and settlements answer
//!   [`Error::OutcomeUnknown`]: settled again, each says what became of it.
//! * **One live lease per job.** A job stands in exactly one place: scheduled, ready, leased or
//!   finished. A lease is (job, delivery). The delivery of a job rises whenever a lease ends
//!   without completing it, in the same transaction, so that the old lease finds nothing.
//! * **Its own time.** A store takes the time from its clock (a shared store from the database),
//!   never from a caller.
//! * **Pure decisions.** What follows the end of a lease is decided by [`job::after`]; a store
//!   only guards that the job is still what the decision was about.
//!
//! # Order
//!
//! Jobs of a queue are claimed by descending priority, then by ascending place. A job gets its
//! place when it first becomes ready: pushed jobs in the order of their ids, scheduled jobs when
//! they become due (in the order of their times, then ids), behind those already there. A job that
//! comes back unharmed (released, crashed, expired, node lost) keeps its place; one that failed is
//! scheduled and thus gets a new one.
//!
//! Stores: [`sqlite`], and [`memory`], the model that all others are compared with.

mod alone;
mod columns;
pub mod events;
mod guards;
pub(crate) mod kv;
mod logs;
pub mod memory;
pub mod postgres;
mod schedules;
pub mod sqlite;
mod standing;
mod story;
mod sweep;
mod webhooks;

pub use alone::Alone;
pub use events::{Detail, EventId, EventKind, EventPage, EventsWanted, Watching};
pub use guards::Decision;
pub use kv::{KvAdd, KvEntry, KvPattern, KvValue};
pub use logs::{LogLine, StoredLine};
pub use schedules::{Fire, FireOutcome, PutSchedule, Schedule};
pub use standing::{InLine, Limit, Paused, Standing};
pub use story::{Event, Note, NoteKind, Refused, story};
pub use webhooks::{PutWebhook, Secret, Webhook, WebhookFormat, WebhookSpec};

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::Error;
use crate::job::{
    self, Admission, Backoff, Breach, Concurrency, Depends, FailureCode, Flow, FlowKey,
    InvalidField, JobId, KvKey, Lease, LeaseKey, NewJob, OnFailure, Options, Payload, QueueName,
    Rate, RateRule, Reason, ScheduleName, ScheduleSpec, Settings, SparseOptions, State, Tag,
    Timestamp, UniqueHold, UniqueKey, WebhookName, When, WorkerName,
};
use crate::leader::Term;

/// The contract. See the [module](self) for what holds for all calls.
///
/// # Cancel safety
///
/// A call whose future is dropped may or may not take effect.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// What lease tokens are made with. The same for all nodes that share the store, for ever.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] as long as a shared store has not been reached.
    fn lease_key(&self) -> Result<LeaseKey, Error>;

    /// Whether other nodes may use it too.
    fn is_shared(&self) -> bool {
        false
    }

    /// Stores new jobs. Answer i is about job i.
    ///
    /// A job whose unique key belongs to another of its queue (also one earlier in this call) is
    /// not stored, or takes its place; see [`UniqueHold`]. One whose custom id belongs to another of
    /// any queue is not stored. Keys are looked at in this order: idempotency key, custom id, unique
    /// key; a job that is not stored has taken none. Queues come into being with their
    /// first push. Ids rise in the order of `jobs`. Queues with guards judge them first: see
    /// [`job::Guard`].
    async fn push(&self, jobs: Vec<NewJob>) -> Result<Vec<Pushed>, Error>;

    /// Leases ready jobs. Answer i has the jobs of claim i, in the order of the queue. Where jobs
    /// or the queue have limits, that is the order of [`job::Fair`].
    ///
    /// Empty: nothing is ready there, what is ready is over a limit, the queue is paused, or nobody
    /// has pushed to it yet. Claims are served in turn. A job whose time to live is over is not handed out; it is dead from
    /// then on, and reported in `expired`.
    async fn claim(&self, claims: Vec<Claim>) -> Result<Claimed, Error>;

    /// Whether jobs can be leased by the push that stores them.
    fn hands_over(&self) -> bool {
        false
    }

    /// As [`Store::push`]; jobs that are ready at once are leased to those who wait for them, as far
    /// as they could be claimed at that moment if nothing else were ready. The others stand in
    /// line.
    async fn push_to(&self, jobs: Vec<NewJob>, to: Offer) -> Result<PushedTo, Error> {
        let leased = vec![Vec::new(); to.claims.len()];
        Ok(PushedTo { pushed: self.push(jobs).await?, leased })
    }

    /// Ends leases as their workers say. Answer i is about settlement i.
    ///
    /// A completed job of a queue that keeps none of them is forgotten at once, unless others wait
    /// for it at that moment: nothing is known of it any more, as if it never was.
    async fn settle(&self, settlements: Vec<Settlement>) -> Result<SettledAll, Error>;

    /// Gives each lease a time of its own from now on, whatever held it before.
    ///
    /// Answer i is about extension i: `None`, if the lease is lost.
    async fn extend(&self, extensions: Vec<Extension>) -> Result<Vec<Option<Extended>>, Error>;

    /// Notes how far a worker is. False if the lease is lost.
    async fn progress(&self, lease: Lease, progress: Progress) -> Result<bool, Error>;

    /// Tells those who watch its queue of a part of a result; see [`EventKind::Partial`]. Nothing
    /// else is kept of it. False if the lease is lost.
    async fn partial(&self, lease: Lease, partial: Partial) -> Result<bool, Error>;

    /// Keeps all leases of these sessions for another [`SESSION_LEASE`].
    async fn renew(&self, sessions: Vec<SessionId>) -> Result<(), Error>;

    /// The leases of a session whose worker is back, renewed. Empty: none are left.
    async fn adopt(&self, session: SessionId) -> Result<Vec<Lease>, Error>;

    /// Takes all leases of a session away, as [`job::Ending::Crashed`] ones.
    async fn give_back(&self, session: SessionId) -> Result<Vec<Effect>, Error>;

    /// Begins what the tables need so that they stay small, if anything. Only the leader asks.
    async fn tidy_tables(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Does a bounded part of a duty. Idempotent: doing it twice, or twice at once, changes
    /// nothing more. A shared store refuses it, with [`Error::Unavailable`] and nothing done, if
    /// another node was elected after `term` began.
    async fn run_duty(&self, term: &Term, duty: Duty) -> Result<DutyReport, Error>;

    /// A job with its payload and result.
    async fn job(&self, id: JobId) -> Result<Option<Job>, Error>;

    /// Several jobs, as [`Store::job`] has them. Answer i is about id i.
    async fn jobs_by_id(&self, ids: Vec<JobId>) -> Result<Vec<Option<Job>>, Error>;

    /// The job that was the last to take a custom id, by a push or when it was retried, whether or not
    /// it has ended.
    async fn job_by_custom_id(&self, id: UniqueKey) -> Result<Option<Job>, Error>;

    /// The live lease of each job. `None`: nobody has the job.
    async fn leases_of(&self, ids: Vec<JobId>) -> Result<Vec<Option<Lease>>, Error>;

    /// A page of jobs without payloads and results, by id. The worker, the end of the lease
    /// and the progress of a leased job are left out too.
    async fn jobs(&self, filter: JobFilter) -> Result<JobPage, Error>;

    /// A job and its attempts, oldest first, the last [`crate::limits::TIMELINE_MAX`] of them.
    async fn timeline(&self, id: JobId) -> Result<Option<(Job, Vec<Attempt>)>, Error>;

    /// What happened to a job beside its leases, oldest first, the last [`limits::NOTES_MAX`] of
    /// it. Empty, too, if there is no such job.
    ///
    /// [`limits::NOTES_MAX`]: crate::limits::NOTES_MAX
    async fn notes(&self, id: JobId) -> Result<Vec<Note>, Error>;

    /// Notes who wanted to end leases that were lost, where the job is still known.
    async fn note_refused(&self, refused: Vec<Refused>) -> Result<(), Error>;

    /// Writes a line into the log of a job, in whatever state it is; the last
    /// [`crate::limits::LOGS_MAX`] are kept, as long as anything is known of the job. The level is
    /// cut already. False: there is no such job.
    async fn log(&self, job: JobId, level: String, message: Bytes) -> Result<bool, Error>;

    /// The log of a job, oldest line first. Empty, too, if there is no such job.
    async fn logs(&self, job: JobId) -> Result<Vec<StoredLine>, Error>;

    /// A job and all that it waits for. `None`: there is no such job.
    async fn standing(&self, id: JobId) -> Result<Option<Standing>, Error>;

    /// All queues by name, or the one asked for. Empty if there is no such queue.
    async fn queues(&self, only: Option<QueueName>) -> Result<Vec<Queue>, Error>;

    /// Pauses a queue (nothing is claimed from it) or resumes it. A queue that does not exist is
    /// made. Pausing a paused queue changes nothing, also not since when and by whom.
    async fn set_paused(&self, queue: QueueName, pausing: Pausing, by: String)
    -> Result<(), Error>;

    /// Sets all settings of a queue. A queue that does not exist is made. If they are others than
    /// before, its rates and those of its keys begin anew: who raises a rate does not wait for what
    /// was used up under the old one.
    async fn set_settings(&self, queue: QueueName, settings: Settings) -> Result<(), Error>;

    /// The queues whose settings say that they are encrypted.
    async fn encrypted_queues(&self) -> Result<Vec<QueueName>, Error>;

    /// The queue of each job. `None`: it has ended, or never was.
    async fn queues_of(&self, jobs: Vec<JobId>) -> Result<Vec<Option<QueueName>>, Error>;

    /// The keys of a queue that jobs wait or work for, by kind and name; at most
    /// [`crate::limits::PAGE_MAX`]. Empty if there is no such queue.
    async fn key_uses(&self, queue: QueueName) -> Result<Vec<KeyUse>, Error>;

    /// What guards have refused, of one queue or of all: the latest first, at most `limit`.
    async fn decisions(
        &self,
        queue: Option<QueueName>,
        limit: usize,
    ) -> Result<Vec<Decision>, Error>;

    /// Makes a schedule, or changes the one of this name. What it has done so far stays.
    async fn put_schedule(
        &self,
        name: ScheduleName,
        spec: ScheduleSpec,
    ) -> Result<PutSchedule, Error>;

    /// A page of schedules by name, those after `after`, or the one that is asked for.
    async fn schedules(&self, which: SchedulesWanted) -> Result<Vec<Schedule>, Error>;

    /// Deletes a schedule and its history; its jobs stay. False: there is none.
    async fn delete_schedule(&self, name: ScheduleName) -> Result<bool, Error>;

    /// Pauses a schedule, or lets it go on with its next slot. False: there is none.
    async fn pause_schedule(&self, name: ScheduleName, pausing: Pausing) -> Result<bool, Error>;

    /// Pushes the job of a schedule now, out of turn. `None`: there is none.
    async fn run_schedule(&self, name: ScheduleName) -> Result<Option<Pushed>, Error>;

    /// What became of the latest slots of a schedule, newest first; at most `limit`. `None`: there
    /// is no such schedule.
    async fn fires(&self, name: ScheduleName, limit: usize) -> Result<Option<Vec<Fire>>, Error>;

    /// Has what happens in a queue (`None`: in all) recorded for so long from now on; see
    /// [`events`]. A queue that does not exist can be watched.
    async fn watch(&self, queue: Option<QueueName>, hold: Duration) -> Result<Watching, Error>;

    /// All events up to this number have been recorded: none of them can appear later.
    async fn event_head(&self) -> Result<EventId, Error>;

    /// Recorded events by number.
    async fn events(&self, wanted: EventsWanted) -> Result<EventPage, Error>;

    /// Makes a webhook, or changes the one of this name; without a secret, that stays, and there must
    /// be one if its format needs it. A new webhook hears what happens from now on.
    async fn put_webhook(
        &self,
        name: WebhookName,
        spec: WebhookSpec,
        secret: Option<Secret>,
    ) -> Result<PutWebhook, Error>;

    /// All webhooks, by name.
    async fn webhooks(&self) -> Result<Vec<Webhook>, Error>;

    /// Deletes a webhook. False: there is none.
    async fn delete_webhook(&self, name: WebhookName) -> Result<bool, Error>;

    /// Deliveries of all events up to a number have been pushed: a webhook needs them no more.
    /// Going back changes nothing.
    async fn advance_webhook(&self, name: WebhookName, seen: EventId) -> Result<(), Error>;

    /// Sets values. What stood under their keys is gone, with its time to live. Of two entries with
    /// the same key the later one counts.
    async fn kv_set(&self, entries: Vec<KvEntry>) -> Result<(), Error>;

    /// The values under these keys, in their order. `None` in place of all of them: together they
    /// have more than `bytes_max` bytes.
    async fn kv_get(
        &self,
        keys: Vec<KvKey>,
        bytes_max: usize,
    ) -> Result<Option<Vec<Option<KvValue>>>, Error>;

    /// Deletes a value. False: there was none.
    async fn kv_delete(&self, key: KvKey) -> Result<bool, Error>;

    /// Gives a value so much time to live, from now on. False: there is none.
    async fn kv_expire(&self, key: KvKey, ttl: Duration) -> Result<bool, Error>;

    /// The keys that are meant, in the order of their bytes: the first
    /// [`crate::limits::KV_KEYS_MAX`].
    async fn kv_keys(&self, pattern: KvPattern) -> Result<Vec<KvKey>, Error>;

    /// Adds to the whole number that stands there in decimal digits, which keeps its time to live;
    /// to nothing as if it were 0, without one.
    async fn kv_add(&self, key: KvKey, by: i64) -> Result<KvAdd, Error>;

    /// Deletes a job that has ended, with its history. The effect says how it had ended.
    async fn delete(&self, id: JobId) -> Result<Changed, Error>;

    /// Sends a dead job round again: ready now, attempts and crashes forgotten, no time to live.
    async fn retry(&self, id: JobId) -> Result<Changed, Error>;

    /// Pushes a copy of an ended job, changed as `edit` says: ready now, unless the edit gives a
    /// time, and the time to live anew. Both point to each other; a second copy takes the place of
    /// the first in `replayed_as`. The effect is about the copy.
    async fn replay(&self, id: JobId, edit: Edit) -> Result<Changed, Error>;

    /// Takes back a job that is scheduled, blocked or ready. Of a leased one, it is noted that its
    /// end is asked for: if its worker has not ended it after `grace`, [`Duty::Cancels`] does. Who
    /// asks twice can only shorten the time.
    async fn cancel(&self, id: JobId, grace: Duration) -> Result<Cancelled, Error>;

    /// Sets a job aside that is scheduled, blocked or ready: it is dead, for [`Reason::Rejected`].
    async fn discard(&self, id: JobId) -> Result<Discarded, Error>;

    /// Changes a job that is scheduled, blocked or ready.
    async fn edit(&self, id: JobId, edit: Edit) -> Result<Changed, Error>;

    /// Makes a scheduled job ready now, as if it had become due.
    async fn promote(&self, id: JobId) -> Result<Changed, Error>;

    /// What others who share the store have done that somebody here waits for. Of a store that is
    /// not shared: nothing, since all that happens to it is known.
    async fn poll(&self, _queues: Vec<QueueName>, _jobs: Vec<JobId>) -> Result<News, Error> {
        Ok(News::default())
    }

    /// As [`Store::poll`], for what can only be found in a way that may take a minute: the queues in
    /// which jobs may be ready, of those given. Of a store that is not shared: nothing.
    async fn look(&self, _queues: Vec<QueueName>) -> Result<Vec<QueueName>, Error> {
        Ok(Vec::new())
    }

    /// How long until each duty has something to do because of what others who share the store
    /// have done. Of a store that is not shared: nothing, since its duties know.
    async fn outlook(&self) -> Result<Vec<(Duty, Duration)>, Error> {
        Ok(Vec::new())
    }

    /// Whether the store can be written to, by trying.
    async fn check(&self) -> Result<(), Error>;
}

/// How long a lease that hangs on a session lasts without renewal: what a dead node costs.
pub const SESSION_LEASE: Duration = Duration::from_secs(30);

/// Sessions whose node is gone keep their leases this long, so that their workers can come back to
/// them through another node.
pub const ORPHANED_FOR: Duration = Duration::from_secs(5);

/// A job that keeps killing its workers is set aside after so many.
pub const CRASHES_MAX: u32 = 5;

/// The chance for the jitter of a retry that no worker asked for.
const EVEN_CHANCE: f64 = 0.5;

/// Rows that one call of [`Store::run_duty`] touches at most, but for [`FORGOTTEN_MAX`].
pub const DUTY_ROWS_MAX: usize = 500;

/// Finished jobs that one call for [`Duty::Retention`] forgets at most, as far as each is a row: some
/// 10 ms of work, and many enough to keep up with a hundred thousand that finish in a second.
pub const FORGOTTEN_MAX: usize = 2_000;

/// A worker's stay with the cluster, over reconnects. The key to its leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// How long the finished jobs of a queue are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Completed and cancelled ones.
    pub completed: Duration,
    /// So many of them; the oldest go earlier.
    pub completed_max: u64,
    /// Dead ones.
    pub dead: Duration,
}

impl Retention {
    /// As a queue's settings say, and where they say nothing, as this one.
    pub(crate) fn of(self, settings: &Settings) -> Self {
        Self {
            completed: settings.keep_completed.unwrap_or(self.completed),
            completed_max: settings.keep_completed_max.unwrap_or(self.completed_max),
            dead: settings.keep_dead.unwrap_or(self.dead),
        }
    }

    /// Whether a completed job is kept at all. See [`Store::settle`].
    pub(crate) fn keeps_completed(&self) -> bool {
        self.completed_max > 0 && !self.completed.is_zero()
    }
}

impl Default for Retention {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        Self { completed: DAY, completed_max: 1_000_000, dead: 30 * DAY }
    }
}

/// What became of a pushed job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It is stored.
    Inserted {
        /// Its number.
        id: JobId,
        /// Ready, scheduled or blocked; dead, if what it waits for has failed already.
        state: State,
        /// Not before this time. `None`: at once.
        run_at: Option<Timestamp>,
    },
    /// Another job has its key.
    Duplicate {
        /// That job.
        id: JobId,
        /// Where it is; `completed`, too, if nothing is known of it any more.
        state: State,
        /// Which key.
        of: Same,
    },
    /// A job that waited with the same debounce key has its payload and its time now.
    Replaced {
        /// That job.
        id: JobId,
        /// Scheduled or ready.
        state: State,
        /// Not before this time. `None`: at once.
        run_at: Option<Timestamp>,
    },
    /// It is not stored.
    Refused(Refusal),
}

impl Pushed {
    /// The job that is there now.
    pub fn id(&self) -> Option<JobId> {
        match self {
            Self::Inserted { id, .. } | Self::Duplicate { id, .. } | Self::Replaced { id, .. } => {
                Some(*id)
            }
            Self::Refused(_) => None,
        }
    }
}

/// What two jobs have in common of which one is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Same {
    /// The unique key, held by a live job.
    Unique,
    /// The custom id, held by a live job.
    CustomId,
    /// The unique key, within its window.
    Window,
    /// The idempotency key: it is the same push.
    Push,
}

/// Why a job is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It waits for a job of which nothing is known.
    NoSuchJob(JobId),
    /// The queue takes no more.
    Guard(Breach),
}

/// What came of settlements.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SettledAll {
    /// Of each.
    pub settled: Vec<Settled>,
    /// What became of jobs that waited for those that have ended.
    pub more: Vec<Effect>,
}

/// A wish for jobs.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Where from.
    pub queue: QueueName,
    /// At most so many, at least 1.
    pub count: usize,
    /// With so many it is content: what stands in line together need not be divided for more.
    pub enough: usize,
    /// At most so many payload bytes, though always one job.
    pub bytes_max: usize,
    /// Who asks.
    pub worker: WorkerName,
    /// What keeps the leases alive.
    pub hold: Hold,
}

/// Who waits for which of the jobs of a push.
#[derive(Debug, Clone)]
pub struct Offer {
    /// Of each job: the number of the claim that it may go to. Its queue is the job's.
    pub owners: Vec<Option<usize>>,
    /// Those who wait, and for how many.
    pub claims: Vec<Claim>,
}

/// What became of jobs that were pushed to those who wait.
#[derive(Debug, Clone)]
pub struct PushedTo {
    /// Of each job. Those that were leased at once are ready in it: so they were stored.
    pub pushed: Vec<Pushed>,
    /// The jobs of each claim, in the order of claims.
    pub leased: Vec<Vec<LeasedJob>>,
}

/// What keeps a lease alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// The worker's session; see [`Store::renew`].
    Session(SessionId),
    /// Nothing: it has this long, unless extended.
    Time(Duration),
}

/// What claims brought.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Claimed {
    /// The jobs of each claim.
    pub jobs: Vec<Vec<LeasedJob>>,
    /// The places of claims that are [content](Claim::enough) with less than they asked for, although more
    /// may be ready.
    pub content: Vec<usize>,
    /// Jobs that were found to be expired, and what became of those that waited for them.
    pub expired: Vec<Effect>,
    /// Queues that have jobs which may not start now, and when that changes by itself.
    pub closed: Vec<(QueueName, Option<Timestamp>)>,
}

/// A job with the lease on it.
#[derive(Debug, Clone, PartialEq)]
pub struct LeasedJob {
    /// The lease.
    pub lease: Lease,
    /// What to work on.
    pub payload: Payload,
    /// The attempt that begins; 1 is the first.
    pub attempt: u32,
    /// After so many it is dead.
    pub max_attempts: u32,
    /// As pushed.
    pub priority: i32,
    /// When it was pushed.
    pub created_at: Timestamp,
    /// When the lease ends, unless it is kept alive.
    pub lease_until: Timestamp,
    /// How long this attempt may run.
    pub timeout: Option<Duration>,
    /// As pushed.
    pub tags: Vec<Tag>,
    /// The jobs that it waited for, by id.
    pub needs: Vec<Need>,
    /// What few jobs ask for.
    pub options: SparseOptions,
}

/// A job that another one waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// Its number.
    pub id: JobId,
    /// How it ended. `None`: nothing is known of it any more.
    pub state: Option<State>,
    /// What came of it; left out if it is larger than [`crate::limits::NEED_STORED_BYTES_MAX`].
    pub result: Option<Bytes>,
}

/// The end of a lease, in its worker's words.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// Which.
    pub lease: Lease,
    /// How.
    pub verdict: Verdict,
}

/// What a worker says of a job.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// It is done.
    Ack {
        /// What came of it.
        result: Option<Bytes>,
    },
    /// It went wrong.
    Fail {
        /// A word for machines.
        code: FailureCode,
        /// For people; already cut.
        message: String,
        /// The worker's choice.
        retry: Retry,
        /// For the jitter, 0 to 1.
        chance: f64,
    },
    /// Somebody else shall do it.
    Release,
    /// It shall be done later; no attempt is charged.
    Snooze(Duration),
}

/// When a failed job is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// As its backoff says.
    Backoff,
    /// After this time.
    After(Duration),
    /// Never.
    Reject,
}

/// What came of a settlement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// The lease has ended as it was said.
    Done(Effect),
    /// It had ended just so already: the call was repeated.
    Repeated,
    /// It ended otherwise, or somebody else has the job now.
    LeaseLost,
    /// No such job, or it ended so long ago that nothing is known of it.
    Unknown,
}

/// What a change means for those who wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    /// The job.
    pub job: JobId,
    /// Its queue.
    pub queue: QueueName,
    /// Where it went.
    pub to: Destination,
}

/// Where a job went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// It can be claimed.
    Ready,
    /// It will be ready at this time.
    Scheduled(Timestamp),
    /// It waits for other jobs.
    Blocked,
    /// It has ended.
    Finished(State),
}

/// More time for one lease.
#[derive(Debug, Clone, Copy)]
pub struct Extension {
    /// Which.
    pub lease: Lease,
    /// From now on.
    pub hold: Duration,
}

/// A lease that has more time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extended {
    /// When it ends.
    pub until: Timestamp,
    /// Somebody asks for the end of the job: when that is forced.
    pub cancel_at: Option<Timestamp>,
}

/// How far a worker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// 0 to 100.
    pub percent: u8,
    /// For people; already cut. May be empty.
    pub message: String,
}

/// A part of a result that is not there as a whole yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partial {
    /// Which part it is, if its worker says so.
    pub index: Option<u32>,
    /// The part: JSON text.
    pub data: Bytes,
}

/// Work that happens by time. Only the leader does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Duty {
    /// Scheduled jobs whose time has come become ready.
    Due,
    /// Leases that ran out are taken back: as [`job::Ending::Expired`] if they had a time of their
    /// own, as [`job::Ending::NodeLost`] if they hung on a session, since the session's node gives
    /// them back itself as long as it lives.
    Expiry,
    /// Attempts that run too long are ended as [`job::Ending::TimedOut`], code `TIMEOUT`.
    Timeouts,
    /// Leases are taken away, as [`job::Ending::Cancelled`], whose jobs' end was asked for and
    /// whose workers had time enough.
    Cancels,
    /// Slots of schedules whose time has come become jobs.
    Cron,
    /// Waiting jobs whose time to live is over become dead.
    Ttl,
    /// Finished jobs that have been kept long enough are deleted.
    Retention,
}

impl Duty {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Due,
        Self::Expiry,
        Self::Timeouts,
        Self::Cancels,
        Self::Cron,
        Self::Ttl,
        Self::Retention,
    ];

    /// The word for it in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Due => "due",
            Self::Expiry => "expiry",
            Self::Timeouts => "timeouts",
            Self::Cancels => "cancels",
            Self::Cron => "cron",
            Self::Ttl => "ttl",
            Self::Retention => "retention",
        }
    }
}

/// Which schedules to list.
#[derive(Debug, Clone)]
pub enum SchedulesWanted {
    /// This one.
    One(ScheduleName),
    /// Those after this name, at most so many.
    After(Option<ScheduleName>, usize),
}

/// How long it is remembered what became of slots.
pub(crate) const FIRES_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// What a duty did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DutyReport {
    /// Jobs that went elsewhere, in order. [`Duty::Retention`] names none.
    pub effects: Vec<Effect>,
    /// Leases that were taken from a session's worker while it may still be at work.
    pub lost: Vec<(SessionId, Lease)>,
    /// How long until there is something to do, as far as is known: zero if there is more now,
    /// `None` if there is nothing in sight. For [`Duty::Retention`] it is a rough guess.
    pub next: Option<Duration>,
}

/// All that is known of a job.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Its number.
    pub id: JobId,
    /// Its queue.
    pub queue: QueueName,
    /// Where it is.
    pub state: State,
    /// As pushed.
    pub priority: i32,
    /// As pushed. `None` in lists, and once it has been dropped.
    pub payload: Option<Payload>,
    /// Its payload and its result have been dropped: its queue keeps them less long than the job.
    pub is_dropped: bool,
    /// Attempts that were charged.
    pub attempts: u32,
    /// After so many it is dead.
    pub max_attempts: u32,
    /// Leases given.
    pub deliveries: u32,
    /// Leases whose worker vanished.
    pub crashes: u32,
    /// When it was pushed.
    pub created_at: Timestamp,
    /// While scheduled.
    pub run_at: Option<Timestamp>,
    /// Not delivered at or after this time.
    pub expires_at: Option<Timestamp>,
    /// How long one attempt may run.
    pub timeout: Option<Duration>,
    /// As pushed; `None`: the default.
    pub backoff: Option<Backoff>,
    /// As pushed.
    pub unique: Option<UniqueKey>,
    /// As pushed.
    pub tags: Vec<Tag>,
    /// While leased.
    pub lease_until: Option<Timestamp>,
    /// While leased: who has it.
    pub worker: Option<WorkerName>,
    /// While leased: how far it is.
    pub progress: Option<Progress>,
    /// While leased: since when its end is asked for, and when it is forced.
    pub cancel: Option<(Timestamp, Timestamp)>,
    /// Once it has ended.
    pub finished_at: Option<Timestamp>,
    /// Once completed. `None` in lists.
    pub result: Option<Bytes>,
    /// Once dead.
    pub reason: Option<Reason>,
    /// What few jobs ask for.
    pub options: Options,
    /// What the last attempt that ended badly said: code and message. `None` in lists.
    pub error: Option<(String, String)>,
    /// The job that this is a copy of.
    pub replay_of: Option<JobId>,
    /// The latest copy of this job.
    pub replayed_as: Option<JobId>,
}

impl Job {
    /// What is pushed to replay this job: changed so, ready now, its time to live anew. `None` if
    /// there is no payload.
    pub(crate) fn copy(self, edit: Edit) -> Option<NewJob> {
        // A copy waits for nobody, is no repetition, and belongs to no slot.
        let unique = self.unique.filter(|_| self.options.hold == UniqueHold::Live);
        let options = Options {
            hold: UniqueHold::Live,
            idempotency: None,
            depends: Depends::default(),
            slot: None,
            ..self.options
        };
        Some(NewJob {
            queue: edit.queue.unwrap_or(self.queue),
            payload: edit.payload.or(self.payload)?,
            priority: edit.priority.unwrap_or(self.priority),
            when: edit.when.unwrap_or(When::Now),
            ttl: self.expires_at.map(|at| at.since(self.created_at)),
            max_attempts: self.max_attempts,
            backoff: self.backoff,
            timeout: self.timeout,
            unique,
            tags: self.tags,
            replay_of: Some(self.id),
            options: options.into(),
            waits_for: Vec::new(),
            is_part: false,
        })
    }
}

/// One lease of a job, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Which delivery.
    pub delivery: u32,
    /// Which attempt; a lease that was given back shares it with the next.
    pub attempt: u32,
    /// The node that gave it.
    pub node: String,
    /// Who had it.
    pub worker: WorkerName,
    /// When it was given.
    pub started_at: Timestamp,
    /// When it ended. `None`: it runs.
    pub ended_at: Option<Timestamp>,
    /// How it ended, as [`job::Ending::name`]. Empty: it runs.
    pub ending: String,
    /// The worker's word, or ours: `TIMEOUT`, `CRASH`, `LEASE_EXPIRED`, `NODE_LOST`. Empty if it
    /// ended well or runs.
    pub code: String,
    /// For people.
    pub message: String,
}

/// How a lease ends by its worker's verdict.
pub(crate) fn ending_of(verdict: &Verdict) -> job::Ending {
    use job::Ending;
    match verdict {
        Verdict::Ack { .. } => Ending::Completed,
        Verdict::Fail { retry: Retry::Backoff, .. } => Ending::Failed { retry_in: None },
        Verdict::Fail { retry: Retry::After(delay), .. } => {
            Ending::Failed { retry_in: Some(*delay) }
        }
        Verdict::Fail { retry: Retry::Reject, .. } => Ending::Rejected,
        Verdict::Release => Ending::Released,
        Verdict::Snooze(delay) => Ending::Snoozed(*delay),
    }
}

/// What the end of a job means for one that waits for it: it goes on, it fails, or (`None`) it
/// waits on.
pub(crate) fn fate(state: State, policy: OnFailure) -> Option<bool> {
    match (state, policy) {
        (State::Completed, _) => Some(true),
        (State::Dead | State::Cancelled, OnFailure::Ignore) => Some(true),
        (State::Dead | State::Cancelled, OnFailure::Fail) => Some(false),
        _ => None,
    }
}

/// Which keys a job can have. Those of one kind do not meet those of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum KeyKind {
    /// Until the job ends.
    Live,
    /// For a time.
    Window,
    /// Until it is leased.
    Debounce,
    /// For a day: the same push.
    Push,
    /// Until the job ends, over all queues.
    CustomId,
}

impl KeyKind {
    pub(crate) const fn of(hold: UniqueHold) -> Self {
        match hold {
            UniqueHold::Live => Self::Live,
            UniqueHold::WindowMs(_) => Self::Window,
            UniqueHold::Debounce => Self::Debounce,
        }
    }

    pub(crate) const fn ends_with_job(self) -> bool {
        matches!(self, Self::Live | Self::Debounce | Self::CustomId)
    }
}

/// Our own words for leases that ended badly without a word of their worker.
///
/// The message that goes with it is for people.
pub fn verdict_of(ending: job::Ending) -> (&'static str, &'static str) {
    use job::Ending;
    match ending {
        Ending::TimedOut => ("TIMEOUT", "the attempt ran longer than its job allows"),
        Ending::Crashed => ("CRASH", "the worker vanished: its connection was lost or went silent"),
        Ending::Expired => ("LEASE_EXPIRED", "the lease ran out and was not extended"),
        Ending::NodeLost => ("NODE_LOST", "the node that kept the lease alive is gone"),
        Ending::Cancelled => ("CANCELLED", "its end was asked for and did not come in time"),
        Ending::Completed
        | Ending::Failed { .. }
        | Ending::Rejected
        | Ending::Released
        | Ending::Snoozed(_) => ("", ""),
    }
}

/// What another node has told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal {
    /// So many jobs of a queue have become ready.
    Ready(QueueName, usize),
    /// Jobs of a queue may have become ready that could not start before, for so many reasons.
    Opened(QueueName, usize),
    /// Not from another node: the way to the store was lost. It is time to look.
    Interrupted,
    /// A job will be due at this time: of interest to the leader.
    Due(Timestamp),
    /// A lease was taken away from a session.
    Lost(SessionId, Lease),
    /// Somebody asks for the end of a session's job.
    Cancelled(SessionId, Lease),
    /// A job has ended that somebody may wait for.
    Ended(JobId),
}

/// What has happened while nobody told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct News {
    /// Queues in which jobs may be ready.
    pub ready: Vec<QueueName>,
    /// Jobs that have ended.
    pub ended: Vec<JobId>,
    /// Leases that hang on sessions of this node and whose end is asked for.
    pub cancelled: Vec<(SessionId, Lease)>,
    /// Leases that hung on sessions of this node and have ended elsewhere.
    pub lost: Vec<(SessionId, Lease)>,
}

/// Which jobs to list. An empty filter lists all.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    /// Of this queue.
    pub queue: Option<QueueName>,
    /// In this state.
    pub state: Option<State>,
    /// With this tag.
    pub tag: Option<Tag>,
    /// With payloads of this content type.
    pub content_type: Option<String>,
    /// Dead for this reason.
    pub reason: Option<Reason>,
    /// Pushed at this time or later.
    pub created_from: Option<Timestamp>,
    /// Pushed before this time.
    pub created_to: Option<Timestamp>,
    /// Whether they have been replayed.
    pub is_replayed: Option<bool>,
    /// Whether they have not ended.
    pub is_live: Option<bool>,
    /// Oldest first, instead of newest.
    pub oldest_first: bool,
    /// At most so many, at least 1.
    pub limit: usize,
    /// Only ids below this one; above it, if the oldest come first.
    pub cursor: Option<JobId>,
}

/// A page of jobs, by id.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct JobPage {
    /// The jobs. May be fewer than asked for, even none, and not the last.
    pub jobs: Vec<Job>,
    /// For `cursor` of the next page; `None`: there is no more.
    pub next: Option<JobId>,
}

/// A queue and what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// Its name.
    pub name: QueueName,
    /// Since when it is paused.
    pub paused_at: Option<Timestamp>,
    /// What people have set.
    pub settings: Settings,
    /// Jobs by state; finished ones as long as they are kept.
    pub counts: Counts,
    /// How long the job has waited that has been ready longest. Looks at the first job of each
    /// priority, behind each gate.
    pub oldest_ready: Option<Duration>,
}

/// Jobs by state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// See [`State::Scheduled`].
    pub scheduled: u64,
    /// See [`State::Blocked`].
    pub blocked: u64,
    /// See [`State::Ready`].
    pub ready: u64,
    /// See [`State::Leased`].
    pub leased: u64,
    /// See [`State::Completed`].
    pub completed: u64,
    /// See [`State::Dead`].
    pub dead: u64,
    /// See [`State::Cancelled`].
    pub cancelled: u64,
}

impl Counts {
    /// How many jobs are in `state`, to be changed.
    pub(crate) fn of(&mut self, state: State) -> &mut u64 {
        match state {
            State::Scheduled => &mut self.scheduled,
            State::Blocked => &mut self.blocked,
            State::Ready => &mut self.ready,
            State::Leased => &mut self.leased,
            State::Completed => &mut self.completed,
            State::Dead => &mut self.dead,
            State::Cancelled => &mut self.cancelled,
        }
    }
}

/// A key of a queue, and who uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyUse {
    /// Its name.
    pub key: FlowKey,
    /// What it limits.
    pub limit: KeyLimit,
    /// Jobs that wait behind it, ready or held up by it; counted up to
    /// [`crate::limits::PAGE_MAX`].
    pub waiting: u64,
}

/// What a key limits, and how much of it is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyLimit {
    /// Leases at once.
    Concurrency {
        /// At most so many; `None`: any number.
        max: Option<u32>,
        /// The jobs that are leased, by id; at most [`crate::limits::PAGE_MAX`].
        holders: Vec<JobId>,
    },
    /// Leases in a time.
    Rate {
        /// So many.
        rule: RateRule,
        /// When the next one may start. `None`: now.
        opens_at: Option<Timestamp>,
    },
}

/// Gathers who uses the keys of a queue.
#[derive(Debug, Default)]
pub(crate) struct KeyUses {
    concurrency: BTreeMap<FlowKey, (Concurrency, Vec<JobId>, u64)>,
    rates: BTreeMap<FlowKey, (Rate, u64)>,
}

impl KeyUses {
    /// A job with these limits is ready.
    pub(crate) fn waits(&mut self, flow: &Flow) {
        if let Some(one) = &flow.concurrency {
            self.concurrency_of(one).2 += 1;
        }
        if let Some(one) = &flow.rate {
            let count = self.rates.get(&one.key).map_or(0, |(_, count)| *count);
            self.rates.insert(one.key.clone(), (one.clone(), count + 1));
        }
    }

    /// A job with these limits is leased. Jobs are to be told by id.
    pub(crate) fn holds(&mut self, flow: &Flow, job: JobId) {
        if let Some(one) = &flow.concurrency {
            self.concurrency_of(one).1.push(job);
        }
    }

    /// What the latest job says of a key counts.
    fn concurrency_of(&mut self, one: &Concurrency) -> &mut (Concurrency, Vec<JobId>, u64) {
        let new = || (one.clone(), Vec::new(), 0);
        let used = self.concurrency.entry(one.key.clone()).or_insert_with(new);
        used.0 = one.clone();
        used
    }

    /// All of them, as far as they fit into an answer.
    pub(crate) fn shown(self, admission: &Admission) -> Vec<KeyUse> {
        let concurrency = self.concurrency.into_iter().map(|(key, (one, holders, waiting))| {
            let limit = KeyLimit::Concurrency { max: admission.max_of(&one), holders };
            KeyUse { key, limit, waiting }
        });
        let rates = self.rates.into_iter().map(|(key, (rate, waiting))| {
            let (rule, opens_at) = (admission.rule_of(&rate), admission.opens_at(&rate));
            KeyUse { key, limit: KeyLimit::Rate { rule, opens_at }, waiting }
        });
        concurrency.chain(rates).take(crate::limits::PAGE_MAX).collect()
    }
}

/// What is to be changed of a waiting job, or of the copy of one that has ended.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Edit {
    /// It stands elsewhere in the line then.
    pub priority: Option<i32>,
    /// What the worker gets.
    pub payload: Option<Payload>,
    /// When it may run. Of a blocked job: once it is blocked no more.
    pub when: Option<When>,
    /// Another queue, made if there is none. The job stands behind those that are in line there.
    pub queue: Option<QueueName>,
    /// Nothing is changed unless the job has this queue and this payload.
    pub was: Option<(QueueName, Payload)>,
}

impl Edit {
    /// What it says of a job by itself, in words. `None`: nothing.
    pub(crate) fn words(&self) -> Option<String> {
        let when = |when: When| match when {
            When::Now => "to run now".into(),
            When::After(delay) => format!("to run in {} ms", delay.as_millis()),
            When::At(at) => format!("to run at {at}"),
        };
        let said = [
            self.priority.map(|priority| format!("priority {priority}")),
            self.payload.as_ref().map(|it| format!("a payload of {} bytes", it.bytes.len())),
            self.when.map(when),
        ];
        let said: Vec<String> = said.into_iter().flatten().collect();
        (!said.is_empty()).then(|| said.join(", "))
    }

    /// # Errors
    ///
    /// If there is nothing to change, or the time is too far away.
    pub fn check(self) -> Result<Self, InvalidField> {
        if self == Self::default() {
            return Err(InvalidField {
                field: "priority".into(),
                detail: "nothing is to be changed: set priority, payload, a time or queue".into(),
            });
        }
        self.when.map(When::check).transpose()?;
        Ok(self)
    }
}

/// What came of a wish to cancel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cancelled {
    /// The job has ended. What became of it, and of those that waited for it.
    Done(Vec<Effect>),
    /// It is leased: its worker has until then.
    Requested {
        /// Whose lease it is.
        lease: Lease,
        /// The session that it hangs on.
        session: Option<SessionId>,
        /// When it is forced.
        force_at: Timestamp,
    },
    /// There is no such job.
    NotFound,
    /// It has ended already.
    WrongState(State),
}

/// What came of a wish to discard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Discarded {
    /// The job is dead: what became of it, and of those that waited for it.
    Done(Effect, Vec<Effect>),
    /// There is no such job.
    NotFound,
    /// It is leased, or has ended already.
    WrongState(State),
}

/// Whether a queue gives out jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pausing {
    /// It does not.
    Pause,
    /// It does.
    Resume,
}

/// What came of a change to one job by a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// It was made.
    Done(Effect),
    /// There is no such job.
    NotFound,
    /// Its state does not allow it.
    WrongState(State),
    /// Its unique key, or its custom id, belongs to this live job by now.
    Duplicate(JobId),
    /// Its payload has been dropped.
    Dropped,
    /// It is not any more what the change was made for.
    Outdated,
}
