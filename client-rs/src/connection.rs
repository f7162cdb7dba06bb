//! One socket: requests out, answers and deliveries in, heartbeats both ways.

mod inwards;
mod outwards;

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use batonq_protocol::messages::{Ping, Pull};
use batonq_protocol::{FRAME_BYTES_MAX, FrameCodec, Message};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::yield_now;
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::dial::Opened;
use crate::error::Error;
use crate::heartbeat::{Beat, Heartbeat};
use crate::outbound::{Outbound, Position};
use crate::request::{Reply, Request};
use crate::session::{Control, Session, Settlement};
use crate::subscription::Feed;

const READ_BYTES: usize = 64 * 1024;
const REQUESTS_PER_TURN_MAX: usize = 256;
/// What a node that names no limit gets.
const IN_FLIGHT_MAX: usize = 1024;
/// How long after the node refused for now to tell it again.
const AGAIN_AFTER: Duration = Duration::from_millis(500);
/// How long the calls on a node that goes away may take: longer than any wait.
const DRAIN_MAX: Duration = Duration::from_secs(90);
/// How long the last words may take.
const LEAVE_MAX: Duration = Duration::from_secs(1);

/// What the clients of a connection want from it.
#[derive(Debug)]
pub(crate) struct Inbox {
    pub(crate) requests: mpsc::Receiver<Request>,
    pub(crate) control: mpsc::UnboundedReceiver<Control>,
}

/// Why a connection serves no longer.
#[derive(Debug)]
pub(crate) enum End {
    /// The client was closed, or dropped.
    Closed,
    /// The node is about to stop.
    GoAway,
    Lost(Lost),
}

/// What went wrong with the socket.
#[derive(Debug)]
pub(crate) struct Lost(pub(crate) String);

impl<E: std::error::Error> From<E> for Lost {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

#[derive(Debug)]
pub(crate) struct Connection {
    session: Arc<Session>,
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    codec: FrameCodec,
    inbound: BytesMut,
    outbound: Outbound,
    heartbeat: Heartbeat,
    alarm: Pin<Box<Sleep>>,
    /// What the node refused for now.
    again: Vec<Control>,
    again_at: Option<Instant>,
    in_flight_max: usize,
    grace: Duration,
    pending: HashMap<u64, Pending>,
    /// Request ids of subscribing to the subscriptions' keys.
    subscriptions: HashMap<u64, u64>,
    going_away: bool,
    /// Room for what is taken from the inbox at once; empty in between.
    requests: Vec<Request>,
    /// What the node holds for this session, and the session has given up for lost or never got.
    unknown: Vec<Bytes>,
}

#[derive(Debug)]
struct Pending {
    about: About,
    begins: Position,
    reply: Option<Reply>,
}

/// What must be known of a request when its answer comes.
#[derive(Debug)]
enum About {
    Anything,
    Pull(Pull),
    Settle(Vec<Bytes>, Settlement),
    Subscribe(Feed),
    Renew { key: u64 },
    Unsubscribe { key: u64, done: Option<oneshot::Sender<()>> },
}

impl Connection {
    /// Goes on with the session as the node's welcome says.
    pub(crate) fn new(opened: Opened, session: Arc<Session>) -> Self {
        let Opened { stream, welcome, inbound } = opened;
        let (reader, writer) = stream.into_split();
        let limits = welcome.limits.unwrap_or_default();
        let heartbeat = Heartbeat::new(&welcome, Instant::now());
        let mut connection = Self {
            reader,
            writer,
            codec: FrameCodec::new(FRAME_BYTES_MAX),
            inbound,
            outbound: Outbound::new(),
            alarm: Box::pin(sleep_until(heartbeat.next())),
            heartbeat,
            again: Vec::new(),
            again_at: None,
            in_flight_max: in_flight_max(limits.in_flight_max),
            grace: Duration::from_millis(welcome.reconnect_grace_ms),
            pending: HashMap::new(),
            subscriptions: HashMap::new(),
            going_away: false,
            requests: Vec::new(),
            unknown: session.welcome(&welcome),
            session,
        };
        connection.outbound.set_frame_bytes_max(limits.frame_bytes_max);
        connection.renew();
        connection
    }

