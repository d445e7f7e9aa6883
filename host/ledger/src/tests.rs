//! The ledger over a real store: what is decided once, what effects survive, what races do.

mod edited;
mod retention;
mod search;

use std::{sync::Arc, thread};

use brolly_core::{
    Code, Commit, Decision, Delivery, Effects, Lease, Message, Name, Refusal, Settlement, StateReader,
    Timestamp,
};
use brolly_store::{Config, Messages, Store, StoredMessage};
use bytes::Bytes;

use crate::{
    Attempt, AttemptOutcome, Begin, Begun, Error, Finish, Finished, Ledger, Left, StateView, Status,
};

struct Bench {
    _dir: tempfile::TempDir,
    store: Store,
    messages: Messages,
    ledger: Arc<Ledger>,
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn open() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&Config::new(dir.path().join("store"))).unwrap();
    let messages = Messages::open(&store).unwrap();
    let ledger = Arc::new(Ledger::open(store.clone(), messages.clone()).unwrap());
    Bench { _dir: dir, store, messages, ledger }
}

fn message(id: &str, published_at: Timestamp) -> Arc<Message> {
    Arc::new(Message {
        id: id.into(),
        topic: name("orders.paid"),
        key: "k".into(),
        content_type: String::new(),
        headers: std::collections::BTreeMap::new(),
        published_at,
        expires_at: None,
        payload: Bytes::from_static(b"{}"),
    })
}

impl Bench {
    /// A message that a broker has stored.
    fn delivery(&self, id: &str) -> Delivery {
        let message = message(id, Timestamp(1_000));
        let seq = self.messages.allocate();
        let stored = StoredMessage {
            message: message.clone(),
            met_at: message.published_at,
            routed: vec![name("q")],
            filter_errors: Vec::new(),
            parent: None,
        };
        let mut commit = Commit::default();
        self.messages.stage(seq, &stored, &mut commit).unwrap();
        self.store.submit(commit);
        Delivery {
            message,
            lease: Lease { tag: seq },
            record: Some(seq),
            first: false,
            attempts: 0,
            unfit: None,
        }
    }

    fn begin(&self, delivery: &Delivery) -> Begun {
        match self.ledger.begin(&name("s"), &name("q"), delivery, false, Timestamp(u64::MAX)).unwrap() {
            Begin::Attempt(begun) => *begun,
            other => panic!("not to be attempted: {other:?}"),
        }
    }

    fn finish(
        &self,
        delivery: &Delivery,
        begun: &Begun,
        decision: &Decision,
        effects: &Effects,
        view: &StateView,
    ) -> Finish {
        let finished = Finished {
            decision,
            outcome: AttemptOutcome::Ack,
            effects,
            version: None,
            at: Timestamp(2_000),
            duration_us: 5,
            memory_bytes: 1,
            logs: Vec::new(),
            logs_dropped: 0,
        };
        self.ledger.finish::<Error>(begun, &delivery.message, finished, view, |_| Ok(Vec::new())).unwrap()
    }

    fn decide(&self, delivery: &Delivery, decision: &Decision) {
        let begun = self.begin(delivery);
        let view = self.ledger.state(&name("s"));
        assert_eq!(self.finish(delivery, &begun, decision, &Effects::default(), &view), Finish::Submitted);
    }

    async fn settled(&self) {
        self.store.commit(Commit::default()).await.unwrap();
    }

    fn attempts(&self, id: &str) -> (Status, Vec<Attempt>) {
        let mut history = self.ledger.history(id, None).unwrap().unwrap();
        let delivery = history.deliveries.remove(0);
        (delivery.status, delivery.attempts)
    }
}

fn set(key: &str, value: &str) -> Effects {
    let mut effects = Effects::default();
    effects.state.insert(key.into(), Some(Bytes::copy_from_slice(value.as_bytes())));
    effects
}

fn retry() -> Decision {
    Decision::Retry { delay: std::time::Duration::from_millis(7), reason: "busy".into(), counts: true }
}

