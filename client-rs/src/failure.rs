//! What a handler says when it could not do the work.

use std::time::Duration;

/// Why an attempt failed.
///
/// Any error becomes one with the code `ERROR`, so that `?` works in a handler.
///
/// ```
/// use std::time::Duration;
/// use batonq_client::Failure;
///
/// let later = Failure::new("SMTP_BUSY", "421 try again").retry_in(Duration::from_secs(60));
/// let never = Failure::new("NO_SUCH_USER", "550").reject();
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) retry_in: Option<Duration>,
    pub(crate) reject: bool,
    pub(crate) snooze: Option<Duration>,
}

impl Failure {
    /// The code of an error that has none of its own.
    pub const ERROR: &str = "ERROR";
    /// The code of a handler that panicked.
    pub const PANIC: &str = "PANIC";

    /// `code` is a word for machines, as `PAYMENT_DECLINED`, of 1 to 64 bytes; `message` is for
    /// people, and cut after 8 KiB.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            retry_in: None,
            reject: false,
            snooze: None,
        }
    }

    /// Overrides the job's backoff for this failure.
    #[must_use]
    pub fn retry_in(mut self, delay: Duration) -> Self {
        self.retry_in = Some(delay);
        self
    }

    /// No more attempts: the job is dead.
    #[must_use]
    pub fn reject(mut self) -> Self {
        self.reject = true;
        self
    }

    /// Not a failure at all: the job shall be done later, and no attempt is charged.
    pub fn snooze(delay: Duration) -> Self {
        Self { snooze: Some(delay), ..Self::new("SNOOZED", "not now") }
    }

    /// The code.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// The message.
    pub fn message(&self) -> &str {
        &self.message
    }
}

// `Failure` itself is no `std::error::Error`, or this would not be allowed.
impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(Self::ERROR, error.to_string())
    }
}
