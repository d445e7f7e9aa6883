//! The commands of the real binary against a real server, as an operator types them.

use std::{
    collections::HashSet,
    path::Path,
    process::{Output, Stdio},
};

use brolly_tests::{
    orders, root,
    server::{PATIENCE, Server, binary},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{ChildStdout, Command},
};

const QUEUES: [&str; 3] = ["activity", "notification", "settlement"];

/// A command that finds its server through the environment, and nothing else.
fn command(server: &Server, dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command
        .args(arguments)
        .env("BROLLY_URL", &server.url)
        .env("BROLLY_TOKEN", &server.token)
        .env_remove("BROLLY_DATA_DIR")
        .current_dir(dir)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// What a command wrote to standard output and to standard error, after it ended with this code.
async fn run(mut command: Command, code: i32) -> (String, String) {
    let ended = tokio::time::timeout(4 * PATIENCE, command.output()).await.expect("it ends");
    let Output { status, stdout, stderr } = ended.expect("it can be started");
    let text = |bytes| String::from_utf8(bytes).expect("it writes UTF-8");
    let (out, err) = (text(stdout), text(stderr));
    assert_eq!(status.code(), Some(code), "{:?}\n{out}\n{err}", command.as_std());
    (out, err)
}

async fn done(server: &Server, dir: &Path, arguments: &[&str]) -> String {
    run(command(server, dir, arguments), 0).await.0
}

async fn done_json(server: &Server, dir: &Path, arguments: &[&str]) -> Value {
    let out = done(server, dir, arguments).await;
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{arguments:?} {error}: {out}"))
}

/// The three sample plugins on `orders.paid`; the plugins lie beside the document.
fn write_document(dir: &Path) {
    let mut document = String::from("[topics]\n'coupons.issued' = {}\n'notifications.out' = {}\n");
    document.push_str("'orders.paid' = { description = 'Paid orders', owners = ['shop'] }\n");
    for name in QUEUES {
        let built = root().join(format!("target/plugins/{name}.wasm"));
        std::fs::create_dir_all(dir.join("built")).unwrap();
        std::fs::copy(&built, dir.join(format!("built/{name}.wasm")))
            .unwrap_or_else(|error| panic!("{}: {error}; `cargo xtask plugins` builds it", built.display()));
        document.push_str(&format!(
            "[plugins.{name}]\nfile = 'built/{name}.wasm'\n[queues.{name}]\n\
             [routes.paid-to-{name}]\ntopic = 'orders.paid'\nqueue = '{name}'\n\
             [subscriptions.{name}]\nqueue = '{name}'\nplugin = '{name}'\nworkers = 2\norder = 'key'\n"
        ));
    }
    std::fs::write(dir.join("wanted.toml"), document).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_set_up_publish_and_tell_what_became_of_it() {
    let data = tempfile::tempdir().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let server = Server::start(data.path()).await;
    write_document(dir);
    applied(&server, dir).await;

    let table = root().join("tests/data/orders.csv");
    let publish = ["publish", "orders.paid", "--csv", table.to_str().unwrap()];
    let publish = [&publish[..], &["--id", "order_id", "--key", "customer_id", "--json"]].concat();
    let published = done_json(&server, dir, &publish).await;
    assert_eq!((&published["published"], &published["duplicates"]), (&json!(6_919), &json!(0)));
    server.idle(&QUEUES).await;
    assert_eq!(without_order(server.totals().await), without_order(orders::totals(&orders::real())));

    status(&server, dir).await;
    let told = done(&server, dir, &["trace", "o000003"]).await;
    assert!(told.starts_with("Message o000003 in orders.paid\n"), "{told}");
    for line in [
        "activity: acked",
        "notification: acked",
        "settlement: acked",
        "     -> coupon-o000003 in coupons.issued",
        "     -> notice-o000003 in notifications.out",
    ] {
        assert!(told.lines().any(|told| told == line), "{line} in {told}");
    }
    let story = done_json(&server, dir, &["trace", "o000003", "--json"]).await;
    assert_eq!(story["deliveries"].as_array().unwrap().len(), 3, "{story}");
    assert_eq!(server.terminate().await, Some(0));
}

async fn applied(server: &Server, dir: &Path) {
    let (out, err) = run(command(server, dir, &["apply", "wanted.toml"]), 2).await;
    assert!(out.contains("settlement") && err.contains("--yes"), "{out}\n{err}");
    let dry = done(server, dir, &["apply", "wanted.toml", "--dry-run"]).await;
    assert!(dry.ends_with("15 changes to make; none were made\n"), "{dry}");
    assert!(server.all("/topics").await.is_empty() && server.all("/plugins").await.is_empty());

    let made = done(server, dir, &["apply", "wanted.toml", "--yes"]).await;
    assert!(made.ends_with("15 changes made\n"), "{made}");
    for name in QUEUES {
        let subscription = server.get(&format!("/subscriptions/{name}")).await;
        assert_eq!((&subscription["workers"], &subscription["order"]), (&json!(2), &json!("key")));
    }
    assert_eq!(server.get("/topics/orders.paid").await["owners"], json!(["shop"]));
    assert_eq!(done(server, dir, &["apply", "wanted.toml"]).await, "nothing to change\n");
}

async fn status(server: &Server, dir: &Path) {
    let status = done_json(server, dir, &["status", "--json"]).await;
    let named = |list: &str, name: &str| {
        let items = status[list].as_array().unwrap();
        items.iter().find(|item| item["name"] == name).unwrap_or_else(|| panic!("{status}")).clone()
    };
    for (name, dead) in [("activity", 0), ("notification", 0), ("settlement", 8)] {
        let counts = json!({"ready": 0, "in_flight": 0, "delayed": 0, "dead": dead});
        assert_eq!(named("queues", name)["counts"], counts, "{name}");
        let subscription = named("subscriptions", name);
        assert_eq!(subscription["state"], "running", "{name}");
        let status = &subscription["status"];
        assert_eq!((&status["acked"], &status["dead"]), (&json!(6_919 - dead), &json!(dead)), "{name}");
    }
}

/// In the order of dead letters lies no promise.
fn without_order(mut totals: orders::Totals) -> orders::Totals {
    totals.rejected.sort();
    totals
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_fails_says_why_and_with_which_code() {
    let data = tempfile::tempdir().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let server = Server::start(data.path()).await;

    let mut wrong = command(&server, dir, &["status"]);
    wrong.env("BROLLY_TOKEN", "brolly_wrong");
    let (out, err) = run(wrong, 1).await;
    assert_eq!(
        (&*out, &*err),
        ("", "brolly: the token is not known; it may have been deleted (unauthorized)\n")
    );

    let mut missing = command(&server, dir, &["status"]);
    missing.env_remove("BROLLY_TOKEN");
    let (_, err) = run(missing, 1).await;
    assert!(err.contains("BROLLY_TOKEN") && err.contains("--data-dir"), "{err}");
    let found = command(&server, dir, &["status", "--data-dir", data.path().to_str().unwrap()]);
    let (out, _) = run(found, 0).await;
    assert!(out.contains("no queues"), "{out}");

    let (_, err) = run(command(&server, dir, &["trace", "none"]), 1).await;
    assert!(err.contains("none") && err.ends_with("(not-found)\n"), "{err}");
    let (_, err) = run(command(&server, dir, &["publish", "nowhere", "body"]), 1).await;
    assert!(err.contains("nowhere") && err.ends_with("(not-found)\n"), "{err}");

    std::fs::write(dir.join("wrong.toml"), "[topics.t]\nbrokr = 'embedded'\n").unwrap();
    let (_, err) = run(command(&server, dir, &["apply", "wrong.toml", "--yes"]), 2).await;
    assert!(err.contains("brokr"), "{err}");
    assert!(server.all("/topics").await.is_empty(), "nothing was made");

    let mut nobody = command(&server, dir, &["status"]);
    let url = server.url.clone();
    assert_eq!(server.terminate().await, Some(0));
    nobody.env("BROLLY_URL", &url);
    let (_, err) = run(nobody, 1).await;
    assert!(err.contains("no answer from") && err.contains("brolly serve"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_shows_every_message_once_as_it_comes() {
    let data = tempfile::tempdir().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let server = Server::start(data.path()).await;
    server.put("/topics/t", json!({})).await;
    server.put("/topics/other", json!({})).await;
    let publish = async |topic: &str, ids: std::ops::Range<u32>| {
        let lines = ids.map(|id| format!("{{\"id\":\"m{id:04}\",\"payload\":{id}}}\n")).collect();
        server.bulk(topic, lines).await.unwrap().ok();
    };
    publish("t", 0..5).await;
    publish("other", 0..3).await;
    let newest = done(&server, dir, &["tail", "t", "-n", "2", "--no-follow", "--json"]).await;
    let ids: Vec<String> = newest.lines().map(id).collect();
    assert_eq!(ids, ["m0003", "m0004"]);

    let mut tail = command(&server, dir, &["tail", "t", "-n", "1", "--json"]);
    let mut tail = tail.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    assert_eq!(next(&mut lines).await, "m0004");
    let mut seen = HashSet::new();
    // More than a page, then one message after the other.
    publish("t", 5..1_205).await;
    publish("other", 5..10).await;
    for expect in 5..1_205 {
        assert_eq!(next(&mut lines).await, format!("m{expect:04}"));
        assert!(seen.insert(expect));
    }
    for expect in 1_205..1_210 {
        publish("t", expect..expect + 1).await;
        assert_eq!(next(&mut lines).await, format!("m{expect:04}"));
    }
    tail.kill().await.unwrap();
    assert_eq!(server.terminate().await, Some(0));
}

fn id(line: &str) -> String {
    let message: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    message["id"].as_str().unwrap().to_owned()
}

async fn next(lines: &mut Lines<BufReader<ChildStdout>>) -> String {
    let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("a line comes in time");
    id(&line.unwrap().expect("it goes on"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_goes_from_one_engine_to_the_other_and_back() {
    let data = tempfile::tempdir().unwrap();
    let sled = [("BROLLY_STORE__ENGINE", "sled")];
    let redb = [("BROLLY_STORE__ENGINE", "redb")];
    let server = Server::start_with(data.path(), &[], &sled).await;
    server.put("/topics/t", json!({})).await;
    server.put("/queues/q", json!({})).await;
    server.put("/routes/r", json!({"topic": "t", "queue": "q"})).await;
    let line = |n: u32| {
        let payload = "x".repeat(if n.is_multiple_of(100) { 100_000 } else { 100 });
        format!("{{\"id\":\"m{n:04}\",\"payload\":\"{payload}\"}}\n")
    };
    server.bulk("t", (0..1_000).map(line).collect()).await.unwrap().ok();
    let what_is_there = async |server: &Server| {
        let queue = server.get("/queues/q").await["counts"].clone();
        (server.all("/messages?topic=t").await, server.get("/messages/m0100").await, queue)
    };
    let before = what_is_there(&server).await;
    assert_eq!((before.0.len(), &before.2["ready"]), (1_000, &json!(1_000)));

    let (_, err) = run(store_copy(data.path(), "redb"), 1).await;
    assert!(err.contains("in use by another process"), "{err}");
    assert_eq!(server.terminate().await, Some(0));
    let (_, err) = run(store_copy(data.path(), "fast"), 2).await;
    assert!(err.contains("there is sled, redb"), "{err}");

    let mut refused = Command::new(binary());
    refused.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(data.path()).envs(redb);
    let (_, err) = run(refused, 1).await;
    assert!(err.contains("is kept by sled") && err.contains("brolly store copy --to redb"), "{err}");

    let (out, _) = run(store_copy(data.path(), "redb"), 0).await;
    assert!(out.contains("from sled to redb") && out.contains("SHA-256"), "{out}");
    assert!(out.contains("set store.engine = \"redb\""), "{out}");
    let (out, _) = run(store_copy(data.path(), "redb"), 0).await;
    assert!(out.contains("redb keeps the store already"), "{out}");
    let server = Server::start_with(data.path(), &[], &redb).await;
    assert_eq!(what_is_there(&server).await, before);
    server.kill().await;

    // After the kill it is recovered first.
    let (out, err) = run(store_copy(data.path(), "sled"), 0).await;
    assert!(out.contains("from redb to sled") && err.contains("the last stop was not clean"), "{out}{err}");
    let server = Server::start_with(data.path(), &[], &sled).await;
    assert_eq!(what_is_there(&server).await, before);
    assert_eq!(server.terminate().await, Some(0));
}

fn store_copy(data: &Path, to: &str) -> Command {
    let mut command = Command::new(binary());
    command.args(["store", "copy", "--to", to, "--data-dir"]).arg(data).env_remove("BROLLY_STORE__ENGINE");
    command
}
