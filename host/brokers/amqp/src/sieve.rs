//! What the server sends, looked through before lapin reads it.
//!
//! Called by the guarded socket. Pure. It finds the frames that say where a message came to and what its properties
//! are, and has them made readable; everything else passes as it came: what is not well formed is lapin's to refuse.

use std::{collections::HashMap, io};

use crate::readable::{self, Unread};

/// The most bytes of a frame that is held until it is whole; lapin has room for as many.
const LARGEST: usize = 4 * 1024 * 1024;

/// Bytes before the payload of a frame: its type, its channel, the size of the payload.
const HEAD: usize = 7;

/// The type of a frame that has a method.
const METHOD: u8 = 1;

/// The type of a frame that has the properties of a message.
const PROPERTIES: u8 = 2;

/// Looks through the frames of one connection, in whatever pieces they come.
#[derive(Debug)]
pub(crate) struct Sieve {
    /// The beginning of a frame, until it says what follows; of one that is looked into, all of it.
    held: Vec<u8>,
    /// What of the frame follows.
    rest: Rest,
    /// Of the message whose properties come next on a channel, what could not be read of its address.
    unread: HashMap<[u8; 2], Unread>,
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
        Self { held: Vec::new(), rest: Rest::Head, unread: HashMap::new() }
    }

    /// Appends to `to` what may be read of the bytes `from`.
    ///
    /// # Errors
    /// For a frame that is too large to be held.
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
        let size = self.held.last_chunk().map_or(0, |size| u32::from_be_bytes(*size)) as usize;
        // The byte that ends a frame follows the payload.
        let rest = size + 1;
        if !matches!(self.held.first(), Some(&METHOD | &PROPERTIES)) {
            to.append(&mut self.held);
            self.rest = Rest::Passing(rest);
            return Ok(());
        }
        if size > LARGEST {
            let what = format!("a method or properties of {size} bytes came, the limit is {LARGEST}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        self.rest = Rest::Held(rest);
        Ok(())
    }

    /// A frame that is looked into is whole.
    fn finish(&mut self, to: &mut Vec<u8>) {
        match self.other() {
            None => to.append(&mut self.held),
            Some(mut frame) => to.append(&mut frame),
        }
        self.held.clear();
        self.rest = Rest::Head;
    }

    /// The frame that is to pass in the place of the one that is held, if that one cannot be read.
    fn other(&mut self) -> Option<Vec<u8>> {
        let ([kind, channel @ ..], _) = self.held.split_first_chunk::<3>()?;
        let (payload, end) = self.held.get(HEAD..)?.split_last().map(|(end, payload)| (payload, *end))?;
        let payload = if *kind == METHOD {
            let (payload, unread) = readable::delivery(payload)?;
            self.unread.insert(*channel, unread);
            payload
        } else {
            readable::properties(payload, self.unread.remove(channel).unwrap_or_default())?
        };
        let size = u32::try_from(payload.len()).ok()?.to_be_bytes();
        Some([&[*kind], &channel[..], &size, &payload, &[end]].concat())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        [&[kind, 0, 1][..], &(payload.len() as u32).to_be_bytes(), payload, &[0xce]].concat()
    }

    fn through(bytes: &[u8], piece: usize) -> Vec<u8> {
        let (mut sieve, mut passed) = (Sieve::new(), Vec::new());
        for piece in bytes.chunks(piece) {
            sieve.pass(piece, &mut passed).unwrap();
        }
        passed
    }

    /// A delivery with a routing key, and then its properties, which are a message id, as frames.
    fn delivered(key: &[u8], id: &[u8]) -> Vec<u8> {
        let method = [&b"\0\x3c\0\x3c\0"[..], &[0; 9], b"\x02ex", &[key.len() as u8], key].concat();
        let properties = [&[0, 60, 0, 0][..], &[0; 8], &[0, 0x80, id.len() as u8], id].concat();
        [frame(METHOD, &method), frame(PROPERTIES, &properties)].concat()
    }

    #[test]
    fn what_cannot_be_read_is_told_with_its_message_and_no_other() {
        let body = frame(3, b"{}");
        for piece in [1, 3, 1_000_000] {
            let good = [delivered(b"key", b"m"), body.clone()].concat();
            assert_eq!(through(&good, piece), good);
            for bad in [delivered(b"\xff", b"m"), delivered(b"key", b"\xff")] {
                let passed = through(&[&bad[..], &body, &good].concat(), piece);
                let other = passed.strip_suffix(&[&body[..], &good].concat()[..]).unwrap();
                let text = String::from_utf8_lossy(other);
                assert!(text.contains("is not UTF-8"), "{text}");
                // Each frame says rightly how long it is.
                assert_eq!(through(other, 7), other);
            }
        }
    }

    #[test]
    fn frames_beyond_what_can_be_held_are_an_error() {
        for kind in [METHOD, PROPERTIES] {
            let head = |size: usize| [&[kind, 0, 1][..], &(size as u32).to_be_bytes()].concat();
            let pass = |bytes: &[u8]| Sieve::new().pass(bytes, &mut Vec::new());
            assert!(pass(&head(LARGEST)).is_ok());
            assert!(pass(&head(LARGEST + 1)).unwrap_err().to_string().contains("the limit is"));
        }
    }

    proptest! {
        #[test]
        fn whatever_can_be_read_passes_as_it_came(
            frames in prop::collection::vec((0_u8..9, prop::collection::vec(0_u8..128, 0..80)), 0..6),
            piece in 1_usize..40,
        ) {
            let bytes: Vec<u8> = frames.iter().flat_map(|(kind, payload)| frame(*kind, payload)).collect();
            prop_assert_eq!(through(&bytes, piece), bytes);
        }
    }
}
