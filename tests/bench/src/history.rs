//! P11: the history of one message among ten million deliveries, against reading the rows that it is made of, and
//! the disk that a delivery takes.

use std::{
    hint::black_box,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use brolly_core::{Name, NewMessage, Queue, Route, Subscription};
use brolly_dispatch::Precondition;
use brolly_store::{Engine, Store, keys};
use serde_json::json;

use crate::{
    embedded::{on_tokio, order},
    host::{Host, Place, definition},
    report::{Goal, Row},
    runtime,
};

/// How many deliveries there are; each message has [`QUEUES`].
const DELIVERIES: usize = 10_000_000;
const QUEUES: usize = 4;
/// Histories that are asked for, of messages all over the ledger.
const ASKED: usize = 2_000;
const BULK: usize = 1_000;
const PUBLISHERS: usize = 4;
/// Messages that are published and not handled yet.
const WINDOW: usize = 20_000;
/// A step that visits all over a range before it comes back: a prime.
const STRIDE: usize = 1_000_003;

/// P11.
pub fn look_up(engines: &[Engine]) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for engine in engines {
        let (mut histories, mut reads, mut disk, mut content) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let [history, read, taken, bytes] = on_tokio(measure(*engine))?;
        histories.push(history);
        reads.push(read);
        disk.push(taken);
        content.push(bytes);
        let what = format!(
            "embedded, {engine}: history of one message among {DELIVERIES} deliveries, median / reading its rows \
             by their keys"
        );
        rows.push(Row::new("P11", what, "us", Goal::AtMost(2.0), &mut histories, &mut reads));
        let what =
            format!("embedded, {engine}: disk for each of {DELIVERIES} deliveries / their rows' own bytes");
        rows.push(Row::new("P11", what, "B/delivery", Goal::Stated, &mut disk, &mut content));
    }
    Ok(rows)
}

async fn measure(engine: Engine) -> anyhow::Result<[f64; 4]> {
    let dir = tempfile::tempdir()?;
    let host = Host::start(dir.path(), engine, &runtime::plugin()?, "reuse", Place::Embedded).await?;
    let queues = furnish(&host).await?;
    let messages = DELIVERIES / QUEUES;
    fill(&host, messages).await?;
    let (mut histories, mut reads) = (Vec::new(), Vec::new());
    for nth in 0..ASKED {
        let id = order(0, nth * STRIDE % messages).id.context("an id")?;
        // By turns which side reads the pages first.
        for ours in [nth % 2 == 0, nth % 2 == 1] {
            let started = Instant::now();
            if ours {
                let history = host.handle.history(id.clone(), None).await?.context("a history")?;
                histories.push(started.elapsed());
                ensure!(history.deliveries.len() == QUEUES, "{id} has other deliveries");
            } else {
                let (store, id, queues) = (host.store.clone(), id.clone(), queues.clone());
                // On a thread that may block, as the history is read.
                tokio::task::spawn_blocking(move || by_key(&store, &id, &queues)).await??;
                reads.push(started.elapsed());
            }
        }
    }
    let bytes = content(&host.store)?;
    let taken = size(&dir.path().join("store"))?;
    let each = |bytes: u64| bytes as f64 / DELIVERIES as f64;
    Ok([median(histories), median(reads), each(taken), each(bytes)])
}

/// Further queues, each with a subscription, on the topic of the host; all of them.
async fn furnish(host: &Host) -> anyhow::Result<Vec<Name>> {
    let settlement = Name::new("settlement")?;
    let wanted = host.handle.get::<Subscription>(&settlement)?.value;
    let mut queues = vec![settlement];
    for at in 1..QUEUES {
        let (name, none) = (Name::new(&format!("other-{at}"))?, Precondition::None);
        host.handle.put::<Queue>(&name, definition(json!({}))?, none).await?;
        let route = definition::<Route>(json!({"topic": "orders.paid", "queue": name}))?;
        host.handle.put(&name, route, none).await?;
        let subscription = Subscription { queue: name.clone(), workers: 1, ..(*wanted).clone() };
        host.handle.put_subscription(&name, subscription, none).await?;
        queues.push(name);
    }
    Ok(queues)
}

async fn fill(host: &Host, messages: usize) -> anyhow::Result<()> {
    let bulks = tokio::sync::Mutex::new((0..messages).step_by(BULK));
    let publish = async || {
        loop {
            let Some(from) = bulks.lock().await.next() else { return anyhow::Ok(()) };
            let bulk: Vec<NewMessage> = (from..messages.min(from + BULK)).map(|i| order(0, i)).collect();
            host.publish(bulk).await?;
            host.settled.reach((from.saturating_sub(WINDOW) * QUEUES) as u64).await;
        }
    };
    let mut publishers = Vec::new();
    publishers.resize_with(PUBLISHERS, &publish);
    futures::future::try_join_all(publishers).await?;
    host.settled.reach((messages * QUEUES) as u64).await;
    Ok(())
}

/// The leanest reading of one message's history: its place by its id, and the rows there.
fn by_key(store: &Store, id: &str, queues: &[Name]) -> anyhow::Result<()> {
    let topic = Name::new("orders.paid")?;
    let place = store.get(&keys::index(id, &topic))?.context("an index")?;
    let seq = place.first_chunk().map(|bytes| u64::from_be_bytes(*bytes)).context("a place")?;
    black_box(store.get(&keys::message(seq))?.context("a message")?);
    for queue in queues {
        black_box(store.get(&keys::delivery(seq, queue))?.context("a delivery")?);
    }
    Ok(())
}

/// Bytes of all rows.
fn content(store: &Store) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for row in store.scan(&[], None) {
        let (key, value) = row?;
        bytes += (key.len() + value.len()) as u64;
    }
    Ok(bytes)
}

/// Bytes on the disk.
fn size(path: &Path) -> anyhow::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let mut bytes = 0;
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let data = entry.metadata()?;
        bytes += if data.is_dir() { size(&entry.path())? } else { data.blocks() * 512 };
    }
    Ok(bytes)
}

fn median(mut took: Vec<Duration>) -> f64 {
    took.sort_unstable();
    took.get(took.len() / 2).map_or(f64::NAN, |took| took.as_secs_f64() * 1e6)
}
