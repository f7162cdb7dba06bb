//! Producers and consumers at once.

use std::sync::Arc;
use std::time::Duration;

use batonq_client::{Ack, Client, Failure as Failed, Job, Lease, Subscription};
use futures_util::future::try_join_all;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::crew::Crew;
use super::load::{Maker, push};
use super::meter::{Meter, Period, micros};
use super::{Bench, Dial, Mode, Outcome};
use crate::exit::Failure;

/// Requests of one producer that are on their way at once: while one is being stored, the next
/// is there already.
const PUSHES_AT_ONCE: u32 = 2;

/// The same at a given rate, where they pile up if the broker does not keep up.
const OFFERED_MAX: usize = 1000;

/// Jobs that a consumer may hold at least at a given rate.
const OFFERED_CREDIT: u32 = 1000;

/// Leases that one call settles, at most.
const SETTLE_MAX: usize = 1000;

/// After which a job that failed may be tried again.
const RETRY_IN: Duration = Duration::from_millis(100);

/// With nothing acked for so long after the last push, nothing more will come. Longer than a job
/// may be delayed.
const DRAINED_AFTER: Duration = Duration::from_secs(3);

/// Between two looks whether all jobs have been acked.
const LOOK_EVERY: Duration = Duration::from_millis(20);

pub(super) async fn run(bench: &Bench, dial: &Dial) -> Result<Outcome, Failure> {
    let admin = dial.connect("bench").await?;
    let meter = Meter::new(bench.mode, bench.load.left(&admin).await?);
    let meter = Arc::new(meter.at_most_ahead(bench.ahead));
    let (mut producers, mut consumers) = (Crew::default(), Crew::default());
    if bench.mode != Mode::Push {
        for number in 0..bench.connections {
            let client = dial.connect(&format!("bench-consumer-{number}")).await?;
            let consumer = Consumer::new(bench, client, &meter);
            consumers.spawn(consumer.run(consumers.stop.clone()));
        }
    }
    for number in 0..bench.connections {
        let client = dial.connect(&format!("bench-producer-{number}")).await?;
        match bench.rate {
            Some(_) => {
                let producer = Producer::new(bench, client, &meter);
                let phase = f64::from(number) / f64::from(bench.connections);
                producers.spawn(producer.offer(phase, producers.stop.clone()));
            }
            None => {
                for _ in 0..requests_at_once(bench) {
                    let producer = Producer::new(bench, client.clone(), &meter);
                    producers.spawn(producer.run(producers.stop.clone()));
                }
            }
        }
    }
    let period = tokio::select! {
        period = meter.watch(&bench.watch) => period?,
        failure = producers.failure() => return Err(failure),
        failure = consumers.failure() => return Err(failure),
    };
    let behind_min = meter.behind_min();
    producers.stop().await?;
    // A backlog is there so that consumers stay behind; to wait for its end would take long.
    if bench.backlog == 0 && bench.mode != Mode::Push {
        drain(&meter).await;
    }
    consumers.stop().await?;
    let left = bench.load.left(&admin).await?;
    let mut outcome = account(meter, period, left);
    outcome.details.push(("backlog", bench.backlog));
    outcome.details.push(("behind_min", behind_min));
    outcome.details.push(("failed", outcome.meter.failed.get()));
    Ok(outcome)
}

/// Whether each job has been acked or is left.
pub(super) fn account(meter: Arc<Meter>, period: Period, left: u64) -> Outcome {
    let (pushed, acked) = (meter.pushed.get(), meter.acked.get());
    let details = vec![("pushed", pushed), ("acked", acked), ("left", left)];
    let is_whole = meter.before + pushed == acked + left;
    Outcome { meter, period, details, is_whole }
}

/// Requests of one connection that are on their way at once.
pub(super) fn requests_at_once(bench: &Bench) -> u32 {
    bench.in_flight_each().map_or(PUSHES_AT_ONCE, |jobs| jobs.div_ceil(bench.batch))
}

/// Waits until all has been acked, or nothing more comes.
pub(super) async fn drain(meter: &Meter) {
    let (mut last, mut since) = (meter.acked.get(), Instant::now());
    while last < meter.before + meter.pushed.get() && since.elapsed() < DRAINED_AFTER {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = meter.acked.get();
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
}

struct Producer {
    maker: Maker,
    batch: u64,
    /// Requests in a second, of this producer.
    rate: f64,
    client: Client,
    meter: Arc<Meter>,
}

impl Producer {
    fn new(bench: &Bench, client: Client, meter: &Arc<Meter>) -> Self {
        let producers = f64::from(bench.connections) * f64::from(bench.batch);
        Self {
            maker: bench.load.maker(),
            batch: u64::from(bench.batch),
            rate: f64::from(bench.rate.unwrap_or(0)) / producers,
            client,
            meter: Arc::clone(meter),
        }
    }

    /// As fast as the broker stores them.
    async fn run(mut self, stop: CancellationToken) -> Result<(), Failure> {
        while !stop.is_cancelled() {
            tokio::select! {
                () = self.meter.room_for(self.batch as u32) => {}
                () = stop.cancelled() => break,
            }
            self.push().await?;
        }
        Ok(())
    }

    /// At its rate, however long the broker takes. It begins at this part of its period, so that
    /// producers take turns.
    async fn offer(mut self, phase: f64, stop: CancellationToken) -> Result<(), Failure> {
        let period = Duration::from_secs_f64(1.0 / self.rate);
        let mut due = Instant::now() + period.mul_f64(phase);
        let mut pushes = JoinSet::new();
        loop {
            tokio::select! {
                () = sleep_until(due), if pushes.len() < OFFERED_MAX => {
                    pushes.spawn(self.push());
                    due += period;
                }
                Some(done) = pushes.join_next() => done.map_err(Failure::other)??,
                () = stop.cancelled() => break,
            }
        }
        while let Some(done) = pushes.join_next().await {
            done.map_err(Failure::other)??;
        }
        Ok(())
    }

    /// Pushes the next jobs.
    fn push(&mut self) -> impl Future<Output = Result<(), Failure>> + Send + 'static {
        let (client, meter) = (self.client.clone(), Arc::clone(&self.meter));
        let jobs = self.maker.jobs(self.batch, Some(meter.now()));
        async move {
            let (count, started) = (jobs.len(), Instant::now());
            push(&client, jobs).await?;
            meter.pushes.record(micros(started), 1);
            meter.stored(count);
            Ok(())
        }
    }
}

