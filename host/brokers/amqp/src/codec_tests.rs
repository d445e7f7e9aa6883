//! Encoding and decoding together: nothing of a message is lost on the way.

use std::collections::{BTreeMap, HashMap};

use brolly_core::{Message, Name, Timestamp, message_limits as limits};
use brolly_remote::Received;
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};
use proptest::prelude::*;

use crate::{
    decode::{Arrival, Place, received},
    encode::{Copy, properties, size},
};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// What arrives at the queue `q` of the topic `t`, whose exchange is `ex`.
fn receive(exchange: &str, key: &str, properties: BasicProperties, body: &[u8]) -> Received {
    let topics = HashMap::from([("ex".to_owned(), name("t"))]);
    let place = Place { queue: &name("q"), topics: &topics, now: Timestamp(77), dead_of: None };
    received(1, arrival(exchange, key, properties, body), place)
}

fn arrival(exchange: &str, key: &str, properties: BasicProperties, body: &[u8]) -> Arrival {
    Arrival {
        exchange: exchange.into(),
        routing_key: key.into(),
        redelivered: false,
        properties,
        body: body.to_vec().into(),
    }
}

fn table(entries: impl IntoIterator<Item = (&'static str, AMQPValue)>) -> FieldTable {
    let entries = entries.into_iter().map(|(key, value)| (ShortString::from(key), value));
    entries.collect::<BTreeMap<_, _>>().into()
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

fn header_name() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-zA-Z.:_-]{1,20}",
        2 => prop::sample::select(vec![
            "amqp-correlation-id", "amqp-reply-to", "amqp-type", "amqp-app-id", "amqp-user-id", "amqp-priority",
            "amqp-expiration", "amqp-content-encoding", "CC", "BCC", "x-death", "x-first-death-queue",
            "x-delivery-count", "x-brolly-topic", "x-brolly-headers", "x-brolly-id", "message-id", "cloudEvents:id",
        ])
        .prop_map(str::to_owned),
        1 => "[ -~äöü]{1,300}",
    ]
}

fn header_value() -> impl Strategy<Value = String> {
    prop_oneof![3 => "[ -~äöü]{0,30}", 1 => "[0-9]{1,3}", 1 => "[a-z]{250,300}", 1 => Just("amq.rabbitmq.reply-to".to_owned())]
}

prop_compose! {
    fn message()(
        id in prop_oneof!["[!-~]{1,256}", "[ä-ü]{1,100}"],
        key in "[a-z.]{0,40}",
        content_type in prop_oneof![Just(String::new()), Just("application/json".to_owned()), Just("x".repeat(255))],
        headers in prop::collection::btree_map(header_name(), header_value(), 0..20),
        published_at in 0_u64..4_000_000_000_000,
        expires_at in prop::option::of(0_u64..4_000_000_000_000),
        payload in prop::collection::vec(any::<u8>(), 0..50),
    ) -> Message {
        Message {
            id, topic: name("t"), key, content_type, headers,
            published_at: Timestamp(published_at), expires_at: expires_at.map(Timestamp), payload: payload.into(),
        }
    }
}

fn value() -> impl Strategy<Value = AMQPValue> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(AMQPValue::Boolean),
        any::<i8>().prop_map(AMQPValue::ShortShortInt),
        any::<i64>().prop_map(AMQPValue::LongLongInt),
        any::<u64>().prop_map(AMQPValue::Timestamp),
        any::<f32>().prop_map(AMQPValue::Float),
        any::<f64>().prop_map(AMQPValue::Double),
        (any::<u8>(), any::<u32>())
            .prop_map(|(scale, value)| AMQPValue::DecimalValue(lapin::types::DecimalValue { scale, value })),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(|bytes| AMQPValue::LongString(bytes.into())),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(|bytes| AMQPValue::ByteArray(bytes.into())),
        Just(AMQPValue::Void),
    ];
    leaf.prop_recursive(3, 20, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5)
                .prop_map(|values| AMQPValue::FieldArray(values.into())),
            prop::collection::btree_map("[a-z-]{1,12}".prop_map(ShortString::from), inner, 0..5)
                .prop_map(|entries| AMQPValue::FieldTable(entries.into())),
        ]
    })
}

