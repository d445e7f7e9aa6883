//! Fresh and reused instances, the pool that they come from, and the ticker.

use std::time::{Duration, Instant};

use brolly_core::Reuse;

use super::*;

/// Counts its deliveries in its own memory and logs the count as one character; breaks down at the
/// count that `end` says, if it says any.
fn counter(end: &str) -> Vec<u8> {
    guest_with(
        "0",
        "",
        &format!(
            "(i32.store8 (i32.const 64) (i32.add (i32.const 1) (i32.load8_u (i32.const 64))))
             (call $log (i32.const 2) (i32.const 64) (i32.const 1)) {end} (call $ack)"
        ),
    )
}

fn reuse(subscription: &mut Subscription) {
    subscription.instances = Reuse::Reuse;
}

#[test]
fn a_fresh_instance_remembers_nothing() {
    let rig = Rig::new();
    let subject = rig.subject(&counter(""), |_| {});
    for _ in 0..100 {
        assert_eq!(texts(&subject.deliver()), ["1"]);
    }
}

#[test]
fn a_reused_instance_remembers() {
    let rig = Rig::new();
    let subject = rig.subject(&counter(""), reuse);
    for expect in ["1", "2", "3"] {
        assert_eq!(texts(&subject.deliver()), [expect]);
    }
}

#[test]
fn a_reused_instance_is_thrown_away_after_a_fault_and_only_then() {
    let rig = Rig::new();
    let at_three = |what: &str| {
        counter(&format!("(if (i32.eq (i32.load8_u (i32.const 64)) (i32.const 51)) (then {what}))"))
    };
    let check = |wasm: &[u8], expect: &[&str]| {
        let subject = rig.subject(wasm, reuse);
        for expect in expect {
            assert_eq!(texts(&subject.deliver()), [*expect]);
        }
    };
    check(&at_three("unreachable"), &["1", "2", "3", "1"]);
    check(&at_three("(call $delete (i32.const 64) (i32.const 0))"), &["1", "2", "3", "1"]);
    check(&at_three("(return (call $reject (i32.const 64) (i32.const 1)))"), &["1", "2", "3", "4"]);
}

#[test]
fn a_reused_instance_is_replaced_after_ten_thousand_calls() {
    let rig = Rig::new();
    let wasm = guest_with(
        "",
        "(global $n (mut i32) (i32.const 0))",
        "(global.set $n (i32.add (global.get $n) (i32.const 1)))
         (if (i32.gt_u (global.get $n) (i32.const 10000)) (then unreachable)) (call $ack)",
    );
    let subject = rig.subject(&wasm, reuse);
    for n in 0..20_100 {
        assert_eq!(subject.deliver().verdict, ACK, "call {n}");
    }
}

#[test]
fn a_limit_counts_for_each_delivery_of_a_reused_instance() {
    let rig = Rig::new();
    let wasm = guest_with(
        "out",
        "",
        "(call $publish (i32.const 64) (i32.const 3) (i32.const 64) (i32.const 3))
         (call $set (i32.const 64) (i32.const 3) (i32.const 64) (i32.const 3))
         (call $log (i32.const 2) (i32.const 64) (i32.const 3)) (call $ack)",
    );
    let subject = rig.subject(&wasm, |subscription| {
        reuse(subscription);
        let limits = &mut subscription.limits;
        (limits.publish_messages, limits.publish_bytes) = (1, 3);
        (limits.state_writes, limits.state_bytes, limits.log_bytes) = (1, 6, 3);
    });
    for _ in 0..3 {
        let handled = subject.deliver();
        assert_eq!(handled.verdict, ACK);
        assert_eq!((handled.effects.publish.len(), handled.effects.state.len()), (1, 1));
        assert_eq!((texts(&handled), handled.logs_dropped), (vec!["out"], 0));
        assert_eq!(handled.effects.publish[0].message.id.as_deref(), Some("orders/7/0"));
    }
}

