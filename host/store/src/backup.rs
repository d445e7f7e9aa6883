//! A copy of a store that runs: consistent, as of one moment, and made while commits go on. Called by the
//! catalog; knows nothing of what the rows mean.
//!
//! Rows are copied as they are met, while everything that is written is also noted in a journal; then the
//! journal is written over the copy. What was met before it changed is right after that, what was met after
//! it is written once more with the same value: the copy is the store as of the journal's end. Payloads in
//! files come last, and none is removed until then. Nobody waits for any of it.

use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use brolly_core::Write;
use parking_lot::Mutex;

use crate::{
    Error, Messages, Store,
    copy::{COPY_FLUSH_BATCHES, fill},
    engine::Database,
    folder::{self, Folder},
    store::{close_database, open_database},
};

/// Memory for pages of the copy, in bytes.
const CACHE_BYTES: u64 = 16 << 20;

/// Writes of the journal in one batch of the copy.
const BATCH_WRITES: usize = 200;

const JOURNAL: &str = "journal";

/// What was copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackedUp {
    /// Rows that were met; some of them were written again afterwards.
    pub rows: u64,
    /// Bytes of their keys and values, and of payloads in files.
    pub bytes: u64,
    /// Writes that came meanwhile.
    pub writes: u64,
}

/// What the committer notes while a copy is made; none else.
#[derive(Default)]
pub(crate) struct Tap(Mutex<Option<Journal>>);

/// Everything that is written, in its order, in a file.
struct Journal {
    file: BufWriter<File>,
    writes: u64,
    failed: Option<io::Error>,
}

impl Tap {
    /// Applies a batch, and notes it. INVARIANT: under one lock, so that a batch is applied before the
    /// journal begins or stands in it.
    pub(crate) fn apply(&self, database: &dyn Database, batch: Vec<Write>) -> Result<(), String> {
        let mut journal = self.0.lock();
        if let Some(journal) = &mut *journal {
            journal.note(&batch);
        }
        database.apply(batch)
    }

    fn open(&self, path: &Path) -> io::Result<bool> {
        let mut journal = self.0.lock();
        if journal.is_some() {
            return Ok(false);
        }
        let file = BufWriter::new(File::create_new(path)?);
        *journal = Some(Journal { file, writes: 0, failed: None });
        Ok(true)
    }

    /// Ends the journal; answers with the number of its writes.
    fn close(&self) -> io::Result<u64> {
        let Some(mut journal) = self.0.lock().take() else { return Ok(0) };
        match journal.failed {
            Some(error) => Err(error),
            None => journal.file.flush().map(|()| journal.writes),
        }
    }
}

impl Journal {
    /// A journal that cannot be written is no reason not to commit: the copy fails.
    fn note(&mut self, batch: &[Write]) {
        if self.failed.is_none() {
            self.failed = batch.iter().try_for_each(|write| note(&mut self.file, write)).err();
            self.writes += batch.len() as u64;
        }
    }
}

/// A write in the journal: the length of the key, that of the value (`u32::MAX` for a removal), both.
fn note(file: &mut impl io::Write, write: &Write) -> io::Result<()> {
    let (key, value) = match write {
        Write::Put { key, value } => (key, Some(value)),
        Write::Delete { key } => (key, None),
    };
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).map_err(io::Error::other);
    file.write_all(&length(key)?.to_le_bytes())?;
    file.write_all(&value.map_or(Ok(u32::MAX), |value| length(value))?.to_le_bytes())?;
    file.write_all(key)?;
    file.write_all(value.map_or(&[], Vec::as_slice))
}

/// The next write of a journal; none at its end.
fn read(file: &mut impl Read) -> io::Result<Option<Write>> {
    let mut lengths = [[0; 4]; 2];
    match file.read_exact(&mut lengths[0]) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    file.read_exact(&mut lengths[1])?;
    let [key, value] = lengths.map(u32::from_le_bytes);
    let mut bytes = |length: u32| -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    };
    let key = bytes(key)?;
    Ok(Some(match value {
        u32::MAX => Write::Delete { key },
        value => Write::Put { key, value: bytes(value)? },
    }))
}

/// A copy that is being made. Dropped before its end, it leaves nothing but its folder.
pub struct Backup {
    messages: Messages,
    dir: PathBuf,
    folder: Option<(Folder, Arc<dyn Database>)>,
    done: BackedUp,
}

