//! Records sorted by what they are about.

use super::clock::Clock;
use crate::history::{
    Call, Duty, End, Fault, History, How, JobEnd, LeaseEnd, Record, Rule, Slot, State, Waits, What,
};

/// Where a record stands in the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct At(u32);

impl At {
    fn new(place: usize) -> Self {
        Self(u32::try_from(place).expect("four thousand million records do not fit in memory"))
    }

    pub(super) fn place(self) -> usize {
        self.0 as usize
    }
}

/// A record, by what it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    /// The job; or the key of a push.
    of: u64,
    /// The lease; 0 if it is about none.
    delivery: u32,
    at: At,
}

/// A push of a job.
#[derive(Debug, Clone, Copy)]
pub(super) struct Push<'t> {
    pub(super) at: At,
    pub(super) call: &'t Call,
    pub(super) key: u64,
    pub(super) queue: u16,
    pub(super) job: u64,
    pub(super) run_at_ms: i64,
    pub(super) waits: Waits,
    pub(super) repeated: bool,
}

/// A lease, as a client received it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Received<'t> {
    pub(super) at: At,
    pub(super) call: &'t Call,
    pub(super) key: u64,
    pub(super) queue: u16,
    pub(super) delivery: u32,
    pub(super) attempt: u32,
    pub(super) begins_ms: i64,
    pub(super) until_ms: i64,
    pub(super) is_timed: bool,
}

/// A lease was used.
#[derive(Debug, Clone, Copy)]
pub(super) struct Use<'t> {
    pub(super) at: At,
    pub(super) call: &'t Call,
    pub(super) delivery: u32,
    pub(super) how: How,
    pub(super) until_ms: i64,
}

/// A lease, from all that is known of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span<'t> {
    pub(super) delivery: u32,
    pub(super) begins_ms: i64,
    /// `None`: it is not known, or not yet.
    pub(super) ended_ms: Option<i64>,
    /// Empty: it is not known.
    pub(super) ending: &'t str,
    /// By a client; the first time.
    pub(super) received: Option<Received<'t>>,
    /// In the job's timeline.
    pub(super) told: Option<(At, &'t LeaseEnd)>,
}

impl Span<'_> {
    /// The records that it is known from.
    pub(super) fn proof(&self) -> impl Iterator<Item = At> {
        let received = self.received.map(|received| received.at);
        received.into_iter().chain(self.told.map(|(at, _)| at))
    }
}

