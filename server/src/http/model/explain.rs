//! Why a job does not run.

use schemars::JsonSchema;
use serde::Serialize;

use super::look::JobBody;
use super::time;
use crate::explain::{Cause, Explanation};
use crate::job::State;

/// Why a job does not run.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::http) struct ExplainBody {
    /// The store's time of all that is said.
    now: String,
    /// At least one. What has to change first comes first.
    causes: Vec<CauseShown>,
    job: JobBody,
}

/// One thing that keeps a job from running; or, with `NEXT`, that nothing does.
#[derive(Debug, Serialize, JsonSchema)]
struct CauseShown {
    /// What to branch on.
    code: &'static str,
    /// For people.
    detail: String,
    /// Since when it is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    /// When it ends by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
    /// Who has brought it about: a worker, or who paused the queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    who: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// How many: leases, pulls or jobs.
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    /// How many there may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u64>,
    /// Those that it waits for, or that hold its key.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    jobs: Vec<JobState>,
}

/// Where a job is.
#[derive(Debug, Serialize, JsonSchema)]
struct JobState {
    id: u64,
    /// Null: nothing is known of it any more.
    state: Option<&'static str>,
}

impl From<Explanation> for ExplainBody {
    fn from(explanation: Explanation) -> Self {
        Self {
            now: time(explanation.now),
            causes: explanation.causes.into_iter().map(Into::into).collect(),
            job: explanation.job.into(),
        }
    }
}

impl From<Cause> for CauseShown {
    fn from(cause: Cause) -> Self {
        let jobs = cause.jobs.into_iter();
        let jobs = jobs.map(|(id, state)| JobState { id: id.0, state: state.map(State::name) });
        Self {
            code: cause.code.name(),
            detail: cause.detail,
            since: cause.since.map(time),
            until: cause.until.map(time),
            who: cause.who,
            node: cause.node,
            key: cause.key,
            count: cause.count,
            limit: cause.limit,
            jobs: jobs.collect(),
        }
    }
}
