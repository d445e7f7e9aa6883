//! How the connection is doing, and what is not as it is wanted on the server. Each change shows as a
//! log line and in the metrics. Written by the supervisor and by publishes, read by the port.

use std::sync::Arc;

use brolly_core::{Clock, Connection, Health, Name, Thing, Timestamp};
use parking_lot::Mutex;

use crate::{error::Error, plan::Troubles, server::About};

/// What is known of the connection.
pub(crate) struct Status {
    broker: Name,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

struct State {
    connection: Connection,
    since: Timestamp,
    why: Option<String>,
    about: Option<About>,
    /// Why writes are refused, if they are.
    blocked: Option<String>,
    /// How often it was connected.
    connections: u64,
    troubles: Troubles,
}

impl Status {
    pub(crate) fn clock(&self) -> Arc<dyn Clock> {
        self.clock.clone()
    }

    pub(crate) fn new(broker: Name, clock: Arc<dyn Clock>) -> Self {
        let state = State {
            connection: Connection::Connecting,
            since: clock.now(),
            why: None,
            about: None,
            blocked: None,
            connections: 0,
            troubles: Troubles::default(),
        };
        metrics::counter!("brolly_broker_reconnects_total", "broker" => broker.to_string()).absolute(0);
        Self { broker, clock, state: Mutex::new(state) }
    }

    pub(crate) fn connected(&self, about: About) {
        let mut state = self.state.lock();
        state.connection = Connection::Connected;
        state.since = self.clock.now();
        state.why = None;
        state.connections += 1;
        let again = state.connections > 1;
        drop(state);
        if again {
            metrics::counter!("brolly_broker_reconnects_total", "broker" => self.broker.to_string())
                .increment(1);
        }
        tracing::info!(broker = %self.broker, server = about.server, again, "connected");
        self.learned(about);
    }

    /// What the server says of itself, now.
    pub(crate) fn learned(&self, about: About) {
        let mut state = self.state.lock();
        let before = state.about.as_ref().map(|about| about.warnings.as_slice()).unwrap_or_default();
        let news: Vec<String> =
            about.warnings.iter().filter(|warning| !before.contains(warning)).cloned().collect();
        let full = about.full.clone();
        state.about = Some(about);
        drop(state);
        for warning in news {
            tracing::warn!(broker = %self.broker, warning, "messages on this server are exposed");
        }
        self.block(full);
    }

    /// Whether the server takes writes: why not, or none.
    pub(crate) fn block(&self, why: Option<String>) {
        let mut state = self.state.lock();
        if state.blocked.is_some() == why.is_some() {
            state.blocked = why;
            return;
        }
        match &why {
            Some(why) => tracing::warn!(broker = %self.broker, why, "the server takes no messages for now"),
            None => tracing::info!(broker = %self.broker, "the server takes messages again"),
        }
        state.blocked = why;
        state.since = self.clock.now();
    }

    pub(crate) fn disconnected(&self, error: &Error) {
        let mut state = self.state.lock();
        let why = error.to_string();
        let (was, same) = (state.connection, state.why.as_ref() == Some(&why));
        if was != Connection::Failed {
            state.since = self.clock.now();
        }
        state.connection = Connection::Failed;
        state.why = Some(why);
        drop(state);
        if matches!(error, Error::Closed) {
            tracing::info!(broker = %self.broker, "disconnected");
        } else if was == Connection::Failed && same {
            tracing::debug!(broker = %self.broker, %error, "still not connected");
        } else {
            tracing::warn!(broker = %self.broker, %error, "not connected; it is tried again for ever");
        }
    }

    /// What is not there as it is wanted, as just looked up on the server.
    pub(crate) fn found(&self, troubles: Troubles) {
        let mut state = self.state.lock();
        for (queue, trouble) in &troubles.queues {
            if state.troubles.queues.get(queue) != Some(trouble) {
                tracing::warn!(broker = %self.broker, %queue, trouble, "a queue is not as it is wanted");
            }
        }
        for (topic, trouble) in &troubles.topics {
            if state.troubles.topics.get(topic) != Some(trouble) {
                tracing::warn!(broker = %self.broker, %topic, trouble, "a topic is not as it is wanted");
            }
        }
        state.troubles = troubles;
    }

    pub(crate) fn trouble(&self, thing: Thing<'_>) -> Option<String> {
        let state = self.state.lock();
        match thing {
            Thing::Topic(name) => state.troubles.topics.get(name).cloned(),
            Thing::Queue(name) => state.troubles.queues.get(name).cloned(),
        }
    }

    /// Why there is no connection.
    pub(crate) fn absence(&self) -> Error {
        let state = self.state.lock();
        Error::Disconnected(state.why.clone().unwrap_or_else(|| "still connecting".to_owned()))
    }

    pub(crate) fn health(&self) -> Health {
        let state = self.state.lock();
        let blocked = state.blocked.clone().filter(|_| state.connection == Connection::Connected);
        let warnings = state.about.iter().flat_map(|about| about.warnings.iter().cloned());
        let detail: Vec<String> = match state.connection {
            Connection::Connected | Connection::Blocked => {
                blocked.clone().into_iter().chain(warnings).collect()
            }
            Connection::Connecting | Connection::Failed => state.why.clone().into_iter().collect(),
        };
        Health {
            state: if blocked.is_some() { Connection::Blocked } else { state.connection },
            since: state.since,
            detail: (!detail.is_empty()).then(|| detail.join("; ")),
            server: state.about.as_ref().map(|about| about.server.clone()),
            outbox: 0,
        }
    }
}
