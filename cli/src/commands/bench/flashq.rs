//! Producers and consumers over the flashQ protocol, in batches, as text or as MessagePack.
//!
//! It speaks that protocol only. The generator is to cost little: the bytes of a push are made once
//! and sent again and again under new numbers, and of the jobs that come nothing is read but their
//! ids. So no job says when it was pushed: deliveries are not timed.

use std::collections::HashMap;
use std::sync::Arc;

use batonq_server::limits::FLASHQ_FRAME_BYTES_MAX;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::crew::Crew;
use super::cycle::{account, drain, requests_at_once};
use super::load::payload;
use super::meter::{Meter, micros};
use super::{Bench, Dial, Outcome};
use crate::exit::Failure;

/// How long a pull waits for a first job.
const WAIT_MS: u32 = 200;

/// Pulls of one connection that wait at the same time: a node serves 128.
const PULLS_MAX: u32 = 100;

/// Requests of one connection that wait to be sent; whoever has another one waits.
const UNSENT_MAX: usize = 64;

/// As much as is read at once, where there is as much: an answer with 500 jobs is larger.
const READ_BYTES: usize = 256 * 1024;

/// What the length of a frame takes.
const LENGTH_BYTES: usize = 4;

pub(super) async fn run(bench: &Bench, dial: &Dial, framing: Framing) -> Result<Outcome, Failure> {
    let queue = bench.load.queue.as_str();
    let admin = Peer::connect(dial, framing).await?;
    let meter = Meter::new(bench.mode, admin.left(queue).await?);
    let meter = Arc::new(meter.at_most_ahead(bench.ahead));
    let push = framing.body(&push(bench)?)?;
    let pull = framing.body(&Request::PullB { queue, count: bench.batch, timeout: WAIT_MS })?;
    let (mut producers, mut consumers) = (Crew::default(), Crew::default());
    // The tasks of a connection ask side by side: while one acks, another one pulls.
    for _ in 0..bench.connections {
        let consumer = Peer::connect(dial, framing).await?;
        for _ in 0..requests_at_once(bench).min(PULLS_MAX) {
            let (peer, meter) = (consumer.clone(), Arc::clone(&meter));
            consumers.spawn(consume(peer, pull.clone(), meter, consumers.stop.clone()));
        }
        let producer = Peer::connect(dial, framing).await?;
        for _ in 0..requests_at_once(bench) {
            let (peer, meter) = (producer.clone(), Arc::clone(&meter));
            let turn = (push.clone(), bench.batch);
            producers.spawn(produce(peer, turn, meter, producers.stop.clone()));
        }
    }
    let period = tokio::select! {
        period = meter.watch(&bench.watch) => period?,
        failure = producers.failure() => return Err(failure),
        failure = consumers.failure() => return Err(failure),
    };
    producers.stop().await?;
    drain(&meter).await;
    consumers.stop().await?;
    Ok(account(meter, period, admin.left(queue).await?))
}

/// A batch of jobs that are all alike.
fn push(bench: &Bench) -> Result<Request<'_>, Failure> {
    let data = match payload(bench.load.payload_bytes as usize, None) {
        empty if empty.is_empty() => Value::Null,
        json => serde_json::from_slice(&json).map_err(Failure::other)?,
    };
    let jobs = vec![Pushed { data }; bench.batch as usize];
    Ok(Request::PushB { queue: &bench.load.queue, jobs })
}

async fn produce(
    peer: Peer,
    (push, count): (Bytes, u32),
    meter: Arc<Meter>,
    stop: CancellationToken,
) -> Result<(), Failure> {
    while !stop.is_cancelled() {
        tokio::select! {
            () = meter.room_for(count) => {}
            () = stop.cancelled() => break,
        }
        let started = Instant::now();
        let answer = peer.ask(push.clone()).await?;
        let pushed = answer.ids.len();
        if pushed != count as usize {
            let error = answer.errors.first().map_or("without a reason", |one| &one.error);
            return Err(Failure::other(format!("{pushed} of {count} jobs were pushed: {error}")));
        }
        meter.pushes.record(micros(started), 1);
        meter.stored(pushed);
    }
    Ok(())
}

