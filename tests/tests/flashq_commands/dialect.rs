//! How each client says things.

use batonq_tests::harness::flashq::Mode;
use serde_json::{Value, json};

/// A client of flashQ, in version 0.4.0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    Rust,
    TypeScript,
    Python,
    Go,
}

/// What the TypeScript client names in every push, whether it has a value or not.
const PUSHED: &[&str] = &[
    "delay",
    "ttl",
    "timeout",
    "max_attempts",
    "backoff",
    "unique_key",
    "depends_on",
    "tags",
    "stall_timeout",
    "debounce_id",
    "debounce_ttl",
    "job_id",
    "keep_completed_age",
    "keep_completed_count",
    "group_id",
];

/// And in other requests.
const NAMED: &[(&str, &[&str])] = &[
    ("PUSH", PUSHED),
    ("ACK", &["result"]),
    ("FAIL", &["error"]),
    ("PROGRESS", &["message"]),
    ("PARTIAL", &["index"]),
    ("RETRYDLQ", &["id"]),
    ("CLEAN", &["limit"]),
    ("GETJOBS", &["queue", "state"]),
    ("CRON", &["data", "schedule", "repeat_every", "limit"]),
];

impl Dialect {
    /// The mark of the request in this place of a conversation.
    pub(crate) fn req_id(self, place: usize) -> Value {
        match self {
            Self::Rust | Self::Python => place.to_string().into(),
            Self::TypeScript => format!("m8q2zk1c-k3xf-{place}").into(),
            Self::Go => Value::Null,
        }
    }

    /// A request as this client sends it.
    pub(crate) fn request(self, mode: Mode, cmd: &str, mut fields: Value) -> Value {
        match self {
            Self::Rust => {}
            Self::TypeScript => self.name_all(mode, cmd, &mut fields),
            Self::Python | Self::Go => {
                jobs(&mut fields).for_each(in_camel_case);
                in_camel_case(&mut fields);
                if cmd == "GETJOBBYCUSTOMID" {
                    rename(&mut fields, "jobId", "customId");
                }
            }
        }
        fields["cmd"] = match (self, cmd) {
            (Self::Python | Self::Go, "UPDATEJOB") => "UPDATE",
            _ => cmd,
        }
        .into();
        fields
    }

    /// In MessagePack, what has no value is null; in JSON it is not there.
    fn name_all(self, mode: Mode, cmd: &str, fields: &mut Value) {
        if ["LOG", "GETLOGS", "HEARTBEAT"].contains(&cmd) {
            rename(fields, "id", "job_id");
        }
        if cmd == "PUSH" {
            for (name, value) in [("priority", json!(0)), ("lifo", json!(false))] {
                if fields[name].is_null() {
                    fields[name] = value;
                }
            }
        }
        jobs(fields).for_each(|job| self.name_all(mode, "PUSH", job));
        let named = NAMED.iter().filter(|(of, _)| *of == cmd).flat_map(|(_, names)| *names);
        if mode == Mode::Binary {
            let fields = fields.as_object_mut().unwrap();
            for name in named {
                fields.entry(*name).or_insert(Value::Null);
            }
        }
    }

    /// The one reply that clients read differently.
    pub(crate) fn expected(self, cmd: &str, mut expected: Value) -> Value {
        if cmd == "GETPROGRESS" && self == Self::TypeScript && expected["error"] == "absent" {
            let (progress, message) = (expected["progress"].take(), expected["message"].take());
            expected["progress"] = json!({ "progress": progress, "message": message });
            expected.as_object_mut().unwrap().remove("message");
        }
        expected
    }
}

/// The jobs of a batch.
fn jobs(fields: &mut Value) -> impl Iterator<Item = &mut Value> {
    fields.get_mut("jobs").and_then(Value::as_array_mut).into_iter().flatten()
}

/// As in the push options of Python and Go, some of them.
fn in_camel_case(fields: &mut Value) {
    for (name, camel) in [
        ("job_id", "jobId"),
        ("keep_completed_age", "keepCompletedAge"),
        ("keep_completed_count", "keepCompletedCount"),
    ] {
        rename(fields, name, camel);
    }
}

fn rename(fields: &mut Value, from: &str, to: &str) {
    let fields = fields.as_object_mut().unwrap();
    if let Some(value) = fields.remove(from) {
        fields.insert(to.into(), value);
    }
}
