//! Samples that the versions of a plugin must pass before they may be used.

use brolly_tests::{
    orders,
    project::brolly,
    root,
    server::{Server, another_version, plugin_bytes},
};
use reqwest::Method;
use serde_json::{Value, json};

const SUBSCRIPTION: &str = "/subscriptions/settlement";
const SAMPLES: &str = "/plugins/settlement/samples";

fn settlement(version: &str) -> Value {
    json!({"queue": "settlement", "plugin": "settlement", "version": version, "config": {}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_fails_its_samples_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let good = server.upload("settlement", plugin_bytes("settlement")).await;
    let early = server.upload("settlement", plugin_bytes("hostile")).await;
    server.put("/topics/orders.paid", json!({})).await;
    server.subscribe("settlement", "orders.paid", "settlement", &early, json!({})).await;
    assert_eq!(server.call(Method::GET, SAMPLES, None).await.problem(404), "not-found");
    let file = root().join("plugins/settlement/samples.toml");
    let document = std::fs::read_to_string(&file).unwrap();
    let shown = |arguments: &[&str], code| brolly(dir.path(), Some(&server), arguments, code);
    let (out, _) = shown(&["plugin", "samples", "settlement", file.to_str().unwrap()], 0);
    assert_eq!(out, document);
    assert_eq!(shown(&["plugin", "samples", "settlement"], 0).0, document);
    assert_eq!(server.get(SAMPLES).await["document"], document);

    // What runs goes on, and can be changed; nobody else begins to use it.
    let mut wanted = settlement(&early);
    wanted["workers"] = 2.into();
    server.put(SUBSCRIPTION, wanted.clone()).await;
    server.put("/queues/other", json!({})).await;
    wanted["queue"] = "other".into();
    let refused = server.call(Method::PUT, "/subscriptions/other", Some(wanted)).await;
    let detail = refused.body["detail"].as_str().unwrap().to_owned();
    assert_eq!(refused.problem(422), "samples-failed");
    assert!(detail.contains("3 of 3 samples") && detail.contains("half a cent goes"), "{detail}");
    assert!(detail.contains("- outcome: ack"), "{detail}");

    // A good one takes over; the way back is always open, the way to it as a candidate is not.
    server.put(SUBSCRIPTION, settlement(&good)).await;
    let rollout = json!({"version": early, "mode": "shadow", "percent": 1});
    let refused = server.call(Method::PUT, "/subscriptions/settlement/rollout", Some(rollout)).await;
    assert_eq!(refused.problem(422), "samples-failed");
    assert_eq!(
        server.call(Method::PUT, SUBSCRIPTION, Some(settlement(&early))).await.problem(422),
        "samples-failed"
    );

    // Uploads: what fails leaves nothing behind, what passes says so.
    let wrong = dir.path().join("wrong.wasm");
    std::fs::write(&wrong, another_version(plugin_bytes("hostile"), "later")).unwrap();
    let (_, told) = shown(&["plugin", "upload", "settlement", wrong.to_str().unwrap()], 1);
    assert!(told.contains("samples-failed") && told.contains("an order of nothing is rejected"), "{told}");
    let right = dir.path().join("right.wasm");
    std::fs::write(&right, another_version(plugin_bytes("settlement"), "later")).unwrap();
    let (told, _) = shown(&["plugin", "upload", "settlement", right.to_str().unwrap()], 0);
    assert!(told.contains("passed 3 samples"), "{told}");
    let versions = server.get("/plugins/settlement").await["versions"].as_array().unwrap().len();
    assert_eq!(versions, 3, "the first two, and the right one");

    // They hold after a restart. Running them has left no state and published nothing.
    server.kill().await;
    let server = Server::start(dir.path()).await;
    let later = another_version(plugin_bytes("hostile"), "latest");
    let upload = server.request(Method::POST, "/plugins/settlement/versions");
    let upload = upload.header("content-type", "application/wasm").body(later);
    assert_eq!(server.send(upload).await.problem(422), "samples-failed");
    let real = orders::real();
    server.bulk("orders.paid", orders::ndjson(&real[..500])).await.unwrap().ok();
    server.idle(&["settlement"]).await;
    assert_eq!(server.days().await, orders::totals(&real[..500]).days);

    // A document with mistakes changes nothing; without one all is as before.
    let body = json!({"document": "topic = 1\n[[sample]]\nmessage.file = 'a'\n"});
    let answer = server.call(Method::PUT, SAMPLES, Some(body)).await;
    let detail = answer.body["detail"].as_str().unwrap().to_owned();
    assert_eq!(answer.problem(422), "invalid-definition");
    for part in ["samples:1: topic is no text", "samples:3: sample[0].message.file", "expect is missing"] {
        assert!(detail.contains(part), "{part}: {detail}");
    }
    assert_eq!(server.get(SAMPLES).await["document"], document);
    assert_eq!(brolly(dir.path(), Some(&server), &["plugin", "samples", "settlement", "--remove"], 0).0, "");
    server.put(SUBSCRIPTION, settlement(&early)).await;
    assert_eq!(server.terminate().await, Some(0));
}

#[test]
fn the_sample_plugin_passes_its_own_samples() {
    let folder = root().join("plugins/settlement");
    let wasm = root().join("target/plugins/settlement.wasm");
    let arguments = ["test", "samples.toml", "--plugin", wasm.to_str().unwrap()];
    let (told, _) = brolly(&folder, None, &arguments, 0);
    assert!(told.ends_with("3 passed, 0 failed\n"), "{told}");
}
