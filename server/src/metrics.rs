//! What a node counts and times: for Prometheus, and for the last minute.

use std::collections::VecDeque;
use std::time::Duration;

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use prometheus::core::Collector;
use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};
use tokio::time::Instant;

use crate::limits::METRIC_QUEUES_MAX;
use crate::store::{Duty, Queue};

/// What clients do that is worth timing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timed {
    /// Handing jobs in, to the answer.
    Push,
    /// Getting jobs, without the wait for them.
    Claim,
    /// Ending leases.
    Settle,
}

impl Timed {
    const ALL: [Self; 3] = [Self::Push, Self::Claim, Self::Settle];

    const fn name(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Claim => "claim",
            Self::Settle => "settle",
        }
    }
}

/// What a job did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// It was pushed.
    Pushed,
    /// It was leased.
    Claimed,
    /// It was acked.
    Acked,
    /// It failed.
    Failed,
    /// It was released.
    Released,
}

impl Counted {
    const ALL: [Self; 5] = [Self::Pushed, Self::Claimed, Self::Acked, Self::Failed, Self::Released];

    const fn name(self) -> &'static str {
        match self {
            Self::Pushed => "pushed",
            Self::Claimed => "claimed",
            Self::Acked => "acked",
            Self::Failed => "failed",
            Self::Released => "released",
        }
    }
}

/// The window of [`Metrics::last_minute`].
pub const WINDOW: Duration = Duration::from_secs(60);

const SLOT: Duration = Duration::from_secs(2);
const SLOTS: usize = 30;

/// All metrics of a node.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    jobs: IntCounterVec,
    duration: HistogramVec,
    batch: HistogramVec,
    connections: IntGaugeVec,
    duty: IntGaugeVec,
    waiting: IntGauge,
    term: IntGauge,
    minute: Mutex<Minute>,
}

impl Default for Metrics {
    fn default() -> Self {
        let registry = Registry::new();
        // 50 µs to 26 s, and 1 to 16 384 items.
        let seconds = prometheus::exponential_buckets(0.000_05, 3.0, 13).unwrap_or_default();
        let items = prometheus::exponential_buckets(1.0, 4.0, 8).unwrap_or_default();
        let jobs = IntCounterVec::new(
            Opts::new("batonq_jobs_total", "Jobs that were pushed, claimed, acked, …"),
            &["event"],
        );
        let duration = HistogramVec::new(
            HistogramOpts::new("batonq_operation_seconds", "From request to durable answer")
                .buckets(seconds),
            &["operation"],
        );
        let batch = HistogramVec::new(
            HistogramOpts::new("batonq_commit_items", "Items committed in one transaction")
                .buckets(items),
            &["operation"],
        );
        let connections =
            IntGaugeVec::new(Opts::new("batonq_connections", "Open connections"), &["transport"]);
        let duty = IntGaugeVec::new(
            Opts::new(
                "batonq_duty_last_success_timestamp_seconds",
                "When a duty last went through, in seconds since 1970",
            ),
            &["duty"],
        );
        let waiting = IntGauge::new("batonq_waiting_pulls", "Pulls that wait for a job");
        let term =
            IntGauge::new("batonq_leader_epoch", "The term this node leads in; -1: it follows");
        Self {
            waiting: register(&registry, waiting),
            term: register(&registry, term),
            jobs: register(&registry, jobs),
            duration: register(&registry, duration),
            batch: register(&registry, batch),
            connections: register(&registry, connections),
            duty: register(&registry, duty),
            registry,
            minute: Mutex::new(Minute::new()),
        }
    }
}

fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    metric: prometheus::Result<C>,
) -> C {
    let metric = metric.expect("names and labels are constants that a test has seen");
    registry.register(Box::new(metric.clone())).expect("each name is registered once");
    metric
}

impl Metrics {
    /// `count` jobs did this.
    pub fn count(&self, what: Counted, count: usize) {
        if count > 0 {
            self.jobs.with_label_values(&[what.name()]).inc_by(count as u64);
            self.minute.lock().slot().counts[what as usize] += count as u64;
        }
    }

