//! The commands.

mod bench;
mod serve;

use std::process::ExitCode;

use crate::Shared;
use crate::exit::Failure;

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Run the broker
    Serve(serve::Serve),
    /// Measure a broker
    Bench(bench::Bench),
}

impl Command {
    pub(crate) async fn run(self, shared: &Shared) -> Result<ExitCode, Failure> {
        match self {
            Self::Serve(serve) => serve.run().await,
            Self::Bench(bench) => bench.run(shared).await,
        }
    }
}
