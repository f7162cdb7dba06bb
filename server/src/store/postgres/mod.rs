//! The shared store: one Postgres, any number of nodes.
//!
//! ```text
//!   callers ──▶ lane.rs: one connection for each kind of work, a pool for the rest
//!                  │
//!     push.rs  keys.rs  custom_ids.rs  guards.rs  claim.rs  flow.rs  settle.rs  needs.rs  leases.rs
//!     duties.rs  retention.rs  sweep.rs  runs.rs  people.rs  inspect.rs  look.rs
//!                  │
//!   cursors.rs: where claims begin      leases.rs: what this node has given out
//! ```
//!
//! The tables are the truth and every decision compares with them; what a node keeps in memory are
//! hints that make this fast. So any node may ack what any other gave out, and a node that is
//! killed takes nothing with it. Time is the database's ([`migrate`] has `now_ms()`); what is said
//! of time is said in SQL.
//!
//! What each failure means: a connection that breaks before the commit was asked for has done
//! nothing (`UNAVAILABLE`, to be tried again, also elsewhere); one that breaks afterwards may have
//! (`OUTCOME_UNKNOWN`). A claim of unknown outcome has given its jobs to nobody; it is undone when
//! the database answers again, or runs out with its node.

mod acks;
mod alike;
mod blocks;
mod claim;
mod cursors;
mod custom_ids;
mod dsn;
mod duties;
mod election;
mod events;
mod flow;
mod guards;
mod heads;
mod inspect;
mod keys;
mod kv;
mod lane;
mod leases;
mod live_runs;
mod logs;
mod look;
pub mod migrate;
#[cfg(feature = "mutants")]
mod mutants;
mod needs;
mod nodes;
mod notes;
mod people;
mod prepare;
mod presence;
mod push;
mod queues;
mod retention;
mod rounds;
mod row;
mod runs;
mod schedules;
mod settle;
mod special;
mod standing;
mod sweep;
mod vacuum;
mod wake;
mod webhooks;

pub use dsn::Dsn;
pub use election::Election;
pub use prepare::{Database, Migrate, Refusal, connect};
pub use presence::Presence;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use self::cursors::{Cursors, Horizon};
use self::events::Tail;
use self::heads::Head;
use self::lane::{Connector, Lane, Pool};
use self::leases::Memory;
use self::queues::Queues;
use self::special::Special;
use self::vacuum::Vacuum;
use self::wake::Outbox;
use super::{
    Attempt, Cancelled, Changed, Claim, Claimed, Decision, Destination, Discarded, Duty,
    DutyReport, Edit, Effect, EventId, EventPage, EventsWanted, Extended, Extension, Fire, Job,
    JobFilter, JobPage, KeyUse, KvAdd, KvEntry, KvPattern, KvValue, News, Note, Offer, Partial,
    Pausing, Progress, Pushed, PushedTo, PutSchedule, PutWebhook, Queue, Refused, Retention,
    Schedule, SchedulesWanted, Secret, SessionId, Settled, SettledAll, Settlement, Standing, Store,
    StoredLine, Watching, Webhook, WebhookSpec,
};
use crate::error::Error;
use crate::job::{
    JobId, KvKey, Lease, LeaseKey, NewJob, QueueName, ScheduleName, ScheduleSpec, Settings,
    UniqueKey, WebhookName,
};
use crate::leader::Term;
use crate::mutants::Mutant;

/// A queue's key in the tables.
type QueueId = i64;

/// How often a transaction is done again that met others on the same rows.
const CONFLICTS_MAX: u32 = 5;

/// Does it again if others were in the way.
macro_rules! retrying {
    ($call:expr) => {{
        let mut tries = 0;
        loop {
            match $call.await {
                Err($crate::store::postgres::lane::Failure::Conflict(error))
                    if tries < $crate::store::postgres::CONFLICTS_MAX =>
                {
                    tries += 1;
                    tracing::debug!(error, tries, "transaction is done again");
                }
                done => break done,
            }
        }
    }};
}
use retrying;

/// Who this node is in the tables.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Its name.
    pub id: String,
    /// Which life of it.
    pub incarnation: i64,
}

/// Where the store is, and how it behaves.
#[derive(Debug)]
pub struct Options {
    /// The schema of the tables.
    pub schema: String,
    /// This node.
    pub node: Identity,
    /// Connections that the node may have; at least [`CONNECTIONS_MIN`].
    pub connections_max: u32,
    /// How long finished jobs are kept.
    pub retention: Retention,
    /// A node that has been silent for so long is shown as stale.
    pub stale_after: Duration,
}

