//! What stands behind the question mark.

use std::collections::BTreeMap;

use crate::broker::{Broker, EventFilter, reason_in, state_in};
use crate::error::Error;
use crate::job::{JobId, QueueName, ScheduleName, Tag};
use crate::limits;
use crate::store::{EventId, EventKind, JobFilter};

/// The parameters of a query, each at most once.
#[derive(Debug, Default)]
pub(super) struct Query(BTreeMap<String, String>);

impl Query {
    /// # Errors
    ///
    /// [`Error::Invalid`] for a name that is not among `known`, or comes twice.
    pub(super) fn parse(text: &str, known: &[&str]) -> Result<Self, Error> {
        let mut parameters = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(text.as_bytes()) {
            if !known.contains(&&*name) {
                let detail = format!("is no parameter here; there are: {}", known.join(", "));
                return Err(Error::invalid(name.into_owned(), detail));
            }
            let name = name.into_owned();
            if parameters.insert(name.clone(), value.into_owned()).is_some() {
                return Err(Error::invalid(name, "is given twice"));
            }
        }
        Ok(Self(parameters))
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub(super) fn number(&self, name: &'static str) -> Result<Option<u64>, Error> {
        let parse = |text: &str| {
            text.parse().map_err(|_| Error::invalid(name, "must be a whole number from 0"))
        };
        self.text(name).map(parse).transpose()
    }

    pub(super) fn switch(&self, name: &'static str) -> Result<Option<bool>, Error> {
        match self.text(name) {
            None => Ok(None),
            Some("true" | "1") => Ok(Some(true)),
            Some("false" | "0") => Ok(Some(false)),
            Some(_) => Err(Error::invalid(name, "must be true or false")),
        }
    }

    /// Whether a list shall come without an object around it.
    pub(super) fn is_array(&self) -> Result<bool, Error> {
        match self.text("format") {
            None | Some("object") => Ok(false),
            Some("array") => Ok(true),
            Some(_) => Err(Error::invalid("format", "must be object or array")),
        }
    }

    /// The queue that is asked for.
    pub(super) fn queue(&self) -> Result<Option<QueueName>, Error> {
        Ok(self.text("queue").map(QueueName::parse).transpose()?)
    }

    /// How many entries are asked for.
    pub(super) fn limit(&self) -> Result<usize, Error> {
        page_limit(self.number("limit")?, limits::PAGE_DEFAULT)
    }

    /// The schedules that are asked for.
    pub(super) fn schedules(&self) -> Result<(Option<ScheduleName>, usize), Error> {
        let after = self.text("cursor").map(ScheduleName::parse).transpose()?;
        Ok((after, self.limit()?))
    }

    /// The events that are asked for, and after which number. A client that comes back says that
    /// in a header, too; the header is newer.
    pub(super) fn events(
        &self,
        last_event_id: Option<&str>,
    ) -> Result<(EventFilter, Option<EventId>), Error> {
        let kinds = self.text("kind").unwrap_or_default().split(',');
        let kinds = kinds.filter(|kind| !kind.is_empty()).map(|kind| event_kind(kind, "kind"));
        let filter = EventFilter {
            queue: self.text("queue").map(QueueName::parse).transpose()?,
            kinds: kinds.collect::<Result<_, _>>()?,
            job: self.number("job")?.map(JobId),
        };
        let after = self.number("after")?;
        let last = last_event_id.filter(|id| !id.is_empty()).map(|id| {
            id.parse().map_err(|_| Error::invalid("last-event-id", "must be a whole number from 0"))
        });
        Ok((filter, last.transpose()?.or(after)))
    }

    /// The jobs that are asked for.
    pub(super) fn filter(&self, broker: &Broker) -> Result<JobFilter, Error> {
        let ago = |age: Option<u64>| age.map(|age| broker.ago(age));
        let oldest_first = match self.text("order") {
            None | Some("newest") => false,
            Some("oldest") => true,
            Some(_) => return Err(Error::invalid("order", "must be newest or oldest")),
        };
        Ok(JobFilter {
            queue: self.queue()?,
            state: self.text("state").map(state_in).transpose()?,
            tag: self.text("tag").map(Tag::parse).transpose()?,
            reason: self.text("reason").map(reason_in).transpose()?,
            content_type: self.text("type").map(str::to_owned),
            created_to: ago(self.number("older_than_ms")?),
            created_from: ago(self.number("newer_than_ms")?),
            oldest_first,
            limit: page_limit(self.number("limit")?, limits::PAGE_DEFAULT)?,
            cursor: self.number("cursor")?.map(JobId),
            ..JobFilter::default()
        })
    }
}

pub(super) fn event_kind(name: &str, field: &'static str) -> Result<EventKind, Error> {
    let names: Vec<&str> = EventKind::ALL.iter().map(|kind| kind.name()).collect();
    let unknown = || Error::invalid(field, format!("must be among {}", names.join(", ")));
    EventKind::parse(name).ok_or_else(unknown)
}

pub(super) fn page_limit(limit: Option<u64>, default: usize) -> Result<usize, Error> {
    match limit {
        None => Ok(default),
        Some(limit) if (1..=limits::PAGE_MAX as u64).contains(&limit) => Ok(limit as usize),
        Some(_) => Err(Error::invalid("limit", format!("must be from 1 to {}", limits::PAGE_MAX))),
    }
}
