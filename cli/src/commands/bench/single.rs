//! One call after the other.

use std::sync::Arc;
use std::time::Duration;

use batonq_client::{Client, PullOptions};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::crew::Crew;
use super::load::push;
use super::meter::{Counter, Meter, micros};
use super::{Bench, Dial, Outcome};
use crate::exit::Failure;

/// A delivery that takes longer is none.
const DELIVERY_MAX: Duration = Duration::from_secs(10);

/// Each connection pushes a job, pulls one and acks it.
pub(super) async fn round_trips(bench: &Bench, dial: &Dial) -> Result<Outcome, Failure> {
    let mut crew = Crew::default();
    let (meter, missed) = (Arc::new(Meter::new(bench.mode, 0)), Arc::new(Counter::default()));
    for number in 0..bench.connections {
        let client = dial.connect(&format!("bench-{number}")).await?;
        let (meter, missed) = (Arc::clone(&meter), Arc::clone(&missed));
        crew.spawn(turns(bench.clone(), client, meter, missed, crew.stop.clone()));
    }
    finish(bench, crew, meter, &missed).await
}

async fn finish(
    bench: &Bench,
    mut crew: Crew,
    meter: Arc<Meter>,
    missed: &Counter,
) -> Result<Outcome, Failure> {
    let period = tokio::select! {
        period = meter.watch(&bench.watch) => period?,
        failure = crew.failure() => return Err(failure),
    };
    crew.stop().await?;
    let missed = missed.get();
    Ok(Outcome { meter, period, details: vec![("missed", missed)], is_whole: missed == 0 })
}

async fn turns(
    bench: Bench,
    client: Client,
    meter: Arc<Meter>,
    missed: Arc<Counter>,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let mut maker = bench.load.maker();
    let pull = PullOptions::new(bench.load.queue.as_str()).wait(DELIVERY_MAX);
    while !stop.is_cancelled() {
        let started = Instant::now();
        push(&client, maker.jobs(1, None)).await?;
        match client.pull(pull.clone()).await?.first() {
            Some(job) => {
                client.ack(job).await?;
                meter.done.add(1);
            }
            None => missed.add(1),
        }
        meter.turns.record(micros(started), 1);
    }
    Ok(())
}

/// One job at a time, from the call of push to the arrival at a subscriber.
pub(super) async fn latency(bench: &Bench, dial: &Dial) -> Result<Outcome, Failure> {
    let producer = dial.connect("bench-producer").await?;
    let consumer = dial.connect("bench-consumer").await?;
    let mut crew = Crew::default();
    let (meter, missed) = (Arc::new(Meter::new(bench.mode, 0)), Arc::new(Counter::default()));
    let handing = {
        let (meter, missed) = (Arc::clone(&meter), Arc::clone(&missed));
        hand_over(bench.clone(), producer, consumer, meter, missed, crew.stop.clone())
    };
    crew.spawn(handing);
    let mut outcome = finish(bench, crew, meter, &missed).await?;
    for (name, quantile) in [("push_p50_us", 0.5), ("push_p99_us", 0.99)] {
        outcome.details.push((name, outcome.meter.pushes.micros(quantile)));
    }
    Ok(outcome)
}

async fn hand_over(
    bench: Bench,
    producer: Client,
    consumer: Client,
    meter: Arc<Meter>,
    missed: Arc<Counter>,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let mut maker = bench.load.maker();
    let mut subscription = consumer.subscribe(&bench.load.queue, 10).await?;
    while !stop.is_cancelled() {
        let pushed_at = Instant::now();
        let reply = async {
            let answer = push(&producer, maker.jobs(1, None)).await;
            meter.pushes.record(micros(pushed_at), 1);
            answer
        };
        let arrival = async {
            let arrived = tokio::time::timeout(DELIVERY_MAX, subscription.next()).await;
            (arrived, micros(pushed_at))
        };
        let (answer, (arrived, delivered)) = tokio::join!(reply, arrival);
        answer?;
        match arrived {
            Ok(Some(job)) => {
                meter.deliveries.record(delivered, 1);
                consumer.ack(&job).await?;
                meter.done.add(1);
            }
            Ok(None) | Err(_) => missed.add(1),
        }
    }
    Ok(subscription.close().await?)
}
