//! Limits on how many jobs run at once and how many start in a time, and who comes first.
//!
//! A job may name a key for its concurrency and a key for its rate; both belong to its queue. Jobs
//! with the same keys wait in one *line*, behind the same *gate*; jobs without keys wait in the
//! line whose gate has no name. A claim serves the lines by [`Fair`]: the highest priority first;
//! within a priority the line that was served longest ago, so that a million jobs of one key do
//! not make those of another wait; within a line first in first out. A line whose first job may
//! not start is passed over, and nobody else is kept waiting.
//!
//! Nothing is counted up and down. The slots of a key are its live leases, whoever holds them, and
//! a rate is remembered as the one time at which its bucket will be full again (the *generic cell
//! rate algorithm* of ATM Forum Traffic Management 4.0, section 4.4.2). So nothing can leak.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{FlowKey, InvalidField, Settings, Timestamp, time::millis};
use crate::limits;

/// At most so many jobs of a key are leased at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Concurrency {
    /// Of the job's queue.
    pub key: FlowKey,
    /// `None`: any number; the key is there for its fair share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
}

/// So many jobs of a key are leased in a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Of the job's queue.
    pub key: FlowKey,
    /// How many.
    #[serde(flatten)]
    pub rule: RateRule,
}

/// So many in a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RateRule {
    /// So many.
    pub limit: u32,
    /// In this time.
    #[serde(rename = "per_ms", with = "millis")]
    #[schemars(with = "u64")]
    pub per: Duration,
    /// So many at once after a rest. `None`: a quarter of `limit`, at least one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
}

impl RateRule {
    /// # Errors
    ///
    /// If a number is out of its range.
    pub fn check(self, field: &'static str) -> Result<Self, InvalidField> {
        let invalid = |detail: &str| Err(InvalidField::new(field, detail));
        if !limits::RATE_LIMIT.contains(&self.limit) {
            return invalid("limit must be from 1 to 1 000 000");
        }
        if !limits::RATE_PER.contains(&self.per) {
            return invalid("per_ms must be from 1 ms to 7 days");
        }
        if self.interval_us() == 0 {
            return invalid("more than a million in a second");
        }
        match self.burst {
            Some(burst) if !limits::RATE_LIMIT.contains(&burst) => {
                invalid("burst must be from 1 to 1 000 000")
            }
            _ => Ok(self),
        }
    }

    /// From one job to the next, in microseconds.
    fn interval_us(self) -> i64 {
        let per = i64::try_from(self.per.as_micros()).unwrap_or(i64::MAX);
        per / i64::from(self.limit.max(1))
    }

    fn burst(self) -> i64 {
        i64::from(self.burst.unwrap_or(self.limit.div_ceil(4)).max(1))
    }

    /// How long a bucket takes to fill.
    fn depth_us(self) -> i64 {
        self.burst().saturating_mul(self.interval_us())
    }

    /// When the next job may start.
    fn opens_at_us(self, bucket: Bucket) -> i64 {
        bucket.full_at_us.saturating_add(self.interval_us()).saturating_sub(self.depth_us())
    }
}

/// What is remembered of a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bucket {
    /// When it is full if nothing is taken, in microseconds since 1970. What is past is full.
    pub full_at_us: i64,
}

/// A start that is later than its rate would have let it is made up for, if it is less than an
/// interval late, and less than this. Claims come a little after the time at which a rate opens: if
/// each began a new interval, the rate would fall behind with every job.
const LATE_MAX_US: i64 = 1_000_000;

impl Bucket {
    /// A job starts.
    fn spend(&mut self, rule: RateRule, now_us: i64) {
        let interval = rule.interval_us();
        let is_on_time = now_us.saturating_sub(self.full_at_us) < interval.min(LATE_MAX_US);
        let since = if is_on_time { self.full_at_us } else { now_us };
        self.full_at_us = since.saturating_add(interval);
    }

    /// Whether it is as good as one that nobody has ever used.
    pub fn is_as_new(self, now_us: i64) -> bool {
        self.full_at_us <= Self::as_new_until_us(now_us)
    }

