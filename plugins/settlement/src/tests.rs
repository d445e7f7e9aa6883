//! The handler against a plain sequential computation, and its refusals.

use std::collections::BTreeMap;

use brolly_plugin::testing::Harness;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const ORDERS: &str = include_str!("../../../tests/data/orders.csv");

fn order(paid_on: &str, amount_cents: i64) -> Value {
    json!({"order_id": "o1", "customer_id": "0001", "paid_on": paid_on, "quantity": 1, "amount_cents": amount_cents})
}

/// What a day's state must be after these amounts, computed the slow way: the commission is found
/// by asking of each candidate whether it is the nearest.
fn expected(amounts: &[i64], percent: i128) -> Value {
    let nearest = |amount: i64| {
        let exact = i128::from(amount) * percent;
        let off = |cents: i128| (cents * 100 - exact).abs();
        let candidates = exact / 100..=exact / 100 + 1;
        candidates.min_by_key(|&cents| (off(cents), cents % 2)).unwrap()
    };
    let amount: i128 = amounts.iter().copied().map(i128::from).sum();
    let commission: i128 = amounts.iter().copied().map(nearest).sum();
    json!({
        "orders": amounts.len(),
        "amount_cents": i64::try_from(amount).unwrap(),
        "commission_cents": i64::try_from(commission).unwrap(),
        "net_cents": i64::try_from(amount - commission).unwrap(),
    })
}

#[test]
fn one_order() {
    let mut harness = Harness::new();
    harness.json(&order("1997-01-01", 2_933)).run(handle).assert_ack();
    let expect = json!({"orders": 1, "amount_cents": 2_933, "commission_cents": 440, "net_cents": 2_493});
    assert_eq!(harness.state_json("day/1997-01-01"), expect);
}

#[test]
fn all_orders_give_the_totals_of_a_plain_computation() {
    let mut harness = Harness::new().config("commission_percent", "15");
    let mut days: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    let mut rejected = 0;
    for line in ORDERS.lines().skip(1) {
        let [order_id, customer_id, paid_on, _quantity, amount] = line.split(',').collect::<Vec<_>>()[..]
        else {
            panic!("{line}")
        };
        let amount: i64 = amount.parse().unwrap();
        let payload = json!({"order_id": order_id, "customer_id": customer_id, "paid_on": paid_on, "amount_cents": amount});
        let attempt = harness.json(&payload).key(customer_id).run(handle);
        if amount > 0 {
            attempt.assert_ack();
            days.entry(paid_on).or_default().push(amount);
        } else {
            attempt.assert_reject("only amounts above zero are settled");
            rejected += 1;
        }
    }
    assert_eq!(rejected + days.values().map(Vec::len).sum::<usize>(), 6_919);
    assert_eq!(harness.state_entries().count(), days.len());
    for (day, amounts) in days {
        assert_eq!(harness.state_json(&format!("day/{day}")), expected(&amounts, 15), "{day}");
    }
}

#[test]
fn refusals_leave_nothing_behind() {
    let mut harness = Harness::new();
    harness.json(&order("1997-01-01", 0)).run(handle).assert_reject("the amount is 0 cents");
    harness.json(&order("1997-01-01", -5)).run(handle).assert_reject("the amount is -5 cents");
    for day in ["", "1997-1-1", "01.01.1997", "1997-01-01T00:00:00Z", "1997-01-0\n", "١٩٩٧-٠"] {
        harness.json(&order(day, 5)).run(handle).assert_reject("no date");
    }
    harness.json(&json!({"paid_on": "1997-01-01"})).run(handle).assert_reject("missing field `amount_cents`");
    harness.json(&json!({"paid_on": "1997-01-01", "amount_cents": 29.33})).run(handle).assert_reject("29.33");
    harness.delivery("{").run(handle).assert_reject("line 1 column 1");
    assert_eq!(harness.state_entries().count(), 0);
}

#[test]
fn a_wrong_configuration_is_for_the_operator_to_mend() {
    let mut harness = Harness::new().config("commission_percent", "fifteen");
    harness.json(&order("1997-01-01", 5)).run(handle).assert_retry("commission_percent is \"fifteen\"");
    assert_eq!(harness.state_entries().count(), 0);
    harness = harness.config("commission_percent", "0.5");
    harness.json(&order("1997-01-01", 300)).run(handle).assert_ack();
    assert_eq!(harness.state_json("day/1997-01-01")["commission_cents"], 2);
}

#[test]
fn totals_that_do_not_fit_are_refused_and_kept() {
    let mut harness = Harness::new();
    harness.json(&order("1997-01-01", i64::MAX)).run(handle).assert_ack();
    let before = harness.state_json("day/1997-01-01");
    harness.json(&order("1997-01-01", 1)).run(handle).assert_reject("room for 1 cents");
    assert_eq!(harness.state_json("day/1997-01-01"), before);
}

proptest! {
    #[test]
    fn any_orders_in_any_order(
        orders in prop::collection::vec((1_u32..4, 1_i64..1_000_000_000), 0..40),
        percent in 0_i64..=100,
    ) {
        let mut harness = Harness::new().config("commission_percent", percent.to_string());
        let mut days: BTreeMap<String, Vec<i64>> = BTreeMap::new();
        for (day, amount) in orders {
            let day = format!("1998-02-{day:02}");
            harness.json(&order(&day, amount)).run(handle).assert_ack();
            days.entry(day).or_default().push(amount);
        }
        for (day, amounts) in days {
            prop_assert_eq!(harness.state_json(&format!("day/{day}")), expected(&amounts, percent.into()));
        }
    }
}
