//! What may be taken when, and what the other side is told.

use std::collections::BTreeMap;

use brolly_core::{Commit, SystemClock};
use brolly_store::{Config, Store, StoredMessage};
use bytes::Bytes;

use super::*;

/// What a tap was told.
#[derive(Clone, Debug, PartialEq)]
enum Told {
    Ack(u64),
    Retry(u64, u32),
    Back(u64),
    Close,
}

#[derive(Default)]
struct Ear(Mutex<Vec<Told>>);

impl Tap for Ear {
    fn ack(&self, tag: u64) {
        self.0.lock().push(Told::Ack(tag));
    }

    fn retry(&self, tag: u64, _: &Arc<Message>, _: Duration, attempts: u32) {
        self.0.lock().push(Told::Retry(tag, attempts));
    }

    fn give_back(&self, tag: u64) {
        self.0.lock().push(Told::Back(tag));
    }

    fn close(&self) {
        self.0.lock().push(Told::Close);
    }
}

fn message(id: &str, key: &str) -> Message {
    Message {
        id: id.into(),
        topic: Name::new("t").unwrap(),
        key: key.into(),
        content_type: String::new(),
        headers: BTreeMap::new(),
        published_at: Timestamp(1),
        expires_at: None,
        payload: Bytes::new(),
    }
}

struct Bench {
    _dir: tempfile::TempDir,
    store: Store,
    messages: Messages,
    window: Arc<Window>,
    inlet: Inlet,
    ear: Arc<Ear>,
}

const SOON: Duration = Duration::from_millis(30);
const LATE: Duration = Duration::from_secs(3_600);

impl Bench {
    fn new(order: Order, max_in_flight: u32) -> Self {
        Self::noticing_within(Duration::ZERO, order, max_in_flight)
    }

    fn noticing_within(notices_within: Duration, order: Order, max_in_flight: u32) -> Self {
        let queue = Name::new("q").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Config::new(dir.path().join("store"))).unwrap();
        let messages = Messages::open(&store).unwrap();
        let window =
            Window::new(queue, Arc::new(SystemClock), Arc::default(), messages.clone(), notices_within);
        let window = Arc::new(window);
        let (inlet, ear) = Self::connect(&window, order, max_in_flight);
        Self { _dir: dir, store, messages, window, inlet, ear }
    }

    fn connect(window: &Arc<Window>, order: Order, max_in_flight: u32) -> (Inlet, Arc<Ear>) {
        let inlet = window.open(Consume { order, max_in_flight }).unwrap();
        let ear = Arc::new(Ear::default());
        window.attach(&inlet, ear.clone());
        (inlet, ear)
    }

    /// The connection comes back after it has broken.
    fn reconnect(&mut self, order: Order) {
        self.window.close();
        (self.inlet, self.ear) = Self::connect(&self.window, order, 10);
    }

    fn push(&self, tag: u64, id: &str, key: &str) -> Pushed {
        self.deliver(tag, id, key, false)
    }

    fn deliver(&self, tag: u64, id: &str, key: &str, redelivered: bool) -> Pushed {
        let message = message(id, key);
        let (derived, by_route, unfit) = (false, true, None);
        self.inlet.push(Received { tag, message, attempts: 0, derived, redelivered, by_route, unfit })
    }

    /// As the ledger does with a delivery of it.
    async fn store(&self, id: &str) {
        let (mut commit, message, met_at) = (Commit::default(), Arc::new(message(id, "")), Timestamp(1));
        let (routed, filter_errors, parent) = (Vec::new(), Vec::new(), None);
        let stored = StoredMessage { message, met_at, routed, filter_errors, parent };
        self.messages.stage_met(self.messages.allocate(), &stored, &mut commit).unwrap();
        self.store.commit(commit).await.unwrap();
    }

    /// Whether it could be forgotten.
    fn forget(&self, id: &str) -> bool {
        let message = message(id, "");
        let seq = self.messages.find(&message.topic, id).unwrap().unwrap();
        self.messages.forget::<()>(seq, &message, |_| Ok(true)).unwrap()
    }

    fn take(&self) -> Option<(String, Lease)> {
        self.window.take().map(|delivery| (delivery.message.id.clone(), delivery.lease))
    }

    fn ids(&self) -> Vec<String> {
        std::iter::from_fn(|| self.take()).map(|(id, _)| id).collect()
    }

    fn told(&self) -> Vec<Told> {
        std::mem::take(&mut *self.ear.0.lock())
    }
}

#[test]
fn two_copies_of_a_message_are_handled_one_after_the_other() {
    let bench = Bench::new(Order::None, 10);
    for (tag, id) in [(1, "m"), (2, "m"), (3, "n")] {
        assert_eq!(bench.push(tag, id, ""), Pushed::Held);
    }
    let (_, first) = bench.take().unwrap();
    assert_eq!(bench.ids(), ["n"]);
    bench.window.settle(first, Settlement::Ack);
    assert_eq!(bench.ids(), ["m"]);
    assert_eq!(bench.told(), [Told::Ack(1)]);
}

#[test]
fn an_attempt_that_outlives_its_connection_holds_the_copy_that_comes_again() {
    let mut bench = Bench::new(Order::None, 10);
    bench.push(1, "m", "");
    bench.push(2, "waits", "");
    let (_, old) = bench.take().unwrap();
    bench.inlet.fail("cut");
    bench.reconnect(Order::None);
    bench.push(1, "m", "");
    bench.push(2, "waits", "");
    assert_eq!(bench.ids(), ["waits"]);
    bench.window.settle(old, Settlement::Ack);
    assert_eq!(bench.told(), [], "the old tag is not settled at the new connection");
    let (id, again) = bench.take().unwrap();
    assert_eq!(id, "m");
    bench.window.settle(again, Settlement::Ack);
    assert_eq!(bench.told(), [Told::Ack(1)]);
}

