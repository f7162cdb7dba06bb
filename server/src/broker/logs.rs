//! The logs of jobs: what their workers, and others, have to say of them.

use super::Broker;
use super::people::no_job;
use crate::error::Error;
use crate::job::{JobId, cut};
use crate::limits;
use crate::store::LogLine;

impl Broker {
    /// Writes a line into the log of a job, in whatever state it is. The last [`limits::LOGS_MAX`]
    /// are kept, for as long as anything is known of the job. A level or a message that is too long
    /// is cut.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future does not recall the line.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], or those of the store. [`Error::Unavailable`] too if the job's queue is
    /// encrypted and this node has no key.
    pub async fn log(&self, job: JobId, level: String, message: String) -> Result<(), Error> {
        let level = cut(&level, limits::LOG_LEVEL_BYTES_MAX);
        let message = cut(&message, limits::LOG_MESSAGE_BYTES_MAX);
        let message = self.0.core.seal_line(job, message).await?;
        let _room = self.0.core.budget.take(message.len())?;
        match self.store().log(job, level, message).await? {
            true => Ok(()),
            false => Err(no_job(job)),
        }
    }

    /// The log of a job, oldest line first. Empty, too, if there is no such job.
    ///
    /// # Errors
    ///
    /// Those of the store. [`Error::Unavailable`] too if a line is sealed with a key that this node
    /// does not have.
    pub async fn logs(&self, job: JobId) -> Result<Vec<LogLine>, Error> {
        let lines = self.store().logs(job).await?.into_iter();
        lines.map(|line| self.0.core.sealing.open_line(job, line)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use bytes::Bytes;
    use tokio_util::sync::CancellationToken;

    use super::super::Patience;
    use super::*;
    use crate::clock::ManualClock;
    use crate::cluster::Demand;
    use crate::job::{NewJob, Payload, QueueName, Settings};
    use crate::secrets::{Keyring, is_sealed};
    use crate::store::memory::MemoryStore;
    use crate::store::{Retention, Store};

    const KEY: &str = "5ca1ab1e000102030405060708090a0b0c0d0e0f101112131415161718191a1b";

    fn store() -> Arc<dyn Store> {
        Arc::new(MemoryStore::new("n", ManualClock::new(), Retention::default()))
    }

    fn broker(store: &Arc<dyn Store>, keys: Keyring) -> Broker {
        let (clock, patience, stop) =
            (ManualClock::new(), Patience::default(), CancellationToken::new());
        Broker::new(Arc::clone(store), clock, patience, Demand::default(), keys, &stop).0
    }

    async fn push(store: &Arc<dyn Store>, queue: &str) -> JobId {
        let payload = Payload::new(Bytes::from_static(b"{}")).unwrap();
        let job = NewJob::new(QueueName::parse(queue).unwrap(), payload);
        store.push(vec![job]).await.unwrap()[0].id().unwrap()
    }

    #[tokio::test]
    async fn lines_of_encrypted_queues_are_sealed_and_no_others() {
        let store = store();
        let keyed = broker(&store, Keyring::parse(KEY, std::iter::empty()).unwrap());
        let (hush, open) = (push(&store, "hush").await, push(&store, "open").await);
        let encrypted = Settings { encrypted: true, ..Settings::default() };
        keyed.set_settings(QueueName::parse("hush").unwrap(), encrypted).await.unwrap();
        for job in [hush, open] {
            keyed.log(job, "info".into(), "one".into()).await.unwrap();
        }
        store.cancel(hush, Duration::ZERO).await.unwrap();
        keyed.log(hush, "info".into(), "two".into()).await.unwrap();
        let stored = store.logs(hush).await.unwrap();
        assert!(stored.len() == 2 && stored.iter().all(|line| is_sealed(&line.message)));
        assert_eq!(&store.logs(open).await.unwrap()[0].message[..], b"one");
        let said = |lines: Vec<LogLine>| lines.into_iter().map(|line| line.message);
        let opened: Vec<String> = said(keyed.logs(hush).await.unwrap()).collect();
        assert_eq!(opened, ["one", "two"]);

        let keyless = broker(&store, Keyring::default());
        let refused = keyless.log(hush, "info".into(), "three".into()).await;
        assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
        assert!(matches!(keyless.logs(hush).await, Err(Error::Unavailable(_))));
        keyless.log(open, "info".into(), "two".into()).await.unwrap();
        let opened: Vec<String> = said(keyless.logs(open).await.unwrap()).collect();
        assert_eq!(opened, ["one", "two"]);
    }

    #[tokio::test]
    async fn what_is_too_long_is_cut_and_a_job_that_is_not_there_is_not_found() {
        let store = store();
        let broker = broker(&store, Keyring::default());
        let id = push(&store, "q").await;
        broker.log(id, "ä".repeat(9), "m".repeat(5000)).await.unwrap();
        let line = broker.logs(id).await.unwrap().remove(0);
        let lengths = (line.level.len(), line.message.len());
        assert_eq!(lengths, (limits::LOG_LEVEL_BYTES_MAX, limits::LOG_MESSAGE_BYTES_MAX));
        let refused = broker.log(JobId(99), "info".into(), "lost".into()).await;
        assert!(matches!(refused, Err(Error::NotFound(_))), "{refused:?}");
        assert_eq!(broker.logs(JobId(99)).await.unwrap(), []);
    }
}
