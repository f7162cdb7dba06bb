//! Many callers, one transaction: batches that form by themselves.
//!
//! While one batch is being committed the next one gathers. A lone call thus goes at once, and a
//! flood goes in large batches, without a timer and without a setting. One committer commits one
//! batch at a time, in the order of the calls.
//!
//! What is promised: a call that is answered `Ok` has been committed. A call is never split over
//! two batches. If a commit fails, all of its batch get the same error.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::error::Error;

/// A batch takes no further call once it has so many items: beyond this, larger is not faster.
pub const BATCH_ITEMS_MAX: usize = 2000;

/// What an item costs beside its payload, roughly, while it waits.
const ITEM_BYTES: usize = 256;

/// The bytes that may wait to be committed on this node, shared by all its committers.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Semaphore>);

impl Budget {
    /// A budget of so many bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes_max)))
    }

    /// Room for so many bytes, as long as the answer is kept.
    ///
    /// # Errors
    ///
    /// [`Error::Overloaded`] if there is none.
    pub fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Error> {
        u32::try_from(bytes)
            .ok()
            .and_then(|bytes| Arc::clone(&self.0).try_acquire_many_owned(bytes).ok())
            .ok_or(Error::Overloaded("too many bytes wait to be stored: try again later"))
    }
}

/// Hands items over to be committed together with those of other callers.
#[derive(Debug)]
pub struct Committer<I, O> {
    calls: mpsc::UnboundedSender<Call<I, O>>,
    budget: Budget,
}

#[derive(Debug)]
struct Call<I, O> {
    items: Vec<I>,
    answer: oneshot::Sender<Result<Vec<O>, Error>>,
    _room: OwnedSemaphorePermit,
}

impl<I, O> Committer<I, O> {
    /// A committer, and the loop that does its work until the committer is dropped.
    ///
    /// `commit` answers with one output for each item, in order. Answers that nobody waits for any
    /// more go to `abandoned`.
    pub fn new<C, F>(
        budget: Budget,
        mut commit: C,
        abandoned: impl Fn(Vec<O>),
    ) -> (Self, impl Future<Output = ()>)
    where
        C: FnMut(Vec<I>) -> F,
        F: Future<Output = Result<Vec<O>, Error>>,
    {
        let (calls, mut waiting) = mpsc::unbounded_channel();
        let run = async move {
            while let Some(first) = waiting.recv().await {
                let (items, callers) = gather(first, &mut waiting);
                answer(commit(items).await, callers, &abandoned);
            }
        };
        (Self { calls, budget }, run)
    }

    /// Waits until the batch that holds `items` is durable. `payload_bytes` is what they carry.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future does not recall the items: they may still be committed.
    ///
    /// # Errors
    ///
    /// [`Error::Overloaded`] if too much is waiting already, or the error of the commit.
    pub async fn submit(&self, items: Vec<I>, payload_bytes: usize) -> Result<Vec<O>, Error> {
        if items.is_empty() {
            return Ok(Vec::new());
        }
        let room = self.budget.take(payload_bytes + items.len() * ITEM_BYTES)?;
        let (answer, answered) = oneshot::channel();
        self.calls
            .send(Call { items, answer, _room: room })
            .map_err(|_| Error::Unavailable("the node is stopping".into()))?;
        answered.await.unwrap_or(Err(Error::OutcomeUnknown("the commit was abandoned".into())))
    }
}

/// Who waits for how many of a batch's outputs, in order.
type Caller<O> = (usize, oneshot::Sender<Result<Vec<O>, Error>>, OwnedSemaphorePermit);

fn gather<I, O>(
    first: Call<I, O>,
    waiting: &mut mpsc::UnboundedReceiver<Call<I, O>>,
) -> (Vec<I>, Vec<Caller<O>>) {
    let mut items = first.items;
    let mut callers = vec![(items.len(), first.answer, first._room)];
    let (mut count, mut others) = (items.len(), Vec::new());
    while count < BATCH_ITEMS_MAX
        && let Ok(call) = waiting.try_recv()
    {
        count += call.items.len();
        callers.push((call.items.len(), call.answer, call._room));
        others.push(call.items);
    }
    items.reserve_exact(count - items.len());
    others.into_iter().for_each(|more| items.extend(more));
    (items, callers)
}

