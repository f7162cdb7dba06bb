//! `batonq bench`: how fast is this broker?
//!
//! * `cycle`: producers and consumers at once; a job counts when its ack is answered. At the end
//!   each job that was pushed has been acked or is left in the queue, or the run has failed.
//! * `push`: producers only.
//! * `single`: each connection pushes a job, pulls it and acks it, one call after the other.
//! * `latency`: one job at a time, from its push to its delivery to a waiting subscriber.

mod cycle;
mod single;

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use batonq_client::{Client, NewJob};
use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::time::Instant;

use crate::Shared;
use crate::exit::Failure;

/// Arguments of `bench`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Bench {
    /// What to measure
    #[arg(long, value_enum, default_value_t = Mode::Cycle)]
    mode: Mode,

    /// For how long
    #[arg(long, default_value_t = 10, value_name = "S")]
    seconds: u64,

    /// Jobs in one request
    #[arg(long, default_value_t = 500, value_name = "B", value_parser = clap::value_parser!(u32).range(1..=1000))]
    batch: u32,

    /// Connections that push; as many consume
    #[arg(long, default_value_t = 4, value_name = "C", value_parser = clap::value_parser!(u32).range(1..=1000))]
    connections: u32,

    /// Size of a payload
    #[arg(long, default_value_t = 60, value_name = "P", value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    payload_bytes: u32,

    /// Jobs that are pushed before the clock starts
    #[arg(long, default_value_t = 0, value_name = "N")]
    backlog: u64,

    /// The queue to use; it should be empty
    #[arg(long, default_value = "bench")]
    queue: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Mode {
    /// Push, deliver and ack, all at once
    Cycle,
    /// Push only
    Push,
    /// Push, pull, ack: one call after the other
    Single,
    /// From push to delivery, one job at a time
    Latency,
}

impl Mode {
    const fn name(self) -> &'static str {
        match self {
            Self::Cycle => "cycle",
            Self::Push => "push",
            Self::Single => "single",
            Self::Latency => "latency",
        }
    }
}

impl Bench {
    pub(crate) async fn run(self, shared: &Shared) -> Result<ExitCode, Failure> {
        let dial = Dial::new(shared);
        self.fill(&dial.connect("bench-backlog").await?).await?;
        let outcome = match self.mode {
            Mode::Cycle | Mode::Push => cycle::run(&self, &dial).await?,
            Mode::Single => single::round_trips(&self, &dial).await?,
            Mode::Latency => single::latency(&self, &dial).await?,
        };
        self.report(&outcome)?;
        Ok(if outcome.is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Pushes the backlog.
    async fn fill(&self, client: &Client) -> Result<(), Failure> {
        let mut left = self.backlog;
        while left > 0 {
            let count = left.min(u64::from(self.batch));
            push(client, self.jobs(count)).await?;
            left -= count;
        }
        Ok(())
    }

    fn jobs(&self, count: u64) -> Vec<NewJob> {
        let payload = Bytes::from(vec![b'x'; self.payload_bytes as usize]);
        let job = || NewJob::new(self.queue.as_str(), payload.clone()).content_type("text/plain");
        (0..count).map(|_| job()).collect()
    }

    fn report(&self, outcome: &Outcome) -> Result<(), Failure> {
        let seconds = outcome.elapsed.as_secs_f64();
        let rate = outcome.jobs as f64 / seconds;
        let ms = |quantile| outcome.times.value_at_quantile(quantile) as f64 / 1000.0;
        let mut line = format!(
            "BENCH_RESULT mode={} jobs_per_sec={rate:.0} p50_ms={:.3} p99_ms={:.3} jobs={} \
             seconds={seconds:.2} batch={} connections={} payload_bytes={}",
            self.mode.name(),
            ms(0.5),
            ms(0.99),
            outcome.jobs,
            self.batch,
            self.connections,
            self.payload_bytes,
        );
        for (name, value) in &outcome.details {
            write!(line, " {name}={value}").expect("a String takes everything");
        }
        writeln!(std::io::stdout(), "{line}").map_err(Failure::other)
    }
}

/// What a run measured.
struct Outcome {
    jobs: u64,
    elapsed: Duration,
    /// Microseconds.
    times: Histogram<u64>,
    details: Vec<(&'static str, u64)>,
    /// False: jobs are missing, or there are too many.
    is_whole: bool,
}

/// Makes connections.
struct Dial {
    url: String,
    token: Option<String>,
}

impl Dial {
    fn new(shared: &Shared) -> Self {
        Self { url: shared.url(), token: shared.token() }
    }

    async fn connect(&self, worker: &str) -> Result<Client, Failure> {
        let mut builder = Client::builder().url(&self.url).worker(worker).program("batonq bench");
        if let Some(token) = &self.token {
            builder = builder.token(token);
        }
        Ok(builder.connect().await?)
    }
}

/// Times in microseconds, with three digits, up to an hour.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("the bounds are in order")
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// Pushes jobs, all of which must be accepted.
async fn push(client: &Client, jobs: Vec<NewJob>) -> Result<(), Failure> {
    for pushed in client.push_batch(jobs).await? {
        pushed?;
    }
    Ok(())
}

/// Counts over all tasks.
#[derive(Debug, Clone, Default)]
struct Counter(Arc<AtomicU64>);

impl Counter {
    fn add(&self, count: usize) {
        self.0.fetch_add(count as u64, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
