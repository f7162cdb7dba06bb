//! One connection, after the handshake.

use std::collections::hash_map::Entry;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use batonq_protocol::messages::{
    AddCredit, CancelRequested, Delivery as WireDelivery, Done, GoAway, LeasesLost, Pong,
    Subscribe, Unsubscribe,
};
use batonq_protocol::{Envelope, FRAME_BYTES_MAX, FrameCodec, FrameError, Message};
use bytes::BytesMut;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rustc_hash::FxHashMap as HashMap;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::codec::{Decoder, Encoder};
use tracing::{Instrument, Span};

use super::convert;
use super::handshake::Guest;
use super::request::{self, Answer, Asker};
use super::together::{self, Together};
use crate::access::Operation;
use crate::broker::{Attendance, Broker, Delivery, Notice, Subscription};
use crate::door::{Door, read_some, write_some};
use crate::error::Error;
use crate::job::{Lease, NewJob, QueueName};
use crate::limits;
use crate::store::Settlement;

/// With so many bytes to be written, writing comes before anything else.
const WRITE_FIRST_BYTES: usize = 256 * 1024;

/// Deliveries that may wait for their turn.
const DELIVERIES_MAX: usize = 2;

/// Pulls and waits of one connection at the same time: each may bring a large answer.
const WAITS_MAX: usize = 128;

/// Other requests with large answers that are served at the same time; the rest have to wait.
const LOOKS_MAX: usize = 8;

/// How often a connection looks whether its client reads.
const TICK: Duration = Duration::from_secs(5);

/// What was asked, and the answers by request.
type Serving = Pin<Box<dyn Future<Output = (Operation, Vec<(u64, Answer)>)> + Send>>;

pub(super) struct Connection {
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    codec: FrameCodec,
    read: BytesMut,
    out: BytesMut,
    /// When the client last took something of what is in `out`.
    taken_at: Instant,
    asker: Arc<Asker>,
    attendance: Attendance,
    requests: FuturesUnordered<Serving>,
    /// Requests that are to be answered by `requests`.
    in_flight: usize,
    /// Of what is being read.
    pushes: Together<NewJob>,
    ends: Together<Settlement>,
    waits: usize,
    looks: Arc<Semaphore>,
    deliveries: (mpsc::Sender<Delivery>, mpsc::Receiver<Delivery>),
    subscriptions: HashMap<u64, Subscription>,
    /// Which subscription gets its credit back for which job.
    held: HashMap<Lease, u64>,
    door: Door,
}

/// Why a connection ends.
enum End {
    /// The client has closed it, or it broke.
    Closed,
    /// Say this, and close.
    Say(Box<Message>),
    /// Close.
    Quiet(&'static str),
}

impl From<std::io::Error> for End {
    fn from(_: std::io::Error) -> Self {
        Self::Closed
    }
}

impl Connection {
    pub(super) fn new(stream: TcpStream, guest: Guest, door: Door) -> Self {
        let asker = Asker {
            door: door.clone(),
            broker: door.broker.clone(),
            principal: guest.principal,
            worker: guest.worker,
            who: guest.who,
            session: guest.attendance.id(),
        };
        let (reader, writer) = stream.into_split();
        Self {
            reader,
            writer,
            codec: FrameCodec::new(FRAME_BYTES_MAX),
            read: guest.read,
            out: BytesMut::new(),
            taken_at: Instant::now(),
            asker: Arc::new(asker),
            attendance: guest.attendance,
            requests: FuturesUnordered::new(),
            in_flight: 0,
            pushes: Together::default(),
            ends: Together::default(),
            waits: 0,
            looks: Arc::new(Semaphore::new(LOOKS_MAX)),
            deliveries: mpsc::channel(DELIVERIES_MAX),
            subscriptions: HashMap::default(),
            held: HashMap::default(),
            door,
        }
    }

    /// Serves the client until it leaves, misbehaves, or the node stops.
    pub(super) async fn run(mut self) {
        match self.serve().await {
            End::Say(message) => {
                self.say(0, *message);
                self.flush().await;
            }
            End::Quiet(reason) => tracing::debug!(reason, "connection closed by the node"),
            End::Closed => {}
        }
        self.leave();
    }

