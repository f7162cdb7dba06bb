//! Values by key.

use std::time::Duration;

use bytes::Bytes;

use super::Model;
use crate::job::{KvKey, Timestamp};
use crate::limits;
use crate::store::{KvAdd, KvEntry, KvPattern, KvValue};

/// A value, and until when it is there.
pub(super) struct Kept {
    value: Bytes,
    until: Option<Timestamp>,
}

impl Kept {
    fn is_there(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| until > now)
    }
}

impl Model {
    fn kept(&mut self, key: &KvKey) -> Option<&mut Kept> {
        let now = self.now;
        self.kv.get_mut(key).filter(|kept| kept.is_there(now))
    }

    pub(super) fn kv_set(&mut self, entries: Vec<KvEntry>) {
        for KvEntry { key, value, ttl } in entries {
            self.kv.insert(key, Kept { value, until: ttl.map(|ttl| self.now + ttl) });
        }
    }

    pub(super) fn kv_get(
        &mut self,
        keys: &[KvKey],
        bytes_max: usize,
    ) -> Option<Vec<Option<KvValue>>> {
        let now = self.now;
        let shown = |kept: &mut Kept| KvValue {
            value: kept.value.clone(),
            ttl: kept.until.map(|until| until.since(now)),
        };
        let found: Vec<_> = keys.iter().map(|key| self.kept(key).map(shown)).collect();
        let bytes: usize = found.iter().flatten().map(|found| found.value.len()).sum();
        (bytes <= bytes_max).then_some(found)
    }

    pub(super) fn kv_delete(&mut self, key: &KvKey) -> bool {
        self.kv.remove(key).is_some_and(|kept| kept.is_there(self.now))
    }

    pub(super) fn kv_expire(&mut self, key: &KvKey, ttl: Duration) -> bool {
        let until = self.now + ttl;
        let Some(kept) = self.kept(key) else { return false };
        kept.until = Some(until);
        true
    }

    pub(super) fn kv_keys(&self, pattern: &KvPattern) -> Vec<KvKey> {
        let there = self.kv.iter().filter(|(_, kept)| kept.is_there(self.now));
        let meant = there.map(|(key, _)| key).filter(|key| pattern.matches(key.as_str()));
        meant.take(limits::KV_KEYS_MAX).cloned().collect()
    }

    pub(super) fn kv_add(&mut self, key: KvKey, by: i64) -> KvAdd {
        let kept = self.kept(&key);
        let (value, until) = kept.map(|kept| (kept.value.clone(), kept.until)).unzip();
        let added = KvAdd::of(value.as_deref(), by);
        if let KvAdd::Done(sum) = added {
            let value = sum.to_string().into();
            self.kv.insert(key, Kept { value, until: until.flatten() });
        }
        added
    }

    pub(super) fn forget_kv(&mut self) {
        let now = self.now;
        self.kv.retain(|_, kept| kept.is_there(now));
    }
}
