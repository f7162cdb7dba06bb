//! Why a field can not be had, or can not be broken in some way.

use std::time::Duration;

/// What went wrong, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum FieldError {
    /// A program of this machine is needed.
    #[error("{program} is not installed, which {what} needs: install {package}")]
    Missing {
        /// What was looked for.
        program: String,
        /// Who needs it.
        what: String,
        /// What has it.
        package: &'static str,
    },
    /// A program of this machine has refused.
    #[error("{what} failed: {detail}")]
    Failed {
        /// What was tried.
        what: String,
        /// What the program said.
        detail: String,
    },
    /// Something did not happen in time.
    #[error("{what}: not within {within:?}\n{log}")]
    NotInTime {
        /// What was waited for.
        what: String,
        /// For how long.
        within: Duration,
        /// The end of the log of whom was waited for.
        log: String,
    },
    /// A node that should run does not.
    #[error("node {node} has ended by itself ({status}). Its log ends with\n{log}")]
    Ended {
        /// Its name.
        node: String,
        /// How it ended.
        status: String,
        /// The end of its log.
        log: String,
    },
    /// This field can not be broken that way.
    #[error("{what} is not possible: {why}")]
    NotPossible {
        /// What was asked for.
        what: String,
        /// Why it can not be done here.
        why: String,
    },
    /// Files, processes or sockets of this machine.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The database did not do what it was asked for.
    #[error("{what}: {source}")]
    Database {
        /// What was asked.
        what: String,
        /// What it said.
        source: tokio_postgres::Error,
    },
    /// A node of a named cluster did not do what it was asked for.
    #[error("{what}: {source}")]
    Client {
        /// What was asked.
        what: String,
        /// What it said.
        source: batonq_client::Error,
    },
}

impl FieldError {
    /// For `map_err`: what was tried when the system said no.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// For `map_err`: what was asked of the database.
    pub(crate) fn database(what: &str) -> impl FnOnce(tokio_postgres::Error) -> Self {
        let what = what.to_owned();
        move |source| Self::Database { what, source }
    }
}