    /// How long the leases outlive this connection.
    pub(crate) fn grace(&self) -> Duration {
        self.grace
    }

    /// Serves the inbox until the connection ends.
    pub(crate) async fn serve(&mut self, inbox: &mut Inbox, closed: &CancellationToken) -> End {
        if let Err(lost) = self.read_frames() {
            return End::Lost(lost);
        }
        self.give_back_unknown(inbox);
        while !self.going_away {
            if let Err(end) = self.step(inbox, closed).await {
                return end;
            }
        }
        End::GoAway
    }

    /// Gives back what the node holds for this session and nobody here works on. What was asked
    /// meanwhile goes first: work may have been done whose leases were given up for lost too soon.
    fn give_back_unknown(&mut self, inbox: &mut Inbox) {
        while self.room() > 0
            && let Ok(request) = inbox.requests.try_recv()
        {
            self.ask(request);
        }
        let mut unknown: HashSet<Bytes> = std::mem::take(&mut self.unknown).into_iter().collect();
        for Pending { about, .. } in self.pending.values() {
            if let About::Settle(leases, Settlement::EndsLease) = about {
                let settling = leases.iter().filter(|lease| unknown.remove(*lease));
                self.session.hold_again(settling);
            }
        }
        self.release(unknown.into_iter().collect());
    }

    /// Serves on at a node that goes away, until there is another connection: jobs that run can
    /// still be settled here, and there may be no other node.
    ///
    /// # Errors
    ///
    /// The end of this connection, if it comes first.
    pub(crate) async fn serve_until<T>(
        &mut self,
        inbox: &mut Inbox,
        closed: &CancellationToken,
        moved: impl Future<Output = T>,
    ) -> Result<T, End> {
        let mut moved = std::pin::pin!(moved);
        loop {
            tokio::select! {
                moved = &mut moved => return Ok(moved),
                step = self.step(inbox, closed) => step?,
            }
        }
    }

    /// Does one thing that the inbox or the socket asks for.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    async fn step(&mut self, inbox: &mut Inbox, closed: &CancellationToken) -> Result<(), End> {
        let room = self.room();
        let mut requests = std::mem::take(&mut self.requests);
        requests.reserve(REQUESTS_PER_TURN_MAX);
        tokio::select! {
            turn = self.turn() => turn.map_err(End::Lost)?,
            taken = inbox.requests.recv_many(&mut requests, room), if room > 0 => {
                if taken == 0 {
                    return Err(End::Closed);
                }
                requests.drain(..).for_each(|request| self.ask(request));
                self.requests = requests;
                // Many tasks may have been woken by one read, and each now asks the next thing. Let
                // them, or there would be a write for each.
                yield_now().await;
                while self.room() > 0
                    && let Ok(request) = inbox.requests.try_recv()
                {
                    self.ask(request);
                }
            }
            Some(control) = inbox.control.recv() => self.obey(control),
            () = closed.cancelled() => return Err(End::Closed),
        }
        Ok(())
    }

    /// Waits for the answers that are still to come from a node that goes away.
    ///
    /// The connection is held until the session has `moved` to another, since the leases last
    /// only as long as one of its connections.
    pub(crate) async fn drain(mut self, moved: CancellationToken) {
        let mut deadline = std::pin::pin!(sleep(DRAIN_MAX));
        while !(moved.is_cancelled() && self.pending.is_empty() && self.outbound.is_empty()) {
            tokio::select! {
                turn = self.turn() => if let Err(Lost(reason)) = turn {
                    tracing::debug!(reason, "a node that went away is gone");
                    break;
                },
                () = moved.cancelled(), if !moved.is_cancelled() => {}
                () = &mut deadline => break,
            }
        }
        self.lose_pending("the node went away");
    }