fn foreign_headers() -> impl Strategy<Value = FieldTable> {
    let name = prop_oneof![
        header_name().prop_filter_map("short", |name| ShortString::try_new(name).ok()),
        prop::sample::select(vec!["x-brolly-attempts", "x-brolly-key", "x-brolly-expires-at", "x-death"])
            .prop_map(ShortString::from),
    ];
    prop::collection::btree_map(name, value(), 0..20).prop_map(FieldTable::from)
}

proptest! {
    #[test]
    fn a_published_message_comes_back_as_it_was(message in message()) {
        let back = receive("ex", &message.key, properties(&message, None), &message.payload);
        prop_assert_eq!((back.attempts, back.by_route, back.derived), (0, true, false));
        prop_assert_eq!(back.message, message);
    }

    #[test]
    fn a_copy_comes_back_as_it_was_with_its_attempts(message in message(), attempts: u32) {
        let copy = properties(&message, Some(Copy { attempts, expiration_ms: None }));
        // What the server adds while it waits.
        let mut headers = copy.headers().clone().unwrap();
        headers.insert("x-death".into(), AMQPValue::FieldArray(vec![].into()));
        headers.insert("x-first-death-queue".into(), text("q.wait.64"));
        let back = receive("", "q", copy.with_headers(headers), &message.payload);
        prop_assert_eq!((back.attempts, back.by_route, back.derived), (attempts, false, false));
        prop_assert_eq!(back.message, message);
    }

    #[test]
    fn no_property_closes_the_channel(message in message()) {
        let properties = properties(&message, None);
        prop_assert_eq!(properties.delivery_mode(), &Some(2));
        prop_assert!(properties.user_id().is_none() && properties.expiration().is_none());
        prop_assert!(properties.reply_to().as_ref().is_none_or(|to| to.as_str() != "amq.rabbitmq.reply-to"));
        let headers = properties.headers().clone().unwrap();
        for name in ["CC", "BCC", "x-death"] {
            prop_assert!(!headers.contains_key(name));
        }
    }

    #[test]
    fn whatever_others_send_is_some_message_and_its_copy_the_same(
        headers in foreign_headers(),
        id in prop::option::of("[ -~\\x01]{0,255}"),
        exchange in prop::sample::select(vec!["", "ex", "unknown"]),
        body in prop::collection::vec(any::<u8>(), 0..50),
    ) {
        let mut properties_in = BasicProperties::default().with_headers(headers);
        if let Some(id) = id {
            properties_in = properties_in.with_message_id(ShortString::from(id));
        }
        let first = receive(exchange, "k", properties_in.clone(), &body);
        prop_assert_eq!(&first.message, &receive(exchange, "k", properties_in, &body).message);
        prop_assert!(!first.message.id.is_empty() && first.message.id.len() <= limits::ID_BYTES);
        prop_assert!(!first.message.headers.keys().any(|name| name.starts_with("x-brolly-") || name == "x-death"));
        if first.unfit.is_none() {
            let copy = properties(&first.message, Some(Copy { attempts: 1, expiration_ms: None }));
            let again = receive("", "q", copy, &body);
            prop_assert!(!again.derived);
            prop_assert_eq!(again.message, first.message);
        }
    }

    #[test]
    fn the_size_of_headers_is_not_underestimated(message in message()) {
        let properties = properties(&message, Some(Copy { attempts: 1, expiration_ms: Some(64) }));
        let headers = properties.headers().clone().unwrap();
        let mut bytes = lapin::types::generation::gen_field_table(&headers)(Vec::new().into()).unwrap().write.len();
        for text in [properties.message_id(), properties.content_type(), properties.reply_to()].into_iter().flatten() {
            bytes += text.as_str().len() + 1;
        }
        prop_assert!(size(&properties) >= bytes);
    }
}

