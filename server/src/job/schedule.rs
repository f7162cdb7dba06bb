//! Schedules: what they make, and which of their slots are to be made up for.

use std::time::Duration;

use super::{CronRule, InvalidField, NewJob, Timestamp};
use crate::limits;

/// A slot that is later than this was missed: nobody led, or the database was gone. A change of
/// leaders takes less.
const LATE: Duration = Duration::from_secs(10);

/// Missed slots are counted up to this many at a time.
const COUNTED_MAX: usize = 10_000;

/// A rule, and what is done at its slots.
#[derive(Debug, Clone, PartialEq)]
pub struct ScheduleSpec {
    /// When.
    pub rule: CronRule,
    /// What if the job of the slot before has not ended.
    pub overlap: Overlap,
    /// What becomes of missed slots.
    pub catch_up: CatchUp,
    /// Each job waits up to so long, as its slot decides by chance.
    pub jitter: Duration,
    /// No slots from then on.
    pub ends_at: Option<Timestamp>,
    /// No slots after so many jobs.
    pub runs_max: Option<u64>,
    /// What is pushed. Its own time is not used.
    pub job: NewJob,
}

/// What happens at a slot if the job of the slot before has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overlap {
    /// Another job is made.
    #[default]
    Allow,
    /// The slot makes no job.
    Skip,
    /// The new job waits until the one before has ended, however it ends.
    Queue,
}

impl Overlap {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Allow, Self::Skip, Self::Queue];

    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Skip => "skip",
            Self::Queue => "queue",
        }
    }

    /// The policy of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.name() == name)
    }
}

/// What becomes of slots that were missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CatchUp {
    /// They are counted.
    None,
    /// The latest makes its job, unless there is one that was not missed.
    #[default]
    Last,
    /// The latest `cap` of those that are not older than `window` make their jobs.
    All {
        /// 1 to 1000.
        cap: u32,
        /// Up to 30 days.
        window: Duration,
    },
}

impl ScheduleSpec {
    /// # Errors
    ///
    /// If a number is out of its range, naming the field.
    pub fn check(mut self) -> Result<Self, InvalidField> {
        if let CatchUp::All { cap, window } = self.catch_up {
            if !limits::CATCH_UP_CAP.contains(&cap) {
                return Err(InvalidField::new("catch_up.cap", "must be from 1 to 1000"));
            }
            if !limits::CATCH_UP_WINDOW.contains(&window) {
                return Err(InvalidField::new("catch_up.window_ms", "must be from 1 s to 30 days"));
            }
        }
        if self.jitter > limits::JITTER_MAX {
            return Err(InvalidField::new("jitter_ms", "more than 24 hours"));
        }
        if self.runs_max == Some(0) {
            return Err(InvalidField::new("runs_max", "must be at least 1"));
        }
        self.job = self.job.check()?;
        Ok(self)
    }