/// A history, sorted.
#[derive(Debug)]
pub(super) struct Tables<'t> {
    pub(super) records: &'t [Record],
    pub(super) is_cut: bool,
    pub(super) calls: u64,
    pub(super) unknown: u64,
    /// When the last push was answered.
    pub(super) pushed_ns: u64,
    pub(super) faults: Vec<&'t Fault>,
    pub(super) duties: Vec<(At, &'t Duty)>,
    pub(super) rules: Vec<&'t Rule>,
    pub(super) slots: Vec<(At, &'t Slot)>,
    pub(super) end: Option<(At, &'t End)>,
    /// Calls that were not answered as they should be once all is well.
    pub(super) refusals: Vec<(At, &'t Call)>,
    by_job: ByJob,
    by_key: ByKey,
}

#[derive(Debug, Default)]
struct ByJob {
    pushes: Vec<Entry>,
    received: Vec<Entry>,
    uses: Vec<Entry>,
    cancels: Vec<Entry>,
    ends: Vec<Entry>,
    told: Vec<Entry>,
    slots: Vec<Entry>,
}

#[derive(Debug, Default)]
struct ByKey {
    pushes: Vec<Entry>,
    ends: Vec<Entry>,
}

impl<'t> Tables<'t> {
    pub(super) fn of(history: &'t History) -> Self {
        let mut tables = Self {
            records: &history.records,
            is_cut: history.is_cut,
            calls: 0,
            unknown: 0,
            pushed_ns: 0,
            faults: Vec::new(),
            duties: Vec::new(),
            rules: Vec::new(),
            slots: Vec::new(),
            end: None,
            refusals: Vec::new(),
            by_job: ByJob::default(),
            by_key: ByKey::default(),
        };
        for (place, record) in history.records.iter().enumerate() {
            tables.add(At::new(place), record);
        }
        let ByJob { pushes, received, uses, cancels, ends, told, slots } = &mut tables.by_job;
        let ByKey { pushes: keys, ends: keys_of_ends } = &mut tables.by_key;
        for entries in [pushes, received, uses, cancels, ends, told, slots, keys, keys_of_ends] {
            entries.sort_unstable();
        }
        tables.slots.sort_unstable_by_key(|(at, slot)| (slot.schedule, slot.slot_ms, *at));
        tables
    }

    fn add(&mut self, at: At, record: &'t Record) {
        match record {
            Record::Call(call) => self.add_call(at, call),
            Record::Fault(fault) => self.faults.push(fault),
            Record::Job(end) => {
                self.by_job.ends.push(Entry { of: end.job, delivery: 0, at });
                if end.key != 0 {
                    self.by_key.ends.push(Entry { of: end.key, delivery: 0, at });
                }
            }
            Record::Lease(end) => {
                self.by_job.told.push(Entry { of: end.job, delivery: end.delivery, at });
            }
            Record::Slot(slot) => {
                self.slots.push((at, slot));
                if slot.job != 0 {
                    self.by_job.slots.push(Entry { of: slot.job, delivery: 0, at });
                }
            }
            Record::Duty(duty) => self.duties.push((at, duty)),
            Record::Rule(rule) => self.rules.push(rule),
            Record::End(end) => self.end = Some((at, end)),
        }
    }

    fn add_call(&mut self, at: At, call: &'t Call) {
        self.calls += 1;
        if call.outcome.is_unknown() {
            self.unknown += 1;
        }
        if is_refusal(call) {
            self.refusals.push((at, call));
        }
        match call.what {
            What::Push { key, job, .. } => {
                self.pushed_ns = self.pushed_ns.max(call.end_ns);
                self.by_key.pushes.push(Entry { of: key, delivery: 0, at });
                if job != 0 {
                    self.by_job.pushes.push(Entry { of: job, delivery: 0, at });
                }
            }
            What::Lease { job, delivery, .. } => {
                self.by_job.received.push(Entry { of: job, delivery, at });
            }
            What::Settle { job, delivery, .. } | What::Lost { job, delivery } => {
                self.by_job.uses.push(Entry { of: job, delivery, at });
            }
            What::Cancel { job } => self.by_job.cancels.push(Entry { of: job, delivery: 0, at }),
            What::Look => {}
        }
    }

    /// Whether it is known what was left when all was over.
    pub(super) fn is_ended(&self) -> bool {
        self.end.is_some() && !self.is_cut
    }

    pub(super) fn clock(&self) -> Option<Clock> {
        self.end.map(|(_, end)| Clock::of(end))
    }

    /// Looks at each job that anybody knows of.
    pub(super) fn each_case(&self, mut look: impl FnMut(&Case<'_>)) {
        let ByJob { pushes, received, uses, cancels, ends, told, slots } = &self.by_job;
        let mut left: [&[Entry]; 7] = [pushes, received, uses, cancels, ends, told, slots];
        let mut spans = Vec::new();
        while let Some(job) = first(&left) {
            let [pushes, received, uses, cancels, ends, told, slots] = take(&mut left, job);
            self.find_spans(&mut spans, received, told, ends);
            let (tables, spans) = (self, &spans[..]);
            look(&Case { tables, job, spans, pushes, received, uses, cancels, ends, told, slots });
        }
    }

    /// Looks at each key of a push or of a job that is left.
    pub(super) fn each_key(&self, mut look: impl FnMut(&KeyCase<'_>)) {
        let mut left: [&[Entry]; 2] = [&self.by_key.pushes, &self.by_key.ends];
        while let Some(key) = first(&left) {
            let [pushes, ends] = take(&mut left, key);
            look(&KeyCase { tables: self, key, pushes, ends });
        }
    }

    /// All pushes with a key.
    pub(super) fn pushes_of(&self, key: u64) -> impl Iterator<Item = Push<'t>> + '_ {
        range(&self.by_key.pushes, key).iter().filter_map(|entry| self.push(entry.at))
    }

    /// Whether schedules push to a queue.
    pub(super) fn has_schedules(&self, queue: u16) -> bool {
        let is_of = |rule: &&Rule| matches!(rule, Rule::Schedule { queue: of, .. } if *of == queue);
        self.rules.iter().any(is_of)
    }

    /// What was left of a job.
    pub(super) fn end_of(&self, job: u64) -> Option<(At, &'t JobEnd)> {
        range(&self.by_job.ends, job).first().and_then(|entry| self.end(entry.at))
    }

    fn find_spans(
        &self,
        spans: &mut Vec<Span<'t>>,
        received: &[Entry],
        told: &[Entry],
        ends: &[Entry],
    ) {
        let received = received.iter().filter_map(|entry| self.received(entry.at));
        spans.clear();
        spans.extend(received.map(|received| Span {
            delivery: received.delivery,
            begins_ms: received.begins_ms,
            ended_ms: None,
            ending: "",
            received: Some(received),
            told: None,
        }));
        spans.dedup_by_key(|span| span.delivery);
        for told in told.iter().filter_map(|entry| self.told(entry.at)) {
            add_told(spans, told);
        }
        let mut ends = ends.iter().filter_map(|entry| self.end(entry.at));
        if let (Some((_, end)), Some(last)) = (ends.next(), spans.last_mut())
            && end.state == State::Completed
            && end.deliveries == last.delivery
            && end.finished_ms != 0
        {
            last.ended_ms.get_or_insert(end.finished_ms);
        }
    }

    fn push(&self, at: At) -> Option<Push<'t>> {
        let Record::Call(call) = &self.records[at.place()] else { return None };
        let What::Push { key, queue, job, run_at_ms, waits, repeated } = call.what else {
            return None;
        };
        Some(Push { at, call, key, queue, job, run_at_ms, waits, repeated })
    }

    fn received(&self, at: At) -> Option<Received<'t>> {
        let Record::Call(call) = &self.records[at.place()] else { return None };
        let What::Lease { key, queue, delivery, attempt, begins_ms, until_ms, is_timed, .. } =
            call.what
        else {
            return None;
        };
        let lease =
            Received { at, call, key, queue, delivery, attempt, begins_ms, until_ms, is_timed };
        Some(lease)
    }

    fn using(&self, at: At) -> Option<Use<'t>> {
        let Record::Call(call) = &self.records[at.place()] else { return None };
        let What::Settle { delivery, how, until_ms, .. } = call.what else { return None };
        Some(Use { at, call, delivery, how, until_ms })
    }

    fn end(&self, at: At) -> Option<(At, &'t JobEnd)> {
        match &self.records[at.place()] {
            Record::Job(end) => Some((at, end)),
            _ => None,
        }
    }

    fn told(&self, at: At) -> Option<(At, &'t LeaseEnd)> {
        match &self.records[at.place()] {
            Record::Lease(end) => Some((at, end)),
            _ => None,
        }
    }
}

/// Whether a call was answered as none is once all is well.
fn is_refusal(call: &Call) -> bool {
    use crate::history::Outcome::{CutOff, Rejected};
    use batonq_protocol::ErrorCode::Unavailable;
    // Who goes away is not refused.
    (call.outcome.is_unknown() && call.outcome != CutOff) || call.outcome == Rejected(Unavailable)
}

/// The lowest that is left.
fn first(left: &[&[Entry]]) -> Option<u64> {
    left.iter().filter_map(|entries| Some(entries.first()?.of)).min()
}

/// Takes what is about this one.
fn take<'t, const N: usize>(left: &mut [&'t [Entry]; N], of: u64) -> [&'t [Entry]; N] {
    left.each_mut().map(|entries| {
        let count = entries.iter().take_while(|entry| entry.of == of).count();
        let (taken, rest) = entries.split_at(count);
        *entries = rest;
        taken
    })
}

