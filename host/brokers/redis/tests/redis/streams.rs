//! Streams: consumer groups, routes, dead consumers, delays, trimming, groups of somebody else.

use std::time::Duration;

use brolly_core::{Broker, BrokerError, Code, NewMessage, Order, Thing};
use serde_json::{Value as Json, json};

use crate::{
    host::{Host, ids, message, name, payload, payloads, quick},
    server::{PATIENCE, Server},
};

/// Two groups on one stream.
fn two() -> Json {
    json!({
        "topics": {"t": {"address": "events"}},
        "queues": {"a": {"type": "stream"}, "b": {"type": "stream", "address": "group-b"}},
        "routes": [["t", "a"], ["t", "b", "eu.*", "payload.n > 1"]],
    })
}

fn one(settings: Json) -> Json {
    let mut queue = json!({"type": "stream", "address": "g"});
    queue.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    json!({"topics": {"t": {"address": "events", "adopt": queue["adopt"] == true}}, "queues": {"q": queue}, "routes": [["t", "q"]]})
}

#[test]
fn each_group_gets_what_its_routes_let_through() {
    let server = Server::start();
    let host = Host::start(&server, json!({}), &two());
    host.publish(
        "t",
        [
            message("1", "eu.de", r#"{"n":1}"#),
            message("2", "eu.de", r#"{"n":2}"#),
            message("3", "us.ny", r#"{"n":3}"#),
            message("4", "eu.fr", r#"{"n":4}"#),
        ],
    );
    host.until_counts("a", [4, 0, 0]);
    let (a, b) = (host.consume("a", Order::None, 10), host.consume("b", Order::None, 10));
    let all = host.many(&a, 4);
    assert_eq!(ids(&all), ["1", "2", "3", "4"]);
    assert_eq!(payloads(&all), [r#"{"n":1}"#, r#"{"n":2}"#, r#"{"n":3}"#, r#"{"n":4}"#]);
    assert_eq!(
        (all[0].message.key.as_str(), all[0].message.content_type.as_str()),
        ("eu.de", "application/json")
    );
    let some = host.many(&b, 2);
    assert_eq!(ids(&some), ["2", "4"]);
    // What no route meant for the group is settled there at once.
    host.until_counts("b", [0, 2, 0]);
    host.until_counts("a", [0, 4, 0]);
    all.iter().for_each(|delivery| a.ack(delivery.lease));
    some.iter().for_each(|delivery| b.ack(delivery.lease));
    host.until_counts("a", [0, 0, 0]);
    host.until_counts("b", [0, 0, 0]);
}

#[test]
fn entries_of_others_are_messages_and_their_id_is_the_entry() {
    let server = Server::start();
    server.ask::<String>(&["XADD", "events", "5-1", "data", r#"{"n":1}"#, "id", "7", "key", "k"]);
    server.ask::<String>(&["XADD", "events", "5-2", "data", r#"{"n":2}"#, "id", "7"]);
    server.ask::<String>(&["XADD", "events", "6-1", "customer", "7", "amount", "3"]);
    // The group is made from the beginning.
    let host = Host::start(&server, json!({}), &one(json!({})));
    let taking = host.consume("q", Order::None, 10);
    let deliveries = host.many(&taking, 3);
    assert_eq!(ids(&deliveries), ["events/5-1", "events/5-2", "events/6-1"]);
    assert_eq!(payloads(&deliveries), [r#"{"n":1}"#, r#"{"n":2}"#, r#"{"amount":"3","customer":"7"}"#]);
    assert_eq!((deliveries[0].message.topic.as_str(), deliveries[0].message.key.as_str()), ("t", "k"));
    server.ask::<String>(&["XADD", "events", "*", "payload", "late"]);
    assert_eq!(payload(&host.next(&taking)), "late");
}

#[test]
fn a_retry_is_this_groups_alone() {
    let server = Server::start();
    let host = Host::start(&server, json!({}), &two());
    host.publish("t", [message("1", "eu.de", r#"{"n":2}"#)]);
    let (a, b) = (host.consume("a", Order::None, 10), host.consume("b", Order::None, 10));
    let (first, other) = (host.next(&a), host.next(&b));
    b.ack(other.lease);
    a.retry(first.lease, 400, 1);
    host.until_counts("a", [0, 0, 1]);
    let again = host.next(&a);
    assert_eq!((again.message.id.as_str(), payload(&again), again.attempts), ("1", r#"{"n":2}"#, 1));
    assert_eq!(again.message.key, "eu.de");
    // And once more, from where it is held now.
    host.until_counts("a", [0, 1, 0]);
    a.retry(again.lease, 100, 2);
    let again = host.next(&a);
    assert_eq!((again.message.id.as_str(), again.attempts), ("1", 2));
    a.ack(again.lease);
    host.until_counts("a", [0, 0, 0]);
    host.nothing(&b, Duration::from_millis(300));
    host.until_counts("b", [0, 0, 0]);
}

#[test]
fn what_a_dead_consumer_held_is_claimed_and_a_slow_one_keeps_its_own() {
    let server = Server::start();
    let wanted = one(json!({}));
    let victim = Host::start(&server, quick(), &wanted);
    let slow = Host::start(&server, quick(), &wanted);
    victim.publish("t", (0..6).map(|number| message(&number.to_string(), "", "x")));
    let dying = victim.consume("q", Order::None, 4);
    let mut held = victim.many(&dying, 4);
    let living = slow.consume("q", Order::None, 2);
    let kept = slow.many(&living, 2);
    assert_eq!(ids(&kept), ["4", "5"]);
    // One of the dead one's was retried and taken again: it is held beside the stream.
    dying.retry(held.remove(0).lease, 1, 1);
    assert_eq!(victim.next(&dying).message.id, "0");
    dying.ack(held.remove(0).lease);
    victim.until_counts("q", [0, 5, 0]);
    victim.kill();
    let heir = Host::start(&server, quick(), &wanted);
    let taking = heir.consume("q", Order::None, 10);
    let mut inherited = heir.many(&taking, 3);
    inherited.sort_by(|a, b| a.message.id.cmp(&b.message.id));
    assert_eq!(ids(&inherited), ["0", "2", "3"]);
    heir.nothing(&taking, Duration::from_secs(2));
    inherited.iter().for_each(|delivery| taking.ack(delivery.lease));
    kept.iter().for_each(|delivery| living.ack(delivery.lease));
    heir.until_counts("q", [0, 0, 0]);
    heir.until("the dead consumer is no longer listed", || {
        server.ask::<Vec<redis::Value>>(&["XINFO", "CONSUMERS", "events", "g"]).len() == 2
    });
}

#[test]
fn stopping_gives_back_what_is_not_handled() {
    let server = Server::start();
    let host = Host::start(&server, json!({}), &one(json!({})));
    host.publish("t", (0..50).map(|number| message(&format!("{number:02}"), "", "x")));
    let taking = host.consume("q", Order::None, 40);
    let first = host.next(&taking);
    host.until_counts("q", [10, 40, 0]);
    taking.source.close();
    host.until_counts("q", [49, 1, 0]);
    taking.ack(first.lease);
    host.until_counts("q", [49, 0, 0]);
    let taking = host.consume("q", Order::None, 100);
    let rest = host.many(&taking, 49);
    let expect: Vec<String> = (1..50).map(|number| format!("{number:02}")).collect();
    assert_eq!(ids(&rest), expect, "in their order, each once");
    rest.iter().for_each(|delivery| taking.ack(delivery.lease));
    host.until_counts("q", [0, 0, 0]);
    host.close();
}

#[test]
fn consumers_of_an_earlier_program_are_taken_over_in_a_group_of_ours_alone() {
    let server = Server::start();
    for adopt in [false, true] {
        let stream = if adopt { "theirs" } else { "ours" };
        server.ask::<String>(&["XADD", stream, "1-1", "payload", "x"]);
        server.ask::<String>(&["XGROUP", "CREATE", stream, "g", "0"]);
        server.ask::<redis::Value>(&["XREADGROUP", "GROUP", "g", "program-1", "STREAMS", stream, ">"]);
        let mut wanted = one(json!({"adopt": adopt}));
        wanted["topics"]["t"]["address"] = json!(stream);
        let host = Host::start(&server, quick(), &wanted);
        let taking = host.consume("q", Order::None, 10);
        if adopt {
            host.nothing(&taking, Duration::from_secs(7));
            assert_eq!(host.counts("q"), [Some(0), Some(1), Some(0)]);
        } else {
            assert_eq!(host.next(&taking).message.id, "ours/1-1");
        }
    }
}

#[test]
fn what_this_worker_holds_does_not_look_idle_in_a_group_of_somebody_else() {
    let server = Server::start();
    server.ask::<String>(&["XADD", "events", "1-1", "payload", "x"]);
    server.ask::<String>(&["XGROUP", "CREATE", "events", "g", "0"]);
    let host = Host::start(&server, quick(), &one(json!({"adopt": true})));
    let taking = host.consume("q", Order::None, 10);
    let delivery = host.next(&taking);
    host.nothing(&taking, Duration::from_secs(2));
    // Somebody who takes over what was idle for a second gets nothing.
    let claimed: Vec<redis::Value> =
        server.ask(&["XAUTOCLAIM", "events", "g", "program-1", "1000", "0", "COUNT", "10", "JUSTID"]);
    assert_eq!(claimed[1], redis::Value::Array(Vec::new()));
    taking.ack(delivery.lease);
    host.until_counts("q", [0, 0, 0]);
}

#[test]
fn a_stream_of_ours_is_trimmed_to_what_some_group_needs() {
    let server = Server::with(&["--appendonly", "yes", "--stream-node-max-entries", "10"]);
    let host = Host::start(&server, json!({}), &two());
    host.publish("t", (0..200).map(|number| message(&number.to_string(), "eu.de", r#"{"n":2}"#)));
    let (a, b) = (host.consume("a", Order::None, 200), host.consume("b", Order::None, 200));
    host.many(&a, 200).iter().for_each(|delivery| a.ack(delivery.lease));
    let slow = host.many(&b, 200);
    slow[..150].iter().for_each(|delivery| b.ack(delivery.lease));
    host.until("it is trimmed", || server.ask::<u64>(&["XLEN", "events"]) <= 60);
    let left = server.ask::<u64>(&["XLEN", "events"]);
    assert!(left >= 50, "{left} entries are left");
    host.until_counts("b", [0, 50, 0]);
    host.until_counts("a", [0, 0, 0]);
    slow[150..].iter().for_each(|delivery| b.ack(delivery.lease));
    host.until("it is trimmed", || server.ask::<u64>(&["XLEN", "events"]) <= 10);
}

#[test]
fn what_belongs_to_somebody_else_is_neither_made_nor_trimmed_nor_deleted() {
    let server = Server::start();
    let host = Host::start(&server, json!({}), &one(json!({"adopt": true})));
    let trouble = |thing: Thing<'_>| host.broker.trouble(thing).unwrap_or_default();
    assert!(trouble(Thing::Topic(&name("t"))).contains("there is no stream events"));
    assert!(trouble(Thing::Queue(&name("q"))).contains("there is no stream events"));
    server.ask::<String>(&["XADD", "events", "*", "payload", "x"]);
    host.until("it is seen", || trouble(Thing::Topic(&name("t"))).is_empty());
    host.until("it is seen", || trouble(Thing::Queue(&name("q"))).contains("no consumer group g"));
    server.ask::<String>(&["XGROUP", "CREATE", "events", "g", "0"]);
    host.until("it is seen", || trouble(Thing::Queue(&name("q"))).is_empty());
    let taking = host.consume("q", Order::None, 10);
    let delivery = host.next(&taking);
    taking.retry(delivery.lease, 60_000, 1);
    host.until_counts("q", [0, 0, 1]);
    let refused = host.run(host.broker.delete_queue(&name("q"), false));
    assert!(matches!(refused, Err(BrokerError::Refused(refusal)) if refusal.code == Code::NotEmpty));
    taking.source.close();
    host.run(host.broker.delete_queue(&name("q"), true)).unwrap();
    assert_eq!(server.ask::<Vec<redis::Value>>(&["XINFO", "GROUPS", "events"]).len(), 1);
    assert_eq!(server.ask::<u64>(&["XLEN", "events"]), 1);
}

#[test]
fn a_group_that_holds_something_is_deleted_by_force_alone() {
    let server = Server::start();
    let host = Host::start(&server, json!({}), &one(json!({})));
    host.publish("t", (0..3).map(|number| message(&number.to_string(), "", "x")));
    let taking = host.consume("q", Order::None, 1);
    host.next(&taking);
    match host.run(host.broker.delete_queue(&name("q"), false)) {
        Err(BrokerError::Refused(refusal)) => {
            assert!(refusal.code == Code::NotEmpty && refusal.detail.contains("holds 3"), "{refusal}");
        }
        other => panic!("{other:?}"),
    }
    // The routes go first, as an operator has to do it.
    host.configure(
        &json!({"topics": {"t": {"address": "events"}}, "queues": {"q": {"type": "stream", "address": "g"}}}),
    );
    assert!(host.until_failed(&taking).contains("definition"));
    host.run(host.broker.delete_queue(&name("q"), true)).unwrap();
    assert_eq!(server.ask::<Vec<redis::Value>>(&["XINFO", "GROUPS", "events"]).len(), 0);
    assert_eq!(server.ask::<Vec<String>>(&["KEYS", "events:brolly:g*"]), Vec::<String>::new());
}

#[test]
fn nothing_is_dropped_when_the_last_route_goes_and_comes_back() {
    let server = Server::start();
    let host = Host::start(&server, json!({}), &one(json!({})));
    let taking = host.consume("q", Order::None, 5);
    host.publish("t", (0..20).map(|number| message(&number.to_string(), "", "x")));
    let first = host.next(&taking);
    let mut without = one(json!({}));
    without["routes"] = json!([]);
    host.configure(&without);
    taking.ack(first.lease);
    assert!(host.until_failed(&taking).contains("definition"));
    taking.source.close();
    host.configure(&one(json!({})));
    let taking = host.consume("q", Order::None, 50);
    let mut seen = std::collections::BTreeSet::from([first.message.id.clone()]);
    let until = std::time::Instant::now() + PATIENCE;
    while seen.len() < 20 && std::time::Instant::now() < until {
        let delivery = host.next(&taking);
        seen.insert(delivery.message.id.clone());
        taking.ack(delivery.lease);
    }
    host.until_counts("q", [0, 0, 0]);
}

#[test]
fn counts_are_exact_or_not_measurable() {
    let server = Server::start();
    let host = Host::start(&server, json!({}), &one(json!({})));
    let entries: Vec<String> =
        (0..300).map(|_| server.ask(&["XADD", "events", "*", "payload", "x"])).collect();
    host.until_counts("q", [300, 0, 0]);
    let taking = host.consume("q", Order::None, 10);
    host.many(&taking, 10);
    host.until_counts("q", [290, 10, 0]);
    // An entry deleted in the middle makes Redis lose count.
    server.ask::<u64>(&["XDEL", "events", &entries[100]]);
    host.until("it cannot be told", || host.counts("q") == [None, Some(10), Some(0)]);
    server.ask::<u64>(&["XTRIM", "events", "MAXLEN", "=", "50"]);
    host.until("few can be counted", || host.counts("q") == [Some(50), Some(10), Some(0)]);
}

#[test]
fn entries_that_somebody_deletes_before_they_are_handled_are_no_riddle() {
    let server = Server::start();
    let wanted = one(json!({}));
    let victim = Host::start(&server, quick(), &wanted);
    victim.publish("t", (0..3).map(|number| message(&number.to_string(), "", "x")));
    let dying = victim.consume("q", Order::None, 2);
    victim.many(&dying, 2);
    victim.kill();
    server.ask::<u64>(&["XTRIM", "events", "MAXLEN", "=", "2"]);
    let heir = Host::start(&server, quick(), &wanted);
    let taking = heir.consume("q", Order::None, 10);
    let rest = heir.many(&taking, 2);
    let mut rest = ids(&rest);
    rest.sort_unstable();
    assert_eq!(rest, ["1", "2"]);
    heir.until_counts("q", [0, 2, 0]);
}

#[test]
fn a_message_goes_to_stream_and_lists_in_one_step_and_later_ones_when_due() {
    let server = Server::start();
    let mut wanted = one(json!({}));
    wanted["queues"]["list"] = json!({});
    wanted["routes"].as_array_mut().unwrap().push(json!(["t", "list"]));
    let host = Host::start(&server, json!({}), &wanted);
    host.publish("t", [message("1", "", "x"), NewMessage { delay_ms: Some(300), ..message("2", "", "y") }]);
    host.until_counts("list", [1, 0, 1]);
    host.until_counts("q", [1, 0, 1]);
    assert_eq!(server.ask::<u64>(&["XLEN", "events"]), 1);
    for queue in ["list", "q"] {
        let taking = host.consume(queue, Order::None, 10);
        let both = host.many(&taking, 2);
        let mut both = ids(&both);
        both.sort_unstable();
        assert_eq!(both, ["1", "2"]);
    }
}
