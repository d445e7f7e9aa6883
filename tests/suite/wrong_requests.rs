//! Every wrong request answers a problem document that says what to do, and changes nothing.

use brolly_tests::{
    eventually,
    server::{PATIENCE, Server, plugin_bytes},
};
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_are_answered_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    server.put("/topics/t", json!({})).await;
    let version = server.upload("p", plugin_bytes("settlement")).await;
    server.subscribe("s", "t", "p", &version, json!({})).await;
    let cases = cases(&version);
    for (method, path, body, status, code) in cases {
        let what = format!("{method} {path} {}", body.as_ref().map(ToString::to_string).unwrap_or_default());
        let answer = server.call(method, path, body).await;
        assert_eq!(answer.status.as_u16(), status, "{what}: {}", answer.body);
        assert_eq!(answer.problem(status), code, "{what}");
    }
    not_json_and_too_much(&server).await;
    without_a_token(&server).await;
    assert_eq!(server.get("/queues/s").await["counts"]["ready"], 0, "nothing was accepted");
    assert_eq!(server.terminate().await, Some(0));
}

/// A request, and the status and code of the problem that answers it.
type Case = (Method, &'static str, Option<Value>, u16, &'static str);

#[allow(clippy::too_many_lines, reason = "a table")]
fn cases(version: &str) -> Vec<Case> {
    let unknown = format!("sha256:{}", "0".repeat(64));
    let route = |pattern: &str, filter: Value| json!({"topic": "t", "queue": "s", "key_pattern": pattern, "filter": filter});
    let subscription = |field: &str, value: Value| {
        let mut body = json!({"queue": "s", "plugin": "p", "version": version});
        body[field] = value;
        body
    };
    vec![
        (Method::POST, "/topics/nowhere/messages", Some(json!({})), 404, "not-found"),
        (Method::PUT, "/topics/bad%20name", Some(json!({})), 400, "invalid-name"),
        (Method::PUT, "/topics/x", Some(json!({"brokr": "embedded"})), 422, "invalid-definition"),
        (Method::PUT, "/topics/x", Some(json!({"broker": "rabbit"})), 422, "unknown-reference"),
        (
            Method::PUT,
            "/queues/x",
            Some(json!({"retention": {"max_messages": 0}})),
            422,
            "invalid-definition",
        ),
        (Method::PUT, "/routes/x", Some(route("a*", Value::Null)), 422, "invalid-pattern"),
        (Method::PUT, "/routes/x", Some(route("#", json!("payload.amount >"))), 422, "invalid-filter"),
        (Method::PUT, "/routes/x", Some(json!({"topic": "t", "queue": "none"})), 422, "unknown-reference"),
        (
            Method::PUT,
            "/subscriptions/x",
            Some(subscription("queue", json!("none"))),
            422,
            "unknown-reference",
        ),
        (Method::PUT, "/subscriptions/x", Some(subscription("paused", json!(true))), 409, "in-use"),
        (
            Method::PUT,
            "/subscriptions/s",
            Some(subscription("version", json!(unknown))),
            422,
            "unknown-reference",
        ),
        (
            Method::PUT,
            "/subscriptions/s",
            Some(subscription("version", json!("latest"))),
            422,
            "invalid-definition",
        ),
        (Method::PUT, "/subscriptions/s", Some(subscription("workers", json!(0))), 422, "invalid-definition"),
        (
            Method::PUT,
            "/subscriptions/s",
            Some(subscription("workers", json!("four"))),
            422,
            "invalid-definition",
        ),
        (
            Method::PUT,
            "/subscriptions/s",
            Some(subscription("limits", json!({"time_ms": 1}))),
            422,
            "invalid-definition",
        ),
        (
            Method::PUT,
            "/subscriptions/s",
            Some(subscription("nonsense", json!(1))),
            422,
            "invalid-definition",
        ),
        (Method::PUT, "/subscriptions/s", Some(json!({"queue": "s"})), 422, "invalid-definition"),
        (Method::DELETE, "/queues/s", None, 409, "in-use"),
        (Method::DELETE, "/topics/t", None, 409, "in-use"),
        (Method::DELETE, "/queues/none", None, 404, "not-found"),
        (Method::GET, "/subscriptions/none/state", None, 404, "not-found"),
        (Method::GET, "/subscriptions/none/dead-letters", None, 404, "not-found"),
        (Method::GET, "/messages/none", None, 404, "not-found"),
        (Method::GET, "/topics?limit=0", None, 400, "invalid-request"),
        (Method::GET, "/topics?limit=many", None, 400, "invalid-request"),
        (Method::GET, "/nowhere", None, 404, "not-found"),
        (Method::POST, "/subscriptions/none/pause", None, 404, "not-found"),
        (Method::POST, "/subscriptions/s/dead-letters/replay", None, 400, "invalid-request"),
    ]
}

