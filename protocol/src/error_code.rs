//! What each error code means to a client, in one table.

use crate::messages::ErrorCode;

/// What a client should know about one code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meaning {
    /// The code's name, as on the wire of both transports.
    pub name: &'static str,
    /// The HTTP status.
    pub http_status: u16,
    /// True: nothing was done, and the same call may succeed later. The client may repeat it.
    pub retryable: bool,
    /// What it says to a person.
    pub title: &'static str,
}

impl ErrorCode {
    /// All codes, in the order of their numbers.
    pub const ALL: [Self; 15] = [
        Self::Invalid,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::NotFound,
        Self::LeaseLost,
        Self::WrongState,
        Self::Duplicate,
        Self::PayloadTooLarge,
        Self::RateLimited,
        Self::Overloaded,
        Self::Unavailable,
        Self::OutcomeUnknown,
        Self::Internal,
        Self::UnsupportedVersion,
        Self::Framing,
    ];

    /// What this code means.
    ///
    /// There is no wildcard: a new code does not compile until someone has decided what a client
    /// should do about it. A status of 503 promises that nothing was done, because proxies repeat
    /// requests on it; so [`ErrorCode::OutcomeUnknown`] must not have it.
    pub const fn meaning(self) -> Meaning {
        let (name, http_status, retryable, title) = match self {
            Self::Unspecified => ("UNSPECIFIED", 500, false, "no code was given"),
            Self::Invalid => ("INVALID", 400, false, "the request is not valid"),
            Self::Unauthenticated => ("UNAUTHENTICATED", 401, false, "a valid token is needed"),
            Self::Forbidden => ("FORBIDDEN", 403, false, "the token's roles do not allow this"),
            Self::NotFound => ("NOT_FOUND", 404, false, "there is no such thing"),
            Self::LeaseLost => ("LEASE_LOST", 409, false, "the lease is no longer held"),
            Self::WrongState => ("WRONG_STATE", 409, false, "the job's state does not allow this"),
            Self::Duplicate => ("DUPLICATE", 409, false, "it exists already"),
            Self::PayloadTooLarge => ("PAYLOAD_TOO_LARGE", 413, false, "too many bytes"),
            Self::RateLimited => ("RATE_LIMITED", 429, true, "too often"),
            Self::Overloaded => ("OVERLOADED", 503, true, "the node has too much to do"),
            Self::Unavailable => ("UNAVAILABLE", 503, true, "the node can not serve this now"),
            Self::OutcomeUnknown => ("OUTCOME_UNKNOWN", 500, false, "it may or may not be done"),
            Self::Internal => ("INTERNAL", 500, false, "the node made a mistake"),
            Self::UnsupportedVersion => {
                ("UNSUPPORTED_VERSION", 400, false, "no protocol version in common")
            }
            Self::Framing => ("FRAMING", 400, false, "the bytes can not be understood"),
        };
        Meaning { name, http_status, retryable, title }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_proto() {
        for code in ErrorCode::ALL {
            assert_eq!(code.meaning().name, code.as_str_name());
        }
    }

    #[test]
    fn all_codes_are_listed_once_in_order() {
        for (place, code) in ErrorCode::ALL.into_iter().enumerate() {
            assert_eq!(code as usize, place + 1);
        }
        assert!(ErrorCode::try_from(ErrorCode::ALL.len() as i32 + 1).is_err());
    }

    #[test]
    fn only_retryable_codes_have_the_status_that_proxies_repeat() {
        for code in ErrorCode::ALL {
            let meaning = code.meaning();
            assert!(meaning.http_status != 503 || meaning.retryable, "{}", meaning.name);
        }
    }
}
