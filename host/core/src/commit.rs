//! One commit: the rows that must become durable together, and what may happen only afterwards.
//!
//! Broker, ledger and state each add their rows to the same commit, so that outcome, effects and
//! settlement cannot be torn apart by a crash. Only the author of a row knows what it means.

use std::fmt;

/// One row to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Insert or replace.
    Put {
        /// The row's key.
        key: Vec<u8>,
        /// The row's value.
        value: Vec<u8>,
    },
    /// Remove; removing a row that is not there is no error.
    Delete {
        /// The row's key.
        key: Vec<u8>,
    },
}

/// What happens once a commit is durable.
pub type Afterwards = Box<dyn FnOnce() + Send>;

/// Rows that are written together or not at all, and what follows once they are durable.
#[derive(Default)]
pub struct Commit {
    writes: Vec<Write>,
    afterwards: Vec<Afterwards>,
}

impl Commit {
    /// Adds a row to insert or replace.
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.writes.push(Write::Put { key, value });
    }

    /// Adds a row to remove.
    pub fn delete(&mut self, key: Vec<u8>) {
        self.writes.push(Write::Delete { key });
    }

    /// Adds something that happens once, after the rows are durable, in the order of the commits.
    /// It runs on a thread of the store's: it must be short and must not block. It never runs if
    /// the commit fails.
    pub fn then(&mut self, action: impl FnOnce() + Send + 'static) {
        self.afterwards.push(Box::new(action));
    }

    /// The rows, in the order in which they were added.
    #[must_use]
    pub fn writes(&self) -> &[Write] {
        &self.writes
    }

    /// Takes the commit apart for the store.
    #[must_use]
    pub fn into_parts(self) -> (Vec<Write>, Vec<Afterwards>) {
        (self.writes, self.afterwards)
    }
}

impl fmt::Debug for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Commit({} writes, {} afterwards)", self.writes.len(), self.afterwards.len())
    }
}
