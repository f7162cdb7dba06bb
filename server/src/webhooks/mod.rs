//! Telling receivers outside of what happens.
//!
//! ```text
//!   events ──▶ leader: one delivery a webhook and event ──▶ batonq.webhooks ──▶ leader: POST
//!              (seen: how far)                              (a queue)           │
//!                                                              ▲                ├─ 2xx: done
//!                                                              └── backoff ◀────┴─ all else
//! ```
//!
//! # Promises
//!
//! * **At least once.** An event that a webhook wants is pushed as a delivery before the webhook's
//!   `seen` goes past it, and a delivery is done when its receiver has answered 2xx. Whatever
//!   crashes in between, it is done again: receivers tell repetitions by `batonq-event-id`.
//! * **Not in order.** Each delivery is retried by itself; the event's number says the order.
//! * **Signed.** `batonq-signature: t=SECONDS,v1=HEX` is the HMAC-SHA256 of `SECONDS.BODY` under
//!   the webhook's secret; a receiver refuses what is old, and compares in constant time.
//! * **As flashQ does it**, where a webhook's format says so: its body, made when it is delivered, so
//!   what is gone by then is left out; and `x-flashq-signature`, the HMAC-SHA256 of the body, if
//!   there is a secret. How such a body is made is not known here: see `Render`.
//! * **Not into the house.** Only https, to addresses that are public after resolution, and the
//!   connection goes to the address that was looked at; redirects are not followed; an answer's
//!   body is not read. [`Reach::Anywhere`] lifts this, for development.
//!
//! # Failures
//!
//! A receiver that fails is tried as long as any job is, about half a day; then its deliveries are
//! dead letters of the queue and can be retried. A slow one has a few places and no more, so that
//! others do not wait for it. A leader that is lost leaves leases behind that run out.

mod send;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use self::send::Reach;
use self::send::Sender;
use crate::broker::{Broker, Draft, Letter, Outcome};
use crate::error::Error;
use crate::job::WebhookName;
use crate::leader::Leadership;
use crate::store::Webhook;
use crate::store::events::Event;

/// How often events are looked for while there is a webhook.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How often it is looked whether there is one.
const IDLE: Duration = Duration::from_secs(5);

/// How long to wait after the store failed.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Deliveries under way at once.
const AT_ONCE_MAX: usize = 32;

/// Makes the body of a delivery in the format of flashQ. `None`: it tells nobody of such events.
pub(crate) type Render = fn(Broker, Event) -> BoxFuture<'static, Result<Option<Bytes>, Error>>;

/// Makes deliveries while its node leads.
#[derive(Debug)]
pub(crate) struct Courier {
    broker: Broker,
    leadership: Leadership,
    sender: Arc<Sender>,
    render: Render,
}

impl Courier {
    pub(crate) fn new(
        broker: Broker,
        leadership: Leadership,
        reach: Reach,
        render: Render,
    ) -> Self {
        Self { broker, leadership, sender: Arc::new(Sender::new(reach)), render }
    }

    /// Works whenever this node leads, until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            let term = tokio::select! {
                term = self.leadership.begun() => term,
                () = stop.cancelled() => return,
            };
            let mut leadership = self.leadership.clone();
            tokio::select! {
                () = self.work() => {}
                () = leadership.ended(term) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn work(&self) {
        // Dropped with this future: what is under way is cut off, and its lease runs out.
        let mut under_way = JoinSet::new();
        loop {
            let pause = self.part(&mut under_way).await.unwrap_or_else(|error| {
                tracing::warn!(%error, "webhooks have to wait");
                AFTER_FAILURE
            });
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.broker.webhooks_changed() => {}
                Some(_) = under_way.join_next() => {}
            }
            while under_way.try_join_next().is_some() {}
        }
    }

    /// Pushes what has happened, begins what can be delivered. The answer: when to come back.
    async fn part(&self, under_way: &mut JoinSet<()>) -> Result<Duration, Error> {
        let webhooks = self.broker.webhooks().await?;
        self.broker.push_deliveries(&webhooks).await?;
        let pause = if webhooks.is_empty() { IDLE } else { LOOK_EVERY };
        let webhooks = webhooks.into_iter().map(|webhook| (webhook.name.clone(), webhook));
        let webhooks: HashMap<WebhookName, Webhook> = webhooks.collect();
        let room = AT_ONCE_MAX - under_way.len().min(AT_ONCE_MAX);
        for letter in self.broker.pull_deliveries(room).await? {
            let (broker, sender) = (self.broker.clone(), Arc::clone(&self.sender));
            let webhook = webhooks.get(&letter.webhook).cloned();
            under_way.spawn(deliver(broker, sender, self.render, webhook, letter));
        }
        Ok(pause)
    }
}

async fn deliver(
    broker: Broker,
    sender: Arc<Sender>,
    render: Render,
    webhook: Option<Webhook>,
    letter: Letter,
) {
    let outcome = match webhook {
        Some(webhook) => attempt(&broker, &sender, render, webhook, &letter).await,
        None => Ok(Outcome::Done),
    };
    let outcome = outcome.unwrap_or_else(|error| Outcome::Failed {
        code: error.code().meaning().name.into(),
        message: error.to_string(),
    });
    if let Outcome::Failed { code, message } = &outcome {
        tracing::debug!(webhook = %letter.webhook, code, message, "delivery failed");
    }
    if let Err(error) = broker.settle_delivery(&letter, outcome).await {
        tracing::warn!(%error, "a delivery will be made again");
    }
}

/// # Errors
///
/// Those of the store, if the body could not be made.
async fn attempt(
    broker: &Broker,
    sender: &Sender,
    render: Render,
    webhook: Webhook,
    letter: &Letter,
) -> Result<Outcome, Error> {
    let body = match &letter.draft {
        Draft::Body(body) => Some(Bytes::copy_from_slice(body.as_bytes())),
        Draft::Told(event) => render(broker.clone(), event.clone()).await?,
    };
    let Some(body) = body else { return Ok(Outcome::Done) };
    Ok(match broker.secret_of(&webhook) {
        Ok(secret) => {
            let now = broker.unix_seconds();
            sender.send(&Webhook { secret, ..webhook }, letter, body, now).await
        }
        Err(error) => Outcome::Failed { code: "UNREADABLE".into(), message: error.to_string() },
    })
}
