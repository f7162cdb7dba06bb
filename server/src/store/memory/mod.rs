//! The model: a store in memory, written to be obvious and not to be fast.
//!
//! It says what the contract means; the suite and the drift test compare the other stores with it.
//! Everything is in one place, `Model`, behind one lock: a call is a transaction by itself.

mod duties;
mod events;
mod flow;
mod guards;
mod kv;
mod live;
mod logs;
mod needs;
mod people;
mod schedules;
mod standing;
mod webhooks;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use super::{
    Attempt, Cancelled, Changed, Claim, Claimed, Counts, Decision, Discarded, Duty, DutyReport,
    Edit, Effect, EventId, EventKind, EventPage, EventsWanted, Extended, Extension, Fire, Job,
    JobFilter, JobPage, KeyKind, KeyUse, KvAdd, KvEntry, KvPattern, KvValue, Note, NoteKind,
    Partial, Paused, Pausing, Progress, Pushed, PutSchedule, PutWebhook, Queue, Refused, Retention,
    Schedule, SchedulesWanted, Secret, SessionId, SettledAll, Settlement, Standing, Store,
    StoredLine, Watching, Webhook, WebhookSpec,
};
use crate::clock::Clock;
use crate::error::Error;
use crate::job::{
    Bucket, Guard, JobId, KvKey, Lease, LeaseKey, NewJob, QueueName, ScheduleName, ScheduleSpec,
    Settings, State, Timestamp, UniqueKey, WebhookName, WorkerName,
};
use crate::leader::Term;
use crate::limits;

/// A store that forgets everything when it is dropped.
pub struct MemoryStore {
    model: Mutex<Model>,
    clock: Arc<dyn Clock>,
    lease_key: LeaseKey,
}

impl std::fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryStore").finish_non_exhaustive()
    }
}

impl MemoryStore {
    /// An empty store.
    pub fn new(node: &str, clock: Arc<dyn Clock>, retention: Retention) -> Self {
        let model = Model {
            node: node.into(),
            retention,
            now: clock.now(),
            last_number: 0,
            queues: BTreeMap::new(),
            jobs: BTreeMap::new(),
            settings: BTreeMap::new(),
            keys: BTreeMap::new(),
            custom_ids: BTreeMap::new(),
            schedules: BTreeMap::new(),
            turns: BTreeMap::new(),
            buckets: BTreeMap::new(),
            taken: BTreeMap::new(),
            decisions: BTreeMap::new(),
            ended: Vec::new(),
            telling: events::Telling::default(),
            webhooks: BTreeMap::new(),
            kv: BTreeMap::new(),
        };
        Self { model: Mutex::new(model), clock, lease_key: LeaseKey(rand::random()) }
    }

    fn transaction<T>(&self, work: impl FnOnce(&mut Model) -> T) -> Result<T, Error> {
        let mut model = self.model.lock();
        model.now = self.clock.now();
        Ok(work(&mut model))
    }
}

/// All there is.
struct Model {
    node: String,
    retention: Retention,
    now: Timestamp,
    /// Ids and places are taken from one sequence.
    last_number: u64,
    /// Since when each queue is paused, and by whom.
    queues: BTreeMap<QueueName, Option<Paused>>,
    jobs: BTreeMap<JobId, Record>,
    settings: BTreeMap<QueueName, Settings>,
    keys: BTreeMap<(QueueName, KeyKind, UniqueKey), HeldKey>,
    /// The last job that took each custom id. It has it as long as it lives.
    custom_ids: BTreeMap<UniqueKey, JobId>,
    schedules: BTreeMap<ScheduleName, (Schedule, BTreeMap<Timestamp, Fire>)>,
    /// When the line behind each gate was served last.
    turns: BTreeMap<(QueueName, String), i64>,
    /// Of the keys of rates; without a key, of the queue.
    buckets: BTreeMap<(QueueName, Option<String>), Bucket>,
    /// Jobs taken in the latest minute: of queues that have such a guard.
    taken: BTreeMap<QueueName, (Timestamp, u64)>,
    decisions: BTreeMap<(QueueName, Timestamp, Guard), Decision>,
    /// Jobs that ended in this call, for those that wait for them.
    ended: Vec<(JobId, State)>,
    telling: events::Telling,
    webhooks: BTreeMap<WebhookName, Webhook>,
    kv: BTreeMap<KvKey, kv::Kept>,
}

