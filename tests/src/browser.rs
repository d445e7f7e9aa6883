//! Chromium without a window, driven over WebDriver as a person would drive it: by what stands on
//! buttons and beside fields. A browser that ends takes its profile with it.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use fantoccini::{
    Client, ClientBuilder, Locator,
    elements::Element,
    wd::{Capabilities, WebDriverCompatibleCommand},
};
use hyper::Method;
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tempfile::TempDir;
use url::{ParseError, Url};

use crate::{
    axe, eventually,
    process::{Keeper, Process, find_program, free_port},
    root,
    server::PATIENCE,
};

/// A browser that a test has to itself.
pub struct Browser {
    client: Client,
    base: String,
    // Dropped in this order: the driver ends and the browser with it, then the keeper has nothing to
    // do, then the profile goes.
    _driver: Process,
    _keeper: Keeper,
    folder: TempDir,
}

/// A call that only this driver has.
#[derive(Debug)]
struct Raw(&'static str, Value);

impl WebDriverCompatibleCommand for Raw {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.0))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(self.1.to_string()))
    }
}

impl Browser {
    /// Whether Chromium and its driver are here.
    ///
    /// # Errors
    /// What is missing.
    pub fn available() -> Result<(), String> {
        for program in ["chromedriver", "chromium"] {
            find_program(program, &[]).ok_or_else(|| format!("{program} is not in PATH"))?;
        }
        Ok(())
    }

