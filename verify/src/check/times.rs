//! Nothing is delivered before its time: I9. And how late things are.

use super::tables::Case;
use super::verdict::{Findings, Invariant};

/// Something that was to happen at a time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Due {
    /// When, by the database's clock.
    pub(super) at_ms: i64,
    /// How much later it happened.
    pub(super) late_ms: i64,
}

/// What was to happen at a time.
#[derive(Debug, Default)]
pub(super) struct Times {
    /// Jobs with a time.
    pub(super) jobs: Vec<Due>,
    /// Slots of schedules.
    pub(super) slots: Vec<Due>,
}

impl Times {
    pub(super) fn judge(&mut self, case: &Case<'_>, findings: &mut Findings<'_>) {
        if case.spans.is_empty() {
            return;
        }
        let Some(push) = case.push().filter(|push| push.run_at_ms != 0) else { return };
        findings.looked(Invariant::NotEarly);
        for span in case.spans {
            let (begins_ms, run_at_ms) = (span.begins_ms, push.run_at_ms);
            if begins_ms < run_at_ms {
                let proof: Vec<_> = [push.at].into_iter().chain(span.proof()).collect();
                findings.add(Invariant::NotEarly, &proof, || {
                    let (job, delivery) = (case.job, span.delivery);
                    format!("delivery {delivery} of job {job} at {begins_ms}, due at {run_at_ms}")
                });
            } else if span.delivery == 1 {
                let late_ms = begins_ms - run_at_ms;
                self.jobs.push(Due { at_ms: run_at_ms, late_ms });
            }
        }
    }
}
