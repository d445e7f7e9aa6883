//! What can go wrong here, beyond what a caller is to mend and what the other side does.

use brolly_core::{BrokerError, Name};

/// Why the host's own part of a remote broker failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] brolly_store::Error),
    /// An outbox row is not understood: written by a later version, or damaged.
    #[error("the outbox row {row} cannot be read: {why}")]
    Row {
        /// Which row.
        row: String,
        /// What is wrong with it.
        why: String,
    },
}

/// The port's error for an operation on a subject.
pub(crate) fn failed(operation: &'static str, subject: &Name, error: impl Into<Error>) -> BrokerError {
    BrokerError::Failed { operation, subject: subject.to_string(), source: Box::new(error.into()) }
}
