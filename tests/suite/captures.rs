//! Time travel: what failed on a running host, taken from it and made again offline.

use std::{fs, path::Path};

use brolly_tests::{
    eventually,
    project::{brolly, edit},
    root,
    server::{PATIENCE, Server, plugin_bytes},
};
use serde_json::{Value, json};

/// The subscriptions of the test on one topic, each with what its plugin does.
const SUBSCRIPTIONS: [(&str, &str, Option<&str>); 3] = [
    ("settlement", "settlement", None),
    ("activity", "activity", None),
    ("trapping", "hostile", Some("trap")),
];

async fn set_up(server: &Server) {
    for topic in ["orders", "coupons.issued"] {
        server.put(&format!("/topics/{topic}"), json!({})).await;
    }
    for (name, plugin, mode) in SUBSCRIPTIONS {
        let version = server.upload(plugin, plugin_bytes(plugin)).await;
        let config = mode.map_or(json!({}), |mode| json!({ "mode": mode }));
        let more = json!({"config": config, "retry": {"max_attempts": 1}});
        server.subscribe(name, "orders", plugin, &version, more).await;
    }
}

async fn publish(server: &Server, id: &str, cents: i64) {
    let order = json!({"order_id": id, "customer_id": "0001", "paid_on": "1997-01-01", "quantity": 1,
        "amount_cents": cents});
    let line = json!({"id": id, "key": "0001", "payload": order});
    server.bulk("orders", format!("{line}\n")).await.unwrap().ok();
    server.idle(&["settlement", "activity", "trapping"]).await;
}

/// The files that a capture wrote.
fn captured(dir: &Path, server: &Server, arguments: &[&str]) -> Vec<String> {
    let out = ["--out", "captures"];
    let (files, _) = brolly(dir, Some(server), &[&["capture"], arguments, &out[..]].concat(), 0);
    files.lines().map(str::to_owned).collect()
}

