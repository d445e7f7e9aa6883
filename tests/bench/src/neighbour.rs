//! P9: a healthy subscription beside a hostile one, against itself beside a thread that only computes, which is
//! its fair share of two processors.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use brolly_core::NewMessage;
use brolly_store::Engine;
use brolly_tests::{
    rabbit::{Rabbit, Vhost},
    server::plugin_bytes,
};
use serde_json::{Value, json};

use crate::{
    embedded::{on_tokio, order},
    host::{Host, Place},
    rabbit,
    report::{Goal, Row},
    runtime,
};

const ROUNDS: usize = 3;
const MESSAGES: usize = 20_000;
/// What a neighbour does: its mode, how many messages it gets, and its limits.
const NEIGHBOURS: [(&str, &str, usize); 3] = [
    ("an endless loop", "loop", 64),
    ("memory without end", "memory", 64),
    ("retries without end", "retry", 2_000),
];

/// P9 for each neighbour, on the embedded broker and on RabbitMQ where there is one.
pub fn isolation(engines: &[Engine]) -> anyhow::Result<Vec<Row>> {
    let rabbit = Rabbit::available();
    if let Err(why) = &rabbit {
        println!("P9 on RabbitMQ is skipped: {why}");
    }
    let mut rows = Vec::new();
    for engine in engines {
        for on_rabbit in [false, true] {
            if on_rabbit && rabbit.is_err() {
                continue;
            }
            for neighbour in NEIGHBOURS {
                rows.push(on_tokio(measure(*engine, on_rabbit, neighbour))?);
            }
        }
    }
    Ok(rows)
}

async fn measure(engine: Engine, on_rabbit: bool, neighbour: (&str, &str, usize)) -> anyhow::Result<Row> {
    let server = if on_rabbit { Some(Rabbit::start().await) } else { None };
    let (mut beside, mut alone) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for hostile in [true, false] {
            let vhost = match &server {
                Some(server) => Some(server.vhost().await),
                None => None,
            };
            let rate = drain(engine, vhost.as_ref(), hostile.then_some(neighbour)).await?;
            if hostile { &mut beside } else { &mut alone }.push(rate);
        }
    }
    let place = if on_rabbit { "RabbitMQ (quorum)" } else { "embedded" };
    let what = format!(
        "{place}, {engine}: healthy subscription beside {} / beside a thread that computes",
        neighbour.0
    );
    Ok(Row::new("P9", what, "msg/s", Goal::AtLeast(0.9), &mut beside, &mut alone))
}

/// How fast a backlog is handled beside a hostile subscription, or beside a thread that computes.
async fn drain(
    engine: Engine,
    vhost: Option<&Vhost>,
    neighbour: Option<(&str, &str, usize)>,
) -> anyhow::Result<f64> {
    let dir = tempfile::tempdir()?;
    let place = match vhost {
        Some(vhost) => Place::Rabbit { url: vhost.url.clone(), kind: "quorum".to_owned() },
        None => Place::Embedded,
    };
    let home = if vhost.is_some() { json!({"broker": "rabbit"}) } else { json!({}) };
    let host = Host::start(dir.path(), engine, &runtime::plugin()?, "reuse", place).await?;
    host.pause(true).await?;
    match vhost {
        Some(vhost) => rabbit::fill(&vhost.url, "orders.paid", MESSAGES).await?,
        None => {
            for from in (0..MESSAGES).step_by(1_000) {
                host.publish((from..from + 1_000).map(|i| order(0, i)).collect()).await?;
            }
        }
    }
    let computing = match neighbour {
        Some((_, mode, messages)) => {
            let limits: Value = json!({"time_ms": 100});
            host.neighbour(&plugin_bytes("hostile"), home, json!({"mode": mode}), limits).await?;
            host.publish_to("hostile", (0..messages).map(|_| NewMessage::default()).collect()).await?;
            host.neighbour_is_busy().await?;
            None
        }
        None => Some(Computing::start()),
    };
    let started = Instant::now();
    host.pause(false).await?;
    host.acked(MESSAGES as u64).await?;
    let took = started.elapsed();
    drop(computing);
    Ok(MESSAGES as f64 / took.as_secs_f64())
}

/// A thread that only computes.
struct Computing {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<u64>>,
}

impl Computing {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut number = 1_u64;
            while !told.load(Ordering::Relaxed) {
                for _ in 0..1_000 {
                    number =
                        std::hint::black_box(number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
                }
            }
            number
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Computing {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            std::hint::black_box(thread.join().unwrap_or(0));
        }
    }
}