    /// How many jobs have done this since the start of the node.
    pub fn total(&self, what: Counted) -> u64 {
        self.jobs.with_label_values(&[what.name()]).get()
    }

    /// A request took this long.
    pub fn time(&self, what: Timed, took: Duration) {
        self.duration.with_label_values(&[what.name()]).observe(took.as_secs_f64());
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.minute.lock().slot().times[what as usize].saturating_record(micros);
    }

    /// So many items were committed at once.
    pub fn batch(&self, what: Timed, items: usize) {
        self.batch.with_label_values(&[what.name()]).observe(items as f64);
    }

    /// A duty went through at `unix_seconds`.
    pub fn duty_done(&self, duty: Duty, unix_seconds: i64) {
        self.duty.with_label_values(&[duty.name()]).set(unix_seconds);
    }

    /// Counts a connection of a transport as long as the answer lives.
    pub fn connected(&self, transport: &'static str) -> Connected {
        let gauge = self.connections.with_label_values(&[transport]);
        gauge.inc();
        Connected(gauge)
    }

    /// Counts a pull that waits, as long as the answer lives.
    pub fn waits(&self) -> Connected {
        self.waiting.inc();
        Connected(self.waiting.clone())
    }

    /// This node leads, in the term of this number; `None`: it follows.
    pub fn leads(&self, epoch: Option<u64>) {
        self.term.set(epoch.map_or(-1, |epoch| i64::try_from(epoch).unwrap_or(i64::MAX)));
    }

    /// Open connections of all transports.
    pub fn connections(&self) -> u64 {
        let all = self.connections.collect();
        let open = all.iter().flat_map(|family| family.get_metric().iter());
        open.map(|metric| metric.get_gauge().get_value() as u64).sum()
    }

    /// What this node did in the last 60 seconds.
    pub fn last_minute(&self) -> LastMinute {
        self.minute.lock().sum()
    }

    /// The text that Prometheus reads (version 0.0.4). Queues beyond the limit are summed up.
    pub fn text(&self, queues: &[Queue]) -> String {
        let mut families = self.registry.gather();
        families.extend(queue_metrics(queues).gather());
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&families, &mut text) {
            tracing::error!(%error, "metrics could not be written");
        }
        String::from_utf8(text).unwrap_or_default()
    }
}

fn queue_metrics(queues: &[Queue]) -> Registry {
    let registry = Registry::new();
    let jobs = register(
        &registry,
        IntGaugeVec::new(
            Opts::new("batonq_queue_jobs", "Jobs by queue and state"),
            &["queue", "state"],
        ),
    );
    let paused = register(
        &registry,
        IntGaugeVec::new(Opts::new("batonq_queue_paused", "1: nothing is given out"), &["queue"]),
    );
    let oldest = register(
        &registry,
        prometheus::GaugeVec::new(
            Opts::new("batonq_queue_oldest_ready_seconds", "How long a ready job waits at most"),
            &["queue"],
        ),
    );
    for (place, queue) in queues.iter().enumerate() {
        let name = if place < METRIC_QUEUES_MAX { queue.name.as_str() } else { "_other" };
        let counts = &queue.counts;
        for (state, count) in [
            ("scheduled", counts.scheduled),
            ("ready", counts.ready),
            ("leased", counts.leased),
            ("completed", counts.completed),
            ("dead", counts.dead),
            ("cancelled", counts.cancelled),
        ] {
            jobs.with_label_values(&[name, state]).add(i64::try_from(count).unwrap_or(i64::MAX));
        }
        paused.with_label_values(&[name]).add(i64::from(queue.paused_at.is_some()));
        let age = oldest.with_label_values(&[name]);
        age.set(age.get().max(queue.oldest_ready.unwrap_or_default().as_secs_f64()));
    }
    registry
}

