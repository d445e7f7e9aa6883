//! Fills a host: definitions, dead letters, and a flow of messages.

use std::time::Duration;

use brolly_tests::{
    eventually,
    server::{Server, plugin_bytes},
};
use futures::{StreamExt, stream};
use reqwest::Method;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::Size;

/// Requests under way at once.
const AT_ONCE: usize = 8;
/// Messages of one publish.
const BULK: usize = 5_000;
/// Messages of one publish of the flow, and how often.
const FLOW: (usize, Duration) = (20, Duration::from_millis(100));
/// How long filling may go without getting on.
const PATIENCE: Duration = Duration::from_secs(1_800);

/// Of all dead letters, one in so many is in one queue.
const IN_ONE: usize = 10;

async fn put(server: &Server, things: Vec<(String, Value)>) {
    let puts = stream::iter(things).map(|(path, body)| async move {
        server.call(Method::PUT, &path, Some(body)).await.ok();
    });
    puts.buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
}

/// Topics with three queues each, whose handlers reject; `live`, whose handler acknowledges, and `crowd`
/// with one queue for many dead letters.
pub async fn definitions(server: &Server, size: Size) {
    let version = server.upload("hostile", plugin_bytes("hostile")).await;
    let owners = json!([{"name": "ops", "email": "ops@example.com"}]);
    let named = |at: usize| format!("topic-{at:05}");
    let mut topics: Vec<String> = (0..size.topics).map(named).collect();
    topics.extend(["live".to_owned(), "crowd".to_owned()]);
    let mut queues: Vec<(String, String)> = (0..size.queues())
        .map(|at| (format!("queue-{at:05}"), named(at / Size::QUEUES_OF_A_TOPIC)))
        .collect();
    queues.extend([("live".to_owned(), "live".to_owned()), ("crowd".to_owned(), "crowd".to_owned())]);
    let topic = json!({"description": "filled by the measurement", "owners": owners});
    put(server, topics.iter().map(|name| (format!("/topics/{name}"), topic.clone())).collect()).await;
    let queue = json!({"owners": owners});
    put(server, queues.iter().map(|(name, _)| (format!("/queues/{name}"), queue.clone())).collect()).await;
    let route = |(queue, topic): &(String, String)| {
        (format!("/routes/{topic}-to-{queue}"), json!({"topic": topic, "queue": queue}))
    };
    put(server, queues.iter().map(route).collect()).await;
    let subscription = |(queue, _): &(String, String)| {
        let mode = if queue == "live" { "counter" } else { "reject" };
        let body = json!({"queue": queue, "plugin": "hostile", "version": version, "config": {"mode": mode}});
        (format!("/subscriptions/{queue}"), body)
    };
    put(server, queues.iter().map(subscription).collect()).await;
}

/// Messages that are rejected by all.
pub async fn dead_letters(server: &Server, size: Size) {
    let in_crowd = size.dead_letters / IN_ONE;
    let published = (size.dead_letters - in_crowd).div_ceil(Size::QUEUES_OF_A_TOPIC);
    let of_a_topic = published.div_ceil(size.topics);
    let mut bulks = vec![("crowd".to_owned(), in_crowd)];
    bulks.extend((0..size.topics).map(|at| (format!("topic-{at:05}"), of_a_topic)));
    let lines = |topic: &str, from: usize, to: usize| {
        let line = |at: usize| {
            json!({"id": format!("{topic}-{at:06}"), "key": format!("{:03}", at % 500), "headers": {"shop": "berlin"},
                "payload": {"order_id": at, "amount_cents": 2933}})
            .to_string()
        };
        (from..to).map(line).collect::<Vec<_>>().join("\n")
    };
    let requests = bulks.iter().flat_map(|(topic, count)| {
        (0..*count).step_by(BULK).map(move |from| (topic, from, (from + BULK).min(*count)))
    });
    let publishes = stream::iter(requests).map(|(topic, from, to)| async move {
        server.bulk(topic, lines(topic, from, to)).await.unwrap().ok();
    });
    publishes.buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
    eventually("everything is a dead letter", PATIENCE, || async {
        // Not too often: it is the host that is to work.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let metrics = reqwest::get(format!("{}/metrics", server.url)).await.unwrap().text().await.unwrap();
        let dead = metrics.lines().filter(|line| {
            line.starts_with("brolly_attempts_total{") && line.contains("outcome=\"dead_letter\"")
        });
        let dead: usize = dead.filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).sum();
        (dead >= size.dead_letters).then_some(())
    })
    .await;
}

/// Publishes 200 messages a second until it is told to stop; answers with how many there were.
pub async fn flow(server: &Server, stop: CancellationToken) -> usize {
    let mut sent = 0;
    let mut pace = tokio::time::interval(FLOW.1);
    while stop.run_until_cancelled(pace.tick()).await.is_some() {
        let line = |at: usize| json!({"id": format!("flow-{at}"), "payload": at}).to_string();
        let lines: Vec<String> = (sent..sent + FLOW.0).map(line).collect();
        server.bulk("live", lines.join("\n")).await.unwrap().ok();
        sent += FLOW.0;
    }
    sent
}
