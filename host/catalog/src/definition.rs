//! The kinds of definitions, and what each must satisfy before it is stored.

use std::collections::BTreeMap;

use brolly_core::{BrokerDefinition, Channel, Name, Proposal, Queue, Refusal, Route, Subscription, Topic};
use serde::{Serialize, de::DeserializeOwned};

use crate::{Entry, Plugin, Samples, Snapshot, Token, references};

/// A kind of definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the words of the product")]
pub enum Kind {
    Broker,
    Topic,
    Queue,
    Route,
    Plugin,
    Subscription,
    Token,
    Channel,
    Samples,
}

impl Kind {
    /// The word for it, in keys, messages and paths.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Kind::Broker => "broker",
            Kind::Topic => "topic",
            Kind::Queue => "queue",
            Kind::Route => "route",
            Kind::Plugin => "plugin",
            Kind::Subscription => "subscription",
            Kind::Token => "token",
            Kind::Channel => "channel",
            Kind::Samples => "samples",
        }
    }
}

/// Something that the catalog keeps under a name.
pub trait Definition: Clone + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Which kind it is.
    const KIND: Kind;

    /// All of its kind.
    fn map(snapshot: &Snapshot) -> &BTreeMap<Name, Entry<Self>>;

    /// All of its kind, to be changed.
    fn map_mut(snapshot: &mut Snapshot) -> &mut BTreeMap<Name, Entry<Self>>;

    /// Fills what was left out from the definition that is replaced.
    #[must_use]
    fn merged(self, _before: Option<&Self>) -> Self {
        self
    }

    /// What the audit log keeps of it: no secrets, and no more than a reader needs.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    fn audited(&self) -> Result<serde_json::Value, serde_json::Error> {
        serde_json::to_value(self)
    }

    /// Checks its fields and what it refers to.
    ///
    /// # Errors
    /// Says what is wrong and how to mend it.
    fn check(&self, name: &Name, snapshot: &Snapshot) -> Result<(), Refusal>;

    /// The brokers that are to honour it, and what each is asked. Only for what has passed
    /// [`Definition::check`].
    fn proposals<'a>(&'a self, _snapshot: &'a Snapshot) -> Vec<(&'a Name, Proposal<'a>)> {
        Vec::new()
    }

    /// Checks that nothing refers to it.
    ///
    /// # Errors
    /// [`brolly_core::Code::InUse`], naming what does.
    fn check_unused(name: &Name, snapshot: &Snapshot) -> Result<(), Refusal>;
}

/// Whether a host can make it is checked by whoever makes brokers, not here.
impl Definition for BrokerDefinition {
    const KIND: Kind = Kind::Broker;

    fn map(snapshot: &Snapshot) -> &BTreeMap<Name, Entry<Self>> {
        &snapshot.brokers
    }

    fn map_mut(snapshot: &mut Snapshot) -> &mut BTreeMap<Name, Entry<Self>> {
        std::sync::Arc::make_mut(&mut snapshot.brokers)
    }

    fn merged(self, before: Option<&Self>) -> Self {
        match before {
            Some(before) => self.with_password_of(before),
            None => self,
        }
    }

    fn audited(&self) -> Result<serde_json::Value, serde_json::Error> {
        serde_json::to_value(self.hidden())
    }

    fn check(&self, name: &Name, snapshot: &Snapshot) -> Result<(), Refusal> {
        let before = snapshot.brokers.get(name).map(|entry| &*entry.value);
        references::broker_may_be(name, self, before)
    }

    fn check_unused(name: &Name, snapshot: &Snapshot) -> Result<(), Refusal> {
        references::broker_unused(snapshot, name)
    }
}

impl Definition for Topic {
    const KIND: Kind = Kind::Topic;

    fn map(snapshot: &Snapshot) -> &BTreeMap<Name, Entry<Self>> {
        &snapshot.topics
    }

    fn map_mut(snapshot: &mut Snapshot) -> &mut BTreeMap<Name, Entry<Self>> {
        std::sync::Arc::make_mut(&mut snapshot.topics)
    }

