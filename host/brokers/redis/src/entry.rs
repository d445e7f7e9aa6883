//! An entry of a stream and the message that it is.
//!
//! Brolly writes the fields `brolly` (`1`), `id`, `key`, `content-type`, `headers` (a JSON object of
//! texts), `published-at` and `expires-at` (milliseconds since 1970) and `payload`. An entry without
//! `brolly` was written by somebody else:
//! * the payload is the field `payload`, `data` or `body`, the first that is there; without one, all
//!   fields as a JSON object of texts;
//! * the key is the field `key`, or `ce_partitionkey`; none otherwise;
//! * the content type is the field `content-type`, `content_type` or `ce_datacontenttype`; without
//!   one, `application/json` if the payload is a JSON object or array;
//! * headers are the other fields, if there is a field for the payload;
//! * the id is that of a CloudEvent, `ce_source#ce_id`, or that of the entry with the stream in front
//!   of it. A field `id` is not it: that may as well be the number of a customer, and a second message
//!   of one id is ignored.
//!
//! Pure: knows neither connection nor settlement.

use std::collections::BTreeMap;

use brolly_core::{Message, Name, Timestamp};
use bytes::Bytes;

use crate::envelope::{self, Opened};

/// What marks an entry as Brolly's own.
const OWN: &str = "brolly";

/// The fields of a message, without its payload, that stands last.
pub(crate) fn fields(message: &Message) -> Vec<(&'static str, String)> {
    let mut fields = vec![(OWN, "1".to_owned()), ("id", message.id.clone())];
    if !message.key.is_empty() {
        fields.push(("key", message.key.clone()));
    }
    if !message.content_type.is_empty() {
        fields.push(("content-type", message.content_type.clone()));
    }
    if !message.headers.is_empty() {
        // Texts can always be written as JSON.
        fields.push(("headers", serde_json::to_string(&message.headers).unwrap_or_default()));
    }
    fields.push(("published-at", message.published_at.0.to_string()));
    if let Some(expires) = message.expires_at {
        fields.push(("expires-at", expires.0.to_string()));
    }
    fields
}

/// The message of an entry. `size` is what all its fields have together; an entry that is too large to
/// be handed out has none of them here.
pub(crate) fn open(
    stream: &str,
    topic: &Name,
    id: &str,
    fields: Vec<(String, Bytes)>,
    size: usize,
) -> Opened {
    let here: usize = fields.iter().map(|(name, text)| name.len() + text.len()).sum();
    let mut fields: BTreeMap<String, Bytes> = fields.into_iter().collect();
    let own = fields.get(OWN).is_some_and(|version| &**version == b"1") && fields.contains_key("id");
    let message =
        if own { own_message(topic, id, &mut fields) } else { foreign_message(stream, topic, id, fields) };
    let (message, unfit) = envelope::fit(message, size.saturating_sub(here));
    Opened { message, attempts: 0, unfit, derived: false }
}

fn own_message(topic: &Name, id: &str, fields: &mut BTreeMap<String, Bytes>) -> Message {
    let headers = fields.remove("headers").and_then(|json| serde_json::from_slice(&json).ok());
    let payload = fields.remove("payload").unwrap_or_default();
    let mut text = |name: &str| fields.remove(name).map(|text| lossy(&text));
    Message {
        id: text("id").unwrap_or_default(),
        topic: topic.clone(),
        key: text("key").unwrap_or_default(),
        content_type: text("content-type").unwrap_or_default(),
        headers: headers.unwrap_or_default(),
        published_at: text("published-at").and_then(|ms| ms.parse().ok()).map_or(time_of(id), Timestamp),
        expires_at: text("expires-at").and_then(|ms| ms.parse().ok()).map(Timestamp),
        payload,
    }
}

