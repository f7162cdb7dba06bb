//! `batonq bench`: how fast is this broker?
//!
//! * `cycle`: producers and consumers at once; a job counts when its ack is answered. At the end
//!   each job that was pushed has been acked or is left in the queue, or the run has failed.
//! * `push`: producers only.
//! * `pipelined`: as `cycle`, with one job in a frame and many frames on their way.
//! * `single`: each connection pushes a job, pulls it and acks it, one call after the other.
//! * `latency`: one job at a time, from its push to its delivery to a waiting subscriber; or so
//!   many in a second.
//! * `http`: as `cycle`, by batch push, batch pull and batch ack over HTTP.
//! * `flashq-text`, `flashq-binary`: the same over the flashQ protocol, one way or the other.
//! * `idle`: connections that only live; the times are those of their handshakes.
//!
//! A run is made of crews (`crew`) of tasks that push and take jobs (`load`) over connections
//! (`dial`) while a meter (`meter`) counts them.

mod crew;
mod cycle;
mod dial;
mod flashq;
mod http;
mod idle;
mod load;
mod meter;
mod plot;
mod single;
mod snapshot;

use std::fmt::Display;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use self::dial::Dial;
use self::flashq::Framing;
use self::load::Load;
use self::meter::{Meter, Period, Watch};
use self::snapshot::Snapshot;
use crate::exit::Failure;
use crate::{Shared, environment};

/// Connections of each kind in modes that do more than hold them.
const CONNECTIONS_MAX: u32 = 1000;

/// Jobs in flight, in mode pipelined.
const IN_FLIGHT: u32 = 1000;

/// Arguments of `bench`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Bench {
    /// What to measure
    #[arg(long, value_enum, default_value_t = Mode::Cycle)]
    mode: Mode,

    #[command(flatten)]
    watch: Watch,

    /// Jobs in one request
    #[arg(long, default_value_t = 500, value_name = "B", value_parser = clap::value_parser!(u32).range(1..=1000))]
    batch: u32,

    /// Connections that push; as many consume. In mode idle, up to 20 000
    #[arg(long, default_value_t = 4, value_name = "C", value_parser = clap::value_parser!(u32).range(1..=20_000))]
    connections: u32,

    /// Jobs that are on their way to the broker at once, over all connections. Default: two
    /// requests of each producer; in mode pipelined, 1000
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    in_flight: Option<u32>,

    /// Jobs that consumers hold at once, over all connections. Default: as many as --in-flight, or
    /// four batches of each consumer
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    credit: Option<u32>,

    /// Spread the connections over all nodes, in turn: those of --url or, if it has one, those
    /// that this one names. Without it, each connection chooses one of --url at random
    #[arg(long)]
    nodes: bool,

    /// Push so many jobs in a second, whether the broker keeps up or not (modes cycle, latency)
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,

    /// Jobs that are pushed before the clock starts, so that consumers stay behind (modes cycle,
    /// push, pipelined). What is left of them at the end stays in the queue
    #[arg(long, default_value_t = 0, value_name = "N")]
    backlog: u64,

    /// Push no more while so many jobs have been pushed and not acked, so that consumers keep up
    /// (modes cycle, pipelined, flashq-*). At least a batch
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    ahead: Option<u32>,

    /// Keep a snapshot of the database open meanwhile, so that dead rows stay
    #[arg(long)]
    hold_snapshot: bool,

    /// The database of the snapshot, without TLS [env: DATABASE_URL]
    #[arg(long, value_name = "DSN")]
    database_url: Option<String>,

    /// Threads that make the load; default: as many as there are cores. With small requests one is
    /// cheaper: nothing is passed between cores
    #[arg(long, value_name = "T", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,

    /// The node's process on this machine: say what its memory and CPU are (mode idle)
    #[arg(long)]
    pid: Option<u32>,

    #[command(flatten)]
    load: Load,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Mode {
    /// Push, deliver and ack, all at once
    Cycle,
    /// Push only
    Push,
    /// Push, deliver and ack: one job in a frame
    Pipelined,
    /// Push, pull, ack: one call after the other
    Single,
    /// From push to delivery, one job in a request
    Latency,
    /// Push, pull and ack over HTTP; --url is http://HOST:PORT
    Http,
    /// Push, pull and ack over the flashQ protocol: a line of JSON each
    FlashqText,
    /// The same in MessagePack
    FlashqBinary,
    /// Hold connections
    Idle,
}

impl Mode {
    const fn name(self) -> &'static str {
        match self {
            Self::Cycle => "cycle",
            Self::Push => "push",
            Self::Pipelined => "pipelined",
            Self::Single => "single",
            Self::Latency => "latency",
            Self::Http => "http",
            Self::FlashqText => "flashq-text",
            Self::FlashqBinary => "flashq-binary",
            Self::Idle => "idle",
        }
    }

    /// Whether its requests have as many jobs as is said, or one.
    const fn has_batches(self) -> bool {
        use Mode::{Cycle, FlashqBinary, FlashqText, Http, Push};
        matches!(self, Cycle | Push | Http | FlashqText | FlashqBinary)
    }
}

impl Bench {
    /// How many threads it is to run on, if that is told.
    pub(crate) fn threads(&self) -> Option<usize> {
        self.threads.map(usize::from)
    }

