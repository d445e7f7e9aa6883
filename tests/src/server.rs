//! The real binary as a child process, driven over HTTP as any user would.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use reqwest::{Method, StatusCode};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::{eventually, orders};

/// How long anything may take on a busy machine before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running `brolly serve` on a free port.
pub struct Server {
    child: Child,
    /// Its address, `http://…` or `https://…`.
    pub url: String,
    /// The admin token.
    pub token: String,
    http: reqwest::Client,
    /// What every topic and queue that is made here has, such as a broker and, for queues, a type.
    pub home: Value,
}

/// An answer of the API.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The body; null if it is not JSON.
    pub body: Value,
    /// The content type.
    pub content_type: String,
    /// The entity tag.
    pub etag: Option<String>,
}

impl Answer {
    /// The body of a success.
    ///
    /// # Panics
    /// If it is none.
    pub fn ok(self) -> Value {
        assert!(self.status.is_success(), "{}: {}", self.status, self.body);
        self.body
    }

    /// The code of a problem document of this status.
    ///
    /// # Panics
    /// If it is none.
    pub fn problem(self, status: u16) -> String {
        assert_eq!(self.status.as_u16(), status, "{}", self.body);
        assert_eq!(self.content_type, "application/problem+json", "{}", self.body);
        assert!(self.body["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{}", self.body);
        self.body["code"].as_str().unwrap_or_else(|| panic!("no code: {}", self.body)).to_owned()
    }
}

impl Server {
    /// Starts the binary on a data directory and waits until it listens. It also has the settings of the
    /// environment of the tests, such as `BROLLY_STORE__ENGINE`.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(data: &Path) -> Self {
        Self::start_with(data, &[], &[]).await
    }

