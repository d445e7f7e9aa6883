//! A subscription's state in memory. Nothing of it is kept.

use std::{collections::BTreeMap, ops::Bound};

use brolly_core::{StateEntry, StateReader, StateUnavailable};
use bytes::Bytes;

/// Values by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryState(pub BTreeMap<String, Bytes>);

impl MemoryState {
    /// Does what an acknowledged attempt wrote; none deletes a key.
    pub fn write(&mut self, writes: &BTreeMap<String, Option<Bytes>>) {
        for (key, value) in writes {
            match value {
                Some(value) => drop(self.0.insert(key.clone(), value.clone())),
                None => drop(self.0.remove(key)),
            }
        }
    }
}

impl StateReader for MemoryState {
    fn get(&self, key: &str) -> Result<Option<Bytes>, StateUnavailable> {
        Ok(self.0.get(key).cloned())
    }

    fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<StateEntry>, StateUnavailable> {
        let from = match after.filter(|after| *after >= prefix) {
            Some(after) => Bound::Excluded(after),
            None => Bound::Included(prefix),
        };
        let entries = self.0.range::<str, _>((from, Bound::Unbounded));
        let entries = entries.take_while(|(key, _)| key.starts_with(prefix)).take(limit);
        Ok(entries.map(|(key, value)| StateEntry { key: key.clone(), value: value.clone() }).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_begins_after_a_key_and_ends_with_the_prefix() {
        let entries = ["a", "b/1", "b/2", "b/3", "c"];
        let state = MemoryState(entries.iter().map(|key| ((*key).to_owned(), Bytes::new())).collect());
        let check = |after: Option<&str>, limit, expect: &[&str]| {
            let found = state.list("b/", after, limit).unwrap();
            let keys: Vec<&str> = found.iter().map(|entry| entry.key.as_str()).collect();
            assert_eq!(keys, expect, "after {after:?}");
        };
        check(None, 9, &["b/1", "b/2", "b/3"]);
        check(None, 2, &["b/1", "b/2"]);
        check(Some("b/1"), 9, &["b/2", "b/3"]);
        check(Some("b/15"), 9, &["b/2", "b/3"]);
        check(Some("a"), 9, &["b/1", "b/2", "b/3"]);
        check(Some("c"), 9, &[]);
    }
}
