//! A host in a temporary folder, its three tokens, and requests to it.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Method, Request},
};
use brolly_core::{
    Admission, Call, Clock, Code, Digest, Effects, Handled, Handler, LogLevel, LogLine, Name, NewMessage,
    Outcome, Outgoing, PluginError, Plugins, Refusal, Subscription, SystemClock, Timestamp, Verdict,
};
use brolly_dispatch::{Dispatch, Grant, Role, Rooms};
use brolly_embedded::Embedded;
use brolly_store::{Messages, Store};
use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::{App, Config, Metrics, Tls};

/// Plugins whose bytes say what they are: `plugin`, and the imports that they want. Loading one
/// whose imports name `broken` fails.
pub struct Scripted;

impl Plugins for Scripted {
    fn admit(&self, wasm: &[u8]) -> Result<Admission, PluginError> {
        let text = std::str::from_utf8(wasm).unwrap_or_default();
        let Some(imports) = text.strip_prefix("plugin") else {
            return Err(Refusal::new(Code::InvalidPlugin, "these bytes are no plugin").into());
        };
        Ok(Admission {
            digest: digest(wasm),
            size_bytes: wasm.len() as u64,
            world: "test:world@1.0.0".to_owned(),
            imports: imports.split_whitespace().map(str::to_owned).collect(),
            compile_ms: 1,
            about: brolly_core::About::default(),
        })
    }

    fn handler(
        &self,
        _name: &Name,
        _subscription: &Subscription,
        _version: &Digest,
        wasm: &Path,
    ) -> Result<Arc<dyn Handler>, PluginError> {
        let text = std::fs::read_to_string(wasm).map_err(|error| PluginError::Host(error.to_string()))?;
        if text.contains("broken") {
            return Err(PluginError::Host("the engine is out of order: /secret/path".to_owned()));
        }
        Ok(Arc::new(Obedient))
    }
}

/// Does what the payload says: `{"do": "ack" | "reject" | "retry"}`; an ack writes the payload to the
/// state under the key, and publishes to the topic `out` where the payload asks for it.
struct Obedient;

impl Handler for Obedient {
    fn handle(&self, call: &Call<'_>) -> Handled {
        let payload: Value = serde_json::from_slice(&call.message.payload).unwrap_or_default();
        let mut effects = Effects::default();
        let outcome = match payload["do"].as_str() {
            Some("reject") => Outcome::Reject { reason: format!("told to reject {}", call.message.key) },
            Some("retry") => {
                Outcome::Retry { reason: "told to retry".to_owned(), delay: None, dependency: None }
            }
            _ => Outcome::Ack,
        };
        effects.state.insert(call.message.key.clone(), Some(call.message.payload.clone()));
        if payload["publish"] == true {
            let message = NewMessage {
                id: Some(format!("child-{}", call.message.id)),
                payload: Bytes::from_static(b"\xff\x00"),
                ..NewMessage::default()
            };
            effects.publish.push(Outgoing { topic: name("out"), message });
        }
        Handled {
            verdict: Verdict::Outcome(outcome),
            effects,
            logs: vec![LogLine { level: LogLevel::Warn, text: "handled".to_owned() }],
            logs_dropped: 2,
            duration: Duration::from_micros(7),
            memory_bytes: 65_536,
        }
    }
}

pub fn digest(bytes: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::digest(bytes).into())
}

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// A clock that can be put forward.
#[derive(Default)]
struct Ahead(AtomicU64);

impl Clock for Ahead {
    fn now(&self) -> Timestamp {
        Timestamp(SystemClock.now().0 + self.0.load(Ordering::Relaxed))
    }
}

/// A running host with its API.
pub struct House {
    pub app: App,
    pub tokens: [String; 3],
    pub stop: CancellationToken,
    clock: Arc<Ahead>,
    running: JoinHandle<()>,
    _dir: TempDir,
}

/// What a request was answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub bytes: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    /// The answer, which must have this status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.bytes));
        self
    }

    /// A problem, which must be complete and have this status and code; answers with its detail.
    #[track_caller]
    pub fn problem(self, status: u16, code: &str) -> String {
        let text = String::from_utf8_lossy(&self.bytes).into_owned();
        assert_eq!(
            (self.status, self.header("content-type")),
            (status, "application/problem+json"),
            "{text}"
        );
        let body = self.json();
        assert_eq!((&body["status"], &body["code"]), (&json!(status), &json!(code)), "{text}");
        assert_eq!(body["type"], format!("urn:brolly:problem:{code}"), "{text}");
        assert!(body["instance"].as_str().is_some_and(|path| path.starts_with('/')), "{text}");
        assert!(body["title"].as_str().is_some_and(|title| !title.is_empty()), "{text}");
        body["detail"].as_str().unwrap().to_owned()
    }
}

impl House {
    pub async fn new() -> Self {
        Self::with(Config::default(), Arc::new(|| "# metrics\n".to_owned()), Arc::new(Scripted)).await
    }

    pub async fn with(config: Config, metrics: Metrics, plugins: Arc<dyn Plugins>) -> Self {
        Self::behind(None, config, metrics, plugins).await
    }

