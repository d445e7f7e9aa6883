//! Whatever is wrong with a request, the answer is a problem that says so.

use axum::body::Body;
use serde_json::{Value, json};

use super::house::House;

#[tokio::test]
async fn paths_methods_and_parameters() {
    let house = House::furnished().await;
    let cases = [
        ("GET", "/nowhere", 404, "not-found"),
        ("GET", "/api/v1", 404, "not-found"),
        ("GET", "/api/v1/topic/t", 404, "not-found"),
        ("GET", "/api/v1/topics/t/", 404, "not-found"),
        ("PATCH", "/api/v1/topics/t", 405, "method-not-allowed"),
        ("POST", "/api/v1/topics/t", 405, "method-not-allowed"),
        ("DELETE", "/api/v1/topics", 405, "method-not-allowed"),
        ("POST", "/healthz", 405, "method-not-allowed"),
        ("POST", "/", 405, "method-not-allowed"),
        ("GET", "/api/v1/topics/-t", 400, "invalid-name"),
        ("GET", "/api/v1/topics/a%2Fb", 400, "invalid-name"),
        ("GET", "/api/v1/topics/%ff", 400, "invalid-request"),
        ("GET", "/api/v1/topics?limit=0", 400, "invalid-request"),
        ("GET", "/api/v1/topics?limit=1001", 400, "invalid-request"),
        ("GET", "/api/v1/topics?limit=ten", 400, "invalid-request"),
        ("GET", "/api/v1/topics?limt=1", 400, "invalid-request"),
        ("GET", "/api/v1/topics?after=a%20b", 400, "invalid-name"),
        ("GET", "/api/v1/queues?limit=0", 400, "invalid-request"),
        ("GET", "/api/v1/plugins?limit=0", 400, "invalid-request"),
        ("GET", "/api/v1/subscriptions?limit=0", 400, "invalid-request"),
        ("GET", "/api/v1/tokens?limit=0", 400, "invalid-request"),
        ("GET", "/api/v1/subscriptions/s/state?limit=0", 400, "invalid-request"),
        ("GET", "/api/v1/subscriptions/s/dead-letters?after=x", 400, "invalid-request"),
        ("DELETE", "/api/v1/queues/q?force=maybe", 400, "invalid-request"),
        ("GET", "/api/v1/messages?after=x", 400, "invalid-request"),
        ("GET", "/api/v1/messages?status=lost", 400, "invalid-request"),
        ("GET", "/api/v1/messages?order=up", 400, "invalid-request"),
        ("GET", "/api/v1/messages?header=novalue", 400, "invalid-request"),
        ("GET", "/api/v1/messages?topic=a%20b", 400, "invalid-name"),
        ("GET", "/api/v1/messages?from_ms=yesterday", 400, "invalid-request"),
        ("GET", "/api/v1/messages/none", 404, "not-found"),
        ("GET", "/api/v1/plugins/none", 404, "not-found"),
        ("GET", "/api/v1/subscriptions/none", 404, "not-found"),
        ("GET", "/api/v1/subscriptions/none/dead-letters", 404, "not-found"),
    ];
    for (method, path, status, code) in cases {
        let answer = house.send(house.request(method, path).body(Body::empty()).unwrap()).await;
        if status == 405 {
            assert!(!answer.header("allow").is_empty(), "{method} {path}");
        }
        answer.problem(status, code);
    }
    house.close().await;
}

