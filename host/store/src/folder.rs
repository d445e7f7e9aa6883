//! The store's folder: who may open it, which engine's database counts, whether the last stop was
//! clean, and the copy that is made before a recovery. Called by `store` and `copy`; knows nothing of
//! rows.
//!
//! ```text
//! lock             held (flock) while the store is open
//! format           the version of the form in which everything here is stored
//! engine           the engine whose database counts
//! open             the marker: written before the database is opened, removed by a clean close
//! ENGINE/          the database of an engine; of another than `engine` names, what a copy to that
//!                  engine left that did not come to its end, or what one from it did not yet remove
//! ENGINE.unclean/  the database as the last unclean stop left it; at most one such copy is kept
//! starts           how often the store was opened, to be compared with what the database remembers
//! blobs/           payloads too large for a row, a file for each
//! ```

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    time::Instant,
};

use crate::{Engine, Error};

/// Free disk space that must be left after the copy: 256 MiB.
pub(crate) const COPY_RESERVE_BYTES: u64 = 256 * 1024 * 1024;

/// What the marker says while the database is recovered from a copied state, and otherwise.
const RECOVERING: &str = "recovering";
const OPEN: &str = "open";

const LOCK: &str = "lock";
const ENGINE: &str = "engine";
const FORMAT: &str = "format";

/// The latest form of what is stored, which this version of Brolly writes. It reads this one and all earlier ones;
/// a later one it could only damage. A change that an earlier version of Brolly cannot read takes the next number.
///
/// 2: messages from elsewhere say when they were met.
const LATEST_FORMAT: u32 = 2;

const NO_COPY: &str = "the last stop was not clean, and the database is recovered without a copy of it";

/// The folder, locked for this process.
pub(crate) struct Folder {
    dir: PathBuf,
    engine: Engine,
    _lock: File,
}

impl Folder {
    /// Creates what is missing and takes the lock. Refuses a folder of another engine.
    pub(crate) fn open(dir: &Path, wanted: Engine) -> Result<Self, Error> {
        let fail = |source| Error::open(dir, &source);
        create(&blobs(dir)).map_err(fail)?;
        let lock = lock(dir)?;
        let format = format_of(dir)?;
        let found = engine_of(dir)?;
        let folder = Self { dir: dir.to_owned(), engine: found.unwrap_or(wanted), _lock: lock };
        if folder.engine != wanted {
            return Err(Error::OtherEngine { dir: dir.to_owned(), found: folder.engine, wanted });
        }
        // First of all that is written: what follows is never without it.
        if format.is_none_or(|format| format < LATEST_FORMAT) {
            folder.write(FORMAT, &LATEST_FORMAT.to_string())?;
        }
        if found.is_none() {
            folder.switch(wanted)?;
        }
        create(&folder.database()).map_err(fail)?;
        for other in Engine::ALL.into_iter().filter(|engine| *engine != wanted) {
            let left = folder.database_of(other);
            if left.exists() {
                tracing::warn!(dir = %left.display(), "left by a copy to another engine, not used, and can be deleted");
            }
        }
        Ok(folder)
    }

    /// Takes the lock of a folder that holds a store, whatever its engine is.
    pub(crate) fn existing(dir: &Path) -> Result<Self, Error> {
        let none = || Error::open(dir, &"there is none");
        // Taking the lock would create it.
        if !dir.join(LOCK).exists() {
            return Err(none());
        }
        let lock = lock(dir)?;
        format_of(dir)?;
        let engine = engine_of(dir)?.ok_or_else(none)?;
        Ok(Self { dir: dir.to_owned(), engine, _lock: lock })
    }

    /// The engine whose database counts.
    pub(crate) fn engine(&self) -> Engine {
        self.engine
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.database_of(self.engine)
    }

    pub(crate) fn database_of(&self, engine: Engine) -> PathBuf {
        self.dir.join(engine.name())
    }

    /// Has the database of an engine count, in one durable step.
    pub(crate) fn switch(&self, engine: Engine) -> Result<(), Error> {
        self.write(ENGINE, engine.name())
    }

    fn write(&self, name: &str, line: &str) -> Result<(), Error> {
        let path = self.dir.join(name);
        self.replace(&path, line).map_err(|source| Error::File { operation: "writing", path, source })
    }

    fn marker(&self) -> PathBuf {
        self.dir.join("open")
    }

    /// Copies the database if the last stop was unclean, then sets the marker for this run.
    pub(crate) fn begin(&self) -> Result<(), Error> {
        let copy = self.unclean("");
        let marker = fs::read_to_string(self.marker()).ok();
        let recovering = match marker.as_deref() {
            None => false,
            // The recovery after that copy did not come to its end and may have done harm: the copy
            // must not be replaced by what it left.
            Some(RECOVERING) if copy.exists() => true,
            Some(_) => self.keep_copy(&copy),
        };
        self.mark(if recovering { RECOVERING } else { OPEN })
    }

    fn unclean(&self, suffix: &str) -> PathBuf {
        self.dir.join(format!("{}.unclean{suffix}", self.engine))
    }

    fn mark(&self, state: &str) -> Result<(), Error> {
        self.replace(&self.marker(), state).map_err(|source| Error::File {
            operation: "marking the store as open with",
            path: self.marker(),
            source,
        })
    }

    /// Writes a file of one line in one durable step.
    fn replace(&self, path: &Path, line: &str) -> io::Result<()> {
        let new = path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(line.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        sync_dir(&self.dir)
    }

    /// The number of starts, as [`Folder::opened`] wrote it; zero for a new store.
    pub(crate) fn starts(&self) -> Result<u64, Error> {
        let path = self.dir.join("starts");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(source) => return Err(Error::File { operation: "reading", path, source }),
        };
        let reason = || format!("its file {} does not hold a number", path.display());
        text.trim().parse().map_err(|_| Error::open(&self.dir, &reason()))
    }

