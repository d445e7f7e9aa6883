//! What can go wrong in the ledger.

use brolly_core::Refusal;

/// Why the ledger could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller is to mend something.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] brolly_store::Error),
    /// A row is not understood: written by a later version, or damaged.
    #[error("the {table} row {row} cannot be read: {why}")]
    Row {
        /// The table.
        table: &'static str,
        /// Which row.
        row: String,
        /// What is wrong with it.
        why: String,
    },
}
