//! Answers: `{"ok":true,"data":…}`, or `{"ok":false,"error":"…"}` with the status that says why.

use batonq_protocol::ErrorCode;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Method, Response, StatusCode};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::super::frame::Shown;
use super::super::{Fields, Refused};
use crate::error::Error;
use crate::http::live::{self, Body};

const JSON: &str = "application/json";

/// How a token is to be shown.
pub(super) const BEARER: HeaderValue = HeaderValue::from_static("Bearer");

/// The status of a refusal.
pub(super) fn status_of(code: ErrorCode) -> StatusCode {
    let status = StatusCode::from_u16(code.meaning().http_status);
    status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// A request that was not served.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
    text: String,
    /// What else the head of the answer says.
    header: Option<(HeaderName, HeaderValue)>,
}

impl From<Refused> for Failure {
    fn from(Refused(text, code): Refused) -> Self {
        let header = match code {
            ErrorCode::Unauthenticated => Some((WWW_AUTHENTICATE, BEARER)),
            _ if code.meaning().retryable => Some((RETRY_AFTER, HeaderValue::from_static("1"))),
            _ => None,
        };
        Self { status: status_of(code), text, header }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Refused::from(error).into()
    }
}

impl Failure {
    /// A body that is not said to be JSON. A page of another site can make a browser post one, but
    /// not as JSON.
    pub(super) fn not_json() -> Self {
        let text = "Invalid: content-type: must be application/json".into();
        Self { status: StatusCode::UNSUPPORTED_MEDIA_TYPE, text, header: None }
    }

    /// There is such a path, but not with this method.
    pub(super) fn wrong_method<'a>(allowed: impl Iterator<Item = &'a Method>) -> Self {
        let allowed = allowed.map(Method::as_str).collect::<Vec<_>>().join(", ");
        let text = format!("Invalid: method is not allowed here; there are: {allowed}");
        let header = HeaderValue::from_str(&allowed).ok().map(|allowed| (ALLOW, allowed));
        Self { status: StatusCode::METHOD_NOT_ALLOWED, text, header }
    }

    pub(super) fn respond(self) -> Response<Body> {
        // Its fields are a flag and a text: there is nothing that could not be written.
        let json = serde_json::to_vec(&Bad { ok: false, error: &self.text }).unwrap_or_default();
        let mut response = of(self.status, json, JSON);
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

/// The answer with a reply: its `data`, and what stands beside that.
///
/// # Errors
///
/// None that is expected: a reply is JSON.
pub(super) fn good(reply: &Fields) -> Result<Response<Body>, Failure> {
    json_of(StatusCode::OK, &Good(reply))
}

/// The answer with some JSON.
///
/// # Errors
///
/// As above.
pub(super) fn json_of(
    status: StatusCode,
    value: &impl Serialize,
) -> Result<Response<Body>, Failure> {
    let json = serde_json::to_vec(value);
    let json = json.map_err(|error| Error::Internal(error.to_string().into()))?;
    Ok(of(status, json, JSON))
}

/// The answer with a text for Prometheus.
pub(super) fn text(text: String) -> Response<Body> {
    of(StatusCode::OK, text, "text/plain; version=0.0.4; charset=utf-8")
}

fn of(status: StatusCode, body: impl Into<bytes::Bytes>, kind: &'static str) -> Response<Body> {
    let mut response = Response::new(live::whole(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[derive(Serialize)]
struct Bad<'a> {
    ok: bool,
    error: &'a str,
}

struct Good<'a>(&'a Fields);

impl Serialize for Good<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("ok", &true)?;
        map.serialize_entry("data", &Shown(self.0.get("data").unwrap_or(&Value::Null)))?;
        for (name, value) in self.0.iter().filter(|(name, _)| *name != "data" && *name != "ok") {
            map.serialize_entry(name, &Shown(value))?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::fields::shown;
    use super::super::super::job::object;
    use super::*;
    use crate::job::JobId;

    #[test]
    fn a_refusal_has_the_status_of_its_code() {
        let status = |refused: Refused| Failure::from(refused).respond().status().as_u16();
        for (error, expected) in [
            (Error::invalid("queue", "empty"), 400),
            (Error::Unauthenticated("no"), 401),
            (Error::Forbidden { operation: "push", role: "produce" }, 403),
            (Error::NotFound("there is no job 7".into()), 404),
            (Error::WrongState("it is done".into()), 409),
            (Error::Duplicate("it is there".into()), 409),
            (Error::PayloadTooLarge { field: "body", detail: "".into() }, 413),
            (Error::RateLimited("wait".into()), 429),
            (Error::Internal("a mistake".into()), 500),
            (Error::OutcomeUnknown("lost".into()), 500),
            (Error::Unavailable("no store".into()), 503),
            (Error::Overloaded("too much"), 503),
        ] {
            assert_eq!(status(error.clone().into()), expected, "{error:?}");
        }
        assert_eq!(status(Refused::no_job(JobId(7))), 404);
        assert_eq!(Failure::not_json().respond().status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }

    #[test]
    fn who_has_no_good_token_is_told_which_kind_is_wanted() {
        let response = Failure::from(Error::Unauthenticated("no")).respond();
        assert_eq!(response.headers()[WWW_AUTHENTICATE], "Bearer");
        let response = Failure::wrong_method([Method::GET, Method::POST].iter()).respond();
        assert_eq!(response.headers()[ALLOW], "GET, POST");
    }

    #[test]
    fn a_refusal_says_why() {
        let json = serde_json::to_string(&Bad { ok: false, error: "Job not found: 7" }).unwrap();
        assert_eq!(json, r#"{"ok":false,"error":"Job not found: 7"}"#);
    }

    #[test]
    fn an_answer_has_its_data_and_what_stands_beside_it() {
        let json = |reply| serde_json::to_string(&Good(&reply)).unwrap();
        assert_eq!(json(Fields::new()), r#"{"ok":true,"data":null}"#);
        let reply = object([("data", 3.into()), ("count", 3.into())]);
        assert_eq!(json(reply), r#"{"ok":true,"data":3,"count":3}"#);
        let reply = object([("data", shown(b"{\"z\":1.10,\"a\":1}"))]);
        assert_eq!(json(reply), r#"{"ok":true,"data":{"z":1.10,"a":1}}"#);
    }
}
