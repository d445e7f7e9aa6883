//! Guests of the draft of `wasi:messaging`: what such a guest is told, what its answers and what it sends come
//! to, and that everything that holds for the own world holds for it.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc, time::Duration};

use brolly_core::{
    Call, Handled, Handler, Message, Name, Nowhere, Outcome, Plugins as _, Subscription, Timestamp, Verdict,
};
use brolly_runtime::{Config, MESSAGING_WORLD, Runtime};
use brolly_tests::{
    eventually, orders,
    project::brolly,
    root,
    server::{Server, another_version, plugin_bytes},
};
use bytes::Bytes;
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::grants::NoState;

/// A subscription of the guest.
struct Rig {
    handler: Arc<dyn Handler>,
    _runtime: Runtime,
    _dir: TempDir,
}

impl Rig {
    fn new(more: &Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime =
            Runtime::new(Config { max_instances: 16, ..Config::new(dir.path().join("cache")) }).unwrap();
        let wasm = plugin_bytes("messaging");
        let admission = runtime.admit(&wasm).unwrap();
        assert_eq!(admission.world, MESSAGING_WORLD);
        assert_eq!(
            admission.imports,
            ["producer", "request-reply", "types"].map(|name| format!("wasi:messaging/{name}@0.2.0-draft"))
        );
        let file = dir.path().join("messaging.wasm");
        fs::write(&file, &wasm).unwrap();
        let version = admission.digest;
        let mut definition = json!({"queue": "q", "plugin": "p", "version": version.to_string()});
        definition.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let subscription: Subscription = serde_json::from_value(definition).unwrap();
        let handler = runtime.handler(&name("s"), &subscription, &version, &file).unwrap();
        Self { handler, _runtime: runtime, _dir: dir }
    }

    /// One attempt at a message with these headers.
    fn deliver(&self, headers: &[(&str, &str)]) -> Handled {
        let text = |text: &&str| (*text).to_owned();
        let message = Message {
            id: "m1".to_owned(),
            topic: name("in"),
            key: "c7".to_owned(),
            content_type: "text/plain".to_owned(),
            headers: headers.iter().map(|(name, value)| (text(name), text(value))).collect(),
            published_at: Timestamp(1_700_000_000_000),
            expires_at: None,
            payload: Bytes::from_static(b"data"),
        };
        self.handler.handle(&Call {
            message: &message,
            subscription: &name("s"),
            attempt: 2,
            last_attempt: true,
            idempotency_key: "s/in/m1",
            state: &NoState,
            outside: &Nowhere,
        })
    }

    fn mode(&self, mode: &str) -> Handled {
        self.deliver(&[("mode", mode)])
    }
}

fn name(name: &str) -> Name {
    Name::new(name).unwrap()
}

/// The only message that it published.
#[track_caller]
fn published(handled: &Handled) -> &brolly_core::Outgoing {
    assert_eq!(handled.verdict, Verdict::Outcome(Outcome::Ack));
    let [one] = handled.effects.publish.as_slice() else { panic!("{:?}", handled.effects) };
    one
}

#[track_caller]
fn is_fault(handled: &Handled, words: &str) {
    let Verdict::Fault(fault) = &handled.verdict else { panic!("no fault: {:?}", handled.verdict) };
    assert!(fault.to_string().contains(words), "{words:?} is not in {fault}");
    assert!(handled.effects.publish.is_empty());
}

#[test]
fn a_delivery_is_told_with_everything_that_is_known_of_it() {
    let rig = Rig::new(&json!({}));
    let told = rig.deliver(&[("mode", "tell"), ("trace", "t"), ("brolly-attempt", "forged")]);
    let expect = [
        "topic Some(\"in\")",
        "type Some(\"text/plain\")",
        "brolly-attempt=2",
        "brolly-idempotency-key=s/in/m1",
        "brolly-key=c7",
        "brolly-last-attempt=true",
        "brolly-message-id=m1",
        "brolly-published-at-ms=1700000000000",
        "brolly-subscription=s",
        "mode=tell",
        "trace=t",
    ];
    let message = &published(&told).message;
    assert_eq!(String::from_utf8_lossy(&message.payload), expect.join("\n"));
    assert_eq!((message.id.as_deref(), message.key.as_str()), (Some("s/in/m1/0"), ""));
}

