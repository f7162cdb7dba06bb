//! Values as both SQL stores write them into their columns.

use std::time::Duration;

use crate::job::{Backoff, JobId, Tag};

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

/// The tags of such a text.
pub(super) fn parse_tags(text: &str) -> Result<Vec<Tag>, crate::job::InvalidField> {
    text.lines().map(Tag::parse).collect()
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

/// The backoff of such a text.
pub(super) fn parse_backoff(text: &str) -> Result<Backoff, std::num::ParseFloatError> {
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
