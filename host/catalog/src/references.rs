//! What definitions say of each other: nothing may refer to what is not there, and nothing that is
//! referred to may go.

use brolly_core::{BrokerDefinition, Code, Name, Refusal, Route, Subscription, defaults};

use crate::{Plugin, Role, Snapshot};

fn refuse(code: Code, detail: String) -> Result<(), Refusal> {
    Err(Refusal::new(code, detail))
}

/// The broker must be one that this host has.
pub(crate) fn broker(snapshot: &Snapshot, name: &Name) -> Result<(), Refusal> {
    if *name == defaults::broker() || snapshot.brokers.contains_key(name) {
        return Ok(());
    }
    refuse(
        Code::UnknownReference,
        format!(
            "there is no broker named {name}; create it with PUT /api/v1/brokers/{name}, or use \"{}\"",
            defaults::broker()
        ),
    )
}

/// The embedded broker is there by itself; another one stays of its kind, as its queues are.
pub(crate) fn broker_may_be(
    name: &Name,
    broker: &BrokerDefinition,
    before: Option<&BrokerDefinition>,
) -> Result<(), Refusal> {
    if *name == defaults::broker() {
        return refuse(
            Code::Unsupported,
            format!("the broker {name} is part of every host and cannot be defined; choose another name"),
        );
    }
    match before {
        Some(before) if before.kind != broker.kind => refuse(
            Code::Unsupported,
            format!("the broker {name} is of the kind {}; make a new one instead", before.kind),
        ),
        _ => Ok(()),
    }
}

pub(crate) fn broker_unused(snapshot: &Snapshot, name: &Name) -> Result<(), Refusal> {
    let topic = snapshot.topics.iter().find(|(_, topic)| topic.value.broker == *name);
    let queue = snapshot.queues.iter().find(|(_, queue)| queue.value.broker == *name);
    let user = topic.map(|(topic, _)| ("topic", topic)).or(queue.map(|(queue, _)| ("queue", queue)));
    match user {
        Some((kind, user)) => {
            refuse(Code::InUse, format!("the {kind} {user} lives on the broker {name}; delete that first"))
        }
        None => Ok(()),
    }
}

/// Messages do not move along when a definition changes its broker, so it may not.
pub(crate) fn broker_unchanged(
    kind: &str,
    name: &Name,
    before: Option<&Name>,
    after: &Name,
) -> Result<(), Refusal> {
    match before {
        Some(before) if before != after => refuse(
            Code::Unsupported,
            format!("the {kind} {name} lives on the broker {before}; make a new one on {after} instead"),
        ),
        _ => Ok(()),
    }
}

pub(crate) fn routes_using(
    snapshot: &Snapshot,
    kind: &str,
    name: &Name,
    uses: impl Fn(&Route) -> bool,
) -> Result<(), Refusal> {
    match snapshot.routes.iter().find(|(_, route)| uses(&route.value)) {
        Some((route, _)) => {
            refuse(Code::InUse, format!("the {kind} {name} is used by the route {route}; delete that first"))
        }
        None => Ok(()),
    }
}

pub(crate) fn subscription_of_queue(snapshot: &Snapshot, queue: &Name) -> Result<(), Refusal> {
    match snapshot.subscriptions.iter().find(|(_, subscription)| &subscription.value.queue == queue) {
        Some((name, _)) => refuse(
            Code::InUse,
            format!("the queue {queue} is used by the subscription {name}; delete that first"),
        ),
        None => Ok(()),
    }
}

pub(crate) fn route_ends(snapshot: &Snapshot, route: &Route) -> Result<(), Refusal> {
    let unknown = |kind: &str, name: &Name| {
        Refusal::new(
            Code::UnknownReference,
            format!("there is no {kind} named {name}; create it with PUT /api/v1/{kind}s/{name}"),
        )
    };
    let topic = snapshot.topics.get(&route.topic).ok_or_else(|| unknown("topic", &route.topic))?;
    let queue = snapshot.queues.get(&route.queue).ok_or_else(|| unknown("queue", &route.queue))?;
    if topic.value.broker == queue.value.broker {
        return Ok(());
    }
    refuse(
        Code::Unsupported,
        format!(
            "the topic {} lives on the broker {}, the queue {} on {}; a route stays on one broker",
            route.topic, topic.value.broker, route.queue, queue.value.broker
        ),
    )
}

pub(crate) fn subscription_ends(
    snapshot: &Snapshot,
    name: &Name,
    subscription: &Subscription,
) -> Result<(), Refusal> {
    let queue = &subscription.queue;
    if !snapshot.queues.contains_key(queue) {
        return refuse(
            Code::UnknownReference,
            format!("there is no queue named {queue}; create it with PUT /api/v1/queues/{queue}"),
        );
    }
    let other =
        snapshot.subscriptions.iter().find(|(other, entry)| *other != name && &entry.value.queue == queue);
    if let Some((other, _)) = other {
        return refuse(
            Code::InUse,
            format!(
                "the queue {queue} has the subscription {other}; a queue has one, so route the topic to a second queue"
            ),
        );
    }
    let plugin = &subscription.plugin;
    let known = snapshot
        .plugins
        .get(plugin)
        .is_some_and(|entry| entry.value.version(&subscription.version).is_some());
    if !known {
        return refuse(
            Code::UnknownReference,
            format!(
                "the plugin {plugin} has no version {}; upload it with POST /api/v1/plugins/{plugin}/versions",
                subscription.version
            ),
        );
    }
    Ok(())
}

/// A plugin must keep the versions that subscriptions use.
pub(crate) fn used_versions_kept(snapshot: &Snapshot, name: &Name, plugin: &Plugin) -> Result<(), Refusal> {
    let lost = snapshot.subscriptions.iter().find(|(_, subscription)| {
        subscription.value.plugin == *name && plugin.version(&subscription.value.version).is_none()
    });
    match lost {
        Some((subscription, entry)) => refuse(
            Code::InUse,
            format!(
                "the version {} of the plugin {name} is used by the subscription {subscription}; move that to another \
                 version first",
                entry.value.version
            ),
        ),
        None => Ok(()),
    }
}

pub(crate) fn subscriptions_of_plugin(snapshot: &Snapshot, name: &Name) -> Result<(), Refusal> {
    match snapshot.subscriptions.iter().find(|(_, subscription)| &subscription.value.plugin == name) {
        Some((subscription, _)) => refuse(
            Code::InUse,
            format!(
                "the plugin {name} is used by the subscription {subscription}; delete that or move it first"
            ),
        ),
        None => Ok(()),
    }
}

/// Someone must be able to make tokens.
pub(crate) fn another_admin(snapshot: &Snapshot, name: &Name) -> Result<(), Refusal> {
    let other = snapshot.tokens.iter().any(|(other, token)| other != name && token.value.role == Role::Admin);
    if other {
        return Ok(());
    }
    refuse(Code::InUse, format!("{name} is the only admin token; create another one first"))
}
