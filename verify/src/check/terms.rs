//! At most one leader's work takes effect: I11.

use super::tables::{At, Tables};
use super::verdict::{Findings, Invariant};
use crate::history::Duty;

const INVARIANT: Invariant = Invariant::OneTermAtATime;

/// Judges what leaders did, in the order of the commits.
pub(super) fn judge(tables: &Tables<'_>, findings: &mut Findings<'_>) {
    let mut blocks: Vec<(At, &Duty)> = Vec::new();
    for (at, duty) in &tables.duties {
        findings.looked(INVARIANT);
        match blocks.last() {
            Some((first, term)) if term.token == duty.token => {
                judge_within(&[*first, *at], term, duty, findings);
            }
            before => {
                if let Some((last, term)) = before {
                    judge_change(&[*last, *at], term, duty, findings);
                }
                blocks.push((*at, duty));
            }
        }
    }
    judge_returns(blocks, findings);
}

/// A term has one number and one node.
fn judge_within(proof: &[At], term: &Duty, duty: &Duty, findings: &mut Findings<'_>) {
    if term.epoch != duty.epoch || term.node != duty.node {
        findings.add(INVARIANT, proof, || {
            let of = |duty: &Duty| format!("term {} of {}", duty.epoch, duty.node);
            format!("{} and {} have one token", of(term), of(duty))
        });
    }
}

/// A later term has a higher number.
fn judge_change(proof: &[At], term: &Duty, duty: &Duty, findings: &mut Findings<'_>) {
    if duty.epoch <= term.epoch {
        findings.add(INVARIANT, proof, || {
            format!("term {} did something after term {}", duty.epoch, term.epoch)
        });
    }
}

/// A term that another has followed does nothing more. That it has a lower number has been seen.
fn judge_returns(mut blocks: Vec<(At, &Duty)>, findings: &mut Findings<'_>) {
    blocks.sort_unstable_by_key(|(at, duty)| (duty.token, *at));
    for pair in blocks.windows(2) {
        let [(first, term), (again, duty)] = [pair[0], pair[1]];
        if term.token == duty.token && duty.epoch > term.epoch {
            findings.add(INVARIANT, &[first, again], || {
                format!("the token of term {} came back as term {}", term.epoch, duty.epoch)
            });
        }
    }
}
