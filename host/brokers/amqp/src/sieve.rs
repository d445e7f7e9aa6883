//! What the server sends, looked through before lapin reads it.
//!
//! Called by the guarded socket. Pure. lapin reads tables within tables by calling itself, so a message whose
//! headers lie within each other some hundreds of levels deep, which takes five bytes a level and which RabbitMQ
//! takes and keeps, would exhaust the stack and end the process, and again after each start. Such a header is
//! made bytes here, which is as long, and the message gets the reason why no handler can be given it.
//!
//! Everything else passes as it came: what is not well formed is lapin's to refuse.

use std::{io, ops::Range};

use crate::encode::header;

/// Levels of tables and arrays within each other that are read.
pub(crate) const DEEPEST: usize = 64;

/// The most bytes of properties that are held until they are whole; lapin has room for as many.
const LARGEST: usize = 4 * 1024 * 1024;

/// Bytes before the payload of a frame: its type, its channel, the size of the payload.
const HEAD: usize = 7;

/// The type of a frame that has the properties of a message.
const PROPERTIES: u8 = 2;

/// Bytes before the flags of the properties: class, weight, size of the body.
const FLAGS: usize = 12;

/// Looks through the frames of one connection, in whatever pieces they come.
#[derive(Debug)]
pub(crate) struct Sieve {
    /// The beginning of a frame, until it says what follows; of one with properties, all of it.
    held: Vec<u8>,
    /// What of the frame follows.
    rest: Rest,
}

#[derive(Clone, Copy, Debug)]
enum Rest {
    /// Its head is not whole.
    Head,
    /// So many bytes, which pass as they come.
    Passing(usize),
    /// So many bytes, which are held.
    Held(usize),
}

impl Sieve {
    pub(crate) fn new() -> Self {
        Self { held: Vec::new(), rest: Rest::Head }
    }

    /// Appends to `to` what may be read of the bytes `from`.
    ///
    /// # Errors
    /// For properties that are too large to be held.
    pub(crate) fn pass(&mut self, mut from: &[u8], to: &mut Vec<u8>) -> io::Result<()> {
        while !from.is_empty() {
            let wanted = match self.rest {
                Rest::Head => HEAD - self.held.len(),
                Rest::Passing(left) | Rest::Held(left) => left,
            };
            let (part, others) = from.split_at(wanted.min(from.len()));
            from = others;
            let left = wanted - part.len();
            match self.rest {
                Rest::Passing(_) => {
                    to.extend_from_slice(part);
                    self.rest = if left == 0 { Rest::Head } else { Rest::Passing(left) };
                }
                Rest::Head => {
                    self.held.extend_from_slice(part);
                    if left == 0 {
                        self.begin(to)?;
                    }
                }
                Rest::Held(_) => {
                    self.held.extend_from_slice(part);
                    self.rest = Rest::Held(left);
                    if left == 0 {
                        self.finish(to);
                    }
                }
            }
        }
        Ok(())
    }

