//! Who may do what, for every call that the description lists.

use std::collections::BTreeSet;

use axum::{body::Body, http::Request};
use serde_json::{Value, json};

use super::house::House;
use crate::session::Peer;

const READ: usize = 0;
const CHANGE: usize = 1;
const ADMIN: usize = 2;

/// Every call, with the least role that may make it; none for everybody.
const CALLS: &[(&str, &str, Option<usize>)] = &[
    ("GET", "/healthz", None),
    ("GET", "/readyz", None),
    ("GET", "/metrics", None),
    ("GET", "/api/v1/openapi.json", None),
    ("GET", "/api/v1/whoami", Some(READ)),
    ("GET", "/api/v1/brokers", Some(READ)),
    ("GET", "/api/v1/brokers/{broker}", Some(READ)),
    ("PUT", "/api/v1/brokers/{broker}", Some(CHANGE)),
    ("DELETE", "/api/v1/brokers/{broker}", Some(CHANGE)),
    ("GET", "/api/v1/topics", Some(READ)),
    ("GET", "/api/v1/topics/{topic}/feed", Some(READ)),
    ("GET", "/api/v1/topics/{topic}", Some(READ)),
    ("PUT", "/api/v1/topics/{topic}", Some(CHANGE)),
    ("DELETE", "/api/v1/topics/{topic}", Some(CHANGE)),
    ("POST", "/api/v1/topics/{topic}/messages", Some(CHANGE)),
    ("GET", "/api/v1/queues", Some(READ)),
    ("GET", "/api/v1/queues/{queue}", Some(READ)),
    ("PUT", "/api/v1/queues/{queue}", Some(CHANGE)),
    ("DELETE", "/api/v1/queues/{queue}", Some(CHANGE)),
    ("GET", "/api/v1/routes", Some(READ)),
    ("GET", "/api/v1/routes/{route}", Some(READ)),
    ("PUT", "/api/v1/routes/{route}", Some(CHANGE)),
    ("DELETE", "/api/v1/routes/{route}", Some(CHANGE)),
    ("GET", "/api/v1/plugins", Some(READ)),
    ("GET", "/api/v1/plugins/{plugin}", Some(READ)),
    ("PUT", "/api/v1/plugins/{plugin}", Some(ADMIN)),
    ("GET", "/api/v1/plugins/{plugin}/samples", Some(READ)),
    ("PUT", "/api/v1/plugins/{plugin}/samples", Some(ADMIN)),
    ("DELETE", "/api/v1/plugins/{plugin}/samples", Some(ADMIN)),
    ("POST", "/api/v1/plugins/{plugin}/versions", Some(CHANGE)),
    ("DELETE", "/api/v1/plugins/{plugin}/versions/{digest}", Some(CHANGE)),
    ("GET", "/api/v1/subscriptions", Some(READ)),
    ("GET", "/api/v1/subscriptions/{subscription}", Some(READ)),
    ("PUT", "/api/v1/subscriptions/{subscription}", Some(CHANGE)),
    ("DELETE", "/api/v1/subscriptions/{subscription}", Some(CHANGE)),
    ("POST", "/api/v1/subscriptions/{subscription}/pause", Some(CHANGE)),
    ("POST", "/api/v1/subscriptions/{subscription}/resume", Some(CHANGE)),
    ("GET", "/api/v1/subscriptions/{subscription}/swaps", Some(READ)),
    ("POST", "/api/v1/subscriptions/{subscription}/rollback", Some(CHANGE)),
    ("GET", "/api/v1/subscriptions/{subscription}/rollout", Some(READ)),
    ("PUT", "/api/v1/subscriptions/{subscription}/rollout", Some(CHANGE)),
    ("DELETE", "/api/v1/subscriptions/{subscription}/rollout", Some(CHANGE)),
    ("POST", "/api/v1/subscriptions/{subscription}/rollout/promote", Some(CHANGE)),
    ("GET", "/api/v1/subscriptions/{subscription}/forward", Some(READ)),
    ("GET", "/api/v1/subscriptions/{subscription}/state", Some(READ)),
    // Not the role but the right `payloads`, which viewers have not by default.
    ("GET", "/api/v1/subscriptions/{subscription}/captures", Some(CHANGE)),
    ("PUT", "/api/v1/subscriptions/{subscription}/recording", Some(CHANGE)),
    ("GET", "/api/v1/subscriptions/{subscription}/dead-letters", Some(READ)),
    ("DELETE", "/api/v1/subscriptions/{subscription}/dead-letters", Some(CHANGE)),
    ("POST", "/api/v1/subscriptions/{subscription}/dead-letters/replay", Some(CHANGE)),
    ("DELETE", "/api/v1/subscriptions/{subscription}/dead-letters/{message_id}", Some(CHANGE)),
    ("POST", "/api/v1/subscriptions/{subscription}/dead-letters/{message_id}/replay", Some(CHANGE)),
    ("GET", "/api/v1/subscriptions/{subscription}/dead-letters/{message_id}", Some(READ)),
    ("POST", "/api/v1/subscriptions/{subscription}/dead-letters/{message_id}/edit", Some(CHANGE)),
    ("POST", "/api/v1/subscriptions/{subscription}/dead-letters/{message_id}/try", Some(CHANGE)),
    ("GET", "/api/v1/messages", Some(READ)),
    ("GET", "/api/v1/messages/{id}", Some(READ)),
    ("GET", "/api/v1/queues/{queue}/messages", Some(READ)),
    ("GET", "/api/v1/subscriptions/{subscription}/dead-letter-reasons", Some(READ)),
    ("POST", "/api/v1/topics/{topic}/explain", Some(READ)),
    ("GET", "/api/v1/channels", Some(READ)),
    ("GET", "/api/v1/channels/{channel}", Some(READ)),
    ("PUT", "/api/v1/channels/{channel}", Some(CHANGE)),
    ("DELETE", "/api/v1/channels/{channel}", Some(CHANGE)),
    ("POST", "/api/v1/channels/{channel}/test", Some(CHANGE)),
    ("GET", "/api/v1/alerts", Some(READ)),
    ("GET", "/api/v1/alerts/{alert}", Some(READ)),
    ("POST", "/api/v1/alerts/{alert}/acknowledge", Some(CHANGE)),
    ("GET", "/api/v1/audit", Some(READ)),
    ("GET", "/api/v1/events", Some(READ)),
    ("POST", "/api/v1/session", None),
    ("DELETE", "/api/v1/session", Some(READ)),
    ("POST", "/api/v1/backups", Some(ADMIN)),
    ("GET", "/api/v1/tokens", Some(ADMIN)),
    ("POST", "/api/v1/tokens", Some(ADMIN)),
    ("DELETE", "/api/v1/tokens/{token}", Some(ADMIN)),
];

