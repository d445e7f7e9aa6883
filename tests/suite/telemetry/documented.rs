//! The tables of docs/metrics.md.

use std::collections::{BTreeMap, BTreeSet};

use brolly_tests::root;

/// A row of the tables.
#[derive(Debug)]
pub struct Metric {
    pub kind: String,
    pub labels: BTreeSet<String>,
    /// Whether any host shows it that has work to do.
    pub always: bool,
}

/// All rows, by name.
pub fn metrics() -> BTreeMap<String, Metric> {
    let text = std::fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    let mut found = BTreeMap::new();
    let mut always = true;
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("### ") {
            always = heading != "Only where it happens";
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let ["", name, kind, labels, _, ""] = cells.as_slice() else { continue };
        let Some(name) = name.strip_prefix('`').and_then(|name| name.strip_suffix('`')) else { continue };
        // What stands in brackets behind a label is its value.
        let labels = labels.split(", ").map(|label| label.split(' ').next().unwrap());
        let labels = labels.map(|label| label.trim_matches('`').to_owned());
        let labels = labels.filter(|label| !label.is_empty()).collect();
        let metric = Metric { kind: (*kind).to_owned(), labels, always };
        assert!(found.insert(name.to_owned(), metric).is_none(), "{name} stands there twice");
    }
    assert!(found.len() > 30, "the tables were not understood: {found:?}");
    found
}

/// The documented metric that a series belongs to; those of a histogram have endings.
pub fn of_series<'a>(metrics: &'a BTreeMap<String, Metric>, series: &str) -> Option<(&'a str, &'a Metric)> {
    if let Some((name, metric)) = metrics.get_key_value(series) {
        return Some((name, metric));
    }
    let base = ["_bucket", "_sum", "_count"].iter().find_map(|ending| series.strip_suffix(ending))?;
    let (name, metric) = metrics.get_key_value(base)?;
    (metric.kind == "histogram").then_some((name, metric))
}
