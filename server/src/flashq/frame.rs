//! Lines and frames: what of the bytes of a peer is one request, and answers as bytes.
//!
//! Nothing is allocated for what a peer only announces: a frame is bounded before it is waited for,
//! a line while it is, and a list grows with what has really come. How deep a request nests is
//! bounded too.

use batonq_protocol::ErrorCode;
use bytes::{Buf, BufMut, BytesMut};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio_util::codec::{Decoder, Encoder};

use super::fields::{LISTS, PASSED_ON, carried, carrier};
use super::{Answer, Fields, Refused};
use crate::door::check_depth;
use crate::limits;

const LENGTH_BYTES: usize = 4;

/// How a connection talks. Its first byte decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// JSON, a line each.
    Text,
    /// MessagePack, in frames.
    Binary,
}

impl Mode {
    /// By the first byte: a frame's is that of a length below 2²⁵.
    pub(super) fn of(first: u8) -> Option<Self> {
        match first {
            b'{' | b'\n' | b'\r' => Some(Self::Text),
            0 | 1 => Some(Self::Binary),
            _ => None,
        }
    }
}

/// A request as it has come.
#[derive(Debug)]
pub(super) struct Request {
    /// What it says, or why that can not be told.
    pub(super) said: Result<Fields, Malformed>,
    /// How many bytes it had.
    pub(super) bytes: usize,
}

/// A request that can not be understood.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed {
    /// As far as it can be read.
    pub(super) req_id: Option<String>,
    pub(super) refused: Refused,
}

/// Why the bytes of a peer can not be followed any further.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    /// A line or a frame is longer than it may be.
    #[error("Message too large (max {0} bytes)")]
    TooLarge(usize),
    /// The connection failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Turns bytes into requests, and answers into bytes.
#[derive(Debug)]
pub(super) struct Codec {
    mode: Mode,
    bytes_max: usize,
    /// So many bytes have been looked through for the end of the line.
    seen: usize,
}

impl Codec {
    pub(super) fn new(mode: Mode, bytes_max: usize) -> Self {
        Self { mode, bytes_max, seen: 0 }
    }

    /// Changes the limit for what follows.
    pub(super) fn set_bytes_max(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
    }

    /// Nothing follows any more: what is left of a line is a line.
    pub(super) fn end(&self, src: &mut BytesMut) {
        if self.mode == Mode::Text && !src.is_empty() {
            src.put_u8(b'\n');
        }
    }

    fn check_length(&self, length: usize) -> Result<(), FrameError> {
        match length > self.bytes_max {
            true => Err(FrameError::TooLarge(self.bytes_max)),
            false => Ok(()),
        }
    }

    fn line(&mut self, src: &mut BytesMut) -> Result<Option<BytesMut>, FrameError> {
        let Some(more) = src[self.seen..].iter().position(|byte| *byte == b'\n') else {
            self.seen = src.len();
            self.check_length(src.len())?;
            return Ok(None);
        };
        let length = std::mem::take(&mut self.seen) + more;
        self.check_length(length)?;
        let mut line = src.split_to(length + 1);
        line.truncate(length);
        if line.last() == Some(&b'\r') {
            line.truncate(length - 1);
        }
        Ok(Some(line))
    }

    fn frame(&mut self, src: &mut BytesMut) -> Result<Option<BytesMut>, FrameError> {
        let Some(head) = src.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = u32::from_be_bytes(*head) as usize;
        self.check_length(length)?;
        if src.len() < LENGTH_BYTES + length {
            return Ok(None);
        }
        src.advance(LENGTH_BYTES);
        Ok(Some(src.split_to(length)))
    }
}

impl Decoder for Codec {
    type Item = Request;
    type Error = FrameError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Request>, FrameError> {
        let found = match self.mode {
            Mode::Text => self.line(src)?,
            Mode::Binary => self.frame(src)?,
        };
        Ok(found.map(|bytes| {
            let said = match self.mode {
                Mode::Text => parse_text(&bytes),
                Mode::Binary => parse_binary(&bytes),
            };
            Request { said, bytes: bytes.len() }
        }))
    }
}

// ---------------------------------------------------------------- in