fn foreign_message(stream: &str, topic: &Name, id: &str, mut fields: BTreeMap<String, Bytes>) -> Message {
    let text = |name: &str| fields.get(name).map(|text| lossy(text));
    let event = text("ce_source").zip(text("ce_id")).map(|(source, id)| format!("{source}#{id}"));
    let key = text("key").or_else(|| text("ce_partitionkey")).unwrap_or_default();
    let named = ["content-type", "content_type", "ce_datacontenttype"].into_iter().find_map(text);
    let holder = ["payload", "data", "body"].into_iter().find(|name| fields.contains_key(*name));
    let (payload, headers) = match holder {
        Some(name) => {
            let payload = fields.remove(name).unwrap_or_default();
            (payload, fields.iter().map(|(name, text)| (name.clone(), lossy(text))).collect())
        }
        None => {
            let texts: BTreeMap<&String, String> =
                fields.iter().map(|(name, text)| (name, lossy(text))).collect();
            (serde_json::to_vec(&texts).unwrap_or_default().into(), BTreeMap::new())
        }
    };
    Message {
        id: event.unwrap_or_else(|| format!("{stream}/{id}")),
        topic: topic.clone(),
        key,
        content_type: named.unwrap_or_else(|| envelope::content_type_of(&payload).to_owned()),
        headers,
        published_at: time_of(id),
        expires_at: None,
        payload,
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// When an entry was written: the first half of its id, unless its producer made that up.
fn time_of(id: &str) -> Timestamp {
    Timestamp(id.split('-').next().and_then(|ms| ms.parse().ok()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic() -> Name {
        Name::new("orders.paid").unwrap()
    }

    fn open_fields(fields: &[(&str, &str)]) -> Opened {
        let fields: Vec<(String, Bytes)> =
            fields.iter().map(|(name, text)| ((*name).to_owned(), Bytes::from((*text).to_owned()))).collect();
        let size = fields.iter().map(|(name, text)| name.len() + text.len()).sum();
        open("s", &topic(), "1700000000000-3", fields, size)
    }

    #[test]
    fn what_brolly_writes_comes_back() {
        let message = Message {
            id: "i".into(),
            topic: topic(),
            key: "k.l".into(),
            content_type: "text/plain".into(),
            headers: BTreeMap::from([("a".into(), "\"b\"".into())]),
            published_at: Timestamp(7),
            expires_at: Some(Timestamp(9)),
            payload: Bytes::from_static(b"\xff\x00"),
        };
        for message in [
            message.clone(),
            Message { key: String::new(), headers: BTreeMap::new(), expires_at: None, ..message },
        ] {
            let mut written: Vec<(String, Bytes)> =
                fields(&message).into_iter().map(|(name, text)| (name.to_owned(), text.into())).collect();
            written.push(("payload".into(), message.payload.clone()));
            let opened = open("s", &topic(), "1-1", written, 0);
            assert_eq!(opened, Opened { message, attempts: 0, unfit: None, derived: false });
        }
    }

    #[test]
    fn what_others_write_is_mapped_as_documented() {
        let opened = open_fields(&[("data", r#"{"a":1}"#), ("id", "42"), ("key", "eu.de")]);
        assert_eq!(opened.message.id, "s/1700000000000-3");
        assert_eq!(
            (opened.message.key.as_str(), &*opened.message.payload),
            ("eu.de", br#"{"a":1}"#.as_slice())
        );
        assert_eq!(opened.message.content_type, "application/json");
        assert_eq!(opened.message.published_at, Timestamp(1_700_000_000_000));
        assert_eq!(opened.message.headers["id"], "42");

        let opened = open_fields(&[("customer", "7"), ("amount", "12")]);
        assert_eq!(&*opened.message.payload, br#"{"amount":"12","customer":"7"}"#);
        assert!(opened.message.headers.is_empty());

        let opened = open_fields(&[
            ("ce_id", "9"),
            ("ce_source", "/shop"),
            ("ce_partitionkey", "k"),
            ("ce_datacontenttype", "text/x"),
            ("body", "b"),
        ]);
        assert_eq!((opened.message.id.as_str(), opened.message.key.as_str()), ("/shop#9", "k"));
        assert_eq!((opened.message.content_type.as_str(), opened.unfit), ("text/x", None));
        assert_eq!(opened.message.headers["ce_id"], "9");
    }

    #[test]
    fn an_entry_that_is_too_large_says_so_and_keeps_its_id() {
        let opened = open("s", &topic(), "5-0", Vec::new(), 20 << 20);
        assert_eq!(opened.message.id, "s/5-0");
        assert!(opened.unfit.unwrap().contains("limit"));
        let opened = open_fields(&[("payload", "p"), ("key", &"k".repeat(256))]);
        assert!(opened.unfit.unwrap().contains("key has 256"));
        assert_eq!(opened.message.key, "");
    }
}
