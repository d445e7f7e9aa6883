//! What happened against what was expected: both are written in the same words, line by line, and what
//! differs is shown. An expectation that leaves something open takes what happened in its place.

use std::collections::BTreeMap;

use brolly_capture::{Happened, Published};
use brolly_core::{LogLevel, LogLine};
use bytes::Bytes;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use similar::{ChangeTag, TextDiff};

use crate::{Content, Expect, ExpectedMessage};

/// Lines around a difference that are shown with it.
const CONTEXT: usize = 3;

/// Text of others without the control characters that would steer a terminal.
#[must_use]
pub fn shown(text: &str) -> String {
    text.chars().fold(String::new(), |mut safe, c| {
        if c.is_control() {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
        safe
    })
}

/// What differs, as lines that begin with `-` for what was expected and `+` for what happened; empty if
/// nothing does.
#[must_use]
pub fn difference(expect: &str, happened: &str) -> String {
    if expect == happened {
        return String::new();
    }
    let diff = TextDiff::from_lines(expect, happened);
    let mut out = String::new();
    for (number, group) in diff.grouped_ops(CONTEXT).iter().enumerate() {
        if number > 0 {
            out.push_str("  …\n");
        }
        for change in group.iter().flat_map(|op| diff.iter_changes(op)) {
            let sign = match change.tag() {
                ChangeTag::Equal => ' ',
                ChangeTag::Delete => '-',
                ChangeTag::Insert => '+',
            };
            out.push_str(&format!("{sign} {}\n", change.value().trim_end_matches('\n')));
        }
    }
    out
}

impl Expect {
    /// What was expected and what happened, in the same words.
    #[must_use]
    pub fn against(&self, happened: &Happened) -> (String, String) {
        let (mut expect, mut told) = (String::new(), String::new());
        self.ending(happened, &mut expect, &mut told);
        for wanted in &self.published {
            wanted.show(&mut expect);
        }
        for (number, published) in happened.published.iter().enumerate() {
            show_message(published, self.published.get(number), &mut told);
        }
        for (key, value) in &self.state {
            show_write(key, value.as_ref().map(Content::lines), &mut expect);
        }
        for (key, value) in &happened.state {
            let wanted = self.state.get(key).and_then(Option::as_ref);
            show_write(key, value.as_ref().map(|value| as_wanted(&value.0, wanted)), &mut told);
        }
        for wanted in &self.logs {
            expect.push_str(&format!("log with {wanted:?}\n"));
            if happened.logs.iter().any(|line| line.text.contains(wanted)) {
                told.push_str(&format!("log with {wanted:?}\n"));
            }
        }
        (expect, told)
    }

    fn ending(&self, happened: &Happened, expect: &mut String, told: &mut String) {
        let same = happened.outcome == self.outcome.as_str();
        expect.push_str(&format!("outcome: {}\n", self.outcome.as_str()));
        told.push_str(&format!("outcome: {}\n", happened.outcome));
        if let Some(part) = &self.reason {
            expect.push_str(&format!("reason: … {} …\n", shown(part)));
        }
        match (&self.reason, &happened.reason) {
            (Some(part), Some(reason)) if same && reason.contains(part.as_str()) => {
                told.push_str(&format!("reason: … {} …\n", shown(part)));
            }
            (None, Some(_)) if same => {}
            (_, Some(reason)) => told.push_str(&format!("reason: {}\n", shown(reason))),
            (_, None) => {}
        }
        if let Some(delay) = self.delay_ms {
            expect.push_str(&format!("delay: {delay} ms\n"));
            if let Some(delay) = happened.delay_ms {
                told.push_str(&format!("delay: {delay} ms\n"));
            }
        }
    }
}

impl ExpectedMessage {
    fn show(&self, out: &mut String) {
        out.push_str(&format!("published to {}\n", shown(&self.topic)));
        let fields = [("id", &self.id), ("key", &self.key), ("content_type", &self.content_type)];
        for (name, value) in fields {
            if let Some(value) = value {
                out.push_str(&format!("  {name}: {}\n", shown(value)));
            }
        }
        show_headers(self.headers.as_ref(), out);
        if let Some(payload) = &self.payload {
            show_lines("payload", &payload.lines(), out);
        }
    }
}

/// A message that was published, as far as one is expected in its place; all of it if none is.
fn show_message(published: &Published, wanted: Option<&ExpectedMessage>, out: &mut String) {
    out.push_str(&format!("published to {}\n", published.topic));
    let fields = [
        ("id", &published.id, wanted.is_none_or(|wanted| wanted.id.is_some())),
        ("key", &published.key, wanted.is_none_or(|wanted| wanted.key.is_some())),
        ("content_type", &published.content_type, wanted.is_none_or(|wanted| wanted.content_type.is_some())),
    ];
    for (name, value, is_shown) in fields {
        if is_shown {
            out.push_str(&format!("  {name}: {}\n", shown(value)));
        }
    }
    if wanted.is_none_or(|wanted| wanted.headers.is_some()) {
        show_headers(Some(&published.headers), out);
    }
    if wanted.is_none_or(|wanted| wanted.payload.is_some()) {
        let payload = wanted.and_then(|wanted| wanted.payload.as_ref());
        show_lines("payload", &as_wanted(&published.payload.0, payload), out);
    }
}

fn show_headers(headers: Option<&BTreeMap<String, String>>, out: &mut String) {
    for (name, value) in headers.into_iter().flatten() {
        out.push_str(&format!("  header {}: {}\n", shown(name), shown(value)));
    }
}

fn show_write(key: &str, value: Option<Vec<String>>, out: &mut String) {
    match value {
        Some(lines) => show_lines(&format!("state {}", shown(key)), &lines, out),
        None => out.push_str(&format!("state {} deleted\n", shown(key))),
    }
}

fn show_lines(what: &str, lines: &[String], out: &mut String) {
    let indent = if what.starts_with("state") { "" } else { "  " };
    match lines {
        [line] => out.push_str(&format!("{indent}{what}: {line}\n")),
        lines => {
            out.push_str(&format!("{indent}{what}:\n"));
            for line in lines {
                out.push_str(&format!("{indent}  {line}\n"));
            }
        }
    }
}

impl Content {
    fn lines(&self) -> Vec<String> {
        match self {
            Content::Json(value) => pretty(value),
            Content::Bytes(bytes) => plain(bytes),
        }
    }
}

/// Bytes as JSON where JSON is expected of them or nothing is; otherwise as they are.
fn as_wanted(bytes: &Bytes, wanted: Option<&Content>) -> Vec<String> {
    match wanted {
        Some(Content::Bytes(_)) => plain(bytes),
        Some(Content::Json(_)) | None => content(bytes),
    }
}

/// Bytes for people: JSON with sorted keys, else text, else their number and digest.
fn content(bytes: &[u8]) -> Vec<String> {
    serde_json::from_slice(bytes).map_or_else(|_| plain(bytes), |value| pretty(&value))
}

fn plain(bytes: &[u8]) -> Vec<String> {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.split('\n').map(shown).collect(),
        Err(_) => vec![format!("{} bytes, sha256:{:x}", bytes.len(), Sha256::digest(bytes))],
    }
}

