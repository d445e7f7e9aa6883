//! What stopped a guest, told from wasmtime's error: a limit, a breach of contract, a trap, or
//! trouble of the host's own. Used by `handler`; the words end in the ledger.

use std::fmt;

use brolly_core::{Fault, StateUnavailable, Verdict};
use wasmtime::{PoolConcurrencyLimitError, Trap};

use crate::{attempt::Guest, engine::MAX_STACK_BYTES};

/// Bytes of a text from the guest or about it that are kept.
pub(crate) const MAX_REASON_BYTES: usize = 1_024;

/// Why a host function or the clock stops the guest. Travels inside wasmtime's error.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The guest's doing.
    Fault(Fault),
    /// The host cannot serve it.
    Unavailable(String),
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stop::Fault(fault) => fault.fmt(f),
            Stop::Unavailable(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for Stop {}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Stop::Fault(fault)
    }
}

impl From<StateUnavailable> for Stop {
    fn from(error: StateUnavailable) -> Self {
        Stop::Unavailable(error.to_string())
    }
}

/// When the guest was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// While its instance was made.
    Start,
    /// While it handled a delivery.
    Call,
}

/// What `error` means for the attempt.
pub(crate) fn verdict(error: &wasmtime::Error, guest: &Guest, phase: Phase) -> Verdict {
    match error.downcast_ref::<Stop>() {
        Some(Stop::Fault(fault)) => return Verdict::Fault(fault.clone()),
        Some(Stop::Unavailable(reason)) => return Verdict::Unavailable(reason.clone()),
        None => {}
    }
    if is_exhausted(error) {
        return Verdict::Unavailable(
            "every slot for plugin instances is taken; raise max_instances of the runtime".to_owned(),
        );
    }
    if error.chain().any(|cause| cause.is::<std::io::Error>()) {
        return Verdict::Unavailable(format!("the system gave no memory for a plugin instance: {error:#}"));
    }
    Verdict::Fault(fault(error, guest, phase))
}

/// Whether there was no room in the pool of instances.
pub(crate) fn is_exhausted(error: &wasmtime::Error) -> bool {
    error.is::<PoolConcurrencyLimitError>()
}

fn fault(error: &wasmtime::Error, guest: &Guest, phase: Phase) -> Fault {
    if let Some(denial) = guest.meter.denial() {
        return denial;
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::StackOverflow) => return Fault::StackOverflow { limit: MAX_STACK_BYTES as u64 },
        Some(trap) => return Fault::Trap(trap.to_string()),
        None => {}
    }
    if let Some(error) = error.downcast_ref::<std::str::Utf8Error>() {
        return Fault::BadCall(format!("a string that the guest handed over is not valid UTF-8 ({error})"));
    }
    // The outer causes tell where the guest was, at length; the innermost says what was wrong.
    let text = cut(error.root_cause().to_string(), MAX_REASON_BYTES);
    match phase {
        // Wasmtime has no type for this error, only words; a test holds them.
        Phase::Start if text.starts_with("resource limit exceeded") => Fault::Limit {
            what: format!("the parts that the component is made of ({text})"),
            limit: guest.meter.instance_limit(),
            setting: "limits.instances",
        },
        Phase::Start => Fault::BadExport(text),
        // What is left are values that break the canonical ABI: pointers outside of the memory,
        // unknown cases of a variant, more data in one call than the host takes.
        Phase::Call => Fault::BadCall(text),
    }
}

/// Cuts a text down to at most `max` bytes, at a character boundary. A text of megabytes does not
/// stay in memory for the sake of its first bytes.
pub(crate) fn cut(mut text: String, max: usize) -> String {
    if text.len() > max {
        text.truncate(text.floor_char_boundary(max));
        text.shrink_to_fit();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_between_characters() {
        let check = |text: &str, max, expect: &str| assert_eq!(cut(text.to_owned(), max), expect);
        check("abc", 3, "abc");
        check("abc", 2, "ab");
        check("aé", 3, "aé");
        check("aé", 2, "a");
        check("é", 0, "");
    }
}
