//! Webhooks.

use rusqlite::params;

use super::events::sql_number;
use super::row;
use super::tables::Tables;
use crate::job::{QueueName, Timestamp, WebhookName};
use crate::limits;
use crate::store::columns::{parse_secret, sql_secret};
use crate::store::events::Watcher;
use crate::store::webhooks::{parse_spec, sql_spec};
use crate::store::{EventId, PutWebhook, Secret, Webhook, WebhookSpec};

impl Tables {
    pub(super) fn put_webhook(
        &mut self,
        name: WebhookName,
        spec: WebhookSpec,
        secret: Option<Secret>,
    ) -> rusqlite::Result<PutWebhook> {
        let all = self.webhooks()?;
        let count = all.len();
        let known = all.into_iter().find(|webhook| webhook.name == name);
        if known.is_none() && count >= limits::WEBHOOKS_MAX {
            return Ok(PutWebhook::TooMany);
        }
        let secret = secret.or_else(|| known.as_ref().and_then(|known| known.secret.clone()));
        if secret.is_none() && spec.needs_secret() {
            return Ok(PutWebhook::NoSecret);
        }
        let seen = self.watch_for(&name, &spec)?;
        let (put, seen, created_at) = match known {
            Some(known) => (PutWebhook::Updated, known.seen, known.created_at),
            None => (PutWebhook::Created, seen, self.now),
        };
        let sql = "INSERT OR REPLACE INTO webhook (name, spec, secret, seen, created_at)
                   VALUES (?1, ?2, ?3, ?4, ?5)";
        let (spec, secret) = (sql_spec(&spec), sql_secret(secret.as_ref()));
        self.execute(sql, params![name.as_str(), spec, secret, sql_number(seen), created_at.0])?;
        Ok(put)
    }

    fn watch_for(&mut self, name: &WebhookName, spec: &WebhookSpec) -> rusqlite::Result<EventId> {
        let watcher = Watcher::Webhook(name.as_str());
        self.unwatch(watcher)?;
        let queues: Vec<Option<&QueueName>> = match spec.queues[..] {
            [] => vec![None],
            ref queues => queues.iter().map(Some).collect(),
        };
        let mut now = 0;
        for queue in queues {
            now = self.watch_as(watcher, queue, None)?.now;
        }
        Ok(now)
    }

    pub(super) fn webhooks(&self) -> rusqlite::Result<Vec<Webhook>> {
        let sql = "SELECT name, spec, secret, seen, created_at FROM webhook ORDER BY name";
        self.all(sql, [], |row| {
            let missing = || rusqlite::Error::InvalidQuery;
            Ok(Webhook {
                name: row::parsed(row, 0, WebhookName::parse)?.ok_or_else(missing)?,
                spec: row::parsed(row, 1, parse_spec)?.ok_or_else(missing)?,
                secret: parse_secret(&row::bytes(row, 2)?),
                seen: row.get(3)?,
                created_at: Timestamp(row.get(4)?),
            })
        })
    }

    pub(super) fn delete_webhook(&mut self, name: &WebhookName) -> rusqlite::Result<bool> {
        self.unwatch(Watcher::Webhook(name.as_str()))?;
        let sql = "DELETE FROM webhook WHERE name = ?1 RETURNING 1";
        Ok(self.one(sql, [name.as_str()], |_| Ok(()))?.is_some())
    }

    pub(super) fn advance_webhook(
        &mut self,
        name: &WebhookName,
        seen: EventId,
    ) -> rusqlite::Result<()> {
        let sql = "UPDATE webhook SET seen = max(seen, ?2) WHERE name = ?1";
        self.execute(sql, params![name.as_str(), sql_number(seen)])
    }
}
