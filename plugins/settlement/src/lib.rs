//! The accounting system: for each day the orders, their amount, our commission and the net.
//!
//! * In: orders as JSON on any topic. An amount of zero or less is rejected.
//! * State: `day/{paid_on}` is `{"orders":n,"amount_cents":n,"commission_cents":n,"net_cents":n}`.
//!   The commission is rounded half-even to the cent for each order, so the totals do not depend on
//!   the order of the orders.
//! * Configuration: `commission_percent`, 0 to 100 with up to two decimals; 15 if it is not set. A
//!   value that makes no sense is answered with a retry, not with a rejection: the order is sound,
//!   and is settled once the operator has mended the configuration.

use brolly_plugin::{Delivery, Failure, OrFail, config, handler, state};
use serde::{Deserialize, Serialize};

mod commission;

use commission::Commission;

#[derive(Debug, Deserialize)]
struct Order {
    paid_on: String,
    amount_cents: i64,
}

/// What is kept for a day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Totals {
    orders: u64,
    amount_cents: i64,
    commission_cents: i64,
    net_cents: i64,
}

#[handler]
fn handle(delivery: Delivery<Order>) -> Result<(), Failure> {
    let order = delivery.payload;
    if order.amount_cents <= 0 {
        let why =
            format_args!("the amount is {} cents; only amounts above zero are settled", order.amount_cents);
        return Err(Failure::reject(why));
    }
    if !is_date(&order.paid_on) {
        let why = format_args!("paid_on is {:?}, which is no date written YYYY-MM-DD", order.paid_on);
        return Err(Failure::reject(why));
    }
    let commission: Commission = config::parse("commission_percent")?.unwrap_or_default();
    let key = format!("day/{}", order.paid_on);
    let totals: Totals = state::get_json(&key)?.unwrap_or_default();
    let totals = totals.with(order.amount_cents, commission.of(order.amount_cents)).or_reject(
        format_args!("room for {} cents more in the totals of {}", order.amount_cents, order.paid_on),
    )?;
    state::set_json(&key, &totals)
}

impl Totals {
    /// The totals with one order more; none if a number would not fit.
    fn with(self, amount_cents: i64, commission_cents: i64) -> Option<Self> {
        Some(Self {
            orders: self.orders.checked_add(1)?,
            amount_cents: self.amount_cents.checked_add(amount_cents)?,
            commission_cents: self.commission_cents.checked_add(commission_cents)?,
            net_cents: self.net_cents.checked_add(amount_cents.checked_sub(commission_cents)?)?,
        })
    }
}

/// Whether the text has the shape of a date, so that it can be a part of a key.
fn is_date(text: &str) -> bool {
    text.len() == 10
        && text.bytes().enumerate().all(|(at, byte)| match at {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        })
}

#[cfg(test)]
mod tests;
