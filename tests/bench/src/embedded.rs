//! P5 and P6: a message through the embedded broker, from its publish to its outcome being durable,
//! against the storage engine making the same rows durable.

use std::{fmt::Write as _, time::Duration, time::Instant};

use anyhow::Context;
use brolly_core::{Name, NewMessage};
use brolly_store::{Engine, keys};

use crate::{
    engine::{Bare, Rows},
    host::{Host, Place},
    report::{Goal, Row},
    runtime,
};

const ROUNDS: usize = 5;
const THROUGHPUT: usize = 40_000;
const LATENCY: usize = 1_500;
/// Messages in one publish, and publishes under way at once.
const BULK: usize = 200;
const PUBLISHERS: usize = 8;

/// P5, with a fresh instance for every message and with reused ones.
pub fn throughput(engines: &[Engine]) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (what, instances) in [("a fresh", "fresh"), ("a reused", "reuse")] {
        let mut figures: Vec<_> = engines.iter().map(|engine| (*engine, Vec::new(), Vec::new())).collect();
        for round in 0..ROUNDS {
            // By turns, so that whatever disturbs the machine disturbs all.
            for (engine, ours, bare) in &mut figures {
                let dir = tempfile::tempdir()?;
                let host = on_tokio(async {
                    let host =
                        Host::start(dir.path(), *engine, &runtime::plugin()?, instances, Place::Embedded)
                            .await?;
                    flow(&host, round).await
                });
                ours.push(host?);
                let dir = tempfile::tempdir()?;
                let messages: Vec<Rows> = (0..THROUGHPUT).map(|i| rows_of(round, i)).collect();
                bare.push(Bare::open(*engine, dir.path())?.throughput(&messages)?);
            }
        }
        for (engine, mut ours, mut bare) in figures {
            let what = format!(
                "embedded, publish -> handled by {what} instance and durable / bare {engine}, same rows"
            );
            rows.push(Row::new("P5", what, "msg/s", Goal::AtLeast(0.7), &mut ours, &mut bare));
        }
    }
    Ok(rows)
}

/// Publishes [`THROUGHPUT`] orders as fast as they are taken; messages a second until all are durably handled.
pub async fn flow(host: &Host, round: usize) -> anyhow::Result<f64> {
    // The first messages warm the process up and are not counted.
    host.publish((0..1_000).map(|i| order(round, THROUGHPUT + i)).collect()).await?;
    host.settled.reach(1_000).await;
    let started = Instant::now();
    let mut bulks: Vec<Vec<NewMessage>> = Vec::new();
    for from in (0..THROUGHPUT).step_by(BULK) {
        bulks.push((from..from + BULK).map(|i| order(round, i)).collect());
    }
    let queue = tokio::sync::Mutex::new(bulks.into_iter());
    let publish = async || {
        loop {
            let Some(bulk) = queue.lock().await.next() else { return anyhow::Ok(()) };
            host.publish(bulk).await?;
        }
    };
    let mut publishers = Vec::new();
    publishers.resize_with(PUBLISHERS, &publish);
    futures::future::try_join_all(publishers).await?;
    host.settled.reach((1_000 + THROUGHPUT) as u64).await;
    Ok(THROUGHPUT as f64 / started.elapsed().as_secs_f64())
}

/// P6: one message at a time.
pub fn latency(engines: &[Engine]) -> anyhow::Result<Vec<Row>> {
    let empty = || [Vec::new(), Vec::new()];
    let mut figures: Vec<_> = engines.iter().map(|engine| (*engine, empty(), empty())).collect();
    for round in 0..ROUNDS {
        for (engine, ours, bare) in &mut figures {
            let dir = tempfile::tempdir()?;
            let took = on_tokio(async {
                let host =
                    Host::start(dir.path(), *engine, &runtime::plugin()?, "fresh", Place::Embedded).await?;
                one_by_one(&host, round).await
            })?;
            let dir = tempfile::tempdir()?;
            let messages: Vec<Rows> = (0..LATENCY).map(|i| rows_of(round, i)).collect();
            let bare_took = Bare::open(*engine, dir.path())?.latency(&messages)?;
            for (figures, took) in [(ours, took), (bare, bare_took)] {
                let [p50, p99] = percentiles(took);
                figures[0].push(p50);
                figures[1].push(p99);
            }
        }
    }
    let mut rows = Vec::new();
    for (engine, [mut ours50, mut ours99], [mut bare50, mut bare99]) in figures {
        let what = |share| {
            format!(
                "embedded, publish -> handled and durable, {share} / two commits of bare {engine}, {share}"
            )
        };
        rows.push(Row::new("P6", what("p50"), "us", Goal::AtMost(1.5), &mut ours50, &mut bare50));
        rows.push(Row::new("P6", what("p99"), "us", Goal::AtMost(4.0), &mut ours99, &mut bare99));
    }
    Ok(rows)
}

