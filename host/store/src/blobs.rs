//! Files for what is too large for a row, one for each message. Called by `messages`; knows nothing
//! of what is in them.
//!
//! A file is complete and durable before a row refers to it, and is removed after the row is
//! durably gone. So a crash leaves at worst a file without a row, and the next start removes it.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, Write as _},
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{SyncSender, sync_channel},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::{Error, folder};

/// Files that wait to be removed; beyond that they are removed where the row was.
const REMOVALS: usize = 1_024;

/// The files of one store.
#[derive(Clone)]
pub(crate) struct Blobs {
    dir: Arc<PathBuf>,
    /// Which messages have a file, so that the others cost no look at the disk.
    present: Arc<Mutex<HashSet<u64>>>,
    removals: SyncSender<u64>,
    /// What is to be removed once a copy of the store has been made; none while nobody makes one.
    kept: Arc<Mutex<Option<Vec<u64>>>>,
}

impl Blobs {
    /// Lists the files and removes those that `belongs` does not know.
    pub(crate) fn open(dir: PathBuf, belongs: impl Fn(u64) -> Result<bool, Error>) -> Result<Self, Error> {
        let mut present = HashSet::new();
        let fail = |path: &PathBuf, source| Error::File { operation: "listing", path: path.clone(), source };
        for entry in fs::read_dir(&dir).map_err(|source| fail(&dir, source))? {
            let path = entry.map_err(|source| fail(&dir, source))?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            match name.and_then(|name| u64::from_str_radix(name, 16).ok()) {
                Some(seq) if belongs(seq)? => {
                    present.insert(seq);
                }
                _ => {
                    tracing::info!(file = %path.display(), "removing a payload that a crash left without its message");
                    remove(&path);
                }
            }
        }
        let (removals, due) = sync_channel::<u64>(REMOVALS);
        let blobs = Self {
            dir: Arc::new(dir),
            present: Arc::new(Mutex::new(present)),
            removals,
            kept: Arc::default(),
        };
        let dir = blobs.dir.clone();
        std::thread::Builder::new()
            .name("brolly-blobs".to_owned())
            .spawn(move || due.iter().for_each(|seq| remove(&path(&dir, seq))))
            .map_err(|source| Error::File {
                operation: "starting a thread for",
                path: (*blobs.dir).clone(),
                source,
            })?;
        Ok(blobs)
    }

    /// Writes a file, durably.
    pub(crate) fn write(&self, seq: u64, bytes: &Bytes) -> Result<(), Error> {
        let path = path(&self.dir, seq);
        let is_new = self.present.lock().insert(seq);
        // That of a message which was accepted before is not written anew: a crash would leave a part of it.
        let is_there = !is_new && fs::read(&path).is_ok_and(|found| found == **bytes);
        let file = match is_there {
            true => File::open(&path),
            false => File::create(&path).and_then(|mut file| file.write_all(bytes).map(|()| file)),
        };
        let written = file.and_then(|file| file.sync_all()).and_then(|()| folder::sync_dir(&self.dir));
        written.map_err(|source| Error::File { operation: "writing", path, source })
    }

    /// The file of a message; none if there is none.
    pub(crate) fn read(&self, seq: u64) -> Result<Option<Bytes>, Error> {
        let path = path(&self.dir, seq);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::File { operation: "reading", path, source }),
        }
    }

    pub(crate) fn has(&self, seq: u64) -> bool {
        self.present.lock().contains(&seq)
    }

    /// Removes a file, elsewhere: called on the committer's thread.
    pub(crate) fn remove(&self, seq: u64) {
        self.present.lock().remove(&seq);
        if let Some(kept) = &mut *self.kept.lock() {
            kept.push(seq);
            return;
        }
        self.remove_now(seq);
    }

    /// Keeps what is to be removed, or removes what was kept.
    pub(crate) fn keep(&self, keep: bool) {
        let mut kept = self.kept.lock();
        let due = match keep {
            true => kept.replace(Vec::new()),
            false => kept.take(),
        };
        drop(kept);
        due.into_iter().flatten().for_each(|seq| self.remove_now(seq));
    }

    fn remove_now(&self, seq: u64) {
        if self.removals.try_send(seq).is_err() {
            remove(&path(&self.dir, seq));
        }
    }
}

fn path(dir: &std::path::Path, seq: u64) -> PathBuf {
    dir.join(format!("{seq:016x}"))
}

fn remove(path: &std::path::Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(file = %path.display(), %error, "a payload could not be removed; the next start tries again");
        }
        _ => {}
    }
}
