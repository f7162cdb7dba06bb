//! What the program says at its end: exit codes that scripts can rely on.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | it went wrong, see the message |
//! | 2 | the arguments or settings can not be used |
//! | 3 | there is no such job or queue |
//! | 4 | the broker can not be reached, or says to try again later |
//! | 5 | not allowed: a token is missing, wrong, or lacks a role |
//! | 6 | nothing in time: no job came up, or the job has not ended yet |
//! | 7 | the job that was waited for is dead or cancelled |
//! | 8 | `verify` could not be run, or not to its end: nothing was found to be wrong so far |

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

use batonq_client::{Error, ErrorCode};

use crate::output::Format;

pub(crate) const NOTHING_IN_TIME: u8 = 6;
pub(crate) const JOB_DEAD: u8 = 7;
pub(crate) const NOT_VERIFIED: u8 = 8;

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    message: String,
    /// As on the wire, if the broker said it.
    error: Option<ErrorCode>,
}

impl Failure {
    pub(crate) fn usage(message: impl Display) -> Self {
        Self { code: 2, message: message.to_string(), error: None }
    }

    pub(crate) fn other(message: impl Display) -> Self {
        Self { code: 1, message: message.to_string(), error: None }
    }

    /// Nothing can be said of the broker.
    pub(crate) fn not_verified(message: impl Display) -> Self {
        Self { code: NOT_VERIFIED, message: message.to_string(), error: None }
    }

    /// The same, and what was done before it.
    pub(crate) fn after(self, done: &str) -> Self {
        Self { message: format!("{} ({done})", self.message), ..self }
    }

    /// The same, and during what.
    pub(crate) fn within(self, what: &str) -> Self {
        Self { message: format!("{what}: {}", self.message), ..self }
    }

    /// Standard output is closed, as by `| head`: that is no failure.
    fn closed() -> Self {
        Self { code: 0, message: String::new(), error: None }
    }

    /// Prints it to standard error, in the form that was asked for.
    pub(crate) fn report(&self, format: Format) -> ExitCode {
        let name = self.error.map_or("FAILED", |code| code.meaning().name);
        let line = match format {
            Format::Human => format!("batonq: {}", self.message),
            Format::Json => {
                serde_json::json!({ "error": { "code": name, "detail": self.message } }).to_string()
            }
        };
        if self.code != 0 {
            // If this fails there is nobody to tell.
            writeln!(std::io::stderr(), "{line}").ok();
        }
        ExitCode::from(self.code)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::closed(),
            _ => Self::other(error),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let wire = error.code();
        let code = match wire {
            Some(ErrorCode::NotFound) => 3,
            Some(ErrorCode::Unauthenticated | ErrorCode::Forbidden) => 5,
            Some(ErrorCode::Invalid | ErrorCode::PayloadTooLarge) => 2,
            _ if error.is_retryable() => 4,
            _ => 1,
        };
        Self { code, message: error.to_string(), error: wire }
    }
}

/// Ends the program before it has begun.
pub(crate) fn failure(message: &str) -> ExitCode {
    Failure::other(message).report(Format::Human)
}
