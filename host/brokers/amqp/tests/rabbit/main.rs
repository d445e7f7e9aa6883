//! The way to RabbitMQ against a real server: one that the tests start, or that
//! `BROLLY_TEST_RABBITMQ_URL` names.

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
mod storm;
