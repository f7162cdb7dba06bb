//! A node: everything wired together. The one place that names a store.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::broker::Broker;
use crate::clock::SystemClock;
use crate::config::Config;
use crate::door::{Door, VERSION};
use crate::store::sqlite::{OpenError, Options, SqliteStore};
use crate::store::{Duty, Store};
use crate::{duties, http, limits, tcp};

/// A running node. To be [stopped](Node::stop); dropping it cuts everything off.
#[derive(Debug)]
pub struct Node {
    tcp_address: SocketAddr,
    http_address: Option<SocketAddr>,
    door: Door,
    /// What must run for the node to be of use.
    loops: JoinSet<&'static str>,
    stop_loops: CancellationToken,
    drain_timeout: Duration,
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

impl Node {
    /// Opens the store, listens, and serves.
    ///
    /// # Errors
    ///
    /// See [`StartError`]; then nothing runs.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let listener = listen(&config, "PORT", config.port).await?;
        let http_listener = match config.http_port {
            Some(port) => Some(listen(&config, "HTTP_PORT", port).await?),
            None => None,
        };
        let address = |listener: &TcpListener| listener.local_addr().expect("it is bound");
        let (tcp_address, http_address) = (address(&listener), http_listener.as_ref().map(address));
        let clock = SystemClock::start();
        let store = open_store(&config, clock.clone()).await?;
        let stop_loops = CancellationToken::new();
        let (broker, broker_loops) = Broker::new(store, clock, config.patience, &stop_loops);
        let door = Door {
            broker: broker.clone(),
            access: Arc::new(config.access),
            node_id: config.node_id.as_str().into(),
            connections: Arc::new(Semaphore::new(limits::CONNECTIONS_MAX)),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let mut loops = JoinSet::new();
        for (name, run) in broker_loops {
            loops.spawn(async move {
                run.await;
                name
            });
        }
        for duty in Duty::ALL {
            let run = duties::run(duty, broker.clone(), stop_loops.clone());
            loops.spawn(async move {
                run.await;
                duty.name()
            });
        }
        door.tasks.spawn(tcp::serve(listener, door.clone()));
        if let Some(listener) = http_listener {
            door.tasks.spawn(http::serve(listener, door.clone()));
        }
        let http = http_address.map(|address| address.to_string());
        tracing::info!(
            node = config.node_id,
            version = VERSION,
            tcp = %tcp_address,
            http,
            data_dir = %config.data_dir.display(),
            "started"
        );
        let drain_timeout = config.drain_timeout;
        Ok(Self { tcp_address, http_address, door, loops, stop_loops, drain_timeout })
    }

    /// Where the binary protocol is served.
    pub fn tcp_address(&self) -> SocketAddr {
        self.tcp_address
    }

    /// Where HTTP is served, if it is.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http_address
    }

    /// Waits until the node is of no use any more: a loop that must run has ended. The answer is
    /// its name. A node whose work has stopped must not seem alive.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub async fn failed(&mut self) -> String {
        match self.loops.join_next().await {
            Some(Ok(name)) => name.into(),
            Some(Err(error)) => error.to_string(),
            None => "everything".into(),
        }
    }

    /// Stops: gives out nothing more, tells clients to go elsewhere, answers what was asked for,
    /// closes the connections and the store. Leases stay as they are; their workers may come back
    /// to them. What is not done after the drain timeout is cut off.
    pub async fn stop(mut self) {
        tracing::info!("stopping");
        self.door.broker.drain();
        self.door.stop.cancel();
        self.door.tasks.close();
        if tokio::time::timeout(self.drain_timeout, self.door.tasks.wait()).await.is_err() {
            tracing::warn!("connections were cut off: they took too long");
        }
        self.stop_loops.cancel();
        // The committers end when the last handle on the broker is gone.
        drop(self.door);
        let finish = async { while self.loops.join_next().await.is_some() {} };
        if tokio::time::timeout(Duration::from_secs(5), finish).await.is_err() {
            self.loops.shutdown().await;
        }
        tracing::info!("stopped");
    }
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

async fn open_store(
    config: &Config,
    clock: Arc<SystemClock>,
) -> Result<Arc<dyn Store>, StartError> {
    let options = Options {
        dir: config.data_dir.clone(),
        node: config.node_id.clone(),
        clock,
        retention: config.retention,
    };
    let opened = tokio::task::spawn_blocking(|| SqliteStore::open(options)).await;
    Ok(Arc::new(opened.expect("opening a store does not panic")?))
}
