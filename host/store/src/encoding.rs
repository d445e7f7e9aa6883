//! How a message is written as bytes. Called by `messages`; knows nothing of files and tables.
//!
//! A row begins with its format:
//!
//! ```text
//! 1  envelope (postcard)  payload          everything in the row
//! 2  length of the file (u64)  envelope    the payload in a file
//! 3  length of the file (u64)              envelope and payload in a file
//! ```
//!
//! A change of the envelope takes new numbers and keeps reading the old ones.

use std::{collections::BTreeMap, sync::Arc};

use brolly_core::{Message, Name, Timestamp};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::messages::{Parent, StoredMessage};

/// The largest payload that is kept in the row: 64 KiB.
pub(crate) const PAYLOAD_BYTES: usize = 64 * 1024;

/// The largest row.
pub(crate) const ROW_BYTES: usize = crate::store::VALUE_BYTES;

const IN_ROW: u8 = 1;
const PAYLOAD_IN_FILE: u8 = 2;
const ALL_IN_FILE: u8 = 3;

/// Everything of a stored message but its payload.
#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    published_at: Timestamp,
    expires_at: Option<Timestamp>,
    id: &'a str,
    topic: &'a str,
    key: &'a str,
    content_type: &'a str,
    #[serde(borrow)]
    headers: Vec<(&'a str, &'a str)>,
    #[serde(borrow)]
    routed: Vec<&'a str>,
    #[serde(borrow)]
    filter_errors: Vec<(&'a str, &'a str)>,
    #[serde(borrow)]
    parent: Option<(u64, &'a str)>,
}

/// A message as it is to be kept.
pub(crate) struct Encoded {
    /// The row.
    pub(crate) row: Vec<u8>,
    /// What is to be in a file of its own, if anything.
    pub(crate) file: Option<Bytes>,
}

pub(crate) fn encode(stored: &StoredMessage) -> Result<Encoded, String> {
    let message = &*stored.message;
    let payload = &message.payload;
    let envelope = Envelope {
        published_at: message.published_at,
        expires_at: message.expires_at,
        id: &message.id,
        topic: message.topic.as_str(),
        key: &message.key,
        content_type: &message.content_type,
        headers: message.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect(),
        routed: stored.routed.iter().map(Name::as_str).collect(),
        filter_errors: stored.filter_errors.iter().map(|(name, why)| (name.as_str(), why.as_str())).collect(),
        parent: stored.parent.as_ref().map(|parent| (parent.seq, parent.subscription.as_str())),
    };
    let inline = payload.len() <= PAYLOAD_BYTES;
    let guess =
        128 + message.id.len() + message.key.len() + 32 * (envelope.headers.len() + envelope.routed.len());
    let mut row = Vec::with_capacity(guess + if inline { payload.len() } else { 0 });
    row.push(IN_ROW);
    let mut row = postcard::to_extend(&envelope, row).map_err(|error| error.to_string())?;
    if inline && row.len() + payload.len() <= ROW_BYTES {
        row.extend_from_slice(payload);
        return Ok(Encoded { row, file: None });
    }
    let envelope = row.get(1..).unwrap_or_default();
    if row.len() + 8 <= ROW_BYTES {
        let row = [&[PAYLOAD_IN_FILE], &length(payload)[..], envelope].concat();
        return Ok(Encoded { row, file: Some(payload.clone()) });
    }
    let file = Bytes::from([envelope, payload].concat());
    Ok(Encoded { row: [&[ALL_IN_FILE], &length(&file)[..]].concat(), file: Some(file) })
}

/// Reads a row. `file` is called at most once, with the length of the file that belongs to it; none
/// from it means that the payload is not wanted.
pub(crate) fn decode<E: From<Damaged>>(
    row: &Bytes,
    wants_payload: bool,
    file: impl FnOnce(u64) -> Result<Bytes, E>,
) -> Result<StoredMessage, E> {
    let damaged = |reason: &str| E::from(Damaged(reason.to_owned()));
    let (&format, rest) = row.split_first().ok_or_else(|| damaged("it is empty"))?;
    match format {
        IN_ROW => Ok(open(rest, |payload| row.slice_ref(payload), wants_payload)?),
        PAYLOAD_IN_FILE | ALL_IN_FILE => {
            let (length, rest) = rest.split_first_chunk().ok_or_else(|| damaged("it ends too early"))?;
            let length = u64::from_be_bytes(*length);
            if format == ALL_IN_FILE {
                let all = file(length)?;
                return Ok(open(&all, |payload| all.slice_ref(payload), wants_payload)?);
            }
            let payload = if wants_payload { file(length)? } else { Bytes::new() };
            Ok(open(rest, |_| payload, true)?)
        }
        other => Err(damaged(&format!("its format is {other}, this version knows 1 to 3"))),
    }
}

/// Why bytes are no message.
pub(crate) struct Damaged(pub(crate) String);

