//! All routes, and their description as OpenAPI 3.1, which each handler carries its own part of.

use axum::{
    extract::State,
    http::{HeaderName, header},
};
use serde_json::Value;
use utoipa::{
    Modify, OpenApi, PartialSchema, ToSchema,
    openapi::{
        ContentBuilder, Ref, RefOr, ResponseBuilder,
        path::Operation,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{Admin, BASE, problem::Problem};

#[derive(OpenApi)]
#[openapi(
    info(title = "Brolly", description = "A message router whose handlers are WebAssembly plugins.\n\nEvery call \
        of the API takes a bearer token, or the cookie of a session made with one; viewers may read, operators also change, admins also make tokens. \
        Whatever goes wrong is answered as problem details (RFC 9457) with a stable `code`.",
        license(name = "MIT OR Apache-2.0")),
    modifiers(&Bearer),
    security(("token" = []))
)]
struct Document;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
        document.components.get_or_insert_default().add_security_scheme("token", scheme);
    }
}

/// Every route but the console's.
pub(crate) fn routes() -> OpenApiRouter<Admin> {
    let calls = OpenApiRouter::new()
        .merge(crate::brokers::router())
        .merge(crate::topics::router())
        .merge(crate::queues::router())
        .merge(crate::forwards::router())
        .merge(crate::routes::router())
        .merge(crate::samples::router())
        .merge(crate::plugins::router())
        .merge(crate::subscriptions::router())
        .merge(crate::state::router())
        .merge(crate::captures::router())
        .merge(crate::shipping::router())
        .merge(crate::dead_letters::router())
        .merge(crate::desk::router())
        .merge(crate::publish::router())
        .merge(crate::messages::router())
        .merge(crate::tokens::router())
        .merge(crate::session::router())
        .merge(crate::explain::router())
        .merge(crate::alerts::router())
        .merge(crate::channels::router())
        .merge(crate::audit::router())
        .merge(crate::events::router())
        .merge(crate::backups::router())
        .routes(routes!(openapi));
    OpenApiRouter::with_openapi(Document::openapi()).nest(BASE, calls).merge(crate::health::router())
}

/// This description.
#[utoipa::path(get, path = "/openapi.json", tag = "health", security(()),
    responses((status = 200, body = Object, content_type = "application/json")))]
async fn openapi(State(admin): State<Admin>) -> ([(HeaderName, &'static str); 1], String) {
    ([(header::CONTENT_TYPE, "application/json")], admin.openapi.clone())
}

/// Adds what holds for every call, and writes the description out.
pub(crate) fn finish(mut document: utoipa::openapi::OpenApi) -> String {
    let components = document.components.get_or_insert_default();
    components.schemas.insert(Problem::name().into_owned(), Problem::schema());
    let mut more = Vec::new();
    Problem::schemas(&mut more);
    components.schemas.extend(more);
    for item in document.paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete];
        for operation in operations.into_iter().filter_map(Option::as_mut) {
            add_problems(operation);
            complete(operation);
        }
    }
    let written = serde_json::to_value(&document).and_then(|mut document| {
        let schemas = document.pointer("/components/schemas").cloned().unwrap_or_default();
        open_parts(&mut document, &schemas);
        serde_json::to_string(&document)
    });
    written.unwrap_or_else(|error| {
        tracing::error!(%error, "the description of the API cannot be written");
        String::new()
    })
}

/// What is put allows no fields but its own. As a part of what is answered (`allOf`) it would forbid those
/// of the other parts: there it is written without that.
fn open_parts(value: &mut Value, schemas: &Value) {
    const CLOSED: &str = "additionalProperties";
    let is_closed = |schema: &Value| schema.get(CLOSED) == Some(&Value::Bool(false));
    if let Some(parts) = value.get_mut("allOf").and_then(Value::as_array_mut) {
        for part in parts {
            let name = part.get("$ref").and_then(Value::as_str).and_then(|path| path.rsplit('/').next());
            if let Some(closed) = name.and_then(|name| schemas.get(name)).filter(|schema| is_closed(schema)) {
                *part = closed.clone();
            }
            if is_closed(part)
                && let Some(part) = part.as_object_mut()
            {
                part.remove(CLOSED);
            }
        }
    }
    match value {
        Value::Object(fields) => fields.values_mut().for_each(|field| open_parts(field, schemas)),
        Value::Array(items) => items.iter_mut().for_each(|item| open_parts(item, schemas)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn add_problems(operation: &mut Operation) {
    let mut add = |status: &str, description: &str| {
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(Problem::name()))).build();
        let response =
            ResponseBuilder::new().description(description).content("application/problem+json", content);
        let responses = &mut operation.responses.responses;
        responses.entry(status.to_owned()).or_insert_with(|| RefOr::T(response.build()));
    };
    add("default", "any other problem: invalid-name, invalid-request, too-large, internal, unavailable …");
    // Of the calls that need no token, each says so itself.
    if operation.security.is_none() {
        add("401", "unauthorized: no token, or one that is not known");
        add("403", "forbidden: the token's role does not allow it");
        add(
            "429",
            "too-many-attempts: wrong tokens came from this address; Retry-After says how long to wait",
        );
    }
}

/// Mends what the macro leaves out or says wrongly.
fn complete(operation: &mut Operation) {
    for response in operation.responses.responses.values_mut() {
        if let RefOr::T(response) = response
            && response.description.is_empty()
        {
            "Done".clone_into(&mut response.description);
        }
    }
    let Some(RefOr::T(body)) = &mut operation.request_body else { return };
    for (media, content) in &mut body.content {
        if let RefOr::T(content) = content
            && matches!(media.as_str(), "application/octet-stream" | "application/wasm")
        {
            // Bytes have no schema in OpenAPI 3.1; the macro makes them an array of numbers.
            content.schema = None;
        }
    }
}
