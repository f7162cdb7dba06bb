//! Values by key, beside all jobs: the part that all stores share.
//!
//! # Promises
//!
//! * **A key has one value**, any bytes, for as long as it was given: until it is deleted, or up to
//!   the end of its time to live. From that moment on nobody sees it; its row goes with the next
//!   [`Duty::Retention`](super::Duty::Retention).
//! * **Keys are in the order of their bytes**, in every store.
//! * **What is added up is never lost**: who adds at the same time adds one after the other.
//! * **Keys that begin with `batonq.` are ours**, like queues of such names. No list has them that
//!   was not made for them, and the broker keeps clients from them.

use std::time::Duration;

use bytes::Bytes;

use super::events::INTERNAL;
use crate::job::{InvalidField, KvKey};
use crate::limits;

/// What is to be set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvEntry {
    /// Where.
    pub key: KvKey,
    /// What: any bytes.
    pub value: Bytes,
    /// For how long. `None`: until it is deleted. Zero: it is gone at once.
    pub ttl: Option<Duration>,
}

/// What stands under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvValue {
    /// The bytes that were set.
    pub value: Bytes,
    /// How much longer it is there. `None`: until it is deleted.
    pub ttl: Option<Duration>,
}

/// What came of adding to a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvAdd {
    /// The sum, which stands there now.
    Done(i64),
    /// What stands there is no whole number. Nothing was changed.
    NotANumber,
    /// The sum would not fit into 64 bits. Nothing was changed.
    Overflow,
}

impl KvAdd {
    /// What comes of adding `by` to what stands there.
    pub(super) fn of(value: Option<&[u8]>, by: i64) -> Self {
        let Some(value) = value else { return Self::Done(by) };
        let Some(number) = whole_number(value) else { return Self::NotANumber };
        i64::try_from(number + i128::from(by)).map_or(Self::Overflow, Self::Done)
    }
}

/// A whole number as JSON writes it, of up to 19 digits.
fn whole_number(value: &[u8]) -> Option<i128> {
    let text = str::from_utf8(value).ok()?;
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_short = (1..=19).contains(&digits.len()) && (digits == "0" || !digits.starts_with('0'));
    let is_whole = is_short && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_whole.then(|| text.parse().ok()).flatten()
}

/// Whether a key is batonq's own.
pub(crate) fn is_own(key: &str) -> bool {
    key.starts_with(INTERNAL)
}

/// Which keys to list: `*` stands for any letters, also none, `?` for any one of them, and all else
/// for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvPattern {
    text: Box<str>,
    /// It means keys of batonq's own, and no others.
    is_own: bool,
}

impl KvPattern {
    /// # Errors
    ///
    /// If it is longer than a key, or has what no key can have.
    pub fn parse(text: &str) -> Result<Self, InvalidField> {
        let bytes_max = *limits::KV_KEY_BYTES.end();
        if text.len() > bytes_max {
            return Err(InvalidField::new("pattern", format!("longer than {bytes_max} bytes")));
        }
        if text.contains('\0') {
            return Err(InvalidField::new("pattern", "NUL is not allowed"));
        }
        Ok(Self { text: text.into(), is_own: false })
    }

    /// All keys of batonq's own that begin so, after `batonq.`.
    pub fn own(beginning: &str) -> Self {
        Self { text: format!("{INTERNAL}{beginning}*").into(), is_own: true }
    }

    /// What all keys begin with that it means.
    pub(super) fn prefix(&self) -> &str {
        self.text.split(['*', '?']).next().unwrap_or_default()
    }

    /// Whether a key is meant.
    pub fn matches(&self, key: &str) -> bool {
        if is_own(key) != self.is_own {
            return false;
        }
        let (mut pattern, mut key) = (self.text.chars(), key.chars());
        // What follows the last star, and where it may begin next.
        let mut again = None;
        loop {
            let (mut pattern_rest, mut key_rest) = (pattern.clone(), key.clone());
            match (pattern_rest.next(), key_rest.next()) {
                (None, None) => return true,
                (Some('*'), _) => {
                    again = Some((pattern_rest.clone(), key.clone()));
                    pattern = pattern_rest;
                }
                (Some(wanted), Some(found)) if wanted == '?' || wanted == found => {
                    (pattern, key) = (pattern_rest, key_rest);
                }
                _ => {
                    let Some((after, from)) = &mut again else { return false };
                    if from.next().is_none() {
                        return false;
                    }
                    (pattern, key) = (after.clone(), from.clone());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_means_the_keys_that_it_looks_like() {
        for (pattern, key, is_meant) in [
            ("", "a", false),
            ("*", "a", true),
            ("a", "a", true),
            ("a", "ab", false),
            ("ab", "a", false),
            ("a*", "a", true),
            ("*a", "ba", true),
            ("*a", "ab", false),
            ("a*c", "abcbc", true),
            ("a*c", "abcb", false),
            ("a**c", "ac", true),
            ("*ab*ab*", "abxab", true),
            ("*ab*ab*", "abxa", false),
            ("?", "ä", true),
            ("?", "", false),
            ("??", "ä", false),
            ("*ä?", "xäö", true),
            ("a.c%_[x]\\", "a.c%_[x]\\", true),
            ("a.c", "abc", false),
            ("[ab]", "a", false),
            ("a*", "a*", true),
        ] {
            let meant = KvPattern::parse(pattern).unwrap().matches(key);
            assert_eq!(meant, is_meant, "{pattern:?} {key:?}");
        }
    }

    #[test]
    fn our_own_keys_are_meant_by_our_own_patterns_only() {
        for pattern in ["*", "batonq.*", "batonq.a", "b*"] {
            let pattern = KvPattern::parse(pattern).unwrap();
            assert!(!pattern.matches("batonq.a"), "{pattern:?}");
        }
        assert!(KvPattern::parse("*").unwrap().matches("batonq"));
        let own = KvPattern::own("a.");
        assert_eq!(own.prefix(), "batonq.a.");
        for (key, is_meant) in [("batonq.a.b", true), ("batonq.b.a", false), ("a.b", false)] {
            assert_eq!(own.matches(key), is_meant, "{key:?}");
        }
    }

    #[test]
    fn the_prefix_of_a_pattern_goes_up_to_what_may_vary() {
        for (pattern, prefix) in [("", ""), ("user:*", "user:"), ("a?b*", "a"), ("ä", "ä")] {
            assert_eq!(KvPattern::parse(pattern).unwrap().prefix(), prefix);
        }
        assert!(KvPattern::parse(&"*".repeat(1025)).is_err());
        assert!(KvPattern::parse("a\0*").is_err());
    }

    #[test]
    fn only_whole_numbers_are_added_to() {
        let add = |value: &str, by| KvAdd::of(Some(value.as_bytes()), by);
        assert_eq!(KvAdd::of(None, 5), KvAdd::Done(5));
        for (value, by, sum) in [("0", -5, -5), ("-7", 7, 0), ("-0", 1, 1)] {
            assert_eq!(add(value, by), KvAdd::Done(sum), "{value:?}");
        }
        for value in ["", "-", "+1", "01", "1.0", "1e3", " 1", "1\n", "\"1\"", "x", "--1"] {
            assert_eq!(add(value, 1), KvAdd::NotANumber, "{value:?}");
        }
        assert_eq!(add("10000000000000000000", 0), KvAdd::NotANumber);
        assert_eq!(add("9223372036854775807", 1), KvAdd::Overflow);
        assert_eq!(add("9223372036854775808", -1), KvAdd::Done(i64::MAX));
        assert_eq!(add("-9223372036854775808", -1), KvAdd::Overflow);
    }
}
