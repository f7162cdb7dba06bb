//! Changing what waits: `batonq pause`, `resume`, `retry`, `cancel`, `edit`, `promote`,
//! `replay`, `dlq`, `settings`, `drain`.

use std::process::ExitCode;
use std::time::Duration;

use batonq_client::{Cancelled, Client, ErrorCode, State};
use serde_json::json;

use super::bulk::{self, Action, Which};
use super::look::Filter;
use crate::Shared;
use crate::exit::Failure;
use crate::output::{length, parse_duration};

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
    /// Arguments of `promote`.
    Promote, id: u64, "The job", promote, "ready"
);

/// Arguments of `cancel`.
#[derive(Debug, clap::Args)]
pub(crate) struct Cancel {
    /// The job
    id: u64,

    /// How long the worker of a leased job has to end it
    #[arg(long, default_value = "30s", value_parser = parse_duration, value_name = "TIME")]
    grace: Duration,
}

impl Cancel {
    pub(crate) async fn run(self, shared: &Shared) -> Result<ExitCode, Failure> {
        let client = shared.connect("").await?;
        let (status, sentence) = match client.cancel_within(self.id, self.grace).await? {
            Cancelled::Done => ("cancelled", format!("{} cancelled", self.id)),
            Cancelled::Requested { .. } => {
                let grace = length(u64::try_from(self.grace.as_millis()).unwrap_or(u64::MAX));
                ("requested", format!("{}: its worker is asked to end it within {grace}", self.id))
            }
        };
        shared.output.value(&json!({ "id": self.id, "status": status }), &sentence)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Arguments of `edit`.
#[derive(Debug, clap::Args)]
pub(crate) struct Edit {
    /// The job
    id: u64,

    #[command(flatten)]
    changes: Changes,
}

/// What is to differ.
#[derive(Debug, clap::Args)]
pub(crate) struct Changes {
    /// Higher first
    #[arg(long, allow_negative_numbers = true)]
    priority: Option<i32>,

    /// What the worker gets, JSON
    #[arg(long, value_name = "JSON")]
    payload: Option<String>,

    /// Not before this time from now
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    delay: Option<Duration>,

    /// To another queue
    #[arg(long)]
    queue: Option<String>,
}

impl Changes {
    fn edit(self) -> Result<batonq_client::Edit, Failure> {
        let mut edit = batonq_client::Edit::default();
        if let Some(priority) = self.priority {
            edit = edit.priority(priority);
        }
        if let Some(payload) = self.payload {
            if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(&payload) {
                return Err(Failure::usage(format!("the payload is no JSON ({error})")));
            }
            edit = edit.payload(payload);
        }
        if let Some(delay) = self.delay {
            edit = edit.delay(delay);
        }
        if let Some(queue) = self.queue {
            edit = edit.queue(queue);
        }
        Ok(edit)
    }
}

impl Edit {
    pub(crate) async fn run(self, shared: &Shared) -> Result<ExitCode, Failure> {
        let edit = self.changes.edit()?;
        shared.connect("").await?.edit(self.id, edit).await?;
        let value = json!({ "id": self.id, "status": "changed" });
        shared.output.value(&value, &format!("{} changed", self.id))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Arguments of `settings`.
#[derive(Debug, clap::Args)]
pub(crate) struct Settings {
    /// The queue
    queue: String,

    /// All settings, JSON, as {"concurrency":3}; not given: shows them
    settings: Option<String>,

    /// Whether payloads and results are sealed before they are stored; other settings stay
    #[arg(long, conflicts_with = "settings", value_name = "on|off", value_parser = ["on", "off"])]
    encrypted: Option<String>,
}

impl Settings {
    /// As they are; of a queue that is not there, none.
    async fn now(&self, client: &Client) -> Result<serde_json::Value, Failure> {
        let settings = match client.queue(&self.queue).await {
            Err(error) if error.code() == Some(ErrorCode::NotFound) => "{}".into(),
            queue => queue?.settings,
        };
        serde_json::from_str(&settings)
            .map_err(|error| Failure::usage(format!("the settings are no JSON ({error})")))
    }

    pub(crate) async fn run(self, shared: &Shared) -> Result<ExitCode, Failure> {
        let client = shared.connect("").await?;
        if let Some(settings) = &self.settings {
            let settings: serde_json::Value = serde_json::from_str(settings)
                .map_err(|error| Failure::usage(format!("the settings are no JSON ({error})")))?;
            let before = self.now(&client).await?;
            if before["encrypted"] == json!(true) && settings.get("encrypted").is_none() {
                let fix = "say \"encrypted\":true, or false if it is meant";
                return Err(Failure::usage(format!("this would turn encryption off: {fix}")));
            }
            client.set_settings(&self.queue, &settings).await?;
        }
        if let Some(encrypted) = &self.encrypted {
            let mut settings = self.now(&client).await?;
            settings["encrypted"] = json!(encrypted == "on");
            client.set_settings(&self.queue, &settings).await?;
        }
        let queue = client.queue(&self.queue).await?;
        let settings: serde_json::Value = serde_json::from_str(&queue.settings).unwrap_or_default();
        shared.output.value(&settings, &settings.to_string())?;
        Ok(ExitCode::SUCCESS)
    }
}

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

    #[command(flatten)]
    changes: Changes,
}

impl Replay {
    pub(crate) async fn run(self, shared: &Shared) -> Result<ExitCode, Failure> {
        let edit = self.changes.edit()?;
        let copy = shared.connect("").await?.replay_edited(self.id, edit).await?.0;
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
    #[command(flatten)]
    which: Which,

    /// So many copies become ready in a second
    #[arg(long, value_name = "N")]
    per_second: Option<u32>,

    /// Only count
    #[arg(long)]
    dry_run: bool,

    /// Look at so many at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: Option<u32>,
}

impl Dlq {
    pub(crate) async fn run(self, shared: &Shared) -> Result<ExitCode, Failure> {
        match self {
            Self::Ls(filter) => {
                let client = shared.connect("").await?;
                filter.list(&client, shared.output, State::Dead).await?;
            }
            Self::Replay(replay) => {
                let mut request = replay.which.request(Action::Replay, None)?;
                if let Some(rate) = replay.per_second {
                    request["per_second"] = json!(rate);
                }
                let client = shared.connect("").await?;
                let is_one_part = replay.limit.is_some() || replay.per_second.is_some();
                if let Some(limit) = replay.limit {
                    request["limit"] = json!(limit);
                }
                match is_one_part {
                    true => bulk::part(&client, shared.output, request, replay.dry_run).await?,
                    false => bulk::run(&client, shared.output, request, replay.dry_run).await?,
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
