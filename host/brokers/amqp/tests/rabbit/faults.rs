//! Connections that break, servers that fall silent, publishes that are refused.

use std::time::{Duration, Instant};

use brolly_core::{Broker, BrokerError, Code, Connection, NewMessage, Settlement};
use lapin::{
    options::{ExchangeDeleteOptions, QueueDeleteOptions},
    types::FieldTable,
};

use crate::{
    bench::{Bench, Foreign, PATIENCE, drain, eventually, failure, message, name, next, server, shows},
    proxy::Proxy,
};

async fn through(proxy: &Proxy, heartbeat_s: u64) -> Bench {
    let mut bench = Bench::start(&proxy.url, serde_json::json!({"heartbeat_s": heartbeat_s}));
    bench.topic("t");
    bench.queue("q", |_| {});
    bench.route("r", "t", "q", |_| {});
    bench.connected().await;
    bench.configure().await;
    bench
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_connection_is_made_again_and_nothing_is_lost() {
    let Some(url) = server("cut").await else { return };
    let proxy = Proxy::to(&url).await;
    let bench = through(&proxy, 5).await;
    let source = bench.consume("q").await;
    bench.publish(&["a", "b"]).await;
    let (a, b) = (next(&source).await, next(&source).await);
    source.settle(a.lease, Settlement::Ack);
    eventually("a is settled", || async { (bench.counts("q").await.1 == 1).then_some(()) }).await;
    proxy.cut();
    let why = failure(&source).await;
    assert!(why.contains("connection"), "{why}");
    source.close();
    // Its connection is gone; this settles nothing.
    source.settle(b.lease, Settlement::Ack);
    bench.connected().await;
    let source = bench.consume("q").await;
    let delivery = next(&source).await;
    assert_eq!(delivery.message.id, "b");
    source.settle(delivery.lease, Settlement::Ack);
    bench.publish(&["c"]).await;
    assert_eq!(drain(&source, 1).await, ["c"]);
    bench.until_counts("q", (0, 0, 0)).await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_server_is_noticed_without_traffic() {
    let Some(url) = server("silence").await else { return };
    let proxy = Proxy::to(&url).await;
    let bench = through(&proxy, 2).await;
    let source = bench.consume("q").await;
    proxy.silence(true);
    let began = Instant::now();
    failure(&source).await;
    let noticed = began.elapsed();
    println!("noticed after {noticed:?}");
    assert!(noticed < Duration::from_secs(6), "{noticed:?}");
    bench.health(Connection::Failed).await;
    let refused = bench.broker.publish(&name("t"), vec![message("m")]).await;
    shows(&refused, "not connected");
    source.close();
    proxy.silence(false);
    proxy.cut();
    bench.connected().await;
    let source = bench.consume("q").await;
    bench.publish(&["n"]).await;
    assert_eq!(drain(&source, 1).await, ["n"]);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_process_gives_back_what_it_has_not_settled() {
    let Some(url) = server("kill").await else { return };
    let proxy = Proxy::to(&url).await;
    let bench = through(&proxy, 5).await;
    let source = bench.consume("q").await;
    bench.publish(&["a"]).await;
    let delivery = next(&source).await;
    assert!(!delivery.first);
    bench.kill();
    proxy.cut();
    let mut other = Bench::start(&url, serde_json::json!({}));
    other.queue("q", |queue| queue.address = Some(bench.address("q")));
    other.connected().await;
    other.configure().await;
    let source = other.consume("q").await;
    assert_eq!(drain(&source, 1).await, ["a"]);
    other.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_whose_copy_cannot_be_sent_survives_the_end_of_the_process() {
    let Some(url) = server("retry without a copy").await else { return };
    let proxy = Proxy::to(&url).await;
    let bench = through(&proxy, 5).await;
    let (foreign, address) = (Foreign::connect(&url).await, bench.address("q"));
    // Where the copy would wait lies a queue of another kind.
    foreign.declare(&format!("{address}.wait.4096"), FieldTable::default()).await;
    let source = bench.consume("q").await;
    bench.publish(&["a", "b"]).await;
    let (retried, handled) = (next(&source).await, next(&source).await);
    let delay = Duration::from_secs(5);
    source.settle(retried.lease, Settlement::Retry { delay, attempts: 1 });
    source.settle(handled.lease, Settlement::Ack);
    bench.until_counts("q", (0, 1, 0)).await;
    bench.kill();
    proxy.cut();
    eventually("the original is ready", || async { (foreign.count(&address).await == 1).then_some(()) })
        .await;
    for queue in [address.clone(), format!("{address}.dead"), format!("{address}.wait.4096")] {
        foreign.channel.queue_delete(queue.as_str().into(), Default::default()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_settles_what_is_handled_and_gives_back_the_rest() {
    let Some(url) = server("close").await else { return };
    let bench = Bench::simple(&url).await;
    let ids: Vec<String> = (0..50).map(|n| format!("m{n}")).collect();
    bench.publish(&ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let source = bench.consume("q").await;
    for _ in 0..20 {
        let delivery = next(&source).await;
        source.settle(delivery.lease, Settlement::Ack);
    }
    let began = Instant::now();
    bench.broker.close().await;
    println!("closed in {:?}", began.elapsed());
    let address = bench.address("q");
    let foreign = Foreign::connect(&url).await;
    assert_eq!(foreign.count(&address).await, 30);
    for queue in [address.clone(), address + ".dead"] {
        foreign.channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    }
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_topic_that_is_gone_does_not_fail_the_others() {
    let Some(url) = server("missing exchange").await else { return };
    let mut bench = Bench::simple(&url).await;
    bench.topic("gone");
    bench.configure().await;
    let foreign = bench.foreign().await;
    let gone = bench.address("gone");
    foreign.channel.exchange_delete(gone.as_str().into(), ExchangeDeleteOptions::default()).await.unwrap();
    let many = |prefix: &str| (0..40).map(|n| message(&format!("{prefix}{n}"))).collect::<Vec<_>>();
    let (topic, lost) = (name("t"), name("gone"));
    let (fine, bad) =
        tokio::join!(bench.broker.publish(&topic, many("a")), bench.broker.publish(&lost, many("b")),);
    fine.unwrap();
    shows(&bad, "no exchange");
    // Some come twice: the server may have had them when it closed the channel for another.
    let source = bench.consume("q").await;
    let mut ids = std::collections::BTreeSet::new();
    while ids.len() < 40 {
        ids.extend(drain(&source, 1).await);
    }
    eventually("it is made again", || async { bench.broker.publish(&lost, many("b")).await.ok() }).await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_without_a_queue_is_an_error_only_where_a_route_leads_to_one() {
    let Some(url) = server("unroutable").await else { return };
    let mut bench = Bench::simple(&url).await;
    bench.routes.clear();
    bench.route("r", "t", "q", |route| route.key_pattern = "paid.#".into());
    bench.configure().await;
    // Many of both kinds at once: returned messages are told apart.
    let messages: Vec<NewMessage> = (0..500)
        .map(|n| NewMessage {
            key: if n % 3 == 0 { "paid.x" } else { "open" }.into(),
            ..message(&format!("m{n}"))
        })
        .collect();
    bench.broker.publish(&name("t"), messages).await.unwrap();
    bench.until_counts("q", (167, 0, 0)).await;
    let foreign = bench.foreign().await;
    let unbound = foreign.channel.queue_unbind(
        bench.address("q").as_str().into(),
        bench.address("t").as_str().into(),
        "paid.#".into(),
        Default::default(),
    );
    unbound.await.unwrap();
    let new = || vec![NewMessage { key: "paid.y".into(), ..message("last") }];
    let refused = bench.broker.publish(&name("t"), new()).await;
    shows(&refused, "unroutable");
    assert!(matches!(refused, Err(BrokerError::Refused(refusal)) if refusal.code == Code::Unavailable));
    eventually("it is bound again", || async { bench.broker.publish(&name("t"), new()).await.ok() }).await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_connection_is_said_without_the_password() {
    let Some(url) = server("wrong connections").await else { return };
    let parsed = url::Url::parse(&url).unwrap();
    let with = |change: &dyn Fn(&mut url::Url)| {
        let mut url = parsed.clone();
        change(&mut url);
        url.to_string()
    };
    let cases = [
        (with(&|url| url.set_password(Some("sesame")).unwrap()), "refuses the user"),
        (with(&|url| url.set_path("/no-such")), "refuses the virtual host"),
        (with(&|url| url.set_port(Some(1)).unwrap()), "cannot be reached"),
        (with(&|url| url.set_host(Some("no-such-host.invalid")).unwrap()), "cannot be looked up"),
    ];
    for (url, expect) in cases {
        let bench = Bench::start(&url, serde_json::json!({"connect_timeout_ms": 2_000}));
        let said = bench.health(Connection::Failed).await;
        assert!(said.contains(expect) && !said.contains("sesame"), "{said}");
        let began = Instant::now();
        let (queue, order) = (name("q"), brolly_core::Order::None);
        let consumed = bench.broker.consume(&queue, brolly_core::Consume { order, max_in_flight: 1 });
        shows(&consumed.await.map(|_| ()), expect);
        assert!(began.elapsed() < PATIENCE);
        bench.end().await;
    }
}

/// How many connections have a thread in this process.
fn threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok());
    names.filter(|name| name.starts_with("lapin")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_greets_and_says_no_more_costs_nothing_for_long() {
    let Some(url) = server("greeting").await else { return };
    let proxy = Proxy::to(&url).await;
    proxy.only_greets();
    let bench = Bench::start(&proxy.url, serde_json::json!({"connect_timeout_ms": 200}));
    let said = bench.health(Connection::Failed).await;
    assert!(said.contains("no answer within 400 ms"), "{said}");
    tokio::time::sleep(Duration::from_secs(3)).await;
    proxy.silence(false);
    bench.connected().await;
    // Other tests have theirs; those of many tries would be many.
    let count = threads();
    assert!(count < 40, "{count}");
    println!("{count} threads");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_server_of_the_cluster_is_taken() {
    let Some(url) = server("cluster").await else { return };
    let parsed = url::Url::parse(&url).unwrap();
    let (host, port) = (parsed.host_str().unwrap(), parsed.port().unwrap());
    let mut first = parsed.clone();
    first.set_port(Some(1)).unwrap();
    let bench = Bench::start(first.as_str(), serde_json::json!({"addresses": [format!("{host}:{port}")]}));
    bench.connected().await;
    assert!(bench.broker.health().server.unwrap().starts_with("RabbitMQ "));
    bench.end().await;
}
