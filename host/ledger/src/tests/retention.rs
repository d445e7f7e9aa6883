//! Forgetting what is old and done, and nothing else.

use brolly_core::{Commit, Decision, Delivery, Lease, Timestamp};
use brolly_store::keys;

use super::{Bench, message, name, open, retry};
use crate::{Begin, Swept};

/// Messages are met at 1,000 and attempted from 2,000 on; this is long after both.
const LATER: Timestamp = Timestamp(10_000);

/// A delivery of a broker elsewhere, of a message that its producer says was published then.
fn arriving(id: &str, published_at: u64) -> Delivery {
    Delivery {
        message: message(id, Timestamp(published_at)),
        lease: Lease { tag: 1 },
        record: None,
        first: false,
        attempts: 0,
        unfit: None,
    }
}

impl Bench {
    fn sweep(&self, cutoff: u64) -> u64 {
        let swept = self.ledger.sweep(Timestamp(cutoff), LATER, None, |_| false);
        assert!(swept.unreadable.is_none() && swept.next.is_none(), "{swept:?}");
        swept.removed
    }

    fn is_known(&self, id: &str) -> bool {
        self.ledger.history(id, None).unwrap().is_some()
    }
}

#[tokio::test]
async fn history_goes_when_nothing_needs_it() {
    let bench = open();
    let kept = bench.delivery("dead");
    bench.decide(&kept, &Decision::DeadLetter { reason: "no".into() });
    let gone = bench.delivery("acked");
    bench.decide(&gone, &Decision::Ack);
    let waits = bench.delivery("waits");
    let mut commit = Commit::default();
    commit.put(keys::queue_entry(&name("q"), waits.record.unwrap()), Vec::new());
    bench.store.submit(commit);
    bench.settled().await;
    assert_eq!(bench.sweep(1_000), 0, "not old enough");
    assert_eq!(bench.sweep(2_000), 0, "it was attempted since");
    assert_eq!(bench.sweep(2_001), 1);
    assert!(bench.messages.find(&name("orders.paid"), "acked").unwrap().is_none(), "at once");
    assert_eq!(bench.sweep(2_001), 0, "it goes already");
    bench.ledger.flushed().await.unwrap();
    assert!(!bench.is_known("acked"), "the id is free again");
    assert!(bench.is_known("dead") && bench.is_known("waits"));
    assert_eq!(bench.store.scan(&keys::delivery_prefix(gone.record.unwrap()), None).count(), 0);

    // When nobody can replay it any more, a dead letter is as old as anything.
    bench.ledger.discard(&name("q"), &[kept.record.unwrap()]).await.unwrap();
    assert_eq!(bench.sweep(2_001), 1);
}

#[tokio::test]
async fn what_waits_for_its_next_attempt_stays_until_long_after_that() {
    let bench = open();
    // As a broker elsewhere has it: it waits in no queue of ours.
    let delivery = arriving("m", 1_000);
    bench.decide(&delivery, &retry());
    bench.settled().await;
    let history = bench.ledger.history("m", None).unwrap().unwrap();
    let due = 2_000 + history.deliveries[0].attempts[0].retry_after_ms.unwrap();
    assert_eq!(bench.sweep(due), 0);
    // Nobody has brought it since; should it come after all, it is handled as if it came for the first time.
    assert_eq!(bench.sweep(due + 1), 1);
}

#[tokio::test]
async fn the_time_that_a_producer_claims_decides_nothing() {
    let bench = open();
    // One sends no time that makes sense, another one sends milliseconds for seconds.
    for (id, published_at) in [("1970", 0), ("58000", 1_768_000_000_000_000)] {
        bench.decide(&arriving(id, published_at), &Decision::Ack);
    }
    bench.settled().await;
    assert_eq!(bench.sweep(2_000), 0, "both were met at 2,000");
    assert_eq!(bench.sweep(2_001), 2);
}

#[tokio::test]
async fn what_was_met_while_the_clock_was_wrong_holds_up_nothing() {
    let bench = open();
    bench.decide(&bench.delivery("before"), &Decision::Ack);
    bench.decide(&bench.delivery("behind"), &Decision::Ack);
    bench.settled().await;
    // While the clock stands before the time at which they say that they were met.
    let early = |cutoff| bench.ledger.sweep(Timestamp(cutoff), Timestamp(999), None, |_| false);
    let Swept { looked_at, removed, next, .. } = early(900);
    assert_eq!((looked_at, removed, next), (2, 0, None), "it goes on behind them");
    assert_eq!(bench.sweep(2_001), 2);
}

#[tokio::test]
async fn what_is_in_hand_or_on_its_way_back_stays() {
    let bench = open();
    let delivery = arriving("m", 1_000);
    bench.decide(&delivery, &retry());
    bench.settled().await;
    let begun = bench.begin(&delivery);
    assert_eq!(bench.sweep(9_000), 0, "it is being attempted");
    drop(begun);
    bench.decide(&delivery, &Decision::Ack);
    bench.settled().await;
    // It was moved away, and somebody is about to move it back.
    bench.ledger.returns(&name("orders.paid"), "m").await.unwrap();
    assert_eq!(bench.sweep(9_000), 0, "it is expected");
    let again = bench.ledger.begin(&name("s"), &name("q"), &delivery, true, LATER).unwrap();
    let Begin::Attempt(begun) = again else { panic!("it is forwarded again: {again:?}") };
    let view = bench.ledger.state(&name("s"));
    bench.finish(&delivery, &begun, &Decision::Ack, &brolly_core::Effects::default(), &view);
    drop(begun);
    bench.settled().await;
    assert_eq!(bench.sweep(9_000), 1);
}

#[tokio::test]
async fn a_sweep_looks_at_so_many_and_the_next_one_goes_on() {
    let bench = open();
    let count = crate::Ledger::SWEEP_BUDGET + 1;
    for number in 0..count {
        bench.decide(&bench.delivery(&format!("m{number}")), &Decision::Ack);
    }
    bench.settled().await;
    let first = bench.ledger.sweep(LATER, LATER, None, |_| false);
    assert_eq!((first.looked_at, first.removed), (count - 1, count - 1));
    assert!(first.next.is_some());
    bench.ledger.flushed().await.unwrap();
    let second = bench.ledger.sweep(LATER, LATER, first.next, |_| false);
    assert_eq!((second.looked_at, second.removed, second.next), (1, 1, None));
}

/// Its settlement may be lost, and it is delivered again when its broker can be reached.
#[tokio::test]
async fn what_may_be_delivered_again_is_not_forgotten() {
    let bench = open();
    bench.decide(&arriving("m", 0), &Decision::Ack);
    bench.settled().await;
    let sweep = |may_deliver_again: bool| {
        bench.ledger.sweep(LATER, LATER, None, |queue| may_deliver_again && queue.as_str() == "q").removed
    };
    assert_eq!(sweep(true), 0);
    assert_eq!(sweep(false), 1);
}
