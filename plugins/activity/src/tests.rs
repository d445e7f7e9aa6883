//! The handler against a plain sequential computation, and its refusals.

use std::collections::BTreeMap;

use brolly_plugin::testing::Harness;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const ORDERS: &str = include_str!("../../../tests/data/orders.csv");

fn order(order_id: &str, customer_id: &str, amount_cents: i64) -> Value {
    json!({"order_id": order_id, "customer_id": customer_id, "amount_cents": amount_cents})
}

/// Customers with their orders in order: number and amount.
type Customers = BTreeMap<String, Vec<(String, i64)>>;

/// Compares state and coupons with what a plain computation makes of the same orders.
fn check(harness: &Harness, mut coupons: Vec<publish::Message>, customers: &Customers) {
    assert_eq!(harness.state_entries().count(), customers.len());
    let mut expect = Vec::new();
    for (customer, orders) in customers {
        let points: i64 = orders.iter().map(|(_, amount)| if *amount > 0 { amount / 100 } else { 0 }).sum();
        let account = json!({"orders": orders.len(), "points": points});
        assert_eq!(harness.state_json(&format!("points/{customer}")), account, "{customer}");
        expect.extend(
            orders.iter().skip(2).step_by(3).map(|(order, _)| (format!("coupon-{order}"), customer.clone())),
        );
    }
    coupons.sort_by(|one, other| one.id.cmp(&other.id));
    expect.sort();
    assert!(coupons.iter().all(|coupon| coupon.topic == "coupons.issued"));
    let coupons: Vec<_> =
        coupons.into_iter().map(|coupon| (coupon.id.unwrap_or_default(), coupon.key)).collect();
    assert_eq!(coupons, expect);
}

/// Runs orders one after the other and checks the end.
fn run(orders: impl IntoIterator<Item = (String, String, i64)>) -> usize {
    let (mut harness, mut coupons, mut customers) = (Harness::new(), Vec::new(), Customers::new());
    let mut count = 0;
    for (order_id, customer, amount) in orders {
        let attempt = harness.json(&order(&order_id, &customer, amount)).key(&customer).run(handle);
        attempt.assert_ack();
        coupons.extend(attempt.published);
        customers.entry(customer).or_default().push((order_id, amount));
        count += 1;
    }
    check(&harness, coupons, &customers);
    count
}

#[test]
fn all_orders_give_the_points_and_coupons_of_a_plain_computation() {
    let orders = ORDERS.lines().skip(1).map(|line| {
        let [order_id, customer, _paid_on, _quantity, amount] = line.split(',').collect::<Vec<_>>()[..]
        else {
            panic!("{line}")
        };
        (order_id.to_owned(), customer.to_owned(), amount.parse().unwrap())
    });
    assert_eq!(run(orders), 6_919);
}

#[test]
fn the_third_order_brings_a_coupon() {
    let mut harness = Harness::new();
    let mut orders = |number: &str, cents| harness.json(&order(number, "0001", cents)).run(handle);
    assert_eq!(orders("o1", 199).published, []);
    assert_eq!(orders("o2", 0).published, []);
    let third = orders("o3", 100);
    assert_eq!(third.published.len(), 1);
    assert_eq!(
        third.published_json(0),
        json!({"coupon_id": "coupon-o3", "customer_id": "0001", "order_id": "o3", "orders": 3})
    );
    assert_eq!(orders("o4", -5_000).published, []);
    assert_eq!(harness.state_json("points/0001"), json!({"orders": 4, "points": 2}));
}

#[test]
fn refusals_leave_nothing_behind() {
    let mut harness = Harness::new();
    harness.json(&order("o1", "", 500)).run(handle).assert_reject("no customer id");
    harness
        .json(&json!({"order_id": "o1", "amount_cents": 1}))
        .run(handle)
        .assert_reject("missing field `customer_id`");
    harness.delivery("").run(handle).assert_reject("EOF");
    assert_eq!(harness.state_entries().count(), 0);
}

#[test]
fn a_state_of_another_shape_is_not_overwritten() {
    let mut harness = Harness::new().with_state("points/0001", "17");
    harness.json(&order("o1", "0001", 500)).run(handle).assert_retry("the state under \"points/0001\"");
    assert_eq!(harness.state_json("points/0001"), 17);
}

proptest! {
    #[test]
    fn any_orders_of_any_customers(orders in prop::collection::vec((0_u8..4, -20_000_i64..1_000_000), 0..60)) {
        run(orders.into_iter().enumerate().map(|(n, (customer, amount))| (format!("o{n}"), format!("c{customer}"), amount)));
    }
}
