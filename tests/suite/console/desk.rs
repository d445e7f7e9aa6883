//! The dead-letter desk: an order is looked at, tried, mended and sent back, and what may not be seen is
//! not shown.

use brolly_tests::orders::{self, Order};
use serde_json::json;

use super::{ORDERS, Scene};

/// An order of those that went through that settlement rejects, and what it should have been.
fn rejected() -> (Order, Order) {
    let orders = &orders::real()[..ORDERS];
    let id = orders::totals(orders).rejected.into_iter().next().unwrap();
    let order = orders.iter().find(|order| order.order_id == id).unwrap().clone();
    let mended = Order { amount_cents: 1_234, ..order.clone() };
    (order, mended)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_tried_edited_and_sent_back() {
    let Some(scene) = Scene::furnished("the dead-letter desk of the console").await else { return };
    let (order, mended) = rejected();
    let id = &order.order_id;
    let dead = scene.server.get("/queues/settlement").await["counts"]["dead"].as_u64().unwrap();
    scene.page(&format!("dead-letters/settlement/{id}"), &format!("Dead letter: {id}")).await;
    scene.browser.press("Try").await;
    scene.browser.find("//*[contains(@class, 'trial')]//b[.='rejected']").await;

    // With another amount it would be acknowledged; nothing has happened yet.
    scene.browser.fill("Payload", &serde_json::to_string(&mended).unwrap()).await;
    scene.browser.press("Try").await;
    scene.browser.find("//*[contains(@class, 'trial')]//b[.='acknowledged']").await;
    scene.browser.sees(&format!("day/{}", order.paid_on)).await;
    scene.browser.picture("trial-wide-light").await;
    assert_eq!(scene.server.get("/queues/settlement").await["counts"]["dead"], dead);
    assert_eq!(scene.server.days().await, orders::totals(&orders::real()[..ORDERS]).days);

    scene.browser.press("Replay the edited copy").await;
    scene.browser.find("//h1[.='Dead letters: settlement']").await;
    scene.browser.sees(&format!("The edited copy {id}~edited-1 is on its way")).await;
    scene.until("/queues/settlement", |body| body["counts"]["dead"] == dead - 1).await;
    let copy = format!("/messages/{id}~edited-1");
    scene.until(&copy, |body| body["deliveries"][0]["status"] == "acked").await;
    let counted: Vec<Order> = orders::real()[..ORDERS]
        .iter()
        .map(|one| if one.order_id == *id { mended.clone() } else { one.clone() })
        .collect();
    assert_eq!(scene.server.days().await, orders::totals(&counted).days);

    // From one to the other and back.
    scene.page(&format!("messages/{id}"), &format!("Message {id}")).await;
    scene.browser.sees("An edited copy took its place at settlement").await;
    scene.browser.press(&format!("orders.paid / {id}~edited-1")).await;
    scene.browser.find(&format!("//h1[.='Message {id}~edited-1']")).await;
    scene.browser.press(&format!("orders.paid / {id}")).await;
    scene.browser.find(&format!("//h1[.='Message {id}']")).await;
    scene.page("audit", "Audit log").await;
    scene.browser.sees("Replayed an edited dead letter: Subscription settlement").await;
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_edited_is_not_sent_and_reasons_select() {
    let Some(scene) = Scene::furnished("selections on the dead-letter desk").await else { return };
    let (order, _) = rejected();
    let id = &order.order_id;
    scene.page(&format!("dead-letters/settlement/{id}"), &format!("Dead letter: {id}")).await;
    scene.browser.press("Replay the edited copy").await;
    scene.browser.sees("Nothing was edited").await;
    scene.server.post("/subscriptions/settlement/pause").await;
    scene.until("/subscriptions/settlement", |body| body["state"] == "paused").await;
    scene.page("dead-letters/settlement", "Dead letters: settlement").await;
    scene.browser.fill_named("Reason contains", "only amounts above zero").await;
    scene.browser.press("Replay those").await;
    scene.browser.press("Replay").await;
    scene.until("/queues/settlement", |body| body["counts"]["dead"] == 0).await;
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn masked_and_hidden_payloads_say_so() {
    let Some(scene) = Scene::furnished("hidden payloads in the console").await else { return };
    let (order, _) = rejected();
    let id = &order.order_id;
    let customer = format!("\"customer_id\": \"{}\"", order.customer_id);
    scene.page("topics", "Topics and routes").await;
    scene.browser.press("Edit orders.paid").await;
    scene.browser.fill("Masked values", "/customer_id").await;
    scene.browser.press("Save").await;
    scene.until("/topics/orders.paid", |body| body["mask"] == json!(["/customer_id"])).await;
    scene.page(&format!("messages/{id}"), &format!("Message {id}")).await;
    scene.browser.sees(&customer).await;

    scene.browser.press("Sign out").await;
    scene.sign_in(&scene.token("operator").await).await;
    scene.page(&format!("dead-letters/settlement/{id}"), &format!("Dead letter: {id}")).await;
    scene.browser.sees("\"customer_id\": \"***\"").await;
    scene.browser.sees("Values shown as *** are masked for this token.").await;
    scene.browser.sees("This payload cannot be edited here").await;
    assert!(!scene.browser.shown().await.contains(&customer));

    scene.browser.press("Sign out").await;
    scene.sign_in(&scene.token("viewer").await).await;
    for (path, title) in [
        (format!("messages/{id}"), format!("Message {id}")),
        (format!("dead-letters/settlement/{id}"), format!("Dead letter: {id}")),
    ] {
        scene.page(&path, &title).await;
        scene.browser.sees("Not shown: this token may not see payloads.").await;
        assert!(!scene.browser.shown().await.contains("amount_cents"));
    }
    scene.close().await;
}
