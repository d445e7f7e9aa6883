//! Counts the orders of each customer, and welcomes the new ones.
//!
//! * In: orders as JSON, `{"order_id":"o1","customer_id":"0001","amount_cents":2933}`.
//! * State: `orders/{customer_id}` is how many there were.
//! * Out: on a customer's first order a welcome to `{name}.out`, with the message id
//!   `welcome-{order_id}`. An amount of zero or less is rejected.

use brolly_plugin::{Delivery, Failure, config, handler, log, publish, state};
use serde::Deserialize;

#[derive(Deserialize)]
struct Order {
    order_id: String,
    customer_id: String,
    amount_cents: i64,
}

#[handler]
fn handle(delivery: Delivery<Order>) -> Result<(), Failure> {
    let order = delivery.payload;
    if order.amount_cents <= 0 {
        return Err(Failure::reject("the amount is not positive"));
    }
    let orders = state::update_json(
        &format!("orders/{}", order.customer_id),
        |orders: &mut u64| *orders += 1,
    )?;
    log::info!("order number {orders} of customer {}", order.customer_id);
    if orders == 1 {
        let greeting = config::get("greeting").unwrap_or_else(|| "Welcome".to_owned());
        publish::Message::new("{name}.out")
            .id(format!("welcome-{}", order.order_id))
            .key(&order.customer_id)
            .text(format!("{greeting}, customer {}!", order.customer_id))
            .send();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use brolly_plugin::testing::Harness;
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_first_order_is_welcomed() {
        let mut harness = Harness::new().config("greeting", "Hello");
        let first = harness
            .json(&json!({"order_id": "o1", "customer_id": "0001", "amount_cents": 2933}))
            .run(handle);
        first.assert_ack();
        assert_eq!(first.published_text(0), "Hello, customer 0001!");
        let second = harness
            .json(&json!({"order_id": "o2", "customer_id": "0001", "amount_cents": 100}))
            .run(handle);
        assert!(second.published.is_empty());
        assert_eq!(harness.state_json("orders/0001"), 2);
    }

    #[test]
    fn an_amount_of_nothing_is_rejected() {
        let mut harness = Harness::new();
        let order = json!({"order_id": "o1", "customer_id": "0001", "amount_cents": 0});
        harness
            .json(&order)
            .run(handle)
            .assert_reject("not positive");
        assert_eq!(harness.state_entries().count(), 0);
    }
}
