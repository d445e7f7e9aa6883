//! The sandbox: checks, compiles, caches and runs plugins. A delivery goes in, an outcome or a
//! fault comes out.
//!
//! The one crate that knows wasmtime, and it lets nothing of it out. The host builds a [`Runtime`]
//! and hands it on as the port [`brolly_core::Plugins`]; dispatch calls the handlers that it makes,
//! from threads that may block. It knows no broker, no ledger and no store: state is read through
//! [`brolly_core::StateReader`], what a handler was granted to reach through [`brolly_core::Outside`], and
//! what it asked for is handed back, never done here.
//!
//! * from bytes to code: `admit` (is it a plugin?), `artefact` (compiled code on disk), `library`
//!   (compiled code in memory), `engine` (how it is compiled, and the pool), `world` (which contract it keeps);
//! * one attempt: `handler` (instances, fresh or reused), `attempt` and `imports` (what the guest
//!   may ask of the host), `wasi` (what it may be granted besides), `overlay` (its own writes over the state), `meter` (memory), `ticker`
//!   (time), `fault` (what stopped it).

mod about;
mod admit;
mod artefact;
mod attempt;
mod bindings;
mod config;
mod engine;
mod error;
mod fault;
mod handler;
mod imports;
mod lent;
mod library;
mod metadata;
mod meter;
mod overlay;
mod runtime;
mod ticker;
mod wasi;
mod world;

#[cfg(test)]
mod tests;

pub use admit::{MAX_UPLOAD_BYTES, component};
pub use attempt::MAX_LOG_LINES;
pub use config::Config;
pub use error::Error;
pub use runtime::Runtime;
pub use world::{MESSAGING_WORLD, WORLD};
