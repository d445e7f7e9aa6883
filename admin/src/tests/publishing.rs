//! Publishing single messages and NDJSON.

use serde_json::{Value, json};

use super::house::House;

const MESSAGES: &str = "/api/v1/topics/t/messages";
const LINES: (&str, &str) = ("content-type", "application/x-ndjson");

#[tokio::test]
async fn one_message_with_all_that_can_be_said_of_it() {
    let house = House::furnished().await;
    let headers = [
        ("content-type", "application/json; charset=utf-8"),
        ("brolly-key", "from-header"),
        ("brolly-id", "i d/1?"),
        ("brolly-header-Region", "eu"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("x-other", "is not kept"),
    ];
    let path = format!("{MESSAGES}?key=from-query&expires_ms=3600000");
    let answer = house.post(&path, &headers, r#"{"n": 1.50}"#).await.expect(200).json();
    assert_eq!(answer, json!({"ids": ["i d/1?"], "duplicates": 0}));
    let again = house.post(&path, &headers, "other").await.expect(200).json();
    assert_eq!(again, json!({"ids": ["i d/1?"], "duplicates": 1}));

    let story = house.get("/api/v1/messages/i%20d%2F1%3F").await.expect(200);
    assert!(String::from_utf8_lossy(&story.bytes).contains(r#""payload":{"n": 1.50}"#), "{story:?}");
    let story = story.json();
    let message = &story["message"];
    assert_eq!((&message["key"], &message["topic"]), (&json!("from-query"), &json!("t")));
    assert_eq!(message["content_type"], "application/json; charset=utf-8");
    assert_eq!(message["headers"], json!({"region": "eu", "traceparent": headers[4].1}));
    assert_eq!((&message["size_bytes"], &message["queues"]), (&json!(11), &json!(["q"])));
    let (published, expires) = (message["published_at_ms"].as_u64(), message["expires_at_ms"].as_u64());
    assert_eq!(expires.unwrap() - published.unwrap(), 3_600_000);
    assert_eq!((&story["deliveries"], &story["other_topics"]), (&json!([]), &json!([])));

    let made = house.post(MESSAGES, &[], vec![0xff_u8, 0]).await.expect(200).json();
    let id = made["ids"][0].as_str().unwrap();
    let message =
        house.get(&format!("/api/v1/messages/{id}?topic=t")).await.expect(200).json()["message"].clone();
    assert_eq!(
        (&message["payload"], &message["payload_encoding"]),
        (&json!({"base64": "/wA="}), &json!("base64"))
    );
    house.get(&format!("/api/v1/messages/{id}?topic=out")).await.problem(404, "not-found");
    house.close().await;
}

#[tokio::test]
async fn many_messages_keep_their_bytes_and_their_order() {
    let house = House::furnished().await;
    let body = concat!(
        "{\"id\":\"a\",\"key\":\"k\",\"headers\":{\"h\":\"v\"},\"payload\": {\"n\" : 1.50, \"u\":\"\\u00e9\"} }\n",
        "\r\n",
        "{\"payload\":\"text\",\"content_type\":\"text/x\"}\n",
        "{\"id\":\"a\",\"payload\":null}\r\n",
        "{\"id\":\"b\",\"payload\":[1,2],\"delay_ms\":60000,\"expires_ms\":90000}",
    );
    let answer = house.post(MESSAGES, &[LINES, ("tracestate", "x=1")], body).await.expect(200).json();
    assert_eq!(
        (&answer["ids"][0], &answer["ids"][2], &answer["ids"][3]),
        (&json!("a"), &json!("a"), &json!("b"))
    );
    assert_eq!(answer["duplicates"], 1);
    let first = house.get("/api/v1/messages/a").await.expect(200);
    let text = String::from_utf8(first.bytes.to_vec()).unwrap();
    assert!(text.contains(r#""payload":{"n" : 1.50, "u":"\u00e9"}"#), "{text}");
    let message = first.json()["message"].clone();
    assert_eq!((&message["key"], &message["content_type"]), (&json!("k"), &json!("application/json")));
    assert_eq!(message["headers"], json!({"h": "v", "tracestate": "x=1"}));
    let id = answer["ids"][1].as_str().unwrap();
    let second = house.get(&format!("/api/v1/messages/{id}")).await.json()["message"].clone();
    assert_eq!(
        (&second["payload"], &second["size_bytes"]),
        (&json!("text"), &json!(6)),
        "the quotes are payload"
    );
    assert_eq!(second["content_type"], "text/x");
    let delayed = house.get("/api/v1/queues/q").await.json();
    assert_eq!(delayed["counts"], json!({"ready": 2, "in_flight": 0, "delayed": 1, "dead": 0}));
    for empty in ["", "\n\n"] {
        let answer = house.post(MESSAGES, &[LINES], empty).await.expect(200).json();
        assert_eq!(answer, json!({"ids": [], "duplicates": 0}));
    }
    house.close().await;
}

#[tokio::test]
async fn a_wrong_line_is_named_and_nothing_is_published() {
    let house = House::furnished().await;
    let long = format!(r#"{{"payload":1,"key":"{}"}}"#, "k".repeat(256));
    let cases: [(&str, &[&str]); 12] = [
        ("{\"id\":\"x\"", &["line 2", "EOF", "column 9"]),
        ("no json", &["line 2", "column 2"]),
        ("{\"id\":\"x\"}", &["line 2", "missing field `payload`"]),
        ("{\"payload\":1,\"ids\":\"x\"}", &["line 2", "unknown field `ids`", "`key`"]),
        ("{\"payload\":1,\"id\":7}", &["line 2", "invalid type"]),
        ("{\"payload\":1,\"delay_ms\":-1}", &["line 2"]),
        ("{\"payload\":1,\"payload\":2}", &["line 2", "duplicate field"]),
        ("{\"payload\":1,\"id\":\"\"}", &["line 2", "the id is empty"]),
        (&long, &["line 2", "the key has 256 bytes"]),
        ("[1]", &["line 2", "a list"]),
        (r#" ["x", "k", {}, null, null, null, 1]"#, &["line 2", "a list"]),
        ("7", &["line 2", "invalid type"]),
    ];
    for (line, words) in cases {
        let body = format!("{{\"id\":\"ok\",\"payload\":1}}\n{line}\n{{\"payload\":3}}");
        let detail = house.post(MESSAGES, &[LINES], body).await.problem(400, "invalid-message");
        for word in words {
            assert!(detail.contains(word), "{line}: {detail}");
        }
    }
    house.post(MESSAGES, &[LINES], vec![b'{', 0xff, b'}']).await.problem(400, "invalid-message");
    for parameter in ["id=x", "key=x"] {
        let path = format!("{MESSAGES}?{parameter}");
        house.post(&path, &[LINES], "{\"payload\":1}").await.problem(400, "invalid-request");
    }
    assert_eq!(house.get("/api/v1/messages").await.expect(200).json()["items"], json!([]));
    house.close().await;
}

#[tokio::test]
async fn wrong_single_messages() {
    let house = House::furnished().await;
    let long = "k".repeat(256);
    for (query, code) in [
        ("id=", "invalid-message"),
        (&*format!("key={long}"), "invalid-message"),
        ("id=a%00b", "invalid-message"),
        ("delay_ms=soon", "invalid-request"),
        ("expires_ms=-1", "invalid-request"),
        ("kye=x", "invalid-request"),
    ] {
        house.post(&format!("{MESSAGES}?{query}"), &[], "x").await.problem(400, code);
    }
    house.post("/api/v1/topics/none/messages", &[], "x").await.problem(404, "not-found");
    house.post("/api/v1/topics/a%20b/messages", &[], "x").await.problem(400, "invalid-name");
    house.put("/api/v1/queues/q", json!({"retention": {"max_messages": 1}})).await.expect(200);
    house.post(MESSAGES, &[], "x").await.expect(200);
    let full = house.post(MESSAGES, &[], "x").await;
    assert_eq!(full.header("retry-after"), "1");
    full.problem(429, "queue-full");
    house.close().await;
}

#[tokio::test]
async fn messages_are_found_by_what_is_known_of_them() {
    let house = House::furnished().await;
    house.put("/api/v1/topics/t2", json!({})).await.expect(201);
    for number in 0..6 {
        let topic = if number % 2 == 0 { "t" } else { "t2" };
        let path = format!("/api/v1/topics/{topic}/messages?id=m{number}&key=k{}", number / 3);
        house.post(&path, &[("brolly-header-n", &format!("{number}:x"))], "{}").await.expect(200);
    }
    let ids = async |query: &str| {
        let found = house.get(&format!("/api/v1/messages{query}")).await.expect(200).json();
        let ids: Vec<_> = found["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["id"].as_str().unwrap().to_owned())
            .collect();
        (ids.join(" "), found["next"].clone())
    };
    assert_eq!(ids("").await, ("m5 m4 m3 m2 m1 m0".to_owned(), Value::Null));
    assert_eq!(ids("?order=asc&topic=t").await.0, "m0 m2 m4");
    assert_eq!(ids("?key=k1&topic=t2").await.0, "m5 m3");
    assert_eq!(ids("?header=n:3:x").await.0, "m3");
    assert_eq!(ids("?from_ms=0&until_ms=1").await.0, "");
    assert_eq!(ids("?status=acked").await.0, "");
    let (first, next) = ids("?limit=4").await;
    assert_eq!(first, "m5 m4 m3 m2");
    assert_eq!(ids(&format!("?limit=4&after={}", next.as_str().unwrap())).await.0, "m1 m0");
    let item = house.get("/api/v1/messages?header=n:3:x").await.json()["items"][0].clone();
    assert_eq!((&item["topic"], &item["key"], &item["size_bytes"]), (&json!("t2"), &json!("k1"), &json!(2)));
    assert_eq!(item["deliveries"], json!([]));
    house.close().await;
}

/// Whoever goes on from `last` sees every message once, and learns nothing from an empty answer but
/// that there is nothing.
#[tokio::test]
async fn a_follower_goes_on_from_where_the_answer_before_came_to() {
    let house = House::furnished().await;
    let (mut place, mut seen) = (None::<String>, Vec::new());
    let empty = house.get("/api/v1/messages?order=asc").await.expect(200).json();
    assert_eq!(empty, json!({"items": [], "next": null, "last": null}));
    for round in 0..3 {
        for number in 0..3 {
            let path = format!("/api/v1/topics/t/messages?id=m{round}{number}&key=k{number}");
            house.post(&path, &[], "{}").await.expect(200);
        }
        let mut full = true;
        while full {
            let after = place.as_ref().map(|place| format!("&after={place}")).unwrap_or_default();
            let path = format!("/api/v1/messages?order=asc&limit=2{after}");
            let found = house.get(&path).await.expect(200).json();
            seen.extend(found["items"].as_array().unwrap().iter().map(|item| item["id"].clone()));
            full = !found["next"].is_null();
            assert!(!full || found["next"] == found["last"], "{found}");
            place = Some(found["last"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(seen, ["m00", "m01", "m02", "m10", "m11", "m12", "m20", "m21", "m22"]);
    let place = place.unwrap();
    let found = house.get(&format!("/api/v1/messages?order=asc&after={place}")).await.expect(200).json();
    assert_eq!(found, json!({"items": [], "next": null, "last": place}));
    let nothing = house.get("/api/v1/messages?order=asc&key=none").await.expect(200).json();
    assert_eq!((&nothing["items"], &nothing["last"]), (&json!([]), &json!(place)), "all were looked at");
    house.close().await;
}
