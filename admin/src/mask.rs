//! Masks: JSON payloads with some values replaced by `***`, everything else as it is written, digit by
//! digit. Where a mask finds something else than it expects, it hides more rather than less.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::{RawValue, to_raw_value};

/// What stands in the place of a value that is hidden.
const HIDDEN: &str = "***";
/// What stands in a pointer for every item of a list.
const EVERY: &str = "*";

/// Some pointers into a payload, each as its steps.
pub(crate) struct Mask(Vec<Vec<String>>);

impl Mask {
    /// A mask of JSON pointers (RFC 6901), in which `*` stands for every item of a list.
    pub(crate) fn new(pointers: &[String]) -> Self {
        let step = |step: &str| step.replace("~1", "/").replace("~0", "~");
        Self(pointers.iter().map(|pointer| pointer.split('/').skip(1).map(step).collect()).collect())
    }

    /// The payload without what is masked; none if it is no JSON, since nobody knows then what it shows.
    pub(crate) fn over(&self, payload: &[u8]) -> Option<Box<RawValue>> {
        let json: &RawValue = serde_json::from_slice(payload).ok()?;
        let paths: Vec<&[String]> = self.0.iter().map(Vec::as_slice).collect();
        masked(json, &paths).ok()
    }
}

fn masked(json: &RawValue, paths: &[&[String]]) -> Result<Box<RawValue>, serde_json::Error> {
    if paths.is_empty() {
        return Ok(json.to_owned());
    }
    if paths.iter().any(|path| path.is_empty()) {
        return to_raw_value(HIDDEN);
    }
    match json.get().trim_start().as_bytes().first() {
        Some(b'{') => {
            let Fields(fields) = serde_json::from_str(json.get())?;
            let written = fields.into_iter().map(|(name, value)| {
                let value = masked(&value, &further(paths, |step| step == name))?;
                Ok(format!("{}:{}", serde_json::to_string(&name)?, value.get()))
            });
            let written = written.collect::<Result<Vec<_>, serde_json::Error>>()?;
            RawValue::from_string(format!("{{{}}}", written.join(",")))
        }
        Some(b'[') => {
            let items: Vec<Box<RawValue>> = serde_json::from_str(json.get())?;
            let items = items.iter().enumerate().map(|(number, item)| {
                masked(item, &further(paths, |step| step == EVERY || step == number.to_string()))
            });
            to_raw_value(&items.collect::<Result<Vec<_>, _>>()?)
        }
        // A pointer leads on, and there is nothing that it could lead into: what stands here stands where
        // the value was to be.
        _ if json.get().trim() == "null" => Ok(json.to_owned()),
        _ => to_raw_value(HIDDEN),
    }
}

/// The rests of those paths whose first step is this one.
fn further<'a>(paths: &[&'a [String]], is_it: impl Fn(&str) -> bool) -> Vec<&'a [String]> {
    let rests = paths.iter().filter_map(|path| path.split_first());
    rests.filter(|(step, _)| is_it(step)).map(|(_, rest)| rest).collect()
}

/// The fields of an object in their order, with names that are there twice.
struct Fields(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(Reader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pointers: &[&str], payload: &str, expect: Option<&str>) {
        let pointers: Vec<String> = pointers.iter().map(ToString::to_string).collect();
        let shown = Mask::new(&pointers).over(payload.as_bytes());
        assert_eq!(shown.as_ref().map(|json| json.get()), expect, "{pointers:?} over {payload}");
    }

    #[test]
    fn what_is_pointed_at_is_hidden_and_nothing_else_is_changed() {
        let order = r#"{"id":1.50,"customer":{"name":"Ann","n":12345678901234567890123},"to":["a","b"]}"#;
        let customer = r#""customer":{"name":"***","n":12345678901234567890123}"#;
        check(&["/customer/name"], order, Some(&format!(r#"{{"id":1.50,{customer},"to":["a","b"]}}"#)));
        check(&["/customer", "/to/1"], order, Some(r#"{"id":1.50,"customer":"***","to":["a","***"]}"#));
        check(
            &["/customer", "/customer/name"],
            order,
            Some(r#"{"id":1.50,"customer":"***","to":["a","b"]}"#),
        );
        check(&["/none", "/customer/none/deeper"], order, Some(order));
        check(&["/a~1b/c~0d"], r#"{"a/b":{"c~d":1,"x":2}}"#, Some(r#"{"a/b":{"c~d":"***","x":2}}"#));
        check(&["/"], r#"{"":1,"a":2}"#, Some(r#"{"":"***","a":2}"#));
    }

    #[test]
    fn every_item_of_a_list() {
        let items = r#"{"items":[{"to":"a"},{"to":"b","n":1},[]]}"#;
        check(&["/items/*/to"], items, Some(r#"{"items":[{"to":"***"},{"to":"***","n":1},[]]}"#));
        check(&["/*"], "[1,2]", Some(r#"["***","***"]"#));
        check(&["/0/*"], "[[1],[2]]", Some(r#"[["***"],[2]]"#));
    }

    #[test]
    fn no_way_around_it() {
        check(&["/a"], r#"{"a":1,"a":2}"#, Some(r#"{"a":"***","a":"***"}"#));
        check(&["/a"], r#"{"\u0061":1}"#, Some(r#"{"a":"***"}"#));
        check(&["/a/b"], r#"{"a":"a secret, and no object"}"#, Some(r#"{"a":"***"}"#));
        check(&["/a/b"], r#"{"a":null}"#, Some(r#"{"a":null}"#));
        check(&["/a"], " {\n \"a\" : [1] } ", Some(r#"{"a":"***"}"#));
        check(&["/a"], "\"text\"", Some("\"***\""));
        for no_json in ["", "a=1", "{\"a\":1", "{\"a\":1} x", "\u{feff}{\"a\":1}"] {
            check(&["/a"], no_json, None);
        }
    }
}
