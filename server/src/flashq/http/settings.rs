//! How the node is and what it was told, to be read only. What flashQ lets be changed at run time is
//! not here: settings are given at the start, and jobs are kept by their database.

use batonq_protocol::ErrorCode;
use serde_json::{Value, json};

use super::super::job::object;
use super::super::{Answer, Fields, Refused};
use super::first_segment;
use super::route::{Call, with_data};
use crate::door::version;

/// What paths begin with that flashQ has and this has not.
pub(super) const NOT_HERE: [&str; 3] = ["server", "sqlite", "s3"];

/// There is no such route.
pub(super) fn nothing_at(path: &str) -> Refused {
    let first = first_segment(path);
    let text = match first == "settings" || NOT_HERE.contains(&first) {
        true => format!("Not found: {path} of flashQ is not here: batonq is told at its start"),
        false => format!("Not found: there is nothing at {path}"),
    };
    Refused(text, ErrorCode::NotFound)
}

pub(super) async fn health(call: Call<'_>) -> Answer {
    let door = call.front.door();
    let health = door.broker.health();
    let uptime_ms = u64::try_from(health.uptime.as_millis()).unwrap_or(u64::MAX);
    let data = object([
        ("status", health.condition.name().into()),
        ("uptime_ms", uptime_ms.into()),
        ("uptime_seconds", health.uptime.as_secs().into()),
        ("sqlite_enabled", (door.store == "sqlite").into()),
        ("version", version().into()),
        ("node_id", door.card.id.as_str().into()),
        ("is_leader", door.leadership.term().is_some().into()),
    ]);
    Ok(with_data(Value::Object(data), Fields::new()))
}

pub(super) async fn settings(call: Call<'_>) -> Answer {
    let door = call.front.door();
    let data = json!({
        "version": version(),
        "tcp_port": door.card.tcp_port,
        "http_port": door.card.http_port,
        "sqlite": { "enabled": door.store == "sqlite" },
        "s3_backup": { "enabled": false },
        "auth_enabled": !door.access.is_open(),
        "auth_token_count": door.access.count(),
        "uptime_seconds": door.broker.health().uptime.as_secs(),
    });
    Ok(with_data(data, Fields::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_that_is_not_here_is_said_to_be_elsewhere() {
        for path in ["/settings/auth", "/server/shutdown", "/sqlite/restore", "/s3/backups"] {
            let Refused(text, code) = nothing_at(path);
            assert!(text.contains("at its start"), "{text}");
            assert_eq!(code, ErrorCode::NotFound);
        }
        assert_eq!(nothing_at("/queues/q/x").0, "Not found: there is nothing at /queues/q/x");
    }
}
