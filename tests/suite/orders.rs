//! The main job on the real orders, compared with the plain sequential computation.

use brolly_tests::{orders, server::Server};
use reqwest::Method;
use serde_json::json;

const QUEUES: [&str; 3] = ["activity", "notification", "settlement"];

#[tokio::test(flavor = "multi_thread")]
async fn the_real_orders_come_to_exact_totals_and_stay_so() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    server.set_up_samples().await;
    let orders = orders::real();
    assert_eq!(orders.len(), 6_919);
    let expect = orders::totals(&orders);
    assert_eq!(expect.rejected.len(), 8, "the data has eight orders of nothing");

    let answer = server.bulk("orders.paid", orders::ndjson(&orders)).await.unwrap().ok();
    let ids: Vec<&str> = answer["ids"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
    assert!(ids.iter().eq(orders.iter().map(|order| order.order_id.as_str()).collect::<Vec<_>>().iter()));
    server.idle(&QUEUES).await;
    check(&server, &expect).await;

    // Publishing all of it again changes nothing.
    let again = server.bulk("orders.paid", orders::ndjson(&orders)).await.unwrap().ok();
    assert_eq!((again["ids"].as_array().unwrap().len(), again["duplicates"].as_u64()), (6_919, Some(6_919)));
    server.idle(&QUEUES).await;
    check(&server, &expect).await;

    // The eight are dead letters of settlement and of nobody else, and replaying makes them so again.
    let request = server.request(Method::POST, "/subscriptions/settlement/dead-letters/replay");
    let replayed = server.send(request.json(&json!({"all": true}))).await.ok();
    assert_eq!(replayed["done"].as_array().unwrap().len(), 8);
    server.idle(&QUEUES).await;
    check(&server, &expect).await;

    assert_eq!(server.terminate().await, Some(0));
    let server = Server::start(dir.path()).await;
    check(&server, &expect).await;
    assert_eq!(server.terminate().await, Some(0));
}

async fn check(server: &Server, expect: &orders::Totals) {
    let got = server.totals().await;
    assert_eq!(got.days, expect.days);
    assert_eq!(got.points, expect.points);
    assert_eq!(got.coupons, expect.coupons);
    assert_eq!(sorted(got.rejected), sorted(expect.rejected.clone()));
    for letter in server.all("/subscriptions/settlement/dead-letters").await {
        let reason = letter["reason"].as_str().unwrap();
        assert!(reason.contains("amount") && reason.contains('0'), "the reason says what is wrong: {reason}");
    }
    for other in ["activity", "notification"] {
        assert!(server.all(&format!("/subscriptions/{other}/dead-letters")).await.is_empty(), "{other}");
    }
    let dead = &server.get("/queues/settlement").await["counts"]["dead"];
    assert_eq!(dead.as_u64(), Some(expect.rejected.len() as u64));
}

fn sorted(mut ids: Vec<String>) -> Vec<String> {
    ids.sort();
    ids
}
