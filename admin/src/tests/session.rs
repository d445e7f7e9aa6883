//! Signing in: what a session allows, what proves a change, what guessing costs.

use std::time::Duration;

use axum::{body::Body, http::Request};
use serde_json::{Value, json};

use super::house::{Answer, House};
use crate::session::Peer;

const SIGN_IN: &str = "/api/v1/session";

async fn sign_in(house: &House, token: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request =
        Request::builder().method("POST").uri(SIGN_IN).header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    house.send(request.body(json!({ "token": token }).to_string().into()).unwrap()).await
}

/// A request with a cookie, and perhaps with what proves a change.
async fn with(house: &House, method: &str, path: &str, cookie: &str, csrf: Option<&str>) -> Answer {
    let mut request = Request::builder().method(method).uri(path).header("cookie", cookie);
    if let Some(csrf) = csrf {
        request = request.header("x-csrf-token", csrf);
    }
    let body = if method == "PUT" { Body::from("{}") } else { Body::empty() };
    house.send(request.body(body).unwrap()).await
}

/// The cookie of an answer, as a browser sends it back, and what the answer says.
fn opened(answer: Answer) -> (String, Value) {
    let answer = answer.expect(200);
    let set = answer.header("set-cookie");
    for attribute in ["HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=43200"] {
        assert!(set.contains(attribute), "{set}");
    }
    (set.split(';').next().unwrap().to_owned(), answer.json())
}

#[tokio::test]
async fn a_session_stands_for_its_token_and_changes_need_a_proof() {
    let house = House::new().await;
    let (cookie, session) = opened(sign_in(&house, &house.tokens[1], &[]).await);
    assert_eq!((&session["name"], &session["role"]), (&json!("o"), &json!("operator")));
    assert!(!cookie.contains("brolly_0") && !cookie.contains(&house.tokens[1]));
    let csrf = session["csrf_token"].as_str().unwrap();
    let me =
        with(&house, "GET", "/api/v1/whoami", &format!("other=1; {cookie}"), None).await.expect(200).json();
    assert_eq!(me, session);

    let topic = "/api/v1/topics/x";
    for wrong in [None, Some(""), Some("0"), Some(&csrf[1..])] {
        let detail = with(&house, "PUT", topic, &cookie, wrong).await.problem(403, "forbidden");
        assert!(detail.contains("x-csrf-token"), "{detail}");
    }
    with(&house, "PUT", topic, &cookie, Some(csrf)).await.expect(201);
    with(&house, "GET", "/api/v1/tokens", &cookie, None).await.problem(403, "forbidden");
    let (other, _) = opened(sign_in(&house, &house.tokens[0], &[]).await);
    with(&house, "DELETE", topic, &other, Some(csrf)).await.problem(403, "forbidden");

    with(&house, "DELETE", SIGN_IN, &cookie, None).await.problem(403, "forbidden");
    let ended = with(&house, "DELETE", SIGN_IN, &cookie, Some(csrf)).await.expect(204);
    assert!(ended.header("set-cookie").contains("Max-Age=0"));
    with(&house, "GET", topic, &cookie, None).await.problem(401, "unauthorized");
    with(&house, "GET", topic, &other, None).await.expect(200);
    house.close().await;
}

#[tokio::test]
async fn a_session_ends_with_its_token_and_with_its_time() {
    let house = House::new().await;
    let who = "/api/v1/whoami";
    let (cookie, _) = opened(sign_in(&house, &house.tokens[0], &[]).await);
    let (lasting, _) = opened(sign_in(&house, house.admin(), &[]).await);
    house.delete("/api/v1/tokens/v").await.expect(204);
    house.json("POST", "/api/v1/tokens", json!({"name": "v", "role": "admin"})).await.expect(201);
    with(&house, "GET", who, &cookie, None).await.problem(401, "unauthorized");
    house.wait(Duration::from_secs(12 * 3600 - 1));
    with(&house, "GET", who, &lasting, None).await.expect(200);
    house.wait(Duration::from_secs(2));
    with(&house, "GET", who, &lasting, None).await.problem(401, "unauthorized");
    house.close().await;
}

