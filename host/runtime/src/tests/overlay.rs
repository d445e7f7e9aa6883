//! The overlay against a model: listing it page by page gives what the merged map holds.

use brolly_core::Limits;
use proptest::prelude::*;

use super::MapState;
use crate::overlay::Overlay;

use std::collections::BTreeMap;

use bytes::Bytes;

fn key() -> impl Strategy<Value = String> {
    "[ab]{1,4}"
}

proptest! {
    #[test]
    fn listing_page_by_page_gives_the_merged_map(
        stored in proptest::collection::btree_map(key(), 0_u8..9, 0..20),
        written in proptest::collection::vec((key(), proptest::option::of(0_u8..9)), 0..20),
        prefix in "[ab]{0,2}",
        after in proptest::option::of("[abc]{0,3}"),
        page in 1_usize..5,
    ) {
        let value = |n: u8| Bytes::from(vec![n]);
        let store = MapState(stored.iter().map(|(key, &n)| (key.clone(), value(n))).collect());
        let mut merged: BTreeMap<String, Bytes> = store.0.clone();
        let mut overlay = Overlay::default();
        for (key, n) in written {
            overlay.write(key.clone(), n.map(value), &Limits::default()).unwrap();
            match n {
                Some(n) => merged.insert(key, value(n)),
                None => merged.remove(&key),
            };
        }
        for key in stored.keys().chain(merged.keys()) {
            prop_assert_eq!(overlay.get(key, &store).unwrap(), merged.get(key).cloned());
        }
        let expect: Vec<_> = merged
            .into_iter()
            .filter(|(key, _)| key.starts_with(&prefix) && after.as_ref().is_none_or(|after| key > after))
            .collect();
        let mut found = Vec::new();
        let mut cursor = after;
        loop {
            let entries = overlay.list(&prefix, cursor.as_deref(), page, u64::MAX, &store).unwrap();
            prop_assert!(entries.len() <= page);
            let Some(last) = entries.last() else { break };
            cursor = Some(last.key.clone());
            let full = entries.len() == page;
            found.extend(entries.into_iter().map(|entry| (entry.key, entry.value)));
            if !full { break }
        }
        prop_assert_eq!(found, expect);
    }
}

#[test]
fn a_list_is_longer_than_a_page_of_the_store() {
    let store = MapState((0..1_500).map(|n| (format!("k{n:04}"), Bytes::new())).collect());
    let mut overlay = Overlay::default();
    for n in 0..200 {
        overlay.write(format!("k{n:04}"), None, &Limits { state_writes: 200, ..Limits::default() }).unwrap();
    }
    let found = overlay.list("k", None, 1_000, u64::MAX, &store).unwrap();
    assert_eq!(found.len(), 1_000);
    assert_eq!((found[0].key.as_str(), found[999].key.as_str()), ("k0200", "k1199"));
    assert!(overlay.list("k", None, 0, u64::MAX, &store).unwrap().is_empty());
}

#[test]
fn a_list_that_the_guest_cannot_hold_is_out_of_memory() {
    let store = MapState((0..10).map(|n| (n.to_string(), Bytes::from(vec![0; 99]))).collect());
    let overlay = Overlay::default();
    assert_eq!(overlay.list("", None, 10, 1_000, &store).unwrap().len(), 10);
    let stop = overlay.list("", None, 10, 999, &store).unwrap_err();
    assert!(stop.to_string().contains("limits.memory_bytes"), "{stop}");
}

#[test]
fn overwriting_counts_once() {
    let limits = Limits { state_writes: 1, state_bytes: 11, ..Limits::default() };
    let mut overlay = Overlay::default();
    for size in [10, 3, 10] {
        overlay.write("k".into(), Some(Bytes::from(vec![0; size])), &limits).unwrap();
    }
    assert!(overlay.write("k".into(), Some(Bytes::from(vec![0; 11])), &limits).is_err());
    assert!(overlay.write("l".into(), None, &limits).is_err());
    overlay.write("k".into(), None, &limits).unwrap();
    assert_eq!(overlay.into_writes(), BTreeMap::from([("k".into(), None)]));
}
