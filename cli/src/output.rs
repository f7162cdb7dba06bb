//! Printing, for people or for programs.

/// How answers are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Tables and sentences
    Human,
    /// One JSON value
    Json,
}
