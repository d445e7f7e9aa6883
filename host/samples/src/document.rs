//! Reads a samples document: what may stand in it, and everything that is wrong with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use brolly_core::{Grants, Limits, Message, Name, NewMessage, Timestamp};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use toml_edit::ImDocument;

use crate::{
    Content, Ends, Expect, ExpectedMessage, Sample, Samples, Script,
    place::{Reader, Table},
};

const DOCUMENT: [&str; 9] =
    ["plugin", "subscription", "topic", "config", "limits", "grants", "outside", "state", "sample"];
const SAMPLE: [&str; 6] = ["name", "message", "attempt", "last_attempt", "state", "expect"];
const MESSAGE: [&str; 8] =
    ["id", "topic", "key", "content_type", "headers", "published_at_ms", "payload", "file"];
const EXPECT: [&str; 7] = ["outcome", "reason", "delay_ms", "published", "state", "deleted", "logs"];
const PUBLISHED: [&str; 7] = ["topic", "id", "key", "content_type", "headers", "payload", "file"];

/// Reads the text of a document that people know as `file`. What it names with `file` lies in `folder`; without
/// one it stands alone. A subscription that it does not name is called `plugin`.
///
/// # Errors
/// All mistakes, each with its file and line.
pub fn read(file: &str, text: &str, folder: Option<&Path>, plugin: &Name) -> Result<Samples, Vec<String>> {
    let document = ImDocument::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        vec![format!("{file}:{}: {}", Reader::new(file, text).line(at), error.message())]
    })?;
    let mut reading = Reading { reader: Reader::new(file, text), folder };
    let root = reading.reader.root(document.as_table(), &DOCUMENT);
    let topic = reading.name(&root, "topic");
    let fields = json!({
        "config": reading.texts(&root, "config"),
        "limits": reading.settings::<Limits>(&root, "limits"),
        "grants": reading.settings::<Grants>(&root, "grants"),
    });
    let samples = Samples {
        plugin: reading.reader.text(&root, "plugin").map(PathBuf::from),
        subscription: reading.name(&root, "subscription").unwrap_or_else(|| plugin.clone()),
        fields,
        // What is none is among the mistakes.
        outside: serde_json::from_value(reading.settings::<Script>(&root, "outside")).unwrap_or_default(),
        state: reading.state(&root).unwrap_or_default(),
        samples: reading.samples(&root, topic.as_ref()),
    };
    let mistakes = reading.reader.finish();
    if mistakes.is_empty() { Ok(samples) } else { Err(mistakes) }
}

struct Reading<'a> {
    reader: Reader<'a>,
    /// What paths in the document are relative to; none for a document that stands alone.
    folder: Option<&'a Path>,
}

impl<'a> Reading<'a> {
    fn samples(&mut self, root: &Table<'a>, topic: Option<&Name>) -> Vec<Sample> {
        let tables = self.reader.tables(root, "sample", &SAMPLE);
        if tables.is_empty() {
            self.reader.mistake(&root.span("sample"), "there is no [[sample]]");
        }
        let mut names = BTreeSet::new();
        let mut samples = Vec::new();
        for (number, table) in tables.iter().enumerate() {
            let name = self.reader.text(table, "name").unwrap_or_else(|| format!("sample {}", number + 1));
            if !names.insert(name.clone()) {
                self.reader.mistake(&table.span("name"), format_args!("another sample is called {name:?}"));
            }
            let message = self.message(table, number + 1, topic);
            let sample = Sample {
                name,
                line: self.reader.line(table.start().start),
                attempt: self.attempt(table),
                last_attempt: self.reader.boolean(table, "last_attempt").unwrap_or(false),
                state: self.state(table),
                expect: self.expect(table),
                // Without a message there is a mistake, and no document.
                message: match message {
                    Some(message) => message,
                    None => continue,
                },
            };
            samples.push(sample);
        }
        samples
    }

    fn attempt(&mut self, sample: &Table<'_>) -> u32 {
        match self.reader.number(sample, "attempt").map(u32::try_from) {
            None => 1,
            Some(Ok(number)) if number > 0 => number,
            Some(_) => {
                let what = format!("{}attempt counts from 1", sample.path());
                self.reader.mistake(&sample.span("attempt"), what);
                1
            }
        }
    }

