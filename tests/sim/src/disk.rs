//! A disk that loses power: the third engine behind the store's port. Called by the store; the world
//! decides when it fails and what is left.
//!
//! It keeps the promises of the port and not one more: of the batches that were applied and not flushed,
//! any number of the first may survive.

use std::{
    collections::BTreeMap,
    hash::{Hash, Hasher},
    ops::Bound,
    sync::Arc,
};

use brolly_core::Write;
use brolly_store::{Bounds, Database, End, Row};
use bytes::Bytes;
use parking_lot::Mutex;

use crate::world;

/// Everything that a disk holds.
pub(crate) type Rows = BTreeMap<Bytes, Bytes>;

/// How the disk fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// There is no room for a batch.
    Full,
    /// A flush ends with an error; what of it came through nobody knows.
    Flush,
}

/// The disk of one run of the host.
pub(crate) struct Disk(Mutex<State>);

struct State {
    /// As the program sees it.
    seen: Rows,
    /// As of the last flush.
    synced: Rows,
    /// What came since, batch by batch.
    unsynced: Vec<Vec<Write>>,
    failing: Option<Failure>,
    broken: bool,
}

impl Disk {
    pub(crate) fn new(rows: Rows) -> Arc<Self> {
        let (seen, synced) = (rows.clone(), rows);
        Arc::new(Self(Mutex::new(State { seen, synced, unsynced: Vec::new(), failing: None, broken: false })))
    }

    /// Has whatever is written fail, or no more.
    pub(crate) fn fail(&self, how: Option<Failure>) {
        self.0.lock().failing = how;
    }

    /// Batches that a power cut may take.
    pub(crate) fn unsynced(&self) -> usize {
        self.0.lock().unsynced.len()
    }

    /// Cuts the power; what is left are the flushed batches and the first `kept` of the others. Whatever
    /// still writes, writes nowhere.
    pub(crate) fn cut(&self, kept: usize) -> Rows {
        let mut state = self.0.lock();
        state.broken = true;
        let mut left = std::mem::take(&mut state.synced);
        state.unsynced.iter().take(kept).flatten().for_each(|write| apply(&mut left, write));
        left
    }

    /// What is seen, what is flushed, and what lies between.
    pub(crate) fn fingerprint(&self, hasher: &mut impl Hasher) {
        let state = self.0.lock();
        (&state.seen, &state.synced, state.unsynced.len()).hash(hasher);
    }

    /// Whether nothing can be written any more.
    pub(crate) fn is_broken(&self) -> bool {
        self.0.lock().broken
    }

    /// Rows whose key begins so.
    pub(crate) fn len(&self, prefix: &[u8]) -> usize {
        let state = self.0.lock();
        let from = Bytes::copy_from_slice(prefix);
        state.seen.range(from..).take_while(|(key, _)| key.starts_with(prefix)).count()
    }
}

fn apply(rows: &mut Rows, write: &Write) {
    match write {
        Write::Put { key, value } => {
            rows.insert(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        }
        Write::Delete { key } => {
            rows.remove(key.as_slice());
        }
    }
}

fn bound(bound: Bound<Vec<u8>>) -> Bound<Bytes> {
    bound.map(Bytes::from)
}

impl Database for Disk {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, String> {
        Ok(self.0.lock().seen.get(key).cloned())
    }

    fn rows(&self, (low, high): Bounds, from: End) -> brolly_store::Rows {
        let state = self.0.lock();
        let range = state.seen.range((bound(low), bound(high)));
        let mut rows: Vec<Row> = range.map(|(key, value)| (key.clone(), value.clone())).collect();
        if from == End::Last {
            rows.reverse();
        }
        Box::new(rows.into_iter().map(Ok))
    }

    fn apply(&self, writes: Vec<Write>) -> Result<(), String> {
        let mut state = self.0.lock();
        if state.broken {
            return Err("the power is gone".to_owned());
        }
        if state.failing == Some(Failure::Full) {
            state.broken = true;
            return Err("no space left on device".to_owned());
        }
        writes.iter().for_each(|write| apply(&mut state.seen, write));
        state.unsynced.push(writes);
        Ok(())
    }

    /// Takes its time: meanwhile others go on.
    fn flush(&self) -> Result<(), String> {
        world::meanwhile();
        let mut state = self.0.lock();
        if state.broken {
            return Err("the power is gone".to_owned());
        }
        if state.failing == Some(Failure::Flush) {
            state.broken = true;
            return Err("input/output error".to_owned());
        }
        let State { synced, unsynced, .. } = &mut *state;
        unsynced.drain(..).flatten().for_each(|write| apply(synced, &write));
        Ok(())
    }

    fn close(&self) -> Result<(), String> {
        Ok(())
    }
}