    async fn serve(&mut self) -> End {
        // What came behind the Hello is there already.
        if let Err(end) = self.take_frames() {
            return end;
        }
        let mut tick = tokio::time::interval(TICK);
        loop {
            if let Err(end) = self.step(&mut tick).await {
                return end;
            }
        }
    }

    /// Does what is to be done next. Answers gather as long as there are some; then they are
    /// written at once.
    async fn step(&mut self, tick: &mut tokio::time::Interval) -> Result<(), End> {
        let has_room = self.out.len() < WRITE_FIRST_BYTES;
        let is_stopping = self.door.stop.is_cancelled();
        let is_idle = self.requests.is_empty() && self.held.is_empty() && self.out.is_empty();
        if is_stopping && is_idle {
            return Err(End::Say(Box::new(go_away())));
        }
        tokio::select! {
            biased;
            Some((operation, answers)) = self.requests.next(), if has_room => {
                self.in_flight -= answers.len();
                for (request_id, answer) in answers {
                    self.answer(request_id, operation, answer);
                }
                // Some may have been left for want of room.
                self.take_frames()?;
            }
            Some(delivery) = self.deliveries.1.recv(), if has_room => self.deliver(delivery),
            notice = self.attendance.notice() => self.pass_on(notice)?,
            read = read_some(&mut self.reader, &mut self.read), if has_room
                && self.in_flight < limits::IN_FLIGHT_MAX =>
            {
                if read? == 0 {
                    return Err(End::Closed);
                }
                self.attendance.heard();
                self.take_frames()?;
                if self.read.is_empty() && self.requests.is_empty() {
                    self.read = BytesMut::new();
                }
            }
            written = write_some(&self.writer, &mut self.out), if !self.out.is_empty() => {
                written?;
                self.taken_at = Instant::now();
            }
            _ = tick.tick() => {
                if !self.out.is_empty() && self.taken_at.elapsed() > limits::WRITE_TIMEOUT {
                    return Err(End::Quiet("the client does not read"));
                }
            }
            () = self.door.stop.cancelled(), if !is_stopping => {}
        }
        Ok(())
    }

    /// Jobs on their way to a client that has gone are given back unharmed.
    fn leave(mut self) {
        self.subscriptions.clear();
        self.deliveries.1.close();
        let mut undelivered = Vec::new();
        while let Ok(delivery) = self.deliveries.1.try_recv() {
            undelivered.extend(delivery.jobs.into_iter().map(|job| job.lease));
        }
        self.asker.broker.take_back(undelivered);
    }

    /// Begins what is asked in the frames that have been read, as far as so much may be in flight.
    fn take_frames(&mut self) -> Result<(), End> {
        while self.in_flight + self.pushes.frames() + self.ends.frames() < limits::IN_FLIGHT_MAX {
            match self.codec.decode(&mut self.read) {
                Ok(Some(envelope)) => self.take(envelope)?,
                Ok(None) => break,
                Err(FrameError::Io(_)) => return Err(End::Closed),
                Err(error) => return Err(End::Say(Box::new(convert::framing_error(&error)))),
            }
        }
        self.serve_together();
        Ok(())
    }

    fn take(&mut self, Envelope { request_id, message }: Envelope) -> Result<(), End> {
        let unknown = Error::invalid("message", "is unknown to this version");
        let begun = message.ok_or(unknown).and_then(|message| self.begin(request_id, message));
        if let Err(error) = begun {
            self.say(request_id, convert::error_message(&error));
        }
        Ok(())
    }

