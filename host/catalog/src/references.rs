//! What definitions say of each other: nothing may refer to what is not there, and nothing that is
//! referred to may go.

use std::collections::{BTreeMap, BTreeSet};

use brolly_core::{
    AlertRule, BrokerDefinition, Channel, Code, Digest, HandledBy, Name, Queue, Refusal, Route, Subscription,
    Topic, defaults,
};

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

/// What a feed brings is kept at once, so its topic lives in the host; its broker is another one.
pub(crate) fn feed(snapshot: &Snapshot, topic: &Topic) -> Result<(), Refusal> {
    let Some(feed) = &topic.feed else { return Ok(()) };
    if topic.broker != defaults::broker() {
        return refuse(
            Code::Unsupported,
            format!(
                "a topic with a feed lives on the broker {}, which keeps what is heard; forward from there to {}",
                defaults::broker(),
                topic.broker
            ),
        );
    }
    broker(snapshot, &feed.broker)
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
    let fed = |topic: &Topic| topic.feed.as_ref().is_some_and(|feed| feed.broker == *name);
    let lives = |topic: &Topic| topic.broker == *name || fed(topic);
    let topic = snapshot.topics.iter().find(|(_, topic)| lives(&topic.value));
    let queue = snapshot.queues.iter().find(|(_, queue)| queue.value.broker == *name);
    let user = topic.map(|(topic, _)| ("topic", topic)).or(queue.map(|(queue, _)| ("queue", queue)));
    match user {
        Some((kind, user)) => {
            refuse(Code::InUse, format!("the {kind} {user} uses the broker {name}; delete that first"))
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
    match subscription.handled_by()? {
        HandledBy::Plugin { plugin, version } => {
            let known = |version: &Digest| {
                snapshot.plugins.get(plugin).is_some_and(|entry| entry.value.version(version).is_some())
            };
            let candidate = subscription.rollout.as_ref().map(|rollout| rollout.version);
            let Some(version) =
                [Some(version), candidate].into_iter().flatten().find(|version| !known(version))
            else {
                return Ok(());
            };
            refuse(
                Code::UnknownReference,
                format!(
                    "the plugin {plugin} has no version {version}; upload it with POST \
                     /api/v1/plugins/{plugin}/versions"
                ),
            )
        }
        HandledBy::Forward(forward) => {
            let topic = &forward.topic;
            if !snapshot.topics.contains_key(topic) {
                return refuse(
                    Code::UnknownReference,
                    format!("there is no topic named {topic}; create it with PUT /api/v1/topics/{topic}"),
                );
            }
            let mut flow = Flow::new(snapshot);
            if let Some(before) = snapshot.subscriptions.get(name) {
                flow.forwards.remove(&before.value.queue);
            }
            flow.forwards.insert(queue, topic);
            flow.no_circle(queue)
        }
    }
}

/// A route must not close a circle of forwards.
pub(crate) fn route_closes_no_circle(snapshot: &Snapshot, name: &Name, route: &Route) -> Result<(), Refusal> {
    let mut flow = Flow::new(snapshot);
    flow.routes.retain(|(of, _, _)| *of != name);
    flow.routes.push((name, &route.topic, &route.queue));
    flow.forwards.keys().try_for_each(|queue| flow.no_circle(queue))
}

/// Where messages go by themselves: from topics by routes, from queues by forwards.
struct Flow<'a> {
    /// Name, topic and queue.
    routes: Vec<(&'a Name, &'a Name, &'a Name)>,
    /// Queue and topic.
    forwards: BTreeMap<&'a Name, &'a Name>,
}

impl<'a> Flow<'a> {
    fn new(snapshot: &'a Snapshot) -> Self {
        let routes = snapshot.routes.iter();
        let forwards = snapshot.subscriptions.values().filter_map(|entry| {
            let forward = entry.value.forward.as_ref()?;
            Some((&entry.value.queue, &forward.topic))
        });
        Self {
            routes: routes.map(|(name, entry)| (name, &entry.value.topic, &entry.value.queue)).collect(),
            forwards: forwards.collect(),
        }
    }

    /// What is forwarded from a queue must not come back to it: it would go round for ever.
    fn no_circle(&self, queue: &Name) -> Result<(), Refusal> {
        let (mut seen, mut queues) = (BTreeSet::new(), vec![queue]);
        while let Some(next) = queues.pop() {
            let Some(topic) = self.forwards.get(next) else { continue };
            let routed = self.routes.iter().filter(|(_, from, _)| from == topic);
            queues.extend(routed.map(|(_, _, to)| *to).filter(|to| seen.insert(*to)));
            if seen.contains(queue) {
                return refuse(
                    Code::InvalidDefinition,
                    format!(
                        "what is forwarded from the queue {queue} to the topic {} would come back to {queue} by a \
                         route; delete that route or another forward on the way first",
                        self.forwards.get(queue).copied().unwrap_or(topic)
                    ),
                );
            }
        }
        Ok(())
    }
}

pub(crate) fn forwards_to(snapshot: &Snapshot, topic: &Name) -> Result<(), Refusal> {
    let forwards =
        |entry: &Subscription| entry.forward.as_ref().is_some_and(|forward| forward.topic == *topic);
    match snapshot.subscriptions.iter().find(|(_, entry)| forwards(&entry.value)) {
        Some((name, _)) => refuse(
            Code::InUse,
            format!("the subscription {name} forwards to the topic {topic}; delete that first"),
        ),
        None => Ok(()),
    }
}

/// A plugin must keep the versions that subscriptions use.
pub(crate) fn used_versions_kept(snapshot: &Snapshot, name: &Name, plugin: &Plugin) -> Result<(), Refusal> {
    let lost = snapshot.subscriptions.iter().find_map(|(user, entry)| {
        let candidate = entry.value.rollout.as_ref().map(|rollout| rollout.version);
        let used = [entry.value.version, candidate].into_iter().flatten();
        let gone = used.filter(|_| entry.value.uses(name)).find(|version| plugin.version(version).is_none());
        gone.map(|version| (user, version))
    });
    match lost {
        Some((subscription, version)) => refuse(
            Code::InUse,
            format!(
                "the version {version} of the plugin {name} is used by the subscription {subscription}; move that to \
                 another version first"
            ),
        ),
        None => Ok(()),
    }
}

pub(crate) fn subscriptions_of_plugin(snapshot: &Snapshot, name: &Name) -> Result<(), Refusal> {
    match snapshot.subscriptions.iter().find(|(_, subscription)| subscription.value.uses(name)) {
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
    let other =
        snapshot.tokens.iter().any(|(other, token)| other != name && token.value.grant.role == Role::Admin);
    if other {
        return Ok(());
    }
    refuse(Code::InUse, format!("{name} is the only admin token; create another one first"))
}

/// The channels of a queue's alerts must be there, and each must have somebody to tell.
pub(crate) fn channels(snapshot: &Snapshot, queue: &Queue) -> Result<(), Refusal> {
    for (number, rule) in queue.alerts.iter().enumerate() {
        let mut told = 0;
        for name in &rule.channels {
            let Some(channel) = snapshot.channels.get(name) else {
                return refuse(
                    Code::UnknownReference,
                    format!(
                        "alerts[{number}]: there is no channel named {name}; create it with PUT /api/v1/channels/{name}"
                    ),
                );
            };
            let recipients = channel.value.recipients(&queue.owners).len();
            told += recipients;
            if recipients == 0 {
                return refuse(
                    Code::InvalidDefinition,
                    format!(
                        "alerts[{number}]: the channel {name} has nobody to tell; {}",
                        missing(&channel.value)
                    ),
                );
            }
        }
        if told > AlertRule::MAX_RECIPIENTS {
            let most = AlertRule::MAX_RECIPIENTS;
            let detail = format!("alerts[{number}] tells {told} people and programs, the limit is {most}");
            return refuse(Code::InvalidDefinition, detail);
        }
    }
    Ok(())
}

fn missing(channel: &Channel) -> &'static str {
    match channel {
        Channel::Smtp(_) => "give the queue an owner with an e-mail address, or the channel some in \"to\"",
        Channel::Sms(_) => "give the queue an owner with a phone number, or the channel some in \"to\"",
        Channel::Webhook(_) => "give it a url",
    }
}

/// A channel must not lose those whom the alerts of some queue are told to.
pub(crate) fn queues_keep_being_told(
    snapshot: &Snapshot,
    name: &Name,
    channel: &Channel,
) -> Result<(), Refusal> {
    let unheard = queues_with(snapshot, name).find(|(_, queue)| channel.recipients(&queue.owners).is_empty());
    match unheard {
        Some((queue, _)) => refuse(
            Code::InUse,
            format!("the alerts of the queue {queue} would have nobody to tell; {}", missing(channel)),
        ),
        None => Ok(()),
    }
}

pub(crate) fn channel_unused(snapshot: &Snapshot, name: &Name) -> Result<(), Refusal> {
    match queues_with(snapshot, name).next() {
        Some((queue, _)) => refuse(
            Code::InUse,
            format!("the channel {name} is used by the alerts of the queue {queue}; change those first"),
        ),
        None => Ok(()),
    }
}

/// The queues whose alerts use a channel.
fn queues_with<'a>(snapshot: &'a Snapshot, channel: &'a Name) -> impl Iterator<Item = (&'a Name, &'a Queue)> {
    let uses = |queue: &Queue| queue.alerts.iter().any(|rule| rule.channels.contains(channel));
    snapshot.queues.iter().map(|(name, entry)| (name, &*entry.value)).filter(move |(_, queue)| uses(queue))
}
