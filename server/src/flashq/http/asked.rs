//! What a request says, beside its body: who asks, the names in its path, and its query.

use std::net::SocketAddr;

use hyper::Method;
use hyper::header::{HeaderMap, ORIGIN};
use percent_encoding::percent_decode_str;

use super::super::Refused;
use super::WORKER;
use crate::access::Principal;
use crate::http::headers;
use crate::job::{WorkerName, cut};
use crate::limits;

/// Who asks.
pub(super) struct Caller {
    pub(super) worker: WorkerName,
    /// Who it is, in words.
    pub(super) who: String,
}

impl Caller {
    /// # Errors
    ///
    /// None that is expected: an address is a name.
    pub(super) fn new(principal: Option<Principal>, from: SocketAddr) -> Result<Self, Refused> {
        let who = principal.map_or_else(|| "anyone".into(), Principal::name);
        let name = format!("{WORKER}{from}");
        let worker = WorkerName::parse(&cut(&name, limits::WORKER_NAME_BYTES_MAX))?;
        Ok(Self { worker, who: format!("{who} ({from})") })
    }

    /// The node itself, which only looks.
    ///
    /// # Errors
    ///
    /// None that is expected.
    pub(super) fn own() -> Result<Self, Refused> {
        Ok(Self { worker: WorkerName::parse("batonq")?, who: "batonq".into() })
    }
}

/// The names in a path, with what stands for them.
///
/// # Errors
///
/// [`Refused`] if one is not UTF-8.
pub(super) fn names<'a>(
    found: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<Vec<(String, String)>, Refused> {
    let decode = |(name, value): (&str, &str)| {
        let decoded = percent_decode_str(value).decode_utf8();
        let decoded =
            decoded.map_err(|_| Refused::invalid(format_args!("{name}: it is not UTF-8")))?;
        Ok((name.to_owned(), decoded.into_owned()))
    };
    found.map(decode).collect()
}

/// What stands for a name in a path.
pub(super) fn named<'a>(names: &'a [(String, String)], name: &str) -> &'a str {
    names.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
}

/// A parameter of a query: the first of its name. Others are nobody's business.
pub(super) fn parameter(query: &str, name: &str) -> Option<String> {
    let mut parameters = form_urlencoded::parse(query.as_bytes());
    let found = parameters.find(|(known, _)| known == name).map(|(_, value)| value.into_owned());
    found.filter(|value| !value.is_empty())
}

/// Whether flashQ's SDK or its MCP server asks, which want some answers in another shape than its
/// dashboard and people do. They say of each request that it is JSON; a browser says where the page
/// is from.
pub(super) fn is_sdk(method: &Method, headers: &HeaderMap) -> bool {
    *method == Method::GET && headers::is_json(headers) && !headers.contains_key(ORIGIN)
}

/// Whether a list of jobs is wanted without an object around it. The MCP server looks through one
/// for a custom id, and has only this question for it.
pub(super) fn is_bare(method: &Method, headers: &HeaderMap, query: &str) -> bool {
    !is_sdk(method, headers) || query == "limit=1000"
}

#[cfg(test)]
mod tests {
    use hyper::header::{CONTENT_TYPE, HeaderValue};

    use super::*;

    #[test]
    fn who_asks_is_told_by_the_head_of_the_request() {
        let json = (CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let page = (ORIGIN, HeaderValue::from_static("https://a.example"));
        let none = HeaderMap::new();
        let sdk = HeaderMap::from_iter([json.clone()]);
        let dashboard = HeaderMap::from_iter([json, page]);
        for (method, headers, query, sdk, bare) in [
            (Method::GET, &sdk, "", true, false),
            (Method::GET, &sdk, "limit=1000", true, true),
            (Method::GET, &sdk, "limit=1000&offset=1", true, false),
            (Method::GET, &dashboard, "", false, true),
            (Method::GET, &none, "", false, true),
            (Method::POST, &sdk, "", false, true),
        ] {
            assert_eq!(is_sdk(&method, headers), sdk, "{method} {headers:?}");
            assert_eq!(is_bare(&method, headers, query), bare, "{method} {headers:?} {query}");
        }
    }

    #[test]
    fn names_and_parameters_are_decoded() {
        let names = names([("queue", "a%3Ab"), ("id", "7")].into_iter()).unwrap();
        assert_eq!((named(&names, "queue"), named(&names, "id")), ("a:b", "7"));
        assert!(super::names([("queue", "%ff")].into_iter()).is_err());
        assert_eq!(parameter("a=1&token=x%20y&token=z", "token").as_deref(), Some("x y"));
        assert_eq!(parameter("token=", "token"), None);
    }
}
