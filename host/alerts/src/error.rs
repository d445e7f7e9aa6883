//! What can go wrong with alerts.

use brolly_core::Refusal;

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller is to mend something.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] brolly_store::Error),
    /// No HTTP client can be made on this machine.
    #[error("the HTTP client of channels: {0}")]
    Client(#[from] reqwest::Error),
    /// A row is not understood: written by a later version, or damaged.
    #[error("the alert {number} cannot be read or written: {source}")]
    Row {
        /// Which one.
        number: u64,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// Why a notice did not get through, in words for an operator: what the other side said, no secrets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Failure(String);

impl Failure {
    /// The longest answer of another side that is kept, in bytes: see the size of a row in `book`.
    const LONGEST: usize = 200;

    pub(crate) fn new(why: impl std::fmt::Display) -> Self {
        let text: String = why.to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let whole = text.len() <= Self::LONGEST;
        let end = text.floor_char_boundary(Self::LONGEST.min(text.len()));
        Self(if whole { text } else { format!("{}…", text.get(..end).unwrap_or_default()) })
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.detail)
    }
}
