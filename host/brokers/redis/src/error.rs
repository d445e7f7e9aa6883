//! What can go wrong between Brolly and a Redis server, in sentences without a password, and what
//! each of it means to the caller of the port.

use std::{io, time::Duration};

use brolly_core::{BrokerError, Code, Refusal};
use redis::{ErrorKind, RedisError};

/// Why something could not be done with a Redis server.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name of the host cannot be resolved.
    #[error("the host {host} is not known: {source}")]
    UnknownHost {
        /// The name.
        host: String,
        /// What the resolver says.
        source: io::Error,
    },
    /// No connection to the address.
    #[error("{address} cannot be reached: {source}")]
    Unreachable {
        /// Host and port.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The certificates of the settings cannot be used, or the handshake failed.
    #[error("no TLS connection to {address}: {why}")]
    Tls {
        /// Host and port.
        address: String,
        /// Why.
        why: String,
    },
    /// No answer in time.
    #[error("no answer within {0:?}")]
    Silent(Duration),
    /// The connection broke.
    #[error("the connection is lost: {0}")]
    Lost(String),
    /// There is no connection now.
    #[error("not connected: {0}")]
    Disconnected(String),
    /// The broker has been closed.
    #[error("the broker is closed")]
    Closed,
    /// User or password are wrong, or one is wanted.
    #[error("the server refuses the user or the password ({0})")]
    Credentials(String),
    /// The server's access rules forbid it.
    #[error("the user may not do that: {0}")]
    Permission(String),
    /// There is no such database.
    #[error("the database cannot be selected: {0}")]
    Database(String),
    /// A server that lacks what is needed.
    #[error("the server is {0}")]
    Unfit(String),
    /// A key holds another type of value.
    #[error("a key is of the wrong type: {0}")]
    WrongType(String),
    /// The stream or its consumer group is not there.
    #[error("the stream or the consumer group is gone: {0}")]
    NoGroup(String),
    /// The queue holds as much as it may.
    #[error("{0}")]
    QueueFull(String),
    /// The server takes no writes for now.
    #[error("the server takes no writes: {0}")]
    NoWrites(String),
    /// The worker was silent for too long, and another one has taken over what it held.
    #[error("{0}; what it held is handed out anew")]
    Gone(String),
    /// Anything else that the server says.
    #[error("the server says: {0}")]
    Server(String),
    /// An answer that is not what the server should have said.
    #[error("the answer to {0} is not understood")]
    Answer(&'static str),
}

impl Error {
    /// Whether only a new connection helps.
    pub(crate) fn breaks_connection(&self) -> bool {
        match self {
            Error::UnknownHost { .. }
            | Error::Unreachable { .. }
            | Error::Tls { .. }
            | Error::Silent(_)
            | Error::Lost(_)
            | Error::Disconnected(_)
            | Error::Closed
            | Error::Credentials(_)
            | Error::Database(_)
            | Error::Answer(_)
            | Error::Unfit(_) => true,
            Error::Permission(_)
            | Error::WrongType(_)
            | Error::NoGroup(_)
            | Error::QueueFull(_)
            | Error::NoWrites(_)
            | Error::Gone(_)
            | Error::Server(_) => false,
        }
    }

    /// The port's error for an operation on a subject. What the caller, or an operator, is to mend
    /// is refused with the sentence; the rest is a failure.
    pub(crate) fn on(self, operation: &'static str, subject: impl Into<String>) -> BrokerError {
        let refuse = |code: Code, error: Error| Refusal::new(code, error.to_string()).into();
        match self {
            Error::QueueFull(_) => refuse(Code::QueueFull, self),
            Error::NoWrites(_)
            | Error::Permission(_)
            | Error::WrongType(_)
            | Error::NoGroup(_)
            | Error::Closed => refuse(Code::Unavailable, self),
            Error::UnknownHost { .. }
            | Error::Unreachable { .. }
            | Error::Tls { .. }
            | Error::Silent(_)
            | Error::Lost(_)
            | Error::Disconnected(_)
            | Error::Credentials(_)
            | Error::Database(_)
            | Error::Unfit(_)
            | Error::Gone(_)
            | Error::Server(_)
            | Error::Answer(_) => {
                BrokerError::Failed { operation, subject: subject.into(), source: Box::new(self) }
            }
        }
    }

    /// What the server answered, or what became of the connection. `within` is how long an answer
    /// was waited for.
    pub(crate) fn from_redis(error: &RedisError, within: Duration) -> Self {
        if error.is_timeout() {
            return Error::Silent(within);
        }
        if error.kind() == ErrorKind::AuthenticationFailed {
            return Error::Credentials("it says so when asked to log in".to_owned());
        }
        let (code, detail) = (error.code().unwrap_or_default(), error.detail().unwrap_or_default());
        if code.is_empty() && error.is_io_error() {
            return Error::Lost(error.to_string());
        }
        if error.to_string().contains("refused to switch database") {
            return Error::Database(detail.to_owned());
        }
        Self::from_words(code, detail)
    }

    /// What the server says of a command or a script. Before Redis 7 the code of an error inside a
    /// script stands somewhere in the sentence.
    pub(crate) fn from_words(code: &str, detail: &str) -> Self {
        type Kind = fn(String) -> Error;
        const KINDS: [(&str, Kind); 19] = [
            ("BROLLYGONE", Error::Gone),
            ("BROLLYTYPE", Error::WrongType),
            ("BROLLYFULL", Error::QueueFull),
            ("WRONGTYPE", Error::WrongType),
            ("NOGROUP", Error::NoGroup),
            ("WRONGPASS", Error::Credentials),
            ("NOAUTH", Error::Credentials),
            ("NOPERM", Error::Permission),
            ("OOM", Error::NoWrites),
            ("MISCONF", Error::NoWrites),
            ("READONLY", Error::NoWrites),
            ("NOREPLICAS", Error::NoWrites),
            ("LOADING", Error::NoWrites),
            ("MASTERDOWN", Error::NoWrites),
            ("BUSY", Error::NoWrites),
            ("CLUSTERDOWN", Error::NoWrites),
            ("MOVED", Error::Unfit),
            ("CROSSSLOT", Error::Unfit),
            ("max number of clients", Error::Lost),
        ];
        // The place in the script means nothing to who reads the sentence.
        let sentence = detail.split(" script: ").next().unwrap_or(detail);
        let named = |word: &str| code == word;
        let inside = |word: &str| sentence.contains(word);
        let kind = KINDS
            .iter()
            .find(|(word, _)| named(word))
            .or_else(|| KINDS.iter().find(|(word, _)| inside(word)));
        match kind {
            Some((_, kind)) => kind(sentence.trim().to_owned()),
            None => Error::Server(format!("{code} {sentence}").trim().to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(code: &str, detail: &str, expect: &str) {
        assert_eq!(Error::from_words(code, detail).to_string(), expect);
    }

    #[test]
    fn what_the_server_says_becomes_a_sentence_without_its_inner_places() {
        check(
            "BROLLYGONE",
            "brolly-1 was silent for too long and was taken for dead",
            "brolly-1 was silent for too long and was taken for dead; what it held is handed out anew",
        );
        check(
            "WRONGTYPE",
            "Operation against a key holding the wrong kind of value script: c1fe18, on @user_script:1.",
            "a key is of the wrong type: Operation against a key holding the wrong kind of value",
        );
        check(
            "ERR",
            "Error running script (call to f_a): @user_script:5: WRONGTYPE Operation against a key",
            "a key is of the wrong type: Error running script (call to f_a): @user_script:5: WRONGTYPE Operation \
             against a key",
        );
        check("OOM", "command not allowed", "the server takes no writes: command not allowed");
        check("ERR", "syntax error", "the server says: ERR syntax error");
    }
}
