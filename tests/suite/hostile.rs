//! Plugins that want to hurt: each is contained within its limits, named, and alone with its failure.

use std::time::{Duration, Instant};

use brolly_tests::{
    eventually, root,
    server::{PATIENCE, Server, plugin_bytes},
};
use futures::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};

/// What a mode of the guest must come to: a word of the dead letter's reason, or an acknowledgement.
struct Case {
    /// Stands in docs/reliability.md.
    does: &'static str,
    mode: &'static str,
    config: Value,
    limits: Value,
    dead: Option<&'static str>,
}

impl Case {
    /// Its line in docs/reliability.md.
    fn row(&self) -> String {
        let must = match self.dead {
            None => "handled: it stayed within its limits".to_owned(),
            Some("") => "stopped, and named".to_owned(),
            Some(word) => format!("stopped, named by `{word}`"),
        };
        format!("| {} | {must} |", self.does)
    }
}

fn cases() -> Vec<Case> {
    [computing(), memory(), logging(), publishing(), states(), lies()].into_iter().flatten().collect()
}

fn case(
    does: &'static str,
    mode: &'static str,
    config: Value,
    limits: Value,
    dead: Option<&'static str>,
) -> Case {
    Case { does, mode, config, limits, dead }
}

fn none() -> Value {
    json!({})
}

fn computing() -> Vec<Case> {
    let cpu = json!({"time_ms": 60_000, "cpu_ms": 100});
    vec![
        case("computes for ever", "loop", none(), json!({"time_ms": 200}), Some("limits.time_ms")),
        case(
            "calls the host for ever",
            "loop_calls",
            none(),
            json!({"time_ms": 200}),
            Some("limits.time_ms"),
        ),
        case(
            "computes for ever, with much time and little CPU time",
            "loop",
            none(),
            cpu,
            Some("limits.cpu_ms"),
        ),
        case("calls itself for ever", "recurse", none(), none(), Some("stack overflow")),
        case(
            "calls itself for ever, with its frames in linear memory",
            "recurse_memory",
            none(),
            none(),
            Some(""),
        ),
        case("executes an illegal instruction", "trap", none(), none(), Some("trap")),
        case("panics", "panic", none(), none(), Some("")),
        case("adds 1 to the largest number", "overflow", none(), none(), Some("")),
        case("writes and publishes, then traps", "state_then_trap", none(), none(), Some("trap")),
        case(
            "writes and publishes, then asks for retries",
            "state_then_retry",
            none(),
            none(),
            Some("asked to retry"),
        ),
        case(
            "writes and publishes, then rejects",
            "state_then_reject",
            none(),
            none(),
            Some("asked to reject"),
        ),
        case("retries with a reason of a mebibyte", "long_reason", none(), none(), Some("rrr")),
    ]
}

fn memory() -> Vec<Case> {
    let limit = || json!({"memory_bytes": 16 << 20});
    let small = json!({"memory_bytes": 8 << 20});
    vec![
        case("allocates without end", "memory", none(), small, Some("limits.memory_bytes")),
        // The guest survives the refusal and says so itself.
        case(
            "asks for 32 MiB at once, of 16",
            "memory_grow",
            json!({"bytes": "33554432"}),
            limit(),
            Some("allocation failed"),
        ),
        case("asks for 4 MiB at once, of 16", "memory_grow", json!({"bytes": "4194304"}), limit(), None),
    ]
}

fn logging() -> Vec<Case> {
    vec![
        case("logs 10,000 lines of a kibibyte", "log", json!({"count": "10000"}), none(), None),
        case("logs 200,000 empty lines", "log", json!({"count": "200000", "bytes": "0"}), none(), None),
        case("logs a line of 8 MiB", "log_huge", none(), none(), None),
    ]
}