#[tokio::test]
async fn every_call_asks_for_its_role() {
    let house = House::new().await;
    for (at, (method, path, least)) in CALLS.iter().enumerate() {
        // Each from an address of its own, so that none has to wait for the wrong tokens of the others.
        let peer = Peer([192, 0, 2, u8::try_from(at).unwrap()].into());
        let path = path.replace(['{', '}'], "");
        let answer = async |authorization: Option<String>| {
            let mut request = Request::builder().method(*method).uri(&path).extension(peer);
            if let Some(value) = authorization {
                request = request.header("authorization", value);
            }
            house.send(request.body(Body::empty()).unwrap()).await
        };
        if least.is_some() {
            let missing = answer(None).await;
            assert_eq!(missing.header("www-authenticate"), "Bearer realm=\"brolly\"", "{method} {path}");
            missing.problem(401, "unauthorized");
            for wrong in ["Bearer brolly_0", "Basic Og==", "Bearer", ""] {
                answer(Some(wrong.to_owned())).await.problem(401, "unauthorized");
            }
        } else if *method == "POST" {
            answer(None).await.problem(400, "invalid-request");
        } else {
            answer(None).await.expect(200);
        }
        for (role, token) in house.tokens.iter().enumerate() {
            let answer = answer(Some(format!("bearer {token}"))).await;
            match least {
                Some(least) if role < *least => {
                    answer.problem(403, "forbidden");
                }
                _ => assert!(![401, 403, 405].contains(&answer.status), "{method} {path}: {answer:?}"),
            }
        }
    }
    house.close().await;
}

#[tokio::test]
async fn the_description_lists_every_call_and_its_problems() {
    let house = House::new().await;
    let document = house.get("/api/v1/openapi.json").await.expect(200).json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"), "{}", document["openapi"]);
    let mut described = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            described.insert((method.to_uppercase(), path.clone()));
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id.to_owned()), "the operation id {id} is there twice");
            check_operation(&document, method, path, operation);
        }
    }
    let expect: BTreeSet<_> =
        CALLS.iter().map(|(method, path, _)| ((*method).to_owned(), (*path).to_owned())).collect();
    assert_eq!(described, expect);
    house.close().await;
}