impl Backup {
    /// Copies the rows of a store into a folder that is not there yet. Blocks for as long as that takes.
    ///
    /// # Errors
    /// [`Error::Copy`] when another copy is being made, or there is too little free space; [`Error::File`].
    pub fn begin(messages: &Messages, dir: PathBuf) -> Result<Self, Error> {
        let (store, fail) = (messages.store(), copy_failed(&dir));
        check_space(store, &dir)?;
        let folder = Folder::open(&dir, store.engine()).map_err(|error| fail(error.to_string()))?;
        let journal = dir.join(JOURNAL);
        let opened = store.tap().open(&journal);
        if !opened.map_err(|source| file("making", &journal, source))? {
            return Err(fail("another copy is being made".to_owned()));
        }
        messages.blobs().keep(true);
        let done = BackedUp { rows: 0, bytes: 0, writes: 0 };
        let mut backup = Self { messages: messages.clone(), dir, folder: None, done };
        let target = open_database(&folder, &backup.dir, CACHE_BYTES)?;
        backup.folder = Some((folder, target.clone()));
        let filled = store.read_all(|source| fill(source, &*target, &mut |_| {}))?;
        let filled = filled.map_err(copy_failed(&backup.dir))?;
        (backup.done.rows, backup.done.bytes) = (filled.rows, filled.bytes);
        backup.copy_blobs()?;
        Ok(backup)
    }

    /// Brings the copy to the present moment, and closes it.
    ///
    /// # Errors
    /// [`Error::Copy`] or [`Error::File`]: then it is not whole, and is to be deleted.
    pub fn finish(mut self) -> Result<BackedUp, Error> {
        let journal = self.dir.join(JOURNAL);
        let closed = self.messages.store().tap().close();
        self.done.writes = closed.map_err(|source| file("writing", &journal, source))?;
        let Some((folder, target)) = self.folder.take() else { return Ok(self.done) };
        let fail = copy_failed(&self.dir);
        replay(&journal, &*target).map_err(fail)?;
        self.copy_blobs()?;
        self.messages.blobs().keep(false);
        close_database(target).map_err(copy_failed(&self.dir))?;
        fs::remove_file(&journal).map_err(|source| file("removing", &journal, source))?;
        folder.sync(folder.engine())?;
        folder.end()?;
        Ok(self.done)
    }

    /// Copies the payloads that lie in files and are not copied yet.
    fn copy_blobs(&mut self) -> Result<(), Error> {
        let (from, to) = (self.messages.store().blobs_dir(), folder::blobs(&self.dir));
        let copied = copy_new_files(&from, &to).map_err(|source| file("copying", &from, source))?;
        self.done.bytes += copied;
        Ok(())
    }
}

impl Drop for Backup {
    fn drop(&mut self) {
        // Both do nothing at the end of a whole copy.
        let _ = self.messages.store().tap().close();
        self.messages.blobs().keep(false);
    }
}

fn copy_failed(dir: &Path) -> impl Fn(String) -> Error + use<> {
    let dir = dir.to_owned();
    move |reason| Error::Copy { dir: dir.clone(), reason }
}

fn file(operation: &'static str, path: &Path, source: io::Error) -> Error {
    Error::File { operation, path: path.to_owned(), source }
}

/// A copy must not be what fills the disk.
fn check_space(store: &Store, dir: &Path) -> Result<(), Error> {
    let (needed, free) =
        (store.disk_bytes()?.saturating_add(folder::COPY_RESERVE_BYTES), store.free_bytes()?);
    if free < needed {
        let reason = format!("it needs {needed} bytes of free disk space, and there are {free}");
        return Err(copy_failed(dir)(reason));
    }
    Ok(())
}

fn copy_new_files(from: &Path, to: &Path) -> io::Result<u64> {
    let mut copied = 0;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        // One that was being written when it was copied has grown since.
        let length = |path: &Path| fs::metadata(path).map(|file| file.len()).ok();
        if length(&target).is_some_and(|copied| Some(copied) == length(&entry.path())) {
            continue;
        }
        let partial = to.join("partial");
        match fs::copy(entry.path(), &partial) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            bytes => copied += bytes?,
        }
        File::open(&partial)?.sync_all()?;
        fs::rename(&partial, &target)?;
    }
    folder::sync_dir(to)?;
    Ok(copied)
}

/// Writes a journal over a copy.
fn replay(journal: &Path, target: &dyn Database) -> Result<(), String> {
    let text = |error: io::Error| error.to_string();
    let mut file = BufReader::new(File::open(journal).map_err(text)?);
    for number in 1_usize.. {
        let mut batch = Vec::with_capacity(BATCH_WRITES);
        while batch.len() < BATCH_WRITES
            && let Some(write) = read(&mut file).map_err(text)?
        {
            batch.push(write);
        }
        if batch.is_empty() {
            break;
        }
        target.apply(batch)?;
        if number.is_multiple_of(COPY_FLUSH_BATCHES) {
            target.flush()?;
        }
    }
    target.flush()
}
