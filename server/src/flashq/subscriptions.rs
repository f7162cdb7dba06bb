//! The subscriptions of a connection: events of queues that its client wants to be told of.
//!
//! A queue has one at most; another one replaces it. They end with the connection. What is not asked
//! for waits in the store: a client that reads slowly costs no memory here. If the store fails they
//! go on once it is back, and what is missing then is told by an event of the kind `missed`.

use std::collections::HashMap;
use std::pin::Pin;

use futures_util::stream::{self, SelectAll};
use futures_util::{Stream, StreamExt};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::events::{Shown, Wanted, kinds_of};
use super::feed::{Feed, Heard};
use super::job::object;
use super::{Fields, Refused, fields};
use crate::broker::Broker;
use crate::error::Error;
use crate::job::QueueName;
use crate::limits;

type Events = Pin<Box<dyn Stream<Item = Vec<Fields>> + Send>>;

/// One that has yet to begin.
#[derive(Debug)]
pub(super) struct Subscription {
    queue: QueueName,
    feed: Feed,
}

impl Subscription {
    /// As a request says. What happens from now on belongs to it.
    pub(super) async fn open(broker: &Broker, fields: &Fields) -> Result<Self, Refused> {
        let queue = fields::queue(fields)?;
        let names = fields::opt_texts(fields, "events")?.unwrap_or_default();
        let kinds = kinds_of(&names)?;
        let wanted = Wanted { queue: Some(queue.clone()), job: None, kinds };
        let feed = Feed::open(broker, wanted, None).await?;
        Ok(Self { queue, feed })
    }
}

/// Those that have begun.
#[derive(Default)]
pub(super) struct Subscriptions {
    events: SelectAll<Events>,
    ends: HashMap<QueueName, DropGuard>,
}

impl Subscriptions {
    /// Begins one.
    ///
    /// # Errors
    ///
    /// If there are as many as there may be.
    pub(super) fn begin(
        &mut self,
        Subscription { queue, feed }: Subscription,
    ) -> Result<(), Refused> {
        let is_full = self.ends.len() >= limits::FLASHQ_SUBSCRIPTIONS_MAX;
        if is_full && !self.ends.contains_key(&queue) {
            return Err(Error::Overloaded("too many subscriptions on this connection").into());
        }
        let end = CancellationToken::new();
        let ended = end.clone().cancelled_owned();
        let events = stream::unfold((feed, queue.clone()), |(mut feed, queue)| async {
            let events = next(&mut feed, &queue).await;
            Some((events, (feed, queue)))
        });
        self.events.push(Box::pin(events.take_until(ended)));
        self.ends.insert(queue, end.drop_guard());
        Ok(())
    }

    /// Ends that of a queue, if there is one.
    pub(super) fn end(&mut self, queue: &QueueName) {
        self.ends.remove(queue);
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Waits for what happens next. Empty: nothing, after all; one may have ended.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(super) async fn next(&mut self) -> Vec<Fields> {
        self.events.next().await.unwrap_or_default()
    }
}

async fn next(feed: &mut Feed, queue: &QueueName) -> Vec<Fields> {
    match feed.hear().await {
        Heard::Events(events) => events.into_iter().map(Shown::into_fields).collect(),
        Heard::Missed => {
            let queue = queue.as_str().into();
            vec![object([("event_type", "missed".into()), ("queue", queue)])]
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use serde_json::Value;

    use super::*;
    use crate::broker::Patience;
    use crate::clock::ManualClock;
    use crate::cluster::Demand;
    use crate::job::{NewJob, Payload};
    use crate::secrets::Keyring;
    use crate::store::Retention;
    use crate::store::memory::MemoryStore;

    /// A broker, whose loops run.
    fn broker() -> Broker {
        let clock = ManualClock::new();
        let store = MemoryStore::new("n", clock.clone(), Retention::default());
        let (patience, stop) = (Patience::default(), CancellationToken::new());
        let (demand, keys) = (Demand::default(), Keyring::default());
        let (broker, loops) = Broker::new(Arc::new(store), clock, patience, demand, keys, &stop);
        loops.into_iter().for_each(|(_, run)| drop(tokio::spawn(run)));
        broker
    }

    async fn subscription(broker: &Broker, queue: usize) -> Subscription {
        let fields = object([("queue", format!("q{queue}").into()), ("events", Value::Null)]);
        Subscription::open(broker, &fields).await.unwrap()
    }

    #[tokio::test]
    async fn a_queue_has_one_and_all_queues_together_a_number() {
        let (broker, mut all) = (broker(), Subscriptions::default());
        for queue in 0..limits::FLASHQ_SUBSCRIPTIONS_MAX {
            assert_eq!(all.begin(subscription(&broker, queue).await), Ok(()));
        }
        assert_eq!(all.begin(subscription(&broker, 0).await), Ok(()));
        let refused = all.begin(subscription(&broker, 99).await).unwrap_err();
        assert!(refused.0.contains("too many subscriptions"), "{refused:?}");
        all.end(&QueueName::parse("q1").unwrap());
        assert_eq!(all.begin(subscription(&broker, 99).await), Ok(()));
    }

    #[tokio::test]
    async fn what_has_ended_brings_nothing_and_leaves_nothing_behind() {
        let (broker, mut all) = (broker(), Subscriptions::default());
        assert_eq!(all.begin(subscription(&broker, 1).await), Ok(()));
        assert!(!all.is_empty());
        all.end(&QueueName::parse("q1").unwrap());
        assert!(all.next().await.is_empty());
        assert!(all.is_empty());
    }

    #[tokio::test]
    async fn what_happens_is_told_with_what_belongs_to_it() {
        let (broker, mut all) = (broker(), Subscriptions::default());
        assert_eq!(all.begin(subscription(&broker, 1).await), Ok(()));
        let data = Payload::new(Bytes::from_static(b"{\"a\": 1.10}")).unwrap();
        for queue in ["q2", "q1"] {
            let queue = QueueName::parse(queue).unwrap();
            broker.push(vec![NewJob::new(queue, data.clone())]).await.unwrap();
        }
        let events = all.next().await;
        assert_eq!(events.len(), 1);
        assert_eq!(events[0]["event_type"], "pushed");
        assert_eq!(events[0]["queue"], "q1");
        assert_eq!(fields::carried(&events[0]["data"]), Some("{\"a\": 1.10}"));
    }
}
