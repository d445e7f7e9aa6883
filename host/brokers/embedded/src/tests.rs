//! What the contract of all brokers does not cover: handlers' publishes, and commits that are given up.

use std::{collections::BTreeMap, sync::Arc};

use brolly_core::{
    Broker, BrokerError, Code, Commit, Consume, Message, Moved, Name, NewMessage, Order, Origin, Outgoing,
    Publication, Queue, Retention, Route, Router, SystemClock, Timestamp, defaults,
};
use brolly_store::{Messages, Store};

use crate::{Config, Embedded};

struct Bench {
    _dir: tempfile::TempDir,
    store: Store,
    messages: Messages,
    broker: Embedded,
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

async fn open(max_messages: u64) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&brolly_store::Config::new(dir.path().join("store"))).unwrap();
    let messages = Messages::open(&store).unwrap();
    let broker =
        Embedded::open(store.clone(), messages.clone(), Arc::new(SystemClock), Config::default()).unwrap();
    let bench = Bench { _dir: dir, store, messages, broker };
    bench.lead_to("q", max_messages).await;
    bench
}

fn outgoing(id: &str) -> Outgoing {
    Outgoing { topic: name("t"), message: NewMessage { id: Some(id.into()), ..NewMessage::default() } }
}

impl Bench {
    fn stage(&self, outgoing: &[Outgoing], commit: &mut Commit) -> Result<Vec<bool>, Code> {
        let origin = Origin { record: 7, subscription: name("s") };
        match self.broker.stage_publish(outgoing, &origin, commit) {
            Ok(accepted) => Ok(accepted.into_iter().map(|accepted| accepted.duplicate).collect()),
            Err(BrokerError::Refused(refusal)) => Err(refusal.code),
            Err(error) => panic!("{error}"),
        }
    }

    /// Has the topic lead to this queue, and to no other.
    async fn lead_to(&self, queue: &str, max_messages: u64) {
        let route = Route {
            topic: name("t"),
            queue: name(queue),
            key_pattern: "#".into(),
            filter: None,
            description: String::new(),
        };
        let retention = Retention { max_messages, ..Retention::default() };
        let definition = Arc::new(Queue { retention, ..Queue::on(defaults::broker()) });
        let router = Arc::new(Router::new(&Router::default(), [(&name("r"), &route)]).unwrap());
        let queues = ["q", queue].map(|queue| (name(queue), definition.clone()));
        let wanted = Publication {
            queues: BTreeMap::from(queues).into_iter().collect(),
            router,
            ..Publication::default()
        };
        self.broker.configure(wanted).await.unwrap();
    }

    async fn ready(&self) -> u64 {
        self.broker.counts(&name("q")).await.unwrap().ready.unwrap()
    }
}

#[tokio::test]
async fn a_handlers_message_appears_with_the_commit_and_knows_its_parent() {
    let bench = open(10).await;
    let mut commit = Commit::default();
    assert_eq!(bench.stage(&[outgoing("a"), outgoing("b")], &mut commit), Ok(vec![false, false]));
    assert_eq!(bench.ready().await, 0);
    bench.store.commit(commit).await.unwrap();
    assert_eq!(bench.ready().await, 2);
    let seq = bench.messages.find(&name("t"), "a").unwrap().unwrap();
    let parent = bench.messages.load(seq).unwrap().unwrap().parent.unwrap();
    assert_eq!((parent.seq, parent.subscription), (7, name("s")));
    let mut again = Commit::default();
    assert_eq!(bench.stage(&[outgoing("a")], &mut again), Ok(vec![true]));
    assert!(again.writes().is_empty());
}

#[tokio::test]
async fn a_commit_that_is_given_up_leaves_nothing_behind() {
    let bench = open(2).await;
    let mut commit = Commit::default();
    bench.stage(&[outgoing("a"), outgoing("b")], &mut commit).unwrap();
    assert_eq!(
        bench.stage(&[outgoing("a")], &mut Commit::default()),
        Err(Code::Unavailable),
        "its id is on the way"
    );
    assert_eq!(bench.stage(&[outgoing("c")], &mut Commit::default()), Err(Code::QueueFull), "so is its room");
    drop(commit);
    let mut commit = Commit::default();
    assert_eq!(bench.stage(&[outgoing("a"), outgoing("c")], &mut commit), Ok(vec![false, false]));
    bench.store.commit(commit).await.unwrap();
    assert_eq!(bench.ready().await, 2);
}