#[test]
fn what_it_sends_on_is_a_message_of_its_own() {
    let rig = Rig::new(&json!({}));
    let sent = rig.deliver(&[("mode", "forward"), ("trace", "t"), ("brolly-publish-id", "forged")]);
    let sent = published(&sent);
    assert_eq!(
        (sent.topic.as_str(), sent.message.payload.as_ref()),
        ("forwarded.out", &b"data and more"[..])
    );
    assert_eq!((sent.message.id.as_deref(), sent.message.key.as_str()), (Some("s/in/m1/0"), "c7"));
    assert_eq!(sent.message.headers, BTreeMap::from([("trace".to_owned(), "t".to_owned())]));
}

#[test]
fn its_errors_are_retries_or_rejections_and_nothing_that_it_sent_takes_effect() {
    let rig = Rig::new(&json!({}));
    let retry = |reason: &str| Outcome::Retry { reason: reason.to_owned(), delay: None, dependency: None };
    let reject = |reason: &str| Outcome::Reject { reason: reason.to_owned() };
    for (mode, expect) in [
        ("timeout", retry("timeout")),
        ("connection", retry("connection: the bank is silent")),
        ("other", retry("something else")),
        ("denied", reject("permission denied: not this customer")),
    ] {
        let handled = rig.mode(mode);
        assert_eq!(handled.verdict, Verdict::Outcome(expect), "{mode}");
        assert!(handled.effects.publish.is_empty(), "{mode}");
    }
}

#[test]
fn limits_and_grants_hold_for_it() {
    let rig = Rig::new(&json!({}));
    is_fault(&rig.mode("bad_topic"), "bad call: publish:");
    is_fault(&rig.mode("trap"), "trap");
    for (mode, function) in [("request", "request"), ("reply", "reply"), ("options", "request-options")] {
        is_fault(&rig.mode(mode), &format!("request-reply {function}; no grant lets a handler wait"));
    }
    let nothing = Rig::new(&json!({"grants": {"publish": ["elsewhere"]}}));
    is_fault(&nothing.mode("tell"), "to publish to the topic told.out (grants.publish");
    let few = Rig::new(&json!({"limits": {"publish_messages": 0}}));
    is_fault(&few.mode("tell"), "limits.publish_messages");
    let small = Rig::new(&json!({"limits": {"publish_bytes": 20}}));
    is_fault(&small.mode("tell"), "limits.publish_bytes");
}

#[test]
fn what_the_host_holds_for_it_is_bounded() {
    let limit = 4 << 20;
    let rig = Rig::new(&json!({"limits": {"memory_bytes": limit}}));
    let fill = |bytes: u64| rig.deliver(&[("mode", "messages"), ("bytes", &bytes.to_string())]);
    assert_eq!(fill(limit - 65_536).verdict, Verdict::Outcome(Outcome::Ack));
    is_fault(&fill(limit + 65_536), "(limits.memory_bytes)");
    let connect = |count: u32| rig.deliver(&[("mode", "clients"), ("count", &count.to_string())]);
    // The message is one of them.
    assert_eq!(connect(511).verdict, Verdict::Outcome(Outcome::Ack));
    is_fault(&connect(512), "513 handles of WASI interfaces");
}

#[test]
fn an_instance_that_is_used_again_has_let_go_of_its_message() {
    for instances in ["fresh", "reuse"] {
        let rig = Rig::new(&json!({"instances": instances}));
        for _ in 0..3 {
            // A second one in the same instance would be the second that it keeps.
            assert_eq!(published(&rig.mode("keep")).message.payload.as_ref(), b"1", "{instances}");
            assert_eq!(published(&rig.mode("forward")).topic.as_str(), "forwarded.out");
        }
    }
}

const QUEUE: &[&str] = &["receipts"];