    /// Starts it with further arguments, and with settings as they stand in the environment.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_with(data: &Path, arguments: &[&str], settings: &[(&str, &str)]) -> Self {
        let mut child = Command::new(binary())
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data)
            .args(arguments)
            .env("BROLLY_LOG__FILTER", "warn")
            .envs(settings.iter().copied())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the binary can be started");
        let mut lines = BufReader::new(child.stdout.take().expect("its output is piped")).lines();
        let url = loop {
            let line = lines.next_line().await.expect("its output can be read");
            let line = line.expect("it says where it listens before it ends");
            if let Some(at) = line.find("http://").or_else(|| line.find("https://")) {
                break line[at..].split_whitespace().next().expect("an address").to_owned();
            }
        };
        // Nobody reads on; a full pipe would stop the process.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let token =
            std::fs::read_to_string(data.join("admin.token")).expect("the admin token lies in its file");
        let (token, http, home) = (token.trim().to_owned(), reqwest::Client::new(), json!({}));
        Self { child, url, token, http, home }
    }

    /// Starts it with a certificate that [`crate::certificates::write`] has put into `certificates`.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_with_tls(data: &Path, certificates: &Path, arguments: &[&str]) -> Self {
        let file = |name: &str| certificates.join(name).to_string_lossy().into_owned();
        let (cert, key) = (file("server.pem"), file("server.key"));
        let settings = [("BROLLY_ADMIN__TLS__CERT", &*cert), ("BROLLY_ADMIN__TLS__KEY", &*key)];
        let mut server = Self::start_with(data, arguments, &settings).await;
        let ca = std::fs::read(certificates.join("ca.pem")).expect("the authority's certificate");
        let ca = reqwest::Certificate::from_pem(&ca).expect("a certificate");
        let http = reqwest::Client::builder().tls_certs_only([ca]).build();
        server.http = http.expect("a client");
        server
    }

    /// Makes one call of the API.
    ///
    /// # Panics
    /// When no answer comes.
    pub async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let mut request = self.request(method, path);
        if let Some(body) = body {
            request = request.json(&body);
        }
        self.send(request).await
    }

    /// A request with the admin token. Paths begin with `/` and lie under `/api/v1`.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}/api/v1{path}", self.url)).bearer_auth(&self.token)
    }

    /// Sends a request.
    ///
    /// # Panics
    /// When no answer comes.
    pub async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        self.try_send(request).await.expect("an answer")
    }

    /// Sends a request to a server that may be dying.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn try_send(&self, request: reqwest::RequestBuilder) -> reqwest::Result<Answer> {
        let response = request.send().await?;
        let header =
            |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let (content_type, etag) = (header("content-type").unwrap_or_default(), header("etag"));
        let status = response.status();
        let bytes = response.bytes().await?;
        Ok(Answer { status, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null), content_type, etag })
    }

    /// GET.
    ///
    /// # Panics
    /// On anything but success.
    pub async fn get(&self, path: &str) -> Value {
        self.call(Method::GET, path, None).await.ok()
    }

    /// PUT.
    ///
    /// # Panics
    /// On anything but success.
    pub async fn put(&self, path: &str, body: Value) -> Value {
        self.call(Method::PUT, path, Some(body)).await.ok()
    }

    /// POST without a body.
    ///
    /// # Panics
    /// On anything but success.
    pub async fn post(&self, path: &str) -> Value {
        self.call(Method::POST, path, None).await.ok()
    }

    /// All items of a listing, page by page.
    ///
    /// # Panics
    /// On anything but success.
    pub async fn all(&self, path: &str) -> Vec<Value> {
        let mut items = Vec::new();
        let mut after = None::<String>;
        loop {
            let mut request = self.request(Method::GET, path).query(&[("limit", "500")]);
            if let Some(after) = &after {
                request = request.query(&[("after", after)]);
            }
            let page = self.send(request).await.ok();
            items.extend(page["items"].as_array().expect("items").iter().cloned());
            match page["next"].as_str() {
                Some(next) => after = Some(next.to_owned()),
                None => return items,
            }
        }
    }

    /// Publishes newline-delimited JSON.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn bulk(&self, topic: &str, lines: String) -> reqwest::Result<Answer> {
        let request = self.request(Method::POST, &format!("/topics/{topic}/messages"));
        self.try_send(request.header("content-type", "application/x-ndjson").body(lines)).await
    }

    /// Uploads a plugin and answers with its version.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn upload(&self, plugin: &str, wasm: Vec<u8>) -> String {
        let request = self.request(Method::POST, &format!("/plugins/{plugin}/versions")).body(wasm);
        let body = self.send(request).await.ok();
        body["digest"].as_str().expect("a digest").to_owned()
    }

    /// Makes a queue of this name, a route to it from a topic, and a subscription with this plugin;
    /// `more` are further fields of the subscription.
    ///
    /// # Panics
    /// When anything is refused.
    pub async fn subscribe(&self, name: &str, topic: &str, plugin: &str, version: &str, more: Value) {
        self.put(&format!("/queues/{name}"), self.home.clone()).await;
        self.put(&format!("/routes/{topic}-to-{name}"), json!({"topic": topic, "queue": name})).await;
        let mut subscription = json!({"queue": name, "plugin": plugin, "version": version});
        subscription
            .as_object_mut()
            .expect("an object")
            .extend(more.as_object().cloned().unwrap_or_default());
        self.put(&format!("/subscriptions/{name}"), subscription).await;
    }

    /// The three sample plugins on `orders.paid`, as the product describes them.
    ///
    /// # Panics
    /// When anything is refused.
    pub async fn set_up_samples(&self) {
        for topic in ["orders.paid", "coupons.issued", "notifications.out"] {
            let broker = self.home.get("broker").map_or(json!({}), |broker| json!({"broker": broker}));
            self.put(&format!("/topics/{topic}"), broker).await;
        }
        for (plugin, more) in [
            ("activity", json!({"workers": 2, "order": "key"})),
            ("notification", json!({"workers": 2})),
            ("settlement", json!({"workers": 4, "order": "key", "config": {"commission_percent": "15"}})),
        ] {
            let version = self.upload(plugin, plugin_bytes(plugin)).await;
            self.subscribe(plugin, "orders.paid", plugin, &version, more).await;
        }
    }

    /// Waits until these queues hold nothing but dead letters.
    ///
    /// # Panics
    /// When that takes too long.
    pub async fn idle(&self, queues: &[&str]) {
        // A message on its way from a broker elsewhere to this host is counted by neither for a moment.
        let looks = std::sync::atomic::AtomicU32::new(0);
        eventually(&format!("{queues:?} are empty"), 4 * PATIENCE, || async {
            for queue in queues {
                let queue = self.get(&format!("/queues/{queue}")).await;
                let empty = |count: &&str| queue["counts"][*count].as_u64() == Some(0);
                if !["ready", "in_flight", "delayed"].iter().all(empty) {
                    looks.store(0, std::sync::atomic::Ordering::Relaxed);
                    return None;
                }
            }
            (looks.fetch_add(1, std::sync::atomic::Ordering::Relaxed) >= 10).then_some(())
        })
        .await;
    }

    /// Settlement's totals by day, read over the API.
    ///
    /// # Panics
    /// When a state is not what the product describes.
    pub async fn days(&self) -> BTreeMap<String, orders::Day> {
        let entry = |item: Value| {
            let day = serde_json::from_value(item["value"].clone()).expect("a day");
            (item["key"].as_str().expect("a key").to_owned(), day)
        };
        self.all("/subscriptions/settlement/state?prefix=day/").await.into_iter().map(entry).collect()
    }

    /// What the sample plugins have come to, read over the API.
    ///
    /// # Panics
    /// When a state is not what the product describes.
    pub async fn totals(&self) -> orders::Totals {
        let mut totals = orders::Totals { days: self.days().await, ..orders::Totals::default() };
        for item in self.all("/subscriptions/activity/state?prefix=points/").await {
            let points = serde_json::from_value(item["value"].clone()).expect("points");
            totals.points.insert(item["key"].as_str().expect("a key").to_owned(), points);
        }
        for item in self.all("/messages?topic=coupons.issued").await {
            *totals.coupons.entry(item["key"].as_str().expect("a key").to_owned()).or_default() += 1;
        }
        let dead = self.all("/subscriptions/settlement/dead-letters").await;
        totals.rejected =
            dead.iter().map(|item| item["message_id"].as_str().expect("an id").to_owned()).collect();
        totals
    }

    /// Kills it while others wait for its answers; [`Self::kill`] then waits until it is gone.
    ///
    /// # Panics
    /// When it cannot be killed.
    pub fn shoot(&self) {
        self.signal(Signal::KILL);
    }

    /// Kills it as a power cut would kill a process: no handler runs.
    ///
    /// # Panics
    /// When it cannot be killed.
    pub async fn kill(mut self) {
        self.child.start_kill().expect("it can be killed");
        self.child.wait().await.expect("it ends");
    }

    /// Asks it to drain and end; answers with its exit code.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn terminate(mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("it drains in time");
        ended.expect("it can be waited for").code()
    }

    fn signal(&self, signal: Signal) {
        let id = self.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw).expect("it runs");
        kill_process(id, signal).expect("it can be signalled");
    }

    /// The process, for measuring it.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }
}

