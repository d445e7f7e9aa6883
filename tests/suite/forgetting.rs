//! History goes when it is old, as fast as it came, and nothing goes that somebody may still need.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use brolly_tests::{
    eventually,
    flow::QUEUES,
    orders,
    server::{PATIENCE, Server, plugin_bytes},
};
use reqwest::Method;
use serde_json::json;

/// The shortest time that a history can be kept for.
const KEPT: Duration = Duration::from_secs(60);
const SETTINGS: [(&str, &str); 1] = [("BROLLY_HISTORY__KEEP_MS", "60000")];

#[tokio::test(flavor = "multi_thread")]
async fn what_is_old_and_done_is_forgotten_as_fast_as_it_came() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), &[], &SETTINGS).await;
    server.set_up_samples().await;
    server.put("/topics/kept", json!({})).await;
    server.put("/queues/kept", json!({})).await;
    server.put("/routes/kept", json!({"topic": "kept", "queue": "kept"})).await;
    let waiting = json!({"id": "waits", "payload": {"order_id": "waits", "customer_id": "0001",
        "paid_on": "1997-01-01", "amount_cents": 100}});
    server.bulk("kept", waiting.to_string()).await.unwrap().ok();

    // Each order is a message, its deliveries and what they publish.
    let mut all = Vec::new();
    for round in 0..3 {
        let orders = orders::named(&format!("r{round}-"), &orders::real());
        server.bulk("orders.paid", orders::ndjson(&orders)).await.unwrap().ok();
        all.extend(orders);
    }
    server.idle(&QUEUES).await;
    let handled = Instant::now();
    let expect = orders::totals(&all);
    assert_eq!(server.days().await, expect.days);
    let again = server.bulk("orders.paid", orders::ndjson(&all[..100])).await.unwrap().ok();
    assert_eq!(again["duplicates"], 100, "they are remembered");

    let left = async || {
        let left = server.all("/messages").await;
        let ids = left.iter().map(|message| message["id"].as_str().unwrap().to_owned());
        ids.collect::<BTreeSet<String>>()
    };
    let mut needed: BTreeSet<String> = expect.rejected.iter().cloned().collect();
    assert!(!needed.is_empty());
    needed.insert("waits".to_owned());
    assert!(left().await.len() > all.len());
    tokio::time::sleep(KEPT.saturating_sub(handled.elapsed())).await;
    // All of them within a part of the time in which they could have come.
    eventually("what is done is forgotten", PATIENCE, || async { (left().await == needed).then_some(()) })
        .await;

    // What it did is not.
    assert_eq!(server.days().await, expect.days);
    let again = server.bulk("orders.paid", orders::ndjson(&all[..100])).await.unwrap().ok();
    assert_eq!(again["duplicates"], 0, "their ids are free again");
    // What waits, and what was given up, can still be handled.
    let version = server.upload("settlement", plugin_bytes("settlement")).await;
    let late = json!({"queue": "kept", "plugin": "settlement", "version": version});
    server.put("/subscriptions/kept", late).await;
    server.idle(&["kept"]).await;
    let replay = server.request(Method::POST, "/subscriptions/settlement/dead-letters/replay");
    let replayed = server.send(replay.json(&json!({"all": true}))).await.ok();
    assert_eq!(replayed["done"].as_array().unwrap().len(), expect.rejected.len());
    server.idle(&QUEUES).await;
    assert_eq!(server.all("/subscriptions/settlement/dead-letters").await.len(), expect.rejected.len());
    assert_eq!(server.terminate().await, Some(0));
}
