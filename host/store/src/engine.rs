//! sled behind the few operations that the store needs. Called by `store` and `committer`; knows
//! nothing of commits, tables or messages. A second engine would be a second file like this one.
//!
//! What this file relies on in sled 0.34.7, as read in its sources:
//! * `apply_batch` is atomic across a crash, and readers never see half of one: it excludes `get`
//!   and each step of an iterator by a lock;
//! * that lock is also held while `flush` waits for the disk, so a batch cannot be applied during a
//!   flush, and a waiting one would hold up every reader: apply and flush belong on one thread;
//! * space is reclaimed while rows are written, not only by the background thread, which is off;
//! * an item over a quarter of a segment goes to a file which is never synced. A leaf holds up to
//!   about 17 rows and is written as one item, so with 8 MiB segments a value may have about
//!   120,000 bytes (`store::VALUE_BYTES` keeps below).

use std::{ops::Bound, panic::AssertUnwindSafe, path::Path};

use brolly_core::Write;
use bytes::Bytes;

use crate::{keys, sync};

const SEGMENT_BYTES: usize = 8 * 1024 * 1024;

/// An open database.
#[derive(Clone)]
pub(crate) struct Engine {
    db: sled::Db,
}

/// Keys between two bounds, both inside one prefix.
pub(crate) type Bounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

impl Engine {
    /// Opens or creates the database in `dir`, proves that a flush reaches the disk, and answers
    /// with the number of starts, this one included. `known_starts` is what an earlier call answered.
    pub(crate) fn open(dir: &Path, cache_bytes: u64, known_starts: u64) -> Result<(Self, u64), String> {
        let open = || {
            let db = sled::Config::new()
                .path(dir)
                .cache_capacity(cache_bytes)
                .segment_size(SEGMENT_BYTES)
                .mode(sled::Mode::HighThroughput)
                .flush_every_ms(None)
                .open()
                .map_err(|error| error.to_string())?;
            let engine = Self { db };
            let starts = engine.start(known_starts)?;
            Ok((engine, starts))
        };
        std::panic::catch_unwind(AssertUnwindSafe(open)).unwrap_or_else(|panic| {
            Err(format!("its recovery stopped with a panic: {}", panic_text(&*panic)))
        })
    }

    /// Counts the start in a row. That row must not be older than what is known from outside: sled
    /// opens a log whose beginning it cannot read as an empty database, without an error. Flushing
    /// the row must come by our `fdatasync`.
    fn start(&self, known_starts: u64) -> Result<u64, String> {
        let key = keys::meta("starts");
        let earlier = self.get(&key)?.and_then(|value| keys::u64_of(&value)).unwrap_or(0);
        if earlier < known_starts {
            return Err(format!(
                "it has lost data: it remembers {earlier} starts, but there were {known_starts}. Put back sled/ from \
                 sled.unclean/ or a backup; to go on with what is left, remove the file named starts"
            ));
        }
        let starts = earlier.saturating_add(1);
        let before = sync::calls();
        self.apply(vec![Write::Put { key, value: starts.to_be_bytes().to_vec() }])?;
        self.flush()?;
        if sync::REPLACED && sync::calls() == before {
            return Err(
                "this build of the program does not sync what it flushes (sync_file_range is not replaced), \
                        so nothing would survive a power cut; build it for another target or link mode"
                    .to_owned(),
            );
        }
        Ok(starts)
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, String> {
        let value = self.db.get(key).map_err(|error| error.to_string())?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    /// The rows between the bounds, from either end.
    pub(crate) fn range(
        &self,
        bounds: Bounds,
    ) -> impl DoubleEndedIterator<Item = Result<(Bytes, Bytes), String>> + use<> {
        self.db.range(bounds).map(|row| {
            let (key, value) = row.map_err(|error| error.to_string())?;
            Ok((Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value)))
        })
    }

    /// Applies all writes or none. They are durable only after [`Engine::flush`].
    pub(crate) fn apply(&self, writes: Vec<Write>) -> Result<(), String> {
        let mut batch = sled::Batch::default();
        for write in writes {
            match write {
                Write::Put { key, value } => batch.insert(key, value),
                Write::Delete { key } => batch.remove(key),
            }
        }
        self.db.apply_batch(batch).map_err(|error| error.to_string())
    }

    /// Returns when everything applied before the call is on the disk.
    pub(crate) fn flush(&self) -> Result<(), String> {
        self.db.flush().map(|_| ()).map_err(|error| error.to_string())
    }
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given").to_owned()
}
