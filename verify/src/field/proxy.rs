//! A way to a server on which anything may happen to what is sent.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use super::FieldError;

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

/// One of the two ways of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// What the client sends.
    ToServer,
    /// What the server sends.
    ToClient,
}

/// What happens to what is sent, on connections that are there and on those to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// It arrives.
    Pass,
    /// It waits, as packets that are sent again do, and arrives when that is over.
    Hold(Cut),
    /// It arrives later. What comes during the wait is sent on together, so that a stream of it is
    /// slow as well.
    Delay(Duration),
    /// It is lost. A connection that has lost something is reset when that is over.
    Drop,
    /// After so many more bytes in that direction a connection ends, both ways.
    CutAfter(Direction, u64),
}

/// Passes connections on to a server. Closes them all, and listens no more, when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    orders: watch::Sender<Orders>,
    accepting: JoinHandle<()>,
}

/// What connections go by. The counters rise with each order that is to be carried out once.
#[derive(Debug, Clone, Copy)]
struct Orders {
    verb: Verb,
    turn: u32,
    resets: u32,
    ends_to_server: u32,
    ends_to_client: u32,
}

/// Why a connection is over although neither side has said so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Closed,
    Reset,
}

/// One direction of one connection.
struct Pump {
    direction: Direction,
    orders: watch::Receiver<Orders>,
    now: Orders,
    buffer: Vec<u8>,
    /// What of the buffer is still to be sent on.
    waiting: std::ops::Range<usize>,
    /// Not to be sent on before.
    due: Instant,
    /// The receiver has been told that nothing comes any more.
    has_ended: bool,
    has_lost: bool,
    /// Until the connection is cut.
    left: Option<u64>,
}

impl Cut {
    fn stops(self, direction: Direction) -> bool {
        match direction {
            Direction::ToServer => self != Self::Inwards,
            Direction::ToClient => self != Self::Outwards,
        }
    }
}

impl Orders {
    fn holds(&self, direction: Direction) -> bool {
        matches!(self.verb, Verb::Hold(cut) if cut.stops(direction))
    }

    fn ends(&self, direction: Direction) -> u32 {
        match direction {
            Direction::ToServer => self.ends_to_server,
            Direction::ToClient => self.ends_to_client,
        }
    }

    fn bytes_left(&self, direction: Direction) -> Option<u64> {
        match self.verb {
            Verb::CutAfter(of, bytes) if of == direction => Some(bytes),
            _ => None,
        }
    }
}

