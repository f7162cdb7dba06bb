//! The description of the API, made from the table of routes and its types.

use std::sync::OnceLock;

use hyper::Method;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::problem::Problem;
use super::routes::{self, Route};
use crate::door::VERSION;

/// OpenAPI 3.1 as JSON.
pub(super) fn text() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| describe(&routes::all()).to_string())
}

fn describe(routes: &[Route]) -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    let mut generator = settings.into_generator();
    let problem = generator.subschema_for::<Problem>();
    let mut paths = Map::new();
    for route in routes {
        let request = (route.request)(&mut generator);
        let response = route.response.map(|schema| schema(&mut generator));
        let content = match response {
            Some(schema) => json!({ "application/json": { "schema": schema } }),
            None => json!({ "text/plain": { "schema": { "type": "string" } } }),
        };
        let role = route.operation.role().map(|role| role.name());
        let mut operation = json!({
            "operationId": operation_id(route),
            "summary": route.summary,
            "parameters": parameters(route),
            "responses": {
                "2XX": { "description": "done", "content": content },
                "default": {
                    "description": "it was refused, or went wrong",
                    "content": { "application/problem+json": { "schema": problem } },
                },
            },
            "security": match role {
                Some(_) => json!([{ "bearer": [] }, { "key": [] }]),
                None => json!([]),
            },
        });
        if let Some(role) = role {
            operation["x-role"] = role.into();
        }
        if route.method == Method::POST {
            operation["requestBody"] = json!({
                "content": { "application/json": { "schema": request } },
            });
        }
        let method = route.method.as_str().to_ascii_lowercase();
        paths.entry(route.path).or_insert_with(|| json!({}))[method] = operation;
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "batonq",
            "version": VERSION,
            "description": "Durations are milliseconds, times RFC 3339, ids numbers below 2^53.",
        },
        "paths": paths,
        "components": {
            "schemas": generator.take_definitions(true),
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer" },
                "key": { "type": "apiKey", "in": "header", "name": "x-api-key" },
            },
        },
    })
}

/// The method and the words of the path.
fn operation_id(route: &Route) -> String {
    let words = route.path.split(['/', '.', '{', '}']).filter(|word| !word.is_empty());
    let words: Vec<&str> = words.collect();
    format!("{}_{}", route.method.as_str().to_ascii_lowercase(), words.join("_"))
}

fn parameters(route: &Route) -> Vec<Value> {
    let segments = route.path.split('/');
    let in_path = segments.filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'));
    let number = |name: &str| matches!(name, "id" | "limit" | "cursor" | "timeout_ms");
    let parameter = |name: &str, place: &str| {
        let kind = if number(name) { "integer" } else { "string" };
        json!({
            "name": name, "in": place, "required": place == "path", "schema": { "type": kind },
        })
    };
    let in_path = in_path.map(|name| parameter(name, "path"));
    in_path.chain(route.query.iter().map(|name| parameter(name, "query"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_route_is_described_once() {
        let description: Value = serde_json::from_str(text()).unwrap();
        let mut ids = std::collections::BTreeSet::new();
        for route in routes::all() {
            let method = route.method.as_str().to_ascii_lowercase();
            let described = &description["paths"][route.path][method];
            assert!(described.is_object(), "{} {}", route.method, route.path);
            assert!(ids.insert(described["operationId"].as_str().unwrap().to_owned()));
        }
    }

    #[test]
    fn every_schema_that_is_named_is_there() {
        let description: Value = serde_json::from_str(text()).unwrap();
        let schemas = &description["components"]["schemas"];
        for part in text().split("#/components/schemas/").skip(1) {
            let name = part.split('"').next().unwrap();
            assert!(schemas[name].is_object(), "{name}");
        }
    }
}
