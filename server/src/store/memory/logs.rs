//! The logs of jobs.

use bytes::Bytes;

use super::Model;
use crate::job::JobId;
use crate::limits;
use crate::store::StoredLine;

impl Model {
    pub(super) fn log(&mut self, job: JobId, level: String, message: Bytes) -> bool {
        let at = self.now;
        let Some(record) = self.jobs.get_mut(&job) else { return false };
        record.log.push(StoredLine { at, level, message });
        if record.log.len() > limits::LOGS_MAX {
            record.log.remove(0);
        }
        true
    }

    pub(super) fn logs(&self, job: JobId) -> Vec<StoredLine> {
        self.jobs.get(&job).map(|record| record.log.clone()).unwrap_or_default()
    }
}
