//! The handshake of WebSockets (RFC 6455): whether a request is one, and the answer.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::header::{
    CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::{Response, StatusCode};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use serde_json::json;

use crate::error::Error;
use crate::flashq::Refused;
use crate::http::live::{self, Body};

/// What a key is answered with is made of it and this (RFC 6455).
const ACCEPT_SALT: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The version of the protocol: there is one.
const VERSION: &str = "13";

/// How many bytes a key has.
const KEY_BYTES: usize = 16;

/// Why a request does not become a socket.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    detail: String,
}

impl Refusal {
    fn new(status: StatusCode, detail: &str) -> Self {
        Self { status, detail: detail.into() }
    }

    /// As an answer.
    pub(super) fn respond(self) -> Response<Body> {
        let body = json!({ "ok": false, "error": self.detail }).to_string();
        let mut response = Response::new(live::whole(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if self.status == StatusCode::UPGRADE_REQUIRED {
            announce(headers);
            headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static(VERSION));
        }
        response
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let status = StatusCode::from_u16(error.code().meaning().http_status);
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, detail: Refused::from(error).0 }
    }
}

/// What the key of a request is answered with.
///
/// # Errors
///
/// If it is no handshake.
pub(super) fn accept_of(headers: &HeaderMap) -> Result<HeaderValue, Refusal> {
    let is_handshake = has(headers, &CONNECTION, "upgrade")
        && has(headers, &UPGRADE, "websocket")
        && has(headers, &SEC_WEBSOCKET_VERSION, VERSION);
    if !is_handshake {
        let detail = "Invalid: this is for WebSockets, of version 13, only";
        return Err(Refusal::new(StatusCode::UPGRADE_REQUIRED, detail));
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes);
    let is_key = |key: &&[u8]| STANDARD.decode(key).is_ok_and(|decoded| decoded.len() == KEY_BYTES);
    let invalid = || {
        Refusal::new(
            StatusCode::BAD_REQUEST,
            "Invalid: sec-websocket-key: must be 16 bytes in base64",
        )
    };
    let key = key.filter(is_key).ok_or_else(invalid)?;
    let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, ACCEPT_SALT.as_bytes()].concat());
    HeaderValue::from_str(&STANDARD.encode(digest)).map_err(|_| invalid())
}

/// Whether a list in the head of a request has a word.
fn has(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let lists = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).any(|item| item.trim().eq_ignore_ascii_case(word))
}

/// The answer to a good handshake.
pub(super) fn agree(accept: HeaderValue) -> Response<Body> {
    let mut response = Response::new(live::whole(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    announce(headers);
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    response
}

fn announce(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), value.parse().unwrap())
        };
        fields.iter().map(field).collect()
    }

    #[test]
    fn a_key_is_answered_as_the_standard_says() {
        let asked = headers(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ]);
        assert_eq!(accept_of(&asked).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn what_is_no_handshake_is_refused() {
        let good = [
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        for (name, value, status) in [
            ("connection", "close", 426),
            ("upgrade", "h2c", 426),
            ("sec-websocket-version", "8", 426),
            ("sec-websocket-key", "dGhlIHNhbXBsZQ==", 400),
            ("sec-websocket-key", "not base64, at all", 400),
            ("sec-websocket-key", "", 400),
        ] {
            let mut asked = headers(&good);
            asked.insert(name, value.parse().unwrap());
            assert_eq!(accept_of(&asked).unwrap_err().status, status, "{name}: {value}");
        }
        assert_eq!(accept_of(&HeaderMap::new()).unwrap_err().status, 426);
    }
}
