//! What is changed: plugins swapped, routes edited, subscriptions paused, dead letters replayed.

use brolly_tests::{orders, root, server::plugin_bytes};
use serde_json::json;

use super::{ORDERS, Scene, another_version};

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_is_dropped_swapped_in_and_rolled_back_while_orders_flow() {
    let Some(scene) = Scene::furnished("uploading in the console").await else { return };
    let old = scene.server.get("/subscriptions/settlement").await["version"].as_str().unwrap().to_owned();
    scene.page("plugins", "Plugins").await;
    let new_bytes = another_version(plugin_bytes("settlement"));
    let zone = "//div[contains(@class, 'drop')]";
    scene.browser.drop_file(zone, "settlement.wasm", &new_bytes).await;
    scene.browser.sees("Uploaded: settlement").await;
    scene.browser.sees("brolly:plugin/state@0.1.0").await;
    scene.browser.sees("imports nothing new.").await;
    let plugin = scene.server.get("/plugins/settlement").await;
    let new = plugin["versions"][1]["digest"].as_str().unwrap().to_owned();
    let short = |digest: &str| digest.trim_start_matches("sha256:")[..12].to_owned();

    let paid = orders::real();
    scene.publish(&paid[ORDERS..2 * ORDERS]).await;
    scene.browser.press(&format!("Swap to this version: settlement → {}", short(&new))).await;
    scene.until("/subscriptions/settlement", |body| body["status"]["version"] == json!(new)).await;
    scene.publish(&paid[2 * ORDERS..3 * ORDERS]).await;

    scene.page("plugins/settlement", "Plugin settlement").await;
    let back = format!("Roll settlement back to this: settlement → {}", short(&old));
    scene.browser.press(&back).await;
    scene.until("/subscriptions/settlement", |body| body["status"]["version"] == json!(old)).await;
    scene.server.idle(&["settlement"]).await;
    assert_eq!(scene.server.days().await, orders::totals(&paid[..3 * ORDERS]).days);

    scene.browser.press(&format!("Delete {}", short(&new))).await;
    scene.browser.press("Delete").await;
    scene.until("/plugins/settlement", |body| body["versions"].as_array().unwrap().len() == 1).await;

    let samples = std::fs::read_to_string(root().join("plugins/settlement/samples.toml")).unwrap();
    scene.browser.press("Edit samples").await;
    scene.browser.fill("Samples", "topic = 1").await;
    scene.browser.press("Save").await;
    scene.browser.find("//dialog[@open]//*[@role='alert'][contains(., 'topic is no text')]").await;
    scene.browser.fill("Samples", &samples).await;
    scene.browser.press("Save").await;
    scene.until("/plugins/settlement", |body| body["has_samples"] == true).await;
    scene.browser.sees("half a cent goes to the even side").await;
    scene.browser.drop_file(zone, "wrong.wasm", &plugin_bytes("hostile")).await;
    scene.browser.find("//*[@role='alert'][contains(., '3 of 3 samples')]").await;
    scene.browser.picture("samples").await;
    scene.browser.drop_file(zone, "settlement.wasm", &new_bytes).await;
    scene.browser.sees("Passed 3 samples.").await;
    scene.page("plugins", "Plugins").await;
    scene.browser.drop_file(zone, "broken.wasm", b"no wasm").await;
    scene.browser.find("//*[@role='alert'][contains(., 'wasm')]").await;
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_is_edited_and_the_tester_tells_where_messages_go() {
    let Some(scene) = Scene::furnished("editing routes in the console").await else { return };
    scene.page("topics", "Topics and routes").await;
    scene.browser.press("Edit orders.paid-to-settlement").await;
    scene.browser.fill("Filter", "payload.amount_cents >").await;
    scene.browser.press("Save").await;
    scene.browser.find("//dialog[@open]//*[@role='alert'][string-length(.) > 0]").await;
    scene.browser.fill("Filter", "payload.amount_cents > 500").await;
    scene.browser.press("Save").await;
    let route = "/routes/orders.paid-to-settlement";
    scene.until(route, |body| body["filter"] == "payload.amount_cents > 500").await;

    scene.browser.find("//section[.//h2[.='Route tester']]//option[@value='orders.paid']/..").await;
    scene.browser.choose("Topic", "orders.paid").await;
    scene.browser.fill("Payload", r#"{"amount_cents": 400}"#).await;
    scene.browser.press("Test").await;
    scene.browser.sees("It would go to: activity, notification").await;
    scene.browser.sees("the filter is not true").await;
    scene.browser.fill("Payload", r#"{"amount_cents": 501}"#).await;
    scene.browser.press("Test").await;
    scene.browser.sees("It would go to: activity, notification, settlement").await;

    scene.browser.press("Add a topic").await;
    scene.browser.fill("Name", "refunds").await;
    scene.browser.fill("Owners", "shop, shop@example.com").await;
    scene.browser.press("Save").await;
    let owners = json!([{"name": "shop", "email": "shop@example.com"}]);
    scene
        .until("/topics", |body| {
            body["items"].as_array().unwrap().iter().any(|topic| topic["owners"] == owners)
        })
        .await;
    scene.browser.press("Delete refunds").await;
    scene.browser.press("Delete").await;
    scene.until("/topics", |body| body["items"].as_array().unwrap().len() == 3).await;
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_replayed_one_some_and_all() {
    let Some(scene) = Scene::furnished("dead letters in the console").await else { return };
    let letters = orders::totals(&orders::real()[..ORDERS]).rejected;
    assert!(!letters.is_empty());
    // A hundred more, of a reason that differs only in its number.
    let more: Vec<_> = orders::real()[ORDERS..ORDERS + 100]
        .iter()
        .enumerate()
        .map(|(i, order)| orders::Order { amount_cents: -i64::try_from(i).unwrap(), ..order.clone() })
        .collect();
    scene.publish(&more).await;
    let dead = |n: usize| move |body: &serde_json::Value| body["counts"]["dead"] == json!(n);
    let all = letters.len() + more.len();
    scene.until("/queues/settlement", dead(all)).await;
    scene.server.post("/subscriptions/settlement/pause").await;
    scene.until("/subscriptions/settlement", |body| body["state"] == "paused").await;

    scene.page("dead-letters/settlement", "Dead letters: settlement").await;
    let one = &more[0].order_id;
    scene.browser.press(&format!("Replay {one}")).await;
    scene.browser.press("Replay").await;
    scene.until("/queues/settlement", dead(all - 1)).await;
    for order in &more[1..3] {
        scene
            .browser
            .find(&format!("//input[@aria-label='Choose {}']", order.order_id))
            .await
            .click()
            .await
            .unwrap();
    }
    scene.browser.press("Delete the chosen").await;
    scene.browser.press("Delete").await;
    scene.until("/queues/settlement", dead(all - 3)).await;
    scene.browser.press("Refresh").await;
    scene
        .browser
        .until("the groups are counted anew", |shown| shown.contains("the amount is -# cents"))
        .await;
    let group = "//section[.//h2[.='By reason']]//tr[contains(., 'the amount is -#')]//button[.='Replay']";
    scene.browser.find(group).await.click().await.unwrap();
    scene.browser.fill("At most so many a second", "1000").await;
    scene.browser.press("Replay").await;
    scene.until("/queues/settlement", dead(letters.len())).await;
    scene.browser.press("Replay all").await;
    scene.browser.press("Replay").await;
    scene.until("/queues/settlement", dead(0)).await;
    scene.browser.sees("There are no dead letters.").await;
    scene.browser.sees(&format!("{} done, 0 failed", letters.len())).await;

    // Back where they failed they fail again: nothing is lost.
    scene.server.post("/subscriptions/settlement/resume").await;
    scene.until("/queues/settlement", dead(all - 2)).await;
    scene.close().await;
}