fn check_operation(document: &Value, method: &str, path: &str, operation: &Value) {
    let place = format!("{method} {path}");
    let is_open = CALLS
        .iter()
        .any(|(verb, call, least)| verb.eq_ignore_ascii_case(method) && *call == path && least.is_none());
    assert_eq!(operation["security"].is_array(), is_open, "{place}");
    assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{place}");
    for status in ["default", "401", "403", "429"] {
        let problem = &operation["responses"][status]["content"]["application/problem+json"]["schema"];
        // Signing in needs no token, and refuses a wrong one.
        let wanted = status == "default" || !is_open || path == "/api/v1/session";
        assert_eq!(problem["$ref"] == "#/components/schemas/Problem", wanted, "{place} {status}");
    }
    let names: BTreeSet<&str> = path.split('{').skip(1).filter_map(|part| part.split('}').next()).collect();
    let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
    let described: BTreeSet<&str> = parameters
        .iter()
        .filter(|parameter| parameter["in"] == "path")
        .filter_map(|parameter| parameter["name"].as_str())
        .collect();
    assert_eq!(described, names, "{place}");
    for response in operation["responses"].as_object().unwrap().values() {
        assert!(response["description"].as_str().is_some_and(|text| !text.is_empty()), "{place}: {response}");
    }
    check_references(document, operation, &place);
}

/// Whatever is referred to must be there.
fn check_references(document: &Value, value: &Value, place: &str) {
    match value {
        Value::Object(fields) => {
            if let Some(reference) = fields.get("$ref").and_then(Value::as_str) {
                let target = document.pointer(reference.trim_start_matches('#'));
                assert!(target.is_some(), "{place} refers to {reference}, which is not there");
            }
            fields.values().for_each(|value| check_references(document, value, place));
        }
        Value::Array(items) => items.iter().for_each(|value| check_references(document, value, place)),
        _ => {}
    }
}

#[tokio::test]
async fn all_schemas_refer_to_what_is_there() {
    let house = House::new().await;
    let document = house.get("/api/v1/openapi.json").await.json();
    check_references(&document, &document["components"], "components");
    house.close().await;
}

#[tokio::test]
async fn what_is_answered_is_what_is_described() {
    let house = House::furnished().await;
    house.put("/api/v1/subscriptions/s", House::subscription()).await.expect(201);
    house.put("/api/v1/queues/waiting", json!({})).await.expect(201);
    house.put("/api/v1/routes/waiting", json!({"topic": "t", "queue": "waiting"})).await.expect(201);
    let message = r#"{"do":"reject"}"#;
    house.post("/api/v1/topics/t/messages?id=m&key=k", &[], message).await.expect(200);
    house.post("/api/v1/topics/t/messages?key=k", &[], r#"{"publish":true}"#).await.expect(200);
    house
        .until("/api/v1/subscriptions/s", |body| body["status"]["acked"] == 1 && body["status"]["dead"] == 1)
        .await;
    let document = house.get("/api/v1/openapi.json").await.json();
    for (call, path) in [
        ("/api/v1/topics", "/api/v1/topics"),
        ("/api/v1/topics/{topic}", "/api/v1/topics/t"),
        ("/api/v1/queues", "/api/v1/queues"),
        ("/api/v1/queues/{queue}", "/api/v1/queues/q"),
        ("/api/v1/routes", "/api/v1/routes"),
        ("/api/v1/routes/{route}", "/api/v1/routes/r"),
        ("/api/v1/plugins", "/api/v1/plugins"),
        ("/api/v1/plugins/{plugin}", "/api/v1/plugins/p"),
        ("/api/v1/subscriptions", "/api/v1/subscriptions"),
        ("/api/v1/subscriptions/{subscription}", "/api/v1/subscriptions/s"),
        ("/api/v1/subscriptions/{subscription}/state", "/api/v1/subscriptions/s/state"),
        ("/api/v1/subscriptions/{subscription}/captures", "/api/v1/subscriptions/s/captures"),
        ("/api/v1/subscriptions/{subscription}/dead-letters", "/api/v1/subscriptions/s/dead-letters"),
        (
            "/api/v1/subscriptions/{subscription}/dead-letters/{message_id}",
            "/api/v1/subscriptions/s/dead-letters/m",
        ),
        ("/api/v1/messages", "/api/v1/messages"),
        ("/api/v1/messages/{id}", "/api/v1/messages/m"),
        (
            "/api/v1/subscriptions/{subscription}/dead-letter-reasons",
            "/api/v1/subscriptions/s/dead-letter-reasons",
        ),
        ("/api/v1/audit", "/api/v1/audit"),
        ("/api/v1/queues/{queue}/messages", "/api/v1/queues/waiting/messages"),
        ("/api/v1/tokens", "/api/v1/tokens"),
        ("/api/v1/whoami", "/api/v1/whoami"),
        ("/readyz", "/readyz"),
    ] {
        let answer = house.get(path).await.expect(200).json();
        let schema =
            &document["paths"][call]["get"]["responses"]["200"]["content"]["application/json"]["schema"];
        described(&document, schema, &answer).unwrap_or_else(|why| panic!("{path}: {why}"));
        if let Some(items) = answer["items"].as_array() {
            assert!(!items.is_empty(), "{path} shows nothing");
        }
    }
    let problem = house.get("/api/v1/topics/none").await.json();
    described(&document, &document["components"]["schemas"]["Problem"], &problem).unwrap();
    house.close().await;
}

/// The schemas that hold together for a value, without references.
fn parts<'a>(document: &'a Value, schema: &'a Value, found: &mut Vec<&'a Value>) {
    if let Some(reference) = schema["$ref"].as_str() {
        parts(document, document.pointer(reference.trim_start_matches('#')).unwrap(), found);
    }
    for part in schema["allOf"].as_array().into_iter().flatten() {
        parts(document, part, found);
    }
    found.push(schema);
}

