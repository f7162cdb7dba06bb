//! The embedded store: one SQLite file, one process, the same semantics as a shared store.
//!
//! ```text
//!   callers ──▶ writer.rs: one thread, many calls in one transaction, one fsync
//!                  │
//!                  ▼
//!               tables.rs: the tables, and in memory: queues, live leases (leases.rs), counts
//!                  │
//!     push.rs  custom_ids.rs  guards.rs  line.rs  claim.rs  flow.rs  settle.rs  needs.rs
//!     leases.rs  duties.rs  retention.rs  people.rs  inspect.rs
//! ```
//!
//! WAL with `synchronous=FULL`: an answer comes after its fsync. The file belongs to one process,
//! which holds a lock beside it; so what is kept in memory can not be outdated. Lists are read on
//! a second connection, beside the writer.

mod claim;
mod custom_ids;
mod duties;
mod events;
mod flow;
mod guards;
mod inspect;
mod kv;
mod leases;
mod line;
mod logs;
mod needs;
mod notes;
mod people;
mod push;
mod retention;
mod row;
mod schedules;
mod settle;
mod standing;
mod tables;
mod webhooks;
mod writer;

use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, params};

use self::tables::Tables;
use self::writer::Writer;
use super::{
    Attempt, Cancelled, Changed, Claim, Claimed, Decision, Discarded, Duty, DutyReport, Edit,
    Effect, EventId, EventPage, EventsWanted, Extended, Extension, Fire, Job, JobFilter, JobPage,
    KeyUse, KvAdd, KvEntry, KvPattern, KvValue, Note, Partial, Pausing, Progress, Pushed,
    PutSchedule, PutWebhook, Queue, Refused, Retention, Schedule, SchedulesWanted, Secret,
    SessionId, SettledAll, Settlement, Standing, Store, StoredLine, Watching, Webhook, WebhookSpec,
};
use crate::clock::Clock;
use crate::error::Error;
use crate::job::{
    JobId, KvKey, Lease, LeaseKey, NewJob, QueueName, ScheduleName, ScheduleSpec, Settings,
    UniqueKey, WebhookName,
};
use crate::leader::Term;

/// What makes each version of the tables from the one before. Never changed once released.
const MIGRATIONS: [&str; 9] = [
    include_str!("0001_first.sql"),
    include_str!("0002_options.sql"),
    include_str!("0003_cron.sql"),
    include_str!("0004_guards.sql"),
    include_str!("0005_events_of_jobs.sql"),
    include_str!("0006_events.sql"),
    include_str!("0007_runs.sql"),
    include_str!("0008_custom_ids.sql"),
    include_str!("0009_kv_and_logs.sql"),
];

/// The version of the tables.
pub(super) const SCHEMA_VERSION: i32 = MIGRATIONS.len() as i32;

/// Where the store is, and how it behaves.
pub struct Options {
    /// The directory of its files; made if it is not there.
    pub dir: PathBuf,
    /// This node's name in timelines.
    pub node: String,
    /// What tells the time.
    pub clock: Arc<dyn Clock>,
    /// How long finished jobs are kept.
    pub retention: Retention,
}

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error(
        "{} is in use by another batonq (process {holder}): stop that one, or choose another \
         directory with BATONQ_DATA_DIR", path.display()
    )]
    InUse {
        /// The lock file.
        path: PathBuf,
        /// What that process wrote into it.
        holder: String,
    },
    /// It was written by another version of batonq.
    #[error(
        "the tables have version {found}, this batonq knows {SCHEMA_VERSION} only: use the \
         version of batonq that wrote them, or a newer one"
    )]
    Version {
        /// The version of the tables.
        found: i32,
    },
    /// The directory or the lock file can not be used.
    #[error("{}: {error}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// SQLite refuses.
    #[error("the database can not be opened: {0}")]
    Sqlite(#[from] rusqlite::Error),
}

/// The embedded store. Dropping it finishes what was asked for and closes the file.
#[derive(Debug)]
pub struct SqliteStore {
    writer: Writer,
    reader: Arc<Mutex<Connection>>,
    lease_key: LeaseKey,
    /// The highest number of an event that has been committed.
    last_event: Arc<AtomicU64>,
    _lock: File,
}

