//! The ways that lead to and from a node, each of which can be cut.

use std::net::SocketAddr;
use std::time::Duration;

use super::{Cut, Direction, FieldError, Namespace, Proxy, Verb};

/// How a node reaches the database.
#[derive(Debug)]
pub enum DatabaseWay {
    /// Over a wire of its own, on which packets are dropped.
    Namespace(Namespace),
    /// Through a proxy, in which bytes wait.
    Proxy(Proxy),
}

impl DatabaseWay {
    pub(super) fn database(&self) -> SocketAddr {
        match self {
            Self::Namespace(namespace) => namespace.database(),
            Self::Proxy(proxy) => proxy.address(),
        }
    }

    /// Nothing passes any more: `Inwards` nothing from the database, `Outwards` nothing to it.
    ///
    /// # Cancel safety
    ///
    /// One of two directions may be cut.
    ///
    /// # Errors
    ///
    /// If the rules can not be set.
    pub async fn cut(&self, cut: Cut) -> Result<(), FieldError> {
        match self {
            Self::Namespace(namespace) => namespace.cut(cut).await,
            Self::Proxy(proxy) => {
                proxy.set(Verb::Hold(cut));
                Ok(())
            }
        }
    }

    /// What passes takes longer.
    ///
    /// # Errors
    ///
    /// If this is a wire.
    pub fn delay(&self, delay: Duration) -> Result<(), FieldError> {
        match self {
            Self::Proxy(proxy) => {
                proxy.set(Verb::Delay(delay));
                Ok(())
            }
            Self::Namespace(_) => Err(FieldError::NotPossible {
                what: "a slow way to the database".into(),
                why: "nodes have wires of their own, which drop packets but do not slow them; \
                      without network namespaces it is possible"
                    .into(),
            }),
        }
    }

    /// Everything passes, also what has waited.
    ///
    /// # Errors
    ///
    /// If the rules can not be taken away.
    pub fn mend(&self) -> Result<(), FieldError> {
        match self {
            Self::Namespace(namespace) => namespace.mend(),
            Self::Proxy(proxy) => {
                proxy.set(Verb::Pass);
                Ok(())
            }
        }
    }
}

/// How clients reach a node.
#[derive(Debug)]
pub struct ClientWay {
    tcp: Proxy,
    http: Option<Proxy>,
}

impl ClientWay {
    /// To where a node serves the binary protocol, and HTTP if that is known.
    pub(super) async fn to(tcp: String, http: Option<String>) -> Result<Self, FieldError> {
        let http = match http {
            Some(http) => Some(Proxy::to(http).await?),
            None => None,
        };
        Ok(Self { tcp: Proxy::to(tcp).await?, http })
    }

    fn proxies(&self) -> impl Iterator<Item = &Proxy> {
        [Some(&self.tcp), self.http.as_ref()].into_iter().flatten()
    }

    /// The way for the binary protocol.
    pub fn tcp(&self) -> &Proxy {
        &self.tcp
    }

    /// The way for HTTP, if it is known where the node serves that.
    pub fn http(&self) -> Option<&Proxy> {
        self.http.as_ref()
    }

    /// As [`Proxy::set`], for all clients of the node.
    pub fn set(&self, verb: Verb) {
        self.proxies().for_each(|proxy| proxy.set(verb));
    }

    /// As [`Proxy::reset`], for all clients of the node.
    pub fn reset(&self) {
        self.proxies().for_each(Proxy::reset);
    }

    /// As [`Proxy::half_close`], for all clients of the node.
    pub fn half_close(&self, direction: Direction) {
        self.proxies().for_each(|proxy| proxy.half_close(direction));
    }
}
