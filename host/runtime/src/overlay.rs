//! State as one attempt sees it: its own writes over what the store holds. Used by `imports`; what
//! it collects becomes the effects of the attempt.

use std::{collections::BTreeMap, ops::Bound, vec::IntoIter};

use brolly_core::{Fault, Limits, StateEntry, StateReader, StateUnavailable};
use bytes::Bytes;

use crate::fault::Stop;

/// The most entries that one call may list.
pub(crate) const MAX_LIST: usize = 1_000;
/// Entries read from the store at a time while listing, which bounds what is held at once.
const PAGE: usize = 128;

/// The writes of one attempt: the last value for each key; none deletes it.
#[derive(Debug, Default)]
pub(crate) struct Overlay {
    writes: BTreeMap<String, Option<Bytes>>,
    /// Bytes of keys and values in `writes`.
    bytes: u64,
}

impl Overlay {
    pub(crate) fn into_writes(self) -> BTreeMap<String, Option<Bytes>> {
        self.writes
    }

    /// Sets or deletes a key.
    pub(crate) fn write(&mut self, key: String, value: Option<Bytes>, limits: &Limits) -> Result<(), Fault> {
        check_key(&key)?;
        let size = |value: &Option<Bytes>| value.as_ref().map_or(0, Bytes::len);
        if size(&value) > Limits::STATE_VALUE_BYTES {
            return Err(Fault::BadCall(format!(
                "state: the value for the key {key:?} has {} bytes, the limit is {}",
                size(&value),
                Limits::STATE_VALUE_BYTES
            )));
        }
        let (keys, freed) = match self.writes.get(&key) {
            Some(old) => (self.writes.len(), key.len() + size(old)),
            None => (self.writes.len() + 1, 0),
        };
        if keys as u64 > u64::from(limits.state_writes) {
            return Err(Fault::Limit {
                what: format!("{keys} keys of state written"),
                limit: limits.state_writes.into(),
                setting: "limits.state_writes",
            });
        }
        let bytes = self.bytes - freed as u64 + (key.len() + size(&value)) as u64;
        if bytes > limits.state_bytes {
            return Err(Fault::Limit {
                what: format!("{bytes} bytes of state written"),
                limit: limits.state_bytes,
                setting: "limits.state_bytes",
            });
        }
        self.bytes = bytes;
        self.writes.insert(key, value);
        Ok(())
    }

    /// The value under `key`, the attempt's own if it wrote one.
    pub(crate) fn get(&self, key: &str, store: &dyn StateReader) -> Result<Option<Bytes>, Stop> {
        check_key(key)?;
        match self.writes.get(key) {
            Some(own) => Ok(own.clone()),
            None => Ok(store.get(key)?),
        }
    }

    /// Up to `limit` entries whose key begins with `prefix`, from the first key after `after` on.
    /// `room` is what the guest has memory for at most, in bytes.
    pub(crate) fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        room: u64,
        store: &dyn StateReader,
    ) -> Result<Vec<StateEntry>, Stop> {
        if limit > MAX_LIST {
            return Err(Fault::BadCall(format!(
                "state: list-by-prefix asked for {limit} entries, the limit is {MAX_LIST}; list page by page"
            ))
            .into());
        }
        let mut own = self.own(prefix, after).peekable();
        let mut stored = Pages { store, prefix, after: after.map(str::to_owned), page: None, wanted: limit };
        let mut next_stored = if limit > 0 { stored.next()? } else { None };
        let mut found: Vec<StateEntry> = Vec::new();
        let mut bytes = 0;
        while found.len() < limit {
            let own_first = match (own.peek(), &next_stored) {
                (None, None) => break,
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (Some((key, _)), Some(entry)) => **key <= *entry.key,
            };
            let entry = if own_first {
                let Some((key, value)) = own.next() else { break };
                if next_stored.as_ref().is_some_and(|entry| entry.key == *key) {
                    next_stored = stored.next()?;
                }
                // A key that the attempt deleted is not there any more.
                let Some(value) = value else { continue };
                StateEntry { key: key.to_owned(), value: value.clone() }
            } else {
                let Some(entry) = std::mem::replace(&mut next_stored, stored.next()?) else { break };
                entry
            };
            bytes += (entry.key.len() + entry.value.len()) as u64;
            if bytes > room {
                // The guest could not hold the answer; the host does not gather it for nothing.
                return Err(Fault::OutOfMemory { wanted: bytes, limit: room }.into());
            }
            found.push(entry);
        }
        Ok(found)
    }

    fn own<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a str, &'a Option<Bytes>)> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        self.writes
            .range::<str, _>((from, Bound::Unbounded))
            .map(|(key, value)| (key.as_str(), value))
            .take_while(move |(key, _)| key.starts_with(prefix))
    }
}

/// The stored entries, read page by page.
struct Pages<'a> {
    store: &'a dyn StateReader,
    prefix: &'a str,
    after: Option<String>,
    /// The rest of the page, and whether another one may follow; none before the first.
    page: Option<(IntoIter<StateEntry>, bool)>,
    wanted: usize,
}

impl Pages<'_> {
    fn next(&mut self) -> Result<Option<StateEntry>, StateUnavailable> {
        loop {
            if let Some((page, more)) = &mut self.page {
                match page.next() {
                    Some(entry) => return Ok(Some(entry)),
                    None if !*more => return Ok(None),
                    None => {}
                }
            }
            let size = self.wanted.clamp(1, PAGE);
            let page = self.store.list(self.prefix, self.after.as_deref(), size)?;
            if let Some(last) = page.last() {
                self.after = Some(last.key.clone());
            }
            let more = page.len() >= size;
            self.page = Some((page.into_iter(), more));
        }
    }
}

/// A key has 1 to 512 bytes and no control characters.
fn check_key(key: &str) -> Result<(), Fault> {
    let limit = Limits::STATE_KEY_BYTES;
    let breach = match key.len() {
        0 => "is empty".to_owned(),
        len if len > limit => format!("has {len} bytes, the limit is {limit}"),
        _ if key.chars().any(char::is_control) => "contains a control character".to_owned(),
        _ => return Ok(()),
    };
    Err(Fault::BadCall(format!("state: a key {breach}")))
}
