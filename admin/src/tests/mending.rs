//! One dead letter: looked at, tried without effect, edited and sent back.

use serde_json::{Value, json};

use super::{
    desk::{LETTERS, with_dead_letters},
    house::House,
};

const A: &str = "/api/v1/subscriptions/s/dead-letters/a";
const STATE: &str = "/api/v1/subscriptions/s/state";

async fn dead(house: &House) -> Value {
    house.get("/api/v1/queues/q").await.json()["counts"]["dead"].clone()
}

#[tokio::test]
async fn a_dead_letter_is_shown_whole() {
    let house = with_dead_letters(&["a", "b/c"]).await;
    let letter = house.get(A).await.expect(200).json();
    assert_eq!((&letter["message_id"], &letter["reason"]), (&json!("a"), &json!("told to reject key-a")));
    let message = &letter["message"];
    assert_eq!(
        (&message["payload"], &message["payload_encoding"]),
        (&json!({"do": "reject"}), &json!("json"))
    );
    assert_eq!((&message["key"], &message["topic"]), (&json!("key-a"), &json!("t")));
    assert_eq!(letter["payload_text"], r#"{"do":"reject"}"#);
    let attempts = letter["attempts_made"].as_array().unwrap();
    assert_eq!(attempts.len(), 1);
    assert_eq!(attempts[0]["logs"], json!([{"level": "warn", "text": "handled"}]));
    assert_eq!(attempts[0]["version"], House::subscription()["version"]);

    assert_eq!(house.get(&format!("{LETTERS}/b%2Fc?topic=t")).await.expect(200).json()["message_id"], "b/c");
    house.get(&format!("{A}?topic=out")).await.problem(404, "not-found");
    house.get(&format!("{LETTERS}/none")).await.problem(404, "not-found");
    house.close().await;
}

#[tokio::test]
async fn an_edited_copy_is_handled_once_and_leads_back_to_its_original() {
    let house = with_dead_letters(&["a"]).await;
    let edit = format!("{A}/edit");
    // Written by hand, since a number of so many digits must come through as it is.
    let body = r#"{"payload": {"n":12345678901234567890123}, "key": "mended", "headers": {"why": "typo"}}"#;
    let header = [("content-type", "application/json")];
    let copy = house.post(&edit, &header, body).await.expect(200).json();
    let expect = json!({"id": "a~edited-1", "topic": "t", "edited_from": {"topic": "t", "id": "a"}});
    assert_eq!(copy, expect);
    house.json("POST", &edit, json!({"key": "again"})).await.problem(404, "not-found");
    house.post(&format!("{A}/replay"), &[], "").await.problem(404, "not-found");
    assert_eq!(dead(&house).await, 0);

    let path = "/api/v1/messages/a~edited-1";
    let story = house.until(path, |story| story["deliveries"][0]["status"] == "acked").await;
    let message = &story["message"];
    assert_eq!(message["parent"], json!({"topic": "t", "id": "a"}));
    assert_eq!(message["headers"], json!({"why": "typo", "brolly-edited-from": "a"}));
    assert_eq!((&message["key"], &message["queues"]), (&json!("mended"), &json!(["q"])));
    let whole = house.get(path).await;
    assert!(String::from_utf8_lossy(&whole.bytes).contains(r#"{"n":12345678901234567890123}"#), "{whole:?}");
    assert_eq!(story["deliveries"][0]["attempts"].as_array().unwrap().len(), 1);
    let state = house.get(STATE).await.json();
    assert_eq!(state["items"].as_array().unwrap().len(), 1, "{state}");
    assert_eq!(state["items"][0]["key"], "mended");

    let original = &house.get("/api/v1/messages/a").await.json()["deliveries"][0];
    assert_eq!(original["status"], "replaced");
    assert_eq!(original["published"], json!([{"topic": "t", "id": "a~edited-1"}]));
    let found = house.get("/api/v1/messages?status=replaced").await.json();
    assert_eq!(found["items"][0]["id"], "a");
    let audit = house.get("/api/v1/audit?limit=1").await.json()["items"][0].clone();
    assert_eq!((&audit["action"], &audit["by"], &audit["name"]), (&json!("edit"), &json!("a"), &json!("s")));
    let after =
        json!({"ids": ["a"], "topic": "t", "changed": ["key", "headers", "payload"], "dead_letters": 1});
    assert_eq!(audit["after"], after);
    house.close().await;
}

#[tokio::test]
async fn a_copy_that_fails_again_can_be_edited_again() {
    let house = with_dead_letters(&["a"]).await;
    house.json("POST", &format!("{A}/edit"), json!({})).await.expect(200);
    let copy = format!("{LETTERS}/a~edited-1");
    house.until(LETTERS, |list| list["items"][0]["message_id"] == "a~edited-1").await;
    let again = house.json("POST", &format!("{copy}/edit"), json!({"text": "fine"})).await.expect(200).json();
    assert_eq!(again["id"], "a~edited-2");
    assert_eq!(again["edited_from"]["id"], "a~edited-1");
    let path = "/api/v1/messages/a~edited-2";
    let story = house.until(path, |story| story["deliveries"][0]["status"] == "acked").await;
    assert_eq!(story["message"]["headers"], json!({"brolly-edited-from": "a~edited-1"}));
    house.close().await;
}

#[tokio::test]
async fn an_edit_that_breaks_a_rule_changes_nothing() {
    let house = with_dead_letters(&["a"]).await;
    let records = house.get("/api/v1/audit").await.json()["items"].as_array().unwrap().len();
    for (changes, status, code) in [
        (json!({"key": "k".repeat(256)}), 400, "invalid-message"),
        (json!({"headers": {"": "x"}}), 400, "invalid-message"),
        (json!({"payload": 1, "text": "1"}), 400, "invalid-request"),
        (json!({"base64": "?"}), 400, "invalid-request"),
        (json!({"id": "other"}), 400, "invalid-request"),
        (json!([]), 400, "invalid-request"),
    ] {
        house.json("POST", &format!("{A}/edit"), changes.clone()).await.problem(status, code);
        if changes.is_object() {
            let body = json!({ "changes": changes });
            house.json("POST", &format!("{A}/try"), body).await.problem(status, code);
        }
    }
    let text = "x".repeat(16 * 1024 * 1024 + 1);
    house.json("POST", &format!("{A}/edit"), json!({"text": text})).await.problem(413, "too-large");
    assert_eq!(dead(&house).await, 1);
    assert_eq!(house.get("/api/v1/audit").await.json()["items"].as_array().unwrap().len(), records);
    house.close().await;
}

#[tokio::test]
async fn a_trial_tells_what_would_happen_and_does_nothing() {
    let house = with_dead_letters(&["a"]).await;
    let path = format!("{A}/try");
    let as_it_is = house.json("POST", &path, json!({})).await.expect(200).json();
    assert_eq!(
        (&as_it_is["outcome"], &as_it_is["reason"]),
        (&json!("reject"), &json!("told to reject key-a"))
    );
    assert_eq!((&as_it_is["message_id"], &as_it_is["duration_us"]), (&json!("a"), &json!(7)));
    assert_eq!(as_it_is["logs"], json!([{"level": "warn", "text": "handled"}]));

    house.post("/api/v1/plugins/p/versions", &[], "plugin a b c").await.expect(201);
    let other = super::house::digest(b"plugin a b c").to_string();
    let wanted = json!({"version": other, "changes": {"payload": {"publish": true}, "key": "day"}});
    let mut tried = house.json("POST", &path, wanted).await.expect(200).json();
    assert_eq!(tried["version"], other);
    assert_eq!(tried["published"].as_array().unwrap().len(), 1);
    let child = tried["published"][0].take();
    assert_eq!((&child["topic"], &child["id"]), (&json!("out"), &json!("child-a~edited-1")));
    assert_eq!(child["payload_masked"], false);
    assert_eq!(
        (&child["payload"], &child["payload_encoding"]),
        (&json!({"base64": "/wA="}), &json!("base64"))
    );
    assert_eq!((&tried["outcome"], &tried["message_id"]), (&json!("ack"), &json!("a~edited-1")));
    assert_eq!(tried["state"], json!([{"key": "day", "value": {"publish": true}, "encoding": "json"}]));

    assert_eq!(dead(&house).await, 1, "it stays");
    assert_eq!(house.get(STATE).await.json()["items"], json!([]));
    house.get("/api/v1/messages/child-a~edited-1").await.problem(404, "not-found");
    house.get("/api/v1/messages/a~edited-1").await.problem(404, "not-found");
    assert_eq!(house.get(A).await.json()["attempts_made"].as_array().unwrap().len(), 1);
    let status = house.get("/api/v1/subscriptions/s").await.json()["status"].clone();
    assert_eq!((&status["acked"], &status["dead"]), (&json!(0), &json!(1)));

    let unknown = json!({"version": super::house::digest(b"plugin").to_string()});
    house.json("POST", &path, unknown).await.problem(422, "unknown-reference");
    house.json("POST", &path, json!({"version": "1"})).await.problem(400, "invalid-request");
    house.json("POST", &format!("{LETTERS}/none/try"), json!({})).await.problem(404, "not-found");
    house.close().await;
}
