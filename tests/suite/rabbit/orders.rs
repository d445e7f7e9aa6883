//! The main job on RabbitMQ: the real orders, exact, whatever breaks between.

use std::{path::Path, sync::Arc, time::Duration};

use brolly_tests::{
    eventually,
    orders::{self, Order},
    rabbit::Rabbit,
    server::{PATIENCE, Server},
};
use reqwest::Method;
use serde_json::json;
use tokio::sync::watch;

const QUEUES: [&str; 3] = ["activity", "notification", "settlement"];
const KILLS: usize = 20;

/// What the sample plugins must have come to, and that nothing is left on the other side.
pub(super) async fn check(server: &Server, rabbit: &Rabbit, vhost: &str, orders: &[Order]) {
    let expect = orders::totals(orders);
    let (got, notices) = eventually("everything that was published is stored", PATIENCE, || async {
        let notices = server.all("/messages?topic=notifications.out").await.len();
        (notices >= orders.len()).then_some((server.totals().await, notices))
    })
    .await;
    assert_eq!(got.days, expect.days);
    assert_eq!(got.points, expect.points);
    assert_eq!(got.coupons, expect.coupons);
    assert_eq!(got.rejected.len(), expect.rejected.len());
    assert_eq!(notices, orders.len(), "one notice for each order");
    eventually("nothing is left on the server", PATIENCE, || async {
        let queues = rabbit.queues(vhost).await;
        let ours = queues.iter().filter(|queue| QUEUES.contains(&queue.name.split('.').next().unwrap()));
        let left: Vec<_> = ours.filter(|queue| queue.ready + queue.unacked > 0).collect();
        if !left.is_empty() {
            eprintln!("left: {left:?}");
        }
        left.is_empty().then_some(())
    })
    .await;
}

/// Publishes batch after batch to wherever the server is now; a batch that is not accepted is sent
/// again, with the same ids. Answers how often that was.
pub(super) async fn publish_all(
    batches: Vec<String>,
    mut server: watch::Receiver<(String, String)>,
    pause: Duration,
) -> usize {
    let http = reqwest::Client::new();
    let mut retried = 0;
    for batch in batches {
        loop {
            let (url, token) = server.borrow_and_update().clone();
            let request = http.post(format!("{url}/api/v1/topics/orders.paid/messages"));
            let request = request.bearer_auth(token).header("content-type", "application/x-ndjson");
            match request.body(batch.clone()).timeout(PATIENCE).send().await {
                Ok(response) if response.status().is_success() => break,
                Ok(response) => {
                    let (status, text) = (response.status(), response.text().await.unwrap_or_default());
                    assert_eq!(status.as_u16(), 503, "{text}");
                }
                Err(error) => assert!(!error.is_builder(), "{error}"),
            }
            retried += 1;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        tokio::time::sleep(pause).await;
    }
    retried
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_orders_are_exact_and_counted_as_rabbitmq_counts_them() {
    let Some(rabbit) = super::rabbit("the real orders over RabbitMQ").await else { return };
    for kind in ["quorum", "classic"] {
        let (vhost, dir) = (rabbit.vhost().await, tempfile::tempdir().unwrap());
        let mut server = super::host(dir.path(), &vhost.url, json!({})).await;
        server.home = json!({"broker": "rabbit", "type": kind});
        server.set_up_samples().await;
        let orders = orders::real();
        server.post("/subscriptions/settlement/pause").await;
        server.bulk("orders.paid", orders::ndjson(&orders)).await.unwrap().ok();
        eventually("the counts agree while the subscription rests", PATIENCE, || async {
            let counts = server.get("/queues/settlement").await["counts"].clone();
            let there = rabbit.queues(&vhost.name).await;
            let there = there.into_iter().find(|queue| queue.name == "settlement")?;
            assert_eq!(there.kind, kind);
            let agree = counts["ready"] == there.ready && counts["in_flight"] == there.unacked;
            (agree && there.ready == 6_919).then_some(())
        })
        .await;
        server.post("/subscriptions/settlement/resume").await;
        server.idle(&QUEUES).await;
        check(&server, &rabbit, &vhost.name, &orders).await;
        // The eight that settlement rejects come back, and are rejected again.
        let replay = server.request(Method::POST, "/subscriptions/settlement/dead-letters/replay");
        let replayed = server.send(replay.json(&json!({"all": true}))).await.ok();
        assert_eq!(replayed["done"].as_array().unwrap().len(), 8);
        eventually("the eight are dead letters again", PATIENCE, || async {
            let dead = server.get("/queues/settlement").await["counts"]["dead"].as_u64();
            (dead == Some(8)).then_some(())
        })
        .await;
        check(&server, &rabbit, &vhost.name, &orders).await;
        let story = server.get("/messages/o000001").await;
        assert_eq!(story["deliveries"].as_array().unwrap().len(), 3, "{story}");
        assert_eq!(server.terminate().await, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_doubled_by_twenty_kills_over_rabbitmq() {
    let Some(rabbit) = super::rabbit("kill -9 over RabbitMQ").await else { return };
    let (vhost, dir) = (rabbit.vhost().await, tempfile::tempdir().unwrap());
    let orders = orders::multiplied(12_000);
    let mut server = super::host(dir.path(), &vhost.url, json!({})).await;
    server.set_up_samples().await;
    let (address, addresses) = watch::channel((server.url.clone(), server.token.clone()));
    let batches: Vec<String> = orders.chunks(100).map(orders::ndjson).collect();
    let publisher = tokio::spawn(publish_all(batches, addresses, Duration::from_millis(10)));
    for kill in 0..KILLS {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(50..900))).await;
        server = restarted(server, dir.path()).await;
        address.send_replace((server.url.clone(), server.token.clone()));
        eprintln!("kill {} of {KILLS}", kill + 1);
    }
    let retried = publisher.await.unwrap();
    eprintln!("{retried} batches were published again");
    server.idle(&QUEUES).await;
    check(&server, &rabbit, &vhost.name, &orders).await;
    assert_eq!(server.terminate().await, Some(0));
}

async fn restarted(server: Server, dir: &Path) -> Server {
    let home = server.home.clone();
    server.kill().await;
    let mut server = Server::start(dir).await;
    server.home = home;
    server
}

/// Shared with the incidents: a publisher that goes on whatever happens.
pub(super) struct Flow {
    pub orders: Arc<Vec<Order>>,
    task: tokio::task::JoinHandle<usize>,
    _address: watch::Sender<(String, String)>,
}

impl Flow {
    pub fn start(server: &Server, count: usize, pause: Duration) -> Self {
        let orders = orders::multiplied(count);
        let batches: Vec<String> = orders.chunks(50).map(orders::ndjson).collect();
        let (address, addresses) = watch::channel((server.url.clone(), server.token.clone()));
        let task = tokio::spawn(publish_all(batches, addresses, pause));
        Self { orders: Arc::new(orders), task, _address: address }
    }

    pub fn is_over(&self) -> bool {
        self.task.is_finished()
    }

    pub async fn finish(self, server: &Server) -> Arc<Vec<Order>> {
        let retried = self.task.await.unwrap();
        eprintln!("{retried} batches were published again");
        server.idle(&QUEUES).await;
        self.orders
    }
}
