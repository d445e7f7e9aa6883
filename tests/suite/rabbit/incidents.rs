//! What happens to brokers and networks, in the middle of the orders: each incident is seen, mends
//! itself, and leaves the totals exact.

use std::time::Duration;

use brolly_tests::{
    eventually,
    flow::{self, Flow},
    proxy::Proxy,
    rabbit::Rabbit,
    server::{PATIENCE, Server, plugin_bytes},
};
use serde_json::json;

use super::orders::check;

struct Scene {
    rabbit: Rabbit,
    proxy: Proxy,
    server: Server,
    vhost: String,
    _dir: tempfile::TempDir,
}

impl Scene {
    async fn new(what: &str) -> Option<Self> {
        let rabbit = super::rabbit(what).await?;
        let (vhost, dir) = (rabbit.vhost().await, tempfile::tempdir().unwrap());
        let proxy = Proxy::start(rabbit.address()).await;
        let url = format!("amqp://guest:guest@{}/{}", proxy.address(), vhost.name);
        let server = super::host(dir.path(), &url, json!({"confirm_timeout_ms": 5_000})).await;
        super::broker_is(&server, "connected").await;
        server.set_up_samples().await;
        Some(Self { rabbit, proxy, server, vhost: vhost.name, _dir: dir })
    }

    /// Waits until everything runs again.
    async fn mended(&self) {
        flow::mended(&self.server, "rabbit").await;
    }

