//! This version goes on with what every released version has left, and refuses what a later one has.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use brolly_tests::{
    eventually,
    fixture::{self, DUE, ENGINES, HANDLED, LATER, RETRIED, WAITING, counts},
    flow, orders,
    server::{PATIENCE, Server, binary, plugin_bytes},
};
use serde_json::{Value, json};
use tempfile::TempDir;

#[tokio::test(flavor = "multi_thread")]
async fn what_every_released_version_has_left_with_sled_goes_on() {
    check("sled").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_every_released_version_has_left_with_redb_goes_on() {
    check("redb").await;
}

async fn check(engine: &str) {
    for version in versions() {
        eprintln!("{version}, {engine}");
        let dir = unpacked(&version, engine);
        let server = Server::start_with(dir.path(), &[], &fixture::settings(engine)).await;
        everything_is_there(&server).await;
        it_goes_on(&server).await;
        assert_eq!(server.terminate().await, Some(0));
        // And it is as good after the next start.
        let server = Server::start_with(dir.path(), &[], &fixture::settings(engine)).await;
        flow::exact(&server, &fixture::orders()).await;
        assert_eq!(server.terminate().await, Some(0));
    }
}

async fn everything_is_there(server: &Server) {
    let orders = fixture::orders();
    let (first, both) = (&orders[..HANDLED], &orders[..HANDLED + WAITING]);
    let got = server.totals().await;
    // Activity was paused; the others were not.
    assert_eq!(got.days, orders::totals(both).days);
    assert_eq!(got.points, orders::totals(first).points);
    assert_eq!(got.coupons, orders::totals(first).coupons);
    assert_eq!(got.rejected, orders::totals(both).rejected);
    assert!(!got.rejected.is_empty(), "the fixture has dead letters");
    assert_eq!(counts(server, "activity").await["ready"], WAITING);
    let later = counts(server, LATER).await;
    let waiting = ["ready", "delayed"].iter().filter_map(|count| later[count].as_u64()).sum::<u64>();
    assert_eq!(waiting, RETRIED as u64, "{later}");
    for subscription in ["activity", LATER] {
        let shown = server.get(&format!("/subscriptions/{subscription}")).await;
        assert_eq!(shown["paused"], true, "{shown}");
    }

    let story = async |id: &str| server.get(&format!("/messages/{id}")).await;
    let handled = story(&first[0].order_id).await;
    for subscription in flow::QUEUES {
        let delivery = delivery(&handled, subscription);
        assert_eq!((&delivery["status"], attempts(&delivery)), (&json!("acked"), 1), "{handled}");
    }
    let dead = story(&got.rejected[0]).await;
    assert_eq!(delivery(&dead, "settlement")["status"], "dead", "{dead}");
    let put_off = story(&fixture::later()[0].order_id).await;
    assert_eq!(attempts(&delivery(&put_off, LATER)), 1, "{put_off}");
}

async fn it_goes_on(server: &Server) {
    let orders = fixture::orders();
    // What was published before is known; what is new is handled.
    for batch in orders.chunks(100) {
        server.bulk("orders.paid", orders::ndjson(batch)).await.unwrap().ok();
    }
    server.post("/subscriptions/activity/resume").await;
    server.idle(&flow::QUEUES).await;
    flow::exact(server, &orders).await;

    // What is tried again is tried by another plugin; every attempt counts.
    let version = server.upload("settlement", plugin_bytes("settlement")).await;
    let subscription = json!({
        "queue": LATER, "plugin": "settlement", "version": version, "config": {"commission_percent": "15"},
    });
    server.put(&format!("/subscriptions/{LATER}"), subscription).await;
    server.post(&format!("/subscriptions/{LATER}/resume")).await;
    eventually("what was put off is handled", DUE + PATIENCE, || async {
        let counts = counts(server, LATER).await;
        ["ready", "in_flight", "delayed"].iter().all(|count| counts[*count] == 0).then_some(())
    })
    .await;
    let days = server.all(&format!("/subscriptions/{LATER}/state?prefix=day/")).await;
    let count = days.iter().filter_map(|day| day["value"]["orders"].as_u64()).sum::<u64>();
    assert_eq!(count, RETRIED as u64, "each once");
    let story = server.get(&format!("/messages/{}", fixture::later()[0].order_id)).await;
    let delivery = delivery(&story, LATER);
    assert_eq!((&delivery["status"], attempts(&delivery)), (&json!("acked"), 2), "{story}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_later_version_has_written_is_refused_and_stays_as_it_is() {
    for engine in ENGINES {
        let dir = unpacked(versions().last().unwrap(), engine);
        // Whatever the fixture has: what this version makes of it, and one more.
        let server = Server::start_with(dir.path(), &[], &fixture::settings(engine)).await;
        assert_eq!(server.terminate().await, Some(0));
        let format = dir.path().join("store/format");
        let current: u32 = fs::read_to_string(&format).unwrap().trim().parse().unwrap();
        fs::write(&format, (current + 1).to_string()).unwrap();
        let before = contents(&dir.path().join("store"));

        let mut serve = Command::new(binary());
        serve.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(dir.path());
        serve.envs(fixture::settings(engine)).stdin(Stdio::null());
        let output = serve.output().unwrap();
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(1), "{said}");
        for part in [
            format!("has the format {}", current + 1),
            format!("knows those up to {current}"),
            "start that one".to_owned(),
        ] {
            assert!(said.contains(&part), "{part:?} in {said}");
        }
        assert_eq!(contents(&dir.path().join("store")), before, "{engine}");
    }
}

/// The versions that there are fixtures of, the oldest first.
fn versions() -> Vec<String> {
    let files = fs::read_dir(fixture::folder()).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut versions: Vec<_> =
        names.filter_map(|name| Some(name.strip_suffix("-sled.tar.xz")?.to_owned())).collect();
    let number = |version: &String| -> Vec<u32> { version.split('.').map(|n| n.parse().unwrap()).collect() };
    versions.sort_by_key(number);
    assert!(!versions.is_empty(), "`cargo xtask fixture` makes them");
    versions
}

fn unpacked(version: &str, engine: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--xz", "--file"])
        .arg(fixture::folder().join(format!("{version}-{engine}.tar.xz")));
    let status = tar.args(["--no-same-owner", "--directory"]).arg(dir.path()).status();
    assert!(status.unwrap().success(), "tar failed");
    dir
}

fn delivery(story: &Value, subscription: &str) -> Value {
    let deliveries = story["deliveries"].as_array().unwrap();
    deliveries.iter().find(|one| one["subscription"] == subscription).unwrap_or(&Value::Null).clone()
}

fn attempts(delivery: &Value) -> usize {
    delivery["attempts"].as_array().map_or(0, Vec::len)
}

/// Every file in a folder but the lock, with what it holds.
fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            found.push((path.display().to_string(), fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}
