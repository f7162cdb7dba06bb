//! A cluster of one: the registry of a node that has its store to itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::{Store, sqlite};
use crate::clock::Clock;
use crate::cluster::{Card, Leader, Leave, Node, NodeState, Registry, Requests, Schema, Sight};
use crate::error::Error;
use crate::job::{QueueName, Timestamp};
use crate::leader::Term;

/// The registry of a node on the embedded store.
pub struct Alone {
    card: Card,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    requests: Requests,
    started_at: Timestamp,
    duties: Mutex<BTreeMap<&'static str, Timestamp>>,
}

impl std::fmt::Debug for Alone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Alone").field("card", &self.card).finish_non_exhaustive()
    }
}

impl Alone {
    /// The only node.
    pub fn new(
        card: Card,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        requests: Requests,
    ) -> Self {
        let started_at = clock.now();
        Self { card, store, clock, requests, started_at, duties: Mutex::default() }
    }
}

#[async_trait]
impl Registry for Alone {
    async fn nodes(&self) -> Result<Vec<Node>, Error> {
        let queues = self.store.queues(None).await?;
        Ok(vec![Node {
            card: self.card.clone(),
            state: NodeState::Active,
            is_leader: true,
            started_at: self.started_at,
            last_heartbeat: self.clock.now(),
            leased: queues.iter().map(|queue| queue.counts.leased).sum(),
        }])
    }

    async fn sights(&self, _: &QueueName) -> Result<Vec<Sight>, Error> {
        // It knows of itself better what it says.
        let (node, state) = (self.card.id.clone(), NodeState::Active);
        Ok(vec![Sight { node, state, pulled: None, is_full: false }])
    }

    async fn leader(&self) -> Result<Leader, Error> {
        let duties = self.duties.lock();
        Ok(Leader {
            node: self.card.id.clone(),
            epoch: Term::SOLE.epoch,
            since: self.started_at,
            duties: duties.iter().map(|(name, at)| ((*name).to_owned(), *at)).collect(),
        })
    }

    async fn ask_to_leave(&self, id: &str, leave: Leave) -> Result<bool, Error> {
        let is_me = id == self.card.id;
        if is_me {
            self.requests.leave(leave);
        }
        Ok(is_me)
    }

    async fn schema(&self) -> Result<Schema, Error> {
        // The store refuses tables of any other version.
        Ok(Schema { version: sqlite::SCHEMA_VERSION, known: sqlite::SCHEMA_VERSION })
    }

    fn note_duty(&self, duty: &'static str) {
        self.duties.lock().insert(duty, self.clock.now());
    }

    async fn tidy(&self, _: &Term) -> Result<usize, Error> {
        Ok(0)
    }
}
