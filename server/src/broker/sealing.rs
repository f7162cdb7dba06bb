//! Which queues are encrypted, and what that means for what goes into the store and comes out.
//!
//! A store takes bytes and knows nothing of keys: payloads and results are sealed here before they
//! go down and opened here when they come up ([`crate::secrets`]). Not sealed are the names and
//! numbers by which jobs are found and ordered (queue, tags, keys, content type), the messages of
//! failures, the notes of progress and the parts of results, which are events; nor values of the
//! key-value store, which belong to no queue.
//!
//! # From when on
//!
//! That a queue is encrypted stands in its settings, in the store, and any node may change it. A
//! node asks for the names of all encrypted queues, and trusts the answer for [`TRUSTED`], counted
//! from before it asked. Whoever turns encryption on is answered after a little more than that. So,
//! exactly: **what is asked for after that answer is sealed, on every node.** No message has to
//! arrive for it, only the clocks of nodes have to run alike. An embedded store has no other nodes:
//! it is asked once, and after each change.
//!
//! A check by the store within each push would promise nothing more that a client could see, and
//! would have every push of every queue pay for it. Like this, a push to a plain queue pays for a
//! look into memory, and a node that is at work for one short query a second.
//!
//! What was stored before stays as it is, and so do its copies, until it is written again: values
//! say themselves whether they are sealed. Schedules make copies for ever, so turning encryption
//! on, also when it is on, stores the schedules of the queue again; that is how they come under a
//! new key, too.
//!
//! # What belongs to what
//!
//! A payload is bound to its queue: a copy in the same queue, made by the store, opens. A move to
//! another queue seals it anew. A result is bound to its job, and so is each line of its log.
//!
//! # Without the key
//!
//! SQL has none: its functions refuse to push to an encrypted queue, or to ack with a result, when
//! the transaction commits (`0007_encrypted.sql`).
//!
//! A node without any key neither takes from nor gives to an encrypted queue: `UNAVAILABLE`, since
//! another node may well. All else works. A job whose key is not *here* is given back for
//! [`ANOTHER_TRY`], uncharged: it keeps no other job waiting, and is worked on as soon as a node
//! that has the key meets it. One that nobody can open is dead, with the code `UNREADABLE`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;

use super::Core;
use crate::error::Error;
use crate::job::{FailureCode, JobId, Lease, NewJob, Payload, QueueName, WebhookName};
use crate::limits;
use crate::secrets::{Context, Keyring, Unreadable, is_sealed, plain};
use crate::store::{
    Edit, Job, LeasedJob, LogLine, Retry, Schedule, Secret, Settlement, StoredLine, Verdict,
};

/// How long the names of encrypted queues in a shared store are trusted.
const TRUSTED: Duration = Duration::from_secs(1);

/// How long turning encryption on takes on a shared store: nobody trusts older names then.
const UNTIL_ALL_KNOW: Duration = Duration::from_millis(1100);

/// For so long a job is put aside whose key is not here.
const ANOTHER_TRY: Duration = Duration::from_secs(30);

/// What a payload is of which nothing is known.
const BYTES: &str = "application/octet-stream";

/// The names of encrypted queues.
pub(super) type Encrypted = Arc<HashSet<QueueName>>;

/// What a node knows of encrypted queues.
pub(super) struct Sealing {
    keys: Keyring,
    known: RwLock<Option<(Instant, Encrypted)>>,
    /// Held by who asks, and by who changes.
    asking: tokio::sync::Mutex<()>,
    /// The queues of leases that were given out here: a hint, which saves asking the store. Empty
    /// as long as there is no encrypted queue.
    leased: Mutex<HashMap<Lease, QueueName>>,
}

impl Sealing {
    pub(super) fn new(keys: Keyring) -> Self {
        Self {
            keys,
            known: RwLock::default(),
            asking: tokio::sync::Mutex::default(),
            leased: Mutex::default(),
        }
    }

