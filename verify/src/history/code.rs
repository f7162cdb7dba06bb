//! Error codes in a history, by their numbers on the wire.

use batonq_protocol::ErrorCode;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub(super) fn serialize<S: Serializer>(code: &ErrorCode, to: S) -> Result<S::Ok, S::Error> {
    (*code as i32).serialize(to)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<ErrorCode, D::Error> {
    ErrorCode::try_from(i32::deserialize(from)?).map_err(Error::custom)
}