impl Proxy {
    /// A way to `server`, `host:port`.
    ///
    /// # Errors
    ///
    /// If there is no free port.
    pub async fn to(server: impl Into<String>) -> Result<Self, FieldError> {
        let failed = "listening on a port of its own for a proxy";
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.map_err(FieldError::io(failed))?;
        let address = listener.local_addr().map_err(FieldError::io(failed))?;
        let pass =
            Orders { verb: Verb::Pass, turn: 0, resets: 0, ends_to_server: 0, ends_to_client: 0 };
        let (orders, told) = watch::channel(pass);
        let accepting = tokio::spawn(accept(listener, server.into(), told));
        Ok(Self { address, orders, accepting })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on this happens, until something else is set.
    pub fn set(&self, verb: Verb) {
        self.orders.send_modify(|orders| {
            orders.verb = verb;
            orders.turn += 1;
        });
    }

    /// All connections of this moment are reset.
    pub fn reset(&self) {
        self.orders.send_modify(|orders| orders.resets += 1);
    }

    /// On all connections of this moment the receiver of that direction is told that nothing comes
    /// any more; the other direction goes on.
    pub fn half_close(&self, direction: Direction) {
        self.orders.send_modify(|orders| match direction {
            Direction::ToServer => orders.ends_to_server += 1,
            Direction::ToClient => orders.ends_to_client += 1,
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, server: String, orders: watch::Receiver<Orders>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // As many as the process may have open: some will close.
                let Ok((client, _)) = accepted else {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                };
                connections.spawn(connect(client, server.clone(), orders.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connect(mut client: TcpStream, server: String, mut orders: watch::Receiver<Orders>) {
    // A connection that is made while nothing passes gets nowhere.
    let passes = |orders: &Orders| !orders.holds(Direction::ToServer) && orders.verb != Verb::Drop;
    let now = match orders.wait_for(passes).await {
        Ok(now) => *now,
        Err(_) => return,
    };
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    // Worse latency is no reason to end a connection.
    client.set_nodelay(true).ok();
    server.set_nodelay(true).ok();
    let ending = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let there = Pump::new(Direction::ToServer, orders.clone(), now);
        let back = Pump::new(Direction::ToClient, orders, now);
        tokio::try_join!(there.run(from_client, to_server), back.run(from_server, to_client))
    };
    if ending == Err(Ending::Reset) {
        // One that is closed already can not be reset.
        client.set_zero_linger().ok();
        server.set_zero_linger().ok();
    }
}

impl Pump {
    fn new(direction: Direction, orders: watch::Receiver<Orders>, now: Orders) -> Self {
        Self {
            direction,
            orders,
            now,
            buffer: vec![0; 64 * 1024],
            waiting: 0..0,
            due: Instant::now(),
            has_ended: false,
            has_lost: false,
            left: now.bytes_left(direction),
        }
    }

    /// Until the sender has ended, or an order ends the connection.
    async fn run(mut self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> Result<(), Ending> {
        loop {
            let passes = !self.now.holds(self.direction);
            tokio::select! {
                biased;
                changed = self.orders.changed() => {
                    changed.map_err(|_| Ending::Closed)?;
                    if self.obey()? && !self.has_ended {
                        self.has_ended = true;
                        to.shutdown().await.map_err(|_| Ending::Closed)?;
                    }
                }
                step = step(&mut self.buffer, &self.waiting, self.due, &mut from, &mut to),
                    if passes => match step? {
                        Step::Sent(count) => self.sent(count)?,
                        Step::Received(0) if self.has_ended => return Ok(()),
                        Step::Received(0) => return to.shutdown().await.map_err(|_| Ending::Closed),
                        Step::Received(count) => self.received(count)?,
                    }
            }
        }
    }

    /// Takes note of new orders. Whether the receiver is to be told that nothing comes any more.
    fn obey(&mut self) -> Result<bool, Ending> {
        let next = *self.orders.borrow_and_update();
        let before = std::mem::replace(&mut self.now, next);
        let is_over = self.has_lost && next.verb != Verb::Drop;
        if is_over || next.resets != before.resets {
            return Err(Ending::Reset);
        }
        if next.turn != before.turn {
            self.left = next.bytes_left(self.direction);
        }
        Ok(next.ends(self.direction) != before.ends(self.direction))
    }

    fn received(&mut self, count: usize) -> Result<(), Ending> {
        if self.now.verb == Verb::Drop {
            self.has_lost = true;
        }
        if self.has_lost || self.has_ended {
            return Ok(());
        }
        let left = self.left.map_or(count, |left| usize::try_from(left).unwrap_or(count));
        if left == 0 {
            return Err(Ending::Closed);
        }
        self.waiting = 0..count.min(left);
        self.due = Instant::now();
        if let Verb::Delay(delay) = self.now.verb {
            self.due += delay;
        }
        Ok(())
    }

    fn sent(&mut self, count: usize) -> Result<(), Ending> {
        self.waiting.start += count;
        let Some(left) = &mut self.left else { return Ok(()) };
        *left = left.saturating_sub(count as u64);
        match *left {
            0 => Err(Ending::Closed),
            _ => Ok(()),
        }
    }
}

/// What a connection has done: so many bytes.
enum Step {
    Sent(usize),
    Received(usize),
}

/// Sends on what waits, when it is due; receives if nothing waits.
async fn step(
    buffer: &mut [u8],
    waiting: &std::ops::Range<usize>,
    due: Instant,
    from: &mut ReadHalf<'_>,
    to: &mut WriteHalf<'_>,
) -> Result<Step, Ending> {
    if waiting.is_empty() {
        return from.read(buffer).await.map(Step::Received).map_err(|_| Ending::Reset);
    }
    if due > Instant::now() {
        tokio::time::sleep_until(due).await;
    }
    to.write(&buffer[waiting.clone()]).await.map(Step::Sent).map_err(|_| Ending::Closed)
}