    pub(crate) async fn run(mut self, shared: &Shared) -> Result<ExitCode, Failure> {
        self.check()?;
        if !self.mode.has_batches() {
            self.batch = 1;
        }
        let mut dial = match self.mode {
            Mode::Http => Dial::over_http(shared)?,
            Mode::FlashqText | Mode::FlashqBinary => Dial::over_flashq(shared),
            _ => Dial::new(shared),
        };
        if self.nodes {
            dial = dial.spread().await?;
        }
        if self.backlog > 0 {
            self.load.fill(self.backlog, &dial).await?;
        }
        let snapshot = match self.hold_snapshot {
            true => Some(Snapshot::take(&self.dsn()?).await?),
            false => None,
        };
        let outcome = self.measure(&dial).await?;
        if let Some(snapshot) = snapshot {
            snapshot.release().await?;
        }
        self.report(&outcome, dial.urls.len())?;
        Ok(if outcome.is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Jobs of one connection that are on their way at once, if that is given.
    fn in_flight_each(&self) -> Option<u32> {
        let default = (self.mode == Mode::Pipelined).then_some(IN_FLIGHT);
        Some(self.in_flight.or(default)?.div_ceil(self.connections))
    }

    async fn measure(&self, dial: &Dial) -> Result<Outcome, Failure> {
        match self.mode {
            Mode::Cycle | Mode::Push | Mode::Pipelined => cycle::run(self, dial).await,
            Mode::Latency if self.rate.is_some() => cycle::run(self, dial).await,
            Mode::Latency => single::latency(self, dial).await,
            Mode::Single => single::round_trips(self, dial).await,
            Mode::Http => http::run(self, dial).await,
            Mode::FlashqText => flashq::run(self, dial, Framing::Text).await,
            Mode::FlashqBinary => flashq::run(self, dial, Framing::Binary).await,
            Mode::Idle => idle::run(self, dial).await,
        }
    }

    /// Where the snapshot is to be held.
    fn dsn(&self) -> Result<String, Failure> {
        let dsn = self.database_url.clone().or_else(environment::database_url);
        dsn.ok_or_else(|| Failure::usage("--hold-snapshot needs --database-url or DATABASE_URL"))
    }

    /// Refuses options that this mode would not heed.
    fn check(&self) -> Result<(), Failure> {
        use Mode::{Cycle, FlashqBinary, FlashqText, Http, Idle, Latency, Pipelined, Push, Single};
        let Load { queues, priorities, delayed, failing, .. } = self.load;
        let options: [(&str, bool, &[Mode]); 12] = [
            ("--queues", queues > 1, &[Cycle, Push]),
            ("--priorities", priorities > 1, &[Cycle, Push]),
            ("--delayed", delayed > 0, &[Cycle]),
            ("--failing", failing > 0, &[Cycle]),
            ("--backlog", self.backlog > 0, &[Cycle, Push, Pipelined]),
            ("--ahead", self.ahead.is_some(), &[Cycle, Pipelined, FlashqText, FlashqBinary]),
            (
                "--in-flight",
                self.in_flight.is_some(),
                &[Cycle, Push, Pipelined, FlashqText, FlashqBinary],
            ),
            ("--credit", self.credit.is_some(), &[Cycle, Pipelined]),
            ("--rate", self.rate.is_some(), &[Cycle, Latency]),
            ("--nodes", self.nodes, &[Cycle, Push, Pipelined, Single, Latency, Idle]),
            ("--pid", self.pid.is_some(), &[Idle]),
            (
                "--warm-up",
                self.watch.warm_up > 0,
                &[Cycle, Push, Pipelined, Single, Latency, Http, FlashqText, FlashqBinary],
            ),
        ];
        for (option, is_used, modes) in options {
            if is_used && !modes.contains(&self.mode) {
                let mode = self.mode.name();
                return Err(Failure::usage(format!("{option} means nothing in mode {mode}")));
            }
        }
        if self.ahead.is_some_and(|ahead| ahead < self.batch) && self.mode.has_batches() {
            return Err(Failure::usage("--ahead must be at least --batch"));
        }
        if self.connections > CONNECTIONS_MAX && self.mode != Idle {
            let detail = format!("more than {CONNECTIONS_MAX} --connections are for mode idle");
            return Err(Failure::usage(detail));
        }
        Ok(())
    }

    fn report(&self, outcome: &Outcome, nodes: usize) -> Result<(), Failure> {
        let Outcome { meter, period, .. } = outcome;
        let seconds = period.elapsed.as_secs_f64();
        let mut line = format!(
            "BENCH_RESULT mode={} jobs_per_sec={:.0} p50_ms={:.3} p99_ms={:.3} jobs={} \
             seconds={seconds:.2} batch={} connections={} payload_bytes={} generator_cpu={:.2} \
             nodes={nodes}",
            self.mode.name(),
            period.jobs as f64 / seconds,
            meter.shown().ms(0.5),
            meter.shown().ms(0.99),
            period.jobs,
            self.batch,
            self.connections,
            self.load.payload_bytes,
            period.cpu,
        );
        let mut add = |name: &str, value: &dyn Display| {
            write!(line, " {name}={value}").expect("a String takes everything");
        };
        for (name, value) in &outcome.details {
            add(name, value);
        }
        for (name, times) in [("push", &meter.pushes), ("delivery", &meter.deliveries)] {
            if !times.is_empty() {
                add(&format!("{name}_p50_ms"), &format_args!("{:.3}", times.ms(0.5)));
                add(&format!("{name}_p99_ms"), &format_args!("{:.3}", times.ms(0.99)));
            }
        }
        Ok(writeln!(std::io::stdout(), "{line}")?)
    }
}

/// What a run measured.
struct Outcome {
    meter: Arc<Meter>,
    period: Period,
    /// What else to say of it.
    details: Vec<(&'static str, u64)>,
    /// False: jobs are missing, or there are too many.
    is_whole: bool,
}

/// Says something that is not the result.
fn note(text: &str) -> Result<(), Failure> {
    Ok(writeln!(std::io::stderr(), "{text}")?)
}