async fn one_by_one(host: &Host, round: usize) -> anyhow::Result<Vec<Duration>> {
    host.publish((0..100).map(|i| order(round, LATENCY + i)).collect()).await?;
    host.settled.reach(100).await;
    let mut took = Vec::with_capacity(LATENCY);
    for i in 0..LATENCY {
        let message = vec![order(round, i)];
        let started = Instant::now();
        host.publish(message).await?;
        host.settled.reach((101 + i) as u64).await;
        took.push(started.elapsed());
    }
    Ok(took)
}

/// Microseconds: the median, and what one in a hundred exceeds.
fn percentiles(mut took: Vec<Duration>) -> [f64; 2] {
    took.sort_unstable();
    let at = |share: f64| {
        let index = ((took.len() as f64 * share) as usize).min(took.len().saturating_sub(1));
        took.get(index).map_or(f64::NAN, |took| took.as_secs_f64() * 1e6)
    };
    [at(0.5), at(0.99)]
}

pub fn on_tokio<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting tokio")?;
    let done = runtime.block_on(work);
    runtime.shutdown_timeout(Duration::from_secs(10));
    done
}

pub fn order(round: usize, i: usize) -> NewMessage {
    let id = format!("r{round}-o{i:06}");
    let (customer, day) = (i % 997, i % 28 + 1);
    let mut payload = String::new();
    let written = write!(
        payload,
        r#"{{"order_id":"{id}","customer_id":"{customer:04}","paid_on":"1997-01-{day:02}","quantity":2,"amount_cents":{}}}"#,
        i % 9_000 + 100
    );
    debug_assert!(written.is_ok());
    NewMessage {
        id: Some(id),
        key: format!("{customer:04}"),
        content_type: "application/json".to_owned(),
        payload: payload.into_bytes().into(),
        ..NewMessage::default()
    }
}

/// What the store writes for that order.
fn rows_of(round: usize, i: usize) -> Rows {
    let order = order(round, i);
    let seq = i as u64;
    let id = order.id.clone().unwrap_or_default();
    // The names keep the rule; without one there would be a shorter key.
    let name = |text: &str| Name::new(text).ok();
    let (topic, queue) = (name("orders.paid"), name("settlement"));
    let (Some(topic), Some(queue)) = (topic, queue) else {
        return Rows { publish: Vec::new(), delete: Vec::new(), outcome: Vec::new() };
    };
    let envelope = order.key.len() + order.content_type.len() + id.len() + MESSAGE_ROW;
    let day = format!("day/1997-01-{:02}", i % 28 + 1);
    Rows {
        publish: vec![
            (keys::index(&id, &topic), vec![1; 8]),
            (keys::message(seq), vec![2; envelope + order.payload.len()]),
            (keys::queue_entry(&queue, seq), vec![3; QUEUE_ROW]),
        ],
        delete: keys::queue_entry(&queue, seq),
        outcome: vec![
            (keys::delivery(seq, &queue), vec![4; DELIVERY_ROW]),
            (keys::state(&queue, &day), vec![5; STATE_ROW]),
        ],
    }
}

/// Bytes of the rows beyond what varies: see the test.
const MESSAGE_ROW: usize = 36;
const QUEUE_ROW: usize = 15;
const DELIVERY_ROW: usize = 66;
const STATE_ROW: usize = 68;

#[cfg(test)]
mod tests {
    use super::*;

    /// The baseline must write as much as Brolly does: not more, or the comparison would flatter.
    #[test]
    fn the_baseline_writes_the_rows_of_brolly() {
        let dir = tempfile::tempdir().unwrap();
        on_tokio(async {
            let host =
                Host::start(dir.path(), Engine::default(), &runtime::plugin()?, "fresh", Place::Embedded)
                    .await?;
            host.publish(vec![order(0, 7)]).await?;
            host.settled.reach(1).await;
            let expect = rows_of(0, 7);
            let count = |tag: u8| {
                let rows: Vec<_> = host.store.scan(&[tag], None).map(Result::unwrap).collect();
                rows.iter().map(|(key, value)| key.len() + value.len()).collect::<Vec<_>>()
            };
            for (tag, (key, value)) in [(b'i', &expect.publish[0]), (b'm', &expect.publish[1])]
                .into_iter()
                .chain([(b'd', &expect.outcome[0]), (b's', &expect.outcome[1])])
            {
                let [real] = count(tag)[..] else { panic!("one row of table {}", char::from(tag)) };
                let ours = key.len() + value.len();
                assert!(ours <= real && ours + 12 >= real, "table {}: {ours} for {real}", char::from(tag));
            }
            assert!(count(b'q').is_empty());
            Ok(())
        })
        .unwrap();
    }
}
