//! Brolly over a real Redis: the contract, the real orders through every incident, other programs beside
//! it, and the way from there to other brokers and back.

mod contract;
mod feed;
mod incidents;
mod migration;
mod neighbours;
mod orders;

use std::path::Path;

use brolly_tests::{
    eventually,
    redis::{Options, RedisServer},
    server::{PATIENCE, Server},
    skip,
};
use serde_json::json;

/// A server that keeps what it confirms, unless there is none on this machine.
pub(crate) async fn redis(what: &str) -> Option<RedisServer> {
    match RedisServer::available() {
        Ok(()) => Some(RedisServer::with(Options { append_only: true, ..Options::default() }).await),
        Err(why) => {
            skip(what, &why);
            None
        }
    }
}

/// A host with the broker `cache` at this address; what is set up lives there in lists or streams.
async fn host(dir: &Path, url: &str, kind: &str) -> Server {
    let mut server = Server::start(dir).await;
    let definition = json!({"kind": "redis", "url": url, "worker_timeout_ms": 2_000});
    server.put("/brokers/cache", definition).await;
    server.home = json!({"broker": "cache", "type": kind});
    server
}

/// Waits until Redis holds nothing that is not settled, neither waiting nor in some worker's hands.
async fn nothing_is_left(redis: &RedisServer) {
    eventually("nothing is left on the server", PATIENCE, || async {
        let keys = redis.cli(&["KEYS", "*"]).await;
        for key in keys.lines() {
            let count = match redis.cli(&["TYPE", key]).await.as_str() {
                "list" => redis.cli(&["LLEN", key]).await,
                "hash" if key.contains(":taken:") => redis.cli(&["HLEN", key]).await,
                "zset" if key.ends_with(":delayed") => redis.cli(&["ZCARD", key]).await,
                "stream" => pending(redis, key).await.to_string(),
                _ => continue,
            };
            if count != "0" {
                eprintln!("left: {key} {count}");
                return None;
            }
        }
        Some(())
    })
    .await;
}

/// What the groups of a stream have taken and not settled, and not taken.
async fn pending(redis: &RedisServer, stream: &str) -> u64 {
    let groups = redis.cli(&["XINFO", "GROUPS", stream]).await;
    let lines: Vec<&str> = groups.lines().collect();
    let numbers = lines.windows(2).filter(|pair| matches!(pair[0], "pending" | "lag"));
    numbers.map(|pair| pair[1].parse::<u64>().unwrap_or(0)).sum()
}
