//! Producers and consumers over HTTP, in batches.

use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::crew::Crew;
use super::cycle::{account, drain};
use super::load::{payload, pushed_at};
use super::meter::{Meter, micros};
use super::{Bench, Dial, Outcome};
use crate::exit::Failure;

/// A connection carries one request at a time: so many stand for one of the binary protocol.
const PEERS: u32 = 2;

/// How long a pull waits for a first job.
const WAIT_MS: u32 = 200;

pub(super) async fn run(bench: &Bench, dial: &Dial) -> Result<Outcome, Failure> {
    let queue = utf8_percent_encode(&bench.load.queue, NON_ALPHANUMERIC).to_string();
    let path = format!("/v1/queues/{queue}");
    let mut admin = Peer::connect(dial).await?;
    let meter = Arc::new(Meter::new(bench.mode, admin.left(&path).await?));
    let (mut producers, mut consumers) = (Crew::default(), Crew::default());
    for _ in 0..bench.connections * PEERS {
        let turn = || (bench.clone(), path.clone(), Arc::clone(&meter));
        consumers.spawn(consume(Peer::connect(dial).await?, turn(), consumers.stop.clone()));
        producers.spawn(produce(Peer::connect(dial).await?, turn(), producers.stop.clone()));
    }
    let period = tokio::select! {
        period = meter.watch(&bench.watch) => period?,
        failure = producers.failure() => return Err(failure),
        failure = consumers.failure() => return Err(failure),
    };
    producers.stop().await?;
    drain(&meter).await;
    consumers.stop().await?;
    let left = Peer::connect(dial).await?.left(&path).await?;
    Ok(account(meter, period, left))
}

/// What a task needs: the run, the path of the queue, and where to count.
type Turn = (Bench, String, Arc<Meter>);

async fn produce(
    mut peer: Peer,
    (bench, path, meter): Turn,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let path = format!("{path}/jobs/batch");
    while !stop.is_cancelled() {
        let body = batch(&bench, meter.now());
        let started = Instant::now();
        let answer = peer.post(&path, body).await?;
        let results: Results<Pushed> = parse(&answer)?;
        if let Some(Pushed { error: Some(error) }) =
            results.results.iter().find(|one| one.error.is_some())
        {
            return Err(Failure::other(format!("not pushed: {error}")));
        }
        meter.pushes.record(micros(started), 1);
        meter.stored(results.results.len());
    }
    Ok(())
}

fn batch(bench: &Bench, now: u64) -> Bytes {
    let payload = payload(bench.load.payload_bytes as usize, Some(now));
    // It is a JSON string of our making; without bytes it is none.
    let text = std::str::from_utf8(&payload).ok().filter(|text| !text.is_empty());
    let job = format!("{{\"payload\":{}}}", text.unwrap_or("null"));
    let mut body = String::with_capacity((job.len() + 1) * bench.batch as usize + 16);
    body += "{\"jobs\":[";
    for number in 0..bench.batch {
        body += if number == 0 { "" } else { "," };
        body += &job;
    }
    body += "]}";
    body.into()
}

async fn consume(
    mut peer: Peer,
    (bench, path, meter): Turn,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let path = format!("{path}/pull");
    let wish = format!("{{\"count\":{},\"wait_ms\":{WAIT_MS}}}", bench.batch);
    while !stop.is_cancelled() {
        let answer = peer.post(&path, wish.clone().into()).await?;
        let pulled: Pulled<'_> = parse(&answer)?;
        if pulled.jobs.is_empty() {
            continue;
        }
        let now = meter.now();
        for pushed_at in
            pulled.jobs.iter().filter_map(|job| pushed_at(job.payload?.get().as_bytes()))
        {
            meter.deliveries.record(now.saturating_sub(pushed_at), 1);
        }
        let started = Instant::now();
        let answer = peer.post("/v1/ack", acks(&pulled)).await?;
        let results: Results<Settled<'_>> = parse(&answer)?;
        if let Some(other) = results.results.iter().find(|one| one.status != Some("ok")) {
            let status = other.status.unwrap_or("an error");
            return Err(Failure::other(format!("not acked: {status}")));
        }
        meter.settled(results.results.len(), micros(started));
    }
    Ok(())
}

fn acks(pulled: &Pulled<'_>) -> Bytes {
    let mut body = String::from("{\"acks\":[");
    for (number, job) in pulled.jobs.iter().enumerate() {
        body += if number == 0 { "" } else { "," };
        write!(body, "{{\"lease\":\"{}\"}}", job.lease).expect("a String takes everything");
    }
    body += "]}";
    body.into()
}

#[derive(Deserialize)]
struct Results<T> {
    results: Vec<T>,
}

#[derive(Deserialize)]
struct Pushed {
    error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Settled<'a> {
    status: Option<&'a str>,
}

#[derive(Deserialize)]
struct Pulled<'a> {
    #[serde(borrow)]
    jobs: Vec<Leased<'a>>,
}

#[derive(Deserialize)]
struct Leased<'a> {
    lease: &'a str,
    #[serde(borrow)]
    payload: Option<&'a serde_json::value::RawValue>,
}

#[derive(Deserialize)]
struct Queue {
    counts: Counts,
}

#[derive(Deserialize)]
struct Counts {
    scheduled: u64,
    ready: u64,
    leased: u64,
}

fn parse<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, Failure> {
    serde_json::from_slice(json).map_err(|error| Failure::other(format!("answer: {error}")))
}

/// One connection.
struct Peer {
    sender: SendRequest<Full<Bytes>>,
    host: String,
    token: Option<String>,
    _connection: AbortOnDropHandle<Result<(), hyper::Error>>,
}

impl Peer {
    async fn connect(dial: &Dial) -> Result<Self, Failure> {
        let host = dial.next_url().to_owned();
        let unreachable =
            |error: &dyn std::error::Error| Failure::other(format!("{host}: {error}"));
        let stream = TcpStream::connect(&host).await.map_err(|error| unreachable(&error))?;
        stream.set_nodelay(true)?;
        let greeted = handshake(TokioIo::new(stream)).await;
        let (sender, connection) = greeted.map_err(|error| unreachable(&error))?;
        let connection = AbortOnDropHandle::new(tokio::spawn(connection));
        Ok(Self { sender, host, token: dial.token.clone(), _connection: connection })
    }

    /// What is in the queue and has not been acked.
    async fn left(&mut self, path: &str) -> Result<u64, Failure> {
        let (status, answer) = self.ask(Method::GET, path, Bytes::new()).await?;
        if status == StatusCode::NOT_FOUND {
            return Ok(0);
        }
        let Counts { scheduled, ready, leased } = parse::<Queue>(&answer)?.counts;
        Ok(scheduled + ready + leased)
    }

    async fn post(&mut self, path: &str, body: Bytes) -> Result<Bytes, Failure> {
        let (status, answer) = self.ask(Method::POST, path, body).await?;
        match status.is_success() {
            true => Ok(answer),
            false => {
                let text = String::from_utf8_lossy(&answer);
                Err(Failure::other(format!("{path}: {status}: {text}")))
            }
        }
    }

    async fn ask(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let request = Request::builder().method(method).uri(path).header("host", &self.host);
        let mut request = request.header("content-type", "application/json");
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Full::new(body)).map_err(Failure::usage)?;
        self.sender.ready().await.map_err(Failure::other)?;
        let reply = self.sender.send_request(request).await.map_err(Failure::other)?;
        let status = reply.status();
        let body = reply.into_body().collect().await.map_err(Failure::other)?;
        Ok((status, body.to_bytes()))
    }
}
