//! Every slot of a schedule makes one job: I10.

use super::tables::{At, Case, Tables};
use super::times::{Due, Times};
use super::verdict::{Findings, Invariant};
use crate::history::{Rule, Slot};

const INVARIANT: Invariant = Invariant::EverySlotOnce;

/// Judges all schedules that the run had.
pub(super) fn judge(tables: &Tables<'_>, times: &mut Times, findings: &mut Findings<'_>) {
    if !tables.is_ended() {
        return;
    }
    for rule in &tables.rules {
        if let Rule::Schedule { schedule, every_ms, from_ms, to_ms, .. } = **rule {
            let begin = tables.slots.partition_point(|(_, slot)| slot.schedule < schedule);
            let end = tables.slots.partition_point(|(_, slot)| slot.schedule <= schedule);
            let slots = &tables.slots[begin..end];
            let every_ms = i64::try_from(every_ms).unwrap_or(i64::MAX).max(1);
            judge_missing(schedule, (from_ms, to_ms, every_ms), slots, findings);
            for (place, (at, slot)) in slots.iter().enumerate() {
                let before = place.checked_sub(1).map(|before| slots[before]);
                judge_slot(tables, before, (*at, slot), findings);
                if (slot.slot_ms - from_ms) % every_ms != 0 {
                    findings.add(INVARIANT, &[*at], || {
                        format!("schedule {schedule} has no slot at {}", slot.slot_ms)
                    });
                }
                if (from_ms..=to_ms).contains(&slot.slot_ms) {
                    let late_ms = slot.fired_ms - slot.slot_ms;
                    times.slots.push(Due { at_ms: slot.slot_ms, late_ms });
                }
            }
        }
    }
}

/// Every slot of the window is there.
fn judge_missing(
    schedule: u16,
    (from_ms, to_ms, every_ms): (i64, i64, i64),
    slots: &[(At, &Slot)],
    findings: &mut Findings<'_>,
) {
    let mut slots = slots.iter().map(|(_, slot)| slot.slot_ms).peekable();
    let mut slot_ms = from_ms;
    while slot_ms <= to_ms {
        findings.looked(INVARIANT);
        while slots.next_if(|found| *found < slot_ms).is_some() {}
        if slots.peek() != Some(&slot_ms) {
            findings.add(INVARIANT, &[], || {
                format!("slot {slot_ms} of schedule {schedule} was not fired")
            });
        }
        slot_ms = slot_ms.saturating_add(every_ms);
    }
}

fn judge_slot(
    tables: &Tables<'_>,
    before: Option<(At, &Slot)>,
    (at, slot): (At, &Slot),
    findings: &mut Findings<'_>,
) {
    let (schedule, slot_ms, job) = (slot.schedule, slot.slot_ms, slot.job);
    if let Some((other, _)) = before.filter(|(_, before)| before.slot_ms == slot_ms) {
        findings.add(INVARIANT, &[other, at], || {
            format!("slot {slot_ms} of schedule {schedule} was fired twice")
        });
    }
    if slot.fired_ms < slot_ms {
        findings.add(INVARIANT, &[at], || {
            format!("slot {slot_ms} of schedule {schedule} was fired early, at {}", slot.fired_ms)
        });
    }
    if job == 0 {
        findings
            .add(INVARIANT, &[at], || format!("slot {slot_ms} of schedule {schedule} made no job"));
    } else if tables.end_of(job).is_none() {
        findings.add(INVARIANT, &[at], || {
            format!("job {job} of slot {slot_ms} of schedule {schedule} is not there")
        });
    }
}

/// Every job of a schedule is of one slot.
pub(super) fn judge_case(case: &Case<'_>, findings: &mut Findings<'_>) {
    if !case.tables.is_ended() {
        return;
    }
    let mut slots = case.slots();
    if let (Some(first), Some(second)) = (slots.next(), slots.next()) {
        findings.add(INVARIANT, &[first, second], || format!("job {} is of two slots", case.job));
    }
    let stray = case.ends().next().filter(|(_, end)| end.key == 0 && !case.is_of_a_slot());
    if let Some((at, _)) = stray.filter(|(_, end)| case.tables.has_schedules(end.queue)) {
        findings.add(INVARIANT, &[at], || format!("job {} of a schedule is of no slot", case.job));
    }
}
