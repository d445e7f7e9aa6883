//! The customer contact system: a short text for each order.
//!
//! * In: orders as JSON on any topic. An order without a customer id is rejected.
//! * Out: the text to `notifications.out`, with the customer as key and the message id
//!   `notice-{order_id}`. No state.
//! * Configuration: `template`, the text with the fields `{customer_id}`, `{order_id}`, `{paid_on}`,
//!   `{quantity}` and `{amount}` (in dollars, `29.33`); `{{` and `}}` stand for braces. A template
//!   that cannot be rendered is answered with a retry: it is the operator's to mend, and the
//!   message is sound.

use brolly_plugin::{Delivery, Failure, OrFail, config, handler, publish};
use serde::Deserialize;

mod template;

/// The topic that texts are published to.
const NOTIFICATIONS: &str = "notifications.out";

/// The text if none is configured.
const TEMPLATE: &str = "Dear customer {customer_id}, order {order_id} of {amount} is paid.";

#[derive(Debug, Deserialize)]
struct Order {
    order_id: String,
    customer_id: Option<String>,
    paid_on: Option<String>,
    quantity: Option<i64>,
    amount_cents: Option<i64>,
}

#[handler]
fn handle(delivery: Delivery<Order>) -> Result<(), Failure> {
    let order = delivery.payload;
    let customer = order.customer_id.as_deref().filter(|id| !id.trim().is_empty());
    let customer = customer
        .ok_or_else(|| Failure::reject("the order has no customer id, so there is nobody to write to"))?;
    let template = config::get("template");
    let text = template::render(template.as_deref().unwrap_or(TEMPLATE), |field| order.field(field))?;
    publish::Message::new(NOTIFICATIONS)
        .id(format!("notice-{}", order.order_id))
        .key(customer)
        .header("customer-id", customer)
        .text(text)
        .send();
    Ok(())
}

impl Order {
    /// The value of a field of the template.
    fn field(&self, name: &str) -> Result<String, Failure> {
        match name {
            "customer_id" => self.customer_id.clone().or_reject("customer_id"),
            "order_id" => Ok(self.order_id.clone()),
            "paid_on" => self.paid_on.clone().or_reject("paid_on, which the text mentions,"),
            "quantity" => self
                .quantity
                .map(|quantity| quantity.to_string())
                .or_reject("quantity, which the text mentions,"),
            "amount" => self.amount_cents.map(dollars).or_reject("amount_cents, which the text mentions,"),
            other => Err(template::mistake(format_args!(
                "has the field {{{other}}}; there are customer_id, order_id, paid_on, quantity and amount"
            ))),
        }
    }
}

/// An amount in dollars with two decimals.
fn dollars(cents: i64) -> String {
    let sign = if cents < 0 { "-" } else { "" };
    let cents = cents.unsigned_abs();
    format!("{sign}{}.{:02}", cents / 100, cents % 100)
}

#[cfg(test)]
mod tests;
