//! What people set for a queue.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::time::maybe_millis;
use super::{FlowKey, InvalidField, RateRule};
use crate::limits;

/// The settings of a queue. What is not set is as for all queues.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// At most so many of its jobs are leased at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// So many of its jobs are leased in a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<RateRule>,
    /// Limits of keys, in place of what their jobs say.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub keys: BTreeMap<String, KeyLimits>,
    /// The largest payload that is taken, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload_bytes_max: Option<u64>,
    /// So many jobs are taken in each minute of the clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pushes_per_minute: Option<u64>,
    /// No more jobs are taken while so many wait: scheduled, blocked or ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub depth_max: Option<u64>,
    /// No more jobs are taken while the payloads of those that wait have so many bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_bytes_max: Option<u64>,
    /// How long completed and cancelled jobs are kept.
    #[serde(rename = "keep_completed_ms", with = "maybe_millis")]
    #[schemars(with = "Option<u64>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_completed: Option<Duration>,
    /// How many of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_completed_max: Option<u64>,
    /// How long dead jobs are kept.
    #[serde(rename = "keep_dead_ms", with = "maybe_millis")]
    #[schemars(with = "Option<u64>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_dead: Option<Duration>,
    /// How many of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_dead_max: Option<u64>,
    /// How long payloads and results of completed and cancelled jobs are kept.
    #[serde(rename = "keep_payload_ms", with = "maybe_millis")]
    #[schemars(with = "Option<u64>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_payload: Option<Duration>,
    /// Payloads and results are sealed before they are stored. Needs BATONQ_MASTER_KEY.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub encrypted: bool,
}

/// The limits of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KeyLimits {
    /// At most so many of its jobs are leased at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// So many of its jobs are leased in a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<RateRule>,
}

impl Settings {
    /// Whether the queue limits how its jobs are given out.
    pub fn is_limited(&self) -> bool {
        self.concurrency.is_some() || self.rate.is_some()
    }

    /// # Errors
    ///
    /// If a number is out of its range, naming the field.
    pub fn check(self) -> Result<Self, InvalidField> {
        check_concurrency(self.concurrency)?;
        self.rate.map(|rate| rate.check("rate")).transpose()?;
        if self.keys.len() > limits::KEYS_SET_MAX {
            let most = limits::KEYS_SET_MAX;
            return Err(InvalidField::new("keys", format!("more than {most}")));
        }
        for (key, set) in &self.keys {
            FlowKey::parse(key)?;
            check_concurrency(set.concurrency)?;
            set.rate.map(|rate| rate.check("rate")).transpose()?;
        }
        for (field, keep) in [
            ("keep_completed_ms", self.keep_completed),
            ("keep_dead_ms", self.keep_dead),
            ("keep_payload_ms", self.keep_payload),
        ] {
            if keep.is_some_and(|keep| keep > limits::DELAY_MAX) {
                return Err(InvalidField::new(field, "more than ten years"));
            }
        }
        for (field, max) in [
            ("payload_bytes_max", self.payload_bytes_max),
            ("pushes_per_minute", self.pushes_per_minute),
            ("depth_max", self.depth_max),
            ("waiting_bytes_max", self.waiting_bytes_max),
            ("keep_completed_max", self.keep_completed_max),
            ("keep_dead_max", self.keep_dead_max),
        ] {
            // Stores have signed numbers.
            if max.is_some_and(|max| i64::try_from(max).is_err()) {
                return Err(InvalidField::new(field, "must be below 2^63"));
            }
        }
        Ok(self)
    }
}

fn check_concurrency(max: Option<u32>) -> Result<(), InvalidField> {
    match max {
        Some(max) if !limits::CONCURRENCY.contains(&max) => {
            Err(InvalidField::new("concurrency", "must be from 1 to 1 000 000"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_survive_their_text() {
        let rate = RateRule { limit: 5, per: Duration::from_secs(1), burst: None };
        let settings = Settings {
            concurrency: Some(3),
            rate: Some(rate),
            keys: BTreeMap::from([("k".into(), KeyLimits { concurrency: Some(1), rate: None })]),
            keep_dead: Some(Duration::from_millis(1500)),
            encrypted: true,
            ..Settings::default()
        };
        let text = serde_json::to_string(&settings).unwrap();
        assert_eq!(serde_json::from_str::<Settings>(&text).unwrap(), settings);
        assert_eq!(serde_json::to_string(&Settings::default()).unwrap(), "{}");
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        let keep_dead = Some(limits::DELAY_MAX + Duration::from_millis(1));
        for settings in [
            Settings { concurrency: Some(0), ..Settings::default() },
            Settings { keep_dead, ..Settings::default() },
            Settings { depth_max: Some(u64::MAX), ..Settings::default() },
        ] {
            assert!(settings.check().is_err());
        }
    }
}
