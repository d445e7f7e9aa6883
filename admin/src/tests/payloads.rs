//! Who sees which payloads: by role, by right, and under a mask.

use axum::{body::Body, http::Request};
use serde_json::{Value, json};

use super::house::{Answer, House};

const LETTER: &str = "/api/v1/subscriptions/s/dead-letters/m";
const STORY: &str = "/api/v1/messages/m";
const STATE: &str = "/api/v1/subscriptions/s/state";
const CAPTURES: &str = "/api/v1/subscriptions/s/captures";

const PAYLOAD: &str = r#"{"do":"reject","customer":{"name":"Ann","no":7}}"#;

/// A house with a dead letter `m`, a captured attempt, and some state.
async fn open(mask_of_topic: &[&str], mask_of_queue: &[&str]) -> House {
    let house = House::furnished().await;
    house.put("/api/v1/topics/t", json!({"mask": mask_of_topic})).await;
    house.put("/api/v1/queues/q", json!({"mask": mask_of_queue})).await;
    house.put("/api/v1/subscriptions/s", House::subscription()).await.expect(201);
    house.post("/api/v1/topics/t/messages?id=m", &[], PAYLOAD).await.expect(200);
    house.post("/api/v1/topics/t/messages?key=k", &[], r#"{"customer":{"name":"Bob"}}"#).await.expect(200);
    let decided = |body: &Value| body["status"]["acked"] == 1 && body["status"]["dead"] == 1;
    house.until("/api/v1/subscriptions/s", decided).await;
    house.until(LETTER, |body| body["message_id"] == "m").await;
    house
}

async fn token(house: &House, name: &str, grant: Value) -> String {
    let mut wanted = json!({ "name": name });
    wanted.as_object_mut().unwrap().extend(grant.as_object().unwrap().clone());
    house.json("POST", "/api/v1/tokens", wanted).await.expect(201).json()["token"]
        .as_str()
        .unwrap()
        .to_owned()
}

async fn call(house: &House, token: &str, method: &str, path: &str, body: Option<Value>) -> Answer {
    let request =
        Request::builder().method(method).uri(path).header("authorization", format!("Bearer {token}"));
    let request = request.header("content-type", "application/json");
    house.send(request.body(body.map_or(Body::empty(), |body| body.to_string().into())).unwrap()).await
}

async fn get(house: &House, token: &str, path: &str) -> Value {
    call(house, token, "GET", path, None).await.expect(200).json()
}

/// What somebody sees.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Sees {
    Nothing,
    Masked,
    All,
}

/// What each token sees under a mask, and without one.
async fn tokens(house: &House) -> Vec<(String, Sees, Sees)> {
    use Sees::{All, Masked, Nothing};
    let [viewer, operator, admin] = house.tokens.clone();
    let mut all = vec![(viewer, Nothing, Nothing), (operator, Masked, All), (admin, All, All)];
    for (number, (grant, masked, plain)) in [
        (json!({"role": "viewer", "payloads": true}), Masked, All),
        (json!({"role": "viewer", "payloads": true, "unmasked": true}), All, All),
        (json!({"role": "operator", "payloads": false}), Nothing, Nothing),
        (json!({"role": "operator", "unmasked": true}), All, All),
        (json!({"role": "admin", "unmasked": false}), Masked, All),
        (json!({"role": "admin", "payloads": false}), Nothing, Nothing),
    ]
    .into_iter()
    .enumerate()
    {
        all.push((token(house, &format!("t{number}"), grant).await, masked, plain));
    }
    all
}

fn check_message(message: &Value, sees: Sees) {
    let (payload, encoding, masked) = match sees {
        Sees::Nothing => (Value::Null, "hidden", false),
        Sees::Masked => (json!({"do": "reject", "customer": {"name": "***", "no": 7}}), "json", true),
        Sees::All => (serde_json::from_str(PAYLOAD).unwrap(), "json", false),
    };
    assert_eq!(
        (&message["payload"], &message["payload_encoding"], &message["payload_masked"]),
        (&payload, &json!(encoding), &json!(masked))
    );
    assert_eq!(message["size_bytes"], PAYLOAD.len(), "whatever is hidden, it is not empty");
}

async fn check_sight(house: &House, token: &str, sees: Sees) {
    check_message(&get(house, token, STORY).await["message"], sees);
    let letter = get(house, token, LETTER).await;
    check_message(&letter["message"], sees);
    let text = if sees == Sees::All { json!(PAYLOAD) } else { Value::Null };
    assert_eq!(letter["payload_text"], text);
    let state = get(house, token, STATE).await["items"][0].clone();
    let (value, encoding) = match sees {
        Sees::Nothing => (Value::Null, "hidden"),
        Sees::Masked | Sees::All => (json!({"customer": {"name": "Bob"}}), "json"),
    };
    assert_eq!(state, json!({"key": "k", "value": value, "encoding": encoding}));
    let captures = call(house, token, "GET", CAPTURES, None).await;
    if sees == Sees::All {
        assert_eq!(captures.expect(200).json()["items"][0]["message"]["payload"], PAYLOAD);
    } else {
        let right = if sees == Sees::Nothing { "payloads" } else { "unmasked" };
        let detail = captures.problem(403, "forbidden");
        assert!(detail.contains(right), "{detail}");
    }
}

