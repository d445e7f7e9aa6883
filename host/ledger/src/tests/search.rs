//! The search for messages.

use brolly_core::{Decision, Timestamp};

use super::{message, name, open, retry};
use crate::{Search, Status};

#[tokio::test]
async fn search_finds_by_envelope_and_by_what_became_of_it() {
    let bench = open();
    for (id, decision) in [("a", Decision::Ack), ("b", retry()), ("c", Decision::Ack)] {
        let delivery = bench.delivery(id);
        bench.decide(&delivery, &decision);
    }
    bench.settled().await;
    let find = |search: Search, ascending, limit| -> Vec<String> {
        let found = bench.ledger.search(&search, None, ascending, limit).unwrap();
        found.items.into_iter().map(|(stored, _)| stored.message.id.clone()).collect()
    };
    assert_eq!(find(Search::default(), false, 10), ["c", "b", "a"]);
    assert_eq!(find(Search::default(), true, 2), ["a", "b"]);
    let acked = Search { status: Some(Status::Acked), subscription: Some(name("s")), ..Search::default() };
    assert_eq!(find(acked, true, 10), ["a", "c"]);
    assert!(find(Search { key: Some("other".into()), ..Search::default() }, true, 10).is_empty());
    assert!(find(Search { until: Some(Timestamp(1_000)), ..Search::default() }, true, 10).is_empty());
    let first = bench.ledger.search(&Search::default(), None, true, 2).unwrap();
    let rest = bench.ledger.search(&Search::default(), first.next, true, 2).unwrap();
    assert_eq!(rest.items.len(), 1);
    assert!(rest.next.is_none());
    assert_eq!(first.next, first.last);
    assert!(rest.last > first.last);
    let none = bench.ledger.search(&Search::default(), rest.last, true, 2).unwrap();
    assert_eq!((none.items.len(), none.next, none.last), (0, None, rest.last));
    let other = Search { key: Some("other".into()), ..Search::default() };
    assert_eq!(bench.ledger.search(&other, None, true, 10).unwrap().last, rest.last, "all were looked at");
    assert_eq!(bench.ledger.search(&other, None, false, 10).unwrap().last, Some(1), "down to the first");
}

#[tokio::test]
async fn search_goes_on_behind_what_claims_to_be_old() {
    let bench = open();
    for (id, published_at) in [("first", 5_000_000), ("claims", 0), ("last", 5_000_000)] {
        let mut delivery = bench.delivery(id);
        delivery.record = None;
        delivery.message = message(&format!("{id}-met"), Timestamp(published_at));
        bench.decide(&delivery, &Decision::Ack);
    }
    bench.settled().await;
    let search = Search { from: Some(Timestamp(61_000)), ..Search::default() };
    let found = bench.ledger.search(&search, None, false, 10).unwrap();
    let ids: Vec<_> = found.items.iter().map(|(stored, _)| stored.message.id.as_str()).collect();
    assert_eq!(ids, ["last-met", "first-met"]);
}
