//! Channels and alerts by their calls; that anybody is told is tested on the whole.

use serde_json::{Value, json};

use super::house::House;

fn rule(more: Value) -> Value {
    let mut rule = json!({"when": "ready", "above": 1, "channels": ["hook"]});
    rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    rule
}

#[tokio::test]
async fn a_channel_is_made_shown_without_its_secrets_and_deleted() {
    let house = House::new().await;
    let hook = json!({"kind": "webhook", "url": "https://me:pw@h/p?token=SECRET", "secret": "SECRET"});
    let made = house.put("/api/v1/channels/hook", hook).await.expect(201).json();
    assert_eq!((&made["url"], &made["secret"]), (&json!("https://me:***@h/p?***"), &json!("***")));
    assert_eq!(made["health"], json!({"state": "unused", "since_ms": null, "error": null, "waiting": 0}));
    let back = json!({"kind": "webhook", "url": made["url"], "secret": made["secret"]});
    assert_eq!(
        house.put("/api/v1/channels/hook", back).await.expect(200).json()["revision"],
        made["revision"]
    );
    assert!(!house.get("/api/v1/audit").await.json().to_string().contains("SECRET"));

    house.put("/api/v1/queues/q", json!({"alerts": [rule(json!({}))]})).await.expect(201);
    house.delete("/api/v1/channels/hook").await.problem(409, "in-use");
    house.put("/api/v1/queues/q", json!({})).await.expect(200);
    house.delete("/api/v1/channels/hook").await.expect(204);
    house.get("/api/v1/channels/hook").await.problem(404, "not-found");
}

#[tokio::test]
async fn rules_that_cannot_be_kept_are_refused_and_say_why() {
    let house = House::new().await;
    let url = "http://127.0.0.1:1/";
    house.put("/api/v1/channels/hook", json!({"kind": "webhook", "url": url})).await.expect(201);
    house
        .put("/api/v1/channels/mail", json!({"kind": "smtp", "url": "smtp://h", "from": "a@b.c"}))
        .await
        .expect(201);
    let owner = json!([{"name": "Ann", "phone": "1"}]);
    let people = |count: usize| -> Vec<Value> {
        (0..count).map(|n| json!({"name": "n", "email": format!("p{n}@b.c")})).collect()
    };
    let mail = || json!([rule(json!({"channels": ["mail"]}))]);
    let cases = [
        (json!({"alerts": [rule(json!({"channels": ["no"]}))]}), "unknown-reference", "no channel named no"),
        (json!({"alerts": mail()}), "invalid-definition", "nobody to tell"),
        (json!({"alerts": mail(), "owners": owner}), "invalid-definition", "e-mail address"),
        (
            json!({"alerts": [rule(json!({"channels": []}))]}),
            "invalid-definition",
            "channels (how many) is 0",
        ),
        (json!({"alerts": [rule(json!({"above": null}))]}), "invalid-definition", "above is missing"),
        (json!({"alerts": [rule(json!({"when": "no_consumer"}))]}), "invalid-definition", "leave it out"),
        (json!({"alerts": [rule(json!({"when": "full"}))]}), "invalid-definition", "full"),
        (
            json!({"alerts": [rule(json!({"when": "failure_rate", "above": 100}))]}),
            "invalid-definition",
            "0 to 99",
        ),
        (json!({"alerts": [rule(json!({"clear": 2}))]}), "invalid-definition", "clear is 2"),
        (json!({"alerts": [rule(json!({"for_ms": 86_400_001}))]}), "invalid-definition", "for_ms"),
        (json!({"alerts": [rule(json!({"repeat_ms": 999}))]}), "invalid-definition", "repeat_ms is 999"),
        (
            json!({"alerts": [rule(json!({})), rule(json!({}))]}),
            "invalid-definition",
            "second rule named ready",
        ),
        (json!({"alerts": vec![rule(json!({})); 17]}), "invalid-definition", "alerts (rules) is 17"),
        (json!({"owners": people(33)}), "invalid-definition", "owners (how many) is 33"),
        (
            json!({"alerts": [rule(json!({"channels": ["mail", "hook"]}))], "owners": people(32)}),
            "invalid-definition",
            "tells 33",
        ),
        (json!({"owners": [{"name": "n", "email": "nobody"}]}), "invalid-definition", "owners[0].email"),
        (json!({"owners": ["x".repeat(255)]}), "invalid-definition", "owners[0].name (bytes) is 255"),
    ];
    for (queue, code, says) in cases {
        let said = house.put("/api/v1/queues/q", queue.clone()).await.problem(422, code);
        assert!(said.contains(says), "{queue}: {said}");
    }
    // Just within the limits.
    let rules: Vec<Value> =
        (0..16).map(|n| rule(json!({"name": format!("r{n}"), "clear": 1, "repeat_ms": 1000}))).collect();
    house.put("/api/v1/queues/q", json!({"alerts": rules, "owners": ["x".repeat(254)]})).await.expect(201);
    house.put("/api/v1/queues/r", json!({"alerts": mail(), "owners": people(32)})).await.expect(201);
    // Whoever is told must go on being told.
    house.put("/api/v1/queues/s", json!({"alerts": mail(), "owners": people(1)})).await.expect(201);
    let phones =
        json!({"kind": "sms", "preset": "twilio", "account_sid": "s", "auth_token": "t", "from": "1"});
    let said = house.put("/api/v1/channels/mail", phones).await.problem(409, "in-use");
    assert!(said.contains("phone number"), "{said}");
}

#[tokio::test]
async fn alerts_are_asked_for_with_care() {
    let house = House::new().await;
    assert_eq!(
        house.get("/api/v1/alerts?status=firing&queue=q&limit=1000").await.expect(200).json(),
        json!({"items": [], "next": null})
    );
    house.get("/api/v1/alerts?status=loud").await.problem(400, "invalid-request");
    house.get("/api/v1/alerts?limit=1001").await.problem(400, "invalid-request");
    house.get("/api/v1/alerts?after=x").await.problem(400, "invalid-request");
    house.get("/api/v1/alerts/1").await.problem(404, "not-found");
    house.get("/api/v1/alerts/x").await.problem(404, "not-found");
    house.post("/api/v1/alerts/1/acknowledge", &[], "").await.problem(404, "not-found");
    house.put("/api/v1/channels/hook", json!({"kind": "webhook", "url": "http://h"})).await.expect(201);
    house
        .json("POST", "/api/v1/channels/hook/test", json!({"email": "a@b.c"}))
        .await
        .problem(400, "invalid-request");
}
