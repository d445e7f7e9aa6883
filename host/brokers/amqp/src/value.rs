//! Values of AMQP's tables as text.
//!
//! Called by the decoder. Pure; what cannot be text (bytes, tables) is written so that it can be read
//! back by people and programs.

use base64::{Engine, engine::general_purpose::STANDARD};
use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Map, Value};

/// A header's value as text: text as it is, numbers in decimal, `true` and `false`, tables and arrays
/// as JSON, bytes that are no text as `base64:…`, nothing as "".
pub(crate) fn to_text(value: &AMQPValue) -> String {
    match to_json(value) {
        Value::String(text) => text,
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// A whole number, however it is written.
pub(crate) fn to_number(value: &AMQPValue) -> Option<u64> {
    to_text(value).parse().ok()
}

/// Text, or what stands for bytes that are none.
pub(crate) fn bytes_to_text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => format!("base64:{}", STANDARD.encode(bytes)),
    }
}

fn to_json(value: &AMQPValue) -> Value {
    match value {
        AMQPValue::Boolean(value) => Value::from(*value),
        AMQPValue::ShortShortInt(value) => Value::from(*value),
        AMQPValue::ShortShortUInt(value) => Value::from(*value),
        AMQPValue::ShortInt(value) => Value::from(*value),
        AMQPValue::ShortUInt(value) => Value::from(*value),
        AMQPValue::LongInt(value) => Value::from(*value),
        AMQPValue::LongUInt(value) => Value::from(*value),
        AMQPValue::LongLongInt(value) => Value::from(*value),
        AMQPValue::Timestamp(value) => Value::from(*value),
        AMQPValue::Float(value) => float(value.to_string()),
        AMQPValue::Double(value) => float(value.to_string()),
        AMQPValue::DecimalValue(decimal) => Value::from(decimal_text(decimal.value, decimal.scale)),
        AMQPValue::ShortString(text) => Value::from(text.as_str()),
        AMQPValue::LongString(text) => Value::from(bytes_to_text(text.as_bytes())),
        AMQPValue::ByteArray(bytes) => Value::from(bytes_to_text(bytes.as_slice())),
        AMQPValue::FieldArray(values) => values.as_slice().iter().map(to_json).collect(),
        AMQPValue::FieldTable(table) => Value::Object(table_to_json(table)),
        AMQPValue::Void => Value::Null,
    }
}

fn table_to_json(table: &FieldTable) -> Map<String, Value> {
    table.into_iter().map(|(key, value)| (key.to_string(), to_json(value))).collect()
}

/// A floating-point number with as many digits as it has; one that JSON has no way to write as text.
fn float(text: String) -> Value {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => {
            serde_json::Number::from_f64(number).map_or(Value::from(text), Value::Number)
        }
        Ok(_) | Err(_) => Value::from(text),
    }
}

fn decimal_text(value: u32, scale: u8) -> String {
    let digits = format!("{value:0>width$}", width = usize::from(scale) + 1);
    match digits.split_at_checked(digits.len() - usize::from(scale)) {
        Some((whole, "")) => whole.to_owned(),
        Some((whole, fraction)) => format!("{whole}.{fraction}"),
        None => digits,
    }
}

#[cfg(test)]
mod tests {
    use lapin::types::DecimalValue;

    use super::*;

    #[test]
    fn every_kind_of_value_has_its_text() {
        let text = |text: &str| AMQPValue::LongString(text.into());
        let table: FieldTable = std::collections::BTreeMap::from([("k".into(), AMQPValue::Void)]).into();
        for (value, expect) in [
            (text("täxt"), "täxt"),
            (text(""), ""),
            (AMQPValue::LongString(vec![0xff, 0].into()), "base64:/wA="),
            (AMQPValue::ByteArray(vec![0xff].into()), "base64:/w=="),
            (AMQPValue::Boolean(true), "true"),
            (AMQPValue::ShortShortInt(-1), "-1"),
            (AMQPValue::ShortShortUInt(255), "255"),
            (AMQPValue::ShortInt(-2), "-2"),
            (AMQPValue::ShortUInt(65_535), "65535"),
            (AMQPValue::LongInt(i32::MIN), "-2147483648"),
            (AMQPValue::LongUInt(u32::MAX), "4294967295"),
            (AMQPValue::LongLongInt(i64::MAX), "9223372036854775807"),
            (AMQPValue::Timestamp(1_700_000_000), "1700000000"),
            (AMQPValue::Float(0.1), "0.1"),
            (AMQPValue::Double(-2.5), "-2.5"),
            (AMQPValue::Double(f64::NAN), "NaN"),
            (AMQPValue::DecimalValue(DecimalValue { scale: 2, value: 1999 }), "19.99"),
            (AMQPValue::DecimalValue(DecimalValue { scale: 3, value: 7 }), "0.007"),
            (AMQPValue::DecimalValue(DecimalValue { scale: 0, value: 7 }), "7"),
            (AMQPValue::Void, ""),
            (
                AMQPValue::FieldArray(vec![text("a"), AMQPValue::LongInt(1), AMQPValue::Void].into()),
                r#"["a",1,null]"#,
            ),
            (AMQPValue::FieldTable(table), r#"{"k":null}"#),
        ] {
            assert_eq!(to_text(&value), expect, "{value:?}");
        }
        assert_eq!(to_number(&text("17")), Some(17));
        assert_eq!(to_number(&AMQPValue::LongInt(-1)), None);
    }
}
