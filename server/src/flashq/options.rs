//! What clients of flashQ say of a job that they push, and what is kept of it.
//!
//! | there | here |
//! |---|---|
//! | `max_attempts` 0 or none: without end | the largest number there may be |
//! | `backoff` B: B × 2ⁿ after the failure n | exponential from 2 B on, up to 1024 B, nothing left to chance |
//! | `backoff` 0 or none | tried again at once |
//! | `group_id`: one job of a group at a time | a concurrency key of its own, at most 1 |
//! | `unique_key` | the same, until the job ends, however it ends |
//! | `debounce_id`, `debounce_ttl` | a unique key within a window; not beside `unique_key` |
//! | `job_id` | the custom id |
//! | `depends_on`: waits for ever if one fails | dies with it, so that it can be found and retried |
//! | `timeout` | the same, at least 100 ms: it was looked at twice a second |
//!
//! What else there is drives nothing here. It is kept with the job as `Extra` and shown again:
//! order within a priority is always that of the pushes, leases live as long as their connection,
//! and how long completed jobs are kept is a matter of their queue.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Fields, Refused, fields};
use crate::job::{
    Backoff, Concurrency, Depends, Flow, FlowKey, InvalidField, NewJob, OnFailure, Options,
    Payload, QueueName, Tag, UniqueHold, UniqueKey, When,
};
use crate::limits;

/// What comes before the id of a group in its concurrency key.
pub(super) const GROUP: &str = "group:";

/// A delay doubles so many times.
const BACKOFF_STEPS: u32 = 10;

/// How long a job is not pushed again with the same debounce id, if nobody says.
const DEBOUNCE_MS: u64 = 5000;

/// What is kept with a job beside what drives it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Extra {
    #[serde(skip_serializing_if = "is_default")]
    pub(super) lifo: bool,
    /// It is deleted once it is completed.
    #[serde(skip_serializing_if = "is_default")]
    pub(super) remove_on_complete: bool,
    /// It is deleted once its last attempt has failed.
    #[serde(skip_serializing_if = "is_default")]
    pub(super) remove_on_fail: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub(super) stall_timeout: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub(super) keep_completed_age: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub(super) keep_completed_count: u64,
    /// It is the parent of a flow: what it waits for are its children.
    #[serde(skip_serializing_if = "is_default")]
    pub(super) flow: bool,
    /// It is of a cron with a period, of so many milliseconds.
    #[serde(skip_serializing_if = "is_default")]
    pub(super) repeat_every: Option<u64>,
    /// What a job that is handed out does not say of itself, so that it need not be looked up: its
    /// `backoff`, its `ttl` and its `unique_key`.
    #[serde(skip_serializing_if = "is_default")]
    pub(super) backoff: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub(super) ttl: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub(super) unique_key: Option<String>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Extra {
    /// What is kept with a job.
    pub(super) fn of(options: &Options) -> Self {
        // Another transport keeps what it likes: nothing of it is meant for this one.
        let kept = options.extra.as_deref().and_then(|text| serde_json::from_str(text).ok());
        kept.unwrap_or_default()
    }

    /// As it is kept; `None`, if there is nothing to keep.
    pub(super) fn kept(&self) -> Option<Box<str>> {
        match is_default(self) {
            true => None,
            false => Some(serde_json::json!(self).to_string().into()),
        }
    }

    fn read(fields: &Fields) -> Result<Self, Refused> {
        let number = |name| Ok::<_, Refused>(fields::opt_number(fields, name)?.unwrap_or(0));
        // Some clients write names in one way, some in the other.
        let either = |name, other| match number(name)? {
            0 => number(other),
            number => Ok(number),
        };
        Ok(Self {
            lifo: fields::flag(fields, "lifo")?,
            remove_on_complete: fields::flag(fields, "remove_on_complete")?,
            remove_on_fail: fields::flag(fields, "remove_on_fail")?,
            stall_timeout: number("stall_timeout")?,
            keep_completed_age: either("keep_completed_age", "keepCompletedAge")?,
            keep_completed_count: either("keep_completed_count", "keepCompletedCount")?,
            flow: false,
            repeat_every: None,
            backoff: number("backoff")?,
            ttl: number("ttl")?,
            unique_key: fields::opt_text(fields, "unique_key")?.map(str::to_owned),
        })
    }
}