fn range(entries: &[Entry], of: u64) -> &[Entry] {
    let entries = &entries[entries.partition_point(|entry| entry.of < of)..];
    &entries[..entries.partition_point(|entry| entry.of == of)]
}

/// All that is known of a job.
#[derive(Debug)]
pub(super) struct Case<'t> {
    pub(super) tables: &'t Tables<'t>,
    pub(super) job: u64,
    /// Its leases, by delivery, each once.
    pub(super) spans: &'t [Span<'t>],
    pushes: &'t [Entry],
    received: &'t [Entry],
    uses: &'t [Entry],
    cancels: &'t [Entry],
    ends: &'t [Entry],
    told: &'t [Entry],
    slots: &'t [Entry],
}

impl<'t> Case<'t> {
    /// Pushes that were answered with its number.
    pub(super) fn pushes(&self) -> impl Iterator<Item = Push<'t>> {
        self.pushes.iter().filter_map(|entry| self.tables.push(entry.at))
    }

    /// Leases that clients received, by delivery.
    pub(super) fn received(&self) -> impl Iterator<Item = Received<'t>> {
        self.received.iter().filter_map(|entry| self.tables.received(entry.at))
    }

    /// What was done with its leases, by delivery.
    pub(super) fn uses(&self) -> impl Iterator<Item = Use<'t>> {
        self.uses.iter().filter_map(|entry| self.tables.using(entry.at))
    }

    /// What was done with one of its leases.
    pub(super) fn uses_of(&self, delivery: u32) -> impl Iterator<Item = Use<'t>> {
        self.uses().filter(move |using| using.delivery == delivery)
    }

    /// Whether its client says that one of its leases was lost.
    pub(super) fn is_lost(&self, delivery: u32) -> bool {
        let is_loss = |entry: &&Entry| match &self.tables.records[entry.at.place()] {
            Record::Call(call) => matches!(call.what, What::Lost { .. }),
            _ => false,
        };
        self.uses.iter().filter(is_loss).any(|entry| entry.delivery == delivery)
    }

    /// What was left of it; as a rule, one.
    pub(super) fn ends(&self) -> impl Iterator<Item = (At, &'t JobEnd)> {
        self.ends.iter().filter_map(|entry| self.tables.end(entry.at))
    }

    /// Whether its timeline is known.
    pub(super) fn has_timeline(&self) -> bool {
        !self.told.is_empty()
    }

    /// Whether somebody may have asked for its end.
    pub(super) fn may_be_cancelled(&self) -> bool {
        self.cancels.iter().any(|entry| match &self.tables.records[entry.at.place()] {
            Record::Call(call) => call.outcome.is_possible(),
            _ => false,
        })
    }

    /// The slots that it is of.
    pub(super) fn slots(&self) -> impl Iterator<Item = At> {
        self.slots.iter().map(|entry| entry.at)
    }

    /// Whether a schedule made it.
    pub(super) fn is_of_a_slot(&self) -> bool {
        !self.slots.is_empty()
    }

    /// The queue that it is in, by whoever says so.
    pub(super) fn queue(&self) -> Option<u16> {
        let end = self.ends().next().map(|(_, end)| end.queue);
        let received = || self.received().next().map(|lease| lease.queue);
        end.or_else(received).or_else(|| self.pushes().next().map(|push| push.queue))
    }

    /// The push that it came from, or one like it.
    pub(super) fn push(&self) -> Option<Push<'t>> {
        let key = || {
            let end = self.ends().next().map(|(_, end)| end.key);
            end.or_else(|| self.received().next().map(|lease| lease.key)).filter(|key| *key != 0)
        };
        self.pushes().next().or_else(|| self.tables.pushes_of(key()?).next())
    }
}

