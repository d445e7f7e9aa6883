//! P8: what a message costs, and how much memory the process takes, while a million messages wait, against a
//! thousand. Measured at the real binary, over HTTP.

use std::{fmt::Write as _, path::Path, time::Duration, time::Instant};

use anyhow::{Context, ensure};
use brolly_store::Engine;
use brolly_tests::{
    memory::resident,
    rabbit::{Rabbit, Vhost},
    server::{Server, plugin_bytes},
};
use serde_json::{Value, json};

use crate::{
    embedded::{on_tokio, order},
    rabbit,
    report::{Goal, Row},
};

const ROUNDS: usize = 3;
const MANY: usize = 1_000_000;
const FEW: usize = 1_000;
/// Messages that are handled while as many come.
const MESSAGES: usize = 40_000;
/// Messages of one publish.
const BULK: usize = 1_000;
/// Publishes under way at once.
const PUBLISHERS: usize = 2;
const POLL: Duration = Duration::from_millis(5);
const MIB: f64 = 1_048_576.0;
/// What the process may take beyond what it takes when it is idle.
const MEMORY_GOAL: f64 = 256.0;

/// P8: the cost, and the memory at a million.
pub fn standing(engines: &[Engine]) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for engine in engines {
        let (mut many, mut few) = (Vec::new(), Vec::new());
        let (mut most, mut idle) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let [cost, memory, at_rest] = on_tokio(measure(*engine, MANY))?;
            many.push(cost);
            most.push(memory);
            idle.push(at_rest);
            few.push(on_tokio(measure(*engine, FEW))?[0]);
        }
        let over = most.iter().zip(&idle).map(|(most, idle)| most - idle).collect();
        let what = format!(
            "embedded, {engine}, publish -> handled by a reused instance: while {MANY} messages wait / {FEW}"
        );
        rows.push(Row::new("P8", what, "us/message", Goal::AtMost(1.2), &mut many, &mut few));
        rows.push(memory(&format!("embedded, {engine}"), over));
        match Rabbit::available() {
            Ok(()) => rows
                .push(memory(&format!("RabbitMQ (quorum), {engine}"), vec![on_tokio(on_rabbit(*engine))?])),
            Err(why) => println!("P8 on RabbitMQ is skipped: {why}"),
        }
    }
    Ok(rows)
}

fn memory(place: &str, mut over: Vec<f64>) -> Row {
    let what = format!(
        "{place}: memory of the process while {MANY} messages wait, beyond what it takes idle / {MEMORY_GOAL} MiB"
    );
    let mut goal = vec![MEMORY_GOAL; over.len()];
    Row::new("P8", what, "MiB", Goal::AtMost(1.0), &mut over, &mut goal)
}

/// MiB that the process takes beyond what it takes idle, while it handles the first of what waits on RabbitMQ.
async fn on_rabbit(engine: Engine) -> anyhow::Result<f64> {
    let (dir, rabbit) = (tempfile::tempdir()?, Rabbit::start().await);
    let vhost = rabbit.vhost().await;
    let server = start(dir.path(), engine, Some(&vhost)).await;
    rabbit::fill(&vhost.url, "orders.paid", 2 * BULK).await?;
    until_acked(&server, 2 * BULK).await?;
    let idle = taken(&server)?;
    server.post("/subscriptions/settlement/pause").await;
    rabbit::fill_from(&vhost.url, "orders.paid", 2 * BULK..2 * BULK + MANY).await?;
    let waiting = taken(&server)?;
    server.post("/subscriptions/settlement/resume").await;
    until_acked(&server, 2 * BULK + MESSAGES).await?;
    let most = taken(&server)?.max(waiting);
    server.post("/subscriptions/settlement/pause").await;
    ensure!(server.terminate().await == Some(0), "the server did not drain");
    Ok(most - idle)
}

/// MiB.
fn taken(server: &Server) -> anyhow::Result<f64> {
    Ok(resident(server.id().context("the server runs")?) as f64 / MIB)
}

/// Microseconds for each message; MiB at most, and idle.
async fn measure(engine: Engine, backlog: usize) -> anyhow::Result<[f64; 3]> {
    let dir = tempfile::tempdir()?;
    let server = start(dir.path(), engine, None).await;
    // The first messages warm the process up and are not counted.
    publish(&server, 0, 2 * BULK).await?;
    until_acked(&server, 2 * BULK).await?;
    let idle = taken(&server)?;
    server.post("/subscriptions/settlement/pause").await;
    let from = 2 * BULK;
    for at in (from..from + backlog).step_by(BULK * PUBLISHERS) {
        let end = (from + backlog).min(at + BULK * PUBLISHERS);
        publish(&server, at, end).await?;
    }
    let waiting = taken(&server)?;
    let started = Instant::now();
    server.post("/subscriptions/settlement/resume").await;
    let mut published = from + backlog;
    loop {
        let handled = acked(&server).await? - from;
        if handled >= MESSAGES {
            break;
        }
        // As many as were handled, so that as many wait as before.
        let end = from + backlog + handled;
        publish(&server, published, end).await?;
        published = end.max(published);
    }
    let cost = started.elapsed().as_secs_f64() * 1e6 / (acked(&server).await? - from) as f64;
    let most = taken(&server)?.max(waiting);
    ensure!(server.terminate().await == Some(0), "the server did not drain");
    Ok([cost, most, idle])
}

async fn start(dir: &Path, engine: Engine, vhost: Option<&Vhost>) -> Server {
    let engine = engine.to_string();
    let mut server = Server::start_with(dir, &[], &[("BROLLY_STORE__ENGINE", &engine)]).await;
    let mut home = json!({});
    if let Some(vhost) = vhost {
        server.put("/brokers/rabbit", json!({"kind": "amqp", "url": vhost.url})).await;
        home = json!({"broker": "rabbit"});
        server.home = json!({"broker": "rabbit", "type": "quorum"});
    }
    server.put("/topics/orders.paid", home).await;
    let version = server.upload("settlement", plugin_bytes("settlement")).await;
    let more = json!({"workers": 2, "instances": "reuse", "max_in_flight": 1_024});
    server.subscribe("settlement", "orders.paid", "settlement", &version, more).await;
    server
}

/// Publishes the orders of these numbers, a bulk for each publisher at a time.
async fn publish(server: &Server, from: usize, to: usize) -> anyhow::Result<()> {
    let bulks = (from..to).step_by(BULK).map(|at| {
        let mut lines = String::new();
        for i in at..to.min(at + BULK) {
            let message = order(0, i);
            let payload: Value = serde_json::from_slice(&message.payload).unwrap_or_default();
            let line = json!({"id": message.id, "key": message.key, "payload": payload});
            let written = writeln!(lines, "{line}");
            debug_assert!(written.is_ok());
        }
        server.bulk("orders.paid", lines)
    });
    for answer in futures::future::try_join_all(bulks).await.context("publishing")? {
        answer.ok();
    }
    Ok(())
}

async fn acked(server: &Server) -> anyhow::Result<usize> {
    let shown = server.get("/subscriptions/settlement").await;
    let acked = shown.pointer("/status/acked").and_then(Value::as_u64).context("a count")?;
    Ok(usize::try_from(acked)?)
}

async fn until_acked(server: &Server, count: usize) -> anyhow::Result<()> {
    while acked(server).await? < count {
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}
