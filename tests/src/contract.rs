//! The contract of every broker: what dispatch relies on, tested through the port alone.

use std::{collections::HashSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use brolly_core::{
    Broker, BrokerError, Code, Commit, Connection, Consume, Counts, Delivery, Name, NewMessage, Order,
    Proposal, Publication, Queue, Retention, Route, Router, Settlement, Source, Topic, defaults,
};

use crate::eventually;

const PATIENCE: Duration = Duration::from_secs(20);

/// A broker under test.
#[async_trait]
pub trait Subject: Send {
    /// The broker as it runs now.
    fn broker(&self) -> Arc<dyn Broker>;

    /// Makes a commit durable and has its consequences follow.
    async fn commit(&self, commit: Commit);

    /// Ends the broker, or the way to it, without any warning, and brings it back.
    async fn crash(&mut self);

    /// A queue of the kind that is under test.
    fn queue(&self) -> Queue {
        Queue::on(defaults::broker())
    }

    /// How `retention.max_messages` bounds a queue.
    fn bounds(&self) -> Bounds {
        Bounds::Publishes
    }
}

/// How `retention.max_messages` bounds a queue. What is refused is never dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bounds {
    /// A publish is accepted as a whole or not at all.
    Publishes,
    /// Of a publish, so many messages are accepted as there is room for.
    Messages,
    /// Not: the setting is refused.
    Nothing,
}

