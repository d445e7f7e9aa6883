//! The main job on Redis: the real orders, exact, whatever breaks between.

use std::time::Duration;

use brolly_tests::{
    eventually,
    flow::{self, QUEUES},
    orders,
    server::PATIENCE,
};
use serde_json::json;
use tokio::sync::watch;

const KILLS: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn the_real_orders_are_exact_and_counted_as_redis_counts_them() {
    for kind in ["list", "stream"] {
        let Some(redis) = super::redis("the real orders over Redis").await else { return };
        let dir = tempfile::tempdir().unwrap();
        let server = super::host(dir.path(), &redis.url(), kind).await;
        server.set_up_samples().await;
        let orders = orders::real();
        server.post("/subscriptions/settlement/pause").await;
        server.bulk("orders.paid", orders::ndjson(&orders)).await.unwrap().ok();
        eventually("the counts agree while the subscription rests", PATIENCE, || async {
            let counts = server.get("/queues/settlement").await["counts"].clone();
            let there = match kind {
                "list" => redis.cli(&["LLEN", "settlement"]).await,
                _ => redis.cli(&["XLEN", "orders.paid"]).await,
            };
            let ready = counts["ready"].as_u64()? + counts["in_flight"].as_u64()?;
            (ready == 6_919 && there == "6919").then_some(())
        })
        .await;
        server.post("/subscriptions/settlement/resume").await;
        server.idle(&QUEUES).await;
        flow::exact(&server, &orders).await;
        let path = "/subscriptions/settlement/dead-letters/replay";
        let replay = server.request(reqwest::Method::POST, path).json(&json!({"all": true}));
        assert_eq!(server.send(replay).await.ok()["done"].as_array().unwrap().len(), 8);
        eventually("the eight are dead letters again", PATIENCE, || async {
            let dead = server.get("/queues/settlement").await["counts"]["dead"].as_u64();
            (dead == Some(8)).then_some(())
        })
        .await;
        flow::exact(&server, &orders).await;
        super::nothing_is_left(&redis).await;
        assert_eq!(server.terminate().await, Some(0));
    }
}

async fn twenty_kills(kind: &str) {
    let Some(redis) = super::redis("kill -9 over Redis").await else { return };
    let dir = tempfile::tempdir().unwrap();
    let orders = orders::multiplied(12_000);
    let mut server = super::host(dir.path(), &redis.url(), kind).await;
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
    flow::exact(&server, &orders).await;
    super::nothing_is_left(&redis).await;
    assert_eq!(server.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_doubled_by_twenty_kills_over_lists() {
    twenty_kills("list").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_doubled_by_twenty_kills_over_streams() {
    twenty_kills("stream").await;
}