fn answer<O>(
    committed: Result<Vec<O>, Error>,
    callers: Vec<Caller<O>>,
    abandoned: &impl Fn(Vec<O>),
) {
    match committed {
        Ok(outputs) => {
            let mut outputs = outputs.into_iter();
            for (count, answer, _room) in callers {
                let share = outputs.by_ref().take(count).collect();
                if let Err(Ok(share)) = answer.send(Ok(share)) {
                    abandoned(share);
                }
            }
        }
        Err(error) => {
            for (_, answer, _room) in callers {
                // A caller that has gone needs no error.
                answer.send(Err(error.clone())).ok();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use tokio::sync::Notify;

    /// Commits that say what they got and wait to be let through.
    struct Gate {
        batches: Arc<Mutex<Vec<Vec<u32>>>>,
        open: Arc<Notify>,
        abandoned: Arc<Mutex<Vec<u32>>>,
        committer: Arc<Committer<u32, u32>>,
    }

    fn gate(bytes_max: usize) -> Gate {
        let batches = Arc::new(Mutex::new(Vec::new()));
        let open = Arc::new(Notify::new());
        let abandoned = Arc::new(Mutex::new(Vec::new()));
        let commit = {
            let (batches, open) = (Arc::clone(&batches), Arc::clone(&open));
            move |items: Vec<u32>| {
                batches.lock().push(items.clone());
                let open = Arc::clone(&open);
                async move {
                    open.notified().await;
                    match items.contains(&13) {
                        true => Err(Error::Unavailable("no luck".into())),
                        false => Ok(items.iter().map(|item| item * 10).collect()),
                    }
                }
            }
        };
        let left = Arc::clone(&abandoned);
        let (committer, run) =
            Committer::new(Budget::new(bytes_max), commit, move |share| left.lock().extend(share));
        tokio::spawn(run);
        Gate { batches, open, abandoned, committer: Arc::new(committer) }
    }

    impl Gate {
        fn submit(&self, items: &[u32]) -> tokio::task::JoinHandle<Result<Vec<u32>, Error>> {
            let (committer, items) = (Arc::clone(&self.committer), items.to_vec());
            tokio::spawn(async move { committer.submit(items, 0).await })
        }

        /// Lets everything happen that can happen without the gate.
        async fn settle(&self) {
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
        }
    }

    #[tokio::test]
    async fn calls_gather_while_a_batch_is_being_committed() {
        let gate = gate(1 << 20);
        let first = gate.submit(&[1]);
        gate.settle().await;
        let others = [gate.submit(&[2, 3]), gate.submit(&[4])];
        gate.settle().await;
        gate.open.notify_one();
        assert_eq!(first.await.unwrap(), Ok(vec![10]));
        gate.settle().await;
        gate.open.notify_one();
        let [a, b] = others;
        assert_eq!((a.await.unwrap(), b.await.unwrap()), (Ok(vec![20, 30]), Ok(vec![40])));
        assert_eq!(*gate.batches.lock(), [vec![1], vec![2, 3, 4]]);
    }

    #[tokio::test]
    async fn a_failed_commit_fails_its_own_batch_only() {
        let gate = gate(1 << 20);
        let bad = gate.submit(&[13]);
        gate.settle().await;
        let good = gate.submit(&[1]);
        gate.settle().await;
        gate.open.notify_one();
        assert!(matches!(bad.await.unwrap(), Err(Error::Unavailable(_))));
        gate.settle().await;
        gate.open.notify_one();
        assert_eq!(good.await.unwrap(), Ok(vec![10]));
    }

    #[tokio::test]
    async fn what_exceeds_the_budget_is_refused_and_the_budget_comes_back() {
        let gate = gate(2 * ITEM_BYTES);
        let first = gate.submit(&[1, 2]);
        gate.settle().await;
        assert!(matches!(gate.committer.submit(vec![3], 0).await, Err(Error::Overloaded(_))));
        gate.open.notify_one();
        assert!(first.await.unwrap().is_ok());
        gate.open.notify_one();
        assert_eq!(gate.committer.submit(vec![3], 0).await, Ok(vec![30]));
    }

    #[tokio::test]
    async fn answers_that_nobody_waits_for_are_abandoned() {
        let gate = gate(1 << 20);
        let call = gate.submit(&[1]);
        gate.settle().await;
        call.abort();
        gate.settle().await;
        gate.open.notify_one();
        gate.settle().await;
        assert_eq!(*gate.abandoned.lock(), [10]);
    }
}