    /// The head of a frame is whole.
    fn begin(&mut self, to: &mut Vec<u8>) -> io::Result<()> {
        let size = number(&self.held, HEAD - 4).unwrap_or_default();
        // The byte that ends a frame follows the payload.
        let rest = size + 1;
        if self.held.first() != Some(&PROPERTIES) {
            to.append(&mut self.held);
            self.rest = Rest::Passing(rest);
            return Ok(());
        }
        if size > LARGEST {
            let what = format!("a message has {size} bytes of properties, the limit is {LARGEST}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        self.rest = Rest::Held(rest);
        Ok(())
    }

    /// A frame with properties is whole.
    fn finish(&mut self, to: &mut Vec<u8>) {
        match shallow(&self.held) {
            None => to.append(&mut self.held),
            Some(mut frame) => to.append(&mut frame),
        }
        self.held.clear();
        self.rest = Rest::Head;
    }
}

/// The frame with headers that are bytes, if there are any that are too deep.
fn shallow(frame: &[u8]) -> Option<Vec<u8>> {
    let table = table_in(frame)?;
    let mut headers = frame.get(table.clone())?.to_vec();
    if !flatten(&mut headers) {
        return None;
    }
    let why = format!(
        "it has headers that are tables and arrays within each other more than {DEEPEST} levels deep; they are shown \
         as the bytes that came"
    );
    headers.extend(entry(header::UNFIT, b'S', why.as_bytes()));
    let (before, after) = (frame.get(HEAD..table.start - 4)?, frame.get(table.end..)?);
    let payload = [before, &length(headers.len()), &headers, after].concat();
    let head = frame.get(..HEAD - 4)?;
    // The byte that ends the frame is no part of the payload.
    Some([head, &length(payload.len() - 1), &payload].concat())
}

/// Makes bytes of each header that is too deep; answers whether there was one. Ends where lapin would: at the first
/// entry that is not well formed.
fn flatten(headers: &mut [u8]) -> bool {
    let (mut at, mut found) = (0, false);
    while let Some((kind, value)) = kind_at(headers, at, true)
        && let Some(size) = size_of(kind, headers, value)
        && let Some(inner) = headers.get(value..value + size)
    {
        if matches!(kind, b'A' | b'F') && is_deep(inner.get(4..).unwrap_or_default(), kind == b'F') {
            // Its length stands before it either way.
            headers.get_mut(value - 1).into_iter().for_each(|kind| *kind = b'x');
            found = true;
        }
        at = value + size;
    }
    found
}

/// An entry of a table whose value is bytes of some kind.
fn entry(name: &str, kind: u8, value: &[u8]) -> Vec<u8> {
    let short = u8::try_from(name.len()).unwrap_or_default();
    [&[short], name.as_bytes(), &[kind], &length(value.len()), value].concat()
}

fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes()
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let number = bytes.get(at..)?.first_chunk()?;
    usize::try_from(u32::from_be_bytes(*number)).ok()
}

/// Where the table of headers lies in a frame with properties, without its length.
fn table_in(frame: &[u8]) -> Option<Range<usize>> {
    const CONTENT_TYPE: u16 = 1 << 15;
    const CONTENT_ENCODING: u16 = 1 << 14;
    const HEADERS: u16 = 1 << 13;
    let mut at = HEAD + FLAGS;
    let flags = u16::from_be_bytes(*frame.get(at..)?.first_chunk()?);
    at += 2;
    if flags & HEADERS == 0 {
        return None;
    }
    for text in [CONTENT_TYPE, CONTENT_ENCODING] {
        if flags & text != 0 {
            at += 1 + usize::from(*frame.get(at)?);
        }
    }
    let (start, size) = (at + 4, number(frame, at)?);
    (size <= frame.len().checked_sub(start)?).then_some(start..start + size)
}

/// Whether the entries of a header, which is a table or an array, lie too deep within each other. Ends where lapin
/// would: at the first entry that is not well formed.
fn is_deep(header: &[u8], is_table: bool) -> bool {
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
        let within = header.get(..end).unwrap_or_default();
        let Some((kind, value)) = kind_at(within, at, innermost.is_table) else { return false };
        let Some(size) = size_of(kind, within, value).filter(|size| *size <= end - value) else {
            return false;
        };
        if matches!(kind, b'A' | b'F') {
            if open.len() == deepest {
                return true;
            }
            open.push(Open { end: value + size, is_table: kind == b'F' });
            at = value + 4;
        } else {
            at = value + size;
        }
    }
    false
}

