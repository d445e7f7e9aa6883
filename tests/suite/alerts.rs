//! The owners of queues are warned: the real binary, a real mail server, and an HTTP server that checks what it
//! is sent as the providers do.

use std::{path::Path, time::Duration};

use brolly_tests::{
    certificates, eventually,
    receiver::Receiver,
    server::{PATIENCE, Server, plugin_bytes},
};
use reqwest::Method;
use serde_json::{Value, json};

/// A server that trusts the certificates in this folder, too.
async fn server(dir: &Path, certificates: &Path) -> Server {
    let authority = certificates.join("ca.pem");
    let authority = authority.to_str().unwrap();
    Server::start_with(dir, &[], &[("SSL_CERT_FILE", authority)]).await
}

/// A topic `t` that leads to the queue `q`, whose subscription is paused; handlers of it do as `mode` says.
async fn paused_queue(server: &Server, mode: &str) {
    server.put("/topics/t", json!({})).await;
    let version = server.upload("hostile", plugin_bytes("hostile")).await;
    server.subscribe("q", "t", "hostile", &version, json!({"config": {"mode": mode}, "paused": true})).await;
}

async fn publish(server: &Server, messages: usize) {
    server.bulk("t", "{\"payload\":{}}\n".repeat(messages)).await.unwrap().ok();
}

/// Gives the queue an owner and these rules.
async fn rules(server: &Server, rules: Value) {
    let owners = json!([{"name": "Ann", "email": "ann@example.com", "phone": "+8613800000000"}, "ops"]);
    server.put("/queues/q", json!({"owners": owners, "alerts": rules})).await;
}

/// The one alert of the server, once it stands so.
async fn alert(server: &Server, status: &str) -> Value {
    let path = format!("/alerts?status={status}");
    eventually(&format!("an alert is {status}"), PATIENCE, || async {
        server.get(&path).await["items"].as_array().unwrap().first().cloned()
    })
    .await
}

/// What came in by this way, once it is at least so much.
async fn taken(receiver: &Receiver, by: &str, least: usize) -> Vec<Value> {
    eventually(&format!("{least} by {by}"), PATIENCE, || async {
        let taken = receiver.taken(by);
        (taken.len() >= least).then_some(taken)
    })
    .await
}

