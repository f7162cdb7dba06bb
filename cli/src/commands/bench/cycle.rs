//! Producers and consumers at once.

use std::time::Duration;

use batonq_client::{Ack, Client};
use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Bench, Counter, Dial, Mode, Outcome, histogram, micros, push};
use crate::exit::Failure;

/// Requests of one producer that are on their way at once: while one is being stored, the next
/// is there already.
const PUSHES_AT_ONCE: usize = 2;

/// With nothing coming for so long after the last push, the queue is empty.
const DRAINED_AFTER: Duration = Duration::from_secs(2);

pub(super) async fn run(bench: &Bench, dial: &Dial) -> Result<Outcome, Failure> {
    let (pushed, acked) = (Counter::default(), Counter::default());
    let (pushing, consuming) = (CancellationToken::new(), CancellationToken::new());
    let mut producers = JoinSet::new();
    let mut consumers = JoinSet::new();
    if bench.mode == Mode::Cycle {
        for number in 0..bench.connections {
            let client = dial.connect(&format!("bench-consumer-{number}")).await?;
            let (bench, stop) = (bench.clone(), consuming.clone());
            consumers.spawn(consume(bench, client, acked.clone(), stop));
        }
    }
    let before = left(&dial.connect("bench").await?, bench).await?;
    let started = Instant::now();
    for number in 0..bench.connections {
        let client = dial.connect(&format!("bench-producer-{number}")).await?;
        for _ in 0..PUSHES_AT_ONCE {
            let (bench, stop) = (bench.clone(), pushing.clone());
            producers.spawn(produce(bench, client.clone(), pushed.clone(), stop));
        }
    }
    tokio::time::sleep(Duration::from_secs(bench.seconds)).await;
    let in_time = if bench.mode == Mode::Cycle { acked.get() } else { pushed.get() };
    let elapsed = started.elapsed();
    pushing.cancel();
    let mut times = histogram();
    while let Some(done) = producers.join_next().await {
        let part = done.map_err(Failure::other)??;
        if bench.mode == Mode::Push {
            times.add(part).map_err(Failure::other)?;
        }
    }
    if bench.mode == Mode::Cycle {
        drain(&acked).await;
    }
    consuming.cancel();
    while let Some(done) = consumers.join_next().await {
        times.add(done.map_err(Failure::other)??).map_err(Failure::other)?;
    }
    let after = left(&dial.connect("bench").await?, bench).await?;
    let (pushed, acked) = (pushed.get(), acked.get());
    Ok(Outcome {
        jobs: in_time,
        elapsed,
        times,
        details: vec![
            ("backlog", bench.backlog),
            ("pushed", pushed),
            ("acked", acked),
            ("left", after),
        ],
        is_whole: before + pushed == acked + after,
    })
}

/// What is in the queue and has not been acked.
async fn left(client: &Client, bench: &Bench) -> Result<u64, Failure> {
    let queues = client.queues().await?;
    let queue = queues.into_iter().find(|queue| queue.name == bench.queue);
    Ok(queue.map_or(0, |queue| queue.ready + queue.leased + queue.scheduled))
}

async fn produce(
    bench: Bench,
    client: Client,
    pushed: Counter,
    stop: CancellationToken,
) -> Result<Histogram<u64>, Failure> {
    let mut times = histogram();
    let jobs = bench.jobs(u64::from(bench.batch));
    while !stop.is_cancelled() {
        let started = Instant::now();
        push(&client, jobs.clone()).await?;
        times.saturating_record(micros(started));
        pushed.add(jobs.len());
    }
    Ok(times)
}

/// Takes jobs as they come and acks what came together, while more is coming.
async fn consume(
    bench: Bench,
    client: Client,
    acked: Counter,
    stop: CancellationToken,
) -> Result<Histogram<u64>, Failure> {
    let mut times = histogram();
    let mut subscription = client.subscribe(&bench.queue, bench.batch * 4).await?;
    let mut acks = JoinSet::new();
    loop {
        let jobs = tokio::select! {
            jobs = subscription.next_batch() => jobs,
            Some(done) = acks.join_next() => {
                times.saturating_record(done.map_err(Failure::other)??);
                continue;
            }
            () = stop.cancelled() => break,
        };
        if jobs.is_empty() {
            let refused = subscription.refused().cloned();
            return Err(refused.map_or_else(|| Failure::other("no more jobs"), Failure::from));
        }
        let (client, acked) = (client.clone(), acked.clone());
        acks.spawn(async move {
            let started = Instant::now();
            let count = jobs.len();
            for answer in client.ack_batch(jobs.iter().map(Ack::from)).await? {
                answer?;
            }
            acked.add(count);
            Ok::<_, Failure>(micros(started))
        });
    }
    while let Some(done) = acks.join_next().await {
        times.saturating_record(done.map_err(Failure::other)??);
    }
    subscription.close().await?;
    Ok(times)
}

/// Waits until no more acks come.
async fn drain(acked: &Counter) {
    let mut last = acked.get();
    loop {
        tokio::time::sleep(DRAINED_AFTER).await;
        let now = acked.get();
        if now == last {
            return;
        }
        last = now;
    }
}
