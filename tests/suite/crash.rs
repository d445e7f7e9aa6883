//! Kill -9 at random moments while orders flow, with a publisher that retries with the same ids.

use std::time::Duration;

use brolly_tests::{
    orders,
    server::{PATIENCE, Server},
};
use serde_json::json;
use tokio::sync::watch;

const BATCH: usize = 250;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_doubled_by_twenty_kills() {
    check(20, 20_000, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_by_eight_when_redb_keeps_the_store() {
    check(8, 20_000, &[("BROLLY_STORE__ENGINE", "redb")]).await;
}

async fn check(kills: usize, count: usize, settings: &[(&str, &str)]) {
    let dir = tempfile::tempdir().unwrap();
    let orders = orders::multiplied(count);
    let expect = orders::totals(&orders);
    let mut server = Server::start_with(dir.path(), &[], settings).await;
    server.set_up_samples().await;

    // The publisher follows the address from start to start.
    let (address, addresses) = watch::channel((server.url.clone(), server.token.clone()));
    let batches: Vec<String> = orders.chunks(BATCH).map(orders::ndjson).collect();
    let publisher = tokio::spawn(publish_all(batches, addresses));
    for kill in 0..kills {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(30..700))).await;
        server.kill().await;
        server = Server::start_with(dir.path(), &[], settings).await;
        address.send_replace((server.url.clone(), server.token.clone()));
        eprintln!("kill {} of {kills}", kill + 1);
    }
    let retried = publisher.await.unwrap();
    server.idle(&["activity", "notification", "settlement"]).await;

    let got = server.totals().await;
    assert_eq!(got.days, expect.days, "{retried} batches were retried");
    assert_eq!(got.points, expect.points);
    assert_eq!(got.coupons, expect.coupons);
    assert_eq!(got.rejected.len(), expect.rejected.len());
    let notices = server.all("/messages?topic=notifications.out").await;
    assert_eq!(notices.len(), count, "one notice for each order");
    assert_eq!(server.terminate().await, Some(0));
}

/// Publishes batch after batch; one whose answer does not come is sent again.
async fn publish_all(batches: Vec<String>, mut addresses: watch::Receiver<(String, String)>) -> usize {
    let http = reqwest::Client::new();
    let mut retried = 0;
    for batch in batches {
        loop {
            let (url, token) = addresses.borrow_and_update().clone();
            let request = http.post(format!("{url}/api/v1/topics/orders.paid/messages"));
            let request = request.bearer_auth(token).header("content-type", "application/x-ndjson");
            match request.body(batch.clone()).timeout(PATIENCE).send().await {
                Ok(response) => {
                    assert!(response.status().is_success(), "{}", response.text().await.unwrap_or_default());
                    break;
                }
                Err(_) => {
                    retried += 1;
                    addresses.changed().await.expect("the server is started again");
                }
            }
        }
    }
    retried
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