/// Something that is counted as long as it lives: an open connection, a pull that waits.
#[derive(Debug)]
pub struct Connected(prometheus::IntGauge);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Counts and times of the last 60 seconds.
#[derive(Debug, Clone, PartialEq)]
pub struct LastMinute {
    counts: [u64; Counted::ALL.len()],
    /// p50 and p99, in milliseconds.
    times: [(f64, f64); Timed::ALL.len()],
}

impl LastMinute {
    /// How many jobs did this.
    pub fn count(&self, what: Counted) -> u64 {
        self.counts[what as usize]
    }

    /// The median and the 99th percentile, in milliseconds; 0 if there was none.
    pub fn times_ms(&self, what: Timed) -> (f64, f64) {
        self.times[what as usize]
    }
}

/// The last slots, oldest first.
#[derive(Debug)]
struct Minute {
    started: Instant,
    slots: VecDeque<Slot>,
}

#[derive(Debug)]
struct Slot {
    number: u128,
    counts: [u64; Counted::ALL.len()],
    times: [Histogram<u64>; Timed::ALL.len()],
}

/// Microseconds up to a minute, with two digits.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 2).expect("the bounds are in order")
}

impl Minute {
    fn new() -> Self {
        Self { started: Instant::now(), slots: VecDeque::new() }
    }

    fn number(&self) -> u128 {
        self.started.elapsed().as_millis() / SLOT.as_millis()
    }

    fn slot(&mut self) -> &mut Slot {
        let number = self.number();
        if self.slots.back().is_none_or(|slot| slot.number != number) {
            if self.slots.len() == SLOTS {
                self.slots.pop_front();
            }
            let times = [histogram(), histogram(), histogram()];
            self.slots.push_back(Slot { number, counts: [0; Counted::ALL.len()], times });
        }
        self.slots.back_mut().expect("one was just pushed")
    }

    fn sum(&self) -> LastMinute {
        let now = self.number();
        let mut counts = [0; Counted::ALL.len()];
        let mut times = [histogram(), histogram(), histogram()];
        for slot in self.slots.iter().filter(|slot| slot.number + SLOTS as u128 > now) {
            counts.iter_mut().zip(slot.counts).for_each(|(sum, count)| *sum += count);
            for (sum, part) in times.iter_mut().zip(&slot.times) {
                sum.add(part).expect("all have the same bounds");
            }
        }
        let ms = |micros: u64| micros as f64 / 1000.0;
        let times = times.map(|time| match time.is_empty() {
            true => (0.0, 0.0),
            false => (ms(time.value_at_quantile(0.5)), ms(time.value_at_quantile(0.99))),
        });
        LastMinute { counts, times }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_minute_forgets_what_is_older() {
        let metrics = Metrics::default();
        metrics.count(Counted::Pushed, 5);
        metrics.time(Timed::Push, Duration::from_millis(3));
        tokio::time::advance(Duration::from_secs(30)).await;
        metrics.count(Counted::Pushed, 2);
        assert_eq!(metrics.last_minute().count(Counted::Pushed), 7);
        let (p50, _) = metrics.last_minute().times_ms(Timed::Push);
        assert!((2.9..3.1).contains(&p50), "{p50}");
        tokio::time::advance(Duration::from_secs(31)).await;
        assert_eq!(metrics.last_minute().count(Counted::Pushed), 2);
        assert_eq!(metrics.last_minute().times_ms(Timed::Push), (0.0, 0.0));
    }

    #[test]
    fn the_text_names_what_was_counted() {
        let metrics = Metrics::default();
        metrics.count(Counted::Acked, 3);
        let connected = metrics.connected("tcp");
        assert_eq!(metrics.connections(), 1);
        assert!(metrics.text(&[]).contains("batonq_jobs_total{event=\"acked\"} 3"));
        drop(connected);
        assert_eq!(metrics.connections(), 0);
        assert_eq!(Counted::ALL.map(|what| what as usize), [0, 1, 2, 3, 4]);
        assert_eq!(Timed::ALL.map(|what| what as usize), [0, 1, 2]);
    }
}
