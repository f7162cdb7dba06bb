//! The flashQ protocol over HTTP, so that its clients, its MCP server and its dashboard can stay as
//! they are.
//!
//! One table (`routes.rs`) says for each route which command it asks for, how path, query and body
//! become the command's fields, and what of its reply is `data`. The commands are those of TCP; so
//! are their fields, their limits and who may ask for them. What no command does has a file of its
//! own. The routes are those that clients call, also those that flashQ itself lacks.
//!
//! The port is that of our own API. `GET /health` and `GET /metrics` belong to both: they are
//! flashQ's if the request says that it is JSON, as all its clients do.
//!
//! What holds:
//!
//! * Every answer is JSON, `{"ok":true,"data":…}` or `{"ok":false,"error":"…"}`, and its status says
//!   the same. Clients parse the body whatever the status is.
//! * Payloads and results pass through as their text, as over TCP.
//! * There is no connection that a lease could hang on: a job that is pulled here has
//!   [`limits::FLASHQ_HTTP_LEASE`], and a heartbeat gives it as much again.
//!
//! What happens when something fails:
//!
//! * The client goes before it was answered: a pull takes nothing.
//! * The answer to a pull is lost: the job comes back when its lease has run out, as from a crashed
//!   worker.
//! * A page of another site sends a request that changes something: it is refused, unless the site is
//!   allowed.

mod answer;
mod asked;
mod command;
mod dashboard;
mod handshake;
mod history;
mod jobs;
mod prometheus;
mod route;
mod routes;
mod settings;
mod socket;
mod sse;
mod streams;
mod system;
mod webhooks;
mod workers;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use batonq_protocol::ErrorCode;
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::{Method, Request, Response};
use tokio::sync::Semaphore;

use self::answer::Failure;
use self::asked::Caller;
use self::history::History;
use self::route::{Call, Route, Serve};
use self::system::Process;
use super::command::Command;
use super::leases::Leases;
use super::{Answer, Client, Fields, Refused};
use crate::access::{Operation, Principal};
use crate::door::Door;
use crate::http::live::Body;
use crate::http::{body, cors, headers};
use crate::job::WorkerName;
use crate::limits;
use crate::store::Hold;

/// What the names of workers begin with that pull over HTTP.
const WORKER: &str = "flashq-http@";

/// Whether a worker holds its jobs by time: it has pulled them over HTTP.
pub(super) fn is_held_by_time(worker: &WorkerName) -> bool {
    worker.as_str().starts_with(WORKER)
}

/// Serves the routes of flashQ. Cheap to clone: all clones are one.
#[derive(Clone)]
pub(crate) struct Front(Arc<Inner>);

struct Inner {
    door: Door,
    leases: Leases,
    routes: Vec<Route>,
    /// By path: the places of its routes, of different methods.
    router: matchit::Router<Vec<usize>>,
    /// What paths begin with that are flashQ's.
    segments: HashSet<&'static str>,
    looks: Semaphore,
    history: History,
    process: Process,
}

impl std::fmt::Debug for Front {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Front").finish_non_exhaustive()
    }
}

impl Front {
    /// Serves what may come in through this door.
    pub(crate) fn new(door: Door) -> Self {
        let routes = routes::all();
        let mut by_path: HashMap<&str, Vec<usize>> = HashMap::new();
        for (place, route) in routes.iter().enumerate() {
            by_path.entry(route.path).or_default().push(place);
        }
        let mut router = matchit::Router::new();
        for (path, places) in by_path {
            router.insert(path, places).expect("the paths of the table do not conflict");
        }
        let segments = routes.iter().map(|route| first_segment(route.path));
        let segments = segments.chain(settings::NOT_HERE).collect();
        Self(Arc::new(Inner {
            door,
            leases: Leases::default(),
            routes,
            router,
            segments,
            looks: Semaphore::new(limits::FLASHQ_HTTP_LOOKS_MAX),
            history: History::default(),
            process: Process::default(),
        }))
    }

    /// Whether a request is for it.
    pub(crate) fn serves(&self, method: &Method, path: &str, headers: &HeaderMap) -> bool {
        is_ours(&self.0.segments, method, path, headers)
    }

    /// Answers a request, whatever it is.
    pub(crate) async fn serve(
        &self,
        request: Request<Incoming>,
        from: SocketAddr,
    ) -> Response<Body> {
        let answered = self.follow(request, from).await;
        answered.unwrap_or_else(|failure| failure.respond())
    }

    async fn follow(
        &self,
        request: Request<Incoming>,
        from: SocketAddr,
    ) -> Result<Response<Body>, Failure> {
        let path = request.uri().path().to_owned();
        let Ok(matched) = self.0.router.at(&path) else {
            return Err(settings::nothing_at(&path).into());
        };
        let mut routes = matched.value.iter().map(|place| &self.0.routes[*place]);
        let Some(route) = routes.clone().find(|route| route.method == *request.method()) else {
            return Err(Failure::wrong_method(routes.by_ref().map(|route| &route.method)));
        };
        if route.changes() {
            self.check_page(request.headers())?;
        }
        let names = asked::names(matched.params.iter())?;
        match &route.serve {
            Serve::Stream(wanted) => streams::events(self, route, wanted, &names, request).await,
            Serve::Socket(shows) => streams::socket(self, route, shows, &names, request).await,
            Serve::Raw => command::serve(self, request, from).await,
            Serve::Command(..) | Serve::Own(_) | Serve::Text(_) => {
                self.answer(route, &names, request, from).await
            }
        }
    }

