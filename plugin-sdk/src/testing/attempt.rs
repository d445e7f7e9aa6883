//! What came of one attempt in a test, and the assertions on it.

use crate::{Failure, http::Request, log::Level, publish::Message};

/// What came of one attempt.
#[derive(Clone, Debug, PartialEq)]
#[must_use = "a test that does not look at the outcome does not see a failure"]
pub struct Attempt {
    /// What the handler said or suffered.
    pub outcome: Outcome,
    /// The lines that it logged, whatever the outcome.
    pub logs: Vec<LogLine>,
    /// What it published, in order; empty unless the outcome is ack.
    pub published: Vec<Message>,
    /// The requests that it sent, in order, whatever the outcome: a request cannot be taken back.
    pub requests: Vec<Request>,
}

/// What a handler said or suffered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done; its effects took place.
    Ack,
    /// Not done; nothing took place.
    Failed(Failure),
    /// It panicked or broke a limit or the contract; nothing took place.
    Fault(String),
}

/// One line that a handler logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// How important it is.
    pub level: Level,
    /// What it says.
    pub text: String,
}

impl Attempt {
    /// Whether the outcome is ack.
    #[must_use]
    pub fn is_ack(&self) -> bool {
        self.outcome == Outcome::Ack
    }

    /// # Panics
    /// If the outcome is not ack.
    #[track_caller]
    pub fn assert_ack(&self) {
        assert!(self.is_ack(), "expected ack, got {:?}", self.outcome);
    }

    /// # Panics
    /// If the outcome is not a rejection whose reason contains `part`.
    #[track_caller]
    pub fn assert_reject(&self, part: &str) {
        let fits = |failure: &Failure| failure.is_reject() && failure.reason().contains(part);
        let holds = matches!(&self.outcome, Outcome::Failed(failure) if fits(failure));
        assert!(holds, "expected a rejection with {part:?}, got {:?}", self.outcome);
    }

    /// # Panics
    /// If the outcome is not a retry whose reason contains `part`.
    #[track_caller]
    pub fn assert_retry(&self, part: &str) {
        let fits = |failure: &Failure| !failure.is_reject() && failure.reason().contains(part);
        let holds = matches!(&self.outcome, Outcome::Failed(failure) if fits(failure));
        assert!(holds, "expected a retry with {part:?}, got {:?}", self.outcome);
    }

    /// # Panics
    /// If the outcome is not a fault whose description contains `part`.
    #[track_caller]
    pub fn assert_fault(&self, part: &str) {
        let holds = matches!(&self.outcome, Outcome::Fault(what) if what.contains(part));
        assert!(holds, "expected a fault with {part:?}, got {:?}", self.outcome);
    }

    /// The payload of a published message as text.
    ///
    /// # Panics
    /// If there is no such message or it is no text.
    #[must_use]
    #[track_caller]
    #[allow(clippy::expect_used, reason = "a test is to fail")]
    pub fn published_text(&self, index: usize) -> &str {
        let message = self.published.get(index).expect("a published message of this number");
        std::str::from_utf8(&message.payload).expect("a payload of text")
    }

    /// The payload of a published message as JSON.
    ///
    /// # Panics
    /// If there is no such message or it is no JSON.
    #[must_use]
    #[track_caller]
    #[allow(clippy::expect_used, reason = "a test is to fail")]
    pub fn published_json(&self, index: usize) -> serde_json::Value {
        serde_json::from_str(self.published_text(index)).expect("a payload of JSON")
    }

    /// Whether a line of this level contains `part`.
    #[must_use]
    pub fn logged(&self, level: Level, part: &str) -> bool {
        self.logs.iter().any(|line| line.level == level && line.text.contains(part))
    }
}
