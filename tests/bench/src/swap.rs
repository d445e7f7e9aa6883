//! P10: how long handling stands still when a version is swapped in under full load, against how long a message
//! takes at that load anyway.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::ensure;
use brolly_core::{Digest, Name};
use brolly_dispatch::Precondition;
use brolly_store::Engine;
use brolly_tests::server::another_version;

use crate::{
    embedded::{on_tokio, order},
    host::{Host, Place},
    report::{Goal, Row},
    runtime,
};

const ROUNDS: usize = 5;
/// Of each round, while nothing is changed.
const BEFORE: Duration = Duration::from_secs(3);
const SWAPS: usize = 20;
/// From one swap to the next. Each is looked at for all of it.
const EVERY: Duration = Duration::from_millis(200);
const PUBLISHERS: usize = 8;
/// Messages of one publish.
const BULK: usize = 50;
/// Messages that are published and not handled: as many as keep both processors busy.
const WINDOW: usize = 1_600;

/// P10.
pub fn gap(engines: &[Engine]) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for engine in engines {
        for (what, instances) in [("a fresh", "fresh"), ("a reused", "reuse")] {
            let (mut gaps, mut latencies) = (Vec::new(), Vec::new());
            for round in 0..ROUNDS {
                let [gap, p99] = on_tokio(swapped(*engine, instances, round))?;
                gaps.push(gap);
                latencies.push(p99);
            }
            let what = format!(
                "embedded, {engine}, {what} instance, full load: longest time without a handled delivery in \
                 {SWAPS} swaps / p99 of publish -> handled and durable before"
            );
            rows.push(Row::new("P10", what, "us", Goal::AtMost(3.0), &mut gaps, &mut latencies));
        }
    }
    Ok(rows)
}

/// What was published when.
#[derive(Default)]
struct Load {
    published: AtomicUsize,
    stop: AtomicBool,
    at: parking_lot::Mutex<Vec<Instant>>,
}

/// Microseconds: the longest gap, and the latency before.
async fn swapped(engine: Engine, instances: &str, round: usize) -> anyhow::Result<[f64; 2]> {
    let dir = tempfile::tempdir()?;
    let wasm = runtime::plugin()?;
    let host = Arc::new(Host::start(dir.path(), engine, &wasm, instances, Place::Embedded).await?);
    let name = Name::new("settlement")?;
    let mut versions: Vec<Digest> = Vec::new();
    for salt in ["a", "b"] {
        let other = another_version(wasm.clone(), salt);
        versions.push(host.handle.upload(&name, other, None).await?.admission.digest);
    }
    // The first messages warm the process up and are not counted.
    host.publish((0..1_000).map(|i| order(round, i)).collect()).await?;
    host.settled.reach(1_000).await;
    host.settled.watch();
    let load = Arc::new(Load::default());
    let publishers: Vec<_> =
        (0..PUBLISHERS).map(|_| tokio::spawn(publish(host.clone(), load.clone(), round))).collect();
    tokio::time::sleep(BEFORE).await;
    let quiet = Instant::now();
    for at in 0..SWAPS {
        let version = versions.get(at % versions.len()).copied();
        let mut wanted = (*host.handle.get::<brolly_core::Subscription>(&name)?.value).clone();
        wanted.version = version;
        host.handle.put_subscription(&name, wanted, Precondition::None).await?;
        tokio::time::sleep(EVERY).await;
    }
    load.stop.store(true, Ordering::Relaxed);
    for publisher in publishers {
        publisher.await??;
    }
    let all = 1_000 + load.published.load(Ordering::Relaxed);
    host.settled.reach(all as u64).await;
    nothing_lost_or_doubled(&host, &name, all).await?;
    let mut published = load.at.lock().clone();
    published.sort_unstable();
    Ok(figures(&published, &host.settled.watched(), quiet))
}

/// Of messages in the order in which they were published, and of deliveries in that in which they were settled.
fn figures(published: &[Instant], settled: &[Instant], quiet: Instant) -> [f64; 2] {
    let us = |time: Duration| time.as_secs_f64() * 1e6;
    let both = published.iter().zip(settled).filter(|(_, settled)| **settled < quiet);
    let mut latencies: Vec<Duration> = both.map(|(from, to)| to.saturating_duration_since(*from)).collect();
    latencies.sort_unstable();
    let p99 = latencies.get(latencies.len() * 99 / 100).copied().unwrap_or_default();
    let swapping = settled.iter().filter(|at| **at >= quiet);
    let gaps = swapping.clone().zip(swapping.skip(1)).map(|(one, next)| next.saturating_duration_since(*one));
    [us(gaps.max().unwrap_or(Duration::MAX)), us(p99)]
}

async fn publish(host: Arc<Host>, load: Arc<Load>, round: usize) -> anyhow::Result<()> {
    while !load.stop.load(Ordering::Relaxed) {
        let from = load.published.fetch_add(BULK, Ordering::Relaxed);
        let messages = (from..from + BULK).map(|i| order(round, 1_000 + i)).collect();
        load.at.lock().extend([Instant::now(); BULK]);
        host.publish(messages).await?;
        host.settled.reach((1_000 + from).saturating_sub(WINDOW) as u64).await;
    }
    Ok(())
}

async fn nothing_lost_or_doubled(host: &Host, name: &Name, all: usize) -> anyhow::Result<()> {
    let days = host.handle.state(name, "day/".to_owned(), None, 1_000).await?;
    let mut orders = 0;
    for day in days {
        let totals: serde_json::Value = serde_json::from_slice(&day.value)?;
        orders += totals.get("orders").and_then(serde_json::Value::as_u64).unwrap_or_default();
    }
    ensure!(orders == all as u64, "{all} orders were published, and {orders} are settled");
    Ok(())
}
