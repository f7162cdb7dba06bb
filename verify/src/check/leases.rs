//! A job has at most one live lease, and only that is good for anything: I3, I4, I6.

use std::slice;

use super::tables::{At, Case, Span, Use};
use super::verdict::{Findings, Invariant};
use crate::history::{How, State};

/// Judges the leases of a job.
pub(super) fn judge(case: &Case<'_>, findings: &mut Findings<'_>) {
    judge_success(case, findings);
    for pair in case.spans.windows(2) {
        findings.looked(Invariant::NoOverlap);
        judge_overlap(case, &pair[0], &pair[1], findings);
    }
    for using in case.uses().filter(|using| using.call.outcome.is_ok()) {
        findings.looked(Invariant::NoStaleLease);
        judge_use(case, &using, findings);
    }
}

/// I3
fn judge_success(case: &Case<'_>, findings: &mut Findings<'_>) {
    let is_success = |using: &Use<'_>| using.how == How::Ack && using.call.outcome.is_ok();
    let mut successes = case.uses().filter(is_success);
    let Some(first) = successes.next() else { return };
    findings.looked(Invariant::OneSuccess);
    if let Some(other) = successes.find(|using| using.delivery != first.delivery) {
        findings.add(Invariant::OneSuccess, &[first.at, other.at], || {
            let (job, first, other) = (case.job, first.delivery, other.delivery);
            format!("job {job} was acked with delivery {first} and with delivery {other}")
        });
    }
}

/// I4: `next` begins when `lease` has ended.
fn judge_overlap(case: &Case<'_>, lease: &Span<'_>, next: &Span<'_>, findings: &mut Findings<'_>) {
    let (ends_ms, how) = match earliest_end(case, lease, next) {
        End::Never => (i64::MAX, "which has not ended".to_owned()),
        End::At(at_ms) => (at_ms, format!("which ended at {at_ms}")),
        End::Expires(at_ms) => (at_ms, format!("which was granted until {at_ms}")),
        End::NotBefore(at_ms) => (at_ms, format!("which began at {at_ms}")),
    };
    if next.begins_ms < ends_ms {
        let proof: Vec<At> = lease.proof().chain(next.proof()).collect();
        findings.add(Invariant::NoOverlap, &proof, || {
            let (job, before, after) = (case.job, lease.delivery, next.delivery);
            let begins = next.begins_ms;
            format!("delivery {after} of job {job} began at {begins}, during {before}, {how}")
        });
    }
}

/// Endings that nobody has asked for. A lease with a time of its own hangs on no session and no
/// node: it has its time.
const ENDED_BY_TIME: [&str; 3] = ["expired", "crashed", "node_lost"];

/// When a lease that has a successor ended, at the earliest.
enum End {
    /// Its timeline says so.
    At(i64),
    /// Its timeline says that it has not.
    Never,
    /// Nobody ended it but time, which must be then.
    Expires(i64),
    /// It is not known.
    NotBefore(i64),
}

fn earliest_end(case: &Case<'_>, lease: &Span<'_>, next: &Span<'_>) -> End {
    if lease.told.is_none() {
        return End::NotBefore(lease.begins_ms);
    }
    let Some(ended_ms) = lease.ended_ms else { return End::Never };
    let expires_ms = ENDED_BY_TIME
        .contains(&lease.ending)
        .then(|| expires_ms(case, lease, next))
        .flatten()
        .filter(|expires_ms| *expires_ms > ended_ms);
    expires_ms.map_or(End::At(ended_ms), End::Expires)
}

/// When a lease ends if nobody ends it. `None`: it has no time of its own, or it is not known.
fn expires_ms(case: &Case<'_>, lease: &Span<'_>, next: &Span<'_>) -> Option<i64> {
    let received = lease.received?;
    let extends = || case.uses_of(lease.delivery).filter(|using| using.how == How::Extend);
    // One that nobody answered may be done at any time, even after another one.
    if extends().any(|using| using.call.outcome.is_unknown()) {
        return None;
    }
    // One that came too late is another finding.
    let is_in_time =
        |using: &Use<'_>| too_late(case, lease, slice::from_ref(next), using).is_none();
    let granted = || extends().filter(|it| it.call.outcome.is_ok()).filter(is_in_time);
    let Some(last_ns) = granted().map(|using| using.call.start_ns).max() else {
        return received.is_timed.then_some(received.until_ms);
    };
    // Of those that were asked for at once, any may be the last.
    granted().filter(|using| using.call.end_ns >= last_ns).map(|using| using.until_ms).min()
}

