//! Listening to what happens.
//!
//! One loop follows the store's head while somebody on this node listens: a small question twenty
//! times a second, however many listeners there are. Each of them reads for itself from where it
//! is, so that a slow one holds up nobody and needs no memory here: what it has not read waits in
//! the store.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Broker, Core, Loop};
use crate::error::Error;
use crate::job::{JobId, QueueName};
use crate::limits;
use crate::store::events::Event;
use crate::store::{EventId, EventKind, EventsWanted};

/// How often the head is asked for: what a stream is late at most, beside the store.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How often it is asked for while the store fails.
const LOOK_EVERY_ILL: Duration = Duration::from_millis(500);

/// How long a queue is watched after its last stream here has ended: the time to come back, on
/// whichever node, without having missed anything.
const WATCH_FOR: Duration = Duration::from_secs(300);

/// How often that is said again.
const WATCH_EVERY: Duration = Duration::from_secs(60);

/// What the listeners of a node share.
pub(super) struct Listening {
    head: watch::Sender<EventId>,
    /// Somebody begins to listen.
    begun: Notify,
    places: Arc<Semaphore>,
}

impl Default for Listening {
    fn default() -> Self {
        Self {
            head: watch::Sender::new(0),
            begun: Notify::new(),
            places: Arc::new(Semaphore::new(limits::EVENT_STREAMS_MAX)),
        }
    }
}

/// Which events are wanted. An empty filter wants all.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    /// Of this queue.
    pub queue: Option<QueueName>,
    /// Of these kinds; empty: of all.
    pub kinds: Vec<EventKind>,
    /// Of this job.
    pub job: Option<JobId>,
}

impl EventFilter {
    fn wants(&self, event: &Event) -> bool {
        (self.kinds.is_empty() || self.kinds.contains(&event.kind))
            && self.job.is_none_or(|job| event.job == Some(job))
    }
}

/// What a listener hears.
#[derive(Debug)]
pub enum Told {
    /// Events in their order; at least one.
    Events(Vec<Event>),
    /// Something is missing that happened before what comes next.
    Missed,
}

/// Hears what happens, in order, from some number on.
pub struct Listener {
    core: Arc<Core>,
    head: watch::Receiver<EventId>,
    filter: EventFilter,
    /// All up to here has been heard.
    heard: EventId,
    has_missed: bool,
    watch_again: Instant,
    _place: OwnedSemaphorePermit,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").field("filter", &self.filter).finish_non_exhaustive()
    }
}

impl Broker {
    /// Listens to what comes after an event, or to what happens from now on.
    ///
    /// # Errors
    ///
    /// [`Error::Overloaded`] if too many listen on this node, [`Error::Invalid`] if there is no
    /// such number yet, or those of the store.
    pub async fn listen(
        &self,
        filter: EventFilter,
        after: Option<EventId>,
    ) -> Result<Listener, Error> {
        let core = Arc::clone(&self.0.core);
        let place = Arc::clone(&core.listening.places).try_acquire_owned();
        let full = |_| Error::Overloaded("too many streams of events: try another node");
        let place = place.map_err(full)?;
        let watching = core.store.watch(filter.queue.clone(), WATCH_FOR).await?;
        if after.is_some_and(|after| after > watching.now) {
            return Err(Error::invalid("after", "no event has had this number yet"));
        }
        let head = core.listening.head.subscribe();
        core.listening.begun.notify_one();
        Ok(Listener {
            core,
            head,
            filter,
            heard: after.unwrap_or(watching.now),
            has_missed: false,
            watch_again: Instant::now() + WATCH_EVERY,
            _place: place,
        })
    }
}

impl Listener {
    /// All up to here has been heard: where to go on after a break.
    pub fn heard(&self) -> EventId {
        self.heard
    }

    /// Waits for what comes next.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub async fn next(&mut self) -> Result<Told, Error> {
        loop {
            if std::mem::take(&mut self.has_missed) {
                return Ok(Told::Missed);
            }
            if Instant::now() >= self.watch_again {
                self.core.store.watch(self.filter.queue.clone(), WATCH_FOR).await?;
                self.watch_again = Instant::now() + WATCH_EVERY;
            }
            let head = *self.head.borrow_and_update();
            if head > self.heard {
                let events = self.read(head).await?;
                if !events.is_empty() && !self.has_missed {
                    return Ok(Told::Events(events));
                }
                continue;
            }
            tokio::select! {
                changed = self.head.changed() => {
                    changed.map_err(|_| Error::Unavailable("the node is stopping".into()))?;
                }
                () = tokio::time::sleep_until(self.watch_again) => {}
            }
        }
    }

    /// Reads a page. If something is missing, that comes first, and the page is read again.
    async fn read(&mut self, head: EventId) -> Result<Vec<Event>, Error> {
        let wanted = EventsWanted {
            queue: self.filter.queue.clone(),
            after: self.heard,
            upto: head,
            limit: limits::EVENTS_PAGE,
        };
        let page = self.core.store.events(wanted).await?;
        if page.since > self.heard {
            self.has_missed = true;
            // Nobody has watched for a while: what is to come counts.
            self.heard = if page.since == EventId::MAX { head } else { page.since };
            self.watch_again = Instant::now();
            return Ok(Vec::new());
        }
        self.heard = page.upto;
        Ok(page.events.into_iter().filter(|event| self.filter.wants(event)).collect())
    }
}

/// Follows the head of the store while somebody listens.
pub(super) fn follow(core: Arc<Core>, stop: CancellationToken) -> Loop {
    Box::pin(async move {
        let follow = async {
            loop {
                let listening = &core.listening;
                if listening.head.receiver_count() == 0 {
                    listening.begun.notified().await;
                }
                let pause = match core.store.event_head().await {
                    Ok(head) => {
                        listening.head.send_if_modified(|known| {
                            let is_new = head > *known;
                            *known = head.max(*known);
                            is_new
                        });
                        LOOK_EVERY
                    }
                    Err(error) => {
                        tracing::debug!(%error, "the events could not be looked for");
                        LOOK_EVERY_ILL
                    }
                };
                tokio::time::sleep(pause).await;
            }
        };
        stop.run_until_cancelled(follow).await;
    })
}