fn open(
    bytes: &[u8],
    payload: impl FnOnce(&[u8]) -> Bytes,
    wants_payload: bool,
) -> Result<StoredMessage, Damaged> {
    let damaged = |reason: String| Damaged(reason);
    let (envelope, rest): (Envelope<'_>, &[u8]) =
        postcard::take_from_bytes(bytes).map_err(|error| damaged(error.to_string()))?;
    let name = |text: &str| Name::new(text).map_err(|refusal| damaged(refusal.detail));
    let message = Message {
        id: envelope.id.to_owned(),
        topic: name(envelope.topic)?,
        key: envelope.key.to_owned(),
        content_type: envelope.content_type.to_owned(),
        headers: envelope
            .headers
            .into_iter()
            .map(|(n, v)| (n.to_owned(), v.to_owned()))
            .collect::<BTreeMap<_, _>>(),
        published_at: envelope.published_at,
        expires_at: envelope.expires_at,
        payload: if wants_payload { payload(rest) } else { Bytes::new() },
    };
    let filter_errors =
        envelope.filter_errors.into_iter().map(|(route, why)| Ok((name(route)?, why.to_owned())));
    let parent = match envelope.parent {
        None => None,
        Some((seq, subscription)) => Some(Parent { seq, subscription: name(subscription)? }),
    };
    Ok(StoredMessage {
        message: Arc::new(message),
        routed: envelope.routed.into_iter().map(name).collect::<Result<_, _>>()?,
        filter_errors: filter_errors.collect::<Result<_, _>>()?,
        parent,
    })
}

fn length(bytes: &[u8]) -> [u8; 8] {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names() -> impl Strategy<Value = Name> {
        "[A-Za-z0-9][A-Za-z0-9._-]{0,20}".prop_map(|text| Name::new(&text).unwrap())
    }

    fn messages() -> impl Strategy<Value = StoredMessage> {
        let sizes =
            prop_oneof![0..400_usize, PAYLOAD_BYTES - 2..=PAYLOAD_BYTES + 2, ROW_BYTES - 200..ROW_BYTES + 10];
        let message = (
            ("\\PC{1,40}", names(), "\\PC{0,20}", "\\PC{0,20}"),
            prop::collection::btree_map("\\PC{1,9}", "\\PC{0,9}", 0..5),
            (any::<u64>(), any::<Option<u64>>()),
            (sizes, any::<u8>()),
        );
        let message =
            message.prop_map(|((id, topic, key, content_type), headers, (at, expires), (size, byte))| {
                Arc::new(Message {
                    id,
                    topic,
                    key,
                    content_type,
                    headers,
                    published_at: Timestamp(at),
                    expires_at: expires.map(Timestamp),
                    payload: vec![byte; size].into(),
                })
            });
        // Now and then so many queues that the envelope does not fit into a row.
        let routed = prop_oneof![
            8 => prop::collection::vec(names(), 0..4),
            1 => names().prop_map(|name| vec![name; ROW_BYTES / 2]),
        ];
        let filter_errors = prop::collection::vec((names(), "\\PC{0,20}"), 0..3);
        let parent = prop::option::of(
            (any::<u64>(), names()).prop_map(|(seq, subscription)| Parent { seq, subscription }),
        );
        (message, routed, filter_errors, parent).prop_map(|(message, routed, filter_errors, parent)| {
            StoredMessage { message, routed, filter_errors, parent }
        })
    }

    fn read(row: &Bytes, file: Option<&Bytes>, wants_payload: bool) -> Result<StoredMessage, String> {
        let decoded = decode::<Damaged>(row, wants_payload, |length| {
            let file = file.cloned().ok_or_else(|| Damaged("no file".into()))?;
            assert_eq!(length, file.len() as u64);
            Ok(file)
        });
        decoded.map_err(|damaged| damaged.0)
    }

    proptest! {
        #[test]
        fn messages_round_trip(stored in messages()) {
            let encoded = encode(&stored).map_err(TestCaseError::fail)?;
            prop_assert!(encoded.row.len() <= ROW_BYTES);
            prop_assert!(encoded.file.is_some() || stored.message.payload.len() <= PAYLOAD_BYTES);
            let row = Bytes::from(encoded.row);
            prop_assert_eq!(read(&row, encoded.file.as_ref(), true), Ok(stored.clone()));
            let bare = StoredMessage {
                message: Arc::new(Message { payload: Bytes::new(), ..(*stored.message).clone() }),
                ..stored
            };
            let needed = encoded.file.filter(|_| row.first() == Some(&ALL_IN_FILE));
            prop_assert_eq!(read(&row, needed.as_ref(), false), Ok(bare));
        }

        #[test]
        fn damaged_rows_are_refused_or_read_but_never_panic(
            stored in messages(), cut: prop::sample::Index, flipped: prop::sample::Index, bit in 0..8_u32,
        ) {
            let mut row = encode(&stored).map_err(TestCaseError::fail)?.row;
            let read = |row: Vec<u8>| decode::<Damaged>(&row.into(), true, |_| Ok(Bytes::from_static(&[9; 40]))).is_ok();
            read(row[..cut.index(row.len())].to_vec());
            let flipped = flipped.index(row.len().min(200));
            row[flipped] ^= 1 << bit;
            read(row);
        }

        #[test]
        fn any_bytes_are_refused_or_read_but_never_panic(bytes: Vec<u8>) {
            let _ = decode::<Damaged>(&bytes.into(), true, |_| Ok(Bytes::new()));
        }
    }

    #[test]
    fn the_format_is_checked() {
        let refused = |row: &'static [u8]| read(&Bytes::from_static(row), None, true).unwrap_err();
        assert_eq!(refused(&[]), "it is empty");
        assert_eq!(refused(&[4, 0, 0]), "its format is 4, this version knows 1 to 3");
        assert_eq!(refused(&[2, 0, 0]), "it ends too early");
    }
}