pub(super) fn parse_text(line: &[u8]) -> Result<Fields, Malformed> {
    let malformed = |req_id, refused| Malformed { req_id, refused };
    let text = str::from_utf8(line)
        .map_err(|error| malformed(None, Refused::invalid(format_args!("not UTF-8: {error}"))))?;
    let req_id = || {
        let mut req_id = None;
        // What can not be parsed has shown what it has.
        ReqId(&mut req_id).deserialize(&mut serde_json::Deserializer::from_str(text)).ok();
        req_id
    };
    check_depth("request", text).map_err(|error| malformed(req_id(), error.into()))?;
    let mut json = serde_json::Deserializer::from_str(text);
    let parsed = Parsed::deserialize(&mut json).and_then(|parsed| json.end().map(|()| parsed.0));
    parsed.map_err(|error| malformed(req_id(), Refused::invalid(error)))
}

fn parse_binary(frame: &[u8]) -> Result<Fields, Malformed> {
    let reader = || {
        let mut reader = rmp_serde::Deserializer::from_read_ref(frame);
        // The one at which it stops is not allowed any more.
        reader.set_max_depth(limits::JSON_DEPTH_MAX + 1);
        reader
    };
    let error = match Value::deserialize(&mut reader()) {
        Ok(Value::Object(mut fields)) => {
            pass_on(&mut fields);
            return Ok(fields);
        }
        Ok(_) => "it is no map".to_owned(),
        Err(error) => error.to_string(),
    };
    let mut req_id = None;
    // What can not be parsed has shown what it has.
    ReqId(&mut req_id).deserialize(&mut reader()).ok();
    let text = format!("Invalid: MessagePack deserialize error: {error}");
    Err(Malformed { req_id, refused: Refused(text, ErrorCode::Invalid) })
}

/// Keeps the fields that are passed on as their text.
fn pass_on(fields: &mut Fields) {
    for (name, value) in fields.iter_mut() {
        if PASSED_ON.contains(&name.as_str()) {
            *value = carrier(value.to_string());
        } else if LISTS.contains(&name.as_str())
            && let Value::Array(items) = value
        {
            items.iter_mut().filter_map(Value::as_object_mut).for_each(pass_on);
        }
    }
}

/// A JSON object whose fields that are passed on are kept as they are written.
struct Parsed(Fields);

impl<'de> Deserialize<'de> for Parsed {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(ParsedVisitor)
    }
}

struct ParsedVisitor;

impl<'de> Visitor<'de> for ParsedVisitor {
    type Value = Parsed;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parsed, A::Error> {
        let mut fields = Fields::new();
        while let Some(name) = map.next_key::<String>()? {
            let value = if PASSED_ON.contains(&name.as_str()) {
                carrier(map.next_value::<&'de RawValue>()?.get().to_owned())
            } else if LISTS.contains(&name.as_str()) {
                let items: Option<Vec<Parsed>> = map.next_value()?;
                let object = |item: Parsed| Value::Object(item.0);
                items.map_or(Value::Null, |items| items.into_iter().map(object).collect())
            } else {
                map.next_value()?
            };
            fields.insert(name, value);
        }
        Ok(Parsed(fields))
    }
}

/// Reads the `reqId` of a map, and nothing else; also of one that can not be read to its end.
struct ReqId<'a>(&'a mut Option<String>);

impl<'de> DeserializeSeed<'de> for ReqId<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ReqId<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            if name == "reqId" {
                *self.0 = map.next_value::<Option<String>>()?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

// ---------------------------------------------------------------- out

/// The answer to a request.
#[derive(Debug)]
pub(super) struct Reply<'a> {
    pub(super) req_id: Option<&'a str>,
    pub(super) answer: &'a Answer,
}

impl Encoder<Reply<'_>> for Codec {
    type Error = FrameError;

    fn encode(&mut self, reply: Reply<'_>, out: &mut BytesMut) -> Result<(), FrameError> {
        self.write_whole(&reply, out)
    }
}

/// Something that has happened, for who has subscribed to it. It answers no request.
#[derive(Debug, Serialize)]
pub(super) struct Happened<'a> {
    pub(super) event: Shown<'a>,
}

