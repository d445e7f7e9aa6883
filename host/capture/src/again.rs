//! One attempt on the spot: noted while it is made, and made again by another handler.

use brolly_core::{Call, Handled, Handler, Outside, StateReader, Timestamp};
use serde_json::Value;

use crate::{Capture, CapturedMessage, FORMAT, Happened, Read, noted::Noted};

/// Has a handler make an attempt, with a capture of it: none if that would be larger than
/// [`crate::MAX_CAPTURE_BYTES`]. The capture has no moment and no terms: it is not to be kept.
pub fn record(handler: &dyn Handler, call: &Call<'_>) -> (Handled, Option<Capture>) {
    let noted = Noted::new(call);
    let handled = handler.handle(&noted.call(call));
    let capture = noted.complete().map(|reads| Capture::of(call, reads, &handled, Timestamp(0), Value::Null));
    (handled, capture)
}

impl Capture {
    /// The capture of an attempt.
    pub(crate) fn of(
        call: &Call<'_>,
        reads: Vec<Read>,
        handled: &Handled,
        at: Timestamp,
        terms: Value,
    ) -> Self {
        Self {
            brolly_capture: FORMAT,
            at_ms: at.0,
            subscription: call.subscription.clone(),
            terms,
            message: CapturedMessage::from(call.message),
            attempt: call.attempt,
            last_attempt: call.last_attempt,
            idempotency_key: call.idempotency_key.to_owned(),
            reads,
            happened: Happened::from(handled),
        }
    }

    /// Has a handler make the attempt again, over this state and outside.
    pub fn again(&self, handler: &dyn Handler, state: &dyn StateReader, outside: &dyn Outside) -> Handled {
        handler.handle(&Call {
            message: &self.message(),
            subscription: &self.subscription,
            attempt: self.attempt,
            last_attempt: self.last_attempt,
            idempotency_key: &self.idempotency_key,
            state,
            outside,
        })
    }
}
