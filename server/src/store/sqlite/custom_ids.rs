//! Custom ids: over all queues one live job has each of them, and the last that took one is found by
//! it as long as it is known.
//!
//! Two rows say so: the key, which goes when its job ends, and the name, which goes when its job is
//! forgotten. A live job with a custom id always has both.

use rusqlite::params;

use super::row::job_id;
use super::tables::{QueueId, Tables};
use crate::job::{JobId, UniqueKey};
use crate::store::{Job, KeyKind};

/// The queue of keys that belong to none.
const NO_QUEUE: QueueId = 0;

impl Tables {
    /// The live job that has a custom id.
    pub(super) fn holder_of_custom_id(&self, key: &UniqueKey) -> rusqlite::Result<Option<JobId>> {
        self.holder_of_key(NO_QUEUE, KeyKind::CustomId, key.as_str())
    }

    /// Gives a custom id to a job that lives.
    pub(super) fn take_custom_id(&self, key: &UniqueKey, id: i64) -> rusqlite::Result<()> {
        self.take_key(NO_QUEUE, KeyKind::CustomId, key.as_str(), id, None)?;
        let sql = "INSERT OR REPLACE INTO custom_id (key, job_id) VALUES (?1, ?2)";
        self.execute(sql, params![key.as_str(), id])
    }

    /// Gives back the custom id of a job that has ended.
    pub(super) fn release_custom_id(&self, id: i64) -> rusqlite::Result<()> {
        let sql = "DELETE FROM unique_key
                   WHERE queue_id = 0 AND kind = 4 AND job_id = ?1
                   AND key = (SELECT key FROM custom_id WHERE job_id = ?1)";
        self.execute(sql, [id])
    }

    /// Has jobs with these ids found by custom ids no more.
    pub(super) fn forget_custom_ids(&self, first: i64, last: i64) -> rusqlite::Result<()> {
        let sql = "DELETE FROM custom_id WHERE job_id BETWEEN ?1 AND ?2";
        self.execute(sql, [first, last])
    }

    pub(super) fn job_by_custom_id(&self, key: &UniqueKey) -> rusqlite::Result<Option<Job>> {
        let sql = "SELECT job_id FROM custom_id WHERE key = ?1";
        let id = self.one(sql, [key.as_str()], |row| job_id(row, 0))?;
        id.map_or(Ok(None), |id| self.job(id))
    }
}