    /// Gives all jobs back and closes.
    pub(crate) async fn leave(mut self, inbox: &mut Inbox) {
        while let Ok(control) = inbox.control.try_recv() {
            self.obey(control);
        }
        let held = self.session.lose_all();
        self.release(held);
        // Not in time is as good: the node will notice by itself.
        timeout(LEAVE_MAX, self.say_farewell()).await.ok();
        self.lose_pending("the client was closed");
    }

    /// Writes what is left to say, and listens until the node closes too.
    async fn say_farewell(&mut self) -> Result<(), Lost> {
        while !self.outbound.is_empty() {
            self.turn().await?;
        }
        self.writer.shutdown().await?;
        while self.turn().await.is_ok() {}
        Ok(())
    }

    /// Ends the calls that will have no answer.
    pub(crate) fn lose_pending(&mut self, reason: &str) {
        for (_, Pending { about, begins, reply }) in self.pending.drain() {
            match about {
                About::Subscribe(feed) => self.session.unsubscribed(feed.key(), None),
                About::Unsubscribe { key, .. } => self.session.unsubscribed(key, None),
                _ => {}
            }
            let Some(reply) = reply else { continue };
            let error = match self.outbound.was_begun(begins) {
                true => reply.outcome(reason),
                false => Error::Disconnected,
            };
            // Who does not wait any more need not be told.
            reply.send(Err(error)).ok();
        }
        for control in self.again.drain(..) {
            if let Control::Unsubscribe { key, .. } = control {
                self.session.unsubscribed(key, None);
            }
        }
    }

    fn room(&self) -> usize {
        if self.outbound.is_full() {
            return 0;
        }
        self.in_flight_max.saturating_sub(self.pending.len()).min(REQUESTS_PER_TURN_MAX)
    }

    /// Waits for one thing to happen on the socket, or in time, and does what follows from it.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    async fn turn(&mut self) -> Result<(), Lost> {
        self.inbound.reserve(READ_BYTES);
        tokio::select! {
            read = self.reader.read_buf(&mut self.inbound) => {
                if read? == 0 {
                    return Err(Lost("closed by the node".to_owned()));
                }
                self.heartbeat.heard(Instant::now());
                self.read_frames()
            }
            written = self.outbound.write_to(&mut self.writer), if !self.outbound.is_empty() => {
                written?;
                Ok(())
            }
            () = self.alarm.as_mut() => self.beat(),
        }
    }
}

/// Time.
impl Connection {
    fn beat(&mut self) -> Result<(), Lost> {
        let now = Instant::now();
        if self.again_at.is_some_and(|at| now >= at) {
            self.again_at = None;
            std::mem::take(&mut self.again).into_iter().for_each(|control| self.obey(control));
        }
        match self.heartbeat.beat(now) {
            Beat::Dead => return Err(Lost("the node is silent".to_owned())),
            Beat::Ping => {
                let id = self.session.next_request_id();
                self.tell(id, Message::Ping(Ping {}), About::Anything);
            }
            Beat::Wait => {}
        }
        self.set_alarm();
        Ok(())
    }

    fn set_alarm(&mut self) {
        let next = self.heartbeat.next();
        self.alarm.as_mut().reset(self.again_at.map_or(next, |at| at.min(next)));
    }

    fn again(&mut self, control: Control) {
        self.again.push(control);
        self.again_at.get_or_insert(Instant::now() + AGAIN_AFTER);
        self.set_alarm();
    }
}

/// How many calls may be in flight. An eighth of what the node allows is left for what the
/// connection asks on its own.
fn in_flight_max(announced: u32) -> usize {
    match announced as usize {
        0 => IN_FLIGHT_MAX,
        max => max - max / 8,
    }
}
