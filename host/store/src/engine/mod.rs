//! The port to the database that keeps the rows, and the list of those that there are: `sled` and
//! `redb`. Called by `store`, `committer` and `copy`; knows nothing of commits, tables or messages. The
//! simulation has a third one, which loses power.
//!
//! What every engine has to promise:
//! * the writes of one [`Database::apply`] are there after a crash together or not at all, and those
//!   of an earlier one if those of a later one are;
//! * what was applied is visible to readers, and on the disk, when [`Database::flush`] returns; it
//!   may be visible before, never in part;
//! * after an error of either, nothing more is promised: the store stops for good.

mod redb;
mod sled;

use std::{fmt, ops::Bound, panic::AssertUnwindSafe, path::Path, str::FromStr, sync::Arc};

use brolly_core::Write;
use bytes::Bytes;
use serde::Deserialize;

use crate::keys;

/// The database that keeps the rows of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// A log with an index in memory and on the disk, written sequentially.
    #[default]
    Sled,
    /// A copy-on-write B+ tree in one file.
    Redb,
}

impl Engine {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Sled, Self::Redb];

    /// Its name in the configuration, and the name of its folder.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sled => "sled",
            Self::Redb => "redb",
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Engine {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|engine| engine.name() == text);
        known.ok_or_else(|| {
            format!("{text:?} is no engine; there is {}", Self::ALL.map(Self::name).join(", "))
        })
    }
}

/// A key and its value.
pub type Row = (Bytes, Bytes);

/// Rows in their order, or in the opposite one; after an error they end.
pub type Rows = Box<dyn Iterator<Item = Result<Row, String>> + Send>;

/// Keys between two bounds.
pub type Bounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// Where reading begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// At the least key.
    First,
    /// At the greatest.
    Last,
}

/// An open database. One thread writes, any number read. An error is what it says of itself, for people.
#[allow(clippy::missing_errors_doc, reason = "what every engine has to promise stands above")]
pub trait Database: Send + Sync {
    /// The value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, String>;

    /// The rows between the bounds, from either end. One that changes meanwhile is given as it was or
    /// as it is. However long they are kept, they hold up no writer and no space.
    fn rows(&self, bounds: Bounds, from: End) -> Rows;

    /// Takes writes, in the order in which they are to happen.
    fn apply(&self, writes: Vec<Write>) -> Result<(), String>;

    /// Returns when everything applied before the call is on the disk.
    fn flush(&self) -> Result<(), String>;

    /// To be called once, before it is dropped, when everything applied is flushed: leaves a database
    /// that needs no recovery. Reads after it may fail.
    fn close(&self) -> Result<(), String>;
}

/// Opens or creates a database in a folder.
pub(crate) fn open(engine: Engine, dir: &Path, cache_bytes: u64) -> Result<Arc<dyn Database>, String> {
    let open = || -> Result<Arc<dyn Database>, String> {
        Ok(match engine {
            Engine::Sled => Arc::new(sled::Sled::open(dir, cache_bytes)?),
            Engine::Redb => Arc::new(redb::Redb::open(dir, cache_bytes)?),
        })
    };
    // Both engines panic on some kinds of damage.
    std::panic::catch_unwind(AssertUnwindSafe(open)).unwrap_or_else(|panic| {
        Err(format!("the recovery of {engine} stopped with a panic: {}", panic_text(&*panic)))
    })
}

/// Counts a start in a row, and answers with the number of starts. That row must not be older than
/// what is known from outside: sled opens a log whose beginning it cannot read as an empty database,
/// without an error, and redb so a file that is empty.
pub(crate) fn count_start(database: &dyn Database, engine: Engine, known_starts: u64) -> Result<u64, String> {
    let key = keys::meta("starts");
    let earlier = database.get(&key)?.and_then(|value| keys::u64_of(&value)).unwrap_or(0);
    if earlier < known_starts {
        return Err(format!(
            "it has lost data: it remembers {earlier} starts, but there were {known_starts}. Put back {engine}/ from \
             {engine}.unclean/ or a backup; to go on with what is left, remove the file named starts"
        ));
    }
    let starts = earlier.saturating_add(1);
    database.apply(vec![Write::Put { key, value: starts.to_be_bytes().to_vec() }])?;
    database.flush()?;
    Ok(starts)
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given").to_owned()
}
