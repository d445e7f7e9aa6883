//! The campaign system: loyalty points for every order, and a coupon for every third one.
//!
//! * In: orders as JSON on any topic.
//! * State: `points/{customer_id}` is `{"orders":n,"points":n}`. Every order counts as an order; it
//!   earns one point per full dollar. A refund (a negative amount) counts, and earns and costs nothing.
//! * Out: on the 3rd, 6th, … order of a customer a coupon to `coupons.issued`, with the customer as
//!   key and the message id `coupon-{order_id}`.
//!
//! With several workers, have the subscription keep `order: key` (the key being the customer), so
//! that the third order is the third one that was published.

use brolly_plugin::{Delivery, Failure, handler, log, publish, state};
use serde::{Deserialize, Serialize};

/// Orders from one coupon to the next.
const ORDERS_PER_COUPON: u64 = 3;

/// The topic that coupons are published to.
const COUPONS: &str = "coupons.issued";

#[derive(Debug, Deserialize)]
struct Order {
    order_id: String,
    customer_id: String,
    amount_cents: i64,
}

/// What is kept for a customer.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Account {
    orders: u64,
    points: u64,
}

#[derive(Debug, Serialize)]
struct Coupon<'a> {
    coupon_id: &'a str,
    customer_id: &'a str,
    order_id: &'a str,
    orders: u64,
}

#[handler]
fn handle(delivery: Delivery<Order>) -> Result<(), Failure> {
    let order = delivery.payload;
    if order.customer_id.is_empty() {
        return Err(Failure::reject("the order has no customer id"));
    }
    let account = state::update_json(&format!("points/{}", order.customer_id), |account: &mut Account| {
        account.orders += 1;
        account.points += points(order.amount_cents);
    })?;
    if account.orders.is_multiple_of(ORDERS_PER_COUPON) {
        issue_coupon(&order, account.orders)?;
    }
    Ok(())
}

/// One point per full dollar.
fn points(amount_cents: i64) -> u64 {
    u64::try_from(amount_cents).map_or(0, |cents| cents / 100)
}

fn issue_coupon(order: &Order, orders: u64) -> Result<(), Failure> {
    let id = format!("coupon-{}", order.order_id);
    let coupon =
        Coupon { coupon_id: &id, customer_id: &order.customer_id, order_id: &order.order_id, orders };
    publish::Message::new(COUPONS).id(&id).key(&order.customer_id).json(&coupon)?.send();
    log::info!("coupon for order number {orders} of customer {}", order.customer_id);
    Ok(())
}

#[cfg(test)]
mod tests;
