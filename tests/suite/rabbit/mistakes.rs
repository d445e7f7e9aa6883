//! Mistakes of operators: each is an error on the right object, in words, and everything else runs.

use brolly_tests::{rabbit::Rabbit, server::Server};
use reqwest::Method;
use serde_json::{Value, json};

async fn detail_of(server: &Server, name: &str, url: &str, more: Value) -> String {
    let mut definition = json!({"kind": "amqp", "url": url});
    definition.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    let broker = server.put(&format!("/brokers/{name}"), definition).await;
    assert_eq!(broker["status"]["state"], "failed", "{broker}");
    assert!(!broker.to_string().contains("hunter2"), "no password is shown: {broker}");
    broker["status"]["detail"].as_str().unwrap().to_owned()
}

fn expect(detail: &str, words: &[&str]) {
    let small = detail.to_lowercase();
    assert!(words.iter().any(|word| small.contains(word)), "{words:?} in {detail:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_server_is_said_on_the_broker() {
    let Some(rabbit) = super::rabbit("mistakes with RabbitMQ").await else { return };
    let (vhost, dir) = (rabbit.vhost().await, tempfile::tempdir().unwrap());
    let server = super::host(dir.path(), &vhost.url, json!({})).await;
    super::broker_is(&server, "connected").await;
    let at = rabbit.address();
    let wrong = format!("amqp://guest:hunter2@{at}/{}", vhost.name);
    expect(&detail_of(&server, "credentials", &wrong, json!({})).await, &["password", "credentials", "user"]);
    let unknown = format!("amqp://guest:guest@{at}/nowhere");
    expect(&detail_of(&server, "vhost", &unknown, json!({})).await, &["nowhere"]);
    let closed = format!("amqp://guest:hunter2@127.0.0.1:{}/", brolly_tests::process::free_port());
    expect(&detail_of(&server, "closed", &closed, json!({})).await, &["refused"]);
    let tls = format!("amqps://guest:hunter2@{at}/{}", vhost.name);
    expect(&detail_of(&server, "tls", &tls, json!({})).await, &["tls"]);
    expect(
        &detail_of(&server, "dns", "amqp://guest:hunter2@no-such-host.invalid/", json!({})).await,
        &["no-such-host"],
    );

    // All at once, without a connection; and what is there keeps running.
    let mistakes = json!({"kind": "amqp", "url": "amqp://h/", "heartbeat_s": 0, "colour": 1});
    let refused = server.call(Method::PUT, "/brokers/x", Some(mistakes)).await;
    let detail = refused.body["detail"].to_string();
    assert_eq!(refused.problem(422), "invalid-definition");
    assert!(detail.contains("colour"), "{detail}");
    let refused =
        server.call(Method::PUT, "/brokers/x", Some(json!({"kind": "mqtt", "url": "mqtt://h"}))).await;
    assert_eq!(refused.problem(422), "invalid-definition");
    let refused = server.call(Method::DELETE, "/brokers/embedded", None).await;
    assert!(refused.status.is_client_error());
    assert_eq!(
        super::broker_is(&server, "connected").await["url"],
        vhost.url.replace("guest:guest", "guest:***")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_honoured_is_refused_when_it_is_saved() {
    let Some(rabbit) = super::rabbit("settings that RabbitMQ cannot honour").await else { return };
    let (vhost, dir) = (rabbit.vhost().await, tempfile::tempdir().unwrap());
    let server = super::host(dir.path(), &vhost.url, json!({})).await;
    super::broker_is(&server, "connected").await;
    declare_classic(&rabbit, &vhost.name, "theirs").await;
    let put = async |path: &str, body: Value| server.call(Method::PUT, path, Some(body)).await;

    let clash = put("/queues/theirs", json!({"broker": "rabbit"})).await;
    let detail = clash.body["detail"].to_string();
    assert_eq!(clash.status, 422, "{detail}");
    expect(&detail, &["adopt"]);
    for (body, word) in [
        (json!({"broker": "rabbit", "type": "stream"}), "stream"),
        (json!({"broker": "rabbit", "retention": {"max_messages": 5}}), "max"),
        (json!({"broker": "rabbit", "adopt": true, "address": "missing"}), "missing"),
        (json!({"broker": "rabbit", "address": "amq.thing"}), "amq."),
    ] {
        let answer = put("/queues/q", body).await;
        assert!(answer.status.is_client_error(), "{}", answer.body);
        expect(&answer.body["detail"].to_string(), &[word]);
    }
    // Adopted as it is: consumed, and neither bound nor deleted.
    server.put("/queues/adopted", json!({"broker": "rabbit", "address": "theirs", "adopt": true})).await;
    server.put("/topics/t", json!({"broker": "rabbit"})).await;
    let bound = put("/routes/r", json!({"topic": "t", "queue": "adopted"})).await;
    assert_eq!(bound.problem(422), "unsupported");
    server.call(Method::DELETE, "/queues/adopted?force=true", None).await;
    assert!(rabbit.queues(&vhost.name).await.iter().any(|queue| queue.name == "theirs"));
}

/// A user that may do less than it must.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_permission_is_said_on_the_queue() {
    let Some(rabbit) = super::rabbit("missing permissions on RabbitMQ").await else { return };
    let (vhost, dir) = (rabbit.vhost().await, tempfile::tempdir().unwrap());
    rabbit.ctl(&["add_user", "poor", "secret"]).await;
    rabbit.ctl(&["set_permissions", "-p", &vhost.name, "poor", "^may.*", ".*", ".*"]).await;
    let url = format!("amqp://poor:secret@{}/{}", rabbit.address(), vhost.name);
    let server = super::host(dir.path(), &url, json!({})).await;
    super::broker_is(&server, "connected").await;
    server.put("/queues/may", json!({"broker": "rabbit"})).await;
    let refused = server.call(Method::PUT, "/queues/other", Some(json!({"broker": "rabbit"}))).await;
    assert!(refused.status.is_client_error(), "{}", refused.body);
    expect(&refused.body["detail"].to_string(), &["permission", "access"]);
    let fine = server.get("/queues/may").await;
    assert_eq!(fine["trouble"], Value::Null, "{fine}");
}

async fn declare_classic(rabbit: &Rabbit, vhost: &str, queue: &str) {
    let expression = format!(
        "rabbit_amqqueue:declare(rabbit_misc:r(<<\"{vhost}\">>, queue, <<\"{queue}\">>), true, false, [], none, <<\"test\">>)."
    );
    rabbit.ctl(&["eval", &expression]).await;
}
