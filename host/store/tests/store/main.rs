//! The store through its public face, with each engine.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests, which may panic"
)]

mod backup;
mod copy;
mod crash;
mod engines;
mod messages;
mod rows;
