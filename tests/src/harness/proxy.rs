//! A way to a server that can be cut, in both directions or in one.

use std::net::SocketAddr;

pub use batonq_verify::field::Cut;
use batonq_verify::field::{self, Verb};

/// Passes connections on to a server. What is sent while it is cut waits, as packets that are sent
/// again do, and arrives when it is mended.
#[derive(Debug)]
pub struct Proxy(field::Proxy);

impl Proxy {
    /// A way to `server`.
    ///
    /// # Panics
    ///
    /// If there is no free port.
    pub async fn to(server: SocketAddr) -> Self {
        Self(field::Proxy::to(server.to_string()).await.expect("a free port"))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.0.address()
    }

    /// Nothing passes any more.
    pub fn cut(&self, cut: Cut) {
        self.0.set(Verb::Hold(cut));
    }

    /// Everything passes, also what has waited.
    pub fn mend(&self) {
        self.0.set(Verb::Pass);
    }
}
