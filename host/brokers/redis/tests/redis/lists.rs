//! Lists: taking and settling, what a dead worker leaves, delays, identity, counts.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use brolly_core::{Broker, BrokerError, Code, NewMessage, Order, Settlement};
use serde_json::{Value as Json, json};

use crate::{
    host::{Host, ids, message, name, payload, payloads, quick},
    server::{PATIENCE, Server},
};

fn own() -> Json {
    json!({"topics": {"t": {}}, "queues": {"q": {}}, "routes": [["t", "q"]]})
}

fn adopted() -> Json {
    json!({"topics": {"t": {}}, "queues": {"old": {"address": "orders:list", "adopt": true}}, "routes": [["t", "old"]]})
}

#[test]
fn a_published_message_keeps_everything_and_is_gone_when_settled() {
    let server = Server::start();
    let host = Host::start(&server, json!({}), &own());
    let mut sent = message("i", "eu.de", r#"{"a":1}"#);
    sent.headers.insert("h".into(), "ä\n".into());
    sent.expires_ms = Some(100_000);
    host.publish("t", [sent.clone()]);
    host.until_counts("q", [1, 0, 0]);
    let taking = host.consume("q", Order::None, 10);
    let delivery = host.next(&taking);
    let got = &*delivery.message;
    assert_eq!((got.id.as_str(), got.topic.as_str(), got.key.as_str()), ("i", "t", "eu.de"));
    assert_eq!(
        (&got.headers, got.content_type.as_str(), &got.payload),
        (&sent.headers, "application/json", &sent.payload)
    );
    assert!(got.expires_at.is_some_and(|expires| expires.0 == got.published_at.0 + 100_000));
    assert_eq!((delivery.attempts, &delivery.unfit), (0, &None));
    host.until_counts("q", [0, 1, 0]);
    taking.ack(delivery.lease);
    host.until_counts("q", [0, 0, 0]);
    taking.source.close();
    host.until("nothing is left but the memory of its id", || {
        server.ask::<Vec<String>>(&["KEYS", "*"]) == ["q:brolly:sent"]
    });
}

#[test]
fn plain_payloads_of_others_are_taken_in_their_order_and_are_different_messages() {
    let server = Server::start();
    let host = Host::start(&server, json!({}), &adopted());
    server.push("orders:list", [r#"{"n":1}"#, "same", "same", "\u{e4}", "brolly/1 {no header"]);
    let taking = host.consume("old", Order::None, 10);
    let deliveries = host.many(&taking, 5);
    assert_eq!(payloads(&deliveries), [r#"{"n":1}"#, "same", "same", "ä", "brolly/1 {no header"]);
    assert_eq!(ids(&deliveries).into_iter().collect::<BTreeSet<_>>().len(), 5);
    let first = &*deliveries[0].message;
    assert_eq!(
        (first.topic.as_str(), first.key.as_str(), first.content_type.as_str()),
        ("t", "", "application/json")
    );
    assert_eq!(deliveries[1].message.content_type, "application/octet-stream");
    // Of equal payloads one is settled, and the other one stays.
    taking.ack(deliveries[1].lease);
    host.until_counts("old", [0, 4, 0]);
    for delivery in deliveries {
        taking.ack(delivery.lease);
    }
    host.until_counts("old", [0, 0, 0]);
}

#[test]
fn a_list_of_somebody_else_gets_plain_payloads() {
    let server = Server::start();
    let mut wanted = adopted();
    wanted["queues"]["mine"] = json!({});
    wanted["routes"].as_array_mut().unwrap().push(json!(["t", "mine", "k.*"]));
    let host = Host::start(&server, json!({}), &wanted);
    host.publish("t", [message("1", "k.a", "one"), message("2", "", "two")]);
    assert_eq!(server.list("orders:list"), ["one", "two"]);
    let mine = server.list("mine");
    assert!(
        mine.len() == 1 && mine[0].starts_with("brolly/1 {\"id\":\"1\"") && mine[0].ends_with("\none"),
        "{mine:?}"
    );
}

#[test]
fn what_a_dead_process_held_comes_again_in_front_in_order_with_its_identity() {
    for wanted in [own(), adopted()] {
        let server = Server::start();
        let (queue, list) = if wanted["queues"]["q"].is_null() { ("old", "orders:list") } else { ("q", "q") };
        let victim = Host::start(&server, quick(), &wanted);
        server.push(list, ["a", "b", "b", "c", "d"]);
        let taking = victim.consume(queue, Order::None, 4);
        let before = victim.many(&taking, 4);
        let before_ids: Vec<String> = ids(&before).into_iter().map(str::to_owned).collect();
        let heir = Host::start(&server, quick(), &wanted);
        victim.kill();
        heir.until_counts(queue, [5, 0, 0]);
        if queue == "old" {
            assert_eq!(server.list(list), ["a", "b", "b", "c", "d"], "others see what they have put there");
        }
        let taking = heir.consume(queue, Order::None, 10);
        let after = heir.many(&taking, 5);
        assert_eq!(payloads(&after), ["a", "b", "b", "c", "d"]);
        assert_eq!(ids(&after[..4]), before_ids);
        after.iter().for_each(|delivery| taking.ack(delivery.lease));
        heir.until_counts(queue, [0, 0, 0]);
    }
}

#[test]
fn a_slow_worker_that_lives_keeps_what_it_holds() {
    let server = Server::start();
    let slow = Host::start(&server, quick(), &own());
    let other = Host::start(&server, quick(), &own());
    slow.publish("t", [message("1", "", "x")]);
    let taking = slow.consume("q", Order::None, 1);
    let delivery = slow.next(&taking);
    let waiting = other.consume("q", Order::None, 1);
    other.nothing(&waiting, Duration::from_secs(3));
    taking.ack(delivery.lease);
    slow.until_counts("q", [0, 0, 0]);
    other.nothing(&waiting, Duration::from_millis(300));
}

#[test]
fn a_retry_comes_back_after_its_delay_with_its_identity_and_attempts() {
    for wanted in [own(), adopted()] {
        let server = Server::start();
        let (queue, list) = if wanted["queues"]["q"].is_null() { ("old", "orders:list") } else { ("q", "q") };
        let host = Host::start(&server, json!({}), &wanted);
        server.push(list, ["x", "y"]);
        let taking = host.consume(queue, Order::None, 10);
        let first = host.next(&taking);
        let second = host.next(&taking);
        taking.ack(second.lease);
        let began = Instant::now();
        taking.retry(first.lease, 600, 1);
        host.until_counts(queue, [0, 0, 1]);
        assert_eq!(server.list(list), Vec::<String>::new(), "nobody else takes it meanwhile");
        let again = host.next(&taking);
        assert!(
            (Duration::from_millis(590)..Duration::from_secs(5)).contains(&began.elapsed()),
            "{:?}",
            began.elapsed()
        );
        assert_eq!(
            (again.message.id.as_str(), payload(&again), again.attempts),
            (first.message.id.as_str(), "x", 1)
        );
        // Once more, across a restart.
        taking.retry(again.lease, 1_500, 2);
        host.until_counts(queue, [0, 0, 1]);
        host.close();
        let host = Host::start(&server, json!({}), &wanted);
        let taking = host.consume(queue, Order::None, 10);
        let again = host.next(&taking);
        assert_eq!(
            (again.message.id.as_str(), payload(&again), again.attempts),
            (first.message.id.as_str(), "x", 2)
        );
        taking.ack(again.lease);
        host.until_counts(queue, [0, 0, 0]);
    }
}

#[test]
fn stopping_gives_back_what_is_not_handled_in_its_order() {
    for wanted in [own(), adopted()] {
        let server = Server::start();
        let (queue, list) = if wanted["queues"]["q"].is_null() { ("old", "orders:list") } else { ("q", "q") };
        let host = Host::start(&server, json!({}), &wanted);
        let numbers: Vec<String> = (0..600).map(|number| number.to_string()).collect();
        server.push(list, &numbers);
        let taking = host.consume(queue, Order::None, 400);
        let first = host.next(&taking);
        host.until_counts(queue, [200, 400, 0]);
        taking.source.close();
        host.until_counts(queue, [599, 1, 0]);
        taking.ack(first.lease);
        host.until_counts(queue, [599, 0, 0]);
        let left = server.list(list);
        let left: Vec<&str> = left.iter().map(|value| value.rsplit('\n').next().unwrap()).collect();
        assert_eq!(left, numbers[1..]);
        // It says so a moment after the last settlement.
        let until = Instant::now() + PATIENCE;
        while !server.ask::<Vec<String>>(&["ZRANGE", &format!("{list}:brolly:workers"), "0", "-1"]).is_empty()
        {
            assert!(Instant::now() < until, "the worker leaves");
        }
        // They come again, each once.
        let taking = host.consume(queue, Order::None, 1_000);
        assert_eq!(payloads(&host.many(&taking, 599)), numbers[1..]);
    }
}

#[test]
fn closing_settles_what_is_told_and_leaves_nothing_behind() {
    let server = Server::start();
    let host = Host::start(&server, json!({}), &own());
    host.publish("t", (0..100).map(|number| message(&number.to_string(), "", "x")));
    let taking = host.consume("q", Order::None, 100);
    for delivery in host.many(&taking, 50) {
        taking.ack(delivery.lease);
    }
    host.close();
    assert_eq!(server.list("q").len(), 50);
    let mut keys: Vec<String> = server.ask(&["KEYS", "*"]);
    keys.sort_unstable();
    assert_eq!(keys, ["q", "q:brolly:sent"]);
}

#[test]
fn what_is_sent_again_by_a_host_that_has_not_heard_of_it_is_there_once() {
    let server = Server::start();
    let wanted = json!({
        "topics": {"t": {"address": "events"}},
        "queues": {"q": {"retention": {"max_messages": 2}}, "old": {"adopt": true}, "group": {"type": "stream"}},
        "routes": [["t", "q"], ["t", "old"], ["t", "group"]],
    });
    for _ in 0..3 {
        let host = Host::start(&server, json!({}), &wanted);
        host.publish("t", [message("1", "", "x"), message("2", "", "x")]);
        host.kill();
    }
    let lengths =
        [["LLEN", "q"], ["LLEN", "old"], ["XLEN", "events"]].map(|command| server.ask::<u64>(&command));
    assert_eq!(lengths, [2, 2, 2]);
}

#[test]
fn workers_that_are_no_longer_listed_lose_nothing() {
    let server = Server::start();
    let host = Host::start(&server, quick(), &own());
    host.publish("t", (0..10).map(|number| message(&number.to_string(), "", "x")));
    let taking = host.consume("q", Order::None, 5);
    taking.ack(host.next(&taking).lease);
    host.until_counts("q", [4, 5, 0]);
    assert_eq!(server.ask::<u64>(&["DEL", "q:brolly:workers"]), 1);
    let why = host.run(async {
        loop {
            if let Err(error) = taking.source.ready().await {
                break error.to_string();
            }
            tokio::task::yield_now().await;
        }
    });
    assert!(why.contains("taken for dead"), "{why}");
    taking.source.close();
    let taking = host.consume("q", Order::None, 20);
    assert_eq!(ids(&host.many(&taking, 9)), ["1", "2", "3", "4", "5", "6", "7", "8", "9"]);
}

#[test]
fn equal_payloads_are_each_handled_once_whatever_happens_to_them() {
    let server = Server::start();
    let host = Host::start(&server, quick(), &adopted());
    server.push("orders:list", vec!["ping"; 300]);
    let mut handled = BTreeSet::new();
    let mut turn = 0;
    while handled.len() < 300 {
        let taking = host.consume("old", Order::None, 40);
        for _ in 0..30 {
            if handled.len() == 300 {
                break;
            }
            let delivery = host.next(&taking);
            turn += 1;
            match turn % 3 {
                0 => taking.source.give_back(delivery.lease, Duration::ZERO),
                1 if turn % 2 == 0 => taking.retry(delivery.lease, 1, 1),
                _ => {
                    assert!(handled.insert(delivery.message.id.clone()), "{} twice", delivery.message.id);
                    taking.ack(delivery.lease);
                }
            }
        }
        taking.source.close();
    }
    host.until_counts("old", [0, 0, 0]);
}

#[test]
fn a_long_list_costs_as_much_for_each_message_as_a_short_one() {
    let server = Server::start();
    let host = Host::start(&server, json!({}), &own());
    let pace = |count: usize| {
        server.push("q", (0..count).map(|number| format!(r#"{{"order_id":{number}}}"#)));
        let taking = host.consume("q", Order::None, 1_000);
        let began = Instant::now();
        for _ in 0..2_000 {
            taking.ack(host.next(&taking).lease);
        }
        let pace = began.elapsed();
        let rest = count - 2_000;
        taking.source.close();
        host.until_counts("q", [rest as u64, 0, 0]);
        server.ask::<u64>(&["DEL", "q"]);
        pace
    };
    pace(2_000);
    let (short, long) = (pace(2_000), pace(100_000));
    assert!(
        long < short * 4 + Duration::from_millis(500),
        "{short:?} for 2,000 of 2,000, {long:?} for 2,000 of 100,000"
    );
}

#[test]
fn a_delayed_publish_and_a_replay_come_by_no_route_when_they_are_due() {
    let server = Server::start();
    let host = Host::start(&server, json!({}), &own());
    let taking = host.consume("q", Order::None, 10);
    let began = Instant::now();
    host.publish(
        "t",
        [NewMessage { delay_ms: Some(700), ..message("late", "", "l") }, message("soon", "", "s")],
    );
    let soon = host.next(&taking);
    assert_eq!(soon.message.id, "soon");
    host.until_counts("q", [0, 1, 1]);
    let late = host.next(&taking);
    assert!(began.elapsed() >= Duration::from_millis(690) && late.message.id == "late");
}

#[test]
fn a_full_queue_refuses_and_says_how_full_it_is() {
    let server = Server::start();
    let mut wanted = own();
    wanted["queues"]["q"] = json!({"retention": {"max_messages": 3}});
    wanted["queues"]["other"] = json!({});
    wanted["routes"].as_array_mut().unwrap().push(json!(["t", "other"]));
    let host = Host::start(&server, json!({}), &wanted);
    host.publish("t", (0..2).map(|number| message(&number.to_string(), "", "x")));
    let taking = host.consume("q", Order::None, 1);
    let delivery = host.next(&taking);
    taking.retry(delivery.lease, 60_000, 1);
    host.until_counts("q", [0, 1, 1]);
    host.publish("t", [message("2", "", "x")]);
    match host.try_publish("t", [message("3", "", "x")]) {
        Err(BrokerError::Refused(refusal)) => {
            assert_eq!(refusal.code, Code::QueueFull);
            assert!(refusal.detail.contains("q holds 3 messages, its limit is 3"), "{}", refusal.detail);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(server.list("other").len(), 3, "all destinations or none");
}

#[test]
fn a_full_server_refuses_and_is_drained() {
    let server = Server::with(&["--appendonly", "yes", "--maxmemory-policy", "noeviction"]);
    let host = Host::start(&server, json!({"block_ms": 100}), &own());
    host.publish("t", (0..300).map(|number| message(&number.to_string(), "", &"x".repeat(1_000))));
    server.ask::<String>(&["CONFIG", "SET", "maxmemory", "1mb"]);
    match host.try_publish("t", [message("more", "", "x")]) {
        Err(BrokerError::Refused(refusal)) => {
            assert_eq!(refusal.code, Code::Unavailable, "{}", refusal.detail)
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(host.broker.health().state.as_str(), "blocked");
    let taking = host.consume("q", Order::None, 50);
    for number in 0..300 {
        let delivery = host.next(&taking);
        if number % 50 == 7 {
            taking.retry(delivery.lease, 10, 1);
            taking.ack(host.next(&taking).lease);
        } else {
            taking.ack(delivery.lease);
        }
    }
    server.ask::<String>(&["CONFIG", "SET", "maxmemory", "0"]);
    host.publish("t", [message("after", "", "x")]);
    host.until("it is told", || host.broker.health().state.as_str() == "connected");
}

#[test]
fn what_breaks_a_limit_is_told_and_its_original_is_kept() {
    let server = Server::start();
    let host = Host::start(&server, json!({"response_timeout_ms": 30_000}), &adopted());
    let large = "x".repeat((16 << 20) + (1 << 20));
    server.push("orders:list", [large.as_str(), "small"]);
    let taking = host.consume("old", Order::None, 10);
    let delivery = host.next(&taking);
    assert!(
        delivery.unfit.as_deref().is_some_and(|why| why.contains("17825792 bytes")),
        "{:?}",
        delivery.unfit
    );
    assert_eq!(delivery.message.payload.len(), 16 << 20);
    let small = host.next(&taking);
    assert_eq!((payload(&small), &small.unfit), ("small", &None));
    taking.ack(delivery.lease);
    taking.ack(small.lease);
    host.until_counts("old", [0, 0, 0]);
    let kept: Vec<Vec<u8>> = server.ask(&["LRANGE", "orders:list:brolly:unfit", "0", "-1"]);
    assert!(kept.len() == 1 && kept[0].ends_with(&large.as_bytes()[..100]) && kept[0].len() > large.len());
}

#[test]
fn messages_of_one_key_are_handled_in_order() {
    let server = Server::start();
    let host = Host::start(&server, json!({}), &own());
    host.publish(
        "t",
        (0..6).map(|number| message(&number.to_string(), if number < 3 { "k" } else { "l" }, "x")),
    );
    let taking = host.consume("q", Order::Key, 10);
    let (first, other) = (host.next(&taking), host.next(&taking));
    assert_eq!((first.message.id.as_str(), other.message.id.as_str()), ("0", "3"));
    host.nothing(&taking, Duration::from_millis(300));
    taking.source.settle(first.lease, Settlement::Retry { delay: Duration::from_millis(50), attempts: 1 });
    let again = host.next(&taking);
    assert_eq!(again.message.id, "0");
    taking.ack(again.lease);
    assert_eq!(host.next(&taking).message.id, "1");
}

#[test]
fn a_key_of_another_type_is_clear_trouble_of_that_queue_alone() {
    let server = Server::start();
    server.ask::<u64>(&["HSET", "bad", "f", "v"]);
    let wanted = json!({"queues": {"bad": {}, "good": {}}, "topics": {"t": {}}, "routes": [["t", "bad", "b"], ["t", "good", "g"]]});
    let host = Host::start(&server, json!({}), &wanted);
    let trouble = |queue: &str| host.broker.trouble(brolly_core::Thing::Queue(&name(queue)));
    assert_eq!(trouble("bad").as_deref(), Some("the key bad is a hash, not a list"));
    assert_eq!(trouble("good"), None);
    let Err(error) = host.try_consume("bad", Order::None, 1) else { panic!("it is consumed") };
    assert!(error.to_string().contains("is a hash, not a list"), "{error}");
    assert!(host.try_publish("t", [message("1", "b", "x")]).unwrap_err().to_string().contains("bad is hash"));
    host.publish("t", [message("2", "g", "x")]);
    let refused = host.run(host.broker.admit(
        &name("new"),
        brolly_core::Proposal::Queue(&serde_json::from_value(json!({"address": "bad"})).unwrap()),
    ));
    assert!(refused.is_err());
    // Mended on the server, it works by itself.
    server.ask::<u64>(&["DEL", "bad"]);
    host.until("it is seen", || trouble("bad").is_none());
    host.publish("t", [message("3", "b", "x")]);
    // Spoilt while it is consumed, the consumption ends and says why.
    let taking = host.consume("bad", Order::None, 1);
    taking.ack(host.next(&taking).lease);
    server.ask::<String>(&["SET", "bad", "x"]);
    assert!(host.until_failed(&taking).contains("wrong type"));
}

#[test]
fn a_list_that_holds_something_is_deleted_by_force_alone() {
    let server = Server::start();
    let host = Host::start(&server, json!({}), &own());
    host.publish("t", (0..3).map(|number| message(&number.to_string(), "", "x")));
    let taking = host.consume("q", Order::None, 1);
    let delivery = host.next(&taking);
    taking.retry(delivery.lease, 60_000, 1);
    host.until_counts("q", [1, 1, 1]);
    match host.run(host.broker.delete_queue(&name("q"), false)) {
        Err(BrokerError::Refused(refusal)) => {
            assert!(refusal.code == Code::NotEmpty && refusal.detail.contains("holds 3"), "{refusal}");
        }
        other => panic!("{other:?}"),
    }
    taking.source.close();
    host.run(host.broker.delete_queue(&name("q"), true)).unwrap();
    assert_eq!(server.ask::<Vec<String>>(&["KEYS", "*"]), Vec::<String>::new());
}

#[test]
fn a_list_of_somebody_else_is_left_as_it_was() {
    let server = Server::start();
    let host = Host::start(&server, json!({}), &adopted());
    server.push("orders:list", ["a", "b", "c", "d"]);
    let taking = host.consume("old", Order::None, 3);
    let delivery = host.next(&taking);
    taking.retry(delivery.lease, 60_000, 1);
    host.until_counts("old", [0, 3, 1]);
    host.run(host.broker.delete_queue(&name("old"), false)).unwrap();
    let mut left = server.list("orders:list");
    assert_eq!(left, ["a", "b", "c", "d"]);
    left.clear();
    let keys: Vec<String> = server.ask(&["KEYS", "orders:list*"]);
    assert!(
        keys.iter().all(|key| key == "orders:list" || key.starts_with("orders:list:brolly:ids")),
        "{keys:?}"
    );
}
