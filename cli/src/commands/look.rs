//! Looking: `batonq queues`, `jobs`, `timeline`, `explain`, `workers`, `nodes`, `stats`.

use std::process::ExitCode;
use std::time::Duration;

use batonq_client::{Client, JobFilter, State};
use serde_json::json;

use super::view::{
    self, AttemptRow, CauseRow, DecisionRow, EventRow, JobRow, KeyRow, NodeRow, QueueRow, WorkerRow,
};
use crate::Shared;
use crate::exit::Failure;
use crate::output::{Format, length, note, parse_duration, say, table, time};

/// Arguments of `queues`.
#[derive(Debug, clap::Args)]
pub(crate) struct Queues {}

impl Queues {
    pub(crate) async fn run(self, shared: &Shared) -> Result<ExitCode, Failure> {
        let queues = shared.connect("").await?.queues().await?;
        let rows: Vec<QueueRow> = queues.into_iter().map(Into::into).collect();
        shared.output.rows(&rows)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// What to do with jobs.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Jobs {
    /// List jobs, newest first
    Ls(Filter),
    /// Delete a job that has ended, with its history
    Rm {
        /// The job
        id: u64,
    },
    /// All that is known of a job
    Get {
        /// The job
        id: u64,
    },
}

/// Which jobs to list.
#[derive(Debug, clap::Args)]
pub(crate) struct Filter {
    /// Of this queue
    #[arg(long)]
    pub(super) queue: Option<String>,

    /// scheduled, blocked, ready, leased, completed, dead or cancelled
    #[arg(long, value_parser = parse_state)]
    state: Option<State>,

    /// With this tag
    #[arg(long)]
    tag: Option<String>,

    /// With payloads of this content type
    #[arg(long, value_name = "TYPE")]
    r#type: Option<String>,

    /// Dead for this reason, as POISON
    #[arg(long)]
    pub(super) reason: Option<String>,

    /// At most so many
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) limit: u32,

    /// From where the list before ended
    #[arg(long, value_name = "ID")]
    cursor: Option<u64>,

    /// Pushed at least so long ago
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    older_than: Option<Duration>,

    /// Pushed less than so long ago
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    newer_than: Option<Duration>,

