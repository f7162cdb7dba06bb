//! Jobs, in the shapes that the clients of the HTTP API want.

use batonq_protocol::ErrorCode;
use serde_json::Value;

use super::super::job::object;
use super::super::{Answer, Client, Fields, Refused, cron, look, work};
use super::route::{Call, Shape, with_data};
use crate::access::Operation;

/// Pushes a job, and shows it.
///
/// Who may push need not be one who may look: the job may be another one that has had the custom id
/// before. Then its number and its queue have to do, and also if it can not be looked at just now:
/// it has been pushed.
pub(super) async fn push(call: Call<'_>) -> Answer {
    let Call { client, principal, mut fields, .. } = call;
    fields.entry("data").or_insert(Value::Null);
    let queue = fields.get("queue").cloned().unwrap_or_default();
    let pushed = work::push(client, fields).await?;
    let may_look = principal.is_some_and(|it| it.check(Operation::GetJob).is_ok());
    let job = if may_look { look(client, pushed.clone()).await } else { None };
    let plain = || {
        let mut plain = pushed.clone();
        plain.insert("queue".into(), queue);
        Value::Object(plain)
    };
    Ok(with_data(job.unwrap_or_else(plain), pushed.clone()))
}

async fn look(client: Client<'_>, fields: Fields) -> Option<Value> {
    let mut found = look::getjob(client, fields).await.ok()?;
    found.remove("job").filter(|job| !job.is_null())
}

/// One job: its fields, its state and its result, and the job once more by itself.
pub(super) fn one(mut reply: Fields, _: Shape) -> Fields {
    let job = reply.remove("job").unwrap_or_default();
    let mut shown = match &job {
        Value::Object(job) => job.clone(),
        _ => Fields::new(),
    };
    shown.insert("state".into(), reply.remove("state").unwrap_or_default());
    shown.entry("result").or_insert(Value::Null);
    shown.insert("job".into(), job);
    with_data(Value::Object(shown), Fields::new())
}

/// The same by custom id. One client looks for it beside `data`.
pub(super) fn by_custom_id(reply: Fields, shape: Shape) -> Fields {
    let beside = reply.clone();
    let mut answer = one(reply, shape);
    with_data(answer.remove("data").unwrap_or_default(), beside)
}

/// A list of jobs.
pub(super) fn list(mut reply: Fields, shape: Shape) -> Fields {
    let data = match shape.is_bare {
        true => reply.remove("jobs").unwrap_or_default(),
        false => Value::Object(reply),
    };
    with_data(data, Fields::new())
}

/// The state of a job.
pub(super) fn state(mut reply: Fields, shape: Shape) -> Fields {
    let state = reply.remove("state").unwrap_or_default();
    let data = match shape.is_sdk {
        true => Value::Object(object([("state", state)])),
        false => state,
    };
    with_data(data, Fields::new())
}

/// How far a job is.
pub(super) fn progress(reply: Fields, shape: Shape) -> Fields {
    let part = |name| reply.get(name).cloned().unwrap_or_default();
    let (progress, message) = (part("progress"), part("message"));
    let data = match shape.is_sdk {
        true => Value::Object(object([
            ("id", part("id")),
            ("message", message),
            ("progress", Value::Object(reply)),
        ])),
        false => [progress, message].into_iter().collect(),
    };
    with_data(data, Fields::new())
}

/// The children of a flow: jobs, or their numbers.
pub(super) fn children(mut reply: Fields, shape: Shape) -> Fields {
    let data = match shape.is_sdk {
        true => reply.remove("children").unwrap_or_default(),
        false => {
            let mut part = |name| reply.remove(name).unwrap_or_default();
            Value::Object(object([
                ("children", part("ids")),
                ("completed", part("completed")),
                ("total", part("total")),
            ]))
        }
    };
    with_data(data, Fields::new())
}

/// Deletes a cron. Whether there was one is the answer.
pub(super) async fn delete_cron(call: Call<'_>) -> Answer {
    let is_gone = match cron::crondelete(call.client, call.fields).await {
        Ok(_) => true,
        Err(Refused(_, ErrorCode::NotFound)) => false,
        Err(refused) => return Err(refused),
    };
    Ok(with_data(is_gone.into(), Fields::new()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SDK: Shape = Shape { is_sdk: true, is_bare: false };
    const OTHER: Shape = Shape { is_sdk: false, is_bare: true };

    fn shaped(shape: impl Fn(Fields, Shape) -> Fields, reply: Value, of: Shape) -> Value {
        let Value::Object(reply) = reply else { panic!("a reply is an object") };
        Value::Object(shape(reply, of))
    }

    #[test]
    fn a_job_is_flat_and_by_itself() {
        let found = json!({"job": {"id": 7, "state": "waiting"}, "state": "waiting"});
        let flat = json!({
            "id": 7, "state": "waiting", "result": null, "job": {"id": 7, "state": "waiting"}
        });
        assert_eq!(shaped(one, found.clone(), SDK), json!({ "data": flat }));
        let mut beside = found;
        beside["data"] = flat;
        let asked = json!({"job": beside["job"], "state": beside["state"]});
        assert_eq!(shaped(by_custom_id, asked, SDK), beside);
        let unknown = shaped(one, json!({"job": null, "state": "unknown"}), OTHER);
        let expected = json!({"job": null, "state": "unknown", "result": null});
        assert_eq!(unknown, json!({ "data": expected }));
    }

    #[test]
    fn the_sdk_wants_objects_and_others_what_is_in_them() {
        for (shape, reply, sdk, other) in [
            (
                list as fn(Fields, Shape) -> Fields,
                json!({"jobs": [1], "total": 9}),
                json!({"jobs": [1], "total": 9}),
                json!([1]),
            ),
            (
                state,
                json!({"id": 7, "state": "active"}),
                json!({"state": "active"}),
                json!("active"),
            ),
            (
                progress,
                json!({"id": 7, "progress": 40, "message": "m"}),
                json!({
                    "id": 7, "message": "m",
                    "progress": {"id": 7, "progress": 40, "message": "m"}
                }),
                json!([40, "m"]),
            ),
            (
                children,
                json!({"children": [{"id": 1}], "ids": [1], "completed": 0, "total": 1}),
                json!([{"id": 1}]),
                json!({"children": [1], "completed": 0, "total": 1}),
            ),
        ] {
            assert_eq!(shaped(shape, reply.clone(), SDK), json!({ "data": sdk }));
            assert_eq!(shaped(shape, reply, OTHER), json!({ "data": other }));
        }
    }
}
