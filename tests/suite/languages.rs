//! The handler's guide on other languages, followed with the tools of those languages: what they make is a plugin
//! as it is, and comes to exact totals over the real orders.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use brolly_tests::{
    orders,
    project::{brolly, command},
    server::Server,
    skip,
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::guide::{Block, Reader, languages};

/// The languages of the guide, in its order.
const PLUGINS: [&str; 2] = ["tally-js", "tally-py"];

/// Runs what installs a language's tools; where they cannot be had, it is skipped and says why.
fn installed(what: &str, place: &Path, commands: &str) -> bool {
    let mut shell = command("sh", place, None);
    let output = shell.args(["-ec", commands]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        skip(what, said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("the tools cannot be had"));
    }
    output.status.success()
}

/// A folder as the guide leaves it before this part. What is installed goes with it: neither npm nor pip makes
/// tools that work from another place, or come to a whole when they are installed once more.
fn project(dir: &Path) -> PathBuf {
    brolly(dir, None, &["new", "refunds"], 0);
    dir.join("refunds")
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_of_other_languages_come_to_exact_totals() {
    let (data, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start(data.path()).await;
    let place = project(&dir.path().canonicalize().unwrap());
    let mut reader = Reader::new(&server, &place);
    let mut plugins = PLUGINS.iter();
    for block in languages() {
        match &block {
            Block::Typed(commands) if commands.contains(" install ") => {
                if !installed(plugins.next().unwrap(), &place, commands) {
                    return;
                }
            }
            _ => reader.follow(block),
        }
    }
    let orders = orders::real();
    server.bulk("orders.paid", orders::ndjson(&orders)).await.unwrap().ok();
    server.idle(&PLUGINS).await;
    let mut expect: BTreeMap<String, Value> = BTreeMap::new();
    for (day, total) in orders::totals(&orders).days {
        expect.insert(day, json!({"orders": total.orders, "amount_cents": total.amount_cents}));
    }
    for plugin in PLUGINS {
        let state = server.all(&format!("/subscriptions/{plugin}/state?prefix=day/")).await;
        let state: BTreeMap<String, Value> = state
            .into_iter()
            .map(|entry| (entry["key"].as_str().unwrap().to_owned(), entry["value"].clone()))
            .collect();
        assert_eq!(state, expect, "{plugin}");
        let dead = server.all(&format!("/subscriptions/{plugin}/dead-letters")).await;
        assert_eq!(dead.len(), 8, "{plugin}");
        assert_eq!(dead[0]["reason"], "an amount of 0", "{plugin}");
    }
    too_small(&server, "tally-py").await;
    assert_eq!(server.terminate().await, Some(0));
}

/// Without its limits it is refused, and the setting is named.
async fn too_small(server: &Server, plugin: &str) {
    let path = format!("/subscriptions/{plugin}");
    let version = server.get(&path).await["version"].clone();
    assert!(version.is_string());
    let definition = json!({"queue": plugin, "plugin": plugin, "version": version});
    let answer = server.call(Method::PUT, &path, Some(definition)).await;
    let detail = answer.body["detail"].as_str().unwrap_or_default().to_owned();
    assert!(detail.contains("(limits."), "{plugin}: {}", answer.body);
    assert_eq!(answer.problem(422), "invalid-definition");
}
