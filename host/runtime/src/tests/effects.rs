//! What a handler sees and says, and what becomes of what it asked for.

use std::time::Duration;

use brolly_core::{Effects, LogLevel};

use super::*;

/// Logs the string that a host function left at 2,048 as an option, or `none`; `none` lies at 100.
const SHOW: &str = r#"(func $show (if (i32.load8_u (i32.const 2048))
    (then (call $log (i32.const 2) (i32.load (i32.const 2052)) (i32.load (i32.const 2056))))
    (else (call $log (i32.const 2) (i32.const 100) (i32.const 4)))))
  (data (i32.const 100) "none")"#;

#[test]
fn the_delivery_arrives_as_it_is() {
    let rig = Rig::new();
    // Logs every string of the record; a header is a name and a value.
    let field = |at: u32| {
        format!(
            "(call $log (i32.const 0) (i32.load offset={at} (local.get $d)) (i32.load offset={}
             (local.get $d)))",
            at + 4
        )
    };
    let body = format!(
        "{} (local.set $d (i32.load offset=32 (local.get $d))) {} {} (call $ack)",
        [0, 8, 16, 24, 48, 56, 72].map(field).concat(),
        field(0),
        field(8)
    );
    let handled = rig.run(&guest(&body), |_| {});
    assert_eq!(
        texts(&handled),
        ["m-1", "orders.paid", "c-7", "application/json", "{}", "sub", "orders/7", "a", "1"]
    );
    assert!(handled.logs.iter().all(|line| line.level == LogLevel::Trace));
    let numbers = "(if (i32.or (i64.ne (i64.load offset=40 (local.get $d)) (i64.const 1700000000000))
          (i32.or (i32.ne (i32.load offset=36 (local.get $d)) (i32.const 1))
          (i32.or (i32.ne (i32.load offset=64 (local.get $d)) (i32.const 1))
                  (i32.load8_u offset=68 (local.get $d))))) (then unreachable)) (call $ack)";
    assert_eq!(rig.run(&guest(numbers), |_| {}).verdict, ACK);
}

#[test]
fn every_level_has_its_name() {
    let rig = Rig::new();
    let body = "(loop $l (call $log (local.get $i) (i32.const 64) (i32.const 1))
        (local.set $i (i32.add (local.get $i) (i32.const 1))) (br_if $l (i32.lt_u (local.get $i)
        (i32.const 5))))
        (call $ack)";
    let handled = rig.run(&guest_with("x", "", body), |_| {});
    let levels: Vec<LogLevel> = handled.logs.iter().map(|line| line.level).collect();
    use LogLevel::{Debug, Error, Info, Trace, Warn};
    assert_eq!(levels, [Trace, Debug, Info, Warn, Error]);
}

#[test]
fn the_configuration_is_read_by_name() {
    let rig = Rig::new();
    let body = "(call $config (i32.const 64) (i32.const 3) (i32.const 2048)) (call $show)
        (call $config (i32.const 64) (i32.const 2) (i32.const 2048)) (call $show) (call $ack)";
    let subject = rig.subject(&guest_with("abc", SHOW, body), |subscription| {
        subscription.config = BTreeMap::from([("abc".into(), "15".into())]);
    });
    assert_eq!(texts(&subject.deliver()), ["15", "none"]);
}

/// Publishes, writes state, logs, then ends as `end` says.
fn busy(end: &str) -> Vec<u8> {
    guest_with(
        "out reason",
        "",
        &format!(
            "(call $publish (i32.const 64) (i32.const 3) (i32.const 64) (i32.const 3))
             (call $set (i32.const 64) (i32.const 3) (i32.const 68) (i32.const 6))
             (call $delete (i32.const 68) (i32.const 6))
             (call $log (i32.const 2) (i32.const 64) (i32.const 3)) {end}"
        ),
    )
}

#[test]
fn effects_take_place_only_after_an_ack() {
    let rig = Rig::new();
    let handled = rig.run(&busy("(call $ack)"), |_| {});
    assert_eq!(handled.verdict, ACK);
    assert_eq!(
        handled.effects.state,
        BTreeMap::from([("out".into(), Some(Bytes::from_static(b"reason"))), ("reason".into(), None)])
    );
    assert_eq!(handled.effects.publish.len(), 1);
    let reason = || "reason".to_owned();
    let delay = Some(Duration::from_millis(1_500));
    for (end, verdict) in [
        (
            "(call $retry (i32.const 68) (i32.const 6))",
            Verdict::Outcome(Outcome::Retry { reason: reason(), delay, dependency: None }),
        ),
        (
            "(call $reject (i32.const 68) (i32.const 6))",
            Verdict::Outcome(Outcome::Reject { reason: reason() }),
        ),
    ] {
        let handled = rig.run(&busy(end), |_| {});
        assert_eq!((handled.verdict.clone(), &handled.effects), (verdict, &Effects::default()));
        assert_eq!(texts(&handled), ["out"], "logs are kept whatever the verdict");
    }
    let handled = rig.run(&busy("unreachable"), |_| {});
    assert!(matches!(fault(&handled), Fault::Trap(_)));
    assert_eq!(handled.effects, Effects::default());
    assert_eq!(texts(&handled), ["out"]);
}

