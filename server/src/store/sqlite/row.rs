//! Rows to values and back.

use std::time::Duration;

use bytes::Bytes;
use rusqlite::Row;
use rusqlite::types::{FromSql, FromSqlError, ValueRef};

use crate::job::{Backoff, JobId, Payload, Tag, Timestamp};

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

pub(super) fn sql_id(id: JobId) -> i64 {
    id.0.cast_signed()
}

pub(super) fn sql_millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Tags as one text: one a line. A tag has no control characters.
pub(super) fn sql_tags(tags: &[Tag]) -> Option<String> {
    let lines: Vec<&str> = tags.iter().map(Tag::as_str).collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

pub(super) fn tags(row: &Row<'_>, column: usize) -> rusqlite::Result<Vec<Tag>> {
    let parse = |text: &str| text.lines().map(Tag::parse).collect();
    Ok(parsed(row, column, parse)?.unwrap_or_default())
}

/// A backoff as one text: its kind and its numbers.
pub(super) fn sql_backoff(backoff: &Backoff) -> String {
    match backoff {
        Backoff::Exponential { base, max, jitter } => {
            format!("exponential {} {} {jitter}", base.as_millis(), max.as_millis())
        }
        Backoff::Fixed(delay) => format!("fixed {}", delay.as_millis()),
        Backoff::List(delays) => {
            let delays: Vec<String> =
                delays.iter().map(|delay| delay.as_millis().to_string()).collect();
            format!("list {}", delays.join(" "))
        }
    }
}

pub(super) fn backoff(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Backoff>> {
    parsed(row, column, parse_backoff)
}

fn parse_backoff(text: &str) -> Result<Backoff, std::num::ParseFloatError> {
    let (kind, numbers) = text.split_once(' ').unwrap_or((text, ""));
    let numbers: Vec<f64> = numbers.split(' ').map(str::parse).collect::<Result<_, _>>()?;
    // Exact: whole milliseconds up to ten years are far below 2^53.
    let millis = |number: &f64| Duration::from_millis(*number as u64);
    Ok(match (kind, &numbers[..]) {
        ("exponential", [base, max, jitter]) => {
            Backoff::Exponential { base: millis(base), max: millis(max), jitter: *jitter }
        }
        ("fixed", [delay]) => Backoff::Fixed(millis(delay)),
        _ => Backoff::List(numbers.iter().map(millis).collect()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backoff_survives_its_text() {
        let millis = Duration::from_millis;
        for backoff in [
            Backoff::default(),
            Backoff::Exponential { base: millis(1), max: millis(7), jitter: 0.1 + 0.2 },
            Backoff::Fixed(millis(0)),
            Backoff::List(vec![millis(5)]),
            Backoff::List(vec![millis(5), crate::limits::DELAY_MAX]),
        ] {
            assert_eq!(parse_backoff(&sql_backoff(&backoff)), Ok(backoff));
        }
    }
}
