//! Errors as problems (RFC 9457).

use std::time::Duration;

use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::live::{self, Body};
use crate::error::Error;

/// What an answer says that is none.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Problem {
    /// Always `about:blank`: `code` says what it is.
    r#type: &'static str,
    /// The code in words.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// What is wrong with this request, for people.
    detail: String,
    /// What to branch on.
    code: &'static str,
    /// Whether nothing was done and the same request may succeed later.
    retryable: bool,
    /// The field to blame.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
}

impl Problem {
    pub(super) fn new(error: &Error) -> Self {
        let meaning = error.code().meaning();
        Self {
            r#type: "about:blank",
            title: meaning.title,
            status: meaning.http_status,
            detail: error.to_string(),
            code: meaning.name,
            retryable: meaning.retryable,
            field: error.field().map(Into::into),
        }
    }

    /// With another status than the code's own.
    pub(super) fn with_status(self, status: StatusCode) -> Self {
        Self { status: status.as_u16(), ..self }
    }

    pub(super) fn respond(&self) -> Response<Body> {
        let body = serde_json::to_vec(self).unwrap_or_default();
        let mut response = Response::new(live::whole(body));
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.retryable {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// Clients that are being turned away at the same time; more are dropped without a word.
static TURNING_AWAY: Semaphore = Semaphore::const_new(100);

/// How long a client that is turned away may take to leave.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// Tells a client that there is no room for it.
pub(super) async fn turn_away(mut stream: TcpStream) {
    let Ok(_place) = TURNING_AWAY.try_acquire() else { return };
    let problem = Problem::new(&Error::Overloaded("too many connections: try again later"));
    let body = serde_json::to_string(&problem).unwrap_or_default();
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\n\
         content-length: {}\r\nretry-after: 1\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let told = async {
        // Clients take an answer to what they have not asked yet for a broken connection.
        stream.peek(&mut [0]).await?;
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        // What has been sent and is not read would make the answer be lost with a reset.
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
    };
    if !matches!(tokio::time::timeout(LEAVE_TIMEOUT, told).await, Ok(Ok(_))) {
        tracing::debug!("a client did not read that there is no room");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_been_done_is_never_a_503() {
        for error in [Error::OutcomeUnknown("".into()), Error::Internal("".into())] {
            let response = Problem::new(&error).respond();
            assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR, "{error:?}");
            assert_eq!(response.headers().get(RETRY_AFTER), None, "{error:?}");
        }
    }
}
