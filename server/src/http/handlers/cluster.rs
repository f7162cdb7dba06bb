//! The cluster: looking at it, and having a node leave.

use super::{Answered, Call, ok};
use crate::cluster::Leave;
use crate::error::Error;
use crate::http::model::cluster::{InfoBody, LeaderBody, NodesBody};
use crate::http::model::look::NoBody;

pub(in crate::http) async fn nodes(call: Call, _: NoBody) -> Answered<NodesBody> {
    ok(NodesBody::new(call.door.nodes().await?, call.query.is_array()?))
}

pub(in crate::http) async fn leader(call: Call, _: NoBody) -> Answered<LeaderBody> {
    ok(call.door.registry.leader().await?.into())
}

pub(in crate::http) async fn info(call: Call, _: NoBody) -> Answered<InfoBody> {
    let schema = call.door.registry.schema().await?;
    ok(InfoBody::new(&call.door.card, schema, &call.door.nodes().await?))
}

pub(in crate::http) async fn drain(call: Call) -> Result<(), Error> {
    let leave = match call.query.switch("exit")? {
        Some(false) => Leave::Stay,
        None | Some(true) => Leave::Exit,
    };
    call.door.drain(call.named("id"), leave).await
}
