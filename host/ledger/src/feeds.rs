//! What is remembered of each feed: when it was last heard, and what was missed; and by what name this
//! host is known to others.

use brolly_core::{Commit, Gap, Name, Timestamp};
use brolly_store::{Store, keys};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Error, Ledger, deliveries};

/// Gaps that are remembered for each feed; the oldest go first.
const GAPS: usize = 100;

/// What is remembered of a feed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// When it was last known to be heard.
    pub at: Option<Timestamp>,
    /// How often something was missed.
    pub missed: u64,
    /// The latest 100 of these, oldest first.
    pub gaps: Vec<Gap>,
}

impl Heard {
    /// Adds a gap.
    pub fn add(&mut self, gap: Gap) {
        self.missed += 1;
        self.gaps.push(gap);
        self.gaps.drain(..self.gaps.len().saturating_sub(GAPS));
    }
}

/// The name of the host, made at its first start.
pub(crate) fn host(store: &Store) -> Result<String, Error> {
    let key = keys::meta("host");
    if let Some(name) = store.get(&key)? {
        return Ok(String::from_utf8_lossy(&name).into_owned());
    }
    let name = Uuid::now_v7().simple().to_string();
    let mut commit = Commit::default();
    commit.put(key, name.clone().into_bytes());
    store.submit(commit);
    Ok(name)
}

impl Ledger {
    /// What is remembered of the feed of a topic.
    ///
    /// # Errors
    /// When the store cannot be read, or the row is not understood.
    pub fn heard(&self, topic: &Name) -> Result<Heard, Error> {
        let key = keys::feed(topic);
        match self.store.get(&key)? {
            Some(row) => deliveries::decode("feed", &key, &row),
            None => Ok(Heard::default()),
        }
    }

    /// Remembers it.
    ///
    /// # Errors
    /// When it cannot be written down.
    pub fn remember(&self, topic: &Name, heard: &Heard) -> Result<(), Error> {
        let mut commit = Commit::default();
        commit.put(keys::feed(topic), deliveries::encode(heard)?);
        self.store.submit(commit);
        Ok(())
    }
}
