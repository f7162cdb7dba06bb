//! What clients may ask for. The same on every node, whatever the transport.
//!
//! A request goes straight down: a transport decodes it and calls one method here; the method
//! hands it to a committer, which stores it together with what others ask for at the same moment;
//! when that is durable, the bells ring for those who wait and the answer goes back up.
//!
//! * [`push`](Broker::push) and [`settle`](Broker::settle) are committed in batches that form by
//!   themselves ([`crate::group_commit`]); so are claims.
//! * [`pull`](Broker::pull) waits for a bell, not for a clock: waiting pulls cost nothing.
//! * [`subscribe`](Broker::subscribe) is a pull that goes on as long as its worker has credit.
//! * What belongs to encrypted queues is sealed on its way down and opened on its way up;
//!   `sealing.rs` tells from when on.
//! * Leases hang on sessions; `sessions.rs` tells when they end.

mod alarms;
mod bells;
mod bulk;
mod events;
mod gates;
mod health;
mod kv;
mod lately;
mod logs;
mod people;
mod pull;
mod push;
mod schedules;
mod sealing;
mod sessions;
mod settle;
mod shown;
mod subscription;
mod tally;
mod upkeep;
mod waiters;
mod webhooks;
mod worker_notes;

pub(crate) use alarms::Alarms;
pub use bulk::{BulkAction, BulkDone, BulkFilter, BulkRequest, reason_in, state_in};
pub use events::{EventFilter, Listener, Told};
pub use health::{Condition, Health};
pub use pull::Pull;
pub use sessions::{Attendance, Notice, Patience, Visitor, Worker};
pub use shown::ShownEvent;
pub use subscription::{Delivery, Subscription};
pub use tally::Done;
pub(crate) use webhooks::{Draft, Letter, Outcome};
pub use worker_notes::{WORKER_NOTE_KEPT, WorkerNote};

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::cluster::Demand;
use crate::error::Error;
use crate::group_commit::{Budget, Committer};
use crate::job::{JobId, Lease, LeaseKey, NewJob, QueueName};
use crate::leader::Term;
use crate::limits;
use crate::metrics::Metrics;
use crate::secrets::Keyring;
use crate::store::events::is_internal;
use crate::store::{
    Claim, Destination, Duty, Effect, Pushed, SessionId, Settled, Settlement, Signal, Store,
};

/// The broker of a node. Cheap to clone: all clones are one.
#[derive(Clone, Debug)]
pub struct Broker(Arc<Parts>);

struct Parts {
    core: Arc<Core>,
    pushes: Committer<NewJob, Pushed>,
    claims: Committer<Claim, pull::Given>,
    settles: Committer<Settlement, Settled>,
}

/// What the committers share with the broker.
struct Core {
    store: Arc<dyn Store>,
    /// For answers and alarms only; what is due is the store's to say.
    clock: Arc<dyn Clock>,
    waiters: waiters::Waiters,
    ending_bells: bells::Bells<JobId>,
    gates: gates::Gates,
    demand: Demand,
    /// For what waits to be stored.
    budget: Budget,
    /// Permits to note who was refused.
    refusals: Arc<Semaphore>,
    alarms: Alarms,
    listening: events::Listening,
    /// Somebody has changed a webhook here.
    webhooks_changed: Notify,
    sessions: sessions::Sessions,
    metrics: Metrics,
    health: health::Monitor,
    lately: lately::Lately,
    tally: tally::Tally,
    sealing: sealing::Sealing,
    draining: CancellationToken,
    started: Instant,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").finish_non_exhaustive()
    }
}

