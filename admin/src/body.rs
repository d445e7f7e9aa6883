//! Request bodies: read whole, within a limit each and within the memory for all of them.

use std::{fmt::Display, time::Duration};

use axum::{
    body::{Body, BodyDataStream},
    extract::{FromRequest, Request},
    http::{HeaderMap, header},
};
use brolly_core::{Code, message_limits};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use serde::{
    Serialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::{Value, error::Category};
use tokio::sync::OwnedSemaphorePermit;

use crate::{Admin, problem::Problem};

/// Bytes of a definition or of any other JSON body that says what to do.
pub(crate) const DEFINITION_BYTES: usize = 1024 * 1024;

/// Bytes of a JSON body that has a payload in it, which takes more room there than by itself.
const WITH_PAYLOAD_BYTES: usize = 2 * message_limits::PAYLOAD_BYTES + DEFINITION_BYTES;

/// Bytes beyond a limit that are read and forgotten before the answer says so; after as many again
/// the connection is cut.
const DISCARDED_BYTES: usize = 256 * 1024 * 1024;

/// A body, and the room that it takes for as long as this lives.
pub(crate) struct Held {
    pub bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

impl Admin {
    /// Reads a body of at most `limit` bytes.
    pub(crate) async fn read(&self, headers: &HeaderMap, body: Body, limit: usize) -> Result<Held, Problem> {
        let mut stream = body.into_data_stream();
        let announced =
            headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let expected: usize = announced.unwrap_or(limit);
        if expected > limit {
            return Err(self.too_large(stream, limit).await);
        }
        let room = u32::try_from(expected.div_ceil(1 << 20)).unwrap_or(u32::MAX);
        let room = self.bodies.clone().acquire_many_owned(room.min(self.config.body_memory_mib)).await;
        let room = room.map_err(|_| Problem::refused(Code::Unavailable, "the host is stopping"))?;
        let mut bytes = BytesMut::with_capacity(announced.unwrap_or_default());
        let idle = Duration::from_millis(self.config.body_idle_ms);
        loop {
            let next = tokio::time::timeout(idle, stream.next()).await;
            let Some(chunk) = next.map_err(|_| Problem::body_late(self.config.body_idle_ms))? else { break };
            let chunk = chunk.map_err(|_| Problem::refused(Code::InvalidRequest, "the body broke off"))?;
            if bytes.len() + chunk.len() > limit {
                drop(bytes);
                return Err(self.too_large(stream, limit).await);
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Held { bytes: bytes.freeze(), _room: room })
    }

    /// Reads the rest of a body that is too large, and forgets it: a client that is still sending
    /// would find the connection reset, and not the answer.
    async fn too_large(&self, mut rest: BodyDataStream, limit: usize) -> Problem {
        let idle = Duration::from_millis(self.config.body_idle_ms);
        let mut left = DISCARDED_BYTES;
        while let Ok(Some(Ok(chunk))) = tokio::time::timeout(idle, rest.next()).await
            && left > chunk.len()
        {
            left -= chunk.len();
        }
        Problem::refused(
            Code::TooLarge,
            format!("the body is larger than {limit} bytes, the limit of this call"),
        )
    }

    /// Reads a JSON body, which must not be empty.
    async fn read_json(&self, request: Request, limit: usize) -> Result<Held, Problem> {
        let held = self.read_any_json(request, limit).await?;
        if held.bytes.is_empty() {
            let detail = "the body is empty; this call takes a JSON object";
            return Err(Problem::refused(Code::InvalidRequest, detail));
        }
        Ok(held)
    }

    async fn read_any_json(&self, request: Request, limit: usize) -> Result<Held, Problem> {
        let (parts, body) = request.into_parts();
        let media = media_type(&parts.headers);
        if !media.is_empty() && media != "application/json" && !media.ends_with("+json") {
            let detail = format!("the body is announced as {media:?}; this call takes application/json");
            return Err(Problem::media_type(detail));
        }
        self.read(&parts.headers, body, limit).await
    }
}

/// The media type of a body without its parameters, in lower case; empty if there is none.
pub(crate) fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// What a JSON error means: no JSON at all, or JSON that says something else than is expected.
pub(crate) fn json_problem(error: &serde_json::Error, otherwise: Code) -> Problem {
    match error.classify() {
        Category::Syntax | Category::Eof | Category::Io => {
            Problem::refused(Code::InvalidRequest, format!("the body is no JSON: {error}"))
        }
        Category::Data => Problem::refused(otherwise, format!("the body is not what is expected: {error}")),
    }
}

/// Whether a JSON text is a list. Serde takes one for a struct, its items by position; here nothing
/// goes by position.
pub(crate) fn is_list(json: &[u8]) -> bool {
    json.trim_ascii_start().starts_with(b"[")
}

/// Understands a body that is a JSON object; `otherwise` is the code for one that says something else
/// than is expected.
fn object<T: DeserializeOwned>(body: &[u8], otherwise: Code) -> Result<T, Problem> {
    if is_list(body) {
        let checked = serde_json::from_slice::<IgnoredAny>(body);
        checked.map_err(|error| json_problem(&error, otherwise))?;
        return Err(list_for_object("the body", otherwise));
    }
    serde_json::from_slice(body).map_err(|error| json_problem(&error, otherwise))
}

fn list_for_object(place: &str, code: Code) -> Problem {
    Problem::refused(code, format!("{place} is a list, where an object is expected"))
}

/// A JSON body that says what to do.
pub(crate) struct Json<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Admin> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, admin: &Admin) -> Result<Self, Problem> {
        let body = admin.read_json(request, DEFINITION_BYTES).await?;
        object(&body.bytes, Code::InvalidRequest).map(Self)
    }
}

/// A JSON body that says what to do and may have a payload in it.
pub(crate) struct WithPayload<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Admin> for WithPayload<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, admin: &Admin) -> Result<Self, Problem> {
        let body = admin.read_json(request, WITH_PAYLOAD_BYTES).await?;
        object(&body.bytes, Code::InvalidRequest).map(Self)
    }
}