    fn check(&self, name: &Name, snapshot: &Snapshot) -> Result<(), Refusal> {
        self.check()?;
        references::broker(snapshot, &self.broker)?;
        references::feed(snapshot, self)?;
        references::broker_unchanged(
            "topic",
            name,
            snapshot.topics.get(name).map(|e| &e.value.broker),
            &self.broker,
        )
    }

    fn proposals<'a>(&'a self, _snapshot: &'a Snapshot) -> Vec<(&'a Name, Proposal<'a>)> {
        let feed = self.feed.iter().map(|feed| (&feed.broker, Proposal::Feed(feed)));
        std::iter::once((&self.broker, Proposal::Topic(self))).chain(feed).collect()
    }

    fn check_unused(name: &Name, snapshot: &Snapshot) -> Result<(), Refusal> {
        references::routes_using(snapshot, "topic", name, |route| &route.topic == name)?;
        references::forwards_to(snapshot, name)
    }
}

impl Definition for Queue {
    const KIND: Kind = Kind::Queue;

    fn map(snapshot: &Snapshot) -> &BTreeMap<Name, Entry<Self>> {
        &snapshot.queues
    }

    fn map_mut(snapshot: &mut Snapshot) -> &mut BTreeMap<Name, Entry<Self>> {
        std::sync::Arc::make_mut(&mut snapshot.queues)
    }

    fn check(&self, name: &Name, snapshot: &Snapshot) -> Result<(), Refusal> {
        self.check()?;
        references::broker(snapshot, &self.broker)?;
        references::broker_unchanged(
            "queue",
            name,
            snapshot.queues.get(name).map(|e| &e.value.broker),
            &self.broker,
        )?;
        references::channels(snapshot, self)
    }

    fn proposals<'a>(&'a self, _snapshot: &'a Snapshot) -> Vec<(&'a Name, Proposal<'a>)> {
        vec![(&self.broker, Proposal::Queue(self))]
    }

    fn check_unused(name: &Name, snapshot: &Snapshot) -> Result<(), Refusal> {
        references::routes_using(snapshot, "queue", name, |route| &route.queue == name)?;
        references::subscription_of_queue(snapshot, name)
    }
}

impl Definition for Route {
    const KIND: Kind = Kind::Route;

    fn map(snapshot: &Snapshot) -> &BTreeMap<Name, Entry<Self>> {
        &snapshot.routes
    }

    fn map_mut(snapshot: &mut Snapshot) -> &mut BTreeMap<Name, Entry<Self>> {
        std::sync::Arc::make_mut(&mut snapshot.routes)
    }

    fn check(&self, name: &Name, snapshot: &Snapshot) -> Result<(), Refusal> {
        self.check()?;
        references::route_ends(snapshot, self)?;
        references::route_closes_no_circle(snapshot, name, self)
    }

    fn proposals<'a>(&'a self, snapshot: &'a Snapshot) -> Vec<(&'a Name, Proposal<'a>)> {
        let queue = snapshot.queues.get(&self.queue).map(|entry| &*entry.value);
        queue.into_iter().map(|queue| (&queue.broker, Proposal::Route(self, queue))).collect()
    }

    fn check_unused(_name: &Name, _snapshot: &Snapshot) -> Result<(), Refusal> {
        Ok(())
    }
}

impl Definition for Subscription {
    const KIND: Kind = Kind::Subscription;

    fn map(snapshot: &Snapshot) -> &BTreeMap<Name, Entry<Self>> {
        &snapshot.subscriptions
    }

    fn map_mut(snapshot: &mut Snapshot) -> &mut BTreeMap<Name, Entry<Self>> {
        std::sync::Arc::make_mut(&mut snapshot.subscriptions)
    }

    fn merged(mut self, before: Option<&Self>) -> Self {
        self.paused = Some(self.paused.unwrap_or_else(|| before.is_some_and(Subscription::is_paused)));
        self
    }

    fn check(&self, name: &Name, snapshot: &Snapshot) -> Result<(), Refusal> {
        self.check()?;
        references::subscription_ends(snapshot, name, self)
    }