    pub async fn behind(
        tls: Option<Tls>,
        config: Config,
        metrics: Metrics,
        plugins: Arc<dyn Plugins>,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ahead = Arc::new(Ahead::default());
        let clock: Arc<dyn Clock> = ahead.clone();
        let store = Store::open(&brolly_store::Config::new(dir.path().join("store"))).unwrap();
        let messages = Messages::open(&store).unwrap();
        let catalog =
            brolly_catalog::Catalog::open(store.clone(), dir.path().join("plugins"), clock.clone()).unwrap();
        let ledger = brolly_ledger::Ledger::open(store.clone(), messages.clone()).unwrap();
        let embedded =
            Embedded::open(store.clone(), messages, clock.clone(), brolly_embedded::Config::default())
                .unwrap();
        let alerts = brolly_alerts::Alerts::open(store.clone(), ledger.host(), clock.clone()).unwrap();
        let rooms = Rooms {
            alerts: Arc::new(alerts),
            catalog: Arc::new(catalog),
            ledger: Arc::new(ledger),
            kinds: Arc::new(()),
            embedded: Arc::new(embedded),
            plugins,
            clock,
            outside: Arc::new(brolly_core::Nowhere),
        };
        let dispatch = Dispatch::new(rooms, brolly_dispatch::Config::default());
        let handle = dispatch.handle();
        let stop = CancellationToken::new();
        let running = tokio::spawn({
            let stop = stop.clone();
            async move {
                dispatch.run(stop).await.unwrap();
                store.close();
            }
        });
        let mut tokens = Vec::new();
        for (token, role) in [("v", Role::Viewer), ("o", Role::Operator), ("a", Role::Admin)] {
            tokens.push(handle.create_token(&name(token), Grant::of(role)).await.unwrap());
        }
        let app = crate::app(handle, metrics, config, tls);
        Self { app, tokens: tokens.try_into().unwrap(), stop, clock: ahead, running, _dir: dir }
    }

    /// Puts the clock forward.
    pub fn wait(&self, time: Duration) {
        self.clock.0.fetch_add(u64::try_from(time.as_millis()).unwrap(), Ordering::Relaxed);
    }

    pub fn router(&self) -> Router {
        self.app.router()
    }

    pub fn admin(&self) -> &str {
        &self.tokens[2]
    }

    /// A request with the admin's token.
    pub fn request(&self, method: &str, path: &str) -> axum::http::request::Builder {
        let method: Method = method.parse().unwrap();
        Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {}", self.admin()))
    }

    pub async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        // A stream of events has no end that anybody would wait for.
        let is_stream =
            parts.headers.get("content-type").is_some_and(|media| media.as_bytes() == b"text/event-stream");
        let bytes = if is_stream { Bytes::new() } else { to_bytes(body, usize::MAX).await.unwrap() };
        Answer { status: parts.status.as_u16(), headers: parts.headers, bytes }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request("GET", path).body(Body::empty()).unwrap()).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(self.request("DELETE", path).body(Body::empty()).unwrap()).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.json("PUT", path, body).await
    }

    pub async fn json(&self, method: &str, path: &str, body: Value) -> Answer {
        let request = self.request(method, path).header("content-type", "application/json");
        self.send(request.body(body.to_string().into()).unwrap()).await
    }

    pub async fn post(&self, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
        let mut request = self.request("POST", path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(body.into()).unwrap()).await
    }

    /// A house with [`House::furnish`].
    pub async fn furnished() -> Self {
        let house = Self::new().await;
        house.furnish().await;
        house
    }

    /// Adds topics `t` and `out`, a queue `q`, a route `r` from `t` to `q`, and a plugin version `p`.
    pub async fn furnish(&self) {
        for topic in ["t", "out"] {
            self.put(&format!("/api/v1/topics/{topic}"), json!({})).await.expect(201);
        }
        self.put("/api/v1/queues/q", json!({})).await.expect(201);
        self.put("/api/v1/routes/r", json!({"topic": "t", "queue": "q"})).await.expect(201);
        self.post("/api/v1/plugins/p/versions", &[], "plugin a b").await.expect(201);
    }

    /// The definition of a subscription of `q` to `p`.
    pub fn subscription() -> Value {
        json!({
            "queue": "q", "plugin": "p", "version": digest(b"plugin a b").to_string(),
            "retry": {"max_attempts": 2, "initial_delay_ms": 0, "max_delay_ms": 0},
        })
    }

    /// Asks again until the answer is as it should be.
    pub async fn until(&self, path: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let mut latest = Value::Null;
        let mut pace = tokio::time::interval(Duration::from_millis(5));
        let found = tokio::time::timeout(Duration::from_secs(30), async {
            loop {
                pace.tick().await;
                latest = self.get(path).await.json();
                if holds(&latest) {
                    return;
                }
            }
        });
        assert!(found.await.is_ok(), "{path} stays at {latest:#}");
        latest
    }

    /// Stops the host and waits until it has.
    pub async fn close(self) {
        self.stop.cancel();
        self.running.await.unwrap();
    }
}
