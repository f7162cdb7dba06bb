//! Reading the fields of a request, and JSON that is passed on as it is.
//!
//! What is wrong with a field is said as flashQ says it. `null` is as good as nothing where a field
//! may be left out: one of its clients writes all its fields.
//!
//! Payloads, results and values are not taken apart: whole numbers of any size, the order of keys
//! and the way that numbers are written would get lost. They travel through `Fields` as their
//! text: requests come in with it (`frame.rs` does that for all fields of these names), `json` reads
//! it, and `shown` makes such a value of bytes for an answer.

use base64::Engine;
use batonq_protocol::ErrorCode;
use bytes::Bytes;
use serde_json::{Map, Value};

use super::{Fields, Refused};
use crate::error::Error;
use crate::job::{JobId, Payload, QueueName};
use crate::limits;

/// The only key of an object that stands for the JSON text in it. No field of a request that is
/// passed on has it by itself, since those are all made into such objects.
const TEXT: &str = "\0json";

/// Fields that are passed on as they are.
pub(super) const PASSED_ON: [&str; 4] = ["data", "parent_data", "result", "value"];

/// Fields with lists of objects that may have such fields.
pub(super) const LISTS: [&str; 3] = ["jobs", "children", "entries"];

/// A value that stands for JSON text.
pub(super) fn carrier(text: String) -> Value {
    Value::Object(Map::from_iter([(TEXT.to_owned(), Value::String(text))]))
}

/// The JSON text that a value stands for.
pub(super) fn carried(value: &Value) -> Option<&str> {
    match value {
        Value::Object(map) if map.len() == 1 => map.get(TEXT)?.as_str(),
        _ => None,
    }
}

/// Bytes that somebody has pushed, as a value for an answer: JSON as it is, other text as a
/// string, and what is no text in base64.
pub(super) fn shown(bytes: &[u8]) -> Value {
    match str::from_utf8(bytes) {
        Ok(text) => carrier(text.to_owned()),
        Err(_) => Value::String(base64::engine::general_purpose::STANDARD.encode(bytes)),
    }
}

/// A field, whatever it is. What is in it is for `json` and `payload` to say.
pub(super) fn value<'f>(fields: &'f Fields, name: &str) -> Result<&'f Value, Refused> {
    fields.get(name).ok_or_else(|| missing(name))
}

/// The same. `None`, too, if it is `null`.
pub(super) fn opt_value<'f>(fields: &'f Fields, name: &str) -> Option<&'f Value> {
    fields.get(name).filter(|value| !value.is_null() && carried(value) != Some("null"))
}

/// The JSON text of a value.
pub(super) fn json(value: &Value) -> Bytes {
    match carried(value) {
        Some(text) => Bytes::copy_from_slice(text.as_bytes()),
        None => Bytes::from(value.to_string()),
    }
}

/// A value as a job's payload.
pub(super) fn payload(value: &Value) -> Result<Payload, Refused> {
    Payload::new(json(value)).map_err(|large| Refused::from(Error::from(large)))
}

/// A text.
pub(super) fn text<'f>(fields: &'f Fields, name: &str) -> Result<&'f str, Refused> {
    required(fields, name, Value::as_str, "a string")
}

/// A text that may be left out.
pub(super) fn opt_text<'f>(fields: &'f Fields, name: &str) -> Result<Option<&'f str>, Refused> {
    optional(fields, name, Value::as_str, "a string")
}

/// A whole number.
pub(super) fn number(fields: &Fields, name: &str) -> Result<u64, Refused> {
    required(fields, name, Value::as_u64, "u64")
}

/// A whole number that may be left out.
pub(super) fn opt_number(fields: &Fields, name: &str) -> Result<Option<u64>, Refused> {
    optional(fields, name, Value::as_u64, "u64")
}

/// A whole number, also below zero, that may be left out.
pub(super) fn opt_signed(fields: &Fields, name: &str) -> Result<Option<i64>, Refused> {
    optional(fields, name, Value::as_i64, "i64")
}

/// A priority: 0 if it is left out.
pub(super) fn priority(fields: &Fields) -> Result<i32, Refused> {
    let as_i32 = |value: &Value| value.as_i64().and_then(|number| i32::try_from(number).ok());
    Ok(optional(fields, "priority", as_i32, "i32")?.unwrap_or(0))
}

/// Yes or no; no if it is left out.
pub(super) fn flag(fields: &Fields, name: &str) -> Result<bool, Refused> {
    Ok(optional(fields, name, Value::as_bool, "a boolean")?.unwrap_or(false))
}

/// The number of the job that a request is about. Some clients give it another name.
pub(super) fn job_id(fields: &Fields) -> Result<JobId, Refused> {
    let name = if fields.contains_key("id") { "id" } else { "job_id" };
    match fields.contains_key(name) {
        true => number(fields, name).map(known_id),
        false => Err(missing("id")),
    }
}

/// The numbers of jobs.
pub(super) fn ids(fields: &Fields, name: &str) -> Result<Vec<JobId>, Refused> {
    opt_ids(fields, name)?.ok_or_else(|| missing(name))
}

/// The numbers of jobs, if there are any.
pub(super) fn opt_ids(fields: &Fields, name: &str) -> Result<Option<Vec<JobId>>, Refused> {
    let as_ids = |value: &Value| {
        let ids = value.as_array()?.iter().map(|id| id.as_u64().map(known_id));
        ids.collect::<Option<Vec<JobId>>>()
    };
    optional(fields, name, as_ids, "a sequence of u64")
}

