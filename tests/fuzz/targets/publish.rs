//! Bodies that are published: what is taken keeps every limit and is what was sent, byte for byte; what is not is
//! refused with a reason, whole.
//!
//! The first line is the content type.
#![no_main]

use brolly_core::message_limits as limits;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (media, body) = data.split_at(end);
    let Ok(media) = std::str::from_utf8(media) else { return };
    let body = body.strip_prefix(b"\n").unwrap_or(body);
    match brolly_admin::fuzzing::messages(media, body) {
        Err(why) => assert!(!why.is_empty()),
        Ok(messages) => {
            for message in messages {
                message.check().expect("what is taken keeps the limits");
                let id = message.id.as_deref().unwrap_or("x");
                assert!(!id.is_empty() && id.len() <= limits::ID_BYTES && !id.chars().any(char::is_control));
                assert!(message.key.len() <= limits::KEY_BYTES && message.headers.len() <= limits::HEADERS);
                let is_sent = media.to_ascii_lowercase().contains("cloudevents")
                    || message.payload.is_empty()
                    || body.windows(message.payload.len()).any(|part| part == message.payload);
                assert!(is_sent, "a payload that nobody sent: {:?}", message.payload);
            }
        }
    }
});