/// A subscription to `orders.paid`.
async fn subscribed(server: &Server, more: Value) -> String {
    server.put("/topics/orders.paid", json!({})).await;
    server.put("/topics/receipts.out", json!({})).await;
    let version = server.upload("receipts", plugin_bytes("messaging")).await;
    server.subscribe("receipts", "orders.paid", "receipts", &version, more).await;
    server.put("/queues/kept", json!({})).await;
    server.put("/routes/kept", json!({"topic": "receipts.out", "queue": "kept"})).await;
    version
}

#[tokio::test(flavor = "multi_thread")]
async fn every_real_order_has_one_receipt_on_a_running_host() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let version = subscribed(&server, json!({"workers": 2, "instances": "reuse"})).await;
    let orders = orders::real();
    server.bulk("orders.paid", orders::ndjson(&orders)).await.unwrap().ok();
    server.idle(QUEUE).await;
    let kept = &server.get("/queues/kept").await["counts"]["ready"];
    assert_eq!(kept.as_u64(), Some(orders.len() as u64));
    let first = server.get(&format!("/messages/receipt-{}", orders[0].order_id)).await;
    let message = &first["message"];
    assert_eq!(message["key"], orders[0].customer_id.as_str());
    assert_eq!(message["headers"], json!({"kind": "receipt"}), "{message}");

    // Another version beside it, on copies.
    let other = server.upload("receipts", another_version(plugin_bytes("messaging"), "shadow")).await;
    assert_ne!(version, other);
    let rollout = json!({"version": other, "mode": "shadow", "percent": 100});
    server.put("/subscriptions/receipts/rollout", rollout).await;
    let more = orders::named("again-", &orders[..50]);
    server.bulk("orders.paid", orders::ndjson(&more)).await.unwrap().ok();
    server.idle(QUEUE).await;
    let report = eventually("all are compared", Duration::from_secs(30), || async {
        let report = server.get("/subscriptions/receipts/rollout").await;
        (report["compared"].as_u64()? == 50).then_some(report)
    });
    let report = report.await;
    assert_eq!(report["same"].as_u64(), Some(50), "{report}");
    assert_eq!(server.terminate().await, Some(0));
}

fn replayed(dir: &Path, file: &str) -> String {
    let wasm = root().join("target/test-plugins/messaging.wasm");
    brolly(dir, None, &["replay", file, "--plugin", wasm.to_str().unwrap()], 0).0
}

#[tokio::test(flavor = "multi_thread")]
async fn its_failure_is_taken_home_and_made_again_offline() {
    let (data, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start(data.path()).await;
    subscribed(&server, json!({})).await;
    let request = server.request(Method::POST, "/topics/orders.paid/messages?id=o1&key=c1");
    server.send(request.body("not an order")).await.ok();
    server.idle(QUEUE).await;
    let dead = server.all("/subscriptions/receipts/dead-letters").await;
    let reason = dead[0]["reason"].as_str().unwrap().to_owned();
    assert!(reason.starts_with("permission denied: no order: expected"), "{reason}");
    let (files, _) = brolly(dir.path(), Some(&server), &["capture", "receipts", "--out", "captures"], 0);
    assert_eq!(server.terminate().await, Some(0));
    let same = replayed(dir.path(), files.lines().next().unwrap());
    assert!(same.contains(&reason) && same.ends_with("the same, bit for bit\n"), "{same}");
}

#[test]
fn samples_test_it_offline() {
    let dir = tempfile::tempdir().unwrap();
    let samples = r#"
topic = "orders.paid"
[[sample]]
name = "a receipt"
message.payload = { order_id = "o1", customer_id = "c1", amount_cents = 5 }
expect = { outcome = "ack", published = [{ topic = "receipts.out", id = "receipt-o1", key = "c1", payload = { paid = 5 } }] }
[[sample]]
name = "no order"
message.payload = "x"
expect = { outcome = "reject", reason = "permission denied: no order" }
"#;
    fs::write(dir.path().join("samples.toml"), samples).unwrap();
    let wasm = root().join("target/test-plugins/messaging.wasm");
    let arguments = ["test", "samples.toml", "--plugin", wasm.to_str().unwrap()];
    assert!(brolly(dir.path(), None, &arguments, 0).0.contains("2 passed, 0 failed"));
}
