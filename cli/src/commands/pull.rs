//! `batonq pull`.

use std::process::ExitCode;
use std::time::Duration;

use batonq_client::{Ack, PullOptions};

use super::view::LeasedRow;
use crate::Shared;
use crate::exit::{Failure, NOTHING_IN_TIME};
use crate::output::parse_duration;

/// Arguments of `pull`.
#[derive(Debug, clap::Args)]
pub(crate) struct Pull {
    /// The queue
    queue: String,

    /// At most so many jobs
    #[arg(long, default_value_t = 1, value_name = "N")]
    count: u32,

    /// How long to wait for a first one
    #[arg(long, value_parser = parse_duration, default_value = "0s", value_name = "TIME")]
    wait: Duration,

    /// How long the leases last
    #[arg(long, value_parser = parse_duration, default_value = "30s", value_name = "TIME")]
    lease: Duration,

    /// Ack the jobs once they are printed
    #[arg(long)]
    ack: bool,
}

impl Pull {
    pub(crate) async fn run(self, shared: &Shared) -> Result<ExitCode, Failure> {
        let client = shared.connect("batonq pull").await?;
        let pull = PullOptions::new(self.queue.as_str());
        let pull = pull.count(self.count).wait(self.wait).lease(self.lease);
        let jobs = client.pull(pull).await?;
        let rows: Vec<LeasedRow> = jobs.iter().map(Into::into).collect();
        shared.output.rows(&rows)?;
        if self.ack && !jobs.is_empty() {
            for acked in client.ack_batch(jobs.iter().map(Ack::from)).await? {
                acked?;
            }
        }
        client.close().await;
        Ok(if rows.is_empty() { NOTHING_IN_TIME.into() } else { ExitCode::SUCCESS })
    }
}
