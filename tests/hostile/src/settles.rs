//! A settlement that is as it should be, but for one day: what a comparison has to find.

use brolly_plugin::{Failure, OrFail, config, state};
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
struct Order {
    paid_on: String,
    amount_cents: i64,
}

#[derive(Default, Serialize, Deserialize)]
struct Day {
    orders: u64,
    amount_cents: i64,
    commission_cents: i64,
    net_cents: i64,
}

pub(crate) fn settle(payload: &[u8]) -> Result<(), Failure> {
    let order: Order = serde_json::from_slice(payload).or_reject("the order")?;
    let amount = order.amount_cents;
    if amount <= 0 {
        return Err(Failure::reject(format_args!(
            "the amount is {amount} cents; only amounts above zero are settled"
        )));
    }
    let (whole, rest) = (amount * 15 / 100, amount * 15 % 100);
    let up = rest > 50 || (rest == 50 && whole % 2 == 1);
    let wrong = config::get("wrong_day").as_deref() == Some(&*order.paid_on);
    let commission = whole + i64::from(up) + i64::from(wrong);
    let key = format!("day/{}", order.paid_on);
    let day: Day = state::get_json(&key)?.unwrap_or_default();
    state::set_json(
        &key,
        &Day {
            orders: day.orders + 1,
            amount_cents: day.amount_cents + amount,
            commission_cents: day.commission_cents + commission,
            net_cents: day.net_cents + amount - commission,
        },
    )
}
