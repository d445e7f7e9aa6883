//! What fuzz targets reach of the way between messages and AMQP. Built for them alone.

use std::collections::HashMap;

use brolly_core::{Message, Name, Timestamp};
use brolly_remote::Received;
use lapin::BasicProperties;

use crate::{
    decode::{Arrival, Place, received},
    encode::{self, Copy},
    sieve::Sieve,
};

/// What the queue `q` of the topic `t`, whose exchange is `ex`, makes of a message.
#[must_use]
pub fn arrives(exchange: &str, key: &str, properties: BasicProperties, body: &[u8]) -> Received {
    let name = |text: &'static str| Name::new(text).unwrap_or_else(|_| unreachable!("it is a name"));
    let topics = HashMap::from([("ex".to_owned(), name("t"))]);
    let place = Place { queue: &name("q"), topics: &topics, now: Timestamp(77), dead_of: None };
    let arrival = Arrival {
        exchange: exchange.to_owned(),
        routing_key: key.to_owned(),
        redelivered: false,
        properties,
        body: body.to_vec().into(),
    };
    received(1, arrival, place)
}

/// The properties of the copy by which a message is tried again.
#[must_use]
pub fn copied(message: &Message, attempts: u32) -> BasicProperties {
    encode::properties(message, Some(Copy { attempts, expiration_ms: None }))
}

/// What of a server's bytes is left to be read, when they come in pieces of this size.
///
/// # Errors
/// As the sieve.
pub fn sieved(bytes: &[u8], piece: usize) -> std::io::Result<Vec<u8>> {
    let (mut sieve, mut passed) = (Sieve::new(), Vec::new());
    bytes.chunks(piece).try_for_each(|piece| sieve.pass(piece, &mut passed))?;
    Ok(passed)
}
