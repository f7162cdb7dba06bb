//! What a run asks of a broker: clients that push, pull and settle in all ways there are, also the
//! wrong ones.
//!
//! ```text
//!   Load::start      queues with their settings, a schedule, clients
//!        │             producers        batches, single jobs, flows; the same push again until it
//!        │                              is answered (produce.rs)
//!        │             workers          subscriptions, pulls, timed leases; acks, fails, rejects,
//!        │                              releases, twice, late, through other nodes (work.rs)
//!        │             vanishing ones   connections that are cut, clients that freeze (vanish.rs)
//!        │             meddlers         cancels, pauses, old leases (meddle.rs)
//!   Load::produced   how far it is
//!   Load::serve      no more faults: everybody is served again
//!   Load::finish     nothing more is pushed, the schedule rests, queues drain
//!   ending::gather   what the database holds now becomes records too
//!   Load::clear      the run leaves nothing that grows
//! ```
//!
//! Each answer becomes a [`crate::history::Call`] (caller.rs). What is between a call and its answer
//! is a `way`: either transport, the same questions. What jobs are like is decided by their keys
//! and the profile's seed alone (jobs.rs). Queues have names that begin with the run's own, so that
//! a cluster with other work can be verified.

mod answer;
mod caller;
mod http;
mod jobs;
mod meddle;
mod produce;
mod profile;
mod run;
mod vanish;
mod way;
mod work;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use batonq_client::{Client, NewJob, Schedule};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::database::DatabaseClock;
use crate::ending;
use crate::history::Record;
use crate::record::Recorder;
use caller::Caller;
use run::{Window, queue_name};
use vanish::{Manner, vanish};

pub use jobs::{QUEUES, QueueKind};
pub use profile::{Behaviour, Profile};
pub use run::Run;
pub use way::SESSION_LEASE;
pub(crate) use way::key_of;

/// Where to call.
#[derive(Debug, Clone, Default)]
pub struct Targets {
    /// The nodes; the first one is node 1.
    pub nodes: Vec<Target>,
    /// What stands before all of them, if anything does.
    pub balancer: Option<Target>,
    /// Who the clients are; `None`: nobody asks.
    pub token: Option<String>,
    /// The URL of the nodes' Postgres, to read the final facts from. `None`: they are asked for
    /// them.
    pub database: Option<String>,
    /// The schema of the nodes' tables there.
    pub schema: String,
}

/// One address of each transport.
#[derive(Debug, Clone)]
pub struct Target {
    /// Of the binary protocol, as `host:port`.
    pub tcp: String,
    /// Of HTTP, as `host:port`.
    pub http: Option<String>,
}

/// Why a load could not begin, or its end not be seen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No node did what is needed to begin.
    #[error("{what}: {detail}")]
    Asked {
        /// What was asked.
        what: &'static str,
        /// What came of it.
        detail: String,
    },
    /// The database did not say what it holds.
    #[error("database: {0}")]
    Database(#[from] tokio_postgres::Error),
    /// The database holds what no run can have put there.
    #[error("the database holds {0}")]
    Unexpected(String),
}

/// How a run came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finish {
    /// When the last fault was healed, on the clock of the calls.
    pub healed_ns: u64,
    /// When each client had been served again; 0: not in time.
    pub served_ns: u64,
    /// When nothing was left to do; 0: not in time.
    pub drained_ns: u64,
}

impl Error {
    pub(crate) fn asked(what: &'static str, detail: &impl std::fmt::Display) -> Self {
        Self::Asked { what, detail: detail.to_string() }
    }
}

/// Between two looks at the same thing.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Between two looks at all queues.
const COUNT_EVERY: Duration = Duration::from_millis(250);
/// How long workers may take to leave in good order.
const LEAVE_MAX: Duration = Duration::from_secs(10);
/// How long the first connection to each address may take.
const FIRST_MAX: Duration = Duration::from_secs(10);
/// Between two slots of the schedule.
pub(crate) const SLOT_MS: i64 = 1000;
/// Slots that may be made up for after a time without a leader.
const CATCH_UP: (u32, Duration) = (1000, Duration::from_secs(24 * 3600));

/// A run that goes on. Dropped, it stops where it is.
#[derive(Debug)]
pub struct Load {
    run: Arc<Run>,
    /// Asks what clients do not ask; goes to whoever is there.
    admin: Client,
    producers: JoinSet<()>,
    meddlers: JoinSet<()>,
    workers: JoinSet<()>,
    vanishing: Vec<JoinHandle<()>>,
    /// When each client had been served after the last fault, once that is so.
    served_ns: u64,
}

