//! What a consumer asks the server for and what it is answered, for both kinds of queues: taking and
//! settling. Builds the calls of the scripts and reads their answers; runs nothing.

use std::time::Duration;

use bytes::Bytes;
use redis::{Cmd, Value, from_redis_value};

use crate::{
    envelope,
    error::Error,
    hold::{Verdict, What},
    plan::{Kind, Place},
    scripts::{self, Routine},
};

/// Bytes of arguments that one call has, about.
const CALL_BYTES: usize = 4 << 20;

/// Verdicts that one call has.
const CALL_VERDICTS: usize = 256;

/// What is asked for.
pub(crate) struct Want<'a> {
    pub worker: &'a str,
    pub messages: usize,
    pub bytes: usize,
    /// The tag of the first.
    pub tag: u64,
    /// The silence that means death; none while only those are dead that are known to be.
    pub silence: Option<Duration>,
    /// Earlier workers of this host, whose messages are taken first.
    pub heirs_to: &'a [String],
}

/// What was taken.
#[derive(Debug, PartialEq)]
pub(crate) struct Taken {
    /// When the next delayed message is due, if there is one.
    pub next_due: Option<Duration>,
    /// Entries that somebody had deleted before they were settled.
    pub vanished: u64,
    /// The last entry of the stream, if nothing was left to take.
    pub last: String,
    pub items: Vec<Item>,
}

/// One message as it was taken.
#[derive(Debug, PartialEq)]
pub(crate) struct Item {
    pub tag: u64,
    /// It was handed out before.
    pub again: bool,
    /// Its size on the server.
    pub size: usize,
    pub data: Data,
}

/// In which form it was taken.
#[derive(Debug, PartialEq)]
pub(crate) enum Data {
    Value(Bytes),
    Entry { id: String, fields: Vec<(String, Bytes)> },
}

impl Place {
    /// The call that takes.
    pub(crate) fn take(&self, want: &Want<'_>) -> (&'static Routine, Cmd) {
        let routine: &'static Routine = match self.kind {
            Kind::List => &scripts::TAKE_LIST,
            Kind::Stream { .. } => &scripts::TAKE_STREAM,
        };
        let mut call = routine.call(&[&self.key, &self.base]);
        call.arg(want.worker).arg(want.messages).arg(want.bytes).arg(want.tag);
        match &self.kind {
            Kind::List => call.arg(self.topic.as_str()).arg(flag(self.adopt)),
            Kind::Stream { group } => call.arg(group).arg(want.silence.map_or(String::new(), ms)),
        };
        call.arg(envelope::LARGEST).arg(want.heirs_to);
        (routine, call)
    }

    /// The calls that settle, each with the tags that it settles.
    pub(crate) fn settle(
        &self,
        worker: &str,
        verdicts: Vec<Verdict>,
    ) -> (&'static Routine, Vec<(Cmd, Vec<u64>)>) {
        let routine: &'static Routine = match self.kind {
            Kind::List => &scripts::SETTLE_LIST,
            Kind::Stream { .. } => &scripts::SETTLE_STREAM,
        };
        let new_call = || {
            let mut call = routine.call(&[&self.key, &self.base]);
            call.arg(worker);
            match &self.kind {
                Kind::List => call.arg(flag(self.adopt)),
                Kind::Stream { group } => call.arg(group),
            };
            call
        };
        let mut calls = Vec::new();
        let (mut call, mut tags, mut bytes) = (new_call(), Vec::new(), 0);
        for verdict in verdicts {
            let more = match &verdict.what {
                What::Retry { message, .. } if verdict.entry.is_some() => message.payload.len(),
                What::Ack | What::Back | What::Retry { .. } => 0,
            };
            if !tags.is_empty() && (tags.len() >= CALL_VERDICTS || bytes + more > CALL_BYTES) {
                calls.push((std::mem::replace(&mut call, new_call()), std::mem::take(&mut tags)));
                bytes = 0;
            }
            bytes += more;
            tags.push(verdict.tag);
            match &self.kind {
                Kind::List => settle_value(&mut call, ["a", "b", "r"], &verdict),
                Kind::Stream { .. } if verdict.entry.is_none() => {
                    settle_value(&mut call, ["A", "B", "R"], &verdict)
                }
                Kind::Stream { .. } => settle_entry(&mut call, worker, &verdict),
            }
        }
        if !tags.is_empty() {
            calls.push((call, tags));
        }
        (routine, calls)
    }

    /// Reads the answer to [`Place::take`].
    pub(crate) fn taken(&self, answer: Value) -> Result<Taken, Error> {
        let wrong = || Error::Answer("the taking of messages");
        let Value::Array(values) = answer else { return Err(wrong()) };
        let mut values = values.into_iter();
        let mut next = || values.next().ok_or_else(wrong);
        let next_due = u64::try_from(number(next()?).ok_or_else(wrong)?).ok().map(Duration::from_millis);
        let (mut vanished, mut last) = (0, String::new());
        if let Kind::Stream { .. } = self.kind {
            vanished = u64::try_from(number(next()?).ok_or_else(wrong)?).unwrap_or_default();
            last = from_redis_value(next()?).map_err(|_| wrong())?;
        }
        let mut items = Vec::new();
        while let Some(first) = values.next() {
            let mut next = || values.next().ok_or_else(wrong);
            let tag = u64::try_from(number(first).ok_or_else(wrong)?).map_err(|_| wrong())?;
            let is_entry = match self.kind {
                Kind::List => false,
                Kind::Stream { .. } => next()? == Value::BulkString(b"e".to_vec()),
            };
            let again = number(next()?).ok_or_else(wrong)? == 1;
            let size = usize::try_from(number(next()?).ok_or_else(wrong)?).map_err(|_| wrong())?;
            let data = if is_entry { entry(next()?) } else { value(next()?) };
            items.push(Item { tag, again, size, data: data.ok_or_else(wrong)? });
        }
        Ok(Taken { next_due, vanished, last, items })
    }
}

