//! What a run counts and times, and how that went over time.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use batonq_client::Job;
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Mode, load, plot};
use crate::exit::Failure;

/// How long to measure, and what to show of it.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Watch {
    /// For how long
    #[arg(long, default_value_t = 10, value_name = "S", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) seconds: u64,

    /// Count and time nothing in the first S seconds: connections, plans and files are new then
    #[arg(long, default_value_t = 0, value_name = "S", hide_default_value = true)]
    pub(super) warm_up: u64,

    /// Show rate, times and own CPU of each S seconds, on standard error
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..))]
    sample: Option<u64>,

    /// Draw the rate over time into this file, as SVG
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

/// Counted and timed by all tasks of a run.
#[derive(Debug)]
pub(super) struct Meter {
    mode: Mode,
    began: Instant,
    /// Jobs that count: acked ones, or in mode push those pushed.
    pub(super) done: Counter,
    pub(super) pushed: Counter,
    pub(super) acked: Counter,
    pub(super) failed: Counter,
    /// Jobs that were there before the first push.
    pub(super) before: u64,
    /// The fewest jobs that had been pushed and not acked.
    behind_min: AtomicU64,
    /// How many more may be pushed before others are acked.
    ahead: Option<Semaphore>,
    /// Of a push, from the call to its answer.
    pub(super) pushes: Times,
    /// From the push of a job to its arrival at a consumer.
    pub(super) deliveries: Times,
    /// Of an ack, from the call to its answer.
    pub(super) acks: Times,
    /// Of what a mode does as a whole.
    pub(super) turns: Times,
}

/// What was measured within the time.
#[derive(Debug)]
pub(super) struct Period {
    pub(super) jobs: u64,
    pub(super) elapsed: Duration,
    /// Seconds of CPU that this process used in a second.
    pub(super) cpu: f64,
}

/// A part of the time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    /// Seconds from the beginning to its end.
    pub(super) at: f64,
    /// Jobs in a second.
    pub(super) rate: f64,
    p50_ms: f64,
    p99_ms: f64,
    cpu: f64,
}

impl Meter {
    pub(super) fn new(mode: Mode, before: u64) -> Self {
        Self {
            mode,
            before,
            behind_min: AtomicU64::new(u64::MAX),
            ahead: None,
            began: Instant::now(),
            done: Counter::default(),
            pushed: Counter::default(),
            acked: Counter::default(),
            failed: Counter::default(),
            pushes: Times::new(),
            deliveries: Times::new(),
            acks: Times::new(),
            turns: Times::new(),
        }
    }

    /// The same, where producers push no more while so many jobs have not been acked.
    pub(super) fn at_most_ahead(self, ahead: Option<u32>) -> Self {
        Self { ahead: ahead.map(|ahead| Semaphore::new(ahead as usize)), ..self }
    }

    /// Waits until so many jobs may be pushed.
    pub(super) async fn room_for(&self, count: u32) {
        if let Some(ahead) = &self.ahead {
            // It is never closed.
            ahead.acquire_many(count).await.expect("it is open").forget();
        }
    }

    /// The time now, in microseconds of this run.
    pub(super) fn now(&self) -> u64 {
        micros(self.began)
    }

    /// The broker has these jobs.
    pub(super) fn stored(&self, count: usize) {
        self.pushed.add(count);
        if self.mode == Mode::Push {
            self.done.add(count);
        }
    }

    /// Jobs are done, so long after the call that said so.
    pub(super) fn settled(&self, count: usize, micros: u64) {
        self.acks.record(micros, 1);
        self.done.add(count);
        self.acked.add(count);
        if let Some(ahead) = &self.ahead {
            ahead.add_permits(count);
        }
        let behind = (self.before + self.pushed.get()).saturating_sub(self.acked.get());
        self.behind_min.fetch_min(behind, Ordering::Relaxed);
    }

    /// The fewest jobs that consumers had before them; 0: they kept up at some time.
    pub(super) fn behind_min(&self) -> u64 {
        match self.behind_min.load(Ordering::Relaxed) {
            u64::MAX => 0,
            behind => behind,
        }
    }

    /// Jobs have come to a consumer. Those that come again, or later on purpose, are not timed.
    pub(super) fn arrived(&self, jobs: &[Job]) {
        let now = self.now();
        let first = |job: &&Job| job.delivery == 1;
        for job in jobs.iter().filter(first) {
            if let Some(pushed_at) = load::pushed_at(&job.payload) {
                self.deliveries.record(now.saturating_sub(pushed_at), 1);
            }
        }
    }

    /// What the p50 and p99 of this mode are of.
    pub(super) fn shown(&self) -> &Times {
        match self.mode {
            Mode::Cycle | Mode::Pipelined | Mode::Http | Mode::FlashqText | Mode::FlashqBinary => {
                &self.acks
            }
            Mode::Push => &self.pushes,
            Mode::Latency => &self.deliveries,
            Mode::Single | Mode::Idle => &self.turns,
        }
    }