    /// The first slot after a time, if there is one before the end.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        self.rule.next(after).filter(|slot| self.ends_at.is_none_or(|end| *slot < end))
    }

    /// What is to be done now, if `first` is the first slot that has not been dealt with.
    pub fn due(&self, first: Timestamp, now: Timestamp) -> Due {
        let until = self.ends_at.map_or(now, |end| now.min(Timestamp(end.0 - 1)));
        let before = Timestamp(first.0 - 1);
        let late = Timestamp(now.0 - millis(LATE));
        let mut slots = match self.catch_up {
            CatchUp::All { cap, window } => {
                let since = Timestamp(now.0 - millis(window)).max(before);
                self.rule.last(since, late.max(since), cap as usize)
            }
            CatchUp::Last => self.rule.last(before, late.max(before), 1),
            CatchUp::None => Vec::new(),
        };
        let recent = self.rule.last(late.max(before), until, COUNTED_MAX);
        if self.catch_up == CatchUp::Last && !recent.is_empty() {
            slots.clear();
        }
        slots.retain(|slot| *slot <= until);
        let all = self.rule.count(before, until, COUNTED_MAX);
        slots.extend(recent);
        let missed = all.saturating_sub(slots.len()) as u64;
        Due { slots, missed, next: self.next(now) }
    }

    /// How long the job of a slot waits.
    pub fn jitter_of(&self, slot: Timestamp) -> Duration {
        let most = millis(self.jitter).unsigned_abs();
        if most == 0 {
            return Duration::ZERO;
        }
        // The finalizer of SplitMix64 spreads neighbouring slots.
        let mut mixed = slot.0.unsigned_abs().wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Duration::from_millis((mixed ^ (mixed >> 31)) % (most + 1))
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// What a schedule is to do now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Due {
    /// Slots that make jobs, in order.
    pub slots: Vec<Timestamp>,
    /// Slots that do not.
    pub missed: u64,
    /// The first slot after now.
    pub next: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::{Payload, QueueName};
    use super::*;

    const SECOND: i64 = 1000;
    /// A whole minute.
    const START: i64 = 1_790_000_040_000;

    fn spec(rule: &str, catch_up: CatchUp) -> ScheduleSpec {
        let payload = Payload::new(Bytes::from_static(b"{}")).unwrap();
        ScheduleSpec {
            rule: CronRule::parse(rule, "").unwrap(),
            overlap: Overlap::Allow,
            catch_up,
            jitter: Duration::ZERO,
            ends_at: None,
            runs_max: None,
            job: NewJob::new(QueueName::parse("q").unwrap(), payload),
        }
    }

    fn due(spec: &ScheduleSpec, late_s: i64) -> (Vec<i64>, u64) {
        let due = spec.due(Timestamp(START), Timestamp(START + late_s * SECOND));
        (due.slots.iter().map(|slot| (slot.0 - START) / SECOND).collect(), due.missed)
    }

    #[test]
    fn a_slot_in_time_makes_its_job_whatever_the_policy() {
        let all = CatchUp::All { cap: 5, window: Duration::from_secs(3600) };
        for catch_up in [CatchUp::None, CatchUp::Last, all] {
            assert_eq!(due(&spec("* * * * *", catch_up), 0), (vec![0], 0), "{catch_up:?}");
            let each_second = spec("* * * * * *", catch_up);
            assert_eq!(due(&each_second, 3), (vec![0, 1, 2, 3], 0), "{catch_up:?}");
        }
    }

    #[test]
    fn missed_slots_are_made_up_for_by_the_policy() {
        let all = CatchUp::All { cap: 2, window: Duration::from_secs(250) };
        let wide = CatchUp::All { cap: 9, window: Duration::from_secs(130) };
        for (catch_up, slots, missed) in [
            (CatchUp::None, vec![], 6),
            (CatchUp::Last, vec![300], 5),
            (all, vec![240, 300], 4),
            (wide, vec![240, 300], 4),
        ] {
            assert_eq!(due(&spec("* * * * *", catch_up), 330), (slots, missed), "{catch_up:?}");
        }
        assert_eq!(due(&spec("* * * * *", CatchUp::Last), 305), (vec![300], 5));
    }

    #[test]
    fn years_of_missed_slots_are_counted_up_to_a_point_and_make_no_flood() {
        let due = due(&spec("* * * * * *", CatchUp::Last), 10 * 365 * 86_400);
        assert_eq!(due.0.len(), 10);
        assert_eq!(due.1, 10_000 - 10);
    }

    #[test]
    fn there_are_no_slots_from_the_end_on() {
        let ends_at = Some(Timestamp(START + 120 * SECOND));
        let spec = ScheduleSpec { ends_at, ..spec("* * * * *", CatchUp::Last) };
        let due = spec.due(Timestamp(START), Timestamp(START + 121 * SECOND));
        assert_eq!(due, Due { slots: vec![Timestamp(START + 60 * SECOND)], missed: 1, next: None });
    }

    #[test]
    fn jitter_is_the_same_each_time_and_within_its_bound() {
        let jitter = Duration::from_secs(10);
        let spec = ScheduleSpec { jitter, ..spec("* * * * *", CatchUp::Last) };
        let of: Vec<Duration> =
            (0..100).map(|minute| spec.jitter_of(Timestamp(minute * 60_000))).collect();
        assert!(of.iter().all(|wait| *wait <= jitter));
        assert!(of.iter().any(|wait| *wait > jitter / 2) && of.iter().any(|it| *it < jitter / 2));
        assert_eq!(spec.jitter_of(Timestamp(60_000)), of[1]);
    }
}