    /// What is to be stored of a webhook's secret: sealed, if there is a key.
    pub(super) fn seal_secret(&self, webhook: &WebhookName, secret: &Secret) -> Secret {
        let context = format!("webhook:{webhook}");
        let sealed = self.keys.seal(secret.bytes(), Context::Secret(&context));
        Secret::new(sealed.unwrap_or_else(|| plain(secret.bytes().to_vec().into())).to_vec().into())
    }

    /// The secret that was stored so.
    ///
    /// # Errors
    ///
    /// See [`Unreadable`].
    pub(super) fn open_secret(
        &self,
        webhook: &WebhookName,
        stored: &Secret,
    ) -> Result<Secret, Unreadable> {
        let context = format!("webhook:{webhook}");
        let opened = self.keys.open(stored.bytes().to_vec().into(), Context::Secret(&context))?;
        Ok(Secret::new(opened.to_vec().into()))
    }

    /// Whether the names were never asked for, or may have changed here.
    pub(super) fn knows_nothing(&self) -> bool {
        self.known.read().is_none()
    }

    fn known(&self, is_shared: bool) -> Option<Encrypted> {
        let known = self.known.read();
        let (asked_at, encrypted) = known.as_ref()?;
        let is_trusted = !is_shared || asked_at.elapsed() < TRUSTED;
        is_trusted.then(|| Arc::clone(encrypted))
    }

    /// Of a queue that is encrypted, as far as is known without asking.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] if there is no key for it.
    pub(super) fn check_key(&self, queue: &QueueName) -> Result<(), Error> {
        let known = self.known.read();
        match known.as_ref().is_some_and(|(_, encrypted)| encrypted.contains(queue)) {
            true if self.keys.newest().is_none() => Err(no_key(queue)),
            _ => Ok(()),
        }
    }

    fn note(&self, queue: &QueueName, leases: impl Iterator<Item = Lease>) {
        let mut leased = self.leased.lock();
        if leased.len() > limits::NOTED_LEASES_MAX {
            leased.clear();
        }
        leased.extend(leases.map(|lease| (lease, queue.clone())));
    }

    /// The queues of leases that are about to end, as far as they were noted; empty if none was.
    fn take_noted(&self, settlements: &[Settlement]) -> Vec<Option<QueueName>> {
        let mut leased = self.leased.lock();
        if leased.is_empty() {
            return Vec::new();
        }
        settlements.iter().map(|one| leased.remove(&one.lease)).collect()
    }

    fn seal(&self, queue: &QueueName, bytes: &[u8], context: Context<'_>) -> Result<Bytes, Error> {
        self.keys.seal(bytes, context).ok_or_else(|| no_key(queue))
    }

    fn seal_payload(
        &self,
        encrypted: &Encrypted,
        queue: &QueueName,
        payload: &mut Payload,
    ) -> Result<(), Error> {
        payload.bytes = match encrypted.contains(queue) {
            true => self.seal(queue, &payload.bytes, Context::Payload(queue))?,
            false => plain(std::mem::take(&mut payload.bytes)),
        };
        Ok(())
    }

    fn open_payload(&self, queue: &QueueName, payload: Payload) -> Result<Payload, Unreadable> {
        let bytes = self.keys.open(payload.bytes, Context::Payload(queue))?;
        Ok(Payload { bytes, ..payload })
    }

    fn open_leased(&self, queue: &QueueName, job: LeasedJob) -> Result<LeasedJob, Unreadable> {
        let payload = self.open_payload(queue, job.payload)?;
        let mut needs = job.needs;
        for need in &mut needs {
            if let Some(result) = need.result.take() {
                let result = self.keys.open(result, Context::Result(need.id))?;
                need.result = Some(result).filter(|it| it.len() <= limits::NEED_BYTES_MAX);
            }
        }
        Ok(LeasedJob { payload, needs, ..job })
    }

