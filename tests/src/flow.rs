//! The main job while things break: orders that flow whatever happens, and what must have come of them.

use std::{collections::HashSet, path::Path, sync::Arc, time::Duration};

use serde_json::Value;
use tokio::sync::watch;

use crate::{
    eventually,
    orders::{self, Order},
    server::{PATIENCE, Server},
    within,
};

/// The queues of the sample plugins.
pub const QUEUES: [&str; 3] = ["activity", "notification", "settlement"];

/// Checks that the sample plugins have come to what the sequential program makes of the orders.
///
/// # Panics
/// When they have not.
pub async fn exact(server: &Server, orders: &[Order]) {
    let expect = orders::totals(orders);
    // If they are not, what is said below says more.
    let _ = within(PATIENCE, || async {
        (server.all("/messages?topic=notifications.out").await.len() >= orders.len()).then_some(())
    })
    .await;
    let (got, notices) = (server.totals().await, server.all("/messages?topic=notifications.out").await);
    if notices.len() != orders.len() || got.days != expect.days || got.points != expect.points {
        tell_what_is_missing(server, orders, &notices).await;
    }
    assert_eq!(got.days, expect.days);
    assert_eq!(got.points, expect.points);
    assert_eq!(got.coupons, expect.coupons);
    assert_eq!(got.rejected.len(), expect.rejected.len());
    assert_eq!(notices.len(), orders.len(), "one notice for each order");
}

/// What is known of the first orders that have no notice, or did not reach every plugin: the story to
/// begin with when a total is wrong.
async fn tell_what_is_missing(server: &Server, orders: &[Order], notices: &[Value]) {
    let ids: HashSet<&str> = notices.iter().filter_map(|notice| notice["id"].as_str()).collect();
    eprintln!("{} notices, {} of them different, of {} orders", notices.len(), ids.len(), orders.len());
    let mut told = 0;
    for order in orders {
        let story = server.get(&format!("/messages/{}", order.order_id)).await;
        let deliveries = story["deliveries"].as_array().map_or(&[][..], Vec::as_slice);
        let decided = deliveries.iter().filter(|one| one["status"] == "acked" || one["status"] == "dead");
        let noticed = ids.contains(format!("notice-{}", order.order_id).as_str());
        if decided.count() < QUEUES.len() || !noticed {
            eprintln!("noticed: {noticed}; {story}");
            told += 1;
        }
        if told == 5 {
            return;
        }
    }
}

/// Waits until a broker is in this state; answers with how it is shown.
///
/// # Panics
/// When that takes too long.
pub async fn broker_is(server: &Server, broker: &str, state: &str) -> Value {
    eventually(&format!("the broker {broker} is {state}"), PATIENCE, || async {
        let broker = server.get(&format!("/brokers/{broker}")).await;
        (broker["status"]["state"] == state).then_some(broker)
    })
    .await
}

/// Waits until the broker is connected and every subscription runs.
///
/// # Panics
/// When that takes too long.
pub async fn mended(server: &Server, broker: &str) {
    broker_is(server, broker, "connected").await;
    eventually("every subscription runs again", PATIENCE, || async {
        let all = server.all("/subscriptions").await;
        all.iter().all(|one| one["status"]["state"] == "running").then_some(())
    })
    .await;
}

/// A number of `/metrics`: the sum over all labels.
///
/// # Panics
/// When there is no answer.
pub async fn metric(server: &Server, name: &str) -> f64 {
    let request = reqwest::Client::new().get(format!("{}/metrics", server.url)).bearer_auth(&server.token);
    let text = request.send().await.unwrap().text().await.unwrap();
    let lines = text.lines().filter(|line| line.starts_with(name) && !line.starts_with('#'));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// Kills a host and starts it again in the same folder.
pub async fn restarted(server: Server, dir: &Path) -> Server {
    let home = server.home.clone();
    server.kill().await;
    let mut server = Server::start(dir).await;
    server.home = home;
    server
}

/// Publishes batch after batch to wherever the server is now; a batch that is not accepted is sent
/// again, with the same ids. Answers how often that was.
///
/// # Panics
/// When a batch is refused for good.
pub async fn publish_all(
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
                    // RabbitMQ refuses in the same way where a queue is full and where its node is gone; these
                    // queues have no limit.
                    assert!(status == 503 || text.contains("or its node is down"), "{status}: {text}");
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

/// A publisher that goes on whatever happens.
pub struct Flow {
    orders: Arc<Vec<Order>>,
    task: tokio::task::JoinHandle<usize>,
    address: watch::Sender<(String, String)>,
}

impl Flow {
    /// Starts to publish so many orders, 50 at once, with a pause after each 50.
    #[must_use]
    pub fn start(server: &Server, count: usize, pause: Duration) -> Self {
        Self::of(server, orders::multiplied(count), 50, pause)
    }

    /// Starts to publish these orders, so many at once, with a pause after each.
    #[must_use]
    pub fn of(server: &Server, orders: Vec<Order>, at_once: usize, pause: Duration) -> Self {
        let batches: Vec<String> = orders.chunks(at_once).map(orders::ndjson).collect();
        let (address, addresses) = watch::channel((server.url.clone(), server.token.clone()));
        let task = tokio::spawn(publish_all(batches, addresses, pause));
        Self { orders: Arc::new(orders), task, address }
    }

    /// Has it publish to another start of the server.
    pub fn follow(&self, server: &Server) {
        self.address.send_replace((server.url.clone(), server.token.clone()));
    }

    /// Whether everything is published.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.task.is_finished()
    }

    /// Waits until everything is published and handled; answers with the orders.
    ///
    /// # Panics
    /// When that takes too long.
    pub async fn finish(self, server: &Server) -> Arc<Vec<Order>> {
        let retried = self.task.await.unwrap();
        eprintln!("{retried} batches were published again");
        server.idle(&QUEUES).await;
        self.orders
    }
}