    /// Instead of newest first
    #[arg(long)]
    oldest_first: bool,
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn parse_state(name: &str) -> Result<State, String> {
    let state = State::from_str_name(&format!("STATE_{}", name.to_ascii_uppercase()));
    state.filter(|state| *state != State::Unspecified).ok_or_else(|| {
        "must be scheduled, blocked, ready, leased, completed, dead or cancelled".into()
    })
}

impl Filter {
    /// Lists the jobs, of which `state` is asked for if the filter says none.
    pub(super) async fn list(
        self,
        client: &Client,
        format: Format,
        state: State,
    ) -> Result<(), Failure> {
        let filter = JobFilter {
            queue: self.queue.unwrap_or_default(),
            state: self.state.unwrap_or(state).into(),
            tag: self.tag.unwrap_or_default(),
            reason: self.reason.unwrap_or_default(),
            limit: self.limit,
            cursor: self.cursor.unwrap_or_default(),
            older_than_ms: self.older_than.map_or(0, millis),
            newer_than_ms: self.newer_than.map_or(0, millis),
            oldest_first: self.oldest_first,
            content_type: self.r#type.unwrap_or_default(),
        };
        let page = client.jobs(filter).await?;
        let rows: Vec<JobRow> = page.jobs.into_iter().map(Into::into).collect();
        if format == Format::Json {
            let cursor = (page.cursor != 0).then_some(page.cursor);
            return format.value(&json!({ "jobs": rows, "cursor": cursor }), "");
        }
        format.rows(&rows)?;
        if page.cursor != 0 {
            note(&format!("there are more: --cursor {}", page.cursor));
        }
        Ok(())
    }
}

impl Jobs {
    pub(crate) async fn run(self, shared: &Shared) -> Result<ExitCode, Failure> {
        let client = shared.connect("").await?;
        match self {
            Self::Ls(filter) => filter.list(&client, shared.output, State::Unspecified).await?,
            Self::Rm { id } => {
                client.delete(id).await?;
                let value = json!({ "id": id, "status": "deleted" });
                shared.output.value(&value, &format!("{id} deleted"))?;
            }
            Self::Get { id } => {
                let job = client.job(id).await?;
                shared.output.value(&view::job_value(&job), &view::job_lines(&job))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Arguments of `timeline`.
#[derive(Debug, clap::Args)]
pub(crate) struct Timeline {
    /// The job
    id: u64,
}

impl Timeline {
    pub(crate) async fn run(self, shared: &Shared) -> Result<ExitCode, Failure> {
        let timeline = shared.connect("").await?.timeline(self.id).await?;
        let job = timeline.job.unwrap_or_default();
        let events: Vec<EventRow> = timeline.events.into_iter().map(Into::into).collect();
        if shared.output == Format::Json {
            let attempts: Vec<AttemptRow> = timeline.attempts.into_iter().map(Into::into).collect();
            let job = view::job_value(&job);
            let value = json!({ "job": job, "attempts": attempts, "events": events });
            shared.output.value(&value, "")?;
            return Ok(ExitCode::SUCCESS);
        }
        say(&timeline_text(&job, &events))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The story of a job.
pub(super) fn timeline_text(job: &batonq_client::JobDetail, events: &[EventRow]) -> String {
    let mut now = format!("job {} in {} is {}", job.id, job.queue, view::state(job.state()));
    if !job.reason.is_empty() {
        now += &format!(" ({})", job.reason);
    }
    format!("{now}\n{}", table(events))
}

/// Arguments of `explain`.
#[derive(Debug, clap::Args)]
pub(crate) struct Explain {
    /// The job
    id: u64,
}

impl Explain {
    pub(crate) async fn run(self, shared: &Shared) -> Result<ExitCode, Failure> {
        let explanation = shared.connect("").await?.explain(self.id).await?;
        let job = explanation.job.unwrap_or_default();
        let causes: Vec<CauseRow> = explanation.causes.into_iter().map(Into::into).collect();
        let value = json!({
            "now": time(explanation.now_ms), "causes": causes, "job": view::job_value(&job),
        });
        let head = format!("job {} in {} is {}", job.id, job.queue, view::state(job.state()));
        shared.output.value(&value, &format!("{head}\n{}", table(&causes)))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Arguments of `workers`.
#[derive(Debug, clap::Args)]
pub(crate) struct Workers {}

impl Workers {
    pub(crate) async fn run(self, shared: &Shared) -> Result<ExitCode, Failure> {
        let workers = shared.connect("").await?.workers().await?;
        let rows: Vec<WorkerRow> = workers.into_iter().map(Into::into).collect();
        shared.output.rows(&rows)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Arguments of `nodes`.
#[derive(Debug, clap::Args)]
pub(crate) struct Nodes {}

impl Nodes {
    pub(crate) async fn run(self, shared: &Shared) -> Result<ExitCode, Failure> {
        let nodes = shared.connect("").await?.nodes().await?;
        let rows: Vec<NodeRow> = nodes.into_iter().map(Into::into).collect();
        shared.output.rows(&rows)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Arguments of `stats`.
#[derive(Debug, clap::Args)]
pub(crate) struct Stats {}

impl Stats {
    pub(crate) async fn run(self, shared: &Shared) -> Result<ExitCode, Failure> {
        let stats = shared.connect("").await?.stats().await?;
        let value = json!({
            "window_s": stats.window_s, "pushed": stats.pushed, "claimed": stats.claimed,
            "acked": stats.acked, "failed": stats.failed,
            "push_ms": { "p50": stats.push_p50_ms, "p99": stats.push_p99_ms },
            "claim_ms": { "p50": stats.claim_p50_ms, "p99": stats.claim_p99_ms },
            "settle_ms": { "p50": stats.settle_p50_ms, "p99": stats.settle_p99_ms },
            "connections": stats.connections, "uptime_s": stats.uptime_s,
        });
        let sentence = format!(
            "in the last {} s: {} pushed, {} claimed, {} acked, {} failed\n\
             p50/p99 in ms: push {:.2}/{:.2}, claim {:.2}/{:.2}, settle {:.2}/{:.2}\n\
             {} connections, up for {}",
            stats.window_s,
            stats.pushed,
            stats.claimed,
            stats.acked,
            stats.failed,
            stats.push_p50_ms,
            stats.push_p99_ms,
            stats.claim_p50_ms,
            stats.claim_p99_ms,
            stats.settle_p50_ms,
            stats.settle_p99_ms,
            stats.connections,
            length(stats.uptime_s * 1000),
        );
        shared.output.value(&value, &sentence)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Arguments of `limits`.
#[derive(Debug, clap::Args)]
pub(crate) struct Limits {
    /// The queue
    queue: String,
}

impl Limits {
    pub(crate) async fn run(self, shared: &Shared) -> Result<ExitCode, Failure> {
        let keys = shared.connect("").await?.keys(&self.queue).await?;
        let rows: Vec<KeyRow> = keys.into_iter().map(Into::into).collect();
        shared.output.rows(&rows)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Arguments of `decisions`.
#[derive(Debug, clap::Args)]
pub(crate) struct Decisions {
    /// Of this queue
    #[arg(long)]
    queue: Option<String>,

    /// At most so many
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
}

impl Decisions {
    pub(crate) async fn run(self, shared: &Shared) -> Result<ExitCode, Failure> {
        let queue = self.queue.unwrap_or_default();
        let decisions = shared.connect("").await?.decisions(queue, self.limit).await?;
        let rows: Vec<DecisionRow> = decisions.into_iter().map(Into::into).collect();
        shared.output.rows(&rows)?;
        Ok(ExitCode::SUCCESS)
    }
}