#[tokio::test]
async fn what_is_decided_is_not_handled_again() {
    let bench = open();
    for decision in [Decision::Ack, Decision::DeadLetter { reason: "no".into() }] {
        let delivery = bench.delivery(&format!("{decision:?}"));
        bench.decide(&delivery, &decision);
        bench.settled().await;
        let again =
            bench.ledger.begin(&name("s"), &name("q"), &delivery, false, Timestamp(u64::MAX)).unwrap();
        assert!(matches!(again, Begin::Decided(Settlement::Ack)), "{decision:?}");
        let other =
            bench.ledger.begin(&name("other"), &name("q2"), &delivery, false, Timestamp(u64::MAX)).unwrap();
        assert!(matches!(other, Begin::Attempt(_)), "another subscription's delivery of the same message");
    }
}

/// A message of a remote broker: nobody has stored it.
fn remote(bench: &Bench, id: &str) -> Delivery {
    Delivery { record: None, ..bench.delivery(&format!("not {id}")) }.with_id(id)
}

trait WithId {
    fn with_id(self, id: &str) -> Self;
}

impl WithId for Delivery {
    fn with_id(self, id: &str) -> Self {
        let message = Message { id: id.into(), ..(*self.message).clone() };
        Delivery { message: Arc::new(message), attempts: 2, ..self }
    }
}

#[tokio::test]
async fn a_message_from_elsewhere_is_stored_with_its_first_outcome_and_has_one_number() {
    let bench = open();
    let delivery = remote(&bench, "m");
    let begun = bench.begin(&delivery);
    assert_eq!(begun.attempt, 3, "as the message itself tells");
    let elsewhere = bench.ledger.begin(&name("other"), &name("q2"), &delivery, false, Timestamp(0)).unwrap();
    let Begin::Attempt(elsewhere) = elsewhere else {
        panic!("another subscription handles it beside this one")
    };
    assert_eq!(begun.origin().record, elsewhere.origin().record);
    drop(elsewhere);
    let view = bench.ledger.state(&name("s"));
    bench.finish(&delivery, &begun, &Decision::Ack, &Effects::default(), &view);
    // The claim is still held here, as by a worker that is slow to let go.
    bench.settled().await;
    let again = bench.ledger.begin(&name("s"), &name("q"), &delivery, false, Timestamp(0)).unwrap();
    assert!(matches!(again, Begin::Decided(_)), "{again:?}");
    drop(begun);
    let again = bench.ledger.begin(&name("s"), &name("q"), &delivery, false, Timestamp(0)).unwrap();
    assert!(matches!(again, Begin::Decided(_)), "{again:?}");
    assert_eq!(bench.attempts("m").0, Status::Acked);
}

/// A host was killed before its broker heard of an outcome, and the queue was given to a forward, or back.
#[tokio::test]
async fn what_another_subscription_has_decided_from_the_same_queue_is_left_alone() {
    let bench = open();
    let delivery = bench.delivery("m");
    bench.decide(&delivery, &Decision::Ack);
    bench.settled().await;
    let begin = |subscription: &str, queue: &str| {
        bench.ledger.begin(&name(subscription), &name(queue), &delivery, true, Timestamp(u64::MAX)).unwrap()
    };
    assert!(matches!(begin("move", "q"), Begin::Decided(Settlement::Ack)));
    assert!(matches!(begin("other", "q2"), Begin::Attempt(_)), "another queue has its own");
    // It was moved away since, and is moved back.
    bench.ledger.returns(&name("orders.paid"), "m").await.unwrap();
    assert!(matches!(begin("move", "q"), Begin::Attempt(_)));
}

#[tokio::test]
async fn a_forward_moves_again_what_has_come_back_and_nothing_else() {
    let bench = open();
    let delivery = bench.delivery("m");
    bench.decide(&delivery, &Decision::Ack);
    bench.settled().await;
    let begin = |forwards: bool| {
        bench.ledger.begin(&name("s"), &name("q"), &delivery, forwards, Timestamp(u64::MAX)).unwrap()
    };
    assert!(matches!(begin(true), Begin::Decided(_)), "the broker has not heard of it yet");
    bench.ledger.returns(&name("orders.paid"), "m").await.unwrap();
    assert!(matches!(begin(false), Begin::Decided(_)), "what a plugin has handled it has handled");
    let Begin::Attempt(again) = begin(true) else { panic!("it has come back") };
    assert_eq!(again.attempt, 2, "so that its mark is another one");
    bench.ledger.returns(&name("orders.paid"), "unknown").await.unwrap();
}