/// A key that a job has.
#[derive(Clone, Copy)]
struct HeldKey {
    job: JobId,
    /// `None`: as long as the job lives.
    until: Option<Timestamp>,
}

/// A job and where it is.
#[derive(Clone)]
struct Record {
    /// As it is shown, without what is derived below.
    job: Job,
    place: Place,
    /// The jobs that it still waits for.
    blocked_by: BTreeSet<JobId>,
    attempts: Vec<Attempt>,
    notes: Vec<Note>,
    log: Vec<StoredLine>,
}

#[derive(Clone, PartialEq)]
enum Place {
    Blocked,
    Scheduled(Timestamp),
    /// Its number in the line, and since when.
    Ready(u64, Timestamp),
    Leased(Holding),
    Finished,
}

/// A live lease.
#[derive(Clone, PartialEq)]
struct Holding {
    worker: WorkerName,
    session: Option<SessionId>,
    started_at: Timestamp,
    expires_at: Timestamp,
    /// The number that the job comes back to if it comes back unharmed.
    number: u64,
}

impl Record {
    fn state(&self) -> State {
        match self.place {
            Place::Blocked => State::Blocked,
            Place::Scheduled(_) => State::Scheduled,
            Place::Ready(..) => State::Ready,
            Place::Leased(_) => State::Leased,
            Place::Finished => self.job.state,
        }
    }

    fn holding(&self) -> Option<&Holding> {
        match &self.place {
            Place::Leased(holding) => Some(holding),
            _ => None,
        }
    }

    fn is_live(&self) -> bool {
        self.place != Place::Finished
    }

    fn is_waiting(&self) -> bool {
        matches!(self.place, Place::Blocked | Place::Scheduled(_) | Place::Ready(..))
    }

    fn keep(&mut self, note: Note) {
        self.notes.push(note);
        if self.notes.len() > limits::NOTES_MAX {
            self.notes.remove(0);
        }
    }

    fn shown(&self) -> Job {
        let mut job = self.job.clone();
        job.state = self.state();
        job.run_at = match self.place {
            Place::Scheduled(at) => Some(at),
            Place::Blocked => self.job.run_at,
            _ => None,
        };
        match self.holding() {
            Some(holding) => {
                job.lease_until = Some(holding.expires_at);
                job.worker = Some(holding.worker.clone());
            }
            None => {
                job.progress = None;
                job.cancel = None;
            }
        }
        let bad = self.attempts.iter().rev().find(|attempt| {
            !["completed", "released", "snoozed", ""].contains(&attempt.ending.as_str())
        });
        job.error = bad.map(|attempt| (attempt.code.clone(), attempt.message.clone()));
        job
    }

    fn listed(&self) -> Job {
        Job {
            payload: None,
            result: None,
            error: None,
            worker: None,
            lease_until: None,
            progress: None,
            cancel: None,
            ..self.shown()
        }
    }
}

impl Model {
    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    fn record(&mut self, id: JobId) -> &mut Record {
        self.jobs.get_mut(&id).expect("the caller has just seen it")
    }

    /// Notes what happens to a job.
    fn note(&mut self, id: JobId, kind: NoteKind, detail: impl Into<String>) {
        let at = self.now;
        let record = self.record(id);
        let delivery = record.job.deliveries + u32::from(record.is_waiting());
        let (who, detail) = (String::new(), detail.into());
        record.keep(Note { at, kind, delivery, who, detail });
    }

