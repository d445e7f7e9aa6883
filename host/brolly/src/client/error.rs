//! Why a client command did not do what it was asked.

use std::{io, path::PathBuf};

/// Why a client command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server refused, in its own words.
    #[error("{detail} ({code})")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The stable code.
        code: String,
        /// What is wrong and how to mend it.
        detail: String,
    },
    /// No answer came.
    #[error("no answer from {url}: {reason}; is `brolly serve` running there? (--url or BROLLY_URL)")]
    Unreachable {
        /// The server.
        url: String,
        /// What went wrong.
        reason: String,
    },
    /// The answer is not one that the API gives.
    #[error("{url} answered in a way that this client does not understand: {reason}")]
    Answer {
        /// What was asked.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Something on the command line or in an input is to be mended.
    #[error("{0}")]
    Usage(String),
    /// A file cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    /// Whether the caller made a mistake that no server has seen.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        match self {
            Error::Usage(_) => true,
            Error::Refused { .. } | Error::Unreachable { .. } | Error::Answer { .. } | Error::File { .. } => {
                false
            }
        }
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Error::Unreachable { .. } => true,
            Error::Refused { status, code, .. } => {
                *status >= 500 || *status == 429 || matches!(code.as_str(), "queue-full" | "disk-full")
            }
            Error::Answer { .. } | Error::Usage(_) | Error::File { .. } => false,
        }
    }
}

/// Reads a whole file.
pub(crate) fn read(path: &std::path::Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::File { path: path.to_owned(), source })
}

/// Reads a whole file of text.
pub(crate) fn read_text(path: &std::path::Path) -> Result<String, Error> {
    String::from_utf8(read(path)?).map_err(|_| Error::Usage(format!("{} is no text", path.display())))
}