impl Load {
    /// Sets the queues up, and sends the clients.
    ///
    /// # Cancel safety
    ///
    /// Queues and the schedule may stay behind; clients do not.
    ///
    /// # Errors
    ///
    /// If what is needed can not be set up.
    pub async fn start(
        targets: Targets,
        profile: Profile,
        recorder: Recorder,
    ) -> Result<Self, Error> {
        let admin = connect(&targets).await?;
        let prefix = format!("verify-{:08x}", rand::random::<u32>());
        set_up_queues(&admin, &prefix, &recorder).await?;
        let schedule = match profile.has_schedule {
            true => Some(set_up_schedule(&admin, &prefix).await?),
            false => None,
        };
        let clock =
            DatabaseClock::read(&targets, &recorder, (&admin, &clock_queue(&prefix))).await?;
        let run = Arc::new(Run::new(targets, profile, recorder, (prefix, clock, schedule)));
        fill_pool(&run).await?;
        let mut load = Self {
            run,
            admin,
            producers: JoinSet::new(),
            meddlers: JoinSet::new(),
            workers: JoinSet::new(),
            vanishing: Vec::new(),
            served_ns: 0,
        };
        load.send_clients();
        Ok(load)
    }

    fn send_clients(&mut self) {
        let run = &self.run;
        let profile = &run.profile;
        for number in 0..profile.subscribers {
            self.workers.spawn(work::subscribe(Arc::clone(run), number));
        }
        for number in 0..profile.pullers {
            self.workers.spawn(work::pull(Arc::clone(run), number));
        }
        for number in 0..profile.producers {
            self.producers.spawn(produce::produce(Arc::clone(run), number));
        }
        if profile.cancel_every_ms > 0 {
            self.meddlers.spawn(meddle::cancel(Arc::clone(run)));
        }
        if profile.pause_every_ms > 0 {
            self.meddlers.spawn(meddle::pause(Arc::clone(run)));
        }
        self.workers.spawn(meddle::come_late(Arc::clone(run)));
        let crashers = (0..profile.crashers).map(|number| (number, Manner::Crash));
        let freezers = (0..profile.freezers).map(|number| (number, Manner::Freeze));
        let vanish = |(number, manner)| vanish(run, number, manner);
        self.vanishing = crashers.chain(freezers).filter_map(vanish).collect();
    }

    /// The run, for its names and for [`ending::gather`].
    pub fn run(&self) -> &Arc<Run> {
        &self.run
    }

    pub(crate) fn admin(&self) -> &Client {
        &self.admin
    }

    pub(crate) fn schedule_name(&self) -> String {
        schedule_name(self.run.prefix())
    }

    pub(crate) fn clock_queue(&self) -> String {
        clock_queue(self.run.prefix())
    }

    /// The time of the run, in nanoseconds.
    pub fn now_ns(&self) -> u64 {
        self.run.recorder.now_ns()
    }

    /// How many jobs have been pushed, or given up.
    pub fn produced(&self) -> u64 {
        self.run.produced()
    }

    /// After the last fault: sees that everybody is served again, within `within`. Others go on
    /// meanwhile.
    ///
    /// # Cancel safety
    ///
    /// It may be called again.
    pub async fn serve(&mut self, within: Duration) {
        let served = timeout_at(Instant::now() + within, serve_all(&self.run));
        self.served_ns = served.await.unwrap_or(0);
    }

    /// Waits until all jobs of the profile have been pushed.
    ///
    /// # Cancel safety
    ///
    /// It may be waited for again.
    pub async fn all_produced(&mut self) {
        while self.producers.join_next().await.is_some() {}
    }

    /// Ends the run, after the last fault was healed at `healed_ns`: pushes no more, sees that
    /// everybody is served again if nobody has ([`Load::serve`]), lets the schedule rest, waits
    /// until nothing is left to do, and sends the workers home. All of it within `within`.
    ///
    /// # Cancel safety
    ///
    /// What has ended stays so; it may be called again.
    pub async fn finish(&mut self, healed_ns: u64, within: Duration) -> Finish {
        let until = Instant::now() + within;
        self.run.quiet.cancel();
        let (run, is_served) = (Arc::clone(&self.run), self.served_ns != 0);
        let (served_ns, _) = tokio::join!(
            timeout_at(until, async { if is_served { 0 } else { serve_all(&run).await } }),
            timeout_at(until, async {
                while self.producers.join_next().await.is_some() {}
                while self.meddlers.join_next().await.is_some() {}
                while self.vanishing.iter().any(|thread| !thread.is_finished()) {
                    sleep(LOOK_EVERY).await;
                }
            })
        );
        let drained_ns = timeout_at(until, async {
            self.rest().await;
            self.drained().await
        });
        let served_ns = self.served_ns.max(served_ns.unwrap_or(0));
        let drained_ns = drained_ns.await.unwrap_or(0);
        self.run.over.cancel();
        let leaving = async { while self.workers.join_next().await.is_some() {} };
        // Whoever is late is cut off.
        timeout_at(Instant::now() + LEAVE_MAX, leaving).await.ok();
        self.workers.abort_all();
        Finish { healed_ns, served_ns, drained_ns }
    }

