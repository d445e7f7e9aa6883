//! Properties of a message, and the address that it came to, made such that lapin can read them.
//!
//! Called by the sieve. Pure. Two things that RabbitMQ takes and keeps cannot be read: text that is not UTF-8, in a
//! property, an address or a header's name, which breaks the connection; and tables and arrays that lie within each
//! other some hundreds of levels deep, which lapin reads by calling itself, so that they end the process by its stack.
//! What cannot be read becomes a header of bytes, and the message has the reason why no handler can be given it.

use crate::encode::header;

/// Levels of tables and arrays within each other that are read.
pub(crate) const DEEPEST: usize = 64;

/// The most bytes of a short text.
const SHORT: usize = 255;

/// Bytes before the flags of the properties: class, weight, size of the body.
const FLAGS: usize = 12;

/// How a property is written down.
enum Form {
    Text,
    Table,
    Bytes(usize),
}

/// The properties in the order of their flags, from the highest bit.
const PROPERTIES: [(&str, Form); 14] = [
    ("content-type", Form::Text),
    ("content-encoding", Form::Text),
    ("headers", Form::Table),
    ("delivery-mode", Form::Bytes(1)),
    ("priority", Form::Bytes(1)),
    ("correlation-id", Form::Text),
    ("reply-to", Form::Text),
    ("expiration", Form::Text),
    ("message-id", Form::Text),
    ("timestamp", Form::Bytes(8)),
    ("type", Form::Text),
    ("user-id", Form::Text),
    ("app-id", Form::Text),
    ("cluster-id", Form::Text),
];

/// Where the headers are among them, and their flag.
const HEADERS: (usize, u16) = (2, 1 << 13);

