//! The `batonq` program: `batonq serve` is the broker, everything else talks to one.
//!
//! Each command is a file in `commands/`: its arguments, and what it does with them. `exit.rs`
//! says which exit code means what; `output.rs` prints for people or, with `-o json`, for programs.

mod commands;
mod environment;
mod exit;
mod output;

use std::process::ExitCode;

use clap::Parser;

use commands::Command;
use output::Format;

/// A build whose broker can be made wrong says so.
const VERSION: &str = if cfg!(feature = "mutants") {
    concat!(env!("CARGO_PKG_VERSION"), " with mutants")
} else {
    env!("CARGO_PKG_VERSION")
};

/// A job queue broker that needs nothing beside itself.
#[derive(Debug, Parser)]
#[command(name = "batonq", version = VERSION, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,

    #[command(flatten)]
    shared: Shared,
}

/// What all commands that talk to a broker understand.
#[derive(Debug, Clone, clap::Args)]
struct Shared {
    /// Where the broker is: tcp://HOST:PORT[,HOST:PORT…] [env: BATONQ_URL]
    #[arg(long, global = true, value_name = "URL")]
    url: Option<String>,

    /// What to be let in with; better in the environment [env: BATONQ_TOKEN]
    #[arg(long, global = true, value_name = "TOKEN")]
    token: Option<String>,

    /// How answers are printed
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Human)]
    output: Format,
}

/// Runs the program; the arguments are those of the process.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = arguments.command.threads() {
        builder.worker_threads(threads);
    }
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit::failure(&format!("no runtime: {error}")),
    };
    let code = match runtime.block_on(arguments.command.run(&arguments.shared)) {
        Ok(code) => code,
        Err(failure) => failure.report(arguments.shared.output),
    };
    // A blocked thread, as one that reads standard input, must not keep the program.
    runtime.shutdown_background();
    code
}
