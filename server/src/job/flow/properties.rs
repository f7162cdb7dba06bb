//! What holds of every claim, whatever waits and whatever is in use: counted again here, from who
//! started and who ended.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// A job of a test: its key, if it has one, and its priority.
type Given = (Option<u8>, i32);

/// Jobs that wait, limits of keys by number, the limit of the queue, and how many leases end after
/// each claim.
#[derive(Debug, Clone)]
struct Case {
    jobs: Vec<Given>,
    key_max: Vec<Option<u32>>,
    queue_max: Option<u32>,
    rate: Option<RateRule>,
    ends: Vec<usize>,
}

fn cases() -> impl Strategy<Value = Case> {
    let job = (proptest::option::weighted(0.7, 0_u8..4), 0_i32..3);
    let key_max = proptest::collection::vec(proptest::option::of(1_u32..4), 4);
    let rate = (1_u32..20, proptest::option::of(1_u32..5)).prop_map(|(limit, burst)| RateRule {
        limit,
        per: Duration::from_secs(1),
        burst,
    });
    let parts = (
        proptest::collection::vec(job, 0..40),
        key_max,
        proptest::option::of(1_u32..8),
        proptest::option::weighted(0.4, rate),
        proptest::collection::vec(0_usize..6, 1..20),
    );
    parts.prop_map(|(jobs, key_max, queue_max, rate, ends)| Case {
        jobs,
        key_max,
        queue_max,
        rate,
        ends,
    })
}

impl Case {
    fn flow(&self, key: Option<u8>) -> Flow {
        let concurrency = key.map(|number| Concurrency {
            key: FlowKey::parse(&format!("k{number}")).expect("a good key"),
            max: self.key_max[usize::from(number)],
        });
        Flow { concurrency, rate: None }
    }

    fn waiting(&self) -> BTreeMap<String, Vec<Waiting<usize>>> {
        let mut lines: BTreeMap<String, Vec<Waiting<usize>>> = BTreeMap::new();
        for (place, (key, priority)) in self.jobs.iter().enumerate() {
            let flow = self.flow(*key);
            let waiting = Waiting {
                priority: *priority,
                place: place as i64,
                expires_at: None,
                bytes: 1,
                flow: flow.clone(),
                job: place,
            };
            lines.entry(flow.gate().unwrap_or_default()).or_default().push(waiting);
        }
        for line in lines.values_mut() {
            line.sort_by_key(|job| (Reverse(job.priority), job.place));
        }
        lines
    }
}

/// A queue that is claimed from again and again.
struct Queue<'a> {
    case: &'a Case,
    lines: BTreeMap<String, Vec<Waiting<usize>>>,
    turns: HashMap<String, i64>,
    bucket: Bucket,
    /// Jobs in the order in which they started; ended ones are taken out.
    leased: Vec<usize>,
    /// When each job started, in µs.
    starts: Vec<(i64, usize)>,
}

impl<'a> Queue<'a> {
    fn new(case: &'a Case) -> Self {
        let (lines, turns) = (case.waiting(), HashMap::new());
        let (bucket, leased, starts) = (Bucket::default(), Vec::new(), Vec::new());
        Self { case, lines, turns, bucket, leased, starts }
    }

    fn leased_of(&self, key: u8) -> u32 {
        let of_key = |job: &&usize| self.case.jobs[**job].0 == Some(key);
        self.leased.iter().filter(of_key).count() as u32
    }

    /// Counted without what is tested.
    fn may_start(&self, job: usize) -> bool {
        let queue_is_open = self.case.queue_max.is_none_or(|max| (self.leased.len() as u32) < max);
        let key_is_open = self.case.jobs[job].0.is_none_or(|key| {
            self.case.key_max[usize::from(key)].is_none_or(|max| self.leased_of(key) < max)
        });
        queue_is_open && key_is_open
    }

    fn fair(&self, now_us: i64) -> Fair<usize> {
        let concurrency = self.case.queue_max;
        let settings = Settings { concurrency, rate: self.case.rate, ..Settings::default() };
        let slots = (0..4).map(|key| (format!("k{key}"), self.leased_of(key))).collect();
        let leased = self.leased.len() as u32;
        let bucket = self.bucket;
        let admission = Admission { settings, leased, slots, bucket, now_us, ..<_>::default() };
        let line = |(gate, jobs): (&String, &Vec<Waiting<usize>>)| Line {
            gate: gate.clone(),
            turn: self.turns.get(gate).copied(),
            jobs: jobs.clone().into(),
            has_more: false,
        };
        Fair::new(
            admission,
            self.lines.iter().filter(|(_, jobs)| !jobs.is_empty()).map(line).collect(),
        )
    }

