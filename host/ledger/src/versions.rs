//! The versions that have handled a subscription, one row for each change, and what is known of its latest
//! rollout. Written by dispatch while it happens; a host that is killed loses at most the last second of
//! their numbers, never a number of the deliveries themselves.

use brolly_core::{Commit, Digest, Name, Terms, Timestamp};
use brolly_store::keys;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{Error, Ledger};

/// Changes that are remembered of each subscription; the oldest go first.
const SWAPS: usize = 50;

/// Why a version took over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The subscription was changed.
    Put,
    /// Somebody went back to the version before.
    RolledBack,
    /// The host went back, because the version that had taken over faulted too often.
    Returned,
    /// It was the candidate of a rollout.
    Promoted,
}

/// One change of what handles a subscription.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swap {
    /// Counts from 1.
    pub number: u64,
    /// When it was done.
    pub at: Timestamp,
    /// Why.
    pub cause: Cause,
    /// In words, where the host did it.
    pub why: Option<String>,
    /// Whose token asked for it.
    pub by: Option<Name>,
    /// What handled the subscription before, and what a return brings back; none the first time.
    pub before: Option<Terms>,
    /// The version that took over.
    pub version: Digest,
    /// What the one before did from when it took over itself, or from when the host started.
    pub old: Side,
    /// What this one has done since.
    pub new: Side,
    /// When the old one's instances and their memory were given back.
    pub freed_at: Option<Timestamp>,
}

/// What one version did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    /// When it took its first delivery.
    pub first_taken_at: Option<Timestamp>,
    /// When it finished the last one.
    pub last_finished_at: Option<Timestamp>,
    /// Deliveries it took.
    pub taken: u64,
    /// Of these, it acknowledged.
    pub acked: u64,
    /// Of these, it left to be tried again.
    pub retried: u64,
    /// Of these, it made dead letters.
    pub dead: u64,
    /// Of these, the host put back or gave up: it could not serve them.
    pub released: u64,
    /// Of these, it has in hand.
    pub in_hand: u64,
    /// Of these, the version before had in hand at the same time. Nothing may ever be counted here.
    pub twice: u64,
    /// Faults among its attempts.
    pub faults: u64,
}

impl Side {
    /// Deliveries it took of which nobody knows what became. Nothing may ever be counted here.
    #[must_use]
    pub fn lost(&self) -> u64 {
        let known = self.acked + self.retried + self.dead + self.released + self.in_hand;
        self.taken.saturating_sub(known)
    }
}

impl Ledger {
    /// The latest changes of a subscription, at most `limit`, newest first; with `before`, only older ones.
    ///
    /// # Errors
    /// When the store cannot be read, or a row is not understood.
    pub fn swaps(&self, subscription: &Name, before: Option<u64>, limit: usize) -> Result<Vec<Swap>, Error> {
        let before = before.map(|number| keys::swap(subscription, number));
        let rows = self.store.scan_back(&keys::swap_prefix(subscription), before.as_deref());
        rows.take(limit)
            .map(|row| {
                let (key, row) = row?;
                decode("swap", &key, &row)
            })
            .collect()
    }

    /// What a subscription runs on, or ran on when the host ended.
    ///
    /// # Errors
    /// When the store cannot be read, or the row is not understood.
    pub fn terms(&self, subscription: &Name) -> Result<Option<Terms>, Error> {
        let key = keys::terms(subscription);
        self.store.get(&key)?.map(|row| decode("terms", &key, &row)).transpose()
    }

    /// Writes a change down with what the subscription runs on since; the oldest beyond the latest 50 goes.
    ///
    /// # Errors
    /// When it cannot be written as a row.
    pub fn add_swap(&self, subscription: &Name, swap: &Swap, terms: &Terms) -> Result<(), Error> {
        let mut commit = Commit::default();
        commit.put(keys::terms(subscription), encode("terms", terms)?);
        commit.put(keys::swap(subscription, swap.number), encode("swap", swap)?);
        if let Some(oldest) = swap.number.checked_sub(SWAPS as u64).filter(|number| *number > 0) {
            commit.delete(keys::swap(subscription, oldest));
        }
        self.store.submit(commit);
        Ok(())
    }

    /// Writes down what has changed in a change that is known.
    ///
    /// # Errors
    /// When it cannot be written as a row.
    pub fn put_swap(&self, subscription: &Name, swap: &Swap) -> Result<(), Error> {
        let mut commit = Commit::default();
        commit.put(keys::swap(subscription, swap.number), encode("swap", swap)?);
        self.store.submit(commit);
        Ok(())
    }

    /// What is known of the latest rollout of a subscription.
    ///
    /// # Errors
    /// When the store cannot be read, or the row is not understood.
    pub fn rollout<T: DeserializeOwned>(&self, subscription: &Name) -> Result<Option<T>, Error> {
        let key = keys::rollout(subscription);
        self.store.get(&key)?.map(|row| decode("rollout", &key, &row)).transpose()
    }

    /// Writes down what is known of it.
    ///
    /// # Errors
    /// When it cannot be written as a row.
    pub fn put_rollout<T: Serialize>(&self, subscription: &Name, report: &T) -> Result<(), Error> {
        let mut commit = Commit::default();
        commit.put(keys::rollout(subscription), encode("rollout", report)?);
        self.store.submit(commit);
        Ok(())
    }
}

/// These rows hold definitions, whose form is JSON, and are few.
fn encode<T: Serialize>(table: &'static str, row: &T) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(row).map_err(|error| Error::Row {
        table,
        row: "to be written".to_owned(),
        why: error.to_string(),
    })
}

fn decode<T: DeserializeOwned>(table: &'static str, key: &[u8], row: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(row).map_err(|error| Error::Row {
        table,
        row: keys::show(key),
        why: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use brolly_store::{Config, Messages, Store};

    use super::*;

    #[tokio::test]
    async fn the_latest_50_changes_are_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Config::new(dir.path().join("store"))).unwrap();
        let messages = Messages::open(&store).unwrap();
        let ledger = Ledger::open(store.clone(), messages).unwrap();
        let subscription = Name::new("s").unwrap();
        let terms = Terms {
            plugin: Name::new("p").unwrap(),
            version: Digest::from_bytes([1; 32]),
            config: std::collections::BTreeMap::new(),
            limits: brolly_core::Limits::default(),
            grants: brolly_core::Grants::default(),
            instances: brolly_core::Reuse::Fresh,
        };
        let add = |number: u64| {
            let swap = Swap {
                number,
                at: Timestamp(number),
                cause: Cause::Put,
                why: None,
                by: None,
                before: None,
                version: terms.version,
                old: Side::default(),
                new: Side::default(),
                freed_at: None,
            };
            ledger.add_swap(&subscription, &swap, &terms).unwrap();
        };
        let remembered = async || {
            store.commit(Commit::default()).await.unwrap();
            let swaps = ledger.swaps(&subscription, None, 500).unwrap();
            swaps.iter().map(|swap| swap.number).collect::<Vec<_>>()
        };
        (1..=50).for_each(add);
        assert_eq!(remembered().await, (1..=50).rev().collect::<Vec<_>>());
        add(51);
        assert_eq!(remembered().await, (2..=51).rev().collect::<Vec<_>>());
    }
}