/// Texts, if there are any.
pub(super) fn opt_texts<'f>(
    fields: &'f Fields,
    name: &str,
) -> Result<Option<Vec<&'f str>>, Refused> {
    let as_texts =
        |value: &'f Value| value.as_array()?.iter().map(Value::as_str).collect::<Option<Vec<_>>>();
    optional(fields, name, as_texts, "a sequence of strings")
}

/// Takes objects out of a request.
pub(super) fn take_objects(fields: &mut Fields, name: &str) -> Result<Vec<Fields>, Refused> {
    let as_object = |value| match value {
        Value::Object(object) => Ok(object),
        other => Err(mistyped(name, &other, "a map")),
    };
    match fields.remove(name) {
        Some(Value::Array(values)) => values.into_iter().map(as_object).collect(),
        Some(other) => Err(mistyped(name, &other, "a sequence")),
        None => Err(missing(name)),
    }
}

/// The queue that a request is about.
pub(super) fn queue(fields: &Fields) -> Result<QueueName, Refused> {
    parse_queue(text(fields, "queue")?)
}

/// A queue's name, refused as flashQ refuses it.
pub(super) fn parse_queue(name: &str) -> Result<QueueName, Refused> {
    QueueName::parse(name).map_err(|_| {
        let text = match name.len() {
            0 => "Queue name cannot be empty".into(),
            length if length > *limits::QUEUE_NAME_BYTES.end() => {
                format!("Queue name too long (max {} chars)", limits::QUEUE_NAME_BYTES.end())
            }
            _ => "Invalid: Queue name must contain only alphanumeric characters, underscores, \
                  hyphens, dots or colons"
                .into(),
        };
        Refused(text, ErrorCode::Invalid)
    })
}

/// A number that no store knows is no job's: it is as good as the largest one.
fn known_id(number: u64) -> JobId {
    JobId(number.min(i64::MAX.unsigned_abs()))
}

fn required<'f, T>(
    fields: &'f Fields,
    name: &str,
    read: impl Fn(&'f Value) -> Option<T>,
    wanted: &str,
) -> Result<T, Refused> {
    let value = fields.get(name).ok_or_else(|| missing(name))?;
    read(value).ok_or_else(|| mistyped(name, value, wanted))
}

fn optional<'f, T>(
    fields: &'f Fields,
    name: &str,
    read: impl Fn(&'f Value) -> Option<T>,
    wanted: &str,
) -> Result<Option<T>, Refused> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => read(value).map(Some).ok_or_else(|| mistyped(name, value, wanted)),
    }
}

/// A field is not there.
pub(super) fn missing(name: &str) -> Refused {
    Refused::invalid(format_args!("missing field `{name}`"))
}

fn mistyped(name: &str, value: &Value, wanted: &str) -> Refused {
    let kind = match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => format!("boolean `{value}`"),
        Value::Number(number) => format!("number `{number}`"),
        Value::String(_) => "a string".into(),
        Value::Array(_) => "a sequence".into(),
        Value::Object(_) => "a map".into(),
    };
    Refused::invalid(format_args!("{name}: invalid type: {kind}, expected {wanted}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(json: &str) -> Fields {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn what_is_wrong_with_a_field_is_said_as_clients_know_it() {
        let fields = fields(r#"{"a":"x","b":-1,"c":null,"d":1.5,"e":[1,"x"]}"#);
        let missing = text(&fields, "queue").unwrap_err().0;
        assert_eq!(missing, "Invalid: missing field `queue`");
        for refused in [
            text(&fields, "b").unwrap_err(),
            text(&fields, "c").unwrap_err(),
            number(&fields, "a").unwrap_err(),
            number(&fields, "b").unwrap_err(),
            number(&fields, "d").unwrap_err(),
            opt_number(&fields, "b").unwrap_err(),
            flag(&fields, "a").unwrap_err(),
            ids(&fields, "e").unwrap_err(),
            opt_texts(&fields, "e").unwrap_err(),
        ] {
            assert!(refused.0.starts_with("Invalid: "), "{refused:?}");
        }
    }

    #[test]
    fn null_is_as_good_as_nothing_where_a_field_may_be_left_out() {
        for json in ["{}", r#"{"a":null,"priority":null}"#] {
            let fields = fields(json);
            assert_eq!(opt_text(&fields, "a"), Ok(None));
            assert_eq!(opt_number(&fields, "a"), Ok(None));
            assert_eq!(opt_value(&fields, "a"), None);
            assert_eq!(flag(&fields, "a"), Ok(false));
            assert_eq!(priority(&fields), Ok(0));
        }
        assert_eq!(json(value(&fields(r#"{"a":null}"#), "a").unwrap()), "null");
        assert_eq!(json(&carrier("[1, 2]".into())), "[1, 2]");
    }

    #[test]
    fn a_queue_has_a_plain_name_of_bounded_length() {
        assert!(parse_queue("mail.out_2-x").is_ok());
        assert_eq!(parse_queue("").unwrap_err().0, "Queue name cannot be empty");
        assert!(parse_queue(&"q".repeat(257)).unwrap_err().0.starts_with("Queue name too long"));
        assert!(parse_queue("no way!").unwrap_err().0.contains("Queue name must contain only"));
    }

    #[test]
    fn a_number_beyond_all_jobs_is_no_job() {
        let fields = fields(r#"{"id":18446744073709551615}"#);
        assert_eq!(job_id(&fields), Ok(JobId(i64::MAX.unsigned_abs())));
    }

    #[test]
    fn what_is_no_json_is_shown_as_text() {
        assert_eq!(carried(&shown(b"{\"a\":1}")), Some("{\"a\":1}"));
        assert_eq!(shown(b"\xff\xfe"), Value::String("//4=".into()));
    }
}
