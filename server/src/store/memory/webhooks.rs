//! Webhooks.

use super::Model;
use crate::job::{QueueName, WebhookName};
use crate::limits;
use crate::store::events::Watcher;
use crate::store::{EventId, PutWebhook, Secret, Webhook, WebhookSpec};

impl Model {
    pub(super) fn put_webhook(
        &mut self,
        name: WebhookName,
        spec: WebhookSpec,
        secret: Option<Secret>,
    ) -> PutWebhook {
        let known = self.webhooks.get(&name).cloned();
        if known.is_none() && self.webhooks.len() >= limits::WEBHOOKS_MAX {
            return PutWebhook::TooMany;
        }
        let secret = secret.or_else(|| known.as_ref().and_then(|known| known.secret.clone()));
        if secret.is_none() && spec.needs_secret() {
            return PutWebhook::NoSecret;
        }
        let seen = self.watch_for(&name, &spec);
        let (put, seen, created_at) = match known {
            Some(known) => (PutWebhook::Updated, known.seen, known.created_at),
            None => (PutWebhook::Created, seen, self.now),
        };
        self.webhooks.insert(name.clone(), Webhook { name, spec, secret, seen, created_at });
        put
    }

    fn watch_for(&mut self, name: &WebhookName, spec: &WebhookSpec) -> EventId {
        let watcher = Watcher::Webhook(name.as_str());
        self.unwatch(watcher);
        let queues: Vec<Option<&QueueName>> = match spec.queues[..] {
            [] => vec![None],
            ref queues => queues.iter().map(Some).collect(),
        };
        for queue in queues {
            self.watch_as(watcher, queue, None);
        }
        self.telling.last
    }

    pub(super) fn delete_webhook(&mut self, name: &WebhookName) -> bool {
        self.unwatch(Watcher::Webhook(name.as_str()));
        self.webhooks.remove(name).is_some()
    }

    pub(super) fn advance_webhook(&mut self, name: &WebhookName, seen: EventId) {
        if let Some(webhook) = self.webhooks.get_mut(name) {
            webhook.seen = webhook.seen.max(seen);
        }
    }
}
