//! Settles what a worker's handlers have done, as many jobs at once as there are.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::client::Client;
use crate::error::Error;
use crate::failure::Failure;
use crate::fate::Fate;
use crate::job::Lease;
use crate::pause::Pauses;
use crate::settle::Ack;
use crate::worker::Output;

const BATCH_MAX: usize = 500;
const TRIES_MAX: usize = 10;
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// One job and what became of it.
#[derive(Debug)]
pub(crate) struct Settlement {
    pub(crate) lease: Lease,
    pub(crate) fate: Fate,
    pub(crate) result: Result<Output, Failure>,
}

/// Settles until nothing more comes. While one batch is on its way, the next one gathers.
pub(crate) async fn run(client: Client, mut settlements: mpsc::UnboundedReceiver<Settlement>) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while settlements.recv_many(&mut batch, BATCH_MAX).await > 0 {
        settle(&client, std::mem::take(&mut batch)).await;
    }
}

/// Repeats what may have been lost on the way, which is safe: the same settlement with the same
/// lease is answered in the same way.
async fn settle(client: &Client, mut batch: Vec<Settlement>) {
    let mut pauses = Pauses::new(PAUSE_MIN, PAUSE_MAX);
    for _ in 0..TRIES_MAX {
        batch = settle_once(client, batch).await;
        if batch.is_empty() {
            return;
        }
        sleep(pauses.next(rand::random())).await;
        batch.retain(|settlement| !settlement.fate.is_lost());
    }
    tracing::warn!(count = batch.len(), "jobs not settled");
}

/// Returns what must be tried again.
async fn settle_once(client: &Client, batch: Vec<Settlement>) -> Vec<Settlement> {
    let mut acks = Vec::with_capacity(batch.len());
    let mut failures = Vec::new();
    let (mut acked, mut failed) = (Vec::with_capacity(batch.len()), Vec::new());
    let (mut snoozes, mut snoozed) = (Vec::new(), Vec::new());
    for settlement in batch {
        let lease = settlement.lease.clone();
        match &settlement.result {
            Ok(Output(result)) => {
                acks.push(Ack::new(lease).result(result.clone()));
                acked.push(settlement);
            }
            Err(Failure { snooze: Some(delay), .. }) => {
                snoozes.push(client.snooze(lease, *delay));
                snoozed.push(settlement);
            }
            Err(failure) => {
                failures.push((lease, failure.clone()));
                failed.push(settlement);
            }
        }
    }
    let (acks, failures, snoozes) = tokio::join!(
        async { if acks.is_empty() { Ok(Vec::new()) } else { client.ack_batch(acks).await } },
        async {
            if failures.is_empty() { Ok(Vec::new()) } else { client.fail_batch(failures).await }
        },
        futures_util::future::join_all(snoozes),
    );
    let mut again = unsettled(acked, acks);
    again.extend(unsettled(failed, failures));
    again.extend(unsettled(snoozed, Ok(snoozes)));
    again
}

fn unsettled(
    batch: Vec<Settlement>,
    results: Result<Vec<Result<(), Error>>, Error>,
) -> Vec<Settlement> {
    match results {
        Err(error) if may_repeat(&error) => batch,
        Err(error) => {
            tracing::warn!(%error, count = batch.len(), "jobs not settled");
            Vec::new()
        }
        Ok(results) => {
            let again = |(settlement, result)| needs_again(result).then_some(settlement);
            batch.into_iter().zip(results).filter_map(again).collect()
        }
    }
}

fn needs_again(result: Result<(), Error>) -> bool {
    let Err(error) = result else { return false };
    let again = may_repeat(&error);
    if !again {
        tracing::warn!(%error, "job not settled");
    }
    again
}

fn may_repeat(error: &Error) -> bool {
    error.is_retryable() || matches!(error, Error::OutcomeUnknown { .. })
}
