//! What an answer means: done, not done, or nobody knows.
//!
//! | answer | means |
//! |---|---|
//! | the answer that was asked for | done |
//! | an error with a code of the broker | not done |
//! | … the codes OUTCOME_UNKNOWN and INTERNAL | unknown |
//! | not connected, or the request never left | not done |
//! | sent, then the connection was lost or the time was over | unknown |
//! | over HTTP, 5xx without a code: of a balancer, as 502, 504 | unknown |
//! | over HTTP, 4xx without a code | not done |
//! | anything else | unknown |

use batonq_client::{Error, ErrorCode};
use hyper::StatusCode;
use serde::Deserialize;

use crate::history::Outcome;

/// Why a call brought nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// Nothing was done.
    Refused(ErrorCode),
    /// It may or may not be done.
    Unknown,
}

/// What a call brought.
pub(super) type Answer<T> = Result<T, Failure>;

impl Failure {
    /// There was nobody to ask.
    pub(super) const NOBODY: Self = Self::Refused(ErrorCode::Unavailable);

    pub(super) fn of(code: ErrorCode) -> Self {
        match code {
            ErrorCode::OutcomeUnknown | ErrorCode::Internal | ErrorCode::Unspecified => {
                Self::Unknown
            }
            code => Self::Refused(code),
        }
    }

    /// Whether the same call may do it now.
    pub(super) fn may_repeat(self) -> bool {
        match self {
            Self::Refused(code) => code.meaning().retryable,
            Self::Unknown => true,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Refused { code, .. } => Self::of(code),
            Error::Timeout | Error::Disconnected | Error::Unreachable { .. } => Self::NOBODY,
            Error::OutcomeUnknown { .. }
            | Error::Closed
            | Error::Address { .. }
            | Error::Protocol { .. } => Self::Unknown,
        }
    }
}

/// What stands in the history for an answer.
pub(super) fn outcome<T>(answer: &Answer<T>) -> Outcome {
    match answer {
        Ok(_) => Outcome::Ok,
        Err(Failure::Refused(code)) => Outcome::Rejected(*code),
        Err(Failure::Unknown) => Outcome::Unknown,
    }
}

/// An error within an answer over HTTP, or instead of one.
#[derive(Debug, Deserialize)]
pub(super) struct Problem {
    code: String,
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        match ErrorCode::from_str_name(&problem.code) {
            Some(code) => Self::of(code),
            None => Self::Unknown,
        }
    }
}

/// What an HTTP status other than success means, with what came with it.
pub(super) fn of_status(status: StatusCode, body: &[u8]) -> Failure {
    match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => problem.into(),
        Err(_) if status.is_client_error() => Failure::Refused(ErrorCode::Invalid),
        Err(_) => Failure::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_surely_not_done_is_refused() {
        let refused = |code| Error::Refused { code, detail: String::new(), field: None };
        for (error, means) in [
            (refused(ErrorCode::LeaseLost), Failure::Refused(ErrorCode::LeaseLost)),
            (refused(ErrorCode::Overloaded), Failure::Refused(ErrorCode::Overloaded)),
            (refused(ErrorCode::Internal), Failure::Unknown),
            (Error::Timeout, Failure::NOBODY),
            (Error::Disconnected, Failure::NOBODY),
            (Error::OutcomeUnknown { detail: String::new() }, Failure::Unknown),
            (Error::Closed, Failure::Unknown),
        ] {
            assert_eq!(Failure::from(error.clone()), means, "{error:?}");
        }
    }

    #[test]
    fn a_balancer_that_speaks_for_itself_does_not_know() {
        let problem = br#"{"type":"about:blank","code":"UNAVAILABLE","status":503}"#;
        let unknown = br#"{"code":"OUTCOME_UNKNOWN"}"#;
        for (status, body, means) in [
            (503, &problem[..], Failure::NOBODY),
            (500, unknown, Failure::Unknown),
            (502, b"<html>", Failure::Unknown),
            (503, b"<html>", Failure::Unknown),
            (504, b"", Failure::Unknown),
            (413, b"<html>", Failure::Refused(ErrorCode::Invalid)),
            (500, br#"{"code":"NEVER_HEARD_OF"}"#, Failure::Unknown),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(of_status(status, body), means, "{status}");
        }
    }
}
