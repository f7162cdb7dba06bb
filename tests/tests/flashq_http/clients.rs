//! How each client asks over HTTP, and what it makes of an answer. All are version 0.4.0.

use batonq_tests::harness::Reply;
use hyper::Method;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Client {
    /// The TypeScript client, told to use HTTP.
    TypeScript,
    /// The server for language models.
    Mcp,
    /// The pages for people, in a browser.
    Dashboard,
}

/// Where the dashboard's pages come from: not from the node.
pub(crate) const PAGE: &str = "http://localhost:3000";

/// A call as it is sent.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) body: Option<Value>,
}

/// The name of a call; how it is asked; which of its fields the body has, if there is one. In a
/// path `{name}` is a field, in a query `name` alone stands there only if the field does.
type Call = (&'static str, &'static str, Option<&'static str>);

const OPTIONS: &str = "data priority delay ttl timeout max_attempts backoff unique_key depends_on \
    tags lifo remove_on_complete remove_on_fail stall_timeout debounce_id debounce_ttl job_id \
    keep_completed_age keep_completed_count group_id";

/// What all clients ask for in the same way.
const SHARED: &[Call] = &[
    ("PUSH", "POST /queues/{queue}/jobs", Some(OPTIONS)),
    ("ACK", "POST /jobs/{id}/ack", Some("result")),
    ("FAIL", "POST /jobs/{id}/fail", Some("error")),
    ("PROGRESS", "POST /jobs/{id}/progress", Some("progress message")),
    ("GETPROGRESS", "GET /jobs/{id}/progress", None),
    ("GETJOB", "GET /jobs/{id}", None),
    ("GETSTATE", "GET /jobs/{id}/state", None),
    ("GETRESULT", "GET /jobs/{id}/result", None),
    ("GETJOBS", "GET /jobs?queue&state&limit&offset", None),
    ("GETJOBCOUNTS", "GET /queues/{queue}/counts", None),
    ("COUNT", "GET /queues/{queue}/count", None),
    ("WAITJOB", "GET /jobs/{id}/wait?timeout={timeout}", None),
    ("GETLOGS", "GET /jobs/{id}/logs", None),
    ("GETCHILDREN", "GET /jobs/{id}/children", None),
    ("CANCEL", "POST /jobs/{id}/cancel", None),
    ("CHANGEPRIORITY", "POST /jobs/{id}/priority", Some("priority")),
    ("PROMOTE", "POST /jobs/{id}/promote", None),
    ("DISCARD", "POST /jobs/{id}/discard", None),
    ("PAUSE", "POST /queues/{queue}/pause", None),
    ("RESUME", "POST /queues/{queue}/resume", None),
    ("ISPAUSED", "GET /queues/{queue}/paused", None),
    ("DRAIN", "POST /queues/{queue}/drain", None),
    ("OBLITERATE", "DELETE /queues/{queue}/obliterate", None),
    ("CLEAN", "POST /queues/{queue}/clean", Some("grace state limit")),
    ("DLQ", "GET /queues/{queue}/dlq?count", None),
    ("PURGEDLQ", "DELETE /queues/{queue}/dlq", None),
    ("SETCONCURRENCY", "POST /queues/{queue}/concurrency", Some("limit")),
    ("CLEARCONCURRENCY", "DELETE /queues/{queue}/concurrency", None),
    ("LISTQUEUES", "GET /queues", None),
    ("CRONDELETE", "DELETE /crons/{name}", None),
    ("CRONLIST", "GET /crons", None),
    ("STATS", "GET /stats", None),
    ("METRICS", "GET /metrics", None),
];

const TYPESCRIPT: &[Call] = &[
    ("PUSHB", "POST /queues/{queue}/jobs/batch", Some("jobs")),
    ("PULL", "GET /queues/{queue}/jobs?count=1", None),
    ("PULLB", "GET /queues/{queue}/jobs?count={count}", None),
    ("ACKB", "POST /jobs/ack/batch", Some("ids")),
    // It passes on a field that its own call does not have.
    ("GETJOBBYCUSTOMID", "GET /jobs/custom/undefined", None),
    ("UPDATE", "PATCH /jobs/{id}", Some("data")),
    ("MOVETODELAYED", "POST /jobs/{id}/delay", Some("delay")),
    ("HEARTBEAT", "POST /jobs/{id}/heartbeat", None),
    ("LOG", "POST /jobs/{id}/logs", Some("message level")),
    ("RETRYDLQ", "POST /queues/{queue}/dlq/retry", None),
    ("RETRYDLQ of one", "POST /queues/{queue}/dlq/{id}/retry", None),
    ("RATELIMIT", "POST /queues/{queue}/ratelimit", Some("limit")),
    ("RATELIMITCLEAR", "DELETE /queues/{queue}/ratelimit", None),
    ("CRON", "PUT /crons/{name}", Some("queue data schedule repeat_every priority limit")),
    ("PUSHFLOW", "POST /flows", Some("queue parent_data children priority delay")),
];

const MCP: &[Call] = &[
    ("PULL", "GET /queues/{queue}/jobs?count={count}", None),
    ("ACKB", "POST /jobs/ack-batch", Some("ids")),
    ("UPDATEJOB", "POST /jobs/{id}/update", Some("data")),
    ("MOVETODELAYED", "POST /jobs/{id}/move-to-delayed", Some("delay")),
    ("ADDLOG", "POST /jobs/{id}/logs", Some("message level")),
    ("PARTIAL", "POST /jobs/{id}/partial", Some("data")),
    ("RETRYDLQ", "POST /queues/{queue}/dlq/retry", Some("job_id")),
    ("RATELIMIT", "POST /queues/{queue}/rate-limit", Some("limit")),
    ("RATELIMITCLEAR", "DELETE /queues/{queue}/rate-limit", None),
    ("FLOW", "POST /queues/{queue}/flow", Some("data children priority")),
    ("CRONADD", "POST /crons/{name}", Some("queue data schedule priority")),
    ("METRICSHISTORY", "GET /metrics/history", None),
    ("HEALTH", "GET /health", None),
    ("LISTWORKERS", "GET /workers", None),
    ("SYSTEMMETRICS", "GET /system/metrics", None),
    ("LISTWEBHOOKS", "GET /webhooks", None),
    ("CREATEWEBHOOK", "POST /webhooks", Some("url events queue secret")),
    ("DELETEWEBHOOK", "DELETE /webhooks/{id}", None),
];

const DASHBOARD: &[Call] = &[
    ("PULL", "GET /queues/{queue}/jobs?count&timeout", None),
    ("MOVETODELAYED", "POST /jobs/{id}/move-to-delayed", Some("delay")),
    ("RETRYDLQ", "POST /queues/{queue}/dlq/retry", None),
    ("RETRYDLQ of one", "POST /queues/{queue}/dlq/retry", Some("job_id")),
    ("RATELIMIT", "POST /queues/{queue}/rate-limit", Some("limit")),
    ("RATELIMITCLEAR", "DELETE /queues/{queue}/rate-limit", None),
    ("CRON", "POST /crons/{name}", Some("queue schedule data priority enabled")),
    ("METRICSHISTORY", "GET /metrics/history", None),
    ("HEALTH", "GET /health", None),
    ("SETTINGS", "GET /settings", None),
    ("SYSTEMMETRICS", "GET /system/metrics", None),
    ("WORKERS", "GET /workers", None),
    ("WORKERHEARTBEAT", "POST /workers/{id}/heartbeat", Some("queues concurrency jobs_processed")),
    ("WEBHOOKS", "GET /webhooks", None),
    ("S3BACKUPS", "GET /s3/backups", None),
    ("SQLITESTATS", "GET /sqlite/stats", None),
    ("CLEARQUEUES", "POST /server/clear-queues", None),
    ("SHUTDOWN", "POST /server/shutdown", None),
    ("SAVEAUTH", "POST /settings/auth", Some("tokens")),
];

/// What `encodeURIComponent` leaves as it is.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'!')
    .remove(b'~')
    .remove(b'*')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')');