fn pretty(value: &Value) -> Vec<String> {
    let sorted = sorted(value);
    let short = sorted.to_string();
    let text = if short.len() <= 80 { short } else { format!("{sorted:#}") };
    text.lines().map(str::to_owned).collect()
}

/// The value with the keys of every object in order, in which JSON has none.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields: BTreeMap<&String, Value> =
                fields.iter().map(|(key, value)| (key, sorted(value))).collect();
            fields.into_iter().map(|(key, value)| (key.clone(), value)).collect::<Map<_, _>>().into()
        }
        Value::Array(values) => values.iter().map(sorted).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

/// Everything that came of an attempt, in the words of a difference.
#[must_use]
pub fn told(happened: &Happened) -> String {
    let mut out = format!("outcome: {}\n", happened.outcome);
    if let Some(reason) = &happened.reason {
        out.push_str(&format!("reason: {}\n", shown(reason)));
    }
    if let Some(delay) = happened.delay_ms {
        out.push_str(&format!("delay: {delay} ms\n"));
    }
    if let Some(dependency) = &happened.dependency {
        out.push_str(&format!("dependency: {}\n", shown(dependency)));
    }
    for published in &happened.published {
        show_message(published, None, &mut out);
    }
    for (key, value) in &happened.state {
        show_write(key, value.as_ref().map(|value| content(&value.0)), &mut out);
    }
    for line in logged(&happened.logs) {
        out.push_str(&format!("{line}\n"));
    }
    if happened.logs_dropped > 0 {
        out.push_str(&format!("{} log lines were over the limit\n", happened.logs_dropped));
    }
    out
}

/// Log lines for people.
pub fn logged(logs: &[LogLine]) -> impl Iterator<Item = String> + '_ {
    logs.iter().map(|line| {
        let level = match line.level {
            LogLevel::Trace => "trace",
            LogLevel::Debug => "debug",
            LogLevel::Info => "info",
            LogLevel::Warn => "warn",
            LogLevel::Error => "error",
        };
        format!("log {level}: {}", shown(&line.text))
    })
}

