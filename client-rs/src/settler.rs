//! Settles what a worker's handlers have done, as many jobs at once as there are.
//!
//! A result that the node refuses for good, being too large for example, becomes a failure, so that
//! its job does not stay in the hands of a worker that is done with it.

use std::time::Duration;

use batonq_protocol::ErrorCode;
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
/// Bytes of results in one frame, which holds everything else too.
const BATCH_BYTES_MAX: usize = 3 * 1024 * 1024;
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
        let bytes = |one: &Settlement| one.result.as_ref().map_or(0, |Output(result)| result.len());
        for part in parts(std::mem::take(&mut batch), bytes) {
            settle(&client, part).await;
        }
    }
}

/// What goes into one frame each: what is too large for any goes alone, so that it is refused alone.
fn parts<T>(batch: Vec<T>, bytes_of: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let mut parts = Vec::new();
    let mut part = Vec::with_capacity(batch.len());
    let mut bytes = 0;
    for one in batch {
        let own = bytes_of(&one);
        if !part.is_empty() && bytes + own > BATCH_BYTES_MAX {
            parts.push(std::mem::take(&mut part));
            bytes = 0;
        }
        bytes += own;
        part.push(one);
    }
    parts.push(part);
    parts
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

/// Those that are to be settled again.
fn unsettled(
    batch: Vec<Settlement>,
    results: Result<Vec<Result<(), Error>>, Error>,
) -> Vec<Settlement> {
    match results {
        Err(error) => batch.into_iter().filter_map(|one| after(one, &error)).collect(),
        Ok(results) => {
            let again = |(one, result): (_, Result<(), Error>)| after(one, &result.err()?);
            batch.into_iter().zip(results).filter_map(again).collect()
        }
    }
}

/// What is to be settled after this error; `None`: there is no use in another try.
fn after(mut settlement: Settlement, error: &Error) -> Option<Settlement> {
    if error.is_retryable() || matches!(error, Error::OutcomeUnknown { .. }) {
        return Some(settlement);
    }
    tracing::warn!(%error, "job not settled");
    let is_refused = matches!(error.code(), Some(ErrorCode::Invalid | ErrorCode::PayloadTooLarge));
    if !is_refused || settlement.result.is_err() {
        return None;
    }
    settlement.result = Err(Failure::new("RESULT_REFUSED", error.to_string()));
    Some(settlement)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_goes_together_and_what_is_too_large_for_any_frame_goes_alone() {
        const MIB: usize = 1024 * 1024;
        let split = |sizes: &[usize]| parts(sizes.to_vec(), |size| *size);
        assert_eq!(split(&[0, 0, 3 * MIB]), [vec![0, 0, 3 * MIB]]);
        assert_eq!(split(&[2 * MIB, MIB, 1]), [vec![2 * MIB, MIB], vec![1]]);
        assert_eq!(split(&[0, 5 * MIB, 0]), [vec![0], vec![5 * MIB], vec![0]]);
    }
}
