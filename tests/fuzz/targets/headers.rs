//! What other programs send over AMQP: any properties that lapin reads become a message, the same one each time, and the
//! copy that a retry makes of it comes back as that message.
//!
//! The first byte says where it was published to; the properties follow as they come over the wire, and then the body.
#![no_main]

use brolly_core::message_limits as limits;
use lapin::{BasicProperties, protocol::basic::parse_properties};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((first, wire)) = data.split_first() else { return };
    let exchange = ["", "ex", "unknown"][usize::from(*first) % 3];
    let Ok((body, properties)) = parse_properties(wire) else { return };
    check(exchange, &properties, body);
});

fn check(exchange: &str, properties: &BasicProperties, body: &[u8]) {
    let first = brolly_amqp::fuzzing::arrives(exchange, "k", properties.clone(), body);
    let again = brolly_amqp::fuzzing::arrives(exchange, "k", properties.clone(), body);
    assert_eq!(first.message, again.message);
    assert!(!first.message.id.is_empty() && first.message.id.len() <= limits::ID_BYTES);
    assert!(!first.message.headers.keys().any(|name| name.starts_with("x-brolly-") || name == "x-death"));
    if first.unfit.is_none() {
        let copy = brolly_amqp::fuzzing::copied(&first.message, 1);
        let back = brolly_amqp::fuzzing::arrives("", "q", copy, &first.message.payload);
        assert_eq!((back.message, back.attempts, back.derived), (first.message, 1, false));
    }
}
