//! The state of a capture, for the attempt that is made again.

use std::{collections::BTreeMap, ops::Bound};

use brolly_core::{StateEntry, StateReader, StateUnavailable};
use bytes::Bytes;
use parking_lot::Mutex;

use crate::{Capture, Read};

/// What a captured attempt read. Another plugin may want to read what that one did not: nobody knows
/// what was there.
pub struct RecordedState {
    values: BTreeMap<String, Option<Bytes>>,
    lists: Vec<(String, Option<String>, usize, Vec<StateEntry>)>,
    /// Whether what was not read is taken for absent.
    absent: bool,
    /// The first read that the capture has no answer to.
    unknown: Mutex<Option<String>>,
}

impl RecordedState {
    /// The state of a capture. With `absent`, what the captured attempt did not read is taken for not
    /// being there; otherwise the attempt that reads it cannot be served.
    #[must_use]
    pub fn new(capture: &Capture, absent: bool) -> Self {
        let (mut values, mut lists) = (BTreeMap::new(), Vec::new());
        for read in &capture.reads {
            match read {
                Read::Get { key, value } => {
                    values.insert(key.clone(), value.clone().map(|value| value.0));
                }
                Read::List { prefix, after, limit, entries } => {
                    let entry = |(key, value): &(String, crate::Blob)| StateEntry {
                        key: key.clone(),
                        value: value.0.clone(),
                    };
                    let entries: Vec<StateEntry> = entries.iter().map(entry).collect();
                    values.extend(entries.iter().map(|entry| (entry.key.clone(), Some(entry.value.clone()))));
                    lists.push((prefix.clone(), after.clone(), *limit, entries));
                }
            }
        }
        Self { values, lists, absent, unknown: Mutex::default() }
    }

    /// The first read that the capture has no answer to.
    pub fn unknown(&self) -> Option<String> {
        self.unknown.lock().clone()
    }

    fn unknown_read<T>(&self, what: String, nothing: T) -> Result<T, StateUnavailable> {
        self.unknown.lock().get_or_insert_with(|| what.clone());
        if self.absent {
            return Ok(nothing);
        }
        Err(StateUnavailable(format!(
            "the capture does not have {what}, which the captured attempt did not read"
        )))
    }
}

impl StateReader for RecordedState {
    fn get(&self, key: &str) -> Result<Option<Bytes>, StateUnavailable> {
        match self.values.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.unknown_read(format!("the key {key:?}"), None),
        }
    }

    fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<StateEntry>, StateUnavailable> {
        let is_it = |(of, from, most, _): &&(String, Option<String>, usize, Vec<StateEntry>)| {
            of == prefix && from.as_deref() == after && *most == limit
        };
        if let Some((.., entries)) = self.lists.iter().find(is_it) {
            return Ok(entries.clone());
        }
        let from = match after.filter(|after| *after >= prefix) {
            Some(after) => Bound::Excluded(after),
            None => Bound::Included(prefix),
        };
        let known = self.values.range::<str, _>((from, Bound::Unbounded));
        let known = known.take_while(|(key, _)| key.starts_with(prefix));
        let entry = |(key, value): (&String, &Option<Bytes>)| {
            Some(StateEntry { key: key.clone(), value: value.clone()? })
        };
        let known = known.filter_map(entry).take(limit).collect();
        self.unknown_read(format!("the keys that begin with {prefix:?}"), known)
    }
}
