//! The store: opening, reading, committing, closing. Called by everybody who keeps rows; knows
//! nothing of what the rows mean.

use std::{
    ops::Bound,
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use brolly_core::{Commit, Write};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{oneshot, watch};

use crate::{
    Error,
    backup::Tap,
    committer::{Committer, Queue, Stop},
    engine::{self, Bounds, Database, End, Engine, Row},
    folder::{self, Folder},
    keys,
    steps::Steps,
};

/// The longest value of a row: 112 KiB, whatever the engine, so that a store can change it. sled keeps
/// longer ones (from about 120,000 bytes on) in files that it never syncs, and cannot recover when they
/// are missing.
pub const VALUE_BYTES: usize = 112 * 1024;

/// Where the store is and what it may use.
#[derive(Clone, Debug)]
pub struct Config {
    /// The store's folder; created with mode 0700 if it is missing.
    pub dir: PathBuf,
    /// The database that keeps the rows; default sled.
    pub engine: Engine,
    /// Memory for pages read from the disk, in bytes; default 64 MiB.
    pub cache_bytes: u64,
}

impl Config {
    /// The defaults for a folder.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), engine: Engine::default(), cache_bytes: 64 * 1024 * 1024 }
    }
}

/// What the store has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Commits made durable.
    pub commits: u64,
    /// Flushes that made them durable.
    pub flushes: u64,
    /// Rows put or deleted by them.
    pub operations: u64,
}

/// A durable, ordered map from bytes to bytes. Cheap to clone: all clones are one store.
///
/// Commits become durable in the order in which they are submitted: when one is durable, so is
/// every earlier one. Dropping the last clone without [`Store::close`] is like a crash.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    dir: PathBuf,
    queue: Arc<Queue>,
    tap: Arc<Tap>,
    counters: Arc<Counters>,
    failure: Arc<watch::Sender<Option<String>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// None when closed. INVARIANT: dropped before `folder`, which holds the lock.
    database: RwLock<Option<Arc<dyn Database>>>,
    folder: Mutex<Option<Folder>>,
}

#[derive(Default)]
pub(crate) struct Counters {
    commits: AtomicU64,
    flushes: AtomicU64,
    operations: AtomicU64,
}

