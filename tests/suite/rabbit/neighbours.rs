//! Other programs on the same server: what they publish arrives whole, what Brolly publishes is
//! plain AMQP. Once as any Rust program would do it (lapin), once in Python (pika).

use std::time::Duration;

use brolly_tests::{
    eventually,
    python::Python,
    rabbit::{Options, Rabbit},
    server::{PATIENCE, Server, plugin_bytes},
    skip,
};
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{BasicPublishOptions, BasicQosOptions},
    types::{AMQPValue, ByteArray, FieldTable},
};
use serde_json::{Value, json};

const MIB: usize = 1024 * 1024;

/// A host whose subscription `s` takes from the queue `q`, to which everything of the topic `t` goes.
async fn listening(dir: &std::path::Path, url: &str) -> Server {
    let server = super::host(dir, url, json!({})).await;
    super::broker_is(&server, "connected").await;
    server.put("/topics/t", json!({"broker": "rabbit"})).await;
    // A template that needs nothing: whatever comes is rejected or acknowledged, and its history is kept.
    let version = server.upload("notification", plugin_bytes("notification")).await;
    server.subscribe("q", "t", "notification", &version, json!({"retry": {"max_attempts": 1}})).await;
    server
}

async fn publish(channel: &Channel, exchange: &str, key: &str, body: &[u8], properties: BasicProperties) {
    let options = BasicPublishOptions::default();
    let sent = channel.basic_publish(exchange.into(), key.into(), options, body, properties);
    sent.await.unwrap().await.unwrap();
}

/// The message of this topic with this key.
async fn arrived(server: &Server, topic: &str, key: &str) -> Value {
    eventually(&format!("the message with the key {key} arrives"), PATIENCE, || async {
        let found = server.all(&format!("/messages?topic={topic}&key={key}")).await;
        let id = found.first()?["id"].as_str()?.to_owned();
        let encoded = id.replace('/', "%2F").replace('#', "%23").replace(':', "%3A");
        Some(server.get(&format!("/messages/{encoded}")).await)
    })
    .await
}

fn table(entries: Vec<(&str, AMQPValue)>) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert(name.into(), value);
    }
    table
}