#[test]
fn ids_come_from_the_producer_or_are_derived() {
    let id = |properties: BasicProperties| {
        let received = receive("ex", "k", properties, b"body");
        (!received.derived).then_some(received.message.id)
    };
    let plain = BasicProperties::default;
    let event = |id: &'static str, source: &'static str| {
        plain().with_headers(table([(id, text("7")), (source, text("/shop"))]))
    };
    assert_eq!(id(plain().with_message_id("m".into())).as_deref(), Some("m"));
    assert_eq!(id(plain()), None);
    assert_eq!(id(plain().with_message_id("".into())), None);
    assert_eq!(id(plain().with_message_id("a\u{7}".into())), None);
    assert_eq!(id(event("cloudEvents:id", "cloudEvents:source")).as_deref(), Some("/shop#7"));
    assert_eq!(id(event("cloudEvents_id", "cloudEvents_source")).as_deref(), Some("/shop#7"));
    assert_eq!(id(event("cloudEvents:id", "cloudEvents_source")), None);
    let both = event("cloudEvents:id", "cloudEvents:source").with_message_id("m".into());
    assert_eq!(id(both).as_deref(), Some("m"));
}

#[test]
fn a_derived_id_tells_different_messages_apart_and_not_the_same_one() {
    let id = |exchange: &str, key: &str, properties: BasicProperties, body: &[u8]| {
        receive(exchange, key, properties, body).message.id
    };
    let plain = BasicProperties::default;
    let base = id("ex", "k", plain(), b"b");
    let header = |value: AMQPValue| plain().with_headers(table([("h", value)]));
    let others = [
        id("", "k", plain(), b"b"),
        id("ex", "l", plain(), b"b"),
        id("ex", "k", plain(), b"c"),
        id("ex", "k", plain().with_type("x".into()), b"b"),
        id("ex", "k", plain().with_app_id("x".into()), b"b"),
        id("ex", "k", plain().with_timestamp(1), b"b"),
        id("ex", "k", plain().with_priority(1), b"b"),
        id("ex", "k", header(text("1")), b"b"),
        id("ex", "k", header(AMQPValue::LongInt(1)), b"b"),
    ];
    let mut all = others.to_vec();
    all.push(base.clone());
    all.sort();
    all.dedup();
    assert_eq!(all.len(), others.len() + 1);
    // What the server changes is not looked at.
    for headers in [
        table([("x-death", AMQPValue::FieldArray(vec![].into()))]),
        table([("x-delivery-count", AMQPValue::LongLongInt(3))]),
        table([("x-acquired-count", AMQPValue::LongLongInt(4))]),
        table([("x-first-death-reason", text("expired")), ("x-last-death-queue", text("q"))]),
        table([("CC", AMQPValue::FieldArray(vec![text("c")].into()))]),
    ] {
        assert_eq!(id("ex", "k", plain().with_headers(headers), b"b"), base);
    }
    assert_eq!(id("ex", "k", plain().with_expiration("9".into()), b"b"), base);
}

#[test]
fn a_dead_letter_is_the_message_that_it_was() {
    let death = AMQPValue::FieldTable(table([
        ("queue", text("q-address")),
        ("reason", text("delivery_limit")),
        ("exchange", text("ex")),
        ("routing-keys", AMQPValue::FieldArray(vec![text("a.b")].into())),
    ]));
    let earlier = AMQPValue::FieldTable(table([("queue", text("elsewhere")), ("reason", text("expired"))]));
    let deaths = AMQPValue::FieldArray(vec![earlier, death].into());
    let topics = HashMap::from([("ex".to_owned(), name("t"))]);
    let place = Place { queue: &name("q"), topics: &topics, now: Timestamp(1), dead_of: Some("q-address") };
    let dead = BasicProperties::default().with_headers(table([("x-death", deaths), ("h", text("v"))]));
    let back = received(1, arrival("", "q-address.dead", dead, b"b"), place);
    assert_eq!(back.unfit.as_deref(), Some("RabbitMQ gave it up: delivery_limit"));
    assert!(back.by_route && back.redelivered && back.derived);
    assert_eq!((back.message.topic.as_str(), back.message.key.as_str()), ("t", "a.b"));
    let alive =
        receive("ex", "a.b", BasicProperties::default().with_headers(table([("h", text("v"))])), b"b");
    assert_eq!(back.message.id, alive.message.id);
    assert_eq!(back.message.headers, alive.message.headers);
}

