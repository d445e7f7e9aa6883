//! Numbers that nobody counts as they happen: they are read every few seconds instead.

use std::time::Duration;

use brolly_core::{Name, Queue};
use brolly_dispatch::{Handle, QueueCounts, State};
use brolly_store::Store;
use metrics::{counter, gauge};
use metrics_exporter_prometheus::PrometheusHandle;
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
        let mut interval = tokio::time::interval(INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(interval.tick()).await.is_some() {
            self.store();
            self.queues().await;
            self.subscriptions();
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

    async fn queues(&self) {
        let mut after: Option<Name> = None;
        loop {
            let page = self.handle.list::<Queue>(after.as_ref(), PAGE);
            for (name, _) in &page.items {
                match self.handle.counts(name).await {
                    Ok(counts) => show(name, &counts),
                    Err(error) => tracing::warn!(queue = %name, %error, "a queue cannot be measured"),
                }
            }
            after = match page.next {
                Some(_) => page.items.into_iter().next_back().map(|(name, _)| name),
                None => return,
            };
        }
    }

    fn subscriptions(&self) {
        let mut after: Option<Name> = None;
        loop {
            let page = self.handle.list::<brolly_core::Subscription>(after.as_ref(), PAGE);
            for (name, _) in &page.items {
                let Ok(status) = self.handle.status(name) else { continue };
                for state in [State::Starting, State::Running, State::Paused, State::Failed] {
                    let is = f64::from(u8::from(status.state == state));
                    gauge!("brolly_subscription_state", "subscription" => name.to_string(), "state" => state.as_str())
                        .set(is);
                }
            }
            after = match page.next {
                Some(_) => page.items.into_iter().next_back().map(|(name, _)| name),
                None => return,
            };
        }
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
    let age = Duration::from_millis(counts.oldest_age_ms.unwrap_or(0)).as_secs_f64();
    gauge!("brolly_queue_oldest_age_seconds", "queue" => queue.to_string()).set(age);
}

#[allow(clippy::cast_precision_loss, reason = "Prometheus knows no other numbers")]
fn to_f64(value: u64) -> f64 {
    value as f64
}
