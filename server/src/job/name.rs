//! Names that people and programs choose.

use std::fmt;
use std::sync::Arc;

use super::InvalidField;
use crate::limits;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $field:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// # Errors
            ///
            /// If a limit is not kept; the detail says which.
            pub fn parse(text: &str) -> Result<Self, InvalidField> {
                let check: fn(&str) -> Result<(), String> = $check;
                check(text).map_err(|detail| InvalidField::new($field, detail))?;
                Ok(Self(text.into()))
            }

            /// The name as it was given.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(from)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// The name of a queue.
    QueueName, "queue", |text| {
        check_length(text, &limits::QUEUE_NAME_BYTES)?;
        match text.bytes().find(|byte| !byte.is_ascii_alphanumeric() && !b"._:-".contains(byte)) {
            Some(_) => Err("only A-Z a-z 0-9 . _ : - are allowed".into()),
            None => Ok(()),
        }
    }
);

name!(
    /// What makes a job unique within its queue.
    UniqueKey, "unique.key", |text| {
        check_length(text, &limits::UNIQUE_KEY_BYTES)?;
        check_printable(text)
    }
);

name!(
    /// What jobs of a queue share a limit by.
    FlowKey, "key", |text| {
        check_length(text, &limits::UNIQUE_KEY_BYTES)?;
        check_printable(text)
    }
);

name!(
    /// The name of a schedule.
    ScheduleName, "name", |text| {
        check_length(text, &limits::QUEUE_NAME_BYTES)?;
        match text.bytes().find(|byte| !byte.is_ascii_alphanumeric() && !b"._:-".contains(byte)) {
            Some(_) => Err("only A-Z a-z 0-9 . _ : - are allowed".into()),
            None => Ok(()),
        }
    }
);

name!(
    /// The name of a webhook.
    WebhookName, "name", |text| {
        check_length(text, &limits::WEBHOOK_NAME_BYTES)?;
        match text.bytes().find(|byte| !byte.is_ascii_alphanumeric() && !b"._:-".contains(byte)) {
            Some(_) => Err("only A-Z a-z 0-9 . _ : - are allowed".into()),
            None => Ok(()),
        }
    }
);

name!(
    /// The key of a value in the key-value store.
    KvKey, "key", |text| {
        check_length(text, &limits::KV_KEY_BYTES)?;
        check_storable(text)
    }
);

name!(
    /// A word to find jobs by.
    Tag, "tags", |text| {
        check_length(text, &limits::TAG_BYTES)?;
        check_printable(text)
    }
);

name!(
    /// The name of a worker, as shown in timelines. May be empty.
    WorkerName, "worker", |text| {
        check_length(text, &(0..=limits::WORKER_NAME_BYTES_MAX))?;
        check_printable(text)
    }
);

name!(
    /// A worker's word for what went wrong.
    FailureCode, "error.code", |text| {
        check_length(text, &limits::ERROR_CODE_BYTES)?;
        check_printable(text)
    }
);

fn check_length(text: &str, bytes: &std::ops::RangeInclusive<usize>) -> Result<(), String> {
    if text.len() > *bytes.end() {
        return Err(format!("longer than {} bytes", bytes.end()));
    }
    if text.len() < *bytes.start() {
        return Err("empty".into());
    }
    Ok(())
}

/// Control characters would forge log lines, and Postgres can not store NUL.
pub(super) fn check_printable(text: &str) -> Result<(), String> {
    match text.chars().any(char::is_control) {
        true => Err("control characters are not allowed".into()),
        false => Ok(()),
    }
}

/// Postgres can not store NUL.
fn check_storable(text: &str) -> Result<(), String> {
    match text.contains('\0') {
        true => Err("NUL is not allowed".into()),
        false => Ok(()),
    }
}

/// At most `bytes_max` bytes of `text`, cut between characters, without NULs.
pub fn cut(text: &str, bytes_max: usize) -> String {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].replace('\0', "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_name_has_1_to_256_plain_letters() {
        let of_length = |count: usize| QueueName::parse(&"q".repeat(count));
        assert!(of_length(0).is_err());
        assert!(of_length(1).is_ok());
        assert!(of_length(255).is_ok());
        assert!(of_length(256).is_ok());
        assert!(of_length(257).is_err());
        assert!(QueueName::parse("Mail.out_2:eu-west").is_ok());
        for bad in ["a b", "a/b", "a\0", "ä", "a\n", "%41"] {
            assert!(QueueName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_key_has_1_to_1024_bytes_of_any_kind_but_nul() {
        for bad in [String::new(), "k".repeat(1025), "ä".repeat(513), "a\0".into()] {
            assert!(KvKey::parse(&bad).is_err(), "{bad:?}");
        }
        for good in ["k".repeat(1024), "ä".repeat(512), "a b\n*?".into()] {
            assert!(KvKey::parse(&good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn a_message_is_cut_between_characters() {
        assert_eq!(cut("äöü", 3), "ä");
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("a\0b", 3), "a\u{fffd}b");
    }
}
