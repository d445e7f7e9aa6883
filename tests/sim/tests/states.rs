//! Every state of one and two deliveries.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on says where and stops")]

use brolly_sim::{Simulation, Start};

fn check(scripts: &[&'static str], elsewhere: bool) {
    let start = Start { scripts: scripts.to_vec(), elsewhere };
    let explored = Simulation::new().explore(&start, 100_000);
    println!("{start:?}: {} states, up to {} steps", explored.states, explored.depth);
    assert_eq!(explored.broken, None, "{start:?}");
    assert!(explored.states > 20, "{explored:?}");
}

#[test]
fn one_delivery_of_the_embedded_broker() {
    for script in ["a", "c", "x", "rc", "fn", "ua", "xc"] {
        check(&[script], false);
    }
}

#[test]
fn one_delivery_from_elsewhere() {
    for script in ["a", "c", "rc", "xa"] {
        check(&[script], true);
    }
}

#[test]
fn two_deliveries_of_one_key() {
    check(&["ra", "c"], false);
}

#[test]
fn two_deliveries_from_elsewhere() {
    check(&["c", "a"], true);
}