/// Whether every field of an answer is described, every required one is there, and each has its type.
fn described(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let mut schemas = Vec::new();
    parts(document, schema, &mut schemas);
    for schema in &schemas {
        if let Some(choices) = schema["oneOf"].as_array() {
            let fits = choices.iter().any(|choice| described(document, choice, value).is_ok());
            return if fits { Ok(()) } else { Err(format!("{value} fits none of {choices:?}")) };
        }
        let types = schema["type"].as_array().cloned().unwrap_or_else(|| vec![schema["type"].clone()]);
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        if !types[0].is_null() && !types.contains(&json!(kind)) {
            return Err(format!("{value} is not {types:?}"));
        }
        for required in schema["required"].as_array().into_iter().flatten() {
            if value.get(required.as_str().unwrap()).is_none() {
                return Err(format!("{required} is missing in {value}"));
            }
        }
    }
    match value {
        Value::Object(fields) if schemas.iter().any(|schema| schema["type"] == "object") => {
            for (name, value) in fields {
                let field = schemas.iter().find_map(|schema| {
                    schema["properties"].get(name).or_else(|| schema.get("additionalProperties"))
                });
                let field = field.ok_or_else(|| format!("{name} is not described"))?;
                described(document, field, value).map_err(|why| format!("{name}: {why}"))?;
            }
            Ok(())
        }
        Value::Array(items) => {
            let schema = schemas.iter().find_map(|schema| schema.get("items"));
            let schema = schema.ok_or_else(|| "an array of what?".to_owned())?;
            items.iter().try_for_each(|item| described(document, schema, item))
        }
        _ => Ok(()),
    }
}

#[tokio::test]
async fn tokens_are_shown_once_and_can_be_revoked() {
    let house = House::new().await;
    let made = house
        .json("POST", "/api/v1/tokens", json!({"name": "ci", "role": "operator"}))
        .await
        .expect(201)
        .json();
    let secret = made["token"].as_str().unwrap().to_owned();
    assert_eq!((&made["name"], &made["role"]), (&json!("ci"), &json!("operator")));
    let whoami = |token: String| {
        let request =
            Request::builder().uri("/api/v1/whoami").header("authorization", format!("Bearer {token}"));
        house.send(request.body(Body::empty()).unwrap())
    };
    assert_eq!(
        whoami(secret.clone()).await.expect(200).json(),
        json!({"name": "ci", "role": "operator", "payloads": true, "unmasked": false, "csrf_token": null})
    );

    let list = house.get("/api/v1/tokens").await.expect(200);
    let text = String::from_utf8(list.bytes.to_vec()).unwrap();
    let names: Vec<_> =
        list.json()["items"].as_array().unwrap().iter().map(|item| item["name"].clone()).collect();
    assert_eq!(names, ["a", "ci", "o", "v"]);
    for secret in house.tokens.iter().chain([&secret]) {
        let hash = super::house::digest(secret.as_bytes()).hex();
        assert!(!text.contains(secret.as_str()) && !text.contains(&hash), "{text}");
    }

    house
        .json("POST", "/api/v1/tokens", json!({"name": "ci", "role": "viewer"}))
        .await
        .problem(409, "in-use");
    house
        .json("POST", "/api/v1/tokens", json!({"name": "x", "role": "king"}))
        .await
        .problem(400, "invalid-request");
    house
        .json("POST", "/api/v1/tokens", json!({"name": "x/y", "role": "viewer"}))
        .await
        .problem(400, "invalid-name");
    house.delete("/api/v1/tokens/ci").await.expect(204);
    whoami(secret).await.problem(401, "unauthorized");
    house.delete("/api/v1/tokens/ci").await.problem(404, "not-found");
    house.delete("/api/v1/tokens/a").await.problem(409, "in-use");
    house.close().await;
}
