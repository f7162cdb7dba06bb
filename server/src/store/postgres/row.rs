//! Rows to values.

use std::time::Duration;

use bytes::Bytes;
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use super::lane::Failure;
use crate::job::{JobId, Options, Payload, Timestamp};
use crate::store::columns::parse_options;

/// A column. The statement says what it is, so that anything else is our mistake.
///
/// # Panics
///
/// If the column is missing or of another type.
pub(super) fn get<'a, T: FromSql<'a>>(row: &'a Row, column: &str) -> T {
    row.try_get(column).unwrap_or_else(|error| panic!("column {column}: {error}"))
}

/// The same by its place, for rows that come in large numbers.
///
/// # Panics
///
/// If the column is missing or of another type.
pub(super) fn at<'a, T: FromSql<'a>>(row: &'a Row, column: usize) -> T {
    row.try_get(column).unwrap_or_else(|error| panic!("column {column}: {error}"))
}

/// A number that can not be negative.
pub(super) fn count(row: &Row, column: &str) -> u32 {
    u32::try_from(get::<i32>(row, column)).unwrap_or(0)
}

/// A column of a type of ours; a value that is none of it means that the tables are damaged.
pub(super) fn parsed<T, E>(
    row: &Row,
    column: &str,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<Option<T>, Failure> {
    let Some(text) = get::<Option<&str>>(row, column) else { return Ok(None) };
    let damaged = |_| Failure::NotDone(format!("the tables are damaged: {column} is {text:?}"));
    parse(text).map(Some).map_err(damaged)
}

pub(super) fn job_id(row: &Row, column: &str) -> JobId {
    JobId(get::<i64>(row, column).cast_unsigned())
}

pub(super) fn maybe_job_id(row: &Row, column: &str) -> Option<JobId> {
    get::<Option<i64>>(row, column).map(|id| JobId(id.cast_unsigned()))
}

pub(super) fn time(row: &Row, column: &str) -> Option<Timestamp> {
    get::<Option<i64>>(row, column).map(Timestamp)
}

pub(super) fn now(row: &Row) -> Timestamp {
    Timestamp(get(row, "now"))
}

pub(super) fn duration(row: &Row, column: &str) -> Option<Duration> {
    let millis = get::<Option<i64>>(row, column);
    millis.map(|millis| Duration::from_millis(u64::try_from(millis).unwrap_or(0)))
}

pub(super) fn bytes(row: &Row, column: &str) -> Bytes {
    Bytes::copy_from_slice(get(row, column))
}

/// The columns `content_type` and `payload`.
pub(super) fn payload(row: &Row) -> Payload {
    let content_type: Option<&str> = get(row, "content_type");
    Payload { bytes: bytes(row, "payload"), content_type: content_type.map(Into::into) }
}

/// The column `options`.
pub(super) fn options(row: &Row) -> Result<Options, Failure> {
    Ok(parsed(row, "options", parse_options)?.unwrap_or_default())
}
