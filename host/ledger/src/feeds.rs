//! What is remembered of each feed: when it was last heard, and what was missed.

use brolly_core::{Commit, Gap, Name, Timestamp};
use brolly_store::keys;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Error, Ledger, deliveries};

/// Gaps that are remembered for each feed; the oldest go first.
const GAPS: usize = 100;

/// What is remembered of a feed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// By what name this host is known to the other hosts of the group.
    pub host: String,
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

impl Ledger {
    /// What is remembered of the feed of a topic.
    ///
    /// # Errors
    /// When the store cannot be read, or the row is not understood.
    pub fn heard(&self, topic: &Name) -> Result<Heard, Error> {
        let key = keys::feed(topic);
        match self.store.get(&key)? {
            Some(row) => deliveries::decode("feed", &key, &row),
            None => Ok(Heard { host: Uuid::now_v7().to_string(), ..Heard::default() }),
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
