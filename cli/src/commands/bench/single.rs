//! One call after the other.

use std::time::Duration;

use batonq_client::{Client, PullOptions};
use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Bench, Counter, Dial, Outcome, histogram, micros, push};
use crate::exit::Failure;

/// A delivery that takes longer is none.
const DELIVERY_MAX: Duration = Duration::from_secs(10);

/// Each connection pushes a job, pulls one and acks it.
pub(super) async fn round_trips(bench: &Bench, dial: &Dial) -> Result<Outcome, Failure> {
    let (done, missed) = (Counter::default(), Counter::default());
    let mut tasks = JoinSet::new();
    let started = Instant::now();
    let until = started + Duration::from_secs(bench.seconds);
    for number in 0..bench.connections {
        let client = dial.connect(&format!("bench-{number}")).await?;
        tasks.spawn(turn(bench.clone(), client, done.clone(), missed.clone(), until));
    }
    let mut times = histogram();
    while let Some(part) = tasks.join_next().await {
        times.add(part.map_err(Failure::other)??).map_err(Failure::other)?;
    }
    Ok(Outcome {
        jobs: done.get(),
        elapsed: started.elapsed(),
        times,
        details: vec![("missed", missed.get())],
        is_whole: missed.get() == 0,
    })
}

async fn turn(
    bench: Bench,
    client: Client,
    done: Counter,
    missed: Counter,
    until: Instant,
) -> Result<Histogram<u64>, Failure> {
    let mut times = histogram();
    while Instant::now() < until {
        let started = Instant::now();
        push(&client, bench.jobs(1)).await?;
        let pull = PullOptions::new(bench.queue.as_str()).wait(DELIVERY_MAX);
        match client.pull(pull).await?.first() {
            Some(job) => {
                client.ack(job).await?;
                done.add(1);
            }
            None => missed.add(1),
        }
        times.saturating_record(micros(started));
    }
    Ok(times)
}

/// One job at a time, from the call of push to the arrival at a subscriber.
pub(super) async fn latency(bench: &Bench, dial: &Dial) -> Result<Outcome, Failure> {
    let producer = dial.connect("bench-producer").await?;
    let consumer = dial.connect("bench-consumer").await?;
    let mut subscription = consumer.subscribe(&bench.queue, 10).await?;
    let mut times = histogram();
    let mut replies = histogram();
    let (mut jobs, mut missed) = (0, 0);
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(bench.seconds) {
        let pushed_at = Instant::now();
        let reply = async {
            let answer = push(&producer, bench.jobs(1)).await;
            (answer, micros(pushed_at))
        };
        let arrival = async {
            let arrived = tokio::time::timeout(DELIVERY_MAX, subscription.next()).await;
            (arrived, micros(pushed_at))
        };
        let ((answer, replied), (arrived, delivered)) = tokio::join!(reply, arrival);
        answer?;
        replies.saturating_record(replied);
        match arrived {
            Ok(Some(job)) => {
                times.saturating_record(delivered);
                consumer.ack(&job).await?;
                jobs += 1;
            }
            Ok(None) | Err(_) => missed += 1,
        }
    }
    let elapsed = started.elapsed();
    Ok(Outcome {
        jobs,
        elapsed,
        times,
        details: vec![
            ("missed", missed),
            ("push_p50_us", replies.value_at_quantile(0.5)),
            ("push_p99_us", replies.value_at_quantile(0.99)),
        ],
        is_whole: missed == 0,
    })
}