    async fn answer(
        &self,
        route: &Route,
        names: &[(String, String)],
        request: Request<Incoming>,
        from: SocketAddr,
    ) -> Result<Response<Body>, Failure> {
        let (head, body) = request.into_parts();
        let principal = match route.operation.role() {
            Some(_) => Some(self.principal(headers::token(&head.headers), route.operation)?),
            None => None,
        };
        let body = match head.method {
            Method::GET => bytes::Bytes::new(),
            _ => body::read(body).await.map_err(Refused::from)?,
        };
        if !body.is_empty() && !headers::is_json(&head.headers) {
            return Err(Failure::not_json());
        }
        let query = head.uri.query().unwrap_or_default();
        let fields = route.fields(names, query, &body)?;
        let caller = Caller::new(principal, from)?;
        let call = Call {
            front: self,
            client: self.client(&caller, None),
            principal,
            names,
            fields,
            is_bare: asked::is_bare(&head.method, &head.headers, query),
            is_sdk: asked::is_sdk(&head.method, &head.headers),
        };
        route.serve(call).await
    }

    /// # Errors
    ///
    /// If a page of a site sends this that is not allowed.
    fn check_page(&self, headers: &HeaderMap) -> Result<(), Refused> {
        if cors::is_foreign(&self.0.door.origins, headers) {
            let text = "Unauthorized: pages of that site may not do this".into();
            return Err(Refused(text, ErrorCode::Forbidden));
        }
        Ok(())
    }

    /// What somebody with this token may do.
    fn principal(&self, token: Option<&str>, operation: Operation) -> Result<Principal, Refused> {
        let principal = self.0.door.access.authenticate(token).map_err(|error| match token {
            Some(_) => error.into(),
            None => command::unknown(),
        })?;
        principal.check(operation)?;
        Ok(principal)
    }

    fn client<'a>(&'a self, caller: &'a Caller, req_id: Option<&'a str>) -> Client<'a> {
        Client {
            door: &self.0.door,
            hold: Hold::Time(limits::FLASHQ_HTTP_LEASE),
            worker: &caller.worker,
            who: &caller.who,
            leases: &self.0.leases,
            req_id,
        }
    }

    /// What the node serves with.
    fn door(&self) -> &Door {
        &self.0.door
    }

    /// Has a command served. One with a large answer may have to wait for others.
    async fn serve_command(&self, command: Command, client: Client<'_>, fields: Fields) -> Answer {
        let _look = match command.operation {
            Operation::Push | Operation::Settle | Operation::Pull | Operation::WaitJob => None,
            // The semaphore is never closed.
            _ => self.0.looks.acquire().await.ok(),
        };
        let answer = (command.serve)(client, fields).await;
        if let Err(refused) = &answer {
            tracing::debug!(kind = command.operation.name(), reason = refused.0, "refused");
        }
        answer
    }

    /// The reply to a command without fields that the node asks for by itself.
    async fn reply_of(&self, command: Command) -> Answer {
        let caller = Caller::own()?;
        self.serve_command(command, self.client(&caller, None), Fields::new()).await
    }
}

/// The first part of a path.
fn first_segment(path: &str) -> &str {
    let path = path.strip_prefix('/').unwrap_or(path);
    path.split_once('/').map_or(path, |(first, _)| first)
}

fn is_ours(
    segments: &HashSet<&'static str>,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
) -> bool {
    match path {
        "/health" | "/metrics" => *method == Method::GET && headers::is_json(headers),
        path => {
            let first = first_segment(path);
            first != "health" && segments.contains(first)
        }
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::{CONTENT_TYPE, HeaderValue};

    use super::*;

    #[test]
    fn a_request_is_for_it_by_its_path_and_where_both_have_one_by_its_type() {
        let routes = routes::all();
        let segments: HashSet<&str> = routes
            .iter()
            .map(|route| first_segment(route.path))
            .chain(settings::NOT_HERE)
            .collect();
        let none = HeaderMap::new();
        let json = HeaderValue::from_static("application/json; charset=utf-8");
        let json = HeaderMap::from_iter([(CONTENT_TYPE, json)]);
        for (method, path, headers, expected) in [
            (Method::GET, "/queues", &none, true),
            (Method::POST, "/jobs/1/ack", &none, true),
            (Method::POST, "/server/shutdown", &json, true),
            (Method::GET, "/metrics/prometheus", &none, true),
            (Method::GET, "/health", &none, false),
            (Method::GET, "/health", &json, true),
            (Method::HEAD, "/health", &json, false),
            (Method::GET, "/metrics", &none, false),
            (Method::GET, "/metrics", &json, true),
            (Method::GET, "/health/ready", &json, false),
            (Method::GET, "/v1/queues", &json, false),
            (Method::GET, "/cluster/nodes", &json, false),
            (Method::GET, "/openapi.json", &json, false),
            (Method::GET, "/", &json, false),
        ] {
            assert_eq!(is_ours(&segments, &method, path, headers), expected, "{method} {path}");
        }
    }

    #[test]
    fn a_worker_over_http_is_known_by_its_name() {
        let worker = |name| WorkerName::parse(name).unwrap();
        assert!(is_held_by_time(&worker("flashq-http@127.0.0.1:5000")));
        assert!(!is_held_by_time(&worker("flashq@127.0.0.1:5000")));
    }
}
