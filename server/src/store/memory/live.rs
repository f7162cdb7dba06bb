//! Pushing, claiming, settling, and keeping leases.

use std::collections::BTreeSet;

use super::{HeldKey, Holding, Model, Place, Record};
use crate::job::{
    self, Charges, Ending, JobId, Lease, NewJob, Next, QueueName, Reason, Rules, State, Timestamp,
    UniqueHold, UniqueKey, When,
};
use crate::limits;
use crate::store::{
    Attempt, CRASHES_MAX, Claim, Claimed, Destination, Detail, Edit, Effect, EventKind, Extended,
    Extension, Hold, Job, KeyKind, LeasedJob, Partial, Progress, Pushed, Refusal, SESSION_LEASE,
    Same, SessionId, Settled, Settlement, Verdict, ending_of, verdict_of,
};

impl Model {
    pub(super) fn push_all(&mut self, jobs: &[NewJob]) -> Vec<Pushed> {
        let mut refusals: Vec<Option<Refusal>> = jobs.iter().map(|job| self.refusal(job)).collect();
        // Jobs that wait for each other are stored together or not at all.
        if jobs.iter().any(|job| job.is_part)
            && let Some(refusal) = refusals.iter().flatten().next().copied()
        {
            refusals.fill(Some(refusal));
        }
        let mut pushed: Vec<Pushed> = Vec::with_capacity(jobs.len());
        for (job, refusal) in jobs.iter().zip(refusals) {
            let one = match refusal {
                Some(refusal) => Pushed::Refused(refusal),
                None => {
                    let id = |place: usize| pushed.get(place).and_then(Pushed::id);
                    self.push(&job.clone().resolved(id))
                }
            };
            pushed.push(one);
        }
        pushed
    }

    fn refusal(&mut self, job: &NewJob) -> Option<Refusal> {
        self.queues.entry(job.queue.clone()).or_default();
        let is_unknown = |id: &&JobId| !self.jobs.contains_key(id);
        job.options.depends.on.iter().find(is_unknown).map(|id| Refusal::NoSuchJob(*id))
    }

    pub(super) fn push(&mut self, new: &NewJob) -> Pushed {
        if let Some(pushed) = self.met(new) {
            return pushed;
        }
        let number = self.next_number();
        let id = JobId(number);
        let run_at = self.run_at(new.when);
        let place = run_at.map_or(Place::Ready(number, self.now), Place::Scheduled);
        let job = Job {
            id,
            queue: new.queue.clone(),
            state: State::Ready,
            priority: new.priority,
            payload: Some(new.payload.clone()),
            is_dropped: false,
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
            cancel: None,
            finished_at: None,
            result: None,
            reason: None,
            error: None,
            replay_of: new.replay_of,
            replayed_as: None,
            options: new.options.clone().into_inner(),
        };
        let blocked_by = BTreeSet::new();
        let (attempts, notes, log) = (Vec::new(), Vec::new(), Vec::new());
        self.jobs.insert(id, Record { job, place, blocked_by, attempts, notes, log });
        self.take_keys(new, id);
        self.tell(EventKind::Pushed, id, Detail::default());
        self.block(id);
        Pushed::Inserted { id, state: self.record(id).state(), run_at }
    }

    pub(super) fn run_at(&self, when: When) -> Option<Timestamp> {
        let run_at = match when {
            When::Now => None,
            When::After(delay) => Some(self.now + delay),
            When::At(at) => Some(at),
        };
        run_at.filter(|at| *at > self.now)
    }

    /// What becomes of a push that meets another job with one of its keys.
    fn met(&mut self, new: &NewJob) -> Option<Pushed> {
        if let Some(key) = &new.options.idempotency
            && let Some(id) = self.held_key(&new.queue, KeyKind::Push, key)
        {
            return Some(Pushed::Duplicate { id, state: self.state_of(id), of: Same::Push });
        }
        if let Some(id) = self.custom_id_holder(new.options.custom_id.as_ref()) {
            return Some(Pushed::Duplicate { id, state: self.state_of(id), of: Same::CustomId });
        }
        let key = new.unique.as_ref()?;
        let kind = KeyKind::of(new.options.hold);
        let id = self.held_key(&new.queue, kind, key)?;
        let of = if kind == KeyKind::Window { Same::Window } else { Same::Unique };
        match kind {
            KeyKind::Debounce => self.debounce(id, new),
            _ => Some(Pushed::Duplicate { id, state: self.state_of(id), of }),
        }
    }

