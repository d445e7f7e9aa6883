//! How payloads become types, and errors become failures.

use std::{fmt, time::Duration};

use brolly_plugin::{
    Delivery, Failure, OrFail, Payload, Raw,
    testing::{Harness, Outcome},
};

#[derive(Debug, PartialEq, serde::Deserialize)]
struct Order {
    order_id: String,
    amount_cents: i64,
}

/// Delivers `payload` to a handler of `Delivery<T>` that acknowledges.
fn check<T: Payload>(payload: &[u8], expect: Result<(), &str>) {
    let attempt = Harness::new().delivery(payload).run(|_: Delivery<T>| Ok(()));
    match expect {
        Ok(()) => attempt.assert_ack(),
        Err(part) => attempt.assert_reject(part),
    }
}

#[test]
fn json_is_read_before_the_handler_is_called() {
    check::<Order>(br#" {"order_id":"o1","amount_cents":5,"more":[]} "#, Ok(()));
    check::<Order>(
        b"{\"order_id\":\n 7}",
        Err("the payload is not the JSON of Order: invalid type: integer `7`"),
    );
    check::<Order>(b"{\"order_id\":\n 7}", Err("at line 2 column 2"));
    check::<Order>(br#"{"order_id":"o1"}"#, Err("missing field `amount_cents`"));
    check::<Order>(br#"{"order_id":"o1","amount_cents":5} x"#, Err("trailing characters"));
    check::<Order>(b"", Err("EOF while parsing a value at line 1 column 0"));
    check::<Order>(b"{\"order_id\":\"\xff\",\"amount_cents\":5}", Err("line 1 column"));
    check::<Vec<Order>>(b"{}", Err("the payload is not the JSON of alloc::vec::Vec<payload::Order>"));
}

#[test]
fn raw_payloads_are_taken_as_they_are() {
    check::<Raw>(b"\xff\x00", Ok(()));
    let attempt =
        Harness::new().delivery(b"\xff").run(|delivery: Delivery| delivery.payload.text().map(drop));
    attempt.assert_reject("the payload is no text: invalid utf-8");
}

#[test]
fn a_raw_delivery_can_be_decoded_later_and_stays_what_it_was() {
    let mut harness = Harness::new();
    let trial =
        harness.delivery(r#"{"order_id":"o1","amount_cents":5}"#).key("k").attempt(2).header("b", "2");
    let attempt = trial.header("a", "1").header("b", "3").run(|delivery: Delivery| {
        let before = delivery.clone();
        let after = delivery.decode::<Order>()?;
        assert_eq!(after.payload, Order { order_id: "o1".into(), amount_cents: 5 });
        assert_eq!((&after.id, &after.key, after.attempt), (&before.id, &before.key, 2));
        assert_eq!((after.header("a"), after.header("b"), after.header("B")), (Some("1"), Some("3"), None));
        assert_eq!(after.headers, before.headers);
        assert_eq!(after.idempotency_key, before.idempotency_key);
        Ok(())
    });
    attempt.assert_ack();
}

#[derive(Debug)]
struct Outer(std::num::ParseIntError);

impl fmt::Display for Outer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no number of pieces")
    }
}

impl std::error::Error for Outer {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

#[test]
fn a_question_mark_retries_with_all_causes() {
    fn pieces(text: &str) -> Result<u32, Failure> {
        Ok(text.parse().map_err(Outer)?)
    }
    assert_eq!(pieces("3"), Ok(3));
    assert_eq!(pieces("x"), Err(Failure::retry("no number of pieces: invalid digit found in string")));
}

#[test]
fn failures_say_what_they_are_about() {
    let wrong = || "x".parse::<u8>();
    assert_eq!(wrong().or_reject("pieces"), Err(Failure::reject("pieces: invalid digit found in string")));
    assert_eq!(wrong().or_retry("pieces"), Err(Failure::retry("pieces: invalid digit found in string")));
    assert_eq!(None::<u8>.or_reject("the key"), Err(Failure::reject("the key is missing")));
    assert_eq!(None::<u8>.or_retry("the key"), Err(Failure::retry("the key is missing")));
    let later = Failure::retry_after("busy", Duration::from_secs(3));
    assert_eq!(
        later,
        Failure::Retry { reason: "busy".into(), delay: Some(Duration::from_secs(3)), dependency: None }
    );
    let attempt = Harness::new().delivery("").run(|_: Delivery| Err(later.clone()));
    assert_eq!(attempt.outcome, Outcome::Failed(later));
}
