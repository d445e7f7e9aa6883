//! What other programs send over AMQP: any properties that lapin reads become a message, the same one each time, and the
//! copy that a retry makes of it comes back as that message. However they come over the wire, the same of them is read.
//!
//! The first byte says where it was published to, the others are the properties.
#![no_main]

use brolly_core::message_limits as limits;
use lapin::{BasicProperties, protocol::basic::parse_properties};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((first, wire)) = data.split_first() else { return };
    let exchange = ["", "ex", "unknown"][usize::from(*first) % 3];
    let payload = [&[0; 12][..], wire].concat();
    let frame = [&[2, 0, 1][..], &(payload.len() as u32).to_be_bytes(), &payload, &[0xce]].concat();
    let passed = brolly_amqp::fuzzing::sieved(&frame, frame.len()).expect("it is not too large");
    assert_eq!(brolly_amqp::fuzzing::sieved(&frame, 5).expect("as before"), passed);
    assert_eq!(brolly_amqp::fuzzing::sieved(&passed, 7).expect("it can be read"), passed);
    let properties = passed.get(19..passed.len() - 1).expect("a frame");
    let Ok((_, properties)) = parse_properties(properties) else { return };
    check(exchange, &properties, b"{}");
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
