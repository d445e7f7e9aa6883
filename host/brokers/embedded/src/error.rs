//! What can go wrong in the embedded broker, beyond what its caller is to mend.

use brolly_core::{BrokerError, Name};

/// Why the embedded broker could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] brolly_store::Error),
    /// A queue row is not understood: written by a later version, or damaged.
    #[error("the queue row {row} cannot be read: {why}")]
    Row {
        /// Which row.
        row: String,
        /// What is wrong with it.
        why: String,
    },
    /// A queue row refers to a message that is not there.
    #[error("the message at {seq} is not in the message table")]
    Missing {
        /// The message's place.
        seq: u64,
    },
}

/// The port's error for an operation on a subject.
pub(crate) fn failed(operation: &'static str, subject: &Name, error: impl Into<Error>) -> BrokerError {
    BrokerError::Failed { operation, subject: subject.to_string(), source: Box::new(error.into()) }
}