/// The kind of the entry at this place, and where its value begins.
fn kind_at(bytes: &[u8], at: usize, has_name: bool) -> Option<(u8, usize)> {
    let at = if has_name { at + 1 + usize::from(*bytes.get(at)?) } else { at };
    Some((*bytes.get(at)?, at + 1))
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
        b'S' | b'x' | b'A' | b'F' => 4 + number(bytes, at)?,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use lapin::{
        BasicProperties,
        types::{AMQPValue, FieldTable},
    };
    use proptest::prelude::*;

    use super::*;

    /// A frame with properties, as the server sends it.
    fn frame(properties: &BasicProperties) -> Vec<u8> {
        let generated = lapin::protocol::basic::gen_properties(properties)(Vec::new().into()).unwrap();
        let payload = [&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2][..], &generated.write].concat();
        [&[PROPERTIES, 0, 1][..], &length(payload.len()), &payload, &[0xce]].concat()
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
            .with_content_encoding("none".into())
            .with_headers(headers)
            .with_message_id("m".into())
    }

    fn through(bytes: &[u8], piece: usize) -> Vec<u8> {
        let (mut sieve, mut passed) = (Sieve::new(), Vec::new());
        for piece in bytes.chunks(piece) {
            sieve.pass(piece, &mut passed).unwrap();
        }
        passed
    }

    fn read(frame: &[u8]) -> BasicProperties {
        let size = number(frame, HEAD - 4).unwrap();
        assert_eq!((frame.len(), frame.last()), (HEAD + size + 1, Some(&0xce)));
        let (rest, read) =
            lapin::protocol::basic::parse_properties(&frame[HEAD + FLAGS..HEAD + size]).unwrap();
        assert!(rest.is_empty());
        read
    }

    #[test]
    fn headers_pass_up_to_64_levels_deep_and_deeper_ones_as_bytes() {
        // The table of headers is the first level.
        let (just, over) = (frame(&nested(63)), frame(&nested(64)));
        let body = [3, 0, 1, 0, 0, 0, 2, b'{', b'}', 0xce];
        for piece in [1, 3, 1_000_000] {
            assert_eq!(through(&just, piece), just);
            let passed = through(&[&over[..], &body, &just].concat(), piece);
            let other = passed.strip_suffix(&[&body[..], &just].concat()[..]).unwrap();
            let (properties, before) = (read(other), nested(64));
            assert_eq!(properties.content_type(), before.content_type());
            assert_eq!(properties.content_encoding(), before.content_encoding());
            assert_eq!(properties.message_id(), before.message_id());
            let headers = properties.headers().as_ref().unwrap().inner();
            let AMQPValue::ByteArray(bytes) = &headers["deep"] else { panic!("{headers:?}") };
            assert!(over.windows(bytes.len()).any(|part| part == bytes.as_slice()));
            assert_eq!(headers["a"], before.headers().as_ref().unwrap().inner()["a"]);
            assert!(
                matches!(&headers[header::UNFIT], AMQPValue::LongString(why) if why.to_string().contains("64"))
            );
        }
    }

    #[test]
    fn no_depth_exhausts_the_stack() {
        let mut table = Vec::new();
        for _ in 0..200_000 {
            let inner = length(table.len());
            table.splice(..0, [&[b'A'][..], &inner].concat());
        }
        let mut table = [&[1, b'a'][..], &table].concat();
        assert!(flatten(&mut table) && table[2] == b'x');
    }

    #[test]
    fn properties_beyond_what_can_be_held_are_an_error() {
        let head = |size: usize| [&[PROPERTIES, 0, 1][..], &length(size)].concat();
        let pass = |bytes: &[u8]| Sieve::new().pass(bytes, &mut Vec::new());
        assert!(pass(&head(LARGEST)).is_ok());
        assert!(pass(&head(LARGEST + 1)).unwrap_err().to_string().contains("bytes of properties"));
    }

    proptest! {
        #[test]
        fn whatever_is_no_deep_frame_passes_as_it_came(
            frames in prop::collection::vec((0_u8..9, prop::collection::vec(any::<u8>(), 0..80)), 0..6),
            piece in 1_usize..40,
        ) {
            let bytes: Vec<u8> = frames
                .iter()
                .flat_map(|(kind, payload)| [&[*kind, 0, 1][..], &length(payload.len()), payload, &[0xce]].concat())
                .collect();
            prop_assert_eq!(through(&bytes, piece), bytes);
        }
    }
}
