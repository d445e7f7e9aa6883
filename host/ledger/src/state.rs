//! The state of plugins: key-value entries per subscription, read and written by attempts that run
//! at the same time without losing each other's updates.
//!
//! Attempts are optimistic. Each remembers what it read; at its finish, under one short lock, the
//! ledger checks that nothing it read has changed since, and hands its writes to the store in the
//! same breath. If something has changed, the attempt is run again. A commit is visible to later
//! attempts at once, before it is durable: commits become durable in order, so no attempt can
//! outlive one that it has built on.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use brolly_core::{Commit, Name, StateEntry, StateReader, StateUnavailable};
use brolly_store::{Store, keys};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use crate::{Error, Finish};

/// The states of all subscriptions.
pub(crate) struct States {
    store: Store,
    tables: RwLock<HashMap<Name, Arc<Table>>>,
}

/// The state of one subscription.
struct Table {
    store: Store,
    subscription: Name,
    recent: Mutex<Recent>,
}

/// Writes that a reader of the store might not see yet, or that a running attempt might have missed.
#[derive(Default)]
struct Recent {
    /// The number of the latest commit.
    latest: u64,
    /// Commits up to this one are durable, so the store has them.
    durable: u64,
    /// The latest write of each key, with the number of its commit.
    keys: HashMap<String, (u64, Option<Bytes>)>,
    /// The same writes in the order of their commits, to forget them by.
    order: VecDeque<(u64, String)>,
    /// Bytes of keys and values in the two above.
    bytes: usize,
    /// How many running attempts began at which commit.
    running: BTreeMap<u64, usize>,
}

impl Recent {
    fn write(&mut self, key: &str, value: Option<Bytes>) {
        let written = (self.latest, value);
        self.bytes += size(key, &written.1);
        self.order.push_back((self.latest, key.to_owned()));
        if let Some((_, replaced)) = self.keys.insert(key.to_owned(), written) {
            self.bytes = self.bytes.saturating_sub(size(key, &replaced));
        }
    }

    /// Forgets what the store has, no running attempt could have missed, and there is no room for.
    /// INVARIANT: a write stays until it is durable and every attempt that began before it has ended.
    fn prune(&mut self) {
        let oldest = self.running.keys().next().copied().unwrap_or(u64::MAX);
        let limit = oldest.min(self.durable);
        while (self.order.len() > KEPT_WRITES || self.bytes > KEPT_BYTES)
            && let Some((commit, _)) = self.order.front()
            && *commit <= limit
        {
            if let Some((commit, key)) = self.order.pop_front()
                && self.keys.get(&key).is_some_and(|(latest, _)| *latest == commit)
                && let Some((_, value)) = self.keys.remove(&key)
            {
                self.bytes = self.bytes.saturating_sub(size(&key, &value));
            }
        }
    }
}

/// Writes that are remembered beyond need, because a key that was written is often read again soon:
/// so many for each subscription, and so many bytes of them.
const KEPT_WRITES: usize = 2_048;
const KEPT_BYTES: usize = 1 << 20;

fn size(key: &str, value: &Option<Bytes>) -> usize {
    key.len() + value.as_ref().map_or(0, Bytes::len)
}

/// What an attempt has read, and as of which commit.
enum Read {
    Key { key: String, at: u64 },
    Prefix { prefix: String, at: u64 },
}

/// The state of a subscription as one attempt sees it.
pub struct StateView {
    table: Arc<Table>,
    began: u64,
    reads: Mutex<Vec<Read>>,
}

impl States {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, tables: RwLock::default() }
    }

    pub(crate) fn view(&self, subscription: &Name) -> StateView {
        let table = self.table(subscription);
        let began = {
            let mut recent = table.recent.lock();
            let latest = recent.latest;
            *recent.running.entry(latest).or_default() += 1;
            latest
        };
        StateView { table, began, reads: Mutex::default() }
    }

    fn table(&self, subscription: &Name) -> Arc<Table> {
        if let Some(table) = self.tables.read().get(subscription) {
            return table.clone();
        }
        let mut tables = self.tables.write();
        let new = || Table {
            store: self.store.clone(),
            subscription: subscription.clone(),
            recent: Mutex::default(),
        };
        tables.entry(subscription.clone()).or_insert_with(|| Arc::new(new())).clone()
    }
}

