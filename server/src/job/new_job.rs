//! What a client hands in.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use super::name::check_printable;
use super::{
    Backoff, InvalidField, QueueName, SparseOptions, Tag, Timestamp, UniqueHold, UniqueKey,
};
use crate::limits;

/// The number of a job. Below 2^53, so that every language can hold it; never used twice.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct JobId(pub u64);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A unit of work that nobody has stored yet.
#[derive(Debug, Clone, PartialEq)]
pub struct NewJob {
    /// The line it stands in.
    pub queue: QueueName,
    /// What the worker gets.
    pub payload: Payload,
    /// Higher first.
    pub priority: i32,
    /// When it may run.
    pub when: When,
    /// Not delivered later than this after the push.
    pub ttl: Option<Duration>,
    /// See [`limits::MAX_ATTEMPTS`].
    pub max_attempts: u32,
    /// `None`: the default.
    pub backoff: Option<Backoff>,
    /// How long one attempt may run. `None`: as long as the worker lives.
    pub timeout: Option<Duration>,
    /// One job of the queue has it, as long as [`Options::hold`](super::Options::hold) says.
    pub unique: Option<UniqueKey>,
    /// Words to find it by, without repetition.
    pub tags: Vec<Tag>,
    /// The job that this is a copy of.
    pub replay_of: Option<JobId>,
    /// What few jobs ask for.
    pub options: SparseOptions,
    /// Jobs of the same call that it waits for, by their places.
    pub waits_for: Vec<usize>,
    /// Whether the jobs of its call are stored together or, if one is refused, not at all.
    pub is_part: bool,
}

impl NewJob {
    /// A job that runs at once, under the default rules.
    pub fn new(queue: QueueName, payload: Payload) -> Self {
        Self {
            queue,
            payload,
            priority: 0,
            when: When::Now,
            ttl: None,
            max_attempts: limits::MAX_ATTEMPTS_DEFAULT,
            backoff: None,
            timeout: None,
            unique: None,
            tags: Vec::new(),
            replay_of: None,
            options: SparseOptions::default(),
            waits_for: Vec::new(),
            is_part: false,
        }
    }

    /// # Errors
    ///
    /// If a number is out of its range, naming the field.
    pub fn check(mut self) -> Result<Self, InvalidField> {
        self.when.check()?;
        if let Some(ttl) = self.ttl
            && (ttl.is_zero() || ttl > limits::DELAY_MAX)
        {
            return Err(InvalidField::new("ttl_ms", "must be from 1 ms to ten years"));
        }
        if !limits::MAX_ATTEMPTS.contains(&self.max_attempts) {
            let (min, max) = limits::MAX_ATTEMPTS.into_inner();
            return Err(InvalidField::new("max_attempts", format!("must be from {min} to {max}")));
        }
        if let Some(timeout) = self.timeout
            && !limits::TIMEOUT.contains(&timeout)
        {
            return Err(InvalidField::new("timeout_ms", "must be from 100 ms to 7 days"));
        }
        if self.tags.len() > limits::TAGS_MAX {
            return Err(InvalidField::new("tags", format!("more than {}", limits::TAGS_MAX)));
        }
        if self.options.hold != UniqueHold::Live && self.unique.is_none() {
            return Err(InvalidField::new("unique.key", "is missing"));
        }
        self.options = self.options.check()?;
        self.tags.sort_unstable();
        self.tags.dedup();
        self.backoff = self.backoff.map(Backoff::check).transpose()?;
        Ok(self)
    }
}

impl NewJob {
    /// With the jobs of the same call that it waits for by their numbers; `ids` says them, for
    /// those before it. Those that it names by number are in order already.
    pub(crate) fn resolved(mut self, id: impl Fn(usize) -> Option<JobId>) -> Self {
        if !self.waits_for.is_empty() {
            let on = &mut self.options.depends.on;
            on.extend(self.waits_for.drain(..).filter_map(id));
            on.sort_unstable();
            on.dedup();
        }
        self
    }
}

/// When a job may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// At once.
    Now,
    /// So long after the push.
    After(Duration),
    /// At this time; at once if it is past.
    At(Timestamp),
}

impl When {
    /// # Errors
    ///
    /// If it is too far away, naming the field.
    pub fn check(self) -> Result<Self, InvalidField> {
        match self {
            Self::After(delay) if delay > limits::DELAY_MAX => {
                Err(InvalidField::new("delay_ms", "more than ten years"))
            }
            // The first is where dates of four digits begin to need five.
            Self::At(at) if !(0..=253_402_300_799_999).contains(&at.0) => {
                Err(InvalidField::new("run_at", "must be from the year 1970 to 9999"))
            }
            _ => Ok(self),
        }
    }
}

/// What a job carries: bytes, opaque to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// At most [`limits::PAYLOAD_BYTES_MAX`].
    pub bytes: Bytes,
    /// `None`: `application/json`.
    pub content_type: Option<Box<str>>,
}

/// A payload or result that is too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{field} has {bytes} bytes: at most {} are allowed", limits::PAYLOAD_BYTES_MAX)]
pub struct TooLarge {
    /// Its name on the wire.
    pub field: &'static str,
    /// How large it is.
    pub bytes: usize,
}

impl Payload {
    /// What a payload is if nobody says otherwise.
    pub const JSON: &str = "application/json";

