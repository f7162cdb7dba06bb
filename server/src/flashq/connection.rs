//! One connection: it reads requests, runs them side by side, and writes their answers. Between
//! these it writes the events that its client has subscribed to.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use batonq_protocol::ErrorCode;
use bytes::BytesMut;
use futures_util::StreamExt;
use futures_util::stream::{FuturesOrdered, FuturesUnordered};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Semaphore;
use tokio::time::{Instant, Interval};
use tokio_util::codec::{Decoder, Encoder};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::command::Command;
use super::frame::{self, Codec, FrameError, Happened, Malformed, Mode, Reply, Request};
use super::leases::Leases;
use super::subscriptions::{Subscription, Subscriptions};
use super::{Answer, Client, Fields, Refused, fields};
use crate::access::{Operation, Principal};
use crate::broker::{Attendance, Notice};
use crate::door::{Door, read_some, write_some};
use crate::error::Error;
use crate::job::WorkerName;
use crate::limits;
use crate::store::{Hold, SessionId};

/// With so many bytes to be written, writing comes before anything else.
const WRITE_FIRST_BYTES: usize = 256 * 1024;

/// Pulls and waits of one connection at the same time: each may bring a large answer.
const WAITS_MAX: usize = 128;

/// Other requests with large answers that are served at the same time; the rest have to wait.
const LOOKS_MAX: usize = 8;

/// How often a connection gives the sign of life that its client does not give, and looks whether
/// the client reads.
const TICK: Duration = Duration::from_secs(5);

/// How long a client that is told why its connection ends may take to hear it.
const PARTING_TIME: Duration = Duration::from_secs(1);

/// Somebody who guesses tokens shall have to wait for each.
const AFTER_WRONG_TOKEN: Duration = Duration::from_millis(500);

/// Who is connected.
pub(super) struct Guest {
    pub(super) door: Door,
    pub(super) leases: Leases,
    pub(super) session: SessionId,
    pub(super) worker: WorkerName,
    /// Who it is, in words.
    pub(super) who: String,
}

/// A request that has been served.
struct Served {
    req_id: Option<String>,
    answer: Answer,
    /// How large it was.
    bytes: usize,
    waited: bool,
    /// What begins with the answer.
    subscription: Option<Subscription>,
}

impl Served {
    /// Of a request that held nothing up.
    fn at_once(req_id: Option<String>, answer: Answer) -> Self {
        Self { req_id, answer, bytes: 0, waited: false, subscription: None }
    }
}

type Serving = Pin<Box<dyn Future<Output = Served> + Send>>;

pub(super) struct Connection {
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    codec: Codec,
    read: BytesMut,
    out: BytesMut,
    /// When the client last took something of what is in `out`.
    taken_at: Instant,
    started: Instant,
    guest: Arc<Guest>,
    /// `None`: it has yet to show a token.
    principal: Option<Principal>,
    attendance: Attendance,
    /// Those whose answers are told apart by their ids.
    free: FuturesUnordered<Serving>,
    /// Those whose answers are told apart by their order.
    ordered: FuturesOrdered<Serving>,
    in_flight: usize,
    in_flight_bytes: usize,
    waits: usize,
    looks: Arc<Semaphore>,
    subscriptions: Subscriptions,
    /// Cancelled: the client sends nothing more, and waits for nothing that may never come.
    hung_up: CancellationToken,
    /// It may have been given leases.
    has_pulled: bool,
    /// The node stops or drains.
    is_leaving: bool,
}

/// Why a connection ends.
enum End {
    /// The client has closed it, or it broke.
    Closed,
    /// Say this, and close.
    Say(Refused),
    /// Close.
    Quiet(&'static str),
}

impl From<std::io::Error> for End {
    fn from(_: std::io::Error) -> Self {
        Self::Closed
    }
}

impl Connection {
    pub(super) fn new(stream: TcpStream, mode: Mode, guest: Guest, attendance: Attendance) -> Self {
        // Where no tokens are known, none is needed.
        let principal = guest.door.access.authenticate(None).ok();
        let (reader, writer) = stream.into_split();
        Self {
            reader,
            writer,
            codec: Codec::new(mode, bytes_max(principal)),
            read: BytesMut::new(),
            out: BytesMut::new(),
            taken_at: Instant::now(),
            started: Instant::now(),
            guest: Arc::new(guest),
            principal,
            attendance,
            free: FuturesUnordered::new(),
            ordered: FuturesOrdered::new(),
            in_flight: 0,
            in_flight_bytes: 0,
            waits: 0,
            looks: Arc::new(Semaphore::new(LOOKS_MAX)),
            subscriptions: Subscriptions::default(),
            hung_up: CancellationToken::new(),
            has_pulled: false,
            is_leaving: false,
        }
    }