/// A value in the worker's hash.
fn settle_value(call: &mut Cmd, [ack, back, retry]: [&str; 3], verdict: &Verdict) {
    match &verdict.what {
        // Lists alone keep the original of what breaks a limit; an entry stays in its stream.
        What::Ack if verdict.unfit && ack == "a" => call.arg("p").arg(verdict.tag),
        What::Ack => call.arg(ack).arg(verdict.tag),
        What::Back => call.arg(back).arg(verdict.tag),
        What::Retry { message, delay, attempts } => {
            call.arg(retry).arg(verdict.tag).arg(ms(*delay)).arg(envelope::header(message, *attempts))
        }
    };
}

/// An entry that is pending for the worker.
fn settle_entry(call: &mut Cmd, worker: &str, verdict: &Verdict) {
    let id = verdict.entry.as_deref().unwrap_or_default();
    match &verdict.what {
        What::Ack => call.arg("a").arg(id),
        What::Back => call.arg("b").arg(id),
        What::Retry { message, delay, attempts } => call
            .arg("r")
            .arg(id)
            .arg(ms(*delay))
            .arg(format!("{worker}-{}", verdict.tag))
            .arg(envelope::header(message, *attempts))
            .arg(&*message.payload),
    };
}

/// A yes or no for a script.
pub(crate) fn flag(yes: bool) -> &'static str {
    if yes { "1" } else { "" }
}

/// Milliseconds for a script.
pub(crate) fn ms(duration: Duration) -> String {
    duration.as_millis().to_string()
}

fn number(value: Value) -> Option<i64> {
    from_redis_value(value).ok()
}

fn value(value: Value) -> Option<Data> {
    match value {
        Value::BulkString(bytes) => Some(Data::Value(bytes.into())),
        _ => None,
    }
}

