//! The largest messages, and what goes beyond.

use brolly_core::{Broker, NewMessage, Settlement, message_limits as limits};
use lapin::{
    BasicProperties,
    options::{BasicGetOptions, BasicNackOptions},
};

use crate::bench::{Bench, eventually, message, name, next, server};

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_messages_pass() {
    let Some(url) = server("largest").await else { return };
    let bench = Bench::simple(&url).await;
    let source = bench.consume("q").await;
    let payload: Vec<u8> = (0..limits::PAYLOAD_BYTES).map(|n| n as u8).collect();
    let value = "v".repeat(limits::HEADER_BYTES / limits::HEADERS - 3);
    let headers = (0..limits::HEADERS).map(|n| (format!("{n:03}"), value.clone())).collect();
    let new = NewMessage { payload: payload.into(), headers, key: "k".repeat(255), ..message("large") };
    bench
        .broker
        .publish(
            &name("t"),
            vec![new.clone(), NewMessage { id: Some("empty".into()), ..NewMessage::default() }],
        )
        .await
        .unwrap();
    let (large, empty) = (next(&source).await, next(&source).await);
    assert!(large.message.payload == new.payload && large.message.headers == new.headers);
    assert_eq!(large.unfit, None);
    assert!(empty.message.id == "empty" && empty.message.payload.is_empty());
    for delivery in [large, empty] {
        source.settle(delivery.lease, Settlement::Ack);
    }
    let foreign = bench.foreign().await;
    let body = vec![7; limits::PAYLOAD_BYTES + 1];
    foreign.publish(&bench.address("t"), "k", BasicProperties::default(), &body).await;
    let unfit = next(&source).await;
    assert!(unfit.unfit.unwrap().contains("16777217"));
    assert_eq!(unfit.message.payload.len(), body.len());
    source.settle(unfit.lease, Settlement::Ack);
    bench.until_counts("q", (0, 0, 0)).await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_handed_out_too_often_becomes_a_dead_letter() {
    let Some(url) = server("delivery limit").await else { return };
    let bench = Bench::simple(&url).await;
    let foreign = bench.foreign().await;
    foreign.publish(&bench.address("t"), "a.b", BasicProperties::default(), b"poison").await;
    let address = bench.address("q");
    let dead = format!("{address}.dead");
    eventually("it is given up", || async {
        for _ in 0..100 {
            let got =
                foreign.channel.basic_get(address.as_str().into(), BasicGetOptions::default()).await.unwrap();
            let Some(got) = got else { continue };
            got.delivery.nack(BasicNackOptions { requeue: true, multiple: false }).await.unwrap();
        }
        (foreign.count(&dead).await == 1).then_some(())
    })
    .await;
    let source = bench.consume("q").await;
    let delivery = next(&source).await;
    assert_eq!(delivery.unfit.as_deref(), Some("RabbitMQ gave it up: delivery_limit"));
    assert_eq!((delivery.message.topic.as_str(), delivery.message.key.as_str()), ("t", "a.b"));
    assert!(delivery.message.id.starts_with("sha256-"));
    source.settle(delivery.lease, Settlement::Ack);
    bench.until_counts("q", (0, 0, 0)).await;
    bench.end().await;
}
