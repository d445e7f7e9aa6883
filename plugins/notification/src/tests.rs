//! The handler's texts and its refusals.

use brolly_plugin::testing::Harness;
use serde_json::{Value, json};

use super::*;

fn order() -> Value {
    json!({"order_id": "o000001", "customer_id": "0001", "paid_on": "1997-01-01", "quantity": 2, "amount_cents": 2_933})
}

fn without(field: &str) -> Value {
    let mut order = order();
    order.as_object_mut().unwrap().remove(field);
    order
}

#[test]
fn the_text_goes_to_the_customer() {
    let attempt = Harness::new().json(&order()).run(handle);
    attempt.assert_ack();
    assert_eq!(attempt.published_text(0), "Dear customer 0001, order o000001 of 29.33 is paid.");
    let [notice] = &attempt.published[..] else { panic!("{:?}", attempt.published) };
    assert_eq!((notice.topic.as_str(), notice.key.as_str()), ("notifications.out", "0001"));
    assert_eq!(notice.id.as_deref(), Some("notice-o000001"));
    assert_eq!(notice.content_type, "text/plain; charset=utf-8");
}

#[test]
fn an_order_without_a_customer_id_is_rejected() {
    let mut harness = Harness::new();
    let blank = |id: Value| {
        let mut order = order();
        order["customer_id"] = id;
        order
    };
    for order in [without("customer_id"), blank(Value::Null), blank("".into()), blank("  ".into())] {
        let attempt = harness.json(&order).run(handle);
        attempt.assert_reject("the order has no customer id");
        assert_eq!(attempt.published, []);
    }
    harness.json(&without("order_id")).run(handle).assert_reject("missing field `order_id`");
}

#[test]
fn the_template_is_the_operators() {
    let template = "{{{order_id}}}: {quantity} pieces on {paid_on}, {amount} USD, {customer_id}";
    let mut harness = Harness::new().config("template", template);
    let attempt = harness.json(&order()).run(handle);
    assert_eq!(attempt.published_text(0), "{o000001}: 2 pieces on 1997-01-01, 29.33 USD, 0001");
    harness
        .json(&without("quantity"))
        .run(handle)
        .assert_reject("quantity, which the text mentions, is missing");

    let mut harness = Harness::new().config("template", "{name}");
    harness.json(&order()).run(handle).assert_retry("configuration template has the field {name}");
}

#[test]
fn amounts_in_dollars() {
    let cases = [(0, "0.00"), (5, "0.05"), (100, "1.00"), (-5, "-0.05"), (-12_345, "-123.45")];
    for (cents, expect) in cases {
        assert_eq!(dollars(cents), expect);
    }
    assert_eq!(dollars(i64::MIN), "-92233720368547758.08");
}
