//! From nothing to orders on RabbitMQ as the README has it, and the ways to a server: TLS, and one of
//! several addresses.

use brolly_tests::{
    orders,
    rabbit::{Options, Rabbit},
    server::Server,
    skip,
};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_document_at_the_start_runs_the_sample_plugins_on_rabbitmq() {
    let Some(rabbit) = super::rabbit("the README's document on RabbitMQ").await else { return };
    let (vhost, dir) = (rabbit.vhost().await, tempfile::tempdir().unwrap());
    let document = brolly_tests::root().join("tests/data/rabbit.toml");
    let arguments = ["--apply", document.to_str().unwrap()];
    let server = Server::start_with(dir.path(), &arguments, &[("RABBIT_URL", &vhost.url)]).await;
    brolly_tests::eventually("the document is applied", brolly_tests::server::PATIENCE, || async {
        let all = server.all("/subscriptions").await;
        (all.len() == 3 && all.iter().all(|one| one["status"]["state"] == "running")).then_some(())
    })
    .await;
    let orders = orders::real();
    server.bulk("orders.paid", orders::ndjson(&orders)).await.unwrap().ok();
    server.idle(&["activity", "notification", "settlement"]).await;
    let expect = orders::totals(&orders);
    let got = server.totals().await;
    assert_eq!((got.days, got.points), (expect.days, expect.points));
    let waiting = rabbit.queues(&vhost.name).await;
    let count = |name: &str| waiting.iter().find(|queue| queue.name == name).map(|queue| queue.ready);
    assert_eq!(count("mails"), Some(orders.len() as u64), "what plugins publish lies on RabbitMQ");
    assert_eq!(count("coupons"), Some(expect.coupons.values().sum::<i64>().try_into().unwrap()));
    assert_eq!(server.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_and_several_addresses() {
    if let Err(why) = Rabbit::available() {
        return skip("TLS to RabbitMQ", &why);
    }
    let rabbit = Rabbit::with(Options { tls: true, ..Options::default() }).await;
    let dir = tempfile::tempdir().unwrap();
    let server = super::host(dir.path(), &rabbit.tls_url(), json!({"ca_pem": rabbit.ca_pem()})).await;
    let broker = super::broker_is(&server, "connected").await;
    assert!(
        broker["status"]["server"].as_str().is_some_and(|server| server.contains("RabbitMQ")),
        "{broker}"
    );
    server.put("/topics/t", json!({"broker": "rabbit"})).await;
    server.bulk("t", "{\"payload\":1}\n".to_owned()).await.unwrap().ok();

    // Nobody who is not trusted is spoken to.
    server.put("/brokers/untrusted", json!({"kind": "amqp", "url": rabbit.tls_url()})).await;
    let untrusted = server.get("/brokers/untrusted").await;
    assert_eq!(untrusted["status"]["state"], "failed", "{untrusted}");

    // The first address is closed; the second one is the server.
    let closed = format!("amqp://guest:guest@127.0.0.1:{}/%2f", brolly_tests::process::free_port());
    let addresses = json!({"kind": "amqp", "url": closed, "addresses": [rabbit.address().to_string()]});
    server.put("/brokers/cluster", addresses).await;
    brolly_tests::eventually("the second address is found", brolly_tests::server::PATIENCE, || async {
        (server.get("/brokers/cluster").await["status"]["state"] == "connected").then_some(())
    })
    .await;
    assert_eq!(server.terminate().await, Some(0));
}
