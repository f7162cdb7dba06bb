//! The table of routes.

use hyper::Method;
use serde_json::Value;

use super::super::Refused;
use super::super::command::{Command, Serving};
use super::super::frame::Shown;
use super::route::{Call, Data, Route, Serve, Shape, Takes, Telling};
use super::streams::{Source, Which};
use super::{Front, history, jobs, prometheus, settings, system, webhooks, workers};
use crate::access::Operation;
use crate::error::Error;
use crate::limits;

/// The `data` of a GET without parameters, by the name of its command, as plain JSON.
pub(super) async fn data_of(front: &Front, name: &'static str) -> Result<Value, Refused> {
    let mut routes = front.0.routes.iter();
    let found = routes.find_map(|route| match &route.serve {
        Serve::Command(known, command, data) if *known == name && !route.changes() => {
            Some((*command, *data))
        }
        _ => None,
    });
    let missing = || Refused::from(Error::Internal("the table has no such route".into()));
    let (command, data) = found.ok_or_else(missing)?;
    let shape = Shape { is_sdk: false, is_bare: true };
    let mut answer = data.of(front.reply_of(command).await?, shape);
    let data = serde_json::to_value(Shown(&answer.remove("data").unwrap_or_default()));
    data.map_err(|error| Error::Internal(error.to_string().into()).into())
}

fn get(path: &'static str) -> (Method, &'static str) {
    (Method::GET, path)
}

fn post(path: &'static str) -> (Method, &'static str) {
    (Method::POST, path)
}

fn put(path: &'static str) -> (Method, &'static str) {
    (Method::PUT, path)
}

fn patch(path: &'static str) -> (Method, &'static str) {
    (Method::PATCH, path)
}

fn delete(path: &'static str) -> (Method, &'static str) {
    (Method::DELETE, path)
}