async fn not_json_and_too_much(server: &Server) {
    let put = server
        .request(Method::PUT, "/topics/x")
        .header("content-type", "application/json")
        .body("{\"description\"");
    let answer = server.send(put).await;
    assert!(answer.body["detail"].as_str().unwrap().contains("line"), "{}", answer.body);
    answer.problem(400);

    let lines = "{\"payload\":1}\n{\"payload\":\n{\"payload\":3}\n";
    let answer = server.bulk("t", lines.to_owned()).await.unwrap();
    assert!(answer.body["detail"].as_str().unwrap().contains("line 2"), "{}", answer.body);
    assert_eq!(answer.problem(400), "invalid-message");

    let too_long = format!("{{\"key\":\"{}\",\"payload\":1}}\n", "k".repeat(256));
    assert_eq!(server.bulk("t", too_long).await.unwrap().problem(400), "invalid-message");

    let payload = |bytes: usize| server.request(Method::POST, "/topics/t2/messages").body(vec![b'x'; bytes]);
    server.put("/topics/t2", json!({})).await;
    assert_eq!(server.send(payload(16 * 1024 * 1024 + 1)).await.problem(413), "too-large");
    server.send(payload(16 * 1024 * 1024)).await.ok();
}

async fn without_a_token(server: &Server) {
    let http = reqwest::Client::new();
    for token in [None, Some("wrong")] {
        let mut request = http.get(format!("{}/api/v1/topics", server.url));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        assert_eq!(server.send(request).await.problem(401), "unauthorized");
    }
    let created =
        server.call(Method::POST, "/tokens", Some(json!({"name": "reader", "role": "viewer"}))).await.ok();
    let viewer = created["token"].as_str().unwrap();
    let read = http.get(format!("{}/api/v1/topics", server.url)).bearer_auth(viewer);
    server.send(read).await.ok();
    let write = http.put(format!("{}/api/v1/topics/x", server.url)).bearer_auth(viewer).json(&json!({}));
    assert_eq!(server.send(write).await.problem(403), "forbidden");
}

/// A disk with less free space than the host is to keep takes no message, and says so; nothing that is
/// there is lost, and with enough of it the same message is taken.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_with_little_space_takes_no_message() {
    let dir = tempfile::tempdir().unwrap();
    let nearly_full = [("BROLLY_EMBEDDED__MIN_FREE_BYTES", "1125899906842624")];
    let server = Server::start_with(dir.path(), &[], &nearly_full).await;
    server.put("/topics/t", json!({})).await;
    server.put("/queues/q", json!({})).await;
    server.put("/routes/r", json!({"topic": "t", "queue": "q"})).await;
    let message = || "{\"id\":\"m\",\"payload\":{}}\n".to_owned();
    eventually("the disk was looked at", PATIENCE, || async {
        let answer = server.bulk("t", message()).await.unwrap();
        (!answer.status.is_success()).then(|| assert_eq!(answer.problem(507), "disk-full"))
    })
    .await;
    let held = server.get("/queues/q").await["counts"]["ready"].as_u64().unwrap();
    assert_eq!(server.terminate().await, Some(0));
    let server = Server::start(dir.path()).await;
    assert_eq!(server.get("/queues/q").await["counts"]["ready"], held);
    server.bulk("t", message()).await.unwrap().ok();
    assert_eq!(server.get("/queues/q").await["counts"]["ready"], 1);
    assert_eq!(server.terminate().await, Some(0));
}
