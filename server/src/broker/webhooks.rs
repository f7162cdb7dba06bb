//! Webhooks: who wants to be told, and what is on its way to them.
//!
//! What happens becomes deliveries, which are jobs of a queue of ours. So a delivery is retried
//! with backoff, survives every crash, and can be looked at, like any job. The push of a delivery
//! has a key of its webhook and event: whoever pushes it again, because it does not know how far
//! it or another leader has come, changes nothing.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::{Broker, ShownEvent};
use crate::error::Error;
use crate::job::{
    Concurrency, FailureCode, Flow, FlowKey, Lease, NewJob, Options, Payload, QueueName, UniqueKey,
    WebhookName, WorkerName,
};
use crate::limits;
use crate::secrets::Unreadable;
use crate::store::events::Event;
use crate::store::{
    EventId, EventsWanted, Hold, PutWebhook, Retry, Secret, Settlement, Verdict, Webhook,
    WebhookFormat, WebhookSpec,
};

/// The queue of the deliveries.
const QUEUE: &str = "batonq.webhooks";

/// Deliveries to one webhook at once: a slow one leaves room for others.
const AT_ONCE_MAX: u32 = 8;

/// How long a delivery is leased: longer than it can take.
const LEASE: Duration = Duration::from_secs(20);

/// What a delivery's job holds.
#[derive(Debug, Serialize, Deserialize)]
struct Contents {
    webhook: WebhookName,
    event: EventId,
    kind: String,
    #[serde(flatten)]
    draft: Draft,
}

/// What a delivery's body is made of.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Draft {
    /// This is the body.
    Body(String),
    /// It is to be made when it is delivered: payloads and results would be stored a second time.
    Told(Event),
}

/// A delivery that is to be made.
#[derive(Debug)]
pub(crate) struct Letter {
    lease: Lease,
    /// To whom.
    pub(crate) webhook: WebhookName,
    /// The event's number: what a receiver tells repetitions by.
    pub(crate) event: EventId,
    /// What has happened.
    pub(crate) kind: String,
    /// What the body is made of.
    pub(crate) draft: Draft,
}

/// What came of a delivery.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The receiver has it, or there is no such webhook any more.
    Done,
    /// It is to be tried again.
    Failed {
        /// A word for machines.
        code: String,
        /// For people.
        message: String,
    },
}

impl Broker {
    /// Makes a webhook (true), or changes the one of this name.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if there are too many, or it has no secret and needs one; else those of
    /// the store, likewise below.
    pub async fn put_webhook(
        &self,
        name: WebhookName,
        spec: WebhookSpec,
        secret: Option<Secret>,
    ) -> Result<bool, Error> {
        let sealing = &self.0.core.sealing;
        let secret = secret.map(|secret| sealing.seal_secret(&name, &secret));
        let put = self.store().put_webhook(name, spec, secret).await?;
        self.0.core.webhooks_changed.notify_one();
        match put {
            PutWebhook::Created => Ok(true),
            PutWebhook::Updated => Ok(false),
            PutWebhook::NoSecret => {
                Err(Error::invalid("secret", "a webhook of this format needs one"))
            }
            PutWebhook::TooMany => {
                Err(Error::invalid("name", format!("more than {} webhooks", limits::WEBHOOKS_MAX)))
            }
        }
    }

    /// All webhooks, by name.
    pub async fn webhooks(&self) -> Result<Vec<Webhook>, Error> {
        self.store().webhooks().await
    }

    /// One webhook.
    pub async fn webhook(&self, name: &WebhookName) -> Result<Webhook, Error> {
        let found = self.webhooks().await?.into_iter().find(|webhook| webhook.name == *name);
        found.ok_or_else(|| no_webhook(name))
    }

    /// What deliveries to a webhook are signed with, if they are.
    ///
    /// # Errors
    ///
    /// If this node has not the key that it was sealed with.
    pub(crate) fn secret_of(&self, webhook: &Webhook) -> Result<Option<Secret>, Unreadable> {
        let open = |secret| self.0.core.sealing.open_secret(&webhook.name, secret);
        webhook.secret.as_ref().map(open).transpose()
    }

    /// Deletes a webhook. What is on its way to it is thrown away.
    pub async fn delete_webhook(&self, name: WebhookName) -> Result<(), Error> {
        match self.store().delete_webhook(name.clone()).await? {
            true => Ok(()),
            false => Err(no_webhook(&name)),
        }
    }

    /// Waits until somebody changes a webhook on this node.
    pub(crate) async fn webhooks_changed(&self) {
        self.0.core.webhooks_changed.notified().await;
    }