    fn begin(&mut self, request_id: u64, message: Message) -> Result<(), Error> {
        let not_a_request = || Error::invalid("message", "is not a request");
        let operation = request::operation(&message).ok_or_else(not_a_request)?;
        self.asker.principal.check(operation)?;
        match message {
            Message::Ping(_) => self.say(request_id, Message::Pong(Pong {})),
            Message::Pong(_) => {}
            _ if request_id == 0 => {
                return Err(Error::invalid("request_id", "must not be 0 in a request"));
            }
            Message::Subscribe(subscribe) => self.subscribe(request_id, &subscribe)?,
            Message::AddCredit(credit) => self.add_credit(request_id, &credit)?,
            Message::Unsubscribe(unsubscribe) => self.unsubscribe(request_id, &unsubscribe)?,
            Message::Push(push) => {
                self.pushes.add(request_id, together::pushed(push)?);
                if self.pushes.is_full() {
                    self.serve_together();
                }
            }
            message @ (Message::Ack(_) | Message::Fail(_) | Message::Release(_)) => {
                self.ends.add(request_id, together::ended(&self.asker.broker, message)?);
                if self.ends.is_full() {
                    self.serve_together();
                }
            }
            message => self.serve_beside(request_id, operation, message)?,
        }
        Ok(())
    }

    /// Serves what has been read together.
    fn serve_together(&mut self) {
        let (pushes, ends) = (std::mem::take(&mut self.pushes), std::mem::take(&mut self.ends));
        self.serve_all(Operation::Push, pushes, Asker::push);
        self.serve_all(Operation::Settle, ends, Asker::settle);
    }

    fn serve_all<T, F>(
        &mut self,
        operation: Operation,
        requests: Together<T>,
        serve: impl FnOnce(Arc<Asker>, Together<T>) -> F,
    ) where
        F: Future<Output = Vec<(u64, Answer)>> + Send + 'static,
    {
        let count = requests.frames();
        if count > 0 {
            let kind = operation.name();
            let span = tracing::debug_span!("request", request_id = ?requests.ids(), kind);
            self.begin_serving(operation, count, span, serve(Arc::clone(&self.asker), requests));
        }
    }

    /// Serves a request while others are served.
    fn serve_beside(
        &mut self,
        request_id: u64,
        operation: Operation,
        message: Message,
    ) -> Result<(), Error> {
        let answer = Arc::clone(&self.asker).answer(message);
        let looks = match operation {
            // Flows, and what is said of leases that are kept.
            Operation::Push | Operation::Settle => None,
            Operation::Pull | Operation::WaitJob => {
                if self.waits >= WAITS_MAX {
                    return Err(Error::Overloaded("too many pulls wait on this connection"));
                }
                self.waits += 1;
                None
            }
            _ => Some(Arc::clone(&self.looks)),
        };
        let span = tracing::debug_span!("request", request_id, kind = operation.name());
        self.begin_serving(operation, 1, span, async move {
            let _look = match &looks {
                // The semaphore is never closed.
                Some(looks) => looks.acquire().await.ok(),
                None => None,
            };
            vec![(request_id, answer.await)]
        });
        Ok(())
    }

    fn begin_serving(
        &mut self,
        operation: Operation,
        count: usize,
        span: Span,
        serving: impl Future<Output = Vec<(u64, Answer)>> + Send + 'static,
    ) {
        self.in_flight += count;
        let serving = async move {
            let answers = serving.await;
            for (request_id, answer) in &answers {
                if let Message::Error(error) = &answer.message {
                    let code = error.code().meaning().name;
                    tracing::debug!(request_id, code, error.detail, "refused");
                }
            }
            (operation, answers)
        };
        self.requests.push(Box::pin(serving.instrument(span)));
    }

    fn subscribe(&mut self, request_id: u64, subscribe: &Subscribe) -> Result<(), Error> {
        let queue = QueueName::parse(&subscribe.queue)?;
        if subscribe.credit > limits::CREDIT_MAX {
            let detail = format!("more than {}", limits::CREDIT_MAX);
            return Err(Error::invalid("credit", detail));
        }
        if self.subscriptions.len() >= limits::SUBSCRIPTIONS_MAX {
            return Err(Error::Overloaded("too many subscriptions on this connection"));
        }
        let Entry::Vacant(place) = self.subscriptions.entry(request_id) else {
            return Err(Error::invalid("request_id", "is the id of another subscription"));
        };
        Broker::check_public(&queue)?;
        let Asker { broker, worker, session, .. } = &*self.asker;
        let deliveries = self.deliveries.0.clone();
        let subscription =
            broker.subscribe(request_id, queue, worker.clone(), *session, deliveries)?;
        subscription.add_credit(subscribe.credit);
        place.insert(subscription);
        self.say(request_id, Message::Done(Done {}));
        Ok(())
    }

