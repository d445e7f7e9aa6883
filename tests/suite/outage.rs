//! An outage of a broker elsewhere that lasts for longer than the history is kept. What was decided while nobody
//! listened is delivered again when it is old enough to be forgotten.

use std::{net::SocketAddr, time::Duration};

use brolly_tests::{
    eventually,
    flow::{self, Flow},
    orders,
    proxy::Proxy,
    server::{PATIENCE, Server},
};
use serde_json::{Value, json};

/// The shortest time that a history can be kept for.
const KEPT: Duration = Duration::from_secs(60);
const SETTINGS: [(&str, &str); 1] = [("BROLLY_HISTORY__KEEP_MS", "60000")];
/// Enough for what is old to be forgotten, if it is.
const SWEPT: Duration = Duration::from_secs(5);

/// Side by side, since most of it is waiting.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_longer_than_the_history_costs_nothing() {
    tokio::join!(rabbit(), redis("list"), redis("stream"));
}

async fn rabbit() {
    let Some(rabbit) = crate::rabbit::rabbit("an outage of RabbitMQ").await else { return };
    let vhost = rabbit.vhost().await;
    let broker = |address| {
        let url = format!("amqp://guest:guest@{address}/{}", vhost.name);
        json!({"kind": "amqp", "url": url, "heartbeat_s": 2})
    };
    outlasts_the_history(rabbit.address(), broker, json!({"broker": "elsewhere"})).await;
}

async fn redis(kind: &str) {
    let Some(redis) = crate::redis::redis("an outage of Redis").await else { return };
    let broker =
        |address| json!({"kind": "redis", "url": format!("redis://{address}"), "worker_timeout_ms": 2_000});
    outlasts_the_history(redis.address(), broker, json!({"broker": "elsewhere", "type": kind})).await;
}

/// Everything that the server was told gets lost on the way, first for a host that goes on, then for one that
/// is killed and starts again.
async fn outlasts_the_history(target: SocketAddr, broker: impl Fn(SocketAddr) -> Value, home: Value) {
    let (proxy, dir) = (Proxy::start(target).await, tempfile::tempdir().unwrap());
    let mut server = Server::start_with(dir.path(), &[], &SETTINGS).await;
    server.put("/brokers/elsewhere", broker(proxy.address())).await;
    server.home = home;
    server.set_up_samples().await;
    let flow = Flow::start(&server, 6_000, Duration::from_millis(50));
    eventually("orders flow", PATIENCE, || async {
        let settlement = server.get("/subscriptions/settlement").await;
        (settlement["status"]["acked"].as_u64()? > 500).then_some(())
    })
    .await;
    proxy.black_hole(true);
    flow::broker_is(&server, "elsewhere", "failed").await;
    assert!(!flow.is_over(), "the network goes while orders flow");
    tokio::time::sleep(KEPT + SWEPT).await;
    server.kill().await;
    let server = Server::start_with(dir.path(), &[], &SETTINGS).await;
    flow.follow(&server);
    tokio::time::sleep(SWEPT).await;
    proxy.black_hole(false);
    proxy.cut().await;
    flow::mended(&server, "elsewhere").await;
    let orders = flow.finish(&server).await;
    let (got, expect) = (server.totals().await, orders::totals(&orders));
    // What handlers publish is forgotten as well.
    assert_eq!((got.days, got.points), (expect.days, expect.points));
    assert_eq!(server.terminate().await, Some(0));
}
