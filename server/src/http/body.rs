//! Bodies: read within their limits, then parsed.

use std::borrow::Cow;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body;
use serde::de::DeserializeOwned;

use crate::door::check_depth;
use crate::error::Error;
use crate::limits;

/// How much of too large a body is read and forgotten, and for how long.
const DISCARD_BYTES_MAX: usize = 4 * limits::BODY_BYTES_MAX;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(1);

/// Reads a whole body.
///
/// # Errors
///
/// [`Error::PayloadTooLarge`], or [`Error::Invalid`] if it does not come in time or not whole.
pub(crate) async fn read<B>(mut body: B) -> Result<Bytes, Error>
where
    B: Body<Data = Bytes, Error: std::fmt::Display> + Unpin,
{
    let gathered = tokio::time::timeout(limits::BODY_TIMEOUT, gather(&mut body)).await;
    let gathered = gathered.unwrap_or_else(|_| Err(Error::invalid("body", "did not come in time")));
    if let Err(Error::PayloadTooLarge { .. }) = &gathered {
        // A client that is still sending would not see the answer if the connection were closed.
        let discarded = tokio::time::timeout(DISCARD_TIMEOUT, discard(&mut body)).await;
        tracing::debug!(is_whole = discarded.is_ok(), "too large a body was discarded");
    }
    gathered
}

async fn gather<B>(body: &mut B) -> Result<Bytes, Error>
where
    B: Body<Data = Bytes, Error: std::fmt::Display> + Unpin,
{
    if body.size_hint().lower() > limits::BODY_BYTES_MAX as u64 {
        return Err(too_large());
    }
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let broken = |error| Error::invalid("body", format!("could not be read: {error}"));
        let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
        if bytes.len() + data.len() > limits::BODY_BYTES_MAX {
            return Err(too_large());
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.freeze())
}

/// Reads on without keeping anything, up to a bound.
async fn discard<B: Body<Data = Bytes> + Unpin>(body: &mut B) {
    let mut left = DISCARD_BYTES_MAX;
    while left > 0
        && let Some(Ok(frame)) = body.frame().await
    {
        left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
    }
}

fn too_large() -> Error {
    let detail = format!("the body has more than {} bytes", limits::BODY_BYTES_MAX);
    Error::PayloadTooLarge { field: "body", detail }
}

/// Parses a body; an empty one is an empty object.
///
/// # Errors
///
/// [`Error::Invalid`] that names the field.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    let text = match body {
        [] => "{}",
        body => str::from_utf8(body).map_err(|_| Error::invalid("body", "is not UTF-8"))?,
    };
    check_depth("body", text)?;
    // An array would be taken for the fields in their order.
    if !text.trim_start().starts_with('{') {
        return Err(Error::invalid("body", "must be a JSON object"));
    }
    let mut json = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        invalid(&path, error.inner())
    })?;
    json.end().map_err(|error| invalid("", &error))?;
    Ok(value)
}

/// Says which field is wrong. An unknown or missing one is named in the message only.
fn invalid(path: &str, error: &serde_json::Error) -> Error {
    let message = error.to_string();
    let named =
        ["unknown field `", "missing field `", "duplicate field `"].iter().find_map(|start| {
            let rest = message.strip_prefix(start)?;
            rest.split('`').next()
        });
    let path = path.trim_matches(|letter| letter == '.' || letter == '?');
    let field = match (named, path) {
        (None, "") => "body".to_owned(),
        (None, path) => path.to_owned(),
        (Some(name), path) if path == name || path.ends_with(&format!(".{name}")) => path.into(),
        (Some(name), "") => name.to_owned(),
        (Some(name), path) => format!("{path}.{name}"),
    };
    Error::invalid(Cow::Owned(field), message)
}

/// Parses bytes as each kind of body there is. For fuzzing: it must not panic or take long.
pub fn fuzz(body: &[u8]) {
    use super::model;
    // What comes out does not matter.
    let queue = crate::job::QueueName::parse("fuzz").expect("it is a name");
    let job = parse::<model::push::NewJobBody>(body);
    job.and_then(|job| job.into_job(queue)).ok();
    parse::<model::push::BatchBody>(body).ok();
    parse::<model::lease::PullBody>(body).ok();
    parse::<model::lease::AckBody>(body).ok();
    parse::<model::lease::FailBody>(body).ok();
    parse::<model::lease::AcksBody>(body).ok();
    parse::<model::lease::ExtendBody>(body).ok();
    parse::<model::lease::ProgressBody>(body).ok();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::model::push::NewJobBody;

    fn queue() -> crate::job::QueueName {
        crate::job::QueueName::parse("q").unwrap()
    }

    fn field(body: &str) -> String {
        match parse::<NewJobBody>(body.as_bytes()).and_then(|job| job.into_job(queue())) {
            Err(error) => error.field().unwrap_or_default().to_owned(),
            Ok(_) => "OK".into(),
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (body, wrong) in [
            (r#"{"payload":1}"#, "OK"),
            (r#"{"payload":null}"#, "OK"),
            (r#"{"payload":1,"priority":-7,"tags":["a"]}"#, "OK"),
            ("{}", "payload"),
            ("", "payload"),
            ("[]", "body"),
            ("{", "body"),
            (r#"{"payload":1} x"#, "body"),
            (r#"{"payload":1,"prio":2}"#, "prio"),
            (r#"{"payload":1,"priority":"x"}"#, "priority"),
            (r#"{"payload":1,"priority":99999999999}"#, "priority"),
            (r#"{"payload":1,"delay_ms":-1}"#, "delay_ms"),
            (r#"{"payload":1,"delay_ms":1e99}"#, "delay_ms"),
            (r#"{"payload":1,"delay_ms":1.5}"#, "delay_ms"),
            (r#"{"payload":1,"delay_ms":1,"run_at":"2030-01-01T00:00:00Z"}"#, "run_at"),
            (r#"{"payload":1,"run_at":"tomorrow"}"#, "run_at"),
            (r#"{"payload":1,"payload_base64":"AA=="}"#, "payload_base64"),
            (r#"{"payload_base64":"§"}"#, "payload_base64"),
            (r#"{"payload":1,"unique":{"kee":"x"}}"#, "unique.kee"),
            (r#"{"payload":1,"unique":{"key":""}}"#, "unique.key"),
            (r#"{"payload":1,"backoff":{"type":"list","delays_ms":[]}}"#, "backoff.delays_ms"),
            (r#"{"payload":1,"tags":[1]}"#, "tags[0]"),
        ] {
            assert_eq!(field(body), wrong, "{body}");
        }
    }

    #[test]
    fn a_hundred_levels_are_deep_enough() {
        let nested =
            |levels: usize| format!("{{\"payload\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
        assert_eq!(field(&nested(98)), "OK");
        assert_eq!(field(&nested(99)), "OK");
        assert_eq!(field(&nested(100)), "body");
        assert_eq!(field(&nested(100_000)), "body");
        let braces_in_a_text = format!("{{\"payload\":\"\\\"{}\"}}", "[".repeat(200));
        assert_eq!(field(&braces_in_a_text), "OK");
    }

    #[test]
    fn a_body_that_is_no_text_is_refused() {
        let refused = parse::<NewJobBody>(b"{\"payload\":\"\xff\"}").unwrap_err();
        assert_eq!(refused.field(), Some("body"));
    }
}
