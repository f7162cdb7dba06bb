//! What few jobs ask for, and what is kept of it as one text.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::time::millis;
use super::{Flow, InvalidField, JobId, ScheduleName, Timestamp, UniqueKey};
use crate::limits;

/// What few jobs ask for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    /// How long the job has its unique key.
    #[serde(skip_serializing_if = "UniqueHold::is_default")]
    pub hold: UniqueHold,
    /// A push that is repeated with this key within a day is not done again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idempotency: Option<UniqueKey>,
    /// Over all queues one job that has not ended has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub custom_id: Option<UniqueKey>,
    /// How many like it may run.
    #[serde(flatten)]
    pub flow: Flow,
    /// What it waits for.
    #[serde(skip_serializing_if = "Depends::is_default")]
    pub depends: Depends,
    /// The slot of a schedule that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slot: Option<Slot>,
    /// What a transport wants back with the job: a text that drives nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extra: Option<Box<str>>,
}

/// The [`Options`] of a job that is on its way: no more than a pointer where it asks for none, since a
/// job is moved many times.
#[derive(Clone, Default)]
pub struct SparseOptions(Option<Box<Options>>);

/// What no options are read as: the default.
static NOTHING: Options = Options {
    hold: UniqueHold::Live,
    idempotency: None,
    custom_id: None,
    flow: Flow { concurrency: None, rate: None },
    depends: Depends { on: Vec::new(), on_failure: OnFailure::Fail },
    slot: None,
    extra: None,
};

impl SparseOptions {
    /// Whether the job asks for nothing.
    pub fn is_default(&self) -> bool {
        self.0.as_ref().is_none_or(|options| **options == NOTHING)
    }

    /// What it asks for.
    pub fn into_inner(self) -> Options {
        self.0.map_or_else(Options::default, |options| *options)
    }

    /// # Errors
    ///
    /// As [`Options::check`].
    pub fn check(self) -> Result<Self, InvalidField> {
        self.0.map(|options| options.check().map(Box::new)).transpose().map(Self)
    }
}

impl From<Options> for SparseOptions {
    fn from(options: Options) -> Self {
        Self((options != NOTHING).then(|| Box::new(options)))
    }
}

impl Deref for SparseOptions {
    type Target = Options;

    fn deref(&self) -> &Options {
        self.0.as_deref().unwrap_or(&NOTHING)
    }
}

impl DerefMut for SparseOptions {
    fn deref_mut(&mut self) -> &mut Options {
        self.0.get_or_insert_default()
    }
}

/// As [`Options`], so that what is the same looks the same.
impl fmt::Debug for SparseOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl PartialEq for SparseOptions {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

/// How long a job has its unique key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UniqueHold {
    /// Until it ends.
    #[default]
    Live,
    /// For so long after its push, whatever becomes of it: a throttle.
    WindowMs(#[serde(with = "millis")] Duration),
    /// Until it is leased. A push meanwhile takes its place: the last one wins.
    Debounce,
}

impl UniqueHold {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Which jobs a job waits for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Depends {
    /// All of these.
    pub on: Vec<JobId>,
    /// What becomes of it if one of them dies or is cancelled.
    pub on_failure: OnFailure,
}

impl Depends {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What becomes of a job if one that it waits for dies or is cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// It dies too.
    #[default]
    Fail,
    /// It goes on as if that one had been completed.
    Ignore,
    /// It waits on: that one may be retried.
    Wait,
}

impl OnFailure {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Fail, Self::Ignore, Self::Wait];

    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fail => "fail",
            Self::Ignore => "ignore",
            Self::Wait => "wait",
        }
    }

    /// The policy of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.name() == name)
    }
}

/// A time at which a schedule makes a job.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Slot {
    /// The schedule.
    pub schedule: ScheduleName,
    /// The time by its rule, before any jitter.
    pub at: Timestamp,
}