/// A loop of the broker. It must run as long as the broker is used.
pub type Loop = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Broker {
    /// A broker on a store, and the loops that do its work. They end when all clones are dropped,
    /// or, those that go by the clock, when `stop` is cancelled. `demand` learns who pulls what.
    pub fn new(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        patience: Patience,
        demand: Demand,
        keys: Keyring,
        stop: &CancellationToken,
    ) -> (Self, Vec<(&'static str, Loop)>) {
        let unopened = store.lease_key().err().map(|error| error.to_string());
        let budget = Budget::new(limits::BYTES_IN_FLIGHT_MAX);
        let core = Arc::new(Core {
            store,
            clock,
            waiters: waiters::Waiters::default(),
            ending_bells: bells::Bells::default(),
            gates: gates::Gates::default(),
            demand,
            budget: budget.clone(),
            refusals: Arc::new(Semaphore::new(limits::REFUSALS_NOTED_MAX)),
            alarms: Alarms::default(),
            listening: events::Listening::default(),
            webhooks_changed: Notify::new(),
            sessions: sessions::Sessions::new(patience),
            metrics: Metrics::default(),
            health: health::Monitor::new(unopened),
            lately: lately::Lately::default(),
            tally: tally::Tally::default(),
            sealing: sealing::Sealing::new(keys),
            draining: CancellationToken::new(),
            started: Instant::now(),
        });
        let (pushes, push_loop) = push::committer(&core, budget.clone());
        let (settles, settle_loop) = settle::committer(&core, budget.clone());
        let (claims, claim_loop) = pull::committer(&core, budget);
        let loops = vec![
            ("push", push_loop),
            ("settle", settle_loop),
            ("claim", claim_loop),
            ("sessions", upkeep::sessions(Arc::clone(&core), stop.clone())),
            ("renewal", upkeep::renewal(Arc::clone(&core), stop.clone())),
            ("health", upkeep::health(Arc::clone(&core), stop.clone())),
            ("gates", upkeep::gates(Arc::clone(&core), stop.clone())),
            ("events", events::follow(Arc::clone(&core), stop.clone())),
            ("poll", upkeep::poll(Arc::clone(&core), stop.clone())),
            ("look", upkeep::look(Arc::clone(&core), stop.clone())),
            ("tally", tally::share(Arc::clone(&core), stop.clone())),
        ];
        (Self(Arc::new(Parts { core, pushes, claims, settles })), loops)
    }

    /// The node's metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.0.core.metrics
    }

    /// How long silence and absence of clients are borne.
    pub fn patience(&self) -> Patience {
        self.0.core.sessions.patience()
    }

    pub(crate) fn alarms(&self) -> &Alarms {
        &self.0.core.alarms
    }

    /// The queues that are pulled from through this node.
    pub(crate) fn demand(&self) -> &Demand {
        &self.0.core.demand
    }

    fn store(&self) -> &dyn Store {
        &*self.0.core.store
    }

    /// The token that a worker presents for a lease.
    pub fn lease_token(&self, lease: Lease) -> [u8; LeaseKey::TOKEN_BYTES] {
        let key = self.store().lease_key().expect("it was leased from this store, which is open");
        key.token(lease)
    }

    /// The lease of a token.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if no node of this cluster has made it; [`Error::Unavailable`] if that
    /// can not be told yet.
    pub fn open_lease(&self, token: &[u8]) -> Result<Lease, Error> {
        let key = self.store().lease_key()?;
        key.open(token)
            .ok_or_else(|| Error::invalid("lease", "is not a lease token of this broker"))
    }

    /// Connects a worker, with its old session if `resume` names one that is still known here or
    /// still has leases in the store. The leases it goes on to hold are in the answer.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub async fn open_session(
        &self,
        visitor: Visitor,
        resume: Option<SessionId>,
    ) -> Result<(Attendance, Option<Vec<Lease>>), Error> {
        let core = &self.0.core;
        if core.sealing.knows_nothing() {
            // For a subscription, which can not ask. What else is asked for asks again.
            core.encrypted().await.ok();
        }
        if let Some(id) = resume {
            let leases = core.store.adopt(id).await?;
            if core.sessions.knows(id) || !leases.is_empty() {
                return Ok((core.sessions.open(id, visitor, core.clock.now()), Some(leases)));
            }
        }
        // Below 2^63: not every client has unsigned numbers.
        let id = SessionId(rand::random::<u64>() >> 1 | 1);
        Ok((core.sessions.open(id, visitor, core.clock.now()), None))
    }

    /// Does a part of a duty, and rings for what it changed. The answer: when to come back.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub(crate) async fn run_duty(
        &self,
        term: &Term,
        duty: Duty,
    ) -> Result<Option<std::time::Duration>, Error> {
        let core = &self.0.core;
        let report = core.store.run_duty(term, duty).await?;
        core.announce(&report.effects);
        core.tell_lost(report.lost);
        core.metrics.duty_done(duty, core.clock.now().0 / 1000);
        Ok(report.next)
    }

    /// Has the store tidy up its tables.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub(crate) async fn tidy_tables(&self) -> Result<(), Error> {
        self.store().tidy_tables().await
    }

    /// Wakes duties for what other nodes have left them to do.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub(crate) async fn look_ahead(&self) -> Result<(), Error> {
        for (duty, delay) in self.store().outlook().await? {
            self.alarms().of(duty).set(delay);
        }
        Ok(())
    }

    /// Passes on what another node has told.
    pub(crate) fn hear(&self, signal: Signal) {
        let core = &self.0.core;
        match signal {
            Signal::Ready(queue, count) => core.waiters.ring_told(&queue, count),
            Signal::Opened(queue, count) => core.waiters.hint(&queue, count),
            Signal::Interrupted => core.health.look(),
            Signal::Due(at) => core.alarms.of(Duty::Due).set(at.since(core.clock.now())),
            Signal::Lost(session, lease) => core.tell_lost(vec![(session, lease)]),
            Signal::Cancelled(session, lease) => core.tell_cancelled(session, lease),
            Signal::Ended(job) => core.ending_bells.ring_all(&job),
        }
    }

    /// Stops giving out jobs and says so to everybody: clients go elsewhere, with their leases.
    pub fn drain(&self) {
        let core = &self.0.core;
        core.draining.cancel();
        core.sessions.tell_all(&Notice::GoAway);
        core.waiters.hint_everywhere();
        core.ending_bells.ring_everywhere();
    }

    /// Waits until the node gives out nothing more.
    pub async fn draining(&self) {
        self.0.core.draining.cancelled().await;
    }

    /// # Errors
    ///
    /// [`Error::Invalid`] for a queue that is batonq's own: clients neither push to it nor pull
    /// from it.
    pub fn check_public(queue: &QueueName) -> Result<(), Error> {
        match is_internal(queue) {
            true => Err(Error::invalid("queue", "names that begin with batonq. are batonq's own")),
            false => Ok(()),
        }
    }

    fn is_draining(&self) -> bool {
        self.0.core.draining.is_cancelled()
    }
}

