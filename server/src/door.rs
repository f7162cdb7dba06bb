//! What every transport needs to let clients in.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use serde::de::DeserializeOwned;
use tokio::io::AsyncReadExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::Access;
use crate::broker::{Broker, Condition};
use crate::cluster::{Card, Leave, Node, NodeState, Registry, Sight};
use crate::error::Error;
use crate::explain::{Explanation, Surroundings, explain};
use crate::job::{JobId, Timestamp};
use crate::leader::Leadership;
use crate::limits;
use crate::origins::Origins;
use crate::webhooks::Reach;

/// Shared by the transports of a node. Cheap to clone.
#[derive(Clone)]
pub struct Door {
    /// Serves the requests.
    pub broker: Broker,
    /// Says who may do what.
    pub access: Arc<Access>,
    /// What this node says of itself.
    pub card: Arc<Card>,
    /// What the nodes know of each other.
    pub registry: Arc<dyn Registry>,
    /// Whether this node leads.
    pub leadership: Leadership,
    /// Where webhooks may lead.
    pub reach: Reach,
    /// Pages of which sites may talk to this node.
    pub origins: Arc<Origins>,
    /// What kind of store it has, in a word: `sqlite` or `postgres`.
    pub store: &'static str,
    /// A permit for each connection, over all transports.
    pub connections: Arc<Semaphore>,
    /// A permit for each WebSocket among them.
    pub sockets: Arc<Semaphore>,
    /// Cancelled: accept nobody any more, finish what was asked for, close.
    pub stop: CancellationToken,
    /// Knows all connections, so that stopping can wait for them.
    pub tasks: TaskTracker,
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Door").field("card", &self.card).finish_non_exhaustive()
    }
}

/// After the system refused a connection (no file handles left), the next try comes this much
/// later.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// A leader does a duty each second. One that has done none for so long does not lead.
const LEADER_SILENCE_MAX: Duration = Duration::from_secs(10);

impl Door {
    /// All nodes, by name. This one knows of itself best whether it drains.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub async fn nodes(&self) -> Result<Vec<Node>, Error> {
        let mut nodes = self.registry.nodes().await?;
        let is_draining = self.broker.health().condition == Condition::Draining;
        if let Some(own) = nodes.iter_mut().find(|node| is_draining && node.card.id == self.card.id)
        {
            own.state = NodeState::Draining;
        }
        Ok(nodes)
    }

    /// Why a job does not run.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], or those of the store.
    pub async fn explain(&self, id: JobId) -> Result<Explanation, Error> {
        let standing = self.broker.standing(id).await?;
        let (queue, now) = (&standing.job.queue, standing.now);
        let mut sights = self.registry.sights(queue).await?;
        let condition = self.broker.health().condition;
        if let Some(own) = sights.iter_mut().find(|sight| sight.node == self.card.id) {
            let demand = self.broker.demand().list(now);
            own.is_full = demand.len() >= limits::DEMAND_MAX;
            own.pulled = demand.into_iter().find(|pulled| pulled.queue == *queue);
            if condition == Condition::Draining {
                own.state = NodeState::Draining;
            }
        }
        let leader = self.registry.leader().await?;
        let is_alive = |sight: &Sight| sight.node == leader.node && sight.state != NodeState::Stale;
        let last = leader.duties.iter().map(|(_, at)| *at).fold(leader.since, Timestamp::max);
        let is_lost = !sights.iter().any(is_alive) || now.since(last) > LEADER_SILENCE_MAX;
        let leaderless_since = is_lost.then_some(last);
        Ok(explain(standing, &Surroundings { sights, leaderless_since, condition }))
    }

    /// Has a node leave, whichever it is.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], or those of the store.
    pub async fn drain(&self, id: &str, leave: Leave) -> Result<(), Error> {
        match self.registry.ask_to_leave(id, leave).await? {
            true => Ok(()),
            false => Err(Error::NotFound(format!("there is no node {id}"))),
        }
    }

    /// Lets clients in until `stop`. Each is attended in a task of its own, as long as its permit
    /// lasts; one for which there is no room is turned away.
    pub async fn let_in<A, T>(
        &self,
        listener: TcpListener,
        attend: impl Fn(TcpStream, SocketAddr, OwnedSemaphorePermit) -> A,
        turn_away: impl Fn(TcpStream) -> T,
    ) where
        A: Future<Output = ()> + Send + 'static,
        T: Future<Output = ()> + Send + 'static,
    {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stop.cancelled() => return,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(AFTER_FAILURE).await;
                    continue;
                }
            };
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%address, %error, "no TCP_NODELAY");
            }
            match Arc::clone(&self.connections).try_acquire_owned() {
                Ok(permit) => drop(self.tasks.spawn(attend(stream, address, permit))),
                Err(_) => {
                    tracing::warn!(%address, "too many connections");
                    self.tasks.spawn(turn_away(stream));
                }
            }
        }
    }
}