/// Texts of a message that are none, with what they are.
pub(crate) type Unread = Vec<(&'static str, Vec<u8>)>;

/// The method `basic.deliver` with another exchange and routing key, where they are no text; with what they were.
pub(crate) fn delivery(method: &[u8]) -> Option<(Vec<u8>, Unread)> {
    const DELIVER: [u8; 4] = [0, 60, 0, 60];
    /// The tag, and whether it was handed out before.
    const TAG: usize = 9;
    let rest = method.strip_prefix(&DELIVER)?;
    let (_consumer, rest) = short(rest)?;
    let (exchange, rest) = short(rest.get(TAG..)?)?;
    let (key, rest) = short(rest)?;
    let texts = [("exchange", exchange), ("routing-key", key)];
    let unread: Unread = texts
        .iter()
        .filter(|(_, text)| str::from_utf8(text).is_err())
        .map(|(name, text)| (*name, text.to_vec()))
        .collect();
    if unread.is_empty() {
        return None;
    }
    let before = method.len() - rest.len() - exchange.len() - key.len() - 2;
    let [exchange, key] = [exchange, key].map(|text| short_of(&lossy(text)));
    Some(([method.get(..before)?, &exchange, &key, rest].concat(), unread))
}

/// The payload of a frame with properties, if not all of it can be read as it is; `unread` are texts of its delivery.
/// What is not well formed is left as it is: it is lapin's to refuse.
pub(crate) fn properties(payload: &[u8], mut unread: Unread) -> Option<Vec<u8>> {
    let (head, rest) = payload.split_at_checked(FLAGS)?;
    let (flags, mut rest) = rest.split_first_chunk()?;
    let mut flags = u16::from_be_bytes(*flags);
    let (mut before, mut table, mut after): (Vec<u8>, &[u8], Vec<u8>) = Default::default();
    for (number, (name, form)) in PROPERTIES.iter().enumerate() {
        let flag = 1 << (15 - number);
        if flags & flag == 0 {
            continue;
        }
        let size = match form {
            Form::Text => 1 + usize::from(*rest.first()?),
            Form::Table => 4 + number_at(rest, 0)?,
            Form::Bytes(size) => *size,
        };
        let (field, others) = rest.split_at_checked(size)?;
        rest = others;
        match form {
            Form::Table => table = field.get(4..)?,
            Form::Text if str::from_utf8(field.get(1..)?).is_err() => {
                flags &= !flag;
                unread.push((name, field.get(1..)?.to_vec()));
            }
            Form::Text | Form::Bytes(_) if number < HEADERS.0 => before.extend(field),
            Form::Text | Form::Bytes(_) => after.extend(field),
        }
    }
    let (table, mut whys) = readable(table);
    whys.extend(unread.iter().map(|(name, _)| format!("its {name} is not UTF-8")));
    if whys.is_empty() {
        return None;
    }
    let why = format!("{}; what cannot be read is shown as the bytes that came", whys.join("; "));
    // First, so that an end which is not well formed stays so.
    let mut headers = entry(header::UNFIT, b'S', why.as_bytes());
    for (name, bytes) in &unread {
        headers.extend(entry(&format!("amqp-{name}"), b'x', bytes));
    }
    headers.extend(table);
    let flags = (flags | HEADERS.1).to_be_bytes();
    Some([head, &flags, &before, &length(headers.len()), &headers, &after, rest].concat())
}

/// Headers that can be read, and why those that came cannot. Ends where lapin would: at the first entry that is not
/// well formed.
fn readable(table: &[u8]) -> (Vec<u8>, Vec<String>) {
    let (mut headers, mut at) = (Vec::with_capacity(table.len()), 0);
    let (mut deep, mut nameless) = (false, false);
    while let Some((name, kind, value)) = entry_at(table, at, true)
        && let Some(size) = size_of(kind, table, value)
        && let Some(content) = table.get(value..value + size)
    {
        nameless |= str::from_utf8(name).is_err();
        headers.extend(short_of(&lossy(name)));
        let fault = if matches!(kind, b'A' | b'F') {
            fault_in(content.get(4..).unwrap_or_default(), kind == b'F')
        } else {
            None
        };
        deep |= matches!(fault, Some(Fault::Deep));
        nameless |= matches!(fault, Some(Fault::Nameless));
        // Its length stands before it either way.
        headers.push(if fault.is_some() { b'x' } else { kind });
        headers.extend(content);
        at = value + size;
    }
    headers.extend(table.get(at..).unwrap_or_default());
    let mut whys = Vec::new();
    if deep {
        whys.push(format!(
            "it has headers that are tables and arrays within each other more than {DEEPEST} levels deep"
        ));
    }
    if nameless {
        whys.push("the name of a header is not UTF-8".to_owned());
    }
    (headers, whys)
}

/// Why a table or array cannot be read.
enum Fault {
    Deep,
    Nameless,
}

/// Whether a header, which is a table or an array, cannot be read. Ends at the first entry that is not well formed.
fn fault_in(header: &[u8], is_table: bool) -> Option<Fault> {
    /// Where the table or array ends in which the next entry lies, and whether it has names.
    struct Open {
        end: usize,
        is_table: bool,
    }
    // It lies in the table of all headers.
    let deepest = DEEPEST - 1;
    let mut open = vec![Open { end: header.len(), is_table }];
    let mut at = 0;
    while let Some(innermost) = open.last() {
        let end = innermost.end;
        if at >= end {
            open.pop();
            continue;
        }
        let within = header.get(..end)?;
        let (name, kind, value) = entry_at(within, at, innermost.is_table)?;
        if str::from_utf8(name).is_err() {
            return Some(Fault::Nameless);
        }
        let size = size_of(kind, within, value).filter(|size| *size <= end - value)?;
        if matches!(kind, b'A' | b'F') {
            if open.len() == deepest {
                return Some(Fault::Deep);
            }
            open.push(Open { end: value + size, is_table: kind == b'F' });
            at = value + 4;
        } else {
            at = value + size;
        }
    }
    None
}

/// The name, if it has one, and the kind of the entry at this place, and where its value begins.
fn entry_at(bytes: &[u8], at: usize, has_name: bool) -> Option<(&[u8], u8, usize)> {
    let (name, at) = if has_name {
        let (name, _) = short(bytes.get(at..)?)?;
        (name, at + 1 + name.len())
    } else {
        (&[][..], at)
    };
    Some((name, *bytes.get(at)?, at + 1))
}

/// How many bytes a value takes, as RabbitMQ writes them down.
fn size_of(kind: u8, bytes: &[u8], at: usize) -> Option<usize> {
    Some(match kind {
        b'V' => 0,
        b't' | b'b' | b'B' => 1,
        b's' | b'U' | b'u' => 2,
        b'I' | b'i' | b'f' => 4,
        b'D' => 5,
        b'L' | b'l' | b'd' | b'T' => 8,
        b'S' | b'x' | b'A' | b'F' => 4 + number_at(bytes, at)?,
        _ => return None,
    })
}

/// An entry of a table whose value is bytes of some kind.
fn entry(name: &str, kind: u8, value: &[u8]) -> Vec<u8> {
    [&short_of(name)[..], &[kind], &length(value.len()), value].concat()
}

/// A short text, and what follows it.
fn short(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (size, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*size))
}