    /// Serves the client until it leaves, misbehaves, or the node stops.
    pub(super) async fn run(mut self) {
        match self.serve().await {
            End::Say(refused) => {
                self.say(None, &Err(refused));
                self.part().await;
            }
            End::Quiet(reason) => tracing::debug!(reason, "connection closed by the node"),
            End::Closed => {}
        }
        // What is under way ends here: nothing more is leased for this client.
        let Self { free, ordered, guest, has_pulled, .. } = self;
        drop((free, ordered));
        if has_pulled {
            guest.leases.forget_all(guest.session);
        }
    }

    async fn serve(&mut self) -> End {
        let patience = self.guest.door.broker.patience();
        let every = TICK.min(patience.heartbeat_interval).max(Duration::from_millis(10));
        let mut tick = tokio::time::interval(every);
        loop {
            if let Err(end) = self.step(&mut tick).await {
                return end;
            }
        }
    }

    /// Does what is to be done next. Answers gather as long as there are some; then they are
    /// written at once.
    async fn step(&mut self, tick: &mut Interval) -> Result<(), End> {
        self.take_requests()?;
        self.check_over()?;
        let has_room = self.has_room();
        let reads = self.may_take() && !self.hung_up.is_cancelled();
        let tells = has_room && !self.hung_up.is_cancelled() && !self.is_leaving;
        let stop = &self.guest.door.stop;
        tokio::select! {
            biased;
            Some(served) = self.free.next(), if has_room => self.answer(served),
            Some(served) = self.ordered.next(), if has_room => self.answer(served),
            notice = self.attendance.notice() => self.hear(notice)?,
            read = read_some(&mut self.reader, &mut self.read), if reads => {
                if read? == 0 {
                    self.codec.end(&mut self.read);
                    self.hung_up.cancel();
                }
                self.attendance.heard();
            }
            events = self.subscriptions.next(), if tells && !self.subscriptions.is_empty() => {
                self.tell(events);
            }
            written = write_some(&self.writer, &mut self.out), if !self.out.is_empty() => {
                written?;
                self.taken_at = Instant::now();
            }
            _ = tick.tick() => self.check_up()?,
            () = stop.cancelled(), if !self.is_leaving => self.is_leaving = true,
        }
        Ok(())
    }

    fn has_room(&self) -> bool {
        self.out.len() < WRITE_FIRST_BYTES
    }

    /// Whether another request may begin. Who has not shown a token has one at a time.
    fn may_take(&self) -> bool {
        let most = if self.principal.is_some() { limits::IN_FLIGHT_MAX } else { 1 };
        let bytes_max = limits::FLASHQ_FRAME_BYTES_MAX;
        self.has_room() && self.in_flight < most && self.in_flight_bytes < bytes_max
    }

    /// Ends the connection when nothing more can come of it.
    fn check_over(&self) -> Result<(), End> {
        if self.in_flight > 0 || !self.out.is_empty() {
            return Ok(());
        }
        if self.hung_up.is_cancelled() {
            return Err(End::Closed);
        }
        // Its worker has jobs of this node to settle, and may do so over any connection.
        let has_leases = || self.has_pulled && self.guest.leases.has(self.guest.session);
        if self.is_leaving && !has_leases() {
            return Err(End::Quiet("the node is about to stop"));
        }
        Ok(())
    }

    fn check_up(&mut self) -> Result<(), End> {
        self.attendance.heard();
        if self.read.is_empty() {
            self.read = BytesMut::new();
        }
        if !self.out.is_empty() && self.taken_at.elapsed() > limits::WRITE_TIMEOUT {
            return Err(End::Quiet("the client does not read"));
        }
        if self.principal.is_none() && self.started.elapsed() > limits::HANDSHAKE_TIMEOUT {
            return Err(End::Quiet("no token in time"));
        }
        Ok(())
    }

    fn hear(&mut self, notice: Notice) -> Result<(), End> {
        match notice {
            Notice::LeasesLost(leases) => {
                leases.into_iter().for_each(|lease| self.guest.leases.forget(lease));
            }
            // There is no way to tell a client of this protocol: its lease is taken in the end.
            Notice::CancelRequested(_) => {}
            Notice::GoAway => self.is_leaving = true,
            Notice::Close(reason) => return Err(End::Quiet(reason)),
        }
        Ok(())
    }

