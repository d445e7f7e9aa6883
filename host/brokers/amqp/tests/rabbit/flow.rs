//! Messages there and back.

use std::{collections::BTreeMap, time::Duration};

use brolly_core::{Broker, NewMessage, Order, Settlement};
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use tokio::time::Instant;

use crate::bench::{Bench, drain, eventually, message, name, next, server};

#[tokio::test(flavor = "multi_thread")]
async fn a_message_arrives_as_it_was_published_and_is_gone_once_settled() {
    let Some(url) = server("round trip").await else { return };
    let bench = Bench::simple(&url).await;
    let source = bench.consume("q").await;
    let headers = BTreeMap::from([
        ("plain".to_owned(), "täxt".to_owned()),
        ("amqp-correlation-id".to_owned(), "c".to_owned()),
        ("amqp-priority".to_owned(), "high".to_owned()),
        ("CC".to_owned(), "no route".to_owned()),
        ("x-death".to_owned(), "no death".to_owned()),
        ("n".repeat(300), "long name".to_owned()),
    ]);
    let new = NewMessage {
        id: Some("i".repeat(256)),
        key: "a.b".into(),
        content_type: "text/plain".into(),
        headers: headers.clone(),
        expires_ms: Some(60_000),
        payload: vec![0, 159, 146].into(),
        ..NewMessage::default()
    };
    bench.broker.publish(&name("t"), vec![new.clone()]).await.unwrap();
    let delivery = next(&source).await;
    let message = &delivery.message;
    assert_eq!(message.id, new.id.unwrap());
    assert_eq!((message.topic.as_str(), message.key.as_str()), ("t", "a.b"));
    assert_eq!(message.content_type, "text/plain");
    assert_eq!(message.headers, headers);
    assert_eq!(message.payload, new.payload);
    assert_eq!(message.expires_at.unwrap().since(message.published_at), Duration::from_secs(60));
    assert_eq!((delivery.attempts, delivery.unfit), (0, None));
    bench.until_counts("q", (0, 1, 0)).await;
    source.settle(delivery.lease, Settlement::Ack);
    bench.until_counts("q", (0, 0, 0)).await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_messages_all_arrive_and_are_settled() {
    let Some(url) = server("many").await else { return };
    let bench = Bench::simple(&url).await;
    let source = bench.consume_with("q", 1_000, Order::None).await;
    let ids: Vec<String> = (0..5_000).map(|n| format!("m{n}")).collect();
    let began = Instant::now();
    for part in ids.chunks(1_000) {
        let messages = part.iter().map(|id| message(id)).collect();
        bench.broker.publish(&name("t"), messages).await.unwrap();
    }
    println!("published 5000 in {:?}", began.elapsed());
    let mut received = drain(&source, ids.len()).await;
    println!("handled 5000 after {:?}", began.elapsed());
    // What a topic promises to one publisher who waits for each answer.
    assert_eq!(received, ids);
    received.sort();
    received.dedup();
    assert_eq!(received.len(), ids.len());
    bench.until_counts("q", (0, 0, 0)).await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_settled_out_of_order_is_settled() {
    let Some(url) = server("out of order").await else { return };
    let bench = Bench::simple(&url).await;
    let source = bench.consume("q").await;
    let ids: Vec<String> = (0..80).map(|n| format!("m{n}")).collect();
    bench.publish(&ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut held = Vec::new();
    for _ in &ids {
        held.push(next(&source).await);
    }
    let first = held.remove(0);
    for delivery in held.iter().rev() {
        source.settle(delivery.lease, Settlement::Ack);
    }
    bench.until_counts("q", (0, 1, 0)).await;
    source.close();
    source.settle(first.lease, Settlement::Ack);
    bench.until_counts("q", (0, 0, 0)).await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_waits_on_the_server_and_remembers_its_attempts() {
    let Some(url) = server("retry").await else { return };
    let bench = Bench::simple(&url).await;
    let source = bench.consume("q").await;
    let new = NewMessage {
        key: "k".into(),
        headers: BTreeMap::from([("h".into(), "v".into()), ("CC".into(), "x".into())]),
        ..message("m")
    };
    bench.broker.publish(&name("t"), vec![new]).await.unwrap();
    let delivery = next(&source).await;
    let first = delivery.message.clone();
    let began = Instant::now();
    source.settle(delivery.lease, Settlement::Retry { delay: Duration::from_millis(700), attempts: 3 });
    bench.until_counts("q", (0, 0, 1)).await;
    let delivery = next(&source).await;
    let waited = began.elapsed();
    assert!(waited >= Duration::from_millis(650) && waited < Duration::from_millis(2_500), "{waited:?}");
    assert_eq!(delivery.attempts, 3);
    assert_eq!(*delivery.message, *first);
    // One that is due at once takes no way round.
    source.settle(delivery.lease, Settlement::Retry { delay: Duration::from_millis(10), attempts: 4 });
    let delivery = next(&source).await;
    assert_eq!((delivery.attempts, &*delivery.message), (4, &*first));
    source.settle(delivery.lease, Settlement::Ack);
    bench.until_counts("q", (0, 0, 0)).await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delayed_publish_waits() {
    let Some(url) = server("delayed publish").await else { return };
    let bench = Bench::simple(&url).await;
    let source = bench.consume("q").await;
    let began = Instant::now();
    let new = NewMessage { delay_ms: Some(500), key: "k".into(), ..message("m") };
    bench.broker.publish(&name("t"), vec![new]).await.unwrap();
    let delivery = next(&source).await;
    assert!(began.elapsed() >= Duration::from_millis(450));
    assert_eq!((delivery.message.topic.as_str(), delivery.message.key.as_str()), ("t", "k"));
    assert_eq!(delivery.attempts, 0);
    source.settle(delivery.lease, Settlement::Ack);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_are_asked_when_a_message_arrives() {
    let Some(url) = server("filter").await else { return };
    let mut bench = Bench::simple(&url).await;
    bench.routes.clear();
    bench.route("r", "t", "q", |route| {
        route.key_pattern = "paid.*".into();
        route.filter = Some("headers.country == 'de'".into());
    });
    bench.configure().await;
    let foreign = bench.foreign().await;
    let source = bench.consume("q").await;
    for (key, country) in [("paid.a", "fr"), ("open.a", "de"), ("paid.b", "de")] {
        let headers =
            FieldTable::from(BTreeMap::from([("country".into(), AMQPValue::LongString(country.into()))]));
        let properties = BasicProperties::default().with_headers(headers).with_message_id(key.into());
        foreign.publish(&bench.address("t"), key, properties, b"").await;
    }
    assert_eq!(drain(&source, 1).await, ["paid.b"]);
    bench.until_counts("q", (0, 0, 0)).await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_others_are_understood() {
    let Some(url) = server("foreign messages").await else { return };
    let bench = Bench::simple(&url).await;
    let source = bench.consume("q").await;
    let foreign = bench.foreign().await;
    let headers = FieldTable::from(BTreeMap::from([
        ("number".into(), AMQPValue::LongInt(-7)),
        ("flag".into(), AMQPValue::Boolean(true)),
        ("list".into(), AMQPValue::FieldArray(vec![AMQPValue::LongInt(1)].into())),
    ]));
    let properties = BasicProperties::default()
        .with_headers(headers)
        .with_correlation_id("c".into())
        .with_type("paid".into())
        .with_timestamp(1_700_000_000);
    foreign.publish(&bench.address("t"), "k", properties.clone(), b"one").await;
    let delivery = next(&source).await;
    let message = &delivery.message;
    assert!(message.id.starts_with("sha256-") && message.id.len() == 39, "{}", message.id);
    assert_eq!(message.published_at.0, 1_700_000_000_000);
    let expect = [
        ("amqp-correlation-id", "c"),
        ("amqp-type", "paid"),
        ("flag", "true"),
        ("list", "[1]"),
        ("number", "-7"),
    ];
    let expect: BTreeMap<String, String> = expect.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    assert_eq!(message.headers, expect);
    source.settle(delivery.lease, Settlement::Ack);
    // Straight to the queue, without an exchange.
    foreign.publish("", &bench.address("q"), BasicProperties::default(), b"two").await;
    let delivery = next(&source).await;
    assert_eq!((delivery.message.topic.as_str(), delivery.message.key.as_str()), ("q", ""));
    source.settle(delivery.lease, Settlement::Ack);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_rabbitmq_gives_up_comes_as_unfit() {
    let Some(url) = server("given up").await else { return };
    let bench = Bench::simple(&url).await;
    let foreign = bench.foreign().await;
    let properties = BasicProperties::default().with_expiration("1".into()).with_message_id("late".into());
    foreign.publish(&bench.address("t"), "k", properties, b"").await;
    bench.until_counts("q", (1, 0, 0)).await;
    let dead = format!("{}.dead", bench.address("q"));
    eventually("it is a dead letter", || async { (foreign.count(&dead).await == 1).then_some(()) }).await;
    let source = bench.consume("q").await;
    let delivery = next(&source).await;
    assert_eq!(delivery.unfit.as_deref(), Some("RabbitMQ gave it up: expired"));
    assert_eq!(delivery.message.id, "late");
    assert_eq!((delivery.message.topic.as_str(), delivery.message.key.as_str()), ("t", "k"));
    source.settle(delivery.lease, Settlement::Ack);
    bench.until_counts("q", (0, 0, 0)).await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_is_handled_in_order() {
    let Some(url) = server("order").await else { return };
    let bench = Bench::simple(&url).await;
    let messages = ["a", "b", "c"].map(|id| NewMessage { key: "k".into(), ..message(id) });
    bench.broker.publish(&name("t"), messages.into()).await.unwrap();
    let source = bench.consume_with("q", 10, Order::Key).await;
    let first = next(&source).await;
    assert_eq!(first.message.id, "a");
    source.settle(first.lease, Settlement::Retry { delay: Duration::from_millis(200), attempts: 1 });
    assert_eq!(drain(&source, 3).await, ["a", "b", "c"]);
    bench.end().await;
}