    /// Opens a browser for pages whose address begins with `base`, 1280 pixels wide.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn open(base: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("brolly-browser-").tempdir().expect("a folder");
        let mut keeper = Keeper::of(folder.path());
        let port = free_port();
        let mut command = Command::new("chromedriver");
        command.arg(format!("--port={port}")).env("TMPDIR", folder.path());
        let mut driver = Process::start(&mut command, &folder.path().join("driver.log"));
        keeper.watch([&driver]);
        driver.listens(port, PATIENCE).await.expect("the driver starts");
        let profile = format!("--user-data-dir={}", folder.path().join("profile").display());
        // Chromium's own sandbox does not work for root, which tests run as in a container.
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--lang=en",
            &profile,
        ];
        let mut wanted = Capabilities::new();
        wanted.insert("goog:chromeOptions".to_owned(), json!({ "args": arguments }));
        wanted.insert("goog:loggingPrefs".to_owned(), json!({ "browser": "ALL" }));
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(wanted)
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .expect("the browser starts");
        let browser = Self { client, base: base.to_owned(), _driver: driver, _keeper: keeper, folder };
        browser.resize(1280, 900).await;
        browser
    }

    /// Ends it in good order.
    ///
    /// # Panics
    /// When it has ended already.
    pub async fn close(self) {
        self.client.clone().close().await.expect("the browser ends");
    }

    /// Opens an address, which begins with `/`.
    ///
    /// # Panics
    /// When it cannot be opened.
    pub async fn goto(&self, path: &str) {
        self.client.goto(&format!("{}{path}", self.base)).await.expect("the page opens");
    }

    /// Runs a script in the page and answers with what it returns.
    ///
    /// # Panics
    /// When the script fails.
    pub async fn run(&self, script: &str, arguments: Vec<Value>) -> Value {
        self.client.execute(script, arguments).await.unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// Runs a script that tells its last argument what it has come to.
    ///
    /// # Panics
    /// When the script fails.
    pub async fn run_async(&self, script: &str) -> Value {
        let answer = self.client.execute_async(script, Vec::new()).await;
        answer.unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// Opens the page that is open anew.
    ///
    /// # Panics
    /// When it cannot be opened.
    pub async fn reload(&self) {
        self.client.refresh().await.expect("the page opens");
    }

    /// Calls the browser's own protocol.
    ///
    /// # Panics
    /// When the browser refuses.
    pub async fn dev_tools(&self, command: &str, parameters: Value) -> Value {
        let body = json!({ "cmd": command, "params": parameters });
        let answer = self.client.issue_cmd(Raw("goog/cdp/execute", body)).await;
        answer.unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// Makes the page so large, in pixels; below 500 it is as on a phone.
    ///
    /// # Panics
    /// When the browser refuses.
    pub async fn resize(&self, width: u32, height: u32) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500});
        self.dev_tools("Emulation.setDeviceMetricsOverride", size).await;
    }

    /// What the system prefers: `light` or `dark`.
    ///
    /// # Panics
    /// When the browser refuses.
    pub async fn prefer(&self, colours: &str) {
        let features = json!([{"name": "prefers-color-scheme", "value": colours}]);
        self.dev_tools("Emulation.setEmulatedMedia", json!({ "features": features })).await;
    }

    /// Waits until there is exactly one of an XPath that can be seen.
    ///
    /// # Panics
    /// When there is not in time.
    pub async fn find(&self, xpath: &str) -> Element {
        eventually(&format!("there is one {xpath}"), PATIENCE, || async {
            let mut seen = Vec::new();
            for element in self.client.find_all(Locator::XPath(xpath)).await.unwrap_or_default() {
                if element.is_displayed().await.unwrap_or(false) {
                    seen.push(element);
                }
            }
            if seen.len() == 1 { seen.pop() } else { None }
        })
        .await
    }

    /// Clicks the button or link that this stands on, or that screen readers call so; in the dialog, if
    /// one is open.
    ///
    /// # Panics
    /// When there is none, or several.
    pub async fn press(&self, label: &str) {
        let named = format!(
            "//*[self::button or self::a or self::summary]\
             [@aria-label={0} or (not(@aria-label) and normalize-space(.)={0})]\
             [ancestor::dialog[@open] or not(//dialog[@open])]",
            quoted(label)
        );
        // What is renewed meanwhile is found again.
        eventually(&format!("{label} can be pressed"), PATIENCE, || async {
            self.find(&named).await.click().await.ok()
        })
        .await;
    }

    /// Writes into the field with this label, in place of what it holds.
    ///
    /// # Panics
    /// When there is no such field.
    pub async fn fill(&self, label: &str, text: &str) {
        let field = self.field(label).await;
        field.clear().await.expect("it can be cleared");
        field.send_keys(text).await.expect("it can be written into");
    }

    /// Writes into the field that screen readers call so.
    ///
    /// # Panics
    /// When there is no such field.
    pub async fn fill_named(&self, name: &str, text: &str) {
        let field = self.find(&format!("//input[@aria-label={}]", quoted(name))).await;
        field.clear().await.expect("it can be cleared");
        field.send_keys(text).await.expect("it can be written into");
    }

    /// Chooses an option of the field with this label.
    ///
    /// # Panics
    /// When there is no such field or option.
    pub async fn choose(&self, label: &str, option: &str) {
        self.field(label).await.select_by_value(option).await.expect("there is such an option");
    }

    /// The field with this label; in the dialog, if one is open.
    ///
    /// # Panics
    /// When there is none.
    pub async fn field(&self, label: &str) -> Element {
        let label = self.find(&format!("//label[normalize-space(.)={}]", quoted(label))).await;
        let id = label.attr("for").await.expect("it is there").expect("it says what it is for");
        self.find(&format!("//*[@id={}]", quoted(&id))).await
    }

    /// Waits until the page shows this text.
    ///
    /// # Panics
    /// When it does not in time.
    pub async fn sees(&self, text: &str) {
        self.until(&format!("the page shows {text:?}"), |shown| shown.contains(text)).await;
    }

    /// Waits until the text of the page is as it should be.
    ///
    /// # Panics
    /// When it is not in time.
    pub async fn until(&self, what: &str, holds: impl Fn(&str) -> bool) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut pace = tokio::time::interval(Duration::from_millis(50));
        loop {
            pace.tick().await;
            let shown = self.shown().await;
            if holds(&shown) {
                return;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "not within {PATIENCE:?}: {what}; it shows:\n{shown}"
            );
        }
    }

    /// The text of the page.
    ///
    /// # Panics
    /// When there is no page.
    pub async fn shown(&self) -> String {
        let text = self.run("return document.body.innerText", Vec::new()).await;
        text.as_str().expect("a page has a text").to_owned()
    }

    /// Drags a file from outside over the middle of the element, and drops it there.
    ///
    /// # Panics
    /// When there is no such element.
    pub async fn drop_file(&self, xpath: &str, name: &str, bytes: &[u8]) {
        let file = self.folder.path().join(name);
        fs::write(&file, bytes).expect("the file can be written");
        self.find(xpath).await;
        let script = "const node = document.evaluate(arguments[0], document, null, 9).singleNodeValue;\
                      node.scrollIntoView({block: 'center'}); const box = node.getBoundingClientRect();\
                      return [box.x + box.width / 2, box.y + box.height / 2]";
        let middle = self.run(script, vec![json!(xpath)]).await;
        let data = json!({"items": [], "files": [file.to_str().expect("a text")], "dragOperationsMask": 1});
        for step in ["dragEnter", "dragOver", "drop"] {
            let event = json!({"type": step, "x": middle[0], "y": middle[1], "data": data});
            self.dev_tools("Input.dispatchDragEvent", event).await;
        }
    }

    /// Takes a picture of the whole page, for people, as `target/console/NAME.png`.
    ///
    /// # Panics
    /// When it cannot be written.
    pub async fn picture(&self, name: &str) {
        let size = self.dev_tools("Page.getLayoutMetrics", json!({})).await["cssContentSize"].clone();
        let clip = json!({"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1});
        let taken = json!({"format": "png", "captureBeyondViewport": true, "clip": clip});
        let taken = self.dev_tools("Page.captureScreenshot", taken).await;
        let folder = pictures();
        fs::create_dir_all(&folder).expect("the folder can be made");
        let bytes = base64::Engine::decode(
            &base64::prelude::BASE64_STANDARD,
            taken["data"].as_str().expect("a picture"),
        );
        fs::write(folder.join(format!("{name}.png")), bytes.expect("base 64")).expect("it can be written");
    }

    /// What the browser complains of: errors of scripts, and what the page's policy forbids. That the
    /// API refused something is none.
    ///
    /// # Panics
    /// When there is no log.
    pub async fn complaints(&self) -> Vec<String> {
        let log = self.client.issue_cmd(Raw("se/log", json!({ "type": "browser" }))).await.expect("a log");
        let entries = log.as_array().cloned().unwrap_or_default();
        let severe = entries.into_iter().filter(|entry| entry["level"] == "SEVERE");
        let texts = severe.filter_map(|entry| entry["message"].as_str().map(str::to_owned));
        texts.filter(|text| !text.contains("Failed to load resource")).collect()
    }

    /// What axe-core finds that keeps people out: each serious or critical fault, with where it is.
    ///
    /// # Panics
    /// When the check cannot run.
    pub async fn barriers(&self, axe: &axe::Axe) -> Vec<String> {
        self.run(&axe.script, Vec::new()).await;
        let script = "const done = arguments[0]; axe.run(document, {resultTypes: ['violations']})\
            .then((found) => done(found.violations.filter((one) => ['serious', 'critical'].includes(one.impact))\
            .map((one) => `${one.id}: ${one.help}: ${one.nodes.slice(0, 3).map((node) => node.html).join(' ')}`)),\
            (error) => done([String(error)]))";
        let found = self.run_async(script).await;
        let found = found.as_array().expect("a list of faults").iter();
        found.map(|fault| fault.as_str().unwrap_or_default().to_owned()).collect()
    }
}

/// Where pictures lie.
#[must_use]
pub fn pictures() -> PathBuf {
    root().join("target/console")
}

/// A text as XPath has it, which knows no escapes.
fn quoted(text: &str) -> String {
    if text.contains('"') { format!("'{text}'") } else { format!("\"{text}\"") }
}
