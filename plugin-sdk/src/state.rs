//! The subscription's own key-value state.
//!
//! What an attempt writes is visible to itself at once, and takes effect if and only if the
//! delivery is acknowledged, in the same commit. Deliveries that run at the same time never lose
//! each other's updates: the host runs one of them again. So totals kept here are exact.
//!
//! Limits, each of which ends the attempt: a key has 1 to 512 bytes and no control characters, a
//! value at most 65,536 bytes; an attempt writes at most as many keys and bytes as the
//! subscription's `state_writes` and `state_bytes` say (by default 100 and 1 MiB).

use std::vec;

use serde::{Serialize, de::DeserializeOwned};

use crate::{Failure, OrFail, host};

/// The most entries that one call can list.
pub const PAGE: u32 = 1_000;

/// How many entries [`list`] fetches at a time: few enough that they fit in a small memory.
const FETCH: u32 = 100;

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Vec<u8>,
}

/// The value under a key, or none.
#[must_use]
pub fn get(key: &str) -> Option<Vec<u8>> {
    host::state_get(key)
}

/// Sets the value under a key.
pub fn set(key: &str, value: impl AsRef<[u8]>) {
    host::state_set(key, value.as_ref());
}

/// Removes a key; one that is not there is no error.
pub fn delete(key: &str) {
    host::state_delete(key);
}

/// The JSON value under a key, or none.
///
/// # Errors
/// [`Failure::Retry`] if the value is not the JSON of a `T`: the state was written by another
/// version of the plugin, and the message is not at fault.
pub fn get_json<T: DeserializeOwned>(key: &str) -> Result<Option<T>, Failure> {
    match get(key) {
        None => Ok(None),
        Some(value) => {
            serde_json::from_slice(&value).map(Some).or_retry(format_args!("the state under {key:?}"))
        }
    }
}

/// Sets the value under a key to JSON.
///
/// # Errors
/// [`Failure::Retry`] if the value cannot be written as JSON, such as a map whose keys are not texts.
pub fn set_json<T: Serialize + ?Sized>(key: &str, value: &T) -> Result<(), Failure> {
    set(key, serde_json::to_vec(value).or_retry(format_args!("the new state for {key:?}"))?);
    Ok(())
}

/// Reads the JSON value under a key (or takes the default), changes it, writes it back, and
/// answers with what it is now.
///
/// # Errors
/// Those of [`get_json`] and [`set_json`].
pub fn update_json<T>(key: &str, change: impl FnOnce(&mut T)) -> Result<T, Failure>
where
    T: Default + Serialize + DeserializeOwned,
{
    let mut value = get_json(key)?.unwrap_or_default();
    change(&mut value);
    set_json(key, &value)?;
    Ok(value)
}

/// All entries whose key begins with `prefix`, sorted by key. Fetches as it goes, so `take` and
/// `find` read no more than they need.
///
/// ```
/// # use brolly_plugin::{testing::Harness, state, Delivery};
/// # let handle = |_: Delivery| {
/// state::set("day/1997-01-02", "b");
/// state::set("day/1997-01-01", "a");
/// let first = state::list("day/").next();
/// assert_eq!(first.unwrap().key, "day/1997-01-01");
/// # Ok(())
/// # };
/// # Harness::new().delivery("").run(handle).assert_ack();
/// ```
pub fn list(prefix: &str) -> List {
    List { prefix: prefix.to_owned(), fetched: Vec::new().into_iter(), after: None, more: true }
}

/// Up to `limit` (at most [`PAGE`]) entries whose key begins with `prefix`, sorted by key; with
/// `after`, from the first key greater than it on.
#[must_use]
pub fn page(prefix: &str, after: Option<&str>, limit: u32) -> Vec<Entry> {
    host::state_list(prefix, after, limit)
}

/// The entries under a prefix; made by [`list`].
#[derive(Debug)]
#[must_use = "nothing is read before the iterator is asked"]
pub struct List {
    prefix: String,
    fetched: vec::IntoIter<Entry>,
    after: Option<String>,
    more: bool,
}

impl Iterator for List {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        if self.fetched.len() == 0 && self.more {
            let page = page(&self.prefix, self.after.as_deref(), FETCH);
            self.more = page.len() == FETCH as usize;
            self.fetched = page.into_iter();
        }
        let entry = self.fetched.next()?;
        if self.fetched.len() == 0 {
            self.after = Some(entry.key.clone());
        }
        Some(entry)
    }
}
