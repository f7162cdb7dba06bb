//! Values by key, beside all jobs.
//!
//! They belong to no queue. So nothing of them is sealed, whatever queues are encrypted: who wants a
//! value to be secret seals it before it is set.
//!
//! Keys that begin with `batonq.` are batonq's own, like queues of such names: clients neither see nor
//! touch them.

use std::time::Duration;

use super::Broker;
use crate::error::Error;
use crate::job::{KvKey, TooLarge};
use crate::limits;
use crate::store::kv::is_own;
use crate::store::{KvAdd, KvEntry, KvPattern, KvValue};

impl Broker {
    /// Sets values, all or none; at most [`limits::BATCH_MAX`]. What stood under their keys is gone,
    /// with its time to live. Of two entries with the same key the later one counts.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future does not recall the values; likewise below.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] and [`Error::PayloadTooLarge`] if an entry, or a key, can not be accepted,
    /// [`Error::Overloaded`], or those of the store; likewise below.
    pub async fn kv_set(&self, entries: Vec<KvEntry>) -> Result<(), Error> {
        check_count("entries", entries.len())?;
        entries.iter().try_for_each(check)?;
        let bytes = entries.iter().map(|entry| entry.key.as_str().len() + entry.value.len()).sum();
        let _room = self.0.core.budget.take(bytes)?;
        self.store().kv_set(entries).await
    }

    /// The values under these keys, in their order; at most [`limits::BATCH_MAX`].
    ///
    /// # Errors
    ///
    /// [`Error::PayloadTooLarge`] if they do not fit into one answer.
    pub async fn kv_get(&self, keys: Vec<KvKey>) -> Result<Vec<Option<KvValue>>, Error> {
        check_count("keys", keys.len())?;
        keys.iter().try_for_each(Self::check_key)?;
        let bytes_max = limits::ANSWER_BYTES_MAX;
        let found = self.store().kv_get(keys, bytes_max).await?;
        found.ok_or_else(|| Error::PayloadTooLarge {
            field: "keys",
            detail: format!("the values have more than {bytes_max} bytes: ask for fewer at a time"),
        })
    }

    /// Deletes a value. False: there was none.
    pub async fn kv_delete(&self, key: KvKey) -> Result<bool, Error> {
        Self::check_key(&key)?;
        self.store().kv_delete(key).await
    }

    /// Gives a value so much time to live, from now on. False: there is none.
    pub async fn kv_expire(&self, key: KvKey, ttl: Duration) -> Result<bool, Error> {
        Self::check_key(&key)?;
        check_ttl(ttl)?;
        self.store().kv_expire(key, ttl).await
    }

    /// The keys that are meant by a pattern, in the order of their bytes: the first
    /// [`limits::KV_KEYS_MAX`]. `*` stands for any letters, also none, and `?` for any one.
    pub async fn kv_keys(&self, pattern: &str) -> Result<Vec<KvKey>, Error> {
        self.store().kv_keys(KvPattern::parse(pattern)?).await
    }

    /// Adds to a value, which is a whole number in decimal digits and keeps its time to live; to
    /// nothing as if it were 0. The answer: the sum.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], and nothing is changed, if the value or the sum is no such number of 64
    /// bits.
    pub async fn kv_add(&self, key: KvKey, by: i64) -> Result<i64, Error> {
        Self::check_key(&key)?;
        match self.store().kv_add(key, by).await? {
            KvAdd::Done(sum) => Ok(sum),
            KvAdd::NotANumber => Err(Error::invalid("value", "what stands there is no integer")),
            KvAdd::Overflow => Err(Error::invalid("value", "the sum does not fit into 64 bits")),
        }
    }

    /// # Errors
    ///
    /// [`Error::Invalid`] for a key that is batonq's own.
    pub fn check_key(key: &KvKey) -> Result<(), Error> {
        match is_own(key.as_str()) {
            true => {
                let detail = format!("{key}: keys that begin with batonq. are batonq's own");
                Err(Error::invalid("key", detail))
            }
            false => Ok(()),
        }
    }
}

fn check(entry: &KvEntry) -> Result<(), Error> {
    Broker::check_key(&entry.key)?;
    let bytes = entry.value.len();
    if bytes > limits::PAYLOAD_BYTES_MAX {
        return Err(TooLarge { field: "value", bytes }.into());
    }
    entry.ttl.map_or(Ok(()), check_ttl)
}

fn check_ttl(ttl: Duration) -> Result<(), Error> {
    match ttl > limits::DELAY_MAX {
        true => Err(Error::invalid("ttl", "longer than ten years")),
        false => Ok(()),
    }
}

