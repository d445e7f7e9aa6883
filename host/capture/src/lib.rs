//! Captures: everything that one attempt was given and what came of it, so that it can be made again
//! elsewhere, with the same plugin or another one.
//!
//! A handler has no clock, no randomness and no other input than its delivery, its configuration and
//! the state that it reads; a capture has those three, so the same plugin over a capture does the same
//! again, bit for bit. [`Recorder`] records around the port [`brolly_core::Handler`], [`Capture`] is the
//! form that is stored and sent, [`RecordedState`] gives the state back. Dispatch records, the binary
//! replays; no I/O is done here. See docs/adr/0010-captures.md.

mod again;
mod format;
mod recorder;
mod replay;

pub use again::record;
pub use format::{Blob, Capture, CapturedMessage, FORMAT, Happened, Published, Read};
pub use recorder::{Captures, MAX_BYTES, MAX_CAPTURE_BYTES, MAX_CAPTURES, Mode, Recorder, Recorders};
pub use replay::RecordedState;
