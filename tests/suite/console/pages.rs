//! Every page: nothing keeps people out of it, it fits on a phone, and a picture of it is left for
//! people to look at.

use brolly_tests::{axe::Axe, skip};
use serde_json::json;

use super::Scene;

/// Each page with its title.
const PAGES: [(&str, &str); 17] = [
    ("", "Overview"),
    ("topics", "Topics and routes"),
    ("queues", "Queues"),
    ("queues/settlement", "Queue settlement"),
    ("subscriptions", "Subscriptions"),
    ("subscriptions/settlement", "Subscription settlement"),
    ("plugins", "Plugins"),
    ("plugins/settlement", "Plugin settlement"),
    ("messages", "Messages"),
    ("messages/o000226", "Message o000226"),
    ("dead-letters", "Dead letters"),
    ("dead-letters/settlement", "Dead letters: settlement"),
    ("dead-letters/settlement/o000226", "Dead letter: o000226"),
    ("alerts", "Alerts"),
    ("alerts/1", "Alert: settlement"),
    ("audit", "Audit log"),
    ("settings", "Settings"),
];

const SIZES: [(&str, u32, u32); 2] = [("wide", 1280, 900), ("narrow", 390, 844)];

#[tokio::test(flavor = "multi_thread")]
async fn every_page_is_open_to_everybody_and_fits() {
    let Some(scene) = Scene::furnished("pictures and accessibility of the console").await else { return };
    let axe = Axe::fetch().inspect_err(|why| skip("accessibility of the console", why)).ok();
    scene.server.post("/subscriptions/activity/pause").await;
    alarm(&scene).await;
    scene.browser.find("//li[contains(., 'Alert: settlement')]").await;
    scene.browser.find("//li[contains(., 'activity is paused')]").await;
    let mut faults = Vec::new();
    for (path, title) in PAGES {
        scene.page(path, title).await;
        // What is shown comes from calls, after the title.
        scene.browser.find("//main[.//td or .//dd]").await;
        for (size, width, height) in SIZES {
            scene.browser.resize(width, height).await;
            for colours in ["light", "dark"] {
                scene.browser.prefer(colours).await;
                let name = if path.is_empty() { "overview".to_owned() } else { path.replace('/', "-") };
                look(&scene, axe.as_ref(), &format!("{name}-{size}-{colours}"), &mut faults).await;
            }
        }
        scene.browser.resize(1280, 900).await;
    }
    assert!(faults.is_empty(), "{faults:#?}");
    scene.close().await;
}

/// An alert of settlement's dead letters, which nobody can be told.
async fn alarm(scene: &Scene) {
    let closed = format!("http://127.0.0.1:{}/", brolly_tests::process::free_port());
    scene.server.put("/channels/hook", json!({"kind": "webhook", "url": closed})).await;
    let mut queue = scene.server.get("/queues/settlement").await;
    let owners = queue["owners"].take();
    let rule = json!({"when": "dead", "above": 0, "for_ms": 0, "channels": ["hook"]});
    scene.server.put("/queues/settlement", json!({"owners": owners, "alerts": [rule]})).await;
    scene.until("/alerts?status=firing", |body| !body["items"][0].is_null()).await;
}

async fn look(scene: &Scene, axe: Option<&Axe>, name: &str, faults: &mut Vec<String>) {
    scene.browser.picture(name).await;
    let script = "return document.documentElement.scrollWidth - document.documentElement.clientWidth";
    let beyond = scene.browser.run(script, Vec::new()).await;
    if beyond != json!(0) {
        faults.push(format!("{name}: {beyond} pixels stand beyond the edge"));
    }
    if let Some(axe) = axe {
        let found = scene.browser.barriers(axe).await;
        faults.extend(found.into_iter().map(|fault| format!("{name}: {fault}")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signing_in_and_dialogs_are_open_to_everybody() {
    let Some(scene) = Scene::open("signing in").await else { return };
    let axe = Axe::fetch().inspect_err(|why| skip("accessibility of signing in", why)).ok();
    let mut faults = Vec::new();
    scene.browser.goto("/").await;
    scene.browser.find("//h1[.='Sign in']").await;
    for (size, width, height) in SIZES {
        scene.browser.resize(width, height).await;
        for colours in ["light", "dark"] {
            scene.browser.prefer(colours).await;
            look(&scene, axe.as_ref(), &format!("sign-in-{size}-{colours}"), &mut faults).await;
        }
    }
    scene.browser.resize(1280, 900).await;
    scene.sign_in(&scene.server.token).await;
    scene.page("topics", "Topics and routes").await;
    scene.browser.press("Add a topic").await;
    scene.browser.find("//dialog[@open]//h2[.='Add a topic']").await;
    look(&scene, axe.as_ref(), "dialog-wide-dark", &mut faults).await;
    scene.browser.press("Cancel").await;
    assert!(faults.is_empty(), "{faults:#?}");
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_speaks_chinese_and_keeps_the_colours_that_were_chosen() {
    let Some(scene) = Scene::furnished("the console in Chinese").await else { return };
    scene.browser.press("中文").await;
    scene.browser.find("//h1[.='总览']").await;
    assert_eq!(scene.browser.run("return document.documentElement.lang", Vec::new()).await, "zh-CN");
    let colours = "const choice = document.querySelector('select[aria-label]'); choice.value = 'dark';\
                   choice.dispatchEvent(new Event('change'))";
    scene.browser.run(colours, Vec::new()).await;
    scene.browser.picture("chinese-wide-dark").await;
    scene.browser.reload().await;
    scene.browser.find("//h1[.='总览']").await;
    let chosen = "return getComputedStyle(document.documentElement).colorScheme";
    assert_eq!(scene.browser.run(chosen, Vec::new()).await, "dark", "also after the page is opened again");
    scene.browser.press("English").await;
    scene.browser.find("//h1[.='Overview']").await;
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keyboard_goes_everywhere() {
    let Some(scene) = Scene::furnished("the console by keyboard").await else { return };
    let press = async |key: &str, code: u32| {
        for step in ["rawKeyDown", "keyUp"] {
            let event = json!({"type": step, "key": key, "code": key, "windowsVirtualKeyCode": code});
            scene.browser.dev_tools("Input.dispatchKeyEvent", event).await;
        }
    };
    let focused = async || {
        let script =
            "const at = document.activeElement; return at.getAttribute('aria-label') || at.textContent";
        scene.browser.run(script, Vec::new()).await.as_str().unwrap_or_default().to_owned()
    };
    scene.page("subscriptions", "Subscriptions").await;
    scene.browser.reload().await;
    scene.browser.find("//button[@aria-label='Pause settlement']").await;
    press("Tab", 9).await;
    assert_eq!(focused().await, "Skip to the content");
    let script = "document.querySelector('.skip').click()";
    scene.browser.run(script, Vec::new()).await;
    let mut met = Vec::new();
    while met.last().is_none_or(|last| last != "Pause settlement") {
        press("Tab", 9).await;
        met.push(focused().await);
        assert!(met.len() < 40, "{met:?}");
    }
    for step in ["rawKeyDown", "char", "keyUp"] {
        let event =
            json!({"type": step, "key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"});
        scene.browser.dev_tools("Input.dispatchKeyEvent", event).await;
    }
    scene.until("/subscriptions/settlement", |body| body["state"] == "paused").await;
    scene.close().await;
}
