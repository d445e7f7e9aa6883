//! What handlers do in the simulation: each message says what is to become of each of its attempts. Called
//! by dispatch through the port of plugins.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use brolly_core::{
    Admission, Call, Digest, Effects, Fault, Handled, Handler, Name, NewMessage, Outcome, Outgoing,
    PluginError, Plugins, Subscription, Verdict,
};
use bytes::Bytes;

use crate::{names, world};

/// What one attempt does; the letter stands in the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// Acknowledges.
    Ack,
    /// The same, and publishes under an id of its own making.
    Child,
    /// The same, and publishes without an id.
    Nameless,
    /// Asks for a retry.
    Retry,
    /// Asks for a retry after some time.
    Later,
    /// Rejects.
    Reject,
    /// Breaks a limit.
    Fault,
    /// Is kept from it by the host.
    Unavailable,
}

impl Act {
    const ALL: [(char, Self); 8] = [
        ('a', Self::Ack),
        ('c', Self::Child),
        ('n', Self::Nameless),
        ('r', Self::Retry),
        ('l', Self::Later),
        ('x', Self::Reject),
        ('f', Self::Fault),
        ('u', Self::Unavailable),
    ];

    fn of(letter: u8) -> Self {
        let found = Self::ALL.iter().find(|(known, _)| *known == char::from(letter));
        found.map_or(Self::Ack, |(_, act)| *act)
    }

    /// The words of a script, at random.
    pub(crate) fn script(rng: &mut fastrand::Rng) -> String {
        let acts = rng.usize(1..=4);
        let mild = rng.bool();
        let mut script: String = (0..acts).map(|_| Self::ALL[rng.usize(..Self::ALL.len())].0).collect();
        if mild {
            script.push('c');
        }
        script
    }
}

/// The n-th attempt's part of a script; the last one stays.
fn act(payload: &[u8], call: usize) -> Act {
    let last = payload.len().saturating_sub(1);
    payload.get(call.min(last)).map_or(Act::Ack, |letter| Act::of(*letter))
}

/// The runtime of scripts.
pub(crate) struct Scripts;

impl Plugins for Scripts {
    fn admit(&self, wasm: &[u8]) -> Result<Admission, PluginError> {
        Ok(Admission {
            digest: names::version(wasm.first().copied().unwrap_or(0)),
            size_bytes: wasm.len() as u64,
            world: "script".to_owned(),
            imports: Vec::new(),
            compile_ms: 0,
        })
    }

    fn handler(
        &self,
        _: &Name,
        _: &Subscription,
        _: &Digest,
        _: &Path,
    ) -> Result<Arc<dyn Handler>, PluginError> {
        Ok(Arc::new(Script))
    }
}

struct Script;

impl Handler for Script {
    /// Reads and counts; others go on before, between and after. The effects are there whatever the
    /// verdict: that they take place with an acknowledgement alone is what is to be shown.
    fn handle(&self, call: &Call<'_>) -> Handled {
        let nth = world::handling(call);
        let act = match call.message.topic.as_str() {
            names::CHILD => Act::Ack,
            _ => match act(&call.message.payload, nth) {
                Act::Unavailable if world::is_quiet() => Act::Ack,
                act => act,
            },
        };
        world::meanwhile();
        let effects = effects(call, act);
        world::meanwhile();
        world::acted(call, act);
        let (verdict, effects) = match effects {
            Ok(effects) => (verdict(act), effects),
            Err(unavailable) => (Verdict::Unavailable(unavailable.to_string()), Effects::default()),
        };
        let (logs, duration) = (Vec::new(), Duration::from_micros(10));
        Handled { verdict, effects, logs, logs_dropped: 0, duration, memory_bytes: 0 }
    }
}

fn verdict(act: Act) -> Verdict {
    let reason = || "as the script says".to_owned();
    Verdict::Outcome(match act {
        Act::Ack | Act::Child | Act::Nameless => Outcome::Ack,
        Act::Retry => Outcome::Retry { reason: reason(), delay: None },
        Act::Later => Outcome::Retry { reason: reason(), delay: Some(Duration::from_millis(700)) },
        Act::Reject => Outcome::Reject { reason: reason() },
        Act::Fault => return Verdict::Fault(Fault::Trap(reason())),
        Act::Unavailable => return Verdict::Unavailable(reason()),
    })
}

/// Adds 1 to the number of all, to that of its key and to that of this very message.
fn effects(call: &Call<'_>, act: Act) -> Result<Effects, brolly_core::StateUnavailable> {
    let message = call.message;
    let mut state = BTreeMap::new();
    let mut keys = vec![names::ALL.to_owned(), names::done(message)];
    if !message.key.is_empty() {
        keys.push(names::of_key(&message.key));
    }
    for key in keys {
        let before = call.state.get(&key)?.map_or(0, |value| names::number(&value));
        state.insert(key, Some(Bytes::from((before + 1).to_string())));
        world::meanwhile();
    }
    // A listing is read, too, and stands for everything below its prefix.
    if message.key == "k1" {
        call.state.list(names::KEYS, None, 10)?;
    }
    let mut publish = Vec::new();
    let id = match act {
        Act::Nameless => None,
        _ => Some(names::child(call.subscription, message)),
    };
    if act != Act::Ack {
        let (key, payload) = (message.key.clone(), Bytes::from(names::child(call.subscription, message)));
        let message = NewMessage { id, key, payload, ..NewMessage::default() };
        publish.push(Outgoing { topic: names::name(names::CHILD), message });
    }
    Ok(Effects { state, publish })
}
