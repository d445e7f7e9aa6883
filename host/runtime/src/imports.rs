//! What a guest may ask of the host: the four interfaces of the contract, each within the limits
//! and grants of its subscription. Called by the guest; a breach stops it with a fault.

use std::collections::BTreeMap;

use brolly_core::{Call, Fault, LogLevel, Name, NewMessage, Outgoing, message_limits};
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use wasmtime::component::{HasSelf, Linker};

use crate::{
    attempt::Guest,
    bindings::{
        self,
        brolly::plugin::{config, log, publish, state, types},
    },
    fault::Stop,
    lent::Lent,
};

/// Bytes that a guest may hand to the host in one call: the largest message, with its envelope.
pub(crate) const HOST_CALL_BYTES: usize = message_limits::PAYLOAD_BYTES + (4 << 20);

/// Adds the four interfaces.
pub(crate) fn add_to(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    bindings::Handler::add_to_linker::<_, HasSelf<Guest>>(linker, |guest| guest)
}

impl types::Host for Guest {}

impl log::Host for Guest {
    fn write(&mut self, level: log::Level, text: String) -> wasmtime::Result<()> {
        let level = match level {
            log::Level::Trace => LogLevel::Trace,
            log::Level::Debug => LogLevel::Debug,
            log::Level::Info => LogLevel::Info,
            log::Level::Warn => LogLevel::Warn,
            log::Level::Error => LogLevel::Error,
        };
        self.attempt.log(level, text, self.terms.limits.log_bytes);
        Ok(())
    }
}

impl config::Host for Guest {
    fn get(&mut self, name: String) -> wasmtime::Result<Option<String>> {
        Ok(self.terms.config.get(&name).cloned())
    }
}

impl state::Host for Guest {
    fn get(&mut self, key: String) -> wasmtime::Result<Option<Vec<u8>>> {
        let call = in_call(&self.lent)?;
        Ok(self.attempt.overlay.get(&key, call.state)?.map(Vec::from))
    }

    fn set(&mut self, key: String, value: Vec<u8>) -> wasmtime::Result<()> {
        in_call(&self.lent)?;
        Ok(self
            .attempt
            .overlay
            .write(key, Some(Bytes::from(value)), &self.terms.limits)
            .map_err(Stop::from)?)
    }

    fn delete(&mut self, key: String) -> wasmtime::Result<()> {
        in_call(&self.lent)?;
        Ok(self.attempt.overlay.write(key, None, &self.terms.limits).map_err(Stop::from)?)
    }

    fn list_by_prefix(
        &mut self,
        prefix: String,
        after: Option<String>,
        limit: u32,
    ) -> wasmtime::Result<Vec<state::Entry>> {
        let call = in_call(&self.lent)?;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let room = self.terms.limits.memory_bytes;
        let found = self.attempt.overlay.list(&prefix, after.as_deref(), limit, room, call.state)?;
        Ok(found
            .into_iter()
            .map(|entry| state::Entry { key: entry.key, value: entry.value.into() })
            .collect())
    }
}

impl publish::Host for Guest {
    fn send(&mut self, message: publish::Outgoing) -> wasmtime::Result<()> {
        Ok(self.publish(message)?)
    }
}

impl Guest {
    /// Publishes a message once the attempt is acknowledged.
    pub(crate) fn publish(&mut self, message: publish::Outgoing) -> Result<(), Stop> {
        let call = in_call(&self.lent)?;
        let limits = &self.terms.limits;
        let count = self.attempt.publish.len() + 1;
        if count as u64 > u64::from(limits.publish_messages) {
            return Err(Stop::Fault(Fault::Limit {
                what: format!("{count} messages published"),
                limit: limits.publish_messages.into(),
                setting: "limits.publish_messages",
            }));
        }
        let topic = Name::new(&message.topic).map_err(|refusal| bad_publish(&refusal.detail))?;
        if self.terms.publish.as_ref().is_some_and(|granted| !granted.contains(&topic)) {
            return Err(Stop::Fault(Fault::NotGranted(format!(
                "to publish to the topic {topic} (grants.publish of the subscription {})",
                self.terms.subscription
            ))));
        }
        let mut message = checked(message)?;
        let bytes = self.attempt.published_bytes + size(&message);
        if bytes > limits.publish_bytes {
            return Err(Stop::Fault(Fault::Limit {
                what: format!("{bytes} bytes published"),
                limit: limits.publish_bytes,
                setting: "limits.publish_bytes",
            }));
        }
        self.attempt.published_bytes = bytes;
        if message.id.is_none() {
            message.id = Some(derived_id(call.idempotency_key, self.attempt.derived_ids));
            self.attempt.derived_ids += 1;
        }
        self.attempt.publish.push(Outgoing { topic, message });
        Ok(())
    }
}

/// The call that is being handled. A guest may log and read its configuration while its instance
/// is made, but state and publishing belong to a delivery.
fn in_call(lent: &Lent) -> Result<&Call<'_>, Stop> {
    lent.call().ok_or_else(|| {
        Stop::Fault(Fault::BadCall(
            "state and publish can be used only while a delivery is handled, not while the instance is made"
                .to_owned(),
        ))
    })
}

fn bad_publish(detail: &str) -> Stop {
    Stop::Fault(Fault::BadCall(format!("publish: {detail}")))
}

/// The message in the host's words, if it keeps every rule for messages.
fn checked(message: publish::Outgoing) -> Result<NewMessage, Stop> {
    let mut headers = BTreeMap::new();
    for header in message.headers {
        if headers.contains_key(&header.name) {
            return Err(bad_publish(&format!("the header {:?} is there twice", header.name)));
        }
        headers.insert(header.name, header.value);
    }
    let message = NewMessage {
        id: message.id,
        key: message.key,
        content_type: message.content_type,
        headers,
        payload: message.payload.into(),
        ..NewMessage::default()
    };
    message.check().map_err(|refusal| bad_publish(&refusal.detail))?;
    Ok(message)
}

/// What counts against `limits.publish_bytes`.
fn size(message: &NewMessage) -> u64 {
    let headers: usize = message.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    (message.payload.len() + message.key.len() + message.id.as_ref().map_or(0, String::len) + headers) as u64
}

/// The id of the `n`-th message that an attempt publishes without one: the same for every attempt
/// at the delivery.
fn derived_id(idempotency_key: &str, n: u32) -> String {
    let id = format!("{idempotency_key}/{n}");
    if id.len() <= message_limits::ID_BYTES {
        return id;
    }
    format!("{:x}/{n}", Sha256::digest(idempotency_key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_ids_are_stable_different_and_within_the_limit() {
        assert_eq!(derived_id("s/t/1", 0), "s/t/1/0");
        let fits = "k".repeat(message_limits::ID_BYTES - 2);
        assert_eq!(derived_id(&fits, 7), format!("{fits}/7"));
        let long = |last: char| format!("{}{last}", "k".repeat(message_limits::ID_BYTES - 2));
        let id = derived_id(&long('a'), 7);
        assert_eq!(id, derived_id(&long('a'), 7));
        assert_eq!(id.len(), 64 + 2);
        assert_ne!(id, derived_id(&long('b'), 7));
        assert_ne!(id, derived_id(&long('a'), 8));
    }
}
