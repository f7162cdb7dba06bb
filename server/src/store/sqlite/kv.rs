//! Values by key.

use std::time::Duration;

use rusqlite::{Connection, Row, params};

use super::row;
use super::tables::Tables;
use crate::job::{KvKey, Timestamp};
use crate::limits;
use crate::store::{DUTY_ROWS_MAX, KvAdd, KvEntry, KvPattern, KvValue};

const WRITE: &str = "INSERT OR REPLACE INTO kv (key, value, expires_at) VALUES (?1, ?2, ?3)";

/// Keys from one on; what is no more is left out.
const FROM: &str = "
    SELECT key
    FROM kv
    WHERE key >= ?1 AND (expires_at IS NULL OR expires_at > ?2)
    ORDER BY key";

impl Tables {
    pub(super) fn kv_set(&mut self, entries: &[KvEntry]) -> rusqlite::Result<()> {
        entries.iter().try_for_each(|KvEntry { key, value, ttl }| {
            let until = ttl.map(|ttl| (self.now + ttl).0);
            self.execute(WRITE, params![key.as_str(), &value[..], until])
        })
    }

    fn kept(&self, key: &KvKey) -> rusqlite::Result<Option<(KvValue, Option<Timestamp>)>> {
        let sql = "SELECT value, expires_at FROM kv
                   WHERE key = ?1 AND (expires_at IS NULL OR expires_at > ?2)";
        self.one(sql, params![key.as_str(), self.now.0], |row| {
            let until = row::time(row, 1)?;
            let ttl = until.map(|until| until.since(self.now));
            Ok((KvValue { value: row::bytes(row, 0)?, ttl }, until))
        })
    }

    pub(super) fn kv_get(
        &self,
        keys: &[KvKey],
        bytes_max: usize,
    ) -> rusqlite::Result<Option<Vec<Option<KvValue>>>> {
        let (mut found, mut bytes) = (Vec::with_capacity(keys.len()), 0);
        for key in keys {
            let value = self.kept(key)?.map(|(value, _)| value);
            bytes += value.as_ref().map_or(0, |found| found.value.len());
            if bytes > bytes_max {
                return Ok(None);
            }
            found.push(value);
        }
        Ok(Some(found))
    }

    pub(super) fn kv_delete(&self, key: &KvKey) -> rusqlite::Result<bool> {
        let sql = "DELETE FROM kv WHERE key = ?1
                   RETURNING expires_at IS NULL OR expires_at > ?2";
        let was_there = self.one(sql, params![key.as_str(), self.now.0], |row| row.get(0))?;
        Ok(was_there.unwrap_or(false))
    }

    pub(super) fn kv_expire(&self, key: &KvKey, ttl: Duration) -> rusqlite::Result<bool> {
        let sql = "UPDATE kv SET expires_at = ?3
                   WHERE key = ?1 AND (expires_at IS NULL OR expires_at > ?2)
                   RETURNING 1";
        let values = params![key.as_str(), self.now.0, (self.now + ttl).0];
        Ok(self.one(sql, values, |_| Ok(()))?.is_some())
    }

    pub(super) fn kv_add(&self, key: &KvKey, by: i64) -> rusqlite::Result<KvAdd> {
        let (kept, until) = self.kept(key)?.unzip();
        let added = KvAdd::of(kept.as_ref().map(|kept| &kept.value[..]), by);
        if let KvAdd::Done(sum) = added {
            let until = until.flatten().map(|until| until.0);
            self.execute(WRITE, params![key.as_str(), sum.to_string().as_bytes(), until])?;
        }
        Ok(added)
    }

    /// Deletes values that are no more. The answer: how many.
    pub(super) fn forget_kv(&self) -> rusqlite::Result<usize> {
        let sql = "DELETE FROM kv WHERE key IN (
                       SELECT key FROM kv WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2
                   )";
        self.conn.prepare_cached(sql)?.execute(params![self.now.0, DUTY_ROWS_MAX])
    }
}

/// The keys that are meant. On a connection of its own, since it may have to read a lot.
pub(super) fn keys(
    conn: &Connection,
    pattern: &KvPattern,
    now: Timestamp,
) -> rusqlite::Result<Vec<KvKey>> {
    let mut statement = conn.prepare_cached(FROM)?;
    let mut rows = statement.query(params![pattern.prefix(), now.0])?;
    let mut keys = Vec::new();
    while keys.len() < limits::KV_KEYS_MAX
        && let Some(row) = rows.next()?
    {
        let key = read_key(row)?;
        if !key.as_str().starts_with(pattern.prefix()) {
            break;
        }
        if pattern.matches(key.as_str()) {
            keys.push(key);
        }
    }
    Ok(keys)
}

fn read_key(row: &Row<'_>) -> rusqlite::Result<KvKey> {
    row::parsed(row, 0, KvKey::parse)?.ok_or(rusqlite::Error::InvalidQuery)
}
