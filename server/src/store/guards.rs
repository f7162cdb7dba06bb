//! How pushes are judged, in the same way by all stores.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Pushed, Refusal};
use crate::job::{Fill, Guard, NewJob, QueueName, Settings, Timestamp};
use crate::secrets::opened_bytes;

/// How long it is remembered what was refused.
pub(crate) const DECISIONS_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// What guards have refused in one minute, in one queue, for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The queue.
    pub queue: QueueName,
    /// Which guard said no.
    pub guard: Guard,
    /// What it allowed, last.
    pub max: u64,
    /// Jobs refused.
    pub count: u64,
    /// When the minute began.
    pub minute: Timestamp,
    /// When the last one was refused.
    pub last_at: Timestamp,
}

/// The beginning of the minute of a time.
pub(crate) fn minute_of(now: Timestamp) -> Timestamp {
    const MINUTE_MS: i64 = 60_000;
    Timestamp(now.0 - now.0.rem_euclid(MINUTE_MS))
}

/// What became of the jobs of a call.
#[derive(Debug, Default)]
pub(crate) struct Judged {
    /// Why each of them is not to be stored.
    pub(crate) refusals: Vec<Option<Refusal>>,
    /// Jobs taken, by queue: of those queues that have guards.
    pub(crate) taken: BTreeMap<QueueName, u64>,
    /// Jobs refused, and what was allowed.
    pub(crate) refused: BTreeMap<(QueueName, Guard), (u64, u64)>,
}

/// Judges the jobs of a call. `guards` has the queues that have any. Jobs that wait for each other
/// are taken together or not at all.
pub(crate) fn judge(jobs: &[NewJob], guards: &mut BTreeMap<QueueName, (Settings, Fill)>) -> Judged {
    let mut judged = Judged::default();
    for job in jobs {
        let Some((settings, fill)) = guards.get_mut(&job.queue) else {
            judged.refusals.push(None);
            continue;
        };
        let breach = settings.admit(fill, opened_bytes(&job.payload.bytes) as u64).err();
        match breach {
            None => *judged.taken.entry(job.queue.clone()).or_default() += 1,
            Some(breach) => {
                let refused = judged.refused.entry((job.queue.clone(), breach.guard)).or_default();
                *refused = (refused.0 + 1, breach.max);
            }
        }
        judged.refusals.push(breach.map(Refusal::Guard));
    }
    let first = judged.refusals.iter().flatten().next().copied();
    if first.is_some() && jobs.iter().any(|job| job.is_part) {
        judged.refusals.fill(first);
        judged.taken.clear();
    }
    judged
}

impl Judged {
    /// The jobs that are to be stored.
    pub(crate) fn admitted(&self, jobs: Vec<NewJob>) -> Vec<NewJob> {
        let admitted = jobs.into_iter().zip(&self.refusals).filter(|(_, it)| it.is_none());
        admitted.map(|(job, _)| job).collect()
    }

    /// What is to be answered, if this became of those.
    pub(crate) fn answers(&self, admitted: Vec<Pushed>) -> Vec<Pushed> {
        let mut admitted = admitted.into_iter();
        let answer = |refusal: &Option<Refusal>| match refusal {
            Some(refusal) => Some(Pushed::Refused(*refusal)),
            None => admitted.next(),
        };
        self.refusals.iter().filter_map(answer).collect()
    }
}
