//! Shipping a version: a candidate begun, compared and promoted, the way back, what the host took back, and what
//! cannot be reached.

use brolly_tests::{orders, server::plugin_bytes};
use serde_json::{Value, json};

use super::{ORDERS, Scene, another_version};

fn short(version: &Value) -> String {
    version.as_str().unwrap().trim_start_matches("sha256:")[..12].to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_is_begun_compared_promoted_and_taken_back() {
    let Some(scene) = Scene::furnished("rollouts in the console").await else { return };
    let paid = orders::real();
    let day = &paid[0].paid_on;
    let old = scene.server.get("/subscriptions/settlement").await["version"].clone();
    let new = json!(scene.server.upload("settlement", plugin_bytes("hostile")).await);
    scene.page("subscriptions/settlement", "Subscription settlement").await;
    scene.browser.press("Begin a rollout").await;
    scene.browser.fill("Percent of the keys", "100").await;
    scene.browser.fill("Configuration of the candidate", &format!("mode: settle\nwrong_day: {day}")).await;
    scene.browser.press("Begin").await;
    scene.until("/subscriptions/settlement", |body| body["rollout"].is_object()).await;
    assert_eq!(scene.server.get("/subscriptions/settlement/rollout").await["stage"], "running");

    let again = orders::named("again-", &paid[..ORDERS]);
    scene.publish(&again).await;
    scene.until("/subscriptions/settlement/rollout", |body| body["examples"][0].is_object()).await;
    scene.browser.find("(//summary[contains(., 'state written')])[1]").await.click().await.unwrap();
    scene.browser.find(&format!("//th[contains(., 'day/{day}') and contains(., 'commission_cents')]")).await;

    scene.browser.press(&format!("Promote {} to run settlement", short(&new))).await;
    scene.browser.press("Promote").await;
    scene.until("/subscriptions/settlement", |body| body["status"]["version"] == new).await;
    scene.browser.sees("A candidate took over by admin").await;
    scene.browser.press("Go back with settlement").await;
    scene.browser.find(&format!("//dialog[@open]//li[contains(., '{}')]", short(&old))).await;
    scene.browser.press("Go back").await;
    scene.until("/subscriptions/settlement", |body| body["status"]["version"] == old).await;
    scene.browser.sees("Rolled back by admin").await;
    scene.browser.sees("✓ lost 0, twice 0").await;
    scene.server.idle(&["settlement"]).await;
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_host_took_back_and_what_is_out_of_reach_is_seen_at_once() {
    let Some(scene) = Scene::furnished("what the host does by itself in the console").await else { return };
    let bad = scene.server.upload("settlement", plugin_bytes("hostile")).await;
    scene.page("subscriptions/settlement", "Subscription settlement").await;
    scene.browser.press("Edit settlement").await;
    scene.browser.fill("The host goes back at so many faults of a new version", "5").await;
    scene.browser.fill("Attempts a second at most", "500").await;
    scene.browser.press("Save").await;
    scene
        .until("/subscriptions/settlement", |body| {
            body["guard"]["faults"] == 5 && body["rate"]["per_second"] == 500
        })
        .await;
    // A swap in the console leaves both as they are.
    let harmless = scene.server.upload("settlement", another_version(plugin_bytes("settlement"))).await;
    scene.page("plugins/settlement", "Plugin settlement").await;
    scene.browser.press(&format!("Swap settlement to this: settlement → {}", short(&json!(harmless)))).await;
    scene.until("/subscriptions/settlement", |body| body["status"]["version"] == json!(harmless)).await;
    let mut wanted = scene.server.get("/subscriptions/settlement").await;
    assert_eq!((&wanted["guard"]["faults"], &wanted["rate"]["per_second"]), (&json!(5), &json!(500)));

    let (guard, rate) = (wanted["guard"].take(), wanted["rate"].take());
    let traps = json!({"queue": "settlement", "plugin": "settlement", "version": bad, "config": {"mode": "trap"},
        "guard": guard, "rate": rate});
    scene.server.put("/subscriptions/settlement", traps).await;
    scene.publish(&orders::named("more-", &orders::real()[..50])).await;
    scene.page("", "Overview").await;
    scene.browser.find("//li[contains(., 'back from settlement') and contains(., 'guard.faults')]").await;

    scene.server.put("/topics/claims", json!({})).await;
    let needs = scene.server.upload("claims", plugin_bytes("hostile")).await;
    let config = json!({"config": {"mode": "needs", "down": "insurer"}});
    scene.server.subscribe("claims", "claims", "claims", &needs, config).await;
    scene.server.bulk("claims", json!({"id": "c1", "payload": "insurer"}).to_string()).await.unwrap().ok();
    scene
        .browser
        .find("//li[contains(., 'claims cannot reach insurer') and contains(., 'answers 503')]")
        .await;
    scene.page("subscriptions/claims", "Subscription claims").await;
    scene
        .browser
        .find("//section[.//h2[.='Out of reach']]//tr[contains(., 'insurer') and contains(., 'down')]")
        .await;
    scene.close().await;
}
