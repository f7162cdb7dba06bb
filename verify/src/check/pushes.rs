//! What goes in comes out, and nothing else: I1, I2, I8.

use super::tables::{At, Case, KeyCase, Push, Received};
use super::verdict::{Findings, Invariant};
use crate::history::{JobEnd, State, Waits};

/// What is said of a job must fit the push that it came from.
pub(super) fn judge_case(case: &Case<'_>, findings: &mut Findings<'_>) {
    let first = case.received().next();
    // What is left is judged by its key.
    if let (Some(lease), None) = (first, case.ends().next()) {
        judge_key_of_lease(case, &lease, findings);
    }
    // Before the end, a push that is not there may be on its way.
    if !case.tables.is_ended() {
        return;
    }
    for lease in case.received() {
        findings.looked(Invariant::NothingFromNowhere);
        match lease.key {
            0 => judge_of_schedule(case, lease.at, lease.queue, findings),
            _ => judge_lease(case, &lease, findings),
        }
    }
    for (at, end) in case.ends() {
        findings.looked(Invariant::NothingFromNowhere);
        match end.key {
            0 => judge_of_schedule(case, at, end.queue, findings),
            _ => judge_end(case, at, end, findings),
        }
    }
}

/// A push that may have made a job with this key, the earliest.
fn origin<'t>(case: &Case<'t>, key: u64, before_ns: u64) -> Option<Push<'t>> {
    let may_be = |push: &Push<'_>| {
        push.key == key && push.call.outcome.is_possible() && push.call.start_ns <= before_ns
    };
    // Most jobs come from a push that was answered with their number.
    case.pushes().find(may_be).or_else(|| case.tables.pushes_of(key).find(may_be))
}

fn judge_lease(case: &Case<'_>, lease: &Received<'_>, findings: &mut Findings<'_>) {
    let (job, delivery, key) = (case.job, lease.delivery, lease.key);
    let invariant = Invariant::NothingFromNowhere;
    let Some(push) = origin(case, key, lease.call.end_ns) else {
        return findings.add(invariant, &[lease.at], || {
            format!("job {job} was delivered with key {key}, which nobody had pushed")
        });
    };
    if let Some(other) = case.pushes().find(|push| push.key != key) {
        let proof = [other.at, lease.at];
        return findings.add(invariant, &proof, || {
            format!("job {job} was pushed with key {} and delivered with key {key}", other.key)
        });
    }
    if push.queue != lease.queue {
        findings.add(invariant, &[push.at, lease.at], || {
            let (from, to) = (lease.queue, push.queue);
            format!("delivery {delivery} of job {job}, pushed to queue {to}, is from queue {from}")
        });
    }
}

fn judge_end(case: &Case<'_>, at: At, end: &JobEnd, findings: &mut Findings<'_>) {
    let (job, key) = (case.job, end.key);
    if origin(case, key, u64::MAX).is_none() {
        findings.add(Invariant::NothingFromNowhere, &[at], || {
            format!("job {job} with key {key} is there, and nobody pushed it")
        });
    } else if let Some(other) = case.pushes().find(|push| push.key != key) {
        findings.add(Invariant::NothingFromNowhere, &[other.at, at], || {
            format!("job {job} was pushed with key {} and is there with key {key}", other.key)
        });
    }
}

/// A job without a key is a schedule's. Whether it should be there is a question about slots.
fn judge_of_schedule(case: &Case<'_>, at: At, queue: u16, findings: &mut Findings<'_>) {
    if !case.is_of_a_slot() && !case.tables.has_schedules(queue) {
        let job = case.job;
        findings.add(Invariant::NothingFromNowhere, &[at], || {
            format!("job {job} is neither of a push nor of a slot")
        });
    }
}

fn judge_key_of_lease(case: &Case<'_>, lease: &Received<'_>, findings: &mut Findings<'_>) {
    if lease.key == 0 || case.pushes().next().is_some() {
        return;
    }
    let is_other = |push: &Push<'_>| push.job != 0 && push.job != case.job;
    if let Some(push) = case.tables.pushes_of(lease.key).find(is_other) {
        findings.add(Invariant::OneJobForAKey, &[push.at, lease.at], || {
            format!("key {} is that of job {} and of job {}", lease.key, push.job, case.job)
        });
    }
}

