//! The way to RabbitMQ against a real server, which `BROLLY_TEST_RABBITMQ_URL` names: an address with
//! credentials and a virtual host that tests may leave exchanges in. Without it the tests are skipped,
//! and say so.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

mod bench;
mod faults;
mod flow;
mod limits;
mod objects;
mod proxy;
mod raw;
mod storm;
