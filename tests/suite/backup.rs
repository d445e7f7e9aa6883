//! A copy of everything, made while orders flow, and a host started on it.

use std::{path::PathBuf, time::Duration};

use brolly_tests::{
    eventually,
    flow::{self, Flow, QUEUES},
    orders,
    server::{PATIENCE, Server},
};
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_host_started_on_a_backup_goes_on_exactly_where_it_was_made() {
    check(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn and_so_with_redb() {
    check(&[("BROLLY_STORE__ENGINE", "redb")]).await;
}

async fn check(settings: &[(&str, &str)]) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), &[], settings).await;
    server.set_up_samples().await;
    // A payload that lies in a file.
    let large = json!({"order_id": "large", "note": "x".repeat(100_000)});
    server.put("/topics/large", json!({})).await;
    server.bulk("large", format!("{}\n", json!({"id": "large", "payload": large}))).await.unwrap().ok();
    let flow = Flow::start(&server, 10_000, Duration::ZERO);
    eventually("orders are being handled", PATIENCE, || async {
        (!server.days().await.is_empty()).then_some(())
    })
    .await;
    let backup = server.call(Method::POST, "/backups", None).await.ok();
    assert!(!flow.is_over(), "it was made too late to show anything");
    let orders = flow.finish(&server).await;
    flow::exact(&server, &orders).await;
    audited(&server, &backup).await;
    assert_eq!(server.terminate().await, Some(0));

    let copy = PathBuf::from(backup["dir"].as_str().unwrap());
    // Tokens go along, the file with the first one does not.
    std::fs::copy(dir.path().join("admin.token"), copy.join("admin.token")).unwrap();
    let server = Server::start_with(&copy, &[], settings).await;
    let story = server.get("/messages/large").await;
    assert_eq!(story["message"]["size_bytes"].as_u64(), Some(large.to_string().len() as u64), "{story}");
    server.idle(&QUEUES).await;
    // What the copy has is exact by itself: whatever was accepted before it is handled, once.
    let accepted = server.all("/messages?topic=orders.paid").await;
    let ids: Vec<&str> = accepted.iter().map(|message| message["id"].as_str().unwrap()).collect();
    let before: Vec<_> = orders.iter().filter(|order| ids.contains(&&*order.order_id)).cloned().collect();
    assert!(!before.is_empty() && before.len() < orders.len(), "{} of {}", before.len(), orders.len());
    flow::exact(&server, &before).await;
    // And with what came after it, published again by those who had published it, it is exact, too.
    for batch in orders.chunks(500) {
        server.bulk("orders.paid", orders::ndjson(batch)).await.unwrap().ok();
    }
    server.idle(&QUEUES).await;
    flow::exact(&server, &orders).await;
    assert_eq!(server.terminate().await, Some(0));
}

async fn audited(server: &Server, backup: &Value) {
    let record = &server.get("/audit?kind=backup").await["items"][0];
    assert_eq!((&record["action"], &record["name"]), (&json!("backup"), &backup["name"]));
    assert!(backup["rows"].as_u64() > Some(100) && backup["writes"].as_u64() > Some(0), "{backup}");
}