    /// Lets the schedule rest once all slots up to now have been fired.
    async fn rest(&self) {
        let Some(window) = &self.run.schedule else { return };
        let name = schedule_name(self.run.prefix());
        let to_ms = match *window.to_ms.lock() {
            0 => self.run.database_now_ms() / SLOT_MS * SLOT_MS,
            known => known,
        };
        *window.to_ms.lock() = to_ms;
        loop {
            let next_ms = self.admin.schedule(&name).await.map(|it| it.next_at_ms.unwrap_or(0));
            if next_ms.is_ok_and(|next_ms| next_ms > to_ms)
                && self.admin.pause_schedule(&name).await.is_ok()
            {
                return;
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// When nothing was left to do.
    async fn drained(&self) -> u64 {
        loop {
            let next = Instant::now() + COUNT_EVERY;
            if ending::is_drained(&self.run, &self.admin).await.is_ok_and(|is_drained| is_drained) {
                return self.run.recorder.now_ns();
            }
            sleep_until(next).await;
        }
    }

    /// Leaves nothing behind that grows: the schedule goes, and the run's jobs soon will. Not
    /// before [`ending::gather`].
    ///
    /// # Errors
    ///
    /// If nobody does it.
    pub async fn clear(&self) -> Result<(), Error> {
        if self.run.schedule.is_some() {
            let deleted = self.admin.delete_schedule(schedule_name(self.run.prefix())).await;
            deleted.map_err(|error| Error::asked("delete the schedule", &error))?;
        }
        let settings = serde_json::json!({ "keep_completed_ms": 0, "keep_dead_ms": 0 });
        for queue in self.run.queues() {
            let set = self.admin.set_settings(queue, &settings).await;
            set.map_err(|error| Error::asked("set the settings", &error))?;
        }
        Ok(())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // Threads look at these; tasks end with their sets.
        self.run.quiet.cancel();
        self.run.over.cancel();
    }
}

async fn connect(targets: &Targets) -> Result<Client, Error> {
    let mut config =
        Client::builder().url(&targets.url()).program("batonq verify").on_this_runtime();
    if let Some(token) = &targets.token {
        config = config.token(token);
    }
    config.connect().await.map_err(|error| Error::asked("connect", &error))
}

fn schedule_name(prefix: &str) -> String {
    format!("{prefix}.each-second")
}

/// Where a job is pushed to read the clock by, if the database itself can not be asked.
fn clock_queue(prefix: &str) -> String {
    format!("{prefix}.clock")
}

async fn set_up_queues(admin: &Client, prefix: &str, recorder: &Recorder) -> Result<(), Error> {
    for kind in QUEUES {
        let set = admin.set_settings(queue_name(prefix, kind), &kind.settings()).await;
        set.map_err(|error| Error::asked("set the settings", &error))?;
    }
    let rules = QUEUES.iter().filter_map(|kind| kind.rule());
    recorder.record_all(rules.map(Record::Rule).collect());
    Ok(())
}

async fn set_up_schedule(admin: &Client, prefix: &str) -> Result<Window, Error> {
    let name = schedule_name(prefix);
    // No job of a producer has this key.
    let job = NewJob::new(queue_name(prefix, QueueKind::Cron), "0");
    let schedule = Schedule::new(&name, "* * * * * *", job).catch_up_all(CATCH_UP.0, CATCH_UP.1);
    let asked = |error| Error::asked("make the schedule", &error);
    admin.put_schedule(schedule).await.map_err(asked)?;
    let from_ms = admin.schedule(&name).await.map_err(asked)?.next_at_ms.unwrap_or(0);
    Ok(Window { from_ms, to_ms: Mutex::new(0) })
}

/// Connects a client to each address, which stays to the end.
async fn fill_pool(run: &Run) -> Result<(), Error> {
    let until = Instant::now() + FIRST_MAX;
    let mut pool = Vec::new();
    for place in run.places(false).into_iter().chain(run.places(true)) {
        let caller = timeout_at(until, Caller::at_last(run, &place, "stayer")).await;
        let caller = caller.map_err(|_| Error::asked("connect", &format!("{place:?}")))?;
        pool.push(Arc::new(caller));
    }
    run.pool.get_or_init(|| pool);
    Ok(())
}

/// Sees that everybody is served: each address over each transport answers and takes a job, by
/// clients that have seen all that happened. When the last of them was.
async fn serve_all(run: &Arc<Run>) -> u64 {
    let mut all = JoinSet::new();
    for caller in run.pool.get().into_iter().flatten() {
        let (run, caller) = (Arc::clone(run), Arc::clone(caller));
        all.spawn(async move {
            while caller.look().await.is_err() {
                sleep(LOOK_EVERY).await;
            }
            produce::push_one(&run, &caller).await;
        });
    }
    while all.join_next().await.is_some() {}
    run.recorder.now_ns()
}
