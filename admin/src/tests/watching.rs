//! What the console watches: the stream of changes, the audit log, the route tester, a look into a queue.

use std::time::Duration;

use axum::body::BodyDataStream;
use futures::StreamExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::house::{House, Scripted};
use crate::Config;

/// An open stream of events.
struct Events {
    body: BodyDataStream,
    text: String,
}

impl Events {
    async fn open(house: &House) -> Self {
        let request = house.request("GET", "/api/v1/events").body(axum::body::Body::empty()).unwrap();
        let response = house.router().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { body: response.into_body().into_data_stream(), text: String::new() }
    }

    /// The next event: its kind and its data; none when the stream has ended.
    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let (mut kind, mut data) = (String::new(), Value::Null);
                for line in event.lines() {
                    match line.split_once(": ") {
                        Some(("event", value)) => value.clone_into(&mut kind),
                        Some(("data", value)) => data = serde_json::from_str(value).unwrap(),
                        _ => panic!("{line}"),
                    }
                }
                self.text = rest.to_owned();
                return Some((kind, data));
            }
            let chunk = tokio::time::timeout(Duration::from_secs(30), self.body.next()).await.unwrap()?;
            self.text.push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
        }
    }

    /// The first of the next events that is as it should be.
    async fn until(&mut self, holds: impl Fn(&Value) -> bool) -> Value {
        loop {
            let (kind, data) = self.next().await.expect("the stream goes on");
            assert_eq!(kind, "changes");
            if holds(&data) {
                return data;
            }
        }
    }
}