impl Counters {
    pub(crate) fn count(&self, commits: u64, operations: usize) {
        self.commits.fetch_add(commits, Ordering::Relaxed);
        self.flushes.fetch_add(u64::from(operations > 0), Ordering::Relaxed);
        self.operations.fetch_add(u64::try_from(operations).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl Store {
    /// Opens the store, creating it if need be. Blocks; after an unclean stop for as long as copying
    /// and recovering the database takes.
    ///
    /// # Errors
    /// [`Error::Locked`] when another process, or this one, has the store open;
    /// [`Error::OtherEngine`] when it is another engine's; [`Error::LaterFormat`] when a later version of Brolly
    /// wrote it; [`Error::Open`] or [`Error::File`] when the folder or the database cannot be used.
    pub fn open(config: &Config) -> Result<Self, Error> {
        let folder = Folder::open(&config.dir, config.engine)?;
        let database = open_database(&folder, &config.dir, config.cache_bytes)?;
        let (shared, committer) = assemble(config.dir.clone(), database, Some(folder));
        let thread = std::thread::Builder::new()
            .name("brolly-committer".to_owned())
            .spawn(move || committer.run())
            .map_err(|error| Error::open(&config.dir, &format!("no thread: {error}")))?;
        *shared.thread.lock() = Some(thread);
        Ok(Self { shared: Arc::new(shared) })
    }

    /// A store over a database that somebody else has opened, and that does nothing by itself: [`Steps`]
    /// has the committer's work done, on the caller's thread. For a simulation, in which the order of
    /// everything comes from a seed. Payloads over 64 KiB lie below `dir`, as ever; it is not locked.
    ///
    /// # Errors
    /// [`Error::Open`] when the folder cannot be created.
    pub fn in_steps(dir: PathBuf, database: Arc<dyn Database>) -> Result<(Self, Steps), Error> {
        folder::create(&folder::blobs(&dir)).map_err(|error| Error::open(&dir, &error))?;
        let (shared, committer) = assemble(dir, database, None);
        Ok((Self { shared: Arc::new(shared) }, Steps::new(committer)))
    }

    /// The value of a row. Sees every commit that is durable, maybe one that is about to be, and none
    /// that is still queued: what must be seen at once after [`Store::submit`] the caller keeps in memory.
    ///
    /// # Errors
    /// [`Error::Read`], or [`Error::Closed`].
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let database = self.shared.database.read();
        let database = database.as_ref().ok_or(Error::Closed)?;
        database.get(key).map_err(|reason| Error::read(key, reason))
    }

    /// The rows whose key begins with `prefix`, ascending; with `after`, only those whose key is
    /// greater than it. A row that changes during the scan is seen as it was or as it is. Ends after
    /// the first error, which is one of those of [`Store::get`].
    pub fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
    ) -> impl Iterator<Item = Result<(Bytes, Bytes), Error>> + Send + use<> {
        let low = match after {
            Some(after) if after >= prefix => Bound::Excluded(after.to_vec()),
            _ => Bound::Included(prefix.to_vec()),
        };
        until_error(self.rows(prefix, (low, after_prefix(prefix)), End::First))
    }

    /// The rows whose key begins with `prefix`, descending; with `before`, only those whose key is
    /// less than it. Otherwise like [`Store::scan`].
    pub fn scan_back(
        &self,
        prefix: &[u8],
        before: Option<&[u8]>,
    ) -> impl Iterator<Item = Result<(Bytes, Bytes), Error>> + Send + use<> {
        let high = match (before, after_prefix(prefix)) {
            (Some(before), Bound::Excluded(end)) if before < end.as_slice() => {
                Bound::Excluded(before.to_vec())
            }
            (Some(before), Bound::Unbounded) => Bound::Excluded(before.to_vec()),
            (_, end) => end,
        };
        until_error(self.rows(prefix, (Bound::Included(prefix.to_vec()), high), End::Last))
    }

    fn rows(
        &self,
        prefix: &[u8],
        bounds: Bounds,
        from: End,
    ) -> Result<impl Iterator<Item = Result<Row, Error>> + Send + use<>, Error> {
        let database = self.shared.database.read();
        let rows = database.as_ref().ok_or(Error::Closed)?.rows(bounds, from);
        let prefix = prefix.to_vec();
        Ok(rows.map(move |row| row.map_err(|reason| Error::read(&prefix, reason))))
    }

    /// Queues a commit and returns at once. What follows it (see [`Commit::then`]) runs on the
    /// store's own thread once it is durable, in the order of the commits. Ignored after a failure
    /// or a close: then nothing of it ever happens. A value over [`VALUE_BYTES`] makes the store fail.
    pub fn submit(&self, commit: Commit) {
        self.shared.queue.push(commit);
    }

    /// Submits a commit and waits until it is durable and what follows it has run. Once polled, the
    /// commit happens even if the future is dropped.
    ///
    /// # Errors
    /// [`Error::TooLarge`] for a value over [`VALUE_BYTES`]: nothing happens. [`Error::Failed`] or
    /// [`Error::Closed`]: whether the commit happened is then known only after the next start.
    pub async fn commit(&self, mut commit: Commit) -> Result<(), Error> {
        check_sizes(commit.writes())?;
        let (done, waiting) = oneshot::channel();
        commit.then(move || {
            let _ = done.send(());
        });
        self.submit(commit);
        waiting.await.map_err(|_| self.is_failed().map_or(Error::Closed, Error::Failed))
    }

    /// Why the store failed for good, if it has.
    #[must_use]
    pub fn is_failed(&self) -> Option<String> {
        self.shared.failure.borrow().clone()
    }

    /// Waits until the store has failed for good, and says why; the process is then to exit. Never
    /// returns otherwise.
    pub async fn failed(&self) -> String {
        let mut failure = self.shared.failure.subscribe();
        let reason = match failure.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone(),
            Err(_) => None,
        };
        match reason {
            Some(reason) => reason,
            None => std::future::pending().await,
        }
    }

    /// Makes everything queued durable, stops the thread, and closes the database, for all clones.
    /// Blocks for as long as that takes. A second call does nothing. Not to be called from what
    /// follows a commit.
    pub fn close(&self) {
        self.shared.close(Stop::Drained);
    }

    /// What was done since the store was opened.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let counters = &self.shared.counters;
        Stats {
            commits: counters.commits.load(Ordering::Relaxed),
            flushes: counters.flushes.load(Ordering::Relaxed),
            operations: counters.operations.load(Ordering::Relaxed),
        }
    }

    /// Free space on the store's disk, in bytes.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn free_bytes(&self) -> Result<u64, Error> {
        folder::free_bytes(&self.shared.dir).map_err(|source| self.measuring(source))
    }

    /// What the store occupies on its disk, in bytes, with the copy of an unclean stop. Visits
    /// every file, so it is not for the hot path.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn disk_bytes(&self) -> Result<u64, Error> {
        folder::disk_bytes(&self.shared.dir).map_err(|source| self.measuring(source))
    }

    fn measuring(&self, source: std::io::Error) -> Error {
        Error::File { operation: "measuring the disk of", path: self.shared.dir.clone(), source }
    }

    /// What a copy of the running store listens to.
    pub(crate) fn tap(&self) -> &Tap {
        &self.shared.tap
    }

    /// The engine that keeps the rows.
    pub(crate) fn engine(&self) -> Engine {
        self.shared.folder.lock().as_ref().map_or_else(Engine::default, Folder::engine)
    }

    /// Reads the database as it is.
    pub(crate) fn read_all<T>(&self, read: impl FnOnce(&dyn Database) -> T) -> Result<T, Error> {
        let database = self.shared.database.read().clone().ok_or(Error::Closed)?;
        Ok(read(&*database))
    }

    pub(crate) fn blobs_dir(&self) -> PathBuf {
        folder::blobs(&self.shared.dir)
    }
}