impl Encoder<Happened<'_>> for Codec {
    type Error = FrameError;

    fn encode(&mut self, happened: Happened<'_>, out: &mut BytesMut) -> Result<(), FrameError> {
        self.write_whole(&happened, out)
    }
}

impl Codec {
    /// Writes all of it or nothing.
    fn write_whole(&self, said: &impl Serialize, out: &mut BytesMut) -> Result<(), FrameError> {
        let start = out.len();
        let written = self.write(said, out);
        if written.is_err() || out.len() - start > limits::FLASHQ_FRAME_BYTES_MAX {
            out.truncate(start);
            return Err(FrameError::TooLarge(limits::FLASHQ_FRAME_BYTES_MAX));
        }
        Ok(())
    }

    fn write(&self, said: &impl Serialize, out: &mut BytesMut) -> Result<(), std::io::Error> {
        let start = out.len();
        match self.mode {
            Mode::Text => {
                serde_json::to_writer((&mut *out).writer(), said)?;
                out.put_u8(b'\n');
            }
            Mode::Binary => {
                out.put_u32(0);
                let written = rmp_serde::encode::write_named(&mut (&mut *out).writer(), said);
                written.map_err(std::io::Error::other)?;
                let length = out.len() - start - LENGTH_BYTES;
                let length = u32::try_from(length).map_err(std::io::Error::other)?;
                out[start..start + LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
            }
        }
        Ok(())
    }
}

impl Serialize for Reply<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let count = self.answer.as_ref().map_or(1, Fields::len);
        let head = 2 + usize::from(self.req_id.is_some());
        let mut map = to.serialize_map(Some(head + count))?;
        if let Some(req_id) = self.req_id {
            map.serialize_entry("reqId", req_id)?;
        }
        map.serialize_entry("ok", &self.answer.is_ok())?;
        // Some clients look for the one, some for the other.
        map.serialize_entry("success", &self.answer.is_ok())?;
        match self.answer {
            Ok(fields) => {
                for (name, value) in fields {
                    map.serialize_entry(name, &Shown(value))?;
                }
            }
            Err(refused) => map.serialize_entry("error", &refused.0)?,
        }
        map.end()
    }
}

/// A value, with the JSON that it passes on in its place.
#[derive(Debug)]
pub(super) struct Shown<'a>(pub(super) &'a Value);

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if let Some(text) = carried(self.0) {
            return passed_on(text, to);
        }
        match self.0 {
            Value::Object(fields) => {
                let mut map = to.serialize_map(Some(fields.len()))?;
                for (name, value) in fields {
                    map.serialize_entry(name, &Shown(value))?;
                }
                map.end()
            }
            Value::Array(items) => {
                let mut list = to.serialize_seq(Some(items.len()))?;
                for item in items {
                    list.serialize_element(&Shown(item))?;
                }
                list.end()
            }
            value => value.serialize(to),
        }
    }
}

