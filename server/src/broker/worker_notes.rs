//! Workers that say by themselves that they are at work.
//!
//! Those of our own protocol need not: their connections say so. A worker that only ever calls over
//! HTTP has none. What it says is kept for [`WORKER_NOTE_KEPT`] as a value by key that is batonq's own,
//! so that every node has the same list; it drives nothing, and a note that is lost, or can not be
//! read, is made up for by the next one.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Broker;
use crate::error::Error;
use crate::job::{KvKey, QueueName, Timestamp, WorkerName};
use crate::limits;
use crate::store::events::INTERNAL;
use crate::store::{KvEntry, KvPattern};

/// How long a worker is taken to be there after it has said so.
pub const WORKER_NOTE_KEPT: Duration = Duration::from_secs(30);

/// What follows `batonq.` in their keys, before the name of the worker.
const WORKER: &str = "worker.";

/// Notes that are read at once. At their longest they have some 2 MiB.
const AT_ONCE: usize = 100;

/// What a worker says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerNote {
    /// The name that it gives itself: [`limits::WORKER_NOTE_ID_BYTES`].
    pub id: String,
    /// The queues that it works for; at most [`limits::WORKER_NOTE_QUEUES_MAX`].
    pub queues: Vec<QueueName>,
    /// How many jobs it takes at once.
    pub concurrency: u32,
    /// How many it has done.
    pub jobs_processed: u64,
    /// When it said so.
    pub at: Timestamp,
}

impl Broker {
    /// Notes that a worker is at work. It takes the place of what the worker said before, and is
    /// forgotten after [`WORKER_NOTE_KEPT`].
    ///
    /// # Cancel safety
    ///
    /// Dropping this future does not recall the note.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if it has too many queues or its name can not be accepted, or those of the
    /// store.
    pub async fn note_worker(&self, note: WorkerNote) -> Result<(), Error> {
        check(&note)?;
        let key = KvKey::parse(&format!("{INTERNAL}{WORKER}{}", note.id))?;
        let json = |error: serde_json::Error| Error::Internal(error.to_string().into());
        let value = serde_json::to_vec(&note).map_err(json)?.into();
        self.store().kv_set(vec![KvEntry { key, value, ttl: Some(WORKER_NOTE_KEPT) }]).await
    }

    /// The workers that have said within [`WORKER_NOTE_KEPT`] that they are at work, by name: the
    /// first [`limits::WORKER_NOTES_MAX`].
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub async fn noted_workers(&self) -> Result<Vec<WorkerNote>, Error> {
        let mut keys = self.store().kv_keys(KvPattern::own(WORKER)).await?;
        keys.truncate(limits::WORKER_NOTES_MAX);
        let mut notes = Vec::with_capacity(keys.len());
        for keys in keys.chunks(AT_ONCE) {
            let values = self.store().kv_get(keys.to_vec(), usize::MAX).await?;
            // By now some may have had their time.
            for value in values.into_iter().flatten().flatten() {
                match serde_json::from_slice(&value.value) {
                    Ok(note) => notes.push(note),
                    Err(error) => tracing::debug!(%error, "a worker's note can not be read"),
                }
            }
        }
        Ok(notes)
    }
}

fn check(note: &WorkerNote) -> Result<(), Error> {
    let invalid = |detail: String| Error::invalid("id", detail);
    let bytes = limits::WORKER_NOTE_ID_BYTES;
    if !bytes.contains(&note.id.len()) {
        return Err(invalid(format!("must have {} to {} bytes", bytes.start(), bytes.end())));
    }
    WorkerName::parse(&note.id).map_err(|error| invalid(error.detail))?;
    match note.queues.len() > limits::WORKER_NOTE_QUEUES_MAX {
        true => {
            let detail = format!("more than {}", limits::WORKER_NOTE_QUEUES_MAX);
            Err(Error::invalid("queues", detail))
        }
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio_util::sync::CancellationToken;

    use super::super::Patience;
    use super::*;
    use crate::clock::ManualClock;
    use crate::cluster::Demand;
    use crate::secrets::Keyring;
    use crate::store::Retention;
    use crate::store::memory::MemoryStore;

    fn broker() -> (Broker, Arc<ManualClock>) {
        let clock = ManualClock::new();
        let store = MemoryStore::new("n", clock.clone(), Retention::default());
        let (patience, stop) = (Patience::default(), CancellationToken::new());
        let (demand, keys) = (Demand::default(), Keyring::default());
        (Broker::new(Arc::new(store), clock.clone(), patience, demand, keys, &stop).0, clock)
    }

    fn note(id: &str) -> WorkerNote {
        let queues = vec![QueueName::parse("q").unwrap()];
        WorkerNote { id: id.into(), queues, concurrency: 3, jobs_processed: 7, at: Timestamp(1) }
    }

    #[tokio::test]
    async fn a_worker_is_listed_until_it_has_been_silent_for_a_while() {
        let (broker, clock) = broker();
        broker.note_worker(note("b")).await.unwrap();
        broker.note_worker(note("a \"1\"*")).await.unwrap();
        let later = WorkerNote { jobs_processed: 8, ..note("b") };
        clock.advance(WORKER_NOTE_KEPT / 2);
        broker.note_worker(later.clone()).await.unwrap();
        assert_eq!(broker.noted_workers().await.unwrap(), [note("a \"1\"*"), later.clone()]);
        clock.advance(WORKER_NOTE_KEPT / 2);
        assert_eq!(broker.noted_workers().await.unwrap(), [later]);
        clock.advance(WORKER_NOTE_KEPT / 2);
        assert_eq!(broker.noted_workers().await.unwrap(), []);
    }

    #[tokio::test]
    async fn the_list_of_workers_is_bounded() {
        let (broker, _) = broker();
        for number in 0..=limits::WORKER_NOTES_MAX {
            broker.note_worker(note(&format!("w{number:04}"))).await.unwrap();
        }
        let listed = broker.noted_workers().await.unwrap();
        assert_eq!(listed.len(), limits::WORKER_NOTES_MAX);
        assert!(listed.is_sorted_by(|one, next| one.id < next.id));
        assert_eq!(broker.kv_keys("*").await.unwrap(), [], "clients do not see them");
    }

    #[tokio::test]
    async fn a_note_that_can_not_be_accepted_names_what_is_wrong() {
        let (broker, _) = broker();
        let many = vec![QueueName::parse("q").unwrap(); limits::WORKER_NOTE_QUEUES_MAX + 1];
        for (bad, field) in [
            (note(""), "id"),
            (note(&"w".repeat(129)), "id"),
            (note("a\nb"), "id"),
            (WorkerNote { queues: many, ..note("w") }, "queues"),
        ] {
            assert_eq!(broker.note_worker(bad).await.unwrap_err().field(), Some(field));
        }
        assert_eq!(broker.noted_workers().await.unwrap(), []);
    }
}
