//! Who may come in, and what each may press.

use brolly_tests::browser::Browser;
use reqwest::Method;
use serde_json::json;

use super::Scene;

#[tokio::test(flavor = "multi_thread")]
async fn only_a_token_opens_the_door_and_the_page_cannot_read_the_session() {
    let Some(scene) = Scene::open("signing in to the console").await else { return };
    scene.browser.goto("/#/queues").await;
    scene.browser.fill("Access token", "brolly_wrong").await;
    scene.browser.press("Sign in").await;
    scene.browser.find("//*[@role='alert'][contains(., 'not known')]").await;
    assert!(!scene.browser.shown().await.contains("Overview"));
    scene.browser.fill("Access token", &scene.server.token).await;
    scene.browser.press("Sign in").await;
    // To the page that was asked for.
    scene.browser.find("//h1[.='Queues']").await;
    assert_eq!(scene.browser.run("return document.cookie", Vec::new()).await, "");
    let kept = "return JSON.stringify([{...localStorage}, {...sessionStorage}])";
    let kept = scene.browser.run(kept, Vec::new()).await;
    assert!(!kept.as_str().unwrap().contains("brolly_"), "{kept}");

    scene.browser.reload().await;
    scene.browser.find("//h1[.='Queues']").await;
    scene.browser.press("Sign out").await;
    scene.browser.find("//h1[.='Sign in']").await;
    scene.browser.reload().await;
    scene.browser.find("//h1[.='Sign in']").await;

    // A session ends with its token, also while a page is open.
    let token = scene.token("operator").await;
    scene.sign_in(&token).await;
    scene.server.call(Method::DELETE, "/tokens/the-operator", None).await;
    scene.browser.find("//h1[.='Sign in']").await;
    scene.close().await;
}

/// What stands on buttons that change nothing on the host.
const HARMLESS: [&str; 9] =
    ["Menu", "中文", "Sign out", "Search", "Test", "Show more", "Refresh", "Look", "Cancel"];

const PAGES: [(&str, &str); 13] = [
    ("", "Overview"),
    ("topics", "Topics and routes"),
    ("queues", "Queues"),
    ("queues/settlement", "Queue settlement"),
    ("subscriptions", "Subscriptions"),
    ("subscriptions/settlement", "Subscription settlement"),
    ("plugins/settlement", "Plugin settlement"),
    ("messages/o000226", "Message o000226"),
    ("dead-letters/settlement", "Dead letters: settlement"),
    ("dead-letters/settlement/o000226", "Dead letter: o000226"),
    ("alerts", "Alerts"),
    ("audit", "Audit log"),
    ("settings", "Settings"),
];

/// The buttons of each page that change something.
async fn buttons(browser: &Browser, scene: &Scene) -> Vec<String> {
    let mut found = Vec::new();
    for (path, title) in PAGES {
        scene.page(path, title).await;
        browser.find("//main[.//table or .//dl]").await;
        let script = "return [...document.querySelectorAll('button')].map((one) => one.textContent)";
        let here = browser.run(script, Vec::new()).await;
        let here = here.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned());
        found.extend(
            here.filter(|text| !HARMLESS.contains(&text.as_str())).map(|text| format!("{path}: {text}")),
        );
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_sees_the_buttons_that_it_may_press() {
    let Some(scene) = Scene::furnished("roles in the console").await else { return };
    let of_admin = buttons(&scene.browser, &scene).await;
    for wanted in [
        "topics: Add a route",
        "queues: Add a queue",
        "subscriptions: Pause",
        "subscriptions/settlement: Edit",
        "dead-letters/settlement: Replay all",
        "dead-letters/settlement/o000226: Try",
        "dead-letters/settlement/o000226: Replay the edited copy",
        "queues/settlement: Add a rule",
        "settings: Add a channel",
        "settings: Make a token",
        "settings: Add a broker",
    ] {
        assert!(of_admin.iter().any(|button| button == wanted), "{wanted} is missing in {of_admin:#?}");
    }

    scene.browser.press("Sign out").await;
    scene.sign_in(&scene.token("operator").await).await;
    let of_operator = buttons(&scene.browser, &scene).await;
    assert!(of_operator.iter().any(|button| button == "dead-letters/settlement: Replay all"));
    assert!(!of_operator.iter().any(|button| button.contains("token")), "{of_operator:#?}");
    assert!(!scene.browser.shown().await.contains("Made"), "tokens are for admins");

    scene.browser.press("Sign out").await;
    scene.sign_in(&scene.token("viewer").await).await;
    assert_eq!(buttons(&scene.browser, &scene).await, Vec::<String>::new());
    scene.page("plugins", "Plugins").await;
    assert!(!scene.browser.shown().await.contains("Drop a .wasm file"));
    // What has no button is refused, too.
    let script = "const done = arguments[0]; fetch('/api/v1/whoami').then((a) => a.json()).then((me) =>\
                  fetch('/api/v1/subscriptions/settlement/pause', {method: 'POST', headers: {'x-csrf-token': me.csrf_token}}))\
                  .then((answer) => done(answer.status))";
    assert_eq!(scene.browser.run_async(script).await, json!(403));
    scene.page("topics", "Topics and routes").await;
    scene.browser.find("//section[.//h2[.='Route tester']]//option[@value='orders.paid']/..").await;
    scene.browser.choose("Topic", "orders.paid").await;
    scene.browser.press("Test").await;
    scene.browser.sees("It would go to: activity, notification, settlement").await;
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_made_shown_once_and_deleted() {
    let Some(scene) = Scene::furnished("tokens in the console").await else { return };
    scene.page("settings", "Settings").await;
    scene.browser.press("Make a token").await;
    scene.browser.fill("Name", "night-shift").await;
    scene.browser.choose("Role", "operator").await;
    scene.browser.press("Save").await;
    let shown = scene.browser.find("//code[starts-with(., 'brolly_')]").await.text().await.unwrap();
    let client = reqwest::Client::new();
    let me =
        client.get(format!("{}/api/v1/whoami", scene.server.url)).bearer_auth(&shown).send().await.unwrap();
    assert_eq!(me.json::<serde_json::Value>().await.unwrap()["name"], "night-shift");
    scene.page("audit", "Audit log").await;
    scene.browser.sees("Created: Access token night-shift").await;
    assert!(!scene.browser.shown().await.contains(&shown));
    scene.page("settings", "Settings").await;
    scene.browser.press("Delete night-shift").await;
    scene.browser.press("Delete").await;
    scene.until("/tokens", |body| body["items"].as_array().unwrap().len() == 1).await;
    scene.close().await;
}
