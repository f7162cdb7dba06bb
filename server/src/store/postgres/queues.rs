//! Queues by name and by number. A queue is never renamed or deleted, so what was once read stays
//! true.

use std::collections::HashMap;

use parking_lot::RwLock;
use tokio_postgres::Row;

use super::lane::{Failure, Pool};
use super::row::{get, job_id, parsed};
use super::{PostgresStore, QueueId};
use crate::job::{JobId, QueueName};
use crate::store::columns::{are_encrypted, sql_id};

const FIND: &str = "SELECT id, name FROM queue WHERE name = ANY($1::text[])";

const MAKE: &str = "
    INSERT INTO queue (name)
    SELECT name FROM unnest($1::text[]) AS u (name)
    ORDER BY name
    ON CONFLICT DO NOTHING";

/// The settings are read, too: a key may have that name.
const ENCRYPTED: &str = "SELECT name, settings FROM queue WHERE settings LIKE '%encrypted%'";

const OF_JOBS: &str = "
    SELECT u.id, j.queue_id
    FROM unnest($1::bigint[]) AS u (id)
    CROSS JOIN LATERAL (
        SELECT queue_id FROM job WHERE id = u.id OFFSET 0
    ) j
    UNION ALL
    SELECT id, queue_id FROM places_in_runs($1)";

/// For the test of their plans.
pub(super) const HOT: &[super::Named] = &[("queues::OF_JOBS", OF_JOBS)];

impl PostgresStore {
    pub(super) async fn find_encrypted(&self) -> Result<Vec<QueueName>, Failure> {
        let mut found = Vec::new();
        for row in self.pool.read((ENCRYPTED, &[])).await? {
            if are_encrypted(get(&row, "settings")) {
                found.extend(parsed(&row, "name", QueueName::parse)?);
            }
        }
        Ok(found)
    }

    pub(super) async fn find_queues_of(
        &self,
        jobs: &[JobId],
    ) -> Result<Vec<Option<QueueName>>, Failure> {
        let ids: Vec<i64> = jobs.iter().map(|job| sql_id(*job)).collect();
        let mut queues = HashMap::new();
        for row in self.pool.read((OF_JOBS, &[&ids])).await? {
            let queue = self.queues.name(&self.pool, get(&row, "queue_id")).await?;
            queues.insert(job_id(&row, "id"), queue);
        }
        Ok(jobs.iter().map(|job| queues.get(job).cloned()).collect())
    }
}

#[derive(Debug, Default)]
pub(super) struct Queues(RwLock<Known>);

#[derive(Debug, Default)]
struct Known {
    by_name: HashMap<QueueName, QueueId>,
    by_id: HashMap<QueueId, QueueName>,
}

impl Queues {
    /// Those of these queues that there are.
    pub(super) async fn find_all(
        &self,
        pool: &Pool,
        names: impl Iterator<Item = &QueueName>,
    ) -> Result<HashMap<QueueName, QueueId>, Failure> {
        let (mut found, missing) = self.known(names);
        if !missing.is_empty() {
            let texts: Vec<&str> = missing.iter().map(QueueName::as_str).collect();
            found.extend(self.learn(&pool.read((FIND, &[&texts])).await?)?);
        }
        Ok(found)
    }

    /// These queues, made if there are none.
    pub(super) async fn ids(
        &self,
        pool: &Pool,
        names: impl Iterator<Item = &QueueName>,
    ) -> Result<HashMap<QueueName, QueueId>, Failure> {
        let (mut found, missing) = self.known(names);
        if !missing.is_empty() {
            let texts: Vec<&str> = missing.iter().map(QueueName::as_str).collect();
            let mut tx = pool.begin().await?;
            tx.query(MAKE, &[&texts]).await?;
            let rows = tx.commit(&[(FIND, &[&texts])]).await?;
            found.extend(self.learn(&rows[0])?);
        }
        Ok(found)
    }

    /// A queue's name.
    pub(super) async fn name(&self, pool: &Pool, id: QueueId) -> Result<QueueName, Failure> {
        if let Some(name) = self.0.read().by_id.get(&id) {
            return Ok(name.clone());
        }
        let sql = "SELECT id, name FROM queue WHERE id = $1";
        let learned = self.learn(&pool.read((sql, &[&id])).await?)?;
        let missing = || Failure::NotDone(format!("the tables are damaged: no queue {id}"));
        learned.into_keys().next().ok_or_else(missing)
    }

    /// A queue's number, if this node has met it.
    pub(super) fn known_id(&self, name: &QueueName) -> Option<QueueId> {
        self.0.read().by_name.get(name).copied()
    }

    fn known<'a>(
        &self,
        names: impl Iterator<Item = &'a QueueName>,
    ) -> (HashMap<QueueName, QueueId>, Vec<QueueName>) {
        let known = self.0.read();
        let (mut found, mut missing) = (HashMap::new(), Vec::new());
        let mut last = None;
        // Mostly it is the same again.
        for name in names.filter(|name| last.replace(*name) != Some(*name)) {
            match known.by_name.get(name) {
                Some(id) => drop(found.insert(name.clone(), *id)),
                None => missing.push(name.clone()),
            }
        }
        (found, missing)
    }

    fn learn(&self, rows: &[Row]) -> Result<HashMap<QueueName, QueueId>, Failure> {
        let mut learned = HashMap::new();
        let mut known = self.0.write();
        for row in rows {
            let id: QueueId = get(row, "id");
            let Some(name) = parsed(row, "name", QueueName::parse)? else { continue };
            known.by_name.insert(name.clone(), id);
            known.by_id.insert(id, name.clone());
            learned.insert(name, id);
        }
        Ok(learned)
    }
}