impl Core {
    /// Wakes those who wait for what has happened.
    fn announce<'a>(&self, effects: impl IntoIterator<Item = &'a Effect>) {
        let mut run: Option<(&QueueName, usize)> = None;
        for effect in effects {
            match effect.to {
                Destination::Ready => match &mut run {
                    Some((queue, count)) if **queue == effect.queue => *count += 1,
                    _ => {
                        self.ring(run.take());
                        run = Some((&effect.queue, 1));
                    }
                },
                Destination::Scheduled(at) => {
                    self.alarms.of(Duty::Due).set(at.since(self.clock.now()));
                }
                Destination::Blocked => {}
                Destination::Finished(_) => self.ending_bells.ring_all(&effect.job),
            }
            // It may have been leased until now.
            if effect.to != Destination::Ready && self.gates.is_known(&effect.queue) {
                self.waiters.hint(&effect.queue, 1);
            }
        }
        self.ring(run);
    }

    fn ring(&self, run: Option<(&QueueName, usize)>) {
        if let Some((queue, count)) = run {
            self.waiters.ring(queue, count);
        }
    }

    /// Tells a worker that somebody asks for the end of its job.
    fn tell_cancelled(&self, session: SessionId, lease: Lease) {
        self.sessions.tell(session, Notice::CancelRequested(vec![lease]));
    }

    /// Tells workers of leases that were taken from them.
    fn tell_lost(&self, lost: Vec<(SessionId, Lease)>) {
        for (session, lease) in lost {
            self.sessions.tell(session, Notice::LeasesLost(vec![lease]));
        }
    }
}