    /// A job as it was before it was sealed.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] if the key is not here, [`Error::Internal`] if nobody can open it.
    pub(super) fn open_job(&self, job: Job) -> Result<Job, Error> {
        let refused = |what, reason| unreadable(&format!("the {what} of job {}", job.id), reason);
        let payload = job.payload.map(|payload| self.open_payload(&job.queue, payload));
        let payload = payload.transpose().map_err(|reason| refused("payload", reason))?;
        let result = job.result.map(|result| self.keys.open(result, Context::Result(job.id)));
        let result = result.transpose().map_err(|reason| refused("result", reason))?;
        Ok(Job { payload, result, ..job })
    }

    /// A line of a job's log as it was before it was sealed.
    ///
    /// # Errors
    ///
    /// As for [`Sealing::open_job`].
    pub(super) fn open_line(&self, job: JobId, line: StoredLine) -> Result<LogLine, Error> {
        let StoredLine { at, level, message } = line;
        let opened = self.keys.open(message, Context::Log(job));
        let opened =
            opened.map_err(|reason| unreadable(&format!("the log of job {job}"), reason))?;
        Ok(LogLine { at, level, message: String::from_utf8_lossy(&opened).into_owned() })
    }

    /// Opens the payload of a schedule.
    ///
    /// # Errors
    ///
    /// See [`Unreadable`]. Then the payload is empty.
    pub(super) fn open_schedule(&self, schedule: &mut Schedule) -> Result<(), Unreadable> {
        let job = &mut schedule.spec.job;
        let empty = Payload { bytes: Bytes::new(), content_type: Some(BYTES.into()) };
        let sealed = std::mem::replace(&mut job.payload, empty);
        job.payload = self.open_payload(&job.queue, sealed)?;
        Ok(())
    }
}

fn no_key(queue: &QueueName) -> Error {
    let fix = "set BATONQ_MASTER_KEY as on the other nodes";
    Error::Unavailable(format!("queue {queue} is encrypted and this node has no key: {fix}").into())
}

fn unreadable(what: &str, reason: Unreadable) -> Error {
    let detail = format!("{what} can not be read: {reason}").into();
    match reason {
        Unreadable::UnknownKey(_) => Error::Unavailable(detail),
        Unreadable::Damaged => Error::Internal(detail),
    }
}

/// What is said of a job that was leased and can not be opened.
fn put_aside(lease: Lease, reason: Unreadable) -> Settlement {
    let verdict = match reason {
        Unreadable::UnknownKey(_) => Verdict::Snooze(ANOTHER_TRY),
        Unreadable::Damaged => Verdict::Fail {
            code: FailureCode::parse("UNREADABLE").expect("it is a code"),
            message: format!("the payload or the result of a dependency: {reason}"),
            retry: Retry::Reject,
            chance: 0.0,
        },
    };
    Settlement { lease, verdict }
}

