//! The main job on RabbitMQ: the real orders, exact, whatever breaks between.

use std::time::Duration;

use brolly_tests::{
    eventually,
    flow::{self, QUEUES},
    orders::{self, Order},
    rabbit::Rabbit,
    server::{PATIENCE, Server},
};
use reqwest::Method;
use serde_json::json;
use tokio::sync::watch;

const KILLS: usize = 20;

/// What the sample plugins must have come to, and that nothing is left on the other side.
pub(super) async fn check(server: &Server, rabbit: &Rabbit, vhost: &str, orders: &[Order]) {
    flow::exact(server, orders).await;
    eventually("nothing is left on the server", PATIENCE, || async {
        let queues = rabbit.queues(vhost).await;
        let ours = queues.iter().filter(|queue| QUEUES.contains(&queue.name.split('.').next().unwrap()));
        let left: Vec<_> = ours.filter(|queue| queue.ready + queue.unacked > 0).collect();
        if !left.is_empty() {
            eprintln!("left: {left:?}");
        }
        left.is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_orders_are_exact_and_counted_as_rabbitmq_counts_them() {
    let Some(rabbit) = super::rabbit("the real orders over RabbitMQ").await else { return };
    for kind in ["quorum", "classic"] {
        let (vhost, dir) = (rabbit.vhost().await, tempfile::tempdir().unwrap());
        let mut server = super::host(dir.path(), &vhost.url, json!({})).await;
        server.home = json!({"broker": "rabbit", "type": kind});
        server.set_up_samples().await;
        let orders = orders::real();
        server.post("/subscriptions/settlement/pause").await;
        server.bulk("orders.paid", orders::ndjson(&orders)).await.unwrap().ok();
        eventually("the counts agree while the subscription rests", PATIENCE, || async {
            let counts = server.get("/queues/settlement").await["counts"].clone();
            let there = rabbit.queues(&vhost.name).await;
            let there = there.into_iter().find(|queue| queue.name == "settlement")?;
            assert_eq!(there.kind, kind);
            let agree = counts["ready"] == there.ready && counts["in_flight"] == there.unacked;
            (agree && there.ready == 6_919).then_some(())
        })
        .await;
        server.post("/subscriptions/settlement/resume").await;
        server.idle(&QUEUES).await;
        check(&server, &rabbit, &vhost.name, &orders).await;
        // The eight that settlement rejects come back, and are rejected again.
        let replay = server.request(Method::POST, "/subscriptions/settlement/dead-letters/replay");
        let replayed = server.send(replay.json(&json!({"all": true}))).await.ok();
        assert_eq!(replayed["done"].as_array().unwrap().len(), 8);
        eventually("the eight are dead letters again", PATIENCE, || async {
            let dead = server.get("/queues/settlement").await["counts"]["dead"].as_u64();
            (dead == Some(8)).then_some(())
        })
        .await;
        check(&server, &rabbit, &vhost.name, &orders).await;
        let story = server.get("/messages/o000001").await;
        assert_eq!(story["deliveries"].as_array().unwrap().len(), 3, "{story}");
        let mended = crate::desk::mend(&server, &orders).await;
        crate::desk::check(&server, &orders, &mended).await;
        assert_eq!(server.terminate().await, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_doubled_by_twenty_kills_over_rabbitmq() {
    let Some(rabbit) = super::rabbit("kill -9 over RabbitMQ").await else { return };
    let (vhost, dir) = (rabbit.vhost().await, tempfile::tempdir().unwrap());
    let orders = orders::multiplied(12_000);
    let mut server = super::host(dir.path(), &vhost.url, json!({})).await;
    server.set_up_samples().await;
    let (address, addresses) = watch::channel((server.url.clone(), server.token.clone()));
    let batches: Vec<String> = orders.chunks(100).map(orders::ndjson).collect();
    let publisher = tokio::spawn(flow::publish_all(batches, addresses, Duration::from_millis(10)));
    for kill in 0..KILLS {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(50..900))).await;
        server = flow::restarted(server, dir.path()).await;
        address.send_replace((server.url.clone(), server.token.clone()));
        eprintln!("kill {} of {KILLS}", kill + 1);
    }
    let retried = publisher.await.unwrap();
    eprintln!("{retried} batches were published again");
    server.idle(&QUEUES).await;
    check(&server, &rabbit, &vhost.name, &orders).await;
    assert_eq!(server.terminate().await, Some(0));
}
