//! Who is connected, and whose leases end because they no longer are.
//!
//! A session is a worker's stay with the cluster. Its leases live as long as its connection is
//! heard from:
//!
//! ```text
//!             open                     connection lost
//!  ──────────────────▶ connected ───────────────────────▶ lost
//!                       │     ▲                            │ │
//!       silent for      │     └────────────────────────────┘ │ for longer than
//!       heartbeat_timeout              open again            │ reconnect_grace
//!                       ▼                                    ▼
//!                     gone: its jobs go round again, a crash each
//! ```
//!
//! A worker that is back while its old connection seems to live takes its session over; the old
//! connection is told to close. If the node itself dies, nobody renews the session's leases and
//! they end by themselves, at nobody's charge.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::job::{Lease, Timestamp, WorkerName};
use crate::store::SessionId;

/// How long silence and absence are borne.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// What clients are told to send a sign of life in.
    pub heartbeat_interval: Duration,
    /// A connection that is silent for longer is dead.
    pub heartbeat_timeout: Duration,
    /// A worker whose connection was lost keeps its leases this long.
    pub reconnect_grace: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            heartbeat_interval: Duration::from_secs(5),
            heartbeat_timeout: Duration::from_secs(15),
            reconnect_grace: Duration::from_secs(3),
        }
    }
}

/// Who opens a session.
#[derive(Debug, Clone)]
pub struct Visitor {
    /// The worker's name; may be empty.
    pub worker: WorkerName,
    /// The client library.
    pub client: String,
    /// Where it comes from.
    pub address: String,
}

/// A worker that is or was just connected.
#[derive(Debug, Clone)]
pub struct Worker {
    /// Who it is.
    pub visitor: Visitor,
    /// When its present connection began.
    pub connected_at: Timestamp,
    /// How long nothing has been heard from it.
    pub silent: Duration,
    /// False: its connection was lost and it may come back.
    pub connected: bool,
}

/// What a session's connection is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// These leases were taken away.
    LeasesLost(Vec<Lease>),
    /// Somebody asks for the end of these leases' jobs.
    CancelRequested(Vec<Lease>),
    /// The node is about to stop: connect elsewhere.
    GoAway,
    /// Close: the session goes on elsewhere, or was silent for too long.
    Close(&'static str),
}

/// All sessions of this node.
#[derive(Debug)]
pub(super) struct Sessions {
    sessions: Arc<DashMap<SessionId, Session>>,
    patience: Patience,
    started: Instant,
}

#[derive(Debug)]
struct Session {
    visitor: Visitor,
    connected_at: Timestamp,
    /// Milliseconds since `Sessions::started`.
    heard: Arc<AtomicU64>,
    /// `None`: lost.
    notices: Option<mpsc::UnboundedSender<Notice>>,
    /// Counts the connections, so that an old one does not speak for a new one.
    connection: u64,
    lost_at: Instant,
}

impl Sessions {
    pub(super) fn new(patience: Patience) -> Self {
        Self { sessions: Arc::default(), patience, started: Instant::now() }
    }

    pub(super) fn patience(&self) -> Patience {
        self.patience
    }

    fn now_ms(&self) -> u64 {
        millis(self.started.elapsed())
    }

    /// Whether somebody may come back to this session.
    pub(super) fn knows(&self, id: SessionId) -> bool {
        self.sessions.contains_key(&id)
    }

    /// Connects a visitor with a session, new or old.
    pub(super) fn open(&self, id: SessionId, visitor: Visitor, now: Timestamp) -> Attendance {
        let (notices, noticed) = mpsc::unbounded_channel();
        let heard = Arc::new(AtomicU64::new(self.now_ms()));
        let mut session = Session {
            visitor,
            connected_at: now,
            heard: Arc::clone(&heard),
            notices: Some(notices),
            connection: 1,
            lost_at: self.started,
        };
        if let Some(old) = self.sessions.get(&id) {
            session.connection = old.connection + 1;
            if let Some(notices) = &old.notices {
                // Nobody to tell is as good.
                notices.send(Notice::Close("the session goes on over another connection")).ok();
            }
        }
        let connection = session.connection;
        self.sessions.insert(id, session);
        Attendance {
            id,
            connection,
            heard,
            started: self.started,
            notices: noticed,
            sessions: Arc::clone(&self.sessions),
        }
    }

    /// Sessions whose time is over. They are forgotten, their connections told to close.
    pub(super) fn take_gone(&self) -> Vec<SessionId> {
        let now_ms = self.now_ms();
        let gone: Vec<SessionId> = self
            .sessions
            .iter()
            .filter(|session| self.is_gone(session, now_ms))
            .map(|session| *session.key())
            .collect();
        gone.into_iter().filter(|id| self.remove_if_gone(*id, now_ms)).collect()
    }