    /// A waiting job takes over what the later push says. `None`: it waits no longer.
    fn debounce(&mut self, id: JobId, new: &NewJob) -> Option<Pushed> {
        let record = self.jobs.get(&id)?;
        if record.job.deliveries > 0 || !record.is_live() || record.holding().is_some() {
            return None;
        }
        let edit =
            Edit { payload: Some(new.payload.clone()), when: Some(new.when), ..<_>::default() };
        self.apply(id, edit);
        let record = self.record(id);
        let (state, run_at) = (record.state(), record.shown().run_at);
        Some(Pushed::Replaced { id, state, run_at })
    }

    /// Where a job is, or was as far as is known.
    fn state_of(&self, id: JobId) -> State {
        self.jobs.get(&id).map_or(State::Completed, Record::state)
    }

    fn held_key(&self, queue: &QueueName, kind: KeyKind, key: &UniqueKey) -> Option<JobId> {
        let held = self.keys.get(&(queue.clone(), kind, key.clone()))?;
        held.until.is_none_or(|until| until > self.now).then_some(held.job)
    }

    fn take_keys(&mut self, new: &NewJob, id: JobId) {
        let hold = |until| HeldKey { job: id, until };
        if let Some(key) = &new.unique {
            let kind = KeyKind::of(new.options.hold);
            let until = match new.options.hold {
                UniqueHold::WindowMs(window) => Some(self.now + window),
                _ => None,
            };
            self.keys.insert((new.queue.clone(), kind, key.clone()), hold(until));
        }
        if let Some(key) = &new.options.idempotency {
            let until = Some(self.now + limits::IDEMPOTENCY_WINDOW);
            self.keys.insert((new.queue.clone(), KeyKind::Push, key.clone()), hold(until));
        }
        if let Some(custom_id) = &new.options.custom_id {
            self.custom_ids.insert(custom_id.clone(), id);
        }
    }

    /// The live job that has a unique key.
    pub(super) fn holder(&self, queue: &QueueName, key: Option<&UniqueKey>) -> Option<JobId> {
        self.held_key(queue, KeyKind::Live, key?)
    }

    /// The live job that has a custom id.
    pub(super) fn custom_id_holder(&self, custom_id: Option<&UniqueKey>) -> Option<JobId> {
        let id = self.custom_ids.get(custom_id?)?;
        self.jobs.get(id).is_some_and(Record::is_live).then_some(*id)
    }