fn entry(value: Value) -> Option<Data> {
    let Value::Array(parts) = value else { return None };
    let mut parts = parts.into_iter();
    let id = from_redis_value(parts.next()?).ok()?;
    let Value::Array(texts) = parts.next()? else { return None };
    let mut texts = texts.into_iter();
    let mut fields = Vec::with_capacity(texts.len() / 2);
    while let Some(name) = texts.next() {
        let (Value::BulkString(name), Value::BulkString(text)) = (name, texts.next()?) else { return None };
        fields.push((String::from_utf8_lossy(&name).into_owned(), text.into()));
    }
    Some(Data::Entry { id, fields })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use brolly_core::{Message, Name, Timestamp};

    use super::*;

    fn place(kind: Kind) -> Place {
        let name = Name::new("q").unwrap();
        Place {
            queue: name.clone(),
            key: "k".into(),
            base: "k:brolly".into(),
            adopt: false,
            topic: name,
            limit: 10,
            kind,
        }
    }

    fn stream() -> Place {
        place(Kind::Stream { group: "g".into() })
    }

    fn message(payload: usize) -> Arc<Message> {
        Arc::new(Message {
            id: "i".into(),
            topic: Name::new("t").unwrap(),
            key: String::new(),
            content_type: String::new(),
            headers: std::collections::BTreeMap::new(),
            published_at: Timestamp(1),
            expires_at: None,
            payload: vec![b'x'; payload].into(),
        })
    }

    fn verdict(tag: u64, entry: Option<&str>, what: What) -> Verdict {
        Verdict { tag, entry: entry.map(str::to_owned), unfit: false, what }
    }

    fn arguments(call: &Cmd) -> Vec<String> {
        let text = |argument: redis::Arg<&[u8]>| match argument {
            redis::Arg::Simple(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            _ => "?".into(),
        };
        call.args_iter().skip(5).map(text).collect()
    }

    #[test]
    fn verdicts_become_arguments() {
        let retry = What::Retry { message: message(1), delay: Duration::from_millis(7), attempts: 2 };
        let header = envelope::header(&message(1), 2);
        let verdicts = |entry| {
            vec![
                verdict(1, entry, What::Ack),
                verdict(2, entry, retry.clone()),
                Verdict { unfit: true, ..verdict(3, entry, What::Ack) },
                verdict(4, entry, What::Back),
            ]
        };
        let (_, calls) = place(Kind::List).settle("w", verdicts(None));
        assert_eq!(arguments(&calls[0].0), ["w", "", "a", "1", "r", "2", "7", &header, "p", "3", "b", "4"]);
        assert_eq!(calls[0].1, [1, 2, 3, 4]);
        let (_, calls) = stream().settle("w", verdicts(None));
        assert_eq!(arguments(&calls[0].0), ["w", "g", "A", "1", "R", "2", "7", &header, "A", "3", "B", "4"]);
        let (_, calls) = stream().settle("w", verdicts(Some("5-0")));
        let expect = ["w", "g", "a", "5-0", "r", "5-0", "7", "w-2", &header, "x", "a", "5-0", "b", "5-0"];
        assert_eq!(arguments(&calls[0].0), expect);
    }

    #[test]
    fn calls_are_bounded_by_number_and_bytes() {
        let many = |count: u64, payload: usize| {
            let retry = |tag| {
                let what = What::Retry { message: message(payload), delay: Duration::ZERO, attempts: 1 };
                verdict(tag, Some("1-1"), what)
            };
            let (_, calls) = stream().settle("w", (0..count).map(retry).collect());
            calls.iter().map(|(_, tags)| tags.len()).collect::<Vec<_>>()
        };
        assert_eq!(many(0, 0), Vec::<usize>::new());
        assert_eq!(many(513, 0), [256, 256, 1]);
        assert_eq!(many(3, CALL_BYTES), [1, 1, 1]);
        assert_eq!(many(3, CALL_BYTES / 2), [2, 1]);
    }

    #[test]
    fn answers_are_read_or_refused() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let answer = Value::Array(vec![
            Value::Int(-1),
            Value::Int(1),
            Value::Int(0),
            Value::Int(3),
            text("abc"),
            Value::Int(2),
            Value::Int(1),
            Value::Int(9),
            text("de"),
        ]);
        let taken = place(Kind::List).taken(answer.clone()).unwrap();
        assert_eq!((taken.next_due, taken.vanished, taken.items.len()), (None, 0, 2));
        assert_eq!(taken.items[1], Item { tag: 2, again: true, size: 9, data: Data::Value("de".into()) });
        assert!(stream().taken(answer).is_err());

        let fields = Value::Array(vec![text("f"), text("v")]);
        let answer = Value::Array(vec![
            Value::Int(5),
            Value::Int(2),
            text("7-7"),
            Value::Int(4),
            text("e"),
            Value::Int(0),
            Value::Int(2),
            Value::Array(vec![text("1-1"), fields]),
            Value::Int(5),
            text("h"),
            Value::Int(1),
            Value::Int(1),
            text("v"),
        ]);
        let taken = stream().taken(answer).unwrap();
        assert_eq!(
            (taken.next_due, taken.vanished, taken.last.as_str()),
            (Some(Duration::from_millis(5)), 2, "7-7")
        );
        let entry = Data::Entry { id: "1-1".into(), fields: vec![("f".into(), "v".into())] };
        assert_eq!(taken.items[0], Item { tag: 4, again: false, size: 2, data: entry });
        assert_eq!(taken.items[1].data, Data::Value("v".into()));
        for wrong in [Value::Nil, Value::Array(vec![]), Value::Array(vec![Value::Int(0), Value::Int(1)])] {
            assert!(place(Kind::List).taken(wrong).is_err());
        }
    }
}
