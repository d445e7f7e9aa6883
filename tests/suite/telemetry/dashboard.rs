//! The dashboard for Grafana asks for nothing but what is documented.

use std::collections::BTreeSet;

use brolly_tests::root;
use serde_json::Value;

use super::documented;

/// The words of a query that may be a metric or a label, each with what follows it.
fn words(query: &str) -> Vec<(&str, &str)> {
    let mut words = Vec::new();
    let is_word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let mut rest = query;
    while let Some(from) = rest.find(is_word) {
        let word = &rest[from..];
        let to = word.find(|letter| !is_word(letter)).unwrap_or(word.len());
        words.push((&word[..to], &word[to..]));
        rest = &word[to..];
    }
    words
}

/// Without what stands between quotation marks.
fn unquoted(query: &str) -> String {
    query.split('"').step_by(2).collect::<Vec<_>>().join("\"\"")
}

#[test]
fn the_dashboard_asks_for_nothing_but_what_is_documented() {
    let documented = documented::metrics();
    let text = std::fs::read_to_string(root().join("docs/grafana/brolly.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let mut queries = Vec::new();
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "a panel's number is there twice");
        assert!(panel["title"].as_str().is_some_and(|title| !title.is_empty()), "{panel}");
        let targets = panel["targets"].as_array();
        assert!(panel["type"] == "row" || targets.is_some_and(|targets| !targets.is_empty()), "{panel}");
        for target in targets.into_iter().flatten() {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{target}");
            queries.push(target["expr"].as_str().unwrap().to_owned());
        }
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        queries.extend(variable["definition"].as_str().map(str::to_owned));
    }
    let mut asked = BTreeSet::new();
    for query in &queries {
        let bare = unquoted(query);
        let mut labels = BTreeSet::from(["instance".to_owned(), "le".to_owned()]);
        for (word, _) in words(&bare) {
            if word.contains('_')
                && ["brolly_", "messaging_", "process_"].iter().any(|of| word.starts_with(of))
            {
                let Some((name, metric)) = documented::of_series(&documented, word) else { continue };
                asked.insert(name);
                labels.extend(metric.labels.iter().cloned());
            }
        }
        // What is no metric must be a label of one of them, or a word of the language.
        const LANGUAGE: [&str; 15] = [
            "sum",
            "by",
            "rate",
            "max",
            "count",
            "histogram_quantile",
            "increase",
            "or",
            "vector",
            "time",
            "label_values",
            "__rate_interval",
            "s",
            "m",
            "h",
        ];
        for (word, _) in words(&bare) {
            let known = documented::of_series(&documented, word).is_some()
                || labels.contains(word)
                || LANGUAGE.contains(&word)
                || word.chars().next().is_some_and(|first| first.is_ascii_digit());
            assert!(known, "{word:?} in {query:?} is neither documented nor a label of what is asked");
        }
    }
    let idle: Vec<&String> = documented.keys().filter(|name| !asked.contains(name.as_str())).collect();
    let expect =
        ["brolly_metrics_left_out", "process_virtual_memory_bytes", "process_virtual_memory_max_bytes"];
    assert_eq!(idle, expect, "metrics that no panel shows");
}
