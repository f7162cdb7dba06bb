//! What travels as JSON. The description of the API is made from these types.

pub(super) mod cluster;
pub(super) mod cron;
pub(super) mod explain;
pub(super) mod lease;
pub(super) mod look;
pub(super) mod push;
pub(super) mod webhook;

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::broker::Broker;
use crate::error::Error;
use crate::job::{Lease, Payload, Timestamp};

/// A value that may be null, as opposed to one that is not there.
fn any_value<'de, D: Deserializer<'de>>(json: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(json).map(Some)
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A time as RFC 3339 in UTC.
fn time(at: Timestamp) -> String {
    at.to_string()
}

/// Bytes that came as a JSON value or as base64, at most one of which is there.
fn bytes_in(
    value: Option<Box<RawValue>>,
    base64: Option<String>,
    field: &'static str,
) -> Result<Option<Bytes>, Error> {
    match (value, base64) {
        (Some(_), Some(_)) => {
            let name = field.split("_base64").next().unwrap_or(field);
            Err(Error::invalid(field, format!("at most one of it and {name} may be there")))
        }
        (Some(value), None) => Ok(Some(Bytes::from(Box::<str>::from(value).into_string()))),
        (None, Some(base64)) => {
            let decoded = STANDARD.decode(base64);
            let decoded = decoded.map_err(|_| Error::invalid(field, "is not base64"))?;
            Ok(Some(decoded.into()))
        }
        (None, None) => Ok(None),
    }
}

/// Bytes as JSON, where they are; else as base64.
fn bytes_out(bytes: &[u8], is_json: bool) -> (Option<Box<RawValue>>, Option<String>) {
    let text = is_json.then(|| str::from_utf8(bytes).ok()).flatten();
    let value = text.and_then(|text| RawValue::from_string(text.to_owned()).ok());
    match value {
        Some(value) => (Some(value), None),
        None => (None, Some(STANDARD.encode(bytes))),
    }
}

/// A payload as it goes out: the value or base64, and its type.
fn payload_out(payload: &Payload) -> (Option<Box<RawValue>>, Option<String>, String) {
    let content_type = payload.content_type.as_deref().unwrap_or(Payload::JSON);
    let (value, base64) = bytes_out(&payload.bytes, content_type == Payload::JSON);
    (value, base64, content_type.into())
}

/// A lease token as text.
fn lease_out(broker: &Broker, lease: Lease) -> String {
    URL_SAFE_NO_PAD.encode(broker.lease_token(lease))
}

/// The lease of a text.
pub(super) fn lease_in(broker: &Broker, text: &str) -> Result<Lease, Error> {
    let token = URL_SAFE_NO_PAD.decode(text);
    let token = token.map_err(|_| Error::invalid("lease", "is not a lease token"))?;
    broker.open_lease(&token)
}

/// An error within an answer.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(super) struct ItemError {
    /// What to branch on.
    code: &'static str,
    /// For people.
    detail: String,
    /// The field to blame.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    /// Whether nothing was done and it may succeed later.
    retryable: bool,
}

impl From<&Error> for ItemError {
    fn from(error: &Error) -> Self {
        let meaning = error.code().meaning();
        Self {
            code: meaning.name,
            detail: error.to_string(),
            field: error.field().map(Into::into),
            retryable: meaning.retryable,
        }
    }
}
