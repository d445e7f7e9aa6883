//! Changes while messages flow: a new version, other numbers of workers, pause and resume.

use std::collections::HashMap;

use brolly_tests::{
    eventually, orders,
    server::{PATIENCE, Server, another_version, plugin_bytes},
};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_takes_over_without_losing_or_repeating_anything() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    server.put("/topics/orders.paid", json!({})).await;
    let old = server.upload("settlement", plugin_bytes("settlement")).await;
    let new = server.upload("settlement", another_version(plugin_bytes("settlement"), "built again")).await;
    assert_ne!(old, new);
    let subscription = |version: &str, workers: u32| json!({"queue": "settlement", "plugin": "settlement", "version": version, "workers": workers});
    server.subscribe("settlement", "orders.paid", "settlement", &old, json!({"workers": 2})).await;

    let orders = orders::multiplied(14_000);
    let (first, second) = orders.split_at(7_000);
    server.bulk("orders.paid", orders::ndjson(first)).await.unwrap().ok();
    let handled = async || server.get("/subscriptions/settlement").await["status"]["acked"].as_u64().unwrap();
    eventually("the old version is at work", PATIENCE, || async { (handled().await > 500).then_some(()) })
        .await;
    server.put("/subscriptions/settlement", subscription(&new, 3)).await;
    server.bulk("orders.paid", orders::ndjson(second)).await.unwrap().ok();

    server.post("/subscriptions/settlement/pause").await;
    eventually("it is paused", PATIENCE, || async {
        let subscription = server.get("/subscriptions/settlement").await;
        (subscription["state"] == "paused").then_some(())
    })
    .await;
    let paused_at = handled().await;
    server.put("/subscriptions/settlement", subscription(&old, 1)).await;
    assert_eq!(server.get("/subscriptions/settlement").await["state"], "paused", "a PUT does not resume");
    assert_eq!(handled().await, paused_at);
    server.put("/subscriptions/settlement", subscription(&new, 4)).await;
    server.post("/subscriptions/settlement/resume").await;
    server.idle(&["settlement"]).await;

    let expect = orders::totals(&orders);
    assert_eq!(server.days().await, expect.days);

    // Every order was handled by one version, once, and the ledger says by which.
    let mut by_version: HashMap<String, usize> = HashMap::new();
    for order in orders.iter().step_by(50) {
        let story = server.get(&format!("/messages/{}", order.order_id)).await;
        let attempts = story["deliveries"][0]["attempts"].as_array().unwrap();
        assert_eq!(attempts.len(), 1, "{story}");
        *by_version.entry(attempts[0]["version"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    assert!(by_version.contains_key(&old) && by_version.contains_key(&new), "{by_version:?}");
    assert_eq!(by_version.len(), 2, "{by_version:?}");

    // What is used stays, what is not can go.
    let path = |version: &str| format!("/plugins/settlement/versions/{version}");
    assert_eq!(server.call(reqwest::Method::DELETE, &path(&new), None).await.problem(409), "in-use");
    assert_eq!(server.call(reqwest::Method::DELETE, &path(&old), None).await.status, 204);
    assert_eq!(server.terminate().await, Some(0));
}