/// Connections for one purpose each: push, claim, gate, settle, keep, tell, look, time, duty,
/// notify; presence, election; and, of the leader now and then, two that vacuum.
const DEDICATED: u32 = 14;

/// Statements by name.
pub type Named = (&'static str, &'static str);

/// The statements that must be fast whatever is in the tables, by name, and the settings of the
/// sessions that run them: for those who look at their plans.
pub fn hot_statements() -> (&'static str, Vec<Named>) {
    let parts = [
        push::HOT,
        keys::HOT,
        custom_ids::HOT,
        blocks::HOT,
        claim::HOT,
        look::HOT,
        rounds::HOT,
        flow::HOT,
        acks::HOT,
        settle::HOT,
        needs::HOT,
        leases::HOT,
        duties::HOT,
        retention::HOT,
        inspect::HOT,
    ];
    let all = [&parts.concat(), standing::HOT, notes::HOT, queues::HOT, events::HOT].concat();
    let all = [&all, kv::HOT, logs::HOT, sweep::HOT, runs::HOT, nodes::HOT].concat();
    (lane::SETTINGS, all)
}

/// What a node needs at least: two for what is looked at, since a transaction may ask for one more.
pub const CONNECTIONS_MIN: u32 = DEDICATED + 2;

/// The shared store.
#[derive(Debug)]
pub struct PostgresStore {
    node: Identity,
    retention: Retention,
    stale_after: Duration,
    connector: Arc<Connector>,
    lease_key: OnceLock<LeaseKey>,
    push_lane: Lane,
    claim_lane: Lane,
    /// Claims of queues with limits: they wait for each other.
    gate_lane: Lane,
    settle_lane: Lane,
    /// Renewals, give-backs: what keeps leases right must not wait behind a push.
    keep_lane: Lane,
    /// What is told of jobs while they are worked on, which may have to wait for others.
    tell_lane: Lane,
    /// Looks that take long.
    look_lane: Lane,
    /// What is to happen at a time does not wait behind what may have to wait for others.
    time_lane: Lane,
    duty_lane: Lane,
    notify_lane: Lane,
    pool: Pool,
    queues: Queues,
    cursors: Cursors,
    horizon: Mutex<Horizon>,
    /// Queues that have, or had, limits: a hint, since the queue's row decides.
    gated: RwLock<HashSet<QueueId>>,
    special: Special,
    leases: Memory,
    outbox: Outbox,
    tail: Mutex<Tail>,
    /// Held while tables are vacuumed.
    vacuum: Vacuum,
    /// Finished jobs that are too many, by queue, as far as they have been counted.
    excess: Mutex<retention::Excess>,
    /// Where looks at what is to happen begin, by duty.
    heads: HashMap<Duty, Head>,
    /// The same of the look at all of them.
    outlook: Head,
    renewed: Mutex<leases::Renewed>,
    swept: Mutex<sweep::Places>,
}

impl PostgresStore {
    /// A store that is not open yet: what is asked of it is answered [`Error::Unavailable`].
    pub fn new(options: Options) -> Arc<Self> {
        let connector = Arc::new(Connector {
            schema: options.schema,
            name: options.node.id.clone(),
            gate: RwLock::new(Err("the database has not been reached yet".into())),
            refused: watch::Sender::new(None),
            opened_at: Mutex::default(),
        });
        let lane = |name| Lane::new(name, &connector);
        let pool_max = options.connections_max.saturating_sub(DEDICATED).max(2);
        Arc::new(Self {
            node: options.node,
            retention: options.retention,
            stale_after: options.stale_after,
            lease_key: OnceLock::new(),
            push_lane: lane("push"),
            claim_lane: lane("claim"),
            gate_lane: lane("gate").with(lane::BRIEF),
            settle_lane: lane("settle"),
            keep_lane: lane("keep"),
            tell_lane: lane("tell"),
            look_lane: lane("look").with(lane::PATIENT).bearing(lane::PATIENCE),
            time_lane: lane("time").with(lane::SHORT),
            duty_lane: lane("duty").with(lane::SHORT),
            notify_lane: lane("notify"),
            pool: Pool::new(&connector, pool_max),
            connector,
            queues: Queues::default(),
            cursors: Cursors::default(),
            horizon: Mutex::default(),
            gated: RwLock::default(),
            special: Special::default(),
            leases: Memory::default(),
            outbox: Outbox::default(),
            tail: Mutex::default(),
            vacuum: Vacuum::default(),
            excess: Mutex::default(),
            heads: Duty::ALL.map(|duty| (duty, Head::default())).into(),
            outlook: Head::default(),
            renewed: Mutex::default(),
            swept: Mutex::default(),
        })
    }