fn check_count(field: &'static str, count: usize) -> Result<(), Error> {
    match count > limits::BATCH_MAX {
        true => Err(Error::invalid(field, format!("more than {}", limits::BATCH_MAX))),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use tokio_util::sync::CancellationToken;

    use super::super::Patience;
    use super::*;
    use crate::clock::ManualClock;
    use crate::cluster::Demand;
    use crate::secrets::Keyring;
    use crate::store::Retention;
    use crate::store::memory::MemoryStore;

    fn broker() -> Broker {
        let clock = ManualClock::new();
        let store = MemoryStore::new("n", clock.clone(), Retention::default());
        let (patience, stop) = (Patience::default(), CancellationToken::new());
        let (demand, keys) = (Demand::default(), Keyring::default());
        Broker::new(Arc::new(store), clock, patience, demand, keys, &stop).0
    }

    fn entry(key: &str, bytes: usize) -> KvEntry {
        let value = Bytes::from(vec![b'1'; bytes]);
        KvEntry { key: KvKey::parse(key).unwrap(), value, ttl: None }
    }

    #[tokio::test]
    async fn what_can_not_be_accepted_is_refused_with_all_that_came_with_it() {
        let broker = broker();
        let ttl = Some(limits::DELAY_MAX + Duration::from_millis(1));
        for (bad, field) in [
            (entry("batonq.own", 1), "key"),
            (entry("bad", limits::PAYLOAD_BYTES_MAX + 1), "value"),
            (KvEntry { ttl, ..entry("bad", 1) }, "ttl"),
        ] {
            let refused = broker.kv_set(vec![entry("good", 1), bad]).await.unwrap_err();
            assert_eq!(refused.field(), Some(field));
        }
        let many = vec![entry("good", 1); limits::BATCH_MAX + 1];
        assert_eq!(broker.kv_set(many).await.unwrap_err().field(), Some("entries"));
        let many = vec![entry("good", 1).key; limits::BATCH_MAX + 1];
        assert_eq!(broker.kv_get(many).await.unwrap_err().field(), Some("keys"));
        assert_eq!(broker.kv_keys("*").await.unwrap(), []);
        let long = "k".repeat(2000);
        assert_eq!(broker.kv_keys(&long).await.unwrap_err().field(), Some("pattern"));
    }

    #[tokio::test]
    async fn our_own_values_are_neither_seen_nor_touched() {
        let broker = broker();
        let own = entry("batonq.own", 1);
        let key = || own.key.clone();
        broker.store().kv_set(vec![own.clone()]).await.unwrap();
        for refused in [
            broker.kv_set(vec![own.clone()]).await.unwrap_err(),
            broker.kv_get(vec![key()]).await.unwrap_err(),
            broker.kv_delete(key()).await.unwrap_err(),
            broker.kv_expire(key(), Duration::ZERO).await.unwrap_err(),
            broker.kv_add(key(), 1).await.unwrap_err(),
        ] {
            assert_eq!(refused.field(), Some("key"));
        }
        assert_eq!(broker.kv_keys("batonq.*").await.unwrap(), []);
        let kept = broker.store().kv_get(vec![key()], usize::MAX).await.unwrap().unwrap();
        assert_eq!(kept[0].as_ref().map(|kept| &kept.value[..]), Some(&b"1"[..]));
    }

    #[tokio::test]
    async fn values_that_do_not_fit_into_an_answer_are_to_be_asked_for_apart() {
        let broker = broker();
        let large = entry("large", limits::PAYLOAD_BYTES_MAX);
        let keys = vec![large.key.clone(); 4];
        broker.kv_set(vec![large]).await.unwrap();
        let refused = broker.kv_get(keys.clone()).await.unwrap_err();
        assert!(matches!(refused, Error::PayloadTooLarge { field: "keys", .. }), "{refused:?}");
        assert_eq!(broker.kv_get(keys[..3].to_vec()).await.unwrap().len(), 3);
    }

    #[tokio::test]
    async fn only_integers_of_64_bits_are_added_to() {
        let broker = broker();
        let key = KvKey::parse("n").unwrap();
        assert_eq!(broker.kv_add(key.clone(), i64::MAX).await, Ok(i64::MAX));
        let overflow = broker.kv_add(key.clone(), 1).await.unwrap_err();
        assert_eq!(overflow.field(), Some("value"));
        broker.kv_set(vec![entry("n", 0)]).await.unwrap();
        let no_number = broker.kv_add(key, 1).await.unwrap_err();
        assert_eq!(no_number.field(), Some("value"));
    }
}