fn publishing() -> Vec<Case> {
    let field = |field: &str, bytes: &str| json!({"field": field, "bytes": bytes});
    let much = json!({"publish_bytes": 16 << 20});
    vec![
        case(
            "publishes 101 messages, of 100",
            "publish_many",
            json!({"count": "101"}),
            none(),
            Some("limits.publish_messages"),
        ),
        case("publishes 100 messages, of 100", "publish_many", json!({"count": "100"}), none(), None),
        case(
            "publishes a byte more than a mebibyte",
            "publish_big",
            json!({"bytes": "1048577"}),
            none(),
            Some("limits.publish_bytes"),
        ),
        case("publishes a mebibyte", "publish_big", json!({"bytes": "1048576"}), none(), None),
        case("publishes 32 MiB, with the highest limit", "publish_big", none(), much, Some("")),
        case("publishes to what is no name", "bad_topic", none(), none(), Some("bad call")),
        case(
            "publishes to a topic named like a path",
            "bad_topic",
            json!({"topic": "../../etc/passwd"}),
            none(),
            Some("bad call"),
        ),
        case(
            "publishes under an id of 257 bytes",
            "publish_field",
            field("id", "257"),
            none(),
            Some("bad call"),
        ),
        case("publishes under an id of 256 bytes", "publish_field", field("id", "256"), none(), None),
        case("publishes with a key of 255 bytes", "publish_field", field("key", "255"), none(), None),
        case(
            "publishes with a content type of 255 bytes",
            "publish_field",
            field("content_type", "255"),
            none(),
            None,
        ),
        case("publishes with 32 KiB of headers", "publish_field", field("header", "32767"), none(), None),
        case(
            "publishes with a key of 256 bytes",
            "publish_field",
            field("key", "256"),
            none(),
            Some("bad call"),
        ),
        case(
            "publishes with a content type of 256 bytes",
            "publish_field",
            field("content_type", "256"),
            none(),
            Some("bad call"),
        ),
        case(
            "publishes with headers of more than 32 KiB",
            "publish_field",
            field("header", "32768"),
            none(),
            Some("bad call"),
        ),
    ]
}

fn states() -> Vec<Case> {
    let bytes = |bytes: &str| json!({"bytes": bytes});
    let count = |count: &str| json!({"count": count});
    vec![
        case("writes 101 keys, of 100", "state_many", count("101"), none(), Some("limits.state_writes")),
        case("writes 100 keys, of 100", "state_many", count("100"), none(), None),
        case("writes a value of 64 KiB and a byte", "state_big", bytes("65537"), none(), Some("65536")),
        case("writes a value of 64 KiB", "state_big", bytes("65536"), none(), None),
        case(
            "writes 3 MB of state, of 1 MiB",
            "state_many_big",
            count("50"),
            none(),
            Some("limits.state_bytes"),
        ),
        case("writes under a key of 513 bytes", "state_key", bytes("513"), none(), Some("bad call")),
        case("writes under a key of 512 bytes", "state_key", bytes("512"), none(), None),
        case("writes under a key with a line break", "state_key_control", none(), none(), Some("bad call")),
        case("writes under the empty key", "state_key_empty", none(), none(), Some("bad call")),
        case("lists 1,000 entries at once", "state_list", json!({"limit": "1000"}), none(), None),
        case("lists 1,001 entries at once", "state_list", json!({"limit": "1001"}), none(), Some("bad call")),
        case(
            "lists 4 billion entries at once",
            "state_list",
            json!({"limit": "4294967295"}),
            none(),
            Some("bad call"),
        ),
    ]
}

fn lies() -> Vec<Case> {
    vec![
        case("logs what is no UTF-8", "bad_utf8_log", none(), none(), Some("")),
        case("writes under a key that is no UTF-8", "bad_utf8_key", none(), none(), Some("")),
        case("asks for a configuration that is no UTF-8", "bad_utf8_config", none(), none(), Some("")),
        case("rejects with a reason that is no UTF-8", "bad_utf8_reason", none(), none(), Some("")),
        case("hands over a text that lies outside of its memory", "bad_pointer", none(), none(), Some("")),
    ]
}

