//! What a route is: how a request becomes the fields of a command, and a reply an answer.

use std::pin::Pin;

use hyper::{Method, Response};
use serde_json::Value;

use super::super::command::{Command, Serving};
use super::super::fields::carrier;
use super::super::frame::parse_text;
use super::super::{Client, Fields, Refused};
use super::answer::{self, Failure};
use super::asked::{named, parameter};
use super::streams::{Source, Which};
use super::{Front, settings};
use crate::access::{Operation, Principal};
use crate::door::check_depth;
use crate::http::live::Body;

/// One route.
pub(super) struct Route {
    pub(super) method: Method,
    /// `{name}` stands for one segment.
    pub(super) path: &'static str,
    /// Decides who may use it.
    pub(super) operation: Operation,
    pub(super) serve: Serve,
    /// Whole numbers of the query that become fields, and what they are if nobody says.
    numbers: &'static [(&'static str, Option<u64>)],
    /// Texts of the query that become fields.
    texts: &'static [&'static str],
    /// Fields that the command knows by another name: theirs, and the command's.
    renames: &'static [(&'static str, &'static str)],
    takes: Takes,
}

/// What a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    /// An object: the fields.
    Fields,
    /// Any JSON: the field `data`.
    Data,
}

/// Who serves a route.
pub(super) enum Serve {
    /// A command, by its name too.
    Command(&'static str, Command, Data),
    /// A function of its own. `data` and what else stands in the answer is in what it gives.
    Own(for<'a> fn(Call<'a>) -> Serving<'a>),
    /// The same, with a text for an answer.
    Text(for<'a> fn(Call<'a>) -> Telling<'a>),
    /// Whatever command is in the body.
    Raw,
    /// Events as they happen.
    Stream(Which),
    /// The same, and frames for the dashboard.
    Socket(Source),
}

pub(super) type Telling<'a> = Pin<Box<dyn Future<Output = Result<String, Refused>> + Send + 'a>>;

/// What of a command's reply is `data`.
#[derive(Clone, Copy)]
pub(super) enum Data {
    /// Nothing: it was done.
    Nothing,
    /// One field.
    Only(&'static str),
    /// One field. The reply, which is small, stands beside it: some clients read the one, some the
    /// other.
    Beside(&'static str),
    /// All of it.
    Reply,
    /// What this makes of it.
    Shaped(fn(Fields, Shape) -> Fields),
}

/// What shapes an answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// See [`super::asked::is_sdk`].
    pub(super) is_sdk: bool,
    /// See [`super::asked::is_bare`].
    pub(super) is_bare: bool,
}

/// A request that may be served: its role was checked, its body has been read.
pub(super) struct Call<'a> {
    pub(super) front: &'a Front,
    pub(super) client: Client<'a>,
    /// `None`: nobody has to say who asks.
    pub(super) principal: Option<Principal>,
    /// Names and values from the path.
    pub(super) names: &'a [(String, String)],
    pub(super) fields: Fields,
    pub(super) is_sdk: bool,
    pub(super) is_bare: bool,
}

impl Route {
    /// A route whose fields are those of its path and body.
    pub(super) fn new(
        (method, path): (Method, &'static str),
        operation: Operation,
        serve: Serve,
    ) -> Self {
        Self {
            method,
            path,
            operation,
            serve,
            numbers: &[],
            texts: &[],
            renames: &[],
            takes: Takes::Fields,
        }
    }

    /// With numbers of its query, and what they are if nobody says.
    pub(super) fn numbers(self, numbers: &'static [(&'static str, Option<u64>)]) -> Self {
        Self { numbers, ..self }
    }

    /// With texts of its query.
    pub(super) fn texts(self, texts: &'static [&'static str]) -> Self {
        Self { texts, ..self }
    }

    /// With fields that its command knows by another name.
    pub(super) fn renames(self, renames: &'static [(&'static str, &'static str)]) -> Self {
        Self { renames, ..self }
    }

    /// With another kind of body.
    pub(super) fn takes(self, takes: Takes) -> Self {
        Self { takes, ..self }
    }

    /// Whether it does more than look.
    pub(super) fn changes(&self) -> bool {
        self.method != Method::GET || self.operation == Operation::Pull
    }

    /// The fields of a request: those of its query, of its body, and of its path, which come before
    /// what others of the same name say.
    ///
    /// # Errors
    ///
    /// [`Refused`], naming the field.
    pub(super) fn fields(
        &self,
        names: &[(String, String)],
        query: &str,
        body: &[u8],
    ) -> Result<Fields, Refused> {
        let mut fields = match (self.takes, body) {
            (_, []) => Fields::new(),
            (Takes::Fields, body) => parse_text(body).map_err(|malformed| malformed.refused)?,
            (Takes::Data, body) => Fields::from_iter([("data".to_owned(), any_json(body)?)]),
        };
        for (name, default) in self.numbers {
            let given = parameter(query, name).map(|text| number(name, &text)).transpose()?;
            if let Some(number) = given.or(default.map(Value::from)) {
                fields.insert((*name).to_owned(), number);
            }
        }
        for name in self.texts {
            if let Some(text) = parameter(query, name) {
                fields.insert((*name).to_owned(), text.into());
            }
        }
        for (name, value) in names {
            let value = match name.as_str() {
                "id" if matches!(self.serve, Serve::Command(..)) => number(name, value)?,
                _ => value.as_str().into(),
            };
            fields.insert(name.clone(), value);
        }
        for (theirs, name) in self.renames {
            if let Some(value) = fields.remove(*theirs) {
                fields.insert((*name).to_owned(), value);
            }
        }
        Ok(fields)
    }

    /// Serves a request that is answered at once.
    pub(super) async fn serve(&self, call: Call<'_>) -> Result<Response<Body>, Failure> {
        let reply = match &self.serve {
            Serve::Command(_, command, data) => {
                let shape = Shape { is_sdk: call.is_sdk, is_bare: call.is_bare };
                let Call { front, client, fields, .. } = call;
                let reply = front.serve_command(*command, client, fields).await?;
                data.of(reply, shape)
            }
            Serve::Own(serve) => serve(call).await?,
            Serve::Text(tell) => return Ok(answer::text(tell(call).await?)),
            Serve::Raw | Serve::Stream(_) | Serve::Socket(_) => {
                return Err(settings::nothing_at(self.path).into());
            }
        };
        answer::good(&reply)
    }
}

