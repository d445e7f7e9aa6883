//! CloudEvents 1.0 over HTTP: binary, structured and batch form, as the CloudEvents HTTP protocol
//! binding and JSON format have them. Every attribute becomes a message header `ce-NAME`.

use std::collections::BTreeMap;

use axum::http::HeaderMap;
use base64::{Engine, prelude::BASE64_STANDARD};
use brolly_core::{Code, NewMessage, Refusal};
use bytes::Bytes;
use percent_encoding::percent_decode_str;
use serde_json::value::RawValue;

use crate::{body::json_problem, problem::Problem, publish::BULK_MESSAGES};

type Attributes = BTreeMap<String, String>;
type Members<'a> = BTreeMap<String, &'a RawValue>;

fn invalid(detail: impl Into<String>) -> Refusal {
    Refusal::new(Code::InvalidMessage, detail)
}

/// An event whose attributes are HTTP headers and whose data is the body.
pub(crate) fn from_headers(headers: &HeaderMap, data: Bytes) -> Result<NewMessage, Problem> {
    let mut attributes = Attributes::new();
    for (name, value) in headers {
        let Some(attribute) = name.as_str().strip_prefix("ce-") else { continue };
        let not_text = || invalid(format!("the header {name} is not percent-encoded UTF-8"));
        let encoded = std::str::from_utf8(value.as_bytes()).map_err(|_| not_text())?;
        let decoded = percent_decode_str(encoded).decode_utf8().map_err(|_| not_text())?;
        attributes.insert(attribute.to_owned(), decoded.into_owned());
    }
    let content_type = crate::publish::text(headers, "content-type")?.unwrap_or_default();
    Ok(event(attributes, content_type, data)?)
}

/// An event that is the whole JSON body.
pub(crate) fn from_json(body: &[u8]) -> Result<NewMessage, Problem> {
    let members: Members<'_> =
        serde_json::from_slice(body).map_err(|error| json_problem(&error, Code::InvalidMessage))?;
    Ok(from_members(members)?)
}

/// Events in a JSON array.
pub(crate) fn from_batch(body: &[u8]) -> Result<Vec<NewMessage>, Problem> {
    let events: Vec<Members<'_>> =
        serde_json::from_slice(body).map_err(|error| json_problem(&error, Code::InvalidMessage))?;
    if events.len() > BULK_MESSAGES {
        let detail =
            format!("there are {} events, the limit of one request is {BULK_MESSAGES}", events.len());
        return Err(Problem::refused(Code::TooLarge, detail));
    }
    let numbered = |(number, members): (usize, Members<'_>)| {
        from_members(members).and_then(|message| message.check().map(|()| message)).map_err(|refusal| {
            let detail = format!("event {}: {}; nothing was published", number + 1, refusal.detail);
            Problem::refused(refusal.code, detail)
        })
    };
    events.into_iter().enumerate().map(numbered).collect()
}

fn from_members(mut members: Members<'_>) -> Result<NewMessage, Refusal> {
    let (data, base64) = (members.remove("data"), members.remove("data_base64"));
    let mut attributes = Attributes::new();
    for (name, value) in members {
        if let Some(value) = attribute(&name, value)? {
            attributes.insert(name, value);
        }
    }
    let content_type = attributes.remove("datacontenttype");
    let payload = match (data, base64) {
        (Some(_), Some(_)) => return Err(invalid("the event has both data and data_base64")),
        (None, None) => Bytes::new(),
        (None, Some(encoded)) => {
            let text: String =
                serde_json::from_str(encoded.get()).map_err(|_| invalid("data_base64 is no string"))?;
            let decoded = BASE64_STANDARD.decode(text);
            decoded.map_err(|error| invalid(format!("data_base64 is not base 64: {error}")))?.into()
        }
        (Some(data), None) => plain_data(data, content_type.as_deref()),
    };
    let content_type = content_type.unwrap_or_else(|| "application/json".to_owned());
    event(attributes, content_type, payload)
}

/// JSON data is kept as it stands; a string under another media type is the data itself.
fn plain_data(data: &RawValue, content_type: Option<&str>) -> Bytes {
    let media = content_type.unwrap_or("application/json").split(';').next().unwrap_or_default().trim();
    let is_json = media.ends_with("/json") || media.ends_with("+json");
    match serde_json::from_str::<String>(data.get()) {
        Ok(text) if !is_json => text.into(),
        _ => Bytes::copy_from_slice(data.get().as_bytes()),
    }
}

/// An attribute is a string, a number or true or false; null is as good as left out.
fn attribute(name: &str, value: &RawValue) -> Result<Option<String>, Refusal> {
    match value.get().as_bytes().first() {
        Some(b'n') => Ok(None),
        Some(b'"') => serde_json::from_str(value.get())
            .map(Some)
            .map_err(|error| invalid(format!("the attribute {name:?} is no text: {error}"))),
        Some(b'{' | b'[') => {
            Err(invalid(format!("the attribute {name:?} is an object or a list; data goes into data")))
        }
        _ => Ok(Some(value.get().to_owned())),
    }
}

/// The message of an event.
fn event(attributes: Attributes, content_type: String, payload: Bytes) -> Result<NewMessage, Refusal> {
    if let Some(name) = attributes.keys().find(|name| !is_attribute_name(name)) {
        return Err(invalid(format!("the attribute name {name:?} is not made of a-z and 0-9")));
    }
    let required = |name: &str| match attributes.get(name).map(String::as_str) {
        None | Some("") => Err(invalid(format!("the event has no {name}, which CloudEvents 1.0 require"))),
        Some(value) => Ok(value),
    };
    let version = required("specversion")?;
    if version != "1.0" {
        return Err(invalid(format!("the event is of CloudEvents {version:?}; 1.0 is taken")));
    }
    required("type")?;
    let id = format!("{}#{}", required("source")?, required("id")?);
    Ok(NewMessage {
        id: Some(id),
        key: attributes.get("partitionkey").cloned().unwrap_or_default(),
        content_type,
        headers: attributes.into_iter().map(|(name, value)| (format!("ce-{name}"), value)).collect(),
        payload,
        ..NewMessage::default()
    })
}

fn is_attribute_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}