/// A handler's commit may yet be given up: then nobody has published the id.
#[tokio::test]
async fn a_producer_of_the_same_id_waits_for_the_commit_of_the_handler() {
    for given_up in [false, true] {
        let bench = open(10).await;
        let mut commit = Commit::default();
        bench.stage(&[outgoing("a")], &mut commit).unwrap();
        let (broker, topic) = (bench.broker.clone(), name("t"));
        let message = NewMessage { id: Some("a".into()), ..NewMessage::default() };
        let mut publish = tokio::spawn(async move { broker.publish(&topic, vec![message]).await });
        // Everything that the producer has handed over is durable after this, and what follows it is done.
        let other = NewMessage { id: Some("other".into()), ..NewMessage::default() };
        while !publish.is_finished() && bench.messages.find(&name("t"), "other").unwrap().is_none() {
            bench.broker.publish(&name("t"), vec![other.clone()]).await.unwrap();
            tokio::task::yield_now().await;
        }
        let early = tokio::time::timeout(std::time::Duration::from_millis(50), &mut publish).await;
        assert!(early.is_err(), "it was answered before anything was durable: {early:?}");
        match given_up {
            true => drop(commit),
            false => bench.store.commit(commit).await.unwrap(),
        }
        let answer = publish.await.unwrap();
        assert_eq!(answer.is_err(), given_up, "{answer:?}");
        assert_eq!(bench.messages.find(&name("t"), "a").unwrap().is_none(), given_up);
    }
}

#[tokio::test]
async fn room_is_taken_in_all_queues_or_in_none() {
    let bench = open(1).await;
    let mut commit = Commit::default();
    assert_eq!(bench.stage(&[outgoing("a"), outgoing("b")], &mut commit), Err(Code::QueueFull));
    assert!(commit.writes().is_empty());
    assert_eq!(bench.stage(&[outgoing("a")], &mut commit), Ok(vec![false]));
}

/// A publisher that goes away before the answer has published all the same.
#[tokio::test]
async fn a_publisher_that_gives_up_waiting_does_not_strand_its_message() {
    let bench = open(10).await;
    let source =
        bench.broker.consume(&name("q"), Consume { order: Order::None, max_in_flight: 1 }).await.unwrap();
    let topic = name("t");
    let publish = bench.broker.publish(&topic, vec![NewMessage::default()]);
    // One poll hands the message over; then the future is dropped.
    tokio::select! {
        biased;
        _ = publish => {}
        () = std::future::ready(()) => {}
    }
    tokio::time::timeout(std::time::Duration::from_secs(10), source.ready()).await.unwrap().unwrap();
    assert!(source.take().unwrap().is_some());
}

/// As between the opening of the store and the first look at the definitions.
#[tokio::test]
async fn nothing_is_accepted_before_the_routes_are_known() {
    let bench = open(10).await;
    let broker =
        Embedded::open(bench.store.clone(), bench.messages.clone(), Arc::new(SystemClock), Config::default())
            .unwrap();
    let message = NewMessage { id: Some("early".into()), ..NewMessage::default() };
    match broker.publish(&name("t"), vec![message]).await {
        Err(BrokerError::Refused(refusal)) => assert_eq!(refusal.code, Code::Unavailable),
        other => panic!("{other:?}"),
    }
    let origin = Origin { record: 7, subscription: name("s") };
    assert!(broker.stage_publish(&[outgoing("early")], &origin, &mut Commit::default()).is_err());
    assert!(bench.messages.find(&name("t"), "early").unwrap().is_none());
}

#[tokio::test]
async fn what_is_moved_back_is_known_to_wait_where_its_routes_lead_now() {
    let bench = open(10).await;
    let message = Message {
        id: "m".into(),
        topic: name("elsewhere"),
        key: String::new(),
        content_type: String::new(),
        headers: BTreeMap::new(),
        published_at: Timestamp(1),
        expires_at: None,
        payload: Vec::new().into(),
    };
    let (topic, mark) = (name("t"), "s");
    let moved = Moved { topic: &topic, message: &message, mark };
    bench.broker.forward(moved).await.unwrap();
    bench.lead_to("other", 10).await;
    bench.broker.forward(moved).await.unwrap();
    let seq = bench.messages.find(&topic, "m").unwrap().unwrap();
    let stored = bench.messages.load(seq).unwrap().unwrap();
    // Otherwise it would be forgotten once it is old and handled in the first one.
    assert_eq!(stored.routed, [name("q"), name("other")]);
    assert!(stored.met_at > stored.message.published_at, "whatever its producer says");
    assert_eq!(bench.broker.counts(&name("other")).await.unwrap().ready, Some(1));
}