    fn message(&mut self, sample: &Table<'a>, number: usize, topic: Option<&Name>) -> Option<Message> {
        let Some(table) = self.reader.table(sample, "message", &MESSAGE) else {
            if !sample.keys().any(|key| key == "message") {
                self.reader.mistake(&sample.start(), format_args!("{}message is missing", sample.path()));
            }
            return None;
        };
        let topic = self.name(&table, "topic").or_else(|| topic.cloned());
        if topic.is_none() {
            let what = format!("{}topic is missing, and the document names none for all", table.path());
            self.reader.mistake(&table.start(), what);
        }
        let (payload, is_json) = match self.content(&table) {
            Some(Content::Json(value)) => (Bytes::from(value.to_string()), true),
            Some(Content::Bytes(bytes)) => (bytes, false),
            None => (Bytes::new(), false),
        };
        let natural = if is_json { "application/json" } else { "" };
        let message = NewMessage {
            id: Some(self.reader.text(&table, "id").unwrap_or_else(|| format!("sample-{number}"))),
            key: self.reader.text(&table, "key").unwrap_or_default(),
            content_type: self.reader.text(&table, "content_type").unwrap_or_else(|| natural.to_owned()),
            headers: self.texts(&table, "headers"),
            payload,
            ..NewMessage::default()
        };
        let published_at = Timestamp(self.reader.number(&table, "published_at_ms").unwrap_or(0));
        if let Err(refusal) = message.check() {
            self.reader.mistake(&table.start(), format_args!("{}: {}", table.path(), refusal.detail));
        }
        Some(Message {
            id: message.id?,
            topic: topic?,
            key: message.key,
            content_type: message.content_type,
            headers: message.headers,
            published_at,
            expires_at: None,
            payload: message.payload,
        })
    }

    fn expect(&mut self, sample: &Table<'a>) -> Expect {
        let Some(table) = self.reader.table(sample, "expect", &EXPECT) else {
            if !sample.keys().any(|key| key == "expect") {
                self.reader.mistake(&sample.start(), format_args!("{}expect is missing", sample.path()));
            }
            return Expect::default();
        };
        let mut state: BTreeMap<String, Option<Content>> = BTreeMap::new();
        if let Some(written) = self.reader.open_table(&table, "state") {
            let value = |key: &str| Some((key.to_owned(), Some(of_json(written.json(key)?))));
            state.extend(written.keys().filter_map(value));
        }
        for key in self.reader.texts(&table, "deleted") {
            if state.insert(key.clone(), None).is_some() {
                let what = format!("{}deleted names {key:?}, which is also in state", table.path());
                self.reader.mistake(&table.span("deleted"), what);
            }
        }
        let outcome = self.outcome(&table);
        let expect = Expect {
            outcome: outcome.unwrap_or_default(),
            reason: self.reader.text(&table, "reason"),
            delay_ms: self.reader.number(&table, "delay_ms"),
            published: self.published(&table),
            state,
            logs: self.reader.texts(&table, "logs"),
        };
        if outcome.is_some() {
            self.fits(&table, &expect);
        }
        expect
    }

    fn outcome(&mut self, expect: &Table<'_>) -> Option<Ends> {
        let Some(word) = self.reader.text(expect, "outcome") else {
            if !expect.keys().any(|key| key == "outcome") {
                self.reader.mistake(&expect.start(), format_args!("{}outcome is missing", expect.path()));
            }
            return None;
        };
        let found = Ends::ALL.into_iter().find(|known| known.as_str() == word);
        if found.is_none() {
            let what = format!("{}outcome is {word:?}; it is ack, retry, reject or fault", expect.path());
            self.reader.mistake(&expect.span("outcome"), what);
        }
        found
    }

    /// Finds expectations that no handler could meet.
    fn fits(&mut self, table: &Table<'_>, expect: &Expect) {
        let ack = expect.outcome == Ends::Ack;
        let wrong = [
            ("reason", ack && expect.reason.is_some(), "an ack has no reason"),
            (
                "delay_ms",
                expect.outcome != Ends::Retry && expect.delay_ms.is_some(),
                "only a retry has a delay",
            ),
            ("published", !ack && !expect.published.is_empty(), "only an ack publishes"),
            ("state", !ack && !expect.state.is_empty(), "only an ack writes state"),
        ];
        for (key, is_wrong, why) in wrong {
            if is_wrong {
                self.reader.mistake(&table.span(key), format_args!("{}{key}: {why}", table.path()));
            }
        }
    }