fn ask(at: (Method, &'static str), name: &'static str, data: Data) -> Route {
    let command = Command::find(name).expect("the table names commands that there are");
    Route::new(at, command.operation, Serve::Command(name, command, data))
}

macro_rules! own {
    ($at:expr, $operation:ident, $serve:path) => {{
        fn serve(call: Call<'_>) -> Serving<'_> {
            Box::pin($serve(call))
        }
        Route::new($at, Operation::$operation, Serve::Own(serve))
    }};
}

/// All routes.
pub(super) fn all() -> Vec<Route> {
    let mut routes = pushing_and_pulling();
    routes.extend(settling());
    routes.extend(looking());
    routes.extend(changing_jobs());
    routes.extend(changing_queues());
    routes.extend(crons());
    routes.extend(telling());
    routes.extend(numbers());
    routes
}

const WAIT_MS: u64 = limits::FLASHQ_HTTP_WAIT.as_millis() as u64;

fn pushing_and_pulling() -> Vec<Route> {
    use Data::{Beside, Only, Reply};
    vec![
        own!(post("/queues/{queue}/jobs"), Push, jobs::push),
        ask(post("/queues/{queue}/jobs/batch"), "PUSHB", Beside("ids")),
        ask(post("/queues/{queue}/flow"), "FLOW", Reply),
        ask(post("/flows"), "FLOW", Reply).renames(&[("parent_data", "data")]),
        own!(post("/webhooks/incoming/{queue}"), Push, jobs::push).takes(Takes::Data),
        ask(get("/queues/{queue}/jobs"), "PULLB", Only("jobs"))
            .numbers(&[("count", Some(1)), ("timeout", Some(WAIT_MS))]),
        Route::new(post("/api/command"), Operation::Greet, Serve::Raw),
    ]
}

fn settling() -> Vec<Route> {
    use Data::{Beside, Nothing};
    vec![
        ask(post("/jobs/{id}/ack"), "ACK", Nothing),
        ask(post("/jobs/{id}/fail"), "FAIL", Nothing),
        ask(post("/jobs/ack-batch"), "ACKB", Beside("count")),
        ask(post("/jobs/ack/batch"), "ACKB", Beside("count")),
        ask(post("/jobs/{id}/progress"), "PROGRESS", Nothing),
        ask(post("/jobs/{id}/partial"), "PARTIAL", Nothing),
        ask(post("/jobs/{id}/heartbeat"), "HEARTBEAT", Nothing),
        ask(post("/jobs/{id}/logs"), "LOG", Nothing),
        ask(post("/jobs/{id}/move-to-delayed"), "MOVETODELAYED", Nothing),
        ask(post("/jobs/{id}/delay"), "MOVETODELAYED", Nothing),
    ]
}

fn looking() -> Vec<Route> {
    use Data::{Only, Reply, Shaped};
    vec![
        ask(get("/jobs"), "GETJOBS", Shaped(jobs::list))
            .numbers(&[("limit", None), ("offset", None)])
            .texts(&["queue", "state"]),
        ask(get("/jobs/{id}"), "GETJOB", Shaped(jobs::one)),
        ask(get("/jobs/custom/{job_id}"), "GETJOBBYCUSTOMID", Shaped(jobs::by_custom_id)),
        ask(get("/jobs/{id}/state"), "GETSTATE", Shaped(jobs::state)),
        ask(get("/jobs/{id}/result"), "GETRESULT", Only("result")),
        ask(get("/jobs/{id}/progress"), "GETPROGRESS", Shaped(jobs::progress)),
        ask(get("/jobs/{id}/logs"), "GETLOGS", Only("logs")),
        ask(get("/jobs/{id}/wait"), "WAITJOB", Only("result")).numbers(&[("timeout", None)]),
        ask(get("/jobs/{id}/children"), "GETCHILDREN", Shaped(jobs::children))
            .renames(&[("id", "parent_id")]),
        ask(get("/queues"), "LISTQUEUES", Only("queues")),
        ask(get("/queues/{queue}/paused"), "ISPAUSED", Only("paused")),
        ask(get("/queues/{queue}/counts"), "GETJOBCOUNTS", Reply),
        ask(get("/queues/{queue}/count"), "COUNT", Only("count")),
        ask(get("/queues/{queue}/dlq"), "DLQ", Only("jobs")).numbers(&[("count", None)]),
    ]
}

fn changing_jobs() -> Vec<Route> {
    use Data::Nothing;
    vec![
        ask(post("/jobs/{id}/cancel"), "CANCEL", Nothing),
        ask(post("/jobs/{id}/promote"), "PROMOTE", Nothing),
        ask(post("/jobs/{id}/discard"), "DISCARD", Nothing),
        ask(post("/jobs/{id}/priority"), "CHANGEPRIORITY", Nothing),
        ask(post("/jobs/{id}/update"), "UPDATEJOB", Nothing),
        ask(patch("/jobs/{id}"), "UPDATEJOB", Nothing),
    ]
}

fn changing_queues() -> Vec<Route> {
    use Data::{Beside, Nothing};
    vec![
        ask(post("/queues/{queue}/pause"), "PAUSE", Nothing),
        ask(post("/queues/{queue}/resume"), "RESUME", Nothing),
        ask(post("/queues/{queue}/drain"), "DRAIN", Beside("count")),
        ask(delete("/queues/{queue}/obliterate"), "OBLITERATE", Beside("count")),
        ask(post("/queues/{queue}/clean"), "CLEAN", Beside("count")),
        ask(delete("/queues/{queue}/dlq"), "PURGEDLQ", Beside("count")),
        ask(post("/queues/{queue}/dlq/retry"), "RETRYDLQ", Beside("count"))
            .renames(&[("job_id", "id")]),
        ask(post("/queues/{queue}/dlq/{id}/retry"), "RETRYDLQ", Beside("count")),
        ask(post("/queues/{queue}/rate-limit"), "RATELIMIT", Nothing),
        ask(post("/queues/{queue}/ratelimit"), "RATELIMIT", Nothing),
        ask(delete("/queues/{queue}/rate-limit"), "RATELIMITCLEAR", Nothing),
        ask(delete("/queues/{queue}/ratelimit"), "RATELIMITCLEAR", Nothing),
        ask(post("/queues/{queue}/concurrency"), "SETCONCURRENCY", Nothing),
        ask(delete("/queues/{queue}/concurrency"), "CLEARCONCURRENCY", Nothing),
    ]
}

fn crons() -> Vec<Route> {
    vec![
        ask(get("/crons"), "CRONLIST", Data::Only("crons")),
        ask(post("/crons/{name}"), "CRON", Data::Nothing),
        ask(put("/crons/{name}"), "CRON", Data::Nothing),
        own!(delete("/crons/{name}"), ChangeSchedule, jobs::delete_cron),
    ]
}

/// Who is told of what happens.
fn telling() -> Vec<Route> {
    let stream = |path, which| Route::new(get(path), Operation::ListenEvents, Serve::Stream(which));
    let socket = |path, operation, shows| Route::new(get(path), operation, Serve::Socket(shows));
    vec![
        own!(get("/webhooks"), ListWebhooks, webhooks::list),
        own!(post("/webhooks"), ChangeWebhook, webhooks::create),
        own!(delete("/webhooks/{id}"), ChangeWebhook, webhooks::delete),
        stream("/events", Which::All),
        stream("/events/{queue}", Which::Queue),
        stream("/queues/{queue}/events", Which::Queue),
        stream("/events/job/{id}", Which::Job),
        socket("/ws", Operation::ListenEvents, Source::Events(Which::All)),
        socket("/ws/{queue}", Operation::ListenEvents, Source::Events(Which::Queue)),
        socket("/ws/dashboard", Operation::GetStats, Source::Dashboard),
    ]
}

/// How everything is, in numbers.
fn numbers() -> Vec<Route> {
    fn prometheus(call: Call<'_>) -> Telling<'_> {
        Box::pin(prometheus::text(call))
    }
    vec![
        ask(get("/stats"), "STATS", Data::Reply),
        ask(get("/metrics"), "METRICS", Data::Reply),
        own!(get("/metrics/history"), GetStats, history::serve),
        Route::new(get("/metrics/prometheus"), Operation::GetMetrics, Serve::Text(prometheus)),
        own!(get("/workers"), ListWorkers, workers::serve),
        own!(post("/workers/{id}/heartbeat"), Pull, workers::heartbeat),
        own!(get("/health"), Greet, settings::health),
        own!(get("/settings"), GetStats, settings::settings),
        own!(get("/system/metrics"), GetStats, system::serve),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(method: Method, path: &str) -> Route {
        let found = all().into_iter().find(|route| route.method == method && route.path == path);
        found.unwrap_or_else(|| panic!("{method} {path} is not in the table"))
    }

    #[test]
    fn each_route_stands_in_the_table_once_and_each_path_is_found() {
        let routes = all();
        let mut router = matchit::Router::new();
        for route in &routes {
            let is_same = |other: &&Route| other.method == route.method && other.path == route.path;
            assert_eq!(routes.iter().filter(is_same).count(), 1, "{} {}", route.method, route.path);
            if router.at(route.path).is_ok_and(|found| *found.value == route.path) {
                continue;
            }
            router.insert(route.path, route.path).unwrap();
        }
        for (path, expected) in [
            ("/jobs/7", "/jobs/{id}"),
            ("/jobs/custom/x", "/jobs/custom/{job_id}"),
            ("/jobs/7/ack", "/jobs/{id}/ack"),
            ("/jobs/ack/batch", "/jobs/ack/batch"),
            ("/jobs/ack-batch", "/jobs/ack-batch"),
            ("/queues/retry/dlq/retry", "/queues/{queue}/dlq/retry"),
            ("/queues/q/dlq/7/retry", "/queues/{queue}/dlq/{id}/retry"),
            ("/events/job/7", "/events/job/{id}"),
            ("/events/q", "/events/{queue}"),
            ("/ws/dashboard", "/ws/dashboard"),
            ("/ws/q", "/ws/{queue}"),
            ("/webhooks/incoming/q", "/webhooks/incoming/{queue}"),
            ("/webhooks/wh_1", "/webhooks/{id}"),
        ] {
            assert_eq!(*router.at(path).unwrap().value, expected, "{path}");
        }
    }

    #[test]
    fn no_route_is_open_but_health_and_the_one_whose_command_says_who_may() {
        let open = all().into_iter().filter(|route| route.operation.role().is_none());
        let open: Vec<&str> = open.map(|route| route.path).collect();
        assert_eq!(open, ["/api/command", "/health"]);
    }

    #[test]
    fn what_changes_something_is_not_for_pages_of_other_sites() {
        assert!(route(Method::GET, "/queues/{queue}/jobs").changes());
        assert!(route(Method::DELETE, "/queues/{queue}/dlq").changes());
        assert!(!route(Method::GET, "/queues").changes());
    }
}
