//! The guest's side of the contract: the generated bindings, the way from the host into a handler
//! and from the SDK's modules to the host. Only this file knows the generated types.

use std::{panic, sync::Once};

use crate::{Delivery, Failure, Header, Payload, Raw, log::Level};

#[allow(unsafe_code, missing_docs, clippy::all, reason = "generated: calls across the sandbox's border")]
pub mod bindings {
    wit_bindgen::generate!({
        path: "wit",
        world: "handler",
        pub_export_macro: true,
        export_macro_name: "export",
        default_bindings_module: "::brolly_plugin::__private::bindings",
    });
}

use bindings::brolly::plugin as wit;

/// Runs a handler on what the host delivers.
pub fn run<T: Payload>(
    delivery: bindings::Delivery,
    handler: fn(Delivery<T>) -> Result<(), Failure>,
) -> Result<(), bindings::Failure> {
    log_panics();
    from_wit(delivery).decode().and_then(handler).map_err(to_wit)
}

/// Has a panic's message logged before it traps, so that the ledger shows more than "unreachable".
fn log_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        panic::set_hook(Box::new(|panic| imports::log_write(Level::Error, &panic.to_string())));
    });
}

fn from_wit(delivery: bindings::Delivery) -> Delivery<Raw> {
    let header = |header: wit::types::Header| Header { name: header.name, value: header.value };
    Delivery {
        id: delivery.id,
        topic: delivery.topic,
        key: delivery.key,
        content_type: delivery.content_type,
        headers: delivery.headers.into_iter().map(header).collect(),
        published_at_ms: delivery.published_at_ms,
        payload: Raw(delivery.payload),
        subscription: delivery.subscription,
        attempt: delivery.attempt,
        last_attempt: delivery.last_attempt,
        idempotency_key: delivery.idempotency_key,
    }
}

fn to_wit(failure: Failure) -> bindings::Failure {
    match failure {
        Failure::Retry { reason, delay, dependency } => {
            let delay_ms = delay.map(|delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
            bindings::Failure::Retry(wit::types::Retry { reason, delay_ms, dependency })
        }
        Failure::Reject { reason } => bindings::Failure::Reject(reason),
    }
}

/// The calls to the host, in the SDK's words.
pub(crate) mod imports {
    pub(crate) use crate::wasi::{clock_monotonic_ms, clock_now_ms, clock_sleep, http, random};

    use super::wit;
    use crate::{log::Level, publish::Message, state::Entry};

    pub(crate) fn log_write(level: Level, text: &str) {
        let level = match level {
            Level::Trace => wit::log::Level::Trace,
            Level::Debug => wit::log::Level::Debug,
            Level::Info => wit::log::Level::Info,
            Level::Warn => wit::log::Level::Warn,
            Level::Error => wit::log::Level::Error,
        };
        wit::log::write(level, text);
    }

    pub(crate) fn config_get(name: &str) -> Option<String> {
        wit::config::get(name)
    }

    pub(crate) fn state_get(key: &str) -> Option<Vec<u8>> {
        wit::state::get(key)
    }

    pub(crate) fn state_set(key: &str, value: &[u8]) {
        wit::state::set(key, value);
    }

    pub(crate) fn state_delete(key: &str) {
        wit::state::delete(key);
    }

    pub(crate) fn state_list(prefix: &str, after: Option<&str>, limit: u32) -> Vec<Entry> {
        let entry = |entry: wit::state::Entry| Entry { key: entry.key, value: entry.value };
        wit::state::list_by_prefix(prefix, after, limit).into_iter().map(entry).collect()
    }

    pub(crate) fn publish(message: Message) {
        let header = |header: crate::Header| wit::types::Header { name: header.name, value: header.value };
        wit::publish::send(&wit::publish::Outgoing {
            topic: message.topic,
            id: message.id,
            key: message.key,
            content_type: message.content_type,
            headers: message.headers.into_iter().map(header).collect(),
            payload: message.payload,
        });
    }
}
