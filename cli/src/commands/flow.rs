//! `batonq flow`: jobs that wait for each other.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use batonq_client::{NewJob, OnFailure};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use crate::Shared;
use crate::exit::Failure;

/// Arguments of `flow`.
#[derive(Debug, clap::Args)]
pub(crate) struct Flow {
    /// A file with {"jobs":[{"ref","queue","payload","depends_on":["ref", 17],…}]}; - for standard
    /// input
    file: PathBuf,
}

/// The file: a part of what the HTTP API takes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Jobs {
    jobs: Vec<Item>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    #[serde(default)]
    r#ref: Option<String>,
    queue: String,
    payload: Box<RawValue>,
    #[serde(default)]
    depends_on: Vec<Need>,
    #[serde(default)]
    on_failure: Option<Policy>,
    #[serde(default)]
    priority: i32,
    #[serde(default)]
    delay_ms: Option<u64>,
    #[serde(default)]
    max_attempts: Option<u32>,
    #[serde(default)]
    tags: Vec<String>,
}

/// A job that another one waits for.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Need {
    Id(u64),
    Ref(String),
}

/// What becomes of a job if one that it waits for dies or is cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(super) enum Policy {
    /// It dies too
    Fail,
    /// It goes on all the same
    Ignore,
    /// It waits for the other to be retried
    Wait,
}

impl From<Policy> for OnFailure {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Fail => Self::Fail,
            Policy::Ignore => Self::Ignore,
            Policy::Wait => Self::Wait,
        }
    }
}

impl Item {
    fn into_job(self, places: &HashMap<String, u32>) -> Result<NewJob, Failure> {
        let mut job =
            NewJob::new(self.queue, self.payload.get().to_owned()).priority(self.priority);
        for need in self.depends_on {
            job = match need {
                Need::Id(id) => job.after(id),
                Need::Ref(name) => {
                    let place = places.get(&name).copied();
                    let unknown =
                        || Failure::usage(format!("depends_on: there is no ref {name:?}"));
                    job.after_item(place.ok_or_else(unknown)?)
                }
            };
        }
        if let Some(policy) = self.on_failure {
            job = job.on_failure(policy.into());
        }
        if let Some(delay) = self.delay_ms {
            job = job.delay(Duration::from_millis(delay));
        }
        if let Some(max_attempts) = self.max_attempts {
            job = job.max_attempts(max_attempts);
        }
        Ok(self.tags.into_iter().fold(job, NewJob::tag))
    }
}

fn read(file: &Path) -> Result<Vec<NewJob>, Failure> {
    let mut text = String::new();
    match file.as_os_str() == "-" {
        true => std::io::stdin().lock().read_to_string(&mut text).map(drop)?,
        false => {
            text = std::fs::read_to_string(file)
                .map_err(|error| Failure::usage(format!("{}: {error}", file.display())))?;
        }
    }
    let jobs: Jobs = serde_json::from_str(&text)
        .map_err(|error| Failure::usage(format!("{}: {error}", file.display())))?;
    let mut places = HashMap::new();
    for (place, item) in jobs.jobs.iter().enumerate() {
        let place = u32::try_from(place).unwrap_or(u32::MAX);
        if let Some(name) = &item.r#ref
            && places.insert(name.clone(), place).is_some()
        {
            return Err(Failure::usage(format!("ref {name:?} is there twice")));
        }
    }
    jobs.jobs.into_iter().map(|item| item.into_job(&places)).collect()
}

impl Flow {
    pub(crate) async fn run(self, shared: &Shared) -> Result<ExitCode, Failure> {
        let jobs = read(&self.file)?;
        let pushed = shared.connect("").await?.push_flow(jobs).await?;
        let ids: Vec<u64> = pushed.iter().map(|pushed| pushed.id.0).collect();
        let shown: Vec<String> = ids.iter().map(u64::to_string).collect();
        shared.output.value(&json!({ "ids": ids }), &format!("jobs {}", shown.join(", ")))?;
        Ok(ExitCode::SUCCESS)
    }
}
