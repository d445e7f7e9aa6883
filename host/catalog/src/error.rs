//! What can go wrong in the catalog.

use std::{io, path::PathBuf};

use brolly_core::Refusal;

/// Why a definition could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller is to mend something.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] brolly_store::Error),
    /// A stored definition is not understood.
    #[error("the stored {kind} {name:?} cannot be read: {source}")]
    Row {
        /// The kind of definition.
        kind: &'static str,
        /// Its name.
        name: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A plugin file cannot be read or written.
    #[error("cannot {operation} {}: {source}", path.display())]
    File {
        /// What was being done.
        operation: &'static str,
        /// To which file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The system's source of randomness failed.
    #[error("no randomness for a token: {0}")]
    Random(String),
}