impl Core {
    /// The queues that are encrypted.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub(super) async fn encrypted(&self) -> Result<Encrypted, Error> {
        let known = || self.sealing.known(self.store.is_shared());
        if let Some(known) = known() {
            return Ok(known);
        }
        // Apart: it is rare, and every push would carry it about.
        Box::pin(self.ask_encrypted()).await
    }

    async fn ask_encrypted(&self) -> Result<Encrypted, Error> {
        let known = || self.sealing.known(self.store.is_shared());
        let _one = self.sealing.asking.lock().await;
        if let Some(known) = known() {
            return Ok(known);
        }
        let asked_at = Instant::now();
        let queues = self.health.watch(self.store.encrypted_queues().await)?;
        let encrypted = Arc::new(HashSet::from_iter(queues));
        *self.sealing.known.write() = Some((asked_at, Arc::clone(&encrypted)));
        Ok(encrypted)
    }

    /// Seals the payload of a job for an encrypted queue.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] if it is to be sealed and there is no key.
    pub(super) async fn seal_job(&self, job: &mut NewJob) -> Result<(), Error> {
        let encrypted = self.encrypted().await?;
        self.sealing.seal_payload(&encrypted, &job.queue, &mut job.payload)
    }

    /// The same of many jobs. Those that can not be sealed are taken out: the answer has their places,
    /// in order, and why.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub(super) async fn seal_jobs(
        &self,
        jobs: &mut Vec<NewJob>,
    ) -> Result<Vec<(usize, Error)>, Error> {
        let encrypted = self.encrypted().await?;
        let (mut place, mut refused) = (0, Vec::new());
        jobs.retain_mut(|job| {
            let sealed = self.sealing.seal_payload(&encrypted, &job.queue, &mut job.payload);
            let sealed = sealed.map_err(|error| refused.push((place, error)));
            place += 1;
            sealed.is_ok()
        });
        Ok(refused)
    }

    /// Opens jobs of a queue that have just been leased. Those that can not be opened are put
    /// aside.
    pub(super) fn open_leased(
        self: &Arc<Self>,
        encrypted: &Encrypted,
        queue: &QueueName,
        jobs: Vec<LeasedJob>,
    ) -> Vec<LeasedJob> {
        if !encrypted.is_empty() {
            self.sealing.note(queue, jobs.iter().map(|job| job.lease));
        }
        let mut unreadable = Vec::new();
        let open = |job: LeasedJob| {
            let lease = job.lease;
            let opened = self.sealing.open_leased(queue, job);
            opened.inspect_err(|reason| unreadable.push((lease, *reason))).ok()
        };
        let opened = jobs.into_iter().filter_map(open).collect();
        if let Some((Lease { job, .. }, reason)) = unreadable.first() {
            let count = unreadable.len();
            tracing::error!(%queue, count, job = job.0, %reason, "jobs can not be read");
            let aside = unreadable.into_iter().map(|(lease, reason)| put_aside(lease, reason));
            tokio::spawn(super::pull::end(Arc::clone(self), aside.collect()));
        }
        opened
    }

    /// Seals the results of jobs of encrypted queues.
    ///
    /// # Errors
    ///
    /// As for [`Core::seal_job`].
    pub(super) async fn seal_results(&self, settlements: &mut [Settlement]) -> Result<(), Error> {
        let noted = self.sealing.take_noted(settlements);
        let with_result = settlements.iter().filter(|settlement| has_result(settlement));
        let with_result: Vec<JobId> = with_result.map(|settlement| settlement.lease.job).collect();
        if with_result.is_empty() {
            return Ok(());
        }
        let encrypted = self.encrypted().await?;
        let mut queues: HashMap<JobId, QueueName> = HashMap::new();
        if !encrypted.is_empty() {
            let jobs = settlements.iter().map(|settlement| settlement.lease.job);
            queues.extend(jobs.zip(noted).filter_map(|(job, queue)| Some((job, queue?))));
            Box::pin(self.find_queues(&mut queues, with_result)).await?;
        }
        for settlement in settlements {
            let job = settlement.lease.job;
            let Verdict::Ack { result: Some(result) } = &mut settlement.verdict else { continue };
            *result = match queues.get(&job).filter(|queue| encrypted.contains(*queue)) {
                Some(queue) => self.sealing.seal(queue, result, Context::Result(job))?,
                None => plain(std::mem::take(result)),
            };
        }
        Ok(())
    }

    /// What is to be stored of a message in the log of a job.
    ///
    /// # Errors
    ///
    /// As for [`Core::seal_job`].
    pub(super) async fn seal_line(&self, job: JobId, message: String) -> Result<Bytes, Error> {
        let encrypted = self.encrypted().await?;
        let queue = if encrypted.is_empty() { None } else { self.queue_of(job).await? };
        match queue.filter(|queue| encrypted.contains(queue)) {
            Some(queue) => self.sealing.seal(&queue, message.as_bytes(), Context::Log(job)),
            None => Ok(plain(message.into())),
        }
    }

    /// The queue of a job, also of one that has ended.
    async fn queue_of(&self, job: JobId) -> Result<Option<QueueName>, Error> {
        let found = self.health.watch(self.store.queues_of(vec![job]).await)?;
        match found.into_iter().flatten().next() {
            Some(queue) => Ok(Some(queue)),
            None => Ok(self.health.watch(self.store.job(job).await)?.map(|job| job.queue)),
        }
    }

    /// Asks the store for the queues of jobs that are not known.
    async fn find_queues(
        &self,
        queues: &mut HashMap<JobId, QueueName>,
        mut jobs: Vec<JobId>,
    ) -> Result<(), Error> {
        jobs.retain(|job| !queues.contains_key(job));
        if jobs.is_empty() {
            return Ok(());
        }
        let found = self.health.watch(self.store.queues_of(jobs.clone()).await)?;
        queues.extend(jobs.into_iter().zip(found).filter_map(|(job, queue)| Some((job, queue?))));
        Ok(())
    }

    /// An edit, or a replay, whose payload is as the queue wants it in which the job is then.
    ///
    /// # Errors
    ///
    /// Those of the store, and if a payload can not be opened or sealed.
    pub(super) async fn seal_edit(&self, id: JobId, edit: Edit) -> Result<Edit, Error> {
        if edit.payload.is_none() && edit.queue.is_none() {
            return Ok(edit);
        }
        let encrypted = self.encrypted().await?;
        if encrypted.is_empty()
            && let Some(payload) = edit.payload
        {
            let payload = Some(Payload { bytes: plain(payload.bytes), ..payload });
            return Ok(Edit { payload, ..edit });
        }
        let Some(job) = self.store.job(id).await? else { return Ok(edit) };
        let to = edit.queue.as_ref().unwrap_or(&job.queue);
        let mut payload = match (&edit.payload, &job.payload) {
            (Some(payload), _) => payload.clone(),
            (None, None) => return Ok(edit),
            (None, Some(_)) if *to == job.queue => return Ok(edit),
            (None, Some(it)) if encrypted.is_empty() && !is_sealed(&it.bytes) => return Ok(edit),
            (None, Some(before)) => self
                .sealing
                .open_payload(&job.queue, before.clone())
                .map_err(|reason| unreadable(&format!("the payload of job {id}"), reason))?,
        };
        self.sealing.seal_payload(&encrypted, to, &mut payload)?;
        let queue = Some(to.clone());
        let was = job.payload.map(|before| (job.queue, before));
        Ok(Edit { payload: Some(payload), queue, was, ..edit })
    }

    /// Has the store change settings of queues. If encryption was turned on, everybody knows it
    /// when this is done.
    ///
    /// # Cancel safety
    ///
    /// The change may still be made. Other nodes, to which nothing was promised, may be late then.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if there is no key to turn encryption on; else as `change`.
    pub(super) async fn while_nobody_asks(
        &self,
        is_encrypted: bool,
        change: impl Future<Output = Result<(), Error>>,
    ) -> Result<(), Error> {
        if is_encrypted && self.sealing.keys.newest().is_none() {
            let fix = "set BATONQ_MASTER_KEY on every node (openssl rand -hex 32)";
            return Err(Error::invalid("encrypted", format!("this node has no key: {fix}")));
        }
        let one = self.sealing.asking.lock().await;
        // Before it: who asks for it may be gone before it is done.
        *self.sealing.known.write() = None;
        let changed = change.await;
        drop(one);
        if changed.is_ok() && is_encrypted && self.store.is_shared() {
            tokio::time::sleep(UNTIL_ALL_KNOW).await;
        }
        changed
    }
}

fn has_result(settlement: &Settlement) -> bool {
    matches!(settlement.verdict, Verdict::Ack { result: Some(_) })
}
