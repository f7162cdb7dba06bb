//! A node: everything wired together. The one place that names a store.
//!
//! ```text
//!   embedded:  SQLite, leads itself, a cluster of one
//!   shared:    database ──▶ presence ──▶ election        (each waits for the one before)
//!              reached,     registered,  stands for
//!              tables fit   store open   leader
//! ```
//!
//! A node on a shared store listens before its database is reached: it lives, is not ready, says
//! why, and answers what it is asked with `UNAVAILABLE`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::broker::{Broker, Loop};
use crate::clock::{Clock, DatabaseClock, SystemClock};
use crate::cluster::{Card, Demand, Leave, Registry, Requests};
use crate::config::{Config, SharedConfig, StoreConfig};
use crate::door::{Door, build, version};
use crate::duties::{Chore, Frame, Watchdog};
use crate::leader::Leadership;
use crate::mutants::Mutant;
use crate::store::postgres::{self, Election, Identity, PostgresStore, Presence};
use crate::store::sqlite::{OpenError, Options, SqliteStore};
use crate::store::{Alone, Duty, Retention, Signal, Store};
use crate::webhooks::Courier;
use crate::{flashq, http, limits, mutants, tcp};

/// A running node. To be [stopped](Node::stop); dropping it cuts everything off.
#[derive(Debug)]
pub struct Node {
    tcp_address: SocketAddr,
    http_address: Option<SocketAddr>,
    door: Door,
    /// What must run for the node to be of use. Each answers why it has ended.
    loops: JoinSet<String>,
    phases: Phases,
    requests: Requests,
    drain_timeout: Duration,
}

/// How far a node is on its way out. Each is cancelled when its time has come.
#[derive(Debug, Clone, Default)]
struct Phases {
    /// It leads no more, gives out nothing more, and is about to leave.
    leaving: CancellationToken,
    /// The loops end.
    loops: CancellationToken,
    /// It has left.
    gone: CancellationToken,
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store can not be used.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// An address can not be listened on.
    #[error("{setting}: {address} can not be listened on: {error}")]
    Listen {
        /// The setting of the port.
        setting: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        error: std::io::Error,
    },
}

/// What depends on the kind of store.
struct Ground {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    registry: Arc<dyn Registry>,
    leadership: Leadership,
    /// What else must run. Each answers why it has ended.
    loops: Vec<std::pin::Pin<Box<dyn Future<Output = String> + Send>>>,
    /// What other nodes tell.
    signals: Option<mpsc::UnboundedReceiver<Signal>>,
}

impl Node {
    /// Listens, serves, and gets hold of the store.
    ///
    /// # Errors
    ///
    /// See [`StartError`]; then nothing runs. A shared store that can not be used is waited for,
    /// or told by [`Node::failed`].
    pub async fn start(config: Config) -> Result<Self, StartError> {
        #[cfg(feature = "mutants")]
        mutants::choose(config.mutant);
        let listener = listen(&config, "PORT", config.port).await?;
        let http_listener = match config.http_port {
            Some(port) => Some(listen(&config, "HTTP_PORT", port).await?),
            None => None,
        };
        let address = |listener: &TcpListener| listener.local_addr().expect("it is bound");
        let (tcp_address, http_address) = (address(&listener), http_listener.as_ref().map(address));
        let card = card(&config, tcp_address, http_address);
        let (phases, requests, demand) =
            (Phases::default(), Requests::default(), Demand::default());
        let store = match config.store {
            StoreConfig::Embedded(_) => "sqlite",
            StoreConfig::Shared(_) => "postgres",
        };
        let ground = match config.store {
            StoreConfig::Embedded(dir) => embedded(dir, &card, config.retention, &requests).await?,
            StoreConfig::Shared(shared) => {
                self::shared(*shared, &card, config.retention, (&requests, &demand), &phases)
            }
        };
        let key = config.keys.newest().map(|key| key.to_string());
        let (broker, broker_loops) = Broker::new(
            ground.store,
            ground.clock,
            config.patience,
            demand,
            config.keys,
            &phases.loops,
        );
        let door = Door {
            broker: broker.clone(),
            access: Arc::new(config.access),
            card: Arc::new(card),
            registry: ground.registry,
            leadership: ground.leadership,
            reach: config.reach,
            origins: Arc::new(config.origins),
            store,
            connections: Arc::new(Semaphore::new(limits::CONNECTIONS_MAX)),
            sockets: Arc::new(Semaphore::new(limits::FLASHQ_SOCKETS_MAX)),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let mut loops = JoinSet::new();
        ground.loops.into_iter().for_each(|run| drop(loops.spawn(run)));
        broker_loops.into_iter().for_each(|(name, run)| drop(loops.spawn(named(name, run))));
        spawn_duties(&mut loops, &door, &phases);
        let (broker, leadership) = (door.broker.clone(), door.leadership.clone());
        let courier = Courier::new(broker, leadership, door.reach, flashq::webhook::body);
        loops.spawn(named("webhooks", Box::pin(courier.run(phases.loops.clone()))));
        spawn_listeners(&mut loops, &door, ground.signals, &requests, &phases);
        door.tasks.spawn(tcp::serve(listener, door.clone()));
        if let Some(listener) = http_listener {
            door.tasks.spawn(http::serve(listener, door.clone()));
        }
        let http = http_address.map(|address| address.to_string());
        let node = &door.card.id;
        tracing::info!(node, version = version(), tcp = %tcp_address, http, key, "started");
        let drain_timeout = config.drain_timeout;
        Ok(Self { tcp_address, http_address, door, loops, phases, requests, drain_timeout })
    }

    /// Where the binary protocol is served.
    pub fn tcp_address(&self) -> SocketAddr {
        self.tcp_address
    }

    /// Where HTTP is served, if it is.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http_address
    }

