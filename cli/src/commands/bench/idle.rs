//! Connections that do nothing but live.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use batonq_protocol::messages::{Hello, Ping, Pong};
use batonq_protocol::{
    Envelope, FRAME_BYTES_MAX, FrameCodec, Message, PREFACE, VERSION_MAX, VERSION_MIN,
};
use bytes::BytesMut;
use rustix::param::clock_ticks_per_second;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at, timeout};
use tokio_util::codec::{Decoder, Encoder};
use tokio_util::sync::CancellationToken;

use super::meter::{Counter, Meter, micros};
use super::{Bench, Dial, Outcome, note};
use crate::exit::Failure;

/// Handshakes at once: fewer than a node lets wait.
const OPENING_MAX: usize = 100;

/// A node that has not said welcome by then will not.
const OPENED_WITHIN: Duration = Duration::from_secs(20);

/// Files that the program has open beside its connections.
const OTHER_FILES: u64 = 64;

/// What a connection reads at once: it is a few bytes every few seconds.
const READ_BYTES: usize = 128;

/// What a handshake ends with, if it ends well.
type Alive = (Line, Duration);

pub(super) async fn run(bench: &Bench, dial: &Dial) -> Result<Outcome, Failure> {
    let count = u64::from(bench.connections);
    allow_files(count + OTHER_FILES)?;
    let node = bench.pid.map(Process);
    let before = node.as_ref().map(Process::usage).transpose()?;
    let meter = Arc::new(Meter::new(bench.mode, 0));
    let lines = open(count, dial, &meter).await?;
    let opened = lines.len() as u64;

    let (stop, lost) = (CancellationToken::new(), Arc::new(Counter::default()));
    let mut tasks = JoinSet::new();
    for (line, heartbeat) in lines {
        let (stop, lost) = (stop.clone(), Arc::clone(&lost));
        tasks.spawn(async move {
            tokio::select! {
                () = line.live(heartbeat) => lost.add(1),
                () = stop.cancelled() => {}
            }
        });
    }
    let begin = node.as_ref().map(Process::usage).transpose()?;
    let period = meter.watch(&bench.watch).await?;
    let end = node.as_ref().map(Process::usage).transpose()?;
    let lived = opened - lost.get();
    stop.cancel();
    while tasks.join_next().await.is_some() {}

    let mut details = vec![("opened", opened), ("lived", lived)];
    if let (Some(before), Some(begin), Some(end)) = (before, begin, end) {
        let grown = end.rss_bytes.saturating_sub(before.rss_bytes);
        let cpu = (end.cpu - begin.cpu).as_secs_f64() / period.elapsed.as_secs_f64();
        details.push(("node_rss_before_kib", before.rss_bytes / 1024));
        details.push(("node_rss_kib", end.rss_bytes / 1024));
        details.push(("node_bytes_per_connection", grown / opened.max(1)));
        details.push(("node_cpu_permille", (cpu * 1000.0).round() as u64));
    }
    Ok(Outcome { meter, period, details, is_whole: lived == count })
}

/// Opens connections; those that are refused are left out, with a word on standard error.
async fn open(count: u64, dial: &Dial, meter: &Arc<Meter>) -> Result<Vec<Alive>, Failure> {
    let room = Arc::new(Semaphore::new(OPENING_MAX));
    let mut opening = JoinSet::new();
    for _ in 0..count {
        let ticket = Arc::clone(&room).acquire_owned().await.map_err(Failure::other)?;
        let address = dial.next_url().trim_start_matches("tcp://").to_owned();
        let (token, meter) = (dial.token.clone().unwrap_or_default(), Arc::clone(meter));
        opening.spawn(async move {
            let started = Instant::now();
            let opened = timeout(OPENED_WITHIN, Line::open(&address, token)).await;
            drop(ticket);
            meter.turns.record(micros(started), 1);
            opened.map_err(|_| "no welcome in time".to_owned()).flatten()
        });
    }
    let mut lines = Vec::new();
    let mut refused = None;
    while let Some(opened) = opening.join_next().await {
        match opened.map_err(Failure::other)? {
            Ok(line) => lines.push(line),
            Err(reason) => refused = Some(reason),
        }
    }
    if let Some(reason) = refused {
        let count = count - lines.len() as u64;
        note(&format!("{count} connections were refused, the last one: {reason}"))?;
    }
    Ok(lines)
}

/// A connection on which the node has said welcome.
struct Line {
    stream: TcpStream,
    codec: FrameCodec,
    inbound: BytesMut,
}

