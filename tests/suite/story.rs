//! The story of one message: attempts, durations, versions, log lines, children.

use brolly_tests::{
    eventually,
    server::{PATIENCE, Server, plugin_bytes},
};
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_message_tells_what_became_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    server.put("/topics/in", json!({})).await;
    server.put("/topics/out", json!({})).await;
    let version = server.upload("hostile", plugin_bytes("hostile")).await;
    let retry = json!({"max_attempts": 5, "initial_delay_ms": 10, "max_delay_ms": 20});
    let modes = [
        ("patient", json!({"mode": "fail_until", "attempt": "3"})),
        ("echoing", json!({"mode": "echo", "topic": "out"})),
        ("talking", json!({"mode": "describe"})),
        ("refusing", json!({"mode": "reject"})),
    ];
    for (name, config) in modes {
        server.subscribe(name, "in", "hostile", &version, json!({"config": config, "retry": retry})).await;
    }
    let request = server.request(Method::POST, "/topics/in/messages?key=eu.de&id=m%2F1");
    let request =
        request.header("content-type", "text/plain").header("brolly-header-source", "shop").body("hello");
    assert_eq!(server.send(request).await.ok()["ids"], json!(["m/1"]));
    server.idle(&["patient", "echoing", "talking", "refusing"]).await;

    let story = server.get("/messages/m%2F1").await;
    let message = &story["message"];
    assert_eq!(
        (&message["topic"], &message["key"], &message["payload"]),
        (&json!("in"), &json!("eu.de"), &json!("hello"))
    );
    assert_eq!(message["headers"]["source"], "shop");
    let delivery = |name: &str| -> Value {
        let deliveries = story["deliveries"].as_array().unwrap();
        deliveries
            .iter()
            .find(|delivery| delivery["subscription"] == name)
            .unwrap_or_else(|| panic!("{story}"))
            .clone()
    };
    let patient = delivery("patient");
    assert_eq!(patient["status"], "acked");
    let outcomes: Vec<&Value> =
        patient["attempts"].as_array().unwrap().iter().map(|a| &a["outcome"]).collect();
    assert_eq!(outcomes, ["retry", "retry", "ack"]);
    for attempt in patient["attempts"].as_array().unwrap() {
        assert_eq!(attempt["version"], json!(version));
        assert!(
            attempt["duration_us"].as_u64().is_some() && attempt["at_ms"].as_u64().unwrap() > 0,
            "{attempt}"
        );
    }
    assert_eq!(patient["attempts"][0]["reason"], "not yet");

    let echoing = delivery("echoing");
    let child = echoing["published"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(echoing["published"][0]["topic"], "out");
    let child = server
        .send(server.request(Method::GET, &format!("/messages/{}", child.replace('/', "%2F"))))
        .await
        .ok();
    assert_eq!(child["message"]["payload"], "hello");
    assert_eq!(child["message"]["parent"]["id"], "m/1");

    let logs = delivery("talking")["attempts"][0]["logs"].to_string();
    for line in
        ["id=m/1", "topic=in", "key=eu.de", "header source=shop", "attempt=1 last=false", "payload=hello"]
    {
        assert!(logs.contains(line), "{line} in {logs}");
    }
    let refusing = delivery("refusing");
    assert_eq!(
        (&refusing["status"], &refusing["attempts"][0]["outcome"]),
        (&json!("dead"), &json!("reject"))
    );
    assert_eq!(server.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn effects_take_place_only_with_an_acknowledgement() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    server.put("/topics/in", json!({})).await;
    let version = server.upload("hostile", plugin_bytes("hostile")).await;
    let retry = json!({"max_attempts": 2, "initial_delay_ms": 1, "max_delay_ms": 1});
    for mode in ["state_then_trap", "state_then_retry", "state_then_reject", "counter"] {
        let name = mode.replace('_', "-");
        let config = json!({"mode": mode, "topic": "effects"});
        server.subscribe(&name, "in", "hostile", &version, json!({"config": config, "retry": retry})).await;
    }
    server.bulk("in", (0..50).map(|i| format!("{{\"payload\":{i}}}\n")).collect()).await.unwrap().ok();
    let queues = ["state-then-trap", "state-then-retry", "state-then-reject", "counter"];
    server.idle(&queues).await;
    for queue in &queues[..3] {
        assert!(server.all(&format!("/subscriptions/{queue}/state?prefix=")).await.is_empty(), "{queue}");
        assert_eq!(server.get(&format!("/queues/{queue}")).await["counts"]["dead"], 50, "{queue}");
    }
    let missing = server.call(Method::GET, "/topics/effects", None).await;
    assert_eq!(missing.status, 404, "nothing was published, so nobody made the topic");
    assert_eq!(server.all("/subscriptions/counter/state?prefix=").await[0]["value"], 50);
    assert_eq!(server.terminate().await, Some(0));
}

/// Eight workers add to one key; every addition must be there.
#[tokio::test(flavor = "multi_thread")]
async fn deliveries_that_touch_one_key_lose_no_update() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    server.put("/topics/in", json!({})).await;
    let version = server.upload("hostile", plugin_bytes("hostile")).await;
    for (name, instances) in [("fresh", "fresh"), ("reuse", "reuse")] {
        let more = json!({"config": {"mode": "counter"}, "workers": 8, "instances": instances});
        server.subscribe(name, "in", "hostile", &version, more).await;
    }
    server.bulk("in", (0..3_000).map(|i| format!("{{\"payload\":{i}}}\n")).collect()).await.unwrap().ok();
    server.idle(&["fresh", "reuse"]).await;
    for name in ["fresh", "reuse"] {
        assert_eq!(
            server.all(&format!("/subscriptions/{name}/state?prefix=n")).await[0]["value"],
            3_000,
            "{name}"
        );
    }
    assert_eq!(server.terminate().await, Some(0));
}

/// A retry holds back its key and no other; a paused subscription rests, across a restart too.
#[tokio::test(flavor = "multi_thread")]
async fn a_pause_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    server.put("/topics/in", json!({})).await;
    let version = server.upload("hostile", plugin_bytes("hostile")).await;
    server.subscribe("s", "in", "hostile", &version, json!({"config": {"mode": "counter"}})).await;
    server.post("/subscriptions/s/pause").await;
    server.bulk("in", "{\"payload\":1}\n".to_owned()).await.unwrap().ok();
    server.kill().await;
    let server = Server::start(dir.path()).await;
    let paused = eventually("it has its state", PATIENCE, || async {
        let subscription = server.get("/subscriptions/s").await;
        (subscription["state"] != "starting").then_some(subscription)
    })
    .await;
    assert_eq!(paused["state"], "paused");
    assert_eq!(server.get("/queues/s").await["counts"]["ready"], 1);
    server.post("/subscriptions/s/resume").await;
    server.idle(&["s"]).await;
    assert_eq!(server.all("/subscriptions/s/state?prefix=").await[0]["value"], 1);
    assert_eq!(server.terminate().await, Some(0));
}