impl Data {
    /// The answer that is made of a reply.
    pub(super) fn of(self, mut reply: Fields, shape: Shape) -> Fields {
        match self {
            Self::Nothing => Fields::new(),
            Self::Only(name) => with_data(reply.remove(name).unwrap_or_default(), Fields::new()),
            Self::Beside(name) => with_data(reply.get(name).cloned().unwrap_or_default(), reply),
            Self::Reply => with_data(Value::Object(reply), Fields::new()),
            Self::Shaped(shaped) => shaped(reply, shape),
        }
    }
}

/// An answer with this `data`.
pub(super) fn with_data(data: Value, mut beside: Fields) -> Fields {
    beside.insert("data".into(), data);
    beside
}

fn number(name: &str, text: &str) -> Result<Value, Refused> {
    let number = text.parse::<u64>().map(Value::from);
    number.map_err(|_| Refused::invalid(format_args!("{name}: must be a whole number from 0")))
}

/// A body that is passed on as it is.
fn any_json(body: &[u8]) -> Result<Value, Refused> {
    let text = str::from_utf8(body).map_err(|_| Refused::invalid("body: it is not UTF-8"))?;
    check_depth("body", text)?;
    match serde_json::from_str::<&serde_json::value::RawValue>(text) {
        Ok(json) => Ok(carrier(json.get().to_owned())),
        Err(error) => Err(Refused::invalid(format_args!("body: {error}"))),
    }
}

impl Call<'_> {
    /// What stands for a name in the path.
    pub(super) fn named(&self, name: &str) -> &str {
        named(self.names, name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flashq::fields::json;
    use crate::flashq::http::routes;

    fn route(method: Method, path: &str) -> Route {
        let mut routes = routes::all().into_iter();
        let found = routes.find(|route| route.method == method && route.path == path);
        found.unwrap_or_else(|| panic!("{method} {path} is not in the table"))
    }

    fn names(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    #[test]
    fn fields_come_from_path_query_and_body_and_the_path_comes_first() {
        let pull = route(Method::GET, "/queues/{queue}/jobs");
        let queue = names(&[("queue", "q")]);
        let fields = pull.fields(&queue, "count=5&x=1", b"").unwrap();
        assert_eq!(
            Value::Object(fields),
            serde_json::json!(
                {"queue": "q", "count": 5, "timeout": 3000}
            )
        );
        assert_eq!(pull.fields(&queue, "timeout=0", b"").unwrap()["timeout"], 0);
        assert!(pull.fields(&queue, "count=-1", b"").unwrap_err().0.contains("count"));

        let fail = route(Method::POST, "/jobs/{id}/fail");
        let fields = fail.fields(&names(&[("id", "7")]), "", br#"{"id":8,"error":"e"}"#).unwrap();
        assert_eq!(Value::Object(fields), serde_json::json!({"id": 7, "error": "e"}));
        assert!(fail.fields(&names(&[("id", "undefined")]), "", b"").is_err());
        assert!(fail.fields(&names(&[("id", "7")]), "", b"[]").is_err());

        let retry = route(Method::POST, "/queues/{queue}/dlq/retry");
        let fields = retry.fields(&queue, "", br#"{"job_id":3}"#).unwrap();
        assert_eq!(Value::Object(fields), serde_json::json!({"queue": "q", "id": 3}));
    }

    #[test]
    fn data_keeps_its_text_wherever_it_comes_from() {
        let incoming = route(Method::POST, "/webhooks/incoming/{queue}");
        let flows = route(Method::POST, "/flows");
        let text = r#"[1.10,123456789012345678901234567890]"#;
        let body = format!(r#"{{"parent_data":{text},"queue":"q"}}"#);
        for (route, body) in [(incoming, text), (flows, body.as_str())] {
            let fields = route.fields(&[], "", body.as_bytes()).unwrap();
            assert_eq!(json(&fields["data"]), text);
        }
        assert!(any_json(b"{").is_err());
        assert!(any_json("[".repeat(5000).as_bytes()).is_err());
    }

    #[test]
    fn a_small_reply_stands_beside_its_data() {
        let reply = || Fields::from_iter([("count".to_owned(), 3.into())]);
        let shape = Shape { is_sdk: true, is_bare: false };
        let shown = |data: Data| Value::Object(data.of(reply(), shape));
        assert_eq!(shown(Data::Beside("count")), serde_json::json!({"data": 3, "count": 3}));
        assert_eq!(shown(Data::Only("count")), serde_json::json!({"data": 3}));
        assert_eq!(shown(Data::Only("result")), serde_json::json!({"data": null}));
        assert_eq!(shown(Data::Reply), serde_json::json!({"data": {"count": 3}}));
        assert_eq!(shown(Data::Nothing), serde_json::json!({}));
    }
}
