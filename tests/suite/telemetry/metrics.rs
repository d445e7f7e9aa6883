//! What `/metrics` shows is what docs/metrics.md says, and the numbers are those of the traffic.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use brolly_tests::{
    eventually, root,
    server::{PATIENCE, Server, plugin_bytes},
};
use reqwest::Method;
use serde_json::json;

use super::documented;

/// One series: its name, its labels, its value.
type Series = (String, BTreeMap<String, String>, f64);

/// Reads Prometheus' text format; answers with the types of metrics and with all series.
fn parse(text: &str) -> (BTreeMap<String, String>, Vec<Series>) {
    let mut types = BTreeMap::new();
    let mut series = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(declared) = line.strip_prefix("# TYPE ") {
            let (name, kind) = declared.split_once(' ').unwrap();
            types.insert(name.to_owned(), kind.to_owned());
        }
        if line.starts_with('#') {
            continue;
        }
        let (what, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = what.split_once('{').unwrap_or((what, "}"));
        let labels = labels.trim_end_matches('}').split("\",").filter(|label| !label.is_empty());
        let labels = labels.map(|label| label.split_once("=\"").unwrap());
        let labels = labels.map(|(label, value)| (label.to_owned(), value.trim_end_matches('"').to_owned()));
        series.push((name.to_owned(), labels.collect(), value.parse().unwrap()));
    }
    (types, series)
}

async fn scrape(server: &Server) -> String {
    reqwest::get(format!("{}/metrics", server.url)).await.unwrap().text().await.unwrap()
}

/// The sum of a metric over the series with these labels.
fn sum(series: &[Series], name: &str, labels: &[(&str, &str)]) -> f64 {
    let matches = |series: &&Series| {
        series.0 == name
            && labels.iter().all(|(label, value)| series.1.get(*label).is_some_and(|is| is == value))
    };
    series.iter().filter(matches).map(|series| series.2).sum()
}

/// Six messages, one of them twice: acknowledged by one subscription, rejected by another after retries,
/// and by a handler published further; one route cannot judge them.
async fn traffic(server: &Server) {
    server.put("/topics/t", json!({})).await;
    let version = server.upload("hostile", plugin_bytes("hostile")).await;
    let retry = json!({"max_attempts": 2, "initial_delay_ms": 1, "max_delay_ms": 1});
    for (name, mode) in [("good", "ok"), ("bad", "retry"), ("trap", "trap")] {
        let more = json!({"config": {"mode": mode}, "retry": retry});
        server.subscribe(name, "t", "hostile", &version, more).await;
    }
    let route = json!({"topic": "t", "queue": "good", "filter": "payload.missing > 1"});
    server.put("/routes/unfit", route).await;
    let line = |at: u32| format!("{{\"id\":\"m{at}\",\"payload\":{{\"n\":{at}}}}}\n");
    let lines: String = (0..6).map(line).collect();
    server.bulk("t", lines).await.unwrap().ok();
    server.bulk("t", line(0)).await.unwrap().ok();
    let nowhere = server.request(Method::POST, "/topics/t/messages").query(&[("id", "x".repeat(300))]);
    server.send(nowhere.body("{}")).await.problem(400);
    server.idle(&["good", "bad", "trap"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_shown_is_what_is_documented() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    traffic(&server).await;
    let documented = documented::metrics();
    // Gauges are read every few seconds.
    let text = eventually("the gauges show the dead letters", 2 * PATIENCE, || async {
        let text = scrape(&server).await;
        let dead = sum(&parse(&text).1, "brolly_queue_messages", &[("queue", "bad"), ("state", "dead")]);
        (dead == 6.0).then_some(text)
    })
    .await;
    let (types, series) = parse(&text);
    let mut seen = BTreeSet::new();
    for (name, labels, _) in &series {
        let (metric, of) = documented::of_series(&documented, name).unwrap_or_else(|| {
            panic!("{name} is shown and not documented");
        });
        assert_eq!(types.get(metric), Some(&of.kind), "{metric}");
        for label in labels.keys().filter(|label| !(of.kind == "histogram" && *label == "le")) {
            assert!(of.labels.contains(label), "{metric} has the label {label}, which is not documented");
        }
        seen.insert(metric);
    }
    let always: BTreeSet<&str> =
        documented.iter().filter(|(_, metric)| metric.always).map(|(name, _)| name.as_str()).collect();
    let missing: Vec<&&str> = always.difference(&seen).collect();
    assert!(missing.is_empty(), "documented as always there, and not shown: {missing:?}");

    let good = [("messaging_consumer_group_name", "good"), ("messaging_system", "brolly")];
    let system = [("messaging_system", "brolly"), ("messaging_operation_name", "publish")];
    for (name, labels, expect) in [
        ("messaging_client_sent_messages_total", &system[..], 7.0),
        ("messaging_client_operation_duration_seconds_count", &system, 2.0),
        ("messaging_client_consumed_messages_total", &good, 6.0),
        ("messaging_process_duration_seconds_count", &good, 6.0),
        ("messaging_process_duration_seconds_count", &[("error_type", "retry")], 12.0),
        ("messaging_process_duration_seconds_count", &[("error_type", "fault")], 12.0),
        ("brolly_attempts_total", &[("subscription", "bad"), ("outcome", "dead_letter")], 6.0),
        ("brolly_messages_duplicate_total", &[("topic", "t")], 1.0),
        ("brolly_filter_errors_total", &[("route", "unfit")], 6.0),
        ("brolly_broker_connected", &[("broker", "embedded")], 1.0),
        ("brolly_subscription_state", &[("subscription", "good"), ("state", "running")], 1.0),
        ("brolly_metrics_left_out", &[("kind", "queues")], 0.0),
    ] {
        assert_eq!(sum(&series, name, labels), expect, "{name} {labels:?}\n{text}");
    }
    for name in ["process_resident_memory_bytes", "process_open_fds", "brolly_store_commits_total"] {
        assert!(sum(&series, name, &[]) > 1.0, "{name}");
    }
    assert_eq!(server.terminate().await, Some(0));
}

/// The names in the sources, for what a single host without brokers elsewhere cannot show.
#[test]
fn every_metric_of_the_sources_is_documented_and_no_other() {
    let documented = documented::metrics();
    let mut named = BTreeSet::new();
    for room in ["host", "admin"] {
        names_in(&root().join(room), &mut named);
    }
    // These are made by a library.
    let expect: BTreeSet<String> =
        documented.into_keys().filter(|name| !name.starts_with("process_")).collect();
    assert_eq!(named, expect);
}

fn names_in(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            names_in(&entry, found);
        } else if entry.extension().is_some_and(|ending| ending == "rs") {
            let text = fs::read_to_string(&entry).unwrap();
            for call in ["counter!(", "gauge!(", "histogram!("] {
                for after in text.split(call).skip(1) {
                    let name = after.trim_start().strip_prefix('"').and_then(|rest| rest.split('"').next());
                    found.insert(name.expect("a metric is named where it is made").to_owned());
                }
            }
        }
    }
}