    /// Buckets that have been full since then are as good as new.
    pub fn as_new_until_us(now_us: i64) -> i64 {
        now_us.saturating_sub(LATE_MAX_US)
    }
}

/// The limits that a job is under beside those of its queue.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Flow {
    /// At once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<Concurrency>,
    /// In a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
}

impl Flow {
    /// The name of the gate that the job waits behind; `None`: it is free of limits of its own.
    pub fn gate(&self) -> Option<String> {
        if *self == Self::default() {
            return None;
        }
        let concurrency = self.concurrency.as_ref().map_or("", |it| it.key.as_str());
        let rate = self.rate.as_ref().map_or("", |it| it.key.as_str());
        // Keys have no control characters.
        Some(format!("{concurrency}\n{rate}"))
    }

    /// # Errors
    ///
    /// If a number is out of its range, naming the field.
    pub fn check(self) -> Result<Self, InvalidField> {
        if let Some(Concurrency { max: Some(max), .. }) = self.concurrency
            && !limits::CONCURRENCY.contains(&max)
        {
            return Err(InvalidField::new("concurrency.max", "must be from 1 to 1 000 000"));
        }
        if let Some(rate) = &self.rate {
            rate.rule.check("rate")?;
        }
        Ok(self)
    }
}

/// What keeps a job from starting now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Closed {
    /// The queue has as many leases as it may have.
    QueueFull,
    /// The key has.
    KeyFull,
    /// The queue's rate is used up until then.
    QueueRate(Timestamp),
    /// The key's is.
    KeyRate(Timestamp),
}

impl Closed {
    /// When it ends by itself.
    pub fn until(&self) -> Option<Timestamp> {
        match self {
            Self::QueueFull | Self::KeyFull => None,
            Self::QueueRate(at) | Self::KeyRate(at) => Some(*at),
        }
    }
}

/// What is in use of a queue and its keys, and what more may be used.
#[derive(Debug, Clone, Default)]
pub struct Admission {
    /// The limits of the queue, and those that people have put in place of the jobs' own.
    pub settings: Settings,
    /// Live leases of the queue. Needed if the queue has a limit.
    pub leased: u32,
    /// Live leases of each concurrency key.
    pub slots: HashMap<String, u32>,
    /// The queue's own rate.
    pub bucket: Bucket,
    /// Rates of keys. One that is not there is full.
    pub buckets: HashMap<String, Bucket>,
    /// The time, in microseconds since 1970.
    pub now_us: i64,
}

impl Admission {
    /// Whether a job may start now.
    ///
    /// # Errors
    ///
    /// What it waits for.
    pub fn check(&self, flow: &Flow) -> Result<(), Closed> {
        self.closed(flow).next().map_or(Ok(()), Err)
    }

    /// All that keeps a job from starting now.
    pub fn closed<'a>(&'a self, flow: &'a Flow) -> impl Iterator<Item = Closed> + 'a {
        type Test = fn(&Admission, &Flow) -> Option<Closed>;
        let tests: [Test; 4] = [
            |all, _| {
                let is_full = all.settings.concurrency.is_some_and(|max| all.leased >= max);
                is_full.then_some(Closed::QueueFull)
            },
            |all, flow| {
                let concurrency = flow.concurrency.as_ref()?;
                let (max, used) =
                    (all.max_of(concurrency)?, all.slots.get(concurrency.key.as_str())?);
                (*used >= max).then_some(Closed::KeyFull)
            },
            |all, _| all.check_rate(all.settings.rate?, all.bucket).err().map(Closed::QueueRate),
            |all, flow| all.opens_at(flow.rate.as_ref()?).map(Closed::KeyRate),
        ];
        tests.into_iter().filter_map(move |test| test(self, flow))
    }

    /// How many may be leased at once of a job's key.
    pub fn max_of(&self, concurrency: &Concurrency) -> Option<u32> {
        let set = self.settings.keys.get(concurrency.key.as_str());
        set.and_then(|set| set.concurrency).or(concurrency.max)
    }

