//! The port to whatever handles deliveries: what a handler is given, what it answers, what it did.

use std::{collections::BTreeMap, fmt, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Digest, Message, Name, NewMessage, Outside, Refusal, Subscription};

/// Handles deliveries of one subscription with one plugin version. Called by many workers at once,
/// each on a thread of its own that it may keep busy.
pub trait Handler: Send + Sync + 'static {
    /// Handles one delivery. Whatever the guest does, it comes back within its limits.
    fn handle(&self, call: &Call<'_>) -> Handled;
}

/// One attempt at one delivery.
pub struct Call<'a> {
    /// The message.
    pub message: &'a Message,
    /// The subscription.
    pub subscription: &'a Name,
    /// Counts from 1.
    pub attempt: u32,
    /// Whether the delivery becomes a dead letter if this attempt fails.
    pub last_attempt: bool,
    /// The same for every attempt, redelivery and replay of this delivery.
    pub idempotency_key: &'a str,
    /// What is in the subscription's state now.
    pub state: &'a dyn StateReader,
    /// What lies outside, for a handler that is granted to reach it.
    pub outside: &'a dyn Outside,
}

/// Reads the state of one subscription on behalf of one attempt.
pub trait StateReader: Sync {
    /// The value under `key`.
    ///
    /// # Errors
    /// When the store cannot be read; the attempt is then given up without being counted.
    fn get(&self, key: &str) -> Result<Option<Bytes>, StateUnavailable>;

    /// Up to `limit` entries whose key begins with `prefix`, in the order of their keys, from the
    /// first key after `after` on.
    ///
    /// # Errors
    /// As [`StateReader::get`].
    fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<StateEntry>, StateUnavailable>;
}

/// One entry of a plugin's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateEntry {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Bytes,
}

/// The store cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the state cannot be read: {0}")]
pub struct StateUnavailable(pub String);

/// What came of one attempt.
#[derive(Clone, Debug)]
pub struct Handled {
    /// What the handler said or suffered.
    pub verdict: Verdict,
    /// What it asked for; takes place only if the verdict is ack.
    pub effects: Effects,
    /// Its log lines, kept whatever the verdict.
    pub logs: Vec<LogLine>,
    /// Lines that the log limit dropped.
    pub logs_dropped: u64,
    /// How long it took.
    pub duration: Duration,
    /// The most linear memory it had, in bytes.
    pub memory_bytes: u64,
}

/// What a handler said, or what kept it from saying anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The handler's own answer.
    Outcome(Outcome),
    /// The sandbox stopped it.
    Fault(Fault),
    /// The host could not serve it: no fault of the handler's, so no attempt is counted.
    Unavailable(String),
}

/// What the handler says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done; its effects take place.
    Ack,
    /// Not now.
    Retry {
        /// Why.
        reason: String,
        /// When to try again; none leaves it to the retry policy.
        delay: Option<Duration>,
        /// What it needs and could not reach: 1 to 100 bytes. The attempt then does not count.
        dependency: Option<String>,
    },
    /// Never.
    Reject {
        /// Why.
        reason: String,
    },
}

/// What the sandbox says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The guest trapped.
    #[error("trap: {0}")]
    Trap(String),
    /// The wall-time limit.
    #[error("time-out: not finished within {limit_ms} ms (limits.time_ms)")]
    TimeOut {
        /// The limit in milliseconds.
        limit_ms: u64,
    },
    /// The CPU-time limit.
    #[error("time-out: used more than {limit_ms} ms of CPU (limits.cpu_ms)")]
    CpuTime {
        /// The limit in milliseconds.
        limit_ms: u64,
    },
    /// The memory limit.
    #[error("out of memory: asked for {wanted} bytes, the limit is {limit} (limits.memory_bytes)")]
    OutOfMemory {
        /// What the guest wanted to have in all.
        wanted: u64,
        /// What it may have.
        limit: u64,
    },
    /// The call stack limit.
    #[error("stack overflow: the guest's call stack is limited to {limit} bytes")]
    StackOverflow {
        /// The limit in bytes.
        limit: u64,
    },
    /// Another limit.
    #[error("over its limit: {what}, the limit is {limit} ({setting})")]
    Limit {
        /// What the guest wanted, with the amount.
        what: String,
        /// The limit.
        limit: u64,
        /// The setting that holds the limit.
        setting: &'static str,
    },
    /// Something it was not granted.
    #[error("not granted: {0}")]
    NotGranted(String),
    /// A host call with an argument that breaks the contract.
    #[error("bad call: {0}")]
    BadCall(String),
    /// It could not be instantiated.
    #[error("bad export: {0}")]
    BadExport(String),
}