#[test]
fn time_is_limited_for_each_delivery_of_a_reused_instance() {
    let rig = Rig::new();
    // Endless at the second delivery only.
    let wasm = counter("(if (i32.eq (i32.load8_u (i32.const 64)) (i32.const 50)) (then (loop $l (br $l))))");
    let subject = rig.subject(&wasm, |subscription| {
        reuse(subscription);
        subscription.limits.time_ms = 30;
    });
    assert_eq!(subject.deliver().verdict, ACK);
    assert_eq!(*fault(&subject.deliver()), Fault::TimeOut { limit_ms: 30 });
    assert_eq!(texts(&subject.deliver()), ["1"]);
}

#[test]
fn idle_instances_make_room_for_others() {
    let rig = Rig::new();
    let wasm = guest("(call $ack)");
    // The pool has room for 20 memories; each of these keeps one.
    let idle: Vec<Subject> = (0..60).map(|_| rig.subject(&wasm, reuse)).collect();
    for subject in &idle {
        assert_eq!(subject.deliver().verdict, ACK);
    }
}

#[test]
fn a_full_pool_is_no_fault_of_the_handler() {
    let rig = Rig::new();
    let subject = rig.subject(&guest("(call $ack)"), |_| {});
    let read = "(call $get (i32.const 64) (i32.const 1) (i32.const 2048)) (call $ack)";
    let waiting = rig.subject(&guest_with("k", "", read), |_| {});
    let hold = Hold::default();
    std::thread::scope(|scope| {
        // Guests that sit in a host call until they are let go.
        let threads: Vec<_> = (0..40).map(|_| scope.spawn(|| waiting.deliver_with("key", &hold))).collect();
        hold.wait_for(16);
        let handled = subject.deliver();
        hold.release();
        assert!(
            matches!(&handled.verdict, Verdict::Unavailable(reason) if reason.contains("max_instances")),
            "{:?}",
            handled.verdict
        );
        for thread in threads {
            drop(thread.join().unwrap());
        }
    });
    assert_eq!(subject.deliver().verdict, ACK, "there is room again");
}

#[test]
fn many_threads_use_one_handler() {
    let rig = Rig::new();
    for mode in [Reuse::Fresh, Reuse::Reuse] {
        let subject = rig.subject(&guest("(call $ack)"), |subscription| {
            subscription.instances = mode;
            subscription.workers = 4;
        });
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        assert_eq!(subject.deliver().verdict, ACK);
                    }
                });
            }
        });
    }
}

#[test]
fn the_ticker_sleeps_when_idle_and_wakes_for_a_call() {
    let rig = Rig::new();
    let subject = rig.subject(&guest("(loop $l (br $l)) unreachable"), |s| s.limits.time_ms = 20);
    for _ in 0..3 {
        until(|| rig.runtime.host().ticker.is_asleep());
        assert_eq!(*fault(&subject.deliver()), Fault::TimeOut { limit_ms: 20 });
    }
}

#[test]
fn a_handler_outlives_its_runtime() {
    let rig = Rig::new();
    let subject = rig.subject(&guest("(loop $l (br $l)) unreachable"), |s| s.limits.time_ms = 20);
    drop(rig);
    assert_eq!(*fault(&subject.deliver()), Fault::TimeOut { limit_ms: 20 });
}

/// Waits for a condition, for ten seconds at most.
fn until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "it did not come true in time");
        std::thread::yield_now();
    }
}

/// A store whose reads wait until they are released.
#[derive(Default)]
struct Hold {
    state: parking_lot::Mutex<(usize, bool)>,
    changed: parking_lot::Condvar,
}

impl Hold {
    fn wait_for(&self, waiting: usize) {
        let mut state = self.state.lock();
        while state.0 < waiting {
            let timed_out = self.changed.wait_for(&mut state, Duration::from_secs(10)).timed_out();
            assert!(!timed_out, "only {} guests are waiting", state.0);
        }
    }

    fn release(&self) {
        self.state.lock().1 = true;
        self.changed.notify_all();
    }
}

impl StateReader for Hold {
    fn get(&self, _: &str) -> Result<Option<Bytes>, StateUnavailable> {
        let mut state = self.state.lock();
        state.0 += 1;
        self.changed.notify_all();
        while !state.1 {
            self.changed.wait(&mut state);
        }
        Ok(None)
    }

    fn list(&self, _: &str, _: Option<&str>, _: usize) -> Result<Vec<StateEntry>, StateUnavailable> {
        Ok(Vec::new())
    }
}
