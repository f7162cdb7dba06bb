//! Flows of flashQ: a job that waits for others, which are pushed with it.
//!
//! All are stored in one transaction, or none. The parent becomes ready when all its children are
//! completed. It fails when one of them has failed for good or was cancelled: it could never run,
//! and who waits for it learns so.

use batonq_protocol::ErrorCode;
use serde_json::Value;

use super::job::{numbers, object, with_state};
use super::look::{full, now};
use super::options::{Extra, new_job};
use super::{Answer, Client, Fields, Refused, fields};
use crate::error::Error;
use crate::job::{JobId, NewJob, Reason, State};
use crate::limits;
use crate::store::Pushed;

pub(super) async fn flow(client: Client<'_>, mut fields: Fields) -> Answer {
    let children = fields::take_objects(&mut fields, "children")?;
    if children.is_empty() {
        return Err(Refused("Flow must have at least one child".into(), ErrorCode::Invalid));
    }
    if children.len() > limits::DEPENDS_MAX {
        let max = limits::DEPENDS_MAX;
        return Err(Refused::invalid(format_args!("a flow may have {max} children at most")));
    }
    let mut jobs = children.iter().map(job_of).collect::<Result<Vec<NewJob>, Refused>>()?;
    // What a parent waits for is its children.
    fields.remove("depends_on");
    let mut parent = job_of(&fields)?;
    parent.waits_for = (0..jobs.len()).collect();
    let extra = Extra { flow: true, ..Extra::of(&parent.options) };
    parent.options.extra = extra.kept();
    jobs.push(parent);
    let pushed = client.door.broker.push_flow(jobs).await?;
    let ids: Vec<JobId> = pushed.iter().filter_map(Pushed::id).collect();
    let missing = || Error::Internal("an answer is missing".into());
    let (parent, children) = ids.split_last().ok_or_else(missing)?;
    Ok(object([("parent_id", parent.0.into()), ("children_ids", numbers(children))]))
}

/// A job of a flow or a cron, which may say as much as one that is pushed.
pub(super) fn job_of(fields: &Fields) -> Result<NewJob, Refused> {
    let payload = fields::payload(fields.get("data").unwrap_or(&Value::Null))?;
    new_job(fields::queue(fields)?, payload, fields)
}

/// The children of a flow, whatever has become of the parent; of another job, those that it
/// depends on.
pub(super) async fn getchildren(client: Client<'_>, fields: Fields) -> Answer {
    let id = JobId(fields::number(&fields, "parent_id")?);
    let parent = match client.door.broker.job(id).await {
        Err(Error::NotFound(_)) => {
            return Err(Refused(format!("Parent job not found: {id}"), ErrorCode::NotFound));
        }
        found => found?,
    };
    let ids = &parent.options.depends.on;
    let children = full(&client, ids).await?;
    let mut completed = children.iter().filter(|job| job.state == State::Completed).count();
    // Had one that is forgotten not been completed, the parent would have failed.
    if parent.reason != Some(Reason::DependencyFailed) {
        completed += ids.len() - children.len();
    }
    let now = now(&client);
    let shown = |job| {
        let mut shown = with_state(job, now);
        shown.insert("parent_id".into(), id.0.into());
        Value::Object(shown)
    };
    Ok(object([
        ("parent_id", id.0.into()),
        ("children", children.iter().map(shown).collect()),
        ("completed", completed.into()),
        ("total", ids.len().into()),
        // Some clients read the one, some the other.
        ("ids", numbers(ids)),
        ("children_ids", numbers(ids)),
    ]))
}
