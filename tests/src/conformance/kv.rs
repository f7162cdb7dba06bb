//! Values by key.

use std::time::Duration;

use batonq_server::job::KvKey;
use batonq_server::limits::KV_KEYS_MAX;
use batonq_server::store::{Duty, KvAdd, KvEntry, KvPattern, KvValue};
use bytes::Bytes;

use super::given::{Given, SECOND};
use super::rules;
use crate::stores::Maker;

fn key(key: &str) -> KvKey {
    KvKey::parse(key).expect("a key")
}

fn entry(at: &str, value: &str, ttl: Option<Duration>) -> KvEntry {
    KvEntry { key: key(at), value: Bytes::copy_from_slice(value.as_bytes()), ttl }
}

impl<M: Maker> Given<M> {
    async fn set(&self, at: &str, value: &str, ttl: Option<Duration>) {
        self.store.kv_set(vec![entry(at, value, ttl)]).await.expect("it works");
    }

    async fn value(&self, at: &str) -> Option<KvValue> {
        let found = self.store.kv_get(vec![key(at)], usize::MAX).await.expect("it works");
        found.expect("there is room").remove(0)
    }

    /// The text that stands there.
    async fn text(&self, at: &str) -> Option<String> {
        let value = self.value(at).await?.value;
        Some(String::from_utf8(value.to_vec()).expect("it is text"))
    }

    async fn keys(&self, pattern: &str) -> Vec<String> {
        let pattern = KvPattern::parse(pattern).expect("a pattern");
        let keys = self.store.kv_keys(pattern).await.expect("it works");
        keys.iter().map(ToString::to_string).collect()
    }

    async fn add(&self, at: &str, by: i64) -> KvAdd {
        self.store.kv_add(key(at), by).await.expect("it works")
    }
}