    /// What is asked of the store before it is open is answered with this reason.
    pub fn not_yet(&self, reason: &str) {
        let mut gate = self.connector.gate.write();
        if gate.is_err() {
            *gate = Err(reason.to_owned());
        }
    }

    /// Opens the store, on tables that fit. Once it is open it stays so.
    ///
    /// # Errors
    ///
    /// If the database can not be reached, in words.
    pub async fn open(&self, dsn: &Dsn) -> Result<(), String> {
        if self.lease_key.get().is_some() {
            return Ok(());
        }
        let mut conn =
            self.connector.connect_to(dsn, "start", "").await.map_err(|error| error.to_string())?;
        let sql = "SELECT value FROM meta WHERE key = 'lease_key'";
        let rows =
            conn.once((sql, &[]), lane::CALL_MAX).await.map_err(|failure| failure.to_string())?;
        let key = rows.first().and_then(|row| row::get::<&[u8]>(row, "value").try_into().ok());
        let key = key.ok_or("the tables are damaged: no lease key")?;
        self.lease_key.get_or_init(|| LeaseKey(key));
        *self.connector.gate.write() = Ok(dsn.clone());
        Ok(())
    }

    /// Tells other nodes what happens here. Runs as long as it is polled.
    pub async fn run_notifier(&self) {
        self.tell().await;
    }

    /// A job is ready at this place, durably.
    fn note_ready(&self, queue: QueueId, priority: i32, place: i64) {
        self.note_several(queue, priority, place, 1);
    }

    /// The same of so many jobs.
    fn note_several(&self, queue: QueueId, priority: i32, place: i64, count: usize) {
        self.cursors.note(queue, priority, place);
        self.outbox.ready(queue, priority, place, count);
    }

    fn note_all(&self, notes: Vec<settle::Note>) {
        for (queue, priority, place) in notes {
            self.note_ready(queue, priority, place);
        }
    }

    /// The leader is to know of jobs that will be due.
    fn note_due<'a>(&self, effects: impl IntoIterator<Item = &'a Effect>) {
        for effect in effects {
            if let Destination::Scheduled(at) = effect.to {
                self.outbox.due(at);
            }
        }
    }

    /// A queue gives out jobs again: what was passed over while it was paused is to be found.
    fn note_resumed(&self, queue: QueueId) {
        self.cursors.forget(queue);
    }
}

#[async_trait]
impl Store for PostgresStore {
    fn lease_key(&self) -> Result<LeaseKey, Error> {
        let closed = || Error::Unavailable("the database has not been reached yet".into());
        self.lease_key.get().copied().ok_or_else(closed)
    }

    fn is_shared(&self) -> bool {
        true
    }

    async fn push(&self, jobs: Vec<NewJob>) -> Result<Vec<Pushed>, Error> {
        let pushed = self.push_jobs(&jobs).await?;
        if crate::mutants::is(Mutant::PushTwice) {
            self.push_jobs(&jobs).await?;
        }
        Ok(pushed)
    }

    fn hands_over(&self) -> bool {
        true
    }

    async fn push_to(&self, jobs: Vec<NewJob>, to: Offer) -> Result<PushedTo, Error> {
        let pushed = self.push_jobs_to(&jobs, &to).await?;
        if crate::mutants::is(Mutant::PushTwice) {
            self.push_jobs(&jobs).await?;
        }
        Ok(pushed)
    }