    /// Waits until the node is of no use any more: its database will not do, its name is taken, or
    /// a loop that must run has ended. The answer: why. A node whose work has stopped must not
    /// seem alive.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub async fn failed(&mut self) -> String {
        match self.loops.join_next().await {
            Some(Ok(reason)) => reason,
            Some(Err(error)) => error.to_string(),
            None => "everything has ended by itself: the node can not go on".into(),
        }
    }

    /// What others may ask of this node.
    pub fn requests(&self) -> Requests {
        self.requests.clone()
    }

    /// Stops: lets another node lead, gives out nothing more, tells clients to go elsewhere,
    /// answers what was asked for, closes the connections and the store, deregisters. Leases stay
    /// as they are; their workers may come back to them, through any node. What is not done after
    /// the drain timeout is cut off.
    pub async fn stop(mut self) {
        tracing::info!("stopping");
        self.phases.leaving.cancel();
        self.door.broker.drain();
        self.door.stop.cancel();
        self.door.tasks.close();
        if tokio::time::timeout(self.drain_timeout, self.door.tasks.wait()).await.is_err() {
            tracing::warn!("connections were cut off: they took too long");
        }
        self.phases.loops.cancel();
        self.phases.gone.cancel();
        // The committers end when the last handle on the broker is gone.
        drop(self.door);
        let finish = async { while self.loops.join_next().await.is_some() {} };
        if tokio::time::timeout(Duration::from_secs(5), finish).await.is_err() {
            self.loops.shutdown().await;
        }
        tracing::info!("stopped");
    }
}

async fn named(name: &'static str, run: Loop) -> String {
    run.await;
    format!("{name} has ended by itself: the node can not go on")
}

fn spawn_duties(loops: &mut JoinSet<String>, door: &Door, phases: &Phases) {
    let frame = Frame {
        broker: door.broker.clone(),
        registry: Arc::clone(&door.registry),
        leadership: door.leadership.clone(),
        watchdog: Arc::new(Watchdog::default()),
    };
    let (watchdog, leadership) = (Arc::clone(&frame.watchdog), frame.leadership.clone());
    let stop = phases.loops.clone();
    let watch = async move { watchdog.run(leadership, stop).await };
    loops.spawn(named("watchdog", Box::pin(watch)));
    for chore in Chore::all() {
        let mut frame = frame.clone();
        if mutants::is(Mutant::FollowerFiresCron) && chore == Chore::Jobs(Duty::Cron) {
            frame.leadership = Leadership::sole();
        }
        let run = frame.run(chore, phases.loops.clone());
        loops.spawn(named(chore.name(), Box::pin(run)));
    }
}

/// Listens to other nodes.
fn spawn_listeners(
    loops: &mut JoinSet<String>,
    door: &Door,
    signals: Option<mpsc::UnboundedReceiver<Signal>>,
    requests: &Requests,
    phases: &Phases,
) {
    if let Some(mut signals) = signals {
        let (broker, stop) = (door.broker.clone(), phases.loops.clone());
        let hear = async move {
            while let Some(Some(signal)) = stop.run_until_cancelled(signals.recv()).await {
                broker.hear(signal);
            }
            stop.cancelled().await;
        };
        loops.spawn(named("signals", Box::pin(hear)));
    }
    let (broker, requests, phases) = (door.broker.clone(), requests.clone(), phases.clone());
    let drain = async move {
        let asked = phases.loops.run_until_cancelled(requests.asked(Leave::Stay)).await;
        if asked.is_some() {
            tracing::info!("asked to leave: draining");
            phases.leaving.cancel();
            broker.drain();
        }
        drop(broker);
        phases.loops.cancelled().await;
    };
    loops.spawn(named("requests", Box::pin(drain)));
}

