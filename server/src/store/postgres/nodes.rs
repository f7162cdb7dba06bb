//! The registry of the nodes in the shared store.
//!
//! Whether a node lives is decided by a lock that its session holds ([`super::presence`]), not by
//! a clock: the lock ends with the process, or when the database has heard nothing for a while.
//! Heartbeats are for people, and for saying when a node is forgotten.

use async_trait::async_trait;
use tokio_postgres::Row;

use super::duties::fence;
use super::lane::Failure;
use super::leases::lately;
use super::migrate::SCHEMA_VERSION;
use super::row::{self, get};
use super::{PostgresStore, retrying};
use crate::cluster::{Card, Leader, Leave, Node, NodeState, Pulled, Registry, Schema, Sight};
use crate::error::Error;
use crate::job::{QueueName, Timestamp};
use crate::leader::Term;
use crate::limits;
use crate::store::ORPHANED_FOR;
use crate::store::columns::sql_millis;

/// A node is forgotten after so many times the silence that makes it stale.
const FORGOTTEN_AFTER: i64 = 10;

const NODES: &str = concat!(
    "
    SELECT
        n.*,
        n.id = (SELECT node FROM leader) AS is_leader,
        n.last_heartbeat < now_ms() - $1 AS is_stale,
        (
            SELECT count(*)
            FROM (
                SELECT job_ids, deliveries FROM lease
                WHERE node = n.id AND ",
    lately!(),
    "
                ORDER BY expires_at
            ) l
            CROSS JOIN LATERAL (
                SELECT 1
                FROM unnest(l.job_ids, l.deliveries) AS u (job_id, delivery)
                CROSS JOIN LATERAL (
                    SELECT 1 FROM job WHERE id = u.job_id AND delivery = u.delivery OFFSET 0
                ) j
                UNION ALL
                SELECT 1 FROM held_in_runs(l.job_ids, l.deliveries)
            ) j
        ) AS leased
    FROM node n
    ORDER BY n.id"
);

const SIGHTS: &str = "
    SELECT id, state, demand, last_heartbeat < now_ms() - $1 AS is_stale
    FROM node
    ORDER BY id";

/// Those whose session no longer holds its lock: they stopped without saying so. Their sessions'
/// leases, and those of nodes that have left, end soon unless another node adopts them. Read along the
/// index by time, where what is dead of them is left behind within half a minute.
const ORPHANS: &str = "
    WITH living AS MATERIALIZED (
        SELECT n.id, n.incarnation
        FROM node n
        WHERE EXISTS (
            SELECT 1
            FROM pg_locks
            WHERE locktype = 'advisory' AND objsubid = 1 AND granted
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND (classid::bigint << 32) | objid::bigint
                = hashtextextended('batonq node ' || current_schema() || ' ' || n.id, 0)
        )
    ),
    orphaned AS (
        SELECT l.id
        FROM lease l
        WHERE coalesce(l.session, 0) <> 0
        AND l.expires_at > $1
        AND NOT EXISTS (
            SELECT 1 FROM living WHERE id = l.node AND incarnation = l.incarnation
        )
        ORDER BY l.expires_at
        FOR UPDATE SKIP LOCKED
    )
    UPDATE lease
    SET expires_at = $1
    WHERE id = ANY(ARRAY(SELECT id FROM orphaned))
    RETURNING id";

const FORGET: &str = "
    DELETE FROM node
    WHERE last_heartbeat < $1
    RETURNING id";

/// See [`super::hot_statements`].
pub(super) const HOT: &[super::Named] = &[("nodes::NODES", NODES), ("nodes::ORPHANS", ORPHANS)];

impl PostgresStore {
    async fn list_nodes(&self) -> Result<Vec<Node>, Failure> {
        let stale_after = sql_millis(self.stale_after);
        let rows = self.pool.read((NODES, &[&stale_after])).await?;
        Ok(rows.iter().map(read_node).collect())
    }

    async fn find_sights(&self, queue: &QueueName) -> Result<Vec<Sight>, Failure> {
        let stale_after = sql_millis(self.stale_after);
        let rows = self.pool.read((SIGHTS, &[&stale_after])).await?;
        let sight = |row: &Row| {
            let demand: Vec<Pulled> = row::parsed(row, "demand", parse_demand)?.unwrap_or_default();
            let is_full = demand.len() >= limits::DEMAND_MAX;
            let pulled = demand.into_iter().find(|pulled| pulled.queue == *queue);
            Ok(Sight { node: get(row, "id"), state: node_state(row), pulled, is_full })
        };
        rows.iter().map(sight).collect()
    }