    async fn claim(&self, claims: Vec<Claim>) -> Result<Claimed, Error> {
        Ok(self.claim_jobs(&claims).await?)
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Result<SettledAll, Error> {
        #[cfg(feature = "mutants")]
        let settlements = self.without_deliveries(settlements).await?;
        let all = self.settle_all(&settlements).await?;
        let done = all.settled.iter().filter_map(|settled| match settled {
            Settled::Done(effect) => Some(effect),
            _ => None,
        });
        self.note_due(done.chain(&all.more));
        Ok(all)
    }

    async fn extend(&self, extensions: Vec<Extension>) -> Result<Vec<Option<Extended>>, Error> {
        Ok(self.extend_leases(&extensions).await?)
    }

    async fn progress(&self, lease: Lease, progress: Progress) -> Result<bool, Error> {
        Ok(self.note_progress(lease, &progress).await?)
    }

    async fn partial(&self, lease: Lease, partial: Partial) -> Result<bool, Error> {
        Ok(self.tell_partial(lease, &partial).await?)
    }

    async fn renew(&self, sessions: Vec<SessionId>) -> Result<(), Error> {
        Ok(self.renew_sessions(&sessions).await?)
    }

    async fn adopt(&self, session: SessionId) -> Result<Vec<Lease>, Error> {
        Ok(self.adopt_session(session).await?)
    }

    async fn give_back(&self, session: SessionId) -> Result<Vec<Effect>, Error> {
        let effects = self.give_back_session(session).await?;
        self.note_due(&effects);
        Ok(effects)
    }

    async fn tidy_tables(&self) -> Result<(), Error> {
        Ok(self.begin_vacuum().await?)
    }

    async fn run_duty(&self, term: &Term, duty: Duty) -> Result<DutyReport, Error> {
        let report = self.do_duty(term, duty).await?;
        self.note_due(&report.effects);
        self.outbox.lost(&report.lost);
        Ok(report)
    }

    async fn job(&self, id: JobId) -> Result<Option<Job>, Error> {
        Ok(self.find_job(id).await?)
    }

    async fn jobs_by_id(&self, ids: Vec<JobId>) -> Result<Vec<Option<Job>>, Error> {
        Ok(self.find_jobs(&ids).await?)
    }

    async fn job_by_custom_id(&self, id: UniqueKey) -> Result<Option<Job>, Error> {
        Ok(self.find_by_custom_id(&id).await?)
    }

    async fn leases_of(&self, ids: Vec<JobId>) -> Result<Vec<Option<Lease>>, Error> {
        Ok(self.find_leases_of(&ids).await?)
    }

    async fn jobs(&self, filter: JobFilter) -> Result<JobPage, Error> {
        Ok(self.list_jobs(&filter).await?)
    }

    async fn timeline(&self, id: JobId) -> Result<Option<(Job, Vec<Attempt>)>, Error> {
        Ok(self.find_timeline(id).await?)
    }

    async fn notes(&self, id: JobId) -> Result<Vec<Note>, Error> {
        Ok(self.find_notes(id).await?)
    }

    async fn note_refused(&self, refused: Vec<Refused>) -> Result<(), Error> {
        Ok(self.note_all_refused(&refused).await?)
    }

    async fn log(&self, job: JobId, level: String, message: Bytes) -> Result<bool, Error> {
        Ok(self.write_log(job, &level, &message).await?)
    }

    async fn logs(&self, job: JobId) -> Result<Vec<StoredLine>, Error> {
        Ok(self.find_log(job).await?)
    }

    async fn standing(&self, id: JobId) -> Result<Option<Standing>, Error> {
        Ok(self.find_standing(id).await?)
    }

    async fn queues(&self, only: Option<QueueName>) -> Result<Vec<Queue>, Error> {
        Ok(self.list_queues(only.as_ref()).await?)
    }

    async fn set_paused(
        &self,
        queue: QueueName,
        pausing: Pausing,
        by: String,
    ) -> Result<(), Error> {
        Ok(self.pause(&queue, pausing, &by).await?)
    }

    async fn retry(&self, id: JobId) -> Result<Changed, Error> {
        Ok(self.retry_job(id).await?)
    }

    async fn replay(&self, id: JobId, edit: Edit) -> Result<Changed, Error> {
        Ok(self.replay_job(id, &edit).await?)
    }

    async fn delete(&self, id: JobId) -> Result<Changed, Error> {
        Ok(self.delete_job(id).await?)
    }

    async fn decisions(
        &self,
        queue: Option<QueueName>,
        limit: usize,
    ) -> Result<Vec<Decision>, Error> {
        Ok(self.list_decisions(queue.as_ref(), limit).await?)
    }

    async fn cancel(&self, id: JobId, grace: Duration) -> Result<Cancelled, Error> {
        let cancelled = self.cancel_job(id, grace).await?;
        match &cancelled {
            Cancelled::Done(effects) => self.note_due(effects),
            Cancelled::Requested { lease, session: Some(session), .. } => {
                self.outbox.cancelled(*session, *lease);
            }
            _ => {}
        }
        Ok(cancelled)
    }

    async fn discard(&self, id: JobId) -> Result<Discarded, Error> {
        let discarded = self.discard_job(id).await?;
        if let Discarded::Done(_, more) = &discarded {
            self.note_due(more);
        }
        Ok(discarded)
    }

    async fn edit(&self, id: JobId, edit: Edit) -> Result<Changed, Error> {
        let changed = self.edit_job(id, &edit).await?;
        if let Changed::Done(effect) = &changed {
            self.note_due([effect]);
        }
        Ok(changed)
    }

    async fn put_schedule(
        &self,
        name: ScheduleName,
        spec: ScheduleSpec,
    ) -> Result<PutSchedule, Error> {
        Ok(self.put_cron(name, spec).await?)
    }

    async fn schedules(&self, which: SchedulesWanted) -> Result<Vec<Schedule>, Error> {
        Ok(self.list_cron(&which).await?)
    }

    async fn delete_schedule(&self, name: ScheduleName) -> Result<bool, Error> {
        Ok(self.delete_cron(&name).await?)
    }

    async fn pause_schedule(&self, name: ScheduleName, pausing: Pausing) -> Result<bool, Error> {
        Ok(self.pause_cron(&name, pausing).await?)
    }

    async fn run_schedule(&self, name: ScheduleName) -> Result<Option<Pushed>, Error> {
        Ok(self.run_cron(&name).await?)
    }

    async fn fires(&self, name: ScheduleName, limit: usize) -> Result<Option<Vec<Fire>>, Error> {
        Ok(self.list_fires(&name, limit).await?)
    }

    async fn set_settings(&self, queue: QueueName, settings: Settings) -> Result<(), Error> {
        Ok(self.set_queue_settings(&queue, &settings).await?)
    }

    async fn encrypted_queues(&self) -> Result<Vec<QueueName>, Error> {
        Ok(self.find_encrypted().await?)
    }

    async fn queues_of(&self, jobs: Vec<JobId>) -> Result<Vec<Option<QueueName>>, Error> {
        Ok(self.find_queues_of(&jobs).await?)
    }

    async fn key_uses(&self, queue: QueueName) -> Result<Vec<KeyUse>, Error> {
        Ok(self.find_key_uses(&queue).await?)
    }

    async fn promote(&self, id: JobId) -> Result<Changed, Error> {
        Ok(self.promote_job(id).await?)
    }

    async fn watch(&self, queue: Option<QueueName>, hold: Duration) -> Result<Watching, Error> {
        Ok(self.watch_queue(queue.as_ref(), hold).await?)
    }

    async fn put_webhook(
        &self,
        name: WebhookName,
        spec: WebhookSpec,
        secret: Option<Secret>,
    ) -> Result<PutWebhook, Error> {
        Ok(self.put_hook(name, spec, secret).await?)
    }

    async fn webhooks(&self) -> Result<Vec<Webhook>, Error> {
        Ok(self.list_hooks().await?)
    }

    async fn delete_webhook(&self, name: WebhookName) -> Result<bool, Error> {
        Ok(self.delete_hook(&name).await?)
    }

    async fn advance_webhook(&self, name: WebhookName, seen: EventId) -> Result<(), Error> {
        Ok(self.advance_hook(&name, seen).await?)
    }

    async fn event_head(&self) -> Result<EventId, Error> {
        Ok(self.find_head().await?)
    }

    async fn events(&self, wanted: EventsWanted) -> Result<EventPage, Error> {
        Ok(self.read_events(&wanted).await?)
    }

    async fn kv_set(&self, entries: Vec<KvEntry>) -> Result<(), Error> {
        Ok(self.set_values(&entries).await?)
    }

    async fn kv_get(
        &self,
        keys: Vec<KvKey>,
        bytes_max: usize,
    ) -> Result<Option<Vec<Option<KvValue>>>, Error> {
        Ok(self.find_values(&keys, bytes_max).await?)
    }

    async fn kv_delete(&self, key: KvKey) -> Result<bool, Error> {
        Ok(self.delete_value(&key).await?)
    }

    async fn kv_expire(&self, key: KvKey, ttl: Duration) -> Result<bool, Error> {
        Ok(self.expire_value(&key, ttl).await?)
    }

    async fn kv_keys(&self, pattern: KvPattern) -> Result<Vec<KvKey>, Error> {
        Ok(self.find_keys(&pattern).await?)
    }

    async fn kv_add(&self, key: KvKey, by: i64) -> Result<KvAdd, Error> {
        Ok(self.add_to_value(&key, by).await?)
    }

    async fn poll(&self, queues: Vec<QueueName>, jobs: Vec<JobId>) -> Result<News, Error> {
        Ok(self.look_around(&queues, &jobs).await?)
    }

    async fn look(&self, queues: Vec<QueueName>) -> Result<Vec<QueueName>, Error> {
        Ok(self.look_beside(&queues).await?)
    }

    async fn outlook(&self) -> Result<Vec<(Duty, Duration)>, Error> {
        Ok(self.look_ahead().await?)
    }

    /// Also the moment to forget what has ended elsewhere, and to undo what nobody knows of.
    async fn check(&self) -> Result<(), Error> {
        self.leases.prune();
        self.release_doubtful().await?;
        let sql = "UPDATE meta SET value = value WHERE key = 'checked' RETURNING key";
        self.keep_lane.once((sql, &[])).await?;
        Ok(())
    }
}
