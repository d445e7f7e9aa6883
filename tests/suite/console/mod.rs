//! The console in a real browser: what a person does on each page comes to what the API then says.

mod alerts;
mod changes;
mod desk;
mod pages;
mod roles;
mod shipping;
mod watching;

use brolly_tests::{
    browser::Browser,
    eventually, orders,
    server::{PATIENCE, Server},
    skip,
};
use reqwest::Method;
use serde_json::json;
use tempfile::TempDir;

/// Orders that go through before a page is looked at.
const ORDERS: usize = 300;

/// A server with the sample plugins and some orders handled, and a browser.
struct Scene {
    server: Server,
    browser: Browser,
    _dir: TempDir,
}

impl Scene {
    /// None where there is no browser, which is noted.
    async fn open(what: &str) -> Option<Self> {
        if let Err(why) = Browser::available() {
            skip(what, &why);
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(dir.path()).await;
        let browser = Browser::open(&server.url).await;
        Some(Self { server, browser, _dir: dir })
    }

    /// As [`Scene::open`], with the samples, signed in as admin.
    async fn furnished(what: &str) -> Option<Self> {
        let scene = Self::open(what).await?;
        scene.server.set_up_samples().await;
        let owners =
            json!([{"name": "accounting", "email": "accounting@example.com", "phone": "+1 555 0100"}]);
        scene.server.put("/queues/settlement", json!({ "owners": owners })).await;
        scene.publish(&orders::real()[..ORDERS]).await;
        scene.server.idle(&["activity", "notification", "settlement"]).await;
        scene.sign_in(&scene.server.token).await;
        Some(scene)
    }

    async fn publish(&self, some: &[orders::Order]) {
        self.server.bulk("orders.paid", orders::ndjson(some)).await.unwrap().ok();
    }

    /// Signs in as a person does.
    async fn sign_in(&self, token: &str) {
        self.browser.goto("/").await;
        self.browser.fill("Access token", token).await;
        self.browser.press("Sign in").await;
        self.browser.find("//h1[.='Overview']").await;
    }

    /// Goes to a page by its address, and waits for its title.
    async fn page(&self, path: &str, title: &str) {
        let script = "location.hash = `#/${arguments[0]}`";
        self.browser.run(script, vec![json!(path)]).await;
        self.browser.find(&format!("//h1[.='{title}']")).await;
    }

    /// Makes a token with this role.
    async fn token(&self, role: &str) -> String {
        let body = json!({"name": format!("the-{role}"), "role": role});
        let made = self.server.call(Method::POST, "/tokens", Some(body)).await.ok();
        made["token"].as_str().unwrap().to_owned()
    }

    /// Waits until the API says of a path what it should.
    async fn until(&self, path: &str, holds: impl Fn(&serde_json::Value) -> bool) {
        eventually(path, PATIENCE, || async { holds(&self.server.get(path).await).then_some(()) }).await;
    }

    /// Ends both; nothing may have gone wrong in the browser's eyes.
    async fn close(self) {
        assert_eq!(self.browser.complaints().await, Vec::<String>::new());
        self.browser.close().await;
        assert_eq!(self.server.terminate().await, Some(0));
    }
}

/// The same program under another digest: a custom section is no part of what runs.
fn another_version(mut wasm: Vec<u8>) -> Vec<u8> {
    let section = b"\x07versionbuilt again";
    wasm.push(0);
    wasm.push(u8::try_from(section.len()).unwrap());
    wasm.extend_from_slice(section);
    wasm
}