#[test]
fn a_retry_goes_to_the_other_side_unless_its_key_must_wait_for_it() {
    let bench = Bench::new(Order::None, 10);
    bench.push(1, "m", "k");
    let (_, lease) = bench.take().unwrap();
    bench.window.settle(lease, Settlement::Retry { delay: LATE, attempts: 3 });
    assert_eq!(bench.told(), [Told::Retry(1, 3)]);

    let bench = Bench::new(Order::Key, 10);
    for (tag, id, key) in [(1, "a1", "a"), (2, "a2", "a"), (3, "b1", "b"), (4, "none", "")] {
        bench.push(tag, id, key);
    }
    let (id, lease) = bench.take().unwrap();
    assert_eq!(id, "a1");
    bench.window.settle(lease, Settlement::Retry { delay: LATE, attempts: 1 });
    assert_eq!(bench.ids(), ["b1", "none"]);
    assert_eq!(bench.window.held(), Held { taken: 2, delayed: 1 });
    assert_eq!(bench.told(), []);
}

#[tokio::test]
async fn what_is_held_back_is_taken_when_its_time_has_come_and_first_of_its_key() {
    let bench = Bench::new(Order::Key, 10);
    bench.push(1, "a1", "a");
    bench.push(2, "a2", "a");
    let (_, lease) = bench.take().unwrap();
    bench.window.settle(lease, Settlement::Release { delay: SOON });
    assert_eq!(bench.ids(), [""; 0]);
    bench.window.ready().await.unwrap();
    let (id, lease) = bench.take().unwrap();
    assert_eq!(id, "a1");
    bench.window.settle(lease, Settlement::Ack);
    assert_eq!(bench.ids(), ["a2"]);
}

#[test]
fn a_close_gives_back_what_is_not_taken_in_its_order() {
    let bench = Bench::new(Order::Key, 2);
    for (tag, id, key) in [(1, "a1", "a"), (2, "a2", "a"), (3, "b1", "b"), (4, "c1", "c")] {
        bench.push(tag, id, key);
    }
    let (_, a1) = bench.take().unwrap();
    let (_, b1) = bench.take().unwrap();
    assert_eq!(bench.take(), None, "no more than max_in_flight");
    bench.window.hold(b1, LATE, None);
    bench.window.close();
    assert_eq!(bench.told(), [Told::Back(2), Told::Back(3), Told::Back(4), Told::Close]);
    assert_eq!(bench.push(5, "late", ""), Pushed::Closed);
    bench.window.settle(a1, Settlement::Retry { delay: LATE, attempts: 1 });
    assert_eq!(
        bench.told(),
        [Told::Back(1)],
        "to the place of its key, where the ledger knows how long it waits"
    );
}

#[tokio::test]
async fn a_broken_consumption_says_why_and_a_closed_one_ends_quietly() {
    let bench = Bench::new(Order::None, 1);
    bench.push(1, "m", "");
    bench.inlet.fail("cut");
    assert!(bench.take().is_none());
    assert!(bench.window.ready().await.unwrap_err().to_string().contains("cut"));
    bench.window.close();
    let again = bench.window.open(Consume { order: Order::None, max_in_flight: 1 }).unwrap();
    assert!(bench.window.open(Consume { order: Order::None, max_in_flight: 1 }).is_err(), "one at a time");
    bench.inlet.fail("late news of the one before");
    drop(again);
    bench.window.close();
    bench.window.ready().await.unwrap();
    tokio::time::timeout(LATE, bench.window.drained()).await.unwrap();
}

/// A settlement may be lost with the connection, and the host must know long after that what it had decided.
#[test]
fn what_was_in_hand_may_come_again_until_something_else_comes_or_there_is_room() {
    let mut bench = Bench::new(Order::None, 10);
    assert!(!bench.window.may_deliver_again(), "there is room for it, and it is not here");
    for end in [false, true] {
        match end {
            true => bench.window.close(),
            false => bench.inlet.fail("cut"),
        }
        assert!(bench.window.may_deliver_again(), "nothing is taken");
        bench.reconnect(Order::None);
        for tag in 0..10 {
            let _ = bench.deliver(tag, &tag.to_string(), "", true);
        }
        assert!(bench.window.may_deliver_again(), "there may be more of it, and no room");
        let _ = bench.push(10, "new", "");
        assert!(!bench.window.may_deliver_again(), "it would have come before");
    }
    let bench = Bench::noticing_within(LATE, Order::None, 10);
    let _ = bench.push(1, "new", "");
    assert!(bench.window.may_deliver_again(), "the other side may not know that the last one has ended");
}

/// It may have been decided so long ago that it is old enough to be forgotten, and wait here for hours.
#[tokio::test]
async fn what_may_have_been_decided_is_not_forgotten_while_it_is_here() {
    for (notices_within, redelivered, is_held) in [
        (LATE, false, true),
        (LATE, true, true),
        (Duration::ZERO, true, true),
        (Duration::ZERO, false, false),
    ] {
        let mut bench = Bench::noticing_within(notices_within, Order::None, 10);
        for id in ["settled", "given back"] {
            bench.store(id).await;
            assert_eq!(bench.deliver(1, id, "", redelivered), Pushed::Held);
        }
        let (_, lease) = bench.take().unwrap();
        bench.window.settle(lease, Settlement::Ack);
        assert!(bench.forget("settled"));
        assert_eq!(!bench.forget("given back"), is_held, "{notices_within:?}, {redelivered}");
        bench.reconnect(Order::None);
        assert_eq!(bench.messages.find(&message("", "").topic, "given back").unwrap().is_some(), is_held);
        assert!(!is_held || bench.forget("given back"), "it is not here any more");
    }
}
