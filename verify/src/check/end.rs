//! What is left is what clients were told, and all is well again: I13, I14.

use std::time::Duration;

use super::tables::{At, Case, Tables, Use};
use super::verdict::{Findings, Invariant};
use crate::history::{How, JobEnd, State};

/// After the last fault, all is served within this.
const SERVED_WITHIN: Duration = Duration::from_secs(5);

/// After the last fault and the last push, all work is done within this.
const DRAINED_WITHIN: Duration = Duration::from_secs(60);

/// I13: judges what was left of a job.
pub(super) fn judge_case(case: &Case<'_>, findings: &mut Findings<'_>) {
    let Some((at, end)) = case.ends().next().filter(|_| case.tables.is_ended()) else { return };
    findings.looked(Invariant::EndsAsTold);
    let contradiction = of_counts(case, end)
        .or_else(|| of_work_left(case, end))
        .or_else(|| of_state(case, end))
        .or_else(|| of_last_lease(case, end))
        .or_else(|| of_timeline(case));
    if let Some((what, mut proof)) = contradiction {
        proof.push(at);
        findings.add(Invariant::EndsAsTold, &proof, || format!("job {} {what}", case.job));
    }
}

/// What is wrong, and what else proves it.
type Contradiction = Option<(String, Vec<At>)>;

fn of_counts(case: &Case<'_>, end: &JobEnd) -> Contradiction {
    if let Some(last) = case.spans.last().filter(|last| last.delivery > end.deliveries) {
        let what = format!("has delivery {} of {}", last.delivery, end.deliveries);
        return Some((what, last.proof().collect()));
    }
    let push = case.pushes().find(|push| push.queue != end.queue)?;
    Some((format!("was pushed to queue {} and is in {}", push.queue, end.queue), vec![push.at]))
}

fn of_work_left(case: &Case<'_>, end: &JobEnd) -> Contradiction {
    let is_drained = case.tables.end.is_some_and(|(_, end)| end.drained_ns != 0);
    let is_left = is_drained && !end.state.is_final();
    is_left.then(|| (format!("is {:?} when nothing should be left", end.state), Vec::new()))
}

fn of_state(case: &Case<'_>, end: &JobEnd) -> Contradiction {
    let told = |how: How| case.uses().find(|using| using.how == how && using.call.outcome.is_ok());
    if let Some(ack) = told(How::Ack).filter(|_| end.state != State::Completed) {
        return Some((format!("was acked and is {:?}", end.state), vec![ack.at]));
    }
    let is_refused = matches!(end.state, State::Dead | State::Cancelled);
    if let Some(reject) = told(How::Reject).filter(|_| !is_refused) {
        return Some((format!("was rejected and is {:?}", end.state), vec![reject.at]));
    }
    let may_complete = |using: Use<'_>| {
        using.how == How::Ack
            && using.delivery == end.deliveries
            && using.call.outcome.is_possible()
    };
    match end.state {
        State::Completed if !case.uses().any(may_complete) => {
            Some(("is completed, and nobody acked its last delivery".to_owned(), Vec::new()))
        }
        State::Cancelled if !case.may_be_cancelled() => {
            Some(("is cancelled, and nobody asked for it".to_owned(), Vec::new()))
        }
        _ => None,
    }
}

fn of_last_lease(case: &Case<'_>, end: &JobEnd) -> Contradiction {
    let last = case.spans.last().filter(|last| !last.ending.is_empty())?;
    let is_other = |using: &Use<'_>| {
        using.how.is_final()
            && using.call.outcome.is_ok()
            && !using.how.endings().contains(&last.ending)
    };
    if let Some(using) = case.uses_of(last.delivery).find(is_other) {
        let what = format!("was told {:?}, and its last lease ended {}", using.how, last.ending);
        return Some((what, [using.at].into_iter().chain(last.proof()).collect()));
    }
    let is_completed = end.state == State::Completed;
    (is_completed != (last.ending == "completed")).then(|| {
        let what = format!("is {:?}, and its last lease ended {}", end.state, last.ending);
        (what, last.proof().collect())
    })
}

/// The timeline says of a lease what its client was told.
fn of_timeline(case: &Case<'_>) -> Contradiction {
    let is_other = |begins_ms: i64, told: i64| (begins_ms != told).then_some((begins_ms, told));
    case.spans.iter().find_map(|span| {
        let (received, (_, told)) = (span.received?, span.told?);
        let (begins_ms, told) = is_other(received.begins_ms, told.begins_ms)?;
        let what = format!("has delivery {} from {begins_ms} and from {told}", span.delivery);
        Some((what, span.proof().collect()))
    })
}

/// I14
pub(super) fn judge(tables: &Tables<'_>, findings: &mut Findings<'_>) {
    let Some((at, end)) = tables.end.filter(|_| tables.is_ended()) else { return };
    let mut expect = |is_so: bool, what: &dyn Fn() -> String| {
        findings.looked(Invariant::Alive);
        if !is_so {
            findings.add(Invariant::Alive, &[at], what);
        }
    };
    let after = |ns: u64, since_ns: u64| Duration::from_nanos(ns.saturating_sub(since_ns));
    let leaders = end.leaders;
    expect(leaders == 1, &|| format!("{leaders} nodes lead"));
    let served = after(end.served_ns, end.healed_ns);
    expect(end.served_ns != 0, &|| "some clients were not served again".to_owned());
    expect(served <= SERVED_WITHIN, &|| format!("clients were served again after {served:?}"));
    let drained = after(end.drained_ns, end.healed_ns.max(tables.pushed_ns));
    expect(end.drained_ns != 0, &|| "work was left".to_owned());
    expect(drained <= DRAINED_WITHIN, &|| format!("all work was done after {drained:?}"));
    // Clients that leave when all is done wait for no answers.
    let drained_ns = if end.drained_ns == 0 { u64::MAX } else { end.drained_ns };
    let well = end.healed_ns + SERVED_WITHIN.as_nanos() as u64..drained_ns;
    for (at, call) in tables.refusals.iter().filter(|(_, call)| well.contains(&call.start_ns)) {
        findings.add(Invariant::Alive, &[*at], || {
            let after = after(call.start_ns, end.healed_ns);
            format!("a call {after:?} after the last fault was answered {:?}", call.outcome)
        });
    }
}
