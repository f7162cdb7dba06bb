//! `batonq ack`, `fail` and `release`: for jobs that `batonq pull` has leased.

use std::process::ExitCode;
use std::time::Duration;

use batonq_client::Failure as JobFailure;
use serde_json::json;

use super::view::parse_lease;
use crate::Shared;
use crate::exit::Failure;
use crate::output::parse_duration;

/// Arguments of `ack`.
#[derive(Debug, clap::Args)]
pub(crate) struct Ack {
    /// The lease, as `pull` printed it
    lease: String,

    /// What came of the job, JSON
    #[arg(long, value_name = "JSON")]
    result: Option<String>,
}

/// Arguments of `fail`.
#[derive(Debug, clap::Args)]
pub(crate) struct Fail {
    /// The lease, as `pull` printed it
    lease: String,

    /// A word for machines
    #[arg(long, default_value = "FAILED")]
    code: String,

    /// For people
    #[arg(long, default_value = "")]
    message: String,

    /// When to try again, instead of the job's backoff
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    retry_in: Option<Duration>,

    /// Do not try again: the job is dead
    #[arg(long, conflicts_with = "retry_in")]
    reject: bool,
}

/// Arguments of `release`.
#[derive(Debug, clap::Args)]
pub(crate) struct Release {
    /// The lease, as `pull` printed it
    lease: String,

    /// Not before this time from now
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    delay: Option<Duration>,
}

fn done(shared: &Shared, sentence: &str) -> Result<ExitCode, Failure> {
    shared.output.value(&json!({ "status": "ok" }), sentence)?;
    Ok(ExitCode::SUCCESS)
}

impl Ack {
    pub(crate) async fn run(self, shared: &Shared) -> Result<ExitCode, Failure> {
        let ack = batonq_client::Ack::new(parse_lease(&self.lease)?);
        let ack = match self.result {
            Some(result) => ack.result(result),
            None => ack,
        };
        shared.connect("batonq ack").await?.ack(ack).await?;
        done(shared, "acked")
    }
}

impl Fail {
    pub(crate) async fn run(self, shared: &Shared) -> Result<ExitCode, Failure> {
        let mut failure = JobFailure::new(self.code, self.message);
        if let Some(delay) = self.retry_in {
            failure = failure.retry_in(delay);
        }
        let failure = if self.reject { failure.reject() } else { failure };
        let lease = parse_lease(&self.lease)?;
        shared.connect("batonq fail").await?.fail(lease, failure).await?;
        done(shared, "failed")
    }
}

impl Release {
    pub(crate) async fn run(self, shared: &Shared) -> Result<ExitCode, Failure> {
        let lease = parse_lease(&self.lease)?;
        let client = shared.connect("batonq release").await?;
        match self.delay {
            Some(delay) => client.snooze(lease, delay).await?,
            None => client.release(lease).await?,
        }
        done(shared, "released")
    }
}
