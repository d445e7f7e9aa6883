//! What can go wrong here, and what becomes of it: something for the caller to mend, or something
//! that may pass.

use std::time::Duration;

use brolly_core::{BrokerError, Code, Refusal};
use lapin::ErrorKind;

/// Why something between this host and RabbitMQ failed. Nothing in it has the password.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// There is no connection now.
    #[error("not connected: {0}")]
    NotConnected(String),
    /// The server was reached, and cannot be used as it is.
    #[error("{0}")]
    Unusable(String),
    /// The server did not answer in time.
    #[error("no answer within {} ms", .0.as_millis())]
    Silent(Duration),
    /// The server refused it, in its own words.
    #[error("{text}")]
    Server {
        /// AMQP's number for it.
        code: u16,
        /// What it said.
        text: String,
    },
    /// The connection or channel broke, or was used wrongly.
    #[error("{0}")]
    Client(String),
}

/// AMQP's numbers for what servers refuse.
pub(crate) mod code {
    pub(crate) const CONTENT_TOO_LARGE: u16 = 311;
    pub(crate) const ACCESS_REFUSED: u16 = 403;
    pub(crate) const NOT_FOUND: u16 = 404;
    pub(crate) const RESOURCE_LOCKED: u16 = 405;
    pub(crate) const PRECONDITION_FAILED: u16 = 406;
    pub(crate) const NOT_ALLOWED: u16 = 530;
}

impl From<lapin::Error> for Error {
    fn from(error: lapin::Error) -> Self {
        match error.kind() {
            ErrorKind::ProtocolError(said) => {
                Error::Server { code: said.get_id(), text: said.get_message().to_string() }
            }
            ErrorKind::ParsingError(_) => {
                Error::Client("the server sent something that is not AMQP".to_owned())
            }
            ErrorKind::MissingHeartbeatError => Error::Client("the server has gone silent".to_owned()),
            ErrorKind::IOError(error) => Error::Client(format!("the connection broke: {error}")),
            // lapin reserves further kinds; what they say is all there is to know of them.
            _ => Error::Client(error.to_string()),
        }
    }
}

impl Error {
    /// AMQP's number, if the server refused it.
    pub(crate) fn code(&self) -> Option<u16> {
        match self {
            Error::Server { code, .. } => Some(*code),
            Error::NotConnected(_) | Error::Unusable(_) | Error::Silent(_) | Error::Client(_) => None,
        }
    }

    /// The port's error for an operation on a subject.
    pub(crate) fn failed(self, operation: &'static str, subject: impl ToString) -> BrokerError {
        BrokerError::Failed { operation, subject: subject.to_string(), source: Box::new(self) }
    }
}

/// A refusal as the port's error.
pub(crate) fn refused(code: Code, detail: impl Into<String>) -> BrokerError {
    Refusal::new(code, detail).into()
}
