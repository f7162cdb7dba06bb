//! The same to many jobs: `batonq bulk`, and `batonq dlq replay`.

use std::process::ExitCode;
use std::time::Duration;

use batonq_client::Client;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::Shared;
use crate::exit::Failure;
use crate::output::{Format, note, parse_duration};

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Action {
    /// Take jobs back that have not ended
    Cancel,
    /// Send dead jobs round again
    Retry,
    /// Delete jobs that have ended
    Delete,
    /// Put waiting jobs into another queue
    Move,
    /// Push copies of jobs that have ended and have no copy yet
    Replay,
}

impl Action {
    fn name(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Retry => "retry",
            Self::Delete => "delete",
            Self::Move => "move",
            Self::Replay => "replay",
        }
    }
}

/// Arguments of `bulk`.
#[derive(Debug, clap::Args)]
pub(crate) struct Bulk {
    /// What to do
    action: Action,

    #[command(flatten)]
    which: Which,

    /// In this state: scheduled, blocked, ready, leased, completed, dead or cancelled
    #[arg(long)]
    state: Option<String>,

    /// To move: the queue to go to; to replay: the queue of the copies
    #[arg(long, value_name = "QUEUE")]
    to: Option<String>,

    /// To cancel: how long the workers of leased jobs have
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    grace: Option<Duration>,

    /// To replay: the priority of the copies
    #[arg(long, allow_negative_numbers = true)]
    priority: Option<i32>,

    /// To replay: so many copies become ready in a second
    #[arg(long, value_name = "N")]
    per_second: Option<u32>,

    /// Do it; without this it only counts
    #[arg(long)]
    yes: bool,
}

/// Which jobs.
#[derive(Debug, clap::Args)]
pub(crate) struct Which {
    /// Of this queue
    #[arg(long)]
    queue: Option<String>,

    /// With this tag
    #[arg(long)]
    tag: Option<String>,

    /// With payloads of this content type
    #[arg(long, value_name = "TYPE")]
    r#type: Option<String>,

    /// Dead for this reason, as POISON
    #[arg(long)]
    reason: Option<String>,

    /// Pushed at least so long ago
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    older_than: Option<Duration>,

    /// Pushed less than so long ago
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    newer_than: Option<Duration>,

    /// Of all queues, with any tag
    #[arg(long, conflicts_with_all = ["queue", "tag"])]
    all: bool,
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Which {
    fn filter(&self, state: Option<&str>) -> Value {
        let mut filter = Map::new();
        let texts = [
            ("queue", self.queue.as_deref()),
            ("tag", self.tag.as_deref()),
            ("type", self.r#type.as_deref()),
            ("reason", self.reason.as_deref()),
            ("state", state),
        ];
        for (name, text) in texts {
            filter.extend(text.map(|text| (name.to_owned(), json!(text))));
        }
        for (name, age) in [("older_than_ms", self.older_than), ("newer_than_ms", self.newer_than)]
        {
            filter.extend(age.map(|age| (name.to_owned(), json!(millis(age)))));
        }
        Value::Object(filter)
    }

    pub(super) fn request(&self, action: Action, state: Option<&str>) -> Result<Value, Failure> {
        if !self.all && self.queue.is_none() && self.tag.is_none() {
            let (action, which) = (action.name(), "say which with --queue or --tag, or --all");
            return Err(Failure::usage(format!("this would {action} jobs of all queues: {which}")));
        }
        let filter = self.filter(state);
        Ok(json!({ "action": action.name(), "filter": filter, "everything": self.all }))
    }
}

/// Does it part by part to the end, or only counts.
pub(super) async fn run(
    client: &Client,
    format: Format,
    request: Value,
    is_dry: bool,
) -> Result<(), Failure> {
    part_after_part(client, format, request, is_dry, usize::MAX).await
}

/// Does one part of it, or only counts.
pub(super) async fn part(
    client: &Client,
    format: Format,
    request: Value,
    is_dry: bool,
) -> Result<(), Failure> {
    part_after_part(client, format, request, is_dry, 1).await
}

async fn part_after_part(
    client: &Client,
    format: Format,
    mut request: Value,
    is_dry: bool,
    parts: usize,
) -> Result<(), Failure> {
    request["dry_run"] = json!(is_dry);
    if is_dry {
        let counted = client.bulk(&request).await?;
        let (matched, is_all) = (counted.matched, counted.cursor == 0);
        let at_least = if is_all { "" } else { "at least " };
        let value = json!({ "matched": matched, "is_all": is_all });
        format.value(&value, &format!("{at_least}{matched} jobs match; nothing was done"))?;
        return Ok(());
    }
    let (mut ids, mut passed_over): (Vec<u64>, u64) = (Vec::new(), 0);
    let (started, older) = (Instant::now(), request["filter"]["older_than_ms"].as_u64());
    for _ in 0..parts {
        // What comes into being meanwhile, as the copies of a replay do, is not meant.
        let age = millis(started.elapsed());
        request["filter"]["older_than_ms"] = json!(older.unwrap_or(0).saturating_add(age));
        let done = client.bulk(&request).await?;
        ids.extend(done.ids);
        passed_over += done.passed_over;
        request["cursor"] = json!(done.cursor);
        if done.cursor == 0 {
            break;
        }
    }
    if request["cursor"] != json!(0) {
        note("there are more: do it again");
    }
    let action = request["action"].as_str().unwrap_or_default();
    let sentence = format!("{action}: {} jobs, {passed_over} passed over", ids.len());
    format.value(&json!({ "ids": ids, "passed_over": passed_over }), &sentence)?;
    Ok(())
}

impl Bulk {
    pub(crate) async fn run(self, shared: &Shared) -> Result<ExitCode, Failure> {
        let mut request = self.which.request(self.action, self.state.as_deref())?;
        let client = shared.connect("").await?;
        if let Some(to) = &self.to {
            request["to"] = json!(to);
        }
        if let Some(grace) = self.grace {
            request["grace_ms"] = json!(millis(grace));
        }
        if let Some(priority) = self.priority {
            request["priority"] = json!(priority);
        }
        if let Some(rate) = self.per_second {
            // The copies of one part keep their distance; those of the next begin anew.
            request["per_second"] = json!(rate);
            request["limit"] = json!(10_000);
            part(&client, shared.output, request, !self.yes).await?;
            return Ok(ExitCode::SUCCESS);
        }
        run(&client, shared.output, request, !self.yes).await?;
        Ok(ExitCode::SUCCESS)
    }
}
