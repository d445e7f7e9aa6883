//! Has a handler make the attempts that a document describes, one after the other.

use brolly_capture::Happened;
use brolly_core::{Call, Code, Digest, Handler, LogLine, Name, Refusal, Subscription};
use serde_json::{Value, json};

use crate::{Sample, Samples, difference, state::MemoryState};

/// What came of one sample.
#[derive(Debug)]
pub struct Ran<'a> {
    /// The sample.
    pub sample: &'a Sample,
    /// What differs from what is expected, line by line; empty if nothing does.
    pub difference: String,
    /// What the handler logged.
    pub logs: Vec<LogLine>,
}

/// A subscription of a plugin version with these fields, such as `config`, `limits` and `grants`. The queue and
/// the plugin are called like it: what runs samples or replays has neither.
///
/// # Errors
/// [`Code::InvalidDefinition`] for a field that is none or out of its range.
pub fn definition(name: &Name, version: &Digest, fields: &Value) -> Result<Subscription, Refusal> {
    let mut definition =
        json!({ "queue": name.as_str(), "plugin": name.as_str(), "version": version.to_string() });
    if let (Some(definition), Some(fields)) = (definition.as_object_mut(), fields.as_object()) {
        definition.extend(fields.clone());
    }
    let subscription: Subscription = serde_json::from_value(definition)
        .map_err(|error| Refusal::new(Code::InvalidDefinition, error.to_string()))?;
    subscription.check()?;
    Ok(subscription)
}

impl Samples {
    /// Runs them as they are asked for, in the order of the document, each over the state that those before it have
    /// left. Nothing is sent, and nothing has effect. Each takes as long as the handler does.
    pub fn run<'a>(&'a self, handler: &'a dyn Handler) -> impl Iterator<Item = Ran<'a>> {
        let mut state = MemoryState(self.state.clone());
        self.samples.iter().map(move |sample| {
            if let Some(before) = &sample.state {
                state = MemoryState(before.clone());
            }
            let message = &sample.message;
            let handled = handler.handle(&Call {
                message,
                subscription: &self.subscription,
                attempt: sample.attempt,
                last_attempt: sample.last_attempt,
                idempotency_key: &format!("{}/{}/{}", self.subscription, message.topic, message.id),
                state: &state,
                outside: &self.outside.play(),
            });
            state.write(&handled.effects.state);
            let (expect, happened) = sample.expect.against(&Happened::from(&handled));
            Ran { sample, difference: difference(&expect, &happened), logs: handled.logs }
        })
    }
}