/// Adds what the timeline says of a lease.
fn add_told<'t>(spans: &mut Vec<Span<'t>>, (at, end): (At, &'t LeaseEnd)) {
    let place = match spans.binary_search_by_key(&end.delivery, |span| span.delivery) {
        Ok(place) => place,
        Err(place) => {
            let span = Span {
                delivery: end.delivery,
                begins_ms: end.begins_ms,
                ended_ms: None,
                ending: "",
                received: None,
                told: None,
            };
            spans.insert(place, span);
            place
        }
    };
    let span = &mut spans[place];
    span.ended_ms = (end.ended_ms != 0).then_some(end.ended_ms);
    span.ending = &end.ending;
    span.told = Some((at, end));
}

/// All that is known of a key.
#[derive(Debug)]
pub(super) struct KeyCase<'t> {
    pub(super) tables: &'t Tables<'t>,
    pub(super) key: u64,
    pushes: &'t [Entry],
    ends: &'t [Entry],
}

impl<'t> KeyCase<'t> {
    /// Pushes with the key, in the order of their records.
    pub(super) fn pushes(&self) -> impl Iterator<Item = Push<'t>> {
        self.pushes.iter().filter_map(|entry| self.tables.push(entry.at))
    }

    /// Jobs with the key that were left.
    pub(super) fn ends(&self) -> impl Iterator<Item = (At, &'t JobEnd)> {
        self.ends.iter().filter_map(|entry| self.tables.end(entry.at))
    }

    /// Whether a job is there although nobody was told so.
    pub(super) fn is_recovered(&self) -> bool {
        let is_told = self.pushes().any(|push| push.call.outcome.is_ok());
        !is_told
            && !self.ends.is_empty()
            && self.pushes().any(|push| push.call.outcome.is_unknown())
    }
}
