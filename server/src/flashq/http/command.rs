//! `POST /api/command`: a command as over TCP, and its reply.
//!
//! Also a refusal has the status 200, since the reply says it; but not that of a token or of a role.

use std::net::SocketAddr;

use batonq_protocol::ErrorCode;
use hyper::body::{Body as _, Incoming};
use hyper::header::WWW_AUTHENTICATE;
use hyper::{Request, Response, StatusCode};
use serde_json::Value;

use super::super::command::Command;
use super::super::frame::{Malformed, Reply, parse_text};
use super::super::{Answer, Fields, Refused, fields};
use super::answer::{BEARER, Failure, json_of, status_of};
use super::asked::Caller;
use super::{Front, body, headers};
use crate::access::Principal;
use crate::http::live::Body;
use crate::limits;

/// Serves the command in a body.
pub(super) async fn serve(
    front: &Front,
    request: Request<Incoming>,
    from: SocketAddr,
) -> Result<Response<Body>, Failure> {
    let (head, body) = request.into_parts();
    let shown = front.door().access.authenticate(headers::token(&head.headers));
    // A client may have its first token looked at, and needs not much room for that.
    let is_small = |max: u64| body.size_hint().upper().is_some_and(|upper| upper <= max);
    if shown.is_err() && !is_small(limits::FRAME_BYTES_MAX_UNAUTHENTICATED as u64) {
        return Err(unknown().into());
    }
    if !headers::is_json(&head.headers) {
        return Err(Failure::not_json());
    }
    let body = body::read(body).await?;
    let (req_id, answer) = match read(&body) {
        Ok((req_id, fields)) => {
            let answer = ask(front, shown.ok(), from, (req_id.as_deref(), fields)).await;
            (req_id, answer)
        }
        Err(Malformed { req_id, refused }) => (req_id, Err(refused)),
    };
    let reply = Reply { req_id: req_id.as_deref(), answer: &answer };
    let mut response = json_of(StatusCode::OK, &reply)?;
    if let Err(Refused(_, code @ (ErrorCode::Unauthenticated | ErrorCode::Forbidden))) = answer {
        *response.status_mut() = status_of(code);
        if code == ErrorCode::Unauthenticated {
            response.headers_mut().insert(WWW_AUTHENTICATE, BEARER);
        }
    }
    Ok(response)
}

/// Nobody has shown who asks.
pub(super) fn unknown() -> Refused {
    Refused("Authentication required".into(), ErrorCode::Unauthenticated)
}

fn read(body: &[u8]) -> Result<(Option<String>, Fields), Malformed> {
    let mut fields = parse_text(body)?;
    match fields.remove("reqId") {
        None | Some(Value::Null) => Ok((None, fields)),
        Some(Value::String(req_id)) => Ok((Some(req_id), fields)),
        Some(_) => {
            let refused = Refused::invalid("reqId: invalid type: expected a string");
            Err(Malformed { req_id: None, refused })
        }
    }
}

async fn ask(
    front: &Front,
    shown: Option<Principal>,
    from: SocketAddr,
    (req_id, fields): (Option<&str>, Fields),
) -> Answer {
    let name = fields::text(&fields, "cmd")?;
    if name == "AUTH" {
        front.door().access.authenticate(Some(fields::text(&fields, "token")?))?;
        return Ok(Fields::new());
    }
    let Some(principal) = shown else {
        return Err(unknown());
    };
    let command = Command::find(name)
        .ok_or_else(|| Refused::invalid(format_args!("unknown variant `{name}`")))?;
    principal.check(command.operation)?;
    let caller = Caller::new(Some(principal), from)?;
    front.serve_command(command, front.client(&caller, req_id), fields).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_read_as_over_tcp() {
        let (req_id, fields) = read(br#"{"cmd":"ACK","reqId":"7","id":1}"#).unwrap();
        assert_eq!(req_id.as_deref(), Some("7"));
        assert_eq!(fields["cmd"], "ACK");
        assert!(!fields.contains_key("reqId"));
        for bad in [&b"{"[..], b"[]", b"", br#"{"cmd":"ACK","reqId":7}"#] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }
}