#[tokio::test]
async fn every_token_sees_what_it_may_and_is_told_what_it_may_not() {
    for (topic, queue) in [(&["/customer/name"][..], &[][..]), (&[], &["/customer/name"]), (&[], &[])] {
        let house = open(topic, queue).await;
        let is_masked = topic.len() + queue.len() > 0;
        for (token, masked, plain) in tokens(&house).await {
            check_sight(&house, &token, if is_masked { masked } else { plain }).await;
        }
        house.close().await;
    }
}

#[tokio::test]
async fn who_does_not_see_a_payload_whole_does_not_put_another_in_its_place() {
    let house = open(&["/customer/name"], &[]).await;
    let blind = token(&house, "blind", json!({"role": "operator", "payloads": false})).await;
    let operator = house.tokens[1].clone();
    let edit = format!("{LETTER}/edit");
    for (token, right) in [(&blind, "payloads"), (&operator, "unmasked")] {
        let refused = call(&house, token, "POST", &edit, Some(json!({"text": "x"}))).await;
        let detail = refused.problem(403, "forbidden");
        assert!(detail.contains(right), "{detail}");
    }
    let trial = json!({"changes": {"payload": {"publish": true}, "key": "k"}});
    let tried = call(&house, &blind, "POST", &format!("{LETTER}/try"), Some(trial)).await.expect(200).json();
    assert_eq!(tried["outcome"], "ack");
    assert_eq!(
        (&tried["state"][0]["value"], &tried["state"][0]["encoding"]),
        (&Value::Null, &json!("hidden"))
    );
    assert_eq!(tried["published"][0]["payload_encoding"], "hidden");
    // What else there is of a message, they see and may edit.
    call(&house, &blind, "POST", &edit, Some(json!({"key": "mended"}))).await.expect(200);
    house.close().await;
}

#[tokio::test]
async fn only_who_sees_masked_values_uncovers_them() {
    let house = open(&["/a", "/b"], &["/c"]).await;
    house.put("/api/v1/topics/lone", json!({"mask": ["/a"]})).await.expect(201);
    house.put("/api/v1/queues/lone", json!({"mask": ["/a"]})).await.expect(201);
    let operator = house.tokens[1].clone();
    let put = async |token: &str, path: &str, body: Value| call(&house, token, "PUT", path, Some(body)).await;
    for (path, body) in [
        ("/api/v1/topics/t", json!({"mask": ["/a"]})),
        ("/api/v1/topics/t", json!({})),
        ("/api/v1/queues/q", json!({"mask": ["/d"]})),
    ] {
        let detail = put(&operator, path, body).await.problem(403, "forbidden");
        assert!(detail.contains("unmasked"), "{detail}");
    }
    for path in ["/api/v1/topics/lone", "/api/v1/queues/lone"] {
        call(&house, &operator, "DELETE", path, None).await.problem(403, "forbidden");
    }
    put(&operator, "/api/v1/topics/t", json!({"mask": ["/b", "/a", "/more"]})).await.expect(200);
    put(house.admin(), "/api/v1/topics/t", json!({})).await.expect(200);
    call(&house, house.admin(), "DELETE", "/api/v1/topics/lone", None).await.expect(204);
    put(house.admin(), "/api/v1/topics/t", json!({"mask": ["a"]})).await.problem(422, "invalid-definition");
    house.close().await;
}

#[tokio::test]
async fn rights_are_told_and_must_make_sense() {
    let house = House::new().await;
    let wanted = json!({"name": "x", "role": "viewer", "unmasked": true});
    house.json("POST", "/api/v1/tokens", wanted).await.problem(422, "invalid-definition");
    let made = json!({"name": "x", "role": "viewer", "payloads": true});
    let made = house.json("POST", "/api/v1/tokens", made).await.expect(201).json();
    assert_eq!((&made["payloads"], &made["unmasked"]), (&json!(true), &json!(false)));
    let me = get(&house, made["token"].as_str().unwrap(), "/api/v1/whoami").await;
    let expect =
        json!({"name": "x", "role": "viewer", "payloads": true, "unmasked": false, "csrf_token": null});
    assert_eq!(me, expect);
    let listed = house.get("/api/v1/tokens").await.json()["items"].as_array().unwrap().clone();
    let rights: Vec<_> =
        listed.iter().map(|one| (one["payloads"].clone(), one["unmasked"].clone())).collect();
    let (yes, no) = (json!(true), json!(false));
    let expect = [(yes.clone(), yes.clone()), (yes.clone(), no.clone()), (no.clone(), no.clone()), (yes, no)];
    assert_eq!(rights, expect, "a, o, v, x");
    let audit = house.get("/api/v1/audit?limit=1").await.json()["items"][0]["after"].clone();
    assert_eq!(audit, json!({"role": "viewer", "payloads": true}));
    house.close().await;
}
