//! What can go wrong with the store: each variant names the operation and its subject.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::Engine;

/// The store cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store's folder, or the database in it, cannot be opened.
    #[error("the store in {} cannot be opened: {reason}", dir.display())]
    Open {
        /// The store's folder.
        dir: PathBuf,
        /// What went wrong, and what can be done.
        reason: String,
    },
    /// Another engine keeps the store.
    #[error(
        "the store in {} is kept by {found}, not by {wanted}: set store.engine = \"{found}\", or, while it is \
         not open, have it copied with `brolly store copy --to {wanted}`",
        dir.display()
    )]
    OtherEngine {
        /// The store's folder.
        dir: PathBuf,
        /// The engine that keeps it.
        found: Engine,
        /// The engine that was asked for.
        wanted: Engine,
    },
    /// A later version of Brolly has written it; nothing was changed.
    #[error(
        "the store in {} has the format {found}, and this version of Brolly knows those up to {latest}: a later \
         version has written it; start that one, or start this one on a backup from before the upgrade",
        dir.display()
    )]
    LaterFormat {
        /// The store's folder.
        dir: PathBuf,
        /// The format that it has.
        found: u32,
        /// The latest that this version knows.
        latest: u32,
    },
    /// The store was not copied to another engine; it is as it was.
    #[error("the store in {} was not copied: {reason}", dir.display())]
    Copy {
        /// The store's folder.
        dir: PathBuf,
        /// What went wrong.
        reason: String,
    },
    /// Another process has the store open.
    #[error("the store in {} is in use by another process", dir.display())]
    Locked {
        /// The store's folder.
        dir: PathBuf,
    },
    /// A row cannot be read.
    #[error("reading {row} failed: {reason}")]
    Read {
        /// The row, as [`crate::keys::show`] names it.
        row: String,
        /// What the database said.
        reason: String,
    },
    /// A row does not hold what its author wrote.
    #[error("{row} is damaged: {reason}")]
    Corrupt {
        /// The row, as [`crate::keys::show`] names it.
        row: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A value is longer than the database can keep safely.
    #[error("{row} is to have {bytes} bytes, the limit is {}", crate::VALUE_BYTES)]
    TooLarge {
        /// The row, as [`crate::keys::show`] names it.
        row: String,
        /// How long the value is.
        bytes: usize,
    },
    /// A file of the store cannot be written, read or measured.
    #[error("{operation} {} failed: {source}", path.display())]
    File {
        /// What was being done.
        operation: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The store failed for good, and nothing more becomes durable; the process is to exit.
    #[error("the store has failed: {0}")]
    Failed(String),
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}

impl Error {
    pub(crate) fn open(dir: &Path, reason: &impl ToString) -> Self {
        Error::Open { dir: dir.to_owned(), reason: reason.to_string() }
    }

    pub(crate) fn read(key: &[u8], reason: impl ToString) -> Self {
        Error::Read { row: crate::keys::show(key), reason: reason.to_string() }
    }

    pub(crate) fn corrupt(key: &[u8], reason: impl ToString) -> Self {
        Error::Corrupt { row: crate::keys::show(key), reason: reason.to_string() }
    }
}