/// Runs the whole contract; each part gets a subject of its own.
pub async fn check<S: Subject, F: Future<Output = S>>(new: impl Fn() -> F) {
    eprintln!("a_published_message_survives_a_crash");
    a_published_message_survives_a_crash(new().await).await;
    eprintln!("what_is_not_settled_is_delivered_again");
    what_is_not_settled_is_delivered_again(new().await).await;
    eprintln!("what_is_settled_is_not");
    what_is_settled_is_not(new().await).await;
    eprintln!("a_retry_comes_back_after_its_delay");
    a_retry_comes_back_after_its_delay(new().await).await;
    eprintln!("what_is_given_back_comes_at_once");
    what_is_given_back_comes_at_once(new().await).await;
    eprintln!("a_closed_source_takes_nothing");
    a_closed_source_takes_nothing(new().await).await;
    eprintln!("routes_choose_the_queues");
    routes_choose_the_queues(new().await).await;
    eprintln!("an_id_is_accepted_once");
    an_id_is_accepted_once(new().await).await;
    eprintln!("a_full_queue_refuses_and_drops_nothing");
    a_full_queue_refuses_and_drops_nothing(new().await).await;
    eprintln!("one_key_is_handled_in_order");
    one_key_is_handled_in_order(new().await).await;
    eprintln!("no_more_than_max_in_flight");
    no_more_than_max_in_flight(new().await).await;
    eprintln!("a_queue_that_holds_messages_is_deleted_by_force_only");
    a_queue_that_holds_messages_is_deleted_by_force_only(new().await).await;
    eprintln!("a_delayed_message_waits");
    a_delayed_message_waits(new().await).await;
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn message(id: &str, key: &str) -> NewMessage {
    NewMessage {
        id: Some(id.into()),
        key: key.into(),
        payload: format!("{{\"id\":\"{id}\"}}").into_bytes().into(),
        ..NewMessage::default()
    }
}

struct Bench<S> {
    subject: S,
    queues: Vec<(Name, Arc<Queue>)>,
    routes: Vec<(Name, Arc<Route>)>,
}

impl<S: Subject> Bench<S> {
    /// One topic `t` with one queue `q`.
    async fn new(subject: S) -> Self {
        let mut bench = Self { subject, queues: Vec::new(), routes: Vec::new() };
        bench.queue("q", Retention::default());
        bench.route("q", "#", None);
        bench.configure().await;
        bench
    }

    fn queue(&mut self, queue: &str, retention: Retention) {
        let definition = Arc::new(Queue { retention, ..self.subject.queue() });
        self.queues.retain(|(name, _)| name.as_str() != queue);
        self.queues.push((name(queue), definition));
    }

    fn route(&mut self, queue: &str, pattern: &str, filter: Option<&str>) {
        let route = Route {
            topic: name("t"),
            queue: name(queue),
            key_pattern: pattern.into(),
            filter: filter.map(Into::into),
            description: String::new(),
        };
        self.routes.push((name(&format!("r{}", self.routes.len())), Arc::new(route)));
    }

    async fn configure(&self) {
        let routes = self.routes.iter().map(|(name, route)| (name, &**route));
        let router = Arc::new(Router::new(&Router::default(), routes).unwrap());
        let topic = Arc::new(Topic::on(self.subject.queue().broker, ""));
        let wanted = Publication {
            topics: vec![(name("t"), topic)],
            queues: self.queues.clone(),
            routes: self.routes.clone(),
            router,
        };
        let broker = self.subject.broker();
        broker.configure(wanted).await.unwrap();
        eventually("the broker is connected", PATIENCE, || async {
            (broker.health().state == Connection::Connected).then_some(())
        })
        .await;
    }

    async fn crash(&mut self) {
        self.subject.crash().await;
        self.configure().await;
    }

    async fn publish(&self, messages: Vec<NewMessage>) -> Result<Vec<bool>, BrokerError> {
        let accepted = self.subject.broker().publish(&name("t"), messages).await?;
        Ok(accepted.into_iter().map(|accepted| accepted.duplicate).collect())
    }

    async fn consume(&self, order: Order, max_in_flight: u32) -> Arc<dyn Source> {
        self.subject.broker().consume(&name("q"), Consume { order, max_in_flight }).await.unwrap()
    }

    async fn settle(&self, source: &Arc<dyn Source>, delivery: &Delivery, settlement: Settlement) {
        let mut commit = Commit::default();
        source.stage(delivery, settlement, &mut commit);
        let (source, lease) = (source.clone(), delivery.lease);
        commit.then(move || source.settle(lease, settlement));
        self.subject.commit(commit).await;
    }

    /// Acknowledges everything in a queue; answers with the ids.
    async fn empty(&self, queue: &str) -> Vec<String> {
        let (broker, queue) = (self.subject.broker(), name(queue));
        let consume = Consume { order: Order::None, max_in_flight: 10 };
        let source = broker.consume(&queue, consume).await.unwrap();
        let mut ids = Vec::new();
        let emptied = async {
            loop {
                while let Some(delivery) = source.take().unwrap() {
                    self.settle(&source, &delivery, Settlement::Ack).await;
                    ids.push(delivery.message.id.clone());
                }
                let counts = broker.counts(&queue).await.unwrap();
                if counts.ready == Some(0) && counts.in_flight == Some(0) {
                    return source.close();
                }
            }
        };
        tokio::time::timeout(PATIENCE, emptied).await.expect("the queue becomes empty");
        ids.sort();
        ids
    }

    /// Waits until the queue holds so many, ready or in flight.
    async fn expect_held(&self, expect: u64) {
        eventually(&format!("{expect} are held"), PATIENCE, || async {
            let counts = self.counts().await;
            (counts.ready.unwrap() + counts.in_flight.unwrap() == expect).then_some(())
        })
        .await;
    }

    async fn counts(&self) -> Counts {
        self.subject.broker().counts(&name("q")).await.unwrap()
    }

    /// Waits until the queue counts so: ready, in flight, delayed.
    async fn expect_counts(&self, ready: u64, in_flight: u64, delayed: u64) {
        let expect = (Some(ready), Some(in_flight), Some(delayed));
        eventually(&format!("the counts are {expect:?}"), PATIENCE, || async {
            let counts = self.counts().await;
            let found = (counts.ready, counts.in_flight, counts.delayed);
            if found != expect {
                eprintln!("the counts are {found:?}");
            }
            (found == expect).then_some(())
        })
        .await;
    }
}

async fn take(source: &Arc<dyn Source>) -> Delivery {
    tokio::time::timeout(PATIENCE, async {
        loop {
            source.ready().await.unwrap();
            if let Some(delivery) = source.take().unwrap() {
                return delivery;
            }
        }
    })
    .await
    .expect("a delivery comes")
}

const RETRY: Duration = Duration::from_millis(1_500);

async fn a_published_message_survives_a_crash<S: Subject>(subject: S) {
    let mut bench = Bench::new(subject).await;
    let mut sent = message("m", "k");
    sent.headers.insert("h".into(), "v".into());
    sent.content_type = "application/json".into();
    bench.publish(vec![sent.clone()]).await.unwrap();
    bench.crash().await;
    let source = bench.consume(Order::None, 10).await;
    let got = take(&source).await.message;
    assert_eq!((got.id.as_str(), got.key.as_str(), got.topic.as_str()), ("m", "k", "t"));
    assert_eq!(
        (&got.headers, &got.content_type, &got.payload),
        (&sent.headers, &sent.content_type, &sent.payload)
    );
    assert!(got.published_at.0 > 0);
}

async fn what_is_not_settled_is_delivered_again<S: Subject>(subject: S) {
    let mut bench = Bench::new(subject).await;
    bench.publish(vec![message("m", "")]).await.unwrap();
    let source = bench.consume(Order::None, 10).await;
    take(&source).await;
    bench.expect_counts(0, 1, 0).await;
    drop(source);
    bench.crash().await;
    let source = bench.consume(Order::None, 10).await;
    assert_eq!(take(&source).await.message.id, "m");
}

async fn what_is_settled_is_not<S: Subject>(subject: S) {
    let mut bench = Bench::new(subject).await;
    bench.publish(vec![message("a", ""), message("b", "")]).await.unwrap();
    let source = bench.consume(Order::None, 10).await;
    let first = take(&source).await;
    bench.settle(&source, &first, Settlement::Ack).await;
    bench.expect_held(1).await;
    drop(source);
    bench.crash().await;
    bench.expect_counts(1, 0, 0).await;
    let source = bench.consume(Order::None, 10).await;
    assert_ne!(take(&source).await.message.id, first.message.id);
    bench.expect_held(1).await;
}

async fn a_retry_comes_back_after_its_delay<S: Subject>(subject: S) {
    let mut bench = Bench::new(subject).await;
    bench.publish(vec![message("m", "")]).await.unwrap();
    let source = bench.consume(Order::None, 10).await;
    let delivery = take(&source).await;
    let began = tokio::time::Instant::now();
    bench.settle(&source, &delivery, Settlement::Retry { delay: RETRY, attempts: 1 }).await;
    bench.expect_counts(0, 0, 1).await;
    let again = take(&source).await;
    assert!(began.elapsed() >= RETRY, "after {:?}", began.elapsed());
    // The delay outlives a crash.
    let began = tokio::time::Instant::now();
    bench.settle(&source, &again, Settlement::Retry { delay: RETRY, attempts: 1 }).await;
    // Before that the ledger alone knows of it, and holds it back.
    bench.expect_counts(0, 0, 1).await;
    drop(source);
    bench.crash().await;
    let source = bench.consume(Order::None, 10).await;
    assert_eq!(take(&source).await.message.id, "m");
    assert!(began.elapsed() >= RETRY, "after {:?}", began.elapsed());
}

async fn what_is_given_back_comes_at_once<S: Subject>(subject: S) {
    let bench = Bench::new(subject).await;
    bench.publish(vec![message("m", "")]).await.unwrap();
    let source = bench.consume(Order::None, 10).await;
    let delivery = take(&source).await;
    source.give_back(delivery.lease, Duration::ZERO);
    bench.expect_held(1).await;
    assert_eq!(take(&source).await.message.id, "m");
}

async fn a_closed_source_takes_nothing<S: Subject>(subject: S) {
    let bench = Bench::new(subject).await;
    bench.publish(vec![message("a", ""), message("b", "")]).await.unwrap();
    let source = bench.consume(Order::None, 10).await;
    let held = take(&source).await;
    let second =
        bench.subject.broker().consume(&name("q"), Consume { order: Order::None, max_in_flight: 1 }).await;
    assert!(second.is_err(), "one source at a time");
    source.close();
    assert!(source.take().unwrap().is_none());
    source.ready().await.unwrap();
    bench.settle(&source, &held, Settlement::Ack).await;
    bench.expect_counts(1, 0, 0).await;
    let source = bench.consume(Order::None, 10).await;
    assert_ne!(take(&source).await.message.id, held.message.id);
}

async fn routes_choose_the_queues<S: Subject>(subject: S) {
    let mut bench = Bench::new(subject).await;
    bench.queue("eu", Retention::default());
    bench.queue("large", Retention::default());
    bench.route("eu", "eu.*", None);
    bench.route("large", "#", Some("size(payload.id) > 3"));
    bench.configure().await;
    bench.publish(vec![message("a", "eu.de"), message("long-id", "us")]).await.unwrap();
    for (queue, expect) in [("q", &["a", "long-id"][..]), ("eu", &["a"]), ("large", &["long-id"])] {
        assert_eq!(bench.empty(queue).await, expect, "{queue}");
    }
}

async fn an_id_is_accepted_once<S: Subject>(subject: S) {
    let mut bench = Bench::new(subject).await;
    let twice = bench.publish(vec![message("m", ""), message("m", "")]).await.unwrap();
    assert_eq!(twice, [false, true]);
    bench.crash().await;
    assert_eq!(bench.publish(vec![message("m", "")]).await.unwrap(), [true]);
    bench.expect_counts(1, 0, 0).await;
    let source = bench.consume(Order::None, 10).await;
    let delivery = take(&source).await;
    bench.settle(&source, &delivery, Settlement::Ack).await;
    assert_eq!(bench.publish(vec![message("m", "")]).await.unwrap(), [true], "also after it was handled");
    bench.expect_counts(0, 0, 0).await;
}

async fn a_full_queue_refuses_and_drops_nothing<S: Subject>(subject: S) {
    let mut bench = Bench::new(subject).await;
    bench.queue("q", Retention { max_messages: 2, ..Retention::default() });
    let bounds = bench.subject.bounds();
    if bounds == Bounds::Nothing {
        let proposal = Proposal::Queue(&bench.queues[0].1);
        match bench.subject.broker().admit(&name("q"), proposal).await {
            Err(BrokerError::Refused(refusal)) => assert_eq!(refusal.code, Code::Unsupported),
            other => panic!("not refused: {other:?}"),
        }
        return;
    }
    bench.configure().await;
    let code = |result: Result<Vec<bool>, BrokerError>| match result {
        Err(BrokerError::Refused(refusal)) => refusal.code,
        other => panic!("not refused: {other:?}"),
    };
    assert_eq!(
        code(bench.publish(vec![message("a", ""), message("b", ""), message("c", "")]).await),
        Code::QueueFull
    );
    bench.expect_counts(if bounds == Bounds::Publishes { 0 } else { 2 }, 0, 0).await;
    bench.publish(vec![message("a", ""), message("b", "")]).await.unwrap();
    bench.expect_counts(2, 0, 0).await;
    assert_eq!(code(bench.publish(vec![message("c", "")]).await), Code::QueueFull);
    let source = bench.consume(Order::None, 10).await;
    let delivery = take(&source).await;
    assert_eq!(
        code(bench.publish(vec![message("c", "")]).await),
        Code::QueueFull,
        "what is in flight counts"
    );
    bench.settle(&source, &delivery, Settlement::Ack).await;
    bench.expect_held(1).await;
    bench.publish(vec![message("c", "")]).await.unwrap();
    bench.expect_held(2).await;
}

async fn one_key_is_handled_in_order<S: Subject>(subject: S) {
    let mut bench = Bench::new(subject).await;
    let sent = [("a1", "a"), ("a2", "a"), ("b1", "b"), ("n1", ""), ("a3", "a"), ("n2", "")];
    bench.publish(sent.iter().map(|(id, key)| message(id, key)).collect()).await.unwrap();
    let source = bench.consume(Order::Key, 10).await;
    let first: Vec<Delivery> =
        vec![take(&source).await, take(&source).await, take(&source).await, take(&source).await];
    let ids: HashSet<&str> = first.iter().map(|delivery| delivery.message.id.as_str()).collect();
    assert_eq!(ids, HashSet::from(["a1", "b1", "n1", "n2"]), "one of each key, and all without a key");
    assert!(source.take().unwrap().is_none());
    let a1 = first.iter().find(|delivery| delivery.message.id == "a1").unwrap();
    bench.settle(&source, a1, Settlement::Retry { delay: RETRY, attempts: 1 }).await;
    assert!(source.take().unwrap().is_none(), "a retry holds its key");
    // Also across a crash.
    drop(source);
    bench.crash().await;
    let source = bench.consume(Order::Key, 10).await;
    let mut a = Vec::new();
    while a.len() < 3 {
        let delivery = take(&source).await;
        if delivery.message.key == "a" {
            a.push(delivery.message.id.clone());
        }
        bench.settle(&source, &delivery, Settlement::Ack).await;
    }
    assert_eq!(a, ["a1", "a2", "a3"]);
}

async fn no_more_than_max_in_flight<S: Subject>(subject: S) {
    let bench = Bench::new(subject).await;
    bench.publish((0..5).map(|i| message(&i.to_string(), "")).collect()).await.unwrap();
    let source = bench.consume(Order::None, 2).await;
    let first = take(&source).await;
    take(&source).await;
    assert!(source.take().unwrap().is_none());
    bench.expect_counts(3, 2, 0).await;
    bench.settle(&source, &first, Settlement::Ack).await;
    take(&source).await;
    assert!(source.take().unwrap().is_none());
}

async fn a_queue_that_holds_messages_is_deleted_by_force_only<S: Subject>(subject: S) {
    let bench = Bench::new(subject).await;
    bench.publish(vec![message("m", "")]).await.unwrap();
    let broker = bench.subject.broker();
    match broker.delete_queue(&name("q"), false).await {
        Err(BrokerError::Refused(refusal)) => assert_eq!(refusal.code, Code::NotEmpty),
        other => panic!("not refused: {other:?}"),
    }
    bench.expect_counts(1, 0, 0).await;
    broker.delete_queue(&name("q"), true).await.unwrap();
    // Some brokers know no difference between a queue that is gone and one that is empty.
    let left = broker.counts(&name("q")).await.map_or(Some(0), |counts| counts.ready);
    assert_eq!(left, Some(0));
}

async fn a_delayed_message_waits<S: Subject>(subject: S) {
    let bench = Bench::new(subject).await;
    let delay = u64::try_from(RETRY.as_millis()).unwrap();
    let began = tokio::time::Instant::now();
    bench
        .publish(vec![NewMessage { delay_ms: Some(delay), ..message("late", "k") }, message("now", "k")])
        .await
        .unwrap();
    bench.expect_counts(1, 0, 1).await;
    let source = bench.consume(Order::Key, 10).await;
    let now = take(&source).await;
    assert_eq!(now.message.id, "now", "what was never taken holds no key");
    bench.settle(&source, &now, Settlement::Ack).await;
    assert_eq!(take(&source).await.message.id, "late");
    assert!(began.elapsed() >= RETRY, "after {:?}", began.elapsed());
}
