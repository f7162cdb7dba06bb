//! How everything stood in the last five minutes, a point each five seconds.
//!
//! Points are taken while somebody asks for them: the first question begins it, and five minutes
//! after the last one it ends. They are kept in memory; each node has its own, of the same jobs. A
//! point that can not be taken, since the store can not be read, is left out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::{Instant, MissedTickBehavior};

use super::super::job::{at, object};
use super::super::{Answer, Fields, Refused};
use super::route::{Call, with_data};
use super::{Command, Front};
use crate::error::Error;

const EVERY: Duration = Duration::from_secs(5);
const POINTS_MAX: usize = 60;

/// How long points are taken after somebody has asked for them.
const WANTED_FOR: Duration = Duration::from_secs(300);

/// The points. Cheap to clone: all clones are one.
#[derive(Debug, Clone, Default)]
pub(super) struct History(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    points: VecDeque<Value>,
    /// Until then they are taken. `None`: nobody takes them.
    wanted_until: Option<Instant>,
}

impl Kept {
    /// Somebody asks. True: from now on points have to be taken.
    fn ask(&mut self, now: Instant) -> bool {
        let is_new = self.wanted_until.replace(now + WANTED_FOR).is_none();
        if is_new {
            // What is left from earlier has a gap behind it.
            self.points.clear();
        }
        is_new
    }

    /// False: nobody has asked for so long that no more points are taken.
    fn goes_on(&mut self, now: Instant) -> bool {
        if self.wanted_until.is_some_and(|until| until > now) {
            return true;
        }
        self.wanted_until = None;
        false
    }

    fn push(&mut self, point: Value) {
        if self.points.len() == POINTS_MAX {
            self.points.pop_front();
        }
        self.points.push_back(point);
    }
}

pub(super) async fn serve(call: Call<'_>) -> Answer {
    Ok(with_data(points(call.front).await?, Fields::new()))
}

/// The points, the oldest first.
///
/// # Errors
///
/// Those of the broker.
pub(super) async fn points(front: &Front) -> Result<Value, Refused> {
    let history = &front.0.history;
    if history.0.lock().ask(Instant::now()) {
        front.door().tasks.spawn(take_all(front.clone()));
    }
    let points: Vec<Value> = history.0.lock().points.iter().cloned().collect();
    match points.is_empty() {
        true => Ok(Value::Array(vec![point(front).await?])),
        false => Ok(Value::Array(points)),
    }
}

/// Takes points until nobody wants them any more, or the node stops.
async fn take_all(front: Front) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stop = front.door().stop.clone();
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        if !front.0.history.0.lock().goes_on(Instant::now()) {
            return;
        }
        match point(&front).await {
            Ok(point) => front.0.history.0.lock().push(point),
            Err(refused) => {
                tracing::debug!(reason = refused.0, "a point of the history is missing")
            }
        }
    }
}

async fn point(front: &Front) -> Result<Value, Refused> {
    let stats = reply_of(front, "STATS").await?;
    let metrics = reply_of(front, "METRICS").await?;
    let part = |of: &Fields, name| of.get(name).cloned().unwrap_or_default();
    Ok(Value::Object(object([
        ("timestamp", at(front.door().broker.ago(0)).into()),
        ("queued", part(&stats, "queued")),
        ("processing", part(&stats, "processing")),
        ("completed", part(&stats, "completed")),
        ("failed", part(&stats, "dlq")),
        ("throughput", part(&metrics, "jobs_per_second")),
        ("latency_ms", part(&metrics, "avg_latency_ms")),
    ])))
}

async fn reply_of(front: &Front, name: &str) -> Answer {
    let missing = || Refused::from(Error::Internal("a command is missing".into()));
    front.reply_of(Command::find(name).ok_or_else(missing)?).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn points_are_taken_as_long_as_somebody_asks() {
        let (mut kept, now) = (Kept::default(), Instant::now());
        assert!(!kept.goes_on(now));
        assert!(kept.ask(now));
        assert!(!kept.ask(now + EVERY));
        assert!(kept.goes_on(now + WANTED_FOR));
        assert!(!kept.goes_on(now + EVERY + WANTED_FOR));
        kept.push(1.into());
        assert!(kept.ask(now + 2 * WANTED_FOR));
        assert!(kept.points.is_empty());
    }

    #[test]
    fn the_oldest_points_make_room_for_new_ones() {
        let mut kept = Kept::default();
        (0..70).for_each(|number| kept.push(number.into()));
        assert_eq!(kept.points.len(), POINTS_MAX);
        assert_eq!(kept.points.front(), Some(&Value::from(10)));
    }
}