    async fn find_leader(&self) -> Result<Leader, Failure> {
        let mut tx = self.pool.begin().await?;
        let sql = "SELECT node, epoch, elected_at FROM leader";
        let leader = tx.query(sql, &[]).await?;
        let sql = "SELECT name, succeeded_at FROM duty ORDER BY name";
        let duties = tx.commit(&[(sql, &[])]).await?;
        let row = leader.first().ok_or_else(|| Failure::NotDone("no leader's row".into()))?;
        let duty = |row: &Row| (get(row, "name"), Timestamp(get(row, "succeeded_at")));
        Ok(Leader {
            node: get(row, "node"),
            epoch: u64::try_from(get::<i64>(row, "epoch")).unwrap_or(0),
            since: Timestamp(get(row, "elected_at")),
            duties: duties[0].iter().map(duty).collect(),
        })
    }

    async fn ask(&self, id: &str, leave: Leave) -> Result<bool, Failure> {
        let sql = "UPDATE node SET drain = $2 WHERE id = $1 RETURNING id";
        let tx = self.pool.begin().await?;
        let rows = tx.commit(&[(sql, &[&id, &leave.name()])]).await?;
        let is_there = !rows[0].is_empty();
        if is_there {
            self.outbox.node(id);
        }
        Ok(is_there)
    }

    async fn try_tidy(&self, term: &Term) -> Result<usize, Failure> {
        let mut tx = self.duty_lane.begin().await?;
        let now = fence(&mut tx, term).await?;
        let until = (now + ORPHANED_FOR).0;
        let orphans = tx.query(ORPHANS, &[&until]).await?.len();
        let forgotten = now.0 - FORGOTTEN_AFTER * sql_millis(self.stale_after);
        let forgotten = tx.query(FORGET, &[&forgotten]).await?.len();
        self.finish_part(tx, term, "nodes", orphans + forgotten, (now, None)).await?;
        Ok(orphans)
    }
}

fn parse_demand(text: &str) -> Result<Vec<Pulled>, serde_json::Error> {
    serde_json::from_str(text)
}

fn node_state(row: &Row) -> NodeState {
    match (get(row, "is_stale"), get::<&str>(row, "state")) {
        (true, _) => NodeState::Stale,
        (false, "draining") => NodeState::Draining,
        (false, _) => NodeState::Active,
    }
}

fn read_node(row: &Row) -> Node {
    let port = |column| get::<Option<i32>>(row, column).and_then(|port| u16::try_from(port).ok());
    Node {
        card: Card {
            id: get(row, "id"),
            incarnation: get(row, "incarnation"),
            hostname: get(row, "hostname"),
            host: get(row, "host"),
            tcp_port: port("tcp_port").unwrap_or(0),
            http_port: port("http_port"),
            version: get(row, "version"),
            build: get(row, "build"),
            fingerprint: get(row, "fingerprint"),
        },
        state: node_state(row),
        is_leader: get(row, "is_leader"),
        started_at: Timestamp(get(row, "started_at")),
        last_heartbeat: Timestamp(get(row, "last_heartbeat")),
        leased: u64::try_from(get::<i64>(row, "leased")).unwrap_or(0),
    }
}

#[async_trait]
impl Registry for PostgresStore {
    async fn nodes(&self) -> Result<Vec<Node>, Error> {
        Ok(self.list_nodes().await?)
    }

    async fn sights(&self, queue: &QueueName) -> Result<Vec<Sight>, Error> {
        Ok(self.find_sights(queue).await?)
    }

    async fn leader(&self) -> Result<Leader, Error> {
        Ok(self.find_leader().await?)
    }

    async fn ask_to_leave(&self, id: &str, leave: Leave) -> Result<bool, Error> {
        Ok(self.ask(id, leave).await?)
    }

    async fn schema(&self) -> Result<Schema, Error> {
        let sql = "SELECT max(version) AS version FROM migration";
        let rows = self.pool.read((sql, &[])).await?;
        let version = rows.first().and_then(|row| get(row, "version"));
        Ok(Schema { version: version.unwrap_or(0), known: SCHEMA_VERSION })
    }

    async fn tidy(&self, term: &Term) -> Result<usize, Error> {
        Ok(retrying!(self.try_tidy(term))?)
    }
}