impl Client {
    /// What it sends with everything.
    pub(crate) fn headers(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::TypeScript | Self::Mcp => &[crate::JSON],
            Self::Dashboard => &[crate::JSON, ("origin", PAGE)],
        }
    }

    /// A call as it sends it.
    pub(crate) fn request(self, cmd: &str, fields: &Value) -> Request {
        let own = match self {
            Self::TypeScript => TYPESCRIPT,
            Self::Mcp => MCP,
            Self::Dashboard => DASHBOARD,
        };
        let call = own.iter().chain(SHARED).find(|call| call.0 == cmd);
        let (_, route, body) = call.unwrap_or_else(|| panic!("{self:?} has no {cmd}"));
        let (method, path) = route.split_once(' ').unwrap();
        let named = |names: &str| -> Value {
            let names = names.split_whitespace();
            let named = names.filter_map(|name| Some((name.into(), fields.get(name)?.clone())));
            Value::Object(named.collect::<Map<_, _>>())
        };
        let mut body = body.map(named);
        if let Some(body) = &mut body
            && self == Self::TypeScript
        {
            say_what_goes_without_saying(cmd, body);
        }
        Request { method: method.parse().unwrap(), path: path_of(path, fields), body }
    }

    /// What it makes of an answer.
    ///
    /// # Errors
    ///
    /// What it takes for a failure.
    pub(crate) fn read(self, cmd: &str, reply: &Reply) -> Result<Value, String> {
        let json = reply.json();
        let error = json["error"].as_str().unwrap_or("no error").to_owned();
        match self {
            // It looks at the status only.
            Self::Mcp if !(200..300).contains(&reply.status) => Err(reply.text.clone()),
            _ if json["ok"] != true => Err(error),
            Self::TypeScript => Ok(read(cmd, json)),
            Self::Mcp | Self::Dashboard => Ok(json),
        }
    }
}