    /// Pushes deliveries of what has happened, a page for each webhook. Bounded; to be done again.
    pub(crate) async fn push_deliveries(&self, webhooks: &[Webhook]) -> Result<(), Error> {
        if webhooks.is_empty() {
            return Ok(());
        }
        let head = self.store().event_head().await?;
        for webhook in webhooks.iter().filter(|webhook| webhook.seen < head) {
            let wanted = EventsWanted {
                queue: match &webhook.spec.queues[..] {
                    [queue] => Some(queue.clone()),
                    _ => None,
                },
                after: webhook.seen,
                upto: head,
                limit: limits::EVENTS_PAGE,
            };
            let page = self.store().events(wanted).await?;
            let wanted = page.events.into_iter().filter(|event| webhook.spec.wants(event));
            let jobs: Vec<NewJob> =
                wanted.map(|event| delivery(webhook, event)).collect::<Result<_, _>>()?;
            if !jobs.is_empty() {
                self.0.core.push(jobs).await?;
            }
            self.store().advance_webhook(webhook.name.clone(), page.upto).await?;
        }
        Ok(())
    }

    /// Leases deliveries that are to be made now.
    pub(crate) async fn pull_deliveries(&self, count: usize) -> Result<Vec<Letter>, Error> {
        let worker = WorkerName::parse("batonq").map_err(Error::from)?;
        let pull = super::Pull {
            queue: QueueName::parse(QUEUE)?,
            count,
            wait: Duration::ZERO,
            worker,
            hold: Hold::Time(LEASE),
        };
        if count == 0 || self.is_draining() {
            return Ok(Vec::new());
        }
        let mut letters = Vec::new();
        let (waiter, credit) = (self.wait_for(&pull.queue), Semaphore::new(count));
        let claimed = self.claim(&pull, waiter.claim(&credit)).await?;
        for job in claimed.unwrap_or_default().jobs {
            let lease = job.lease;
            match serde_json::from_slice::<Contents>(&job.payload.bytes) {
                Ok(Contents { webhook, event, kind, draft }) => {
                    letters.push(Letter { lease, webhook, event, kind, draft });
                }
                Err(error) => {
                    let verdict = failed("INVALID", error.to_string(), Retry::Reject)?;
                    self.settle(vec![Settlement { lease, verdict }]).await?;
                }
            }
        }
        Ok(letters)
    }

    /// Says what came of a delivery. If that is lost, it is made again.
    pub(crate) async fn settle_delivery(
        &self,
        letter: &Letter,
        outcome: Outcome,
    ) -> Result<(), Error> {
        let verdict = match outcome {
            Outcome::Done => Verdict::Ack { result: None },
            Outcome::Failed { code, message } => failed(&code, message, Retry::Backoff)?,
        };
        self.settle(vec![Settlement { lease: letter.lease, verdict }]).await.map(drop)
    }

    /// The time of day, in seconds since 1970.
    pub(crate) fn unix_seconds(&self) -> i64 {
        self.0.core.clock.now().0 / 1000
    }
}

fn failed(code: &str, message: String, retry: Retry) -> Result<Verdict, Error> {
    let code = FailureCode::parse(code)?;
    Ok(Verdict::Fail { code, message, retry, chance: rand::random() })
}

fn delivery(webhook: &Webhook, event: Event) -> Result<NewJob, Error> {
    let (name, id, kind) = (webhook.name.clone(), event.id, event.kind.name());
    let json = |error: serde_json::Error| Error::Internal(error.to_string().into());
    let draft = match webhook.spec.format {
        WebhookFormat::Batonq => {
            Draft::Body(serde_json::to_string(&ShownEvent::from(event)).map_err(json)?)
        }
        WebhookFormat::Flashq => Draft::Told(event),
    };
    let contents = Contents { webhook: name.clone(), event: id, kind: kind.into(), draft };
    let bytes = serde_json::to_vec(&contents).map_err(json)?;
    let payload = Payload::new(bytes.into()).map_err(Error::from)?;
    let key = FlowKey::parse(name.as_str())?;
    let concurrency = Some(Concurrency { key, max: Some(AT_ONCE_MAX) });
    let idempotency = Some(UniqueKey::parse(&format!("{name} {id}"))?);
    let options =
        Options { flow: Flow { concurrency, rate: None }, idempotency, ..Options::default() };
    Ok(NewJob { options: options.into(), ..NewJob::new(QueueName::parse(QUEUE)?, payload) })
}

fn no_webhook(name: &WebhookName) -> Error {
    Error::NotFound(format!("there is no webhook {name}"))
}
