//! Every limit from both sides, and what a guest can do to hurt.

use std::time::{Duration, Instant};

use brolly_core::Code;

use super::*;

const LOOP: &str = "(loop $l (br $l)) unreachable";

#[test]
fn an_endless_loop_ends_at_the_time_limit() {
    let rig = Rig::new();
    let subject = rig.subject(&guest(LOOP), |s| s.limits.time_ms = 50);
    let started = Instant::now();
    let handled = subject.deliver();
    assert_eq!(*fault(&handled), Fault::TimeOut { limit_ms: 50 });
    assert!(handled.duration >= Duration::from_millis(50), "{:?}", handled.duration);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[test]
fn an_endless_loop_ends_at_the_cpu_limit() {
    let rig = Rig::new();
    let handled = rig.run(&guest(LOOP), |limits| {
        limits.time_ms = 20_000;
        limits.cpu_ms = Some(30);
    });
    assert_eq!(*fault(&handled), Fault::CpuTime { limit_ms: 30 });
}

#[test]
fn a_cpu_limit_beyond_the_time_limit_changes_nothing() {
    let rig = Rig::new();
    let handled = rig.run(&guest(LOOP), |limits| {
        limits.time_ms = 30;
        limits.cpu_ms = Some(30);
    });
    assert_eq!(*fault(&handled), Fault::TimeOut { limit_ms: 30 });
}

#[test]
fn a_call_that_takes_long_but_not_too_long_is_fine() {
    let rig = Rig::new();
    // Counts to a hundred million: some 30 ms, so the clock is looked at several times.
    let count = "(loop $l (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br_if $l (i32.lt_u (local.get $i) (i32.const 100000000)))) (call $ack)";
    let handled = rig.run(&guest(count), |limits| limits.cpu_ms = Some(9_000));
    assert_eq!(handled.verdict, ACK);
}

#[test]
fn endless_recursion_is_a_stack_overflow() {
    let rig = Rig::new();
    let extra = "(func $r (param i32) (result i32) (i32.add (call $r (local.get 0)) (i32.const 1)))";
    let handled = rig.run(&guest_with("", extra, "(call $r (i32.const 0))"), |_| {});
    assert_eq!(*fault(&handled), Fault::StackOverflow { limit: 512 * 1024 });
}

#[test]
fn memory_is_limited() {
    let rig = Rig::new();
    // Two pages at first; grows by $n and breaks down if that fails, as Rust's allocator does.
    let grow = |pages: u32| {
        guest(&format!(
            "(if (i32.eq (memory.grow (i32.const {pages})) (i32.const -1)) (then unreachable)) (call $ack)"
        ))
    };
    let limit = 10 * 65_536;
    let handled = rig.run(&grow(8), |limits| limits.memory_bytes = limit);
    assert_eq!((handled.verdict.clone(), handled.memory_bytes), (ACK, limit));
    let handled = rig.run(&grow(9), |limits| limits.memory_bytes = limit);
    assert_eq!(*fault(&handled), Fault::OutOfMemory { wanted: 11 * 65_536, limit });
    assert_eq!(handled.memory_bytes, 2 * 65_536);
}

#[test]
fn a_guest_that_copes_with_less_memory_is_not_at_fault() {
    let rig = Rig::new();
    let handled = rig.run(&guest("(drop (memory.grow (i32.const 4000))) (call $ack)"), |_| {});
    assert_eq!(handled.verdict, ACK);
}

#[test]
fn what_cannot_start_is_refused_with_the_setting() {
    let rig = Rig::new();
    let table = guest_with("", "(table 30 funcref)", "(call $ack)");
    let ack = guest("(call $ack)");
    let looping = guest_with("", "(func $s (loop $l (br $l))) (start $s)", "(call $ack)");
    let trapping = guest_with("", "(func $s unreachable) (start $s)", "(call $ack)");
    // Run once the instance is whole, as the initialisers of C and Go are.
    let initialise = r#"(func (export "_initialize") (call $delete (i32.const 64) (i32.const 1)))"#;
    let calling = guest_with("k", initialise, "(call $ack)");
    let check = |wasm: &[u8], change: fn(&mut Limits), expect: Option<(Code, &str)>| {
        let result = rig.try_subject(wasm, |subscription| change(&mut subscription.limits)).map(|_| ());
        match (result, expect) {
            (Ok(()), None) => {}
            (Err(PluginError::Refused(refusal)), Some((code, words))) => {
                assert_eq!(refusal.code, code, "{refusal}");
                assert!(refusal.detail.contains(words), "{refusal} does not say {words:?}");
            }
            (other, expect) => panic!("{other:?}, expected {expect:?}"),
        }
    };
    let mend = |words| Some((Code::InvalidDefinition, words));
    check(&ack, |l| l.memory_bytes = 2 * 65_536, None);
    check(&ack, |l| l.memory_bytes = 65_536, mend("limits.memory_bytes"));
    check(&table, |l| l.table_elements = 30, None);
    check(&table, |l| l.table_elements = 29, mend("limits.table_elements"));
    check(&ack, |l| l.instances = 4, None);
    check(&ack, |l| l.instances = 1, mend("limits.instances"));
    check(&looping, |l| l.time_ms = 20, mend("limits.time_ms"));
    check(&trapping, |_| {}, Some((Code::InvalidPlugin, "unreachable")));
    check(&calling, |_| {}, Some((Code::InvalidPlugin, "while a delivery is handled")));
}

#[test]
fn a_trap_says_which() {
    let rig = Rig::new();
    let check = |body: &str, words: &str| {
        let handled = rig.run(&guest(body), |_| {});
        let Fault::Trap(text) = fault(&handled) else { panic!("{:?}", handled.verdict) };
        assert!(text.contains(words), "{text:?} does not say {words:?}");
    };
    check("unreachable", "unreachable");
    check("(i32.load (i32.const -4))", "out of bounds memory access");
    check("(i32.div_u (i32.const 1) (local.get $i))", "divide by zero");
}

#[test]
fn broken_values_are_bad_calls() {
    let rig = Rig::new();
    let check = |data: &str, body: &str, words: &str| {
        let handled = rig.run(&guest_with(data, "", body), |_| {});
        let Fault::BadCall(text) = fault(&handled) else { panic!("{:?}", handled.verdict) };
        assert!(text.contains(words), "{text:?} does not say {words:?}");
    };
    let bad = r"\ff\fe";
    check(bad, "(call $log (i32.const 2) (i32.const 64) (i32.const 2)) (call $ack)", "UTF-8");
    check(bad, "(call $set (i32.const 64) (i32.const 2) (i32.const 64) (i32.const 0)) (call $ack)", "UTF-8");
    check(bad, "(call $reject (i32.const 64) (i32.const 2))", "UTF-8");
    check("", "(call $log (i32.const 2) (i32.const 64) (i32.const -1)) (call $ack)", "out of bounds");
    check("", "(call $log (i32.const 9) (i32.const 64) (i32.const 0)) (call $ack)", "9");
    check("", "(i32.const -8)", "");
}

#[test]
fn a_host_call_takes_a_bounded_amount() {
    let rig = Rig::new();
    let handled = rig.run(
        &guest(
            "(drop (memory.grow (i32.const 500)))
             (call $log (i32.const 2) (i32.const 4096) (i32.const 31457280)) (call $ack)",
        ),
        |_| {},
    );
    assert!(matches!(fault(&handled), Fault::BadCall(_)), "{:?}", handled.verdict);
}

#[test]
fn log_lines_beyond_the_limit_are_dropped_without_a_fault() {
    let rig = Rig::new();
    let body = "(loop $l (call $log (i32.const 2) (i32.const 64) (i32.const 4))
        (local.set $i (i32.add (local.get $i) (i32.const 1))) (br_if $l (i32.lt_u (local.get $i)
        (i32.const 3))))
        (call $ack)";
    let check = |limit, kept: &[&str], dropped| {
        let handled = rig.run(&guest_with("abcd", "", body), |limits| limits.log_bytes = limit);
        assert_eq!(handled.verdict, ACK);
        assert_eq!((texts(&handled), handled.logs_dropped), (kept.to_vec(), dropped));
    };
    check(12, &["abcd", "abcd", "abcd"], 0);
    check(11, &["abcd", "abcd", "abc"], 1);
    check(6, &["abcd", "ab"], 2);
    check(0, &[], 3);
}