    fn note_refused(&mut self, refused: Refused) {
        let Refused { lease, who, what } = refused;
        let at = self.now;
        if let Some(record) = self.jobs.get_mut(&lease.job) {
            let (kind, delivery) = (NoteKind::Refused, lease.delivery);
            record.keep(Note { at, kind, delivery, who, detail: what.into() });
        }
    }

    fn counts(&self, queue: &QueueName) -> Counts {
        let mut counts = Counts::default();
        for record in self.jobs.values().filter(|record| record.job.queue == *queue) {
            *counts.of(record.state()) += 1;
        }
        counts
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn lease_key(&self) -> Result<LeaseKey, Error> {
        Ok(self.lease_key)
    }

    async fn push(&self, jobs: Vec<NewJob>) -> Result<Vec<Pushed>, Error> {
        self.transaction(|model| model.push_judged(jobs))
    }

    async fn claim(&self, claims: Vec<Claim>) -> Result<Claimed, Error> {
        self.transaction(|model| model.claim(claims))
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Result<SettledAll, Error> {
        self.transaction(|model| {
            let settled = settlements.into_iter().map(|one| model.settle(one)).collect();
            SettledAll { settled, more: model.release_dependents() }
        })
    }

    async fn extend(&self, extensions: Vec<Extension>) -> Result<Vec<Option<Extended>>, Error> {
        self.transaction(|model| extensions.into_iter().map(|one| model.extend(one)).collect())
    }

    async fn progress(&self, lease: Lease, progress: Progress) -> Result<bool, Error> {
        self.transaction(|model| model.progress(lease, progress))
    }

    async fn partial(&self, lease: Lease, partial: Partial) -> Result<bool, Error> {
        self.transaction(|model| model.partial(lease, &partial))
    }

    async fn renew(&self, sessions: Vec<SessionId>) -> Result<(), Error> {
        self.transaction(|model| sessions.into_iter().for_each(|session| model.renew(session)))
    }

    async fn adopt(&self, session: SessionId) -> Result<Vec<Lease>, Error> {
        self.transaction(|model| {
            model.renew(session);
            model.leases_of(session)
        })
    }

    async fn give_back(&self, session: SessionId) -> Result<Vec<Effect>, Error> {
        self.transaction(|model| {
            let mut effects = model.give_back(session);
            effects.extend(model.release_dependents());
            effects
        })
    }

    async fn run_duty(&self, _: &Term, duty: Duty) -> Result<DutyReport, Error> {
        self.transaction(|model| {
            let mut report = model.run_duty(duty);
            report.effects.extend(model.release_dependents());
            report
        })
    }

    async fn job(&self, id: JobId) -> Result<Option<Job>, Error> {
        self.transaction(|model| model.jobs.get(&id).map(Record::shown))
    }

    async fn jobs_by_id(&self, ids: Vec<JobId>) -> Result<Vec<Option<Job>>, Error> {
        self.transaction(|model| {
            ids.iter().map(|id| model.jobs.get(id).map(Record::shown)).collect()
        })
    }

    async fn job_by_custom_id(&self, id: UniqueKey) -> Result<Option<Job>, Error> {
        self.transaction(|model| {
            let job = model.custom_ids.get(&id)?;
            model.jobs.get(job).map(Record::shown)
        })
    }

    async fn leases_of(&self, ids: Vec<JobId>) -> Result<Vec<Option<Lease>>, Error> {
        self.transaction(|model| ids.iter().map(|id| model.live_lease(*id)).collect())
    }

    async fn jobs(&self, filter: JobFilter) -> Result<JobPage, Error> {
        self.transaction(|model| model.list(&filter))
    }

    async fn timeline(&self, id: JobId) -> Result<Option<(Job, Vec<Attempt>)>, Error> {
        self.transaction(|model| model.timeline(id))
    }

    async fn notes(&self, id: JobId) -> Result<Vec<Note>, Error> {
        self.transaction(|model| {
            model.jobs.get(&id).map(|record| record.notes.clone()).unwrap_or_default()
        })
    }

    async fn note_refused(&self, refused: Vec<Refused>) -> Result<(), Error> {
        self.transaction(|model| refused.into_iter().for_each(|one| model.note_refused(one)))
    }

    async fn log(&self, job: JobId, level: String, message: Bytes) -> Result<bool, Error> {
        self.transaction(|model| model.log(job, level, message))
    }

    async fn logs(&self, job: JobId) -> Result<Vec<StoredLine>, Error> {
        self.transaction(|model| model.logs(job))
    }

    async fn standing(&self, id: JobId) -> Result<Option<Standing>, Error> {
        self.transaction(|model| model.standing(id))
    }

    async fn queues(&self, only: Option<QueueName>) -> Result<Vec<Queue>, Error> {
        self.transaction(|model| model.queues(only.as_ref()))
    }

    async fn set_paused(
        &self,
        queue: QueueName,
        pausing: Pausing,
        by: String,
    ) -> Result<(), Error> {
        self.transaction(|model| {
            let since = model.now;
            let paused = model.queues.entry(queue.clone()).or_default();
            let was_paused = paused.is_some();
            match pausing {
                Pausing::Pause => drop(paused.get_or_insert(Paused { since, by })),
                Pausing::Resume => *paused = None,
            }
            match (pausing, was_paused) {
                (Pausing::Pause, false) => model.tell_queue(EventKind::Paused, &queue),
                (Pausing::Resume, true) => model.tell_queue(EventKind::Resumed, &queue),
                _ => {}
            }
        })
    }

    async fn retry(&self, id: JobId) -> Result<Changed, Error> {
        self.transaction(|model| model.retry(id))
    }

    async fn replay(&self, id: JobId, edit: Edit) -> Result<Changed, Error> {
        self.transaction(|model| model.replay(id, edit))
    }

    async fn delete(&self, id: JobId) -> Result<Changed, Error> {
        self.transaction(|model| model.delete(id))
    }

    async fn decisions(
        &self,
        queue: Option<QueueName>,
        limit: usize,
    ) -> Result<Vec<Decision>, Error> {
        self.transaction(|model| model.list_decisions(queue.as_ref(), limit))
    }

    async fn cancel(&self, id: JobId, grace: Duration) -> Result<Cancelled, Error> {
        self.transaction(|model| model.cancel(id, grace))
    }

    async fn discard(&self, id: JobId) -> Result<Discarded, Error> {
        self.transaction(|model| model.discard(id))
    }

    async fn edit(&self, id: JobId, edit: Edit) -> Result<Changed, Error> {
        self.transaction(|model| model.edit(id, edit))
    }

    async fn put_schedule(
        &self,
        name: ScheduleName,
        spec: ScheduleSpec,
    ) -> Result<PutSchedule, Error> {
        self.transaction(|model| model.put_schedule(name, spec))
    }

    async fn schedules(&self, which: SchedulesWanted) -> Result<Vec<Schedule>, Error> {
        self.transaction(|model| model.list_schedules(which))
    }

    async fn delete_schedule(&self, name: ScheduleName) -> Result<bool, Error> {
        self.transaction(|model| model.schedules.remove(&name).is_some())
    }

    async fn pause_schedule(&self, name: ScheduleName, pausing: Pausing) -> Result<bool, Error> {
        self.transaction(|model| model.pause_schedule(&name, pausing))
    }

    async fn run_schedule(&self, name: ScheduleName) -> Result<Option<Pushed>, Error> {
        self.transaction(|model| model.run_schedule(&name))
    }

    async fn fires(&self, name: ScheduleName, limit: usize) -> Result<Option<Vec<Fire>>, Error> {
        self.transaction(|model| {
            let (_, fires) = model.schedules.get(&name)?;
            Some(fires.values().rev().take(limit).cloned().collect())
        })
    }

    async fn set_settings(&self, queue: QueueName, settings: Settings) -> Result<(), Error> {
        self.transaction(|model| {
            model.queues.entry(queue.clone()).or_default();
            let before = model.settings.insert(queue.clone(), settings.clone());
            if before.unwrap_or_default() != settings {
                // See `Store::set_settings`.
                model.buckets.retain(|(of, _), _| *of != queue);
                model.tell_queue(EventKind::Settings, &queue);
            }
        })
    }

    async fn encrypted_queues(&self) -> Result<Vec<QueueName>, Error> {
        self.transaction(|model| {
            let encrypted = model.settings.iter().filter(|(_, settings)| settings.encrypted);
            encrypted.map(|(name, _)| name.clone()).collect()
        })
    }

    async fn queues_of(&self, jobs: Vec<JobId>) -> Result<Vec<Option<QueueName>>, Error> {
        self.transaction(|model| {
            let live = |id| model.jobs.get(id).filter(|record| record.is_live());
            jobs.iter().map(|id| live(id).map(|record| record.job.queue.clone())).collect()
        })
    }

    async fn key_uses(&self, queue: QueueName) -> Result<Vec<KeyUse>, Error> {
        self.transaction(|model| model.key_uses(&queue))
    }

    async fn promote(&self, id: JobId) -> Result<Changed, Error> {
        self.transaction(|model| model.promote(id))
    }

    async fn watch(&self, queue: Option<QueueName>, hold: Duration) -> Result<Watching, Error> {
        self.transaction(|model| model.watch(queue.as_ref(), hold))
    }

    async fn put_webhook(
        &self,
        name: WebhookName,
        spec: WebhookSpec,
        secret: Option<Secret>,
    ) -> Result<PutWebhook, Error> {
        self.transaction(|model| model.put_webhook(name, spec, secret))
    }

    async fn webhooks(&self) -> Result<Vec<Webhook>, Error> {
        self.transaction(|model| model.webhooks.values().cloned().collect())
    }

    async fn delete_webhook(&self, name: WebhookName) -> Result<bool, Error> {
        self.transaction(|model| model.delete_webhook(&name))
    }

    async fn advance_webhook(&self, name: WebhookName, seen: EventId) -> Result<(), Error> {
        self.transaction(|model| model.advance_webhook(&name, seen))
    }

    async fn event_head(&self) -> Result<EventId, Error> {
        self.transaction(|model| model.telling.last)
    }

    async fn events(&self, wanted: EventsWanted) -> Result<EventPage, Error> {
        self.transaction(|model| model.events(&wanted))
    }

    async fn kv_set(&self, entries: Vec<KvEntry>) -> Result<(), Error> {
        self.transaction(|model| model.kv_set(entries))
    }

    async fn kv_get(
        &self,
        keys: Vec<KvKey>,
        bytes_max: usize,
    ) -> Result<Option<Vec<Option<KvValue>>>, Error> {
        self.transaction(|model| model.kv_get(&keys, bytes_max))
    }

    async fn kv_delete(&self, key: KvKey) -> Result<bool, Error> {
        self.transaction(|model| model.kv_delete(&key))
    }

    async fn kv_expire(&self, key: KvKey, ttl: Duration) -> Result<bool, Error> {
        self.transaction(|model| model.kv_expire(&key, ttl))
    }

    async fn kv_keys(&self, pattern: KvPattern) -> Result<Vec<KvKey>, Error> {
        self.transaction(|model| model.kv_keys(&pattern))
    }

    async fn kv_add(&self, key: KvKey, by: i64) -> Result<KvAdd, Error> {
        self.transaction(|model| model.kv_add(key, by))
    }

    async fn check(&self) -> Result<(), Error> {
        Ok(())
    }
}
