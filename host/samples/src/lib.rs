//! Sample messages and what must come of each: the words of a samples document, and a handler held to it.
//! The same document serves a team that tests its plugin and a host that admits none without.
//!
//! `document` reads one and tells all its mistakes, `place` knows where in it something stands, `run` has a
//! handler make the attempts over a `state` in memory, `compare` holds what happened against what was
//! expected, and `script` is what lies outside.

mod compare;
mod document;
mod place;
mod run;
mod script;
mod state;

use std::{collections::BTreeMap, path::PathBuf};

use brolly_core::{Message, Name};
use bytes::Bytes;
use serde_json::Value;

pub use compare::{difference, logged, shown, told};
pub use document::read;
pub use run::{Ran, definition};
pub use script::Script;

/// A document: samples, and the subscription that handles them.
#[derive(Debug)]
pub struct Samples {
    /// The plugin's file, if the document names one instead of leaving it to the project's build; a path
    /// beside the document. A host takes no notice of it.
    pub plugin: Option<PathBuf>,
    /// The subscription's name, as the handler sees it.
    pub subscription: Name,
    /// Fields of the subscription: `config`, `limits`, `grants`.
    pub fields: Value,
    /// What clock, random numbers and servers tell.
    pub outside: Script,
    /// The state before the first sample.
    pub state: BTreeMap<String, Bytes>,
    /// In the order of the document.
    pub samples: Vec<Sample>,
}

/// One delivery, and what must come of it.
#[derive(Debug)]
pub struct Sample {
    /// For people.
    pub name: String,
    /// The line of the document in which it begins.
    pub line: usize,
    /// The message.
    pub message: Message,
    /// Counts from 1.
    pub attempt: u32,
    /// Whether the delivery becomes a dead letter if this attempt fails.
    pub last_attempt: bool,
    /// The state before it; none leaves what the samples before it made of it.
    pub state: Option<BTreeMap<String, Bytes>>,
    /// What must come of it.
    pub expect: Expect,
}

/// What must come of a sample.
#[derive(Debug, Default)]
pub struct Expect {
    /// How the attempt ends.
    pub outcome: Ends,
    /// What the reason must contain.
    pub reason: Option<String>,
    /// The delay that a retry asks for.
    pub delay_ms: Option<u64>,
    /// All messages published, in order.
    pub published: Vec<ExpectedMessage>,
    /// All state written; none for a key that is deleted.
    pub state: BTreeMap<String, Option<Content>>,
    /// What lines of the log must contain.
    pub logs: Vec<String>,
}

/// How an attempt ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ends {
    /// Acknowledged.
    #[default]
    Ack,
    /// To be tried again.
    Retry,
    /// A dead letter.
    Reject,
    /// Stopped by the sandbox.
    Fault,
}

impl Ends {
    /// All of them.
    pub const ALL: [Ends; 4] = [Ends::Ack, Ends::Retry, Ends::Reject, Ends::Fault];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Ends::Ack => "ack",
            Ends::Retry => "retry",
            Ends::Reject => "reject",
            Ends::Fault => "fault",
        }
    }
}

/// A message that must be published. What is none may be anything.
#[derive(Debug)]
pub struct ExpectedMessage {
    /// The topic.
    pub topic: String,
    /// The id.
    pub id: Option<String>,
    /// The key.
    pub key: Option<String>,
    /// The media type.
    pub content_type: Option<String>,
    /// The headers, all of them.
    pub headers: Option<BTreeMap<String, String>>,
    /// The payload.
    pub payload: Option<Content>,
}

/// What a payload or a value must be.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// These bytes.
    Bytes(Bytes),
    /// Any JSON of this value.
    Json(Value),
}
