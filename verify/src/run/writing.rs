//! Writes the history of a run to its file as it comes, and counts what goes by.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Error;
use crate::history::Record;
use crate::history::file::{FileError, Writer};
use crate::record::Recording;

/// How long whoever still has something to record may take to let go.
const LET_GO_IN: Duration = Duration::from_secs(10);

/// What went by, for who wants to know how it goes.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) unknown: AtomicU64,
    pub(super) faults: AtomicU64,
    /// The file can not be written any more.
    pub(super) failed: CancellationToken,
}

/// A file that is being written.
#[derive(Debug)]
pub(super) struct Writing {
    tally: Arc<Tally>,
    task: JoinHandle<Result<(), FileError>>,
    no_more: CancellationToken,
}

impl Writing {
    /// Begins a file.
    ///
    /// # Errors
    ///
    /// If it can not be written.
    pub(super) fn begin(path: &Path, recording: Recording) -> Result<Self, FileError> {
        let writer = Writer::create(path)?;
        let (tally, no_more) = (Arc::new(Tally::default()), CancellationToken::new());
        let task = tokio::spawn(write(writer, recording, Arc::clone(&tally), no_more.clone()));
        Ok(Self { tally, task, no_more })
    }

    pub(super) fn tally(&self) -> &Arc<Tally> {
        &self.tally
    }

    /// Waits until all who record have let go, if that does not take too long; all of it is in the
    /// file then.
    ///
    /// # Errors
    ///
    /// If not all of it could be written.
    pub(super) async fn end(mut self) -> Result<(), Error> {
        let ended = match timeout(LET_GO_IN, &mut self.task).await {
            Ok(ended) => ended,
            Err(_) => {
                self.no_more.cancel();
                self.task.await
            }
        };
        Ok(ended.map_err(|error| Error::Failed(error.to_string()))??)
    }
}

async fn write(
    mut writer: Writer<File>,
    mut recording: Recording,
    tally: Arc<Tally>,
    no_more: CancellationToken,
) -> Result<(), FileError> {
    let _guard = tally.failed.clone().drop_guard();
    while let Some(Some(records)) = no_more.run_until_cancelled(recording.next()).await {
        for record in &records {
            tally.count(record);
            writer.write(record)?;
        }
    }
    writer.flush()
}

impl Tally {
    fn count(&self, record: &Record) {
        let counter = match record {
            Record::Call(call) if call.outcome.is_unknown() => &self.unknown,
            Record::Fault(_) => &self.faults,
            _ => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