fn kinds(taken: &[Value]) -> Vec<&str> {
    taken.iter().map(|thing| thing["kind"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_are_told_once_by_every_channel_again_after_the_interval_and_when_it_is_over() {
    let folder = tempfile::tempdir().unwrap();
    certificates::write(folder.path());
    let Some(receiver) = Receiver::start("alerts end to end", Some(folder.path())).await else { return };
    let dir = tempfile::tempdir().unwrap();
    let host = server(dir.path(), folder.path()).await;
    channels(&host, &receiver).await;
    paused_queue(&host, "counter").await;
    let rule = json!({"when": "ready", "above": 100, "for_ms": 1000, "repeat_ms": 8000,
        "channels": ["mail", "sms", "hook"]});
    rules(&host, json!([rule])).await;
    publish(&host, 100).await;
    publish(&host, 20).await;

    let (mail, sms, hook) = (
        taken(&receiver, "mail", 1).await,
        taken(&receiver, "sms", 1).await,
        taken(&receiver, "hook", 1).await,
    );
    assert_eq!(mail[0]["to"], json!(["ann@example.com"]));
    assert_eq!((&mail[0]["tls"], &mail[0]["user"]), (&json!(true), &json!("brolly")));
    assert_eq!(mail[0]["subject"], "[Brolly] Queue q: 120 messages are ready, the limit is 100");
    let text = mail[0]["text"].as_str().unwrap();
    assert!(text.contains("since 20") && text.contains("Owner: Ann, ops."), "{text}");
    assert_eq!(sms[0]["to"], "+8613800000000");
    assert!(sms[0]["text"].as_str().unwrap().contains("The queue q has trouble: 120 messages are ready"));
    assert_eq!(
        (&hook[0]["queue"], &hook[0]["value"], &hook[0]["kind"]),
        (&json!("q"), &json!(120), &json!("firing"))
    );
    eventually("everything is noted as sent", PATIENCE, || async {
        let notices = alert(&host, "firing").await["notices"].clone();
        let sent = notices.as_array().unwrap().iter().filter(|notice| notice["sent_at_ms"].is_u64()).count();
        (sent == 3).then_some(())
    })
    .await;

    // Stopped and killed in between, nothing is told twice: before the interval is over nobody is told anything.
    let fired_at = alert(&host, "firing").await["fired_at_ms"].as_u64().unwrap();
    assert_eq!(host.terminate().await, Some(0));
    let host = server(dir.path(), folder.path()).await;
    assert_eq!(alert(&host, "firing").await["fired_at_ms"], fired_at);
    host.kill().await;
    let host = server(dir.path(), folder.path()).await;
    let hooks = taken(&receiver, "hook", 2).await;
    assert_eq!(kinds(&hooks[..2]), ["firing", "repeat"]);
    let gap = hooks[1]["at_ms"].as_u64().unwrap() - hooks[0]["at_ms"].as_u64().unwrap();
    assert!((8000..20_000).contains(&gap), "repeated after {gap} ms");

    host.post("/subscriptions/q/resume").await;
    let over = alert(&host, "recovered").await;
    let told = over["notices"].as_array().unwrap().clone();
    let recoveries = eventually("everybody is told that it is over", PATIENCE, || async {
        let hooks = receiver.taken("hook");
        kinds(&hooks).contains(&"recovery").then_some(hooks)
    })
    .await;
    for kind in ["firing", "recovery"] {
        assert_eq!(recoveries.iter().filter(|hook| hook["kind"] == kind).count(), 1, "{recoveries:?}");
    }
    let each = told.len() / 3;
    let (mails, texts) = (taken(&receiver, "mail", each).await, taken(&receiver, "sms", each).await);
    assert!(mails.last().unwrap()["subject"].as_str().unwrap().contains("Recovered: queue q"));
    let hooks = taken(&receiver, "hook", each).await;
    let ids: std::collections::BTreeSet<&str> =
        hooks.iter().map(|hook| hook["id"].as_str().unwrap()).collect();
    assert_eq!((mails.len(), texts.len(), hooks.len(), ids.len()), (each, each, each, each), "nothing twice");
    assert_eq!(host.terminate().await, Some(0));
}

/// The three channels.
async fn channels(server: &Server, receiver: &Receiver) {
    let (mail, http) = (receiver.mail, receiver.http);
    let mail = json!({"kind": "smtp", "from": "Brolly <brolly@example.com>",
        "url": format!("smtp://brolly:pass%20word@localhost:{mail}?tls=required")});
    server.put("/channels/mail", mail).await;
    let sms = json!({"kind": "sms", "preset": "http", "url": format!("http://127.0.0.1:{http}/sms"),
        "headers": {"Authorization": "Bearer the secret"}, "body": r#"{"to":"{{ phone }}","text":"{{ text }}"}"#});
    server.put("/channels/sms", sms).await;
    let hook =
        json!({"kind": "webhook", "url": format!("http://127.0.0.1:{http}/hook"), "secret": "the secret"});
    server.put("/channels/hook", hook).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_is_tried_and_says_why_it_does_not_work() {
    let folder = tempfile::tempdir().unwrap();
    certificates::write(folder.path());
    let Some(receiver) = Receiver::start("channels", Some(folder.path())).await else { return };
    let dir = tempfile::tempdir().unwrap();
    let host = server(dir.path(), folder.path()).await;
    channels(&host, &receiver).await;
    let http = format!("http://127.0.0.1:{}", receiver.http);
    let mail = |user: &str, tls: &str| {
        let url = format!("smtp://{user}@localhost:{}{tls}", receiver.mail);
        json!({"kind": "smtp", "from": "b@example.com", "url": url, "to": ["a@example.com"]})
    };
    let alibaba = |secret: &str| {
        json!({"kind": "sms", "preset": "alibaba", "access_key_id": "key-id", "access_key_secret": secret,
            "sign_name": "保险", "template_code": "SMS_1", "url": http, "to": ["+8613800000000"]})
    };
    let twilio = |token: &str| {
        json!({"kind": "sms", "preset": "twilio", "account_sid": "AC1", "auth_token": token, "from": "+1555",
            "url": http, "to": ["+1444"]})
    };
    let hook = |path: &str, secret: &str| json!({"kind": "webhook", "url": format!("{http}{path}"), "secret": secret});
    let cases = [
        ("the mail server takes it", mail("brolly:pass%20word", "?tls=required"), None),
        ("a wrong password", mail("brolly:wrong", "?tls=required"), Some("535")),
        ("no TLS", mail("brolly:pass%20word", ""), Some("No compatible authentication")),
        ("Alibaba Cloud takes it", alibaba("key-secret"), None),
        ("a wrong key", alibaba("wrong"), Some("SignatureDoesNotMatch")),
        ("Twilio takes it", twilio("token"), None),
        ("a wrong token", twilio("wrong"), Some("401")),
        ("a webhook takes it", hook("/hook", "the secret"), None),
        ("a wrong secret", hook("/hook", "wrong"), Some("401")),
        ("nothing there", hook("/nothing", "the secret"), Some("404")),
        ("nobody listens", json!({"kind": "webhook", "url": "http://127.0.0.1:1/"}), Some("refused")),
    ];
    for (what, definition, error) in cases {
        host.put("/channels/tried", definition).await;
        let result = host.post("/channels/tried/test").await["results"][0].clone();
        assert_eq!(result["ok"], error.is_none(), "{what}: {result}");
        let said = result["error"].as_str().unwrap_or_default();
        assert!(said.contains(error.unwrap_or_default()), "{what}: {said}");
        // Another kind has no place for it.
        host.call(Method::DELETE, "/channels/tried", None).await.ok();
    }
    let text = &taken(&receiver, "alibaba", 1).await[0];
    assert_eq!((&text["PhoneNumbers"], &text["SignName"]), (&json!("+8613800000000"), &json!("保险")));
    let params: Value = serde_json::from_str(text["TemplateParam"].as_str().unwrap()).unwrap();
    assert!(params["text"].as_str().unwrap().contains("The channel tried works"));
    assert_eq!(taken(&receiver, "twilio", 1).await[0]["To"], "+1444");

    let someone = host
        .call(Method::POST, "/channels/mail/test", Some(json!({"email": "refused@example.com"})))
        .await
        .ok();
    assert!(someone["results"][0]["error"].as_str().unwrap().contains("no such person here"), "{someone}");
    assert_eq!(host.call(Method::POST, "/channels/mail/test", None).await.problem(400), "invalid-request");
    assert_eq!(host.call(Method::POST, "/channels/no/test", None).await.problem(404), "not-found");
    assert_eq!(host.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_channel_is_seen_is_tried_again_and_holds_up_nobody() {
    let Some(receiver) = Receiver::start("a failing channel", None).await else { return };
    let dir = tempfile::tempdir().unwrap();
    let host = Server::start(dir.path()).await;
    let hook = |port: u64| json!({"kind": "webhook", "url": format!("http://127.0.0.1:{port}/hook"), "secret": "the secret"});
    let mail = json!({"kind": "smtp", "url": format!("smtp://127.0.0.1:{}", receiver.mail),
        "from": "brolly@example.com", "to": ["refused@example.com"]});
    host.put("/channels/mail", mail).await;
    host.put("/channels/hook", hook(1)).await;
    paused_queue(&host, "counter").await;
    let rule = json!({"when": "ready", "above": 0, "for_ms": 0, "channels": ["mail", "hook"]});
    rules(&host, json!([rule])).await;
    publish(&host, 1).await;

    // Of two people on one channel, the one who cannot be reached does not hold up the other.
    assert_eq!(taken(&receiver, "mail", 1).await[0]["to"], json!(["ann@example.com"]));
    let health = |channel: &'static str| host.get(channel);
    let failing = eventually("the webhook fails twice", PATIENCE, || async {
        let alert = alert(&host, "firing").await;
        let hook =
            alert["notices"].as_array().unwrap().iter().find(|notice| notice["channel"] == "hook").cloned();
        hook.filter(|hook| hook["attempts"].as_u64() >= Some(2))
    })
    .await;
    assert!(failing["error"].as_str().unwrap().contains("refused"), "{failing}");
    assert!(failing["retry_at_ms"].is_u64() && failing["sent_at_ms"].is_null(), "{failing}");
    let hook_now = health("/channels/hook").await["health"].clone();
    assert_eq!((&hook_now["state"], &hook_now["waiting"]), (&json!("failing"), &json!(1)), "{hook_now}");
    let metrics = reqwest::get(format!("{}/metrics", host.url)).await.unwrap().text().await.unwrap();
    assert!(metrics.contains("brolly_notices_total{channel=\"hook\",result=\"failed\"}"), "{metrics}");

    // It survives a restart, and gets through once the other side is there.
    assert_eq!(host.terminate().await, Some(0));
    let host = Server::start(dir.path()).await;
    let still = host.get("/channels/hook").await["health"].clone();
    assert_eq!((&still["state"], &still["waiting"]), (&json!("failing"), &json!(1)), "{still}");
    assert!(
        still["error"].as_str().unwrap().contains("refused"),
        "the channel is known from the start: {still}"
    );
    host.put("/channels/hook", hook(receiver.http)).await;
    assert_eq!(kinds(&taken(&receiver, "hook", 1).await), ["firing"]);
    eventually("the channel is well", PATIENCE, || async {
        let health = host.get("/channels/hook").await["health"].clone();
        (health["state"] == "ok" && health["waiting"] == 0).then_some(())
    })
    .await;
    assert_eq!(receiver.taken("mail").len(), 1);
    assert_eq!(host.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_rule_sees_what_it_is_for() {
    let Some(receiver) = Receiver::start("kinds of rules", None).await else { return };
    let dir = tempfile::tempdir().unwrap();
    let host = Server::start(dir.path()).await;
    let hook = json!({"kind": "webhook", "url": format!("http://127.0.0.1:{}/hook", receiver.http), "secret": "the secret"});
    host.put("/channels/hook", hook).await;
    paused_queue(&host, "reject").await;
    let rule = |when: &str, above: Option<u64>| {
        let mut rule = json!({"when": when, "for_ms": 0, "repeat_ms": null, "channels": ["hook"]});
        if let Some(above) = above {
            rule["above"] = above.into();
        }
        rule
    };
    rules(
        &host,
        json!([
            rule("ready", Some(4)),
            rule("oldest_age", Some(1500)),
            rule("no_consumer", None),
            rule("dead", Some(4)),
            rule("failure_rate", Some(99)),
        ]),
    )
    .await;
    publish(&host, 5).await;
    let firing = async |wanted: &[&str]| {
        let mut wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
        wanted.sort();
        eventually(&format!("{wanted:?} fire"), PATIENCE, || async {
            let alerts = host.get("/alerts?status=firing").await["items"].as_array().unwrap().clone();
            let mut rules: Vec<String> =
                alerts.iter().map(|alert| alert["rule"].as_str().unwrap().to_owned()).collect();
            rules.sort();
            (rules == wanted).then_some(alerts)
        })
        .await
    };
    firing(&["no_consumer", "oldest_age", "ready"]).await;
    host.post("/subscriptions/q/resume").await;
    let alerts = firing(&["dead", "failure_rate"]).await;
    let rate = alerts.iter().find(|alert| alert["rule"] == "failure_rate").unwrap();
    assert_eq!((&rate["value"], &rate["above"]), (&json!(100), &json!(99)));

    // Somebody has seen one of them; the rule of the other is removed.
    let dead =
        alerts.iter().find(|alert| alert["rule"] == "dead").unwrap()["id"].as_str().unwrap().to_owned();
    let seen = host.post(&format!("/alerts/{dead}/acknowledge")).await;
    assert!(seen["acknowledged"]["by"].is_string() && seen["next_notice_at_ms"].is_null(), "{seen}");
    rules(&host, json!([rule("dead", Some(4))])).await;
    firing(&["dead"]).await;
    let ended = alert(&host, "ended").await;
    assert_eq!(ended["rule"], "failure_rate");
    let audit = host.get("/audit?limit=5").await["items"].clone();
    assert!(audit.as_array().unwrap().iter().any(|one| one["action"] == "acknowledge"), "{audit}");
    assert_eq!(
        host.call(Method::POST, &format!("/alerts/{}/acknowledge", ended["id"].as_str().unwrap()), None)
            .await
            .problem(404),
        "not-found"
    );

    // Whom a rule tells cannot be deleted; a queue can, and its alert ends.
    assert_eq!(host.call(Method::DELETE, "/channels/hook", None).await.problem(409), "in-use");
    for path in ["/subscriptions/q", "/routes/t-to-q", "/queues/q?force=true"] {
        host.call(Method::DELETE, path, None).await.ok();
    }
    firing(&[]).await;
    host.call(Method::DELETE, "/channels/hook", None).await.ok();
    tokio::time::timeout(Duration::from_secs(20), host.terminate()).await.unwrap();
}
