//! Events as they happen: who may listen, and to what.
//!
//! Browsers can not set the head of these requests, so that here, and nowhere else, a token may stand
//! in the query.

use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderName};
use hyper::{Request, Response};

use super::super::events::{Wanted, kinds_of};
use super::super::{Refused, fields};
use super::answer::Failure;
use super::asked::{named, parameter};
use super::route::Route;
use super::socket::Shows;
use super::{Front, headers, socket, sse};
use crate::http::live::Body;
use crate::job::JobId;
use crate::store::EventId;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Of which jobs the path says that events are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    /// Of all.
    All,
    /// Of those of a queue.
    Queue,
    /// Of one.
    Job,
}

/// What a WebSocket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// Events.
    Events(Which),
    /// The frames of the dashboard.
    Dashboard,
}

/// Answers with server-sent events.
pub(super) async fn events(
    front: &Front,
    route: &Route,
    which: &Which,
    names: &[(String, String)],
    request: Request<Incoming>,
) -> Result<Response<Body>, Failure> {
    let query = request.uri().query().unwrap_or_default();
    let token = token(request.headers(), query);
    front.principal(token.as_deref(), route.operation)?;
    let wanted = wanted(*which, names, query)?;
    let after = last_event_id(request.headers())?;
    Ok(sse::stream(front.door(), wanted, after).await?)
}

/// Answers with a WebSocket. Who has shown no good token yet may do so in its first message.
pub(super) async fn socket(
    front: &Front,
    route: &Route,
    source: &Source,
    names: &[(String, String)],
    request: Request<Incoming>,
) -> Result<Response<Body>, Failure> {
    front.check_page(request.headers())?;
    let query = request.uri().query().unwrap_or_default();
    let shows = match source {
        Source::Events(which) => Shows::Events(wanted(*which, names, query)?),
        Source::Dashboard => Shows::Dashboard,
    };
    let token = token(request.headers(), query);
    let may = front.door().access.authenticate(token.as_deref()).ok();
    if let Some(principal) = may {
        principal.check(route.operation).map_err(Refused::from)?;
    }
    Ok(socket::upgrade(request, front, shows, may).await)
}

fn token(head: &HeaderMap, query: &str) -> Option<String> {
    headers::token(head).map(str::to_owned).or_else(|| parameter(query, "token"))
}

fn wanted(which: Which, names: &[(String, String)], query: &str) -> Result<Wanted, Refused> {
    let kinds = parameter(query, "events").unwrap_or_default();
    let kinds: Vec<&str> =
        kinds.split(',').map(str::trim).filter(|kind| !kind.is_empty()).collect();
    let (queue, job) = match which {
        Which::All => (None, None),
        Which::Queue => (Some(fields::parse_queue(named(names, "queue"))?), None),
        Which::Job => {
            let id = named(names, "id").parse();
            let id = id.map_err(|_| Refused::invalid("id: must be a whole number from 0"))?;
            (None, Some(JobId(id)))
        }
    };
    Ok(Wanted { queue, job, kinds: if kinds.is_empty() { Vec::new() } else { kinds_of(&kinds)? } })
}

/// The last event that a client has seen that comes back.
fn last_event_id(head: &HeaderMap) -> Result<Option<EventId>, Refused> {
    let given = head.get(LAST_EVENT_ID).map(|id| String::from_utf8_lossy(id.as_bytes()));
    let parse = |id: &str| {
        id.parse().map_err(|_| Refused::invalid("last-event-id: must be a whole number from 0"))
    };
    given.filter(|id| !id.is_empty()).map(|id| parse(&id)).transpose()
}

#[cfg(test)]
mod tests {
    use hyper::header::{AUTHORIZATION, HeaderValue};

    use super::*;

    #[test]
    fn a_token_stands_in_the_head_or_in_the_query() {
        let bearer = HeaderValue::from_static("Bearer a");
        let head = HeaderMap::from_iter([(AUTHORIZATION, bearer)]);
        assert_eq!(token(&head, "token=b").as_deref(), Some("a"));
        assert_eq!(token(&HeaderMap::new(), "events=x&token=b").as_deref(), Some("b"));
        assert_eq!(token(&HeaderMap::new(), "events=x"), None);
    }

    #[test]
    fn the_path_says_whose_events_are_wanted_and_the_query_which() {
        let names = [("queue".to_owned(), "q".to_owned()), ("id".to_owned(), "7".to_owned())];
        let of = |which, query| wanted(which, &names, query).unwrap();
        assert_eq!(of(Which::Queue, "").queue.unwrap().as_str(), "q");
        assert_eq!(of(Which::Job, "").job, Some(JobId(7)));
        assert!(of(Which::All, "events=,").kinds.is_empty());
        assert_eq!(of(Which::All, "events=pushed,completed").kinds.len(), 2);
        assert!(wanted(Which::All, &names, "events=nonsense").is_err());
        assert!(wanted(Which::Job, &[], "").is_err());
    }

    #[test]
    fn a_client_that_comes_back_says_where_it_was() {
        let head = |id| HeaderMap::from_iter([(LAST_EVENT_ID, HeaderValue::from_static(id))]);
        assert_eq!(last_event_id(&HeaderMap::new()), Ok(None));
        assert_eq!(last_event_id(&head("7")), Ok(Some(7)));
        assert!(last_event_id(&head("x")).is_err());
    }
}
