//! Every delivery has its number and its reason: I5, I7.

use super::tables::{At, Case, Received, Span};
use super::verdict::{Findings, Invariant};
use crate::history::How;

/// A timeline has so many leases at most, the last ones.
const TIMELINE_MAX: usize = 256;

/// What ends a lease and is charged as an attempt.
const CHARGED: [&str; 3] = ["failed", "rejected", "timed_out"];

/// What may be followed by another delivery.
const GOES_ON: [&str; 7] =
    ["failed", "timed_out", "released", "snoozed", "crashed", "expired", "node_lost"];

/// Judges the deliveries of a job.
pub(super) fn judge(case: &Case<'_>, findings: &mut Findings<'_>) {
    judge_received_once(case, findings);
    judge_gaps(case, findings);
    let mut charged = Some(0);
    let mut delivery_before = 0;
    for span in case.spans {
        findings.looked(Invariant::Numbered);
        charged = charged.filter(|_| span.delivery == delivery_before + 1);
        judge_attempt(case, span, charged, findings);
        charged = charged
            .filter(|_| !span.ending.is_empty())
            .map(|count| count + u32::from(CHARGED.contains(&span.ending)));
        delivery_before = span.delivery;
    }
    if case.tables.is_ended() {
        judge_reasons(case, findings);
    }
}

/// A delivery is received by one client, once.
fn judge_received_once(case: &Case<'_>, findings: &mut Findings<'_>) {
    let mut before: Option<Received<'_>> = None;
    for lease in case.received() {
        if let Some(before) = before.filter(|before| before.delivery == lease.delivery) {
            findings.add(Invariant::Numbered, &[before.at, lease.at], || {
                format!("delivery {} of job {} was received twice", lease.delivery, case.job)
            });
        }
        before = Some(lease);
    }
}

/// Deliveries are 1, 2, 3, as far as the timeline goes. One that is missing there is no reason for the
/// next.
fn judge_gaps(case: &Case<'_>, findings: &mut Findings<'_>) {
    if let Some(span) = case.spans.first().filter(|span| span.delivery == 0) {
        let proof: Vec<At> = span.proof().collect();
        findings.add(Invariant::Numbered, &proof, || format!("job {} has delivery 0", case.job));
    }
    let told = || case.spans.iter().filter(|span| span.told.is_some());
    if !case.tables.is_ended() || !case.has_timeline() || told().count() >= TIMELINE_MAX {
        return;
    }
    let mut before = 0;
    for span in told() {
        if span.delivery > before + 1 {
            let proof: Vec<At> = span.proof().collect();
            findings.add(Invariant::Numbered, &proof, || {
                format!("delivery {} of job {} follows {before}", span.delivery, case.job)
            });
            findings.looked(Invariant::Explained);
            findings.add(Invariant::Explained, &proof, || {
                let (job, delivery, last) = (case.job, span.delivery, span.delivery - 1);
                format!("delivery {delivery} of job {job} came about for no reason: {last} is not told of")
            });
        }
        before = span.delivery;
    }
    if let Some((at, end)) = case.ends().next().filter(|(_, end)| end.deliveries > before) {
        findings.add(Invariant::Numbered, &[at], || {
            let count = end.deliveries;
            format!("job {} was delivered {count} times; its timeline knows {before}", case.job)
        });
    }
}

/// The attempt is one more than have been charged before; `None`: it is not known how many.
fn judge_attempt(
    case: &Case<'_>,
    span: &Span<'_>,
    charged: Option<u32>,
    findings: &mut Findings<'_>,
) {
    let expected = match charged {
        Some(charged) => charged + 1..=charged + 1,
        None => 1..=span.delivery,
    };
    let received = span.received.map(|lease| lease.attempt);
    let told = span.told.map(|(_, end)| end.attempt);
    let wrong = received.into_iter().chain(told).find(|attempt| !expected.contains(attempt));
    if let Some(attempt) = wrong {
        let proof: Vec<At> = span.proof().collect();
        findings.add(Invariant::Numbered, &proof, || {
            let (job, delivery) = (case.job, span.delivery);
            format!("delivery {delivery} of job {job} is attempt {attempt}, not {expected:?}")
        });
    }
}

/// I7
fn judge_reasons(case: &Case<'_>, findings: &mut Findings<'_>) {
    let end = case.ends().next();
    let is_again = case.spans.len() > 1 || end.is_some_and(|(_, end)| end.deliveries > 1);
    if !case.has_timeline()
        && is_again
        && let Some((at, end)) = end
    {
        findings.looked(Invariant::Explained);
        findings.add(Invariant::Explained, &[at], || {
            let count = end.deliveries.max(case.spans.len() as u32);
            format!("job {} was delivered {count} times and has no timeline", case.job)
        });
        return;
    }
    for pair in case.spans.windows(2) {
        let (before, span) = (&pair[0], &pair[1]);
        let is_known = before.told.is_some() && before.ended_ms.is_some();
        if !is_known || span.delivery != before.delivery + 1 {
            continue;
        }
        findings.looked(Invariant::Explained);
        if let Some(why) = unexplained(case, before) {
            let proof: Vec<At> = before.proof().chain(span.proof()).collect();
            findings.add(Invariant::Explained, &proof, || {
                let (job, delivery, last) = (case.job, span.delivery, before.delivery);
                format!("delivery {delivery} of job {job} came about for no reason: {last} {why}")
            });
        }
    }
}

/// Why the end of a lease is no reason for another one.
fn unexplained(case: &Case<'_>, lease: &Span<'_>) -> Option<String> {
    if lease.ending.is_empty() {
        return Some("ended nobody knows how".to_owned());
    }
    if !GOES_ON.contains(&lease.ending) {
        return Some(format!("ended {}", lease.ending));
    }
    let how = match lease.ending {
        "failed" => How::Fail,
        // A node gives back what it could not hand over, and a client what it gave up for lost.
        "released" if case.is_lost(lease.delivery) => return None,
        "released" | "snoozed" if lease.received.is_some() => How::Release,
        _ => return None,
    };
    let is_asked = case
        .uses_of(lease.delivery)
        .any(|using| using.how == how && using.call.outcome.is_possible());
    (!is_asked).then(|| format!("ended {}, and nobody had asked for it", lease.ending))
}