    /// Begins what is asked in the bytes that have been read.
    fn take_requests(&mut self) -> Result<(), End> {
        while self.may_take() {
            match self.codec.decode(&mut self.read) {
                Ok(Some(request)) => self.take(request),
                Ok(None) => return Ok(()),
                Err(FrameError::Io(_)) => return Err(End::Closed),
                Err(error) => return Err(End::Say(Refused(error.to_string(), ErrorCode::Framing))),
            }
        }
        Ok(())
    }

    fn take(&mut self, Request { said, bytes }: Request) {
        let mut fields = match said {
            Ok(fields) => fields,
            Err(Malformed { req_id, refused }) => return self.answer_now(req_id, Err(refused)),
        };
        let req_id = match fields.remove("reqId") {
            None | Some(Value::Null) => None,
            Some(Value::String(req_id)) => Some(req_id),
            Some(_) => {
                let refused = Refused::invalid("reqId: invalid type: expected a string");
                return self.answer_now(None, Err(refused));
            }
        };
        if let Err(refused) = self.begin(&req_id, fields, bytes) {
            self.answer_now(req_id, Err(refused));
        }
    }

    fn begin(
        &mut self,
        req_id: &Option<String>,
        fields: Fields,
        bytes: usize,
    ) -> Result<(), Refused> {
        let name = fields::text(&fields, "cmd")?;
        if name == "AUTH" {
            let token = fields::text(&fields, "token")?;
            self.authenticate(req_id.clone(), token);
            return Ok(());
        }
        let Some(principal) = self.principal else {
            return Err(Refused("Authentication required".into(), ErrorCode::Unauthenticated));
        };
        if matches!(name, "SUBSCRIBE" | "UNSUBSCRIBE") {
            principal.check(Operation::ListenEvents)?;
            if name == "SUBSCRIBE" {
                self.subscribe(req_id.clone(), fields, bytes);
            } else {
                self.subscriptions.end(&fields::queue(&fields)?);
                self.answer_now(req_id.clone(), Ok(Fields::new()));
            }
            return Ok(());
        }
        let command = Command::find(name)
            .ok_or_else(|| Refused::invalid(format_args!("unknown variant `{name}`")))?;
        principal.check(command.operation)?;
        if command.waits() {
            if self.waits >= WAITS_MAX {
                let detail = "too many pulls wait on this connection";
                return Err(Error::Overloaded(detail).into());
            }
            self.waits += 1;
        }
        self.has_pulled |= command.operation == Operation::Pull;
        self.in_flight_bytes += bytes;
        let serving = self.serving(req_id.clone(), command, fields, bytes);
        self.line_up(req_id.is_some(), serving);
        Ok(())
    }

    /// Serves a request while others are served.
    fn serving(
        &self,
        req_id: Option<String>,
        command: Command,
        fields: Fields,
        bytes: usize,
    ) -> Serving {
        let guest = Arc::clone(&self.guest);
        let looks = match command.operation {
            Operation::Push | Operation::Settle | Operation::Pull | Operation::WaitJob => None,
            _ => Some(Arc::clone(&self.looks)),
        };
        let waited = command.waits();
        let hung_up = waited.then(|| self.hung_up.clone());
        let span = tracing::debug_span!("request", kind = command.operation.name());
        let serving = async move {
            let _look = match &looks {
                // The semaphore is never closed.
                Some(looks) => looks.acquire().await.ok(),
                None => None,
            };
            let client = Client {
                door: &guest.door,
                hold: Hold::Session(guest.session),
                worker: &guest.worker,
                who: &guest.who,
                leases: &guest.leases,
                req_id: req_id.as_deref(),
            };
            let answer = (command.serve)(client, fields);
            let answer = match &hung_up {
                None => answer.await,
                Some(hung_up) => hung_up.run_until_cancelled(answer).await.unwrap_or_else(|| {
                    Err(Refused(
                        "Timeout: nothing is waited for any more".into(),
                        ErrorCode::Unavailable,
                    ))
                }),
            };
            if let Err(refused) = &answer {
                tracing::debug!(reason = refused.0, "refused");
            }
            Served { req_id, answer, bytes, waited, subscription: None }
        };
        Box::pin(serving.instrument(span))
    }