/// Sets `$i` keys of one byte each to values of `$r` bytes, `count` times.
fn writes(count: u32, value: u32) -> Vec<u8> {
    guest(&format!(
        "(loop $l (i32.store8 (i32.const 64) (i32.add (i32.const 48) (local.get $i)))
            (call $set (i32.const 64) (i32.const 1) (i32.const 2048) (i32.const {value}))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $l (i32.lt_u (local.get $i) (i32.const {count})))) (call $ack)"
    ))
}

#[test]
fn state_is_limited() {
    let rig = Rig::new();
    let few = |limits: &mut Limits| {
        limits.state_writes = 3;
        limits.state_bytes = 33;
    };
    let handled = rig.run(&writes(3, 10), few);
    assert_eq!((handled.verdict, handled.effects.state.len()), (ACK, 3));
    let setting = |wasm: &[u8]| match fault(&rig.run(wasm, few)) {
        Fault::Limit { setting, limit, .. } => (*setting, *limit),
        other => panic!("{other}"),
    };
    assert_eq!(setting(&writes(4, 1)), ("limits.state_writes", 3));
    assert_eq!(setting(&writes(3, 11)), ("limits.state_bytes", 33));
    // A value has a limit of its own, and so has a key.
    let roomy = |limits: &mut Limits| limits.state_bytes = 1 << 20;
    assert_eq!(rig.run(&writes(1, 65_536), roomy).verdict, ACK);
    assert!(matches!(fault(&rig.run(&writes(1, 65_537), roomy)), Fault::BadCall(_)));
    let key = |fill: u32, len: u32| {
        guest(&format!(
            "(memory.fill (i32.const 2048) (i32.const {fill}) (i32.const 1000))
             (call $set (i32.const 2048) (i32.const {len}) (i32.const 64) (i32.const 0)) (call $ack)"
        ))
    };
    assert_eq!(rig.run(&key(97, 512), |_| {}).verdict, ACK);
    for (fill, len) in [(97, 513), (97, 0), (10, 5)] {
        assert!(matches!(fault(&rig.run(&key(fill, len), |_| {})), Fault::BadCall(_)), "{fill} {len}");
    }
}

