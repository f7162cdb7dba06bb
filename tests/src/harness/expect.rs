//! What an answer has to have. It may say more.
//!
//! In what is expected, `$name` is the id of a job, the same wherever the name stands; `~text` a text
//! with this in it; `number`, `time` and `any` such a value; `absent` none; `@has` a list with such a
//! thing in it.

use std::collections::HashMap;

use serde_json::{Map, Value};

/// What names stand for: ids of jobs.
#[derive(Debug, Default)]
pub struct Known(HashMap<String, Value>);

impl Known {
    /// With what the names stand for.
    pub fn filled(&self, fields: Value) -> Value {
        match fields {
            Value::String(name) if name.starts_with('$') => {
                self.0.get(&name).cloned().unwrap_or(Value::String(name))
            }
            Value::Array(all) => all.into_iter().map(|one| self.filled(one)).collect(),
            Value::Object(all) => {
                let filled = all.into_iter().map(|(name, one)| (name, self.filled(one)));
                Value::Object(filled.collect::<Map<_, _>>())
            }
            other => other,
        }
    }

    /// Takes what a new name stands for out of an answer.
    ///
    /// # Errors
    ///
    /// What of the answer is not as expected.
    pub fn compare(&mut self, expected: &Value, told: &Value) -> Result<(), String> {
        match expected {
            Value::Object(parts) if parts.contains_key("@has") => {
                let mut all = told.as_array().into_iter().flatten();
                let is_there = all.any(|one| self.compare(&parts["@has"], one).is_ok());
                is_there.then_some(()).ok_or_else(|| format!("no {expected}"))
            }
            Value::Object(parts) => parts.iter().try_for_each(|(name, expected)| {
                let told = told.get(name);
                match (expected.as_str(), told) {
                    (Some("absent"), None) => Ok(()),
                    (Some("absent"), Some(told)) => Err(format!("{name} is {told}")),
                    (_, None) => Err(format!("there is no {name}")),
                    (_, Some(told)) => {
                        self.compare(expected, told).map_err(|what| format!("{name}: {what}"))
                    }
                }
            }),
            Value::Array(all) => {
                let told = told.as_array().filter(|told| told.len() == all.len());
                let told = told.ok_or_else(|| format!("not {} things", all.len()))?;
                let mut pairs = all.iter().zip(told);
                pairs.try_for_each(|(expected, told)| self.compare(expected, told))
            }
            Value::String(text) => self.compare_text(text, told),
            other if other == told => Ok(()),
            other => Err(format!("{told} is not {other}")),
        }
    }

    fn compare_text(&mut self, expected: &str, told: &Value) -> Result<(), String> {
        let text = told.as_str().unwrap_or_default();
        let is_right = match expected.split_at_checked(1) {
            Some(("$", _)) => {
                let is_id = told.as_u64().is_some_and(|id| id > 0 && id < 1 << 53);
                is_id && self.0.entry(expected.into()).or_insert(told.clone()) == told
            }
            Some(("~", part)) => text.to_lowercase().contains(part),
            _ if expected == "any" => true,
            _ if expected == "number" => told.is_number(),
            // After the year 2020, in milliseconds.
            _ if expected == "time" => told.as_u64().is_some_and(|time| time > 1_577_836_800_000),
            _ => told == expected,
        };
        is_right.then_some(()).ok_or_else(|| format!("{told} is not {expected:?}"))
    }
}