impl StateView {
    /// Hands over the commit that `stage` makes, with `writes` added, unless something that this
    /// attempt read has changed. Without writes nothing can conflict: a retry or a rejection stands
    /// on what the attempt saw.
    pub(crate) fn finish<E: From<Error>>(
        &self,
        writes: Option<&BTreeMap<String, Option<Bytes>>>,
        stage: impl FnOnce() -> Result<Commit, E>,
    ) -> Result<Finish, E> {
        let mut recent = self.table.recent.lock();
        if writes.is_some() && self.conflicts(&recent) {
            return Ok(Finish::Conflict);
        }
        let mut commit = stage()?;
        if let Some(writes) = writes.filter(|writes| !writes.is_empty()) {
            recent.latest += 1;
            let number = recent.latest;
            for (key, value) in writes {
                let row = keys::state(&self.table.subscription, key);
                match value {
                    Some(value) => commit.put(row, value.to_vec()),
                    None => commit.delete(row),
                }
                recent.write(key, value.clone());
            }
            let table = self.table.clone();
            commit.then(move || {
                let mut recent = table.recent.lock();
                recent.durable = number;
                recent.prune();
            });
        }
        // INVARIANT: submitted under the lock, so that the store sees commits in the order of their numbers.
        self.table.store.submit(commit);
        Ok(Finish::Submitted)
    }

    fn conflicts(&self, recent: &Recent) -> bool {
        self.reads.lock().iter().any(|read| match read {
            Read::Key { key, at } => recent.keys.get(key).is_some_and(|(commit, _)| commit > at),
            Read::Prefix { prefix, at } => {
                recent.keys.iter().any(|(key, (commit, _))| commit > at && key.starts_with(prefix))
            }
        })
    }

    /// Reads entries for people: what is there now, in the order of keys.
    pub(crate) fn entries(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<StateEntry>, brolly_store::Error> {
        let recent: BTreeMap<String, Option<Bytes>> = {
            let recent = self.table.recent.lock();
            self.reads.lock().push(Read::Prefix { prefix: prefix.to_owned(), at: recent.latest });
            let within = |key: &str| key.starts_with(prefix) && after.is_none_or(|after| key > after);
            recent
                .keys
                .iter()
                .filter(|(key, _)| within(key))
                .map(|(k, (_, v))| (k.clone(), v.clone()))
                .collect()
        };
        let row_prefix = keys::state(&self.table.subscription, prefix);
        let row_after = after.map(|after| keys::state(&self.table.subscription, after));
        let mut entries = BTreeMap::new();
        for row in self.table.store.scan(&row_prefix, row_after.as_deref()) {
            let (row, value) = row?;
            let Some((_, key)) = keys::parse_state(&row) else { continue };
            if !recent.contains_key(key) {
                entries.insert(key.to_owned(), value);
            }
            if entries.len() >= limit {
                break;
            }
        }
        entries.extend(recent.into_iter().filter_map(|(key, value)| value.map(|value| (key, value))));
        Ok(entries.into_iter().take(limit).map(|(key, value)| StateEntry { key, value }).collect())
    }
}

impl StateReader for StateView {
    fn get(&self, key: &str) -> Result<Option<Bytes>, StateUnavailable> {
        {
            let recent = self.table.recent.lock();
            self.reads.lock().push(Read::Key { key: key.to_owned(), at: recent.latest });
            if let Some((_, value)) = recent.keys.get(key) {
                return Ok(value.clone());
            }
        }
        let row = keys::state(&self.table.subscription, key);
        self.table.store.get(&row).map_err(|error| StateUnavailable(error.to_string()))
    }

    fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<StateEntry>, StateUnavailable> {
        self.entries(prefix, after, limit).map_err(|error| StateUnavailable(error.to_string()))
    }
}

impl Drop for StateView {
    fn drop(&mut self) {
        let mut recent = self.table.recent.lock();
        if let Some(count) = recent.running.get_mut(&self.began) {
            *count -= 1;
            if *count == 0 {
                recent.running.remove(&self.began);
            }
        }
        recent.prune();
    }
}
