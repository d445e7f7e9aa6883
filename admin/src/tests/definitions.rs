//! Definitions: made, listed, replaced, guarded by revisions, deleted.

use axum::body::Body;
use serde_json::{Value, json};

use super::house::House;

#[tokio::test]
async fn every_kind_is_created_replaced_shown_and_deleted() {
    let house = House::furnished().await;
    let cases = [
        ("topics/x", json!({"description": "d", "owners": ["ops"]}), json!({"description": "e"})),
        (
            "queues/x",
            json!({"owners": [{"name": "ops", "email": "o@example.com"}]}),
            json!({"retention": {"max_messages": 5}}),
        ),
        (
            "routes/x",
            json!({"topic": "t", "queue": "q", "key_pattern": "a.*"}),
            json!({"topic": "t", "queue": "q", "filter": "payload.n > 1"}),
        ),
        ("subscriptions/x", House::subscription(), {
            let mut changed = House::subscription();
            changed["workers"] = json!(3);
            changed
        }),
    ];
    for (place, first, second) in cases {
        let path = format!("/api/v1/{place}");
        house.get(&path).await.problem(404, "not-found");
        let created = house.put(&path, first.clone()).await.expect(201);
        let body = created.json();
        assert_eq!(created.header("etag"), format!("\"r{}\"", body["revision"]));
        assert_eq!(body["name"], "x");
        assert!(body["created_at_ms"].as_u64().unwrap() > 1_700_000_000_000);
        assert_eq!(body["changed_at_ms"], body["created_at_ms"]);
        contains(&body, &first);

        let again = house.put(&path, first.clone()).await.expect(200);
        assert_eq!(again.header("etag"), created.header("etag"), "putting the same again changes nothing");

        let replaced = house.put(&path, second.clone()).await.expect(200).json();
        contains(&replaced, &second);
        assert!(replaced["revision"].as_u64() > body["revision"].as_u64());
        let shown = house.get(&path).await.expect(200).json();
        contains(&shown, &second);
        let list =
            house.get(&format!("/api/v1/{}", place.split('/').next().unwrap())).await.expect(200).json();
        let listed =
            list["items"].as_array().unwrap().iter().find(|item| item["name"] == "x").unwrap().clone();
        assert_eq!(listed["revision"], shown["revision"]);
        contains(&listed, &second);

        house.delete(&path).await.expect(204);
        house.get(&path).await.problem(404, "not-found");
        house.delete(&path).await.problem(404, "not-found");
    }
    house.close().await;
}

/// Whether every field of `expect` is in `body`.
#[track_caller]
fn contains(body: &Value, expect: &Value) {
    match expect {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| contains(&body[name], value)),
        other => assert_eq!(body, other),
    }
}

#[tokio::test]
async fn revisions_keep_operators_from_overwriting_each_other() {
    let house = House::new().await;
    let send = async |method: &str, header: (&str, &str), description: &str| {
        let request = house.request(method, "/api/v1/topics/x").header(header.0, header.1);
        let body = json!({"description": description}).to_string();
        house.send(request.header("content-type", "application/json").body(body.into()).unwrap()).await
    };
    send("PUT", ("if-match", "*"), "a").await.problem(412, "changed");
    let first = send("PUT", ("if-none-match", "*"), "a").await.expect(201);
    send("PUT", ("if-none-match", "*"), "b").await.problem(412, "changed");
    let second = send("PUT", ("if-match", first.header("etag")), "b").await.expect(200);
    let detail = send("PUT", ("if-match", first.header("etag")), "c").await.problem(412, "changed");
    assert!(detail.contains("revision"), "{detail}");
    send("PUT", ("if-match", "\"something\""), "c").await.problem(412, "changed");
    send("PUT", ("if-none-match", first.header("etag")), "c").await.problem(400, "invalid-request");
    assert_eq!(house.get("/api/v1/topics/x").await.json()["description"], "b");

    let known = house.request("GET", "/api/v1/topics/x").header("if-none-match", second.header("etag"));
    let not_modified = house.send(known.body(Body::empty()).unwrap()).await.expect(304);
    assert!(not_modified.bytes.is_empty());
    let stale = house.request("GET", "/api/v1/topics/x").header("if-none-match", first.header("etag"));
    house.send(stale.body(Body::empty()).unwrap()).await.expect(200);

    send("DELETE", ("if-match", first.header("etag")), "").await.problem(412, "changed");
    send("DELETE", ("if-match", second.header("etag")), "").await.expect(204);
    house.close().await;
}

