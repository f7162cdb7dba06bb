//! Webhooks.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::time;
use crate::error::Error;
use crate::http::query::event_kind;
use crate::job::QueueName;
use crate::limits;
use crate::store::{Secret, Webhook, WebhookFormat, WebhookSpec};
use crate::webhooks::Reach;

/// A webhook. The secret is never shown.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct PutWebhookBody {
    /// Where events are posted to: https, a public address.
    url: String,
    /// What deliveries are signed with, 16 to 256 bytes. A new webhook needs one; without it, that
    /// of an old one stays. In the format `flashq` it may be shorter, and need not be.
    #[serde(default)]
    secret: Option<String>,
    /// Of these queues; none: of all.
    #[serde(default)]
    queues: Vec<String>,
    /// Of these kinds; none: of all.
    #[serde(default)]
    kinds: Vec<String>,
    /// What deliveries look like. `flashq`: as flashQ posts them, and of those kinds only that it
    /// knows.
    #[serde(default)]
    format: WebhookFormat,
}

impl PutWebhookBody {
    pub(in crate::http) fn parse(
        self,
        reach: Reach,
    ) -> Result<(WebhookSpec, Option<Secret>), Error> {
        reach.check(&self.url)?;
        for (field, count) in [("queues", self.queues.len()), ("kinds", self.kinds.len())] {
            if count > limits::WEBHOOK_FILTER_MAX {
                let detail = format!("more than {}", limits::WEBHOOK_FILTER_MAX);
                return Err(Error::invalid(field, detail));
            }
        }
        let queue = |name: &String| {
            QueueName::parse(name).map_err(|error| Error::invalid("queues", error.detail))
        };
        let kind = |name: &String| event_kind(name, "kinds");
        let spec = WebhookSpec {
            queues: self.queues.iter().map(queue).collect::<Result<_, _>>()?,
            kinds: self.kinds.iter().map(kind).collect::<Result<_, _>>()?,
            url: self.url,
            format: self.format,
        };
        let secret = self.secret.map(|text| Secret::parse(&text, self.format)).transpose()?;
        Ok((spec, secret))
    }
}

/// A webhook as it is shown.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::http) struct WebhookBody {
    /// Its name.
    name: String,
    /// Where events are posted to.
    url: String,
    /// Of these queues; none: of all.
    queues: Vec<String>,
    /// Of these kinds; none: of all.
    kinds: Vec<&'static str>,
    /// What deliveries look like.
    format: WebhookFormat,
    /// Deliveries of all events up to this number have been pushed to `batonq.webhooks`.
    seen: u64,
    /// When it was made.
    created_at: String,
}

impl From<Webhook> for WebhookBody {
    fn from(webhook: Webhook) -> Self {
        Self {
            name: webhook.name.as_str().into(),
            queues: webhook.spec.queues.iter().map(|queue| queue.as_str().into()).collect(),
            kinds: webhook.spec.kinds.iter().map(|kind| kind.name()).collect(),
            url: webhook.spec.url,
            format: webhook.spec.format,
            seen: webhook.seen,
            created_at: time(webhook.created_at),
        }
    }
}

/// All webhooks.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::http) struct WebhooksBody {
    /// By name.
    pub(in crate::http) webhooks: Vec<WebhookBody>,
}
