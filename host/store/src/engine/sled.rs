//! sled behind the port. Called through it; knows nothing of what the rows mean.
//!
//! What this file relies on in sled 0.34.7, as read in its sources:
//! * `apply_batch` is atomic across a crash, and readers never see half of one: it excludes `get`
//!   and each step of an iterator by a lock;
//! * that lock is also held while `flush` waits for the disk, so a batch cannot be applied during a
//!   flush, and a waiting one would hold up every reader: apply and flush belong on one thread;
//! * a segment is used again when each page in it was written elsewhere. While rows are written one page is
//!   moved for each that is put together anew, which is too few where pages get their rows here and there: the
//!   rest is up to the background thread. Its pass ends after half of its interval, and where a segment has no
//!   page left to move: it frees one segment in an interval at the most. Each pass ends with a sync;
//! * an item over a quarter of a segment goes to a file which is never synced. A leaf holds up to
//!   about 17 rows and is written as one item, so with 8 MiB segments a value may have about
//!   120,000 bytes (`store::VALUE_BYTES` keeps below);
//! * a thread of its own lets go of the locked file a moment after the database was dropped.

use std::{
    fs::{File, TryLockError},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use brolly_core::Write;
use bytes::Bytes;

use super::{Bounds, Database, End, Rows};
use crate::sync;

const SEGMENT_BYTES: usize = 8 * 1024 * 1024;

/// How often the background thread makes room, one segment each time. A host at 6,700 messages a second writes more
/// than a segment a second: with 1,000 ms its file grew by 2 MB a second for ever, although as many were forgotten as
/// came. More passes make nothing slower.
const ROOM_EVERY_MS: u64 = 100;

/// How much more memory a page takes than the bytes on the disk that sled counts, with small rows. With a
/// million messages waiting, half of the cache was 40 MiB less and nothing slower (P8).
const IN_MEMORY: u64 = 2;

/// How long to wait for one that was dropped to let go of its file.
const LETTING_GO: Duration = Duration::from_secs(5);

const NOT_SYNCED: &str = "this build of the program does not sync what it flushes (sync_file_range is not \
                          replaced), so nothing would survive a power cut; build it for another target or link mode";

/// An open database.
pub(super) struct Sled {
    db: sled::Db,
    /// The calls of our `fdatasync` before it was opened.
    before: u64,
    /// Whether it was seen to come by that.
    syncs: AtomicBool,
}

impl Sled {
    pub(super) fn open(dir: &Path, cache_bytes: u64) -> Result<Self, String> {
        wait_for_lock(dir);
        let before = sync::calls();
        let db = sled::Config::new()
            .path(dir)
            .cache_capacity(cache_bytes / IN_MEMORY)
            .segment_size(SEGMENT_BYTES)
            .mode(sled::Mode::HighThroughput)
            .flush_every_ms(Some(ROOM_EVERY_MS))
            .open()
            .map_err(|error| error.to_string())?;
        Ok(Self { db, before, syncs: AtomicBool::new(!sync::REPLACED) })
    }
}

/// Waits until nobody holds the lock of a database, or for some seconds: then sled will say what is wrong.
fn wait_for_lock(dir: &Path) {
    let Ok(file) = File::open(dir.join("db")) else { return };
    let deadline = Instant::now() + LETTING_GO;
    while matches!(file.try_lock(), Err(TryLockError::WouldBlock)) && Instant::now() < deadline {
        thread::park_timeout(Duration::from_millis(1));
    }
}

impl Database for Sled {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, String> {
        let value = self.db.get(key).map_err(|error| error.to_string())?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn rows(&self, bounds: Bounds, from: End) -> Rows {
        let rows = self.db.range(bounds).map(|row| {
            let (key, value) = row.map_err(|error| error.to_string())?;
            Ok((Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value)))
        });
        match from {
            End::First => Box::new(rows),
            End::Last => Box::new(rows.rev()),
        }
    }

    /// Visible at once.
    fn apply(&self, writes: Vec<Write>) -> Result<(), String> {
        let mut batch = sled::Batch::default();
        for write in writes {
            match write {
                Write::Put { key, value } => batch.insert(key, value),
                Write::Delete { key } => batch.remove(key),
            }
        }
        self.db.apply_batch(batch).map_err(|error| error.to_string())
    }

    /// The first one, which counts the start of the store, has to come by our `fdatasync`, or the background
    /// thread just before it.
    fn flush(&self) -> Result<(), String> {
        self.db.flush().map_err(|error| error.to_string())?;
        if !self.syncs.load(Ordering::Relaxed) {
            if sync::calls() == self.before {
                return Err(NOT_SYNCED.to_owned());
            }
            self.syncs.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Nothing: sled closes when it is dropped.
    fn close(&self) -> Result<(), String> {
        Ok(())
    }
}
