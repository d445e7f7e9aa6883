//! Clocks, waiting, and random numbers.

use std::time::{Duration, Instant};

use brolly_capture::Read;
use brolly_core::{Clock, SystemClock};
use serde_json::{Value, json};

use super::Rig;

fn subscription(config: Value, grants: Value) -> Value {
    let mut all = json!({"topic": "out"});
    all.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
    json!({"config": all, "grants": grants})
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clock_is_that_of_the_machine_and_waiting_takes_its_time() {
    let rig = Rig::new();
    let before = SystemClock.now().0;
    let run = rig.run("hostile", &subscription(json!({"mode": "times", "ms": "30"}), json!({"clock": true})));
    let after = SystemClock.now().0;
    let told = run.told();
    let times: Vec<u64> = told.split(' ').map(|text| text.parse().unwrap()).collect();
    assert!((before..=after).contains(&times[0]) && (times[0]..=after).contains(&times[1]), "{told}");
    assert!((30..=after - before + 1).contains(&times[2]), "{told}");
    let without = subscription(json!({"mode": "times"}), json!({"random": true}));
    rig.run("hostile", &without)
        .is("fault", "not granted: to read the clock (grants.clock of the subscription s)");
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_and_asking_for_the_time_count_against_the_limits() {
    let rig = Rig::new();
    let limited = |mode: &str| {
        let mut more = subscription(json!({"mode": mode, "ms": "600000"}), json!({"clock": true}));
        more["limits"] = json!({"time_ms": 100});
        more
    };
    let began = Instant::now();
    let waited = rig.run("hostile", &limited("times"));
    waited.is("fault", "(limits.time_ms)");
    assert!(began.elapsed() >= Duration::from_millis(100));
    assert!(waited.capture.reads.contains(&Read::Wait { passed: false }), "{:?}", waited.capture.reads);
    let asked = rig.run_once("hostile", &limited("time_loop"));
    asked.is("fault", "(limits.time_ms)");
    // One who asks again and again within a millisecond takes no more room.
    assert!(asked.capture.reads.len() <= 200, "{}", asked.capture.reads.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn random_numbers_are_granted_and_different_each_time() {
    let rig = Rig::new();
    let dice = |bytes: u64, grants: Value| {
        rig.run("hostile", &subscription(json!({"mode": "dice", "bytes": bytes.to_string()}), grants))
    };
    let granted = || json!({"random": true});
    let (one, other) = (dice(8, granted()).told(), dice(8, granted()).told());
    assert_eq!((one.len(), other.len()), (16, 16));
    assert_ne!(one, other);
    dice(8, json!({"clock": true})).is("fault", "not granted: to draw random numbers (grants.random");
    assert_eq!(dice(65_536, granted()).told().len(), 131_072);
    dice(65_537, granted()).is("fault", "65537 random bytes in one call, the limit is 65536");
}
