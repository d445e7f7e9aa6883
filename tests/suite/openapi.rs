//! The API against its own description: Schemathesis makes requests from it, sound ones and broken ones,
//! and holds every answer to it.

use std::time::Duration;

use brolly_tests::{
    eventually,
    python::Python,
    server::{PATIENCE, Server, plugin_bytes},
};
use serde_json::json;

/// Requests made for each call in the second phase, beside those that cover each field.
const EXAMPLES: &str = "15";
/// How long it may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(240);

/// The tool does not know what to do with the bytes of a plugin.
const SCRIPT: &str = "import sys, schemathesis
from schemathesis.cli import schemathesis as main
schemathesis.serializer.alias('application/wasm', 'application/octet-stream')
main(args=sys.argv[1:])";

/// Something of everything, so that answers have something in them.
async fn furnish(server: &Server) {
    for topic in ["0", "t", "next"] {
        server.put(&format!("/topics/{topic}"), json!({})).await;
    }
    let version = server.upload("0", plugin_bytes("hostile")).await;
    let retry = json!({"max_attempts": 2, "initial_delay_ms": 1, "max_delay_ms": 1});
    for (name, mode) in [("0", "reject"), ("counts", "counter"), ("echoes", "echo")] {
        let more = json!({"config": {"mode": mode, "topic": "next"}, "retry": retry});
        server.subscribe(name, "t", "0", &version, more).await;
    }
    server.put("/queues/old", json!({})).await;
    let moves = json!({"queue": "old", "forward": {"topic": "t"}, "workers": 1});
    server.put("/subscriptions/moves", moves).await;
    let unfit = json!({"topic": "0", "queue": "old", "filter": "payload.missing > 1"});
    server.put("/routes/0", unfit).await;
    let line = |at: u32| {
        json!({"id": at.to_string(), "key": "0", "headers": {"a": "b"}, "payload": at}).to_string() + "\n"
    };
    server.bulk("0", line(9)).await.unwrap().ok();
    server.bulk("t", (0..5).map(line).collect()).await.unwrap().ok();
    server.idle(&["0", "counts", "echoes"]).await;
    eventually("there is something of everything", PATIENCE, || async {
        let some = async |path: &str| !server.all(path).await.is_empty();
        let there = some("/subscriptions/0/dead-letters").await
            && some("/subscriptions/counts/state").await
            && some("/messages?topic=next").await
            && some("/audit").await;
        there.then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_as_it_is_described() {
    let Some(python) = Python::with("the API against its description", &["schemathesis==4.32.5"]).await
    else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data")).await;
    furnish(&server).await;
    let (description, authorization) =
        (format!("{}/api/v1/openapi.json", server.url), format!("Authorization: Bearer {}", server.token));
    let reports = dir.path().to_str().unwrap();
    let arguments = [
        "run",
        &description,
        "--header",
        &authorization,
        "--checks",
        "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,\
         response_schema_conformance,unsupported_method,allow_header_conformance",
        "--phases",
        "examples,coverage,fuzzing",
        "--seed",
        "1",
        "--max-examples",
        EXAMPLES,
        "--workers",
        "1",
        // A stream has no end, and without its token the tool would learn nothing more.
        "--exclude-path",
        "/api/v1/events",
        "--exclude-path",
        "/api/v1/tokens/{token}",
        "--continue-on-failure",
        "--warnings",
        "off",
        "--no-color",
        "--report-dir",
        reports,
    ];
    let output = python.run_within(LIMIT, SCRIPT, &arguments).await;
    let said = String::from_utf8_lossy(&output.stdout);
    let short: String =
        said.lines().filter(|line| line.len() < 400).map(|line| line.to_owned() + "\n").collect();
    assert!(output.status.success(), "{short}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(short.contains("No issues found"), "it looked at nothing: {short}");
    assert_eq!(server.terminate().await, Some(0));
}
