//! Samples: a document is read, or each mistake comes with the place where it stands.
#![no_main]

use brolly_core::{Digest, Name, message_limits as limits};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let plugin = Name::new("p").expect("a name");
    match brolly_samples::read("samples.toml", text, None, &plugin) {
        Ok(samples) => {
            for sample in &samples.samples {
                assert!(sample.line >= 1 && sample.line <= text.lines().count());
                assert!(sample.message.payload.len() <= limits::PAYLOAD_BYTES);
            }
            let version = Digest::from_bytes([7; 32]);
            let _ = brolly_samples::definition(&samples.subscription, &version, &samples.fields);
        }
        Err(mistakes) => {
            assert!(!mistakes.is_empty());
            for mistake in mistakes {
                assert!(mistake.starts_with("samples.toml:"), "{mistake}");
            }
        }
    }
});