impl Line {
    /// Also says how often the node wants to hear of it.
    async fn open(address: &str, token: String) -> Result<Alive, String> {
        let text = |error: std::io::Error| error.to_string();
        let stream = TcpStream::connect(address).await.map_err(text)?;
        stream.set_nodelay(true).map_err(text)?;
        let codec = FrameCodec::new(FRAME_BYTES_MAX);
        let mut line = Self { stream, codec, inbound: BytesMut::new() };
        line.stream.write_all(&PREFACE).await.map_err(text)?;
        let hello = Hello {
            version_min: VERSION_MIN,
            version_max: VERSION_MAX,
            token,
            worker: "bench-idle".to_owned(),
            client: "batonq bench".to_owned(),
            ..<_>::default()
        };
        line.send(1, Message::Hello(Box::new(hello))).await?;
        match line.receive().await?.message {
            Some(Message::Welcome(welcome)) => {
                let heartbeat = Duration::from_millis(welcome.heartbeat_interval_ms.max(1));
                Ok((line, heartbeat))
            }
            Some(Message::Error(error)) => Err(error.detail),
            _ => Err("no welcome".to_owned()),
        }
    }

    /// Stays until the node ends it.
    async fn live(mut self, heartbeat: Duration) {
        let begun = Instant::now() + heartbeat.mul_f64(rand::random());
        let mut beats = interval_at(begun, heartbeat);
        for id in 2.. {
            let done = tokio::select! {
                _ = beats.tick() => self.send(id, Message::Ping(Ping {})).await,
                received = self.receive() => match received {
                    Ok(Envelope { request_id, message: Some(Message::Ping(_)) }) => {
                        self.send(request_id, Message::Pong(Pong {})).await
                    }
                    received => received.map(drop),
                },
            };
            if done.is_err() {
                return;
            }
        }
    }

    async fn send(&mut self, request_id: u64, message: Message) -> Result<(), String> {
        let mut frame = BytesMut::new();
        let envelope = Envelope { request_id, message: Some(message) };
        self.codec.encode(&envelope, &mut frame).map_err(|error| error.to_string())?;
        self.stream.write_all(&frame).await.map_err(|error| error.to_string())
    }

    /// # Cancel safety
    ///
    /// Nothing is lost.
    async fn receive(&mut self) -> Result<Envelope, String> {
        loop {
            let decoded = self.codec.decode(&mut self.inbound);
            if let Some(envelope) = decoded.map_err(|error| error.to_string())? {
                return Ok(envelope);
            }
            self.inbound.reserve(READ_BYTES);
            match self.stream.read_buf(&mut self.inbound).await {
                Ok(0) => return Err("closed by the node".to_owned()),
                Ok(_) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}

/// Lets this process have so many open files.
fn allow_files(count: u64) -> Result<(), Failure> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let suffices = |limit: Option<u64>| limit.is_none_or(|limit| limit >= count);
    if suffices(current) {
        return Ok(());
    }
    // Only the superuser may raise the maximum.
    let maximum = if suffices(maximum) { maximum } else { Some(count) };
    setrlimit(Resource::Nofile, Rlimit { current: Some(count), maximum }).map_err(|_| {
        let limit = getrlimit(Resource::Nofile).maximum.unwrap_or(0);
        let detail = format!("{count} open files are needed and {limit} allowed: see ulimit -Hn");
        Failure::usage(detail)
    })
}

/// Another process of this machine.
struct Process(u32);

/// What it uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Usage {
    rss_bytes: u64,
    cpu: Duration,
}

impl Process {
    fn usage(&self) -> Result<Usage, Failure> {
        let dir = PathBuf::from(format!("/proc/{}", self.0));
        let read = |name: &str| {
            let file = dir.join(name);
            let text = std::fs::read_to_string(&file);
            text.map_err(|error| Failure::usage(format!("--pid: {}: {error}", file.display())))
        };
        usage(&read("status")?, &read("stat")?, clock_ticks_per_second())
            .ok_or_else(|| Failure::other(format!("--pid: {} can not be read", dir.display())))
    }
}

/// Of `/proc/PID/status` and `/proc/PID/stat`.
fn usage(status: &str, stat: &str, ticks_per_second: u64) -> Option<Usage> {
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let rss_kib: u64 = rss.split_whitespace().next()?.parse().ok()?;
    // The name before it may hold spaces.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    let cpu = Duration::from_secs_f64((user + system) as f64 / ticks_per_second as f64);
    Some(Usage { rss_bytes: rss_kib * 1024, cpu })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_read_from_proc() {
        let status = "Name:\tbatonq\nVmRSS:\t    1234 kB\nThreads:\t3\n";
        let stat = "77 (a (b) c) S 1 77 77 0 -1 4194560 500 0 0 0 150 50 0 0 20 0 3 0 100 1 2";
        let cpu = Duration::from_secs(2);
        assert_eq!(usage(status, stat, 100), Some(Usage { rss_bytes: 1234 * 1024, cpu }));
        assert!(Process(std::process::id()).usage().is_ok());
    }
}
