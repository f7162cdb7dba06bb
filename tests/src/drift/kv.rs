//! What the drift test does with values by key.

use std::time::Duration;

use batonq_server::error::Error;
use batonq_server::job::KvKey;
use batonq_server::store::{KvEntry, KvPattern, Store};
use bytes::Bytes;
use proptest::prelude::*;

/// One call. There are few keys, so that calls meet.
#[derive(Debug, Clone)]
pub enum KvStep {
    /// Values are set.
    Set(Vec<KvEntry>),
    /// A value is deleted.
    Delete(KvKey),
    /// A value is given a time to live.
    Expire(KvKey, Duration),
    /// Something is added to a value.
    Add(KvKey, i64),
    /// Keys are listed.
    Keys(&'static str),
}

const KEYS: [&str; 4] = ["k", "k%", "kä", "l"];

const PATTERNS: [&str; 5] = ["*", "k*", "k?", "?", "k%"];

fn key() -> impl Strategy<Value = KvKey> {
    proptest::sample::select(&KEYS[..]).prop_map(|key| KvKey::parse(key).expect("a key"))
}

fn ttl() -> impl Strategy<Value = Duration> {
    (0..30_u64).prop_map(Duration::from_secs)
}

prop_compose! {
    fn entry()(
        key in key(),
        value in proptest::sample::select(&["7", "-1", "x", "", "9223372036854775807"][..]),
        ttl in proptest::option::of(ttl()),
    ) -> KvEntry {
        KvEntry { key, value: Bytes::from_static(value.as_bytes()), ttl }
    }
}

pub(super) fn step() -> impl Strategy<Value = KvStep> {
    prop_oneof![
        3 => proptest::collection::vec(entry(), 0..4).prop_map(KvStep::Set),
        1 => key().prop_map(KvStep::Delete),
        1 => (key(), ttl()).prop_map(|(key, ttl)| KvStep::Expire(key, ttl)),
        2 => (key(), -3..4_i64).prop_map(|(key, by)| KvStep::Add(key, by)),
        1 => proptest::sample::select(&PATTERNS[..]).prop_map(KvStep::Keys),
    ]
}

/// The text of the answer.
pub(super) async fn perform(store: &dyn Store, step: &KvStep) -> Result<String, Error> {
    Ok(match step {
        KvStep::Set(entries) => format!("{:?}", store.kv_set(entries.clone()).await?),
        KvStep::Delete(key) => format!("{:?}", store.kv_delete(key.clone()).await?),
        KvStep::Expire(key, ttl) => format!("{:?}", store.kv_expire(key.clone(), *ttl).await?),
        KvStep::Add(key, by) => format!("{:?}", store.kv_add(key.clone(), *by).await?),
        KvStep::Keys(pattern) => {
            let pattern = KvPattern::parse(pattern).expect("a pattern");
            format!("{:?}", store.kv_keys(pattern).await?)
        }
    })
}

/// All values that can be seen.
pub(super) async fn visible(store: &dyn Store) -> Result<String, Error> {
    let keys = KEYS.map(|key| KvKey::parse(key).expect("a key"));
    let all = KvPattern::parse("*").expect("a pattern");
    let listed = store.kv_keys(all).await?;
    Ok(format!("{listed:?} {:?}", store.kv_get(keys.to_vec(), usize::MAX).await?))
}
