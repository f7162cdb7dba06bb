//! What can go wrong with a call, by what the caller should do about it.

use batonq_protocol::{ErrorCode, messages};

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The node answered no. [`ErrorCode::meaning`] says what each code means.
    #[error("{name}: {detail}", name = code.meaning().name)]
    Refused {
        /// What to branch on.
        code: ErrorCode,
        /// For people.
        detail: String,
        /// The field to blame.
        field: Option<String>,
    },
    /// A change was sent and no answer came: it may or may not be done.
    ///
    /// Settling a lease may be repeated as it is, since the node knows the lease. A push may be
    /// repeated if its jobs have a unique key; otherwise it may make them twice.
    #[error("it may or may not be done: {detail}")]
    OutcomeUnknown {
        /// For people.
        detail: String,
    },
    /// No answer in time. Nothing was changed.
    #[error("no answer in time, nothing was changed")]
    Timeout,
    /// The connection was lost. Nothing was changed.
    #[error("the connection was lost, nothing was changed")]
    Disconnected,
    /// No node let the client in.
    #[error("no node can be reached: {detail}")]
    Unreachable {
        /// Each address and what was wrong with it.
        detail: String,
    },
    /// The client was closed.
    #[error("the client was closed")]
    Closed,
    /// No address can be read from the URL.
    #[error("invalid address: {detail}")]
    Address {
        /// What is wrong with it.
        detail: String,
    },
    /// The node does not keep to the protocol.
    #[error("unexpected answer: {detail}")]
    Protocol {
        /// What came instead.
        detail: String,
    },
}

impl Error {
    /// The node's code, if the node refused or did not know the outcome itself.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            Self::OutcomeUnknown { .. } => Some(ErrorCode::OutcomeUnknown),
            _ => None,
        }
    }

    /// Whether nothing was changed and the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Refused { code, .. } => code.meaning().retryable,
            Self::Timeout | Self::Disconnected | Self::Unreachable { .. } => true,
            Self::OutcomeUnknown { .. }
            | Self::Closed
            | Self::Address { .. }
            | Self::Protocol { .. } => false,
        }
    }

    /// Whether a node will never let this client in as it is.
    pub(crate) fn forbids_connecting(&self) -> bool {
        matches!(
            self.code(),
            Some(
                ErrorCode::Unauthenticated
                    | ErrorCode::UnsupportedVersion
                    | ErrorCode::Forbidden
                    | ErrorCode::Invalid
            )
        )
    }

    pub(crate) fn unexpected(answer: &impl std::fmt::Debug) -> Self {
        let mut detail = format!("{answer:?}");
        // The name of the message is enough, and what follows may be a payload.
        if let Some(end) = detail.find(['(', '{', ' ']) {
            detail.truncate(end);
        }
        Self::Protocol { detail }
    }

    pub(crate) fn refused(code: ErrorCode, detail: impl Into<String>, field: &str) -> Self {
        Self::Refused { code, detail: detail.into(), field: Some(field.to_owned()) }
    }
}

impl From<messages::Error> for Error {
    fn from(error: messages::Error) -> Self {
        let code = error.code();
        if code == ErrorCode::OutcomeUnknown {
            return Self::OutcomeUnknown { detail: error.detail };
        }
        let field = (!error.field.is_empty()).then_some(error.field);
        Self::Refused { code, detail: error.detail, field }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changed_nothing_is_retryable() {
        let refused = |code| Error::Refused { code, detail: String::new(), field: None };
        let unknown = Error::OutcomeUnknown { detail: String::new() };
        for (error, retryable) in [
            (refused(ErrorCode::Overloaded), true),
            (refused(ErrorCode::Invalid), false),
            (unknown, false),
            (Error::Timeout, true),
            (Error::Disconnected, true),
            (Error::Closed, false),
        ] {
            assert_eq!(error.is_retryable(), retryable, "{error:?}");
        }
    }

    #[test]
    fn a_node_that_does_not_know_the_outcome_is_believed() {
        let error = messages::Error { code: ErrorCode::OutcomeUnknown as i32, ..<_>::default() };
        assert!(matches!(Error::from(error), Error::OutcomeUnknown { .. }));
    }

    #[test]
    fn an_unexpected_answer_is_named_without_its_content() {
        let answer = batonq_protocol::Message::Pushed(messages::Pushed::default());
        assert_eq!(Error::unexpected(&answer), Error::Protocol { detail: "Pushed".to_owned() });
    }
}
