//! Jobs that the node sends by itself, as many as there is credit for.

use std::collections::VecDeque;

use batonq_protocol::Message;
use batonq_protocol::messages::Subscribe;
use tokio::sync::{mpsc, oneshot};

use crate::client::Client;
use crate::error::Error;
use crate::job::{Job, Lease, leases};
use crate::request::Answer;
use crate::session::Control;

/// The most jobs that [`Subscription::next_batch`] hands out, so that they can be acked at once.
const BATCH_MAX: usize = 1000;

/// A stream of jobs of one queue, begun with [`Client::subscribe`].
///
/// The client holds at most `credit` of its jobs; settling one makes room for another. When the
/// connection is lost, it is set up again by itself. Dropping it ends it, and gives the jobs back
/// that were not taken out of it.
#[derive(Debug)]
pub struct Subscription {
    client: Client,
    feed: Feed,
    here: VecDeque<Job>,
    refused: Option<Error>,
}

impl Client {
    /// Has the node send jobs of `queue`, at most `credit` at a time.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future ends the subscription.
    ///
    /// # Errors
    ///
    /// Nothing was subscribed to, whichever it is.
    pub async fn subscribe(&self, queue: &str, credit: u32) -> Result<Subscription, Error> {
        let subscribe = Subscribe { queue: queue.into(), credit };
        match self.call(Message::Subscribe(subscribe)).await? {
            Answer::Subscribed(feed) => Ok(Subscription {
                client: self.clone(),
                feed,
                here: VecDeque::new(),
                refused: None,
            }),
            other => Err(Error::unexpected(&other)),
        }
    }
}

impl Subscription {
    /// The next job; `None` if there will be no more, see [`Subscription::refused`].
    ///
    /// # Cancel safety
    ///
    /// No job is lost.
    pub async fn next(&mut self) -> Option<Job> {
        if self.here.is_empty() {
            self.here = self.receive().await?.into();
        }
        self.here.pop_front()
    }

    /// All jobs that have arrived, at most 1 000; waits for a first one. Empty: there will be no
    /// more.
    ///
    /// # Cancel safety
    ///
    /// No job is lost.
    pub async fn next_batch(&mut self) -> Vec<Job> {
        if self.here.is_empty() {
            let Some(jobs) = self.receive().await else { return Vec::new() };
            self.here = jobs.into();
        }
        while self.here.len() < BATCH_MAX {
            let Some(more) = self.receive_now() else { break };
            self.here.extend(more);
        }
        if self.here.len() <= BATCH_MAX {
            return std::mem::take(&mut self.here).into();
        }
        self.here.drain(..BATCH_MAX).collect()
    }

    /// Why there will be no more jobs, if the node or the client's end is the reason.
    pub fn refused(&self) -> Option<&Error> {
        self.refused.as_ref()
    }

    /// Ends it, waits until the node sends no more, and gives the jobs back that were not taken
    /// out of it.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future ends the subscription too.
    ///
    /// # Errors
    ///
    /// Those of [`Client::release`]; the jobs then go round again once the session ends.
    pub async fn close(mut self) -> Result<(), Error> {
        self.feed.stop().await;
        let mut jobs: Vec<Job> = std::mem::take(&mut self.here).into();
        while let Some(more) = self.receive_now() {
            jobs.extend(more);
        }
        let leases = jobs.into_iter().map(|job| job.lease).collect::<Vec<Lease>>();
        for batch in leases.chunks(BATCH_MAX) {
            self.client.release_batch(batch.iter().cloned()).await?;
        }
        Ok(())
    }

    async fn receive(&mut self) -> Option<Vec<Job>> {
        let received = self.feed.deliveries.recv().await?;
        self.note(received)
    }

    fn receive_now(&mut self) -> Option<Vec<Job>> {
        let received = self.feed.deliveries.try_recv().ok()?;
        self.note(received)
    }

    fn note(&mut self, received: Result<Vec<Job>, Error>) -> Option<Vec<Job>> {
        received.map_err(|error| self.refused = Some(error)).ok()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let jobs: Vec<Job> = std::mem::take(&mut self.here).into();
        self.feed.give_back(jobs);
    }
}

/// The end of a subscription that the connection fills. Dropping it ends the subscription.
#[derive(Debug)]
pub(crate) struct Feed {
    key: u64,
    /// Its length is bounded by the credit. An error is the last that comes.
    deliveries: mpsc::UnboundedReceiver<Result<Vec<Job>, Error>>,
    control: mpsc::UnboundedSender<Control>,
}

/// The connection's end of a [`Feed`].
pub(crate) type Deliver = mpsc::UnboundedSender<Result<Vec<Job>, Error>>;

impl Feed {
    pub(crate) fn new(key: u64, control: mpsc::UnboundedSender<Control>) -> (Deliver, Self) {
        let (deliver, deliveries) = mpsc::unbounded_channel();
        (deliver, Self { key, deliveries, control })
    }

    pub(crate) fn key(&self) -> u64 {
        self.key
    }

    /// Waits until nothing more will be delivered.
    async fn stop(&mut self) {
        let (done, stopped) = oneshot::channel();
        self.tell(Control::Unsubscribe { key: self.key, done: Some(done) });
        // An error: the connection task ended, and with it all deliveries.
        stopped.await.ok();
    }

    fn give_back(&self, jobs: Vec<Job>) {
        if !jobs.is_empty() {
            self.tell(Control::Release(leases(jobs)));
        }
    }

    fn tell(&self, control: Control) {
        // Without a connection task there is nobody to tell, and the session is over.
        self.control.send(control).ok();
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        // After closing, the connection keeps what it can not deliver.
        self.deliveries.close();
        while let Ok(Ok(jobs)) = self.deliveries.try_recv() {
            self.give_back(jobs);
        }
        self.tell(Control::Unsubscribe { key: self.key, done: None });
    }
}

/// Which subscription a job came by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    pub(crate) key: u64,
    /// The request id of the `Subscribe` that it was delivered for.
    pub(crate) wire: u64,
}
