//! The names of the simulated world: topics, queues, subscriptions, keys of state.

use brolly_core::{
    BrokerDefinition, Digest, Message, Name, Order, Queue, Retention, RetryPolicy, Route, Subscription, Topic,
};
use serde_json::json;

/// What producers publish to; both `ORDERED` and `LOOSE` get it.
pub(crate) const IN: &str = "in";
/// What handlers publish to.
pub(crate) const CHILD: &str = "child";
/// A topic of the far broker.
pub(crate) const FAR: &str = "far";

/// In the order of keys.
pub(crate) const ORDERED: &str = "ordered";
/// In any order.
pub(crate) const LOOSE: &str = "loose";
/// Handles what handlers publish; its queue is small.
pub(crate) const CHILDREN: &str = "children";
/// Handles what comes from elsewhere.
pub(crate) const REMOTE: &str = "remote";

/// A subscription and its queue have the same name.
pub(crate) const SUBSCRIPTIONS: [&str; 4] = [ORDERED, LOOSE, CHILDREN, REMOTE];
/// Those whose queue the host keeps itself.
pub(crate) const EMBEDDED: [&str; 3] = [ORDERED, LOOSE, CHILDREN];

/// State: everything that was acknowledged.
pub(crate) const ALL: &str = "all";
/// State: what was acknowledged, by key.
pub(crate) const KEYS: &str = "key/";

/// Versions of the plugin.
pub(crate) const VERSIONS: [u8; 2] = [1, 2];

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).expect("a name of this file")
}

pub(crate) fn version(number: u8) -> Digest {
    Digest::from_bytes([number; 32])
}

pub(crate) fn of_key(key: &str) -> String {
    format!("{KEYS}{key}")
}

/// State: how often this message took effect.
pub(crate) fn done(message: &Message) -> String {
    done_of(message.topic.as_str(), &message.id)
}

pub(crate) fn done_of(topic: &str, id: &str) -> String {
    format!("done/{topic}/{id}")
}

/// The id of what a delivery publishes, and its payload.
pub(crate) fn child(subscription: &Name, message: &Message) -> String {
    child_of(subscription.as_str(), message.topic.as_str(), &message.id)
}

pub(crate) fn child_of(subscription: &str, topic: &str, id: &str) -> String {
    format!("{subscription}/{topic}/{id}")
}

pub(crate) fn number(value: &[u8]) -> u64 {
    std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).expect("state is a number")
}

/// Messages that the queue of a subscription may hold.
pub(crate) fn room(queue: &str) -> u64 {
    match queue {
        CHILDREN => 5,
        ORDERED => 30,
        _ => 10_000,
    }
}

pub(crate) fn far_broker() -> BrokerDefinition {
    serde_json::from_value(json!({"kind": "far", "url": "far://there"})).expect("a broker")
}

pub(crate) fn topic(topic: &str) -> Topic {
    let broker = if topic == FAR { "elsewhere" } else { "embedded" };
    serde_json::from_value(json!({"broker": broker})).expect("a topic")
}

pub(crate) fn queue(queue: &str) -> Queue {
    let broker = if queue == REMOTE { "elsewhere" } else { "embedded" };
    let mut definition: Queue = serde_json::from_value(json!({"broker": broker})).expect("a queue");
    if queue != REMOTE {
        definition.retention = Retention { max_messages: room(queue), ..Retention::default() };
    }
    definition
}

/// The routes: from a topic to a queue.
pub(crate) const ROUTES: [(&str, &str); 4] = [(IN, ORDERED), (IN, LOOSE), (CHILD, CHILDREN), (FAR, REMOTE)];

pub(crate) fn route(topic: &str, queue: &str) -> Route {
    serde_json::from_value(json!({"topic": topic, "queue": queue})).expect("a route")
}

pub(crate) fn subscription(of: &str, plugin: u8, retry: RetryPolicy) -> Subscription {
    let order = if of == ORDERED { Order::Key } else { Order::None };
    let base = json!({
        "queue": of, "plugin": "script", "version": version(plugin).to_string(), "workers": WORKERS,
        "max_in_flight": 6,
        // Attempts that fault count here, as the model counts them.
        "guard": null,
    });
    let base: Subscription = serde_json::from_value(base).expect("a subscription");
    Subscription { order, retry, ..base }
}

/// Workers of a subscription.
pub(crate) const WORKERS: usize = 3;

/// Policies that an operator changes between.
pub(crate) fn retry(number: usize) -> RetryPolicy {
    let all = [(1, 0, 0), (3, 100, 300), (5, 0, 1_000), (8, 50, 50)];
    let (max_attempts, initial_delay_ms, max_delay_ms) = all[number % all.len()];
    RetryPolicy { max_attempts, initial_delay_ms, max_delay_ms }
}