#[tokio::test]
async fn of_more_than_a_thousand_sessions_the_oldest_ends() {
    let house = House::new().await;
    let who = "/api/v1/whoami";
    let mut cookies = Vec::new();
    for _ in 0..1_000 {
        cookies.push(opened(sign_in(&house, &house.tokens[0], &[]).await).0);
        house.wait(Duration::from_millis(1));
    }
    with(&house, "GET", who, &cookies[0], None).await.expect(200);
    opened(sign_in(&house, &house.tokens[0], &[]).await);
    with(&house, "GET", who, &cookies[0], None).await.problem(401, "unauthorized");
    with(&house, "GET", who, &cookies[1], None).await.expect(200);
    house.close().await;
}

#[tokio::test]
async fn who_guesses_waits_longer_and_longer() {
    let house = House::new().await;
    for _ in 0..6 {
        sign_in(&house, "brolly_wrong", &[]).await.problem(401, "unauthorized");
    }
    // Nobody else waits for it.
    let elsewhere = Request::builder().method("POST").uri(SIGN_IN).header("content-type", "application/json");
    let elsewhere = elsewhere.extension(Peer([192, 0, 2, 1].into()));
    let body = json!({ "token": house.admin() }).to_string();
    house.send(elsewhere.body(body.into()).unwrap()).await.expect(200);
    for wait in [1, 2, 4] {
        // Even the right token: whoever tries must not learn which one it is.
        let refused = sign_in(&house, house.admin(), &[]).await;
        let after: u64 = refused.header("retry-after").parse().unwrap();
        assert!((wait..=wait + 1).contains(&after), "{wait} {after}");
        refused.problem(429, "too-many-attempts");
        house.wait(Duration::from_millis(wait * 1000 + 1));
        sign_in(&house, "brolly_wrong", &[]).await.problem(401, "unauthorized");
    }
    house.wait(Duration::from_secs(9));
    opened(sign_in(&house, house.admin(), &[]).await);
    house.close().await;
}

#[tokio::test]
async fn who_guesses_at_tokens_waits_and_nobody_who_was_known_does() {
    let house = House::new().await;
    let ask = async |token: &str, from: [u8; 4]| {
        let request = Request::builder().uri("/api/v1/topics").extension(Peer(from.into()));
        house
            .send(request.header("authorization", format!("Bearer {token}")).body(Body::empty()).unwrap())
            .await
    };
    let (here, elsewhere) = ([192, 0, 2, 1], [192, 0, 2, 2]);
    ask(house.admin(), here).await.expect(200);
    for _ in 0..21 {
        ask("brolly_wrong", here).await.problem(401, "unauthorized");
    }
    let refused = ask("brolly_wrong", here).await;
    assert!((1..=2).contains(&refused.header("retry-after").parse::<u64>().unwrap()));
    refused.problem(429, "too-many-attempts");
    // A right one is not told from a wrong one, unless this address has brought it before.
    ask(&house.tokens[0], here).await.problem(429, "too-many-attempts");
    ask(house.admin(), here).await.expect(200);
    ask(&house.tokens[0], elsewhere).await.expect(200);
    sign_in(&house, house.admin(), &[]).await.expect(200);

    house.wait(Duration::from_millis(1001));
    ask(&house.tokens[0], here).await.expect(200);
    ask("brolly_wrong", here).await.problem(401, "unauthorized");
    ask("brolly_wrong", here).await.problem(429, "too-many-attempts");
    // What was deleted is known no more.
    house.delete("/api/v1/tokens/v").await.expect(204);
    ask(&house.tokens[0], here).await.problem(429, "too-many-attempts");
    house.close().await;
}

#[tokio::test]
async fn no_other_site_signs_anybody_in() {
    let house = House::new().await;
    for site in ["cross-site", "same-site"] {
        sign_in(&house, house.admin(), &[("sec-fetch-site", site)]).await.problem(403, "forbidden");
    }
    for site in ["same-origin", "none"] {
        opened(sign_in(&house, house.admin(), &[("sec-fetch-site", site)]).await);
    }
    let plain = Request::builder().method("POST").uri(SIGN_IN).header("content-type", "text/plain");
    let body = json!({ "token": house.admin() }).to_string();
    house.send(plain.body(body.into()).unwrap()).await.problem(415, "unsupported-media-type");
    house.close().await;
}
