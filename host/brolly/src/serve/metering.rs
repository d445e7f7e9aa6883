//! Numbers that nobody counts but that can be read: queues, subscriptions, brokers, feeds, the store and
//! the process. They are read every few seconds and shown as gauges, and one that is not read any more
//! because its queue is gone is shown no more (see `telemetry.rs`).

use std::time::Duration;

use brolly_core::{BrokerDefinition, Connection, Name, Queue, Standing, Subscription, Topic, defaults};
use brolly_dispatch::{Definition, Handle, QueueCounts, State};
use brolly_store::Store;
use metrics::{counter, gauge};
use metrics_exporter_prometheus::PrometheusHandle;
use metrics_process::Collector;
use tokio_util::sync::CancellationToken;

/// How often.
const INTERVAL: Duration = Duration::from_secs(5);

/// Definitions read in one go.
const PAGE: usize = 500;

/// Reads the numbers.
pub struct Metering {
    /// Where they go.
    pub prometheus: PrometheusHandle,
    /// The store, for its commits and the disk.
    pub store: Store,
    /// The door to queues and subscriptions.
    pub handle: Handle,
}

impl Metering {
    /// Reads them until it is told to stop.
    pub async fn run(self, stop: CancellationToken) {
        let process = Collector::default();
        let mut interval = tokio::time::interval(INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(interval.tick()).await.is_some() {
            gauge!("brolly_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
            process.collect();
            self.store();
            self.alerts();
            self.brokers();
            self.feeds();
            self.subscriptions();
            self.queues().await;
            self.prometheus.run_upkeep();
        }
    }

    fn store(&self) {
        let stats = self.store.stats();
        counter!("brolly_store_commits_total").absolute(stats.commits);
        counter!("brolly_store_flushes_total").absolute(stats.flushes);
        counter!("brolly_store_operations_total").absolute(stats.operations);
        match self.store.free_bytes() {
            Ok(bytes) => gauge!("brolly_store_free_bytes").set(to_f64(bytes)),
            Err(error) => tracing::warn!(%error, "the free space of the store's disk is not known"),
        }
    }

    fn alerts(&self) {
        gauge!("brolly_alerts_firing").set(to_f64(self.handle.firing_alerts().len() as u64));
    }

    fn brokers(&self) {
        let named = self.names::<BrokerDefinition>("brokers");
        for broker in named.iter().chain([&defaults::broker()]) {
            let health = self.handle.broker_health(broker);
            let (connected, blocked) = match health.state {
                Connection::Connected => (true, false),
                Connection::Blocked => (true, true),
                Connection::Connecting | Connection::Failed => (false, false),
            };
            gauge!("brolly_broker_connected", "broker" => broker.to_string()).set(flag(connected));
            gauge!("brolly_broker_blocked", "broker" => broker.to_string()).set(flag(blocked));
            gauge!("brolly_broker_outbox_messages", "broker" => broker.to_string())
                .set(to_f64(health.outbox));
        }
    }

    fn feeds(&self) {
        for topic in self.names::<Topic>("topics") {
            if let Ok(Some(feed)) = self.handle.feed(&topic) {
                let listening = feed.standing == Standing::Listening;
                gauge!("brolly_feed_listening", "topic" => topic.to_string()).set(flag(listening));
            }
        }
    }

    async fn queues(&self) {
        for queue in self.names::<Queue>("queues") {
            match self.handle.counts(&queue).await {
                Ok(counts) => show(&queue, &counts),
                Err(error) => tracing::debug!(%queue, %error, "a queue cannot be measured"),
            }
        }
    }

    fn subscriptions(&self) {
        for subscription in self.names::<Subscription>("subscriptions") {
            let Ok(status) = self.handle.status(&subscription) else { continue };
            for state in [State::Starting, State::Running, State::Paused, State::Failed] {
                gauge!("brolly_subscription_state", "subscription" => subscription.to_string(), "state" => state.as_str())
                    .set(flag(status.state == state));
            }
        }
    }

    /// The names of a kind, up to [`brolly_dispatch::NAMES`]; how many are beyond that shows as a number.
    fn names<T: Definition>(&self, kind: &'static str) -> Vec<Name> {
        let mut names = Vec::new();
        while names.len() < brolly_dispatch::NAMES {
            let limit = PAGE.min(brolly_dispatch::NAMES - names.len());
            let page = self.handle.list::<T>(names.last(), limit);
            names.extend(page.items.into_iter().map(|(name, _)| name));
            if page.next.is_none() {
                break;
            }
        }
        let left_out = self.handle.count::<T>().saturating_sub(names.len());
        gauge!("brolly_metrics_left_out", "kind" => kind).set(to_f64(left_out as u64));
        names
    }
}

/// A state that the broker cannot tell is left out rather than shown as zero.
fn show(queue: &Name, counts: &QueueCounts) {
    let states = [
        ("ready", counts.ready),
        ("in_flight", counts.in_flight),
        ("delayed", counts.delayed),
        ("dead", Some(counts.dead)),
    ];
    for (state, value) in states {
        if let Some(value) = value {
            gauge!("brolly_queue_messages", "queue" => queue.to_string(), "state" => state)
                .set(to_f64(value));
        }
    }
    // Where nothing waits nothing is old; where something does, some brokers cannot tell how old.
    let age = counts.oldest_age_ms.or((counts.ready == Some(0)).then_some(0));
    if let Some(age) = age {
        gauge!("brolly_queue_oldest_age_seconds", "queue" => queue.to_string())
            .set(Duration::from_millis(age).as_secs_f64());
    }
}

fn flag(is: bool) -> f64 {
    f64::from(u8::from(is))
}

#[allow(clippy::cast_precision_loss, reason = "Prometheus knows no other numbers")]
fn to_f64(value: u64) -> f64 {
    value as f64
}