/// A job as it is pushed.
pub(super) fn new_job(
    queue: QueueName,
    payload: Payload,
    fields: &Fields,
) -> Result<NewJob, Refused> {
    let extra = Extra::read(fields)?;
    let (unique, hold) = unique(fields)?;
    let when = match fields::opt_number(fields, "delay")? {
        None | Some(0) => When::Now,
        Some(delay) => When::After(Duration::from_millis(delay)),
    };
    let tags = fields::opt_texts(fields, "tags")?.unwrap_or_default().into_iter();
    let options = Options {
        hold,
        custom_id: custom_id(fields)?,
        flow: Flow { concurrency: group(fields)?, ..Flow::default() },
        depends: Depends {
            on: fields::opt_ids(fields, "depends_on")?.unwrap_or_default(),
            on_failure: OnFailure::Fail,
        },
        extra: extra.kept(),
        ..Options::default()
    };
    let job = NewJob {
        priority: fields::priority(fields)?,
        when,
        ttl: (extra.ttl > 0).then(|| Duration::from_millis(extra.ttl)),
        max_attempts: max_attempts(fields::opt_number(fields, "max_attempts")?),
        backoff: Some(backoff(extra.backoff)),
        timeout: timeout(fields::opt_number(fields, "timeout")?),
        unique,
        tags: tags.map(|tag| Tag::parse(tag).map_err(named)).collect::<Result<_, _>>()?,
        options: options.into(),
        ..NewJob::new(queue, payload)
    };
    job.check().map_err(named)
}

/// What a number of attempts means. 0 is: as many as it takes.
pub(super) fn max_attempts(number: Option<u64>) -> u32 {
    let most = *limits::MAX_ATTEMPTS.end();
    match number.and_then(|number| u32::try_from(number).ok()) {
        None | Some(0) => most,
        Some(number) => number.min(most),
    }
}

/// How long to wait after a failure, from its base in milliseconds.
pub(super) fn backoff(base_ms: u64) -> Backoff {
    if base_ms == 0 {
        return Backoff::Fixed(Duration::ZERO);
    }
    let delay =
        |factor: u64| Duration::from_millis(base_ms.saturating_mul(factor)).min(limits::DELAY_MAX);
    Backoff::Exponential { base: delay(2), max: delay(1 << BACKOFF_STEPS), jitter: 0.0 }
}

fn timeout(millis: Option<u64>) -> Option<Duration> {
    let millis = millis.filter(|millis| *millis > 0)?;
    Some(Duration::from_millis(millis).max(*limits::TIMEOUT.start()))
}

/// What must not be there twice.
fn unique(fields: &Fields) -> Result<(Option<UniqueKey>, UniqueHold), Refused> {
    let unique = fields::opt_text(fields, "unique_key")?;
    let debounce = fields::opt_text(fields, "debounce_id")?;
    let window = fields::opt_number(fields, "debounce_ttl")?.unwrap_or(DEBOUNCE_MS);
    match (unique, debounce) {
        (Some(_), Some(_)) => {
            Err(Refused::invalid("at most one of unique_key and debounce_id may be set"))
        }
        (Some(key), None) => Ok((Some(parsed("unique_key", key)?), UniqueHold::Live)),
        (None, Some(id)) if window > 0 => {
            let hold = UniqueHold::WindowMs(Duration::from_millis(window));
            Ok((Some(parsed("debounce_id", id)?), hold))
        }
        (None, _) => Ok((None, UniqueHold::Live)),
    }
}

fn custom_id(fields: &Fields) -> Result<Option<UniqueKey>, Refused> {
    let id = match fields::opt_text(fields, "job_id")? {
        Some(id) => Some(id),
        None => fields::opt_text(fields, "jobId")?,
    };
    id.map(|id| parsed("job_id", id)).transpose()
}

fn parsed(name: &str, key: &str) -> Result<UniqueKey, Refused> {
    UniqueKey::parse(key)
        .map_err(|invalid| Refused::invalid(format_args!("{name}: {}", invalid.detail)))
}

fn group(fields: &Fields) -> Result<Option<Concurrency>, Refused> {
    let Some(id) = fields::opt_text(fields, "group_id")? else { return Ok(None) };
    let key = FlowKey::parse(&format!("{GROUP}{id}"));
    let key =
        key.map_err(|invalid| Refused::invalid(format_args!("group_id: {}", invalid.detail)))?;
    Ok(Some(Concurrency { key, max: Some(1) }))
}

