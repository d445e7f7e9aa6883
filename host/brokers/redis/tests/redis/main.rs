//! The adapter against a real server, which each test starts for itself.

mod connection;
mod host;
mod lists;
mod pubsub;
mod server;
mod streams;