    fn proposals<'a>(&'a self, snapshot: &'a Snapshot) -> Vec<(&'a Name, Proposal<'a>)> {
        let queue = snapshot.queues.get(&self.queue).map(|entry| &*entry.value);
        queue.into_iter().map(|queue| (&queue.broker, Proposal::Order(queue, self.order))).collect()
    }

    fn check_unused(_name: &Name, _snapshot: &Snapshot) -> Result<(), Refusal> {
        Ok(())
    }
}

impl Definition for Plugin {
    const KIND: Kind = Kind::Plugin;

    fn map(snapshot: &Snapshot) -> &BTreeMap<Name, Entry<Self>> {
        &snapshot.plugins
    }

    fn map_mut(snapshot: &mut Snapshot) -> &mut BTreeMap<Name, Entry<Self>> {
        std::sync::Arc::make_mut(&mut snapshot.plugins)
    }

    fn audited(&self) -> Result<serde_json::Value, serde_json::Error> {
        let digests: Vec<_> = self.versions.iter().map(|version| version.admission.digest).collect();
        Ok(serde_json::json!({ "versions": digests, "keys": self.keys }))
    }

    fn check(&self, name: &Name, snapshot: &Snapshot) -> Result<(), Refusal> {
        references::used_versions_kept(snapshot, name, self)
    }

    fn check_unused(name: &Name, snapshot: &Snapshot) -> Result<(), Refusal> {
        references::subscriptions_of_plugin(snapshot, name)
    }
}

/// Whether it is a document of samples is checked by whoever runs them, not here.
impl Definition for Samples {
    const KIND: Kind = Kind::Samples;

    fn map(snapshot: &Snapshot) -> &BTreeMap<Name, Entry<Self>> {
        &snapshot.samples
    }

    fn map_mut(snapshot: &mut Snapshot) -> &mut BTreeMap<Name, Entry<Self>> {
        std::sync::Arc::make_mut(&mut snapshot.samples)
    }

    fn check(&self, _name: &Name, _snapshot: &Snapshot) -> Result<(), Refusal> {
        Ok(())
    }

    fn check_unused(_name: &Name, _snapshot: &Snapshot) -> Result<(), Refusal> {
        Ok(())
    }
}

impl Definition for Token {
    const KIND: Kind = Kind::Token;

    fn map(snapshot: &Snapshot) -> &BTreeMap<Name, Entry<Self>> {
        &snapshot.tokens
    }

    fn map_mut(snapshot: &mut Snapshot) -> &mut BTreeMap<Name, Entry<Self>> {
        std::sync::Arc::make_mut(&mut snapshot.tokens)
    }

    fn audited(&self) -> Result<serde_json::Value, serde_json::Error> {
        serde_json::to_value(self.grant)
    }

    fn check(&self, _name: &Name, _snapshot: &Snapshot) -> Result<(), Refusal> {
        Ok(())
    }

    fn check_unused(name: &Name, snapshot: &Snapshot) -> Result<(), Refusal> {
        references::another_admin(snapshot, name)
    }
}

/// Whether it can be used is checked by whoever uses channels, not here.
impl Definition for Channel {
    const KIND: Kind = Kind::Channel;

    fn map(snapshot: &Snapshot) -> &BTreeMap<Name, Entry<Self>> {
        &snapshot.channels
    }

    fn map_mut(snapshot: &mut Snapshot) -> &mut BTreeMap<Name, Entry<Self>> {
        std::sync::Arc::make_mut(&mut snapshot.channels)
    }

    fn merged(self, before: Option<&Self>) -> Self {
        match before {
            Some(before) => self.with_secrets_of(before),
            None => self,
        }
    }

    fn audited(&self) -> Result<serde_json::Value, serde_json::Error> {
        serde_json::to_value(self.hidden())
    }

    fn check(&self, name: &Name, snapshot: &Snapshot) -> Result<(), Refusal> {
        let before = snapshot.channels.get(name).map(|entry| &*entry.value);
        self.clone().merged(before).check()?;
        references::queues_keep_being_told(snapshot, name, self)
    }

    fn check_unused(name: &Name, snapshot: &Snapshot) -> Result<(), Refusal> {
        references::channel_unused(snapshot, name)
    }
}
