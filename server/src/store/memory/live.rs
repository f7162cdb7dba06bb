//! Pushing, claiming, settling, and keeping leases.

use super::{Holding, Model, Place, Record};
use crate::job::{
    self, Charges, Ending, JobId, Lease, NewJob, Next, QueueName, Reason, Rules, State, Timestamp,
    UniqueKey, When,
};
use crate::store::{
    Attempt, CRASHES_MAX, Claim, Claimed, Destination, Effect, Extension, Hold, Job, LeasedJob,
    Progress, Pushed, Retry, SESSION_LEASE, SessionId, Settled, Settlement, Verdict, verdict_of,
};

impl Model {
    pub(super) fn push(&mut self, new: &NewJob) -> Pushed {
        self.queues.entry(new.queue.clone()).or_default();
        if let Some(id) = self.holder(&new.queue, new.unique.as_ref()) {
            return Pushed::Duplicate { id, state: self.record(id).state() };
        }
        let number = self.next_number();
        let id = JobId(number);
        let run_at = match new.when {
            When::Now => None,
            When::After(delay) => Some(self.now + delay),
            When::At(at) => Some(at),
        };
        let run_at = run_at.filter(|at| *at > self.now);
        let place = run_at.map_or(Place::Ready(number, self.now), Place::Scheduled);
        let job = Job {
            id,
            queue: new.queue.clone(),
            state: State::Ready,
            priority: new.priority,
            payload: Some(new.payload.clone()),
            attempts: 0,
            max_attempts: new.max_attempts,
            deliveries: 0,
            crashes: 0,
            created_at: self.now,
            run_at,
            expires_at: new.ttl.map(|ttl| self.now + ttl),
            timeout: new.timeout,
            backoff: new.backoff.clone(),
            unique: new.unique.clone(),
            tags: new.tags.clone(),
            lease_until: None,
            worker: None,
            progress: None,
            finished_at: None,
            result: None,
            reason: None,
            error: None,
            replay_of: new.replay_of,
            replayed_as: None,
        };
        self.jobs.insert(id, Record { job, place, attempts: Vec::new() });
        Pushed::Inserted { id, run_at }
    }

    /// The live job that has a unique key.
    pub(super) fn holder(&self, queue: &QueueName, key: Option<&UniqueKey>) -> Option<JobId> {
        let key = key?;
        let has_key = |record: &&Record| {
            record.is_live()
                && record.job.queue == *queue
                && record.job.unique.as_ref() == Some(key)
        };
        self.jobs.values().find(has_key).map(|record| record.job.id)
    }

    pub(super) fn claim(&mut self, claims: Vec<Claim>) -> Claimed {
        let mut claimed = Claimed::default();
        for claim in claims {
            let jobs = self.claim_one(&claim, &mut claimed.expired);
            claimed.jobs.push(jobs);
        }
        claimed
    }

    fn claim_one(&mut self, claim: &Claim, expired: &mut Vec<Effect>) -> Vec<LeasedJob> {
        let mut leased: Vec<LeasedJob> = Vec::new();
        let mut bytes = 0;
        if self.queues.get(&claim.queue) != Some(&None) {
            return leased;
        }
        for id in self.line(&claim.queue) {
            if leased.len() == claim.count {
                break;
            }
            let now = self.now;
            let record = self.record(id);
            if record.job.expires_at.is_some_and(|at| at <= now) {
                expired.push(self.finish(id, State::Dead, Some(Reason::Expired)));
                continue;
            }
            bytes += record.job.payload.as_ref().map_or(0, |payload| payload.bytes.len());
            if bytes > claim.bytes_max && !leased.is_empty() {
                break;
            }
            leased.push(self.lease(id, claim));
        }
        leased
    }

    /// The ready jobs of a queue, in the order of claims.
    pub(super) fn line(&self, queue: &QueueName) -> Vec<JobId> {
        let in_line = self.jobs.values().filter(|record| record.job.queue == *queue);
        let mut line: Vec<_> = in_line
            .filter_map(|record| match record.place {
                Place::Ready(number, _) => {
                    Some((-i64::from(record.job.priority), number, record.job.id))
                }
                _ => None,
            })
            .collect();
        line.sort_unstable();
        line.into_iter().map(|(_, _, id)| id).collect()
    }

    fn lease(&mut self, id: JobId, claim: &Claim) -> LeasedJob {
        let (now, node) = (self.now, self.node.clone());
        let (hold, session) = match claim.hold {
            Hold::Session(session) => (SESSION_LEASE, Some(session)),
            Hold::Time(hold) => (hold, None),
        };
        let record = self.record(id);
        let Place::Ready(number, _) = record.place else { unreachable!("it stood in line") };
        record.place = Place::Leased(Holding {
            worker: claim.worker.clone(),
            session,
            started_at: now,
            expires_at: now + hold,
            number,
        });
        record.job.deliveries += 1;
        record.job.progress = None;
        let job = &record.job;
        record.attempts.push(Attempt {
            delivery: job.deliveries,
            attempt: job.attempts + 1,
            node,
            worker: claim.worker.clone(),
            started_at: now,
            ended_at: None,
            ending: String::new(),
            code: String::new(),
            message: String::new(),
        });
        LeasedJob {
            lease: Lease { job: id, delivery: job.deliveries },
            payload: job.payload.clone().expect("a record has its payload"),
            attempt: job.attempts + 1,
            max_attempts: job.max_attempts,
            priority: job.priority,
            created_at: job.created_at,
            lease_until: now + hold,
            timeout: job.timeout,
            tags: job.tags.clone(),
        }
    }

