//! The same on a running host: what an upload says, what a definition may grant, and a failure that is
//! taken home.

use std::{fs, path::Path};

use brolly_tests::{
    certificates,
    project::brolly,
    root,
    server::{Server, plugin_bytes},
    web::Web,
};
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_says_what_it_asks_for_in_vain() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path()).await;
    let upload = |plugin: &'static str, guest: &'static str| {
        let path = format!("/plugins/{plugin}/versions");
        let request = server.request(Method::POST, &path).body(plugin_bytes(guest));
        server.send(request)
    };
    let first = upload("p", "settlement").await.ok();
    assert_eq!((&first["denied"], &first["needs"]), (&json!([]), &json!([])));
    server.put("/topics/in", json!({})).await;
    let digest = first["digest"].as_str().unwrap();
    server.subscribe("s", "in", "p", digest, json!({"grants": {"clock": true}})).await;
    let second = upload("p", "wasi").await.ok();
    let denied: Vec<(&str, &Value)> = second["denied"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["interface"].as_str().unwrap(), &one["grant"]))
        .collect();
    let is_denied =
        |part: &str| denied.iter().find(|(name, _)| name.starts_with(part)).map(|(_, grant)| *grant);
    assert_eq!(is_denied("wasi:random/random@"), Some(&json!("random")), "{denied:?}");
    assert_eq!(is_denied("wasi:http/outgoing-handler@"), Some(&json!("http")));
    assert_eq!(is_denied("wasi:sockets/tcp-create-socket@"), Some(&json!(null)));
    assert_eq!(is_denied("wasi:clocks/"), None, "{denied:?}");
    let needs = &second["needs"][0];
    assert_eq!(needs["subscription"], "s");
    let words = needs["words"].as_array().unwrap();
    assert!(words.contains(&json!("read the clock and wait: granted (grants.clock)")), "{words:?}");
    let sends = "send requests over HTTP: not granted (grants.http); a call ends the attempt with a fault";
    assert!(words.contains(&json!(sends)), "{words:?}");

    let wrong = json!({"queue": "s", "plugin": "p", "version": digest,
        "grants": {"http": {"hosts": ["https://a.example/x"]}}});
    let answer = server.call(Method::PUT, "/subscriptions/s", Some(wrong)).await;
    assert!(answer.body["detail"].as_str().unwrap().contains("grants.http.hosts"), "{}", answer.body);
    assert_eq!(answer.problem(422), "invalid-definition");
    assert_eq!(server.terminate().await, Some(0));
}

/// Has a handler call this address over TLS from a new host; answers with its dead letters and what it has told.
async fn calls_over_tls(url: &str, settings: &[(&str, &str)]) -> (Vec<Value>, Vec<Value>) {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start_with(data.path(), &[], settings).await;
    server.put("/topics/in", json!({})).await;
    server.put("/topics/out", json!({})).await;
    server.put("/queues/told", json!({})).await;
    server.put("/routes/told", json!({"topic": "out", "queue": "told"})).await;
    let version = server.upload("reaching", plugin_bytes("hostile")).await;
    let host = url.trim_start_matches("https://");
    let more = json!({
        "config": {"mode": "request", "url": format!("{url}/healthz"), "topic": "out"},
        "grants": {"http": {"hosts": [host], "private": true}},
        "retry": {"max_attempts": 1},
    });
    server.subscribe("reaching", "in", "reaching", &version, more).await;
    server.bulk("in", "{\"id\":\"o1\",\"payload\":{}}\n".to_owned()).await.unwrap().ok();
    server.idle(&["reaching"]).await;
    let seen =
        (server.all("/subscriptions/reaching/dead-letters").await, server.all("/messages?topic=out").await);
    assert_eq!(server.terminate().await, Some(0));
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_over_tls_go_to_servers_that_an_authority_vouches_for() {
    let (data, keys) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    certificates::write(keys.path());
    let web = Server::start_with_tls(data.path(), keys.path(), &[]).await;
    let ca = keys.path().join("ca.pem");
    let trusting = [("SSL_CERT_FILE", ca.to_str().unwrap())];
    let (dead, told) = calls_over_tls(&web.url, &trusting).await;
    assert_eq!((dead.len(), told.len()), (0, 1), "{dead:?}");
    let (dead, told) = calls_over_tls(&web.url, &[]).await;
    assert_eq!((dead.len(), told.len()), (1, 0));
    assert!(dead[0]["reason"].as_str().unwrap().contains("TlsCertificateError"), "{dead:?}");
    assert_eq!(web.terminate().await, Some(0));
}

fn replayed(dir: &Path, file: &str, code: i32) -> String {
    let wasm = root().join("target/test-plugins/hostile.wasm");
    brolly(dir, None, &["replay", file, "--plugin", wasm.to_str().unwrap()], code).0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_that_used_everything_is_taken_home_and_made_again_offline() {
    let (data, dir, web) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), Web::start().await);
    let (server, dir) = (Server::start(data.path()).await, dir.path());
    server.put("/topics/in", json!({})).await;
    let version = server.upload("reaching", plugin_bytes("hostile")).await;
    let more = json!({
        "config": {"mode": "everything", "url": web.url("/count"), "method": "POST", "bytes": "10"},
        "grants": {"clock": true, "random": true, "http": {"hosts": [web.address.to_string()], "private": true}},
    });
    server.subscribe("reaching", "in", "reaching", &version, more).await;
    server.bulk("in", "{\"id\":\"o1\",\"payload\":{}}\n".to_owned()).await.unwrap().ok();
    server.idle(&["reaching"]).await;
    let dead = server.all("/subscriptions/reaching/dead-letters").await;
    let reason = dead[0]["reason"].as_str().unwrap().to_owned();
    assert!(reason.starts_with("seen 1, at ") && reason.ends_with(", 200 1"), "{reason}");
    assert_eq!(web.asked()[0].headers["idempotency-key"], "reaching/in/o1");

    // A trial of the dead letter sends nothing, and says so.
    let trial =
        server.call(Method::POST, "/subscriptions/reaching/dead-letters/o1/try", Some(json!({}))).await;
    assert!(trial.body.to_string().contains("sends nothing"), "{}", trial.body);

    let out = ["capture", "reaching", "--out", "captures"];
    let (files, _) = brolly(dir, Some(&server), &out, 0);
    let file = files.lines().next().unwrap();
    let asked = web.asked().len();
    assert_eq!((asked, server.terminate().await), (1, Some(0)));
    drop(web);

    let same = replayed(dir, file, 0);
    assert!(same.contains(&reason) && same.ends_with("the same, bit for bit\n"), "{same}");
    // Each thing that it was told counts.
    let path = dir.join(file);
    let capture = fs::read_to_string(&path).unwrap();
    let parsed: Value = serde_json::from_str(&capture).unwrap();
    assert_eq!(parsed["brolly_capture"], 2);
    let kinds: Vec<&str> = parsed["reads"]
        .as_array()
        .unwrap()
        .iter()
        .map(|read| read.as_object().unwrap().keys().next().unwrap().as_str())
        .collect();
    for kind in ["get", "wall", "monotonic", "random", "http"] {
        assert!(kinds.contains(&kind), "{kind} in {kinds:?}");
    }
    let mut other = parsed.clone();
    for read in other["reads"].as_array_mut().unwrap() {
        if let Some(response) = read.pointer_mut("/http/answer/response/body") {
            *response = json!("2");
        }
    }
    fs::write(&path, other.to_string()).unwrap();
    let differs = replayed(dir, file, 1);
    assert!(differs.contains(", 200 2"), "{differs}");
}