    /// To be called when the database is open: writes the number of starts, and makes everything
    /// durable that opening created.
    pub(crate) fn opened(&self, starts: u64) -> Result<(), Error> {
        self.sync(self.engine)?;
        self.write("starts", &starts.to_string())?;
        self.mark(OPEN)
    }

    /// Makes everything that opening an engine's database created durable: names in folders, and the
    /// files that sled writes without syncing them (its `conf`).
    pub(crate) fn sync(&self, engine: Engine) -> Result<(), Error> {
        let fail = |path: &Path, source| Error::File { operation: "syncing", path: path.to_owned(), source };
        let database = self.database_of(engine);
        for entry in fs::read_dir(&database).map_err(|source| fail(&database, source))? {
            let path = entry.map_err(|source| fail(&database, source))?.path();
            File::open(&path).and_then(|file| file.sync_all()).map_err(|source| fail(&path, source))?;
        }
        let absolute = std::path::absolute(&self.dir).map_err(|source| fail(&self.dir, source))?;
        let parent = absolute.parent().unwrap_or(&absolute);
        for folder in [database.as_path(), &blobs(&self.dir), &self.dir, parent] {
            sync_dir(folder).map_err(|source| fail(folder, source))?;
        }
        Ok(())
    }

    /// Removes the marker: what is on the disk is complete.
    pub(crate) fn end(&self) -> Result<(), Error> {
        let removed = fs::remove_file(self.marker()).and_then(|()| sync_dir(&self.dir));
        removed.map_err(|source| Error::File {
            operation: "removing the marker",
            path: self.marker(),
            source,
        })
    }

    /// Recovery may fail or destroy what it cannot read, so it works on the original only when a
    /// copy exists. A copy that cannot be made is no reason not to start: it is said in the log.
    /// Answers whether there is one.
    fn keep_copy(&self, to: &Path) -> bool {
        let from = self.database();
        let started = Instant::now();
        let outcome = disk_bytes(&from).and_then(|bytes| {
            let free = free_bytes(&self.dir)?;
            if free < bytes.saturating_add(COPY_RESERVE_BYTES) {
                return Ok(Err((bytes, free)));
            }
            tracing::warn!(bytes, "the last stop was not clean: copying the database before its recovery");
            let partial = self.unclean(".partial");
            remove_dir(&partial)?;
            copy_dir(&from, &partial)?;
            remove_dir(to)?;
            fs::rename(&partial, to)?;
            sync_dir(&self.dir)?;
            Ok(Ok(bytes))
        });
        match outcome {
            Ok(Ok(bytes)) => {
                let seconds = started.elapsed().as_secs_f64();
                tracing::info!(bytes, seconds, copy = %to.display(), "copied the database; recovery follows");
                true
            }
            Ok(Err((bytes, free))) => {
                tracing::warn!(bytes, free, "{NO_COPY}: too little free disk space");
                false
            }
            Err(error) => {
                tracing::warn!(%error, "{NO_COPY}: copying failed");
                false
            }
        }
    }
}

/// The engine whose database counts; none if there is no store. One that was made before there was a
/// choice is sled's.
fn engine_of(dir: &Path) -> Result<Option<Engine>, Error> {
    let path = dir.join(ENGINE);
    match fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().map(Some).map_err(|reason| {
            Error::open(dir, &format!("its file {} does not name an engine: {reason}", path.display()))
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(dir.join(Engine::Sled.name()).exists().then_some(Engine::Sled))
        }
        Err(source) => Err(Error::File { operation: "reading", path, source }),
    }
}

/// The form of what is stored; none if nothing is, or if it was stored before there were forms to tell apart, which is
/// the first one.
fn format_of(dir: &Path) -> Result<Option<u32>, Error> {
    let path = dir.join(FORMAT);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::File { operation: "reading", path, source }),
    };
    let reason = || format!("its file {} does not hold a number", path.display());
    let found = text.trim().parse().map_err(|_| Error::open(dir, &reason()))?;
    if found > LATEST_FORMAT {
        return Err(Error::LaterFormat { dir: dir.to_owned(), found, latest: LATEST_FORMAT });
    }
    Ok(Some(found))
}

fn lock(dir: &Path) -> Result<File, Error> {
    let lock = OpenOptions::new().create(true).truncate(false).write(true).open(dir.join(LOCK));
    let lock = lock.map_err(|source| Error::open(dir, &source))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(Error::Locked { dir: dir.to_owned() }),
        Err(TryLockError::Error(source)) => Err(Error::open(dir, &source)),
    }
}

/// Creates a folder that only its owner can look into.
pub(crate) fn create(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Where large payloads lie.
pub(crate) fn blobs(dir: &Path) -> PathBuf {
    dir.join("blobs")
}

/// Makes the names in a folder durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Free space on the disk that holds `dir`, for an unprivileged process.
pub(crate) fn free_bytes(dir: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(dir)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// What `dir` occupies on the disk. Files that vanish meanwhile are not counted.
pub(crate) fn disk_bytes(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0_u64;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let size = match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => disk_bytes(&entry.path())?,
            Ok(metadata) => metadata.blocks().saturating_mul(512),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        bytes = bytes.saturating_add(size);
    }
    Ok(bytes)
}

pub(crate) fn remove_dir(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn copy_dir(from: &Path, to: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_dir(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
            File::open(&target)?.sync_all()?;
        }
    }
    sync_dir(to)
}
