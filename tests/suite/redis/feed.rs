//! A feed: what others publish to a channel of Redis is kept as it is heard, and what was missed is said.

use brolly_tests::{
    eventually, flow, orders,
    python::Python,
    server::{PATIENCE, Server, plugin_bytes},
};
use serde_json::{Value, json};

/// Publishes one line of a file after the other, as fast as it can.
const PUBLISHER: &str = r"
import redis, sys
client = redis.Redis.from_url(sys.argv[1])
for line in open(sys.argv[2]):
    assert client.publish('orders', line.rstrip('\n')) == 1
";

async fn feed(server: &Server, state: &str) -> Value {
    eventually(&format!("the feed is {state}"), PATIENCE, || async {
        let feed = server.get("/topics/heard/feed").await;
        (feed["state"] == state).then_some(feed)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_is_kept_and_gaps_are_told() {
    let Some(python) = Python::with("feeds from Redis", &["redis"]).await else { return };
    let Some(redis) = super::redis("feeds from Redis").await else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut server = super::host(dir.path(), &redis.url(), "list").await;
    server.home = json!({});
    let wanted = json!({"feed": {"broker": "cache", "channel": "orders"}});
    server.put("/topics/heard", wanted).await;
    let version = server.upload("settlement", plugin_bytes("settlement")).await;
    let config = json!({"config": {"commission_percent": "15"}});
    server.subscribe("settlement", "heard", "settlement", &version, config).await;
    assert_eq!(feed(&server, "listening").await["missed"], 0);

    let orders = orders::real();
    let file = dir.path().join("orders.ndjson");
    let lines: String = orders.iter().map(|order| serde_json::to_string(order).unwrap() + "\n").collect();
    std::fs::write(&file, lines).unwrap();
    let output = python.run(PUBLISHER, &[&redis.url(), &file.to_string_lossy()]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    eventually("all have come", PATIENCE, || async {
        let status = server.get("/subscriptions/settlement").await["status"].clone();
        (status["acked"].as_u64()? + status["dead"].as_u64()? == orders.len() as u64).then_some(())
    })
    .await;
    assert_eq!(server.days().await, orders::totals(&orders).days);
    assert_eq!(feed(&server, "listening").await["missed"], 0);

    // The connection goes: a gap, and it goes on.
    redis.client_kill_all().await;
    let gaps = eventually("the gap is told", PATIENCE, || async {
        let feed = server.get("/topics/heard/feed").await;
        (feed["missed"] == 1).then_some(feed["gaps"].clone())
    })
    .await;
    assert!(gaps[0]["from_ms"].as_u64() <= gaps[0]["to_ms"].as_u64(), "{gaps}");
    // The host is killed: a gap from when it was last known to listen.
    server = flow::restarted(server, dir.path()).await;
    let feed = feed(&server, "listening").await;
    assert_eq!(feed["missed"], 2, "{feed}");
    assert!(feed["gaps"][1]["reason"].as_str().unwrap().contains("was not listening"), "{feed}");
    redis.cli(&["PUBLISH", "orders", "{}"]).await;
    eventually("it goes on", PATIENCE, || async {
        let status = server.get("/subscriptions/settlement").await["status"].clone();
        (status["dead"].as_u64()? == 1).then_some(())
    })
    .await;
    assert_eq!(server.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_that_cannot_be_is_refused() {
    let Some(redis) = super::redis("mistakes about feeds").await else { return };
    let dir = tempfile::tempdir().unwrap();
    let server = super::host(dir.path(), &redis.url(), "list").await;
    for (topic, code) in [
        (json!({"feed": {"broker": "none", "channel": "c"}}), "unknown-reference"),
        (json!({"feed": {"broker": "embedded", "channel": "c"}}), "unsupported"),
        (json!({"broker": "cache", "feed": {"broker": "cache", "channel": "c"}}), "unsupported"),
        (json!({"feed": {"broker": "cache", "channel": ""}}), "invalid-definition"),
        (json!({"feed": {"broker": "cache", "channel": "c".repeat(256)}}), "invalid-definition"),
    ] {
        let request = server.request(reqwest::Method::PUT, "/topics/t").json(&topic);
        let answer = server.send(request).await;
        assert_eq!((answer.status.as_u16(), answer.body["code"].as_str()), (422, Some(code)), "{topic}");
    }
    server.put("/topics/t", json!({"feed": {"broker": "cache", "channel": "c".repeat(255)}})).await;
    let delete = server.request(reqwest::Method::DELETE, "/brokers/cache");
    assert_eq!(server.send(delete).await.body["code"], "in-use");
    assert_eq!(server.terminate().await, Some(0));
}
