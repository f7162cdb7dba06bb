//! From a request to its route and back.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use hyper::body::Incoming;
use hyper::header::{
    ALLOW, CACHE_CONTROL, HeaderMap, HeaderName, HeaderValue, ORIGIN, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode};
use percent_encoding::percent_decode_str;
use tracing::Instrument;

use super::handlers::Call;
use super::headers::{is_json, token};
use super::live::Body;
use super::problem::Problem;
use super::query::Query;
use super::routes::{self, Route};
use super::{body, cors};
use crate::door::Door;
use crate::error::Error;
use crate::flashq::http::Front;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const REQUEST_ID_BYTES_MAX: usize = 128;

/// Serves requests by the table of routes.
pub(super) struct Service {
    door: Door,
    /// What clients of flashQ ask for.
    flashq: Front,
    router: matchit::Router<HashMap<Method, Route>>,
}

type Answer = Response<Body>;

impl Service {
    pub(super) fn new(door: Door) -> Self {
        let mut by_path: HashMap<&str, HashMap<Method, Route>> = HashMap::new();
        for route in routes::all() {
            by_path.entry(route.path).or_default().insert(route.method.clone(), route);
        }
        let mut router = matchit::Router::new();
        for (path, methods) in by_path {
            router.insert(path, methods).expect("the paths of the table do not conflict");
        }
        Self { flashq: Front::new(door.clone()), door, router }
    }

    pub(super) fn door(&self) -> &Door {
        &self.door
    }

    /// Answers a request, whatever it is.
    pub(super) async fn serve(&self, request: Request<Incoming>, from: SocketAddr) -> Answer {
        let request_id = request_id(request.headers());
        let is_probe = request.uri().path().starts_with("/health");
        let span = tracing::info_span!(
            "request",
            method = %request.method(),
            path = request.uri().path(),
            request_id
        );
        let origin = request.headers().get(ORIGIN).cloned();
        let answer = AssertUnwindSafe(self.answer(request, from));
        let answer = answer.catch_unwind().instrument(span.clone());
        let mut answer = answer.await.unwrap_or_else(|_| {
            Problem::new(&Error::Internal("a handler panicked".into())).respond()
        });
        let status = answer.status().as_u16();
        // A probe that is told no is no event: what it is told about has been logged.
        span.in_scope(|| match status {
            503 if is_probe => tracing::debug!(status, "answered"),
            500.. if status != 503 => tracing::error!(status, "answered"),
            503.. => tracing::warn!(status, "answered"),
            _ => tracing::debug!(status, "answered"),
        });
        cors::mark(&self.door.origins, origin, &mut answer);
        let headers = answer.headers_mut();
        if let Ok(request_id) = HeaderValue::from_str(&request_id) {
            headers.insert(REQUEST_ID, request_id);
        }
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        answer
    }

    async fn answer(&self, request: Request<Incoming>, from: SocketAddr) -> Answer {
        if let Some(answer) = cors::preflight(&self.door.origins, &request) {
            return answer;
        }
        let path = request.uri().path().to_owned();
        if self.flashq.serves(request.method(), &path, request.headers()) {
            return self.flashq.serve(request, from).await;
        }
        let Ok(matched) = self.router.at(&path) else {
            let error = Error::NotFound(format!("there is nothing at {path}"));
            return Problem::new(&error).respond();
        };
        let method = match *request.method() {
            Method::HEAD => Method::GET,
            ref method => method.clone(),
        };
        let Some(route) = matched.value.get(&method) else {
            return wrong_method(matched.value.keys());
        };
        let names = matched.params.iter();
        let names = names.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let served = self.follow(route, names, request, from).await;
        served.unwrap_or_else(|problem| problem.respond())
    }

    async fn follow(
        &self,
        route: &Route,
        names: Vec<(String, String)>,
        request: Request<Incoming>,
        from: SocketAddr,
    ) -> Result<Answer, Problem> {
        let problem = |error: Error| Problem::new(&error);
        let headers = request.headers();
        // Health and the description are for those, too, who have no token.
        let mut who = format!("anyone ({from})");
        if route.operation.role().is_some() {
            let principal = self.door.access.authenticate(token(headers)).map_err(problem)?;
            principal.check(route.operation).map_err(problem)?;
            who = format!("{} ({from})", principal.name());
        }
        let query = request.uri().query().unwrap_or_default();
        let query = Query::parse(query, route.query).map_err(problem)?;
        let path = decode(names).map_err(problem)?;
        let is_json = is_json(headers);
        let last_event_id = headers.get(LAST_EVENT_ID);
        let last_event_id = last_event_id.map(|id| String::from_utf8_lossy(id.as_bytes()).into());
        let body = body::read(request.into_body()).await.map_err(problem)?;
        if !body.is_empty() && !is_json {
            // A page of another site can make a browser post, but not with this type.
            let error = Error::invalid("content-type", "must be application/json");
            return Err(Problem::new(&error).with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE));
        }
        let call = Call { door: self.door.clone(), who, path, query, last_event_id };
        (route.serve)(call, body).await.map_err(problem)
    }
}

fn wrong_method<'a>(allowed: impl Iterator<Item = &'a Method>) -> Answer {
    let mut allowed: Vec<&str> = allowed.map(Method::as_str).collect();
    allowed.sort_unstable();
    let allowed = allowed.join(", ");
    let error = Error::invalid("method", format!("is not allowed here; there are: {allowed}"));
    let mut answer = Problem::new(&error).with_status(StatusCode::METHOD_NOT_ALLOWED).respond();
    if let Ok(allowed) = HeaderValue::from_str(&allowed) {
        answer.headers_mut().insert(ALLOW, allowed);
    }
    answer
}

fn decode(names: Vec<(String, String)>) -> Result<Vec<(String, String)>, Error> {
    let decode = |(name, value): (String, String)| {
        let decoded = percent_decode_str(&value).decode_utf8();
        let decoded = decoded.map_err(|_| Error::invalid(name.clone(), "is not UTF-8"))?;
        Ok((name, decoded.into_owned()))
    };
    names.into_iter().map(decode).collect()
}

/// The client's own, if it is harmless, or a new one.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
    let given = given
        .filter(|id| (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(is_plain));
    given.map_or_else(|| format!("{:016x}", rand::random::<u64>()), Into::into)
}