/// Headers of every sort that AMQP has.
fn odd_headers() -> FieldTable {
    table(vec![
        ("text", AMQPValue::LongString("déjà".into())),
        ("number", AMQPValue::LongLongInt(-7)),
        ("yes", AMQPValue::Boolean(true)),
        ("nested", AMQPValue::FieldTable(table(vec![("a", AMQPValue::LongInt(1))]))),
        ("bytes", AMQPValue::ByteArray(ByteArray::from(vec![0xff, 0x00]))),
        ("nothing", AMQPValue::Void),
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_another_program_publishes_arrives_whole() {
    let Some(rabbit) = super::rabbit("messages of other programs over RabbitMQ").await else { return };
    let (vhost, dir) = (rabbit.vhost().await, tempfile::tempdir().unwrap());
    let server = listening(dir.path(), &vhost.url).await;
    let connection = Connection::connect(&vhost.url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();

    let properties = BasicProperties::default()
        .with_message_id("own-id".into())
        .with_content_type("application/json".into())
        .with_correlation_id("c-1".into())
        .with_priority(7)
        .with_headers(odd_headers());
    publish(&channel, "t", "odd", br#"{"order_id":"1"}"#, properties).await;
    let odd = arrived(&server, "t", "odd").await["message"].clone();
    assert_eq!(odd["id"], "own-id");
    assert_eq!(odd["content_type"], "application/json");
    let headers = &odd["headers"];
    let expect = [
        ("text", "déjà"),
        ("number", "-7"),
        ("yes", "true"),
        ("amqp-correlation-id", "c-1"),
        ("amqp-priority", "7"),
    ];
    for (name, value) in expect {
        assert_eq!(headers[name], value, "{headers}");
    }
    assert_eq!(serde_json::from_str::<Value>(headers["nested"].as_str().unwrap()).unwrap(), json!({"a": 1}));
    assert!(headers["bytes"].as_str().unwrap().starts_with("base64:"), "{headers}");

    let ce = table(vec![
        ("cloudEvents:id", AMQPValue::LongString("e1".into())),
        ("cloudEvents:source", AMQPValue::LongString("shop".into())),
    ]);
    publish(&channel, "t", "ce", b"{}", BasicProperties::default().with_headers(ce)).await;
    assert_eq!(arrived(&server, "t", "ce").await["message"]["id"], "shop#e1");

    publish(&channel, "t", "empty", b"", BasicProperties::default()).await;
    let empty = arrived(&server, "t", "empty").await["message"].clone();
    assert!(empty["id"].as_str().unwrap().starts_with("sha256-"), "{empty}");

    publish(&channel, "t", "binary", &[0, 159, 146, 150], BasicProperties::default()).await;
    arrived(&server, "t", "binary").await;
    publish(&channel, "t", "large", &vec![b'x'; 16 * MIB], BasicProperties::default()).await;
    let large = arrived(&server, "t", "large").await;
    assert_eq!(
        large["message"]["size_bytes"]
            .as_u64()
            .or(large["message"]["payload"].as_str().map(|p| p.len() as u64)),
        Some(16 * MIB as u64)
    );

    // Beyond the limit: a dead letter that says so.
    publish(&channel, "t", "larger", &vec![b'x'; 16 * MIB + 1], BasicProperties::default()).await;
    let larger = arrived(&server, "t", "larger").await;
    let attempt = &larger["deliveries"][0]["attempts"][0];
    assert_eq!(attempt["outcome"], "unfit", "{attempt}");

    // Equal in everything, and yet two messages; the same id twice is one.
    for _ in 0..3 {
        publish(&channel, "t", "equal", b"same", BasicProperties::default()).await;
        publish(&channel, "t", "once", b"same", BasicProperties::default().with_message_id("twice".into()))
            .await;
    }
    eventually("all three equal messages arrive", PATIENCE, || async {
        (server.all("/messages?topic=t&key=equal").await.len() == 3).then_some(())
    })
    .await;
    server.idle(&["q"]).await;
    assert_eq!(server.all("/messages?topic=t&key=once").await.len(), 1);
    assert_eq!(server.terminate().await, Some(0));
}

/// Another program, which takes three messages of the queue `q` and keeps them.
async fn takes_three(url: &str) -> (Connection, lapin::Consumer) {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.basic_qos(3, BasicQosOptions::default()).await.unwrap();
    let consumer = channel.basic_consume("q".into(), "".into(), Default::default(), FieldTable::default());
    (connection, consumer.await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_management_api_tells_what_other_consumers_hold() {
    if let Err(why) = Rabbit::available() {
        return skip("the management API of RabbitMQ", &why);
    }
    let rabbit = Rabbit::with(Options { management: true, ..Options::default() }).await;
    let (vhost, dir) = (rabbit.vhost().await, tempfile::tempdir().unwrap());
    let server = super::host(dir.path(), &vhost.url, json!({"management": rabbit.management_url()})).await;
    let broker = super::broker_is(&server, "connected").await;
    assert!(broker["management"].as_str().is_some_and(|url| url.contains(":***@")), "{broker}");
    server.put("/topics/t", json!({"broker": "rabbit"})).await;
    server.put("/queues/q", json!({"broker": "rabbit"})).await;
    server.put("/routes/r", json!({"topic": "t", "queue": "q"})).await;
    server.bulk("t", "{\"payload\":1}\n".repeat(5)).await.unwrap().ok();
    let (_connection, consumer) = takes_three(&vhost.url).await;
    eventually("what the other one holds is counted", PATIENCE, || async {
        let counts = server.get("/queues/q").await["counts"].clone();
        (counts["ready"] == 2 && counts["in_flight"] == 3).then_some(())
    })
    .await;
    drop(consumer);
    assert_eq!(server.terminate().await, Some(0));
}

/// Without the management API it is only known that there are others.
#[tokio::test(flavor = "multi_thread")]
async fn a_forward_is_not_complete_while_others_may_hold_messages() {
    let Some(rabbit) = super::rabbit("a forward beside another consumer").await else { return };
    let (vhost, dir) = (rabbit.vhost().await, tempfile::tempdir().unwrap());
    let server = super::host(dir.path(), &vhost.url, json!({})).await;
    super::broker_is(&server, "connected").await;
    for (topic, queue) in [("old", "q"), ("new", "p")] {
        server.put(&format!("/topics/{topic}"), json!({"broker": "rabbit"})).await;
        server.put(&format!("/queues/{queue}"), json!({"broker": "rabbit"})).await;
        server.put(&format!("/routes/{queue}"), json!({"topic": topic, "queue": queue})).await;
    }
    let (connection, consumer) = takes_three(&vhost.url).await;
    server.bulk("old", "{\"payload\":1}\n".repeat(5)).await.unwrap().ok();
    server.put("/subscriptions/move", json!({"queue": "q", "forward": {"topic": "new"}})).await;
    let forwarded = async |count: u64| {
        eventually(&format!("{count} are forwarded"), PATIENCE, || async {
            let forward = server.get("/subscriptions/move/forward").await;
            (forward["forwarded"] == count && forward["from"]["counts"]["in_flight"] == 0).then_some(forward)
        })
        .await
    };
    let waits = forwarded(2).await;
    assert_eq!(waits["from"]["counts"]["ready"], 0, "{waits}");
    assert_eq!((&waits["from"]["elsewhere"], &waits["complete"]), (&json!(true), &json!(false)), "{waits}");
    connection.close(200, "OK".into()).await.unwrap();
    forwarded(5).await;
    eventually("it is complete", PATIENCE, || async {
        (server.get("/subscriptions/move/forward").await["complete"] == true).then_some(())
    })
    .await;
    drop(consumer);
    assert_eq!(server.terminate().await, Some(0));
}

/// pika publishes what Brolly handles, and reads what Brolly publishes.
#[tokio::test(flavor = "multi_thread")]
async fn a_python_program_works_beside_brolly() {
    let Some(python) = Python::with("pika beside Brolly", &["pika"]).await else { return };
    let Some(rabbit) = super::rabbit("pika beside Brolly").await else { return };
    let (vhost, dir) = (rabbit.vhost().await, tempfile::tempdir().unwrap());
    let server = listening(dir.path(), &vhost.url).await;
    let script = r##"
import json, pika, sys
channel = pika.BlockingConnection(pika.URLParameters(sys.argv[1])).channel()
channel.queue_declare("listens", durable=True)
channel.queue_bind("listens", "notifications.out", "#")
for number in range(100):
    order = {"order_id": f"p{number}", "customer_id": "7", "paid_on": "1997-01-01", "quantity": 1, "amount_cents": 100}
    properties = pika.BasicProperties(message_id=f"p{number}", content_type="application/json")
    channel.basic_publish("t", "7", json.dumps(order), properties)
seen = set()
for method, properties, body in channel.consume("listens", inactivity_timeout=30):
    if method is None:
        break
    channel.basic_ack(method.delivery_tag)
    seen.add(properties.message_id)
    if len(seen) == 100:
        break
print(json.dumps({"seen": len(seen), "type": properties.content_type, "body": body.decode()}))
"##;
    server.put("/topics/notifications.out", json!({"broker": "rabbit"})).await;
    let output =
        tokio::time::timeout(Duration::from_secs(120), python.run(script, &[&vhost.url])).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["seen"], 100, "{said}");
    assert!(said["body"].as_str().is_some_and(|body| !body.is_empty()), "{said}");
    assert_eq!(server.all("/messages?topic=notifications.out").await.len(), 100);
    assert_eq!(server.terminate().await, Some(0));
}

/// Five bytes a level, and RabbitMQ takes them: nobody may end the host by that.
#[tokio::test(flavor = "multi_thread")]
async fn headers_that_are_nested_without_end_make_a_dead_letter_and_no_more() {
    let Some(python) = Python::with("nested headers", &["pika"]).await else { return };
    let Some(rabbit) = super::rabbit("nested headers").await else { return };
    let (vhost, dir) = (rabbit.vhost().await, tempfile::tempdir().unwrap());
    let server = listening(dir.path(), &vhost.url).await;
    let script = r#"
import pika, sys, threading
sys.setrecursionlimit(1_000_000)
threading.stack_size(512 * 1024 * 1024)
def publish():
    connection = pika.BlockingConnection(pika.URLParameters(sys.argv[1]))
    channel = connection.channel()
    for levels in [63, 64, 1_000, 20_000, 1]:
        value = "v"
        for _ in range(levels):
            value = [value]
        properties = pika.BasicProperties(message_id=f"levels-{levels}", headers={"nested": value})
        channel.basic_publish("t", f"levels-{levels}", b"{}", properties)
    connection.close()
thread = threading.Thread(target=publish)
thread.start()
thread.join()
"#;
    let output = python.run(script, &[&vhost.url]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let attempt = async |levels: u32| {
        let story = arrived(&server, "t", &format!("levels-{levels}")).await;
        assert_eq!(story["message"]["id"], format!("levels-{levels}"));
        (story["deliveries"][0]["attempts"][0].clone(), story["message"]["headers"].clone())
    };
    for levels in [1, 63] {
        let (attempt, headers) = attempt(levels).await;
        assert_ne!(attempt["outcome"], "unfit", "{attempt}");
        let nested = headers["nested"].as_str().unwrap();
        assert_eq!(nested.matches('[').count(), levels as usize, "{nested}");
    }
    for levels in [64, 1_000, 20_000] {
        let (attempt, headers) = attempt(levels).await;
        assert_eq!(attempt["outcome"], "unfit", "{attempt}");
        assert!(attempt["reason"].as_str().unwrap().contains("more than 64 levels deep"), "{attempt}");
        assert!(headers["nested"].as_str().unwrap().starts_with("base64:"), "{headers}");
    }
    server.idle(&["q"]).await;
    assert_eq!(server.terminate().await, Some(0));
}

/// RabbitMQ takes bytes that are no text where AMQP has texts, and they must not stand in the way of others.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_text_makes_a_dead_letter_and_stops_nobody() {
    let Some(python) = Python::with("texts that are none", &["pika"]).await else { return };
    let Some(rabbit) = super::rabbit("texts that are none").await else { return };
    let (vhost, dir) = (rabbit.vhost().await, tempfile::tempdir().unwrap());
    let server = listening(dir.path(), &vhost.url).await;
    let script = r#"
import pika, sys
channel = pika.BlockingConnection(pika.URLParameters(sys.argv[1])).channel()
channel.confirm_delivery()
def publish(key, **properties):
    channel.basic_publish("t", key, b"x", pika.BasicProperties(**properties))
publish("before")
publish("id", message_id=b"\xff\xfe", headers={"kept": "as it was"})
publish("correlation", correlation_id=b"\xc3", message_id="correlation")
publish("name", headers={b"\xffname": "v"}, message_id="name")
publish("inner", headers={"table": {b"\xff": 1}}, message_id="inner")
publish(b"\xffkey", message_id="key")
publish("after")
"#;
    let output = python.run(script, &[&vhost.url]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for (key, why, header, bytes) in [
        ("id", "its message-id is not UTF-8", "amqp-message-id", "base64://4="),
        ("correlation", "its correlation-id is not UTF-8", "amqp-correlation-id", "base64:ww=="),
        ("name", "the name of a header is not UTF-8", "\u{fffd}name", "v"),
        ("inner", "the name of a header is not UTF-8", "table", "base64:"),
        ("\u{fffd}key", "its routing-key is not UTF-8", "amqp-routing-key", "base64:/2tleQ=="),
    ] {
        let story = arrived(&server, "t", key).await;
        let attempt = &story["deliveries"][0]["attempts"][0];
        assert_eq!(attempt["outcome"], "unfit", "{key}: {attempt}");
        assert!(attempt["reason"].as_str().unwrap().contains(why), "{key}: {attempt}");
        let headers = &story["message"]["headers"];
        assert!(headers[header].as_str().unwrap().starts_with(bytes), "{key}: {headers}");
    }
    assert_eq!(arrived(&server, "t", "id").await["message"]["headers"]["kept"], "as it was");
    for key in ["before", "after"] {
        let story = arrived(&server, "t", key).await;
        assert_ne!(story["deliveries"][0]["attempts"][0]["outcome"], "unfit", "{story}");
    }
    server.idle(&["q"]).await;
    assert_eq!(server.get("/brokers/rabbit").await["status"]["state"], "connected");
    assert_eq!(server.terminate().await, Some(0));
}

/// A host that is killed while it publishes may have brought a message to some of its queues and not to
/// others: until a publish is confirmed, RabbitMQ promises nothing. A queue may have been handled by the
/// time the producer publishes again, which must reach the others all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_publish_that_was_cut_off_is_made_good_by_publishing_again() {
    let Some(rabbit) = super::rabbit("publishing again over RabbitMQ").await else { return };
    let (vhost, dir) = (rabbit.vhost().await, tempfile::tempdir().unwrap());
    let server = super::host(dir.path(), &vhost.url, json!({})).await;
    server.set_up_samples().await;
    let order = json!({"order_id": "o1", "customer_id": "c", "paid_on": "1997-01-01", "quantity": 1,
        "amount_cents": 1_000});
    let connection = Connection::connect(&vhost.url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let topic = table(vec![("x-brolly-topic", AMQPValue::LongString("orders.paid".into()))]);
    let properties = BasicProperties::default().with_message_id("o1".into()).with_headers(topic);
    publish(&channel, "", "activity", order.to_string().as_bytes(), properties).await;
    handled_by(&server, 1).await;
    for duplicate in [false, true] {
        let line = || json!({"id": "o1", "key": "c", "payload": order}).to_string();
        // An outcome can be read a moment before its delivery lets go of the id; a publish is told to try again.
        let answer = eventually("the id is let go of", PATIENCE, || async {
            let answer = server.bulk("orders.paid", line()).await.unwrap();
            (answer.status != 503).then(|| answer.ok())
        })
        .await;
        assert_eq!(answer["duplicates"], u64::from(duplicate), "{answer}");
        let story = handled_by(&server, 3).await;
        for delivery in story["deliveries"].as_array().unwrap() {
            assert_eq!(delivery["attempts"].as_array().unwrap().len(), 1, "{delivery}");
        }
    }
    server.idle(&brolly_tests::flow::QUEUES).await;
    let points = server.get("/subscriptions/activity/state?prefix=points/").await;
    assert_eq!(points["items"][0]["value"], json!({"orders": 1, "points": 10}));
}

/// The story of the order `o1`, once so many subscriptions have handled it.
async fn handled_by(server: &Server, wanted: usize) -> Value {
    eventually("every queue that has it has handled it", PATIENCE, || async {
        let story = server.call(reqwest::Method::GET, "/messages/o1", None).await.body;
        let acked = story["deliveries"].as_array()?.iter().filter(|delivery| delivery["status"] == "acked");
        (acked.count() == wanted).then_some(story)
    })
    .await
}