/// The version of this build.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What this process says of its version, in answers and logs.
pub fn version() -> &'static str {
    #[cfg(feature = "mutants")]
    if let Some(version) = crate::mutants::version() {
        return version;
    }
    VERSION
}

/// What this build is for.
pub fn build() -> String {
    let kind = if cfg!(debug_assertions) { "debug" } else { "release" };
    let version = version();
    format!("{version} {kind} {}-{}", std::env::consts::ARCH, std::env::consts::OS)
}

/// What a connection makes room for before it reads, and when: of less it would take a call of the
/// system for each few small requests.
const READ_BYTES: usize = 32 * 1024;
const ROOM_BYTES_MIN: usize = 4 * 1024;

/// Reads what has come, as far as there is room. Room is made once something has come, so that a
/// connection that is idle needs none; of a long request, as much again as has come of it.
///
/// # Cancel safety
///
/// What was read stands in `read`; nothing is lost.
pub(crate) async fn read_some(
    stream: &mut OwnedReadHalf,
    read: &mut BytesMut,
) -> io::Result<usize> {
    if read.capacity() - read.len() < ROOM_BYTES_MIN {
        stream.readable().await?;
        read.reserve(read.len().max(READ_BYTES));
    }
    stream.read_buf(read).await
}

/// Writes what the system takes now.
///
/// # Cancel safety
///
/// What was written has left `out`; nothing else has.
pub(crate) async fn write_some(stream: &OwnedWriteHalf, out: &mut BytesMut) -> io::Result<()> {
    loop {
        stream.writable().await?;
        match stream.try_write(out) {
            Ok(written) => {
                out.advance(written);
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Refuses JSON that nests too deep, before a parser has to follow it.
pub(crate) fn check_depth(field: &'static str, text: &str) -> Result<(), Error> {
    let (mut depth, mut is_text, mut is_escaped) = (0_usize, false, false);
    for byte in text.bytes() {
        if is_text {
            is_text = byte != b'"' || is_escaped;
            is_escaped = byte == b'\\' && !is_escaped;
            continue;
        }
        match byte {
            b'"' => is_text = true,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > limits::JSON_DEPTH_MAX {
            let detail = format!("nests deeper than {}", limits::JSON_DEPTH_MAX);
            return Err(Error::invalid(field, detail));
        }
    }
    Ok(())
}

/// # Errors
///
/// [`Error::Invalid`] if a batch is empty or too large.
pub fn check_batch(field: &'static str, count: usize) -> Result<(), Error> {
    match count {
        0 => Err(Error::invalid(field, "is empty")),
        count if count > limits::BATCH_MAX => {
            Err(Error::invalid(field, format!("more than {}", limits::BATCH_MAX)))
        }
        _ => Ok(()),
    }
}

/// What stands as JSON in the field of a message, in the shape of the HTTP API.
///
/// # Errors
///
/// [`Error::Invalid`], naming the field in it where there is one.
pub fn json_in<T: DeserializeOwned>(field: &'static str, json: &[u8]) -> Result<T, Error> {
    let mut from = serde_json::Deserializer::from_slice(json);
    let value = serde_path_to_error::deserialize(&mut from).map_err(|error| {
        let field = match error.path().to_string() {
            path if path == "." => field.to_owned(),
            path => path,
        };
        Error::invalid(field, error.into_inner().to_string())
    })?;
    from.end().map_err(|error| Error::invalid(field, error.to_string()))?;
    Ok(value)
}

/// Does the good items of a batch together; each bad one keeps its error, in its place.
///
/// # Errors
///
/// Those of `act`: then none was done.
pub async fn each<I, O, F>(
    items: Vec<Result<I, Error>>,
    act: impl FnOnce(Vec<I>) -> F,
) -> Result<Vec<Result<O, Error>>, Error>
where
    F: Future<Output = Result<Vec<O>, Error>>,
{
    let mut good = Vec::with_capacity(items.len());
    let mut places = Vec::with_capacity(items.len());
    for item in items {
        places.push(item.map(|item| good.push(item)));
    }
    let mut done = act(good).await?.into_iter();
    let missing = || Error::Internal("an answer is missing".into());
    let fill = |place: Result<(), Error>| place.and_then(|()| done.next().ok_or_else(missing));
    Ok(places.into_iter().map(fill).collect())
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn what_has_come_is_read_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut stream, _writer) = listener.accept().await.unwrap().0.into_split();
        let mut read = BytesMut::new();
        let many = [7; 4000];
        client.write_all(&many).await.unwrap();
        assert_eq!(read_some(&mut stream, &mut read).await.unwrap(), many.len());
        client.write_all(&many).await.unwrap();
        assert_eq!(read_some(&mut stream, &mut read).await.unwrap(), many.len());
        assert_eq!(read, [7; 8000][..], "behind what was there");
    }
}