rules! {
    async fn what_was_set_is_there_until_it_is_deleted(given: Given<M>) {
        let any = Bytes::from_static(&[0, 255, 7]);
        let odd = KvEntry { key: key("ä %_\\ 'k'"), value: any.clone(), ttl: None };
        given.store.kv_set(vec![odd, entry("empty", "", None)]).await.unwrap();
        let given = given.reopened().await;
        given.pass(10_000 * SECOND);
        assert_eq!(given.value("ä %_\\ 'k'").await, Some(KvValue { value: any, ttl: None }));
        assert_eq!(given.text("empty").await.as_deref(), Some(""));
        assert!(given.store.kv_delete(key("empty")).await.unwrap());
        assert!(!given.store.kv_delete(key("empty")).await.unwrap());
        assert_eq!(given.value("empty").await, None);
    }

    async fn what_was_set_later_counts_with_its_time(given: Given<M>) {
        given.set("k", "1", Some(5 * SECOND)).await;
        given.set("k", "2", None).await;
        let twice = vec![entry("l", "1", None), entry("k", "3", None), entry("l", "2", Some(SECOND))];
        given.store.kv_set(twice).await.unwrap();
        let later = KvValue { value: Bytes::from_static(b"2"), ttl: Some(SECOND) };
        assert_eq!(given.value("l").await, Some(later));
        given.pass(10 * SECOND);
        assert_eq!((given.text("k").await.as_deref(), given.value("l").await), (Some("3"), None));
    }

    async fn values_are_told_in_the_order_of_the_keys_asked_for(given: Given<M>) {
        given.set("a", "1", None).await;
        given.set("b", "22", None).await;
        let keys = ["b", "none", "a", "b"].map(key).to_vec();
        let found = given.store.kv_get(keys.clone(), 5).await.unwrap().expect("they fit");
        let found: Vec<_> = found.iter().map(|it| it.as_ref().map(|it| &it.value[..])).collect();
        assert_eq!(found, [Some(&b"22"[..]), None, Some(b"1"), Some(b"22")]);
        assert_eq!(given.store.kv_get(keys, 4).await.unwrap(), None);
        assert_eq!(given.store.kv_get(Vec::new(), 0).await.unwrap(), Some(Vec::new()));
    }

    async fn what_has_had_its_time_is_seen_by_nobody(given: Given<M>) {
        for at in ["a", "b", "c", "d"] {
            given.set(at, "1", Some(2 * SECOND)).await;
        }
        given.pass(SECOND);
        assert_eq!(given.value("a").await.unwrap().ttl, Some(SECOND));
        given.pass(SECOND);
        assert_eq!((given.value("a").await, given.keys("*").await), (None, Vec::new()));
        assert!(!given.store.kv_expire(key("a"), SECOND).await.unwrap());
        assert!(!given.store.kv_delete(key("b")).await.unwrap());
        assert_eq!(given.add("c", 5).await, KvAdd::Done(5));
        assert_eq!(given.value("c").await.unwrap().ttl, None);
        given.duty(Duty::Retention).await;
        assert_eq!((given.value("d").await, given.keys("*").await), (None, vec!["c".to_owned()]));
        given.set("e", "1", Some(Duration::ZERO)).await;
        assert_eq!(given.value("e").await, None);
    }

    async fn a_value_can_be_given_another_time(given: Given<M>) {
        given.set("k", "1", None).await;
        assert!(given.store.kv_expire(key("k"), 3 * SECOND).await.unwrap());
        assert!(!given.store.kv_expire(key("none"), SECOND).await.unwrap());
        given.pass(2 * SECOND);
        assert_eq!(given.value("k").await.unwrap().ttl, Some(SECOND));
        assert!(given.store.kv_expire(key("k"), 3 * SECOND).await.unwrap());
        given.pass(2 * SECOND);
        assert_eq!(given.text("k").await.as_deref(), Some("1"));
        given.pass(SECOND);
        assert_eq!(given.value("k").await, None);
    }

    async fn keys_are_listed_by_pattern_in_the_order_of_their_bytes(given: Given<M>) {
        for at in ["b", "user:2", "a", "user:10", "Z", "userx", "ä", "a%c", "abc", "a_c", "[a]", "\u{10ffff}"] {
            given.set(at, "1", None).await;
        }
        let all = ["Z", "[a]", "a", "a%c", "a_c", "abc", "b", "user:10", "user:2", "userx", "ä", "\u{10ffff}"];
        assert_eq!(given.keys("*").await, all);
        for (pattern, meant) in [
            ("user:*", &["user:10", "user:2"][..]),
            ("user:?", &["user:2"]),
            ("?", &["Z", "a", "b", "ä", "\u{10ffff}"]),
            ("a?c", &["a%c", "a_c", "abc"]),
            ("a%c", &["a%c"]),
            ("*c", &["a%c", "a_c", "abc"]),
            ("[a]", &["[a]"]),
            ("A", &[]),
            ("", &[]),
        ] {
            assert_eq!(given.keys(pattern).await, meant, "{pattern:?}");
        }
    }

    async fn our_own_keys_are_in_no_list_but_our_own(given: Given<M>) {
        for at in ["a", "batonq", "batonq.w.1", "batonq.w.2", "batonq.x", "c"] {
            given.set(at, "1", None).await;
        }
        assert_eq!(given.keys("*").await, ["a", "batonq", "c"]);
        assert_eq!(given.keys("batonq.*").await, Vec::<String>::new());
        let own = given.store.kv_keys(KvPattern::own("w.")).await.unwrap();
        assert_eq!(own, [key("batonq.w.1"), key("batonq.w.2")]);
    }

    async fn a_list_of_keys_is_bounded(given: Given<M>) {
        let name = |number: usize| format!("k{number:05}");
        let many: Vec<KvEntry> =
            (0..=KV_KEYS_MAX).map(|number| entry(&name(number), "1", None)).collect();
        for part in many.chunks(1000) {
            given.store.kv_set(part.to_vec()).await.unwrap();
        }
        let keys = given.keys("*").await;
        assert_eq!((keys.len(), keys.last()), (KV_KEYS_MAX, Some(&name(KV_KEYS_MAX - 1))));
        assert_eq!(given.keys("*10000").await, ["k10000"]);
    }

    async fn whole_numbers_can_be_added_to(given: Given<M>) {
        assert_eq!(given.add("n", 5).await, KvAdd::Done(5));
        assert_eq!(given.add("n", -7).await, KvAdd::Done(-2));
        given.set("n", "40", Some(5 * SECOND)).await;
        given.pass(SECOND);
        assert_eq!(given.add("n", 2).await, KvAdd::Done(42));
        let kept = KvValue { value: Bytes::from_static(b"42"), ttl: Some(4 * SECOND) };
        assert_eq!(given.value("n").await, Some(kept));
    }

    async fn what_can_not_be_added_to_stays_as_it_is(given: Given<M>) {
        for text in ["", "x", "1.5", "\"1\"", "01", "+1", " 1", "1\n", "\\1", "10000000000000000000"] {
            given.set("n", text, None).await;
            assert_eq!(given.add("n", 1).await, KvAdd::NotANumber, "{text:?}");
            assert_eq!(given.text("n").await.as_deref(), Some(text));
        }
        for (text, by) in [("9223372036854775807", 1), ("-9223372036854775808", -1)] {
            given.set("n", text, None).await;
            assert_eq!(given.add("n", by).await, KvAdd::Overflow, "{text}");
            assert_eq!(given.add("n", -by).await, KvAdd::Done(text.parse::<i64>().unwrap() - by));
        }
        given.set("n", "9223372036854775808", None).await;
        assert_eq!(given.add("n", -1).await, KvAdd::Done(i64::MAX));
        let bytes = KvEntry { value: Bytes::from_static(&[0x31, 0xff]), ..entry("n", "", None) };
        given.store.kv_set(vec![bytes]).await.unwrap();
        assert_eq!(given.add("n", 1).await, KvAdd::NotANumber);
    }

    async fn what_is_added_at_the_same_time_is_all_there(given: Given<M>) {
        let add = |by| given.store.kv_add(key("n"), by);
        let added = futures_util::future::join_all((1..=20).map(add)).await;
        let mut sums: Vec<KvAdd> = added.into_iter().map(|sum| sum.unwrap()).collect();
        sums.sort_by_key(|sum| format!("{sum:?}"));
        sums.dedup();
        assert_eq!(sums.len(), 20);
        assert_eq!(given.text("n").await.as_deref(), Some("210"));
    }

    async fn sets_of_the_same_keys_at_the_same_time_are_each_done_as_a_whole(given: Given<M>) {
        let set = |number: u32| {
            let mut entries: Vec<KvEntry> =
                ["a", "b", "c"].iter().map(|at| entry(at, &number.to_string(), None)).collect();
            if number.is_multiple_of(2) {
                entries.reverse();
            }
            given.store.kv_set(entries)
        };
        let done = futures_util::future::join_all((0..20).map(set)).await;
        assert!(done.iter().all(Result::is_ok), "{done:?}");
        let one = given.text("a").await;
        assert_eq!((given.text("b").await, given.text("c").await), (one.clone(), one));
    }
}
