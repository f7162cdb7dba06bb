//! The cluster as it is seen.

use batonq_protocol::{VERSION_MAX, VERSION_MIN};
use schemars::JsonSchema;
use serde::Serialize;

use super::time;
use crate::cluster::{Card, Leader, Node, Schema};

/// All nodes.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub(in crate::http) enum NodesBody {
    /// As it comes.
    Object {
        nodes: Vec<NodeBody>,
        /// The leader's id, if there is one.
        leader: Option<String>,
    },
    /// With `?format=array`.
    Array(Vec<NodeBody>),
}

impl NodesBody {
    pub(in crate::http) fn new(nodes: Vec<Node>, is_array: bool) -> Self {
        let leader = nodes.iter().find(|node| node.is_leader).map(|node| node.card.id.clone());
        let nodes = nodes.into_iter().map(Into::into).collect();
        if is_array { Self::Array(nodes) } else { Self::Object { nodes, leader } }
    }
}

/// A node.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::http) struct NodeBody {
    id: String,
    /// Which life of the node: a restart is another one.
    incarnation: i64,
    /// The name of its machine.
    hostname: String,
    /// Where clients reach it.
    host: String,
    tcp_port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    http_port: Option<u16>,
    is_leader: bool,
    /// `active`, `draining` or `stale`.
    state: &'static str,
    started_at: String,
    last_heartbeat: String,
    /// Jobs that are leased through it now.
    instances_claimed: u64,
    version: String,
    /// Of the settings that should be the same on all nodes.
    fingerprint: String,
}

impl From<Node> for NodeBody {
    fn from(node: Node) -> Self {
        let card = node.card;
        Self {
            id: card.id,
            incarnation: card.incarnation,
            hostname: card.hostname,
            host: card.host,
            tcp_port: card.tcp_port,
            http_port: card.http_port,
            is_leader: node.is_leader,
            state: node.state.name(),
            started_at: time(node.started_at),
            last_heartbeat: time(node.last_heartbeat),
            instances_claimed: node.leased,
            version: card.version,
            fingerprint: card.fingerprint,
        }
    }
}

/// Who leads.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::http) struct LeaderBody {
    /// `null`: nobody has been elected yet.
    node: Option<String>,
    /// The number of the term: each election adds one.
    epoch: u64,
    /// When the term began.
    since: String,
    duties: Vec<DutyBody>,
}

/// Work that only the leader does.
#[derive(Debug, Serialize, JsonSchema)]
struct DutyBody {
    name: String,
    /// When it was last done.
    last_success: String,
}

impl From<Leader> for LeaderBody {
    fn from(leader: Leader) -> Self {
        let duty = |(name, at)| DutyBody { name, last_success: time(at) };
        Self {
            node: (!leader.node.is_empty()).then_some(leader.node),
            epoch: leader.epoch,
            since: time(leader.since),
            duties: leader.duties.into_iter().map(duty).collect(),
        }
    }
}

/// Versions and settings.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::http) struct InfoBody {
    node_id: String,
    version: String,
    build: String,
    protocol: RangeBody,
    schema: SchemaBody,
    /// Of this node's settings that should be the same on all nodes.
    fingerprint: String,
    /// Nodes whose settings or versions are not those of this node.
    differing: Vec<DifferingBody>,
}

/// What is understood, from oldest to newest.
#[derive(Debug, Serialize, JsonSchema)]
struct RangeBody {
    min: u32,
    max: u32,
}

/// The tables.
#[derive(Debug, Serialize, JsonSchema)]
struct SchemaBody {
    version: i32,
    /// The version that this program works with.
    known: i32,
}

/// A node that is unlike the one that answers.
#[derive(Debug, Serialize, JsonSchema)]
struct DifferingBody {
    id: String,
    version: String,
    fingerprint: String,
}

impl InfoBody {
    pub(in crate::http) fn new(own: &Card, schema: Schema, nodes: &[Node]) -> Self {
        let is_unlike = |node: &&Node| {
            node.card.fingerprint != own.fingerprint || node.card.version != own.version
        };
        let differing = |node: &Node| DifferingBody {
            id: node.card.id.clone(),
            version: node.card.version.clone(),
            fingerprint: node.card.fingerprint.clone(),
        };
        Self {
            node_id: own.id.clone(),
            version: own.version.clone(),
            build: own.build.clone(),
            protocol: RangeBody { min: VERSION_MIN, max: VERSION_MAX },
            schema: SchemaBody { version: schema.version, known: schema.known },
            fingerprint: own.fingerprint.clone(),
            differing: nodes.iter().filter(is_unlike).map(differing).collect(),
        }
    }
}