/// A JSON body that may be left out, which says the same as an empty object.
pub(crate) struct Optional<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Admin> for Optional<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, admin: &Admin) -> Result<Self, Problem> {
        let body = admin.read_any_json(request, DEFINITION_BYTES).await?;
        let said = if body.bytes.is_empty() { &b"{}"[..] } else { &body.bytes };
        object(said, Code::InvalidRequest).map(Self)
    }
}

/// A JSON body that is a definition.
pub(crate) struct Defined<T>(pub T);

impl<T: DeserializeOwned + Serialize> FromRequest<Admin> for Defined<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, admin: &Admin) -> Result<Self, Problem> {
        let body = admin.read_json(request, DEFINITION_BYTES).await?;
        let definition = object(&body.bytes, Code::InvalidDefinition)?;
        let said = object(&body.bytes, Code::InvalidDefinition)?;
        check_objects(&said, &definition)?;
        Ok(Self(definition))
    }
}

/// Checks that what a definition has as objects was said as objects, all the way down.
pub(crate) fn check_objects<T: Serialize>(said: &Value, definition: &T) -> Result<(), Problem> {
    match list_in_place_of_object(said, &serde_json::to_value(definition)?) {
        Some(path) => Err(list_for_object(&path, Code::InvalidDefinition)),
        None => Ok(()),
    }
}

/// The path of a list that was understood as an object.
fn list_in_place_of_object(said: &Value, understood: &Value) -> Option<String> {
    let inner = |key: &dyn Display, said: &Value, understood: &Value| {
        let rest = list_in_place_of_object(said, understood)?;
        Some(if rest.is_empty() { key.to_string() } else { format!("{key}.{rest}") })
    };
    match (said, understood) {
        (Value::Array(_), Value::Object(_)) => Some(String::new()),
        (Value::Array(said), Value::Array(understood)) => {
            let mut pairs = said.iter().zip(understood).enumerate();
            pairs.find_map(|(number, (said, understood))| inner(&number, said, understood))
        }
        (Value::Object(said), Value::Object(understood)) => {
            said.iter().find_map(|(key, said)| inner(key, said, understood.get(key)?))
        }
        _ => None,
    }
}
