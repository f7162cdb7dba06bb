//! What can go wrong with a request, as decisions: one variant for each thing a client may do
//! about it.

use std::borrow::Cow;

use batonq_protocol::ErrorCode;

use crate::job::{InvalidField, TooLarge};

/// Why a request was not served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The request is wrong: mend the field.
    #[error(transparent)]
    Invalid(#[from] InvalidField),
    /// A payload, result or body is larger than allowed.
    #[error("{detail}")]
    PayloadTooLarge {
        /// Its name on the wire.
        field: &'static str,
        /// How large it is, and how large it may be.
        detail: String,
    },
    /// No token, or one that nobody has issued.
    #[error("{0}")]
    Unauthenticated(&'static str),
    /// The token's roles do not allow it.
    #[error("{operation} needs the role {role}")]
    Forbidden {
        /// What was asked for.
        operation: &'static str,
        /// Which role would allow it.
        role: &'static str,
    },
    /// There is no such job, queue or route.
    #[error("{0}")]
    NotFound(String),
    /// Somebody else may have the job by now: stop working on it.
    #[error("the lease is no longer held")]
    LeaseLost,
    /// The job is not in a state that allows this.
    #[error("{0}")]
    WrongState(String),
    /// Another live job has the unique key, or the custom id.
    #[error("{0}")]
    Duplicate(String),
    /// A guard of the queue takes no more. Nothing was done: try again later.
    #[error("{0}")]
    RateLimited(String),
    /// The node has too much to do. Nothing was done: try again later.
    #[error("{0}")]
    Overloaded(&'static str),
    /// The node can not serve this now. Nothing was done: try again later, or elsewhere.
    #[error("{0}")]
    Unavailable(Cow<'static, str>),
    /// It may or may not have been done.
    #[error("{0}")]
    OutcomeUnknown(Cow<'static, str>),
    /// We made a mistake.
    #[error("{0}")]
    Internal(Cow<'static, str>),
}

impl Error {
    /// The code on the wire, which says what a client should do.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Invalid(_) => ErrorCode::Invalid,
            Self::PayloadTooLarge { .. } => ErrorCode::PayloadTooLarge,
            Self::Unauthenticated(_) => ErrorCode::Unauthenticated,
            Self::Forbidden { .. } => ErrorCode::Forbidden,
            Self::NotFound(_) => ErrorCode::NotFound,
            Self::LeaseLost => ErrorCode::LeaseLost,
            Self::WrongState(_) => ErrorCode::WrongState,
            Self::Duplicate(_) => ErrorCode::Duplicate,
            Self::RateLimited(_) => ErrorCode::RateLimited,
            Self::Overloaded(_) => ErrorCode::Overloaded,
            Self::Unavailable(_) => ErrorCode::Unavailable,
            Self::OutcomeUnknown(_) => ErrorCode::OutcomeUnknown,
            Self::Internal(_) => ErrorCode::Internal,
        }
    }

    /// The field to blame, by its name on the wire.
    pub fn field(&self) -> Option<&str> {
        match self {
            Self::Invalid(invalid) => Some(&invalid.field),
            Self::PayloadTooLarge { field, .. } => Some(field),
            _ => None,
        }
    }

    /// A request whose field is wrong.
    pub fn invalid(field: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        Self::Invalid(InvalidField { field: field.into(), detail: detail.into() })
    }
}

impl From<TooLarge> for Error {
    fn from(too_large: TooLarge) -> Self {
        Self::PayloadTooLarge { field: too_large.field, detail: too_large.to_string() }
    }
}
