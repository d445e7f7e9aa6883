//! What can go wrong in dispatch: what a caller is to mend, and what the host failed at.

use brolly_core::{BrokerError, PluginError, Refusal};

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller is to mend something.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The ledger failed.
    #[error(transparent)]
    Ledger(brolly_ledger::Error),
    /// The alerts failed.
    #[error(transparent)]
    Alerts(brolly_alerts::Error),
    /// The catalog failed.
    #[error(transparent)]
    Catalog(brolly_catalog::Error),
    /// A broker failed.
    #[error(transparent)]
    Broker(BrokerError),
    /// The plugin runtime failed.
    #[error(transparent)]
    Plugin(PluginError),
    /// A task of the host ended in a way that it must not.
    #[error("{what} broke off: {why}")]
    Task {
        /// Which task.
        what: &'static str,
        /// How it ended.
        why: String,
    },
}

impl From<brolly_ledger::Error> for Error {
    fn from(error: brolly_ledger::Error) -> Self {
        match error {
            brolly_ledger::Error::Refused(refusal) => Self::Refused(refusal),
            other @ (brolly_ledger::Error::Store(_) | brolly_ledger::Error::Row { .. }) => {
                Self::Ledger(other)
            }
        }
    }
}

impl From<brolly_alerts::Error> for Error {
    fn from(error: brolly_alerts::Error) -> Self {
        match error {
            brolly_alerts::Error::Refused(refusal) => Self::Refused(refusal),
            other @ (brolly_alerts::Error::Store(_)
            | brolly_alerts::Error::Client(_)
            | brolly_alerts::Error::Row { .. }) => Self::Alerts(other),
        }
    }
}

impl From<brolly_catalog::Error> for Error {
    fn from(error: brolly_catalog::Error) -> Self {
        match error {
            brolly_catalog::Error::Refused(refusal) => Self::Refused(refusal),
            other => Self::Catalog(other),
        }
    }
}

impl From<BrokerError> for Error {
    fn from(error: BrokerError) -> Self {
        match error {
            BrokerError::Refused(refusal) => Self::Refused(refusal),
            failed @ BrokerError::Failed { .. } => Self::Broker(failed),
        }
    }
}

impl From<PluginError> for Error {
    fn from(error: PluginError) -> Self {
        match error {
            PluginError::Refused(refusal) => Self::Refused(refusal),
            host @ PluginError::Host(_) => Self::Plugin(host),
        }
    }
}