/// The binary that was built along with the tests.
///
/// # Panics
/// When it was not built.
#[must_use]
pub fn binary() -> PathBuf {
    let own = std::env::current_exe().expect("a program knows its own file");
    let folder = own.parent().expect("it lies in target/PROFILE");
    // Tests lie in target/PROFILE/deps.
    let folder = if folder.ends_with("deps") { folder.parent().expect("the same") } else { folder };
    let built = folder.join("brolly");
    assert!(built.exists(), "{} is missing; `cargo xtask test` builds it", built.display());
    built
}

/// A sample plugin, or a guest of the tests.
///
/// # Panics
/// When it was not built.
#[must_use]
pub fn plugin_bytes(name: &str) -> Vec<u8> {
    let target = crate::root().join("target");
    let built = ["plugins", "test-plugins"].map(|folder| target.join(folder).join(format!("{name}.wasm")));
    let found = built.iter().find(|path| path.exists());
    let path = found.unwrap_or_else(|| panic!("{name}.wasm is missing; `cargo xtask plugins` builds it"));
    std::fs::read(path).expect("it can be read")
}

/// The same program under another digest, for each text another one: a custom section is no part of what runs.
///
/// # Panics
/// When the text has 100 bytes or more.
#[must_use]
pub fn another_version(mut wasm: Vec<u8>, salt: &str) -> Vec<u8> {
    assert!(salt.len() < 100, "the size must fit into a byte");
    let section = [b"\x07version", salt.as_bytes()].concat();
    wasm.push(0);
    wasm.push(u8::try_from(section.len()).expect("it is short"));
    wasm.extend_from_slice(&section);
    wasm
}
