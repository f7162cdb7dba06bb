//! What every transport needs to let clients in.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::Access;
use crate::broker::Broker;

/// Shared by the transports of a node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Door {
    /// Serves the requests.
    pub broker: Broker,
    /// Says who may do what.
    pub access: Arc<Access>,
    /// This node's name in answers.
    pub node_id: Arc<str>,
    /// A permit for each connection, over all transports.
    pub connections: Arc<Semaphore>,
    /// Cancelled: accept nobody any more, finish what was asked for, close.
    pub stop: CancellationToken,
    /// Knows all connections, so that stopping can wait for them.
    pub tasks: TaskTracker,
}

/// The version of this build, in answers and logs.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
