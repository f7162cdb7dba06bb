//! Queues by name and by number. A queue is never renamed or deleted, so what was once read stays
//! true.

use std::collections::HashMap;

use parking_lot::RwLock;
use tokio_postgres::Row;

use super::QueueId;
use super::lane::{Failure, Pool};
use super::row::{get, parsed};
use crate::job::QueueName;

const FIND: &str = "SELECT id, name FROM queue WHERE name = ANY($1::text[])";

const MAKE: &str = "
    INSERT INTO queue (name)
    SELECT name FROM unnest($1::text[]) AS u (name)
    ORDER BY name
    ON CONFLICT DO NOTHING";

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

    fn known<'a>(
        &self,
        names: impl Iterator<Item = &'a QueueName>,
    ) -> (HashMap<QueueName, QueueId>, Vec<QueueName>) {
        let known = self.0.read();
        let (mut found, mut missing) = (HashMap::new(), Vec::new());
        for name in names {
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
