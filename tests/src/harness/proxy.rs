//! A way to a server that can be cut, in both directions or in one.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// Which way nothing passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Neither to the server nor back.
    Both,
    /// Nothing from the server.
    Inwards,
    /// Nothing to the server.
    Outwards,
}

/// Passes connections on to a server. What is sent while it is cut waits, as packets that are sent
/// again do, and arrives when it is mended.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    gates: Arc<Gates>,
    accepting: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Gates {
    inwards: Gate,
    outwards: Gate,
}

#[derive(Debug, Default)]
struct Gate {
    is_shut: AtomicBool,
    opened: Notify,
}

impl Gate {
    fn set(&self, is_shut: bool) {
        self.is_shut.store(is_shut, Ordering::SeqCst);
        self.opened.notify_waiters();
    }

    async fn pass(&self) {
        loop {
            let opened = self.opened.notified();
            if !self.is_shut.load(Ordering::SeqCst) {
                return;
            }
            opened.await;
        }
    }
}

impl Proxy {
    /// A way to `server`.
    ///
    /// # Panics
    ///
    /// If there is no free port.
    pub async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let gates = Arc::<Gates>::default();
        let all = Arc::clone(&gates);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connect(client, server, Arc::clone(&all)));
            }
        });
        Self { address, gates, accepting }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Nothing passes any more.
    pub fn cut(&self, cut: Cut) {
        self.gates.inwards.set(cut != Cut::Outwards);
        self.gates.outwards.set(cut != Cut::Inwards);
    }

    /// Everything passes, also what has waited.
    pub fn mend(&self) {
        self.gates.inwards.set(false);
        self.gates.outwards.set(false);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn connect(client: TcpStream, server: SocketAddr, gates: Arc<Gates>) {
    // A connection that is made while it is cut gets nowhere.
    gates.outwards.pass().await;
    let Ok(server) = TcpStream::connect(server).await else { return };
    client.set_nodelay(true).ok();
    server.set_nodelay(true).ok();
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::join!(
        pass(from_client, to_server, &gates.outwards),
        pass(from_server, to_client, &gates.inwards)
    );
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    gate: &Gate,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let count = from.read(&mut buffer).await.unwrap_or(0);
        gate.pass().await;
        if count == 0 || to.write_all(&buffer[..count]).await.is_err() {
            // The other side learns that this one has closed.
            to.shutdown().await.ok();
            return;
        }
    }
}