fn short_of(text: &str) -> Vec<u8> {
    let text = text.get(..text.floor_char_boundary(SHORT)).unwrap_or_default().as_bytes();
    [&[u8::try_from(text.len()).unwrap_or_default()], text].concat()
}

/// As much of it as is text.
fn lossy(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes()
}

fn number_at(bytes: &[u8], at: usize) -> Option<usize> {
    let number = bytes.get(at..)?.first_chunk()?;
    usize::try_from(u32::from_be_bytes(*number)).ok()
}

#[cfg(test)]
mod tests {
    use lapin::{
        BasicProperties,
        types::{AMQPValue, FieldTable},
    };
    use proptest::prelude::*;

    use super::*;

    /// The payload of a frame with properties, as the server sends it.
    fn payload(properties: &BasicProperties) -> Vec<u8> {
        let generated = lapin::protocol::basic::gen_properties(properties)(Vec::new().into()).unwrap();
        [&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2][..], &generated.write].concat()
    }

    fn read(payload: &[u8]) -> BasicProperties {
        let (rest, read) = lapin::protocol::basic::parse_properties(&payload[FLAGS..]).unwrap();
        assert!(rest.is_empty());
        read
    }

    fn all() -> BasicProperties {
        let mut headers = FieldTable::default();
        headers.insert("a".into(), AMQPValue::LongString("b".into()));
        BasicProperties::default()
            .with_content_type("content-type".into())
            .with_content_encoding("content-encoding".into())
            .with_headers(headers)
            .with_delivery_mode(2)
            .with_priority(9)
            .with_correlation_id("correlation-id".into())
            .with_reply_to("reply-to".into())
            .with_expiration("expiration".into())
            .with_message_id("message-id".into())
            .with_timestamp(1)
            .with_type("type".into())
            .with_user_id("user-id".into())
            .with_app_id("app-id".into())
            .with_cluster_id("cluster-id".into())
    }

    fn nested(levels: usize) -> BasicProperties {
        let mut value = AMQPValue::Boolean(true);
        for level in 0..levels {
            value = if level % 2 == 0 {
                AMQPValue::FieldArray(vec![AMQPValue::Void, value].into())
            } else {
                let mut table = FieldTable::default();
                table.insert("t".into(), value);
                AMQPValue::FieldTable(table)
            };
        }
        let mut headers = FieldTable::default();
        headers.insert("a".into(), AMQPValue::LongString("b".into()));
        headers.insert("deep".into(), value);
        BasicProperties::default()
            .with_content_type("text/plain".into())
            .with_headers(headers)
            .with_message_id("m".into())
    }

    /// How many properties are texts.
    fn texts(properties: &BasicProperties) -> usize {
        let first = [properties.content_type(), properties.content_encoding(), properties.correlation_id()];
        let then =
            [properties.reply_to(), properties.expiration(), properties.message_id(), properties.kind()];
        let last = [properties.user_id(), properties.app_id(), properties.cluster_id()];
        first.iter().chain(&then).chain(&last).filter(|text| text.is_some()).count()
    }

    fn why(properties: &BasicProperties) -> String {
        match &properties.headers().as_ref().unwrap().inner()[header::UNFIT] {
            AMQPValue::LongString(why) => why.to_string(),
            other => panic!("{other:?}"),
        }
    }

    fn bytes<'a>(properties: &'a BasicProperties, name: &str) -> &'a [u8] {
        match &properties.headers().as_ref().unwrap().inner()[name] {
            AMQPValue::ByteArray(bytes) => bytes.as_slice(),
            other => panic!("{other:?}"),
        }
    }

    /// Replaces a text of the bytes by one that is not UTF-8 and as long.
    fn spoilt(payload: &[u8], text: &str) -> Vec<u8> {
        let marked = [&[text.len() as u8][..], text.as_bytes()].concat();
        let at = payload.windows(marked.len()).position(|part| part == marked).unwrap();
        let mut spoilt = payload.to_vec();
        spoilt[at + 1] = 0xff;
        spoilt
    }

    #[test]
    fn headers_pass_up_to_64_levels_deep_and_deeper_ones_as_bytes() {
        // The table of headers is the first level.
        assert_eq!(properties(&payload(&nested(63)), Vec::new()), None);
        let (over, before) = (payload(&nested(64)), nested(64));
        let after = read(&properties(&over, Vec::new()).unwrap());
        assert_eq!(after.content_type(), before.content_type());
        assert_eq!(after.message_id(), before.message_id());
        let deep = bytes(&after, "deep");
        assert!(over.windows(deep.len()).any(|part| part == deep));
        let a = |properties: &BasicProperties| properties.headers().as_ref().unwrap().inner()["a"].clone();
        assert_eq!(a(&after), a(&before));
        assert!(why(&after).contains("more than 64 levels deep"), "{}", why(&after));
    }

    #[test]
    fn no_depth_exhausts_the_stack() {
        let mut table = Vec::new();
        for _ in 0..200_000 {
            let inner = length(table.len());
            table.splice(..0, [&[b'A'][..], &inner].concat());
        }
        let table = [&[1, b'a'][..], &table].concat();
        let (headers, whys) = readable(&table);
        assert_eq!((headers[2], whys.len()), (b'x', 1));
    }

    #[test]
    fn each_property_that_is_no_text_becomes_a_header_of_bytes() {
        let whole = payload(&all());
        assert_eq!(properties(&whole, Vec::new()), None);
        assert_eq!(read(&whole), all());
        for (name, form) in &PROPERTIES {
            if !matches!(form, Form::Text) {
                continue;
            }
            let after = read(&properties(&spoilt(&whole, name), Vec::new()).unwrap());
            assert_eq!(bytes(&after, &format!("amqp-{name}")), [&[0xff], &name.as_bytes()[1..]].concat());
            assert!(why(&after).contains(&format!("its {name} is not UTF-8")), "{}", why(&after));
            assert_eq!(texts(&after), texts(&all()) - 1);
            assert_eq!((after.priority(), after.timestamp()), (all().priority(), all().timestamp()));
        }
        // Without headers it gets some.
        let bare = payload(&BasicProperties::default().with_message_id("message-id".into()));
        let after = read(&properties(&spoilt(&bare, "message-id"), Vec::new()).unwrap());
        assert_eq!(after.message_id(), &None);
        assert_eq!(bytes(&after, "amqp-message-id").len(), 10);
    }

    #[test]
    fn names_of_headers_that_are_no_text_are_kept_as_far_as_they_are() {
        let mut inner = FieldTable::default();
        inner.insert("inner".into(), AMQPValue::Boolean(true));
        let mut headers = FieldTable::default();
        headers.insert("outer".into(), AMQPValue::LongLongInt(7));
        headers.insert("table".into(), AMQPValue::FieldTable(inner));
        let whole = payload(&BasicProperties::default().with_headers(headers));
        let after = read(&properties(&spoilt(&whole, "outer"), Vec::new()).unwrap());
        let table = after.headers().as_ref().unwrap().inner();
        assert_eq!(table["\u{fffd}uter"], AMQPValue::LongLongInt(7));
        assert!(why(&after).contains("the name of a header is not UTF-8"));
        let after = read(&properties(&spoilt(&whole, "inner"), Vec::new()).unwrap());
        assert!(bytes(&after, "table").ends_with(b"nnert\x01"));
        // A name that grows by being made text is cut.
        assert_eq!(short_of(&lossy(&[0xff; 255])).len(), 1 + 255);
    }

    #[test]
    fn an_address_that_is_no_text_is_told_with_the_message() {
        let method = |exchange: &[u8], key: &[u8]| {
            let short = |text: &[u8]| [&[text.len() as u8][..], text].concat();
            let tag = [0, 0, 0, 0, 0, 0, 0, 5, 1];
            [&[0, 60, 0, 60][..], &short(b"brolly"), &tag, &short(exchange), &short(key)].concat()
        };
        assert_eq!(delivery(&method(b"ex", b"key")), None);
        assert_eq!(delivery(&[0, 60, 0, 61, 1]), None);
        let (passed, unread) = delivery(&method(b"ex", b"k\xff")).unwrap();
        assert_eq!(passed, method(b"ex", "k\u{fffd}".as_bytes()));
        assert_eq!(unread, [("routing-key", b"k\xff".to_vec())]);
        let after = read(&properties(&payload(&all()), unread).unwrap());
        assert_eq!(bytes(&after, "amqp-routing-key"), b"k\xff");
        assert_eq!(after.message_id(), all().message_id());
        assert!(why(&after).contains("its routing-key is not UTF-8"));
    }

    proptest! {
        #[test]
        fn whatever_comes_it_ends_and_what_is_made_of_it_is_read_again(
            flags in any::<u16>(),
            rest in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let payload = [&[0_u8; FLAGS][..], &flags.to_be_bytes(), &rest].concat();
            if let Some(other) = properties(&payload, Vec::new()) {
                prop_assert_eq!(properties(&other, Vec::new()), None);
            }
        }
    }
}
