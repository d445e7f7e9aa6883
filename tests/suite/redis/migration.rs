//! The way out of a Redis list, while a producer pushes to it all the time: to RabbitMQ, and back.

use std::{collections::BTreeMap, time::Duration};

use brolly_tests::{
    eventually, flow,
    orders::{self, Day, Order},
    python::Python,
    rabbit::Rabbit,
    redis::RedisServer,
    server::{PATIENCE, Server, plugin_bytes},
};
use reqwest::Method;
use serde_json::{Value, json};

/// Pushes one line of a file after the other to a list, about 500 a second.
const PRODUCER: &str = r"
import redis, sys, time
client = redis.Redis.from_url(sys.argv[1])
for line in open(sys.argv[2]):
    client.rpush('orders:paid', line.rstrip('\n'))
    time.sleep(0.002)
";

struct Scene {
    redis: RedisServer,
    _rabbit: Rabbit,
    server: Server,
    version: String,
    dir: tempfile::TempDir,
}

impl Scene {
    async fn new(python: &mut Option<Python>) -> Option<Self> {
        let what = "the way from Redis to RabbitMQ";
        *python = Some(Python::with(what, &["redis"]).await?);
        let (redis, rabbit) = (super::redis(what).await?, Rabbit::start().await);
        let (vhost, dir) = (rabbit.vhost().await, tempfile::tempdir().unwrap());
        let server = super::host(dir.path(), &redis.url(), "list").await;
        server.put("/brokers/rabbit", json!({"kind": "amqp", "url": vhost.url})).await;
        for broker in ["cache", "rabbit"] {
            flow::broker_is(&server, broker, "connected").await;
        }
        let version = server.upload("settlement", plugin_bytes("settlement")).await;
        let list = json!({"broker": "cache", "address": "orders:paid", "adopt": true});
        server.put("/queues/list", list).await;
        server.put("/topics/orders.paid", json!({"broker": "rabbit"})).await;
        server.put("/queues/orders", json!({"broker": "rabbit"})).await;
        server.put("/routes/orders", json!({"topic": "orders.paid", "queue": "orders"})).await;
        Some(Self { redis, _rabbit: rabbit, server, version, dir })
    }

    /// Has settlement take from this queue.
    async fn settle(&self, queue: &str) {
        let config = json!({"commission_percent": "15"});
        let subscription =
            json!({"queue": queue, "plugin": "settlement", "version": self.version, "config": config});
        self.server.put("/subscriptions/settlement", subscription).await;
    }

    async fn forward(&self, name: &str, queue: &str, topic: &str) {
        let subscription = json!({"queue": queue, "forward": {"topic": topic}});
        self.server.put(&format!("/subscriptions/{name}"), subscription).await;
    }

    async fn stop(&self, subscription: &str) {
        let request = self.server.request(Method::DELETE, &format!("/subscriptions/{subscription}"));
        assert_eq!(self.server.send(request).await.status.as_u16(), 204);
    }

    async fn progress(&self, subscription: &str) -> Value {
        self.server.get(&format!("/subscriptions/{subscription}/forward")).await
    }

    async fn moved(&self, subscription: &str, count: u64) {
        eventually(&format!("{subscription} has moved {count}"), 2 * PATIENCE, || async {
            (self.progress(subscription).await["forwarded"].as_u64() >= Some(count)).then_some(())
        })
        .await;
    }

    async fn complete(&self, subscription: &str) -> Value {
        eventually(&format!("{subscription} is complete"), 2 * PATIENCE, || async {
            let progress = self.progress(subscription).await;
            (progress["complete"] == true).then_some(progress)
        })
        .await
    }

    async fn killed(mut self) -> Self {
        self.server = flow::restarted(self.server, self.dir.path()).await;
        flow::mended(&self.server, "cache").await;
        flow::mended(&self.server, "rabbit").await;
        self
    }
}

fn lines(orders: &[Order]) -> String {
    orders.iter().map(|order| serde_json::to_string(order).unwrap() + "\n").collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_moves_to_rabbitmq_and_back_while_its_producer_goes_on() {
    let mut python = None;
    let Some(mut scene) = Scene::new(&mut python).await else { return };
    let python = python.unwrap();
    let orders = orders::real();
    let file = scene.dir.path().join("orders.ndjson");
    std::fs::write(&file, lines(&orders)).unwrap();
    let (url, path) = (scene.redis.url(), file.to_string_lossy().into_owned());
    let producer = tokio::spawn(async move { python.run(PRODUCER, &[&url, &path]).await });

    // As it was: settlement takes from the list.
    scene.settle("list").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    // Out: settlement listens on RabbitMQ, and the list is forwarded there.
    scene.settle("orders").await;
    scene.forward("out", "list", "orders.paid").await;
    scene.moved("out", 200).await;
    scene = scene.killed().await;
    scene.moved("out", 1_000).await;
    // A topic that would lead back is refused while the way out is open.
    scene.server.put("/topics/back", json!({"broker": "cache"})).await;
    scene.server.put("/routes/back", json!({"topic": "back", "queue": "list"})).await;
    let circle = json!({"queue": "orders", "forward": {"topic": "back"}});
    scene.stop("settlement").await;
    let refused = scene.server.request(Method::PUT, "/subscriptions/circle").json(&circle);
    let refused = scene.server.send(refused).await;
    assert_eq!((refused.status.as_u16(), refused.body["code"].as_str()), (422, Some("invalid-definition")));
    // And back, with what has gathered on RabbitMQ in between.
    tokio::time::sleep(Duration::from_secs(1)).await;
    scene.stop("out").await;
    scene.settle("list").await;
    scene.forward("back", "orders", "back").await;
    let back = scene.complete("back").await;
    assert!(back["forwarded"].as_u64().unwrap() > 0, "{back}");
    scene = scene.killed().await;
    // Out again, for good.
    scene.stop("back").await;
    scene.settle("orders").await;
    scene.forward("out", "list", "orders.paid").await;
    let output = producer.await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let out = scene.complete("out").await;
    assert_eq!(out["to"][0]["queue"], "orders");
    assert_eq!(out["to"][0]["subscription"], "settlement");

    scene.server.idle(&["list", "orders"]).await;
    let (days, expect) = (scene.server.days().await, orders::totals(&orders).days);
    let handled = |days: &BTreeMap<String, Day>| days.values().map(|day| day.orders).sum::<i64>();
    assert_eq!(handled(&days), handled(&expect), "settled orders");
    assert_eq!(days, expect);
    super::nothing_is_left(&scene.redis).await;
    assert_eq!(scene.server.terminate().await, Some(0));
}
