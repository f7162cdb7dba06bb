//! Printing, for people or for programs.
//!
//! What a list shows is one type with one list of columns: the table and the JSON come from it, so
//! that they can not drift.

use std::io::Write;
use std::time::Duration;

use comfy_table::{Table, presets};
use serde::Serialize;

use crate::exit::Failure;

/// How answers are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Tables and sentences
    Human,
    /// One JSON value
    Json,
}

/// A line of a table.
pub(crate) trait Row: Serialize {
    /// The names of the columns.
    const HEAD: &'static [&'static str];

    /// The columns.
    fn cells(&self) -> Vec<String>;
}

impl Format {
    /// Prints a list.
    pub(crate) fn rows<R: Row>(self, rows: &[R]) -> Result<(), Failure> {
        match self {
            Self::Json => self.json(&rows),
            Self::Human => say(&table(rows)),
        }
    }

    /// Prints one value: as it is, or as a sentence.
    pub(crate) fn value(self, value: &impl Serialize, sentence: &str) -> Result<(), Failure> {
        match self {
            Self::Json => self.json(value),
            Self::Human => say(sentence),
        }
    }

    fn json(self, value: &impl Serialize) -> Result<(), Failure> {
        say(&serde_json::to_string(value).map_err(Failure::other)?)
    }
}

/// A table without lines between its rows.
pub(crate) fn table<R: Row>(rows: &[R]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(R::HEAD.iter().copied());
    for row in rows {
        table.add_row(row.cells());
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// Prints to standard output.
pub(crate) fn say(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

/// Tells a person what happens; not part of the answer.
pub(crate) fn note(text: &str) {
    // If this fails there is nobody to tell.
    writeln!(std::io::stderr(), "{text}").ok();
}

/// Milliseconds since 1970 as RFC 3339 in UTC.
pub(crate) fn time(at_ms: i64) -> String {
    let at = jiff::Timestamp::from_millisecond(at_ms);
    at.map_or_else(|_| at_ms.to_string(), |at| format!("{at:.3}"))
}

/// A length of time in its two largest units.
pub(crate) fn length(millis: u64) -> String {
    let seconds = millis / 1000;
    match seconds {
        0 => format!("{millis}ms"),
        1..60 => format!("{}.{}s", seconds, millis % 1000 / 100),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// A length of time as people write it: a number and its unit.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    batonq_server::config::parse_duration(text).ok_or_else(|| {
        format!("{text:?} is no time: write a number and its unit, as 500ms, 10s, 2m, 24h")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_needs_its_unit() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_duration("1d"), Ok(Duration::from_secs(86_400)));
        for bad in
            ["10", "s", "", "1.5s", "-1s", "10 s", "99999999999999999999s", "9999999999999999d"]
        {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_length_has_two_units() {
        let lengths = [12, 1_500, 61_000, 3_660_000, 90_000_000].map(length);
        assert_eq!(lengths, ["12ms", "1.5s", "1m01s", "1h01m", "1d01h"]);
    }
}
