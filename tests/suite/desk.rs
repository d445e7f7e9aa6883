//! The dead-letter desk: what is edited and sent back counts once, whatever comes between.

use brolly_tests::{
    flow,
    orders::{self, Order},
    server::Server,
};
use reqwest::Method;
use serde_json::json;

/// What a mended order comes to.
const MENDED_CENTS: i64 = 250;

/// Sends an edited copy of each order that settlement has rejected, twice at the same time; one of the
/// two finds no dead letter any more. Answers with all orders as they should be counted now.
pub(super) async fn mend(server: &Server, orders: &[Order]) -> Vec<Order> {
    let rejected = server.totals().await.rejected;
    assert!(!rejected.is_empty());
    let mended: Vec<Order> = orders
        .iter()
        .map(|order| match rejected.contains(&order.order_id) {
            true => Order { amount_cents: MENDED_CENTS, ..order.clone() },
            false => order.clone(),
        })
        .collect();
    for order in mended.iter().filter(|order| rejected.contains(&order.order_id)) {
        let edit = || async {
            let path = format!("/subscriptions/settlement/dead-letters/{}/edit", order.order_id);
            // Large enough to lie in a file of its own.
            let mut payload = serde_json::to_value(order).unwrap();
            payload["note"] = "n".repeat(100_000).into();
            server.call(Method::POST, &path, Some(json!({ "payload": payload }))).await
        };
        let (one, other) = tokio::join!(edit(), edit());
        let mut statuses = [one.status.as_u16(), other.status.as_u16()];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 404], "{}", order.order_id);
    }
    mended
}

/// What settlement has counted, and the way from each original to its copy and back.
pub(super) async fn check(server: &Server, orders: &[Order], mended: &[Order]) {
    server.idle(&["settlement"]).await;
    assert_eq!(server.days().await, orders::totals(mended).days);
    assert_eq!(server.get("/queues/settlement").await["counts"]["dead"], 0);
    for id in orders::totals(orders).rejected {
        let copy = format!("{id}~edited-1");
        let story = server.get(&format!("/messages/{copy}")).await;
        let message = &story["message"];
        assert_eq!(message["parent"], json!({"topic": "orders.paid", "id": id}));
        assert_eq!(message["headers"]["brolly-edited-from"], id);
        assert!(message["size_bytes"].as_u64().unwrap() > 100_000);
        assert_eq!(message["queues"], json!(["settlement"]), "the others have handled it");
        assert_eq!(story["deliveries"].as_array().unwrap().len(), 1);
        assert_eq!(story["deliveries"][0]["status"], "acked");
        let original = server.get(&format!("/messages/{id}")).await;
        let deliveries = original["deliveries"].as_array().unwrap();
        let settlement = deliveries.iter().find(|one| one["subscription"] == "settlement").unwrap();
        assert_eq!(settlement["status"], "replaced");
        assert_eq!(settlement["published"], json!([{"topic": "orders.paid", "id": copy}]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn edited_orders_count_once_through_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    server.set_up_samples().await;
    let orders = orders::real();
    server.bulk("orders.paid", orders::ndjson(&orders)).await.unwrap().ok();
    server.idle(&["activity", "notification", "settlement"]).await;
    server.post("/subscriptions/settlement/pause").await;
    let mended = mend(&server, &orders).await;
    let server = flow::restarted(server, dir.path()).await;
    server.post("/subscriptions/settlement/resume").await;
    check(&server, &orders, &mended).await;
    let audit = server.all("/audit?kind=subscription").await;
    let edits = audit.iter().filter(|record| record["action"] == "edit").count();
    assert!(edits >= orders::totals(&orders).rejected.len(), "{edits} edits stand in the audit log");
    assert_eq!(server.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn latencies_are_told_of_each_subscription() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    server.set_up_samples().await;
    assert_eq!(server.get("/subscriptions/settlement").await["status"]["latency"]["attempt"], json!(null));
    let orders = orders::real();
    server.bulk("orders.paid", orders::ndjson(&orders)).await.unwrap().ok();
    server.idle(&["settlement"]).await;
    let latency = server.get("/subscriptions/settlement").await["status"]["latency"].clone();
    let rejected = orders::totals(&orders).rejected.len();
    for (what, count) in [("attempt", orders.len()), ("handled", orders.len() - rejected)] {
        let one = &latency[what];
        assert!(one["count"].as_u64().unwrap() >= count as u64, "{what}: {one}");
        let us = |name: &str| one[name].as_u64().unwrap();
        assert!(us("p50_us") <= us("p95_us") && us("p95_us") <= us("p99_us"), "{what}: {one}");
        assert!(us("p99_us") < 60_000_000, "{what}: {one}");
    }
    assert!(latency["handled"]["p99_us"].as_u64() > latency["attempt"]["p50_us"].as_u64(), "{latency}");
    assert_eq!(server.terminate().await, Some(0));
}
