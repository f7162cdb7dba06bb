//! Rows to values and back.

use std::time::Duration;

use bytes::Bytes;
use rusqlite::Row;
use rusqlite::types::{FromSql, FromSqlError, ValueRef};

use crate::job::{Backoff, JobId, Options, Payload, Tag, Timestamp};
use crate::store::columns::{parse_backoff, parse_options, parse_tags};

/// A column of a type of ours; a value that is none of it means that the file is damaged.
pub(super) fn parsed<T, E>(
    row: &Row<'_>,
    column: usize,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> rusqlite::Result<Option<T>> {
    let ValueRef::Text(text) = row.get_ref(column)? else { return Ok(None) };
    let damaged = || {
        let kind = rusqlite::types::Type::Text;
        rusqlite::Error::FromSqlConversionFailure(column, kind, Box::new(FromSqlError::InvalidType))
    };
    let text = str::from_utf8(text).map_err(|_| damaged())?;
    parse(text).map(Some).map_err(|_| damaged())
}

pub(super) fn bytes(row: &Row<'_>, column: usize) -> rusqlite::Result<Bytes> {
    Ok(Bytes::copy_from_slice(row.get_ref(column)?.as_blob().map_err(rusqlite::Error::from)?))
}

pub(super) fn payload(
    row: &Row<'_>,
    content_type: usize,
    payload: usize,
) -> rusqlite::Result<Payload> {
    let content_type = row.get_ref(content_type)?;
    let content_type = <Option<Box<str>>>::column_result(content_type)?;
    Ok(Payload { bytes: bytes(row, payload)?, content_type })
}

pub(super) fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Timestamp>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(Timestamp))
}

pub(super) fn duration(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Duration>> {
    let millis = row.get::<_, Option<i64>>(column)?;
    Ok(millis.map(|millis| Duration::from_millis(u64::try_from(millis).unwrap_or(0))))
}

pub(super) fn job_id(row: &Row<'_>, column: usize) -> rusqlite::Result<JobId> {
    Ok(JobId(row.get::<_, i64>(column)?.cast_unsigned()))
}

pub(super) fn maybe_job_id(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<JobId>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(|id| JobId(id.cast_unsigned())))
}

pub(super) fn tags(row: &Row<'_>, column: usize) -> rusqlite::Result<Vec<Tag>> {
    Ok(parsed(row, column, parse_tags)?.unwrap_or_default())
}

pub(super) fn backoff(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Backoff>> {
    parsed(row, column, parse_backoff)
}

pub(super) fn options(row: &Row<'_>, column: usize) -> rusqlite::Result<Options> {
    Ok(parsed(row, column, parse_options)?.unwrap_or_default())
}
