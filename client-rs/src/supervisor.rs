//! Keeps a client connected.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::connection::{Connection, End, Inbox, Lost};
use crate::dial::{Dialer, Opened};
use crate::error::Error;
use crate::pause::Pauses;
use crate::session::Session;

/// The one task of a client.
pub(crate) struct Supervisor {
    pub(crate) config: Arc<Config>,
    pub(crate) session: Arc<Session>,
    pub(crate) dialer: Dialer,
    pub(crate) inbox: Inbox,
    /// Set when nobody wants the client any more.
    pub(crate) closed: CancellationToken,
    /// Why the client can not be used any more.
    pub(crate) over: Arc<OnceLock<Error>>,
}

/// How the session stands between two connections.
struct Gap {
    /// Connections to nodes that go away, whose last calls are still to be answered.
    draining: JoinSet<()>,
    leases: Leases,
    grace: Duration,
}

/// What becomes of the leases if there is no other connection.
enum Leases {
    /// They last until then.
    Until(Instant),
    Lost,
}

impl Supervisor {
    /// Lives as long as the client; reports whether there was a first connection.
    pub(crate) async fn run(mut self, report: oneshot::Sender<Result<(), Error>>) {
        let opened = tokio::select! {
            opened = self.dialer.round(0) => opened,
            // The future that connects was dropped.
            () = self.closed.cancelled() => Err(Error::Closed),
        };
        let error = match opened {
            Ok(opened) => {
                let connection = Connection::new(opened, Arc::clone(&self.session));
                // Who does not wait any more has closed the client.
                report.send(Ok(())).ok();
                self.keep_connected(connection).await
            }
            Err(error) => {
                report.send(Err(error.clone())).ok();
                error
            }
        };
        tracing::debug!(%error, "the client is over");
        self.session.end(&error);
        // Set before the inbox is dropped, since the callers look here when their reply is.
        self.over.get_or_init(|| error);
    }

    /// Returns why there will be no more connections.
    async fn keep_connected(&mut self, mut connection: Connection) -> Error {
        let mut pauses = Pauses::new(self.config.reconnect_min, self.config.reconnect_max);
        let mut gap = Gap { draining: JoinSet::new(), leases: Leases::Lost, grace: Duration::ZERO };
        loop {
            gap.grace = connection.grace();
            while gap.draining.try_join_next().is_some() {}
            let begun_at = Instant::now();
            let moved = CancellationToken::new();
            match connection.serve(&mut self.inbox, &self.closed).await {
                End::Closed => {
                    connection.leave(&mut self.inbox).await;
                    return Error::Closed;
                }
                End::GoAway => {
                    let dialing = dial(&mut self.dialer, &self.session, &mut pauses);
                    let moving = connection.serve_until(&mut self.inbox, &self.closed, dialing);
                    match moving.await {
                        Ok(Ok(opened)) => {
                            gap.draining.spawn(connection.drain(moved.clone()));
                            connection = Connection::new(opened, Arc::clone(&self.session));
                            moved.cancel();
                            continue;
                        }
                        Ok(Err(error)) => {
                            connection.lose_pending("no other node lets the client in");
                            return error;
                        }
                        Err(End::Lost(Lost(reason))) => gap.lose(&mut connection, &reason),
                        Err(End::Closed | End::GoAway) => {
                            connection.leave(&mut self.inbox).await;
                            return Error::Closed;
                        }
                    }
                }
                End::Lost(Lost(reason)) => gap.lose(&mut connection, &reason),
            }
            if begun_at.elapsed() > self.config.reconnect_max {
                pauses.reset();
            }
            let opened = match self.reconnect(&mut gap, &mut pauses).await {
                Ok(opened) => opened,
                Err(error) => return error,
            };
            connection = Connection::new(opened, Arc::clone(&self.session));
        }
    }

    async fn reconnect(&mut self, gap: &mut Gap, pauses: &mut Pauses) -> Result<Opened, Error> {
        let mut dialing = std::pin::pin!(dial(&mut self.dialer, &self.session, pauses));
        loop {
            tokio::select! {
                opened = &mut dialing => return opened,
                () = gap.grace_over() => drop(self.session.lose_all()),
                () = self.closed.cancelled() => return Err(Error::Closed),
            }
        }
    }
}

impl Gap {
    /// The connection is lost; the leases outlive it for a while.
    fn lose(&mut self, connection: &mut Connection, reason: &str) {
        tracing::debug!(reason, "connection lost");
        connection.lose_pending(reason);
        self.leases = Leases::Until(Instant::now() + self.grace);
    }

    /// Waits until the leases are lost. It ends once.
    ///
    /// # Cancel safety
    ///
    /// Nothing is forgotten.
    async fn grace_over(&mut self) {
        let Leases::Until(until) = self.leases else { return std::future::pending().await };
        sleep_until(until).await;
        self.leases = Leases::Lost;
    }
}

/// Tries until a node lets the client in, or will never.
///
/// It pauses first: many clients lose the same node at once, and a node may let clients in only
/// to send them away.
async fn dial(
    dialer: &mut Dialer,
    session: &Session,
    pauses: &mut Pauses,
) -> Result<Opened, Error> {
    loop {
        sleep(pauses.next(rand::random())).await;
        match dialer.round(session.id()).await {
            Err(error) if error.forbids_connecting() => return Err(error),
            Err(error) => tracing::warn!(%error, "not connected"),
            Ok(opened) => return Ok(opened),
        }
    }
}
