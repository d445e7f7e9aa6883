//! A data directory as a released version of Brolly leaves it: how one is made, and what is in it. Every later version
//! must go on with it (`suite/upgrade.rs`).

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    eventually,
    orders::{self, Order},
    server::{PATIENCE, Server, plugin_bytes},
};

/// The engines, each with a fixture of every release.
pub const ENGINES: [&str; 2] = ["sled", "redb"];

/// The first orders, which every plugin has handled. One of them is a dead letter of settlement.
pub const HANDLED: usize = 300;
/// The orders after them, which wait for activity, for it is paused.
pub const WAITING: usize = 60;
/// So many of the first orders are in a queue of their own as well, [`LATER`], where they wait to be tried again.
pub const RETRIED: usize = 20;
/// That queue, its topic and its subscription, which is paused as well.
pub const LATER: &str = "later";

/// The orders of a fixture, and after them those that a test may publish.
#[must_use]
pub fn orders() -> Vec<Order> {
    orders::real().into_iter().take(HANDLED + 2 * WAITING).collect()
}

/// What is in the queue [`LATER`]: the first orders, under other ids.
#[must_use]
pub fn later() -> Vec<Order> {
    orders::named("later-", &orders()[..RETRIED])
}

/// The settings that a host on a fixture has: one that is years old must not be too old to be remembered.
#[must_use]
pub fn settings(engine: &str) -> [(&str, &str); 2] {
    [("BROLLY_STORE__ENGINE", engine), ("BROLLY_HISTORY__KEEP_MS", "300000000000")]
}

/// Where the fixtures lie: `VERSION-ENGINE.tar.xz`.
#[must_use]
pub fn folder() -> PathBuf {
    crate::root().join("tests/data/upgrade")
}

/// Makes a data directory in an empty folder.
///
/// # Panics
/// When anything is refused.
pub async fn make(dir: &Path, engine: &str) {
    let server = Server::start_with(dir, &[], &settings(engine)).await;
    server.set_up_samples().await;
    server.put(&format!("/topics/{LATER}"), json!({})).await;
    let version = server.upload("hostile", plugin_bytes("hostile")).await;
    // Long enough that none is tried twice, and over when a test opens it.
    let retry = json!({"max_attempts": 5, "initial_delay_ms": 60_000, "max_delay_ms": 60_000});
    let retrying = json!({"config": {"mode": "state_then_retry"}, "retry": retry});
    server.subscribe(LATER, LATER, "hostile", &version, retrying).await;

    let orders = orders();
    let publish = async |topic: &str, orders: &[Order]| {
        server.bulk(topic, orders::ndjson(orders)).await.expect("an answer").ok();
    };
    publish(LATER, &later()).await;
    publish("orders.paid", &orders[..HANDLED]).await;
    server.idle(&["activity", "notification", "settlement"]).await;
    eventually("each has been tried once", PATIENCE, || async {
        (counts(&server, LATER).await["delayed"] == RETRIED).then_some(())
    })
    .await;
    for subscription in ["activity", LATER] {
        server.post(&format!("/subscriptions/{subscription}/pause")).await;
    }
    publish("orders.paid", &orders[HANDLED..HANDLED + WAITING]).await;
    server.idle(&["notification", "settlement"]).await;
    assert_eq!(server.terminate().await, Some(0), "it drains");
}

/// The counts of a queue.
///
/// # Panics
/// When there is no such queue.
pub async fn counts(server: &Server, queue: &str) -> Value {
    server.get(&format!("/queues/{queue}")).await["counts"].clone()
}

/// How long an attempt that was put off has to wait at most until it is made.
pub const DUE: Duration = Duration::from_secs(90);