fn replayed(dir: &Path, file: &str, plugin: &str, more: &[&str], code: i32) -> String {
    let folder = if plugin == "hostile" { "test-plugins" } else { "plugins" };
    let wasm = root().join(format!("target/{folder}/{plugin}.wasm"));
    let arguments = ["replay", file, "--plugin", wasm.to_str().unwrap()];
    brolly(dir, None, &[&arguments[..], more].concat(), code).0
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_attempts_are_taken_from_a_running_host_and_made_again() {
    let (data, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (server, dir) = (Server::start(data.path()).await, dir.path());
    set_up(&server).await;
    publish(&server, "good", 500).await;
    publish(&server, "bad", 0).await;

    let files = captured(dir, &server, &["settlement"]);
    assert_eq!(files.len(), 1, "what was acknowledged is not recorded: {files:?}");
    assert!(files[0].starts_with("captures/settlement-bad-"), "{files:?}");
    let same = replayed(dir, &files[0], "settlement", &[], 0);
    assert!(same.contains("outcome: reject") && same.ends_with("the same, bit for bit\n"), "{same}");

    // Another plugin, which acknowledges the order but reads what nobody read then.
    let unknown = replayed(dir, &files[0], "activity", &[], 1);
    assert!(unknown.contains("the capture does not have the key \"points/0001\""), "{unknown}");
    let other = replayed(dir, &files[0], "activity", &["--assume-absent"], 1);
    for line in [
        "taken for not being there: the key \"points/0001\"",
        "- outcome: reject",
        "+ outcome: ack",
        "+ state points/0001: {\"orders\":1,\"points\":0}",
    ] {
        assert!(other.contains(line), "{line} in {other}");
    }

    let traps = captured(dir, &server, &["trapping", "--failing", "5"]);
    assert_eq!(traps.len(), 2, "{traps:?}");
    assert!(traps[0].contains("-bad-") && traps[1].contains("-good-"), "newest first: {traps:?}");
    assert_eq!(captured(dir, &server, &["trapping", "--failing", "1"]), traps[..1]);
    let trap = replayed(dir, &traps[0], "hostile", &[], 0);
    assert!(trap.contains("outcome: fault") && trap.contains("reason: trap: "), "{trap}");
    assert_eq!(server.terminate().await, Some(0));

    // Yesterday's failures are there today, and after a crash those that had a moment to be written.
    let server = Server::start(data.path()).await;
    let again = captured(dir, &server, &["trapping", "--failing", "5"]);
    assert_eq!(again, traps);
    publish(&server, "late", 500).await;
    eventually("it is written", PATIENCE, || async {
        let files = fs::read_dir(data.path().join("captures/trapping")).unwrap();
        let whole =
            files.filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|end| end == "json"));
        (whole.count() == 3).then_some(())
    })
    .await;
    server.kill().await;
    let server = Server::start(data.path()).await;
    let after = captured(dir, &server, &["trapping", "--failing", "5"]);
    assert!(after.len() == 3 && after[0].contains("-late-") && after[1..] == traps, "{after:?}");
    assert_eq!(server.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_attempt_is_recorded_if_so_wanted_with_the_state_that_it_read() {
    let (data, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (server, dir) = (Server::start(data.path()).await, dir.path());
    set_up(&server).await;
    let (said, _) = brolly(dir, Some(&server), &["capture", "activity", "--record", "all"], 0);
    assert_eq!(said, "activity records all\n");
    for id in ["o1", "o2", "o3"] {
        publish(&server, id, 250).await;
    }
    let files = captured(dir, &server, &["activity", "--last", "3"]);
    let capture: Value = serde_json::from_str(&fs::read_to_string(dir.join(&files[0])).unwrap()).unwrap();
    let read = json!([{"get": {"key": "points/0001", "value": "{\"orders\":2,\"points\":4}"}}]);
    assert_eq!((&capture["message"]["id"], &capture["reads"]), (&json!("o3"), &read), "{capture}");
    for file in &files {
        let same = replayed(dir, file, "activity", &[], 0);
        assert!(same.contains("outcome: ack") && same.ends_with("the same, bit for bit\n"), "{same}");
        assert_eq!(same.contains("coupon-o3"), file == &files[0], "{same}");
    }

    // With another state the same plugin does something else.
    edit(&dir.join(&files[0]), "\\\"orders\\\":2", "\\\"orders\\\":3");
    let differs = replayed(dir, &files[0], "activity", &[], 1);
    assert!(differs.contains("- published to coupons.issued"), "{differs}");
    assert!(differs.contains("+ state points/0001: {\"orders\":4,\"points\":6}"), "{differs}");

    brolly(dir, Some(&server), &["capture", "activity", "--record", "off"], 0);
    publish(&server, "o4", 250).await;
    let last = server.get("/subscriptions/activity/captures?limit=1").await;
    assert_eq!((&last["record"], &last["items"][0]["message"]["id"]), (&json!("off"), &json!("o3")));
    assert_eq!(server.get("/subscriptions/activity/captures?failing=true").await["items"], json!([]));
    assert_eq!(server.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_captured_or_replayed_is_said() {
    let (data, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (server, dir) = (Server::start(data.path()).await, dir.path());
    let (_, why) = brolly(dir, Some(&server), &["capture", "nobody"], 1);
    assert!(why.contains("nobody") && why.ends_with("(not-found)\n"), "{why}");
    set_up(&server).await;
    let (none, why) = brolly(dir, Some(&server), &["capture", "settlement"], 0);
    assert!(none.is_empty() && why.contains("settlement records failing"), "{none}{why}");
    brolly(dir, Some(&server), &["capture", "settlement", "--record", "some"], 2);
    let wrong = server.call(reqwest::Method::PUT, "/subscriptions/settlement/recording", Some(json!({})));
    assert_eq!(wrong.await.problem(422), "invalid-definition");

    // A subscription that is made anew does not have what the one before had.
    publish(&server, "bad", 0).await;
    assert_eq!(captured(dir, &server, &["settlement"]).len(), 1);
    server.call(reqwest::Method::DELETE, "/subscriptions/settlement", None).await.ok();
    assert_eq!(
        server.call(reqwest::Method::GET, "/subscriptions/settlement/captures", None).await.problem(404),
        "not-found"
    );

    fs::write(dir.join("new.json"), r#"{"brolly_capture":99}"#).unwrap();
    let (_, why) = brolly(dir, None, &["replay", "new.json", "--plugin", "none.wasm"], 2);
    assert!(why.contains("new.json: it has the form 99"), "{why}");
    assert_eq!(server.terminate().await, Some(0));
}
