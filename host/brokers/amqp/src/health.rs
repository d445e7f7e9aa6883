//! How the connection is doing, as people see it. Written by the session loop.

use std::sync::Arc;

use brolly_core::{Clock, Connection, Health, Name};
use parking_lot::Mutex;

/// The notice board of one broker.
pub(crate) struct Board {
    name: Name,
    clock: Arc<dyn Clock>,
    health: Mutex<Health>,
}

impl Board {
    pub(crate) fn new(name: Name, clock: Arc<dyn Clock>) -> Self {
        let health = Health {
            state: Connection::Connecting,
            since: clock.now(),
            detail: None,
            server: None,
            outbox: 0,
        };
        metrics::counter!("brolly_broker_reconnects_total", "broker" => name.to_string()).absolute(0);
        Self { name, clock, health: Mutex::new(health) }
    }

    pub(crate) fn health(&self) -> Health {
        self.health.lock().clone()
    }

    pub(crate) fn connected(&self, server: &str, address: &str) {
        tracing::info!(broker = %self.name, server, address, "connected");
        self.health.lock().server = Some(server.to_owned());
        self.set(Connection::Connected, None);
    }

    pub(crate) fn blocked(&self, reason: &str) {
        tracing::warn!(broker = %self.name, reason, "the server blocks publishers");
        metrics::counter!("brolly_broker_blocked_total", "broker" => self.name.to_string()).increment(1);
        self.set(Connection::Blocked, Some(format!("the server blocks publishers: {reason}")));
    }

    pub(crate) fn unblocked(&self) {
        tracing::info!(broker = %self.name, "the server takes messages again");
        self.set(Connection::Connected, None);
    }

    pub(crate) fn lost(&self, reason: &str) {
        tracing::warn!(broker = %self.name, reason, "the connection is lost");
        self.set(Connection::Failed, Some(reason.to_owned()));
    }

    /// Another try to connect begins.
    pub(crate) fn again(&self) {
        metrics::counter!("brolly_broker_reconnects_total", "broker" => self.name.to_string()).increment(1);
    }

    /// A try to connect failed.
    pub(crate) fn failed(&self, reason: &str) {
        let health = self.health();
        if health.state == Connection::Failed && health.detail.as_deref() == Some(reason) {
            return;
        }
        tracing::warn!(broker = %self.name, reason, "cannot connect; it is tried again");
        self.set(Connection::Failed, Some(reason.to_owned()));
    }

    pub(crate) fn closed(&self) {
        tracing::info!(broker = %self.name, "disconnected");
        self.set(Connection::Failed, Some("it was closed".to_owned()));
    }

    fn set(&self, state: Connection, detail: Option<String>) {
        let mut health = self.health.lock();
        if health.state != state {
            health.since = self.clock.now();
        }
        health.state = state;
        health.detail = detail;
    }
}
