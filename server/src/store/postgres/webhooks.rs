//! Webhooks.

use tokio_postgres::Row;

use super::PostgresStore;
use super::events::{LAST, ONE_AT_A_TIME, insisting, number, sql_number, watch_as};
use super::lane::Failure;
use super::row::{self, get, parsed};
use crate::job::{Timestamp, WebhookName};
use crate::limits;
use crate::store::columns::{parse_secret, sql_secret};
use crate::store::events::Watcher;
use crate::store::webhooks::{parse_spec, sql_spec};
use crate::store::{EventId, PutWebhook, Secret, Webhook, WebhookSpec};

const ALL: &str = "SELECT name, spec, secret, seen, created_at FROM webhook ORDER BY name";

const WRITE: &str = "
    INSERT INTO webhook (name, spec, secret, seen, created_at)
    VALUES ($1, $2, $3, $4, now_ms())
    ON CONFLICT (name) DO UPDATE SET spec = excluded.spec, secret = excluded.secret";

const UNWATCH: &str = "DELETE FROM watch WHERE owner = $1";

impl PostgresStore {
    pub(super) async fn put_hook(
        &self,
        name: WebhookName,
        spec: WebhookSpec,
        secret: Option<Secret>,
    ) -> Result<PutWebhook, Failure> {
        insisting(|| self.try_put_hook(&name, &spec, secret.as_ref())).await
    }

    async fn try_put_hook(
        &self,
        name: &WebhookName,
        spec: &WebhookSpec,
        secret: Option<&Secret>,
    ) -> Result<PutWebhook, Failure> {
        let mut tx = self.pool.begin().await?;
        tx.query(ONE_AT_A_TIME, &[]).await?;
        let all: Vec<Webhook> =
            tx.query(ALL, &[]).await?.iter().map(read).collect::<Result<_, _>>()?;
        let known = all.iter().find(|webhook| webhook.name == *name);
        if known.is_none() && all.len() >= limits::WEBHOOKS_MAX {
            return Ok(PutWebhook::TooMany);
        }
        let secret = secret.or_else(|| known.and_then(|known| known.secret.as_ref()));
        if secret.is_none() && spec.needs_secret() {
            return Ok(PutWebhook::NoSecret);
        }
        let watcher = Watcher::Webhook(name.as_str());
        tx.query(UNWATCH, &[&watcher.name()]).await?;
        watch_as(&mut tx, watcher, &spec.watched(), None).await?;
        let seen = sql_number(number(&tx.query(LAST, &[]).await?[0], "last"));
        let (spec, secret) = (sql_spec(spec), sql_secret(secret));
        tx.commit(&[(WRITE, &[&name.as_str(), &spec, &secret, &seen])]).await?;
        Ok(if known.is_some() { PutWebhook::Updated } else { PutWebhook::Created })
    }

    pub(super) async fn list_hooks(&self) -> Result<Vec<Webhook>, Failure> {
        self.pool.read((ALL, &[])).await?.iter().map(read).collect()
    }

    /// The triggers stay until the leader finds that nobody watches.
    pub(super) async fn delete_hook(&self, name: &WebhookName) -> Result<bool, Failure> {
        let owner = Watcher::Webhook(name.as_str()).name();
        let sql = "DELETE FROM webhook WHERE name = $1 RETURNING name";
        let mut tx = self.pool.begin().await?;
        tx.query(ONE_AT_A_TIME, &[]).await?;
        let gone = tx.commit(&[(sql, &[&name.as_str()]), (UNWATCH, &[&owner])]).await?;
        Ok(!gone[0].is_empty())
    }

    pub(super) async fn advance_hook(
        &self,
        name: &WebhookName,
        seen: EventId,
    ) -> Result<(), Failure> {
        let sql = "UPDATE webhook SET seen = greatest(seen, $2) WHERE name = $1";
        let tx = self.pool.begin().await?;
        tx.commit(&[(sql, &[&name.as_str(), &sql_number(seen)])]).await.map(drop)
    }
}

fn read(row: &Row) -> Result<Webhook, Failure> {
    let damaged = || Failure::NotDone("the tables are damaged: a webhook".into());
    Ok(Webhook {
        name: parsed(row, "name", WebhookName::parse)?.ok_or_else(damaged)?,
        spec: parsed(row, "spec", parse_spec)?.ok_or_else(damaged)?,
        secret: parse_secret(&row::bytes(row, "secret")),
        seen: number(row, "seen"),
        created_at: Timestamp(get(row, "created_at")),
    })
}
