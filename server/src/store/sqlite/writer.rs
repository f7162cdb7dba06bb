//! The thread that owns the tables: many calls, one transaction.
//!
//! Calls queue up while a transaction is being committed and are then done together in the next
//! one. Each is answered after the commit. If one fails, the transaction is rolled back and all of
//! its calls are told that nothing was done.

use std::panic::AssertUnwindSafe;
use std::sync::mpsc;
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use super::tables::Tables;
use crate::error::Error;

/// Calls in one transaction: enough to share a commit, few enough to answer soon.
const CALLS_MAX: usize = 64;

/// What a call does, and how it is answered.
type Call = Box<dyn FnOnce(&mut Tables) -> Done + Send>;

/// Answers a call, once it is known what came of the transaction.
type Answer = Box<dyn FnOnce(Result<(), Error>) + Send>;

struct Done {
    failure: Option<String>,
    answer: Answer,
}

/// The handle on the thread. Dropping it ends the thread, after the calls that wait.
#[derive(Debug)]
pub(super) struct Writer {
    /// `None` only while it is dropped.
    calls: Option<mpsc::Sender<Call>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(tables: Tables) -> std::io::Result<Self> {
        let (calls, waiting) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("batonq-sqlite".into())
            .spawn(move || run(tables, &waiting))?;
        Ok(Self { calls: Some(calls), thread: Some(thread) })
    }

    /// Does `work` in a transaction and waits until that is durable.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future does not recall the work.
    pub(super) async fn call<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&mut Tables) -> rusqlite::Result<T> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let call: Call = Box::new(move |tables| {
            // A call that panics is rolled back, and the tables are read anew.
            let done = std::panic::catch_unwind(AssertUnwindSafe(|| work(tables)));
            let done = done.map_err(|_| "a statement panicked".to_owned());
            let done = done.and_then(|done| done.map_err(|error| error.to_string()));
            let (value, failure) = match done {
                Ok(value) => (Some(value), None),
                Err(failure) => (None, Some(failure)),
            };
            let answer = Box::new(move |committed: Result<(), Error>| {
                let failed = || Error::Internal("a failed call was committed".into());
                let value = committed.and_then(|()| value.ok_or_else(failed));
                // Nobody may wait any more.
                answer.send(value).ok();
            });
            Done { failure, answer }
        });
        let gone = || Error::Unavailable("the store is closed".into());
        self.calls.as_ref().ok_or_else(gone)?.send(call).map_err(|_| gone())?;
        answered.await.unwrap_or_else(|_| Err(gone()))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.calls.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the store's thread had panicked");
        }
    }
}

fn run(mut tables: Tables, calls: &mpsc::Receiver<Call>) {
    while let Ok(first) = calls.recv() {
        let mut answers = Vec::new();
        let committed = transaction(&mut tables, first, calls, &mut answers);
        if let Err(error) = &committed {
            tracing::error!(%error, "transaction failed");
            tables.roll_back();
        }
        for answer in answers {
            answer(committed.clone());
        }
    }
    if let Err(error) = tables.close() {
        tracing::warn!(%error, "a block of numbers is skipped");
    }
}

fn transaction(
    tables: &mut Tables,
    first: Call,
    calls: &mpsc::Receiver<Call>,
    answers: &mut Vec<Answer>,
) -> Result<(), Error> {
    let begun = tables.begin();
    let mut next = Some(first);
    while let Some(call) = next {
        let done = call(tables);
        answers.push(done.answer);
        if let Err(error) = &begun {
            return Err(Error::Unavailable(format!("the store can not be used: {error}").into()));
        }
        if let Some(failure) = done.failure {
            return Err(Error::Unavailable(format!("nothing was stored: {failure}").into()));
        }
        next = (answers.len() < CALLS_MAX).then(|| calls.try_recv().ok()).flatten();
    }
    tables.commit().map_err(|error| {
        Error::OutcomeUnknown(format!("the commit failed and may be undone: {error}").into())
    })
}
