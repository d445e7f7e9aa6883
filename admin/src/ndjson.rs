//! NDJSON: many messages, one JSON object a line. A payload is published in exactly the bytes that
//! it has in its line.

use std::collections::BTreeMap;

use brolly_core::{Code, NewMessage};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{body::is_list, problem::Problem, publish::BULK_MESSAGES};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    id: Option<String>,
    #[serde(default)]
    key: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    content_type: Option<String>,
    delay_ms: Option<u64>,
    expires_ms: Option<u64>,
    #[serde(borrow)]
    payload: &'a RawValue,
}

/// Reads messages; lines without anything are passed over.
pub(crate) fn parse(body: &[u8]) -> Result<Vec<NewMessage>, Problem> {
    let mut messages = Vec::new();
    for (number, line) in body.split(|byte| *byte == b'\n').enumerate() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        if messages.len() == BULK_MESSAGES {
            let detail = format!("there are more than {BULK_MESSAGES} messages, the limit of one request");
            return Err(Problem::refused(Code::TooLarge, detail));
        }
        let wrong = |why: String| {
            Problem::refused(
                Code::InvalidMessage,
                format!("line {}: {why}; nothing was published", number + 1),
            )
        };
        if is_list(line) {
            return Err(wrong("it is a list, where an object with a payload is expected".to_owned()));
        }
        let line: Line<'_> = serde_json::from_slice(line).map_err(|error| wrong(reason(&error)))?;
        let message = NewMessage {
            id: line.id,
            key: line.key,
            content_type: line.content_type.unwrap_or_else(|| "application/json".to_owned()),
            headers: line.headers,
            delay_ms: line.delay_ms,
            expires_ms: line.expires_ms,
            // Copied, so that a small payload does not hold on to the whole body.
            payload: Bytes::copy_from_slice(line.payload.get().as_bytes()),
        };
        message.check().map_err(|refusal| {
            let detail = format!("line {}: {}; nothing was published", number + 1, refusal.detail);
            Problem::refused(refusal.code, detail)
        })?;
        messages.push(message);
    }
    Ok(messages)
}

/// What the parser says, without the line, which it counts anew in every line.
pub(crate) fn reason(error: &serde_json::Error) -> String {
    let said = error.to_string();
    let said = said.rsplit_once(" at line ").map_or(said.as_str(), |(said, _)| said);
    format!("{said} (column {})", error.column())
}