fn card(config: &Config, tcp: SocketAddr, http: Option<SocketAddr>) -> Card {
    let hostname = gethostname();
    Card {
        id: config.node_id.clone(),
        // Below 2^53: not every client has larger whole numbers.
        incarnation: (rand::random::<u64>() >> 11).cast_signed(),
        host: config.node_host.clone().unwrap_or_else(|| hostname.clone()),
        hostname,
        tcp_port: tcp.port(),
        http_port: http.map(|address| address.port()),
        version: version().into(),
        build: build(),
        fingerprint: config.fingerprint.clone(),
    }
}

fn gethostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "unknown".into() } else { name.into() }
}

async fn listen(
    config: &Config,
    setting: &'static str,
    port: u16,
) -> Result<TcpListener, StartError> {
    let address = SocketAddr::new(config.bind, port);
    let listener = TcpListener::bind(address).await;
    listener.map_err(|error| StartError::Listen { setting, address, error })
}

async fn embedded(
    dir: std::path::PathBuf,
    card: &Card,
    retention: Retention,
    requests: &Requests,
) -> Result<Ground, StartError> {
    tracing::info!(dir = %dir.display(), "the store is embedded");
    let clock = SystemClock::start();
    let options = Options { dir, node: card.id.clone(), clock: clock.clone(), retention };
    let opened = tokio::task::spawn_blocking(|| SqliteStore::open(options)).await;
    let store: Arc<dyn Store> = Arc::new(opened.expect("opening a store does not panic")?);
    let registry = Alone::new(card.clone(), Arc::clone(&store), clock.clone(), requests.clone());
    Ok(Ground {
        store,
        clock,
        registry: Arc::new(registry),
        leadership: Leadership::sole(),
        loops: Vec::new(),
        signals: None,
    })
}

fn shared(
    config: SharedConfig,
    card: &Card,
    retention: Retention,
    (requests, demand): (&Requests, &Demand),
    phases: &Phases,
) -> Ground {
    let database = config.database;
    tracing::info!(
        database = database.dsn.address(),
        schema = database.schema,
        connections_max = config.connections_max,
        "the store is shared; max_connections of Postgres must be at least this for each node, \
         and some for others"
    );
    let store = PostgresStore::new(postgres::Options {
        schema: database.schema.clone(),
        node: Identity { id: card.id.clone(), incarnation: card.incarnation },
        connections_max: config.connections_max,
        retention,
        stale_after: config.stale_after,
    });
    let clock = DatabaseClock::unset();
    let (throne, leadership) = Leadership::elected();
    let (signals, heard) = mpsc::unbounded_channel();
    let opened = CancellationToken::new();
    let presence = Presence {
        store: Arc::clone(&store),
        card: card.clone(),
        heartbeat_every: config.heartbeat_interval,
        requests: requests.clone(),
        demand: demand.clone(),
        clock: Arc::clone(&clock),
        signals,
        opened: opened.clone(),
        leaving: phases.leaving.clone(),
        gone: phases.gone.clone(),
    };
    let (node, profile, leaving) = (card.id.clone(), config.profile, phases.leaving.clone());
    let (keeper, gone) = (Arc::clone(&store), phases.gone.clone());
    let attend = async move {
        let told = |reason: &str| keeper.not_yet(reason);
        let prepared = gone.run_until_cancelled(database.prepare(told)).await;
        let dsn = match prepared {
            Some(Ok(dsn)) => dsn,
            Some(Err(refusal)) => return refusal.to_string(),
            None => return "stopped".into(),
        };
        let schema = database.schema.clone();
        let election = Election { dsn: dsn.clone(), schema, node, profile };
        let elect = async {
            opened.cancelled().await;
            if let Err(error) = election.start(throne, leaving) {
                tracing::error!(%error, "this node can not stand for election");
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            taken = presence.run(dsn) => taken.unwrap_or_else(|| "stopped".into()),
            () = elect => "stopped".into(),
        }
    };
    let (teller, stop) = (Arc::clone(&store), phases.loops.clone());
    let tell = async move {
        stop.run_until_cancelled(teller.run_notifier()).await;
        "stopped".into()
    };
    Ground {
        store: store.clone(),
        clock,
        registry: store,
        leadership,
        loops: vec![Box::pin(attend), Box::pin(tell)],
        signals: Some(heard),
    }
}
