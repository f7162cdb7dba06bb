//! The table of routes.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Response};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::handlers::{Answered, Call, cluster, cron, events, jobs, look, settle, webhooks};
use super::live::{self, Body};
use super::{body, openapi};
use crate::access::Operation;
use crate::error::Error;

type Served = Pin<Box<dyn Future<Output = Result<Response<Body>, Error>> + Send>>;
type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// One route.
pub(super) struct Route {
    pub(super) method: Method,
    /// As in OpenAPI: `{name}` stands for one segment.
    pub(super) path: &'static str,
    /// Decides who may use it.
    pub(super) operation: Operation,
    pub(super) summary: &'static str,
    /// The parameters of its query.
    pub(super) query: &'static [&'static str],
    pub(super) request: SchemaOf,
    /// `None`: it answers a text.
    pub(super) response: Option<SchemaOf>,
    pub(super) serve: Box<dyn Fn(Call, Bytes) -> Served + Send + Sync>,
}

fn schema<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

fn route<B, R, H, F>(
    (method, path): (Method, &'static str),
    operation: Operation,
    summary: &'static str,
    handler: H,
) -> Route
where
    B: DeserializeOwned + JsonSchema + Send + 'static,
    R: Serialize + JsonSchema + 'static,
    H: Fn(Call, B) -> F + Send + Sync + Copy + 'static,
    F: Future<Output = Answered<R>> + Send + 'static,
{
    let serve = move |call: Call, body: Bytes| -> Served {
        Box::pin(async move {
            let (status, value) = handler(call, body::parse(&body)?).await?;
            let json = serde_json::to_vec(&value);
            let json = json.map_err(|error| Error::Internal(error.to_string().into()))?;
            let mut response = text(json, "application/json");
            *response.status_mut() = status;
            Ok(response)
        })
    };
    Route {
        method,
        path,
        operation,
        summary,
        query: &[],
        request: schema::<B>,
        response: Some(schema::<R>),
        serve: Box::new(serve),
    }
}

fn text(body: impl Into<Bytes>, content_type: &'static str) -> Response<Body> {
    let mut response = Response::new(live::whole(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn get(path: &'static str) -> (Method, &'static str) {
    (Method::GET, path)
}

fn post(path: &'static str) -> (Method, &'static str) {
    (Method::POST, path)
}

const FILTER: &[&str] = &[
    "queue",
    "state",
    "tag",
    "type",
    "reason",
    "older_than_ms",
    "newer_than_ms",
    "order",
    "limit",
    "cursor",
];

/// All routes.
pub(super) fn all() -> Vec<Route> {
    let mut routes = producing_and_consuming();
    routes.extend(changing());
    routes.extend(looking());
    routes.push(listening());
    routes.extend(telling());
    routes.extend(scheduling());
    routes.extend(about_the_cluster());
    routes.extend(seen_from_outside());
    routes
}

fn producing_and_consuming() -> Vec<Route> {
    use Operation::{Pull, Push, Settle};
    vec![
        route(post("/v1/queues/{queue}/jobs"), Push, "Push a job", jobs::push),
        route(post("/v1/queues/{queue}/jobs/batch"), Push, "Push jobs", jobs::push_batch),
        route(post("/v1/flows"), Push, "Push jobs that wait for each other", jobs::push_flow),
        route(post("/v1/queues/{queue}/pull"), Pull, "Lease jobs", jobs::pull),
        route(post("/v1/jobs/{id}/ack"), Settle, "A job is done", settle::ack),
        route(post("/v1/jobs/{id}/fail"), Settle, "A job went wrong", settle::fail),
        route(post("/v1/jobs/{id}/release"), Settle, "Give a job back", settle::release),
        route(post("/v1/jobs/{id}/extend"), Settle, "More time for a job", settle::extend),
        route(post("/v1/jobs/{id}/progress"), Settle, "How far a worker is", settle::progress),
        route(post("/v1/ack"), Settle, "Jobs are done", settle::ack_batch),
        route(post("/v1/fail"), Settle, "Jobs went wrong", settle::fail_batch),
        route(post("/v1/release"), Settle, "Give jobs back", settle::release_batch),
    ]
}

fn changing() -> Vec<Route> {
    use Operation::{
        Bulk, CancelJob, DeleteJob, EditJob, PauseQueue, PromoteJob, ReplayDead, ReplayJob,
        ResumeQueue, RetryJob, SetSettings,
    };
    vec![
        route(post("/v1/jobs/{id}/retry"), RetryJob, "A dead job goes round again", jobs::retry),
        route(post("/v1/jobs/{id}/cancel"), CancelJob, "Take a job back", jobs::cancel),
        route((Method::PATCH, "/v1/jobs/{id}"), EditJob, "Change a waiting job", jobs::edit),
        route(
            (Method::PUT, "/v1/queues/{queue}/settings"),
            SetSettings,
            "Set all settings of a queue",
            jobs::set_settings,
        ),
        route(post("/v1/jobs/{id}/promote"), PromoteJob, "A scheduled job: now", jobs::promote),
        route(post("/v1/jobs/{id}/replay"), ReplayJob, "Push a copy of a job", jobs::replay),
        route(post("/v1/dlq/replay"), ReplayDead, "Push copies of dead jobs", jobs::replay_dead),
        route(post("/v1/bulk"), Bulk, "The same to many jobs", jobs::bulk),
        Route {
            response: None,
            serve: Box::new(|call, _| {
                Box::pin(async {
                    jobs::delete(call).await?;
                    Ok(Response::new(live::whole("")))
                })
            }),
            ..route(
                (Method::DELETE, "/v1/jobs/{id}"),
                DeleteJob,
                "Delete a job that has ended",
                look::live,
            )
        },
        route(post("/v1/queues/{queue}/pause"), PauseQueue, "Give nothing out", jobs::pause),
        route(post("/v1/queues/{queue}/resume"), ResumeQueue, "Go on", jobs::resume),
    ]
}

fn looking() -> Vec<Route> {
    use Operation::{
        ExplainJob, GetJob, GetStats, GetTimeline, ListDecisions, ListJobs, ListKeys, ListQueues,
        ListWorkers, WaitJob,
    };
    let with = |route: Route, query| Route { query, ..route };
    vec![
        with(route(get("/v1/jobs"), ListJobs, "List jobs", look::jobs), FILTER),
        route(get("/v1/jobs/{id}"), GetJob, "A job", look::job),
        with(
            route(get("/v1/jobs/{id}/wait"), WaitJob, "Wait for a job's end", look::wait),
            &["timeout_ms"],
        ),
        route(get("/v1/jobs/{id}/timeline"), GetTimeline, "What happened", look::timeline),
        route(get("/v1/jobs/{id}/explain"), ExplainJob, "Why it does not run", look::explain),
        with(
            route(get("/v1/dlq"), ListJobs, "List dead jobs", look::dead),
            &[
                "queue",
                "reason",
                "tag",
                "type",
                "older_than_ms",
                "newer_than_ms",
                "order",
                "limit",
                "cursor",
            ],
        ),
        route(get("/v1/queues"), ListQueues, "All queues", look::queues),
        route(get("/v1/queues/{queue}"), ListQueues, "A queue", look::queue),
        route(get("/v1/queues/{queue}/keys"), ListKeys, "Limits by key, and their use", look::keys),
        with(
            route(get("/v1/decisions"), ListDecisions, "What guards refused", look::decisions),
            &["queue", "limit"],
        ),
        route(get("/v1/workers"), ListWorkers, "Connected workers", look::workers),
        route(get("/v1/stats"), GetStats, "The last 60 seconds", look::stats),
    ]
}

fn listening() -> Route {
    Route {
        query: &["queue", "kind", "job", "after"],
        response: None,
        serve: Box::new(|call, _| Box::pin(events::listen(call))),
        ..route(
            get("/v1/events"),
            Operation::ListenEvents,
            "What happens, as it happens",
            look::live,
        )
    }
}

fn telling() -> Vec<Route> {
    use Operation::{ChangeWebhook, ListWebhooks};
    vec![
        route(
            (Method::PUT, "/v1/webhooks/{name}"),
            ChangeWebhook,
            "Make or change a webhook",
            webhooks::put,
        ),
        route(get("/v1/webhooks/{name}"), ListWebhooks, "A webhook", webhooks::one),
        route(get("/v1/webhooks"), ListWebhooks, "All webhooks", webhooks::list),
        Route {
            response: None,
            serve: Box::new(|call, _| {
                Box::pin(async {
                    webhooks::delete(call).await?;
                    Ok(Response::new(live::whole("")))
                })
            }),
            ..route(
                (Method::DELETE, "/v1/webhooks/{name}"),
                ChangeWebhook,
                "Delete a webhook",
                look::live,
            )
        },
    ]
}

fn scheduling() -> Vec<Route> {
    use Operation::{ChangeSchedule, ListSchedules};
    let with = |route: Route, query| Route { query, ..route };
    vec![
        route(
            (Method::PUT, "/v1/cron/{name}"),
            ChangeSchedule,
            "Make or change a schedule",
            cron::put,
        ),
        route(get("/v1/cron/{name}"), ListSchedules, "A schedule", cron::one),
        Route {
            response: None,
            serve: Box::new(|call, _| {
                Box::pin(async {
                    cron::delete(call).await?;
                    Ok(Response::new(live::whole("")))
                })
            }),
            ..route(
                (Method::DELETE, "/v1/cron/{name}"),
                ChangeSchedule,
                "Delete a schedule",
                look::live,
            )
        },
        with(
            route(get("/v1/cron"), ListSchedules, "List schedules", cron::list),
            &["limit", "cursor"],
        ),
        route(post("/v1/cron/{name}/run"), ChangeSchedule, "Push its job now", cron::run),
        route(post("/v1/cron/{name}/pause"), ChangeSchedule, "Fire no more", cron::pause),
        route(post("/v1/cron/{name}/resume"), ChangeSchedule, "Go on", cron::resume),
        with(
            route(get("/v1/cron/{name}/history"), ListSchedules, "Its slots", cron::history),
            &["limit"],
        ),
    ]
}

fn about_the_cluster() -> Vec<Route> {
    use Operation::{DrainNode, GetCluster};
    let with = |route: Route, query| Route { query, ..route };
    vec![
        with(route(get("/cluster/nodes"), GetCluster, "All nodes", cluster::nodes), &["format"]),
        route(get("/cluster/leader"), GetCluster, "Who leads, and its duties", cluster::leader),
        route(get("/cluster/info"), GetCluster, "Versions and settings", cluster::info),
        Route {
            query: &["exit"],
            response: None,
            serve: Box::new(|call, _| {
                Box::pin(async {
                    cluster::drain(call).await?;
                    Ok(Response::new(live::whole("")))
                })
            }),
            ..route(post("/cluster/nodes/{id}/drain"), DrainNode, "Have a node leave", look::live)
        },
    ]
}

fn seen_from_outside() -> Vec<Route> {
    use Operation::{GetMetrics, Greet};
    vec![
        route(get("/health"), Greet, "How the node is", look::health),
        route(get("/health/live"), Greet, "The process lives", look::live),
        route(get("/health/ready"), Greet, "The node can do its work", look::ready),
        Route {
            response: None,
            serve: Box::new(|call, _| {
                Box::pin(async { Ok(text(look::metrics(call).await?, METRICS_TYPE)) })
            }),
            ..route(get("/metrics"), GetMetrics, "For Prometheus", look::live)
        },
        Route {
            response: None,
            serve: Box::new(|_, _| {
                Box::pin(async { Ok(text(openapi::text(), "application/json")) })
            }),
            ..route(get("/openapi.json"), Greet, "This description", look::live)
        },
    ]
}

const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