impl SqliteStore {
    /// Opens the store, or makes it. Blocks.
    ///
    /// # Errors
    ///
    /// See [`OpenError`].
    pub fn open(options: Options) -> Result<Self, OpenError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |error| OpenError::Io { path, error }
        };
        std::fs::create_dir_all(&options.dir).map_err(io(&options.dir))?;
        let lock = lock(&options.dir.join("batonq.lock"))?;
        let file = options.dir.join("batonq.db");
        let mut conn = Connection::open(&file)?;
        configure(&conn)?;
        create(&mut conn)?;
        let key = conn.query_row("SELECT value FROM meta WHERE key = 'lease_key'", [], |row| {
            row.get::<_, [u8; 16]>(0)
        })?;
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let reader = Connection::open_with_flags(&file, flags)?;
        let tables = Tables::new(conn, &options.node, options.clock, options.retention)?;
        let last_event = Arc::clone(&tables.telling.head);
        Ok(Self {
            writer: Writer::start(tables).map_err(io(&file))?,
            reader: Arc::new(Mutex::new(reader)),
            lease_key: LeaseKey(key),
            last_event,
            _lock: lock,
        })
    }

    /// Reads beside the writer what may take a while.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let reader = Arc::clone(&self.reader);
        let unavailable = |error: String| Error::Unavailable(error.into());
        let done = tokio::task::spawn_blocking(move || work(&reader.lock())).await;
        done.map_err(|error| unavailable(error.to_string()))?
            .map_err(|error| unavailable(error.to_string()))
    }
}

/// Takes the lock that one process has at a time. It ends with the process, whatever happens.
fn lock(path: &Path) -> Result<File, OpenError> {
    let io = |error| OpenError::Io { path: path.to_owned(), error };
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
        .map_err(io)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            file.read_to_string(&mut holder).map_err(io)?;
            return Err(OpenError::InUse { path: path.to_owned(), holder: holder.trim().into() });
        }
        Err(TryLockError::Error(error)) => return Err(io(error)),
    }
    file.set_len(0).map_err(io)?;
    write!(file, "{}", std::process::id()).map_err(io)?;
    Ok(file)
}

fn configure(conn: &Connection) -> rusqlite::Result<()> {
    conn.pragma_update(None, "page_size", 8192)?;
    conn.pragma_update(None, "journal_mode", "WAL")?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    // 64 MiB of cache; a checkpoint each 64 MiB of log.
    conn.pragma_update(None, "cache_size", -65_536)?;
    conn.pragma_update(None, "wal_autocheckpoint", 8192)?;
    // Plans do not depend on the values that are bound, or some would be made anew with each.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    conn.pragma_update(None, "temp_store", "MEMORY")
}

