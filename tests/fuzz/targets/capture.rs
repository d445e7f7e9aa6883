//! Captures: a file that somebody hands in is refused with a reason, or read, and then, written and read again, it has
//! the same message and end.
#![no_main]

use brolly_capture::{Capture, Recorded};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|json: &[u8]| {
    match Capture::from_json(json) {
        Err(why) => assert!(!why.is_empty()),
        Ok(capture) => {
            let written = serde_json::to_vec(&capture).expect("a capture is JSON");
            let again = Capture::from_json(&written).expect("what was written is read");
            assert_eq!((again.message(), again.is_failing()), (capture.message(), capture.is_failing()));
            let _ = Recorded::new(&capture, false);
        }
    }
});