#[test]
fn where_a_message_belongs() {
    let place = |exchange: &str, headers: &[(&'static str, &str)]| {
        let headers = table(headers.iter().map(|(name, value)| (*name, text(value))));
        let received = receive(exchange, "a.b", BasicProperties::default().with_headers(headers), b"");
        (received.message.topic.to_string(), received.message.key, received.by_route)
    };
    let expect = |topic: &str, key: &str, by_route| (topic.to_owned(), key.to_owned(), by_route);
    assert_eq!(place("ex", &[]), expect("t", "a.b", true));
    assert_eq!(place("unknown", &[]), expect("q", "a.b", true));
    assert_eq!(place("", &[]), expect("q", "", false));
    let own = [("x-brolly-topic", "t2"), ("x-brolly-key", "k")];
    assert_eq!(place("", &own), expect("t2", "k", false));
    // Through an exchange it is nobody's to say.
    assert_eq!(place("ex", &own), expect("t", "a.b", true));
    assert_eq!(place("", &[("x-brolly-topic", "no name")]), expect("q", "", false));
}

#[test]
fn who_was_handed_a_message_before_is_told_so() {
    let redelivered = |headers: FieldTable, flag: bool| {
        let properties = BasicProperties::default().with_headers(headers);
        let topics = HashMap::new();
        let place = Place { queue: &name("q"), topics: &topics, now: Timestamp(1), dead_of: None };
        received(1, Arrival { redelivered: flag, ..arrival("ex", "k", properties, b"") }, place).redelivered
    };
    let count = |name: &'static str, count: i64| table([(name, AMQPValue::LongLongInt(count))]);
    assert!(!redelivered(table([]), false) && redelivered(table([]), true));
    assert!(!redelivered(count("x-delivery-count", 0), false));
    assert!(redelivered(count("x-delivery-count", 1), false));
    assert!(redelivered(count("x-acquired-count", 1), false));
}

#[test]
fn what_is_beyond_a_limit_is_unfit_and_whole() {
    let unfit = |properties: BasicProperties, body: usize| {
        let received = receive("ex", "k", properties, &vec![0; body]);
        (received.unfit, received.message.payload.len(), received.message.headers.len())
    };
    let headers = |count: usize, bytes: usize| {
        let entry = |n: usize| (ShortString::from(format!("{n:04}")), text(&"v".repeat(bytes)));
        BasicProperties::default().with_headers((0..count).map(entry).collect::<BTreeMap<_, _>>().into())
    };
    assert_eq!(unfit(headers(128, 1), limits::PAYLOAD_BYTES).0, None);
    let (why, size, _) = unfit(headers(0, 0), limits::PAYLOAD_BYTES + 1);
    assert!(why.unwrap().contains("16777217") && size == limits::PAYLOAD_BYTES + 1);
    let (why, _, count) = unfit(headers(129, 1), 0);
    assert!(why.unwrap().contains("129") && count == 129);
    let (why, ..) = unfit(headers(1, limits::HEADER_BYTES), 0);
    assert!(why.unwrap().contains("32772"));
}

#[test]
fn times_are_the_best_that_is_known() {
    let at = |properties: BasicProperties| receive("ex", "k", properties, b"").message.published_at;
    let headers = || table([("x-brolly-published-at", AMQPValue::LongLongInt(1_500))]);
    assert_eq!(at(BasicProperties::default()), Timestamp(77));
    assert_eq!(at(BasicProperties::default().with_timestamp(3)), Timestamp(3_000));
    assert_eq!(at(BasicProperties::default().with_timestamp(3).with_headers(headers())), Timestamp(1_500));
    assert_eq!(at(BasicProperties::default().with_timestamp(u64::MAX)), Timestamp(u64::MAX));
}