async fn consume(
    peer: Peer,
    pull: Bytes,
    meter: Arc<Meter>,
    stop: CancellationToken,
) -> Result<(), Failure> {
    while !stop.is_cancelled() {
        let jobs = peer.ask(pull.clone()).await?.jobs;
        if jobs.is_empty() {
            continue;
        }
        let ids = jobs.iter().map(|job| job.id).collect();
        let started = Instant::now();
        // The only number in the answer is how many there were.
        let acked = peer.say(&Request::AckB { ids }).await?.ids.first().copied().unwrap_or(0);
        if acked != jobs.len() as u64 {
            return Err(Failure::other(format!("{acked} of {} jobs were acked", jobs.len())));
        }
        meter.settled(jobs.len(), micros(started));
    }
    Ok(())
}

// ---------------------------------------------------------------- what is said

/// A request, without its number.
#[derive(Serialize)]
#[serde(tag = "cmd", rename_all = "UPPERCASE")]
enum Request<'a> {
    Auth { token: &'a str },
    GetJobCounts { queue: &'a str },
    PushB { queue: &'a str, jobs: Vec<Pushed> },
    PullB { queue: &'a str, count: u32, timeout: u32 },
    AckB { ids: Vec<u64> },
}

#[derive(Serialize, Clone)]
struct Pushed {
    data: Value,
}

/// What is read of an answer, whatever it is to.
#[derive(Debug, Deserialize, Default, PartialEq, Eq)]
#[serde(default)]
struct Answer {
    #[serde(rename = "reqId")]
    number: Option<String>,
    error: Option<String>,
    ids: Vec<u64>,
    errors: Vec<Refused>,
    jobs: Vec<Pulled>,
    waiting: u64,
    active: u64,
    delayed: u64,
}

/// A job of a batch that was not pushed.
#[derive(Debug, Deserialize, PartialEq, Eq)]
struct Refused {
    error: String,
}

#[derive(Debug, Deserialize, PartialEq, Eq)]
struct Pulled {
    id: u64,
}

/// How a connection talks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// JSON, a line each.
    Text,
    /// MessagePack, behind its length.
    Binary,
}

impl Framing {
    /// A request without its number: a map of a few fields, `cmd` the first of them.
    fn body(self, request: &Request<'_>) -> Result<Bytes, Failure> {
        let body = match self {
            Self::Text => serde_json::to_vec(request).map_err(Failure::other)?,
            Self::Binary => rmp_serde::to_vec_named(request).map_err(Failure::other)?,
        };
        Ok(body.into())
    }

    /// Appends a request as it is sent: the number comes as the first field of its map.
    fn write(self, number: u64, body: &[u8], out: &mut BytesMut) {
        let number = number.to_string();
        match self {
            Self::Text => {
                out.put_slice(b"{\"reqId\":\"");
                out.put_slice(number.as_bytes());
                out.put_slice(b"\",");
                out.put_slice(&body[1..]);
                out.put_u8(b'\n');
            }
            Self::Binary => {
                // A map of up to 15 fields, and a string of up to 31 bytes, each have their length
                // in their first byte.
                let (key, digits) = (b"\xa5reqId", number.len() as u8);
                let length = key.len() + 1 + number.len() + body.len();
                out.put_u32(length as u32);
                out.put_u8(body[0] + 1);
                out.put_slice(key);
                out.put_u8(0xa0 | digits);
                out.put_slice(number.as_bytes());
                out.put_slice(&body[1..]);
            }
        }
    }

    fn parse(self, bytes: &[u8]) -> Result<Answer, String> {
        let parsed = match self {
            Self::Text => serde_json::from_slice(bytes).map_err(|error| error.to_string()),
            Self::Binary => rmp_serde::from_slice(bytes).map_err(|error| error.to_string()),
        };
        parsed.map_err(|error| format!("answer: {error}"))
    }
}

/// What has been read and not been taken.
struct Inbox {
    framing: Framing,
    bytes: BytesMut,
    /// So many bytes have been looked through for the end of the line.
    seen: usize,
}

impl Inbox {
    fn new(framing: Framing) -> Self {
        Self { framing, bytes: BytesMut::new(), seen: 0 }
    }

    /// The next answer, if all of it is there.
    fn take(&mut self) -> Option<BytesMut> {
        match self.framing {
            Framing::Text => {
                let more = self.bytes[self.seen..].iter().position(|byte| *byte == b'\n');
                let Some(more) = more else {
                    self.seen = self.bytes.len();
                    return None;
                };
                let end = std::mem::take(&mut self.seen) + more;
                Some(self.bytes.split_to(end + 1))
            }
            Framing::Binary => {
                let length = u32::from_be_bytes(*self.bytes.first_chunk()?) as usize;
                if self.bytes.len() < LENGTH_BYTES + length {
                    return None;
                }
                self.bytes.advance(LENGTH_BYTES);
                Some(self.bytes.split_to(length))
            }
        }
    }
}

// ---------------------------------------------------------------- connections

/// An answer, or why there is none.
type Told = Result<Answer, String>;

/// One connection. Cheap to clone: all clones are one, and ask side by side.
#[derive(Clone)]
struct Peer {
    framing: Framing,
    host: Arc<str>,
    requests: mpsc::Sender<(Bytes, oneshot::Sender<Told>)>,
}

impl Peer {
    async fn connect(dial: &Dial, framing: Framing) -> Result<Self, Failure> {
        let host: Arc<str> = dial.next_url().into();
        let unreachable = |error: std::io::Error| Failure::other(format!("{host}: {error}"));
        let stream = TcpStream::connect(&*host).await.map_err(unreachable)?;
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        let (requests, asked) = mpsc::channel(UNSENT_MAX);
        let inbox = Inbox::new(framing);
        let (out, waiting) = (BytesMut::new(), HashMap::new());
        let connection = Connection { reader, writer, asked, inbox, out, waiting, last: 0 };
        tokio::spawn(connection.run());
        let peer = Self { framing, host, requests };
        if let Some(token) = &dial.token {
            peer.say(&Request::Auth { token }).await?;
        }
        Ok(peer)
    }

    /// What is in the queue and has not been acked.
    async fn left(&self, queue: &str) -> Result<u64, Failure> {
        let counts = self.say(&Request::GetJobCounts { queue }).await?;
        Ok(counts.waiting + counts.active + counts.delayed)
    }

    async fn say(&self, request: &Request<'_>) -> Result<Answer, Failure> {
        self.ask(self.framing.body(request)?).await
    }

    /// Sends a request that has been written before.
    async fn ask(&self, body: Bytes) -> Result<Answer, Failure> {
        let (told, answer) = oneshot::channel();
        // Where the connection has ended, nobody tells anything.
        self.requests.send((body, told)).await.ok();
        let answer = answer.await.unwrap_or_else(|_| Err("the connection has ended".into()));
        answer.map_err(|error| Failure::other(format!("{}: {error}", self.host)))
    }
}

/// Sends what it is asked to and hands answers to those who wait for them; ends with the last
/// [`Peer`] or with the first thing that goes wrong.
struct Connection {
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    asked: mpsc::Receiver<(Bytes, oneshot::Sender<Told>)>,
    inbox: Inbox,
    out: BytesMut,
    /// By the numbers of their requests.
    waiting: HashMap<u64, oneshot::Sender<Told>>,
    /// The number of the last request.
    last: u64,
}

impl Connection {
    async fn run(mut self) {
        let Err(reason) = self.serve().await else { return };
        for waiting in self.waiting.into_values() {
            // Who has gone needs no answer.
            waiting.send(Err(reason.clone())).ok();
        }
    }

    async fn serve(&mut self) -> Result<(), String> {
        let broken = |error: std::io::Error| error.to_string();
        loop {
            self.inbox.bytes.reserve(READ_BYTES);
            tokio::select! {
                asked = self.asked.recv() => {
                    let Some((body, told)) = asked else { return Ok(()) };
                    self.last += 1;
                    self.inbox.framing.write(self.last, &body, &mut self.out);
                    self.waiting.insert(self.last, told);
                }
                read = self.reader.read_buf(&mut self.inbox.bytes) => {
                    if read.map_err(broken)? == 0 {
                        return Err("the connection was closed".into());
                    }
                    self.hear()?;
                }
                written = self.writer.write_buf(&mut self.out), if !self.out.is_empty() => {
                    written.map_err(broken)?;
                }
            }
        }
    }

    /// Hands over the answers that have come.
    fn hear(&mut self) -> Result<(), String> {
        while let Some(bytes) = self.inbox.take() {
            let mut answer = self.inbox.framing.parse(&bytes)?;
            let error = answer.error.take();
            let number = answer.number.as_deref().and_then(|number| number.parse().ok());
            let Some(waiting) = number.and_then(|number: u64| self.waiting.remove(&number)) else {
                return Err(error.unwrap_or_else(|| "an answer to nothing that was asked".into()));
            };
            // Who has gone needs no answer.
            waiting.send(error.map_or(Ok(answer), Err)).ok();
        }
        match self.inbox.bytes.len() > LENGTH_BYTES + FLASHQ_FRAME_BYTES_MAX {
            true => Err("an answer is too long".into()),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Framing; 2] = [Framing::Text, Framing::Binary];

    fn jobs(count: usize) -> Vec<Pushed> {
        vec![Pushed { data: "x".into() }; count]
    }

    #[test]
    fn a_request_has_its_number_beside_its_fields() {
        for framing in BOTH {
            let request = Request::PushB { queue: "q", jobs: jobs(20) };
            let body = framing.body(&request).unwrap();
            for number in [7, u64::MAX] {
                let mut out = BytesMut::new();
                framing.write(number, &body, &mut out);
                let mut sent = Inbox { bytes: out, ..Inbox::new(framing) };
                let bytes = sent.take().unwrap();
                assert!(sent.bytes.is_empty(), "{framing:?}");
                let told: Value = match framing {
                    Framing::Text => serde_json::from_slice(&bytes).unwrap(),
                    Framing::Binary => rmp_serde::from_slice(&bytes).unwrap(),
                };
                assert_eq!(told["cmd"], "PUSHB");
                assert_eq!(told["reqId"], number.to_string());
                assert_eq!(told["queue"], "q");
                assert_eq!(told["jobs"][19]["data"], "x");
                assert_eq!(told.as_object().unwrap().len(), 4);
            }
        }
    }

    #[test]
    fn answers_may_come_in_parts_and_only_ids_are_read_of_jobs() {
        let job = |id: u64| serde_json::json!({"attempts": 0, "data": {"id": 9}, "id": id});
        let answer = serde_json::json!({
            "reqId": "7", "ok": true, "jobs": [job(1), job(2)], "other": [{"ids": [3]}],
        });
        for framing in BOTH {
            let mut bytes = BytesMut::new();
            match framing {
                Framing::Text => bytes.put_slice(format!("{answer}\r\n").as_bytes()),
                Framing::Binary => {
                    let body = rmp_serde::to_vec_named(&answer).unwrap();
                    bytes.put_u32(body.len() as u32);
                    bytes.put_slice(&body);
                }
            }
            let (mut inbox, mut taken) = (Inbox::new(framing), Vec::new());
            for byte in [&bytes[..], &bytes[..]].concat() {
                inbox.bytes.put_u8(byte);
                taken.extend(inbox.take().map(|bytes| framing.parse(&bytes).unwrap()));
            }
            let wanted = || Answer {
                number: Some("7".into()),
                jobs: vec![Pulled { id: 1 }, Pulled { id: 2 }],
                ..Answer::default()
            };
            assert_eq!(taken, [wanted(), wanted()], "{framing:?}");
        }
    }
}
