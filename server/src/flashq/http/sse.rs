//! Events as server-sent events.
//!
//! An event has its number, so that a client that comes back says how far it has heard and misses
//! nothing, on whichever node. How a stream goes on and how it ends is as for our own
//! ([`crate::http::live`]).

use hyper::Response;

use crate::door::Door;
use crate::error::Error;
use crate::flashq::Refused;
use crate::flashq::events::Wanted;
use crate::flashq::feed::{Feed, Heard};
use crate::http::live::{self, Body, Pages};
use crate::store::EventId;

/// Answers with events after a number, or from now on, as they happen.
///
/// # Errors
///
/// If too many listen on this node, or there is no such number, job or queue; or what the store says.
pub(super) async fn stream(
    door: &Door,
    wanted: Wanted,
    after: Option<EventId>,
) -> Result<Response<Body>, Refused> {
    let feed = Feed::open(&door.broker, wanted, after).await?;
    Ok(live::stream_of(feed, door))
}

impl Pages for Feed {
    fn heard(&self) -> EventId {
        Feed::heard(self)
    }

    async fn page(&mut self) -> Result<String, Error> {
        let events = match self.next().await? {
            Heard::Events(events) => events,
            Heard::Missed => return Ok(live::missed(Feed::heard(self))),
        };
        let mut page = String::new();
        for event in events {
            live::append(&mut page, event.id, event.event_type, &event);
        }
        Ok(page)
    }
}
