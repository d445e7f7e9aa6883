//! One message in one queue: its row in the store and its place in the index.

use std::hash::Hasher;

use brolly_core::{Message, Timestamp};
use fnv::FnvHasher;
use serde::{Deserialize, Serialize};

use crate::Error;

/// The format of the row; its first byte.
const FORMAT: u8 = 1;

/// A message in a queue, as the index keeps it: 24 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The message's place in the message table; also the order of publishing.
    pub seq: u64,
    /// FNV-1a of the key, stored so that it means the same after an upgrade; 0 means no key. Two
    /// keys of one hash only wait for each other needlessly.
    pub key: u64,
    /// Size of the payload.
    pub bytes: u32,
    /// Whether it was taken and came back, or was a dead letter: under [`brolly_core::Order::Key`] its key waits for it.
    pub taken: bool,
}

/// The row of an entry.
#[derive(Serialize, Deserialize)]
struct Row {
    key: u64,
    bytes: u32,
    taken: bool,
    /// Held back until then.
    due: Option<Timestamp>,
}

impl Entry {
    pub(crate) fn new(seq: u64, message: &Message) -> Self {
        let bytes = u32::try_from(message.payload.len()).unwrap_or(u32::MAX);
        Self { seq, key: key_hash(&message.key), bytes, taken: false }
    }

    pub(crate) fn to_row(self, due: Option<Timestamp>) -> Result<Vec<u8>, Error> {
        let row = Row { key: self.key, bytes: self.bytes, taken: self.taken, due };
        let mut bytes = Vec::with_capacity(24);
        bytes.push(FORMAT);
        postcard::to_extend(&row, bytes)
            .map_err(|error| Error::Row { row: self.seq.to_string(), why: error.to_string() })
    }

    pub(crate) fn from_row(seq: u64, bytes: &[u8]) -> Result<(Self, Option<Timestamp>), Error> {
        let wrong = |why: String| Error::Row { row: seq.to_string(), why };
        let row: Row = match bytes.split_first() {
            Some((&FORMAT, row)) => postcard::from_bytes(row).map_err(|error| wrong(error.to_string()))?,
            Some((format, _)) => {
                return Err(wrong(format!("it has format {format}, this version reads {FORMAT}")));
            }
            None => return Err(wrong("it is empty".to_owned())),
        };
        Ok((Self { seq, key: row.key, bytes: row.bytes, taken: row.taken }, row.due))
    }
}

fn key_hash(key: &str) -> u64 {
    if key.is_empty() {
        return 0;
    }
    let mut hasher = FnvHasher::default();
    hasher.write(key.as_bytes());
    hasher.finish().max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rows_round_trip(seq: u64, key: u64, bytes: u32, taken: bool, due: Option<u64>) {
            let entry = Entry { seq, key, bytes, taken };
            let due = due.map(Timestamp);
            prop_assert_eq!(Entry::from_row(seq, &entry.to_row(due).unwrap()).unwrap(), (entry, due));
        }

        #[test]
        fn damaged_rows_are_errors_not_panics(bytes: Vec<u8>) {
            let _ = Entry::from_row(1, &bytes);
        }
    }

    #[test]
    fn the_key_hash_is_fnv_1a_and_never_that_of_no_key() {
        assert_eq!(key_hash("a"), 0xaf63_dc4c_8601_ec8c, "the published test vector");
        assert_eq!(key_hash(""), 0);
    }
}