    /// The live lease, if it is this one.
    pub(super) fn held(&mut self, lease: Lease) -> Option<&mut Holding> {
        let record = self.jobs.get_mut(&lease.job)?;
        match &mut record.place {
            Place::Leased(holding) if record.job.deliveries == lease.delivery => Some(holding),
            _ => None,
        }
    }

    pub(super) fn settle(&mut self, Settlement { lease, verdict }: Settlement) -> Settled {
        let (ending, code, message, chance) = match &verdict {
            Verdict::Ack { .. } => (Ending::Completed, "", "", 0.0),
            Verdict::Release => (Ending::Released, "", "", 0.0),
            Verdict::Fail { code, message, retry, chance } => {
                let ending = match retry {
                    Retry::Backoff => Ending::Failed { retry_in: None },
                    Retry::After(delay) => Ending::Failed { retry_in: Some(*delay) },
                    Retry::Reject => Ending::Rejected,
                };
                (ending, code.as_str(), message.as_str(), *chance)
            }
        };
        if self.held(lease).is_none() {
            return self.settled_before(lease, ending);
        }
        if let Verdict::Ack { result } = &verdict {
            self.record(lease.job).job.result = result.clone();
        }
        Settled::Done(self.end(lease.job, ending, (code, message), chance))
    }

    fn settled_before(&self, lease: Lease, ending: Ending) -> Settled {
        let Some(record) = self.jobs.get(&lease.job) else { return Settled::Unknown };
        let same = |attempt: &Attempt| {
            attempt.delivery == lease.delivery && attempt.ending == ending.name()
        };
        match record.attempts.iter().any(same) {
            true => Settled::Repeated,
            false => Settled::LeaseLost,
        }
    }

    /// Ends the live lease of a job.
    pub(super) fn end(
        &mut self,
        id: JobId,
        ending: Ending,
        (code, message): (&str, &str),
        chance: f64,
    ) -> Effect {
        let now = self.now;
        let record = self.record(id);
        let number = record.holding().expect("the caller has seen its lease").number;
        let attempt = record.attempts.last_mut().expect("a lease begins an attempt");
        attempt.ended_at = Some(now);
        attempt.ending = ending.name().into();
        attempt.code = code.into();
        attempt.message = message.into();
        let job = &mut record.job;
        let rules = Rules {
            max_attempts: job.max_attempts,
            crashes_max: CRASHES_MAX,
            backoff: job.backoff.clone().unwrap_or_default(),
            expires_at: job.expires_at,
        };
        let charges = Charges { attempts: job.attempts, crashes: job.crashes };
        let (next, charges) = job::after(ending, charges, &rules, now, chance);
        (job.attempts, job.crashes) = (charges.attempts, charges.crashes);
        let queue = job.queue.clone();
        let to = match next {
            Next::Completed => return self.finish(id, State::Completed, None),
            Next::Dead(reason) => return self.finish(id, State::Dead, Some(reason)),
            Next::Ready => {
                record.place = Place::Ready(number, now);
                Destination::Ready
            }
            Next::Scheduled(at) => {
                record.place = Place::Scheduled(at);
                Destination::Scheduled(at)
            }
        };
        Effect { job: id, queue, to }
    }

    pub(super) fn finish(&mut self, id: JobId, state: State, reason: Option<Reason>) -> Effect {
        let now = self.now;
        let record = self.record(id);
        record.place = Place::Finished;
        record.job.state = state;
        record.job.reason = reason;
        record.job.finished_at = Some(now);
        let queue = record.job.queue.clone();
        Effect { job: id, queue, to: Destination::Finished(state) }
    }

    /// Takes a lease away for a reason that its worker has not given.
    pub(super) fn take_away(&mut self, id: JobId, ending: Ending) -> Effect {
        self.end(id, ending, verdict_of(ending), 0.5)
    }

    pub(super) fn extend(&mut self, extension: Extension) -> Option<Timestamp> {
        let until = self.now + extension.hold;
        let holding = self.held(extension.lease)?;
        holding.expires_at = until;
        holding.session = None;
        Some(until)
    }

    pub(super) fn progress(&mut self, lease: Lease, progress: Progress) -> bool {
        let is_held = self.held(lease).is_some();
        if is_held {
            self.record(lease.job).job.progress = Some(progress);
        }
        is_held
    }

    pub(super) fn leases_of(&self, session: SessionId) -> Vec<Lease> {
        let held = self.jobs.values().filter(|record| {
            record.holding().is_some_and(|holding| holding.session == Some(session))
        });
        held.map(|record| Lease { job: record.job.id, delivery: record.job.deliveries }).collect()
    }

    pub(super) fn renew(&mut self, session: SessionId) {
        let until = self.now + SESSION_LEASE;
        for lease in self.leases_of(session) {
            if let Some(holding) = self.held(lease) {
                holding.expires_at = until;
            }
        }
    }

    pub(super) fn give_back(&mut self, session: SessionId) -> Vec<Effect> {
        let leases = self.leases_of(session);
        leases.into_iter().map(|lease| self.take_away(lease.job, Ending::Crashed)).collect()
    }
}