#[cfg(test)]
mod tests {
    use brolly_capture::Blob;
    use brolly_core::Name;
    use serde_json::json;

    use super::*;
    use crate::Ends;

    fn acked(payload: &'static str, state: &'static str) -> Happened {
        let published = Published {
            topic: Name::new("out").unwrap(),
            id: "m1".into(),
            key: "k".into(),
            content_type: String::new(),
            headers: BTreeMap::new(),
            payload: Blob(payload.into()),
        };
        let state = BTreeMap::from([("s".to_owned(), Some(Blob(state.into())))]);
        Happened { published: vec![published], state, ..ended("ack", None) }
    }

    fn ended(outcome: &str, reason: Option<&str>) -> Happened {
        Happened {
            outcome: outcome.into(),
            reason: reason.map(str::to_owned),
            logs: vec![LogLine { level: LogLevel::Info, text: "a line".into() }],
            ..Happened::default()
        }
    }

    fn message(payload: Content) -> ExpectedMessage {
        ExpectedMessage {
            topic: "out".into(),
            id: None,
            key: Some("k".into()),
            content_type: None,
            headers: None,
            payload: Some(payload),
        }
    }

    fn check(expect: &Expect, happened: &Happened, differs: &[&str]) {
        let (wanted, told) = expect.against(happened);
        let difference = difference(&wanted, &told);
        let lines: Vec<&str> = difference.lines().filter(|line| !line.starts_with(' ')).collect();
        assert_eq!(lines, differs, "{wanted}\n{told}");
    }

    #[test]
    fn text_of_others_cannot_steer_the_terminal() {
        assert_eq!(shown("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\\n");
    }

    #[test]
    fn json_is_compared_as_json_and_text_as_text() {
        let state = |value| BTreeMap::from([("s".to_owned(), Some(value))]);
        let json = Expect {
            published: vec![message(Content::Json(json!({"a": 1, "b": 2})))],
            state: state(Content::Json(json!(5))),
            ..Expect::default()
        };
        check(&json, &acked(r#"{ "b":2, "a":1 }"#, "5"), &[]);
        check(
            &json,
            &acked(r#"{"b":3,"a":1}"#, "6"),
            &[
                r#"-   payload: {"a":1,"b":2}"#,
                "- state s: 5",
                r#"+   payload: {"a":1,"b":3}"#,
                "+ state s: 6",
            ],
        );
        let text = Expect {
            published: vec![message(Content::Bytes("{\"a\":1}".into()))],
            state: state(Content::Bytes("5".into())),
            ..Expect::default()
        };
        check(&text, &acked(r#"{"a":1}"#, "5"), &[]);
        check(&text, &acked(r#"{"a": 1}"#, "5"), &[r#"-   payload: {"a":1}"#, r#"+   payload: {"a": 1}"#]);
    }

    #[test]
    fn what_is_not_expected_must_not_be() {
        let happened = [
            "+ published to out",
            "+   id: m1",
            "+   key: k",
            "+   content_type: ",
            "+   payload: p",
            "+ state s: 5",
        ];
        check(&Expect::default(), &acked("p", "5"), &happened);
        let logs = Expect { logs: vec!["a li".into(), "other".into()], ..Expect::default() };
        check(&logs, &ended("ack", None), &["- log with \"other\""]);
    }

    #[test]
    fn reasons_may_be_expected_in_part() {
        let reject = |reason: &str| ended("reject", Some(reason));
        let expect = |outcome, part: &str| Expect { outcome, reason: Some(part.into()), ..Expect::default() };
        check(&expect(Ends::Reject, "no cents"), &reject("there are no cents"), &[]);
        check(
            &expect(Ends::Reject, "no cents"),
            &reject("other"),
            &["- reason: … no cents …", "+ reason: other"],
        );
        let open = Expect { outcome: Ends::Reject, ..Expect::default() };
        check(&open, &reject("anything"), &[]);
        check(&Expect::default(), &reject("why"), &["- outcome: ack", "+ outcome: reject", "+ reason: why"]);
        let retry = Happened { delay_ms: Some(7), ..ended("retry", Some("r")) };
        let expect = Expect { outcome: Ends::Retry, delay_ms: Some(8), ..Expect::default() };
        check(&expect, &retry, &["- delay: 8 ms", "+ delay: 7 ms"]);
    }
}
