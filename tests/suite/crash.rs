//! Kill -9 at random moments while orders flow, with a publisher that retries with the same ids. `BROLLY_KILLS` says
//! how many kills there are in all; they are spread over the engines.

use std::time::Duration;

use brolly_tests::{
    flow::{self, Flow},
    orders,
    server::Server,
};
use serde_json::json;

/// Orders that are published at once.
pub(crate) const BATCH: usize = 250;
/// Orders for each crash: the publisher must not be done before the last of them.
pub(crate) const ORDERS: usize = 1_000;
/// Crashes that one data directory lives through; further ones go to a new one.
const KILLS: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_doubled_by_twenty_kills() {
    check(20, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_by_eight_when_redb_keeps_the_store() {
    check(8, &[("BROLLY_STORE__ENGINE", "redb")]).await;
}

async fn check(kills: usize, settings: &[(&str, &str)]) {
    for kills in lives("BROLLY_KILLS", 2, kills, KILLS) {
        live(kills, settings).await;
    }
}

/// How often a test crashes its host, life by life: its part of what the environment says, or else `usual`.
pub(crate) fn lives(setting: &str, tests: usize, usual: usize, of_one: usize) -> Vec<usize> {
    let wanted = std::env::var(setting).ok().map(|text| text.parse::<usize>().expect("a number"));
    let crashes = wanted.map_or(usual, |all| all.div_ceil(tests));
    (0..crashes).step_by(of_one).map(|begun| of_one.min(crashes - begun)).collect()
}

async fn live(kills: usize, settings: &[(&str, &str)]) {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start_with(dir.path(), &[], settings).await;
    server.set_up_samples().await;
    // The publisher follows the address from start to start.
    let flow = Flow::of(&server, orders::multiplied(ORDERS * kills.max(KILLS)), BATCH, Duration::ZERO);
    for kill in 0..kills {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(30..700))).await;
        server.kill().await;
        server = Server::start_with(dir.path(), &[], settings).await;
        flow.follow(&server);
        eprintln!("kill {} of {kills}", kill + 1);
    }
    let orders = flow.finish(&server).await;
    flow::exact(&server, &orders).await;
    assert_eq!(server.terminate().await, Some(0));
}

/// A publish that comes in the moment the host listens must find the routes that are stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_comes_at_the_very_start_goes_to_its_queue() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path()).await;
    server.put("/topics/t", json!({})).await;
    server.put("/queues/q", json!({})).await;
    // The more routes there are, the longer the host takes to learn them.
    for number in 0..100 {
        let route = json!({"topic": "t", "queue": "q", "filter": format!("payload.n >= {}", -number)});
        server.put(&format!("/routes/r{number}"), route).await;
    }
    for start in 0..15 {
        assert_eq!(server.terminate().await, Some(0));
        server = Server::start(dir.path()).await;
        server.bulk("t", format!("{{\"id\":\"m{start}\",\"payload\":{{\"n\":1}}}}\n")).await.unwrap().ok();
        let story = server.get(&format!("/messages/m{start}")).await;
        assert_eq!(story["message"]["queues"], json!(["q"]), "start {start}: {story}");
    }
    assert_eq!(server.terminate().await, Some(0));
}