    /// How many may start in a time of a job's key.
    pub fn rule_of(&self, rate: &Rate) -> RateRule {
        let set = self.settings.keys.get(rate.key.as_str());
        set.and_then(|set| set.rate).unwrap_or(rate.rule)
    }

    /// When the key of a rate lets the next job start; `None`: now.
    pub fn opens_at(&self, rate: &Rate) -> Option<Timestamp> {
        let bucket = self.buckets.get(rate.key.as_str()).copied().unwrap_or_default();
        self.check_rate(self.rule_of(rate), bucket).err()
    }

    fn check_rate(&self, rule: RateRule, bucket: Bucket) -> Result<(), Timestamp> {
        let opens_at = rule.opens_at_us(bucket);
        match opens_at <= self.now_us {
            true => Ok(()),
            // Rounded up: nobody is told to come too early.
            false => Err(Timestamp(opens_at.saturating_add(999).div_euclid(1000))),
        }
    }

    /// The job starts.
    fn spend(&mut self, flow: &Flow) {
        self.leased += 1;
        if let Some(concurrency) = &flow.concurrency {
            *self.slots.entry(concurrency.key.as_str().to_owned()).or_default() += 1;
        }
        if let Some(rule) = self.settings.rate {
            self.bucket.spend(rule, self.now_us);
        }
        if let Some(rate) = &flow.rate {
            let rule = self.rule_of(rate);
            let bucket = self.buckets.entry(rate.key.as_str().to_owned()).or_default();
            bucket.spend(rule, self.now_us);
        }
    }
}

/// A job that waits in a line.
#[derive(Debug, Clone)]
pub struct Waiting<T> {
    /// Higher first.
    pub priority: i32,
    /// Lower first.
    pub place: i64,
    /// Not to be started at or after this time.
    pub expires_at: Option<Timestamp>,
    /// Its payload's size.
    pub bytes: usize,
    /// Its limits.
    pub flow: Flow,
    /// What the store knows it by.
    pub job: T,
}

/// Jobs behind one gate, in the order in which they start.
#[derive(Debug, Clone)]
pub struct Line<T> {
    /// Its name; empty: the line of jobs without keys.
    pub gate: String,
    /// When it was served last, in turns; `None`: it is new.
    pub turn: Option<i64>,
    /// The first of its jobs.
    pub jobs: VecDeque<Waiting<T>>,
    /// Whether there are more than those.
    pub has_more: bool,
}

/// What a claim found at the head of all lines.
#[derive(Debug)]
pub enum Found<T> {
    /// It may start, and is taken.
    Job(Waiting<T>),
    /// It is too old to start, and is taken out.
    Expired(Waiting<T>),
    /// This line must be filled up before anything can be said.
    Dry(usize),
    /// It may start, but is too large for what is asked.
    TooLarge,
    /// No job may start.
    Nothing,
}

/// Serves lines fairly.
#[derive(Debug)]
pub struct Fair<T> {
    admission: Admission,
    lines: Vec<Line<T>>,
    /// Lines by the rank of their first jobs, without those that are closed.
    ranks: BTreeSet<(Reverse<i32>, i64, i64, usize)>,
    dry: Vec<usize>,
    next_turn: i64,
    is_closed: bool,
    reopens_at: Option<Timestamp>,
}

impl<T> Fair<T> {
    /// Lines that are new stand behind the others, in the order of their first jobs.
    pub fn new(admission: Admission, mut lines: Vec<Line<T>>) -> Self {
        let last = lines.iter().filter_map(|line| line.turn).max().unwrap_or(0);
        let first_place = |line: &Line<T>| line.jobs.front().map_or(i64::MAX, |job| job.place);
        let mut new: Vec<usize> = (0..lines.len()).filter(|at| lines[*at].turn.is_none()).collect();
        new.sort_by_key(|at| first_place(&lines[*at]));
        let mut next_turn = last + 1;
        for at in new {
            lines[at].turn = Some(next_turn);
            next_turn += 1;
        }
        let mut fair = Self {
            admission,
            lines,
            ranks: BTreeSet::new(),
            dry: Vec::new(),
            next_turn,
            is_closed: false,
            reopens_at: None,
        };
        (0..fair.lines.len()).for_each(|at| fair.rank(at));
        fair
    }