    fn remove_if_gone(&self, id: SessionId, now_ms: u64) -> bool {
        let removed = self.sessions.remove_if(&id, |_, session| self.is_gone(session, now_ms));
        let Some((_, session)) = removed else { return false };
        if let Some(notices) = session.notices {
            // Nobody to tell is as good.
            notices.send(Notice::Close("nothing was heard from the client for too long")).ok();
        }
        true
    }

    fn is_gone(&self, session: &Session, now_ms: u64) -> bool {
        let silent = now_ms.saturating_sub(session.heard.load(Ordering::Relaxed));
        match session.notices {
            Some(_) => silent > millis(self.patience.heartbeat_timeout),
            None => session.lost_at.elapsed() > self.patience.reconnect_grace,
        }
    }

    /// Sessions whose leases shall live on.
    pub(super) fn alive(&self) -> Vec<SessionId> {
        self.sessions.iter().map(|session| *session.key()).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    pub(super) fn tell(&self, id: SessionId, notice: Notice) {
        if let Some(session) = self.sessions.get(&id)
            && let Some(notices) = &session.notices
        {
            // Nobody to tell: the worker will learn it when it settles.
            notices.send(notice).ok();
        }
    }

    pub(super) fn tell_all(&self, notice: &Notice) {
        for session in self.sessions.iter() {
            if let Some(notices) = &session.notices {
                notices.send(notice.clone()).ok();
            }
        }
    }

    pub(super) fn list(&self) -> Vec<(SessionId, Worker)> {
        let now_ms = self.now_ms();
        let worker = |session: &Session| Worker {
            visitor: session.visitor.clone(),
            connected_at: session.connected_at,
            silent: Duration::from_millis(
                now_ms.saturating_sub(session.heard.load(Ordering::Relaxed)),
            ),
            connected: session.notices.is_some(),
        };
        self.sessions.iter().map(|session| (*session.key(), worker(&session))).collect()
    }
}

/// A connection's part in a session. Dropping it says that the connection was lost.
#[derive(Debug)]
pub struct Attendance {
    id: SessionId,
    connection: u64,
    heard: Arc<AtomicU64>,
    started: Instant,
    notices: mpsc::UnboundedReceiver<Notice>,
    sessions: Arc<DashMap<SessionId, Session>>,
}

impl Attendance {
    /// The session.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// The client has given a sign of life.
    pub fn heard(&self) {
        self.heard.store(millis(self.started.elapsed()), Ordering::Relaxed);
    }

    /// What the client should be told next. Never ends.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub async fn notice(&mut self) -> Notice {
        match self.notices.recv().await {
            Some(notice) => notice,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Attendance {
    fn drop(&mut self) {
        if let Some(mut session) = self.sessions.get_mut(&self.id)
            && session.connection == self.connection
        {
            session.notices = None;
            session.lost_at = Instant::now();
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: SessionId = SessionId(7);

    fn sessions() -> Sessions {
        Sessions::new(Patience::default())
    }

    fn visitor() -> Visitor {
        Visitor {
            worker: WorkerName::parse("w").unwrap(),
            client: String::new(),
            address: String::new(),
        }
    }

    async fn seconds(count: u64) {
        tokio::time::advance(Duration::from_secs(count)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_connection_is_borne_for_the_grace_only() {
        let sessions = sessions();
        drop(sessions.open(ID, visitor(), Timestamp(0)));
        seconds(3).await;
        assert_eq!(sessions.take_gone(), []);
        seconds(1).await;
        assert_eq!(sessions.take_gone(), [ID]);
        assert!(!sessions.knows(ID));
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_comes_back_in_time_is_not_gone() {
        let sessions = sessions();
        drop(sessions.open(ID, visitor(), Timestamp(0)));
        seconds(3).await;
        let _back = sessions.open(ID, visitor(), Timestamp(0));
        seconds(10).await;
        assert_eq!(sessions.take_gone(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_connection_is_closed_and_its_session_gone() {
        let sessions = sessions();
        let mut attendance = sessions.open(ID, visitor(), Timestamp(0));
        seconds(10).await;
        attendance.heard();
        seconds(15).await;
        assert_eq!(sessions.take_gone(), []);
        seconds(1).await;
        assert_eq!(sessions.take_gone(), [ID]);
        assert!(matches!(attendance.notice().await, Notice::Close(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_connection_does_not_speak_for_a_new_one() {
        let sessions = sessions();
        let mut old = sessions.open(ID, visitor(), Timestamp(0));
        let _new = sessions.open(ID, visitor(), Timestamp(0));
        assert!(matches!(old.notice().await, Notice::Close(_)));
        drop(old);
        seconds(5).await;
        assert_eq!(sessions.take_gone(), []);
    }
}