impl Options {
    /// # Errors
    ///
    /// If a number is out of its range, naming the field.
    pub fn check(mut self) -> Result<Self, InvalidField> {
        if let UniqueHold::WindowMs(window) = self.hold
            && !limits::UNIQUE_WINDOW.contains(&window)
        {
            return Err(InvalidField::new("unique.window_ms", "must be from 1 ms to 30 days"));
        }
        self.depends.on.sort_unstable();
        self.depends.on.dedup();
        if self.depends.on.len() > limits::DEPENDS_MAX {
            let most = limits::DEPENDS_MAX;
            return Err(InvalidField::new("depends_on", format!("more than {most}")));
        }
        if let Some(extra) = &self.extra {
            check_extra(extra).map_err(|detail| InvalidField::new("extra", detail))?;
        }
        self.flow = self.flow.check()?;
        Ok(self)
    }
}

fn check_extra(extra: &str) -> Result<(), String> {
    if extra.len() > limits::EXTRA_BYTES_MAX {
        return Err(format!("longer than {} bytes", limits::EXTRA_BYTES_MAX));
    }
    // A database that is asked for a part of the options could not read the rest.
    match extra.contains('\0') {
        true => Err("the character NUL is not allowed".into()),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Concurrency, FlowKey, Rate, RateRule};
    use super::*;

    #[test]
    fn options_survive_their_text() {
        let key = |name: &str| FlowKey::parse(name).unwrap();
        let rule = RateRule { limit: 10, per: Duration::from_secs(1), burst: Some(2) };
        let options = Options {
            hold: UniqueHold::WindowMs(Duration::from_millis(7)),
            idempotency: Some(UniqueKey::parse("i").unwrap()),
            custom_id: Some(UniqueKey::parse("c").unwrap()),
            flow: Flow {
                concurrency: Some(Concurrency { key: key("c"), max: None }),
                rate: Some(Rate { key: key("r"), rule }),
            },
            depends: Depends { on: vec![JobId(3)], on_failure: OnFailure::Wait },
            slot: Some(Slot { schedule: ScheduleName::parse("s").unwrap(), at: Timestamp(5) }),
            extra: Some("{\"lifo\":true}".into()),
        };
        let text = serde_json::to_string(&options).unwrap();
        assert_eq!(serde_json::from_str::<Options>(&text).unwrap(), options);
        let debounce = Options { hold: UniqueHold::Debounce, ..Options::default() };
        let text = serde_json::to_string(&debounce).unwrap();
        assert_eq!(serde_json::from_str::<Options>(&text).unwrap(), debounce);
        assert_eq!(serde_json::to_string(&Options::default()).unwrap(), "{}");
    }

    #[test]
    fn options_that_ask_for_nothing_are_no_options() {
        assert_eq!(NOTHING, Options::default());
        assert!(SparseOptions::from(Options::default()).0.is_none());
        let mut options = SparseOptions::default();
        options.depends.on.clear();
        assert!(options.is_default());
        assert_eq!(options, SparseOptions::default());
        options.extra = Some("x".into());
        assert!(!options.is_default());
        let asked = Options { extra: Some("x".into()), ..Options::default() };
        assert_eq!(options, SparseOptions::from(asked.clone()));
        assert_eq!(options.into_inner(), asked);
    }

    #[test]
    fn a_window_has_a_length_and_a_job_waits_for_a_bounded_number() {
        let window = |time| Options { hold: UniqueHold::WindowMs(time), ..Options::default() };
        assert!(window(Duration::ZERO).check().is_err());
        assert!(window(Duration::from_millis(1)).check().is_ok());
        let on = |count: u64| {
            let depends = Depends { on: (1..=count).map(JobId).collect(), ..Depends::default() };
            Options { depends, ..Options::default() }.check()
        };
        assert!(on(limits::DEPENDS_MAX as u64).is_ok());
        assert_eq!(on(limits::DEPENDS_MAX as u64 + 1).unwrap_err().field, "depends_on");
    }

    #[test]
    fn what_a_transport_adds_is_a_text_of_bounded_length() {
        let extra = |text: String| {
            Options { extra: Some(text.into()), ..Options::default() }.check().map(drop)
        };
        assert_eq!(extra("\n".repeat(limits::EXTRA_BYTES_MAX)), Ok(()));
        assert_eq!(extra("x".repeat(limits::EXTRA_BYTES_MAX + 1)).unwrap_err().field, "extra");
        assert_eq!(extra("\0".into()).unwrap_err().field, "extra");
    }
}