#[tokio::test]
async fn deliveries_are_counted_by_subscription_and_status() {
    let bench = open();
    for (id, decision) in [
        ("a", Decision::Ack),
        ("b", Decision::Ack),
        ("c", Decision::DeadLetter { reason: "no".into() }),
        ("d", retry()),
    ] {
        bench.decide(&bench.delivery(id), &decision);
    }
    bench.settled().await;
    let tally = bench.ledger.tally().unwrap();
    assert_eq!(tally.len(), 1);
    assert_eq!(tally[&name("s")], crate::Tally { waiting: 1, acked: 2, dead: 1, discarded: 0 });
}

#[tokio::test]
async fn of_a_feed_the_latest_gaps_are_remembered() {
    let bench = open();
    let first = bench.ledger.heard(&name("t")).unwrap();
    assert_eq!((first.at, first.missed), (None, 0));
    let mut heard = first.clone();
    for number in 0..101 {
        let (from, to) = (Timestamp(number), Timestamp(number + 1));
        heard.add(brolly_core::Gap { from, to, reason: "cut".into() });
    }
    bench.ledger.remember(&name("t"), &heard).unwrap();
    bench.settled().await;
    let again = bench.ledger.heard(&name("t")).unwrap();
    assert_eq!((again.missed, again.gaps.len(), again.gaps[0].from), (101, 100, Timestamp(1)));
    let reopened = Ledger::open(bench.store.clone(), bench.messages.clone()).unwrap();
    assert_eq!((reopened.host(), reopened.host().is_empty()), (bench.ledger.host(), false));
    assert_eq!(bench.ledger.heard(&name("other")).unwrap().missed, 0);
}

#[tokio::test]
async fn a_delivery_that_comes_before_its_retry_is_due_waits() {
    let bench = open();
    let delivery = remote(&bench, "m");
    bench.decide(&delivery, &retry());
    bench.settled().await;
    let at = bench.attempts("m").1[0].at;
    let begin = |now| bench.ledger.begin(&name("s"), &name("q"), &delivery, false, Timestamp(now)).unwrap();
    assert!(matches!(begin(at.0 + 2), Begin::Early(left) if left.as_millis() == 5));
    assert!(matches!(begin(at.0 + 7), Begin::Attempt(begun) if begun.attempt == 4));
}

