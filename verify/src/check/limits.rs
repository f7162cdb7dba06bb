//! Limits of concurrency and rate hold at any time: I12.

use super::tables::{At, Case, Tables};
use super::verdict::{Findings, Invariant};
use crate::history::Rule;

const INVARIANT: Invariant = Invariant::WithinLimits;

/// A rate may be exceeded by so much.
const TOLERANCE: f64 = 1.05;

/// A start that is late by less than the time between two starts does not move those that follow:
/// so one more may come in any time.
const MADE_UP_FOR: f64 = 1.0;

/// A lease of a queue that has a limit.
#[derive(Debug, Clone, Copy)]
struct Start {
    begins_ms: i64,
    ended_ms: Option<i64>,
    job: u64,
    at: Option<At>,
}

/// Leases of queues that have limits.
#[derive(Debug)]
pub(super) struct Limits<'t> {
    rules: Vec<(&'t Rule, Vec<Start>)>,
}

impl<'t> Limits<'t> {
    pub(super) fn of(tables: &Tables<'t>) -> Self {
        let limits = tables.rules.iter().filter(|rule| limited(rule).is_some());
        Self { rules: limits.map(|rule| (*rule, Vec::new())).collect() }
    }

    pub(super) fn add(&mut self, case: &Case<'_>) {
        if self.rules.is_empty() {
            return;
        }
        let queue = case.queue();
        for (_, starts) in self.rules.iter_mut().filter(|(rule, _)| limited(rule) == queue) {
            starts.extend(case.spans.iter().map(|span| Start {
                begins_ms: span.begins_ms,
                ended_ms: span.ended_ms,
                job: case.job,
                at: span.proof().next(),
            }));
        }
    }

    pub(super) fn judge(self, findings: &mut Findings<'_>) {
        for (rule, mut starts) in self.rules {
            starts.sort_unstable_by_key(|start| (start.begins_ms, start.at));
            match *rule {
                Rule::Concurrency { queue, max } => {
                    judge_concurrency(queue, max as usize, &starts, findings);
                }
                Rule::Rate { queue, limit, per_ms, burst } => {
                    let per_ms = per_ms.max(1) as f64;
                    let rate = Rate { limit: f64::from(limit) / per_ms, burst: f64::from(burst) };
                    judge_rate(queue, rate, &starts, findings);
                }
                Rule::Schedule { .. } => {}
            }
        }
    }
}

/// The queue that a rule limits.
fn limited(rule: &Rule) -> Option<u16> {
    match rule {
        Rule::Concurrency { queue, .. } | Rule::Rate { queue, .. } => Some(*queue),
        Rule::Schedule { .. } => None,
    }
}

/// Goes through time. A lease of which it is not known when it ended counts for the moment of its
/// beginning only.
fn judge_concurrency(queue: u16, max: usize, starts: &[Start], findings: &mut Findings<'_>) {
    let mut live: Vec<Start> = Vec::new();
    for start in starts {
        findings.looked(INVARIANT);
        let now_ms = start.begins_ms;
        live.retain(|other| other.ended_ms.is_some_and(|ended_ms| ended_ms > now_ms));
        live.push(*start);
        if live.len() > max {
            let proof: Vec<At> = live.iter().filter_map(|start| start.at).collect();
            findings.add(INVARIANT, &proof, || {
                let count = live.len();
                format!("queue {queue} had {count} leases at {now_ms}, of {max} that it may have")
            });
        }
    }
}

/// How many may start.
#[derive(Debug, Clone, Copy)]
struct Rate {
    /// In a millisecond.
    limit: f64,
    /// At once.
    burst: f64,
}

/// Pours each start into a bucket that leaks at the rate: it is over its brim if and only if more
/// have started in some window that ends now than the rate allows.
fn judge_rate(queue: u16, rate: Rate, starts: &[Start], findings: &mut Findings<'_>) {
    let brim = rate.burst * TOLERANCE + MADE_UP_FOR;
    // Times are rounded: a window of the database may be as much longer.
    let rounding = rate.limit * TOLERANCE;
    let (mut level, mut before_ms) = (0.0_f64, i64::MIN);
    for start in starts {
        findings.looked(INVARIANT);
        let passed_ms = start.begins_ms.saturating_sub(before_ms) as f64;
        level = (level - passed_ms * rate.limit * TOLERANCE).max(0.0) + 1.0;
        before_ms = start.begins_ms;
        if level > brim + rounding {
            let proof: Vec<At> = start.at.into_iter().collect();
            findings.add(INVARIANT, &proof, || {
                let (job, at_ms) = (start.job, start.begins_ms);
                format!("queue {queue} is over its rate at {at_ms}, with job {job}")
            });
        }
    }
}