    fn rank(&mut self, at: usize) {
        let line = &self.lines[at];
        match line.jobs.front() {
            Some(job) => {
                let turn = line.turn.unwrap_or(0);
                self.ranks.insert((Reverse(job.priority), turn, job.place, at));
            }
            None if line.has_more => self.dry.push(at),
            None => {}
        }
    }

    /// The next job, as long as its payload has at most `bytes_max` bytes.
    pub fn next(&mut self, bytes_max: Option<usize>) -> Found<T> {
        if let Some(at) = self.dry.last() {
            return Found::Dry(*at);
        }
        let now = Timestamp(self.admission.now_us.div_euclid(1000));
        while let Some(rank) = self.ranks.first().copied() {
            let at = rank.3;
            let Some(job) = self.lines[at].jobs.front() else {
                self.ranks.remove(&rank);
                continue;
            };
            if job.expires_at.is_some_and(|over| over <= now) {
                return self.take(rank).map_or(Found::Nothing, Found::Expired);
            }
            if let Err(closed) = self.admission.check(&job.flow) {
                self.is_closed = true;
                let until = closed.until();
                self.reopens_at = [self.reopens_at, until].into_iter().flatten().min();
                self.ranks.remove(&rank);
                continue;
            }
            if bytes_max.is_some_and(|max| job.bytes > max) {
                return Found::TooLarge;
            }
            self.admission.spend(&job.flow.clone());
            self.lines[at].turn = Some(self.next_turn);
            self.next_turn += 1;
            return self.take(rank).map_or(Found::Nothing, Found::Job);
        }
        Found::Nothing
    }

    fn take(&mut self, rank: (Reverse<i32>, i64, i64, usize)) -> Option<Waiting<T>> {
        self.ranks.remove(&rank);
        let job = self.lines[rank.3].jobs.pop_front();
        self.rank(rank.3);
        job
    }

    /// A line as it is now.
    pub fn line(&self, at: usize) -> &Line<T> {
        &self.lines[at]
    }

    /// Fills up a line that was dry.
    pub fn fill(&mut self, at: usize, jobs: VecDeque<Waiting<T>>, has_more: bool) {
        self.dry.retain(|dry| *dry != at);
        let line = &mut self.lines[at];
        line.has_more = has_more && !jobs.is_empty();
        line.jobs = jobs;
        self.rank(at);
    }

    /// Whether a line was passed over, and if so, when the first of them opens by itself.
    pub fn closed(&self) -> Option<Option<Timestamp>> {
        self.is_closed.then_some(self.reopens_at)
    }

    /// What is to be remembered: the lines in which somebody waits with their turns, and what is in
    /// use.
    pub fn end(self) -> (Vec<(String, i64)>, Admission) {
        let lines = self.lines.into_iter().filter(|line| !line.jobs.is_empty() || line.has_more);
        let turn = |line: Line<T>| (line.gate, line.turn.unwrap_or(0));
        (lines.map(turn).collect(), self.admission)
    }
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(limit: u32, per_ms: u64, burst: Option<u32>) -> RateRule {
        RateRule { limit, per: Duration::from_millis(per_ms), burst }
    }

    fn key(name: &str) -> FlowKey {
        FlowKey::parse(name).unwrap()
    }

    fn at_once(name: &str, max: u32) -> Flow {
        Flow { concurrency: Some(Concurrency { key: key(name), max: Some(max) }), rate: None }
    }

    fn in_time(name: &str, rule: RateRule) -> Flow {
        Flow { concurrency: None, rate: Some(Rate { key: key(name), rule }) }
    }

    fn waiting(place: i64, priority: i32, flow: &Flow) -> Waiting<i64> {
        let flow = flow.clone();
        Waiting { priority, place, expires_at: None, bytes: 1, flow, job: place }
    }

