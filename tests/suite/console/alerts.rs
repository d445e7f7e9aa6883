//! Alerts: a channel is made and tried, a rule watches a queue, somebody takes the alert on, and it recovers.

use brolly_tests::{eventually, orders, receiver::Receiver, server::PATIENCE};
use serde_json::json;

use super::{ORDERS, Scene};

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_and_a_rule_are_made_and_the_alert_is_seen_taken_on_and_over() {
    let Some(receiver) = Receiver::start("alerts in the console", None).await else { return };
    let Some(scene) = Scene::furnished("alerts in the console").await else { return };
    scene.page("settings", "Settings").await;
    scene.browser.press("Add a channel").await;
    scene.browser.fill("Name", "hook").await;
    scene.browser.choose("Kind", "webhook").await;
    let definition = |secret: &str| {
        let url = format!("http://127.0.0.1:{}/hook", receiver.http);
        json!({"kind": "webhook", "url": url, "secret": secret}).to_string()
    };
    scene.browser.fill("Definition", &definition("a wrong secret")).await;
    scene.browser.press("Save").await;
    scene.browser.press("Test hook").await;
    scene.browser.press("Send").await;
    scene.browser.find("//dialog[@open]//*[@role='alert'][contains(., '401')]").await;
    scene.browser.press("Cancel").await;
    scene.browser.press("Edit hook").await;
    scene.browser.fill("Definition", &definition("the secret")).await;
    scene.browser.press("Save").await;
    scene.browser.press("Test hook").await;
    scene.browser.press("Send").await;
    scene.browser.sees("Sent to hook").await;
    assert!(!scene.browser.shown().await.contains("the secret"));

    scene.page("queues/activity", "Queue activity").await;
    scene.browser.press("Add a rule").await;
    scene.browser.fill("Above", "10").await;
    scene.browser.fill("For so many seconds", "0").await;
    scene.browser.field("hook (webhook)").await.click().await.unwrap();
    scene.browser.press("Save").await;
    scene.browser.find("//tr[contains(., 'Messages that wait above 10')]").await;
    let rule =
        json!([{"when": "ready", "above": 10, "for_ms": 0, "repeat_ms": 3_600_000, "channels": ["hook"]}]);
    scene.until("/queues/activity", |body| body["alerts"] == rule).await;

    scene.server.post("/subscriptions/activity/pause").await;
    scene.until("/subscriptions/activity", |body| body["state"] == "paused").await;
    scene.publish(&orders::real()[ORDERS..ORDERS + 50]).await;
    scene.page("", "Overview").await;
    let card = "//li[contains(., 'Alert: activity: Messages that wait above 10')]";
    scene.browser.find(&format!("{card}[contains(., 'Now: 50')]")).await;
    eventually("the webhook is told", PATIENCE, || async {
        receiver.taken("hook").iter().any(|told| told["kind"] == "firing").then_some(())
    })
    .await;
    scene.browser.press("Open the alert").await;
    scene.browser.find("//h1[.='Alert: activity']").await;
    scene
        .browser
        .find("//section[.//h2[.='Who was told']]//tr[contains(., 'Firing') and contains(., 'hook')]")
        .await;
    scene.browser.press("Acknowledge activity ready").await;
    scene.until("/alerts?status=firing", |body| body["items"][0]["acknowledged"]["by"].is_string()).await;
    scene.page("settings", "Settings").await;
    scene.browser.find("//section[.//h2[.='Channels']]//td[.='works']").await;
    scene.page("alerts", "Alerts").await;
    scene.browser.find("//td[.='firing']").await;

    scene.server.post("/subscriptions/activity/resume").await;
    scene.until("/alerts", |body| body["items"][0]["status"] == "recovered").await;
    scene.browser.find("//td[.='recovered']").await;
    scene.browser.choose("State", "firing").await;
    scene.browser.sees("There are no alerts.").await;
    scene.page("queues/activity", "Queue activity").await;
    scene.browser.press("Delete ready").await;
    scene.browser.press("Delete").await;
    scene.until("/queues/activity", |body| body["alerts"].is_null()).await;
    scene.close().await;
}
