//! The real orders, and what a plain sequential program makes of them.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::{Deserialize, Serialize};

/// One purchase.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// Unique.
    pub order_id: String,
    /// Who bought.
    pub customer_id: String,
    /// The day, `YYYY-MM-DD`.
    pub paid_on: String,
    /// How many.
    pub quantity: u32,
    /// How much, in cents.
    pub amount_cents: i64,
}

/// The project's own copy of the order data.
#[must_use]
pub fn real() -> Vec<Order> {
    let path = crate::root().join("tests/data/orders.csv");
    let mut reader =
        csv::Reader::from_path(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    reader.deserialize().map(|row| row.expect("every row is an order")).collect()
}

/// `count` orders, made from the real ones with new ids and customers.
#[must_use]
pub fn multiplied(count: usize) -> Vec<Order> {
    let real = real();
    let made = |i: usize| {
        let order = &real[i % real.len()];
        let round = i / real.len();
        Order {
            order_id: format!("r{round}-{}", order.order_id),
            customer_id: format!("r{round}-{}", order.customer_id),
            ..order.clone()
        }
    };
    (0..count).map(made).collect()
}

/// The same orders under other ids, which begin with this.
#[must_use]
pub fn named(prefix: &str, orders: &[Order]) -> Vec<Order> {
    let named = |order: &Order| Order { order_id: format!("{prefix}{}", order.order_id), ..order.clone() };
    orders.iter().map(named).collect()
}

/// As the body of one bulk publish.
#[must_use]
pub fn ndjson(orders: &[Order]) -> String {
    orders.iter().fold(String::new(), |mut lines, order| {
        let payload = serde_json::to_string(order).expect("an order is JSON");
        let (id, key) = (&order.order_id, &order.customer_id);
        writeln!(lines, r#"{{"id":"{id}","key":"{key}","payload":{payload}}}"#).expect("a String takes all");
        lines
    })
}

/// Settlement's total of one day.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "as in the state of the plugin")]
pub struct Day {
    pub orders: i64,
    pub amount_cents: i64,
    pub commission_cents: i64,
    pub net_cents: i64,
}

/// Activity's total of one customer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "as in the state of the plugin")]
pub struct Points {
    pub orders: i64,
    pub points: i64,
}

/// What the three sample plugins must have come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// By `day/…`.
    pub days: BTreeMap<String, Day>,
    /// By `points/…`.
    pub points: BTreeMap<String, Points>,
    /// How many coupons each customer gets.
    pub coupons: BTreeMap<String, i64>,
    /// Orders that settlement rejects.
    pub rejected: Vec<String>,
}

/// Computes the totals one order after the other.
#[must_use]
pub fn totals(orders: &[Order]) -> Totals {
    let mut totals = Totals::default();
    for order in orders {
        let points = totals.points.entry(format!("points/{}", order.customer_id)).or_default();
        points.orders += 1;
        points.points += order.amount_cents.max(0) / 100;
        if points.orders % 3 == 0 {
            *totals.coupons.entry(order.customer_id.clone()).or_default() += 1;
        }
        if order.amount_cents <= 0 {
            totals.rejected.push(order.order_id.clone());
            continue;
        }
        let commission = commission(order.amount_cents);
        let day = totals.days.entry(format!("day/{}", order.paid_on)).or_default();
        day.orders += 1;
        day.amount_cents += order.amount_cents;
        day.commission_cents += commission;
        day.net_cents += order.amount_cents - commission;
    }
    totals
}

/// 15 %, rounded half-even to the cent.
fn commission(amount_cents: i64) -> i64 {
    let (whole, rest) = (amount_cents * 15 / 100, amount_cents * 15 % 100);
    match rest.cmp(&50) {
        std::cmp::Ordering::Less => whole,
        std::cmp::Ordering::Equal => whole + whole % 2,
        std::cmp::Ordering::Greater => whole + 1,
    }
}