#[test]
fn reasons_are_cut() {
    let rig = Rig::new();
    let handled = rig.run(
        &guest(
            "(memory.fill (i32.const 2048) (i32.const 97) (i32.const 5000)) (call $reject
        (i32.const 2048) (i32.const 5000))",
        ),
        |_| {},
    );
    let Verdict::Outcome(Outcome::Reject { reason }) = handled.verdict else {
        panic!("{:?}", handled.verdict)
    };
    assert_eq!(reason, "a".repeat(1_024));
}

#[test]
fn published_messages_keep_their_order_and_get_stable_ids() {
    let rig = Rig::new();
    let own_id = "(call $send (i32.const 64) (i32.const 3) (i32.const 1) (i32.const 68) (i32.const 2)
        (i32.const 71) (i32.const 1) (i32.const 73) (i32.const 4) (i32.const 2048) (i32.const 1)
        (i32.const 71) (i32.const 1))";
    let header = "(i32.store (i32.const 2048) (i32.const 71)) (i32.store (i32.const 2052) (i32.const 1))
        (i32.store (i32.const 2056) (i32.const 68)) (i32.store (i32.const 2060) (i32.const 2))";
    let plain = "(call $publish (i32.const 64) (i32.const 3) (i32.const 64) (i32.const 3))";
    let wasm = guest_with("out id k text", "", &format!("{header} {plain} {own_id} {plain} (call $ack)"));
    let subject = rig.subject(&wasm, |_| {});
    let handled = subject.deliver();
    let ids: Vec<_> = handled.effects.publish.iter().map(|out| out.message.id.as_deref().unwrap()).collect();
    assert_eq!(ids, ["orders/7/0", "id", "orders/7/1"]);
    let own = &handled.effects.publish[1];
    assert_eq!(own.topic.as_str(), "out");
    assert_eq!((own.message.key.as_str(), own.message.content_type.as_str()), ("k", "text"));
    assert_eq!(own.message.headers, BTreeMap::from([("k".into(), "id".into())]));
    assert_eq!(own.message.payload, "k");
    assert_eq!(subject.deliver().effects, handled.effects, "another attempt publishes the same");
    let long = subject.deliver_with(&"x".repeat(300), &subject.state);
    assert!(long.effects.publish.iter().all(|out| out.message.check().is_ok()));
}

#[test]
fn publishing_needs_a_grant_and_a_sound_message() {
    let rig = Rig::new();
    let to = |at: u32, len: u32| {
        let body = format!(
            "(call $publish (i32.const {at}) (i32.const {len}) (i32.const 64) (i32.const 1)) (call $ack)"
        );
        guest_with("out other", "", &body)
    };
    let granted = |subscription: &mut Subscription| {
        subscription.grants.publish = Some(vec![Name::new("out").unwrap()]);
    };
    assert_eq!(rig.subject(&to(64, 3), granted).deliver().verdict, ACK);
    assert_eq!(rig.subject(&to(68, 5), |_| {}).deliver().verdict, ACK, "no list grants every topic");
    let handled = rig.subject(&to(68, 5), granted).deliver();
    assert!(
        matches!(fault(&handled), Fault::NotGranted(text) if text.contains("other")),
        "{:?}",
        handled.verdict
    );
    let nothing = |subscription: &mut Subscription| subscription.grants.publish = Some(Vec::new());
    assert!(matches!(fault(&rig.subject(&to(64, 3), nothing).deliver()), Fault::NotGranted(_)));
    let bad = |wasm: &[u8], words: &str| {
        let handled = rig.run(wasm, |_| {});
        assert!(
            matches!(fault(&handled), Fault::BadCall(text) if text.contains(words)),
            "{:?}",
            handled.verdict
        );
    };
    bad(&to(64, 9), "\"out other\"");
    bad(&to(64, 0), "is empty");
    let send = |id: &str, headers: u32| {
        guest_with(
            "out",
            "",
            &format!(
                "(i32.store (i32.const 2048) (i32.const 64)) (i32.store (i32.const 2052) (i32.const 1))
                 (i32.store (i32.const 2064) (i32.const 64)) (i32.store (i32.const 2068) (i32.const 1))
                 (call $send (i32.const 64) (i32.const 3) {id} (i32.const 64) (i32.const 0) (i32.const 64)
                   (i32.const 0) (i32.const 2048) (i32.const {headers}) (i32.const 64) (i32.const 0))
                   (call $ack)"
            ),
        )
    };
    let none = "(i32.const 0) (i32.const 0) (i32.const 0)";
    assert_eq!(rig.run(&send(none, 1), |_| {}).verdict, ACK);
    bad(&send(none, 2), "twice");
    bad(&send("(i32.const 1) (i32.const 64) (i32.const 0)", 0), "the id is empty");
    bad(&send("(i32.const 1) (i32.const 64) (i32.const 300)", 0), "the id has 300 bytes");
}

