//! Pushes, and ends of leases, that were read together are served together, each kind as one call of
//! the broker: a client that has many frames with one job each on their way costs little more than one
//! that puts them into a batch. Each frame gets an answer of its own, for its own items.
//!
//! They share what a call shares: they are committed together, in the order in which they came, and an
//! error of the store is the answer to all of them, as is a lack of room. What is wrong with one frame
//! or one of its items is found before, or is the answer to that item.

use std::sync::Arc;

use batonq_protocol::Message;
use batonq_protocol::messages as wire;

use super::convert;
use super::request::{Answer, Asker};
use crate::broker::Broker;
use crate::door::{check_batch, each};
use crate::error::Error;
use crate::job::{Lease, NewJob};
use crate::store::{Refused, Settled, Settlement};

/// A call takes no further frame once it has so many items: beyond this, larger is not faster.
const ITEMS_MAX: usize = 500;

/// Frames of one kind, in the order in which they came.
#[derive(Debug)]
pub(super) struct Together<T> {
    /// The number of each request and of its items.
    frames: Vec<(u64, usize)>,
    items: Vec<Result<T, Error>>,
}

impl<T> Default for Together<T> {
    fn default() -> Self {
        Self { frames: Vec::new(), items: Vec::new() }
    }
}

impl<T> Together<T> {
    pub(super) fn add(&mut self, request_id: u64, items: Vec<Result<T, Error>>) {
        self.frames.push((request_id, items.len()));
        match self.items.is_empty() {
            true => self.items = items,
            false => self.items.extend(items),
        }
    }

    /// How many there are.
    pub(super) fn frames(&self) -> usize {
        self.frames.len()
    }

    /// Their numbers, for the log.
    pub(super) fn ids(&self) -> Vec<u64> {
        self.frames.iter().map(|(id, _)| *id).collect()
    }

    pub(super) fn is_full(&self) -> bool {
        self.items.len() >= ITEMS_MAX
    }
}

/// The answer to each frame: its share of the outcomes, or what went wrong with all.
fn answers<O>(
    frames: Vec<(u64, usize)>,
    outcomes: Result<Vec<O>, Error>,
    answer: impl Fn(Vec<O>) -> Answer,
) -> Vec<(u64, Answer)> {
    match outcomes {
        Ok(outcomes) => {
            let mut outcomes = outcomes.into_iter();
            let answer = |(id, count)| (id, answer(outcomes.by_ref().take(count).collect()));
            frames.into_iter().map(answer).collect()
        }
        Err(error) => {
            let answer = |(id, _)| (id, convert::error_message(&error).into());
            frames.into_iter().map(answer).collect()
        }
    }
}

/// The jobs of a push.
///
/// # Errors
///
/// If the push as such is refused.
pub(super) fn pushed(push: wire::Push) -> Result<Vec<Result<NewJob, Error>>, Error> {
    check_batch("jobs", push.jobs.len())?;
    let jobs: Vec<_> = convert::new_jobs(push.jobs).collect();
    jobs.iter().flatten().try_for_each(Broker::check_pushed)?;
    Ok(jobs)
}

/// The leases that a message ends.
///
/// # Errors
///
/// If the message as such is refused.
pub(super) fn ended(
    broker: &Broker,
    message: Message,
) -> Result<Vec<Result<Settlement, Error>>, Error> {
    match message {
        Message::Ack(ack) => {
            check_batch("items", ack.items.len())?;
            Ok(ack.items.into_iter().map(|item| convert::ack(broker, item)).collect())
        }
        Message::Fail(fail) => {
            check_batch("items", fail.items.len())?;
            Ok(fail.items.into_iter().map(|item| convert::fail(broker, item)).collect())
        }
        Message::Release(release) => {
            check_batch("leases", release.leases.len())?;
            let verdict = convert::release_verdict(release.delay_ms)?;
            let leases = release.leases.iter();
            Ok(leases.map(|lease| convert::release(broker, lease, &verdict)).collect())
        }
        _ => Err(Error::invalid("message", "ends no lease")),
    }
}

impl Asker {
    pub(super) async fn push(self: Arc<Self>, pushes: Together<NewJob>) -> Vec<(u64, Answer)> {
        let pushed = each(pushes.items, |jobs| self.broker.push(jobs)).await;
        answers(pushes.frames, pushed, |pushed| {
            let results =
                pushed.into_iter().map(|pushed| convert::push_result(pushed.flatten())).collect();
            Message::Pushed(wire::Pushed { results }).into()
        })
    }

    pub(super) async fn settle(self: Arc<Self>, ends: Together<Settlement>) -> Vec<(u64, Answer)> {
        let asked = |item: &Result<Settlement, Error>| {
            item.as_ref().ok().map(|item| (item.lease, item.verdict.word()))
        };
        let asked: Vec<Option<(Lease, &str)>> = ends.items.iter().map(asked).collect();
        let settled = each(ends.items, |items| self.broker.settle(items)).await;
        let settled = settled.map(|settled| {
            let settled: Vec<_> = asked.into_iter().zip(settled).collect();
            self.broker.note_refused(settled.iter().filter_map(|it| self.refused(it)).collect());
            settled
        });
        answers(ends.frames, settled, |settled| {
            let (leases, results): (Vec<Option<Lease>>, Vec<_>) = settled
                .into_iter()
                .map(|(asked, settled)| {
                    (asked.map(|(lease, _)| lease), convert::settle_result(settled))
                })
                .unzip();
            let settled = leases.into_iter().flatten().collect();
            Answer { message: Message::Settled(wire::Settled { results }), settled }
        })
    }

    /// Who wanted to end a lease that was lost.
    fn refused(
        &self,
        (asked, settled): &(Option<(Lease, &'static str)>, Result<Settled, Error>),
    ) -> Option<Refused> {
        let (lease, what) = (*asked)?;
        let is_lost = matches!(settled, Ok(Settled::LeaseLost));
        is_lost.then(|| Refused { lease, who: self.who.clone(), what })
    }
}
