//! Events as they happen, as clients of flashQ see them.
//!
//! A feed keeps a page of events that are recorded, and looks few of them up at once, so that large
//! payloads do not gather. If the store fails, asking again goes on where it was. Something that is
//! missing, because its reader has been too slow for what is kept, is told in its place.

use std::collections::VecDeque;
use std::time::Duration;

use super::events::{AT_ONCE, Shown, Wanted, kinds, shown};
use crate::broker::{Broker, EventFilter, Listener, Told};
use crate::error::Error;
use crate::store::EventId;
use crate::store::events::Event;

/// How long to wait after the store failed.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// What a feed brings.
#[derive(Debug)]
pub(super) enum Heard {
    /// Events in their order; at least one, and not many.
    Events(Vec<Shown>),
    /// Something is missing that happened before what comes next.
    Missed,
}

/// Events as they happen.
#[derive(Debug)]
pub(super) struct Feed {
    broker: Broker,
    listener: Listener,
    /// What has been read and is to be shown.
    unshown: VecDeque<Event>,
}

impl Feed {
    /// Begins after an event, or with what happens from now on.
    ///
    /// # Errors
    ///
    /// Those of [`Broker::listen`], [`Error::NotFound`] for a job that is not known, and
    /// [`Error::Invalid`] for a queue of batonq's own.
    pub(super) async fn open(
        broker: &Broker,
        wanted: Wanted,
        after: Option<EventId>,
    ) -> Result<Self, Error> {
        let queue = match (wanted.queue, wanted.job) {
            // Other queues need not be watched for it.
            (None, Some(job)) => Some(broker.job(job).await?.queue),
            (queue, _) => queue,
        };
        queue.as_ref().map(Broker::check_public).transpose()?;
        let kinds = match wanted.kinds {
            none if none.is_empty() => kinds(),
            kinds => kinds,
        };
        let filter = EventFilter { queue, kinds, job: wanted.job };
        let listener = broker.listen(filter, after).await?;
        Ok(Self { broker: broker.clone(), listener, unshown: VecDeque::new() })
    }

    /// All up to here has been shown: where to go on after a break.
    pub(super) fn heard(&self) -> EventId {
        let next = self.unshown.front();
        next.map_or(self.listener.heard(), |next| next.id.saturating_sub(1))
    }

    /// Waits for what comes next.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    ///
    /// # Errors
    ///
    /// Those of the store. Nothing is lost then, either.
    pub(super) async fn next(&mut self) -> Result<Heard, Error> {
        loop {
            if self.unshown.is_empty() {
                match self.listener.next().await? {
                    Told::Events(events) => self.unshown = events.into(),
                    Told::Missed => return Ok(Heard::Missed),
                }
            }
            let part: Vec<Event> = self.unshown.iter().take(AT_ONCE).cloned().collect();
            let count = part.len();
            let shown = shown(&self.broker, part).await?;
            self.unshown.drain(..count);
            if !shown.is_empty() {
                return Ok(Heard::Events(shown));
            }
        }
    }

    /// The same, however long the store fails.
    pub(super) async fn hear(&mut self) -> Heard {
        loop {
            match self.next().await {
                Ok(heard) => return heard,
                Err(error) => {
                    tracing::debug!(%error, "events can not be read");
                    tokio::time::sleep(AFTER_FAILURE).await;
                }
            }
        }
    }
}