#[test]
fn publishing_is_limited() {
    let rig = Rig::new();
    let publish = |count: u32, bytes: u32| {
        guest_with(
            "out",
            "",
            &format!(
                "(loop $l (call $publish (i32.const 64) (i32.const 3) (i32.const 2048) (i32.const {bytes}))
                    (local.set $i (i32.add (local.get $i) (i32.const 1)))
                    (br_if $l (i32.lt_u (local.get $i) (i32.const {count})))) (call $ack)"
            ),
        )
    };
    let few = |limits: &mut Limits| {
        limits.publish_messages = 3;
        limits.publish_bytes = 30;
    };
    let handled = rig.run(&publish(3, 10), few);
    assert_eq!((handled.verdict, handled.effects.publish.len()), (ACK, 3));
    let setting = |wasm: &[u8]| match fault(&rig.run(wasm, few)) {
        Fault::Limit { setting, limit, .. } => (*setting, *limit),
        other => panic!("{other}"),
    };
    assert_eq!(setting(&publish(4, 1)), ("limits.publish_messages", 3));
    assert_eq!(setting(&publish(2, 16)), ("limits.publish_bytes", 30));
}

#[test]
fn an_instance_may_wait_while_it_is_made_for_as_long_as_an_attempt_may_last() {
    let rig = Rig::new();
    // A subscription to the monotonic clock lies at 64: which clock at 80, how long in nanoseconds at 88.
    let waits = |ms: u64| {
        embed(&format!(
            r#"(module
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $time (param i32 i64 i32) (result i32)))
  (memory (export "memory") 8)
  (global $top (mut i32) (i32.const 65536))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (global.get $top) (global.set $top (i32.add (global.get $top) (local.get 3))))
  (func (export "_initialize")
    ;; As Go's runtime does.
    (if (call $time (i32.const 1) (i64.const 0) (i32.const 2048)) (then unreachable))
    (if (i64.eqz (i64.load (i32.const 2048))) (then unreachable))
    (i32.store (i32.const 80) (i32.const 1))
    (i64.store (i32.const 88) (i64.const {}))
    (if (call $poll (i32.const 64) (i32.const 1024) (i32.const 1) (i32.const 2048)) (then unreachable)))
  (func (export "handle") (param i32) (result i32) (i32.const 4096)))"#,
            ms * 1_000_000
        ))
    };
    let tried = |ms| {
        rig.try_subject(&waits(ms), |subscription| {
            subscription.grants.clock = true;
            subscription.limits.time_ms = 10_000;
        })
    };
    assert!(tried(9_000).is_ok());
    let refused = tried(10_001).err().map(|error| error.to_string());
    assert!(refused.as_ref().is_some_and(|why| why.contains("(limits.time_ms)")), "{refused:?}");
}

#[test]
fn what_a_plugin_that_cannot_start_wrote_is_told() {
    let rig = Rig::new();
    let starts = |bytes: u32, end: &str| {
        let write = format!("(call $log (i32.const 4) (i32.const 64) (i32.const {bytes}))");
        guest_with("no \\22way\\22", &format!("(func (export \"_initialize\") {write} {end})"), "(call $ack)")
    };
    let why = rig.try_subject(&starts(8, "unreachable"), |_| {}).err().unwrap().to_string();
    assert!(why.contains("; upload a version that starts; it wrote \"no \\\"way\\\"\" ("), "{why}");
    assert!(rig.try_subject(&starts(8, ""), |_| {}).is_ok());
    // Zeros, each of which takes two characters when it is told.
    let why = rig.try_subject(&starts(900, "unreachable"), |_| {}).err().unwrap().to_string();
    assert!(why.contains("it wrote") && why.len() < 700, "{} bytes: {why}", why.len());
}