impl Shared {
    fn close(&self, stop: Stop) {
        self.queue.stop(stop);
        let mut thread = self.thread.lock();
        let Some(committer) = thread.take() else { return };
        if self.queue.is_served_here() {
            // The last clone was dropped by what follows a commit; the thread ends by itself.
            return;
        }
        // The thread catches panics; one in its last lines is treated like any unclean end.
        let ended = committer.join().is_ok();
        let database = self.database.write().take();
        let closed = database.is_some_and(|database| close_database(database) == Ok(()));
        let Some(folder) = self.folder.lock().take() else { return };
        let clean = stop == Stop::Drained && ended && closed && self.failure.borrow().is_none();
        if clean && let Err(error) = folder.end() {
            tracing::warn!(%error, "the next start will take this stop for an unclean one");
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.close(Stop::Abandoned);
    }
}

/// A store without its thread.
fn assemble(dir: PathBuf, database: Arc<dyn Database>, folder: Option<Folder>) -> (Shared, Committer) {
    let queue = Arc::new(Queue::default());
    let counters = Arc::new(Counters::default());
    let failure = Arc::new(watch::Sender::new(None));
    let tap = Arc::new(Tap::default());
    let committer = Committer {
        database: database.clone(),
        tap: tap.clone(),
        queue: queue.clone(),
        counters: counters.clone(),
        failure: failure.clone(),
    };
    let shared = Shared {
        dir,
        queue,
        tap,
        counters,
        failure,
        thread: Mutex::new(None),
        database: RwLock::new(Some(database)),
        folder: Mutex::new(folder),
    };
    (shared, committer)
}

/// Opens the database of a folder: copies it first if the last stop was unclean, sets the marker, and
/// counts the start.
pub(crate) fn open_database(
    folder: &Folder,
    dir: &Path,
    cache_bytes: u64,
) -> Result<Arc<dyn Database>, Error> {
    folder.begin()?;
    let known_starts = folder.starts()?;
    let open = || {
        let database = engine::open(folder.engine(), &folder.database(), cache_bytes)?;
        let starts = engine::count_start(&*database, folder.engine(), known_starts)?;
        Ok((database, starts))
    };
    let (database, starts) = open().map_err(|reason: String| Error::open(dir, &reason))?;
    folder.opened(starts)?;
    Ok(database)
}

/// Closes a database and drops it.
pub(crate) fn close_database(database: Arc<dyn Database>) -> Result<(), String> {
    let close = || {
        let closed = database.close();
        drop(database);
        closed
    };
    let closed = std::panic::catch_unwind(AssertUnwindSafe(close))
        .unwrap_or_else(|panic| Err(format!("panic: {}", engine::panic_text(&*panic))));
    closed.inspect_err(|reason| tracing::warn!(%reason, "the database was not closed cleanly"))
}

/// Refuses a value over the limit.
pub(crate) fn check_sizes(writes: &[Write]) -> Result<(), Error> {
    for write in writes {
        match write {
            Write::Put { key, value } if value.len() > VALUE_BYTES => {
                return Err(Error::TooLarge { row: keys::show(key), bytes: value.len() });
            }
            Write::Put { .. } | Write::Delete { .. } => {}
        }
    }
    Ok(())
}

/// The end of the keys that begin with `prefix`.
fn after_prefix(prefix: &[u8]) -> Bound<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return Bound::Excluded(end);
        }
    }
    Bound::Unbounded
}

/// The rows up to and with the first error.
fn until_error<T, I>(rows: Result<I, Error>) -> impl Iterator<Item = Result<T, Error>> + use<T, I>
where
    I: Iterator<Item = Result<T, Error>>,
{
    let (rows, error) = match rows {
        Ok(rows) => (Some(rows), None),
        Err(error) => (None, Some(Err(error))),
    };
    let mut failed = false;
    rows.into_iter()
        .flatten()
        .chain(error)
        .take_while(move |row| !std::mem::replace(&mut failed, row.is_err()))
}