    /// Lets the time pass. What is recorded before it, while all is new, and afterwards is not counted.
    pub(super) async fn watch(&self, watch: &Watch) -> Result<Period, Failure> {
        if watch.warm_up > 0 {
            sleep(Duration::from_secs(watch.warm_up)).await;
            self.forget();
        }
        let whole = Duration::from_secs(watch.seconds);
        let default = if watch.plot.is_some() { Duration::from_secs(1) } else { whole };
        let every = watch.sample.map_or(default, Duration::from_secs);
        let begin = Mark::new(Instant::now(), self);
        let mut samples = Vec::new();
        let mut last = begin;
        while last.at < begin.at + whole {
            sleep_until((last.at + every).min(begin.at + whole)).await;
            let now = Mark::new(Instant::now(), self);
            let sample = self.sample(begin, last, now);
            last = now;
            if watch.sample.is_some() {
                sample.print(samples.is_empty())?;
            }
            samples.push(sample);
        }
        if let Some(file) = &watch.plot {
            let title = format!("batonq bench --mode {}", self.mode.name());
            let drawn = std::fs::write(file, plot::svg(&title, &samples));
            drawn.map_err(|error| Failure::other(format!("{}: {error}", file.display())))?;
        }
        let elapsed = last.at - begin.at;
        let cpu = (last.cpu - begin.cpu).as_secs_f64() / elapsed.as_secs_f64();
        Ok(Period { jobs: last.done - begin.done, elapsed, cpu })
    }

    fn times(&self) -> [&Times; 4] {
        [&self.pushes, &self.deliveries, &self.acks, &self.turns]
    }

    fn forget(&self) {
        self.times().into_iter().for_each(Times::forget);
        self.behind_min.store(u64::MAX, Ordering::Relaxed);
    }

    fn sample(&self, begin: Mark, last: Mark, now: Mark) -> Sample {
        self.times().into_iter().for_each(Times::turn);
        let seconds = (now.at - last.at).as_secs_f64();
        Sample {
            at: (now.at - begin.at).as_secs_f64(),
            rate: (now.done - last.done) as f64 / seconds,
            p50_ms: self.shown().lately_ms(0.5),
            p99_ms: self.shown().lately_ms(0.99),
            cpu: (now.cpu - last.cpu).as_secs_f64() / seconds,
        }
    }
}

impl Sample {
    fn print(&self, is_first: bool) -> Result<(), Failure> {
        let mut out = std::io::stderr();
        if is_first {
            writeln!(out, "    S    JOBS/S    P50 MS    P99 MS  GENERATOR CPU")?;
        }
        let Self { at, rate, p50_ms, p99_ms, cpu } = self;
        Ok(writeln!(out, "{at:>5.0} {rate:>9.0} {p50_ms:>9.3} {p99_ms:>9.3} {cpu:>14.2}")?)
    }
}

/// How far it had come at a time.
#[derive(Debug, Clone, Copy)]
struct Mark {
    at: Instant,
    done: u64,
    cpu: Duration,
}

impl Mark {
    fn new(at: Instant, meter: &Meter) -> Self {
        Self { at, done: meter.done.get(), cpu: cpu_time() }
    }
}

/// What this process has used of all CPUs.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(time).expect("a process has not used less than nothing")
}

/// How long something took, in microseconds.
#[derive(Debug)]
pub(super) struct Times(Mutex<Parts>);

#[derive(Debug)]
struct Parts {
    /// Since the last turn.
    present: Histogram<u64>,
    /// Between the last two turns.
    lately: Histogram<u64>,
    /// Up to the last turn.
    all: Histogram<u64>,
}

impl Times {
    fn new() -> Self {
        // Three digits, up to an hour.
        let new = || Histogram::new_with_bounds(1, 3_600_000_000, 3);
        let new = || new().expect("the bounds are in order");
        Self(Mutex::new(Parts { present: new(), lately: new(), all: new() }))
    }

    pub(super) fn record(&self, micros: u64, count: u64) {
        self.0.lock().present.saturating_record_n(micros, count);
    }

    /// Begins again, before the first turn.
    fn forget(&self) {
        self.0.lock().present.reset();
    }

    fn turn(&self) {
        let Parts { present, lately, all } = &mut *self.0.lock();
        std::mem::swap(present, lately);
        all.add(&*lately).expect("all have the same bounds");
        present.reset();
    }

    fn lately_ms(&self, quantile: f64) -> f64 {
        self.0.lock().lately.value_at_quantile(quantile) as f64 / 1000.0
    }

    /// Over the whole time; 0 if nothing was recorded.
    pub(super) fn micros(&self, quantile: f64) -> u64 {
        self.0.lock().all.value_at_quantile(quantile)
    }

    pub(super) fn ms(&self, quantile: f64) -> f64 {
        self.micros(quantile) as f64 / 1000.0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().all.is_empty()
    }
}

/// Microseconds since then.
pub(super) fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// Counts over all tasks.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: usize) {
        self.0.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
