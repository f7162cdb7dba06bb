//! Queues that are not as all others: those with guards, and those that say whether completed jobs
//! are kept.
//!
//! A node looks once a second, as long as jobs are pushed or settled: what is set through one node
//! holds there at once, and at all others a second later.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::lane::Failure;
use super::row::get;
use super::{PostgresStore, QueueId};
use crate::job::{QueueName, Settings};

/// How long a node does not look.
const LOOK_EVERY: Duration = Duration::from_secs(1);

const LOOK: &str = "
    SELECT id, is_guarded, keeps_completed
    FROM queue
    WHERE is_guarded OR keeps_completed IS NOT NULL";

/// What this node knows of them.
#[derive(Debug, Default)]
pub(super) struct Special(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    guarded: HashSet<QueueId>,
    keeps_completed: HashMap<QueueId, bool>,
    looked_at: Option<Instant>,
}

impl Special {
    fn is_look_due(&self) -> bool {
        let mut known = self.0.lock();
        let is_due = known.looked_at.is_none_or(|at| at.elapsed() >= LOOK_EVERY);
        if is_due {
            known.looked_at = Some(Instant::now());
        }
        is_due
    }
}

impl PostgresStore {
    /// Looks, if it is time to.
    pub(super) async fn look_at_queues(&self) -> Result<(), Failure> {
        if !self.special.is_look_due() {
            return Ok(());
        }
        let rows = self.pool.read((LOOK, &[])).await?;
        let mut known = self.special.0.lock();
        known.guarded.clear();
        known.keeps_completed.clear();
        for row in &rows {
            let id = get(row, "id");
            if get(row, "is_guarded") {
                known.guarded.insert(id);
            }
            if let Some(keeps) = get(row, "keeps_completed") {
                known.keeps_completed.insert(id, keeps);
            }
        }
        Ok(())
    }

    /// Those of these queues that may have guards.
    pub(super) async fn guarded(
        &self,
        queues: &HashMap<QueueName, QueueId>,
    ) -> Result<Vec<QueueId>, Failure> {
        self.look_at_queues().await?;
        let known = &self.special.0.lock().guarded;
        Ok(queues.values().filter(|id| known.contains(id)).copied().collect())
    }

    /// Whether a completed job of this queue is kept.
    pub(super) fn keeps_completed(&self, queue: QueueId) -> bool {
        let said = self.special.0.lock().keeps_completed.get(&queue).copied();
        said.unwrap_or_else(|| self.retention.keeps_completed())
    }

    /// What the column `keeps_completed` says with these settings. `None`: nothing, each node does
    /// as it is configured.
    pub(super) fn says_it_keeps(&self, settings: &Settings) -> Option<bool> {
        let says = settings.keep_completed.is_some() || settings.keep_completed_max.is_some();
        says.then(|| self.retention.of(settings).keeps_completed())
    }

    /// These settings hold here from now on.
    pub(super) fn note_settings(&self, queue: QueueId, settings: &Settings) {
        let keeps = self.says_it_keeps(settings);
        let mut known = self.special.0.lock();
        match settings.is_guarded() {
            true => known.guarded.insert(queue),
            false => known.guarded.remove(&queue),
        };
        match keeps {
            Some(keeps) => known.keeps_completed.insert(queue, keeps),
            None => known.keeps_completed.remove(&queue),
        };
    }
}
