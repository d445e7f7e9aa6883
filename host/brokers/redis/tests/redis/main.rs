//! The adapter against a real server, which each test starts for itself.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

mod connection;
mod host;
mod lists;
mod pubsub;
mod server;
mod streams;
