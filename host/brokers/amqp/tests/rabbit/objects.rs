//! Exchanges, queues and bindings: ours and those of others.

use std::{sync::Arc, time::Duration};

use brolly_core::{Broker, BrokerError, Code, Name, Order, Proposal, Queue, Route, Thing, Topic};
use lapin::{
    BasicProperties, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};

use crate::{
    bench::{Bench, Foreign, drain, eventually, message, name, next, server, shows, unique},
    proxy::Proxy,
};

async fn admit(bench: &Bench, name: &Name, proposal: Proposal<'_>) -> Option<(Code, String)> {
    match bench.broker.admit(name, proposal).await {
        Ok(()) => None,
        Err(BrokerError::Refused(refusal)) => Some((refusal.code, refusal.detail)),
        Err(error) => panic!("{error}"),
    }
}

type Change = fn(&mut Queue);

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_kept_is_refused() {
    let Some(url) = server("admission").await else { return };
    let bench = Bench::simple(&url).await;
    let code = |refused: Option<(Code, String)>| refused.map(|(code, _)| code);
    let queue = |change: Change| {
        let mut queue = Queue { address: Some(unique("a")), ..Queue::on(name("rabbit")) };
        change(&mut queue);
        queue
    };
    let cases: [(Change, Option<Code>); 7] = [
        (|_| {}, None),
        (|queue| queue.kind = Some("classic".into()), None),
        (|queue| queue.kind = Some("stream".into()), Some(Code::Unsupported)),
        (|queue| queue.retention.max_messages = 10, Some(Code::Unsupported)),
        (|queue| queue.address = Some("amq.mine".into()), Some(Code::InvalidDefinition)),
        (|queue| queue.address = Some("x".repeat(255)), Some(Code::InvalidDefinition)),
        (|queue| queue.adopt = true, Some(Code::UnknownReference)),
    ];
    for (change, expect) in cases {
        let queue = queue(change);
        assert_eq!(code(admit(&bench, &name("n"), Proposal::Queue(&queue)).await), expect, "{queue:?}");
        bench
            .foreign()
            .await
            .channel
            .queue_delete(queue.address.as_deref().unwrap().into(), Default::default())
            .await
            .ok();
    }
    let topic = Topic { address: Some("amq.topic".into()), adopt: true, ..Topic::on(name("rabbit"), "") };
    assert_eq!(code(admit(&bench, &name("n"), Proposal::Topic(&topic)).await), None);
    let topic = Topic { adopt: false, ..topic };
    assert_eq!(code(admit(&bench, &name("n"), Proposal::Topic(&topic)).await), Some(Code::InvalidDefinition));
    let route = Route {
        topic: name("t"),
        queue: name("q"),
        key_pattern: "#".into(),
        filter: None,
        description: String::new(),
    };
    let adopted = queue(|queue| queue.adopt = true);
    assert_eq!(
        code(admit(&bench, &name("r"), Proposal::Route(&route, &adopted)).await),
        Some(Code::Unsupported)
    );
    assert_eq!(code(admit(&bench, &name("r"), Proposal::Route(&route, &queue(|_| {}))).await), None);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_with_other_arguments_is_a_trouble_of_its_own() {
    let Some(url) = server("other arguments").await else { return };
    let mut bench = Bench::simple(&url).await;
    let foreign = bench.foreign().await;
    foreign.declare(&bench.address("other"), FieldTable::default()).await;
    bench.queue("other", |_| {});
    bench.queue("fine", |_| {});
    bench.configure().await;
    let trouble = bench.broker.trouble(Thing::Queue(&name("other"))).unwrap();
    assert!(trouble.contains("other arguments") && trouble.contains("adopt"), "{trouble}");
    assert_eq!(bench.broker.trouble(Thing::Queue(&name("fine"))), None);
    bench.consume("fine").await;
    let refused = admit(&bench, &name("other"), Proposal::Queue(&bench.queues[1].1)).await;
    assert_eq!(refused.unwrap().0, Code::InvalidDefinition);
    // Once it is out of the way, the trouble is over without anybody doing anything here.
    foreign.channel.queue_delete(bench.address("other").as_str().into(), Default::default()).await.unwrap();
    eventually("the trouble is over", || async {
        bench.broker.trouble(Thing::Queue(&name("other"))).is_none().then_some(())
    })
    .await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_adopted_is_used_and_never_touched() {
    let Some(url) = server("adopt").await else { return };
    let mut bench = Bench::simple(&url).await;
    let foreign = bench.foreign().await;
    let (exchange, queue) = (bench.address("theirs"), bench.address("their-queue"));
    let fanout = ExchangeDeclareOptions { durable: false, ..ExchangeDeclareOptions::default() };
    foreign
        .channel
        .exchange_declare(exchange.as_str().into(), ExchangeKind::Fanout, fanout, FieldTable::default())
        .await
        .unwrap();
    let limit = FieldTable::from(std::collections::BTreeMap::from([(
        "x-max-length".into(),
        AMQPValue::LongInt(100),
    )]));
    foreign.declare(&queue, limit.clone()).await;
    foreign
        .channel
        .queue_bind(
            queue.as_str().into(),
            exchange.as_str().into(),
            "".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
        .unwrap();
    bench.topic("theirs");
    let (_, topic) = bench.topics.last_mut().unwrap();
    Arc::get_mut(topic).unwrap().adopt = true;
    bench.queue("their-queue", |queue| queue.adopt = true);
    bench.route("ours", "theirs", "q", |_| {});
    bench.configure().await;
    for thing in [Thing::Topic(&name("theirs")), Thing::Queue(&name("their-queue"))] {
        assert_eq!(bench.broker.trouble(thing), None);
    }
    let (ours, theirs) = (bench.consume("q").await, bench.consume("their-queue").await);
    bench.broker.publish(&name("theirs"), vec![message("m")]).await.unwrap();
    assert_eq!(drain(&ours, 1).await, ["m"]);
    // A retry goes round and comes back to the queue of the others.
    let delivery = next(&theirs).await;
    let retry = brolly_core::Settlement::Retry { delay: std::time::Duration::from_millis(100), attempts: 1 };
    theirs.settle(delivery.lease, retry);
    let delivery = next(&theirs).await;
    assert_eq!((delivery.attempts, delivery.message.topic.as_str()), (1, "theirs"));
    theirs.settle(delivery.lease, brolly_core::Settlement::Ack);
    bench.until_counts("their-queue", (0, 0, 0)).await;
    bench.broker.delete_queue(&name("their-queue"), true).await.unwrap();
    // Declared as it was, it is as it was.
    foreign.declare(&queue, limit).await;
    assert!(!foreign.exists(&format!("{queue}.dead")).await);
    foreign
        .channel
        .queue_delete(format!("{queue}.wait.64").as_str().into(), Default::default())
        .await
        .unwrap();
    foreign.channel.queue_delete(queue.as_str().into(), Default::default()).await.unwrap();
    foreign.channel.exchange_delete(exchange.as_str().into(), Default::default()).await.unwrap();
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_is_gone_brings_nothing_and_the_bindings_of_others_stay() {
    let Some(url) = server("unbind").await else { return };
    let mut bench = Bench::simple(&url).await;
    let foreign = bench.foreign().await;
    let (exchange, queue) = (bench.address("t"), bench.address("q"));
    let bound = foreign.channel.queue_bind(
        queue.as_str().into(),
        exchange.as_str().into(),
        "theirs".into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    bound.await.unwrap();
    bench.routes.clear();
    bench.configure().await;
    foreign.publish(&exchange, "k", BasicProperties::default().with_message_id("gone".into()), b"").await;
    foreign
        .publish(&exchange, "theirs", BasicProperties::default().with_message_id("stays".into()), b"")
        .await;
    let source = bench.consume("q").await;
    assert_eq!(drain(&source, 1).await, ["stays"]);
    bench.until_counts("q", (0, 0, 0)).await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_holds_messages_is_deleted_by_force_only() {
    let Some(url) = server("deletion").await else { return };
    let bench = Bench::simple(&url).await;
    bench.publish(&["a", "b"]).await;
    let source = bench.consume("q").await;
    let delivery = next(&source).await;
    let retry = brolly_core::Settlement::Retry { delay: std::time::Duration::from_secs(3_600), attempts: 1 };
    source.settle(delivery.lease, retry);
    let held = next(&source).await;
    bench.until_counts("q", (0, 1, 1)).await;
    let refused = bench.broker.delete_queue(&name("q"), false).await;
    assert!(matches!(refused, Err(BrokerError::Refused(refusal)) if refusal.code == Code::NotEmpty));
    source.settle(held.lease, brolly_core::Settlement::Ack);
    source.close();
    bench.broker.delete_queue(&name("q"), true).await.unwrap();
    let (foreign, address) = (bench.foreign().await, bench.address("q"));
    for queue in [address.clone(), format!("{address}.dead"), format!("{address}.wait.2097152")] {
        assert!(!foreign.exists(&queue).await, "{queue}");
    }
    // Wanted again, it is made again.
    bench.configure().await;
    assert_eq!(bench.counts("q").await, (0, 0, 0));
    bench.broker.delete_queue(&name("q"), false).await.unwrap();
    assert!(!foreign.exists(&address).await);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_whose_messages_move_is_never_counted_as_empty() {
    const MESSAGES: u64 = 300;
    let Some(url) = server("counts").await else { return };
    let bench = Bench::simple(&url).await;
    let ids: Vec<String> = (0..MESSAGES).map(|number| number.to_string()).collect();
    bench.publish(&ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let moving = async {
        for _ in 0..40 {
            let source = bench.consume_with("q", 1_000, Order::None).await;
            for _ in 0..3 {
                let delay = Duration::from_millis(70);
                let retry = brolly_core::Settlement::Retry { delay, attempts: 1 };
                source.settle(next(&source).await.lease, retry);
            }
            source.close();
        }
    };
    let counting = async {
        loop {
            let (ready, in_flight, delayed) = bench.counts("q").await;
            assert!(ready + in_flight + delayed > 0);
        }
    };
    tokio::select! {
        () = moving => {}
        () = counting => {}
    }
    // A retry whose original was handed out again has two copies; the ledger knows them for one.
    eventually("all lie in the queue", || async {
        let (ready, in_flight, delayed) = bench.counts("q").await;
        println!("{ready} ready, {in_flight} in flight, {delayed} delayed");
        (ready >= MESSAGES && in_flight + delayed == 0).then_some(())
    })
    .await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_its_way_while_a_consumption_begins_is_counted() {
    let Some(url) = server("on its way").await else { return };
    let proxy = Proxy::to(&url).await;
    let bench = Bench::simple(&proxy.url).await;
    let foreign = Foreign::connect(&url).await;
    let ids: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    bench.publish(&ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
    proxy.hold_consumptions(true);
    let consuming = bench.consume("q");
    let counting = async {
        let address = bench.address("q");
        eventually("all are handed out", || async { (foreign.count(&address).await == 0).then_some(()) })
            .await;
        let (counts, ()) = tokio::join!(bench.counts("q"), async {
            // Whoever does not wait for what travels has counted by then.
            tokio::time::sleep(Duration::from_millis(500)).await;
            proxy.hold_consumptions(false);
        });
        counts
    };
    let (source, counts) = tokio::join!(consuming, counting);
    assert_eq!(counts, (0, 20, 0));
    assert_eq!(drain(&source, 20).await.len(), 20);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_have_in_hand_is_not_taken_for_nothing() {
    let Some(url) = server("others").await else { return };
    let bench = Bench::simple(&url).await;
    let elsewhere = async || bench.broker.counts(&name("q")).await.unwrap().elsewhere;
    let source = bench.consume("q").await;
    eventually("only this host consumes", || async { (!elsewhere().await).then_some(()) }).await;
    let foreign = bench.foreign().await;
    let (options, arguments) = Default::default();
    let consumer =
        foreign.channel.basic_consume(bench.address("q").as_str().into(), "".into(), options, arguments);
    let consumer = consumer.await.unwrap();
    assert!(elsewhere().await);
    // From now on the other one has all.
    source.close();
    bench.publish(&["a", "b"]).await;
    bench.until_counts("q", (0, 0, 0)).await;
    assert!(elsewhere().await);
    let refused = bench.broker.delete_queue(&name("q"), false).await;
    shows(&refused, "others take from the queue q");
    foreign.connection.close(200, "OK".into()).await.unwrap();
    drop(consumer);
    eventually("the other one is gone, with nothing in hand", || async {
        let counts = bench.broker.counts(&name("q")).await.unwrap();
        assert!(counts.elsewhere || counts.ready == Some(2));
        (!counts.elsewhere).then_some(())
    })
    .await;
    bench.broker.delete_queue(&name("q"), true).await.unwrap();
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_somebody_deletes_is_made_again() {
    let Some(url) = server("deleted by others").await else { return };
    let bench = Bench::simple(&url).await;
    let source = bench.consume("q").await;
    let foreign = bench.foreign().await;
    foreign.channel.queue_delete(bench.address("q").as_str().into(), Default::default()).await.unwrap();
    let why = crate::bench::failure(&source).await;
    assert!(why.contains("deleted"), "{why}");
    source.close();
    eventually("it is there again", || async { foreign.exists(&bench.address("q")).await.then_some(()) })
        .await;
    // RabbitMQ itself may be in the midst of it, and says so with an internal error.
    let (queue, order) = (name("q"), brolly_core::Order::None);
    let consume = brolly_core::Consume { order, max_in_flight: 10 };
    let source =
        eventually("it is consumed again", || async { bench.broker.consume(&queue, consume).await.ok() })
            .await;
    eventually("it is bound again", || async {
        bench.broker.publish(&name("t"), vec![message("m")]).await.ok()
    })
    .await;
    assert_eq!(drain(&source, 1).await, ["m"]);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_found_to_be_gone_when_it_is_bound_is_made_again() {
    let Some(url) = server("gone when it is bound").await else { return };
    let mut bench = Bench::simple(&url).await;
    let foreign = bench.foreign().await;
    // Nobody consumes, so nobody is told.
    foreign.channel.queue_delete(bench.address("q").as_str().into(), Default::default()).await.unwrap();
    bench.route("another", "t", "q", |route| route.key_pattern = "a.#".into());
    bench.configure().await;
    eventually("it is there again", || async { foreign.exists(&bench.address("q")).await.then_some(()) })
        .await;
    eventually("it is bound again", || async {
        bench.broker.publish(&name("t"), vec![message("m")]).await.ok()
    })
    .await;
    bench.until_counts("q", (1, 0, 0)).await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wait_queues_of_an_earlier_process_are_counted() {
    let Some(url) = server("wait queues").await else { return };
    let bench = Bench::simple(&url).await;
    let foreign = bench.foreign().await;
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let wait = format!("{}.wait.4096", bench.address("q"));
    foreign.channel.queue_declare(wait.as_str().into(), options, FieldTable::default()).await.unwrap();
    foreign.publish("", &wait, BasicProperties::default(), b"").await;
    bench.until_counts("q", (0, 0, 1)).await;
    bench.end().await;
    assert!(!foreign.exists(&wait).await);
}
