//! Takes what happens from many tasks, on one clock.
//!
//! A [`Recorder`] is cheap to clone and to call: what one call of a client brought is handed over at
//! once, and nobody waits. The other end, the [`Recording`], gets all of it, in the order in which
//! it was handed over, and ends when the last recorder is dropped. In between lies what has not been
//! taken yet: whoever records a long run writes it away as it comes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::mpsc;

use crate::clock::RunClock;
use crate::history::{Call, Outcome, Record, What};

/// The tasks' end.
#[derive(Debug, Clone)]
pub struct Recorder {
    shared: Arc<Shared>,
    sender: mpsc::UnboundedSender<Vec<Record>>,
}

#[derive(Debug)]
struct Shared {
    clock: RunClock,
    last_client: AtomicU32,
}

/// The other end.
#[derive(Debug)]
pub struct Recording {
    receiver: mpsc::UnboundedReceiver<Vec<Record>>,
}

/// Records the calls of one client.
#[derive(Debug, Clone)]
pub struct Pen {
    recorder: Recorder,
    client: u32,
    node: u8,
}

/// Calls of a client that go on, one for each job. Dropped without an answer, as when the client is
/// cut off: nobody knows what came of them.
#[derive(Debug)]
pub struct Open {
    pen: Pen,
    start_ns: u64,
    asked: Vec<What>,
}

impl Recorder {
    /// Begins a run: its clock is at zero.
    pub fn begin() -> (Self, Recording) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let shared = Shared { clock: RunClock::new(), last_client: AtomicU32::new(0) };
        (Self { shared: Arc::new(shared), sender }, Recording { receiver })
    }

    /// The clock of the run, for others who write records.
    pub fn clock(&self) -> RunClock {
        self.shared.clock
    }

    /// The time of the run, in nanoseconds.
    pub fn now_ns(&self) -> u64 {
        self.clock().now_ns()
    }

    /// Records something that is no call.
    pub fn record(&self, record: Record) {
        self.record_all(vec![record]);
    }

    /// Records several things.
    pub fn record_all(&self, records: Vec<Record>) {
        if !records.is_empty() {
            // Nobody listens any more: the run was given up.
            self.sender.send(records).ok();
        }
    }

    /// One more client, of this node; 0: of any.
    pub fn pen(&self, node: u8) -> Pen {
        let client = self.shared.last_client.fetch_add(1, Ordering::Relaxed) + 1;
        Pen { recorder: self.clone(), client, node }
    }
}

impl Pen {
    /// The time of the run, in nanoseconds.
    pub fn now_ns(&self) -> u64 {
        self.recorder.now_ns()
    }

    /// Records a call that began at `start_ns` and is over now, for each of the jobs that it was
    /// about.
    pub fn call(&self, start_ns: u64, jobs: impl IntoIterator<Item = (What, Outcome)>) {
        let (client, node, end_ns) = (self.client, self.node, self.now_ns());
        let call = |(what, outcome)| Call { start_ns, end_ns, client, node, what, outcome };
        self.recorder.record_all(jobs.into_iter().map(call).map(Record::Call).collect());
    }
}

impl Pen {
    /// Begins a call, for each of the jobs that it is about.
    pub fn begin(&self, asked: impl IntoIterator<Item = What>) -> Open {
        let (pen, start_ns) = (self.clone(), self.now_ns());
        Open { pen, start_ns, asked: asked.into_iter().collect() }
    }
}

impl Open {
    /// Records what came of it.
    pub fn answered(mut self, jobs: impl IntoIterator<Item = (What, Outcome)>) {
        self.asked.clear();
        self.pen.call(self.start_ns, jobs);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let unknown = self.asked.drain(..).map(|what| (what, Outcome::CutOff));
        self.pen.call(self.start_ns, unknown);
    }
}

impl Recording {
    /// What was recorded next, together; `None`: there will be no more.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub async fn next(&mut self) -> Option<Vec<Record>> {
        self.receiver.recv().await
    }

    /// All that has been recorded so far.
    pub fn take(&mut self) -> Vec<Record> {
        let mut all = Vec::new();
        while let Ok(records) = self.receiver.try_recv() {
            all.extend(records);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn calls_are_on_the_clock_of_the_run() {
        let (recorder, mut recording) = Recorder::begin();
        let pen = recorder.pen(2);
        tokio::time::advance(std::time::Duration::from_millis(3)).await;
        let start_ns = pen.now_ns();
        tokio::time::advance(std::time::Duration::from_millis(4)).await;
        pen.call(start_ns, [(What::Look, Outcome::Ok)]);

        let call = Call {
            start_ns: 3_000_000,
            end_ns: 7_000_000,
            client: 1,
            node: 2,
            what: What::Look,
            outcome: Outcome::Ok,
        };
        assert_eq!(recording.take(), [Record::Call(call)]);
    }

    #[tokio::test]
    async fn of_a_call_that_is_cut_off_nobody_knows_the_outcome() {
        let (recorder, mut recording) = Recorder::begin();
        let pen = recorder.pen(1);
        let cancel = What::Cancel { job: 7 };
        drop(pen.begin([cancel]));
        pen.begin([cancel]).answered([(cancel, Outcome::Ok)]);

        let outcomes = recording.take().into_iter().map(|record| match record {
            Record::Call(Call { what, outcome, .. }) if what == cancel => outcome,
            other => panic!("{other:?}"),
        });
        assert_eq!(outcomes.collect::<Vec<_>>(), [Outcome::CutOff, Outcome::Ok]);
    }

    #[tokio::test]
    async fn a_recording_ends_with_its_last_recorder() {
        let (recorder, mut recording) = Recorder::begin();
        let pen = recorder.pen(0);
        drop(recorder);
        pen.call(0, [(What::Look, Outcome::Ok)]);
        drop(pen);
        assert_eq!(recording.next().await.map(|records| records.len()), Some(1));
        assert_eq!(recording.next().await, None);
    }
}
