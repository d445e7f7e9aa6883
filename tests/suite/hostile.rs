//! Plugins that want to hurt: each is contained within its limits, named, and alone with its failure.

use std::time::{Duration, Instant};

use brolly_tests::{
    eventually,
    server::{PATIENCE, Server, plugin_bytes},
};
use reqwest::Method;
use serde_json::{Value, json};

/// What a mode of the guest must come to: a word of the dead letter's reason, or an acknowledgement.
struct Case {
    mode: &'static str,
    config: Value,
    limits: Value,
    dead: Option<&'static str>,
}

fn case(mode: &'static str, config: Value, limits: Value, dead: Option<&'static str>) -> Case {
    Case { mode, config, limits, dead }
}

fn cases() -> Vec<Case> {
    let none = || json!({});
    vec![
        case("loop", none(), json!({"time_ms": 200}), Some("limits.time_ms")),
        case("loop_calls", none(), json!({"time_ms": 200}), Some("limits.time_ms")),
        case("loop", none(), json!({"time_ms": 60_000, "cpu_ms": 100}), Some("limits.cpu_ms")),
        case("recurse", none(), none(), Some("stack overflow")),
        case("recurse_memory", none(), none(), Some("")),
        case("memory", none(), json!({"memory_bytes": 8 << 20}), Some("limits.memory_bytes")),
        case(
            "memory_grow",
            json!({"bytes": "33554432"}),
            json!({"memory_bytes": 16 << 20}),
            // The guest survives the refusal and says so itself.
            Some("allocation failed"),
        ),
        case("memory_grow", json!({"bytes": "4194304"}), json!({"memory_bytes": 16 << 20}), None),
        case("trap", none(), none(), Some("trap")),
        case("panic", none(), none(), Some("")),
        case("log", json!({"count": "10000"}), none(), None),
        case("log_huge", none(), none(), None),
        case("publish_many", json!({"count": "101"}), none(), Some("limits.publish_messages")),
        case("publish_many", json!({"count": "100"}), none(), None),
        case("publish_big", json!({"bytes": "1048577"}), none(), Some("limits.publish_bytes")),
        case("publish_big", none(), json!({"publish_bytes": 16 << 20}), Some("")),
        case("bad_topic", none(), none(), Some("bad call")),
        case("state_many", json!({"count": "101"}), none(), Some("limits.state_writes")),
        case("state_many", json!({"count": "100"}), none(), None),
        case("state_big", json!({"bytes": "65537"}), none(), Some("65536")),
        case("state_big", json!({"bytes": "65536"}), none(), None),
        case("state_many_big", json!({"count": "50"}), none(), Some("limits.state_bytes")),
        case("state_key", json!({"bytes": "513"}), none(), Some("bad call")),
        case("state_key", json!({"bytes": "512"}), none(), None),
        case("state_key_control", none(), none(), Some("bad call")),
        case("state_list", json!({"limit": "1001"}), none(), Some("bad call")),
        case("bad_utf8_log", none(), none(), Some("")),
        case("bad_utf8_reason", none(), none(), Some("")),
        case("bad_pointer", none(), none(), Some("")),
        case("long_reason", none(), none(), Some("rrr")),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_hostile_guest_is_contained_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    server.put("/topics/in", json!({})).await;
    let version = server.upload("hostile", plugin_bytes("hostile")).await;
    let cases = cases();
    for (number, case) in cases.iter().enumerate() {
        let mut config = case.config.clone();
        config["mode"] = case.mode.into();
        let more = json!({
            "config": config, "limits": case.limits, "instances": if number % 2 == 0 { "fresh" } else { "reuse" },
            "retry": {"max_attempts": 2, "initial_delay_ms": 1, "max_delay_ms": 1},
        });
        server.subscribe(&format!("case-{number}"), "in", "hostile", &version, more).await;
    }
    server.subscribe("healthy", "in", "hostile", &version, json!({"config": {"mode": "counter"}})).await;
    server.bulk("in", "{\"id\":\"m\",\"payload\":{}}\n".to_owned()).await.unwrap().ok();
    let names: Vec<String> = (0..cases.len()).map(|number| format!("case-{number}")).collect();
    let mut queues: Vec<&str> = names.iter().map(String::as_str).collect();
    queues.push("healthy");
    server.idle(&queues).await;

    for (name, case) in names.iter().zip(&cases) {
        let what = format!("{} {} {}", case.mode, case.config, case.limits);
        let dead = server.all(&format!("/subscriptions/{name}/dead-letters")).await;
        match case.dead {
            None => assert!(dead.is_empty(), "{what}: {dead:?}"),
            Some(word) => {
                let reason = dead.first().unwrap_or_else(|| panic!("{what}: acknowledged"))["reason"]
                    .as_str()
                    .unwrap();
                assert!(reason.contains(word), "{what}: {reason}");
                assert!(reason.len() < 2_000, "{what}: {} bytes", reason.len());
                tried(&server, name, word, &what).await;
            }
        }
    }
    assert_eq!(server.all("/subscriptions/healthy/state?prefix=").await[0]["value"], 1);
    let story = server.get("/messages/m").await;
    for delivery in story["deliveries"].as_array().unwrap() {
        let logs = delivery["attempts"][0]["logs"].to_string();
        assert!(logs.len() < 100_000, "the log limit holds: {} bytes", logs.len());
    }
    assert_eq!(server.terminate().await, Some(0));
}

/// A trial of the dead letter is held by the same limits, and changes nothing.
async fn tried(server: &Server, name: &str, word: &str, what: &str) {
    let path = format!("/subscriptions/{name}/dead-letters/m");
    let trial = server.call(Method::POST, &format!("{path}/try"), Some(json!({}))).await.ok();
    assert_ne!(trial["outcome"], "ack", "{what}");
    let reason = trial["reason"].as_str().unwrap();
    assert!(reason.contains(word), "{what}: {reason}");
    assert_eq!((&trial["state"], &trial["published"]), (&json!([]), &json!([])), "{what}");
    assert!(trial["logs"].to_string().len() < 100_000, "{what}");
    let letter = server.get(&path).await;
    assert_eq!(letter["attempts_made"].as_array().unwrap().len() as u64, letter["attempts"], "{what}");
}

/// Beside an endless loop the others keep going, and each of its deliveries ends within its limit.
#[tokio::test(flavor = "multi_thread")]
async fn an_endless_loop_delays_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    server.put("/topics/in", json!({})).await;
    let version = server.upload("hostile", plugin_bytes("hostile")).await;
    let looping = json!({
        "config": {"mode": "loop"}, "workers": 4, "limits": {"time_ms": 300},
        "retry": {"max_attempts": 1},
    });
    server.subscribe("looping", "in", "hostile", &version, looping).await;
    server
        .subscribe("healthy", "in", "hostile", &version, json!({"config": {"mode": "counter"}, "workers": 2}))
        .await;
    server.bulk("in", (0..500).map(|i| format!("{{\"payload\":{i}}}\n")).collect()).await.unwrap().ok();
    let began = Instant::now();
    server.idle(&["healthy"]).await;
    let healthy = began.elapsed();
    let left = server.get("/queues/looping").await["counts"]["ready"].as_u64().unwrap();
    assert!(left > 0, "the loop must still be at it, or nothing was shown; the healthy one took {healthy:?}");
    assert_eq!(server.all("/subscriptions/healthy/state?prefix=").await[0]["value"], 500);

    let dead = eventually("a few of its deliveries are dead", PATIENCE, || async {
        let dead = server.all("/subscriptions/looping/dead-letters").await;
        (dead.len() >= 4).then_some(dead)
    })
    .await;
    for letter in &dead {
        let story = server.get(&format!("/messages/{}", letter["message_id"].as_str().unwrap())).await;
        let deliveries = story["deliveries"].as_array().unwrap();
        let looping = deliveries.iter().find(|delivery| delivery["subscription"] == "looping").unwrap();
        let took = Duration::from_micros(looping["attempts"][0]["duration_us"].as_u64().unwrap());
        assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(3), "{took:?}");
    }
    // With the loop at work the process still drains in time.
    assert_eq!(server.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_plugin_is_refused_at_upload_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let wat = |text: &str| wat::parse_str(text).unwrap();
    let truncated = {
        let mut bytes = plugin_bytes("settlement");
        bytes.truncate(bytes.len() / 2);
        bytes
    };
    let cases: [(&str, Vec<u8>, &str); 7] = [
        ("nothing", Vec::new(), ""),
        ("not wasm", b"#!/bin/sh\necho hello".to_vec(), "wasm"),
        ("truncated", truncated, ""),
        ("a module without metadata", wat("(module (func (export \"handle\")))"), "SDK"),
        ("a component that exports nothing", wat("(component)"), "handle"),
        (
            "an import that no plugin gets",
            wat("(component (import \"wasi:cli/environment@0.2.0\" (instance (export \"x\" (func)))))"),
            "wasi:cli/environment@0.2.0",
        ),
        ("an export of the wrong type", wrong_export(), "handle"),
    ];
    for (what, bytes, word) in cases {
        let request = server.request(Method::POST, "/plugins/bad/versions").body(bytes);
        let answer = server.send(request).await;
        let detail = answer.body["detail"].as_str().unwrap_or_default().to_owned();
        assert!(detail.contains(word), "{what}: {detail}");
        assert_eq!(answer.problem(422), "invalid-plugin", "{what}");
    }
    assert_eq!(server.call(Method::GET, "/plugins/bad", None).await.problem(404), "not-found");
    assert_eq!(server.terminate().await, Some(0));
}

fn wrong_export() -> Vec<u8> {
    let text = "(component
        (core module $m (func (export \"handle\") (result i32) i32.const 1))
        (core instance $i (instantiate $m))
        (func (export \"handle\") (result u32) (canon lift (core func $i \"handle\"))))";
    wat::parse_str(text).unwrap()
}
