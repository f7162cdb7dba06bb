//! What is kept of webhooks: the part that all stores share.

use std::fmt;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::columns::json;
use super::events::Event;
use super::{EventId, EventKind};
use crate::job::{InvalidField, QueueName, Timestamp, WebhookName};
use crate::limits;
use schemars::JsonSchema;

/// Somebody who wants to be told of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// Its name.
    pub name: WebhookName,
    /// Where, and of what.
    pub spec: WebhookSpec,
    /// What its deliveries are signed with, sealed if the node that made it has a key. `None`: they
    /// are not signed, which not every format allows.
    pub secret: Option<Secret>,
    /// Deliveries of all events up to here have been pushed.
    pub seen: EventId,
    /// When it was made.
    pub created_at: Timestamp,
}

/// Where events are to be told, and which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookSpec {
    /// Where.
    pub url: String,
    /// Of these queues; empty: of all.
    pub queues: Vec<QueueName>,
    /// Of these kinds; empty: of all.
    pub kinds: Vec<EventKind>,
    /// What deliveries look like.
    #[serde(default)]
    pub format: WebhookFormat,
}

/// What deliveries look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WebhookFormat {
    /// The event as streams show it. Always signed.
    #[default]
    Batonq,
    /// As flashQ posts them, with payloads and results; signed if there is a secret.
    Flashq,
}

impl WebhookFormat {
    /// The secrets that it takes, by their length in bytes.
    const fn secret_bytes(self) -> RangeInclusive<usize> {
        match self {
            Self::Batonq => limits::SECRET_BYTES,
            Self::Flashq => limits::FLASHQ_SECRET_BYTES,
        }
    }
}

impl WebhookSpec {
    /// Whether deliveries have to be signed.
    pub(crate) fn needs_secret(&self) -> bool {
        self.format == WebhookFormat::Batonq
    }

    /// Whether an event is wanted.
    pub fn wants(&self, event: &Event) -> bool {
        (self.queues.is_empty() || self.queues.contains(&event.queue))
            && (self.kinds.is_empty() || self.kinds.contains(&event.kind))
    }

    /// The queues to watch, by name; an empty one stands for all.
    pub(crate) fn watched(&self) -> Vec<&str> {
        match self.queues[..] {
            [] => vec![""],
            ref queues => queues.iter().map(QueueName::as_str).collect(),
        }
    }
}

/// What nobody else must know. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<[u8]>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Secret {
    /// # Errors
    ///
    /// If it is too short or too long for deliveries of this format.
    pub fn parse(text: &str, format: WebhookFormat) -> Result<Self, InvalidField> {
        let bytes = format.secret_bytes();
        if !bytes.contains(&text.len()) {
            let detail = format!("must have {} to {} bytes", bytes.start(), bytes.end());
            return Err(InvalidField::new("secret", detail));
        }
        Ok(Self::new(text.as_bytes().into()))
    }

    pub(crate) fn new(bytes: Box<[u8]>) -> Self {
        Self(bytes)
    }

    /// The secret itself, for signatures.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// What came of putting a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutWebhook {
    /// It is new.
    Created,
    /// It is another now.
    Updated,
    /// There are too many.
    TooMany,
    /// It has no secret, and needs one.
    NoSecret,
}

pub(super) fn sql_spec(spec: &WebhookSpec) -> String {
    json(spec)
}

pub(super) fn parse_spec(text: &str) -> Result<WebhookSpec, serde_json::Error> {
    serde_json::from_str(text)
}