    fn published(&mut self, expect: &Table<'a>) -> Vec<ExpectedMessage> {
        let tables = self.reader.tables(expect, "published", &PUBLISHED);
        let mut found = Vec::new();
        for table in tables {
            if !table.keys().any(|key| key == "topic") {
                self.reader.mistake(&table.start(), format_args!("{}topic is missing", table.path()));
            }
            let headers = table.keys().any(|key| key == "headers");
            found.push(ExpectedMessage {
                topic: self.reader.text(&table, "topic").unwrap_or_default(),
                id: self.reader.text(&table, "id"),
                key: self.reader.text(&table, "key"),
                content_type: self.reader.text(&table, "content_type"),
                headers: headers.then(|| self.texts(&table, "headers")),
                payload: self.content(&table),
            });
        }
        found
    }

    /// The payload of a message: of `payload`, or of the file that `file` names.
    fn content(&mut self, message: &Table<'_>) -> Option<Content> {
        let payload = message.json("payload").map(of_json);
        let Some(path) = self.reader.text(message, "file") else { return payload };
        if payload.is_some() {
            let what = format!("{}file and payload are both given", message.path());
            self.reader.mistake(&message.span("file"), what);
        }
        let Some(folder) = self.folder else {
            let what =
                format!("{}file: this document stands alone; write the payload into it", message.path());
            self.reader.mistake(&message.span("file"), what);
            return None;
        };
        let path = folder.join(path);
        match fs::read(&path) {
            Ok(bytes) => Some(Content::Bytes(bytes.into())),
            Err(error) => {
                let what = format!("{}file: {} cannot be read: {error}", message.path(), path.display());
                self.reader.mistake(&message.span("file"), what);
                None
            }
        }
    }

    fn state(&mut self, of: &Table<'a>) -> Option<BTreeMap<String, Bytes>> {
        let table = self.reader.open_table(of, "state")?;
        let mut state = BTreeMap::new();
        for key in table.keys() {
            let bytes = match table.json(key).map(of_json) {
                Some(Content::Bytes(bytes)) => bytes,
                Some(Content::Json(value)) => value.to_string().into(),
                None => continue,
            };
            if bytes.len() > Limits::STATE_VALUE_BYTES
                || key.len() > Limits::STATE_KEY_BYTES
                || key.is_empty()
            {
                let what = format!(
                    "{}{key:?}: a key has 1 to {} bytes, a value at most {}",
                    table.path(),
                    Limits::STATE_KEY_BYTES,
                    Limits::STATE_VALUE_BYTES
                );
                self.reader.mistake(&table.span(key), what);
            }
            state.insert(key.to_owned(), bytes);
        }
        Some(state)
    }

    fn texts(&mut self, of: &Table<'a>, key: &str) -> BTreeMap<String, String> {
        let Some(table) = self.reader.open_table(of, key) else { return BTreeMap::new() };
        let mut texts = BTreeMap::new();
        for name in table.keys() {
            texts.extend(self.reader.text(&table, name).map(|text| (name.to_owned(), text)));
        }
        texts
    }

    fn settings<T: DeserializeOwned>(&mut self, of: &Table<'a>, key: &str) -> Value {
        let Some(value) = of.json(key) else { return json!({}) };
        if let Err(error) = T::deserialize(&value) {
            self.reader.mistake(&of.span(key), format_args!("{key}: {error}"));
        }
        value
    }

    fn name(&mut self, of: &Table<'_>, key: &str) -> Option<Name> {
        let text = self.reader.text(of, key)?;
        match Name::new(&text) {
            Ok(name) => Some(name),
            Err(refusal) => {
                self.reader.mistake(&of.span(key), format_args!("{}{key}: {}", of.path(), refusal.detail));
                None
            }
        }
    }
}