#[tokio::test]
async fn the_stream_tells_everything_once_and_then_what_changes() {
    let house = House::furnished().await;
    house.put("/api/v1/subscriptions/s", House::subscription()).await.expect(201);
    let mut events = Events::open(&house).await;
    let (kind, all) = events.next().await.unwrap();
    assert_eq!(kind, "all");
    assert_eq!(all["queues"]["q"]["ready"], 0);
    assert_eq!(all["subscriptions"]["s"]["queue"], "q");
    assert_eq!(all["brokers"]["embedded"]["state"], "connected");
    assert_eq!(all["history"]["every_ms"], 10_000);
    house.until("/api/v1/subscriptions/s", |body| body["state"] == "running").await;
    events.until(|data| data["subscriptions"].as_object().unwrap().is_empty()).await;

    house.post("/api/v1/topics/t/messages?id=m&key=k", &[], r#"{"do":"reject"}"#).await.expect(200);
    let told = events.until(|data| data["subscriptions"]["s"]["dead"] == 1).await;
    assert_eq!(told["queues"]["q"]["dead"], 1, "{told}");
    assert_eq!(told["totals"]["dead_letters"], 1, "{told}");
    assert!(told["brokers"].as_object().unwrap().is_empty(), "what did not change is not told again: {told}");

    let revision = told["revision"].as_u64().unwrap();
    house.delete("/api/v1/subscriptions/s").await.expect(204);
    let told = events.until(|data| data["gone"]["subscriptions"] == json!(["s"])).await;
    assert!(told["revision"].as_u64().unwrap() > revision);
    house.close().await;
}

#[tokio::test]
async fn streams_are_few_and_end_with_their_token() {
    let config = Config { streams: 1, ..Config::default() };
    let house = House::with(config, std::sync::Arc::new(String::new), std::sync::Arc::new(Scripted)).await;
    let mut events = Events::open(&house).await;
    events.next().await.unwrap();
    house.get("/api/v1/events").await.problem(503, "unavailable");
    house.json("POST", "/api/v1/tokens", json!({"name": "b", "role": "admin"})).await.expect(201);
    house.delete("/api/v1/tokens/a").await.expect(204);
    while events.next().await.is_some() {}
    house.close().await;
}

#[tokio::test]
async fn the_audit_log_says_who_changed_what() {
    let house = House::furnished().await;
    house.put("/api/v1/subscriptions/s", House::subscription()).await.expect(201);
    house.post("/api/v1/subscriptions/s/pause", &[], "").await.expect(200);
    let list = async |query: &str| {
        let answer = house.get(&format!("/api/v1/audit{query}")).await.expect(200).json();
        (answer["items"].as_array().unwrap().clone(), answer["next"].clone())
    };
    let (items, _) = list("?kind=subscription&name=s&by=a").await;
    assert_eq!(items.len(), 2, "{items:?}");
    assert_eq!((&items[0]["action"], &items[0]["by"]), (&json!("replace"), &json!("a")));
    assert_eq!((&items[0]["before"]["paused"], &items[0]["after"]["paused"]), (&json!(false), &json!(true)));
    assert_eq!((&items[1]["action"], &items[1]["before"]), (&json!("create"), &Value::Null));
    let (items, next) = list("?limit=1").await;
    let (after, _) = list(&format!("?limit=1&after={}", next.as_str().unwrap())).await;
    assert_eq!(items[0]["number"].as_u64().unwrap() - 1, after[0]["number"].as_u64().unwrap());
    house.get("/api/v1/audit?after=x").await.problem(400, "invalid-request");

    // Who has which token is for those who make them.
    assert!(!list("?kind=token").await.0.is_empty());
    let viewer = axum::http::Request::builder().uri("/api/v1/audit?limit=1000");
    let viewer = viewer.header("authorization", format!("Bearer {}", house.tokens[0]));
    let seen = house.send(viewer.body(axum::body::Body::empty()).unwrap()).await.expect(200).json();
    let kinds: Vec<_> = seen["items"].as_array().unwrap().iter().map(|item| &item["kind"]).collect();
    assert!(kinds.contains(&&json!("subscription")) && !kinds.contains(&&json!("token")), "{kinds:?}");
    house.close().await;
}

#[tokio::test]
async fn the_route_tester_says_where_and_why() {
    let house = House::furnished().await;
    for (route, pattern, filter) in [
        ("eu", "eu.*", "true"),
        ("rich", "#", "payload.amount > 10"),
        ("none", "#", "payload.other.field == 1"),
    ] {
        let body = json!({"topic": "t", "queue": "q", "key_pattern": pattern, "filter": filter});
        house.put(&format!("/api/v1/routes/{route}"), body).await.expect(201);
    }
    let ask = async |body: Value| {
        let answer = house.json("POST", "/api/v1/topics/t/explain", body).await.expect(200).json();
        let routes = answer["routes"].as_array().unwrap().clone();
        let said = |route: &str| {
            let said = routes.iter().find(|said| said["route"] == route).unwrap();
            (said["verdict"].as_str().unwrap().to_owned(), said["reason"].clone())
        };
        (answer["queues"].clone(), ["eu", "none", "r", "rich"].map(said))
    };
    let verdicts = |said: [(String, Value); 4]| said.map(|(verdict, _)| verdict);
    let (queues, said) = ask(json!({"key": "eu.de", "payload": {"amount": 11}})).await;
    assert_eq!(queues, json!(["q"]));
    assert!(said[1].1.as_str().unwrap().contains("other"), "{said:?}");
    assert_eq!(verdicts(said), ["matches", "filter-fails", "matches", "matches"]);
    let (_, said) = ask(json!({"key": "us", "payload": {"amount": 1, "other": {"field": 2}}})).await;
    assert_eq!(verdicts(said), ["key-differs", "filtered-out", "matches", "filtered-out"]);
    let (_, said) = ask(json!({"text": "no json"})).await;
    assert_eq!(verdicts(said), ["key-differs", "filter-fails", "matches", "filter-fails"]);
    assert_eq!(house.get("/api/v1/messages").await.json()["items"], json!([]), "nothing is published");
    house.json("POST", "/api/v1/topics/x/explain", json!({})).await.problem(404, "not-found");
    house.close().await;
}

#[tokio::test]
async fn a_look_into_a_queue_takes_nothing() {
    let house = House::furnished().await;
    for id in ["1", "2", "3"] {
        house.post(&format!("/api/v1/topics/t/messages?id={id}&key=k"), &[], "x").await.expect(200);
    }
    let first = house.get("/api/v1/queues/q/messages?limit=2").await.expect(200).json();
    let ids = |body: &Value| {
        body["items"].as_array().unwrap().iter().map(|item| item["id"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&first), ["1", "2"]);
    let rest = format!("/api/v1/queues/q/messages?after={}", first["next"].as_str().unwrap());
    assert_eq!(ids(&house.get(&rest).await.expect(200).json()), ["3"]);
    assert_eq!(house.get("/api/v1/queues/q").await.json()["counts"]["ready"], 3);
    house.get("/api/v1/queues/x/messages").await.problem(404, "not-found");
    house.close().await;
}

#[tokio::test]
async fn dead_letters_are_grouped_by_reason_and_replayed_by_group() {
    let house = House::furnished().await;
    house.put("/api/v1/subscriptions/s", House::subscription()).await.expect(201);
    for key in ["1", "22", "x", "333"] {
        let path = format!("/api/v1/topics/t/messages?id=m{key}&key={key}");
        house.post(&path, &[], r#"{"do":"reject"}"#).await.expect(200);
    }
    house.until("/api/v1/queues/q", |body| body["counts"]["dead"] == 4).await;
    let reasons = house.get("/api/v1/subscriptions/s/dead-letter-reasons").await.expect(200).json();
    let groups: Vec<_> =
        reasons["items"].as_array().unwrap().iter().map(|group| (&group["shape"], &group["count"])).collect();
    assert_eq!(
        groups,
        [(&json!("told to reject #"), &json!(3)), (&json!("told to reject x"), &json!(1))],
        "{reasons}"
    );
    assert_eq!((&reasons["looked_at"], &reasons["others"]), (&json!(4), &json!(0)));

    house.post("/api/v1/subscriptions/s/pause", &[], "").await.expect(200);
    house.until("/api/v1/subscriptions/s", |body| body["state"] == "paused").await;
    let replay = "/api/v1/subscriptions/s/dead-letters/replay";
    let done = house.json("POST", replay, json!({"shape": "told to reject #"})).await.expect(200).json();
    assert_eq!(done["done"].as_array().unwrap().len(), 3, "{done}");
    let letters = "/api/v1/subscriptions/s/dead-letters?shape=told%20to%20reject%20x";
    assert_eq!(house.delete(letters).await.expect(200).json()["done"], json!(["mx"]));
    let log = house.get("/api/v1/audit?limit=2").await.json();
    let said = |item: &Value| (item["action"].clone(), item["name"].clone(), item["after"].clone());
    let expect = |action: &str, shape: &str, dead_letters: u64| {
        (json!(action), json!("s"), json!({"shape": shape, "dead_letters": dead_letters}))
    };
    assert_eq!(said(&log["items"][0]), expect("discard", "told to reject x", 1));
    assert_eq!(said(&log["items"][1]), expect("replay", "told to reject #", 3));
    house.close().await;
}
