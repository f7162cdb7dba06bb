//! The cluster: looking at it, and having a node leave.

use super::{Answered, Call, ok};
use crate::broker::Condition;
use crate::cluster::{Leave, Node, NodeState};
use crate::error::Error;
use crate::http::model::cluster::{InfoBody, LeaderBody, NodesBody};
use crate::http::model::look::NoBody;

pub(in crate::http) async fn nodes(call: Call, _: NoBody) -> Answered<NodesBody> {
    let nodes = known(&call).await?;
    ok(NodesBody::new(nodes, call.query.is_array()?))
}

pub(in crate::http) async fn leader(call: Call, _: NoBody) -> Answered<LeaderBody> {
    ok(call.door.registry.leader().await?.into())
}

pub(in crate::http) async fn info(call: Call, _: NoBody) -> Answered<InfoBody> {
    let schema = call.door.registry.schema().await?;
    let nodes = known(&call).await?;
    ok(InfoBody::new(&call.door.card, schema, &nodes))
}

/// Has a node leave, whichever it is.
pub(in crate::http) async fn drain(call: Call) -> Result<(), Error> {
    let id = call.named("id");
    let leave = match call.query.switch("exit")? {
        Some(false) => Leave::Stay,
        None | Some(true) => Leave::Exit,
    };
    match call.door.registry.ask_to_leave(id, leave).await? {
        true => Ok(()),
        false => Err(Error::NotFound(format!("there is no node {id}"))),
    }
}

/// All nodes; this one knows of itself best.
async fn known(call: &Call) -> Result<Vec<Node>, Error> {
    let mut nodes = call.door.registry.nodes().await?;
    let is_draining = call.door.broker.health().condition == Condition::Draining;
    let own = &call.door.card;
    if let Some(own) = nodes.iter_mut().find(|node| is_draining && node.card.id == own.id) {
        own.state = NodeState::Draining;
    }
    Ok(nodes)
}
