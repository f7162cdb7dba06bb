//! What people set for a queue.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
    use std::time::Duration;

    use super::*;

    #[test]
    fn settings_survive_their_text() {
        let rate = RateRule { limit: 5, per: Duration::from_secs(1), burst: None };
        let settings = Settings {
            concurrency: Some(3),
            rate: Some(rate),
            keys: BTreeMap::from([("k".into(), KeyLimits { concurrency: Some(1), rate: None })]),
        };
        let text = serde_json::to_string(&settings).unwrap();
        assert_eq!(serde_json::from_str::<Settings>(&text).unwrap(), settings);
        assert_eq!(serde_json::to_string(&Settings::default()).unwrap(), "{}");
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        assert!(Settings { concurrency: Some(0), ..Settings::default() }.check().is_err());
    }
}