#[test]
fn a_handler_sees_its_own_writes() {
    let rig = Rig::new();
    let get = "(call $get (i32.const 64) (i32.const 1) (i32.const 2048)) (call $show)";
    let body = format!(
        "{get} (call $set (i32.const 64) (i32.const 1) (i32.const 65) (i32.const 3)) {get}
         (call $delete (i32.const 64) (i32.const 1)) {get}
         (call $set (i32.const 64) (i32.const 1) (i32.const 66) (i32.const 2)) {get} (call $ack)"
    );
    let mut subject = rig.subject(&guest_with("kv23", SHOW, &body), |_| {});
    assert_eq!(texts(&subject.deliver()), ["none", "v23", "none", "23"]);
    subject.state.0.insert("k".into(), Bytes::from_static(b"stored"));
    let handled = subject.deliver();
    assert_eq!(texts(&handled), ["stored", "v23", "none", "23"]);
    assert_eq!(handled.effects.state, BTreeMap::from([("k".into(), Some(Bytes::from_static(b"23")))]));
}

#[test]
fn a_handler_lists_its_state() {
    let rig = Rig::new();
    // Sets p/2, deletes p/3, then logs keys and values of up to 3 entries after p/0.
    let body = r#"(call $set (i32.const 64) (i32.const 3) (i32.const 65) (i32.const 2))
        (call $delete (i32.const 67) (i32.const 3))
        (call $list (i32.const 64) (i32.const 2) (i32.const 1) (i32.const 70) (i32.const 3) (i32.const 3)
          (i32.const 2048))
        (local.set $i (i32.load (i32.const 2048)))
        (local.set $r (i32.add (local.get $i) (i32.shl (i32.load (i32.const 2052)) (i32.const 4))))
        (loop $l (if (i32.lt_u (local.get $i) (local.get $r)) (then
          (call $log (i32.const 2) (i32.load (local.get $i)) (i32.load offset=4 (local.get $i)))
          (call $log (i32.const 2) (i32.load offset=8 (local.get $i)) (i32.load offset=12 (local.get $i)))
          (local.set $i (i32.add (local.get $i) (i32.const 16))) (br $l)))) (call $ack)"#;
    let mut subject = rig.subject(&guest_with("p/2p/3p/0", "", body), |_| {});
    for (key, value) in
        [("p/0", "zero"), ("p/1", "one"), ("p/3", "three"), ("p/4", "four"), ("p/5", "5"), ("q", "q")]
    {
        subject.state.0.insert(key.into(), Bytes::from_static(value.as_bytes()));
    }
    assert_eq!(texts(&subject.deliver()), ["p/1", "one", "p/2", "/2", "p/4", "four"]);
    let too_many = "(call $list (i32.const 64) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
        (i32.const 1001) (i32.const 2048)) (call $ack)";
    assert!(
        matches!(fault(&rig.run(&guest(too_many), |_| {})), Fault::BadCall(text) if text.contains("1001"))
    );
}

#[test]
fn a_store_that_is_down_is_no_fault_of_the_handler() {
    let rig = Rig::new();
    for read in [
        "(call $get (i32.const 64) (i32.const 2) (i32.const 2048))",
        "(call $list (i32.const 64) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 5)
         (i32.const 2048))",
    ] {
        let wasm = guest_with(
            "kk",
            "",
            &format!(
                "(call $set (i32.const 64) (i32.const 1) (i32.const 64) (i32.const 1)) {read} (call $ack)"
            ),
        );
        let handled = rig.subject(&wasm, |_| {}).deliver_with("key", &NoState);
        assert!(
            matches!(&handled.verdict, Verdict::Unavailable(reason) if reason.contains("the disk is gone")),
            "{:?}",
            handled.verdict
        );
        assert_eq!(handled.effects, Effects::default());
    }
}
