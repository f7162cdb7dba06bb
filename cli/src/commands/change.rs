//! Changing what waits: `batonq pause`, `resume`, `retry`, `cancel`, `promote`, `replay`, `dlq`, `drain`.

use std::process::ExitCode;

use batonq_client::State;
use serde_json::json;

use super::look::Filter;
use crate::Shared;
use crate::exit::Failure;

macro_rules! change {
    ($(#[$doc:meta])* $name:ident, $field:ident: $type:ty, $what:literal, $call:ident, $done:literal) => {
        $(#[$doc])*
        #[derive(Debug, clap::Args)]
        pub(crate) struct $name {
            #[doc = $what]
            $field: $type,
        }

        impl $name {
            pub(crate) async fn run(self, shared: &Shared) -> Result<ExitCode, Failure> {
                let client = shared.connect("").await?;
                client.$call(self.$field.clone()).await?;
                let value = json!({ stringify!($field): self.$field, "status": $done });
                shared.output.value(&value, &format!("{} {}", self.$field, $done))?;
                Ok(ExitCode::SUCCESS)
            }
        }
    };
}

change!(
    /// Arguments of `pause`.
    Pause, queue: String, "The queue", pause, "paused"
);
change!(
    /// Arguments of `resume`.
    Resume, queue: String, "The queue", resume, "resumed"
);
change!(
    /// Arguments of `retry`.
    Retry, id: u64, "The job", retry, "ready"
);
change!(
    /// Arguments of `cancel`.
    Cancel, id: u64, "The job", cancel, "cancelled"
);
change!(
    /// Arguments of `promote`.
    Promote, id: u64, "The job", promote, "ready"
);

/// Arguments of `drain`.
#[derive(Debug, clap::Args)]
pub(crate) struct Drain {
    /// The node, as `batonq nodes` calls it
    node: String,

    /// It gives out nothing more, but does not exit
    #[arg(long)]
    stay: bool,
}

impl Drain {
    pub(crate) async fn run(self, shared: &Shared) -> Result<ExitCode, Failure> {
        let client = shared.connect("").await?;
        match self.stay {
            true => client.drain_in_place(&self.node).await?,
            false => client.drain(&self.node).await?,
        }
        let value = json!({ "node": self.node, "status": "draining" });
        shared.output.value(&value, &format!("{} drains", self.node))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Arguments of `replay`.
#[derive(Debug, clap::Args)]
pub(crate) struct Replay {
    /// The job
    id: u64,
}

impl Replay {
    pub(crate) async fn run(self, shared: &Shared) -> Result<ExitCode, Failure> {
        let copy = shared.connect("").await?.replay(self.id).await?.0;
        let value = json!({ "id": copy, "replay_of": self.id });
        shared.output.value(&value, &format!("job {copy} is a copy of job {}", self.id))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// What to do with dead jobs.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Dlq {
    /// List dead jobs, newest first
    Ls(Filter),
    /// Push copies of dead jobs that have none yet
    Replay(ReplayDead),
}

/// Which dead jobs to copy.
#[derive(Debug, clap::Args)]
pub(crate) struct ReplayDead {
    /// Of this queue
    #[arg(long)]
    queue: Option<String>,

    /// Dead for this reason, as POISON
    #[arg(long)]
    reason: Option<String>,

    /// At most so many
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,

    /// All of them, from all queues
    #[arg(long, conflicts_with_all = ["queue", "reason"])]
    all: bool,
}

impl Dlq {
    pub(crate) async fn run(self, shared: &Shared) -> Result<ExitCode, Failure> {
        let client = shared.connect("").await?;
        match self {
            Self::Ls(filter) => filter.list(&client, shared.output, State::Dead).await?,
            Self::Replay(which) => {
                if !which.all && which.queue.is_none() && which.reason.is_none() {
                    let which = "say which with --queue or --reason, or --all";
                    return Err(Failure::usage(format!(
                        "this would replay all dead jobs: {which}"
                    )));
                }
                let queue = which.queue.unwrap_or_default();
                let reason = which.reason.unwrap_or_default();
                let copies = client.replay_dead(queue, reason, which.limit).await?;
                let ids: Vec<u64> = copies.iter().map(|id| id.0).collect();
                let sentence = format!("{} dead jobs replayed", ids.len());
                shared.output.value(&json!({ "ids": ids }), &sentence)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
