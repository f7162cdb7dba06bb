//! `batonq wait`.

use std::process::ExitCode;
use std::time::Duration;

use batonq_client::State;
use tokio::time::Instant;

use super::view;
use crate::Shared;
use crate::exit::{Failure, JOB_DEAD, NOTHING_IN_TIME};
use crate::output::parse_duration;

/// How long one call waits.
const CALL: Duration = Duration::from_secs(30);

/// Arguments of `wait`.
#[derive(Debug, clap::Args)]
pub(crate) struct Wait {
    /// The job
    id: u64,

    /// How long to wait
    #[arg(long, value_parser = parse_duration, default_value = "60s", value_name = "TIME")]
    timeout: Duration,
}

impl Wait {
    /// Exit code 0: completed, 7: dead or cancelled, 6: not ended in time.
    pub(crate) async fn run(self, shared: &Shared) -> Result<ExitCode, Failure> {
        let client = shared.connect("").await?;
        let until = Instant::now() + self.timeout;
        let job = loop {
            let left = until.saturating_duration_since(Instant::now());
            let job = client.wait_job(self.id, left.min(CALL)).await?;
            let has_ended =
                matches!(job.state(), State::Completed | State::Dead | State::Cancelled);
            if has_ended || left.is_zero() {
                break job;
            }
        };
        client.close().await;
        let state = view::state(job.state());
        let sentence = match job.state() {
            State::Completed if job.result.is_empty() => "completed".to_owned(),
            State::Completed => String::from_utf8_lossy(&job.result).into_owned(),
            State::Dead => format!("dead: {} {} {}", job.reason, job.error_code, job.error_message),
            State::Cancelled => "cancelled".to_owned(),
            _ => format!("still {state}"),
        };
        shared.output.value(&view::job_value(&job), sentence.trim_end())?;
        Ok(match job.state() {
            State::Completed => ExitCode::SUCCESS,
            State::Dead | State::Cancelled => JOB_DEAD.into(),
            _ => NOTHING_IN_TIME.into(),
        })
    }
}