/// A field has the name there that clients know.
fn named(invalid: InvalidField) -> Refused {
    let name = match &*invalid.field {
        "unique.window_ms" => "debounce_ttl",
        name => name.strip_suffix("_ms").unwrap_or(name),
    };
    Refused::invalid(format_args!("{name}: {}", invalid.detail))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::job::JobId;

    fn pushed(json: &str) -> Result<NewJob, Refused> {
        let fields: Fields = serde_json::from_str(json).unwrap();
        let payload = Payload::new(Bytes::from_static(b"{}")).unwrap();
        new_job(QueueName::parse("q").unwrap(), payload, &fields)
    }

    #[test]
    fn a_job_that_says_nothing_is_tried_at_once_and_as_often_as_it_takes() {
        for json in ["{}", r#"{"max_attempts":0,"backoff":0,"delay":0,"ttl":0,"timeout":0}"#] {
            let job = pushed(json).unwrap();
            assert_eq!(job.max_attempts, 1000);
            assert_eq!(job.backoff, Some(Backoff::Fixed(Duration::ZERO)));
            assert_eq!((job.when, job.ttl, job.timeout), (When::Now, None, None));
            assert!(job.options.is_default());
        }
    }

    #[test]
    fn null_is_as_good_as_nothing_for_every_option() {
        let names = [
            "priority",
            "delay",
            "ttl",
            "timeout",
            "max_attempts",
            "backoff",
            "unique_key",
            "depends_on",
            "tags",
            "lifo",
            "remove_on_complete",
            "remove_on_fail",
            "stall_timeout",
            "debounce_id",
            "debounce_ttl",
            "job_id",
            "jobId",
            "keep_completed_age",
            "keepCompletedAge",
            "keep_completed_count",
            "keepCompletedCount",
            "group_id",
        ];
        let entries: Vec<String> = names.iter().map(|name| format!("\"{name}\":null")).collect();
        let job = pushed(&format!("{{{}}}", entries.join(","))).unwrap();
        assert_eq!(job, pushed("{}").unwrap());
    }

    #[test]
    fn the_first_delay_is_twice_the_base_and_the_last_1024_times() {
        let backoff = pushed(r#"{"backoff":100}"#).unwrap().backoff.unwrap();
        let delay = |attempt| backoff.after_failure(attempt, 0.9).as_millis();
        assert_eq!([1, 2, 3, 10, 11, 99].map(delay), [200, 400, 800, 102_400, 102_400, 102_400]);
        assert!(pushed(r#"{"backoff":18446744073709551615}"#).is_ok());
    }

    #[test]
    fn what_drives_nothing_is_kept_with_the_job() {
        let job = pushed(
            r#"{"lifo":true,"remove_on_fail":true,"stall_timeout":7,"keepCompletedAge":8,
                "keep_completed_count":9,"backoff":1,"ttl":2,"unique_key":"k"}"#,
        );
        let options = job.unwrap().options;
        let extra = Extra {
            lifo: true,
            remove_on_fail: true,
            stall_timeout: 7,
            keep_completed_age: 8,
            keep_completed_count: 9,
            backoff: 1,
            ttl: 2,
            unique_key: Some("k".into()),
            ..Extra::default()
        };
        assert_eq!(Extra::of(&options), extra);
        let foreign = Options { extra: Some("not mine".into()), ..Options::default() };
        assert_eq!(Extra::of(&foreign), Extra::default());
    }

    #[test]
    fn a_group_has_one_slot_and_dependents_die_with_what_they_wait_for() {
        let options =
            pushed(r#"{"group_id":"g","depends_on":[3,1,3]}"#).unwrap().options.into_inner();
        let group = options.flow.concurrency.unwrap();
        assert_eq!((group.key.as_str(), group.max), ("group:g", Some(1)));
        assert_eq!(options.depends.on, [JobId(1), JobId(3)]);
        assert_eq!(options.depends.on_failure, OnFailure::Fail);
    }

    #[test]
    fn a_job_is_unique_by_key_or_within_a_window_but_not_both() {
        let unique = |json| pushed(json).map(|job| (job.unique.is_some(), job.options.hold));
        let window = |millis| UniqueHold::WindowMs(Duration::from_millis(millis));
        assert_eq!(unique(r#"{"unique_key":"k"}"#), Ok((true, UniqueHold::Live)));
        assert_eq!(unique(r#"{"debounce_id":"d"}"#), Ok((true, window(5000))));
        assert_eq!(unique(r#"{"debounce_id":"d","debounce_ttl":9}"#), Ok((true, window(9))));
        assert_eq!(
            unique(r#"{"debounce_id":"d","debounce_ttl":0}"#),
            Ok((false, UniqueHold::Live))
        );
        let both = unique(r#"{"unique_key":"k","debounce_id":"d"}"#).unwrap_err();
        assert!(both.0.starts_with("Invalid: "), "{both:?}");
    }

    #[test]
    fn what_is_out_of_range_is_refused_by_the_name_that_clients_know() {
        for (json, name) in [
            (r#"{"delay":18446744073709551615}"#, "delay"),
            (r#"{"ttl":18446744073709551615}"#, "ttl"),
            (r#"{"timeout":18446744073709551615}"#, "timeout"),
            (r#"{"debounce_id":"d","debounce_ttl":18446744073709551615}"#, "debounce_ttl"),
            (r#"{"unique_key":""}"#, "unique_key"),
            (r#"{"job_id":"\n"}"#, "job_id"),
            (r#"{"group_id":"\n"}"#, "group_id"),
            (r#"{"tags":[""]}"#, "tags"),
            (r#"{"priority":4294967296}"#, "priority"),
            (r#"{"depends_on":[-1]}"#, "depends_on"),
        ] {
            let refused = pushed(json).unwrap_err().0;
            assert!(refused.starts_with(&format!("Invalid: {name}: ")), "{refused}");
        }
    }
}
