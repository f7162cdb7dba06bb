//! Custom ids: over all queues one live job has each of them, and the last that took one is found by
//! it as long as it is known.
//!
//! Two rows say so: the key, which goes when its job ends, and the name, which goes when its job is
//! forgotten. A live job with a custom id always has both. Who writes a name has its key, so that
//! nobody else writes it; who forgets one passes it over while it is being written.

use super::lane::Failure;
use super::row::job_id;
use super::{PostgresStore, QueueId};
use crate::job::UniqueKey;
use crate::store::Job;

/// The queue of keys that belong to none.
pub(super) const NO_QUEUE: QueueId = 0;

/// A job is found by its custom id from now on. It must have the key.
pub(super) const NAME: &str = "
    INSERT INTO custom_id (key, job_id)
    SELECT key, job_id
    FROM unnest($1::text[], $2::bigint[]) AS u (key, job_id)
    ON CONFLICT (key) DO UPDATE
    SET job_id = excluded.job_id";

const FIND: &str = "SELECT job_id FROM custom_id WHERE key = $1";

/// See [`super::hot_statements`].
pub(super) const HOT: &[super::Named] = &[("custom_ids::NAME", NAME), ("custom_ids::FIND", FIND)];

impl PostgresStore {
    pub(super) async fn find_by_custom_id(&self, key: &UniqueKey) -> Result<Option<Job>, Failure> {
        let rows = self.pool.read((FIND, &[&key.as_str()])).await?;
        match rows.first() {
            Some(row) => self.find_job(job_id(row, "job_id")).await,
            None => Ok(None),
        }
    }
}