#[tokio::test]
async fn bodies() {
    let house = House::furnished().await;
    let cases: [(&str, &str, u16, &str, &[&str]); 17] = [
        ("topics/x", "", 400, "invalid-request", &["empty"]),
        ("topics/x", "{", 400, "invalid-request", &["line 1 column 1"]),
        ("topics/x", "{\n \"broker\" \"x\"}", 400, "invalid-request", &["line 2 column 11"]),
        ("topics/x", "[]x", 400, "invalid-request", &[]),
        ("topics/x", "7", 422, "invalid-definition", &[]),
        ("topics/x", r#"{"descripton":"x"}"#, 422, "invalid-definition", &["`descripton`", "`description`"]),
        ("topics/x", r#"{"broker":"a b"}"#, 422, "invalid-definition", &["a b"]),
        ("topics/x", r#"{"broker":"rabbit"}"#, 422, "unknown-reference", &["rabbit"]),
        ("topics/x", r#"{"owners":[{"mail":"x"}]}"#, 422, "invalid-definition", &[]),
        (
            "queues/x",
            r#"{"retention":{"max_messages":0}}"#,
            422,
            "invalid-definition",
            &["retention.max_messages"],
        ),
        ("routes/x", r#"{"topic":"t"}"#, 422, "invalid-definition", &["`queue`"]),
        ("routes/x", r#"{"topic":"none","queue":"q"}"#, 422, "unknown-reference", &["none"]),
        ("routes/x", r#"{"topic":"t","queue":"q","key_pattern":"a..b*"}"#, 422, "invalid-pattern", &[]),
        ("routes/x", r#"{"topic":"t","queue":"q","filter":"payload. >"}"#, 422, "invalid-filter", &[]),
        (
            "subscriptions/x",
            r#"{"queue":"q"}"#,
            422,
            "invalid-definition",
            &["plugin with version", "forward"],
        ),
        (
            "subscriptions/x",
            r#"{"queue":"q","plugin":"p","version":"1"}"#,
            422,
            "invalid-definition",
            &["sha256"],
        ),
        (
            "subscriptions/x",
            r#"{"queue":"q","limit":{}}"#,
            422,
            "invalid-definition",
            &["`limit`", "`limits`"],
        ),
    ];
    for (place, body, status, code, words) in cases {
        let request =
            house.request("PUT", &format!("/api/v1/{place}")).header("content-type", "application/json");
        let detail = house.send(request.body(body.to_owned().into()).unwrap()).await.problem(status, code);
        for word in words {
            assert!(detail.contains(word), "{body}: {detail}");
        }
    }
    lists_for_objects(&house).await;
    let mut broad = House::subscription();
    broad["workers"] = json!(0);
    broad["limits"] = json!({"time_ms": 1});
    let detail = house.put("/api/v1/subscriptions/x", broad).await.problem(422, "invalid-definition");
    assert!(detail.contains("workers") && detail.contains("limits.time_ms"), "{detail}");

    let form =
        house.request("PUT", "/api/v1/topics/x").header("content-type", "application/x-www-form-urlencoded");
    let detail = house.send(form.body("{}".into()).unwrap()).await.problem(415, "unsupported-media-type");
    assert!(detail.contains("application/json"), "{detail}");
    house.get("/api/v1/topics/x").await.problem(404, "not-found");
    house.close().await;
}

/// Serde would take a list for an object, by position.
async fn lists_for_objects(house: &House) {
    let digest = House::subscription()["version"].clone();
    let nested = |field: &str, value: Value| {
        let mut body = House::subscription();
        body[field] = value;
        body
    };
    let cases = [
        ("PUT", "topics/x", json!(["embedded", "a description", []]), 422, "the body"),
        ("PUT", "topics/x", json!([]), 422, "the body"),
        ("PUT", "topics/x", json!({"owners": ["ops", ["Ann", "ann@example.com", null]]}), 422, "owners.1"),
        ("PUT", "queues/x", json!(["embedded", "", [], {}]), 422, "the body"),
        ("PUT", "queues/x", json!({"retention": [10, 1000, null]}), 422, "retention"),
        ("PUT", "routes/x", json!(["t", "q", "#", null, ""]), 422, "the body"),
        ("PUT", "subscriptions/x", json!(["q", "p", digest, 1]), 422, "the body"),
        ("PUT", "subscriptions/x", nested("retry", json!([5, 200, 60_000])), 422, "retry"),
        ("POST", "tokens", json!(["x", "viewer"]), 400, "the body"),
        ("POST", "subscriptions/s/dead-letters/replay", json!([null, true, null, null]), 400, "the body"),
    ];
    for (method, place, body, status, word) in cases {
        let code = if status == 422 { "invalid-definition" } else { "invalid-request" };
        let answer = house.json(method, &format!("/api/v1/{place}"), body.clone()).await;
        let detail = answer.problem(status, code);
        assert!(detail.contains(word) && detail.contains("a list"), "{place} {body}: {detail}");
    }
    for nowhere in ["topics/x", "queues/x", "routes/x", "subscriptions/x"] {
        house.get(&format!("/api/v1/{nowhere}")).await.problem(404, "not-found");
    }
}
