//! What a dashboard is shown: how the node and its queues stand, all in one.

use std::time::Duration;

use serde_json::Value;

use super::{Front, history, routes, system, workers};
use crate::error::Error;
use crate::flashq::job::{at, object};
use crate::flashq::{Refused, frame};

/// How often it is shown.
pub(super) const EVERY: Duration = Duration::from_secs(3);

/// How it stands now, as JSON.
///
/// # Errors
///
/// If a part of it can not be told.
pub(super) async fn frame(front: &Front) -> Result<String, Refused> {
    let frame = Value::Object(object([
        ("stats", routes::data_of(front, "STATS").await?),
        ("metrics", routes::data_of(front, "METRICS").await?),
        ("queues", routes::data_of(front, "LISTQUEUES").await?),
        ("workers", workers::list(front.door()).await?),
        ("crons", routes::data_of(front, "CRONLIST").await?),
        ("metrics_history", history::points(front).await?),
        ("system_metrics", system::numbers(front)),
        ("sqlite_stats", Value::Null),
        ("timestamp", at(front.door().broker.ago(0)).into()),
    ]));
    serde_json::to_string(&frame::Shown(&frame))
        .map_err(|error| Error::Internal(error.to_string().into()).into())
}