/// A push that was answered is there, once.
pub(super) fn judge_key(case: &KeyCase<'_>, findings: &mut Findings<'_>) {
    if let Some(push) = case.pushes().find(|push| push.call.outcome.is_ok()) {
        findings.looked(Invariant::OneJobForAKey);
        judge_loss(case, &push, findings);
    }
    judge_jobs(case, findings);
    judge_repeats(case, findings);
}

fn judge_loss(case: &KeyCase<'_>, push: &Push<'_>, findings: &mut Findings<'_>) {
    if !case.tables.is_ended() {
        return;
    }
    let (key, job) = (case.key, push.job);
    findings.looked(Invariant::NothingLost);
    if case.ends().next().is_none() && case.tables.end_of(job).is_none() {
        findings.add(Invariant::NothingLost, &[push.at], || {
            format!("job {job} with key {key} was pushed and is not there")
        });
    }
    let mut before: Option<(At, &JobEnd)> = None;
    for (at, end) in case.ends() {
        if end.deliveries == 0 && !may_end_undelivered(push, end) {
            findings.add(Invariant::NothingLost, &[push.at, at], || {
                format!("job {job} is {:?} and was never delivered", end.state)
            });
        }
        if let Some((first, _)) = before.filter(|(_, other)| other.job == end.job) {
            findings.add(Invariant::NothingLost, &[push.at, first, at], || {
                format!("job {job} came to two ends")
            });
        }
        before = Some((at, end));
    }
}

/// Whether this may be the end of a job that was never delivered.
fn may_end_undelivered(push: &Push<'_>, end: &JobEnd) -> bool {
    match (end.state, push.waits) {
        (State::Completed, _) | (State::Dead, Waits::ForWorkers) => false,
        (State::Dead, Waits::AtMostMs(ms)) => {
            end.finished_ms >= end.created_ms.saturating_add_unsigned(ms)
        }
        // It was cancelled, died with another job, or is still there.
        _ => true,
    }
}

/// All that has the key is one job. If there are more jobs than pushes, somebody else made one.
fn judge_jobs(case: &KeyCase<'_>, findings: &mut Findings<'_>) {
    let pushed = case.pushes().filter(|push| push.job != 0).map(|push| (push.at, push.job));
    let left = case.ends().map(|(at, end)| (at, end.job));
    let mut all: Vec<(At, u64)> = pushed.chain(left).collect();
    let Some(&(first, job)) = all.first() else { return };
    let Some(&(at, other)) = all.iter().find(|(_, other)| *other != job) else { return };
    all.sort_unstable_by_key(|(_, job)| *job);
    all.dedup_by_key(|(_, job)| *job);
    let pushes = case.pushes().filter(|push| push.call.outcome.is_possible()).count();
    let invariant = match all.len() > pushes {
        true => Invariant::NothingFromNowhere,
        false => Invariant::OneJobForAKey,
    };
    findings.add(invariant, &[first, at], || {
        format!("key {} is that of job {job} and of job {other}, of {pushes} pushes", case.key)
    });
}

/// Of pushes with one key, one is the first.
fn judge_repeats(case: &KeyCase<'_>, findings: &mut Findings<'_>) {
    let (key, invariant) = (case.key, Invariant::OneJobForAKey);
    let ok = || case.pushes().filter(|push| push.call.outcome.is_ok());
    let mut new = ok().filter(|push| !push.repeated);
    if let (Some(first), Some(second)) = (new.next(), new.next())
        && first.job == second.job
    {
        findings.add(invariant, &[first.at, second.at], || {
            format!("two pushes with key {key} were both answered as the first one")
        });
    }
    for push in ok().filter(|push| push.repeated) {
        let is_before = |other: &Push<'_>| {
            other.at != push.at
                && other.call.outcome.is_possible()
                && other.call.start_ns <= push.call.end_ns
        };
        if !case.pushes().any(|other| is_before(&other)) {
            findings.add(invariant, &[push.at], || {
                format!("a push with key {key} was answered as repeated, and was the first one")
            });
        }
    }
}