/// I6: a lease was used, and the answer was ok.
fn judge_use(case: &Case<'_>, using: &Use<'_>, findings: &mut Findings<'_>) {
    let (job, delivery, how) = (case.job, using.delivery, using.how);
    let Ok(place) = case.spans.binary_search_by_key(&delivery, |span| span.delivery) else {
        return findings.add(Invariant::NoStaleLease, &[using.at], || {
            format!("{how:?} of delivery {delivery} of job {job} was accepted: nobody has it")
        });
    };
    let (lease, later) = (&case.spans[place], &case.spans[place + 1..]);
    let is_excused = how.is_final() && is_repeated(case, lease, later, using);
    if !is_excused && let Some(why) = too_late(case, lease, later, using) {
        let proof: Vec<At> = [using.at].into_iter().chain(proof_of(lease, later)).collect();
        return findings.add(Invariant::NoStaleLease, &proof, || {
            format!("{how:?} of delivery {delivery} of job {job} was accepted {why}")
        });
    }
    // The last lease is judged with the job's state.
    let is_other = !lease.ending.is_empty() && !how.endings().contains(&lease.ending);
    if how.is_final() && !later.is_empty() && is_other {
        let proof: Vec<At> = [using.at].into_iter().chain(proof_of(lease, later)).collect();
        findings.add(Invariant::NoStaleLease, &proof, || {
            let ending = lease.ending;
            format!("{how:?} of delivery {delivery} of job {job} was accepted: it ended {ending}")
        });
    }
}

fn proof_of<'s>(lease: &'s Span<'_>, later: &'s [Span<'_>]) -> impl Iterator<Item = At> + 's {
    lease.proof().chain(later.iter().take(1).flat_map(Span::proof))
}

/// Whether the lease can not have been live any more when it was used; why.
fn too_late(
    case: &Case<'_>,
    lease: &Span<'_>,
    later: &[Span<'_>],
    using: &Use<'_>,
) -> Option<String> {
    let start_ns = using.call.start_ns;
    let is_received = |span: &&Span<'_>| span.received.is_some_and(|it| it.call.end_ns < start_ns);
    if let Some(span) = later.iter().find(is_received) {
        return Some(format!("after delivery {} had been received", span.delivery));
    }
    let gone_ms = lease.ended_ms.or_else(|| later.first().map(|span| span.begins_ms))?;
    let asked_ms = case.tables.clock()?.at_least_ms(start_ns);
    let is_after = asked_ms > gone_ms && !has_ended_it(case, lease, later, using);
    is_after.then(|| format!("at {asked_ms} or later: it ended at {gone_ms}"))
}

/// Whether the lease ended by this use: it alone asked for the end that the lease had. Then it was
/// not after it, whatever two clocks say of a few milliseconds.
fn has_ended_it(case: &Case<'_>, lease: &Span<'_>, later: &[Span<'_>], using: &Use<'_>) -> bool {
    let is_completed = || case.ends().any(|(_, end)| end.state == State::Completed);
    let is_that_end = match lease.ending {
        // No timeline tells of jobs that were delivered once and completed.
        "" => using.how == How::Ack && later.is_empty() && is_completed(),
        ending => using.how.endings().contains(&ending),
    };
    let asked_too = |other: Use<'_>| other.at != using.at && other.how == using.how;
    is_that_end && !case.uses_of(using.delivery).any(asked_too)
}

/// Whether the same was asked for before, when the lease may have been live: the answer to a final
/// call that is repeated is ok.
fn is_repeated(case: &Case<'_>, lease: &Span<'_>, later: &[Span<'_>], using: &Use<'_>) -> bool {
    case.uses_of(using.delivery).any(|other| {
        other.at != using.at
            && other.how == using.how
            && other.call.outcome.is_possible()
            && too_late(case, lease, later, &other).is_none()
    })
}
