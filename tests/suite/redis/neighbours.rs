//! Others on the same list: programs in another language, and a second host.

use std::time::Duration;

use brolly_tests::{
    eventually, flow,
    orders::{self, Order},
    python::Python,
    redis::RedisServer,
    server::{PATIENCE, Server, plugin_bytes},
};
use serde_json::{Value, json};

/// Pushes the lines of a file to a list, ten at once, and pops one after each ten.
const PROGRAM: &str = r"
import json, redis, sys
client = redis.Redis.from_url(sys.argv[1])
lines = [line.rstrip('\n') for line in open(sys.argv[2])]
popped = []
for start in range(0, len(lines), 10):
    client.rpush('orders:paid', *lines[start:start + 10])
    item = client.lpop('orders:paid')
    if item is not None:
        popped.append(json.loads(item)['order_id'])
print(json.dumps(popped))
";

/// A host whose settlement takes from the list of others.
async fn settles(dir: &std::path::Path, url: &str) -> Server {
    let server = super::host(dir, url, "list").await;
    flow::broker_is(&server, "cache", "connected").await;
    server.put("/queues/list", json!({"broker": "cache", "address": "orders:paid", "adopt": true})).await;
    let version = server.upload("settlement", plugin_bytes("settlement")).await;
    let config = json!({"commission_percent": "15"});
    let subscription = json!({"queue": "list", "plugin": "settlement", "version": version, "config": config});
    server.put("/subscriptions/settlement", subscription).await;
    server
}

async fn settled(server: &Server) -> i64 {
    server.days().await.values().map(|day| day.orders).sum()
}

async fn rejected(server: &Server) -> i64 {
    server.all("/subscriptions/settlement/dead-letters").await.len().try_into().unwrap()
}

