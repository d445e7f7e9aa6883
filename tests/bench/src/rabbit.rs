//! P3 and P4: messages that wait on RabbitMQ, taken, handled and durably settled, against a bare
//! lapin consumer that does nothing with them.

use std::{ops::Range, time::Instant};

use anyhow::Context;
use brolly_store::Engine;
use brolly_tests::rabbit::{Rabbit, Vhost};
use futures::StreamExt;
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties, Consumer,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
        QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable},
};

use crate::{
    embedded::on_tokio,
    host::{Host, Place},
    report::{Goal, Row},
    runtime,
};

const ROUNDS: usize = 3;
const MESSAGES: usize = 40_000;
/// Messages fetched ahead, on both sides.
pub const PREFETCH: u16 = 1_024;
/// Messages that the batched baseline acknowledges at once.
const BATCH: u64 = 100;
const PAYLOAD_BYTES: usize = 300;

/// P3 and P4, on both kinds of queues, with reused instances and with fresh ones.
pub fn throughput(engines: &[Engine]) -> anyhow::Result<Vec<Row>> {
    if let Err(why) = Rabbit::available() {
        println!("P3 and P4 are skipped: {why}");
        return Ok(Vec::new());
    }
    let mut rows = Vec::new();
    for kind in ["quorum", "classic"] {
        for instances in ["reuse", "fresh"] {
            for engine in engines {
                let figures = on_tokio(measure(kind, instances, *engine))?;
                rows.extend(shown(kind, instances, *engine, figures));
            }
        }
    }
    Ok(rows)
}

#[derive(Default)]
struct Figures {
    ours: Vec<f64>,
    batched: Vec<f64>,
    single: Vec<f64>,
}

fn shown(kind: &str, instances: &str, engine: Engine, figures: Figures) -> [Row; 2] {
    let Figures { mut ours, mut batched, mut single } = figures;
    let ours_is = format!("RabbitMQ ({kind}), handled by {instances} instances and durable ({engine})");
    let batched_is = format!("{ours_is} / bare consumer, an ack for {BATCH}");
    let single_is = format!("{ours_is} / bare consumer, an ack each");
    [
        Row::new("P3", batched_is, "msg/s", Goal::AtLeast(0.9), &mut ours, &mut batched),
        Row::new("P4", single_is, "msg/s", Goal::AtLeast(3.0), &mut ours, &mut single),
    ]
}

async fn measure(kind: &str, instances: &str, engine: Engine) -> anyhow::Result<Figures> {
    let rabbit = Rabbit::start().await;
    let mut figures = Figures::default();
    for _ in 0..ROUNDS {
        let vhost = rabbit.vhost().await;
        figures.ours.push(ours(&vhost, kind, instances, engine).await?);
        figures.batched.push(bare(&vhost, kind, BATCH).await?);
        figures.single.push(bare(&vhost, kind, 1).await?);
    }
    Ok(figures)
}

async fn ours(vhost: &Vhost, kind: &str, instances: &str, engine: Engine) -> anyhow::Result<f64> {
    let dir = tempfile::tempdir()?;
    let place = Place::Rabbit { url: vhost.url.clone(), kind: kind.to_owned() };
    let host = Host::start(dir.path(), engine, &runtime::plugin()?, instances, place).await?;
    fill(&vhost.url, "orders.paid", MESSAGES).await?;
    let started = Instant::now();
    host.pause(false).await?;
    host.settled.reach(MESSAGES as u64).await;
    Ok(MESSAGES as f64 / started.elapsed().as_secs_f64())
}

async fn bare(vhost: &Vhost, kind: &str, batch: u64) -> anyhow::Result<f64> {
    let connection = Connection::connect(&vhost.url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let queue = format!("bare-{batch}");
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString(kind.into()));
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.as_str().into(), options, arguments).await?;
    fill_queue(&vhost.url, &queue).await?;
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let started = Instant::now();
    let options = BasicConsumeOptions::default();
    let mut consumer: Consumer =
        channel.basic_consume(queue.as_str().into(), "".into(), options, FieldTable::default()).await?;
    for number in 1..=MESSAGES as u64 {
        let delivery = consumer.next().await.context("the consumer ended")??;
        if number % batch == 0 {
            let options = BasicAckOptions { multiple: batch > 1 };
            channel.basic_ack(delivery.delivery_tag, options).await?;
        }
    }
    let rate = MESSAGES as f64 / started.elapsed().as_secs_f64();
    connection.close(200, "done".into()).await?;
    Ok(rate)
}

/// Publishes to the topic's exchange, from where the route brings it to the queue.
pub async fn fill(url: &str, exchange: &str, messages: usize) -> anyhow::Result<()> {
    fill_from(url, exchange, 0..messages).await
}

/// The same with messages of these numbers.
pub async fn fill_from(url: &str, exchange: &str, numbers: Range<usize>) -> anyhow::Result<()> {
    publish(url, exchange, "k", numbers).await
}

async fn fill_queue(url: &str, queue: &str) -> anyhow::Result<()> {
    publish(url, "", queue, 0..MESSAGES).await
}

async fn publish(url: &str, exchange: &str, key: &str, numbers: Range<usize>) -> anyhow::Result<()> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel: Channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let mut unconfirmed = std::collections::VecDeque::new();
    for number in numbers {
        let properties = BasicProperties::default()
            .with_message_id(format!("m{number}").into())
            .with_content_type("application/json".into())
            .with_delivery_mode(2);
        let options = BasicPublishOptions::default();
        let body = payload(number);
        unconfirmed
            .push_back(channel.basic_publish(exchange.into(), key.into(), options, &body, properties).await?);
        if unconfirmed.len() >= 500
            && let Some(oldest) = unconfirmed.pop_front()
        {
            oldest.await?;
        }
    }
    for confirm in unconfirmed {
        confirm.await?;
    }
    connection.close(200, "done".into()).await?;
    Ok(())
}

/// An order as the sample plugins know it, of the size that the goals speak of.
fn payload(number: usize) -> Vec<u8> {
    let order = format!(
        r#"{{"order_id":"m{number}","customer_id":"{}","paid_on":"1997-01-{:02}","quantity":1,"amount_cents":1234,"note":""#,
        number % 2_000,
        number % 28 + 1,
    );
    let mut payload = order.into_bytes();
    payload.resize(PAYLOAD_BYTES - 2, b'x');
    payload.extend(b"\"}");
    payload
}