/// The table of docs/reliability.md is that of this file.
#[test]
fn the_documented_hostile_plugins_are_those_that_are_tried() {
    let text = std::fs::read_to_string(root().join("docs/reliability.md")).unwrap();
    let (_, table) = text.split_once("| the plugin | what must happen, and does |").unwrap();
    let documented: Vec<&str> = table.lines().skip(2).take_while(|line| line.starts_with('|')).collect();
    let tried: Vec<String> = cases().iter().map(Case::row).collect();
    assert!(tried.len() >= 40, "{}", tried.len());
    assert_eq!(documented, tried, "write it so:\n{}", tried.join("\n"));
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
                let state = server.all(&format!("/subscriptions/{name}/state?prefix=")).await;
                assert!(state.is_empty(), "{what}: nothing of a failed attempt takes effect: {state:?}");
            }
        }
    }
    assert_eq!(server.all("/subscriptions/healthy/state?prefix=").await[0]["value"], 1);
    let story = server.get("/messages/m").await;
    for delivery in story["deliveries"].as_array().unwrap() {
        let published = delivery["published"].as_array().unwrap();
        assert!(delivery["status"] == "acked" || published.is_empty(), "{delivery}");
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

/// A trial more than may run at the same time is told to come again, and is welcome when one has ended.
#[tokio::test(flavor = "multi_thread")]
async fn four_trials_run_at_the_same_time_and_no_fifth() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    server.put("/topics/in", json!({})).await;
    let version = server.upload("hostile", plugin_bytes("hostile")).await;
    let looping =
        json!({"config": {"mode": "loop"}, "limits": {"time_ms": 3_000}, "retry": {"max_attempts": 1}});
    server.subscribe("looping", "in", "hostile", &version, looping).await;
    server.bulk("in", "{\"id\":\"m\",\"payload\":{}}\n".to_owned()).await.unwrap().ok();
    server.idle(&["looping"]).await;
    let trial = || server.call(Method::POST, "/subscriptions/looping/dead-letters/m/try", Some(json!({})));
    let answers = futures::future::join_all((0..5).map(|_| trial())).await;
    let (served, refused): (Vec<_>, Vec<_>) =
        answers.into_iter().partition(|answer| answer.status.is_success());
    assert_eq!((served.len(), refused.len()), (4, 1));
    for answer in refused {
        assert_eq!(answer.problem(503), "unavailable");
    }
    assert_eq!(trial().await.ok()["outcome"], "fault");
}

/// A plugin that makes up names does not fill the catalog, and an operator still can.
#[tokio::test(flavor = "multi_thread")]
async fn handlers_make_topics_until_there_are_ten_thousand() {
    const TOPICS: usize = 10_000;
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    server.put("/topics/in", json!({})).await;
    let version = server.upload("hostile", plugin_bytes("hostile")).await;
    let there = server.all("/topics").await.len();
    let making = (there..TOPICS - 1).map(|number| {
        let server = &server;
        async move { server.put(&format!("/topics/topic-{number}"), json!({})).await }
    });
    futures::stream::iter(making).buffer_unordered(64).for_each(|_| std::future::ready(())).await;
    for name in ["last", "over"] {
        let more = json!({
            "config": {"mode": "echo", "topic": format!("made-{name}")},
        });
        server.subscribe(name, "in", "hostile", &version, more).await;
        if name == "last" {
            server.bulk("in", "{\"id\":\"m\",\"payload\":1}\n".to_owned()).await.unwrap().ok();
            server.idle(&["last"]).await;
            assert_eq!(server.all("/topics").await.len(), TOPICS);
        }
    }
    server.bulk("in", "{\"id\":\"n\",\"payload\":2}\n".to_owned()).await.unwrap().ok();
    eventually("it is told why", PATIENCE, || async {
        let status = server.get("/subscriptions/over").await["status"].to_string();
        status.contains("no topic made-over, and there are 10000 already").then_some(())
    })
    .await;
    server.put("/topics/made-over", json!({})).await;
    server.idle(&["last", "over"]).await;
    assert_eq!(server.get("/queues/over").await["counts"]["dead"], 0);
    assert_eq!(server.terminate().await, Some(0));
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
            wat("(component (import \"wasi:keyvalue/store@0.2.0-draft\" (instance (export \"x\" (func)))))"),
            "wasi:keyvalue/store@0.2.0-draft",
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