/// A text stands for its own bytes; anything else for its JSON.
fn of_json(value: Value) -> Content {
    match value {
        Value::String(text) => Content::Bytes(text.into()),
        other => Content::Json(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Samples, Vec<String>> {
        super::read("f.toml", text, Some(Path::new("/nowhere")), &Name::new("p").unwrap())
    }

    #[test]
    fn a_document_that_stands_alone_names_no_files() {
        let text = "[[sample]]\nmessage = { topic = 'in', file = 'a.json' }\nexpect.outcome = 'ack'\n";
        let mistakes = super::read("samples", text, None, &Name::new("p").unwrap()).unwrap_err();
        assert!(
            mistakes[0].starts_with("samples:2: ") && mistakes[0].contains("stands alone"),
            "{mistakes:?}"
        );
    }

    #[test]
    fn what_a_document_says() {
        let samples = read(
            "topic = 'in'\nconfig.a = 'b'\nlimits.time_ms = 50\nstate = { k = 1, t = 'raw' }\n\
             [[sample]]\nmessage = { key = 'K', payload = { n = 1, at = 1997-01-01 } }\n\
             expect = { outcome = 'ack', state = { k = 2 }, deleted = ['t'] }\n\
             [[sample]]\nmessage = { topic = 'other', payload = 'plain' }\nattempt = 2\n\
             expect = { outcome = 'retry', delay_ms = 5 }\n",
        )
        .unwrap();
        assert_eq!(samples.fields["config"], json!({"a": "b"}));
        assert_eq!(samples.state["k"], "1");
        assert_eq!(samples.state["t"], "raw");
        let [first, second] = &samples.samples[..] else { panic!("two samples") };
        assert_eq!((first.message.topic.as_str(), first.line), ("in", 5));
        assert_eq!(first.message.payload, r#"{"n":1,"at":"1997-01-01"}"#);
        assert_eq!(first.message.content_type, "application/json");
        assert_eq!(first.expect.state["k"], Some(Content::Json(2.into())));
        assert_eq!(first.expect.state["t"], None);
        assert_eq!((second.message.topic.as_str(), second.message.id.as_str()), ("other", "sample-2"));
        assert_eq!((second.message.content_type.as_str(), second.attempt), ("", 2));
        assert_eq!(second.expect.delay_ms, Some(5));
    }

    #[test]
    fn all_mistakes_are_told_each_with_its_line() {
        let mistakes = read(
            "topic = 'no/slash'\nplugn = 'x'\n[limits]\ntime_m = 5\n\n[[sample]]\nname = 'a'\n\
             message = { payload = 1, file = 'missing' }\nexpect.outcome = 'akc'\n\n\
             [[sample]]\nname = 'a'\nattempt = 0\nmessage.topic = 'in'\nmessage.key = 5\n\
             expect.outcome = 'reject'\nexpect.state = { k = 1 }\nexpect.published = [{ payload = 1 }]\n\n\
             [[sample]]\nstate = 5\n",
        )
        .unwrap_err();
        let expect = [
            (1, "topic"),
            (2, "plugn is not known"),
            (3, "time_m"),
            (8, "file and payload are both given"),
            (8, "cannot be read"),
            (8, "sample[0].message.topic is missing"),
            (9, "sample[0].expect.outcome is \"akc\""),
            (12, "another sample is called \"a\""),
            (13, "attempt counts from 1"),
            (15, "key is no text but an integer"),
            (17, "only an ack writes state"),
            (18, "only an ack publishes"),
            (18, "published[0].topic is missing"),
            (20, "sample[2].message is missing"),
            (20, "sample[2].expect is missing"),
            (21, "state is no table but an integer"),
        ];
        for (line, what) in expect {
            let place = format!("f.toml:{line}: ");
            let told = mistakes.iter().any(|told| told.starts_with(&place) && told.contains(what));
            assert!(told, "{line}: {what} in {mistakes:#?}");
        }
        assert_eq!(mistakes.len(), expect.len(), "{mistakes:#?}");
    }

    #[test]
    fn what_is_no_toml_is_told_with_its_line() {
        let mistakes = read("a = 1\nb = \n").unwrap_err();
        assert!(mistakes[0].starts_with("f.toml:2: "), "{mistakes:?}");
        assert_eq!(read("topic = 'a'\n").unwrap_err(), ["f.toml:1: there is no [[sample]]"]);
    }
}
