//! What happens to Redis and to networks, in the middle of the orders: each incident is seen, mends
//! itself, and leaves the totals exact.

use std::time::{Duration, Instant};

use brolly_tests::{
    eventually,
    flow::{self, Flow},
    proxy::Proxy,
    redis::RedisServer,
    server::{PATIENCE, Server},
};

struct Scene {
    redis: RedisServer,
    proxy: Proxy,
    server: Server,
    _dir: tempfile::TempDir,
}

impl Scene {
    async fn new(what: &str, kind: &str) -> Option<Self> {
        let redis = super::redis(what).await?;
        let (proxy, dir) = (Proxy::start(redis.address()).await, tempfile::tempdir().unwrap());
        let server = super::host(dir.path(), &format!("redis://{}", proxy.address()), kind).await;
        flow::broker_is(&server, "cache", "connected").await;
        server.set_up_samples().await;
        Some(Self { redis, proxy, server, _dir: dir })
    }

    async fn mended(&self) {
        flow::mended(&self.server, "cache").await;
    }

    async fn exact(self, flow: Flow) {
        assert!(!flow.is_over(), "the incidents came while orders were flowing");
        let orders = flow.finish(&self.server).await;
        flow::exact(&self.server, &orders).await;
        super::nothing_is_left(&self.redis).await;
        assert_eq!(self.server.terminate().await, Some(0));
    }
}

async fn restarts(kind: &str) {
    let Some(scene) = Scene::new("restarts of Redis", kind).await else { return };
    let flow = Flow::start(&scene.server, 10_000, Duration::from_millis(100));
    for _ in 0..3 {
        let before = flow::metric(&scene.server, "brolly_broker_reconnects_total").await;
        scene.redis.client_kill_all().await;
        eventually("the cut is counted", PATIENCE, || async {
            (flow::metric(&scene.server, "brolly_broker_reconnects_total").await > before).then_some(())
        })
        .await;
        scene.mended().await;
    }
    scene.redis.stop().await;
    let down = flow::broker_is(&scene.server, "cache", "failed").await;
    assert!(down["status"]["detail"].as_str().is_some_and(|why| !why.is_empty()), "{down}");
    let queue = scene.server.get("/queues/settlement").await;
    assert!(queue["trouble"].as_str().is_some(), "{queue}");
    scene.redis.start_again().await;
    scene.mended().await;
    scene.redis.kill().await;
    flow::broker_is(&scene.server, "cache", "failed").await;
    scene.redis.start_again().await;
    scene.mended().await;
    scene.exact(flow).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_and_killed_clients_cost_lists_nothing() {
    restarts("list").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_and_killed_clients_cost_streams_nothing() {
    restarts("stream").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_goes_silent_or_is_cut_costs_nothing() {
    for kind in ["list", "stream"] {
        let Some(scene) = Scene::new("black holes on the way to Redis", kind).await else { return };
        let flow = Flow::start(&scene.server, 4_000, Duration::from_millis(200));
        scene.proxy.black_hole(true);
        let silent = Instant::now();
        flow::broker_is(&scene.server, "cache", "failed").await;
        // block_ms and response_timeout_ms, as they are by default, and a moment.
        assert!(silent.elapsed() < Duration::from_secs(8), "noticed after {:?}", silent.elapsed());
        scene.proxy.black_hole(false);
        scene.mended().await;
        scene.proxy.cut().await;
        scene.mended().await;
        scene.exact(flow).await;
    }
}
