//! Schedules.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Model, Record};
use crate::job::{ScheduleName, ScheduleSpec, Timestamp};
use crate::limits;
use crate::store::schedules::{Plan, SCHEDULES_AT_ONCE, effects_of, manual_job};
use crate::store::{
    DutyReport, FIRES_KEPT, Fire, FireOutcome, Pausing, Pushed, PutSchedule, Schedule,
    SchedulesWanted,
};

impl Model {
    pub(super) fn put_schedule(&mut self, name: ScheduleName, spec: ScheduleSpec) -> PutSchedule {
        let now = self.now;
        if let Some((schedule, _)) = self.schedules.get_mut(&name) {
            *schedule = schedule.clone().changed(spec, now);
            return PutSchedule::Updated;
        }
        if self.schedules.len() >= limits::SCHEDULES_MAX {
            return PutSchedule::TooMany;
        }
        let schedule = Schedule::new(name.clone(), spec, now);
        self.schedules.insert(name, (schedule, BTreeMap::new()));
        PutSchedule::Created
    }

    pub(super) fn list_schedules(&self, which: SchedulesWanted) -> Vec<Schedule> {
        let all = self.schedules.values().map(|(schedule, _)| schedule.clone());
        match which {
            SchedulesWanted::One(name) => all.filter(|schedule| schedule.name == name).collect(),
            SchedulesWanted::After(after, limit) => all
                .filter(|schedule| after.as_ref().is_none_or(|after| schedule.name > *after))
                .take(limit)
                .collect(),
        }
    }

    pub(super) fn pause_schedule(&mut self, name: &ScheduleName, pausing: Pausing) -> bool {
        let now = self.now;
        let Some((schedule, _)) = self.schedules.get_mut(name) else { return false };
        *schedule = schedule.clone().paused(pausing, now);
        true
    }

    pub(super) fn run_schedule(&mut self, name: &ScheduleName) -> Option<Pushed> {
        let now = self.now;
        let job = manual_job(&self.schedules.get(name)?.0, now);
        let pushed = self.push_all(&[job])[0];
        let (schedule, fires) = self.schedules.get_mut(name)?;
        let job = pushed.id();
        if let Pushed::Inserted { id, .. } = pushed {
            schedule.runs += 1;
            schedule.last = Some((now, id));
        }
        let mut slot = now;
        while fires.contains_key(&slot) {
            slot.0 += 1;
        }
        let outcome = FireOutcome::Manual;
        fires.insert(slot, Fire { slot, fired_at: now, outcome, job, count: 1 });
        Some(pushed)
    }

    pub(super) fn cron(&mut self) -> DutyReport {
        let now = self.now;
        let is_due = |schedule: &&Schedule| {
            schedule.paused_at.is_none() && schedule.next_at.is_some_and(|at| at <= now)
        };
        let all = self.schedules.values().map(|(schedule, _)| schedule);
        let mut due: Vec<Schedule> = all.filter(is_due).cloned().collect();
        due.sort_by(|a, b| (a.next_at, &a.name).cmp(&(b.next_at, &b.name)));
        due.truncate(SCHEDULES_AT_ONCE);
        let count = due.len();
        let plan = Plan::new(due, now, |job| self.jobs.get(&job).is_some_and(Record::is_live));
        let jobs = plan.jobs.clone();
        let pushed = self.push_all(&jobs);
        let (schedules, fires) = plan.conclude(&pushed);
        for schedule in schedules {
            if let Some((own, _)) = self.schedules.get_mut(&schedule.name) {
                *own = schedule;
            }
        }
        for (name, fire) in fires {
            if let Some((_, own)) = self.schedules.get_mut(&name) {
                own.entry(fire.slot).or_insert(fire);
            }
        }
        let effects = effects_of(&jobs, &pushed);
        let next = match count >= SCHEDULES_AT_ONCE {
            true => Some(Duration::ZERO),
            false => self.next_slot().map(|at| at.since(now)),
        };
        DutyReport { effects, lost: Vec::new(), next }
    }

    fn next_slot(&self) -> Option<Timestamp> {
        let going = self.schedules.values().filter(|(schedule, _)| schedule.paused_at.is_none());
        going.filter_map(|(schedule, _)| schedule.next_at).min()
    }

    pub(super) fn forget_fires(&mut self) {
        let now = self.now;
        for (_, fires) in self.schedules.values_mut() {
            fires.retain(|_, fire| fire.fired_at + FIRES_KEPT > now);
        }
    }
}
