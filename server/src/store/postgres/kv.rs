//! Values by key.
//!
//! Whether a value is still there is judged by each statement. What adds to one does so in a single
//! statement, which locks the row: who adds at the same time adds one after the other.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::lane::{Failure, Tx};
use super::row::{self, get, parsed};
use super::{PostgresStore, inspect, retrying};
use crate::job::{KvKey, Timestamp};
use crate::limits;
use crate::store::columns::sql_millis;
use crate::store::{DUTY_ROWS_MAX, KvAdd, KvEntry, KvPattern, KvValue};

/// Keys that are read at a time when some are looked for.
const KEYS_AT_ONCE: usize = 1_000;

/// How often it is tried to add to a value that others change meanwhile.
const ADD_TRIES: usize = 5;

/// Each key once, in order, so that nobody waits for who waits for him.
const SET: &str = "
    WITH clock AS MATERIALIZED (SELECT now_ms() AS now)
    INSERT INTO kv (key, value, expires_at)
    SELECT u.key, u.value, (SELECT now FROM clock) + u.ttl
    FROM unnest($1::text[], $2::bytea[], $3::bigint[]) AS u (key, value, ttl)
    ON CONFLICT (key) DO UPDATE
    SET value = excluded.value, expires_at = excluded.expires_at";

/// Without values, if they are too large together.
const GET: &str = "
    WITH clock AS MATERIALIZED (SELECT now_ms() AS now),
    found AS MATERIALIZED (
        SELECT u.place, k.value, k.expires_at
        FROM unnest($1::text[]) WITH ORDINALITY AS u (key, place)
        CROSS JOIN LATERAL (
            SELECT value, expires_at FROM kv WHERE key = u.key OFFSET 0
        ) k
        WHERE k.expires_at IS NULL OR k.expires_at > (SELECT now FROM clock)
    )
    SELECT
        place, expires_at - (SELECT now FROM clock) AS ttl,
        CASE WHEN (SELECT sum(length(value)) FROM found) <= $2::bigint THEN value END AS value
    FROM found";

const DELETE: &str = "
    DELETE FROM kv
    WHERE key = $1
    RETURNING (expires_at IS NULL OR expires_at > now_ms()) AS was_there";

const EXPIRE: &str = "
    WITH clock AS MATERIALIZED (SELECT now_ms() AS now)
    UPDATE kv
    SET expires_at = (SELECT now FROM clock) + $2::bigint
    WHERE key = $1 AND (expires_at IS NULL OR expires_at > (SELECT now FROM clock))
    RETURNING key";

/// Keys from $1 on, behind $2.
const KEYS: &str = "
    SELECT key
    FROM kv
    WHERE key >= $1 AND key > $2 AND (expires_at IS NULL OR expires_at > (SELECT now_ms()))
    ORDER BY key
    LIMIT $3";

/// What is no more counts as nothing. No row: what stands there can not be added to; see
/// [`KvAdd::of`] for which numbers can.
const ADD: &str = "
    WITH clock AS MATERIALIZED (SELECT now_ms() AS now)
    INSERT INTO kv (key, value)
    VALUES ($1, decode($2::bigint::text, 'escape'))
    ON CONFLICT (key) DO UPDATE
    SET value = CASE
            WHEN kv.expires_at <= (SELECT now FROM clock) THEN excluded.value
            ELSE decode((encode(kv.value, 'escape')::numeric + $2::bigint)::text, 'escape')
        END,
        expires_at = CASE
            WHEN kv.expires_at <= (SELECT now FROM clock) THEN NULL
            ELSE kv.expires_at
        END
    WHERE CASE
        WHEN kv.expires_at <= (SELECT now FROM clock) THEN true
        WHEN length(kv.value) > 20 THEN false
        WHEN encode(kv.value, 'escape') !~ '^-?(0|[1-9][0-9]{0,18})$' THEN false
        ELSE encode(kv.value, 'escape')::numeric + $2::bigint
            BETWEEN -9223372036854775808 AND 9223372036854775807
    END
    RETURNING encode(value, 'escape')::bigint AS sum";

/// Values that are no more. One that somebody sets again just now is theirs.
const FORGET: &str = "
    WITH gone AS (
        DELETE FROM kv
        WHERE ctid = ANY(ARRAY(
            SELECT ctid
            FROM kv
            WHERE expires_at <= $1
            ORDER BY expires_at
            LIMIT $2
            FOR UPDATE SKIP LOCKED
        )) AND expires_at <= $1
        RETURNING 1
    )
    SELECT count(*) AS count
    FROM gone";

/// See [`super::hot_statements`].
pub(super) const HOT: &[super::Named] = &[
    ("kv::SET", SET),
    ("kv::GET", GET),
    ("kv::DELETE", DELETE),
    ("kv::EXPIRE", EXPIRE),
    ("kv::KEYS", KEYS),
    ("kv::ADD", ADD),
    ("kv::FORGET", FORGET),
];

