//! Jobs behind gates: claims where there are limits.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::{Model, Place};
use crate::job::{Admission, Bucket, Fair, Found, JobId, Line, QueueName, Reason, State, Waiting};
use crate::store::{Claim, Claimed, KeyUse, KeyUses, LeasedJob};

impl Model {
    /// Whether the queue, or a job that is ready there, has limits.
    pub(super) fn is_gated(&self, queue: &QueueName) -> bool {
        self.settings.get(queue).is_some_and(|settings| settings.is_limited())
            || self.line(queue).iter().any(|id| self.gate(*id).is_some())
    }

    fn gate(&self, id: JobId) -> Option<String> {
        self.jobs.get(&id)?.job.options.flow.gate()
    }

    pub(super) fn claim_gated(&mut self, claim: &Claim, claimed: &mut Claimed) -> Vec<LeasedJob> {
        if self.queues.get(&claim.queue) != Some(&None) {
            return Vec::new();
        }
        let lines = self.lines(&claim.queue);
        let mut fair = Fair::new(self.admission(&claim.queue), lines);
        let (mut leased, mut left) = (Vec::new(), None);
        while leased.len() < claim.count {
            match fair.next(left) {
                Found::Job(waiting) => {
                    let room = left.unwrap_or(claim.bytes_max);
                    left = Some(room.saturating_sub(waiting.bytes));
                    leased.push(self.lease(waiting.job, claim));
                }
                Found::Expired(waiting) => {
                    let expired = Some(Reason::Expired);
                    claimed.expired.push(self.finish(waiting.job, State::Dead, expired));
                }
                Found::Dry(_) | Found::TooLarge | Found::Nothing => break,
            }
        }
        if leased.len() < claim.count {
            let closed = fair.closed();
            claimed.closed.extend(closed.map(|until| (claim.queue.clone(), until)));
        }
        let (turns, admission) = fair.end();
        self.turns.retain(|(queue, _), _| *queue != claim.queue);
        let turns = turns.into_iter().map(|(gate, turn)| ((claim.queue.clone(), gate), turn));
        self.turns.extend(turns);
        self.buckets.insert((claim.queue.clone(), None), admission.bucket);
        for (key, bucket) in admission.buckets {
            self.buckets.insert((claim.queue.clone(), Some(key)), bucket);
        }
        leased
    }

    /// The ready jobs of a queue, by gate.
    fn lines(&self, queue: &QueueName) -> Vec<Line<JobId>> {
        let mut lines: BTreeMap<String, VecDeque<Waiting<JobId>>> = BTreeMap::new();
        for id in self.line(queue) {
            let record = &self.jobs[&id];
            let Place::Ready(place, _) = record.place else { continue };
            let waiting = Waiting {
                priority: record.job.priority,
                place: i64::try_from(place).unwrap_or(i64::MAX),
                expires_at: record.job.expires_at,
                bytes: record.job.payload.as_ref().map_or(0, |payload| payload.bytes.len()),
                flow: record.job.options.flow.clone(),
                job: id,
            };
            lines.entry(self.gate(id).unwrap_or_default()).or_default().push_back(waiting);
        }
        let turn = |gate: &String| self.turns.get(&(queue.clone(), gate.clone())).copied();
        let line = |(gate, jobs)| Line { turn: turn(&gate), gate, jobs, has_more: false };
        lines.into_iter().map(line).collect()
    }

    /// What is in use.
    pub(super) fn admission(&self, queue: &QueueName) -> Admission {
        let held = self
            .jobs
            .values()
            .filter(|record| record.job.queue == *queue && record.holding().is_some());
        let mut slots: HashMap<String, u32> = HashMap::new();
        let mut leased = 0;
        for record in held {
            leased += 1;
            if let Some(concurrency) = &record.job.options.flow.concurrency {
                *slots.entry(concurrency.key.as_str().to_owned()).or_default() += 1;
            }
        }
        let bucket = |key| self.buckets.get(&(queue.clone(), key)).copied();
        let buckets: HashMap<String, Bucket> = self
            .buckets
            .iter()
            .filter(|((of, _), _)| of == queue)
            .filter_map(|((_, key), bucket)| Some((key.clone()?, *bucket)))
            .collect();
        Admission {
            settings: self.settings.get(queue).cloned().unwrap_or_default(),
            leased,
            slots,
            bucket: bucket(None).unwrap_or_default(),
            buckets,
            now_us: self.now.0 * 1000,
        }
    }

    pub(super) fn key_uses(&self, queue: &QueueName) -> Vec<KeyUse> {
        let admission = self.admission(queue);
        let mut uses = KeyUses::default();
        for record in self.jobs.values().filter(|record| record.job.queue == *queue) {
            let flow = &record.job.options.flow;
            match record.place {
                Place::Ready(..) => uses.waits(flow),
                Place::Leased(_) => uses.holds(flow, record.job.id),
                _ => {}
            }
        }
        uses.shown(&admission)
    }
}
