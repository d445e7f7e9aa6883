//! CloudEvents in their three forms.

use serde_json::{Value, json};

use super::house::House;

const MESSAGES: &str = "/api/v1/topics/t/messages";
const STRUCTURED: (&str, &str) = ("content-type", "application/cloudevents+json; charset=utf-8");
const BATCH: (&str, &str) = ("content-type", "application/cloudevents-batch+json");

async fn message(house: &House, id: &str) -> Value {
    let path = format!("/api/v1/messages/{}", id.replace('#', "%23").replace('/', "%2F"));
    house.get(&path).await.expect(200).json()["message"].clone()
}

#[tokio::test]
async fn binary_form() {
    let house = House::furnished().await;
    let headers = [
        ("ce-specversion", "1.0"),
        ("ce-id", "1"),
        ("ce-source", "/shop%20one"),
        ("ce-type", "order.paid"),
        ("ce-partitionkey", "eu.de"),
        ("content-type", "text/plain"),
        ("brolly-header-extra", "yes"),
    ];
    let answer = house.post(MESSAGES, &headers, "data").await.expect(200).json();
    assert_eq!(answer["ids"], json!(["/shop one#1"]));
    let path = "/api/v1/messages/%2Fshop%20one%231";
    let message = house.get(path).await.expect(200).json()["message"].clone();
    assert_eq!((&message["key"], &message["payload"]), (&json!("eu.de"), &json!("data")));
    assert_eq!(message["content_type"], "text/plain");
    assert_eq!(
        message["headers"],
        json!({
            "ce-id": "1", "ce-partitionkey": "eu.de", "ce-source": "/shop one", "ce-specversion": "1.0",
            "ce-type": "order.paid", "extra": "yes",
        })
    );
    let again = house.post(MESSAGES, &headers, "data").await.expect(200).json();
    assert_eq!(again["duplicates"], 1, "source and id name an event");
    house.close().await;
}

fn event(id: &str, more: Value) -> Value {
    let mut event = json!({"specversion": "1.0", "id": id, "source": "s", "type": "t"});
    event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    event
}

#[tokio::test]
async fn structured_form() {
    let house = House::furnished().await;
    let cases = [
        ("json", json!({"data": {"n": 1}}), json!({"n": 1}), "application/json"),
        ("string", json!({"data": "x"}), json!("x"), "application/json"),
        ("text", json!({"data": "<a/>", "datacontenttype": "text/xml"}), json!("<a/>"), "text/xml"),
        ("bytes", json!({"data_base64": "/wA=", "datacontenttype": "a/b"}), json!({"base64": "/wA="}), "a/b"),
        ("nothing", json!({}), json!(""), "application/json"),
    ];
    for (id, more, payload, content_type) in cases {
        let body = event(id, more).to_string();
        let answer = house.post(MESSAGES, &[STRUCTURED], body).await.expect(200).json();
        assert_eq!(answer["ids"], json!([format!("s#{id}")]));
        let message = message(&house, &format!("s#{id}")).await;
        assert_eq!((&message["payload"], &message["content_type"]), (&payload, &json!(content_type)), "{id}");
    }
    let body = event("attributes", json!({"count": 3, "flag": true, "none": null, "partitionkey": "p"}));
    house.post(&format!("{MESSAGES}?key=wins"), &[STRUCTURED], body.to_string()).await.expect(200);
    let message = message(&house, "s#attributes").await;
    assert_eq!(message["key"], "wins");
    let headers = &message["headers"];
    assert_eq!(
        (&headers["ce-count"], &headers["ce-flag"], &headers["ce-none"]),
        (&json!("3"), &json!("true"), &Value::Null)
    );
    house.close().await;
}

#[tokio::test]
async fn batch_form() {
    let house = House::furnished().await;
    let body = json!([event("1", json!({"data": 1})), event("2", json!({"data": 2})), event("1", json!({}))]);
    let answer = house.post(MESSAGES, &[BATCH], body.to_string()).await.expect(200).json();
    assert_eq!(answer, json!({"ids": ["s#1", "s#2", "s#1"], "duplicates": 1}));
    let empty = house.post(MESSAGES, &[BATCH], "[]").await.expect(200).json();
    assert_eq!(empty, json!({"ids": [], "duplicates": 0}));

    let wrong = json!([event("3", json!({})), {"specversion": "1.0"}]).to_string();
    let detail = house.post(MESSAGES, &[BATCH], wrong).await.problem(400, "invalid-message");
    assert!(detail.contains("event 2"), "{detail}");
    house.get("/api/v1/messages/s%233").await.problem(404, "not-found");
    house.close().await;
}

#[tokio::test]
async fn wrong_events() {
    let house = House::furnished().await;
    let cases = [
        (json!({"specversion": "0.3"}), "1.0 is taken"),
        (json!({"specversion": null}), "no specversion"),
        (json!({"id": ""}), "no id"),
        (json!({"source": null}), "no source"),
        (json!({"type": null}), "no type"),
        (json!({"Upper": "x"}), "attribute name"),
        (json!({"nested": {"a": 1}}), "object or a list"),
        (json!({"data": 1, "data_base64": "AA=="}), "both data and data_base64"),
        (json!({"data_base64": "%"}), "base 64"),
        (json!({"data_base64": 7}), "no string"),
    ];
    for (more, word) in cases {
        let body = event("x", more).to_string();
        let detail = house.post(MESSAGES, &[STRUCTURED], body).await.problem(400, "invalid-message");
        assert!(detail.contains(word), "{detail}");
    }
    house.post(MESSAGES, &[STRUCTURED], "{").await.problem(400, "invalid-request");
    house.post(MESSAGES, &[STRUCTURED], "[]").await.problem(400, "invalid-message");
    house.post(MESSAGES, &[("ce-specversion", "1.0")], "x").await.problem(400, "invalid-message");
    let xml = ("content-type", "application/cloudevents+xml");
    house.post(MESSAGES, &[xml], "<a/>").await.problem(415, "unsupported-media-type");
    assert_eq!(house.get("/api/v1/messages").await.json()["items"], json!([]));
    house.close().await;
}