    fn line(jobs: Vec<Waiting<i64>>) -> Line<i64> {
        let gate = jobs[0].flow.gate().unwrap_or_default();
        Line { gate, turn: None, jobs: jobs.into(), has_more: false }
    }

    fn all(fair: &mut Fair<i64>) -> Vec<i64> {
        let mut taken = Vec::new();
        while let Found::Job(job) = fair.next(None) {
            taken.push(job.job);
        }
        taken
    }

    fn served(lines: Vec<Line<i64>>) -> Vec<i64> {
        all(&mut Fair::new(Admission { now_us: 1_000_000, ..Admission::default() }, lines))
    }

    #[test]
    fn lines_take_turns_and_each_is_first_in_first_out() {
        let (a, b) = (at_once("a", 9), at_once("b", 9));
        let many = (1..=4).map(|place| waiting(place, 0, &a)).collect();
        let few = vec![waiting(5, 0, &b), waiting(6, 0, &b)];
        assert_eq!(served(vec![line(many), line(few)]), [1, 5, 2, 6, 3, 4]);
    }

    #[test]
    fn a_higher_priority_comes_before_a_turn() {
        let (a, b) = (at_once("a", 9), at_once("b", 9));
        let high = vec![waiting(1, 5, &a), waiting(2, 5, &a)];
        assert_eq!(served(vec![line(high), line(vec![waiting(3, 0, &b)])]), [1, 2, 3]);
    }

    #[test]
    fn a_key_that_is_full_keeps_nobody_else_waiting() {
        let (a, plain) = (at_once("a", 1), Flow::default());
        let full = vec![waiting(1, 0, &a), waiting(2, 0, &a)];
        assert_eq!(served(vec![line(full), line(vec![waiting(3, 0, &plain)])]), [1, 3]);
    }

    #[test]
    fn who_was_served_last_time_waits_for_the_others() {
        let (a, b) = (at_once("a", 9), at_once("b", 9));
        let lines = || {
            let a = Line { turn: Some(7), ..line(vec![waiting(1, 0, &a)]) };
            let jobs = vec![waiting(2, 0, &b), waiting(3, 0, &b)];
            vec![a, Line { turn: Some(3), ..line(jobs) }]
        };
        assert_eq!(served(lines()), [2, 1, 3]);
        let mut fair = Fair::new(Admission::default(), lines());
        fair.next(None);
        assert_eq!(fair.end().0, [("a\n".to_owned(), 7), ("b\n".to_owned(), 8)]);
    }

    #[test]
    fn a_rate_gives_its_burst_and_then_one_at_a_time() {
        let flow = in_time("api", rule(10, 1000, Some(2)));
        let jobs = || line((1..=9).map(|place| waiting(place, 0, &flow)).collect());
        let mut admission = Admission { now_us: 5_000_000, ..Admission::default() };
        let mut fair = Fair::new(admission.clone(), vec![jobs()]);
        assert_eq!(all(&mut fair).len(), 2);
        assert_eq!(fair.closed(), Some(Some(Timestamp(5_100))));
        admission = fair.end().1;
        for (now_ms, count) in [(5_099, 0), (5_100, 1), (5_150, 0), (5_200, 1), (9_000, 2)] {
            admission.now_us = now_ms * 1000;
            let mut fair = Fair::new(admission, vec![jobs()]);
            assert_eq!(all(&mut fair).len(), count, "{now_ms}");
            admission = fair.end().1;
        }
    }

    /// How many jobs of a rule start at each of these times.
    fn starts(rule: RateRule, times_ms: impl Iterator<Item = i64>) -> Vec<usize> {
        let flow = in_time("api", rule);
        let mut admission = Admission::default();
        let at = |now_ms: i64| {
            admission.now_us = now_ms * 1000;
            let jobs = line((1..=9).map(|place| waiting(place, 0, &flow)).collect());
            let mut fair = Fair::new(std::mem::take(&mut admission), vec![jobs]);
            let count = all(&mut fair).len();
            admission = fair.end().1;
            count
        };
        times_ms.map(at).collect()
    }