/// What a handler asked the host to do, in effect if and only if its outcome is ack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// State written: the last value for each key; none deletes it.
    pub state: BTreeMap<String, Option<Bytes>>,
    /// Messages published, in order.
    pub publish: Vec<Outgoing>,
}

/// A message that a handler publishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The topic.
    pub topic: Name,
    /// The message.
    pub message: NewMessage,
}

/// One line that a handler logged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct LogLine {
    /// How important it is.
    pub level: LogLevel,
    /// What it says.
    pub text: String,
}

/// How important a log line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the usual five")]
pub enum LogLevel {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

/// The port to the runtime that checks, compiles and runs plugins. Its calls are slow (compiling
/// takes up to seconds): callers use a thread that may block.
pub trait Plugins: Send + Sync + 'static {
    /// Checks uploaded bytes and compiles them.
    ///
    /// # Errors
    /// [`PluginError::Refused`] says what is wrong with the bytes.
    fn admit(&self, wasm: &[u8]) -> Result<Admission, PluginError>;

    /// Makes the handler for a subscription out of a plugin version. `wasm` is where the version's
    /// bytes lie, in case no compiled artefact is at hand.
    ///
    /// # Errors
    /// [`PluginError::Refused`] when the version cannot run within the subscription's limits.
    fn handler(
        &self,
        name: &Name,
        subscription: &Subscription,
        version: &Digest,
        wasm: &Path,
    ) -> Result<Arc<dyn Handler>, PluginError>;
}

/// What is known of a plugin version from its bytes alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Admission {
    /// The SHA-256 of the bytes.
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub digest: Digest,
    /// Size of the upload in bytes.
    pub size_bytes: u64,
    /// The world that it targets, such as `brolly:plugin/handler@0.1.0`.
    pub world: String,
    /// The interfaces that it imports: what it can do at most.
    pub imports: Vec<String>,
    /// Milliseconds that compiling took; zero when the artefact was at hand.
    pub compile_ms: u64,
    /// What its authors say of it.
    #[serde(default, skip_serializing_if = "About::is_empty")]
    pub about: About,
}

/// What the authors of a plugin say of it, in its bytes. Nobody checks it. Of each text at most
/// [`About::TEXT_BYTES`] are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct About {
    /// Its name, which need not be the one that it is uploaded under.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its version, as its authors count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Who wrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authors: Option<String>,
}

impl About {
    /// Bytes kept of one text.
    pub const TEXT_BYTES: usize = 256;

    /// Whether nothing is said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A plugin cannot be used.
#[derive(Debug)]
pub enum PluginError {
    /// The plugin or the subscription is to be mended, in these words.
    Refused(Refusal),
    /// The host failed: disk, memory, engine.
    Host(String),
}

impl fmt::Display for PluginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PluginError::Refused(refusal) => refusal.fmt(f),
            PluginError::Host(error) => write!(f, "the plugin runtime failed: {error}"),
        }
    }
}

impl std::error::Error for PluginError {}

impl From<Refusal> for PluginError {
    fn from(refusal: Refusal) -> Self {
        PluginError::Refused(refusal)
    }
}
