//! Sizes, numbers and times beyond their limits, panics, and clients that go away.

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
};

use axum::{body::Body, http::Request};
use brolly_core::{Admission, Digest, Handler, Name, PluginError, Plugins, Subscription};
use bytes::Bytes;
use futures::{FutureExt, stream};
use serde_json::json;
use tower::ServiceExt;

use super::house::{House, Scripted, digest};
use crate::Config;

fn chunked(bytes: usize) -> Body {
    const CHUNK: usize = 64 * 1024;
    let chunk = Bytes::from(vec![b'x'; CHUNK]);
    let chunks = (0..bytes.div_ceil(CHUNK)).map(move |_| Ok::<_, std::io::Error>(chunk.clone()));
    Body::from_stream(stream::iter(chunks))
}

#[tokio::test]
async fn bodies_beyond_their_limit() {
    let house = House::furnished().await;
    const MIB: usize = 1024 * 1024;
    let publish = "/api/v1/topics/t/messages";
    house.post(publish, &[], vec![b'x'; 16 * MIB]).await.expect(200);
    house.post(publish, &[], vec![b'x'; 16 * MIB + 1]).await.problem(413, "too-large");
    house.post(publish, &[], chunked(16 * MIB + 1)).await.problem(413, "too-large");
    // Refused for what is announced, before a byte of it is read.
    let announced = [("content-length", "999999999999"), ("content-type", "application/x-ndjson")];
    house.post(publish, &announced, "").await.problem(413, "too-large");
    house
        .post("/api/v1/plugins/p/versions", &[("content-length", "67108865")], "")
        .await
        .problem(413, "too-large");
    let request = house.request("PUT", "/api/v1/topics/x").body(vec![b' '; MIB + 1].into()).unwrap();
    house.send(request).await.problem(413, "too-large");

    let lines = [("content-type", "application/x-ndjson")];
    let detail =
        house.post(publish, &lines, "{\"payload\":1}\n".repeat(200_001)).await.problem(413, "too-large");
    assert!(detail.contains("200000"), "{detail}");
    house.close().await;
}

#[tokio::test]
async fn a_body_that_does_not_come_is_given_up() {
    let config = Config { body_idle_ms: 20, ..Config::default() };
    let house = House::with(config, Arc::new(String::new), Arc::new(Scripted)).await;
    let never = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
    let request = house.request("PUT", "/api/v1/topics/x").body(never).unwrap();
    house.send(request).await.problem(408, "request-timeout");
    house.close().await;
}

#[tokio::test]
async fn requests_beyond_the_limit_are_refused_while_health_is_told() {
    let config = Config { requests: 1, ..Config::default() };
    let house = House::with(config, Arc::new(String::new), Arc::new(Scripted)).await;
    let never = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
    let request = house.request("PUT", "/api/v1/topics/x").body(never).unwrap();
    let mut waiting = Box::pin(house.send(request));
    assert!(waiting.as_mut().now_or_never().is_none());
    house.get("/api/v1/topics").await.problem(503, "unavailable");
    house.get("/healthz").await.expect(200);
    drop(waiting);
    house.get("/api/v1/topics").await.expect(200);
    house.close().await;
}

#[tokio::test]
async fn a_panic_is_a_problem_and_the_next_request_is_served() {
    let metrics = || -> String { panic!("at the disco") };
    let house = House::with(Config::default(), Arc::new(metrics), Arc::new(Scripted)).await;
    let detail = house.get("/metrics").await.problem(500, "internal");
    assert!(!detail.contains("disco"), "{detail}");
    house.get("/api/v1/topics").await.expect(200);
    house.close().await;
}

/// Checks a plugin when it is told to.
struct Gated {
    reached: Mutex<mpsc::Sender<()>>,
    go: Mutex<mpsc::Receiver<()>>,
}

impl Plugins for Gated {
    fn admit(&self, wasm: &[u8]) -> Result<Admission, PluginError> {
        self.reached.lock().unwrap().send(()).unwrap();
        self.go.lock().unwrap().recv().unwrap();
        Scripted.admit(wasm)
    }

    fn handler(
        &self,
        name: &Name,
        wanted: &Subscription,
        version: &Digest,
        wasm: &Path,
    ) -> Result<Arc<dyn Handler>, PluginError> {
        Scripted.handler(name, wanted, version, wasm)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_made_although_its_client_goes_away() {
    let (reached, is_reached) = mpsc::channel();
    let (go, may_go) = mpsc::channel();
    let plugins = Gated { reached: Mutex::new(reached), go: Mutex::new(may_go) };
    let house = House::with(Config::default(), Arc::new(String::new), Arc::new(plugins)).await;
    let request = house.request("POST", "/api/v1/plugins/p/versions").body(Body::from("plugin x")).unwrap();
    let client = tokio::spawn(house.router().oneshot(request));
    tokio::task::spawn_blocking(move || is_reached.recv().unwrap()).await.unwrap();
    client.abort();
    assert!(client.await.unwrap_err().is_cancelled());
    go.send(()).unwrap();
    let plugin = house.until("/api/v1/plugins/p", |body| body["versions"].is_array()).await;
    assert_eq!(plugin["versions"][0]["digest"], digest(b"plugin x").to_string());
    house.close().await;
}

/// Makes a handler once, for the trial of a subscription, and never again.
#[derive(Default)]
struct Once(AtomicBool);

impl Plugins for Once {
    fn admit(&self, wasm: &[u8]) -> Result<Admission, PluginError> {
        Scripted.admit(wasm)
    }

    fn handler(
        &self,
        name: &Name,
        wanted: &Subscription,
        version: &Digest,
        wasm: &Path,
    ) -> Result<Arc<dyn Handler>, PluginError> {
        if self.0.swap(true, Ordering::SeqCst) {
            return Err(PluginError::Host("out of order: /secret/path".to_owned()));
        }
        Scripted.handler(name, wanted, version, wasm)
    }
}

#[tokio::test]
async fn readiness_names_who_is_not_ready_and_keeps_the_reason_for_those_with_a_token() {
    let house = House::with(Config::default(), Arc::new(String::new), Arc::new(Once::default())).await;
    let anonymous =
        async |path: &str| house.send(Request::builder().uri(path).body(Body::empty()).unwrap()).await;
    assert_eq!(anonymous("/readyz").await.expect(200).json()["ready"], true);
    house.furnish().await;
    house.put("/api/v1/subscriptions/s", House::subscription()).await.expect(201);
    let failed = house.until("/api/v1/subscriptions/s", |body| body["state"] == "failed").await;
    assert!(failed["status"]["error"].as_str().unwrap().contains("out of order"));
    let answer = anonymous("/readyz").await;
    let text = String::from_utf8(answer.bytes.to_vec()).unwrap();
    assert!(!text.contains("secret"), "{text}");
    assert_eq!(answer.json()["not_ready"], json!([{"subscription": "s", "state": "failed"}]));
    answer.problem(503, "unavailable");
    // Nobody waits for one that is paused.
    house.post("/api/v1/subscriptions/s/pause", &[], "").await.expect(200);
    anonymous("/readyz").await.expect(200);
    house.close().await;
}

#[tokio::test]
async fn measurements_are_given_to_anybody() {
    let house = House::new().await;
    let request = Request::builder().uri("/metrics").body(Body::empty()).unwrap();
    let metrics = house.send(request).await.expect(200);
    assert!(metrics.header("content-type").starts_with("text/plain; version=0.0.4"));
    assert_eq!(&metrics.bytes[..], b"# metrics\n");
    house.close().await;
}