impl PostgresStore {
    pub(super) async fn set_values(&self, entries: &[KvEntry]) -> Result<(), Failure> {
        retrying!(self.try_set_values(entries))
    }

    async fn try_set_values(&self, entries: &[KvEntry]) -> Result<(), Failure> {
        let latest: BTreeMap<&KvKey, &KvEntry> =
            entries.iter().map(|entry| (&entry.key, entry)).collect();
        let keys: Vec<&str> = latest.keys().map(|key| key.as_str()).collect();
        let values: Vec<&[u8]> = latest.values().map(|entry| &entry.value[..]).collect();
        let ttls: Vec<Option<i64>> = latest.values().map(|it| it.ttl.map(sql_millis)).collect();
        let tx = self.pool.begin().await?;
        tx.commit(&[(SET, &[&keys, &values, &ttls])]).await.map(drop)
    }

    pub(super) async fn find_values(
        &self,
        keys: &[KvKey],
        bytes_max: usize,
    ) -> Result<Option<Vec<Option<KvValue>>>, Failure> {
        let names: Vec<&str> = keys.iter().map(KvKey::as_str).collect();
        let bytes_max = i64::try_from(bytes_max).unwrap_or(i64::MAX);
        let mut found = vec![None; keys.len()];
        for row in self.pool.read((GET, &[&names, &bytes_max])).await? {
            let Some(value) = get::<Option<&[u8]>>(&row, "value") else { return Ok(None) };
            let place = usize::try_from(get::<i64>(&row, "place") - 1).unwrap_or(usize::MAX);
            if let Some(found) = found.get_mut(place) {
                let value = Bytes::copy_from_slice(value);
                *found = Some(KvValue { value, ttl: row::duration(&row, "ttl") });
            }
        }
        Ok(Some(found))
    }

    pub(super) async fn delete_value(&self, key: &KvKey) -> Result<bool, Failure> {
        let tx = self.pool.begin().await?;
        let gone = tx.commit(&[(DELETE, &[&key.as_str()])]).await?;
        Ok(gone[0].first().is_some_and(|row| get(row, "was_there")))
    }

    pub(super) async fn expire_value(&self, key: &KvKey, ttl: Duration) -> Result<bool, Failure> {
        let tx = self.pool.begin().await?;
        let changed = tx.commit(&[(EXPIRE, &[&key.as_str(), &sql_millis(ttl)])]).await?;
        Ok(!changed[0].is_empty())
    }

    /// Looks through all keys that begin as the pattern does, some at a time.
    pub(super) async fn find_keys(&self, pattern: &KvPattern) -> Result<Vec<KvKey>, Failure> {
        let most = i64::try_from(KEYS_AT_ONCE).unwrap_or(i64::MAX);
        let (mut found, mut last) = (Vec::new(), String::new());
        loop {
            let rows = self.pool.read((KEYS, &[&pattern.prefix(), &last, &most])).await?;
            for row in &rows {
                let key = parsed(row, "key", KvKey::parse)?;
                let key = key.ok_or_else(|| inspect::damaged("a value without a key"))?;
                let is_beyond = !key.as_str().starts_with(pattern.prefix());
                if is_beyond || found.len() >= limits::KV_KEYS_MAX {
                    return Ok(found);
                }
                last = key.as_str().to_owned();
                found.extend(Some(key).filter(|key| pattern.matches(key.as_str())));
            }
            if rows.len() < KEYS_AT_ONCE {
                return Ok(found);
            }
        }
    }

    pub(super) async fn add_to_value(&self, key: &KvKey, by: i64) -> Result<KvAdd, Failure> {
        for _ in 0..ADD_TRIES {
            let tx = self.pool.begin().await?;
            let added = tx.commit(&[(ADD, &[&key.as_str(), &by])]).await?;
            if let Some(row) = added[0].first() {
                return Ok(KvAdd::Done(get(row, "sum")));
            }
            let found = self.find_values(std::slice::from_ref(key), usize::MAX).await?;
            let found = found.into_iter().flatten().next().flatten();
            match KvAdd::of(found.as_ref().map(|found| &found.value[..]), by) {
                // By now it could be added to.
                KvAdd::Done(_) => {}
                refused => return Ok(refused),
            }
        }
        Err(Failure::Conflict("a value is being changed by others".into()))
    }
}

/// Deletes values that are no more. The answer: how many.
pub(super) async fn forget_values(tx: &mut Tx<'_>, now: Timestamp) -> Result<i64, Failure> {
    let most = i64::try_from(DUTY_ROWS_MAX).unwrap_or(i64::MAX);
    Ok(get(&tx.query(FORGET, &[&now.0, &most]).await?[0], "count"))
}