fn file(dir: &std::path::Path, orders: &[Order]) -> String {
    let path = dir.join("orders.ndjson");
    let lines: String = orders.iter().map(|order| serde_json::to_string(order).unwrap() + "\n").collect();
    std::fs::write(&path, lines).unwrap();
    path.to_string_lossy().into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_python_program_pushes_and_pops_beside_brolly() {
    let Some(python) = Python::with("Python's redis beside Brolly", &["redis"]).await else { return };
    let Some(redis) = super::redis("Python's redis beside Brolly").await else { return };
    let dir = tempfile::tempdir().unwrap();
    let server = settles(dir.path(), &redis.url()).await;
    let orders = orders::real();
    let output = python.run(PROGRAM, &[&redis.url(), &file(dir.path(), &orders)]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let popped: Vec<String> = serde_json::from_slice(&output.stdout).unwrap();
    server.idle(&["list"]).await;
    // Each order went to one of the two.
    let ours: Vec<_> = orders.into_iter().filter(|order| !popped.contains(&order.order_id)).collect();
    assert!(!popped.is_empty() && !ours.is_empty(), "both had a share: {}", popped.len());
    assert_eq!(server.days().await, orders::totals(&ours).days);
    super::nothing_is_left(&redis).await;
    assert_eq!(server.terminate().await, Some(0));
}

async fn push(redis: &RedisServer, orders: &[Order]) {
    for chunk in orders.chunks(100) {
        let lines: Vec<String> = chunk.iter().map(|order| serde_json::to_string(order).unwrap()).collect();
        let arguments = ["RPUSH", "orders:paid"].into_iter().chain(lines.iter().map(String::as_str));
        redis.cli(&arguments.collect::<Vec<_>>()).await;
    }
}

/// Two hosts share a list; one is killed in the middle, and is away for so long. Answers how many orders
/// more were settled and rejected by both than there are, and how many one of them may have in hand.
async fn one_of_two_is_killed(away: Duration) -> Option<(i64, i64, i64)> {
    let redis = super::redis("two hosts on one Redis list").await?;
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let first = settles(dirs[0].path(), &redis.url()).await;
    let second = settles(dirs[1].path(), &redis.url()).await;
    let orders = orders::real();
    push(&redis, &orders[..3_600]).await;
    eventually("both have a share", PATIENCE, || async {
        (settled(&first).await > 100 && settled(&second).await > 100).then_some(())
    })
    .await;
    let in_hand = first.get("/subscriptions/settlement").await["max_in_flight"].as_i64().unwrap();
    first.kill().await;
    let (back, pushed) = tokio::join!(
        async {
            tokio::time::sleep(away).await;
            Server::start(dirs[0].path()).await
        },
        push(&redis, &orders[3_600..]),
    );
    let ((), first) = (pushed, back);
    for server in [&first, &second] {
        server.idle(&["list"]).await;
    }
    super::nothing_is_left(&redis).await;
    let expect: i64 = orders::totals(&orders).days.values().map(|day| day.orders).sum();
    let settled = settled(&first).await + settled(&second).await;
    let rejected = rejected(&first).await + rejected(&second).await;
    for server in [first, second] {
        assert_eq!(server.terminate().await, Some(0));
    }
    Some((settled - expect, rejected - 8, in_hand))
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_hosts_on_one_list_one_is_killed_and_goes_on_where_it_was() {
    let Some((settled, rejected, _)) = one_of_two_is_killed(Duration::ZERO).await else { return };
    assert_eq!((settled, rejected), (0, 0), "more than there were");
}

/// Each host remembers for itself what it has handled, so what one had decided and not settled when it went
/// is handled by the other one, too: no more than it had in hand, and nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_hosts_on_one_list_one_stays_away_and_nothing_is_lost() {
    let Some((settled, rejected, in_hand)) = one_of_two_is_killed(Duration::from_secs(5)).await else {
        return;
    };
    eprintln!("{settled} orders were settled by both");
    assert!((0..=in_hand).contains(&settled) && (0..=in_hand).contains(&rejected), "{settled} {rejected}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_told_on_what_they_are_about() {
    let Some(redis) = super::redis("mistakes about Redis").await else { return };
    let dir = tempfile::tempdir().unwrap();
    let server = settles(dir.path(), &redis.url()).await;
    // The wrong type of key is refused, and found when it comes about later.
    redis.cli(&["SET", "text", "x"]).await;
    let wrong = server.request(reqwest::Method::PUT, "/queues/text").json(&json!({"broker": "cache"}));
    let answer = server.send(wrong).await;
    assert_eq!((answer.status.as_u16(), answer.body["code"].as_str()), (422, Some("unsupported")));
    assert!(answer.body["detail"].as_str().is_some_and(|why| why.contains("string")), "{:?}", answer.body);
    // Other brokers with wrong addresses and passwords say why, and disturb nobody.
    for (name, url, part) in [
        ("nowhere", "redis://no-such-host.invalid".to_owned(), "no-such-host.invalid"),
        ("closed", "redis://127.0.0.1:1".to_owned(), "127.0.0.1:1"),
        ("password", format!("redis://:wrong@{}", redis.address()), "password"),
    ] {
        server.put(&format!("/brokers/{name}"), json!({"kind": "redis", "url": url})).await;
        let broker = flow::broker_is(&server, name, "failed").await;
        let detail = broker["status"]["detail"].as_str().unwrap_or_default().to_lowercase();
        assert!(detail.contains(part) && !detail.contains("wrong@"), "{broker}");
    }
    // What the server may lose is told on the broker.
    redis.cli(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).await;
    redis.cli(&["CONFIG", "SET", "appendonly", "no"]).await;
    eventually("the warnings are told", PATIENCE, || async {
        let broker = server.get("/brokers/cache").await;
        let detail = broker["status"]["detail"].as_str().unwrap_or_default().to_owned();
        (detail.contains("allkeys-lru") && detail.contains("persistence is off")).then_some(())
    })
    .await;
    let status: Value = server.get("/subscriptions/settlement").await;
    assert_eq!(status["state"], "running", "{status}");
    assert_eq!(server.terminate().await, Some(0));
}