    fn add_credit(&mut self, request_id: u64, credit: &AddCredit) -> Result<(), Error> {
        self.subscription(credit.subscription)?.add_credit(credit.credit);
        self.say(request_id, Message::Done(Done {}));
        Ok(())
    }

    fn unsubscribe(&mut self, request_id: u64, message: &Unsubscribe) -> Result<(), Error> {
        self.subscription(message.subscription)?;
        self.subscriptions.remove(&message.subscription);
        self.say(request_id, Message::Done(Done {}));
        Ok(())
    }

    fn subscription(&self, number: u64) -> Result<&Subscription, Error> {
        let missing = || Error::NotFound(format!("there is no subscription {number}"));
        self.subscriptions.get(&number).ok_or_else(missing)
    }

    fn answer(&mut self, request_id: u64, operation: Operation, answer: Answer) {
        if matches!(operation, Operation::Pull | Operation::WaitJob) {
            self.waits -= 1;
        }
        self.return_credit(answer.settled);
        self.say(request_id, answer.message);
    }

    fn return_credit(&mut self, leases: impl IntoIterator<Item = Lease>) {
        let of = |lease| self.held.remove(&lease);
        let mut subscriptions: Vec<u64> = leases.into_iter().filter_map(of).collect();
        subscriptions.sort_unstable();
        for of_one in subscriptions.chunk_by(|one, other| one == other) {
            if let Some(subscription) = self.subscriptions.get(&of_one[0]) {
                subscription.add_credit(u32::try_from(of_one.len()).unwrap_or(u32::MAX));
            }
        }
    }

    fn deliver(&mut self, delivery: Delivery) {
        let number = delivery.subscription;
        if !self.subscriptions.contains_key(&number) {
            let leases: Vec<Lease> = delivery.jobs.into_iter().map(|job| job.lease).collect();
            return self.asker.broker.take_back(leases);
        }
        self.held.extend(delivery.jobs.iter().map(|job| (job.lease, number)));
        let jobs = delivery.jobs.into_iter();
        let jobs = jobs.map(|job| convert::leased_job(&self.asker.broker, job, "")).collect();
        self.say(0, Message::Delivery(WireDelivery { subscription: number, jobs }));
    }

    fn pass_on(&mut self, notice: Notice) -> Result<(), End> {
        match notice {
            Notice::LeasesLost(leases) => {
                self.return_credit(leases.iter().copied());
                let leases = self.asker.tokens(leases);
                self.say(0, Message::LeasesLost(LeasesLost { leases }));
            }
            Notice::CancelRequested(leases) => {
                let leases = self.asker.tokens(leases);
                self.say(0, Message::CancelRequested(CancelRequested { leases }));
            }
            Notice::GoAway => self.say(0, go_away()),
            Notice::Close(reason) => return Err(End::Quiet(reason)),
        }
        Ok(())
    }

    /// Lines a message up to be written.
    fn say(&mut self, request_id: u64, message: Message) {
        if self.out.is_empty() {
            self.taken_at = Instant::now();
        }
        let envelope = Envelope { request_id, message: Some(message) };
        if let Err(error) = self.codec.encode(&envelope, &mut self.out) {
            tracing::error!(request_id, %error, "an answer is too large");
            let error = Error::Internal("the answer does not fit into a frame".into());
            let message = Some(convert::error_message(&error));
            let envelope = Envelope { request_id, message };
            self.codec.encode(&envelope, &mut self.out).expect("an error is small");
        }
    }

    /// Writes what is lined up, if the client takes it soon.
    async fn flush(&mut self) {
        let written = tokio::time::timeout(TICK, self.writer.write_all_buf(&mut self.out)).await;
        if !matches!(written, Ok(Ok(()))) {
            tracing::debug!("the last words were not heard");
        }
    }
}

fn go_away() -> Message {
    Message::GoAway(GoAway { reason: "the node is about to stop".into() })
}
