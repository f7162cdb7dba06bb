//! Pages of other sites: what their browsers are told.
//!
//! A page whose origin is allowed may use all routes of the port, with a token like anybody else. No
//! cookies are known, so no credentials are allowed. A page whose origin is not is told nothing, and
//! its browser keeps the answers from it.

use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderValue, ORIGIN, VARY,
};
use hyper::{Method, Request, Response, StatusCode};

use super::live::{self, Body};
use crate::origins::Origins;

/// What a page may ask for.
const METHODS: &str = "GET, POST, PUT, PATCH, DELETE";
const HEADERS: &str = "authorization, content-type, last-event-id, x-api-key, x-request-id";

/// How long a browser may remember it, in seconds.
const MAX_AGE: &str = "600";

/// The answer to a browser that asks whether a page may send a request, if it may.
pub(super) fn preflight<B>(origins: &Origins, request: &Request<B>) -> Option<Response<Body>> {
    let headers = request.headers();
    let is_asked =
        request.method() == Method::OPTIONS && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    if !is_asked || !origins.allow(origin(headers)?) {
        return None;
    }
    let mut response = Response::new(live::whole(""));
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS));
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(HEADERS));
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE));
    Some(response)
}

/// Says in an answer that the page of this origin may read it, if it may.
pub(super) fn mark(origins: &Origins, origin: Option<HeaderValue>, answer: &mut Response<Body>) {
    let Some(origin) = origin else { return };
    if !origin.to_str().is_ok_and(|origin| origins.allow(origin)) {
        return;
    }
    let headers = answer.headers_mut();
    match origins {
        Origins::Any => {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        }
        Origins::These(_) => {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.append(VARY, HeaderValue::from_static("origin"));
        }
    }
}

fn origin(headers: &HeaderMap) -> Option<&str> {
    headers.get(ORIGIN)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preflight_is_answered_for_allowed_origins_only() {
        let ask = |origin| {
            let asked = Request::options("/v1/queues").header(ORIGIN, origin);
            asked.header(ACCESS_CONTROL_REQUEST_METHOD, "POST").body(()).unwrap()
        };
        let origins = Origins::parse("https://a.example").unwrap();
        assert!(preflight(&origins, &ask("https://b.example")).is_none());
        assert!(preflight(&Origins::default(), &ask("https://a.example")).is_none());
        let mut answer = preflight(&origins, &ask("https://a.example")).unwrap();
        mark(&origins, Some(HeaderValue::from_static("https://a.example")), &mut answer);
        assert_eq!(answer.headers()[ACCESS_CONTROL_ALLOW_ORIGIN], "https://a.example");
        assert_eq!(answer.headers()[VARY], "origin");
        let mut answer = Response::new(live::whole(""));
        mark(&Origins::Any, Some(HeaderValue::from_static("https://b.example")), &mut answer);
        assert_eq!(answer.headers()[ACCESS_CONTROL_ALLOW_ORIGIN], "*");
    }
}
