//! Filters: whatever a route asks, and whatever a message says, comes to an answer, and to the same one again.
//!
//! The first line is the filter, the rest the payload.
#![no_main]

use std::collections::BTreeMap;

use brolly_core::{Filter, FilterInput};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (source, payload) = text.split_once('\n').unwrap_or((text, "{}"));
    let Ok(filter) = Filter::new(source) else { return };
    assert!(source.len() <= Filter::MAX_LEN);
    let again = Filter::new(filter.source()).expect("what was taken is taken again");
    let payload = serde_json::from_str(payload).unwrap_or(serde_json::Value::Null);
    let headers = BTreeMap::from([("region".to_owned(), "eu".to_owned())]);
    let input = FilterInput {
        id: "i1",
        topic: "orders.paid",
        key: "eu.0007",
        content_type: "application/json",
        headers: &headers,
        payload: &payload,
    };
    assert_eq!(filter.matches(&input), again.matches(&input));
});