/// Takes jobs as they come and settles what came together, while more is coming.
struct Consumer {
    bench: Bench,
    client: Client,
    meter: Arc<Meter>,
}

impl Consumer {
    fn new(bench: &Bench, client: Client, meter: &Arc<Meter>) -> Self {
        Self { bench: bench.clone(), client, meter: Arc::clone(meter) }
    }

    async fn run(self, stop: CancellationToken) -> Result<(), Failure> {
        let (feed, mut arrivals) = mpsc::unbounded_channel();
        let mut feeds = JoinSet::new();
        for name in self.bench.load.names() {
            let subscription = self.client.subscribe(&name, self.credit()).await?;
            feeds.spawn(forward(subscription, feed.clone(), stop.clone()));
        }
        drop(feed);
        let consumer = Arc::new(self);
        let mut settling = JoinSet::new();
        loop {
            tokio::select! {
                arrived = arrivals.recv() => {
                    // All have come that will come.
                    let Some(mut jobs) = arrived else { break };
                    while jobs.len() < SETTLE_MAX && let Ok(more) = arrivals.try_recv() {
                        jobs.extend(more);
                    }
                    consumer.meter.arrived(&jobs);
                    settling.spawn(Arc::clone(&consumer).settle(jobs));
                }
                Some(done) = settling.join_next() => done.map_err(Failure::other)??,
                Some(done) = feeds.join_next() => done.map_err(Failure::other)??,
            }
        }
        while let Some(done) = settling.join_next().await {
            done.map_err(Failure::other)??;
        }
        while let Some(done) = feeds.join_next().await {
            done.map_err(Failure::other)??;
        }
        Ok(())
    }

    /// Jobs that a subscription holds at once: four batches over all queues unless told otherwise,
    /// but a batch at least.
    fn credit(&self) -> u32 {
        let Bench { batch, rate, connections, ref load, .. } = self.bench;
        let told = self.bench.credit.map(|credit| credit.div_ceil(connections));
        let credit = match (told.or_else(|| self.bench.in_flight_each()), rate) {
            (Some(credit), _) => credit,
            (None, Some(_)) => (batch * 4).max(OFFERED_CREDIT),
            (None, None) => batch * 4,
        };
        (credit / load.queues).max(batch).min(self.client.node().limits.credit_max)
    }

    async fn settle(self: Arc<Self>, jobs: Vec<Job>) -> Result<(), Failure> {
        let fails = |job: &Job| job.attempt == 1 && self.bench.load.fails();
        let (failed, done): (Vec<Job>, Vec<Job>) = jobs.into_iter().partition(fails);
        let in_a_frame = if self.bench.mode == Mode::Pipelined { 1 } else { SETTLE_MAX };
        try_join_all(done.chunks(in_a_frame).map(|jobs| self.ack(jobs))).await?;
        for jobs in failed.chunks(SETTLE_MAX) {
            let failure = || Failed::new("BENCH", "fails once").retry_in(RETRY_IN);
            let failures = jobs.iter().map(|job| (Lease::from(job), failure()));
            for answer in self.client.fail_batch(failures).await? {
                answer?;
            }
            self.meter.failed.add(jobs.len());
        }
        Ok(())
    }

    async fn ack(&self, jobs: &[Job]) -> Result<(), Failure> {
        let started = Instant::now();
        for answer in self.client.ack_batch(jobs.iter().map(Ack::from)).await? {
            answer?;
        }
        self.meter.settled(jobs.len(), micros(started));
        Ok(())
    }
}

/// Hands over what a subscription brings, until told to stop.
async fn forward(
    mut subscription: Subscription,
    feed: mpsc::UnboundedSender<Vec<Job>>,
    stop: CancellationToken,
) -> Result<(), Failure> {
    loop {
        let jobs = tokio::select! {
            jobs = subscription.next_batch() => jobs,
            () = stop.cancelled() => break,
        };
        if jobs.is_empty() {
            let refused = subscription.refused().cloned();
            return Err(refused.map_or_else(|| Failure::other("no more jobs"), Failure::from));
        }
        if feed.send(jobs).is_err() {
            break;
        }
    }
    Ok(subscription.close().await?)
}