    pub(super) fn claim(&mut self, claims: Vec<Claim>) -> Claimed {
        let mut claimed = Claimed::default();
        let is_gated: Vec<bool> = claims.iter().map(|claim| self.is_gated(&claim.queue)).collect();
        for (claim, is_gated) in claims.iter().zip(is_gated) {
            let jobs = match is_gated {
                true => self.claim_gated(claim, &mut claimed),
                false => self.claim_one(claim, &mut claimed.expired),
            };
            claimed.jobs.push(jobs);
        }
        claimed.expired.extend(self.release_dependents());
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

    pub(super) fn lease(&mut self, id: JobId, claim: &Claim) -> LeasedJob {
        let needs = self.needs(id);
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
        let leased = Detail {
            number: Some(job.deliveries),
            word: Some(claim.worker.as_str().into()),
            message: None,
        };
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
        let job = LeasedJob {
            lease: Lease { job: id, delivery: job.deliveries },
            payload: job.payload.clone().expect("a record has its payload"),
            attempt: job.attempts + 1,
            max_attempts: job.max_attempts,
            priority: job.priority,
            created_at: job.created_at,
            lease_until: now + hold,
            timeout: job.timeout,
            tags: job.tags.clone(),
            needs,
            options: job.options.clone().into(),
        };
        self.tell(EventKind::Leased, id, leased);
        job
    }

    /// The live lease of a job.
    pub(super) fn live_lease(&self, job: JobId) -> Option<Lease> {
        let record = self.jobs.get(&job)?;
        record.holding().map(|_| Lease { job, delivery: record.job.deliveries })
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
        let ending = ending_of(&verdict);
        let (code, message, chance) = match &verdict {
            Verdict::Fail { code, message, chance, .. } => {
                (code.as_str(), message.as_str(), *chance)
            }
            _ => ("", "", 0.0),
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
            is_cancelled: job.cancel.take().is_some(),
        };
        let charges = Charges { attempts: job.attempts, crashes: job.crashes };
        let (next, charges) = job::after(ending, charges, &rules, now, chance);
        (job.attempts, job.crashes) = (charges.attempts, charges.crashes);
        let (queue, delivery) = (job.queue.clone(), job.deliveries);
        if ending != Ending::Completed {
            let detail = Detail::of_failure(delivery, code, message);
            self.tell(EventKind::of_ending(ending), id, detail);
        }
        let record = self.record(id);
        let to = match next {
            Next::Completed => return self.complete(id),
            Next::Dead(reason) => return self.finish(id, State::Dead, Some(reason)),
            Next::Cancelled => return self.finish(id, State::Cancelled, None),
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

    /// A job is done; it is kept if its queue keeps such jobs, or others wait for it.
    fn complete(&mut self, id: JobId) -> Effect {
        let effect = self.finish(id, State::Completed, None);
        let settings = self.settings.get(&effect.queue).cloned().unwrap_or_default();
        let is_awaited = self.jobs.values().any(|record| record.blocked_by.contains(&id));
        if !is_awaited && !self.retention.of(&settings).keeps_completed() {
            self.jobs.remove(&id);
        }
        effect
    }

    pub(super) fn finish(&mut self, id: JobId, state: State, reason: Option<Reason>) -> Effect {
        self.ended.push((id, state));
        self.finish_one(id, state, reason)
    }

    pub(super) fn finish_one(&mut self, id: JobId, state: State, reason: Option<Reason>) -> Effect {
        let now = self.now;
        let record = self.record(id);
        record.place = Place::Finished;
        record.blocked_by.clear();
        record.job.state = state;
        record.job.reason = reason;
        record.job.finished_at = Some(now);
        let queue = record.job.queue.clone();
        let detail = Detail::of_end(record.job.deliveries, reason);
        self.tell(EventKind::of_end(state), id, detail);
        self.keys.retain(|(_, kind, _), held| held.job != id || !kind.ends_with_job());
        Effect { job: id, queue, to: Destination::Finished(state) }
    }

    /// Takes a lease away for a reason that its worker has not given.
    pub(super) fn take_away(&mut self, id: JobId, ending: Ending) -> Effect {
        self.end(id, ending, verdict_of(ending), 0.5)
    }

    pub(super) fn extend(&mut self, extension: Extension) -> Option<Extended> {
        let until = self.now + extension.hold;
        let holding = self.held(extension.lease)?;
        holding.expires_at = until;
        holding.session = None;
        let cancel = self.record(extension.lease.job).job.cancel;
        Some(Extended { until, cancel_at: cancel.map(|(_, force_at)| force_at) })
    }

    pub(super) fn progress(&mut self, lease: Lease, progress: Progress) -> bool {
        let is_held = self.held(lease).is_some();
        if is_held {
            self.record(lease.job).job.progress = Some(progress.clone());
            self.tell(EventKind::Progress, lease.job, Detail::of_progress(&progress));
        }
        is_held
    }

    pub(super) fn partial(&mut self, lease: Lease, partial: &Partial) -> bool {
        let is_held = self.held(lease).is_some();
        if is_held {
            self.tell(EventKind::Partial, lease.job, Detail::of_partial(partial));
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