    /// Opens a subscription while requests are served.
    fn subscribe(&mut self, req_id: Option<String>, fields: Fields, bytes: usize) {
        let (guest, looks) = (Arc::clone(&self.guest), Arc::clone(&self.looks));
        let is_free = req_id.is_some();
        let serving = async move {
            // The semaphore is never closed.
            let _look = looks.acquire().await.ok();
            let opened = Subscription::open(&guest.door.broker, &fields).await;
            let (answer, subscription) = match opened {
                Ok(subscription) => (Ok(Fields::new()), Some(subscription)),
                Err(refused) => (Err(refused), None),
            };
            Served { req_id, answer, bytes, waited: false, subscription }
        };
        let kind = Operation::ListenEvents.name();
        let serving = serving.instrument(tracing::debug_span!("request", kind));
        self.in_flight_bytes += bytes;
        self.line_up(is_free, Box::pin(serving));
    }

    fn authenticate(&mut self, req_id: Option<String>, token: &str) {
        match self.guest.door.access.authenticate(Some(token)) {
            Ok(principal) => {
                self.principal = Some(principal);
                self.codec.set_bytes_max(bytes_max(self.principal));
                self.answer_now(req_id, Ok(Fields::new()));
            }
            Err(error) => {
                let is_free = req_id.is_some();
                let answer = Err(error.into());
                let served = Served::at_once(req_id, answer);
                let serving = async move {
                    tokio::time::sleep(AFTER_WRONG_TOKEN).await;
                    served
                };
                self.line_up(is_free, Box::pin(serving));
            }
        }
    }

    fn line_up(&mut self, is_free: bool, serving: Serving) {
        self.in_flight += 1;
        match is_free {
            true => self.free.push(serving),
            false => self.ordered.push_back(serving),
        }
    }

    /// Answers without having served anything, in its turn.
    fn answer_now(&mut self, req_id: Option<String>, answer: Answer) {
        if req_id.is_some() || self.ordered.is_empty() {
            return self.say(req_id.as_deref(), &answer);
        }
        let served = Served::at_once(req_id, answer);
        self.line_up(false, Box::pin(std::future::ready(served)));
    }

    fn answer(&mut self, served: Served) {
        self.in_flight -= 1;
        self.in_flight_bytes -= served.bytes;
        self.waits -= usize::from(served.waited);
        let begun = served.subscription.map(|it| self.subscriptions.begin(it));
        let answer = begun.unwrap_or(Ok(())).and(served.answer);
        self.say(served.req_id.as_deref(), &answer);
    }

    /// Lines events up to be written.
    fn tell(&mut self, events: Vec<Fields>) {
        if self.out.is_empty() {
            self.taken_at = Instant::now();
        }
        for event in events.into_iter().map(Value::Object) {
            let happened = Happened { event: frame::Shown(&event) };
            if let Err(error) = self.codec.encode(happened, &mut self.out) {
                tracing::error!(%error, "an event is too large");
            }
        }
    }

    /// Lines an answer up to be written.
    fn say(&mut self, req_id: Option<&str>, answer: &Answer) {
        if self.out.is_empty() {
            self.taken_at = Instant::now();
        }
        if let Err(error) = self.codec.encode(Reply { req_id, answer }, &mut self.out) {
            tracing::error!(%error, "an answer is too large");
            let answer = Err(Refused(
                "Answer too large: ask for less at once".into(),
                ErrorCode::PayloadTooLarge,
            ));
            let reply = Reply { req_id, answer: &answer };
            if let Err(error) = self.codec.encode(reply, &mut self.out) {
                tracing::error!(%error, "a request id is too large");
            }
        }
    }

    /// Writes what is lined up, if the client takes it soon, and reads on for a moment: a client
    /// that is still sending would not see the answer if the connection were closed.
    async fn part(&mut self) {
        let parting = async {
            self.writer.write_all_buf(&mut self.out).await?;
            self.writer.shutdown().await?;
            self.read.clear();
            while self.reader.read_buf(&mut self.read).await? > 0 {
                self.read.clear();
            }
            Ok::<_, std::io::Error>(())
        };
        let parted = tokio::time::timeout(PARTING_TIME, parting).await;
        tracing::debug!(is_heard = matches!(parted, Ok(Ok(()))), "the last words were said");
    }
}

/// How long a request may be.
fn bytes_max(principal: Option<Principal>) -> usize {
    match principal {
        Some(_) => limits::FLASHQ_FRAME_BYTES_MAX,
        None => limits::FRAME_BYTES_MAX_UNAUTHENTICATED,
    }
}
