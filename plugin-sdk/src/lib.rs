//! Write a message handler for Brolly: one function, compiled to WebAssembly, tested natively.
//!
//! ```
//! use brolly_plugin::{Delivery, Failure, OrFail, handler, log, publish, state};
//!
//! #[derive(serde::Deserialize)]
//! struct Order {
//!     order_id: String,
//!     customer_id: String,
//!     amount_cents: i64,
//! }
//!
//! #[derive(Default, serde::Serialize, serde::Deserialize)]
//! struct Spent {
//!     orders: u64,
//!     cents: i64,
//! }
//!
//! #[handler]
//! fn handle(delivery: Delivery<Order>) -> Result<(), Failure> {
//!     let order = delivery.payload;
//!     if order.amount_cents <= 0 {
//!         return Err(Failure::reject("the amount is not positive"));
//!     }
//!     let spent = state::update_json(&format!("spent/{}", order.customer_id), |spent: &mut Spent| {
//!         spent.orders += 1;
//!         spent.cents += order.amount_cents;
//!     })?;
//!     if spent.orders == 1 {
//!         log::info!("{} is a new customer", order.customer_id);
//!         publish::Message::new("customers.new")
//!             .id(format!("new-{}", order.order_id))
//!             .key(&order.customer_id)
//!             .text("welcome")
//!             .send();
//!     }
//!     Ok(())
//! }
//!
//! // A test of the handler: no WebAssembly, no host.
//! use brolly_plugin::testing::Harness;
//!
//! let mut harness = Harness::new();
//! let order = r#"{"order_id":"o1","customer_id":"0001","amount_cents":2933}"#;
//! let attempt = harness.delivery(order).run(handle);
//! attempt.assert_ack();
//! assert_eq!(attempt.published[0].id.as_deref(), Some("new-o1"));
//! assert_eq!(harness.state_json("spent/0001"), serde_json::json!({"orders": 1, "cents": 2933}));
//! ```
//!
//! `brolly new NAME` makes a project with this crate in it, and `brolly build` builds it. By hand, a
//! handler team's crate needs this in its `Cargo.toml`, and nothing else of Brolly:
//!
//! ```toml
//! [lib]
//! crate-type = ["cdylib", "rlib"]   # a WebAssembly module for the host, a library for the tests
//!
//! [dependencies]
//! brolly-plugin = { path = "brolly-plugin" }   # this crate; it is in no registry
//! serde = { version = "1", features = ["derive"] }
//! ```
//!
//! and is built with `cargo build --release --target wasm32-unknown-unknown`.
//!
//! # What a handler may rely on
//!
//! * `Ok(())` acknowledges the delivery: everything written to [`state`] and everything published
//!   takes effect, together and once. After an `Err`, a panic or a broken limit none of it does.
//! * [`Failure::retry`] has the delivery tried again, as the subscription's retry policy says;
//!   [`Failure::reject`] makes it a dead letter at once.
//! * There is no file, socket or environment. [`clock`], [`random`] and [`http`] are there where the
//!   subscription grants them. A new instance usually serves each delivery, so nothing but [`state`] is
//!   kept from one to the next.
//! * A call that breaks a limit or the contract (too large a value, a topic that was not granted)
//!   ends the attempt on the spot; that is why the calls return no errors. In [`testing`] it panics.
//! * A panic ends the attempt as a fault. Its message is logged with the level error.
//!
//! # What `?` does
//!
//! | on | gives |
//! | --- | --- |
//! | a [`Failure`] | that failure |
//! | any `std::error::Error` | [`Failure::retry`] with the error and its causes as the reason: whatever was not foreseen is tried again, and becomes a dead letter after the last attempt |
//! | `.or_reject("what")?` on a `Result` or an `Option` ([`OrFail`]) | [`Failure::reject`] with the reason "what: error" |
//! | `.or_retry("what")?` ([`OrFail`]) | [`Failure::retry`] with that reason |
//!
//! A payload that cannot be read as the handler's type is rejected before the handler is called,
//! with the line and column of the mistake.
//!
//! This crate knows the contract (`wit/handler.wit`) and no other part of Brolly.

pub mod clock;
pub mod config;
mod delivery;
mod failure;
pub mod http;
pub mod log;
pub mod publish;
pub mod random;
pub mod state;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
#[cfg(target_arch = "wasm32")]
mod wasi;
#[cfg(target_arch = "wasm32")]
mod wasm;

pub use brolly_plugin_macros::handler;
pub use delivery::{Delivery, Header, Payload, Raw};
pub use failure::{Failure, OrFail};

/// Where the calls to the host go: to the imports of the guest, or to the test harness.
#[cfg(not(target_arch = "wasm32"))]
use testing::sandbox as host;
#[cfg(target_arch = "wasm32")]
use wasm::imports as host;

/// What the code made by [`handler`] refers to. Not for use by hand: it may change at any time.
#[doc(hidden)]
pub mod __private {
    #[cfg(target_arch = "wasm32")]
    pub use crate::wasm::{bindings, run};

    use crate::{Delivery, Failure, Payload};

    /// Has the compiler check a handler's signature where no export is made of it.
    pub fn assert_handler<T: Payload>(_: fn(Delivery<T>) -> Result<(), Failure>) {}
}