    #[test]
    fn claims_that_come_a_little_late_do_not_slow_a_rate_down() {
        let each = |late_ms: i64| (50..250).map(move |start| start * 100 + late_ms);
        for late_ms in [0, 1, 30, 99] {
            let starts = starts(rule(10, 1000, Some(1)), each(late_ms));
            assert_eq!(starts, [1; 200], "{late_ms}");
        }
        let uneven = (0..200).map(|start| 5_000 + start * 100 + start * 37 % 90);
        assert_eq!(starts(rule(10, 1000, Some(1)), uneven), [1; 200]);
    }

    #[test]
    fn nobody_gets_more_than_the_burst_at_once_however_late_it_is() {
        for late_ms in [5, 99, 100, 101, 5_000] {
            let times = [5_000, 5_100 + late_ms].into_iter();
            assert_eq!(starts(rule(10, 1000, Some(1)), times), [1, 1], "{late_ms}");
            let times = [5_000, 5_200 + late_ms].into_iter();
            assert_eq!(starts(rule(10, 1000, Some(2)), times), [2, 2], "{late_ms}");
        }
    }

    #[test]
    fn over_a_long_time_a_rate_is_exact() {
        let started: usize = starts(rule(7, 1000, None), 0..60_000).into_iter().sum();
        assert!((420..=422).contains(&started), "{started}");
    }

    #[test]
    fn what_people_have_set_counts_for_more_than_what_jobs_say() {
        let mut admission = Admission { now_us: 1_000_000, ..Admission::default() };
        let set = super::super::KeyLimits { concurrency: Some(3), rate: None };
        admission.settings.keys.insert("a".into(), set);
        let flow = at_once("a", 1);
        let jobs = (1..=5).map(|place| waiting(place, 0, &flow)).collect();
        assert_eq!(all(&mut Fair::new(admission, vec![line(jobs)])).len(), 3);
    }

    #[test]
    fn the_queue_has_limits_too() {
        let settings = Settings { concurrency: Some(5), ..Settings::default() };
        let admission = Admission { settings, leased: 3, ..Admission::default() };
        let jobs = (1..=5).map(|place| waiting(place, 0, &Flow::default())).collect();
        assert_eq!(all(&mut Fair::new(admission, vec![line(jobs)])).len(), 2);
    }

    #[test]
    fn what_is_too_old_is_found_and_what_is_too_large_is_left() {
        let plain = Flow::default();
        let old = Waiting { expires_at: Some(Timestamp(0)), ..waiting(1, 0, &plain) };
        let large = Waiting { bytes: 100, ..waiting(2, 0, &plain) };
        let mut fair = Fair::new(Admission::default(), vec![line(vec![old, large])]);
        assert!(matches!(fair.next(None), Found::Expired(job) if job.job == 1));
        assert!(matches!(fair.next(Some(99)), Found::TooLarge));
        assert!(matches!(fair.next(Some(100)), Found::Job(job) if job.job == 2));
    }

    #[test]
    fn a_dry_line_is_filled_before_others_are_served() {
        let plain = Flow::default();
        let short = Line { has_more: true, ..line(vec![waiting(1, 0, &plain)]) };
        let mut fair = Fair::new(Admission::default(), vec![short]);
        assert!(matches!(fair.next(None), Found::Job(_)));
        assert!(matches!(fair.next(None), Found::Dry(0)));
        fair.fill(0, VecDeque::from([waiting(2, 0, &plain)]), false);
        assert!(matches!(fair.next(None), Found::Job(job) if job.job == 2));
        assert!(matches!(fair.next(None), Found::Nothing));
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        for bad in [rule(0, 1, None), rule(1, 0, None), rule(2, 1_000_000_000, None)] {
            assert!(bad.check("rate").is_err(), "{bad:?}");
        }
        assert!(rule(1001, 1, None).check("rate").is_err(), "more than a million in a second");
        assert!(rule(5, 1000, Some(0)).check("rate").is_err());
        assert!(rule(5, 1000, Some(5)).check("rate").is_ok());
        assert!(at_once("a", 0).check().is_err());
    }
}