#[tokio::test]
async fn lists_come_in_parts() {
    let house = House::new().await;
    for number in 0..5 {
        house.put(&format!("/api/v1/topics/t{number}"), json!({})).await.expect(201);
    }
    let mut names = Vec::new();
    let mut after = String::new();
    let mut parts = 0;
    loop {
        let part = house.get(&format!("/api/v1/topics?limit=2{after}")).await.expect(200).json();
        names.extend(
            part["items"].as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap().to_owned()),
        );
        parts += 1;
        match part["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!((names.join(" ").as_str(), parts), ("t0 t1 t2 t3 t4", 3));
    house.close().await;
}

#[tokio::test]
async fn what_is_used_cannot_be_deleted() {
    let house = House::furnished().await;
    house.put("/api/v1/subscriptions/s", House::subscription()).await.expect(201);
    let digest = House::subscription()["version"].as_str().unwrap().to_owned();
    for path in ["topics/t", "queues/q", &format!("plugins/p/versions/{digest}")] {
        let detail = house.delete(&format!("/api/v1/{path}")).await.problem(409, "in-use");
        assert!(detail.contains("is used by"), "{detail}");
    }
    let mut other = House::subscription();
    other["description"] = json!("a second one for the same queue");
    house.put("/api/v1/subscriptions/s2", other).await.problem(409, "in-use");
    house.close().await;
}

#[tokio::test]
async fn a_queue_shows_what_it_holds_and_goes_only_by_force() {
    let house = House::furnished().await;
    let empty = house.get("/api/v1/queues/q").await.expect(200).json();
    assert_eq!(empty["counts"], json!({"ready": 0, "in_flight": 0, "delayed": 0, "dead": 0}));
    assert_eq!((&empty["oldest_age_ms"], &empty["subscription"]), (&Value::Null, &Value::Null));
    house.post("/api/v1/topics/t/messages", &[], "x").await.expect(200);
    house.post("/api/v1/topics/t/messages?delay_ms=3600000", &[], "x").await.expect(200);
    let filled = house.get("/api/v1/queues").await.expect(200).json()["items"][0].clone();
    assert_eq!(filled["counts"], json!({"ready": 1, "in_flight": 0, "delayed": 1, "dead": 0}));
    assert!(filled["oldest_age_ms"].is_u64());
    house.delete("/api/v1/routes/r").await.expect(204);
    let detail = house.delete("/api/v1/queues/q").await.problem(409, "not-empty");
    assert!(detail.contains("force=true"), "{detail}");
    house.delete("/api/v1/queues/q?force=true").await.expect(204);
    house.close().await;
}

#[tokio::test]
async fn a_subscription_is_paused_and_resumed_in_three_ways() {
    let house = House::furnished().await;
    let path = "/api/v1/subscriptions/s";
    let with = |field: &str, value: Value| {
        let mut body = House::subscription();
        body[field] = value;
        body
    };
    house.put(path, with("state", json!("paused"))).await.expect(201);
    let paused = house.until(path, |body| body["state"] == "paused").await;
    assert_eq!((&paused["paused"], &paused["status"]["state"]), (&json!(true), &json!("paused")));
    house.get("/readyz").await.expect(200);
    house.put(path, with("workers", json!(2))).await.expect(200);
    assert_eq!(house.get(path).await.json()["paused"], true, "a PUT that does not say leaves it as it is");
    house.put(path, with("state", json!("running"))).await.expect(200);
    house.until(path, |body| body["state"] == "running").await;
    house.put(path, with("paused", json!(true))).await.expect(200);
    house.until(path, |body| body["state"] == "paused").await;
    house.post("/api/v1/subscriptions/s/resume", &[], "").await.expect(200);
    let running = house.until(path, |body| body["state"] == "running").await;
    assert_eq!(running["status"]["version"], House::subscription()["version"]);
    assert_eq!(house.get("/api/v1/queues/q").await.json()["subscription"], "s");
    let answer = house.post("/api/v1/subscriptions/s/pause", &[], "").await.expect(200);
    assert_eq!(answer.json()["paused"], true);
    house.until(path, |body| body["state"] == "paused").await;

    let mut both = with("state", json!("paused"));
    both["paused"] = json!(false);
    house.put(path, both).await.problem(422, "invalid-definition");
    house.put(path, with("state", json!("failed"))).await.problem(422, "invalid-definition");
    for word in ["pause", "resume"] {
        house.post(&format!("/api/v1/subscriptions/none/{word}"), &[], "").await.problem(404, "not-found");
    }
    house.close().await;
}
