//! What watches a host from outside: is it alive, is it ready, its measurements, its description.
//! None of it needs a token.

use std::path::Path;

use brolly_tests::{
    eventually,
    server::{PATIENCE, Server, plugin_bytes},
};
use reqwest::StatusCode;
use serde_json::{Value, json};

struct Watched {
    status: StatusCode,
    content_type: String,
    text: String,
}

impl Watched {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }
}

async fn watch(server: &Server, path: &str) -> Watched {
    let response = reqwest::get(format!("{}{path}", server.url)).await.unwrap();
    let content_type = response.headers()["content-type"].to_str().unwrap().to_owned();
    Watched { status: response.status(), content_type, text: response.text().await.unwrap() }
}

/// Waits until the host says that it is ready, or that it is not.
async fn readiness(server: &Server, wanted: u16) -> Value {
    let what = format!("/readyz answers {wanted}");
    eventually(&what, PATIENCE, || async {
        let answer = watch(server, "/readyz").await;
        (answer.status == wanted).then(|| answer.json())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_ready_when_everything_that_should_run_does() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    assert_eq!(readiness(&server, 200).await, json!({"ready": true}), "nothing should run");
    server.put("/topics/t", json!({})).await;
    let sound = server.upload("hostile", plugin_bytes("hostile")).await;
    let lost = server.upload("notification", plugin_bytes("notification")).await;
    let counter = json!({"config": {"mode": "counter"}});
    server.subscribe("sound", "t", "hostile", &sound, counter.clone()).await;
    server.subscribe("resting", "t", "hostile", &sound, counter).await;
    server.subscribe("lost", "t", "notification", &lost, json!({})).await;
    server.post("/subscriptions/resting/pause").await;
    assert_eq!(readiness(&server, 200).await, json!({"ready": true}), "what is paused should not run");
    assert_eq!(server.terminate().await, Some(0));

    lose(dir.path(), &lost);
    let server = Server::start(dir.path()).await;
    let failed = |body: &Value| body["not_ready"] == json!([{"subscription": "lost", "state": "failed"}]);
    let problem = eventually("it is the lost one that fails", PATIENCE, || async {
        let answer = watch(&server, "/readyz").await;
        let is_it = answer.status == 503 && failed(&answer.json());
        is_it.then_some(answer)
    })
    .await;
    assert_eq!(problem.content_type, "application/problem+json");
    assert_eq!(problem.json()["code"], "unavailable");
    assert!(
        !problem.text.contains(&*dir.path().to_string_lossy()),
        "no path for strangers: {}",
        problem.text
    );
    let alive = watch(&server, "/healthz").await;
    assert_eq!((alive.status, &*alive.text), (StatusCode::OK, "ok\n"), "it is alive all the same");
    let why = server.get("/subscriptions/lost").await["status"]["error"].clone();
    assert!(why.as_str().is_some_and(|why| !why.is_empty()), "an operator learns the reason: {why}");

    // The others go on, and what is for the failed one waits for it.
    server.bulk("t", "{\"payload\":{}}\n".to_owned()).await.unwrap().ok();
    server.idle(&["sound"]).await;
    assert_eq!(server.get("/queues/lost").await["counts"]["ready"], 1);

    // The same bytes again heal it, without a restart.
    assert_eq!(server.upload("notification", plugin_bytes("notification")).await, lost);
    assert_eq!(readiness(&server, 200).await, json!({"ready": true}));
    server.idle(&["lost"]).await;
    assert_eq!(server.terminate().await, Some(0));
}

/// Removes a plugin version from a data directory as a failing disk would: its bytes, and everything
/// that was compiled.
fn lose(data: &Path, version: &str) {
    let hex = version.strip_prefix("sha256:").unwrap();
    std::fs::remove_file(data.join(format!("plugins/{hex}.wasm"))).unwrap();
    std::fs::remove_dir_all(data.join("cache")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_measurements_count_attempts_by_their_outcome() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    server.put("/topics/t", json!({})).await;
    let version = server.upload("hostile", plugin_bytes("hostile")).await;
    let retry = json!({"max_attempts": 3, "initial_delay_ms": 1, "max_delay_ms": 1});
    for (name, mode) in [("good", "ok"), ("bad", "retry")] {
        let more = json!({"config": {"mode": mode}, "retry": retry});
        server.subscribe(name, "t", "hostile", &version, more).await;
    }
    server.bulk("t", "{\"payload\":1}\n".repeat(7)).await.unwrap().ok();
    server.idle(&["good", "bad"]).await;
    let metrics = watch(&server, "/metrics").await;
    assert_eq!(metrics.status, StatusCode::OK);
    assert!(metrics.content_type.starts_with("text/plain; version=0.0.4"), "{}", metrics.content_type);
    for (subscription, outcome, count) in [
        ("good", "ack", 7),
        ("good", "retry", 0),
        ("bad", "retry", 14),
        ("bad", "dead_letter", 7),
        ("bad", "ack", 0),
    ] {
        let found = metrics.text.lines().find(|line| {
            line.starts_with("brolly_attempts_total{")
                && line.contains(&format!("subscription=\"{subscription}\""))
                && line.contains(&format!("outcome=\"{outcome}\""))
        });
        let value = found.and_then(|line| line.rsplit_once(' ')).map(|(_, value)| value);
        assert_eq!(value, Some(&*count.to_string()), "{subscription} {outcome}: {}", metrics.text);
    }
    assert_eq!(server.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_is_described() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let described = watch(&server, "/api/v1/openapi.json").await;
    assert_eq!((described.status, &*described.content_type), (StatusCode::OK, "application/json"));
    let document = described.json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1."), "{}", document["openapi"]);
    for (path, method) in [
        ("/api/v1/topics/{topic}/messages", "post"),
        ("/api/v1/subscriptions/{subscription}", "put"),
        ("/api/v1/messages", "get"),
        ("/readyz", "get"),
    ] {
        assert!(document["paths"][path][method].is_object(), "{method} {path}");
    }
    assert_eq!(server.terminate().await, Some(0));
}
