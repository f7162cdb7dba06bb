//! Values as both SQL stores write them into their columns.

use std::time::Duration;

use crate::job::{Backoff, JobId, Options, Settings, Tag, When};
use crate::store::{KeyKind, Secret};

pub(super) fn sql_id(id: JobId) -> i64 {
    id.0.cast_signed()
}

pub(super) fn sql_millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// When a job is to run: in so many milliseconds, or at a time.
pub(super) fn sql_when(when: When) -> (Option<i64>, Option<i64>) {
    match when {
        When::Now => (None, None),
        When::After(delay) => (Some(sql_millis(delay)), None),
        When::At(at) => (None, Some(at.0)),
    }
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

/// Options as one text; `None`: there are none.
pub(super) fn sql_options(options: &Options) -> Option<String> {
    (*options != Options::default()).then(|| json(options))
}

/// The options of such a text.
pub(super) fn parse_options(text: &str) -> Result<Options, serde_json::Error> {
    serde_json::from_str(text)
}

pub(super) fn sql_settings(settings: &Settings) -> String {
    json(settings)
}

/// The settings of such a text.
pub(super) fn parse_settings(text: &str) -> Result<Settings, serde_json::Error> {
    serde_json::from_str(text)
}

/// Whether settings of such a text, perhaps of a later version, say that the queue is encrypted.
pub(super) fn are_encrypted(settings: &str) -> bool {
    let settings: serde_json::Value = serde_json::from_str(settings).unwrap_or_default();
    settings["encrypted"] == true
}

pub(super) fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("its keys are texts, and its numbers are finite")
}

pub(super) fn sql_kind(kind: KeyKind) -> i16 {
    match kind {
        KeyKind::Live => 0,
        KeyKind::Window => 1,
        KeyKind::Debounce => 2,
        KeyKind::Push => 3,
        KeyKind::CustomId => 4,
    }
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

/// A webhook's secret as it is stored: this and [`parse_secret`] are the only ways in and out. No
/// bytes: there is none.
pub(super) fn sql_secret(secret: Option<&Secret>) -> &[u8] {
    secret.map_or(&[], Secret::bytes)
}

/// The secret of such bytes.
pub(super) fn parse_secret(bytes: &[u8]) -> Option<Secret> {
    (!bytes.is_empty()).then(|| Secret::new(bytes.into()))
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
