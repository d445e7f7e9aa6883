//! Captures: everything that one attempt was given and what came of it, so that it can be made again
//! elsewhere, with the same plugin or another one.
//!
//! A handler has no other input than its delivery, its configuration, the state that it reads, and what
//! it was granted of clock, randomness and HTTP; a capture has all of them, so the same plugin over a
//! capture does the same again, bit for bit. [`Recorder`] records around the port
//! [`brolly_core::Handler`], [`Capture`] is the form that is stored and sent, [`Recorded`] gives back
//! what was read, [`Archive`] keeps captures in files. Dispatch records, the binary replays. See
//! docs/adr/0010-captures.md.

mod again;
mod archive;
mod format;
mod noted;
mod recorder;
mod replay;

pub use again::record;
pub use archive::Archive;
pub use format::{
    Blob, Capture, CapturedAnswer, CapturedMessage, CapturedRequest, FORMAT, Happened, Published, Read,
};
pub use recorder::{Captures, MAX_BYTES, MAX_CAPTURE_BYTES, MAX_CAPTURES, Mode, Recorder, Recorders};
pub use replay::Recorded;
