//! What is watched: what is stuck and whose it is, what became of a message, who changed what.

use brolly_tests::orders;
use serde_json::json;

use super::{ORDERS, Scene};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stuck_is_seen_at_once_and_one_press_away() {
    let Some(scene) = Scene::furnished("the overview of the console").await else { return };
    scene.page("subscriptions", "Subscriptions").await;
    scene.browser.press("Pause activity").await;
    scene.browser.sees("activity is paused").await;
    scene.until("/subscriptions/activity", |body| body["state"] == "paused").await;
    scene.page("", "Overview").await;
    scene.publish(&orders::real()[ORDERS..ORDERS + 50]).await;
    // Nobody loads the page again: it comes by itself.
    scene.browser.find("//li[contains(., 'activity is paused') and contains(., '50 wait')]").await;
    let letters = "//li[contains(., 'Dead letters in settlement')]";
    for said in ["accounting", "+1 555 0100", "the amount is 0 cents"] {
        scene.browser.find(&format!("{letters}[contains(., '{said}')]")).await;
    }
    scene.browser.sees("Something is stuck").await;
    scene.browser.press("Resume activity").await;
    scene.until("/subscriptions/activity", |body| body["state"] == "running").await;
    scene.server.idle(&["activity"]).await;
    scene.browser.until("the trouble is gone", |shown| !shown.contains("activity is paused")).await;
    let line = "return [...document.querySelectorAll('.chart polyline')].filter((one) => \
                one.getAttribute('points').split(' ').length > 2).length";
    brolly_tests::eventually("the charts grow", brolly_tests::server::PATIENCE, || async {
        (scene.browser.run(line, Vec::new()).await.as_u64() >= Some(2)).then_some(())
    })
    .await;
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn which_version_failed_an_order_and_why_is_three_clicks_away() {
    let Some(scene) = Scene::furnished("the history of a message in the console").await else { return };
    let failed = orders::totals(&orders::real()[..ORDERS]).rejected.into_iter().next().unwrap();
    let version = scene.server.get("/subscriptions/settlement").await["version"].as_str().unwrap().to_owned();
    scene.browser.press("Sign out").await;
    scene.browser.fill("Access token", &scene.server.token).await;
    for click in ["Sign in", "Look at the dead letters", &failed] {
        scene.browser.press(click).await;
    }
    scene.browser.find(&format!("//h1[.='Dead letter: {failed}']")).await;
    scene.browser.sees("the amount is 0 cents; only amounts above zero are settled").await;
    scene.browser.sees(&version.trim_start_matches("sha256:")[..12]).await;

    // By its id it is one step; its children and its parent are links.
    let third = scene.server.get("/messages?topic=coupons.issued&order=asc&limit=1").await;
    let coupon = third["items"][0]["id"].as_str().unwrap().to_owned();
    let order = coupon.trim_start_matches("coupon-");
    let search = scene.browser.find("//header//input[@type='search']").await;
    search.send_keys(&format!("{order}\n")).await.unwrap();
    scene.browser.find(&format!("//h1[.='Message {order}']")).await;
    scene.browser.press(&format!("coupons.issued / {coupon}")).await;
    scene.browser.find(&format!("//h1[.='Message {coupon}']")).await;
    scene.browser.press(&format!("orders.paid / {order}")).await;
    scene.browser.find(&format!("//h1[.='Message {order}']")).await;

    scene.page("messages", "Messages").await;
    scene.browser.choose("Outcome", "dead").await;
    scene.browser.choose("Subscription", "settlement").await;
    scene.browser.press("Search").await;
    scene
        .browser
        .until("only what failed is listed", |shown| shown.contains(&failed) && !shown.contains("notice-"))
        .await;
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_wrote_stays_text() {
    let Some(scene) = Scene::furnished("names and payloads in the console").await else { return };
    let markup = "<img src=x onerror=\"document.title=1\">";
    let line =
        json!({"id": markup, "key": markup, "headers": {"h": markup}, "payload": {"order_id": markup}});
    scene.server.bulk("orders.paid", line.to_string()).await.unwrap().ok();
    scene.server.put("/topics/orders.paid", json!({"description": markup, "owners": [markup]})).await;
    scene
        .until("/queues/settlement", |body| body["counts"]["ready"] == 0 && body["counts"]["in_flight"] == 0)
        .await;
    scene.page("topics", "Topics and routes").await;
    scene.browser.sees(markup).await;
    scene.page("messages", "Messages").await;
    scene.browser.press(markup).await;
    scene.browser.find("//h2[.='What happened']").await;
    scene.browser.sees(markup).await;
    for path in ["", "dead-letters/settlement", "audit"] {
        let title = match path {
            "" => "Overview",
            "audit" => "Audit log",
            _ => "Dead letters: settlement",
        };
        scene.page(path, title).await;
        scene.browser.find("//main[.//td]").await;
    }
    let images = scene.browser.run("return document.querySelectorAll('main img').length", Vec::new()).await;
    assert_eq!(images, json!(0));
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_is_looked_into_and_the_audit_log_tells_of_changes() {
    let Some(scene) = Scene::furnished("queues in the console").await else { return };
    scene.server.post("/subscriptions/notification/pause").await;
    scene.until("/subscriptions/notification", |body| body["state"] == "paused").await;
    scene.publish(&orders::real()[ORDERS..ORDERS + 3]).await;
    scene.page("queues/notification", "Queue notification").await;
    scene.browser.press("Look").await;
    for order in &orders::real()[ORDERS..ORDERS + 3] {
        scene.browser.sees(&order.order_id).await;
    }
    assert_eq!(scene.server.get("/queues/notification").await["counts"]["ready"], 3, "a look takes nothing");

    scene.browser.press("Edit notification").await;
    scene.browser.fill("Owners", "customer contact, , +1 555 0101").await;
    scene.browser.press("Save").await;
    let owners = json!([{"name": "customer contact", "phone": "+1 555 0101"}]);
    scene.until("/queues/notification", |body| body["owners"] == owners).await;
    scene.page("audit", "Audit log").await;
    scene.browser.choose("Kind", "queue").await;
    scene.browser.fill("Name", "notification").await;
    scene.browser.press("Search").await;
    scene.browser.sees("Changed: Queue notification").await;
    scene.browser.sees(r#"owners: [] → [{"name":"customer contact","phone":"+1 555 0101"}]"#).await;
    scene.page("subscriptions/notification", "Subscription notification").await;
    scene.browser.press("Edit notification").await;
    scene.browser.fill("Workers", "3").await;
    scene.browser.press("Save").await;
    scene
        .until("/subscriptions/notification", |body| body["workers"] == 3 && body["state"] == "paused")
        .await;
    scene.browser.press("Resume notification").await;
    scene.server.idle(&["notification"]).await;
    scene.close().await;
}