/// What the TypeScript client names in a push even if nobody has said it.
fn say_what_goes_without_saying(cmd: &str, body: &mut Value) {
    match cmd {
        "PUSH" => {
            let defaults = json!({ "priority": 0, "lifo": false, "remove_on_complete": false,
                "remove_on_fail": false });
            for (name, value) in defaults.as_object().unwrap() {
                body.as_object_mut().unwrap().entry(name).or_insert(value.clone());
            }
        }
        "PUSHB" => {
            for job in body["jobs"].as_array_mut().unwrap() {
                say_what_goes_without_saying("PUSH", job);
            }
        }
        _ => {}
    }
}

/// As JavaScript writes it.
fn text(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), Into::into);
    utf8_percent_encode(&text, KEPT).to_string()
}

fn path_of(path: &str, fields: &Value) -> String {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let filled = |part: &str| -> String {
        match part.split_once('{') {
            None => part.to_owned(),
            Some((before, rest)) => {
                let (name, after) = rest.split_once('}').unwrap();
                format!("{before}{}{after}", text(&fields[name]))
            }
        }
    };
    let path: Vec<String> = path.split('/').map(filled).collect();
    let query = query.split('&').filter_map(|part| match part.contains('=') {
        true => Some(filled(part)),
        false => fields.get(part).map(|value| format!("{part}={}", text(value))),
    });
    let query: Vec<String> = query.collect();
    let mark = if query.is_empty() { "" } else { "?" };
    format!("{}{mark}{}", path.join("/"), query.join("&"))
}

/// What the TypeScript client makes of an answer that is no failure.
fn read(cmd: &str, json: Value) -> Value {
    let data = json["data"].clone();
    let is_object = data.is_object();
    let list = |name: &str, data: &Value| match data.is_array() {
        true => json!({ name: data }),
        false => json.clone(),
    };
    match cmd {
        "PUSH" if is_object => json!({ "id": data["id"] }),
        "PUSHB" => list("ids", &data),
        "PULL" | "PULLB" if data == json!([]) => json!({ "job": null }),
        "PULL" if data.is_array() => json!({ "job": data[0] }),
        "PULLB" => list("jobs", &data),
        "STATS" | "METRICS" | "GETJOB" | "GETJOBCOUNTS" | "PUSHFLOW" | "GETPROGRESS"
            if is_object =>
        {
            data
        }
        "GETJOB" => json!({ "job": null }),
        "GETPROGRESS" => json!({ "progress": 0 }),
        "LISTQUEUES" => list("queues", &data),
        "CRONLIST" => list("crons", &data),
        "GETSTATE" => json!({ "state": data.get("state") }),
        "GETRESULT" | "WAITJOB" => json!({ "result": data }),
        "GETJOBS" => json!({ "jobs": data.get("jobs").unwrap_or(&json!([])),
            "total": data.get("total").unwrap_or(&json!(0)) }),
        "COUNT" if data.is_number() => json!({ "count": data }),
        "COUNT" if is_object => json!({ "count": data["count"] }),
        "DLQ" => list("jobs", &data),
        "GETLOGS" => json!({ "logs": data.as_array().cloned().unwrap_or_default() }),
        "GETCHILDREN" => json!({ "children": data.as_array().cloned().unwrap_or_default() }),
        "ISPAUSED" if data.is_boolean() => json!({ "paused": data }),
        "ISPAUSED" if is_object => json!({ "paused": data["paused"] }),
        _ => json,
    }
}
