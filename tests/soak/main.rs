//! `cargo xtask soak`: the main job for as long as one likes, with swaps, pauses, restarts and kills at random
//! moments. Where there is a RabbitMQ, the orders come over it, and it fails at random too. Fails when a total is
//! not exact, or memory, disk, open files or latency grow.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "a measurement that cannot go on says where and stops"
)]

use std::{
    collections::BTreeMap,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use brolly_tests::{
    eventually,
    flow::QUEUES,
    orders::{self, Order},
    rabbit::{Rabbit, Vhost},
    server::{PATIENCE, Server, plugin_bytes},
};
use reqwest::Method;
use serde_json::json;

/// Orders that are published at once.
const BATCH: usize = 500;
/// Orders that may wait to be handled before more are published: full load, and no endless backlog.
const WAITING: u64 = 5_000;
/// The shortest history there is: after it, as much is forgotten as comes, and nothing has a reason to grow.
const SETTINGS: [(&str, &str); 1] = [("BROLLY_HISTORY__KEEP_MS", "60000")];
/// How often what handlers published is looked at, which is forgotten as well: four times while it is kept.
const LOOK: Duration = Duration::from_secs(15);
/// How much more the last third of the run may need than the second one.
const GROWTH: f64 = 1.15;
/// When nothing has a reason to grow any more: the history is full, and so are the caches.
const SETTLED: Duration = Duration::from_secs(180);

/// What the orders come over, if there is one: a topic and a queue there, and a subscription that forwards.
struct Elsewhere {
    rabbit: Rabbit,
    vhost: Vhost,
}

impl Elsewhere {
    /// The name of the topic there, its queue, and the subscription.
    const NAME: &str = "orders.in";

    async fn start() -> Option<Self> {
        if let Err(why) = Rabbit::available() {
            println!("without a broker elsewhere: {why}");
            return None;
        }
        let rabbit = Rabbit::start().await;
        let vhost = rabbit.vhost().await;
        Some(Self { rabbit, vhost })
    }

    async fn furnish(&self, server: &Server) {
        server.put("/brokers/rabbit", json!({"kind": "amqp", "url": self.vhost.url, "heartbeat_s": 2})).await;
        server.put("/topics/orders.in", json!({"broker": "rabbit"})).await;
        server.put("/queues/orders.in", json!({"broker": "rabbit", "type": "quorum"})).await;
        server.put("/routes/orders.in", json!({"topic": Self::NAME, "queue": Self::NAME})).await;
        let forward = json!({"queue": Self::NAME, "forward": {"topic": "orders.paid"}, "workers": 2});
        server.put("/subscriptions/orders.in", forward).await;
    }

    /// Does something to it while these orders are published.
    async fn fail(&self, server: &Server, orders: &[Order], stop: bool) {
        if stop {
            self.rabbit.stop().await;
            tokio::join!(publish(server, Self::NAME, orders), self.rabbit.start_again());
        } else {
            let close = ["close_all_connections", "--vhost", &self.vhost.name, "a soak"];
            tokio::join!(publish(server, Self::NAME, orders), self.rabbit.ctl(&close));
        }
    }
}

/// What the host needs at one moment.
#[derive(Clone, Copy, Debug)]
struct Sample {
    memory_mib: f64,
    files: f64,
    /// How long a small publish took to be durable, in milliseconds.
    latency_ms: f64,
    disk_mib: f64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let minutes: f64 = std::env::args().nth(1).map_or(10.0, |word| word.parse().expect("minutes"));
    let seed =
        std::env::args().nth(2).map_or_else(|| fastrand::u64(..), |word| word.parse().expect("a seed"));
    println!("{minutes} minutes, seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let dir = tempfile::tempdir().expect("a folder");
    let mut server = start(dir.path()).await;
    let digests = furnish(&server).await;
    let (elsewhere, mut coupons) = (Elsewhere::start().await, Coupons::default());
    let (mut topic, mut queues) = ("orders.paid", QUEUES.to_vec());
    if let Some(elsewhere) = &elsewhere {
        elsewhere.furnish(&server).await;
        topic = Elsewhere::NAME;
        queues.push(Elsewhere::NAME);
    }
    let settled = Instant::now() + SETTLED;
    let end = Instant::now() + Duration::from_secs_f64(minutes * 60.0);
    let (mut round, mut samples, mut changes) = (0_usize, Vec::new(), [0_u32; 5]);
    while Instant::now() < end {
        coupons.during(&server, publish(&server, topic, &batch(round))).await;
        round += 1;
        coupons.during(&server, waits_for_room(&server, &queues)).await;
        if round.is_multiple_of(10) {
            let sample = sample(&server, dir.path(), round).await;
            samples.extend(Some(sample).filter(|_| Instant::now() > settled));
        }
        match rng.u32(..40) {
            0 => {
                changes[0] += 1;
                server.kill().await;
                server = start(dir.path()).await;
            }
            1 => {
                changes[1] += 1;
                assert_eq!(server.terminate().await, Some(0), "it drains");
                server = start(dir.path()).await;
            }
            2..=5 => {
                changes[2] += 1;
                swap(&server, &digests[rng.usize(..digests.len())], rng.u32(1..=6)).await;
            }
            6..=8 => {
                changes[3] += 1;
                let one = QUEUES[rng.usize(..QUEUES.len())];
                server.post(&format!("/subscriptions/{one}/pause")).await;
                coupons.during(&server, publish(&server, topic, &batch(round))).await;
                round += 1;
                server.post(&format!("/subscriptions/{one}/resume")).await;
            }
            at @ 9..=10 => {
                if let Some(elsewhere) = &elsewhere {
                    changes[4] += 1;
                    let orders = batch(round);
                    coupons.during(&server, elsewhere.fail(&server, &orders, at == 9)).await;
                    round += 1;
                }
            }
            _ => {}
        }
    }
    let [kills, stops, swaps, pauses, faults] = changes;
    println!(
        "{} orders, {kills} kills, {stops} restarts, {swaps} swaps, {pauses} pauses, {faults} faults of the broker \
         elsewhere",
        round * BATCH
    );
    let exact = exact(&server, &queues, round, coupons).await;
    let flat = flat(&samples);
    assert_eq!(server.terminate().await, Some(0), "it drains");
    if exact && flat { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn start(dir: &Path) -> Server {
    Server::start_with(dir, &[], &SETTINGS).await
}

/// What notification has published so far, by id: whose it is.
#[derive(Default)]
struct Coupons {
    seen: BTreeMap<String, String>,
    looked: Option<Instant>,
    /// The longest time between two looks: were it longer than history is kept, some would have gone unseen.
    unseen: Duration,
}

impl Coupons {
    /// Does what may take longer than history is kept, and looks on meanwhile.
    async fn during<T>(&mut self, server: &Server, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            let until = self.looked.map_or_else(Instant::now, |looked| looked + LOOK);
            tokio::select! {
                done = &mut work => return done,
                () = tokio::time::sleep_until(until.into()) => self.look(server).await,
            }
        }
    }

    async fn look(&mut self, server: &Server) {
        let now = Instant::now();
        let unseen = self.looked.map_or(Duration::ZERO, |looked| now - looked);
        (self.looked, self.unseen) = (Some(now), self.unseen.max(unseen));
        for coupon in server.all("/messages?topic=coupons.issued").await {
            let field = |name: &str| coupon[name].as_str().expect("a text").to_owned();
            // The probes have no key.
            if !field("key").is_empty() {
                self.seen.insert(field("id"), field("key"));
            }
        }
    }

    /// How many each customer got.
    async fn counted(&mut self, server: &Server) -> BTreeMap<String, i64> {
        self.look(server).await;
        let mut counts = BTreeMap::new();
        for customer in self.seen.values() {
            *counts.entry(customer.clone()).or_default() += 1;
        }
        counts
    }
}

/// Makes the sample plugins' subscriptions; answers with versions of settlement that do the same.
async fn furnish(server: &Server) -> Vec<String> {
    server.set_up_samples().await;
    let versions = [plugin_bytes("settlement"), with_a_note(plugin_bytes("settlement"))];
    let mut digests = Vec::new();
    for version in versions {
        digests.push(server.upload("settlement", version).await);
    }
    digests
}

/// The real orders over and over, each time under other ids and of other customers.
fn batch(round: usize) -> Vec<Order> {
    let real = orders::real();
    let of = |at: usize| {
        let order = &real[at % real.len()];
        let turn = at / real.len();
        let (order_id, customer_id) =
            (format!("s{turn}-{}", order.order_id), format!("s{turn}-{}", order.customer_id));
        Order { order_id, customer_id, ..order.clone() }
    };
    (round * BATCH..(round + 1) * BATCH).map(of).collect()
}

/// Publishes as a producer does: again and again under the same ids until it is answered.
async fn publish(server: &Server, topic: &str, orders: &[Order]) {
    eventually("the orders are accepted", 5 * PATIENCE, || async {
        let answer = server.bulk(topic, orders::ndjson(orders)).await.expect("an answer");
        (!answer.status.is_server_error()).then(|| answer.ok())
    })
    .await;
}

async fn waits_for_room(server: &Server, queues: &[&str]) {
    eventually("the handlers keep up", 5 * PATIENCE, || async {
        let mut waiting = 0;
        for queue in queues {
            let counts = server.get(&format!("/queues/{queue}")).await["counts"].clone();
            waiting += counts["ready"].as_u64().unwrap_or(0);
        }
        (waiting < WAITING).then_some(())
    })
    .await;
}

async fn swap(server: &Server, version: &str, workers: u32) {
    let subscription = json!({
        "queue": "settlement", "plugin": "settlement", "version": version, "workers": workers,
        "order": "key", "config": {"commission_percent": "15"},
    });
    server.call(Method::PUT, "/subscriptions/settlement", Some(subscription)).await.ok();
}

async fn sample(server: &Server, dir: &Path, round: usize) -> Sample {
    let id = server.id().expect("it runs");
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("it runs on Linux");
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it is told");
    let memory: f64 = memory.trim_matches([' ', '\t', 'k', 'B']).parse().expect("a number");
    let files = std::fs::read_dir(format!("/proc/{id}/fd")).map_or(0, Iterator::count);
    let began = Instant::now();
    let one = format!("{{\"id\":\"probe-{round}\",\"payload\":1}}\n");
    server.bulk("coupons.issued", one).await.expect("an answer").ok();
    let sample = Sample {
        memory_mib: memory / 1024.0,
        files: files as f64,
        latency_ms: began.elapsed().as_secs_f64() * 1e3,
        disk_mib: bytes(dir) as f64 / 1_048_576.0,
    };
    println!(
        "{:>9} orders: {:.0} MiB of memory, {} files, {:.1} ms, {:.0} MiB of disk",
        round * BATCH,
        sample.memory_mib,
        sample.files,
        sample.latency_ms,
        sample.disk_mib
    );
    sample
}

fn bytes(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => bytes(&entry.path()),
            Ok(found) => found.len(),
            // Gone meanwhile.
            Err(_) => 0,
        })
        .sum()
}

/// What is measured, how it is read, and how much more of it is no growth.
type Measure = (&'static str, fn(&Sample) -> f64, f64);

/// Whether what must not grow does not: the last third of the run against the one before it.
fn flat(samples: &[Sample]) -> bool {
    let third = samples.len() / 3;
    if third < 3 {
        println!("too short to tell whether anything grows");
        return true;
    }
    let (middle, last) = (&samples[third..2 * third], &samples[2 * third..]);
    let median = |samples: &[Sample], of: fn(&Sample) -> f64| {
        let mut values: Vec<f64> = samples.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let mut flat = true;
    let measures: [Measure; 4] = [
        ("MiB of memory", |sample| sample.memory_mib, 32.0),
        ("MiB of disk", |sample| sample.disk_mib, 128.0),
        ("files", |sample| sample.files, 10.0),
        ("ms to be durable", |sample| sample.latency_ms, 20.0),
    ];
    for (what, of, slack) in measures {
        let (before, after) = (median(middle, of), median(last, of));
        let grows = after > before * GROWTH + slack;
        println!("{what}: {before:.1}, then {after:.1}{}", if grows { "  GROWS" } else { "" });
        flat &= !grows;
    }
    flat
}

async fn exact(server: &Server, queues: &[&str], rounds: usize, mut coupons: Coupons) -> bool {
    // First what comes over it, then where it goes to.
    for queue in queues.iter().rev() {
        coupons.during(server, server.idle(&[queue])).await;
    }
    let all: Vec<Order> = (0..rounds).flat_map(batch).collect();
    let counted = coupons.counted(server).await;
    let (expect, got) = (orders::totals(&all), server.totals().await);
    let parts = [
        ("days", got.days == expect.days),
        ("points", got.points == expect.points),
        ("coupons", counted == expect.coupons),
        ("rejected", got.rejected.len() == expect.rejected.len()),
    ];
    let wrong: Vec<&str> = parts.into_iter().filter(|(_, exact)| !exact).map(|(what, _)| what).collect();
    let (orders, unseen) = (all.len(), coupons.unseen.as_secs());
    if wrong.is_empty() {
        println!("totals of {orders} orders: exact");
    } else {
        println!(
            "totals of {orders} orders: WRONG in {wrong:?}; coupons were not looked at for {unseen} s once"
        );
    }
    wrong.is_empty()
}

/// The same code as another version: a custom section changes nothing but the digest.
fn with_a_note(mut wasm: Vec<u8>) -> Vec<u8> {
    wasm.extend([0, 5, 4, b's', b'o', b'a', b'k']);
    wasm
}