    async fn exact(self, flow: Flow) {
        assert!(!flow.is_over(), "the incidents came while orders were flowing");
        let orders = flow.finish(&self.server).await;
        check(&self.server, &self.rabbit, &self.vhost, &orders).await;
        assert_eq!(self.server.terminate().await, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_restarts_and_closes_connections_costs_nothing() {
    let Some(scene) = Scene::new("restarts of RabbitMQ").await else { return };
    let flow = Flow::start(&scene.server, 10_000, Duration::from_millis(150));
    for _ in 0..3 {
        let before = flow::metric(&scene.server, "brolly_broker_reconnects_total").await;
        scene.rabbit.close_all_connections("a test").await;
        eventually("the cut is counted", PATIENCE, || async {
            (flow::metric(&scene.server, "brolly_broker_reconnects_total").await > before).then_some(())
        })
        .await;
        scene.mended().await;
    }
    scene.rabbit.stop().await;
    let down = super::broker_is(&scene.server, "failed").await;
    assert!(down["status"]["detail"].as_str().is_some_and(|why| !why.is_empty()), "{down}");
    let queue = scene.server.get("/queues/settlement").await;
    assert!(queue["trouble"].as_str().is_some(), "{queue}");
    scene.rabbit.start_again().await;
    scene.mended().await;
    scene.rabbit.kill().await;
    super::broker_is(&scene.server, "failed").await;
    scene.rabbit.start_again().await;
    scene.mended().await;
    scene.exact(flow).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_goes_silent_or_is_cut_costs_nothing() {
    let Some(scene) = Scene::new("black holes on the way to RabbitMQ").await else { return };
    let flow = Flow::start(&scene.server, 6_000, Duration::from_millis(150));
    for _ in 0..2 {
        scene.proxy.black_hole(true);
        let silent = std::time::Instant::now();
        super::broker_is(&scene.server, "failed").await;
        assert!(silent.elapsed() < Duration::from_secs(15), "noticed after {:?}", silent.elapsed());
        scene.proxy.black_hole(false);
        scene.mended().await;
        scene.proxy.cut().await;
        scene.mended().await;
    }
    scene.exact(flow).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_queue_comes_back_and_a_memory_alarm_passes() {
    let Some(scene) = Scene::new("a deleted queue and a memory alarm of RabbitMQ").await else { return };
    // While nothing flows: what a queue held when it was deleted is nowhere.
    scene.rabbit.ctl(&["delete_queue", "--vhost", &scene.vhost, "settlement"]).await;
    eventually("the queue is made again", PATIENCE, || async {
        let there = scene.rabbit.queues(&scene.vhost).await;
        there.iter().any(|queue| queue.name == "settlement").then_some(())
    })
    .await;
    scene.mended().await;
    let flow = Flow::start(&scene.server, 3_000, Duration::from_millis(150));
    scene.rabbit.memory_alarm(true).await;
    let blocked = super::broker_is(&scene.server, "blocked").await;
    assert!(blocked["status"]["detail"].as_str().is_some_and(|why| why.contains("memory")), "{blocked}");
    scene.rabbit.memory_alarm(false).await;
    scene.mended().await;
    scene.exact(flow).await;
}

/// Each time it is the node that the host is connected with.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_a_cluster_that_die_cost_nothing() {
    let Some(first) = super::rabbit("a cluster of RabbitMQ").await else { return };
    let nodes = [first.joined().await, first.joined().await, first];
    let (vhost, dir) = (nodes[0].vhost().await, tempfile::tempdir().unwrap());
    let others: Vec<String> = nodes[1..].iter().map(|node| node.address().to_string()).collect();
    let more = json!({"addresses": others, "confirm_timeout_ms": 5_000});
    let server = super::host(dir.path(), &vhost.url, more).await;
    super::broker_is(&server, "connected").await;
    server.set_up_samples().await;
    let flow = Flow::start(&server, 8_000, Duration::from_millis(400));
    for _ in 0..3 {
        let used = eventually("the host is connected with one", PATIENCE, || async {
            let counts = futures::future::join_all(nodes.iter().map(Rabbit::connections)).await;
            nodes.iter().zip(counts).find(|(_, connections)| *connections > 0).map(|(node, _)| node)
        })
        .await;
        let before = flow::metric(&server, "brolly_broker_reconnects_total").await;
        used.kill().await;
        eventually("the loss is counted", PATIENCE, || async {
            (flow::metric(&server, "brolly_broker_reconnects_total").await > before).then_some(())
        })
        .await;
        // The other two go on.
        flow::mended(&server, "rabbit").await;
        used.start_again().await;
    }
    assert!(!flow.is_over(), "the incidents came while orders were flowing");
    let orders = flow.finish(&server).await;
    for node in &nodes {
        check(&server, node, &vhost.name, &orders).await;
    }
    assert_eq!(server.terminate().await, Some(0));
}

/// RabbitMQ closes a channel (406) that has kept a message unacknowledged for too long; a retry that
/// holds its key back does just that.
#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_the_server_closes_costs_nothing() {
    let Some(rabbit) = super::rabbit("time-outs of acknowledgements on RabbitMQ").await else { return };
    let impatient = "application:set_env(rabbit, channel_tick_interval, 500), \
                     application:set_env(rabbit, consumer_timeout, 2000).";
    rabbit.ctl(&["eval", impatient]).await;
    let (vhost, dir) = (rabbit.vhost().await, tempfile::tempdir().unwrap());
    let server = super::host(dir.path(), &vhost.url, json!({})).await;
    super::broker_is(&server, "connected").await;
    server.put("/topics/t", json!({"broker": "rabbit"})).await;
    let version = server.upload("hostile", plugin_bytes("hostile")).await;
    let wanted = |mode: &str| {
        let config = json!({"mode": mode, "delay_ms": "8000"});
        json!({"queue": "q", "plugin": "hostile", "version": version, "order": "key", "config": config})
    };
    server.subscribe("q", "t", "hostile", &version, wanted("retry")).await;
    let lines = "{\"id\":\"a\",\"key\":\"k\",\"payload\":1}\n{\"id\":\"b\",\"key\":\"k\",\"payload\":2}\n";
    server.bulk("t", lines.to_owned()).await.unwrap().ok();
    eventually("the channel was closed and the subscription noticed", PATIENCE, || async {
        (flow::metric(&server, "brolly_subscription_failures_total").await >= 1.0).then_some(())
    })
    .await;
    server.put("/subscriptions/q", wanted("counter")).await;
    for id in ["a", "b"] {
        eventually("both are acknowledged", PATIENCE, || async {
            let story = server.get(&format!("/messages/{id}")).await;
            (story["deliveries"][0]["status"] == "acked").then_some(())
        })
        .await;
    }
    let story = server.get("/messages/a").await;
    let attempts = story["deliveries"][0]["attempts"].as_array().unwrap();
    let waited = attempts[1]["at_ms"].as_u64().unwrap() - attempts[0]["at_ms"].as_u64().unwrap();
    assert!(waited >= 8_000, "the delay outlives the channel: {waited} ms");
    assert_eq!(story["deliveries"][0]["status"], "acked", "{story}");
    let last = async |id: &str| {
        let story = server.get(&format!("/messages/{id}")).await;
        story["deliveries"][0]["attempts"].as_array().unwrap().last().unwrap()["at_ms"].as_u64().unwrap()
    };
    assert!(last("a").await <= last("b").await, "one key, one order");
    assert_eq!(server.terminate().await, Some(0));
}