#[tokio::test]
async fn attempts_are_counted_and_all_remembered() {
    let bench = open();
    let delivery = bench.delivery("m");
    for expect in 1..=3 {
        assert_eq!(bench.begin(&delivery).attempt, expect);
        bench.decide(&delivery, &retry());
        bench.settled().await;
    }
    let release = Decision::Release { delay: std::time::Duration::ZERO, reason: "full".into() };
    bench.decide(&delivery, &release);
    bench.settled().await;
    assert_eq!(bench.begin(&delivery).attempt, 4, "a release does not count");
    bench.decide(&delivery, &Decision::Ack);
    bench.settled().await;
    let (status, attempts) = bench.attempts("m");
    assert_eq!(status, Status::Acked);
    assert_eq!(attempts.iter().map(|attempt| attempt.number).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(attempts[0].reason.as_deref(), Some("busy"));
    assert_eq!(attempts[0].retry_after_ms, Some(7));
}

#[tokio::test]
async fn effects_take_place_with_ack_only() {
    let bench = open();
    for (id, decision) in [("a", retry()), ("b", Decision::DeadLetter { reason: "no".into() })] {
        let delivery = bench.delivery(id);
        let begun = bench.begin(&delivery);
        let view = bench.ledger.state(&name("s"));
        bench.finish(&delivery, &begun, &decision, &set("key", "never"), &view);
    }
    bench.settled().await;
    assert_eq!(bench.ledger.state(&name("s")).get("key").unwrap(), None);
    let delivery = bench.delivery("c");
    let begun = bench.begin(&delivery);
    bench.finish(&delivery, &begun, &Decision::Ack, &set("key", "yes"), &bench.ledger.state(&name("s")));
    let visible = bench.ledger.state(&name("s")).get("key").unwrap();
    assert_eq!(visible.as_deref(), Some(&b"yes"[..]), "visible before it is durable");
    bench.settled().await;
    assert_eq!(bench.ledger.state(&name("s")).get("key").unwrap().as_deref(), Some(&b"yes"[..]));
    assert_eq!(bench.ledger.state(&name("other")).get("key").unwrap(), None, "another subscription's state");
}

#[tokio::test]
async fn a_read_that_has_changed_is_a_conflict() {
    let bench = open();
    type Reading = fn(&StateView);
    let readings: [(&str, Reading); 3] = [
        ("a key that is there", |view| drop(view.get("p/1").unwrap())),
        ("a key that is not", |view| drop(view.get("p/2").unwrap())),
        ("a prefix", |view| drop(view.list("p/", None, 10).unwrap())),
    ];
    for (what, read) in readings {
        let slow = bench.delivery(&format!("slow {what}"));
        let slow_begun = bench.begin(&slow);
        let slow_view = bench.ledger.state(&name("s"));
        read(&slow_view);
        let quick = bench.delivery(&format!("quick {what}"));
        let begun = bench.begin(&quick);
        let mut effects = set("p/1", what);
        effects.state.insert("p/2".into(), Some(Bytes::from_static(b"x")));
        bench.finish(&quick, &begun, &Decision::Ack, &effects, &bench.ledger.state(&name("s")));
        // Even when the other's commit has long been durable.
        bench.settled().await;
        let result = bench.finish(&slow, &slow_begun, &Decision::Ack, &Effects::default(), &slow_view);
        assert_eq!(result, Finish::Conflict, "{what}");
        let result = bench.finish(&slow, &slow_begun, &retry(), &Effects::default(), &slow_view);
        assert_eq!(result, Finish::Submitted, "a retry stands on what it saw: {what}");
    }
    let unrelated = bench.delivery("unrelated");
    let begun = bench.begin(&unrelated);
    let view = bench.ledger.state(&name("s"));
    view.get("elsewhere").unwrap();
    let other = bench.delivery("other");
    let other_begun = bench.begin(&other);
    bench.finish(&other, &other_begun, &Decision::Ack, &set("p/1", "z"), &bench.ledger.state(&name("s")));
    assert_eq!(
        bench.finish(&unrelated, &begun, &Decision::Ack, &set("elsewhere", "1"), &view),
        Finish::Submitted
    );
}

/// Many threads add to few keys; every addition must be there at the end.
#[tokio::test(flavor = "multi_thread")]
async fn no_update_is_lost() {
    const THREADS: usize = 8;
    const EACH: usize = 300;
    let bench = Arc::new(open());
    let workers: Vec<_> = (0..THREADS)
        .map(|thread| {
            let bench = bench.clone();
            thread::spawn(move || {
                let mut conflicts = 0;
                for i in 0..EACH {
                    let delivery = bench.delivery(&format!("{thread}-{i}"));
                    let begun = bench.begin(&delivery);
                    let key = format!("n/{}", i % 3);
                    loop {
                        let view = bench.ledger.state(&name("s"));
                        let present = view.get(&key).unwrap().map_or(0, |value| {
                            std::str::from_utf8(&value).unwrap().parse::<usize>().unwrap()
                        });
                        let effects = set(&key, &(present + 1).to_string());
                        match bench.finish(&delivery, &begun, &Decision::Ack, &effects, &view) {
                            Finish::Submitted => break,
                            Finish::Conflict => conflicts += 1,
                        }
                    }
                }
                conflicts
            })
        })
        .collect();
    let conflicts: usize = workers.into_iter().map(|worker| worker.join().unwrap()).sum();
    bench.settled().await;
    let entries = bench.ledger.state_entries(&name("s"), "n/", None, 10).unwrap();
    let total: usize = entries
        .iter()
        .map(|entry| std::str::from_utf8(&entry.value).unwrap().parse::<usize>().unwrap())
        .sum();
    assert_eq!(total, THREADS * EACH, "with {conflicts} conflicts");
}

#[tokio::test]
async fn lists_merge_what_is_durable_with_what_is_not_yet() {
    let bench = open();
    let mut effects = Effects::default();
    for i in 0..5 {
        effects.state.insert(format!("a/{i}"), Some(Bytes::from(i.to_string())));
    }
    let delivery = bench.delivery("first");
    let begun = bench.begin(&delivery);
    bench.finish(&delivery, &begun, &Decision::Ack, &effects, &bench.ledger.state(&name("s")));
    bench.settled().await;
    let delivery = bench.delivery("second");
    let begun = bench.begin(&delivery);
    let mut effects = Effects::default();
    effects.state.insert("a/1".into(), None);
    effects.state.insert("a/25".into(), Some(Bytes::from_static(b"new")));
    effects.state.insert("b/0".into(), Some(Bytes::from_static(b"other prefix")));
    bench.finish(&delivery, &begun, &Decision::Ack, &effects, &bench.ledger.state(&name("s")));
    let keys = |after: Option<&str>, limit| -> Vec<String> {
        let view = bench.ledger.state(&name("s"));
        view.list("a/", after, limit).unwrap().into_iter().map(|entry| entry.key).collect()
    };
    for _ in 0..2 {
        assert_eq!(keys(None, 10), ["a/0", "a/2", "a/25", "a/3", "a/4"]);
        assert_eq!(keys(Some("a/0"), 2), ["a/2", "a/25"]);
        assert_eq!(keys(Some("a/25"), 1), ["a/3"]);
        bench.settled().await;
    }
}

#[tokio::test]
async fn dead_letters_are_counted_replayed_once_and_discarded() {
    let bench = open();
    let queue = name("q");
    let mut seqs = Vec::new();
    for i in 0..3 {
        let delivery = bench.delivery(&format!("m{i}"));
        seqs.push(delivery.record.unwrap());
        bench.decide(&delivery, &Decision::DeadLetter { reason: format!("reason {i}") });
    }
    bench.settled().await;
    assert_eq!(bench.ledger.dead_letters().count(&queue), 3);
    let letters = bench.ledger.list_dead_letters(&queue, Some(seqs[0]), 10).unwrap();
    assert_eq!(letters.iter().map(|l| l.reason.as_str()).collect::<Vec<_>>(), ["reason 1", "reason 2"]);

    let mut replayed = Vec::new();
    let twice = [seqs[0], seqs[0], seqs[1]];
    let mut stage = |seq: u64, message: &Message, _: &mut Commit| {
        replayed.push((seq, message.id.clone()));
        Ok::<_, Error>(Ok(()))
    };
    let left = bench.ledger.replay(&queue, &twice[..1], &mut stage).await.unwrap();
    assert_eq!(left, Left::default());
    let left = bench.ledger.replay(&queue, &twice[1..], &mut stage).await.unwrap();
    assert_eq!(left.missing, [seqs[0]]);
    assert_eq!(replayed, [(seqs[0], "m0".to_owned()), (seqs[1], "m1".to_owned())]);
    assert_eq!(bench.ledger.dead_letters().count(&queue), 1);
    assert_eq!(bench.attempts("m0").0, Status::Waiting, "it is to be handled again");

    let full =
        |_: u64, _: &Message, _: &mut Commit| Ok::<_, Error>(Err(Refusal::new(Code::QueueFull, "no room")));
    let left = bench.ledger.replay(&queue, &[seqs[2]], full).await.unwrap();
    assert_eq!(left.refused, [(seqs[2], Refusal::new(Code::QueueFull, "no room"))]);
    assert_eq!(bench.ledger.dead_letters().count(&queue), 1, "it stays");

    assert_eq!(bench.ledger.discard(&queue, &[seqs[2]]).await.unwrap(), Left::default());
    assert_eq!(bench.ledger.dead_letters().count(&queue), 0);
    assert_eq!(bench.attempts("m2").0, Status::Discarded);
    let reopened = Ledger::open(bench.store.clone(), bench.messages.clone()).unwrap();
    assert_eq!(reopened.dead_letters().count(&queue), 0);
}

#[tokio::test]
async fn a_replay_begins_anew_and_keeps_the_history() {
    let bench = open();
    let delivery = bench.delivery("m");
    bench.decide(&delivery, &retry());
    bench.settled().await;
    bench.decide(&delivery, &Decision::DeadLetter { reason: "enough".into() });
    bench.settled().await;
    let key = bench.ledger.list_dead_letters(&name("q"), None, 1).unwrap()[0].seq;
    bench.ledger.replay(&name("q"), &[key], |_, _, _| Ok::<_, Error>(Ok(()))).await.unwrap();
    let begun = bench.begin(&delivery);
    assert_eq!(begun.attempt, 1);
    bench.decide(&delivery, &Decision::Ack);
    bench.settled().await;
    let (status, attempts) = bench.attempts("m");
    assert_eq!((status, attempts.len(), attempts[2].number), (Status::Acked, 3, 3));
}