    /// All that may start does.
    fn claim(&mut self, now_us: i64) -> Result<(), TestCaseError> {
        let mut fair = self.fair(now_us);
        loop {
            match fair.next(None) {
                Found::Job(job) => self.start(job.job, now_us)?,
                Found::Nothing => break,
                other => prop_assert!(false, "{other:?}"),
            }
        }
        let is_closed = fair.closed().is_some();
        let (turns, admission) = fair.end();
        self.turns = turns.into_iter().collect();
        self.bucket = admission.bucket;
        let heads = self.lines.values().filter_map(|line| line.first());
        let could: Vec<usize> =
            heads.map(|head| head.job).filter(|job| self.may_start(*job)).collect();
        if self.case.rate.is_none() {
            prop_assert!(could.is_empty(), "{could:?} may start and were left");
        }
        prop_assert!(is_closed || self.lines.values().all(Vec::is_empty));
        Ok(())
    }

    fn start(&mut self, job: usize, now_us: i64) -> Result<(), TestCaseError> {
        prop_assert!(self.may_start(job), "{job} may not start");
        let (_, priority) = self.case.jobs[job];
        let heads: Vec<(usize, i32)> = self
            .lines
            .values()
            .filter_map(|line| line.first())
            .map(|head| (head.job, head.priority))
            .collect();
        prop_assert!(heads.iter().any(|(head, _)| *head == job), "{job} is first in no line");
        for (head, higher) in heads {
            let is_passed_over = higher > priority && self.may_start(head);
            prop_assert!(!is_passed_over, "{job} started before {head}");
        }
        for line in self.lines.values_mut() {
            if line.first().is_some_and(|head| head.job == job) {
                line.remove(0);
            }
        }
        self.leased.push(job);
        self.starts.push((now_us, job));
        Ok(())
    }

    fn end(&mut self, count: usize) {
        let count = count.min(self.leased.len());
        self.leased.drain(..count);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..<_>::default() })]

    /// Each start is judged by [`Queue::start`], each end of a claim by [`Queue::claim`].
    #[test]
    fn each_job_starts_once_in_its_order_within_all_limits(case in cases(), step_ms in 1_i64..400) {
        let mut queue = Queue::new(&case);
        let mut now_us = 1_000_000;
        for ends in &case.ends {
            queue.claim(now_us)?;
            queue.end(*ends);
            now_us += step_ms * 1000;
        }
        let waiting: usize = queue.lines.values().map(Vec::len).sum();
        prop_assert_eq!(waiting + queue.starts.len(), case.jobs.len());
        let started: std::collections::HashSet<usize> =
            queue.starts.iter().map(|(_, job)| *job).collect();
        prop_assert_eq!(started.len(), queue.starts.len());
    }

    /// In any stretch of time: the burst, what comes in the time, and one that was late.
    #[test]
    fn no_more_start_in_a_time_than_a_rate_lets(case in cases(), step_ms in 1_i64..400) {
        let Some(rate) = case.rate else { return Ok(()) };
        let mut queue = Queue::new(&case);
        let mut now_us = 1_000_000;
        for _ in 0..30 {
            queue.claim(now_us)?;
            queue.end(usize::MAX);
            now_us += step_ms * 1000;
        }
        let interval = 1_000_000 / i64::from(rate.limit);
        let burst = i64::from(rate.burst.unwrap_or(rate.limit.div_ceil(4)).max(1));
        for (first, (from, _)) in queue.starts.iter().enumerate() {
            for (count, (to, _)) in (1..).zip(&queue.starts[first..]) {
                let most = burst + (to - from) / interval + 1;
                prop_assert!(count <= most, "{count} of {rate:?} within {} µs", to - from);
            }
        }
    }

    #[test]
    fn no_line_is_served_twice_while_another_of_its_priority_waits(
        lengths in proptest::collection::vec(1_usize..8, 2..6)
    ) {
        let jobs: Vec<Given> = (0_u8..)
            .zip(&lengths)
            .flat_map(|(key, length)| std::iter::repeat_n((Some(key % 4), 0), *length))
            .collect();
        let case = Case { jobs, key_max: vec![None; 4], queue_max: None, rate: None, ends: vec![] };
        let mut queue = Queue::new(&case);
        let mut left: BTreeMap<String, usize> =
            queue.lines.iter().map(|(gate, jobs)| (gate.clone(), jobs.len())).collect();
        queue.claim(1_000_000)?;
        let gates = queue.starts.iter().map(|(_, job)| case.flow(case.jobs[*job].0).gate());
        let mut round = std::collections::HashSet::new();
        for gate in gates {
            let gate = gate.expect("all have keys");
            if !round.insert(gate.clone()) {
                let missed: Vec<_> =
                    left.iter().filter(|(other, count)| **count > 0 && !round.contains(*other)).collect();
                prop_assert!(missed.is_empty(), "{missed:?} waited while {gate} was served twice");
                round = [gate.clone()].into();
            }
            *left.get_mut(&gate).expect("one of them") -= 1;
        }
    }
}
