//! The worlds that a plugin may target: Brolly's own, and the draft of `wasi:messaging`. Which one it is, is
//! decided once, when its component is linked; from then on both are called in one way. Used by `admit`,
//! `library` and `handler`.

use std::time::Duration;

use brolly_core::{Call, Outcome};
use wasmtime::{
    Engine, Store,
    component::{Component, InstancePre, types::ComponentItem},
};

use crate::{
    attempt::Guest,
    bindings::{
        self, Delivery,
        brolly::plugin::types::{Failure, HeaderParam},
        messaging::{MessagingRequestReply, MessagingRequestReplyPre},
    },
    fault::{MAX_REASON_BYTES, cut},
    wasi::messaging,
};

/// Bytes of the name of a dependency that are kept.
const MAX_DEPENDENCY_BYTES: usize = 100;

/// Brolly's own.
pub const WORLD: &str = "brolly:plugin/handler@0.1.0";
/// The other one.
pub const MESSAGING_WORLD: &str = "wasi:messaging/messaging-core@0.2.0-draft";
/// What it exports.
const INCOMING_HANDLER: &str = "wasi:messaging/incoming-handler@0.2.0-draft";

/// A world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum World {
    Own,
    Messaging,
}

/// A component that fits its world.
pub(crate) enum Pre {
    Own(bindings::HandlerPre<Guest>),
    Messaging(MessagingRequestReplyPre<Guest>),
}

/// An instance's handler.
pub(crate) enum Exports {
    Own(bindings::Handler),
    Messaging(MessagingRequestReply),
}

impl World {
    /// The world that a component targets, or what is wrong with its exports.
    pub(crate) fn of(engine: &Engine, component: &Component) -> Result<Self, String> {
        let ty = component.component_type();
        let own = ty.get_export(engine, "handle").map(|export| export.ty);
        let messaging = ty.exports(engine).map(|(name, _)| name).find(|name| is_incoming_handler(name));
        match (own, messaging) {
            (Some(_), Some(messaging)) => Err(format!(
                "it exports two handlers, `handle` of the world {WORLD} and {messaging}; leave one of them"
            )),
            (Some(ComponentItem::ComponentFunc(_)), None) => Ok(World::Own),
            (Some(_), None) => {
                Err(format!("its export `handle` is not a function; the world {WORLD} asks for one"))
            }
            (None, Some(INCOMING_HANDLER)) => Ok(World::Messaging),
            (None, Some(other)) => Err(format!(
                "it exports {other}, and this host knows {INCOMING_HANDLER}; build it for the world \
                 {MESSAGING_WORLD}"
            )),
            (None, None) => Err(format!(
                "it does not export the function `handle` of the world {WORLD}, nor the interface \
                 incoming-handler of {MESSAGING_WORLD}; mark the handler with the SDK's attribute, or build the \
                 component for one of these worlds"
            )),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            World::Own => WORLD,
            World::Messaging => MESSAGING_WORLD,
        }
    }

    /// Holds the export against the world.
    pub(crate) fn pre(self, pre: InstancePre<Guest>) -> wasmtime::Result<Pre> {
        Ok(match self {
            World::Own => Pre::Own(bindings::HandlerPre::new(pre)?),
            World::Messaging => Pre::Messaging(MessagingRequestReplyPre::new(pre)?),
        })
    }
}

fn is_incoming_handler(name: &str) -> bool {
    name.strip_prefix("wasi:messaging/incoming-handler").is_some_and(|rest| rest.starts_with('@'))
}

impl Pre {
    pub(crate) fn world(&self) -> World {
        match self {
            Pre::Own(_) => World::Own,
            Pre::Messaging(_) => World::Messaging,
        }
    }

    pub(crate) fn instantiate(&self, store: &mut Store<Guest>) -> wasmtime::Result<Exports> {
        Ok(match self {
            Pre::Own(pre) => Exports::Own(pre.instantiate(store)?),
            Pre::Messaging(pre) => Exports::Messaging(pre.instantiate(store)?),
        })
    }
}

impl Exports {
    /// Has the guest handle the delivery. An error is what stopped it.
    pub(crate) fn handle(&self, store: &mut Store<Guest>, call: &Call<'_>) -> wasmtime::Result<Outcome> {
        match self {
            Exports::Own(exports) => Ok(match own(exports, store, call)? {
                Ok(()) => Outcome::Ack,
                Err(failure) => outcome(failure),
            }),
            Exports::Messaging(exports) => {
                let message = store.data_mut().receive(call)?;
                Ok(match exports.wasi_messaging_incoming_handler().call_handle(store, message)? {
                    Ok(()) => Outcome::Ack,
                    Err(error) => messaging::outcome(error),
                })
            }
        }
    }
}

fn own(
    exports: &bindings::Handler,
    store: &mut Store<Guest>,
    call: &Call<'_>,
) -> wasmtime::Result<Result<(), Failure>> {
    let message = call.message;
    let headers: Vec<HeaderParam<'_>> =
        message.headers.iter().map(|(name, value)| HeaderParam { name, value }).collect();
    let delivery = Delivery {
        id: &message.id,
        topic: message.topic.as_str(),
        key: &message.key,
        content_type: &message.content_type,
        headers: &headers,
        published_at_ms: message.published_at.0,
        payload: &message.payload,
        subscription: call.subscription.as_str(),
        attempt: call.attempt,
        last_attempt: call.last_attempt,
        idempotency_key: call.idempotency_key,
    };
    exports.call_handle(store, delivery)
}

fn outcome(failure: Failure) -> Outcome {
    match failure {
        Failure::Retry(retry) => Outcome::Retry {
            reason: cut(retry.reason, MAX_REASON_BYTES),
            delay: retry.delay_ms.map(Duration::from_millis),
            dependency: retry
                .dependency
                .map(|name| cut(name, MAX_DEPENDENCY_BYTES))
                .filter(|name| !name.is_empty()),
        },
        Failure::Reject(reason) => Outcome::Reject { reason: cut(reason, MAX_REASON_BYTES) },
    }
}