/// What is no JSON is a text.
fn passed_on<S: Serializer>(text: &str, to: S) -> Result<S::Ok, S::Error> {
    if !to.is_human_readable() {
        return match serde_json::from_str::<Value>(text) {
            Ok(value) => value.serialize(to),
            Err(_) => to.serialize_str(text),
        };
    }
    if !text.contains(['\n', '\r']) {
        return match serde_json::from_str::<&RawValue>(text) {
            Ok(raw) => raw.serialize(to),
            Err(_) => to.serialize_str(text),
        };
    }
    // Within its strings there are none: those are between its parts, and would end the line.
    match RawValue::from_string(text.replace(['\n', '\r'], " ")) {
        Ok(raw) => raw.serialize(to),
        Err(_) => to.serialize_str(text),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fields::{json, shown, value};
    use super::*;

    fn codec(mode: Mode) -> Codec {
        Codec::new(mode, 100)
    }

    /// All that can be read of these bytes.
    fn read(mode: Mode, bytes: &[u8]) -> Vec<Request> {
        let mut src = BytesMut::from(bytes);
        std::iter::from_fn(|| codec(mode).decode(&mut src).unwrap()).collect()
    }

    fn frame(bytes: &[u8]) -> Vec<u8> {
        let mut frame = u32::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
        frame.extend_from_slice(bytes);
        frame
    }

    fn malformed(request: Request) -> (Option<String>, String) {
        let malformed = request.said.unwrap_err();
        (malformed.req_id, malformed.refused.0)
    }

    #[test]
    fn the_first_byte_tells_how_a_connection_talks() {
        for first in *b"{\n\r" {
            assert_eq!(Mode::of(first), Some(Mode::Text));
        }
        assert_eq!([0, 1].map(Mode::of), [Some(Mode::Binary); 2]);
        for first in [2, b'B', b'G', b'[', b' ', 0x16, 0xff] {
            assert_eq!(Mode::of(first), None);
        }
    }

    #[test]
    fn lines_end_in_one_way_or_the_other_and_may_come_in_parts() {
        let text = b"{\"cmd\":\"A\"}\n{\"cmd\":\"B\"}\r\n{\"cmd\":\"C\"}";
        let mut codec = codec(Mode::Text);
        let (mut src, mut found) = (BytesMut::new(), Vec::new());
        for byte in text {
            src.put_u8(*byte);
            found.extend(codec.decode(&mut src).unwrap());
        }
        codec.end(&mut src);
        found.extend(codec.decode(&mut src).unwrap());
        let commands: Vec<Value> =
            found.into_iter().map(|request| request.said.unwrap()["cmd"].clone()).collect();
        assert_eq!(commands, ["A", "B", "C"]);
    }

    #[test]
    fn what_is_too_long_is_refused_before_it_has_come() {
        let too_large = |mode, bytes: &[u8]| {
            matches!(codec(mode).decode(&mut BytesMut::from(bytes)), Err(FrameError::TooLarge(100)))
        };
        assert!(too_large(Mode::Text, &[b' '; 101]));
        assert!(too_large(Mode::Text, &[[b' '; 101].as_slice(), b"\n"].concat()));
        assert!(!too_large(Mode::Text, &[[b' '; 100].as_slice(), b"\n"].concat()));
        assert!(too_large(Mode::Binary, &[0, 0, 0, 101]));
        assert!(!too_large(Mode::Binary, &[0, 0, 0, 100]));
    }

    #[test]
    fn an_error_has_the_id_of_its_request_where_that_can_be_read() {
        let deep = format!("{{\"a\":{},\"reqId\":\"9\"}}", "[".repeat(3000) + &"]".repeat(3000));
        for (line, id) in [
            ("{\"reqId\":\"7\",\"cmd\":", Some("7")),
            ("{\"jobs\":7,\"reqId\":\"8\"}", Some("8")),
            (deep.as_str(), Some("9")),
            ("{\"reqId\":7,\"x\"}", None),
            ("[]", None),
            ("", None),
        ] {
            let malformed = parse_text(line.as_bytes()).unwrap_err();
            assert_eq!(malformed.req_id.as_deref(), id, "{malformed:?}");
            assert!(malformed.refused.0.starts_with("Invalid: "), "{malformed:?}");
        }
        assert!(parse_text(b"{\"a\":\"\xff\"}").is_err());
        // {"a": <three bytes>, "reqId": "5"}
        let bytes = b"\x82\xa1a\xc4\x03xyz\xa5reqId\xa15";
        let (id, text) = malformed(read(Mode::Binary, &frame(bytes)).remove(0));
        assert_eq!(id.as_deref(), Some("5"));
        assert!(text.contains("MessagePack deserialize error: "), "{text}");
    }

    #[test]
    fn a_binary_list_that_claims_to_be_huge_is_refused() {
        for bytes in [
            &b"\xdf\xff\xff\xff\xff"[..],
            b"\x81\xa4jobs\xdd\xff\xff\xff\xff",
            b"\x81\xa3cmd\xdb\xff\xff\xff\xff",
            b"\x81\xa3cmd\xc6\xff\xff\xff\xff",
            b"\xc0",
            b"",
        ] {
            assert!(parse_binary(bytes).is_err(), "{bytes:?}");
        }
        let nested = |levels| [&b"\x81\xa1a"[..], &vec![0x91; levels][..], b"\xc0"].concat();
        assert!(parse_binary(&nested(limits::JSON_DEPTH_MAX - 1)).is_ok());
        assert!(parse_binary(&nested(limits::JSON_DEPTH_MAX)).is_err());
        assert!(parse_binary(&nested(60_000)).is_err());
    }

    #[test]
    fn payloads_are_passed_on_as_they_were_written() {
        let data = "{\"z\": 123456789012345678901234567890, \"a\": 1.10}";
        let line = format!("{{\"cmd\":\"PUSHB\",\"jobs\":[{{\"data\":{data},\"priority\":3}}]}}");
        let fields = parse_text(line.as_bytes()).unwrap();
        let job = fields["jobs"][0].as_object().unwrap();
        assert_eq!(job["priority"], 3);
        let bytes = json(value(job, "data").unwrap());
        assert_eq!(bytes, data);

        let answer = Ok(Fields::from_iter([("data".to_owned(), shown(&bytes))]));
        let mut out = BytesMut::new();
        codec(Mode::Text).encode(Reply { req_id: Some("7"), answer: &answer }, &mut out).unwrap();
        let wanted = format!("{{\"reqId\":\"7\",\"ok\":true,\"success\":true,\"data\":{data}}}\n");
        assert_eq!(str::from_utf8(&out).unwrap(), wanted);
    }

    #[test]
    fn a_payload_with_line_ends_stays_in_its_line_and_one_that_is_no_json_is_a_text() {
        let line = |bytes: &[u8]| {
            let answer = Ok(Fields::from_iter([("data".to_owned(), shown(bytes))]));
            let mut out = BytesMut::new();
            codec(Mode::Text).encode(Reply { req_id: None, answer: &answer }, &mut out).unwrap();
            let text = str::from_utf8(&out).unwrap();
            assert_eq!(text.matches('\n').count(), 1);
            serde_json::from_str::<Value>(text).unwrap()["data"].clone()
        };
        assert_eq!(line(b"{\r\n \"a\": \"x\\ny\"\n}"), serde_json::json!({"a": "x\ny"}));
        assert_eq!(line(b"plain\ntext"), "plain\ntext");
        assert_eq!(line(b""), "");
    }

    #[test]
    fn an_answer_in_a_frame_is_a_map_with_names() {
        let answer = Ok(Fields::from_iter([
            ("id".to_owned(), 7.into()),
            ("data".to_owned(), shown(b"{\"a\":[1,\"x\"]}")),
        ]));
        let mut out = BytesMut::new();
        codec(Mode::Binary).encode(Reply { req_id: Some("q"), answer: &answer }, &mut out).unwrap();
        let length = u32::from_be_bytes(*out.first_chunk().unwrap()) as usize;
        assert_eq!(length, out.len() - LENGTH_BYTES);
        let value: Value = rmp_serde::from_slice(&out[LENGTH_BYTES..]).unwrap();
        let wanted = serde_json::json!(
            {"reqId": "q", "ok": true, "success": true, "id": 7, "data": {"a": [1, "x"]}}
        );
        assert_eq!(value, wanted);
    }

    #[test]
    fn what_has_happened_stands_alone() {
        let event = serde_json::json!({"event_type": "pushed", "data": {"\0json": "[1, 2]"}});
        let mut out = BytesMut::new();
        let happened = || Happened { event: Shown(&event) };
        codec(Mode::Text).encode(happened(), &mut out).unwrap();
        let wanted = "{\"event\":{\"data\":[1, 2],\"event_type\":\"pushed\"}}\n";
        assert_eq!(str::from_utf8(&out).unwrap(), wanted);

        out.clear();
        codec(Mode::Binary).encode(happened(), &mut out).unwrap();
        let value: Value = rmp_serde::from_slice(&out[LENGTH_BYTES..]).unwrap();
        let wanted = serde_json::json!({"event": {"event_type": "pushed", "data": [1, 2]}});
        assert_eq!(value, wanted);
    }

    #[test]
    fn a_refusal_says_so_in_both_words() {
        let answer = Err(Refused::no_job(crate::job::JobId(7)));
        let mut out = BytesMut::new();
        codec(Mode::Text).encode(Reply { req_id: None, answer: &answer }, &mut out).unwrap();
        let wanted = "{\"ok\":false,\"success\":false,\"error\":\"Job not found: 7\"}\n";
        assert_eq!(str::from_utf8(&out).unwrap(), wanted);
    }
}