    /// # Errors
    ///
    /// If it has more bytes than allowed.
    pub fn new(bytes: Bytes) -> Result<Self, TooLarge> {
        check_bytes("payload", &bytes)?;
        Ok(Self { bytes, content_type: None })
    }

    /// Says what the bytes are; empty: JSON.
    ///
    /// # Errors
    ///
    /// If it is too long or has control characters.
    pub fn with_content_type(self, content_type: &str) -> Result<Self, InvalidField> {
        let invalid = |detail| InvalidField::new("content_type", detail);
        if content_type.len() > limits::CONTENT_TYPE_BYTES_MAX {
            return Err(invalid(format!("longer than {}", limits::CONTENT_TYPE_BYTES_MAX)));
        }
        check_printable(content_type).map_err(invalid)?;
        let is_default = content_type.is_empty() || content_type == Self::JSON;
        Ok(Self { content_type: (!is_default).then(|| content_type.into()), ..self })
    }
}

/// # Errors
///
/// If it has more bytes than a payload may have.
pub fn check_result(bytes: &Bytes) -> Result<(), TooLarge> {
    check_bytes("result", bytes)
}

fn check_bytes(field: &'static str, bytes: &Bytes) -> Result<(), TooLarge> {
    match bytes.len() > limits::PAYLOAD_BYTES_MAX {
        true => Err(TooLarge { field, bytes: bytes.len() }),
        false => Ok(()),
    }
}

/// # Errors
///
/// If a lease of this length is not given.
pub fn check_lease(lease: Duration) -> Result<Duration, InvalidField> {
    match limits::LEASE.contains(&lease) {
        true => Ok(lease),
        false => {
            Err(InvalidField::new("lease_ms", "must be from 1 000 ms (1 s) to 86 400 000 (24 h)"))
        }
    }
}

/// How long the worker of a job that is cancelled has to end it.
///
/// # Errors
///
/// If it is longer than allowed.
pub fn check_grace(grace_ms: Option<u64>) -> Result<Duration, InvalidField> {
    match grace_ms.map_or(limits::CANCEL_GRACE_DEFAULT, Duration::from_millis) {
        grace if grace <= limits::CANCEL_GRACE_MAX => Ok(grace),
        _ => Err(InvalidField::new("grace_ms", "more than 86 400 000 ms (24 h)")),
    }
}

/// # Errors
///
/// If nobody may wait so long.
pub fn check_wait(field: &'static str, wait: Duration) -> Result<Duration, InvalidField> {
    match wait > limits::WAIT_MAX {
        true => Err(InvalidField::new(field, "more than 60 000 ms (60 s)")),
        false => Ok(wait),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> NewJob {
        let payload = Payload::new(Bytes::from_static(b"{}")).unwrap();
        NewJob::new(QueueName::parse("q").unwrap(), payload)
    }

    #[test]
    fn a_payload_has_at_most_a_mebibyte() {
        let of_size = |bytes: usize| Payload::new(Bytes::from(vec![0; bytes])).is_ok();
        assert!(of_size(limits::PAYLOAD_BYTES_MAX - 1));
        assert!(of_size(limits::PAYLOAD_BYTES_MAX));
        assert!(!of_size(limits::PAYLOAD_BYTES_MAX + 1));
    }

    #[test]
    fn numbers_out_of_range_are_refused_by_name() {
        let millis = Duration::from_millis;
        for (bad, field) in [
            (NewJob { when: When::After(limits::DELAY_MAX + millis(1)), ..job() }, "delay_ms"),
            (NewJob { when: When::At(Timestamp(-1)), ..job() }, "run_at"),
            (NewJob { ttl: Some(millis(0)), ..job() }, "ttl_ms"),
            (NewJob { max_attempts: 0, ..job() }, "max_attempts"),
            (NewJob { max_attempts: 1001, ..job() }, "max_attempts"),
            (NewJob { timeout: Some(millis(99)), ..job() }, "timeout_ms"),
        ] {
            assert_eq!(bad.check().unwrap_err().field, field);
        }
        assert!(NewJob { max_attempts: 1000, timeout: Some(millis(100)), ..job() }.check().is_ok());
    }

    #[test]
    fn tags_are_counted_and_not_repeated() {
        let tags = |count: usize| -> Vec<Tag> {
            (0..count).map(|n| Tag::parse(&format!("t{n}")).unwrap()).collect()
        };
        assert!(NewJob { tags: tags(16), ..job() }.check().is_ok());
        assert!(NewJob { tags: tags(17), ..job() }.check().is_err());
        let twice = [tags(2), tags(1)].concat();
        assert_eq!(NewJob { tags: twice, ..job() }.check().unwrap().tags, tags(2));
    }

    #[test]
    fn a_lease_has_one_second_to_a_day() {
        let millis = Duration::from_millis;
        for (lease, ok) in [
            (millis(999), false),
            (millis(1000), true),
            (millis(86_400_000), true),
            (millis(86_400_001), false),
        ] {
            assert_eq!(check_lease(lease).is_ok(), ok, "{lease:?}");
        }
    }

    #[test]
    fn a_wait_has_at_most_a_minute() {
        assert!(check_wait("wait_ms", Duration::from_millis(60_000)).is_ok());
        assert!(check_wait("wait_ms", Duration::from_millis(60_001)).is_err());
    }
}
