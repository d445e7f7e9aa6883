//! Messages that were handled: their story, the state they left, and the dead-letter desk.

use serde_json::{Value, json};

use super::house::House;

pub const LETTERS: &str = "/api/v1/subscriptions/s/dead-letters";

/// A house whose subscription has rejected `ids`.
pub async fn with_dead_letters(ids: &[&str]) -> House {
    let house = House::furnished().await;
    house.put("/api/v1/subscriptions/s", House::subscription()).await.expect(201);
    for id in ids {
        let path = format!("/api/v1/topics/t/messages?id={}&key=key-{}", id.replace('/', "%2F"), &id[..1]);
        house.post(&path, &[], r#"{"do":"reject"}"#).await.expect(200);
    }
    house.until(LETTERS, |list| list["items"].as_array().is_some_and(|items| items.len() == ids.len())).await;
    // The list has them as soon as they are written, the count once they are durable.
    house.until("/api/v1/queues/q", |queue| queue["counts"]["dead"] == ids.len()).await;
    house
}

#[tokio::test]
async fn the_story_of_a_handled_message() {
    let house = House::furnished().await;
    house.put("/api/v1/subscriptions/s", House::subscription()).await.expect(201);
    house.until("/api/v1/subscriptions/s", |body| body["state"] == "running").await;
    house.post("/api/v1/topics/t/messages?id=m&key=day/1", &[], r#"{"publish":true}"#).await.expect(200);
    let story = house.until("/api/v1/messages/m", |story| story["deliveries"][0]["status"] == "acked").await;
    let delivery = &story["deliveries"][0];
    assert_eq!((&delivery["subscription"], &delivery["replays"]), (&json!("s"), &json!(0)));
    assert_eq!(delivery["published"], json!([{"topic": "out", "id": "child-m"}]));
    let mut attempt = delivery["attempts"][0].clone();
    assert!(attempt["at_ms"].as_u64().unwrap() > 1_700_000_000_000);
    attempt["at_ms"] = json!(0);
    assert_eq!(
        attempt,
        json!({
            "number": 1, "at_ms": 0, "duration_us": 7, "memory_bytes": 65536,
            "version": House::subscription()["version"], "outcome": "ack", "reason": null, "retry_after_ms": null,
            "logs": [{"level": "warn", "text": "handled"}], "logs_dropped": 2,
        })
    );
    let child = house.get("/api/v1/messages/child-m").await.expect(200).json();
    assert_eq!(child["message"]["parent"], json!({"topic": "t", "id": "m"}));

    let found = house.get("/api/v1/messages?subscription=s&status=acked").await.expect(200).json();
    assert_eq!(found["items"][0]["deliveries"], json!([{"subscription": "s", "status": "acked"}]));
    let status = house.get("/api/v1/subscriptions/s").await.json()["status"].clone();
    assert_eq!(
        (&status["acked"], &status["dead"], &status["last_failure"]),
        (&json!(1), &json!(0), &Value::Null)
    );
    house.close().await;
}

#[tokio::test]
async fn state_is_shown_as_what_it_is_and_in_parts() {
    let house = House::furnished().await;
    house.put("/api/v1/subscriptions/s", House::subscription()).await.expect(201);
    let writes: [(&str, &[u8]); 4] =
        [("day/1", br#"{"orders":2}"#), ("day/2", b"text"), ("day/3", b"\xff\x00"), ("other", b"1")];
    for (key, payload) in writes {
        house.post(&format!("/api/v1/topics/t/messages?key={key}"), &[], payload.to_vec()).await.expect(200);
    }
    let path = "/api/v1/subscriptions/s/state";
    house.until(path, |list| list["items"].as_array().is_some_and(|items| items.len() == 4)).await;
    let list = house.get(&format!("{path}?prefix=day/")).await.expect(200).json();
    assert_eq!(
        list,
        json!({"next": null, "items": [
            {"key": "day/1", "value": {"orders": 2}, "encoding": "json"},
            {"key": "day/2", "value": "text", "encoding": "text"},
            {"key": "day/3", "value": {"base64": "/wA="}, "encoding": "base64"},
        ]})
    );
    let first = house.get(&format!("{path}?limit=3")).await.expect(200).json();
    assert_eq!((first["items"].as_array().unwrap().len(), &first["next"]), (3, &json!("day/3")));
    let rest = house.get(&format!("{path}?limit=3&after=day/3")).await.expect(200).json();
    assert_eq!((&rest["items"][0]["key"], &rest["next"]), (&json!("other"), &Value::Null));
    house.get("/api/v1/subscriptions/none/state").await.problem(404, "not-found");
    house.close().await;
}

#[tokio::test]
async fn dead_letters_are_listed_with_what_is_needed_to_understand_them() {
    let house = with_dead_letters(&["a", "b", "c"]).await;
    let mut first = house.get(&format!("{LETTERS}?limit=2")).await.expect(200).json();
    assert!(first["items"][0]["at_ms"].as_u64().unwrap() > 1_700_000_000_000);
    first["items"][0]["at_ms"] = json!(0);
    assert_eq!(
        first["items"][0],
        json!({
            "message_id": "a", "topic": "t", "key": "key-a", "subscription": "s",
            "reason": "told to reject key-a", "attempts": 1, "at_ms": 0,
        })
    );
    let next = first["next"].as_str().unwrap();
    let rest = house.get(&format!("{LETTERS}?limit=2&after={next}")).await.expect(200).json();
    assert_eq!((&rest["items"][0]["message_id"], &rest["next"]), (&json!("c"), &Value::Null));
    // Counts and status are told a moment after the outcome is on its way to the disk.
    house.until("/api/v1/queues/q", |queue| queue["counts"]["dead"] == 3).await;
    let told = |status: &Value| status["status"]["dead"] == 3 && status["counts"]["dead"] == 3;
    let status = house.until("/api/v1/subscriptions/s", told).await;
    assert!(status["status"]["last_failure"]["reason"].as_str().unwrap().starts_with("told to reject"));
    house.close().await;
}

#[tokio::test]
async fn dead_letters_are_replayed_by_id_by_reason_and_all() {
    let house = with_dead_letters(&["a", "b", "c/d"]).await;
    // Paused, so that what is replayed stays in the queue.
    house.post("/api/v1/subscriptions/s/pause", &[], "").await.expect(200);
    house.until("/api/v1/subscriptions/s", |body| body["state"] == "paused").await;
    let replay = async |body: Value| house.json("POST", &format!("{LETTERS}/replay"), body).await;

    let some = replay(json!({"ids": ["a", "none"]})).await.expect(200).json();
    assert_eq!(some, json!({"done": ["a"], "not_found": ["none"], "refused": [], "more": false}));
    let again = replay(json!({"ids": ["a"]})).await.expect(200).json();
    assert_eq!(again, json!({"done": [], "not_found": ["a"], "refused": [], "more": false}));
    let by_reason = replay(json!({"reason": "key-b", "per_second": 1000})).await.expect(200).json();
    assert_eq!(by_reason["done"], json!(["b"]));
    let one = house.post(&format!("{LETTERS}/c%2Fd/replay"), &[], "").await.expect(200).json();
    assert_eq!(one["done"], json!(["c/d"]));
    house.post(&format!("{LETTERS}/c%2Fd/replay"), &[], "").await.problem(404, "not-found");
    assert_eq!(house.get("/api/v1/queues/q").await.json()["counts"]["ready"], 3);

    house.post("/api/v1/subscriptions/s/resume", &[], "").await.expect(200);
    house.until(LETTERS, |list| list["items"].as_array().is_some_and(|items| items.len() == 3)).await;
    let story = house.get("/api/v1/messages/a").await.json();
    assert_eq!(story["deliveries"][0]["replays"], 1);
    assert_eq!(story["deliveries"][0]["attempts"].as_array().unwrap().len(), 2);
    let all = replay(json!({"all": true})).await.expect(200).json();
    assert_eq!(all["done"].as_array().unwrap().len(), 3);
    house.close().await;
}

#[tokio::test]
async fn dead_letters_are_deleted_by_id_by_reason_and_all() {
    let house = with_dead_letters(&["a", "b", "c", "d/1", "e"]).await;
    let some = house.delete(&format!("{LETTERS}?id=a&id=b&id=none")).await.expect(200).json();
    assert_eq!(some, json!({"done": ["a", "b"], "not_found": ["none"], "refused": [], "more": false}));
    let by_reason = house.delete(&format!("{LETTERS}?reason=key-c")).await.expect(200).json();
    assert_eq!(by_reason["done"], json!(["c"]));
    assert_eq!(house.delete(&format!("{LETTERS}/d%2F1")).await.expect(200).json()["done"], json!(["d/1"]));
    house.delete(&format!("{LETTERS}/d%2F1")).await.problem(404, "not-found");
    assert_eq!(house.delete(&format!("{LETTERS}?all=true")).await.expect(200).json()["done"], json!(["e"]));
    assert_eq!(house.get("/api/v1/messages/a").await.json()["deliveries"][0]["status"], "discarded");
    house.close().await;
}

#[tokio::test]
async fn a_desk_call_must_say_what_it_means() {
    let house = with_dead_letters(&["a"]).await;
    let replay = format!("{LETTERS}/replay");
    let detail = house.post(&replay, &[], "").await.problem(400, "invalid-request");
    assert!(detail.contains("empty"), "{detail}");
    for body in [
        json!({}),
        json!({"all": false}),
        json!({"reason": ""}),
        json!({"all": true, "ids": ["a"]}),
        json!({"all": true, "per_second": 0}),
        json!({"everything": true}),
        json!({"per_second": 5}),
        json!([]),
    ] {
        house.json("POST", &replay, body).await.problem(400, "invalid-request");
    }
    for query in ["", "?all=false", "?reason=", "?all=true&id=a", "?ids=a", "?all=true&limit=5"] {
        house.delete(&format!("{LETTERS}{query}")).await.problem(400, "invalid-request");
    }
    house.delete("/api/v1/subscriptions/none/dead-letters?all=true").await.problem(404, "not-found");
    house
        .json("POST", "/api/v1/subscriptions/none/dead-letters/replay", json!({"all": true}))
        .await
        .problem(404, "not-found");
    assert_eq!(house.get("/api/v1/queues/q").await.json()["counts"]["dead"], 1, "nothing was done");
    house.close().await;
}