fn create(conn: &mut Connection) -> Result<(), OpenError> {
    let transaction = conn.transaction()?;
    let found: i32 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let missing = usize::try_from(found).ok().and_then(|known| MIGRATIONS.get(known..));
    let Some(missing) = missing else { return Err(OpenError::Version { found }) };
    for migration in missing {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    if found == 0 {
        transaction.execute(
            "INSERT INTO meta (key, value) VALUES ('next_number', 1), ('lease_key', ?1)",
            params![rand::random::<[u8; 16]>()],
        )?;
    }
    Ok(transaction.commit()?)
}

#[async_trait]
impl Store for SqliteStore {
    fn lease_key(&self) -> Result<LeaseKey, Error> {
        Ok(self.lease_key)
    }

    async fn push(&self, jobs: Vec<NewJob>) -> Result<Vec<Pushed>, Error> {
        self.writer.call(|tables| tables.push_judged(jobs)).await
    }

    async fn claim(&self, claims: Vec<Claim>) -> Result<Claimed, Error> {
        self.writer.call(|tables| tables.claim(claims)).await
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Result<SettledAll, Error> {
        self.writer.call(|tables| tables.settle(settlements)).await
    }

    async fn extend(&self, extensions: Vec<Extension>) -> Result<Vec<Option<Extended>>, Error> {
        let extend = |tables: &mut Tables| {
            extensions.into_iter().map(|extension| tables.extend(extension)).collect()
        };
        self.writer.call(extend).await
    }

    async fn progress(&self, lease: Lease, progress: Progress) -> Result<bool, Error> {
        self.writer.call(move |tables| tables.progress(lease, progress)).await
    }

    async fn partial(&self, lease: Lease, partial: Partial) -> Result<bool, Error> {
        self.writer.call(move |tables| tables.partial(lease, &partial)).await
    }

    async fn renew(&self, sessions: Vec<SessionId>) -> Result<(), Error> {
        self.writer.call(|tables| tables.renew(sessions)).await
    }

    async fn adopt(&self, session: SessionId) -> Result<Vec<Lease>, Error> {
        self.writer.call(move |tables| tables.adopt(session)).await
    }

    async fn give_back(&self, session: SessionId) -> Result<Vec<Effect>, Error> {
        self.writer.call(move |tables| tables.give_back(session)).await
    }

    async fn run_duty(&self, _: &Term, duty: Duty) -> Result<DutyReport, Error> {
        self.writer.call(move |tables| tables.run_duty(duty)).await
    }

    async fn job(&self, id: JobId) -> Result<Option<Job>, Error> {
        self.writer.call(move |tables| tables.job(id)).await
    }

    async fn jobs_by_id(&self, ids: Vec<JobId>) -> Result<Vec<Option<Job>>, Error> {
        self.writer.call(move |tables| tables.jobs_by_id(&ids)).await
    }

    async fn job_by_custom_id(&self, id: UniqueKey) -> Result<Option<Job>, Error> {
        self.writer.call(move |tables| tables.job_by_custom_id(&id)).await
    }

    async fn leases_of(&self, ids: Vec<JobId>) -> Result<Vec<Option<Lease>>, Error> {
        self.writer.call(move |tables| Ok(tables.leases.live(&ids))).await
    }

    async fn jobs(&self, filter: JobFilter) -> Result<JobPage, Error> {
        self.read(move |conn| inspect::list(conn, &filter)).await
    }

    async fn timeline(&self, id: JobId) -> Result<Option<(Job, Vec<Attempt>)>, Error> {
        self.writer.call(move |tables| tables.timeline(id)).await
    }

    async fn notes(&self, id: JobId) -> Result<Vec<Note>, Error> {
        self.writer.call(move |tables| tables.notes(id)).await
    }

    async fn note_refused(&self, refused: Vec<Refused>) -> Result<(), Error> {
        self.writer.call(move |tables| tables.note_refused(refused)).await
    }

    async fn log(&self, job: JobId, level: String, message: Bytes) -> Result<bool, Error> {
        self.writer.call(move |tables| tables.log(job, &level, &message)).await
    }

    async fn logs(&self, job: JobId) -> Result<Vec<StoredLine>, Error> {
        self.writer.call(move |tables| tables.logs(job)).await
    }

    async fn standing(&self, id: JobId) -> Result<Option<Standing>, Error> {
        self.writer.call(move |tables| tables.find_standing(id)).await
    }

    async fn queues(&self, only: Option<QueueName>) -> Result<Vec<Queue>, Error> {
        self.writer.call(move |tables| tables.queues(only.as_ref())).await
    }

    async fn set_paused(
        &self,
        queue: QueueName,
        pausing: Pausing,
        by: String,
    ) -> Result<(), Error> {
        self.writer.call(move |tables| tables.set_paused(&queue, pausing, by)).await
    }

    async fn retry(&self, id: JobId) -> Result<Changed, Error> {
        self.writer.call(move |tables| tables.retry(id)).await
    }

    async fn replay(&self, id: JobId, edit: Edit) -> Result<Changed, Error> {
        self.writer.call(move |tables| tables.replay(id, edit)).await
    }

    async fn delete(&self, id: JobId) -> Result<Changed, Error> {
        self.writer.call(move |tables| tables.delete(id)).await
    }

    async fn decisions(
        &self,
        queue: Option<QueueName>,
        limit: usize,
    ) -> Result<Vec<Decision>, Error> {
        self.writer.call(move |tables| tables.decisions(queue.as_ref(), limit)).await
    }

    async fn cancel(&self, id: JobId, grace: Duration) -> Result<Cancelled, Error> {
        self.writer.call(move |tables| tables.cancel(id, grace)).await
    }

    async fn discard(&self, id: JobId) -> Result<Discarded, Error> {
        self.writer.call(move |tables| tables.discard(id)).await
    }

    async fn edit(&self, id: JobId, edit: Edit) -> Result<Changed, Error> {
        self.writer.call(move |tables| tables.edit(id, edit)).await
    }

    async fn put_schedule(
        &self,
        name: ScheduleName,
        spec: ScheduleSpec,
    ) -> Result<PutSchedule, Error> {
        self.writer.call(move |tables| tables.put_schedule(name, spec)).await
    }

    async fn schedules(&self, which: SchedulesWanted) -> Result<Vec<Schedule>, Error> {
        self.writer.call(move |tables| tables.list_schedules(&which)).await
    }

    async fn delete_schedule(&self, name: ScheduleName) -> Result<bool, Error> {
        self.writer.call(move |tables| tables.delete_schedule(&name)).await
    }

    async fn pause_schedule(&self, name: ScheduleName, pausing: Pausing) -> Result<bool, Error> {
        self.writer.call(move |tables| tables.pause_schedule(name, pausing)).await
    }

    async fn run_schedule(&self, name: ScheduleName) -> Result<Option<Pushed>, Error> {
        self.writer.call(move |tables| tables.run_schedule(name)).await
    }

    async fn fires(&self, name: ScheduleName, limit: usize) -> Result<Option<Vec<Fire>>, Error> {
        self.writer.call(move |tables| tables.fires(&name, limit)).await
    }

    async fn set_settings(&self, queue: QueueName, settings: Settings) -> Result<(), Error> {
        self.writer.call(move |tables| tables.set_settings(&queue, settings)).await
    }

    async fn encrypted_queues(&self) -> Result<Vec<QueueName>, Error> {
        self.writer.call(|tables| Ok(tables.encrypted_queues())).await
    }

    async fn queues_of(&self, jobs: Vec<JobId>) -> Result<Vec<Option<QueueName>>, Error> {
        self.writer.call(move |tables| tables.queues_of(&jobs)).await
    }

    async fn key_uses(&self, queue: QueueName) -> Result<Vec<KeyUse>, Error> {
        self.writer.call(move |tables| tables.key_uses(&queue)).await
    }

    async fn promote(&self, id: JobId) -> Result<Changed, Error> {
        self.writer.call(move |tables| tables.promote(id)).await
    }

    async fn watch(&self, queue: Option<QueueName>, hold: Duration) -> Result<Watching, Error> {
        self.writer.call(move |tables| tables.watch_queue(queue.as_ref(), hold)).await
    }

    async fn put_webhook(
        &self,
        name: WebhookName,
        spec: WebhookSpec,
        secret: Option<Secret>,
    ) -> Result<PutWebhook, Error> {
        self.writer.call(move |tables| tables.put_webhook(name, spec, secret)).await
    }

    async fn webhooks(&self) -> Result<Vec<Webhook>, Error> {
        self.writer.call(|tables| tables.webhooks()).await
    }

    async fn delete_webhook(&self, name: WebhookName) -> Result<bool, Error> {
        self.writer.call(move |tables| tables.delete_webhook(&name)).await
    }

    async fn advance_webhook(&self, name: WebhookName, seen: EventId) -> Result<(), Error> {
        self.writer.call(move |tables| tables.advance_webhook(&name, seen)).await
    }

    async fn event_head(&self) -> Result<EventId, Error> {
        Ok(self.last_event.load(Ordering::Acquire))
    }

    async fn events(&self, wanted: EventsWanted) -> Result<EventPage, Error> {
        self.writer.call(move |tables| tables.events(&wanted)).await
    }

    async fn kv_set(&self, entries: Vec<KvEntry>) -> Result<(), Error> {
        self.writer.call(move |tables| tables.kv_set(&entries)).await
    }

    async fn kv_get(
        &self,
        keys: Vec<KvKey>,
        bytes_max: usize,
    ) -> Result<Option<Vec<Option<KvValue>>>, Error> {
        self.writer.call(move |tables| tables.kv_get(&keys, bytes_max)).await
    }

    async fn kv_delete(&self, key: KvKey) -> Result<bool, Error> {
        self.writer.call(move |tables| tables.kv_delete(&key)).await
    }

    async fn kv_expire(&self, key: KvKey, ttl: Duration) -> Result<bool, Error> {
        self.writer.call(move |tables| tables.kv_expire(&key, ttl)).await
    }

    async fn kv_keys(&self, pattern: KvPattern) -> Result<Vec<KvKey>, Error> {
        let now = self.writer.call(|tables| Ok(tables.now)).await?;
        self.read(move |conn| kv::keys(conn, &pattern, now)).await
    }

    async fn kv_add(&self, key: KvKey, by: i64) -> Result<KvAdd, Error> {
        self.writer.call(move |tables| tables.kv_add(&key, by)).await
    }

    async fn check(&self) -> Result<(), Error> {
        let touch = |tables: &mut Tables| {
            let sql = "UPDATE meta SET value = value WHERE key = 'next_number'";
            tables.execute(sql, [])
        };
        self.writer.call(touch).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::job::{Payload, WorkerName};
    use crate::store::Hold;

    fn open(dir: &Path) -> Result<SqliteStore, OpenError> {
        SqliteStore::open(Options {
            dir: dir.to_owned(),
            node: "n".into(),
            clock: ManualClock::new(),
            retention: Retention::default(),
        })
    }

    fn job() -> NewJob {
        let payload = Payload::new(bytes::Bytes::from_static(b"{}")).unwrap();
        NewJob::new(QueueName::parse("q").unwrap(), payload)
    }

    fn claim() -> Claim {
        Claim {
            queue: QueueName::parse("q").unwrap(),
            count: 10,
            enough: 10,
            bytes_max: usize::MAX,
            worker: WorkerName::parse("w").unwrap(),
            hold: Hold::Time(Duration::from_secs(1)),
        }
    }

    #[tokio::test]
    async fn a_call_that_fails_undoes_all_of_its_transaction_and_the_store_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).unwrap();
        store.push(vec![job()]).await.unwrap();
        let half_done = |tables: &mut Tables| {
            tables.push(vec![job()])?;
            tables.claim(vec![claim()])?;
            tables.execute("INSERT INTO nowhere VALUES (1)", [])
        };
        let failed = store.writer.call(half_done).await;
        assert!(matches!(failed, Err(Error::Unavailable(_))), "{failed:?}");
        let panicking = |_: &mut Tables| -> rusqlite::Result<()> { panic!("a bug") };
        assert!(matches!(store.writer.call(panicking).await, Err(Error::Unavailable(_))));
        let queue = &store.queues(None).await.unwrap()[0];
        assert_eq!((queue.counts.ready, queue.counts.leased), (1, 0));
        assert_eq!(store.claim(vec![claim()]).await.unwrap().jobs[0].len(), 1);
    }

    #[test]
    fn one_process_at_a_time_has_the_files() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path()).unwrap();
        assert!(matches!(open(dir.path()), Err(OpenError::InUse { .. })));
        drop(first);
        assert!(open(dir.path()).is_ok());
    }

    #[tokio::test]
    async fn jobs_in_the_tables_of_an_earlier_version_are_where_they_were() {
        let dir = tempfile::tempdir().unwrap();
        let conn = Connection::open(dir.path().join("batonq.db")).unwrap();
        for migration in &MIGRATIONS[..6] {
            conn.execute_batch(migration).unwrap();
        }
        conn.execute_batch(
            "INSERT INTO meta VALUES ('next_number', 9), ('lease_key', zeroblob(16));
             INSERT INTO queue (id, name) VALUES (1, 'q');
             INSERT INTO job (id, queue_id, priority, place, created_at, max_attempts, attempts,
                 delivery, crashes, payload)
             VALUES (3, 1, 0, 3, 0, 1, 0, 1, 0, x'7b7d'), (4, 1, 0, 4, 0, 1, 0, 1, 0, x'7b7d');
             INSERT INTO ready VALUES (1, '', 0, 3, 3, 0), (1, '', 0, 4, 4, 0);
             INSERT INTO finished (id, queue_id, state, priority, created_at, finished_at,
                 max_attempts, attempts, deliveries, crashes, payload)
             VALUES (1, 1, 'completed', 0, 0, 0, 1, 0, 1, 0, x'7b7d');
             PRAGMA user_version = 6",
        )
        .unwrap();
        drop(conn);
        let store = open(dir.path()).unwrap();
        let queue = &store.queues(None).await.unwrap()[0];
        assert_eq!((queue.counts.ready, queue.counts.completed), (2, 1));
        let claimed = store.claim(vec![claim()]).await.unwrap().jobs;
        assert_eq!(claimed[0].iter().map(|job| job.lease.job.0).collect::<Vec<_>>(), [3, 4]);
        store.run_duty(&Term::SOLE, Duty::Retention).await.unwrap();
        assert_eq!(store.job(JobId(1)).await.unwrap(), None);
    }

    #[test]
    fn tables_of_another_version_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path()).unwrap());
        let conn = Connection::open(dir.path().join("batonq.db")).unwrap();
        conn.pragma_update(None, "user_version", SCHEMA_VERSION + 1).unwrap();
        drop(conn);
        assert!(matches!(open(dir.path()), Err(OpenError::Version { .. })));
    }

    #[tokio::test]
    async fn every_commit_is_synced() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).unwrap();
        let pragma = |name: &'static str| {
            store.writer.call(move |tables| {
                tables
                    .conn
                    .pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0))
            })
        };
        assert_eq!(pragma("journal_mode").await.unwrap(), "wal".to_owned().into());
        assert_eq!(pragma("synchronous").await.unwrap(), 2_i64.into(), "2 is FULL");
    }
}
