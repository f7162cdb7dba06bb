//! Pages of other sites: what their browsers are told.
//!
//! A page whose origin is allowed may use all routes of the port, with a token like anybody else. No
//! cookies are known, so no credentials are allowed. A page whose origin is not is told nothing, and
//! its browser keeps the answers from it.

use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, HOST, HeaderMap, HeaderName,
    HeaderValue, ORIGIN, VARY,
};
use hyper::{Method, Request, Response, StatusCode};

use super::live::{self, Body};
use crate::origins::Origins;

/// What a page may ask for.
const METHODS: &str = "GET, POST, PUT, PATCH, DELETE";
const HEADERS: &str = "authorization, content-type, last-event-id, x-api-key, x-request-id";

/// How long a browser may remember it, in seconds.
const MAX_AGE: &str = "600";

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

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

/// Whether a request is sent by a page that is neither this host's own nor allowed.
pub(crate) fn is_foreign(origins: &Origins, headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(ORIGIN) else {
        let site = headers.get(FETCH_SITE).and_then(|site| site.to_str().ok());
        return site == Some("cross-site") && *origins != Origins::Any;
    };
    let Ok(origin) = origin.to_str() else { return true };
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let own = origin.split_once("://").map(|(_, own)| own);
    let is_own = own.zip(host).is_some_and(|(own, host)| own.eq_ignore_ascii_case(host));
    !is_own && !origins.allow(origin)
}

fn origin(headers: &HeaderMap) -> Option<&str> {
    headers.get(ORIGIN)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(HeaderName, &'static str)| {
            (name.clone(), HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn a_page_is_foreign_unless_it_is_the_hosts_own_or_allowed() {
        let origins = Origins::parse("https://a.example").unwrap();
        let host = (HOST, "node:6790");
        for (pairs, foreign) in [
            (vec![host.clone()], false),
            (vec![host.clone(), (ORIGIN, "http://node:6790")], false),
            (vec![host.clone(), (ORIGIN, "https://a.example")], false),
            (vec![host.clone(), (ORIGIN, "https://b.example")], true),
            (vec![host.clone(), (ORIGIN, "null")], true),
            (vec![host.clone(), (FETCH_SITE, "cross-site")], true),
            (vec![host, (FETCH_SITE, "same-origin")], false),
        ] {
            assert_eq!(is_foreign(&origins, &headers(&pairs)), foreign, "{pairs:?}");
        }
    }

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
