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
//! 4 to 6 are the same with the moment when the message was met (u64, ms since 1970) before everything
//! else; otherwise it was met when it was published. A change of the envelope takes new numbers and keeps
//! reading the old ones.

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
/// What is added to these three where the moment of meeting follows.
const WITH_MET_AT: u8 = 3;

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
    let met_at = (stored.met_at != message.published_at).then_some(stored.met_at);
    begin(&mut row, IN_ROW, met_at);
    let start = row.len();
    let mut row = postcard::to_extend(&envelope, row).map_err(|error| error.to_string())?;
    if inline && row.len() + payload.len() <= ROW_BYTES {
        row.extend_from_slice(payload);
        return Ok(Encoded { row, file: None });
    }
    let envelope = row.get(start..).unwrap_or_default();
    let (format, file, envelope) = match row.len() + 8 <= ROW_BYTES {
        true => (PAYLOAD_IN_FILE, payload.clone(), envelope),
        false => (ALL_IN_FILE, Bytes::from([envelope, payload].concat()), &[][..]),
    };
    let mut row = Vec::with_capacity(start + 8 + envelope.len());
    begin(&mut row, format, met_at);
    row.extend_from_slice(&length(&file));
    row.extend_from_slice(envelope);
    Ok(Encoded { row, file: Some(file) })
}

fn begin(row: &mut Vec<u8>, format: u8, met_at: Option<Timestamp>) {
    match met_at {
        None => row.push(format),
        Some(met_at) => {
            row.push(format + WITH_MET_AT);
            row.extend_from_slice(&met_at.0.to_be_bytes());
        }
    }
}

/// Reads a row. `file` is called at most once, with the length of the file that belongs to it; none
/// from it means that the payload is not wanted.
pub(crate) fn decode<E: From<Damaged>>(
    row: &Bytes,
    wants_payload: bool,
    file: impl FnOnce(u64) -> Result<Bytes, E>,
) -> Result<StoredMessage, E> {
    let damaged = |reason: &str| E::from(Damaged(reason.to_owned()));
    let number = |rest: &mut &[u8]| {
        let (number, behind) = rest.split_first_chunk().ok_or_else(|| damaged("it ends too early"))?;
        *rest = behind;
        Ok::<_, E>(u64::from_be_bytes(*number))
    };
    let (&first, mut rest) = row.split_first().ok_or_else(|| damaged("it is empty"))?;
    let (format, met_at) = match first {
        4..=6 => (first - WITH_MET_AT, Some(Timestamp(number(&mut rest)?))),
        _ => (first, None),
    };
    let mut stored = match format {
        IN_ROW => open(rest, |payload| row.slice_ref(payload), wants_payload)?,
        PAYLOAD_IN_FILE => {
            let length = number(&mut rest)?;
            let payload = if wants_payload { file(length)? } else { Bytes::new() };
            open(rest, |_| payload, true)?
        }
        ALL_IN_FILE => {
            let all = file(number(&mut rest)?)?;
            open(&all, |payload| all.slice_ref(payload), wants_payload)?
        }
        _ => return Err(damaged(&format!("its format is {first}, this version knows 1 to 6"))),
    };
    stored.met_at = met_at.unwrap_or(stored.met_at);
    Ok(stored)
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
        met_at: message.published_at,
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
        let met_at = any::<Option<u64>>();
        (message, routed, filter_errors, parent, met_at).prop_map(
            |(message, routed, filter_errors, parent, met_at)| {
                let met_at = met_at.map_or(message.published_at, Timestamp);
                StoredMessage { message, met_at, routed, filter_errors, parent }
            },
        )
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
            let all_in_file = [ALL_IN_FILE, ALL_IN_FILE + WITH_MET_AT];
            let needed = encoded.file.filter(|_| row.first().is_some_and(|format| all_in_file.contains(format)));
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
        assert_eq!(refused(&[0, 0, 0]), "its format is 0, this version knows 1 to 6");
        assert_eq!(refused(&[7, 0, 0]), "its format is 7, this version knows 1 to 6");
        for row in [&[2, 0, 0][..], &[4, 0, 0], &[6, 0, 0, 0, 0, 0, 0, 0, 0]] {
            assert_eq!(refused(row), "it ends too early");
        }
    }
}
